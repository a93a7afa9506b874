"""Sums in a fixed order: accumulators, and the adjacent-pairs tree that joins them.

An accumulator is a `Vec`. Elements of 32 bits or fewer are summed in float64; float64 elements in an unevaluated pair
of float64 (see `numbers`), so that a mean keeps its low part. Every function here takes either, in 16 lanes or in one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ...spec import tree
from ..compile import device, intrinsic, types
from .numbers import add_parts, distance, divide, multiply, rounded, two_sum
from .vectors import (
    F64,
    I32,
    I64,
    LANES,
    Vec,
    broadcast,
    call,
    constant,
    first_lanes,
    fused,
    integer,
    load,
    prefetch,
    sixteens,
    smaller,
    vector,
)

TILE = tree.TILE


def take(b: ir.IRBuilder, v: Any, lanes: list[int]) -> Any:
    return b.shuffle_vector(v, v, ir.Constant(vector(I32, len(lanes)), lanes))


def split(b: ir.IRBuilder, v: Any, t: Vec) -> list[Any]:
    """The parts of an accumulator, high first, each <lanes x double>."""
    return [take(b, v, list(range(p * t.lanes, (p + 1) * t.lanes))) for p in range(t.parts)]


def join(b: ir.IRBuilder, parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return b.shuffle_vector(*parts, ir.Constant(vector(I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count))))


def add_term(b: ir.IRBuilder, acc: list[Any], high: Any, low: Any = None) -> list[Any]:
    """One term more; `low` is the term's own error. The low part needs no renormalizing until it is joined."""
    if len(acc) == 1:
        return [b.fadd(acc[0], high)]
    s, e = two_sum(b, acc[0], high)
    return [s, b.fadd(acc[1], e if low is None else b.fadd(e, low))]


def product_term(b: ir.IRBuilder, acc: list[Any], x: list[Any], y: list[Any]) -> list[Any]:
    """acc + x * y"""
    if len(acc) == 1:
        return [fused(b, x[0], y[0], acc[0])]
    return add_term(b, acc, *multiply(b, x, y, 2))


def places_for(b: ir.IRBuilder, parts: list[Any]) -> list[Any]:
    """Variables that hold the parts of an accumulator."""
    return [cgutils.alloca_once_value(b, part) for part in parts]


def update(b: ir.IRBuilder, places: list[Any], add: Any) -> None:
    """Replace the accumulator whose parts stand in `places` by what `add` makes of it."""
    for place, part in zip(places, add([b.load(place) for place in places]), strict=True):
        b.store(part, place)


def parts_for(p: Any) -> int:
    """Parts of the accumulators for elements behind the pointer type `p`."""
    return 2 if p.dtype == types.float64 else 1


@intrinsic
def zero(tc: Any, ptr: Any) -> Any:
    """Empty accumulator of one lane for elements of `ptr`."""
    t = Vec(1, parts_for(ptr))
    return t(ptr), lambda ctx, b, sig, a: constant(F64, 0.0, t.parts)


