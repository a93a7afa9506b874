"""Sums in a fixed order: accumulators, and the adjacent-pairs tree that joins them.

An accumulator is a `Vec`, a number of some arithmetic in 16 lanes or in one. Every function here takes any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ...spec import tree
from ..compile import device, intrinsic, types
from .arithmetic import Exact, Number, Vec, arithmetic_of
from .masked import counted, included, track, visit, visited
from .memory import load
from .stages import Elements, ask, at_row, centered, enter_wide, seen
from .vectors import F64, I32, I64, LANES, broadcast, call, constant, down_rows, integer, take, vector

TILE = tree.TILE
N = types.intp


@intrinsic(prefer_literal=True)
def empty(tc: Any, x: Any, n: Any) -> Any:
    """Empty accumulator of n lanes for elements of `x`: 1 for one sum, 16 for sums of columns, 4 for those of gradients."""
    t = Vec(n.literal_value, arithmetic_of(x.dtype))
    return t(x, n), lambda ctx, b, sig, a: t.zero()


@intrinsic
def plus(tc: Any, x: Any, y: Any) -> Any:
    """The sum of two accumulators, lane by lane."""
    of = x.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return of.join(b, of.add(b, *(of.split(b, v) for v in a)))

    return x(x, y), codegen


# --- in variables, while code is emitted that adds elements -------------------------------------------------------------


class Running:
    """An accumulator of 16 lanes in variables, one for each part."""

    def __init__(self, b: ir.IRBuilder, of: Exact, start: Number | None = None, number: Any = F64) -> None:
        self.of = of
        self.places = [cgutils.alloca_once_value(b, part) for part in start or [constant(number, 0.0)] * of.parts]

    def now(self, b: ir.IRBuilder) -> Number:
        return [b.load(place) for place in self.places]

    def wide(self, b: ir.IRBuilder) -> Number:
        """The number as float64."""
        return [part if part.type.element == F64 else b.fpext(part, vector(F64)) for part in self.now(b)]

    def put(self, b: ir.IRBuilder, acc: Number) -> None:
        for place, part in zip(self.places, acc, strict=True):
            b.store(part, place)

    def add(self, b: ir.IRBuilder, x: Number) -> None:
        self.put(b, self.of.add(b, self.now(b), x))

    def add_term(self, b: ir.IRBuilder, *term: Any) -> None:
        self.put(b, self.of.add_term(b, self.now(b), *term))

    def add_product(self, b: ir.IRBuilder, x: Number, y: Number) -> None:
        self.put(b, self.of.product_term(b, self.now(b), x, y))


def fold(b: ir.IRBuilder, x: Running, y: Running) -> Number:
    """32 lanes (x the first 16, y the others) to one, by halves: l += l+16, +8, +4, +2, +1."""
    # for half in 16, 8, 4, 2, 1:
    #     for l in range(half): lane[l] += lane[l + half]
    parts, n = x.of.add(b, x.wide(b), y.wide(b)), LANES
    while n > 1:
        n //= 2
        low, high = ([take(b, p, list(range(k, k + n))) for p in parts] for k in (0, n))
        parts = x.of.add(b, low, high)
    return parts


def add_elements(b: ir.IRBuilder, acc: Running, x: Elements, i: Any, n: Any, mean: Any, mask: Any) -> None:
    """Add the 16 elements of x from `i` on: the elements, or with `mean` their squared distances.

    Only the first `n` are there, if it is given; an absent element adds nothing, nor does one that the mask leaves out.
    """
    v = enter_wide(b, x, i, n)
    if mean is None:
        acc.add_term(b, *counted(b, mask, [v]))
    else:
        d = counted(b, mask, centered(b, acc.of, v, mean, n))
        acc.add_product(b, d, d)


# --- tiles --------------------------------------------------------------------------------------------------------------


def through_tile(b: ir.IRBuilder, i: Any, n: Any, add: Callable[..., None]) -> None:
    """`add(at)` for every 32 elements of a tile of n <= 256, and `add(at, rest)` for those that are left over."""
    rest = b.and_(n, integer(31))
    last = b.add(i, b.sub(n, rest))
    with b.if_else(b.icmp_signed("==", n, integer(TILE))) as (whole, part):
        with whole:
            for k in range(0, TILE, 32):
                add(b.add(i, integer(k)))
        with part, cgutils.for_range_slice(b, i, last, integer(32), intp=I64) as (at, _):
            add(at)
    with b.if_then(b.icmp_signed(">", rest, integer(0))):
        add(last, rest)


def tile(b: ir.IRBuilder, x: Elements, i: Any, n: Any, mean: Any = None) -> Any:
    """Sum of the tile x[i : i + n], n <= 256: 8 steps x 32 lanes, each in order from +0.0, lanes by halves."""
    # for k in range(n): lane[k % 32] += x[i + k]    or (x[i + k] - mean)**2
    # return fold(lane)
    of, x = x.arithmetic, at_row(b, x, i)

    def of_tile(mask: Any) -> Any:
        halves = [Running(b, of) for _ in range(2)]

        def add(at: Any, rest: Any = None) -> None:
            for half, acc in enumerate(halves):
                start, left = b.add(at, integer(16 * half)), None if rest is None else b.sub(rest, integer(16 * half))
                add_elements(b, acc, x, start, left, mean, included(b, mask, integer(0), b.sub(start, i), left))

        through_tile(b, i, n, add)
        return of.join(b, fold(b, *halves))

    return visited(b, track(b, x, i), of_tile, Vec(1, of).zero())


@intrinsic
def tile_sum(tc: Any, p: Any, i: Any, n: Any) -> Any:
    """Sum of the tile p[i : i + n], n <= 256."""

    t = Vec(1, arithmetic_of(p.dtype))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return t.zero() if t.arithmetic.at_once else tile(b, seen(b, [p], a)[0], a[1], a[2])

    return t(p, N, N), codegen


@intrinsic
def tile_squares(tc: Any, p: Any, i: Any, n: Any, mean: Any) -> Any:
    """Sum of (p[i : i + n] - mean) ** 2, n <= 256."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return tile(b, seen(b, [p], a)[0], a[1], a[2], broadcast(b, a[3]))

    return Vec(1, arithmetic_of(p.dtype))(p, N, N, types.float64), codegen


