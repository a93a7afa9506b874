"""One run a group (M = 1), held in registers: statistics and result with one read and one write of memory.

The rows of layer and RMS norm, and the groups of group and instance norm with channels first.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float64, int32

from ..arith.accumulators import settled
from ..arith.arithmetic import Arithmetic
from ..arith.device import barrier, block, device, exchange, fma, mul, quotient, read1, store1, thread, threads
from ..arith.elementwise import LEFT, four_shares, parameters, slanted, table_rows, upstream
from ..arith.stages import enter_one, finish_one
from ..arith.tiles import (
    HELD,
    ROOM,
    STEPS,
    WARPS,
    begins,
    first,
    fold,
    four,
    four_distances,
    four_lesses,
    four_multiplied,
    four_only,
    four_products,
    four_sums,
    four_terms,
    hold,
    items,
    join,
    once,
    present,
    ratios,
    recall,
    same,
    second,
    spreads,
)

ROW_ROOM = 2 * 3 * WARPS  # three sums of each warp, of this row and of the next
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


@device
def beside(means, spreads):
    """(mean, low, m2, rstd) of a unit."""
    return means[0], means[1], spreads[0], spreads[1]


four_beside = four(beside, 2)


# for each row x[unit]: mean = sum(x) / n; d = x - mean; rstd = 1 / sqrt(sum(d * d) / n + eps)
#     y[unit] = d * (rstd * w) + (-(low * rstd) * w + b), with low what the mean has lost
def rows_forward(wide: bool, arithmetic: Arithmetic, center: bool, sharing: int, weighted: bool, biased: bool) -> Any:
    """x: (units, length) -> y and statistics."""
    nothing, enter, finish = (arithmetic.zero,) * 4, arithmetic.enter, arithmetic.finish
    both = parameters(wide, sharing, weighted, biased, early=False)

    def kernel(x, w, b, y, stats, units, groups, length, t, per, count, eps):
        room, held = cuda.shared.array(ROOMS, float64), cuda.local.array(HELD, float64)
        scales, shifts = cuda.local.array(BATCH_HELD, float64), cuda.local.array(BATCH_HELD, float64)
        unit, begin = items(wide, per), begins(wide, per)
        at, left = four_starts(unit, begin, length), four_remaining(unit, begin, units, length)
        for j in range(STEPS):
            hold(held, j, enter(wide, x, at, left, j))
        means = same((0.0, 0.0))
        if center:
            a = nothing
            for j in range(STEPS):
                a = four_sums(a, recall(held, j))
            means = ratios(wide, join(wide, fold(wide, a), per, room, 0), count)
        mean, low = first(means), second(means)
        a = nothing
        for j in range(STEPS):
            d = four_distances(a, recall(held, j), mean, present(left, j))
            hold(held, j, first(d))
            a = four_products(a, d, d)
        found = spreads(wide, join(wide, fold(wide, a), per, room, ROOM), low, count, eps)
        rstd = second(found)
        note_statistics(wide, stats, unit, units, begin, four_beside(means, found))
        own = four_parameter_starts(unit, groups, quotient(length, t))
        c = four_shares(low, rstd)
        for h in range(0, STEPS, BATCH):
            for j in range(BATCH):
                scale, shift = both(w, b, own, begin, left, h + j, t)
                hold(scales, j, scale)
                hold(shifts, j, shift)
            for j in range(BATCH):
                finish(wide, y, at, left, h + j, recall(held, h + j), (rstd, c), (recall(scales, j), recall(shifts, j)))

    return kernel


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


# for each block of rows: for each row what `rows_backward` does, and
#     dweight += dy * (d * rstd + offset); dbias += dy
def rows_gradients(center: bool, weighted: bool) -> Any:
    """x, dy: (rows, groups, length) -> dx, and dweight and dbias of each block of rows: out (2, blocks, groups * length).

    A warp takes a tile, a thread its lane in the 8 steps, and `warps` warps take a row; they go down the `tree_rows` rows of
    a block and keep the sums of their columns in registers. Elements of 32 bits or fewer. dx may be x or dy.
    """

    def kernel(x, dy, dx, w, mean, rstd, out, rows, groups, length, warps, tree_rows, count):
        room = cuda.shared.array(ROW_ROOM, float64)
        held, upstream = cuda.local.array(STEPS, float64), cuda.local.array(STEPS, float64)
        dweight, dbias = cuda.local.array(STEPS, float64), cuda.local.array(STEPS, float64)
        lane, warp = thread() & 31, thread() >> 5
        own = quotient(warp, warps)
        item = block() * quotient(threads() >> 5, warps) + own
        k = quotient(item, groups)
        g = item - k * groups
        column = ((warp - own * warps) << 8) + lane
        left = int32(length - column)
        for j in range(STEPS):
            dweight[j], dbias[j] = 0.0, 0.0
        for row in range(k * tree_rows, (k + 1) * tree_rows):
            there = left if row < rows else 0
            unit = row * groups + g
            at = unit * length + column
            m, r = 0.0, 0.0
            if row < rows:
                r = read1(rstd, unit)
                if center:
                    m = read1(mean, unit)
            for j in range(STEPS):
                held[j] = enter_one(x, at + 32 * j) if there > 32 * j else m
                upstream[j] = enter_one(dy, at + 32 * j) if there > 32 * j else 0.0
            a, q, s = 0.0, 0.0, 0.0
            for j in range(STEPS):
                d, u = held[j] - m, upstream[j]
                if weighted:
                    u = mul(u, read1(w, g * length + column + 32 * j) if there > 32 * j else 0.0)
                a, q, s = a + u, fma(u, d, q), s + d
            for h in (16, 8, 4, 2, 1):
                a, q, s = a + exchange(a, h), q + exchange(q, h), s + exchange(s, h)
            if warps > 1:
                phase = (row & 1) * 3 * WARPS
                if lane == 0:
                    room[phase + warp], room[phase + WARPS + warp], room[phase + 2 * WARPS + warp] = a, q, s
                barrier()
                i = lane & (WARPS - 1)
                place = phase + own * warps + i
                a = room[place] if i < warps else 0.0
                q = room[place + WARPS] if i < warps else 0.0
                s = room[place + 2 * WARPS] if i < warps else 0.0
                for h in (1, 2, 4, 8):
                    a, q, s = a + exchange(a, h), q + exchange(q, h), s + exchange(s, h)
            slope, shift, offset, _ = settled(center, (a,), (q,), (s,), count, r)
            for j in range(STEPS):
                if there > 32 * j:
                    d, u = held[j] - m, upstream[j]
                    dweight[j], dbias[j] = fma(u, fma(d, r, offset), dweight[j]), dbias[j] + u
                    if weighted:
                        u = mul(u, read1(w, g * length + column + 32 * j))
                    finish_one(dx, at + 32 * j, slanted((d,), slope, (mul(u, r),), shift))
        if k * tree_rows < rows:
            blocks, width = quotient(rows + tree_rows - 1, tree_rows), groups * length
            for j in range(STEPS):
                if left > 32 * j:
                    at = k * width + g * length + column + 32 * j
                    store1(out, at, dweight[j])
                    store1(out, blocks * width + at, dbias[j])

    return kernel
