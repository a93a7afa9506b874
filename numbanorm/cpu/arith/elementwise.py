"""Results, element by element, over a run and over rows of columns: y = (x - mean) * scale + shift.

scale = rstd * weight and shift = c * weight + bias, c being the share of the mean's low part. The mean stays apart: folded
into the shift it would cancel. What a group of one value gets is exactly its bias, for then c = 0. An arithmetic has its own
constants for this, see `arithmetic`.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.cgutils import for_range, for_range_slice

from ..compile import intrinsic, types
from .arithmetic import EXACT, FAST, Exact, arithmetic_of
from .memory import Past, load, pointed, put_first, repeat_row
from .stages import Elements, ask, at_row, enter_last, fetch, finish, put, retain, seen
from .vectors import (
    F32,
    F64,
    I1,
    I16,
    I64,
    LANES,
    broadcast,
    down_rows,
    first_lanes,
    integer,
    like,
    misaligned,
    sixteens,
    sixteens_of,
    smaller,
)

N, R = types.intp, types.float64
QUARTER, LINE = 16, 64  # bytes: the shortest vector that can be stored past the caches, and a cache line


def swept(b: ir.IRBuilder, start: Any, stop: Any, together: int, step: Any) -> None:
    """`step([e, e + 16, ...], None)` for so many whole vectors at a time, as long as there are, `step([e], n or None)` then."""
    turn = LANES * together
    whole = b.add(start, b.and_(b.sub(stop, start), integer(-turn)))
    with for_range_slice(b, start, whole, integer(turn), intp=I64) as (e, _):
        step([b.add(e, integer(k * LANES)) for k in range(together)], None)
    if together > 1:
        sixteens(b, whole, stop, lambda e, n: step([e], n))
    else:
        rest = b.sub(stop, whole)
        with b.if_then(b.icmp_signed(">", rest, integer(0))):
            step([whole], rest)


def aligned(b: ir.IRBuilder, streaming: Any, y: Elements, i: Any, n: Any, step: Any) -> None:
    """`swept` over y[i : i + n]; where it pays, what stands before the first aligned address is a step apart."""
    # start = elements before the first aligned one if streaming or float32 lanes else 0
    # step([0], start)
    # for e in range(start, n, 16): step([e], None or n - e)
    of, before = y.arithmetic, smaller(b, n, misaligned(b, y.stored, y.pointer, i))
    start = before if of.aligns else b.select(streaming, before, integer(0))
    with b.if_then(b.icmp_signed(">", start, integer(0))):
        step([integer(0)], start)
    swept(b, start, n, of.together, step)


def constants_of(x: Any) -> Any:
    """The type of what the arithmetic of x takes for each element: a tuple of numbers."""
    of = arithmetic_of(x.dtype)
    return types.UniTuple(types.float32 if of.number == F32 else types.float64, of.constants)


def write_run(b: ir.IRBuilder, arrays: list[Elements], span: Any, result_of: Any) -> None:
    """y = result_of(elements of x, their place in the run, n) over a span; see `swept`. arrays: x, y."""
    # for r in range(runs):
    #     for e in range(n): y[i + e] = result_of(x[i + e], e)
    #     i += stride
    i, n, ahead, streaming, runs, stride = cgutils.unpack_tuple(b, span)
    x, y = (at_row(b, array, i) for array in arrays)  # of which those with gaps have one run
    of = x.arithmetic
    with for_range_slice(b, i, b.add(i, b.mul(runs, stride)), stride, intp=I64) as (first, _):

        def step(es: list[Any], n: Any) -> None:
            at = [b.add(first, e) for e in es]
            if n is None and (of.asks or x.beside is not None):
                for place in at:
                    ask(b, x, b.add(place, ahead))
            past = Past(streaming)
            values = [enter_last(b, x, place, n, past, y) for place in at]
            for place, e, v in zip(at, es, values, strict=True):
                finish(b, y, place, result_of(v, e, n), n, past)

        aligned(b, streaming, y, first, n, step)


@intrinsic
def affine_run(tc: Any, x: Any, y: Any, span: Any, known: Any) -> Any:
    """y = (x - mean) * scale + shift for the elements of a span, with constants of `joined`, see `put_constants`."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        constants = [broadcast(b, v) for v in cgutils.unpack_tuple(b, a[3])]
        write_run(b, seen(b, (x, y), a), a[2], lambda v, e, n: of.affine(b, v, *constants))
        return ctx.get_dummy_value()

    return types.void(x, y, span, known), codegen