# --- what sums become ---------------------------------------------------------------------------------------------------


def in_lanes(s: Vec) -> Any:
    """Type of a float64 for each lane of an accumulator: a vector, or a number."""
    return types.float64 if s.lanes == 1 else Vec(s.lanes)


def whole(b: ir.IRBuilder, x: Any, t: Any) -> Any:
    """A number in all lanes of the type `t`."""
    return broadcast(b, x, t.lanes) if isinstance(t, Vec) else x


def of_lanes(b: ir.IRBuilder, v: Any) -> Any:
    """A vector as a value of the type `in_lanes`."""
    return v if v.type.count > 1 else b.extract_element(v, ir.Constant(I32, 0))


@intrinsic
def ratio(tc: Any, s: Any, n: Any) -> Any:
    """s / n as (high, low), high the rounded quotient; n: a number, or one for each lane."""
    of = s.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        both = of.ratio(b, of.split(b, a[0]), a[1] if isinstance(n, Vec) else broadcast(b, a[1], s.lanes))
        return ctx.make_tuple(b, sig.return_type, [of_lanes(b, p) for p in both])

    return types.UniTuple(in_lanes(s), 2)(s, n if isinstance(n, Vec) else types.float64), codegen


@intrinsic
def value(tc: Any, s: Any) -> Any:
    """Accumulator -> float64, or a vector of them."""
    of = s.arithmetic
    return in_lanes(s)(s), lambda ctx, b, sig, a: of_lanes(b, of.rounded(b, of.split(b, a[0])))


