"""Joining partial sums into what a group, a channel or a weight needs, in the order of the trees.

A block joins one unit: `outer` sums (runs, or positions of a run), each in adjacent pairs from `inner` parts; and then the
outer ones by the row tree or the run tree. `join` takes partial sums, and its kind says what becomes of the total:

    CENTER      the mean
    SPREAD      sum of squares about the mean, and rstd; SQUARE where the mean is 0
    MOMENTS     the mean, the squares about it, and rstd, or 0 in its place if those need another read
    CHANNEL     the three sums of a channel, kept; NEAR_CHANNEL the two of gradients in float32
    GRADIENTS   dweight and dbias

`settle` joins a group's channels, each with its weight, into what dx takes; `reduce` a channel's samples into dweight, dbias.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64

from .arith.accumulators import empty, moments_of, multiply, plus, ratio, settled, spread, value
from .arith.arithmetic import EXACT, Arithmetic
from .arith.device import barrier, block, device, mul, quotient, read1, store1, thread, threads, vote
from .arith.elementwise import LEFT, LOW, M2, MEAN, OFFSET, RSTD, SHIFT, SLOPE, table_rows
from .arith.gradients32 import normal, settled_single
from .arith.tiles import deposit, drain, push, withdraw
from .partial_sums import BLOCK, get_sum, put_sum

CENTER, SPREAD, SQUARE, CHANNEL, GRADIENTS, MOMENTS, NEAR_CHANNEL = 0, 1, 2, 3, 4, 5, 6
# accumulators that each takes
PLANES = {CENTER: 1, SPREAD: 1, SQUARE: 1, CHANNEL: 3, GRADIENTS: 2, MOMENTS: 2, NEAR_CHANNEL: 2}
MOST = 1024  # threads of a block
ROOM = 2 * MOST
LEVELS = 48
STACK = 2 * LEVELS
POSITIONS = 2 * 256
FACTOR = 64  # parts that `pairs` makes one


@device
def pairs_in_room(room, v, i, n, width):
    """The pairs' sum over `width` neighbouring threads, in the first; this is thread i of them, and n have something."""
    t, step = thread(), 1
    while step < width:
        deposit(room, t, MOST, v)
        barrier()
        if i & (2 * step - 1) == 0 and i + step < n:
            v = plus(v, withdraw(room, t + step, MOST, v))
        barrier()
        step *= 2
    return v


@device
def rows_of_chunk(room, v, start, outer, together, width, rows):
    """`together` sums, one every `width` threads -> their part of the row tree (`rows` in order, then pairs), in thread 0."""
    t = thread()
    deposit(room, t, MOST, v)
    barrier()
    n, a = min(together, outer - start), empty(v)
    if t * rows < n:
        for r in range(t * rows, min((t + 1) * rows, n)):
            a = plus(a, withdraw(room, r * width, MOST, v))
    barrier()
    return pairs_in_room(room, a, t, quotient(n + rows - 1, rows), max(1, quotient(together, rows)))


@device
def run_tree(room, positions, n, like):
    """The run tree over n <= 256 positions, in thread 0."""
    if n == 1:
        return withdraw(positions, 0, 256, like)
    t, a = thread(), empty(like)
    if t < 32:
        for q in range(t, n, 32):
            a = plus(a, withdraw(positions, q, 256, like))
    n, half = min(n, 32), 16
    while half:
        deposit(room, t, MOST, a)
        barrier()
        if t < half and t + half < n:
            a = plus(a, withdraw(room, t + half, MOST, a))
        barrier()
        n = min(n, half)
        half >>= 1
    return a


class Shape(NamedTuple):
    """Sums of a unit: `outer` of `inner` parts, whose pairs `width` threads join, and the first level of the row tree."""

    outer: int
    inner: int
    width: int
    rows: int


# for o in range(outer): sums[o] = leaf(o, 0), leaf(o, 1), ... in adjacent pairs
# by rows: blocks of `rows` of these in order, the blocks in adjacent pairs; otherwise 32 lanes, then halves
@cache
def tree(arithmetic: Arithmetic, by_rows: bool, leaf: Any) -> Any:
    """The function that joins leaf(sums, plane, u, o, i, others) over all o < outer and i < inner; thread 0 has the total.

    rooms: shared memory for pairs, for a stack, and for positions if not `by_rows`.
    """
    zero = arithmetic.zero

    def total(rooms, sums, plane, u, shape, others):
        room, stack, positions = rooms
        outer, inner, width, rows = shape
        together = quotient(threads(), width)
        o = quotient(thread(), width)
        i = thread() - o * width
        start, chunks = 0, 0
        while start < outer:
            v = zero
            n = inner if start + o < outer else 0
            if i < n:
                v = leaf(sums, plane, u, start + o, i, others)
            v = pairs_in_room(room, v, i, n, width)
            if by_rows:
                v = rows_of_chunk(room, v, start, outer, together, width, rows)
                if thread() == 0:
                    push(stack, 0, 1, LEVELS, chunks, v)
                chunks += 1
            elif i < 1 and n > 0:
                deposit(positions, start + o, 256, v)
            barrier()
            start += together
        v = zero
        if not by_rows:
            v = run_tree(room, positions, outer, zero)
        elif thread() == 0:
            v = drain(stack, 0, 1, LEVELS, chunks, zero)
        barrier()
        return v

    return device(total)


