"""One run a group (M = 1), held in registers: statistics and result with one read and one write of memory.

The rows of layer and RMS norm, and the groups of group and instance norm with channels first.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float64, int32

from .device import device, quotient, read1, store1
from .elementwise import four_affine, four_shares, four_slanted, parameters
from .sums import settled
from .tiles import (
    HELD,
    ROOM,
    STEPS,
    begins,
    fetch,
    first,
    fold,
    four,
    four_distances,
    four_mul,
    four_products,
    four_ratios,
    four_spreads,
    four_terms,
    hold,
    items,
    join,
    present,
    put,
    recall,
    same,
    second,
)

ROOMS, ROOMS3 = 2 * ROOM, 3 * ROOM  # a place for each sum: so no barrier is needed between them


@device
def start(item, begin, length):
    return item * length + begin


@device
def remaining(item, begin, n, length):
    """Elements from `begin` to the end of the item; none, if there is no such item."""
    return int32(length - begin if item < n else 0)


@device
def parameter_start(unit, groups, per_group):
    """Where the parameters of a unit's group begin."""
    return (unit - quotient(unit, groups) * groups) * per_group


four_starts, four_remaining = four(start, 2), four(remaining, 2)
four_parameter_starts = four(parameter_start, 1)


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


note_statistics, note_slants = note(4), note(3)


@device
def number_of(unit, p, units):
    return read1(p, unit) if unit < units else 0.0


four_numbers = four(number_of, 1)


@device
def beside(means, spreads):
    return means[0], means[1], spreads[0], spreads[1]


four_beside = four(beside, 2)


def rows_forward(wide: bool, parts: int, center: bool, pointwise: bool, weighted: bool, biased: bool) -> Any:
    """x: (units, length) -> y and statistics."""
    nothing = ((0.0,) * parts,) * 4
    weights, biases = parameters(wide, pointwise, weighted, 1.0), parameters(wide, pointwise, biased, -0.0)

    def kernel(x, w, b, y, stats, units, groups, length, t, per, count, eps):
        room, held = cuda.shared.array(ROOMS, float64), cuda.local.array(HELD, float64)
        unit, begin = items(wide, per), begins(wide, per)
        at, left = four_starts(unit, begin, length), four_remaining(unit, begin, units, length)
        for j in range(STEPS):
            hold(held, j, fetch(wide, x, at, left, j))
        means = same((0.0, 0.0))
        if center:
            a = nothing
            for j in range(STEPS):
                a = four_terms(a, recall(held, j))
            means = four_ratios(join(wide, fold(wide, a), per, room, 0), count)
        mean, low = first(means), second(means)
        a = nothing
        for j in range(STEPS):
            d = four_distances(recall(held, j), mean, present(left, j))
            a = four_products(a, d, d)
        spreads = four_spreads(join(wide, fold(wide, a), per, room, ROOM), low, count, eps)
        rstd = second(spreads)
        note_statistics(wide, stats, unit, units, begin, four_beside(means, spreads))
        own = four_parameter_starts(unit, groups, quotient(length, t))
        c = four_shares(low, rstd)
        for j in range(STEPS):
            v = recall(held, j)
            v = four_affine(v, mean, rstd, c, weights(w, own, begin, left, j, t), biases(b, own, begin, left, j, t))
            put(wide, y, at, left, j, v)

    return kernel


def rows_backward(wide: bool, parts: int, center: bool, pointwise: bool, weighted: bool) -> Any:
    """x, dy: (units, length) -> dx, and table (3, units); mean, rstd: float64 (units,). dx may be x or dy."""
    nothing = ((0.0,) * parts,) * 4
    weights = parameters(wide, pointwise, weighted, 1.0)

    @device
    def settled_one(u, ud, d, rstd, count):
        return settled(center, u, ud, d, count, rstd)

    four_settled = four(settled_one, 4)

    def kernel(x, dy, dx, w, mean, rstd, table, units, groups, length, t, per, count):
        room = cuda.shared.array(ROOMS3, float64)
        unit, begin = items(wide, per), begins(wide, per)
        at, left = four_starts(unit, begin, length), four_remaining(unit, begin, units, length)
        own = four_parameter_starts(unit, groups, quotient(length, t))
        m, r = same(0.0), four_numbers(unit, rstd, units)
        if center:
            m = four_numbers(unit, mean, units)
        a, q, s = nothing, nothing, nothing
        for j in range(STEPS):
            d = four_distances(fetch(wide, x, at, left, j), m, present(left, j))
            u = four_mul(fetch(wide, dy, at, left, j), weights(w, own, begin, left, j, t))
            a, q, s = four_terms(a, u), four_products(q, u, d), four_terms(s, d)
        a = join(wide, fold(wide, a), per, room, 0)
        q = join(wide, fold(wide, q), per, room, ROOM)
        s = join(wide, fold(wide, s), per, room, 2 * ROOM)
        slants = four_settled(a, q, s, r, count)
        note_slants(wide, table, unit, units, begin, slants)
        slope, shift = first(slants), second(slants)
        for j in range(STEPS):  # from the cache: held, x and dy would take all registers
            v, g = fetch(wide, x, at, left, j), fetch(wide, dy, at, left, j)
            u = four_mul(four_mul(g, weights(w, own, begin, left, j, t)), r)
            put(wide, dx, at, left, j, four_slanted(v, u, m, slope, shift))

    return kernel