@intrinsic
def squares_about(tc: Any, acc: Any, n: Any, high: Any, low: Any, mean: Any) -> Any:
    """Squares about `high` of n elements whose mean is high + low -> their squares about `mean`, in as many lanes.

    acc + n * a * (a + 2 * low), a = high - mean. With (a + low)**2 in its place, what low is off would be lost: 4e-9 of the
    variance where mean/std is 1e12.
    """
    of = acc.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # d = high - mean
        # return acc + n * d * (d + 2 * low)
        n_ = broadcast(b, a[1], acc.lanes)
        high_, low_, mean_ = a[2:] if acc.lanes > 1 else (broadcast(b, v, 1) for v in a[2:])
        d, sums = of.distance(b, high_, mean_), of.split(b, a[0])
        twice = [b.fadd(low_, low_), constant(F64, 0.0, acc.lanes)][: of.parts]
        square = of.multiply(b, d, of.add(b, d, twice))
        return of.join(b, of.add_term(b, sums, *of.multiply(b, square, [n_])))

    return acc(acc, types.float64, high, low, mean), codegen


# --- work space ---------------------------------------------------------------------------------------------------------


def slot(b: ir.IRBuilder, p: Any, i: Any, t: Vec) -> Any:
    """Pointer to the accumulator at element `i` of work space; the parts of one lane are neighbours there."""
    return b.bitcast(b.gep(p, [b.mul(i, integer(t.arithmetic.parts))]), vector(F64, t.count).as_pointer())


def parts_apart(b: ir.IRBuilder, v: Any, t: Vec) -> Any:
    """The vector of an accumulator from what stands in work space."""
    parts = t.arithmetic.parts
    return take(b, v, [k * parts + part for part in range(parts) for k in range(t.lanes)])


def read(b: ir.IRBuilder, p: Any, i: Any, t: Vec) -> Any:
    """The accumulator at element `i` of work space."""
    return parts_apart(b, b.load(slot(b, p, i, t), align=8), t)


def read_first(b: ir.IRBuilder, p: Any, i: Any, n: Any, t: Vec) -> Any:
    """`read`, of which only the first n are there; 0 stands for the others."""
    indices = ir.Constant(vector(I64, t.count), list(range(t.count)))
    mask = b.icmp_signed("<", indices, broadcast(b, b.mul(n, integer(t.arithmetic.parts)), t.count))
    args = [slot(b, p, i, t), ir.Constant(I32, 8), mask, t.zero()]
    return parts_apart(b, call(b, f"llvm.masked.load.v{t.count}f64.p0", vector(F64, t.count), args), t)


def write(b: ir.IRBuilder, p: Any, i: Any, v: Any, t: Vec) -> None:
    """The reverse of `read`."""
    parts_together = [part * t.lanes + k for k in range(t.lanes) for part in range(t.arithmetic.parts)]
    b.store(take(b, v, parts_together), slot(b, p, i, t), align=8)


@intrinsic
def get(tc: Any, p: Any, i: Any, like: Any) -> Any:
    """The accumulator at element `i` of work space."""
    return like(p, N, like), lambda ctx, b, sig, a: read(b, a[0], a[1], like)


@intrinsic
def get_first(tc: Any, p: Any, i: Any, n: Any, like: Any) -> Any:
    """The accumulator of sixteen lanes at element `i` of work space, of which n were written; 0 stands for the others.

    What was never written may look like denormal numbers, on which a division takes a hundred times as long.
    """
    return like(p, N, N, like), lambda ctx, b, sig, a: read_first(b, a[0], a[1], a[2], like)


@intrinsic
def tile_of_sums(tc: Any, p: Any, i: Any, n: Any, like: Any) -> Any:
    """As `tile`, of n <= 256 accumulators from element `i` of work space on; `like`: one of one lane."""
    of, t = like.arithmetic, Vec(LANES, like.arithmetic)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for k in range(n): lane[k % 32] += p[i + k]
        # return fold(lane)
        p, first, n, _ = a
        halves = [Running(b, of) for _ in range(2)]
        with cgutils.for_range_slice(b, integer(0), n, integer(32), intp=I64) as (k, _):
            for half, acc in enumerate(halves):
                at = b.add(k, integer(16 * half))
                acc.add(b, of.split(b, read_first(b, p, b.add(first, at), b.sub(n, at), t)))
        return of.join(b, fold(b, *halves))

    return like(p, N, N, like), codegen


