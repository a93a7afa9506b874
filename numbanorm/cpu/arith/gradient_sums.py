"""Sums of gradients, in the fixed order of `accumulators`: u, u * d and d, with d = x - mean and u = dy or dy * weight.

The three sums are one accumulator of four lanes, of which the last is 0. The sum of d would be 0 but for the mean's
rounding, which it measures: so a gradient is as exact as if the mean were not rounded. Of float64 elements u and d, too, have
two parts.

In float32 the first level of every sum, eight terms, is float32, and all above it float64. There d is the distance from the
float32 next to the mean, so that what the mean was rounded by is known, and the third sum is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64
from numba.core import cgutils

from ...spec.tree import LARGE_RSTD, LARGE_U, SHORT_SUM
from ..compile import device, intrinsic, types
from ..layout import ANCHOR, CENTER, OFFSET, OWN, ROOT, SHIFT, SHIFT_LOW, SINGLES, SIZE, SLOPE, SLOPE_LOW, UNIT
from .accumulators import TILE, Running, drain, empty, fold, push, running_at, write_back
from .arithmetic import PAIRS, Exact, Number, Vec, arithmetic_of, less_single, negative, single_of
from .masked import counted, included, track, visit, visited
from .memory import load
from .stages import ask, at_row, centered, enter, seen
from .statistics import finite, finite_group
from .vectors import F32, F64, I32, I64, absolute, broadcast, constant, down_rows, integer, take

SUMS = 3  # u, u * d, d
N = types.intp


def add_products(b: ir.IRBuilder, sums: list[Running], v: Any, u: Number, mean: Any, n: Any, mask: Any) -> None:
    """16 elements into the three accumulators; only the first `n` are there, if it is given, and u is 0 elsewhere."""
    d, u = counted(b, mask, centered(b, sums[0].of, v, mean, n)), counted(b, mask, u)
    sums[0].add_term(b, *u)
    sums[1].add_product(b, u, d)
    for acc in sums[2:]:
        acc.add_term(b, *d)


def sums_for(of: Exact) -> int:
    """How many of the sums are taken."""
    return 2 if of.single else SUMS


@intrinsic
def sums_of(tc: Any, x: Any) -> Any:
    """How many sums are taken of the elements of x."""
    n = sums_for(arithmetic_of(x.dtype))
    return types.intp(x), lambda ctx, b, sig, a: integer(n)


@intrinsic
def tile_products(tc: Any, x: Any, dy: Any, i: Any, n: Any, ahead: Any, mean: Any, w: Any, at: Any) -> Any:
    """The sums of the tile x[i : i + n], n <= 256. w: the weights, from `at` on, or anything but a pointer for none.

    Without weights, what lies `ahead` elements further on is asked for: a channel's next run may be far away.
    """
    weighted, of = isinstance(w, types.CPointer), arithmetic_of(x.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for k in range(n):
        #     d, u = x[i + k] - mean, dy[i + k] * w[at + k]
        #     lane[k % 32] += u, u * d, d
        # return fold(lane)
        i, n, ahead, mean, wp, at = a[2:]
        xs, dys = (at_row(b, array, i) for array in seen(b, (x, dy), a))
        mean = of.lanes(b, mean)

        def of_tile(mask: Any) -> Any:
            halves = [[Running(b, of, number=of.number) for _ in range(sums_for(of))] for _ in range(2)]

            def add(e: Any, rest: Any = None) -> None:
                for half, sums in enumerate(halves):
                    start, left = b.add(e, integer(16 * half)), None if rest is None else b.sub(rest, integer(16 * half))
                    where = b.add(i, start)
                    if rest is None and not weighted:
                        for p in (xs, dys):
                            ask(b, p, b.add(where, ahead))
                    u = [enter(b, dys, where, left)]
                    if weighted:
                        u = of.multiply(b, u, [of.parameter(b, wp, b.add(at, start), left)])
                    own = included(b, mask, integer(0), start, left)
                    add_products(b, sums, enter(b, xs, where, left), u, mean, left, own)

            rest = b.and_(n, integer(31))
            last = b.sub(n, rest)
            with cgutils.for_range_slice(b, integer(0), last, integer(32), intp=I64) as (e, _):
                add(e)
            with b.if_then(b.icmp_signed(">", rest, integer(0))):
                add(last, rest)
            return beside(b, of, [fold(b, low, high) for low, high in zip(*halves, strict=True)])

        return visited(b, track(b, xs, i), of_tile, Vec(4, of).zero())

    return Vec(4, of)(x, dy, N, N, N, types.float64, w, N), codegen


def beside(b: ir.IRBuilder, of: Exact, totals: list[Number]) -> Any:
    """Accumulators of one lane -> the lanes of one."""

    def lane(part: Any) -> Any:
        return b.extract_element(part, ir.Constant(I32, 0))

    return of.join(b, [lanes(b, [lane(part) for part in parts]) for parts in zip(*totals, strict=True)])


def lanes(b: ir.IRBuilder, values: list[Any]) -> Any:
    """Up to four numbers -> <4 x double>, the others 0."""
    v = constant(F64, 0.0, 4)
    for k, value in enumerate(values):
        v = b.insert_element(v, value, ir.Constant(I32, k))
    return v


@intrinsic
def as_one(tc: Any, u: Any, product: Any, d: Any) -> Any:
    """Three accumulators of one lane as one."""
    of = u.arithmetic
    return Vec(4, of)(u, product, d), lambda ctx, b, sig, a: beside(b, of, [of.split(b, v) for v in a])


@intrinsic
def numbers(tc: Any, s: Any) -> Any:
    """The sums of u and u * d."""
    of = s.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        v = of.rounded(b, of.split(b, a[0]))
        return ctx.make_tuple(b, sig.return_type, [b.extract_element(v, ir.Constant(I32, k)) for k in range(2)])

    return types.UniTuple(types.float64, 2)(s), codegen


@intrinsic
def weighted(tc: Any, s: Any, w: Any) -> Any:
    """The sums of u and u * d times w; that of d as it is."""
    of = s.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        factor = lanes(b, [a[1], a[1], ir.Constant(F64, 1.0)])
        return of.join(b, of.multiply(b, of.split(b, a[0]), [factor]))

    return s(s, types.float64), codegen


@intrinsic
def gradients_of(tc: Any, s: Any, rstd: Any, offset: Any) -> Any:
    """The sums of u = dy and dy * d, a channel's in one sample -> what it gives to dbias and dweight, in the same lanes."""
    of = s.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # dbias, dweight = u, u * d * rstd + u * offset
        parts, one, nothing = of.split(b, a[0]), ir.Constant(F64, 1.0), ir.Constant(F64, 0.0)
        product = of.multiply(b, parts, [lanes(b, [one, a[1]])])
        moved = [take(b, part, [3, 0, 3, 3]) for part in parts]  # u where u * d is, and the empty lane
        return of.join(b, of.add(b, product, of.multiply(b, moved, [lanes(b, [nothing, a[2]])])))

    return s(s, types.float64, types.float64), codegen


