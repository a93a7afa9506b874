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
from .accumulators import add_term, join, parts_for, places_for, product_term, read, split, update, write
from .numbers import distance, multiply
from .vectors import F64, I64, Vec, broadcast, constant, fused, integer, load, misaligned, prefetch, sixteens, smaller, store


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


def aligned_sixteens(b: ir.IRBuilder, element: Any, streaming: Any, y: Any, i: Any, n: Any, step: Any) -> None:
    """`sixteens` over y[i : i + n]; when streaming, what stands before the first aligned address is a step apart."""
    start = b.select(streaming, smaller(b, n, misaligned(b, element, y, i)), integer(0))
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
        streaming, xp, yp, i, n, ahead = a[:6]
        mean = broadcast(b, a[6])
        rstd, c = (broadcast(b, v) for v in a[7:9])
        fixed = None if pointwise else [broadcast(b, v) for v in scale_and_shift(b, *a[7:])]

        def step(e: Any, n: Any) -> None:
            at = b.add(i, e)
            if n is None:
                prefetch(b, xp, b.add(at, ahead))
            scale, shift = fixed or scale_and_shift(b, rstd, c, *(load(b, types.float64, p, e, n) for p in a[9:]))
            d = b.fsub(load(b, x.dtype, xp, at, n), mean)
            store(b, x.dtype, yp, at, fused(b, d, scale, shift), n, streaming)

        aligned_sixteens(b, x.dtype, streaming, yp, i, n, step)
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
        xp, yp, *where, parameters, room = a

        def at_element(known: Any, at: Any, n: Any) -> None:
            mean, scale, shift = known
            d = b.fsub(load(b, x.dtype, xp, at, n), mean)
            store(b, x.dtype, yp, at, fused(b, d, scale, shift), n)

        down_rows(b, where, lambda c, n: from_table(b, parameters, room, 3, c, n), at_element)
        return ctx.get_dummy_value()

    return types.void(x, y, N, N, N, N, N, parameters, N), codegen


def slanted(b: ir.IRBuilder, d: list[Any], slope: list[Any], u: list[Any], shift: list[Any]) -> Any:
    """dx = d * slope + (u + shift), u scaled with rstd: exactly 0 where u is its own mean, as in a group of one."""
    total = b.fadd(u[0], shift[0])
    rough = fused(b, d[0], slope[0], total)
    if len(d) == 1:
        return rough
    low = fused(b, d[0], slope[1], b.fadd(u[1], shift[1]))
    dx = fused(b, d[0], slope[0], b.fadd(total, fused(b, d[1], slope[0], low)))
    return b.select(b.fcmp_ordered("ord", dx, dx), dx, rough)  # what is infinite has no low part


def unit_entries(b: ir.IRBuilder, table: Any, parts: int) -> tuple[Any, Any, list[Any], list[Any]]:
    """Mean, rstd, slope and shift of a unit, whose table begins here, in 16 lanes each."""
    mean, rstd, *slant = (
        broadcast(b, b.load(b.gep(table, [integer(k)]))) for k in (ANCHOR, ROOT, SLOPE, SLOPE_LOW, SHIFT, SHIFT_LOW)
    )
    return mean, rstd, slant[:parts], slant[2 : 2 + parts]


@intrinsic
def gradient_run(tc: Any, streaming: Any, x: Any, dy: Any, dx: Any, i: Any, n: Any, ahead: Any, w: Any, table: Any) -> Any:
    """dx[i : i + n] = (x - mean) * slope + (dy * rstd * w + shift), w a scalar; table: float64 (UNIT,), see `layout`."""
    parts = parts_for(x)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        streaming, xp, dyp, dxp, i, n, ahead, w, table = a
        mean, rstd, slope, shift = unit_entries(b, table, parts)
        scale = multiply(b, [rstd], [broadcast(b, w)], parts)

        def step(e: Any, n: Any) -> None:
            at = b.add(i, e)
            if n is None:
                for p in (xp, dyp):
                    prefetch(b, p, b.add(at, ahead))
            d = distance(b, load(b, x.dtype, xp, at, n), mean, parts)
            u = multiply(b, [load(b, x.dtype, dyp, at, n)], scale, parts)
            store(b, x.dtype, dxp, at, slanted(b, d, slope, u, shift), n, streaming)

        aligned_sixteens(b, x.dtype, streaming, dxp, i, n, step)
        return ctx.get_dummy_value()

    return types.void(types.boolean, x, dy, dx, N, N, N, R, table), codegen