@intrinsic
def plus(tc: Any, x: Any, y: Any) -> Any:
    """The sum of two accumulators, lane by lane."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return join(b, add_parts(b, split(b, a[0], x), split(b, a[1], y)))

    return x(x, y), codegen


def fold(b: ir.IRBuilder, x: list[Any], y: list[Any]) -> list[Any]:
    """32 lanes (x the first 16, y the others) to one, by halves: l += l+16, +8, +4, +2, +1."""
    parts, n = add_parts(b, x, y), LANES
    while n > 1:
        n //= 2
        low, high = ([take(b, p, list(range(k, k + n))) for p in parts] for k in (0, n))
        parts = add_parts(b, low, high)
    return parts


def add_elements(b: ir.IRBuilder, places: list[Any], v: Any, mean: Any, n: Any) -> None:
    """Add 16 elements to the accumulator whose parts stand in `places`: the elements, or with `mean` their squared distances.

    Only the first `n` are there, if it is given; an absent element adds nothing.
    """
    if mean is None:
        update(b, places, lambda acc: add_term(b, acc, v))
        return
    d = distance_of_first(b, v, mean, n, len(places))
    update(b, places, lambda acc: product_term(b, acc, d, d))


def distance_of_first(b: ir.IRBuilder, v: Any, mean: Any, n: Any, parts: int) -> list[Any]:
    """v - mean; 0 from the lane n on, if it is given."""
    d = distance(b, v, mean, parts)
    return d if n is None else [b.select(first_lanes(b, n), part, constant(F64, 0.0)) for part in d]


def tile(b: ir.IRBuilder, t: Vec, element: Any, args: Any, mean: Any = None) -> Any:
    """args: p, i, n. Sum of the tile p[i : i + n], n <= 256: 8 steps x 32 lanes, each in order from +0.0, lanes by halves."""
    p, i, n = args
    halves = [places_for(b, [constant(F64, 0.0)] * t.parts) for _ in range(2)]

    def enter(at: Any, rest: Any = None) -> None:
        for half, places in enumerate(halves):
            start, left = b.add(at, integer(16 * half)), None if rest is None else b.sub(rest, integer(16 * half))
            add_elements(b, places, load(b, element, p, start, left), mean, left)

    rest = b.and_(n, integer(31))
    last = b.add(i, b.sub(n, rest))
    with b.if_else(b.icmp_signed("==", n, integer(TILE))) as (whole, part):
        with whole:
            for k in range(0, TILE, 32):
                enter(b.add(i, integer(k)))
        with part, cgutils.for_range_slice(b, i, last, integer(32), intp=I64) as (at, _):
            enter(at)
    with b.if_then(b.icmp_signed(">", rest, integer(0))):
        enter(last, rest)
    return join(b, fold(b, *([b.load(place) for place in places] for places in halves)))


@intrinsic
def tile_sum(tc: Any, p: Any, i: Any, n: Any) -> Any:
    """Sum of the tile p[i : i + n], n <= 256."""
    t = Vec(1, parts_for(p))
    return t(p, types.intp, types.intp), lambda ctx, b, sig, a: tile(b, t, p.dtype, a)


@intrinsic
def tile_squares(tc: Any, p: Any, i: Any, n: Any, mean: Any) -> Any:
    """Sum of (p[i : i + n] - mean) ** 2, n <= 256."""
    t = Vec(1, parts_for(p))
    signature = t(p, types.intp, types.intp, types.float64)
    return signature, lambda ctx, b, sig, a: tile(b, t, p.dtype, a[:3], broadcast(b, a[3]))


@intrinsic
def ratio(tc: Any, s: Any, n: Any) -> Any:
    """s / n as (high, low), high the rounded quotient."""
    part = in_lanes(s)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        n_ = broadcast(b, a[1], s.lanes)
        both = divide(b, split(b, a[0], s), n_)
        if s.parts == 1:
            both.append(b.fdiv(fused(b, b.fneg(both[0]), n_, a[0]), n_))
        if s.lanes == 1:
            both = [b.extract_element(p, ir.Constant(I32, 0)) for p in both]
        return ctx.make_tuple(b, sig.return_type, both)

    return types.UniTuple(part, 2)(s, types.float64), codegen


def in_lanes(s: Vec) -> Any:
    """Type of a float64 for each lane of an accumulator: a vector, or a number."""
    return types.float64 if s.lanes == 1 else Vec(s.lanes)


def whole(b: ir.IRBuilder, x: Any, t: Any) -> Any:
    """A number in all lanes of the type `t`."""
    return broadcast(b, x, t.lanes) if isinstance(t, Vec) else x


@intrinsic
def value(tc: Any, s: Any) -> Any:
    """Accumulator -> float64, or a vector of them."""
    result = in_lanes(s)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        total = rounded(b, split(b, a[0], s))
        return total if isinstance(result, Vec) else b.extract_element(total, ir.Constant(I32, 0))

    return result(s), codegen


@intrinsic
def squares_about(tc: Any, acc: Any, n: Any, high: Any, low: Any, mean: Any) -> Any:
    """Squares about `high` of n elements whose mean is high + low -> their squares about `mean`, in as many lanes.

    acc + n * a * (a + 2 * low), a = high - mean. With (a + low)**2 in its place, what low is off would be lost: 4e-9 of the
    variance where mean/std is 1e12.
    """

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        n_ = broadcast(b, a[1], acc.lanes)
        high_, low_, mean_ = a[2:] if acc.lanes > 1 else (broadcast(b, v, 1) for v in a[2:])
        d, sums = distance(b, high_, mean_, acc.parts), split(b, a[0], acc)
        twice = [b.fadd(low_, low_), ir.Constant(low_.type, [0.0] * acc.lanes)][: acc.parts]
        square = multiply(b, d, add_parts(b, d, twice), acc.parts)
        return join(b, add_term(b, sums, *multiply(b, square, [n_], acc.parts)))

    return acc(acc, types.float64, high, low, mean), codegen


def slot(b: ir.IRBuilder, p: Any, i: Any, t: Vec) -> Any:
    return b.bitcast(b.gep(p, [b.mul(i, integer(t.parts))]), vector(F64, t.lanes * t.parts).as_pointer())


def read(b: ir.IRBuilder, p: Any, i: Any, t: Vec) -> Any:
    """The accumulator at element `i` of work space; the parts of one lane are neighbours in memory."""
    v = b.load(slot(b, p, i, t), align=8)
    return v if t.parts == 1 else take(b, v, [2 * k + part for part in (0, 1) for k in range(t.lanes)])


def masked_read(b: ir.IRBuilder, p: Any, i: Any, n: Any, t: Vec) -> Any:
    """`read`, of which only the first n are there; 0 stands for the others."""
    count = t.lanes * t.parts
    indices = ir.Constant(vector(I64, count), list(range(count)))
    mask = b.icmp_signed("<", indices, broadcast(b, b.mul(n, integer(t.parts)), count))
    args = [slot(b, p, i, t), ir.Constant(I32, 8), mask, constant(F64, 0.0, count)]
    v = call(b, f"llvm.masked.load.v{count}f64.p0", vector(F64, count), args)
    return v if t.parts == 1 else take(b, v, [2 * k + part for part in (0, 1) for k in range(t.lanes)])


def write(b: ir.IRBuilder, p: Any, i: Any, s: Any, t: Vec) -> None:
    if t.parts == 2:
        s = take(b, s, [k + part * t.lanes for k in range(t.lanes) for part in (0, 1)])
    b.store(s, slot(b, p, i, t), align=8)


@intrinsic
def get(tc: Any, p: Any, i: Any, like: Any) -> Any:
    """The accumulator at element `i` of work space."""
    return like(p, types.intp, like), lambda ctx, b, sig, a: read(b, a[0], a[1], like)


@intrinsic
def get_first(tc: Any, p: Any, i: Any, n: Any, like: Any) -> Any:
    """The accumulator of sixteen lanes at element `i` of work space, of which n were written; 0 stands for the others.

    What was never written may look like denormal numbers, on which a division takes a hundred times as long.
    """
    return like(p, types.intp, types.intp, like), lambda ctx, b, sig, a: masked_read(b, a[0], a[1], a[2], like)


@intrinsic
def tile_of_sums(tc: Any, p: Any, i: Any, n: Any, like: Any) -> Any:
    """As `tile`, of n <= 256 accumulators from element `i` of work space on; `like`: one of one lane."""
    t = Vec(LANES, like.parts)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        p, first, n, _ = a
        halves = [places_for(b, [constant(F64, 0.0)] * t.parts) for _ in range(2)]
        with cgutils.for_range_slice(b, integer(0), n, integer(32), intp=I64) as (k, _):
            for half, places in enumerate(halves):
                at = b.add(k, integer(16 * half))
                there = split(b, masked_read(b, p, b.add(first, at), b.sub(n, at), t), t)
                update(b, places, lambda acc, there=there: add_parts(b, acc, there))
        return join(b, fold(b, *([b.load(place) for place in places] for places in halves)))

    return like(p, types.intp, types.intp, like), codegen


@intrinsic
def put(tc: Any, p: Any, i: Any, s: Any) -> Any:
    """Write the accumulator `s` to element `i` of work space."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        write(b, a[0], a[1], a[2], s)
        return ctx.get_dummy_value()

    return types.void(p, types.intp, s), codegen