@device(inline=False)
def span_products(x, dy, i, n, ahead, mean, w, stack):
    """The sums of x[i : i + n], an aligned part of a run: its run tree. w: see `tile_products`."""
    tiles = (n + TILE - 1) // TILE
    for k in range(tiles):
        e = TILE * k
        s = tile_products(x, dy, i + e, min(TILE, n - e), ahead, mean, w, e)
        if tiles == 1:
            return s
        push(stack, int64(0), int64(4), k, s)
    return drain(stack, int64(0), int64(4), tiles, empty(x, 4))


def short_sums(b: ir.IRBuilder, sums: list[Running], number: Any) -> list[Running]:
    """Where up to `SHORT_SUM` terms are added before `take_in`: float32 sums from 0 on, or float64: the sums themselves."""
    return sums if number == F64 else [Running(b, acc.of, number=number) for acc in sums]


def take_in(b: ir.IRBuilder, sums: list[Running], short: list[Running]) -> None:
    """Add what `short_sums` gave."""
    if short is not sums:
        for acc, part in zip(sums, short, strict=True):
            acc.add_term(b, *part.wide(b))


@intrinsic
def add_row_products(tc: Any, x: Any, dy: Any, block: Any, means: Any, out: Any, room: Any) -> Any:
    """out[k * room + c] = sum k of column c over the rows of a block, in order; see `accumulators.add_rows`."""
    t = Vec(arithmetic=arithmetic_of(x.dtype))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         d, u = x[i + r * stride + c] - means[c], dy[i + r * stride + c]
        #         out[c], out[room + c], out[2 * room + c] += u, u * d, d
        xs, dys = seen(b, (x, dy), a)
        (i, count, together, stride, width), (means, out, room), of = cgutils.unpack_tuple(b, a[2]), a[3:], t.arithmetic
        together, masks = integer(SHORT_SUM) if of.single else together, track(b, xs, i, stride)

        def step(first: Any, c: Any, n: Any, rows: Any) -> None:
            columns = [b.add(c, b.mul(room, integer(k))) for k in range(sums_for(of))]
            sums = running_at(b, t, out, columns, b.icmp_signed("==", first, integer(0)))
            short = short_sums(b, sums, of.number)
            mean = of.lanes(b, load(b, types.float64, means, c, n))
            with rows() as (at, row):
                for p in (xs, dys):
                    ask(b, p, b.add(at, b.mul(together, stride)))

                def add(mask: Any) -> None:
                    own = included(b, mask, row, c, n)
                    add_products(b, short, enter(b, xs, at, n), [enter(b, dys, at, n)], mean, n, own)

                visit(b, masks, row, add)
            take_in(b, sums, short)
            write_back(b, t, out, columns, sums)

        down_rows(b, (i, count, together, stride, width), step)
        return ctx.get_dummy_value()

    return types.void(x, dy, block, means, out, N), codegen