@intrinsic
def pointwise_run(tc: Any, x: Any, y: Any, span: Any, known: Any, w: Any, b: Any) -> Any:
    """y = (x - mean) * rstd * w + b for the elements of a span, with constants for it, and a weight and a bias for each."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        group = [broadcast(b, v) for v in cgutils.unpack_tuple(b, a[3])]

        def result_of(v: Any, e: Any, n: Any) -> Any:
            return of.pointwise(b, v, group, *(of.parameter(b, p, e, n) for p in a[4:]))

        write_run(b, seen(b, (x, y), a), a[2], result_of)
        return ctx.get_dummy_value()

    return types.void(x, y, span, known, w, b), codegen


@intrinsic
def plain_run(tc: Any, x: Any, y: Any, span: Any, group: Any, w: Any, b: Any) -> Any:
    """y in float64, for the few groups for which float32 has no room: little code, a third as fast.

    group: mean, low, rstd; w, b: float64, or pointers to as many.
    """
    single, of = isinstance(w, types.CPointer), EXACT

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not arithmetic_of(x.dtype).single:  # no group is such
            return ctx.get_dummy_value()
        i, n, _, _, runs, stride = cgutils.unpack_tuple(b, a[2])
        xs, ys = (at_row(b, array, i) for array in seen(b, (x, y), a))
        group = cgutils.unpack_tuple(b, a[3])
        known = [broadcast(b, v) for v in (of.apart(b, *group) if single else of.joined(b, *group, *a[4:]))]
        after = b.add(i, b.mul(runs, stride))
        with for_range_slice(b, i, after, stride, intp=I64) as (first, _), sixteens_of(b, n) as (e, left):
            at = b.add(first, e)
            v = enter_last(b, xs, at, left, None, ys, of)
            if single:
                result = of.pointwise(b, v, known, *(load(b, types.float64, p, e, left) for p in a[4:]))
            else:
                result = of.affine(b, v, *known)
            finish(b, ys, at, result, left, None, of)
        return ctx.get_dummy_value()

    return types.void(x, y, span, types.UniTuple(R, 3), w, b), codegen


@intrinsic
def fits_scale(tc: Any, x: Any, rstd: Any, w: Any) -> Any:
    """Whether it has room for rstd * w, the scale of what shares a weight, and for rstd."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        (_, rstd, w), nothing = a, ir.Constant(F64, 0.0)
        fits = of.fits(b, nothing, nothing, rstd, ir.Constant(I1, 0))
        return b.and_(fits, of.fits_channel(b, nothing, nothing, rstd, w, nothing))

    return types.boolean(x, R, R), codegen


@intrinsic
def own_parameters(tc: Any, x: Any, w: Any, b: Any, n: Any) -> Any:
    """n weights and biases as `pointwise_run` takes single elements: the float64, or what two addresses behind say."""
    of = arithmetic_of(x.dtype)
    pointer = types.CPointer(types.float32) if of.single else w

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        _, weights, biases, n = a
        if of.single:
            weights, biases = (pointed(b, weights, b.add(b.add(n, n), integer(k))) for k in range(2))
        return ctx.make_tuple(b, sig.return_type, [weights, biases])

    return types.UniTuple(pointer, 2)(x, w, b, N), codegen


