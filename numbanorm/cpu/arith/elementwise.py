"""Results, element by element, in float64 and rounded once: over a run, and over rows of columns.

Forward, y = (x - mean) * scale + shift. Backward, dx = (x - mean) * slope + (u + shift), u = dy * weight * rstd.

scale = rstd * weight and shift = c * weight + bias, c being the share of the mean's low part. The mean stays apart: folded
into the shift it would cancel. What a group of one value gets is exactly its bias, for then c = 0.

Backward, all that is computed for float64 elements has two parts: rstd, which came rounded, is then what is left of the error.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ..compile import intrinsic, types
from ..layout import ANCHOR, OFFSET, ROOT, SHIFT, SHIFT_LOW, SLOPE, SLOPE_LOW
from .accumulators import running_at, write_back
from .arithmetic import PAIRS, Exact, Number, Vec, arithmetic_of
from .stages import Elements, enter, finish
from .vectors import I64, broadcast, down_rows, fused, integer, load, misaligned, prefetch, sixteens, smaller


def scale_and_shift(b: ir.IRBuilder, rstd: Any, c: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """The one place that joins statistics and parameters: scalars or vectors."""
    return b.fmul(rstd, weight), fused(b, c, weight, bias)


@intrinsic
def parameters(tc: Any, rstd: Any, c: Any, weight: Any, bias: Any) -> Any:
    """(scale, shift) of float64 numbers or vectors."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_tuple(b, sig.return_type, scale_and_shift(b, *a))

    return types.UniTuple(rstd, 2)(rstd, rstd, rstd, rstd), codegen


@intrinsic
def share(tc: Any, low: Any, rstd: Any) -> Any:
    """Share of the mean's low part in a normalized element."""
    return rstd(low, rstd), lambda ctx, b, sig, a: b.fneg(b.fmul(*a))


def aligned_sixteens(b: ir.IRBuilder, streaming: Any, y: Elements, i: Any, n: Any, step: Any) -> None:
    """`sixteens` over y[i : i + n]; when streaming, what stands before the first aligned address is a step apart."""
    # start = elements before the first aligned one if streaming else 0
    # step(0, start)
    # for e in range(start, n, 16): step(e, None or n - e)
    start = b.select(streaming, smaller(b, n, misaligned(b, y.type.dtype, y.pointer, i)), integer(0))
    with b.if_then(b.icmp_signed(">", start, integer(0))):
        step(integer(0), start)
    sixteens(b, start, n, step)


N, R = types.intp, types.float64


@intrinsic
def affine_run(tc: Any, x: Any, y: Any, span: Any, mean: Any, rstd: Any, c: Any, w: Any, b: Any) -> Any:
    """y from x, for the elements of a span; `w` and `b` are scalars, or pointers to as many float64 each."""
    pointwise = isinstance(w, types.CPointer)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for e in range(n):
        #     scale, shift = rstd * w[e], c * w[e] + b[e]
        #     y[i + e] = (x[i + e] - mean) * scale + shift
        xs, ys = map(Elements, (x, y), a)
        i, n, ahead, streaming = cgutils.unpack_tuple(b, a[2])
        mean, rstd, c = (broadcast(b, v) for v in a[3:6])
        fixed = None if pointwise else [broadcast(b, v) for v in scale_and_shift(b, *a[4:])]

        def step(e: Any, n: Any) -> None:
            at = b.add(i, e)
            if n is None:
                prefetch(b, xs.pointer, b.add(at, ahead))
            scale, shift = fixed or scale_and_shift(b, rstd, c, *(load(b, types.float64, p, e, n) for p in a[6:]))
            finish(b, ys, at, xs.arithmetic.affine(b, enter(b, xs, at, n), mean, scale, shift), n, streaming)

        aligned_sixteens(b, streaming, ys, i, n, step)
        return ctx.get_dummy_value()

    return types.void(x, y, span, R, R, R, w, b), codegen


def down_table(b: ir.IRBuilder, block: Any, table: Any, room: Any, count: int, at_element: Any) -> None:
    """`at_element(known, index, n)` for the columns and rows of a block, known being 16 columns of a table (count, room).

    Stores that go past the caches gained nothing here, and lost a fifth where y was not aligned.
    """
    i, rows, together, stride, width = cgutils.unpack_tuple(b, block)
    # one of two constants, for which LLVM makes a loop each: with any number, one row at a time took a third longer
    together = b.select(b.icmp_signed(">", together, integer(1)), integer(4), integer(1))

    def step(first: Any, c: Any, n: Any, rows: Any) -> None:
        known = [load(b, types.float64, table, b.add(c, b.mul(room, integer(k))), n) for k in range(count)]
        with rows() as at:
            at_element(known, at, n)

    down_rows(b, (i, rows, together, stride, width), step)


