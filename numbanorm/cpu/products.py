"""What gradients sum, in the fixed order of `sums`: u, u * d and d, with d = x - mean and u = dy or dy * weight.

The three sums are one accumulator of four lanes, of which the last is 0. The sum of d would be 0 but for the mean's
rounding, which it measures: so a gradient is as exact as if the mean were not rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64
from numba.core import cgutils

from .jobs import ANCHOR, CENTER, DELTA, OFFSET, ROOT, SHIFT, SLOPE, UNIT
from .kernel import device, intrinsic, types
from .simd import (
    F64,
    I32,
    I64,
    Vec,
    broadcast,
    constant,
    first_lanes,
    fused,
    integer,
    load,
    prefetch,
    sixteens,
    smaller,
)
from .sums import (
    TILE,
    add_term,
    drain,
    fold,
    join,
    number,
    parts_for,
    places_for,
    product_term,
    push,
    read,
    so_far,
    split,
    update,
    write,
)

SUMS = 3  # u, u * d, d
LARGE_CUBE = (
    2.0**340
)  # of float64: between its inverse and this, neither the cube of rstd nor the low part of a product with it gets lost
N = types.intp


@intrinsic(prefer_literal=True)
def empty(tc: Any, x: Any, n: Any) -> Any:
    """Empty accumulator of n lanes for elements of `x`: 4 for the three sums of a run, 16 for columns of one sum, 1 for one."""
    t = Vec(n.literal_value, parts_for(x))
    return t(x, n), lambda ctx, b, sig, a: constant(F64, 0.0, t.lanes * t.parts)


def add_products(b: ir.IRBuilder, sums: list[list[Any]], v: Any, u: Any, mean: Any, n: Any = None) -> None:
    """16 elements into the three accumulators; only the first `n` are there, if it is given, and u is 0 elsewhere."""
    d = b.fsub(v, mean)
    if n is not None:
        d = b.select(first_lanes(b, n), d, constant(F64, 0.0))
    update(b, sums[0], lambda acc: add_term(b, acc, u))
    update(b, sums[1], lambda acc: product_term(b, acc, u, d))
    update(b, sums[2], lambda acc: add_term(b, acc, d))


@intrinsic
def tile_products(tc: Any, x: Any, dy: Any, i: Any, n: Any, ahead: Any, mean: Any, w: Any, at: Any) -> Any:
    """The sums of the tile x[i : i + n], n <= 256. w: the weights, from `at` on, or anything but a pointer for none.

    Without weights, what lies `ahead` elements further on is asked for: a channel's next run may be far away.
    """
    weighted, t = isinstance(w, types.CPointer), Vec(4, parts_for(x))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        xp, dyp, i, n, ahead, mean, wp, at = a
        mean = broadcast(b, mean)
        nothing = [constant(F64, 0.0)] * t.parts
        halves = [[places_for(b, nothing) for _ in range(SUMS)] for _ in range(2)]

        def enter(e: Any, rest: Any = None) -> None:
            for half, sums in enumerate(halves):
                start, left = b.add(e, integer(16 * half)), None if rest is None else b.sub(rest, integer(16 * half))
                where = b.add(i, start)
                if rest is None and not weighted:
                    for p in (xp, dyp):
                        prefetch(b, p, b.add(where, ahead))
                u = load(b, x.dtype, dyp, where, left)
                if weighted:
                    u = b.fmul(u, load(b, types.float64, wp, b.add(at, start), left))
                add_products(b, sums, load(b, x.dtype, xp, where, left), u, mean, left)

        rest = b.and_(n, integer(31))
        last = b.sub(n, rest)
        with cgutils.for_range_slice(b, integer(0), last, integer(32), intp=I64) as (e, _):
            enter(e)
        with b.if_then(b.icmp_signed(">", rest, integer(0))):
            enter(last, rest)
        loaded = [[[b.load(place) for place in places] for places in sums] for sums in halves]
        totals = [fold(b, low, high) for low, high in zip(*loaded, strict=True)]
        return beside(b, t, totals)

    return t(x, dy, N, N, N, types.float64, w, N), codegen


def beside(b: ir.IRBuilder, t: Vec, totals: list[list[Any]]) -> Any:
    """Accumulators of one lane -> the lanes of one."""

    def lane(part: Any) -> Any:
        return b.extract_element(part, ir.Constant(I32, 0))

    return join(b, [lanes(b, [lane(parts[k]) for parts in totals]) for k in range(t.parts)])


def lanes(b: ir.IRBuilder, values: list[Any]) -> Any:
    """Up to four numbers -> <4 x double>, the others 0."""
    v = constant(F64, 0.0, 4)
    for k, value in enumerate(values):
        v = b.insert_element(v, value, ir.Constant(I32, k))
    return v


@intrinsic
def as_one(tc: Any, u: Any, product: Any, d: Any) -> Any:
    """Three accumulators of one lane as one."""
    t = Vec(4, u.parts)
    return t(u, product, d), lambda ctx, b, sig, a: beside(b, t, [split(b, v, u) for v in a])


@intrinsic
def triple(tc: Any, u: Any, product: Any, d: Any, like: Any) -> Any:
    """Three float64 as an accumulator."""
    f8 = types.float64

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return join(b, [lanes(b, list(a[:3])), *[constant(F64, 0.0, 4)] * (like.parts - 1)])

    return like(f8, f8, f8, like), codegen


def three(s: Any, *n: Any) -> Any:
    """Signature and code for the three sums of an accumulator, divided by n if there is one."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        parts = split(b, a[0], s)
        v = parts[0] if s.parts == 1 else b.fadd(parts[0], number(b, parts[1]))
        if n:
            v = b.fdiv(v, broadcast(b, a[1], 4))
        return ctx.make_tuple(b, sig.return_type, [b.extract_element(v, ir.Constant(I32, k)) for k in range(SUMS)])

    return types.UniTuple(types.float64, SUMS)(s, *n), codegen


