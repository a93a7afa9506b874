"""Gradients, element by element, over a run and over rows of columns: dx = (x - mean) * slope + (u + shift).

u = dy * weight * rstd. All that is computed for float64 elements has two parts: rstd, which came rounded, is what is then left
of the error.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils
from numba.core.cgutils import for_range

from ..compile import intrinsic, types
from ..layout import ANCHOR, OFFSET, ROOT, SHIFT, SHIFT_LOW, SINGLES, SLOPE, SLOPE_LOW
from .accumulators import running_at, write_back
from .arithmetic import PAIRS, Exact, Number, Vec, arithmetic_of
from .elementwise import LINE, aligned, constants_of, down_table, past_rows, swept
from .gradient_sums import short_sums, take_in
from .masked import counted, included, track, visit
from .memory import Past, load, pointed, store
from .stages import ask, at_row, enter, enter_last, fetch, finish, retain, seen
from .vectors import F32, F64, I64, LANES, broadcast, call, fused, integer, sixteens_of

N, R = types.intp, types.float64


class Entries(NamedTuple):
    """What the gradients of a unit take, in 16 lanes each."""

    mean: Any
    rstd: Any
    slope: Number
    shift: Number
    offset: Any


def unit_entries(b: ir.IRBuilder, table: Any, of: Exact) -> Entries:
    """The entries of a unit, whose table begins here."""
    if of.single:  # to make them float32 for each vector of a row would take longer than all else
        own = b.bitcast(b.gep(table, [integer(SINGLES)]), F32.as_pointer())
        mean, rstd, slope, shift, offset = (broadcast(b, b.load(b.gep(own, [integer(k)]))) for k in range(5))
        return Entries(mean, rstd, [slope], [shift], offset)
    places = (ANCHOR, ROOT, OFFSET, SLOPE, SLOPE_LOW, SHIFT, SHIFT_LOW)
    mean, rstd, offset, *slant = (broadcast(b, b.load(b.gep(table, [integer(k)]))) for k in places)
    return Entries(mean, rstd, slant[: of.parts], slant[2 : 2 + of.parts], offset)


@intrinsic
def gradient_run(tc: Any, x: Any, dy: Any, dx: Any, span: Any, w: Any, table: Any) -> Any:
    """dx = (x - mean) * slope + (dy * rstd * w + shift), for the elements of a span; table: float64 (UNIT,), see `layout`."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for e in range(i, i + n): dx[e] = (x[e] - mean) * slope + (dy[e] * (rstd * w) + shift)
        i, n, ahead, streaming, _, _ = cgutils.unpack_tuple(b, a[3])
        xs, dys, dxs = (at_row(b, array, i) for array in seen(b, (x, dy, dx), a))
        unit = unit_entries(b, a[5], of)
        scale = of.scale(b, b.load(b.gep(a[5], [integer(ROOT)])), a[4])

        def step(es: list[Any], n: Any) -> None:
            at = [b.add(i, e) for e in es]
            if n is None:
                for p, place in product((xs, dys), at):
                    ask(b, p, b.add(place, ahead))
            past = Past(streaming)
            values = [(enter(b, xs, place, n), enter_last(b, dys, place, n, past, dxs)) for place in at]
            for place, (v, g) in zip(at, values, strict=True):
                d = of.distance(b, v, unit.mean)
                finish(b, dxs, place, of.slanted(b, d, unit.slope, ([g], scale), unit.shift), n, past)

        aligned(b, streaming, dxs, i, n, step)
        return ctx.get_dummy_value()

    return types.void(x, dy, dx, span, R, table), codegen


@intrinsic
def scaling(tc: Any, x: Any, scale: Any) -> Any:
    """Constants of `affine_run` for a product with a scale; a zero has the sign that the forward kernels give it."""
    of, result = arithmetic_of(x.dtype), constants_of(x)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        one, nothing, less = (ir.Constant(F64, v) for v in (1.0, 0.0, -0.0))
        if of.single:
            return ctx.make_tuple(b, result, of.joined(b, nothing, nothing, a[1], one, less))
        return ctx.make_tuple(b, result, [nothing, a[1], call(b, "llvm.copysign.f64", F64, [nothing, b.fneg(a[1])])])

    return result(x, R), codegen


@intrinsic
def rows_of_parameters(tc: Any, x: Any) -> Any:
    """Count of the numbers that `gradient_columns` takes for each column."""
    return types.intp(x), lambda ctx, b, sig, a: integer(1 + 3 * arithmetic_of(x.dtype).parts)


@intrinsic
def narrow_rows(tc: Any, x: Any, table: Any, room: Any, n: Any) -> Any:
    """Write the first n numbers of each row of a table as float32 behind all of them, if gradients are computed so."""
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        _, table, room, n = a
        if of.single:
            rows = 1 + 3 * of.parts
            own = b.bitcast(b.gep(table, [b.mul(room, integer(rows))]), F32.as_pointer())
            with sixteens_of(b, n) as (k, left):
                for row in range(rows):
                    at = b.add(k, b.mul(room, integer(row)))
                    store(b, types.float32, own, at, load(b, types.float64, table, at, left), left)
        return ctx.get_dummy_value()

    return types.void(x, table, N, N), codegen


@intrinsic
def own_weights(tc: Any, x: Any, w: Any, n: Any) -> Any:
    """n weights as the arithmetic of x takes those of single elements: the float64, or what the address behind says."""
    of = arithmetic_of(x.dtype)
    pointer = types.CPointer(types.float32) if of.single else w
    return pointer(x, w, N), lambda ctx, b, sig, a: pointed(b, *a[1:]) if of.single else a[1]