class Strides(NamedTuple):
    """Places of partial sums (planes, ...): units are `groups` of a sample, outer sums rows of `columns`, inner ones parts."""

    groups: int
    plane: int
    sample: int
    group: int
    columns: int
    row: int
    part: int


@cache
def partial_sums(arithmetic: Arithmetic) -> Any:
    """Leaves: partial sums at `strides`."""
    zero = arithmetic.zero

    def leaf(sums, plane, u, o, i, strides):
        sample, row = quotient(u, strides.groups), quotient(o, strides.columns)
        of_unit = sample * strides.sample + (u - sample * strides.groups) * strides.group
        at = of_unit + row * strides.row + (o - row * strides.columns) + i * strides.part
        return get_sum(sums, plane * strides.plane + at, zero)

    return device(leaf)


def join(kind: int, arithmetic: Arithmetic, by_rows: bool) -> Any:
    """Partial sums -> statistics (4, units), the sums of channels (3, units, parts), or dweight and dbias (2, units)."""
    total, zero = tree(arithmetic, by_rows, partial_sums(arithmetic)), arithmetic.zero
    planes = PLANES[kind]

    def kernel(sums, out, low, units, count, eps, outer, inner, width, rows, groups, plane, sample, group, columns, row, part):
        room, stack = cuda.shared.array(ROOM, float64), cuda.shared.array(STACK, float64)
        rooms, shape = (room, stack, cuda.shared.array(POSITIONS, float64)), Shape(outer, inner, width, rows)
        u, strides = block(), Strides(groups, plane, sample, group, columns, row, part)
        one = total(rooms, sums, 0, u, shape, strides)
        two, three = zero, zero
        if planes > 1:
            two = total(rooms, sums, 1, u, shape, strides)
        if planes > 2:
            three = total(rooms, sums, 2, u, shape, strides)
        if thread() == 0:
            if kind == CENTER:
                mean, rest = ratio(one, count)
                store1(out, MEAN * units + u, mean)
                store1(out, LOW * units + u, rest)
            elif kind == MOMENTS:
                statistics = moments_of(one, two, count, eps)
                for k in range(4):
                    store1(out, k * units + u, statistics[k])
            elif kind in (SPREAD, SQUARE):
                rest = 0.0
                if kind == SPREAD:
                    rest = read1(low, LOW * units + u)
                else:
                    store1(out, MEAN * units + u, 0.0)
                    store1(out, LOW * units + u, 0.0)
                m2, rstd = spread(one, rest, count, eps)
                store1(out, M2 * units + u, m2)
                store1(out, RSTD * units + u, rstd)
            elif kind in (CHANNEL, NEAR_CHANNEL):
                put_sum(out, u, one)
                put_sum(out, units + u, two)
                if planes > 2:
                    put_sum(out, 2 * units + u, three)
            else:
                store1(out, u, value(one))
                store1(out, units + u, value(two))

    return kernel


@cache
def total_of_channels(arithmetic: Arithmetic, is_weighted: bool) -> Any:
    """The function that joins a group's channels, each with its weight, but for the sums of d."""
    zero = arithmetic.zero

    def leaf(sums, plane, u, o, i, others):
        groups, channels, w, size = others
        acc = get_sum(sums, plane * size + u * channels + o, zero)
        if is_weighted and plane < 2:
            return multiply(acc, (read1(w, (u - quotient(u, groups) * groups) * channels + o),), acc)
        return acc

    return tree(arithmetic, True, device(leaf))


def settle(arithmetic: Arithmetic, center: bool, is_weighted: bool) -> Any:
    """Sums of channels (3, units * channels, parts), each with its weight -> what dx takes: table (3 or 6, units)."""
    total, rows_of_table, rescales = total_of_channels(arithmetic, is_weighted), arithmetic.rows, arithmetic.rescales

    def kernel(sums, w, rstd, table, units, count, outer, width, rows, groups):
        room, stack = cuda.shared.array(ROOM, float64), cuda.shared.array(STACK, float64)
        rooms, shape = (room, stack, stack), Shape(outer, 1, width, rows)
        u, others = block(), (groups, outer, w, units * outer)
        one = total(rooms, sums, 0, u, shape, others)
        two = total(rooms, sums, 1, u, shape, others)
        three = total(rooms, sums, 2, u, shape, others)
        if thread() == 0:
            values = table_rows(settled(center, one, two, three, count, read1(rstd, u)))
            for k in range(rows_of_table):
                store1(table, k * units + u, values[k])
            if rescales and u == 0:
                store1(table, LEFT * units, 0.0)

    return kernel


@device
def all_of_block(room, good):
    """Whether it is true for all threads of a block; room: a float64 for each warp."""
    bad = vote(not good)
    if thread() & 31 == 0:
        room[thread() >> 5] = 1.0 if bad else 0.0
    barrier()
    for k in range(threads() >> 5):
        if room[k] > 0.0:
            good = False
    barrier()
    return good


