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
from .vectors import I64, broadcast, fused, integer, load, misaligned, prefetch, sixteens, smaller


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
def affine_run(
    tc: Any, streaming: Any, x: Any, y: Any, i: Any, n: Any, ahead: Any, mean: Any, rstd: Any, c: Any, w: Any, b: Any
) -> Any:
    """y[i : i + n] from x[i : i + n]; `w` and `b` are scalars, or pointers to n float64 each."""
    pointwise = isinstance(w, types.CPointer)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for e in range(n):
        #     scale, shift = rstd * w[e], c * w[e] + b[e]
        #     y[i + e] = (x[i + e] - mean) * scale + shift
        xs, ys = map(Elements, (x, y), a[1:3])
        streaming, i, n, ahead, mean = a[0], a[3], a[4], a[5], broadcast(b, a[6])
        rstd, c = (broadcast(b, v) for v in a[7:9])
        fixed = None if pointwise else [broadcast(b, v) for v in scale_and_shift(b, *a[7:])]

        def step(e: Any, n: Any) -> None:
            at = b.add(i, e)
            if n is None:
                prefetch(b, xs.pointer, b.add(at, ahead))
            scale, shift = fixed or scale_and_shift(b, rstd, c, *(load(b, types.float64, p, e, n) for p in a[9:]))
            finish(b, ys, at, xs.arithmetic.affine(b, enter(b, xs, at, n), mean, scale, shift), n, streaming)

        aligned_sixteens(b, streaming, ys, i, n, step)
        return ctx.get_dummy_value()

    return types.void(types.boolean, x, y, N, N, N, R, R, R, w, b), codegen


def down_rows(b: ir.IRBuilder, where: Any, at_column: Any, at_element: Any) -> None:
    """`at_element(what at_column(c, n) gave, index, n)` for 16 columns at a time.

    where: i, rows, together, stride, width, for `width` columns from i on in `rows` rows. So many rows `together` share what
    is known of a column. Stores that go past the caches gained nothing here, and lost a fifth where y was not aligned.
    """
    i, rows, together, stride, width = where
    # one of two constants, for which LLVM makes a loop each: with any number, one row at a time took a third longer
    together = b.select(b.icmp_signed(">", together, integer(1)), integer(4), integer(1))
    with cgutils.for_range_slice(b, integer(0), rows, together, intp=I64) as (first, _):
        start, count = b.add(i, b.mul(first, stride)), smaller(b, together, b.sub(rows, first))

        def step(c: Any, n: Any) -> None:
            known = at_column(c, n)
            with cgutils.for_range(b, count, intp=I64) as row:
                at_element(known, b.add(b.add(start, c), b.mul(row.index, stride)), n)

        sixteens(b, integer(0), width, step)


def from_table(b: ir.IRBuilder, table: Any, room: Any, count: int, c: Any, n: Any) -> list[Any]:
    """16 columns of the `count` rows of a float64 table (count, room)."""
    return [load(b, types.float64, table, b.add(c, b.mul(room, integer(k))), n) for k in range(count)]


@intrinsic
def affine_columns(
    tc: Any, x: Any, y: Any, i: Any, rows: Any, together: Any, stride: Any, width: Any, parameters: Any, room: Any
) -> Any:
    """`width` columns from x[i] on in `rows` rows; parameters: float64 (3, room): mean, scale, shift."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width): y[i + r * stride + c] = (x[i + r * stride + c] - mean[c]) * scale[c] + shift[c]
        xs, ys = map(Elements, (x, y), a)
        *where, parameters, room = a[2:]

        def at_element(known: Any, at: Any, n: Any) -> None:
            finish(b, ys, at, xs.arithmetic.affine(b, enter(b, xs, at, n), *known), n)

        down_rows(b, where, lambda c, n: from_table(b, parameters, room, 3, c, n), at_element)
        return ctx.get_dummy_value()

    return types.void(x, y, N, N, N, N, N, parameters, N), codegen


def unit_entries(b: ir.IRBuilder, table: Any, of: Exact) -> tuple[Any, Any, Number, Number]:
    """Mean, rstd, slope and shift of a unit, whose table begins here, in 16 lanes each."""
    mean, rstd, *slant = (
        broadcast(b, b.load(b.gep(table, [integer(k)]))) for k in (ANCHOR, ROOT, SLOPE, SLOPE_LOW, SHIFT, SHIFT_LOW)
    )
    return mean, rstd, slant[: of.parts], slant[2 : 2 + of.parts]


@intrinsic
def gradient_run(tc: Any, streaming: Any, x: Any, dy: Any, dx: Any, i: Any, n: Any, ahead: Any, w: Any, table: Any) -> Any:
    """dx[i : i + n] = (x - mean) * slope + (dy * rstd * w + shift), w a scalar; table: float64 (UNIT,), see `layout`."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for e in range(i, i + n): dx[e] = (x[e] - mean) * slope + (dy[e] * (rstd * w) + shift)
        xs, dys, dxs = map(Elements, (x, dy, dx), a[1:4])
        streaming, (i, n, ahead, w, table) = a[0], a[4:]
        mean, rstd, slope, shift = unit_entries(b, table, of)
        scale = of.multiply(b, [rstd], [broadcast(b, w)])

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

    return types.void(types.boolean, x, dy, dx, N, N, N, R, table), codegen