def in_two(x: Number) -> Number:
    """The high part and the low, which is 0 where there is none."""
    return [*x, ir.Constant(F64, 0.0)][:2]


def times_cube(b: ir.IRBuilder, c: Number, r: Any) -> Number:
    """c * r**3, of as many parts, and with one rounded once: a float64 gradient has no bits to lose in three products."""
    high, low = in_two(c)
    for _ in range(3):
        high, low = PAIRS.multiply(b, [high, low], [r])
    total = b.fadd(high, low)
    total = b.select(b.fcmp_ordered("ord", total, total), total, high)  # what is infinite has no low part
    return [total, b.fsub(low, b.fsub(total, high))][: len(c)]


@intrinsic
def settled(tc: Any, s: Any, mean: Any, rstd: Any, count: Any, center: Any) -> Any:
    """The sums of a group -> (slope, shift, offset, slope's low part, shift's, size), see `settle`."""

    of = s.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # c1, c2, delta = total / n
        # slope = -(c2 - delta * c1) * r**3
        # shift = -c1 * r - delta * slope
        # offset, size = -delta * r, abs(c1) + abs(c2 * r)
        total, mean, r, n, center = a
        averages = of.divide(b, of.split(b, total), broadcast(b, n, 4))
        c1, c2, delta = ([b.extract_element(p, ir.Constant(I32, k)) for p in averages] for k in range(SUMS))
        if of.single:
            delta = [less_single(b, mean, single_of(b, mean))]
        size = b.fadd(absolute(b, c1[0]), absolute(b, b.fmul(c2[0], r)))
        c1 = [b.select(center, p, ir.Constant(F64, 0.0)) for p in c1]
        if not of.single:  # there what a mean lacks is known, be it given or, without one, 0
            delta = [b.select(center, p, ir.Constant(F64, 0.0)) for p in delta]
        slope = negative(b, times_cube(b, of.subtract(b, c2, of.multiply(b, delta, c1)), r))
        shift = of.subtract(b, negative(b, of.multiply(b, c1, [r])), of.multiply(b, delta, slope))
        offset = b.fneg(of.rounded(b, of.multiply(b, delta, [r])))
        (slope_high, slope_low), (shift_high, shift_low) = in_two(slope), in_two(shift)
        slope_high, offset = of.fitting(b, (mean, r), (slope_high, shift_high, size), offset)
        found = [slope_high, shift_high, offset, slope_low, shift_low, size]
        return ctx.make_tuple(b, sig.return_type, found)

    f8 = types.float64
    return types.UniTuple(f8, 6)(s, f8, f8, f8, types.boolean), codegen


