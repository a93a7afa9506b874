"""Kernel family *runs*: long runs, a part of a run at a time. Sums of the parts, and what is written element by element.

A thread reads all its elements of a few steps before it writes, so that many loads are on their way at once; y may be x, and
dx may be x or dy.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float64, int32

from ...spec.tree import TILE
from ..arith.accumulators import multiply
from ..arith.arithmetic import Arithmetic
from ..arith.device import device, quotient, read1
from ..arith.elementwise import (
    SHIFT,
    SHIFT_LOW,
    SLOPE,
    SLOPE_LOW,
    four_slants,
    parameters,
    upstream,
)
from ..arith.moments import together
from ..arith.tiles import (
    HELD,
    ROOM,
    STEPS,
    begins,
    fold,
    four,
    four_distances,
    four_lesses,
    four_products,
    four_sums,
    four_terms,
    four_widen,
    hold,
    items,
    join,
    present,
    recall,
    same,
)
from ..partial_sums import PRODUCTS, SQUARES, SUM, own_means, put_sum, unit_of

ROOMS = 3 * ROOM  # a place for each sum: so no barrier is needed between them
HALF = STEPS // 2
HALF_HELD = 4 * HALF


@device
def note_one(acc, item, begin, p, n, plane):
    """Write an item's sum, which every thread of it has, in its first thread."""
    if begin == 0 and item < n:
        put_sum(p, plane * n + item, acc)


@device
def note_sums(wide, sums, item, begin, p, n, plane):
    """Write the sums of a thread's items, one where the four are of one item."""
    note_one(sums[0], item[0], begin[0], p, n, plane)
    if not wide:
        note_one(sums[1], item[1], begin[1], p, n, plane)
        note_one(sums[2], item[2], begin[2], p, n, plane)
        note_one(sums[3], item[3], begin[3], p, n, plane)


@device
def place(item, begin, spans, span, length):
    """Place of an item's element in x: runs of `length` lie one after the other, each in `spans` items."""
    run = quotient(item, spans)
    return run * length + (item - run * spans) * span + begin


@device
def inside(item, begin, n, spans, span, length):
    """Elements from `begin` to the item's end; none if there is no such item."""
    rest = min(span, length - (item - quotient(item, spans) * spans) * span) - begin
    if item >= n:
        rest = 0
    return int32(rest)


@device
def parameter_base(item, spans, groups, per_run):
    """Place where the parameters of an item's run begin, `groups` runs having `per_run` each of their own."""
    run = quotient(item, spans)
    return (run - quotient(run, groups) * groups) * per_run


@device
def in_run(item, begin, spans, span):
    """Place of an item's element in its run."""
    return (item - quotient(item, spans) * spans) * span + begin


@device
def item_unit(item, n, spans, per_sample, groups, channels):
    """Unit of an item, or 0 if there is no such item."""
    unit = 0
    if item < n:
        unit = unit_of(quotient(item, spans), per_sample, groups, channels)
    return unit


@device
def entry(unit, table, row, units):
    """A unit's number in a row of a table (rows, units)."""
    return read1(table, row * units + unit)


item_places, four_inside = four(place, 2), four(inside, 2)
four_item_units, four_entries = four(item_unit, 1), four(entry, 1)
four_bases, four_in_runs = four(parameter_base, 1), four(in_run, 2)


