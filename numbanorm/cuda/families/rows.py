"""One run a group (M = 1), held in registers: statistics and result with one read and one write of memory.

The rows of layer and RMS norm, and the groups of group and instance norm with channels first.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda, float64, int32

from ..arith.accumulators import settled
from ..arith.arithmetic import Arithmetic
from ..arith.device import block, device, quotient, read1, store1, thread
from ..arith.elementwise import LEFT, parameters, table_rows, upstream
from ..arith.tiles import (
    ROOM,
    STEPS,
    begins,
    first,
    fold,
    four,
    four_distances,
    four_lesses,
    four_multiplied,
    four_only,
    four_products,
    four_terms,
    hold,
    items,
    join,
    once,
    present,
    recall,
    same,
    second,
)

BATCH = 2  # steps whose parameters are loaded at once: with all eight ptxas takes more registers than 512 threads have
BATCH_HELD = 4 * BATCH
TOGETHER = 4  # steps of x and dy that are loaded at once
TOGETHER_HELD = 4 * TOGETHER
ROOMS, ROOMS3 = 2 * ROOM, 3 * ROOM  # a place for each sum: so no barrier is needed between them


@device
def start(item, begin, length):
    """Place of element `begin` of an item."""
    return item * length + begin


@device
def remaining(item, begin, n, length):
    """Elements from `begin` to the end of the item; none, if there is no such item."""
    left = 0
    if item < n:
        left = length - begin
    return int32(left)


@device
def parameter_start(unit, groups, per_group):
    """Place where the parameters of a unit's group begin."""
    return (unit - quotient(unit, groups) * groups) * per_group


four_starts, four_remaining = four(start, 2), four(remaining, 2)
four_parameter_starts, four_rows = four(parameter_start, 1), once(table_rows, 1)


@cache
def note(rows: int) -> Any:
    """A function that writes the `rows` numbers of an item, in its first thread, to a table (rows, n)."""

    def one(p, item, n, begin, values):
        if begin == 0 and item < n:
            for k in range(rows):
                store1(p, k * n + item, values[k])

    one = device(one)

    def every(wide, p, item, n, begin, values):
        one(p, item[0], n, begin[0], values[0])
        if not wide:
            one(p, item[1], n, begin[1], values[1])
            one(p, item[2], n, begin[2], values[2])
            one(p, item[3], n, begin[3], values[3])

    return device(every)


note_statistics = note(4)


@device
def number_of(unit, p, units):
    """p[unit], or 0 if there is no such unit."""
    v = 0.0
    if unit < units:
        v = read1(p, unit)
    return v


four_numbers = four(number_of, 1)


# for each row: d = x - mean; u = dy * w; slope, shift, offset = settled(sum(u), sum(u * d), sum(d), n, rstd)
#     dx[unit] = d * slope + (u * rstd + shift)
def rows_backward(wide: bool, arithmetic: Arithmetic, center: bool, sharing: int, weighted: bool) -> Any:
    """x, dy: (units, length) -> dx, and table (3 or 6, units); mean, rstd: float64 (units,). dx may be x or dy."""
    nothing, rescales, enter, finish = (arithmetic.zero,) * 4, arithmetic.rescales, arithmetic.enter, arithmetic.finish_gradient
    weights, scaled, note_slants = parameters(wide, sharing, weighted, False), upstream(weighted), note(arithmetic.rows)

    @device
    def settled_one(u, ud, d, rstd, count):
        return settled(center, u, ud, d, count, rstd)

    slants_of = once(settled_one, 4)

    def kernel(x, dy, dx, w, mean, rstd, table, units, groups, length, t, per, count):
        room = cuda.shared.array(ROOMS3, float64)
        held, given = cuda.local.array(TOGETHER_HELD, float64), cuda.local.array(TOGETHER_HELD, float64)
        unit, begin = items(wide, per), begins(wide, per)
        at, left = four_starts(unit, begin, length), four_remaining(unit, begin, units, length)
        own = four_parameter_starts(unit, groups, quotient(length, t))
        m, r = same(0.0), four_numbers(unit, rstd, units)
        if center:
            m = four_numbers(unit, mean, units)
        a, q, s = nothing, nothing, nothing
        for h in range(0, STEPS, TOGETHER):
            for j in range(TOGETHER):
                hold(held, j, enter(wide, x, at, left, h + j))
                hold(given, j, enter(wide, dy, at, left, h + j))
            for j in range(TOGETHER):
                d = four_distances(a, recall(held, j), m, present(left, h + j))
                u = scaled(recall(given, j), weights(w, w, own, begin, left, h + j, t)[0], a)
                a, q, s = four_terms(a, u), four_products(q, u, d), four_terms(s, d)
        a = join(wide, fold(wide, a), per, room, 0)
        q = join(wide, fold(wide, q), per, room, ROOM)
        s = join(wide, fold(wide, s), per, room, 2 * ROOM)
        slants = slants_of(wide, a, q, s, r, count)
        note_slants(wide, table, unit, units, begin, four_rows(wide, slants))
        if rescales and block() == 0 and thread() == 0:
            store1(table, LEFT * units, 0.0)
        slope, shift, rstds = first(slants), second(slants), four_only(r)
        for h in range(0, STEPS, TOGETHER):  # from the cache: held, x and dy would take all registers
            for j in range(TOGETHER):
                hold(held, j, enter(wide, x, at, left, h + j))
                hold(given, j, enter(wide, dy, at, left, h + j))
            for j in range(TOGETHER):
                u = scaled(recall(given, j), weights(w, w, own, begin, left, h + j, t)[0], a)
                d = four_lesses(recall(held, j), m, a)
                finish(wide, dx, at, left, h + j, d, four_multiplied(u, rstds, a), (slope, shift))

    return kernel