@intrinsic
def numbers(tc: Any, s: Any) -> Any:
    """The three sums."""
    return three(s)


@intrinsic
def averages(tc: Any, s: Any, n: Any) -> Any:
    """The three sums, each divided by n: truly, so that the mean of equal numbers is that number."""
    return three(s, types.float64)


@intrinsic
def weighted(tc: Any, s: Any, w: Any) -> Any:
    """The sums of u and u * d times w; that of d as it is."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        factor, parts = lanes(b, [a[1], a[1], ir.Constant(F64, 1.0)]), split(b, a[0], s)
        high = b.fmul(parts[0], factor)
        if s.parts == 1:
            return high
        return join(b, [high, fused(b, parts[1], factor, fused(b, parts[0], factor, b.fneg(high)))])

    return s(s, types.float64), codegen


@device(inline=False)
def span_products(x, dy, i, n, ahead, mean, w, at, stack):
    """The sums of x[i : i + n], an aligned part of a run: its run tree."""
    tiles = (n + TILE - 1) // TILE
    for k in range(tiles):
        e = TILE * k
        s = tile_products(x, dy, i + e, min(TILE, n - e), ahead, mean, w, at + e)
        if tiles == 1:
            return s
        push(stack, int64(0), int64(4), k, s)
    return drain(stack, int64(0), int64(4), tiles, empty(x, 4))


@intrinsic
def add_row_products(
    tc: Any, x: Any, dy: Any, i: Any, rows: Any, together: Any, stride: Any, width: Any, means: Any, out: Any, room: Any
) -> Any:
    """out[k * room + c] = sum k of column c over `rows` rows, in order, `together` at a time; see `sums.add_rows`."""
    t = Vec(parts=parts_for(x))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        xp, dyp, i, rows, together, stride, width, means, out, room = a

        def step(first: Any, count: Any, c: Any, n: Any) -> None:
            columns = [b.add(c, b.mul(room, integer(k))) for k in range(SUMS)]
            stored = [split(b, read(b, out, column, t), t) for column in columns]
            sums = [places_for(b, [so_far(b, first, part) for part in parts]) for parts in stored]
            mean = load(b, types.float64, means, c)
            start = b.add(b.add(i, c), b.mul(first, stride))
            with cgutils.for_range(b, count, intp=I64) as row:
                at = b.add(start, b.mul(row.index, stride))
                for p in (xp, dyp):
                    prefetch(b, p, b.add(at, b.mul(together, stride)))
                add_products(b, sums, load(b, x.dtype, xp, at, n), load(b, x.dtype, dyp, at, n), mean, n)
            for column, places in zip(columns, sums, strict=True):
                write(b, out, column, join(b, [b.load(place) for place in places]), t)

        with cgutils.for_range_slice(b, integer(0), rows, together, intp=I64) as (first, _):
            count = smaller(b, together, b.sub(rows, first))
            sixteens(b, integer(0), width, lambda c, n: step(first, count, c, n))
        return ctx.get_dummy_value()

    return types.void(x, dy, *[N] * 5, means, out, N), codegen


@intrinsic
def times_cube(tc: Any, c: Any, r: Any) -> Any:
    """c * r**3, rounded once: a float64 gradient has no bits to lose in three products."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        high, r = a
        low = ir.Constant(F64, 0.0)
        for _ in range(3):
            product = b.fmul(high, r)
            low = fused(b, low, r, fused(b, high, r, b.fneg(product)))
            high = product
        total = b.fadd(high, low)
        return b.select(b.fcmp_ordered("ord", total, total), total, high)  # what is infinite has no low part

    f8 = types.float64
    return f8(f8, f8), codegen


@device()
def settle(kind, total, table, at, count):
    """Sums of a group (u with its weights) -> what its dx takes: dx = (x - mean) * slope + (u * rstd + shift).

    table[at : at + UNIT] holds mean and rstd. Without CENTER (RMS norm) no mean was subtracted, so neither the sum of u
    nor the mean's rounding matters.
    """
    c1, c2, delta = averages(total, count)
    if kind & CENTER == 0:
        c1 = delta = 0.0
    rstd = table[at + ROOT]
    slope = -times_cube(c2 - delta * c1, rstd)
    table[at + SLOPE] = slope
    table[at + SHIFT] = -(c1 * rstd) - delta * slope
    table[at + DELTA] = delta
    table[at + OFFSET] = -(delta * rstd)  # (x - mean) * rstd + offset is the normalized x


@device(inline=False)
def gradients_in_range(table, units, grads, n):
    """Whether what the groups' dx takes, (units, UNIT), and n gradients of parameters are what they would be without limits."""
    good = True
    for u in range(0, units * UNIT, UNIT):
        good &= 1.0 / LARGE_CUBE < table[u + ROOT] < LARGE_CUBE
        for k in range(ANCHOR, OFFSET + 1):
            good &= abs(table[u + k]) < np.inf
    for k in range(n):
        good &= abs(grads[k]) < np.inf
    return good