@intrinsic
def narrow_unit(tc: Any, s: Any, table: Any) -> Any:
    """Write the first five entries of a unit's table as float32, if its gradients are computed so."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if s.arithmetic.single:
            own = b.bitcast(b.gep(a[1], [integer(SINGLES)]), F32.as_pointer())
            for k in range(SINGLES):
                b.store(single_of(b, b.load(b.gep(a[1], [integer(k)]))), b.gep(own, [integer(k)]))
        return ctx.get_dummy_value()

    return types.void(s, table), codegen


@device()
def settle(kind, total, table, count, good):
    """Sums of a group (u with its weights) -> what its dx takes: dx = (x - mean) * slope + (u * rstd + shift).

    table: float64 (UNIT,), which holds mean and rstd. Without CENTER (RMS norm) no mean was subtracted, so neither the sum of u
    nor the mean's rounding matters. (x - mean) * rstd + offset is the normalized x; size is that of an average u.
    Where float32 has no room for them, or not `good`, the slope is nan; so is then all of dx, which is to be computed again.
    Given statistics have no slope, and only `good` matters to dx: so it is the same whether sums are wanted or not.
    """
    slope, shift, offset, slope_low, shift_low, size = settled(total, table[ANCHOR], table[ROOT], count, kind & CENTER != 0)
    if not kind & OWN:
        slope = 0.0
    table[SLOPE], table[SHIFT], table[OFFSET] = slope, shift, offset
    table[SLOPE_LOW], table[SHIFT_LOW], table[SIZE] = slope_low, shift_low, size
    if not good:
        table[SLOPE] = np.nan
    narrow_unit(total, table)


@device(inline=False)
def has_room(table, units, grads, n):
    """Whether float32 had room for all: no slope is nan, nor a gradient of n weights and n biases nan or infinite."""
    good = True
    for u in range(units):
        good &= table[UNIT * u + SLOPE] == table[UNIT * u + SLOPE]
    for c in range(2 * n):
        good &= abs(grads[c]) < np.inf
    return good


@device()
def usual(v):
    """Whether a gradient is neither huge nor, but for 0, tiny; nan is not."""
    return (v == 0.0) | (1.0 / LARGE_U < abs(v) < LARGE_U)


@device()
def unit_in_range(table, u):
    """Whether what the dx of unit u takes is what it would be without limits."""
    return (1.0 / LARGE_RSTD < table[UNIT * u + ROOT] < LARGE_RSTD) & usual(table[UNIT * u + SIZE])


@device()
def known_units(table, g, groups, units):
    """Whether rstd and offset of the units g, g + groups, ... are finite."""
    good = True
    for u in range(g, units, groups):
        good &= (abs(table[UNIT * u + ROOT]) < np.inf) & (abs(table[UNIT * u + OFFSET]) < np.inf)
    return good


@device(inline=False)
def gradients_in_range(table, units, grads, n, x, dy, groups, runs, length):
    """Whether what the groups' dx takes, (units, UNIT), and the gradients of n weights and n biases are what they would be
    without limits, or have a nan or an infinity in what they are made of, that no scale would mend."""
    good = True
    for u in range(units):
        good &= unit_in_range(table, u)
    for c in range(2 * n):
        good &= usual(grads[c])
    if good:
        return True
    for u in range(units):
        if (
            not unit_in_range(table, u)
            and finite_group(x, u, groups, runs, length)
            and finite_group(dy, u, groups, runs, length)
        ):
            return False
    channels, samples = n // groups, units // groups
    for g in range(groups):
        known = known_units(table, g, groups, units)
        for c in range(g * channels, (g + 1) * channels):
            t, weight_lost, bias_lost = length // channels, known and not usual(grads[c]), not usual(grads[n + c])
            where = c * t, groups * length, samples * runs, t
            if (weight_lost or bias_lost) and finite(dy, *where) and (bias_lost or finite(x, *where)):
                return False
    return True