@intrinsic
def rows_of_parameters(tc: Any, x: Any) -> Any:
    """Count of the numbers that `gradient_columns` takes for each column."""
    return types.intp(x), lambda ctx, b, sig, a: integer(1 + 3 * arithmetic_of(x.dtype).parts)


@intrinsic
def lost(tc: Any, x: Any, y: Any) -> Any:
    """The error of the rounded product of two float64."""
    return R(R, R), lambda ctx, b, sig, a: PAIRS.multiply(b, [a[0]], [a[1]])[1]


@intrinsic
def gradient_columns(
    tc: Any, x: Any, dy: Any, dx: Any, i: Any, rows: Any, together: Any, stride: Any, width: Any, parameters: Any, room: Any
) -> Any:
    """`width` columns from i on in `rows` rows.

    parameters: float64 (`rows_of_parameters`, room): mean; scale, slope, shift; their low parts.
    """
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         e = i + r * stride + c
        #         dx[e] = (x[e] - mean[c]) * slope[c] + (dy[e] * scale[c] + shift[c])
        xs, dys, dxs = map(Elements, (x, dy, dx), a)
        *where, parameters, room = a[3:]

        def at_element(known: Any, at: Any, n: Any) -> None:
            scale, slope, shift = (known[k::3] for k in (1, 2, 3))
            d = of.distance(b, enter(b, xs, at, n), known[0])
            u = of.multiply(b, [enter(b, dys, at, n)], scale)
            finish(b, dxs, at, of.slanted(b, d, slope, u, shift), n)

        down_rows(b, where, lambda c, n: from_table(b, parameters, room, 1 + 3 * of.parts, c, n), at_element)
        return ctx.get_dummy_value()

    return types.void(x, dy, dx, N, N, N, N, N, parameters, N), codegen


@intrinsic
def gradient_rows(
    tc: Any, keep: Any, add: Any, fresh: Any, x: Any, dy: Any, dx: Any, i: Any, rows: Any, stride: Any, width: Any, w: Any,
    table: Any, apart: Any, sums: Any, room: Any,
) -> Any:  # fmt: skip
    """`width` columns from i on in `rows` rows, each with statistics of its own: table[row * apart ...], see `layout`.

    keep: dx = d * slope + (dy * w * rstd + shift) is wanted, w: float64 (width,).
    add: sums[c] += dy * (d * rstd + offset) and sums[room + c] += dy, row by row; `fresh` sums begin at 0.
    """
    of = arithmetic_of(x.dtype)
    t = Vec(arithmetic=of)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         e, d = i + r * stride + c, x[e] - mean[r]
        #         if keep: dx[e] = d * slope[r] + (dy[e] * w[c] * rstd[r] + shift[r])
        #         if add: sums[c], sums[room + c] += dy[e] * (d * rstd[r] + offset[r]), dy[e]
        xs, dys, dxs = map(Elements, (x, dy, dx), a[3:6])
        keep, add, fresh = a[:3]
        i, rows, stride, width, w, table, apart, sums, room = a[6:]

        def step(c: Any, n: Any) -> None:
            weight, columns = load(b, types.float64, w, c, n), [c, b.add(c, room)]
            acc = running_at(b, t, sums, columns, fresh)
            with cgutils.for_range(b, rows, intp=I64) as row:
                at, unit = b.add(b.add(i, c), b.mul(row.index, stride)), b.mul(row.index, apart)
                own = b.gep(table, [unit])
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

    flag = types.boolean
    return types.void(flag, flag, flag, x, dy, dx, N, N, N, N, w, table, N, sums, N), codegen