@intrinsic
def rows_of_parameters(tc: Any, x: Any) -> Any:
    """How many numbers `gradient_columns` takes for each column."""
    return types.intp(x), lambda ctx, b, sig, a: integer(1 + 3 * parts_for(x))


@intrinsic
def lost(tc: Any, x: Any, y: Any) -> Any:
    """The error of the rounded product of two float64."""
    return R(R, R), lambda ctx, b, sig, a: multiply(b, [a[0]], [a[1]], 2)[1]


@intrinsic
def gradient_columns(
    tc: Any, x: Any, dy: Any, dx: Any, i: Any, rows: Any, together: Any, stride: Any, width: Any, parameters: Any, room: Any
) -> Any:
    """`width` columns from i on in `rows` rows.

    parameters: float64 (`rows_of_parameters`, room): mean; scale, slope, shift; their low parts.
    """
    parts = parts_for(x)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        xp, dyp, dxp, *where, parameters, room = a

        def at_element(known: Any, at: Any, n: Any) -> None:
            scale, slope, shift = (known[k::3] for k in (1, 2, 3))
            d = distance(b, load(b, x.dtype, xp, at, n), known[0], parts)
            u = multiply(b, [load(b, x.dtype, dyp, at, n)], scale, parts)
            store(b, x.dtype, dxp, at, slanted(b, d, slope, u, shift), n)

        down_rows(b, where, lambda c, n: from_table(b, parameters, room, 1 + 3 * parts, c, n), at_element)
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
    t = Vec(parts=parts_for(x))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        keep, add, fresh, xp, dyp, dxp, i, rows, stride, width, w, table, apart, sums, room = a
        nothing = constant(F64, 0.0)

        def step(c: Any, n: Any) -> None:
            weight, columns = load(b, types.float64, w, c, n), [c, b.add(c, room)]
            stored = [split(b, read(b, sums, column, t), t) for column in columns]
            acc = [places_for(b, [b.select(fresh, nothing, part) for part in parts]) for parts in stored]
            with cgutils.for_range(b, rows, intp=I64) as row:
                at, unit = b.add(b.add(i, c), b.mul(row.index, stride)), b.mul(row.index, apart)

                own = b.gep(table, [unit])
                mean, rstd, slope, shift = unit_entries(b, own, t.parts)
                d, g = distance(b, load(b, x.dtype, xp, at, n), mean, t.parts), load(b, x.dtype, dyp, at, n)
                with b.if_then(keep):
                    u = multiply(b, multiply(b, [g], [weight], t.parts), [rstd], t.parts)
                    store(b, x.dtype, dxp, at, slanted(b, d, slope, u, shift), n)
                with b.if_then(add):
                    h = broadcast(b, b.load(b.gep(own, [integer(OFFSET)])))
                    for part in reversed(d):
                        h = fused(b, part, rstd, h)
                    update(b, acc[0], lambda parts: product_term(b, parts, [g], [h]))
                    update(b, acc[1], lambda parts: add_term(b, parts, g))
            with b.if_then(add):
                for column, places in zip(columns, acc, strict=True):
                    write(b, sums, column, join(b, [b.load(place) for place in places]), t)

        sixteens(b, integer(0), width, step)
        return ctx.get_dummy_value()

    flag = types.boolean
    return types.void(flag, flag, flag, x, dy, dx, N, N, N, N, w, table, N, sums, N), codegen