@intrinsic
def product_error(tc: Any, x: Any, y: Any) -> Any:
    """The error of the rounded product of two float64."""
    return R(R, R), lambda ctx, b, sig, a: PAIRS.multiply(b, [a[0]], [a[1]])[1]


@intrinsic
def gradient_columns(tc: Any, x: Any, dy: Any, dx: Any, block: Any, streaming: Any, parameters: Any, room: Any) -> Any:
    """dx for the columns and rows of a block. streaming: see `past_rows`.

    parameters: float64 (`rows_of_parameters`, room): mean; scale, slope, shift; their low parts. See `narrow_rows`.
    """
    of = arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         e = i + r * stride + c
        #         dx[e] = (x[e] - mean[c]) * slope[c] + (dy[e] * scale[c] + shift[c])
        xs, dys, dxs = seen(b, (x, dy, dx), a)
        past = past_rows(b, dxs, *a[3:5])

        def at_element(known: Any, at: Any, n: Any) -> None:
            scale, slope, shift = (known[k::3] for k in (1, 2, 3))
            d = of.distance(b, enter(b, xs, at, n), known[0])
            g = enter_last(b, dys, at, n, past, dxs)
            finish(b, dxs, at, of.slanted(b, d, slope, ([g], scale), shift), n, past)

        table, room, rows = a[5], a[6], 1 + 3 * of.parts
        if of.single:
            table = b.bitcast(b.gep(table, [b.mul(room, integer(rows))]), F32.as_pointer())

        def known_at(c: Any, n: Any) -> list[Any]:
            return [of.parameter(b, table, b.add(c, b.mul(room, integer(k))), n) for k in range(rows)]

        down_table(b, a[3], known_at, at_element)
        return ctx.get_dummy_value()

    return types.void(x, dy, dx, block, types.boolean, parameters, N), codegen


@intrinsic
def gradient_rows(tc: Any, wanted: Any, x: Any, dy: Any, dx: Any, block: Any, w: Any, units: Any, sums: Any) -> Any:
    """dx, and sums for dweight and dbias, for the columns and rows of a block.

    w: float64 (width,). units: (table, apart), of which row r has its statistics from table[r * apart] on, see `layout`.
    sums: (float64 (2, room), room), which grow by dy * (d * rstd + offset) and dy, row by row.
    wanted: (dx, sums, sums that begin at 0, dx past the caches: see `past_rows`), four booleans.
    """
    of = arithmetic_of(x.dtype)
    t = Vec(arithmetic=of)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         e, d = i + r * stride + c, x[e] - mean[r]
        #         if keep: dx[e] = d * slope[r] + (dy[e] * w[c] * rstd[r] + shift[r])
        #         if add: sums[c], sums[room + c] += dy[e] * (d * rstd[r] + offset[r]), dy[e]
        whole_x, whole_dy, whole_dx = seen(b, (x, dy, dx), a[1:4])
        (keep, add, fresh, streaming), (i, rows, _, stride, width) = (cgutils.unpack_tuple(b, v) for v in (a[0], a[4]))
        w, (table, apart), (sums, room) = a[5], *(cgutils.unpack_tuple(b, v) for v in a[6:])
        together, masks = 2 if of.single else 1, track(b, whole_x, i, stride)  # vectors
        whole = together * LANES * whole_dx.stored.bitwidth // 8 >= LINE and not whole_dx.gaps
        past = past_rows(b, whole_dx, a[4], streaming, LINE) if whole else None

        def step(cs: list[Any], n: Any) -> None:
            weights, places = [of.parameter(b, w, c, n) for c in cs], [[c, b.add(c, room)] for c in cs]
            totals = [running_at(b, t, sums, place, fresh) for place in places]
            accs = [short_sums(b, total, of.number) for total in totals]
            with for_range(b, rows, intp=I64) as row:
                start = b.add(i, b.mul(row.index, stride))
                xs, dys, dxs = (at_row(b, array, start) for array in (whole_x, whole_dy, whole_dx))
                unit = unit_entries(b, b.gep(table, [b.mul(row.index, apart)]), of)
                for c, weight, acc in zip(cs, weights, accs, strict=True):
                    at = b.add(start, c)
                    d, dy_ = of.distance(b, enter(b, xs, at, n), unit.mean), fetch(b, dys, at, n)
                    g = of.opened(b, dy_, dys.stored)
                    with b.if_then(keep):
                        retain(b, dys, at, dy_, n, past, dxs)
                        u = of.multiply(b, [g], [weight])
                        finish(b, dxs, at, of.slanted(b, d, unit.slope, (u, [unit.rstd]), unit.shift), n, past)

                    def grow(mask: Any, c: Any = c, g: Any = g, d: Number = d, acc: list[Any] = acc) -> None:
                        own = included(b, mask, row.index, c, n)
                        (counting,), h = counted(b, own, [g]), unit.offset
                        for part in reversed(counted(b, own, d)):
                            h = fused(b, part, unit.rstd, h)
                        acc[0].add_product(b, [counting], [h])
                        acc[1].add_term(b, counting)

                    with b.if_then(add):
                        visit(b, masks, row.index, grow)
            with b.if_then(add):
                for place, total, acc in zip(places, totals, accs, strict=True):
                    take_in(b, total, acc)
                    write_back(b, t, sums, place, total)

        swept(b, integer(0), width, together, step)
        return ctx.get_dummy_value()

    return types.void(wanted, x, dy, dx, block, w, units, sums), codegen