# v = x[item]; d = v - mean[unit]; u = dy[item] * w; each sum by the tree of a tile, then tiles in adjacent pairs
#     out[:, item] = sum(v), or sum(d * d), or (sum(u), sum(u * d), sum(d))
def tiles(kind: int, wide: bool, arithmetic: Arithmetic, center: bool, sharing: int, weighted: bool) -> Any:
    """x (and dy): runs of `length` elements, one after the other -> partials (planes, n, parts) of n items.

    mean: float64 (units,), 0 without `center`; w: the weights of `groups` runs, each for t elements, if `weighted`.
    """
    nothing = (arithmetic.zero,) * 4
    take, element = (arithmetic.take, arithmetic.element) if wide else (arithmetic.enter, float64)
    weights, scaled = parameters(wide, sharing, weighted, False), upstream(weighted)
    centered = center and kind in (SQUARES, PRODUCTS)
    at_once = STEPS if kind != PRODUCTS else HALF // arithmetic.parts  # steps loaded at once; more made float64 spill
    wait, waits = together(at_once, kind == PRODUCTS), wide and (kind != PRODUCTS or arithmetic.parts == 1)

    def kernel(x, dy, w, mean, out, n, spans, span, length, per_sample, groups, channels, t, per):
        room = cuda.shared.array(ROOMS, float64)
        held, given = cuda.local.array(HELD, element), cuda.local.array(HALF_HELD, element)
        item, begin = items(wide, per), begins(wide, per)
        at, left = item_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        base, where = four_bases(item, spans, groups, quotient(length, t)), four_in_runs(item, begin, spans, span)
        a, q, s = nothing, nothing, nothing
        means = same(0.0)
        if centered:
            means = four_entries(four_item_units(item, n, spans, per_sample, groups, channels), mean, 0, 0)
        for h in range(0, STEPS, at_once):
            for j in range(at_once):
                hold(held, j, take(wide, x, at, left, h + j))
                if kind == PRODUCTS:
                    hold(given, j, take(wide, dy, at, left, h + j))
            if waits:
                wait(held, given, per)
            for j in range(at_once):
                v = four_widen(recall(held, j))
                if kind == SUM:
                    a = four_sums(a, v)
                else:
                    d = four_distances(a, v, means, present(left, h + j))
                    if kind == SQUARES:
                        a = four_products(a, d, d)
                    else:
                        u = scaled(four_widen(recall(given, j)), weights(w, w, base, where, left, h + j, t)[0], a)
                        a, q, s = four_terms(a, u), four_products(q, u, d), four_terms(s, d)
        note_sums(wide, join(wide, fold(wide, a), per, room, 0), item, begin, out, n, 0)
        if kind == PRODUCTS:
            note_sums(wide, join(wide, fold(wide, q), per, room, ROOM), item, begin, out, n, 1)
            note_sums(wide, join(wide, fold(wide, s), per, room, 2 * ROOM), item, begin, out, n, 2)

    return kernel


def tile_moments(wide: bool, arithmetic: Arithmetic) -> Any:
    """x: runs of `length` elements -> of each tile its sum, and the squares about its own mean: out (2, n, parts)."""
    nothing, enter = (arithmetic.zero,) * 4, arithmetic.enter

    def kernel(x, out, n, spans, length):
        held = cuda.local.array(HELD, float64)
        item, begin = items(wide, 1), begins(wide, 1)
        at, left = item_places(item, begin, spans, TILE, length), four_inside(item, begin, n, spans, TILE, length)
        a, q = nothing, nothing
        for j in range(STEPS):
            v = enter(wide, x, at, left, j)
            hold(held, j, v)
            a = four_sums(a, v)
        a = fold(wide, a)
        means = own_means(wide, a, left, begin)
        for j in range(STEPS):
            d = four_distances(q, recall(held, j), means, present(left, j))
            q = four_products(q, d, d)
        note_sums(wide, a, item, begin, out, n, 0)
        note_sums(wide, fold(wide, q), item, begin, out, n, 1)

    return kernel


# dx[item] = (x[item] - mean[unit]) * slope[unit] + (dy[item] * w * rstd[unit] + shift[unit])
def apply_gradient_runs(wide: bool, arithmetic: Arithmetic, center: bool, sharing: int, weighted: bool, by_rows: bool) -> Any:
    """x, dy: runs of `length` elements, in n items -> dx. mean, rstd: float64 (units,); table: (3 or 6, units)."""
    weights, zero = parameters(wide, sharing, weighted, False), arithmetic.zero
    enter, finish = arithmetic.enter, arithmetic.finish_gradient

    @device
    def scaled(dy, w, r):
        """Rounded as on the CPU: a weight of each element goes with dy, one of a run with rstd."""
        if by_rows:
            return multiply(multiply((dy,), (w,), zero), (r,), zero)
        return multiply((dy,), multiply((r,), (w,), zero), zero)

    four_scaled = four(scaled, 3)

    def kernel(x, dy, dx, w, mean, rstd, table, units, n, spans, span, length, per_sample, groups, channels, t, per):
        held, given = cuda.local.array(HALF_HELD, float64), cuda.local.array(HALF_HELD, float64)
        item, begin = items(wide, per), begins(wide, per)
        at, left = item_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        unit = four_item_units(item, n, spans, per_sample, groups, channels)
        base, where = four_bases(item, spans, groups, quotient(length, t)), four_in_runs(item, begin, spans, span)
        r, m, like, there = four_entries(unit, rstd, 0, units), same(0.0), same(zero), same(1)
        slope = four_slants(unit, there, table, SLOPE, SLOPE_LOW, units, zero)
        shift = four_slants(unit, there, table, SHIFT, SHIFT_LOW, units, zero)
        if center:
            m = four_entries(unit, mean, 0, units)
        for h in (0, HALF):
            for j in range(HALF):
                hold(held, j, enter(wide, x, at, left, h + j))
                hold(given, j, enter(wide, dy, at, left, h + j))
            for j in range(HALF):
                u = four_scaled(recall(given, j), weights(w, w, base, where, left, h + j, t)[0], r)
                finish(wide, dx, at, left, h + j, four_lesses(recall(held, j), m, like), u, (slope, shift))

    return kernel