@intrinsic
def affine_columns(tc: Any, x: Any, y: Any, block: Any, parameters: Any, room: Any) -> Any:
    """y from x, for the columns and rows of a block; parameters: float64 (3, room): mean, scale, shift."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width): y[i + r * stride + c] = (x[i + r * stride + c] - mean[c]) * scale[c] + shift[c]
        xs, ys = map(Elements, (x, y), a)

        def at_element(known: Any, at: Any, n: Any) -> None:
            finish(b, ys, at, xs.arithmetic.affine(b, enter(b, xs, at, n), *known), n)

        down_table(b, a[2], a[3], a[4], 3, at_element)
        return ctx.get_dummy_value()

    return types.void(x, y, block, parameters, N), codegen


def unit_entries(b: ir.IRBuilder, table: Any, of: Exact) -> tuple[Any, Any, Number, Number]:
    """Mean, rstd, slope and shift of a unit, whose table begins here, in 16 lanes each."""
    mean, rstd, *slant = (
        broadcast(b, b.load(b.gep(table, [integer(k)]))) for k in (ANCHOR, ROOT, SLOPE, SLOPE_LOW, SHIFT, SHIFT_LOW)
    )
    return mean, rstd, slant[: of.parts], slant[2 : 2 + of.parts]


@intrinsic
def gradient_run(tc: Any, x: Any, dy: Any, dx: Any, span: Any, w: Any, table: Any) -> Any:
    """dx = (x - mean) * slope + (dy * rstd * w + shift), for the elements of a span; table: float64 (UNIT,), see `layout`."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for e in range(i, i + n): dx[e] = (x[e] - mean) * slope + (dy[e] * (rstd * w) + shift)
        xs, dys, dxs = map(Elements, (x, dy, dx), a)
        i, n, ahead, streaming = cgutils.unpack_tuple(b, a[3])
        mean, rstd, slope, shift = unit_entries(b, a[5], of)
        scale = of.multiply(b, [rstd], [broadcast(b, a[4])])

        def step(e: Any, n: Any) -> None:
            at = b.add(i, e)
            if n is None:
                for p in (xs, dys):
                    prefetch(b, p.pointer, b.add(at, ahead))
            d = of.distance(b, enter(b, xs, at, n), mean)
            u = of.multiply(b, [enter(b, dys, at, n)], scale)
            finish(b, dxs, at, of.slanted(b, d, slope, u, shift), n, streaming)

        aligned_sixteens(b, streaming, dxs, i, n, step)
        return ctx.get_dummy_value()

    return types.void(x, dy, dx, span, R, table), codegen


@intrinsic
def rows_of_parameters(tc: Any, x: Any) -> Any:
    """Count of the numbers that `gradient_columns` takes for each column."""
    return types.intp(x), lambda ctx, b, sig, a: integer(1 + 3 * arithmetic_of(x.dtype).parts)


@intrinsic
def product_error(tc: Any, x: Any, y: Any) -> Any:
    """The error of the rounded product of two float64."""
    return R(R, R), lambda ctx, b, sig, a: PAIRS.multiply(b, [a[0]], [a[1]])[1]


@intrinsic
def gradient_columns(tc: Any, x: Any, dy: Any, dx: Any, block: Any, parameters: Any, room: Any) -> Any:
    """dx for the columns and rows of a block.

    parameters: float64 (`rows_of_parameters`, room): mean; scale, slope, shift; their low parts.
    """
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         e = i + r * stride + c
        #         dx[e] = (x[e] - mean[c]) * slope[c] + (dy[e] * scale[c] + shift[c])
        xs, dys, dxs = map(Elements, (x, dy, dx), a)

        def at_element(known: Any, at: Any, n: Any) -> None:
            scale, slope, shift = (known[k::3] for k in (1, 2, 3))
            d = of.distance(b, enter(b, xs, at, n), known[0])
            u = of.multiply(b, [enter(b, dys, at, n)], scale)
            finish(b, dxs, at, of.slanted(b, d, slope, u, shift), n)

        down_table(b, a[3], a[4], a[5], 1 + 3 * of.parts, at_element)
        return ctx.get_dummy_value()

    return types.void(x, dy, dx, block, parameters, N), codegen


@intrinsic
def gradient_rows(tc: Any, wanted: Any, x: Any, dy: Any, dx: Any, block: Any, w: Any, units: Any, sums: Any) -> Any:
    """dx, and sums for dweight and dbias, for the columns and rows of a block.

    w: float64 (width,). units: (table, apart), of which row r has its statistics from table[r * apart] on, see `layout`.
    sums: (float64 (2, room), room), which grow by dy * (d * rstd + offset) and dy, row by row.
    wanted: (dx, sums, sums that begin at 0), three booleans.
    """
    of = arithmetic_of(x.dtype)
    t = Vec(arithmetic=of)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         e, d = i + r * stride + c, x[e] - mean[r]
        #         if keep: dx[e] = d * slope[r] + (dy[e] * w[c] * rstd[r] + shift[r])
        #         if add: sums[c], sums[room + c] += dy[e] * (d * rstd[r] + offset[r]), dy[e]
        xs, dys, dxs = map(Elements, (x, dy, dx), a[1:4])
        (keep, add, fresh), (i, rows, _, stride, width) = (cgutils.unpack_tuple(b, v) for v in (a[0], a[4]))
        w, (table, apart), (sums, room) = a[5], *(cgutils.unpack_tuple(b, v) for v in a[6:])

        def step(c: Any, n: Any) -> None:
            weight, columns = load(b, types.float64, w, c, n), [c, b.add(c, room)]
            acc = running_at(b, t, sums, columns, fresh)
            with cgutils.for_range(b, rows, intp=I64) as row:
                at, own = b.add(b.add(i, c), b.mul(row.index, stride)), b.gep(table, [b.mul(row.index, apart)])
                mean, rstd, slope, shift = unit_entries(b, own, of)
                d, g = of.distance(b, enter(b, xs, at, n), mean), enter(b, dys, at, n)
                with b.if_then(keep):
                    u = of.multiply(b, of.multiply(b, [g], [weight]), [rstd])
                    finish(b, dxs, at, of.slanted(b, d, slope, u, shift), n)
                with b.if_then(add):
                    h = broadcast(b, b.load(b.gep(own, [integer(OFFSET)])))
                    for part in reversed(d):
                        h = fused(b, part, rstd, h)
                    acc[0].add_product(b, [g], [h])
                    acc[1].add_term(b, g)
            with b.if_then(add):
                write_back(b, t, sums, columns, acc)

        sixteens(b, integer(0), width, step)
        return ctx.get_dummy_value()

    return types.void(wanted, x, dy, dx, block, w, units, sums), codegen