def past_rows(b: ir.IRBuilder, y: Elements, block: Any, streaming: Any, align: int = QUARTER) -> Past:
    """Whether to write a block past the caches: whole vectors, rows that are lines apart and begin at a multiple of `align`.

    QUARTER is enough where what a vector leaves of a cache line comes with the next one. Where other rows come between, lines
    that are not whole took four times as long.
    """
    i, _, _, stride, width = cgutils.unpack_tuple(b, block)
    apart = b.and_(b.mul(stride, integer(y.stored.bitwidth // 8)), integer(LINE - 1))
    begins = b.and_(b.ptrtoint(b.gep(y.pointer, [i]), I64), integer(align - 1))
    crooked = b.or_(b.or_(apart, begins), b.and_(width, integer(LANES - 1)))
    return Past(b.and_(streaming, b.icmp_signed("==", crooked, integer(0))), min(align, LANES * y.stored.bitwidth // 8))


def down_table(b: ir.IRBuilder, block: Any, known_at: Any, at_element: Any) -> None:
    """`at_element(known, index, n)` for the columns and rows of a block, known being what known_at(column, n) loads of 16."""
    i, rows, together, stride, width = cgutils.unpack_tuple(b, block)
    # one of two constants, for which LLVM makes a loop each: with any number, one row at a time took a third longer
    together = b.select(b.icmp_signed(">", together, integer(1)), integer(4), integer(1))

    def step(first: Any, c: Any, n: Any, rows: Any) -> None:
        known = known_at(c, n)
        with rows() as (at, _):
            at_element(known, at, n)

    down_rows(b, (i, rows, together, stride, width), step)


@intrinsic
def affine_columns(tc: Any, x: Any, y: Any, block: Any, streaming: Any, table: Any, room: Any) -> Any:
    """y from x, for the columns and rows of a block; table: what `put_constants` wrote. streaming: see `past_rows`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width): y[i + r * stride + c] = (x[i + r * stride + c] - mean[c]) * scale[c] + shift[c]
        (xs, ys), of = seen(b, (x, y), a), arithmetic_of(x.dtype)
        past = past_rows(b, ys, *a[2:4])

        def at_element(known: Any, at: Any, n: Any) -> None:
            finish(b, ys, at, of.affine(b, enter_last(b, xs, at, n, past, ys), *known), n, past)

        down_table(b, a[2], table_of(b, of, *a[4:]), at_element)
        return ctx.get_dummy_value()

    return types.void(x, y, block, types.boolean, table, N), codegen


@intrinsic
def mixed_columns(tc: Any, x: Any, y: Any, block: Any, table: Any, room: Any) -> Any:
    """`affine_columns` where for some columns, whose mean is nan in the arithmetic of x, float64 has to be taken."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not arithmetic_of(x.dtype).single:
            return ctx.get_dummy_value()
        (xs, ys), (_, _, block, table, room) = seen(b, (x, y), a), a
        i, rows, _, stride, width = cgutils.unpack_tuple(b, block)
        own, plain = table_of(b, FAST, table, room), table_of(b, EXACT, table, room)
        with sixteens_of(b, width) as (c, n):
            known, exact = own(c, n), plain(c, n)
            with for_range(b, rows, intp=I64) as row:
                at = b.add(b.add(i, c), b.mul(row.index, stride))
                v = fetch(b, xs, at, n)
                retain(b, xs, at, v, n, None, ys)
                fine = EXACT.affine(b, EXACT.opened(b, v, xs.stored), *exact)
                fast = FAST.affine(b, FAST.opened(b, v, xs.stored), *known)
                bad = b.fcmp_unordered("uno", known[0], known[0])
                result = b.select(bad, EXACT.closed(b, fine, ys.stored), FAST.closed(b, fast, ys.stored))
                put(b, ys, at, result, n)
        return ctx.get_dummy_value()

    return types.void(x, y, block, table, N), codegen


def table_of(b: ir.IRBuilder, of: Exact, table: Any, room: Any) -> Any:
    """A function of a column that loads the constants of 16 from a table: (3, room) float64, then (4, room) float32."""
    rows = constant_rows(b, of, table, room)[-of.constants :]
    return lambda c, n: [of.load(b, element, row, c, n) for element, row in rows]


def constant_rows(b: ir.IRBuilder, of: Exact, table: Any, room: Any) -> list[tuple[Any, Any]]:
    """Element type and pointer of each row of a table of constants; see `table_of`."""
    rows = [(types.float64, b.gep(table, [b.mul(room, integer(k))])) for k in range(EXACT.constants)]
    if of.single:
        own = b.bitcast(b.gep(table, [b.mul(room, integer(EXACT.constants))]), F32.as_pointer())
        rows += [(types.float32, b.gep(own, [b.mul(room, integer(k))])) for k in range(FAST.constants)]
    return rows


@intrinsic
def put_constants(tc: Any, x: Any, table: Any, room: Any, at: Any, n: Any, numbers: Any, own: Any, apart: Any) -> Any:
    """Constants for `affine_columns` of n columns from `at` on. Whether float64 has to be taken for one.

    numbers: mean, low, m2, rstd, weight, bias, of all n columns; or vectors, for a column each, n <= 16. own: whether the
    statistics are x's, whose differences are then bounded by m2; apart: whether the constants are for `pointwise_run`, and
    weight and bias 1 and -0.
    """
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for k in range(at, at + n): table[:, k] = joined(...)
        _, table, room, at, n, numbers, own, apart = a
        mean, low, m2, rstd, weight, bias = cgutils.unpack_tuple(b, numbers)
        values, bad = EXACT.joined(b, mean, low, rstd, weight, bias), ir.Constant(I1, 0)
        if of.single:
            single = FAST.joined(b, mean, low, rstd, weight, bias)
            good = FAST.fits_channel(b, mean, low, rstd, weight, bias)
            good = b.and_(b.or_(good, apart if good.type == I1 else broadcast(b, apart)), FAST.fits(b, mean, m2, rstd, own))
            single[0] = b.select(good, single[0], like(single[0], math.nan))
            values, bad = values + single, some_lane(b, b.not_(good), n)
        values = [v if isinstance(v.type, ir.VectorType) else broadcast(b, v) for v in values]
        with sixteens_of(b, n) as (k, left):
            for (element, row), v in zip(constant_rows(b, of, table, room), values, strict=True):
                put_first(b, element, row, b.add(at, k), v, left)
        return bad

    return types.boolean(x, table, N, N, N, numbers, types.boolean, types.boolean), codegen


def some_lane(b: ir.IRBuilder, mask: Any, n: Any) -> Any:
    """Whether a mask is set, in one of its first n lanes."""
    if not isinstance(mask.type, ir.VectorType):
        return mask
    return b.icmp_unsigned("!=", b.bitcast(b.and_(mask, first_lanes(b, n)), I16), ir.Constant(I16, 0))


@intrinsic
def constants_at(tc: Any, x: Any, table: Any, room: Any, k: Any) -> Any:
    """The constants of column k of a table, for `affine_run` and `pointwise_run`: a tuple of numbers."""
    of, result = arithmetic_of(x.dtype), constants_of(x)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        rows = constant_rows(b, of, *a[1:3])[-of.constants :]
        return ctx.make_tuple(b, result, [b.load(b.gep(row, [a[3]])) for _, row in rows])

    return result(x, table, N, N), codegen


@intrinsic
def has_no_room(tc: Any, x: Any, table: Any, room: Any, k: Any) -> Any:
    """Whether float64 has to be taken for column k of a table: see `put_constants`."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not of.single:
            return ir.Constant(I1, 0)
        mean = b.load(b.gep(constant_rows(b, of, *a[1:3])[EXACT.constants][1], [a[3]]))
        return b.fcmp_unordered("uno", mean, mean)

    return types.boolean(x, table, N, N), codegen


@intrinsic
def repeat_constants(tc: Any, x: Any, table: Any, room: Any, n: Any, copies: Any) -> Any:
    """The constants of n columns so many times side by side, of which the first is there."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        _, table, room, n, copies = a
        for element, row in constant_rows(b, of, table, room):
            repeat_row(b, element, row, n, copies)
        return ctx.get_dummy_value()

    return types.void(x, table, N, N, N), codegen