@intrinsic
def advance_by(tc: Any, ptr: Any, n: Any, like: Any) -> Any:
    """Work space from its element `n` on, an element being a lane of accumulators like `like`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.gep(a[0], [b.mul(a[1], integer(like.parts))])

    return ptr(ptr, types.intp, like), codegen


@device()
def push(stack, at, stride, k, s):
    """Leaf `k` of a pairs tree; level j of the tree waits in stack[at + j * stride]."""
    while k & 1:
        s = plus(get(stack, at, s), s)
        at += stride
        k >>= 1
    put(stack, at, s)


@device()
def drain(stack, at, stride, leaves, like):
    """Sum of the `leaves` >= 1 that were pushed: what waits is joined from the smallest subtree up."""
    while leaves & 1 == 0:
        at += stride
        leaves >>= 1
    s = get(stack, at, like)
    leaves >>= 1
    while leaves:
        at += stride
        if leaves & 1:
            s = plus(get(stack, at, s), s)
        leaves >>= 1
    return s


block_rows = device()(tree.block_rows)


def so_far(b: ir.IRBuilder, first: Any, stored: Any) -> Any:
    """An accumulator that begins at 0 with row 0 and goes on from what is stored with others: no pass to clear memory."""
    return b.select(b.icmp_signed("==", first, integer(0)), constant(F64, 0.0, stored.type.count), stored)


def add_rows(b: ir.IRBuilder, element: Any, args: Any, means: Any = None) -> None:
    """args: p, i, rows, together, stride, width, out. out[c] = sum over rows of column c, in order, `together` at a time.

    More rows together mean less traffic to `out`, but eight that stand a multiple of 4096 bytes apart fill a set of an 8-way
    cache. Eight took 5 to 15 % less time than four, for rows of 256 to 25088 float32.
    """
    p, i, rows, together, stride, width, out = args
    t = Vec(LANES, 2 if element == types.float64 else 1)

    def step(first: Any, count: Any, c: Any, n: Any) -> None:
        acc = places_for(b, [so_far(b, first, part) for part in split(b, read(b, out, c, t), t)])
        mean = None if means is None else load(b, types.float64, means, c, n)
        start = b.add(b.add(i, c), b.mul(first, stride))
        with cgutils.for_range(b, count, intp=I64) as row:
            at = b.add(start, b.mul(row.index, stride))
            prefetch(b, p, b.add(at, b.mul(together, stride)))
            add_elements(b, acc, load(b, element, p, at, n), mean, n)
        write(b, out, c, join(b, [b.load(place) for place in acc]), t)

    with cgutils.for_range_slice(b, integer(0), rows, together, intp=I64) as (first, _):
        count = smaller(b, together, b.sub(rows, first))
        sixteens(b, integer(0), width, lambda c, n: step(first, count, c, n))


@intrinsic
def add_row_sums(tc: Any, p: Any, i: Any, rows: Any, together: Any, stride: Any, width: Any, out: Any) -> Any:
    """out[c] = p[i + c] + p[i + stride + c] + ..., for `width` columns."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        add_rows(b, p.dtype, a)
        return ctx.get_dummy_value()

    return types.void(p, *[types.intp] * 5, out), codegen


@intrinsic
def add_row_squares(tc: Any, p: Any, i: Any, rows: Any, together: Any, stride: Any, width: Any, out: Any, means: Any) -> Any:
    """out[c] = (p[i + c] - means[c]) ** 2 + ..., for `width` columns."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        add_rows(b, p.dtype, a[:7], a[7])
        return ctx.get_dummy_value()

    return types.void(p, *[types.intp] * 5, out, means), codegen


@intrinsic
def zeros(tc: Any, p: Any) -> Any:
    """Empty accumulator of 16 lanes for elements of `p`."""
    t = Vec(LANES, parts_for(p))
    return t(p), lambda ctx, b, sig, a: constant(F64, 0.0, t.lanes * t.parts)