@intrinsic
def put(tc: Any, p: Any, i: Any, s: Any) -> Any:
    """Write the accumulator `s` to element `i` of work space."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        write(b, a[0], a[1], a[2], s)
        return ctx.get_dummy_value()

    return types.void(p, N, s), codegen


@intrinsic
def advance_by(tc: Any, ptr: Any, n: Any, like: Any) -> Any:
    """Work space from its element `n` on, an element being a lane of accumulators like `like`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.gep(a[0], [b.mul(a[1], integer(like.arithmetic.parts))])

    return ptr(ptr, N, like), codegen


# --- adjacent pairs -----------------------------------------------------------------------------------------------------


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


# --- rows ---------------------------------------------------------------------------------------------------------------


def running_at(b: ir.IRBuilder, t: Vec, out: Any, columns: list[Any], fresh: Any) -> list[Running]:
    """The accumulators of 16 columns each in work space, to add rows to; from 0 on if `fresh`: no pass to clear memory."""
    stored = [t.arithmetic.split(b, read(b, out, column, t)) for column in columns]
    return [Running(b, t.arithmetic, [b.select(fresh, constant(F64, 0.0), part) for part in acc]) for acc in stored]


def write_back(b: ir.IRBuilder, t: Vec, out: Any, columns: list[Any], sums: list[Running]) -> None:
    """The reverse of `running_at`."""
    for column, acc in zip(columns, sums, strict=True):
        write(b, out, column, t.arithmetic.join(b, acc.now(b)), t)


def add_rows(b: ir.IRBuilder, x: Elements, block: Any, out: Any, means: Any = None) -> None:
    """out[c] = sum over the rows of a block of column c, in order.

    More rows together mean less traffic to `out`, but eight that stand a multiple of 4096 bytes apart fill a set of an 8-way
    cache. Eight took 5 to 15 % less time than four, for rows of 256 to 25088 float32.
    """
    # for r in range(rows):
    #     for c in range(width): out[c] += x[i + r * stride + c]    or (x[i + r * stride + c] - means[c])**2
    i, _, together, stride, _ = block
    t, masks = Vec(LANES, x.arithmetic), track(b, x, i, stride)

    def step(first: Any, c: Any, n: Any, rows: Any) -> None:
        sums = running_at(b, t, out, [c], b.icmp_signed("==", first, integer(0)))
        mean = None if means is None else load(b, types.float64, means, c, n)
        with rows() as (at, row):
            ask(b, x, b.add(at, b.mul(together, stride)))
            visit(b, masks, row, lambda mask: add_elements(b, sums[0], x, at, n, mean, included(b, mask, row, c, n)))
        write_back(b, t, out, [c], sums)

    down_rows(b, block, step)


@intrinsic
def add_row_sums(tc: Any, p: Any, block: Any, out: Any) -> Any:
    """out[c] = p[i + c] + p[i + stride + c] + ..., for the columns and rows of a block."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not arithmetic_of(p.dtype).at_once:
            add_rows(b, seen(b, [p], a)[0], cgutils.unpack_tuple(b, a[1]), a[2])
        return ctx.get_dummy_value()

    return types.void(p, block, out), codegen


@intrinsic
def add_row_squares(tc: Any, p: Any, block: Any, out: Any, means: Any) -> Any:
    """out[c] = (p[i + c] - means[c]) ** 2 + ..., for the columns and rows of a block."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        add_rows(b, seen(b, [p], a)[0], cgutils.unpack_tuple(b, a[1]), a[2], a[3])
        return ctx.get_dummy_value()

    return types.void(p, block, out, means), codegen