def settle_near(center: bool, is_weighted: bool) -> Any:
    """`settle` for float32: sums (2, units * channels) -> table (3, units), slope nan where there is no room for a group."""
    total = total_of_channels(EXACT, is_weighted)

    def kernel(sums, w, mean, rstd, table, units, count, outer, width, rows, groups):
        room, stack = cuda.shared.array(ROOM, float64), cuda.shared.array(STACK, float64)
        rooms, shape = (room, stack, stack), Shape(outer, 1, width, rows)
        u, others = block(), (groups, outer, w, units * outer)
        m, r, fit = 0.0, read1(rstd, u), True
        if center:
            m = read1(mean, u)
        one = total(rooms, sums, 0, u, shape, others)
        two = total(rooms, sums, 1, u, shape, others)
        if is_weighted:
            first = (u - quotient(u, groups) * groups) * outer
            for k in range(thread(), outer, threads()):
                fit = fit and normal(abs(mul(r, read1(w, first + k))))
            fit = all_of_block(room, fit)
        if thread() == 0:
            slope, shift, offset, good = settled_single(center, one[0], two[0], count, m, r)
            if not (good and fit):
                slope = math.nan
            store1(table, SLOPE * units + u, slope)
            store1(table, SHIFT * units + u, shift)
            store1(table, OFFSET * units + u, offset)

    return kernel


def reduce(arithmetic: Arithmetic, center: bool) -> Any:
    """Sums of the samples' channels (3, samples * channels, parts) -> grads (2, channels): dweight and dbias."""
    zero = arithmetic.zero

    def leaf(sums, plane, u, o, i, others):
        rstd, table, channels, groups, size, units = others
        acc, at = get_sum(sums, o * channels + u, zero), o * groups + quotient(u, quotient(channels, groups))
        if plane == 1:
            return plus(multiply(acc, (1.0,), zero), zero)
        offset = read1(table, OFFSET * units + at) if center else -0.0
        product = get_sum(sums, size + o * channels + u, zero)
        return plus(multiply(product, (read1(rstd, at),), zero), multiply(acc, (offset,), zero))

    total = tree(arithmetic, True, device(leaf))

    def kernel(sums, rstd, table, grads, channels, outer, width, rows, groups):
        room, stack = cuda.shared.array(ROOM, float64), cuda.shared.array(STACK, float64)
        rooms, shape = (room, stack, stack), Shape(outer, 1, width, rows)
        u, others = block(), (rstd, table, channels, groups, outer * channels, outer * groups)
        one = total(rooms, sums, 0, u, shape, others)
        two = total(rooms, sums, 1, u, shape, others)
        if thread() == 0:
            store1(grads, u, value(one))
            store1(grads, channels + u, value(two))

    return kernel


@device
def eight(v, n):
    """The pairs' sum of the first n of eight accumulators."""
    a = plus(v[0], v[1]) if n > 1 else v[0]
    b = plus(v[2], v[3]) if n > 3 else v[2]
    c = plus(v[4], v[5]) if n > 5 else v[4]
    d = plus(v[6], v[7]) if n > 7 else v[6]
    a = plus(a, b) if n > 2 else a
    c = plus(c, d) if n > 6 else c
    if n > 4:
        a = plus(a, c)
    return a


def pairs(arithmetic: Arithmetic) -> Any:
    """sums (a, n, columns, parts) -> out (a, n / FACTOR rounded up, columns, parts), in adjacent pairs."""
    zero = arithmetic.zero

    @device
    def leaf(sums, at, step, k, n):
        s = zero
        if k < n:
            s = get_sum(sums, at + k * step, zero)
        return s

    @device
    def eight_of(sums, at, step, k, n):
        return eight(
            (
                leaf(sums, at, step, k, n),
                leaf(sums, at, step, k + 1, n),
                leaf(sums, at, step, k + 2, n),
                leaf(sums, at, step, k + 3, n),
                leaf(sums, at, step, k + 4, n),
                leaf(sums, at, step, k + 5, n),
                leaf(sums, at, step, k + 6, n),
                leaf(sums, at, step, k + 7, n),
            ),
            n - k,
        )

    def kernel(sums, out, size, n, fewer, columns):
        i = block() * BLOCK + thread()
        if i < size:
            a = quotient(i, fewer * columns)
            rest = i - a * fewer * columns
            q = quotient(rest, columns)
            at, left = (a * n + q * FACTOR) * columns + rest - q * columns, min(FACTOR, n - q * FACTOR)
            sums_of_eight = (
                eight_of(sums, at, columns, 0, left),
                eight_of(sums, at, columns, 8, left),
                eight_of(sums, at, columns, 16, left),
                eight_of(sums, at, columns, 24, left),
                eight_of(sums, at, columns, 32, left),
                eight_of(sums, at, columns, 40, left),
                eight_of(sums, at, columns, 48, left),
                eight_of(sums, at, columns, 56, left),
            )
            put_sum(out, i, eight(sums_of_eight, (left + 7) >> 3))

    return kernel
