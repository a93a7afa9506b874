"""What `walk.rows_gradients` left: its sums are joined to dweight and dbias, a thread a column.

Where float32 had no room, rows and columns are computed again in float64, by whole warps, from x and dy.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64

from ...spec.tree import TILE
from ..arith.accumulators import settled
from ..arith.arithmetic import Arithmetic
from ..arith.device import (
    barrier,
    block,
    blocks,
    device,
    exchange,
    fma,
    from_lane,
    load1,
    mul,
    quotient,
    read1,
    single,
    store1,
    thread,
    threads,
    vote,
    widen,
)
from ..arith.stages import finish_one
from ..arith.tiles import drain, push
from ..combine import eight

WARP, STEPS = 32, 8
LEVELS, MOST = 23, 256  # of a pairs tree, and threads of a block
STACK = LEVELS * MOST


class Walk(NamedTuple):
    """Arrays and sizes of a call; sums: (2, leaves * apart, width), of which `apart` are a leaf."""

    x: Any
    dy: Any
    w: Any
    mean: Any
    rstd: Any
    sums: Any
    rows: int
    groups: int
    length: int
    block_rows: int
    elements: float  # of a row


# --- one row, by a warp, in float64 ----------------------------------------------------------------------------------


@device
def warp_total(a):
    """The sum of a tile from those of its lanes, in all threads."""
    for h in (16, 8, 4, 2, 1):
        a = a + exchange(a, h)
    return a


@device
def tiles_total(a):
    """The sum of a row from those of its tiles, one in each thread."""
    for h in (1, 2, 4, 8, 16):
        a = a + exchange(a, h)
    return a


@cache
def row_again(center: bool, weighted: bool) -> Any:
    """A function that gives the exact (slope, shift, offset) of a row of at most 32 tiles, in all threads of a warp."""

    def of_row(call, unit, m, r):
        lane, u, ud, s = thread() & 31, 0.0, 0.0, 0.0
        at, own = unit * call.length, (unit - quotient(unit, call.groups) * call.groups) * call.length
        for tile in range(quotient(call.length + TILE - 1, TILE)):
            a, q, b = 0.0, 0.0, 0.0
            for j in range(STEPS):
                e = tile * TILE + WARP * j + lane
                if e < call.length:
                    d, g = load1(call.x, at + e) - m, load1(call.dy, at + e)
                    if weighted:
                        g = mul(g, read1(call.w, own + e))
                    a, q, b = a + g, fma(g, d, q), b + d
            a, q, b = warp_total(a), warp_total(q), warp_total(b)
            if lane == tile:
                u, ud, s = a, q, b
        u, ud, s = tiles_total(u), tiles_total(ud), tiles_total(s)
        slope, shift, offset, _ = settled(center, (u,), (ud,), (s,), call.elements, r)
        return slope[0], shift[0], offset

    return device(of_row)


@cache
def mean_of(center: bool) -> Any:
    """A function that gives a row's mean."""

    def of_unit(mean, unit):
        m = 0.0
        if center:
            m = read1(mean, unit)
        return m

    return device(of_unit)


@cache
def dx_again(center: bool, weighted: bool) -> Any:
    """A function that writes dx of the rows that are marked by nan in `table`, or of all."""
    again, get_mean = row_again(center, weighted), mean_of(center)

    def write_row(call, dx, unit):
        m, r, lane = get_mean(call.mean, unit), read1(call.rstd, unit), thread() & 31
        slope, shift, _ = again(call, unit, m, r)
        at, own = unit * call.length, (unit - quotient(unit, call.groups) * call.groups) * call.length
        for e in range(lane, call.length, WARP):
            u = load1(call.dy, at + e)
            if weighted:
                u = mul(u, read1(call.w, own + e))
            finish_one(dx, at + e, fma(load1(call.x, at + e) - m, slope, mul(u, r) + shift))

    write_row = device(write_row)

    def rows(call, dx, table, every, warp, warps):
        units, lane = call.rows * call.groups, thread() & 31
        first = warp * WARP
        while first < units:
            mark = 0.0
            if first + lane < units:
                mark = read1(table, first + lane)
            if every or vote(mark != mark):
                for k in range(min(WARP, units - first)):
                    one = from_lane(mark, k)
                    if every or one != one:
                        write_row(call, dx, first + k)
            first += warps * WARP

    return device(rows)


# --- a column, by a thread -------------------------------------------------------------------------------------------


@cache
def leaf_of_sums(apart: int) -> Any:
    """A function that gives leaf k of a column, in order from its parts; 0 where there is none."""

    def leaf(call, plane, column, k, end):
        v = 0.0
        if k < end:
            width, parts = call.groups * call.length, quotient(call.rows + call.block_rows - 1, call.block_rows)
            at = plane * parts * width + column
            for i in range(apart):
                if k * apart + i < parts:
                    v = v + load1(call.sums, at + (k * apart + i) * width)
        return v

    return device(leaf)


@cache
def column_of_sums(apart: int) -> Any:
    """A function that sums a column's leaves begin .. end - 1 in pairs, eight at a time: so many loads are on their way."""
    leaf = leaf_of_sums(apart)

    def total(stack, call, plane, column, begin, end):
        k, leaves = begin, 0
        while k < end:
            v = (
                leaf(call, plane, column, k, end),
                leaf(call, plane, column, k + 1, end),
                leaf(call, plane, column, k + 2, end),
                leaf(call, plane, column, k + 3, end),
                leaf(call, plane, column, k + 4, end),
                leaf(call, plane, column, k + 5, end),
                leaf(call, plane, column, k + 6, end),
                leaf(call, plane, column, k + 7, end),
            )
            push(stack, thread(), MOST, 0, leaves, eight_of(v, end - k))
            leaves += 1
            k += 8
        s = (0.0,)
        if leaves > 0:
            s = drain(stack, thread(), MOST, 0, leaves, s)
        return s[0]

    return device(total)


@device
def eight_of(v, n):
    """The pairs' sum of the first n of eight float64."""
    return eight(((v[0],), (v[1],), (v[2],), (v[3],), (v[4],), (v[5],), (v[6],), (v[7],)), n)


@cache
def column_again(center: bool, weighted: bool) -> Any:
    """A function that sums a column's leaves again, from x and dy in float64; the warp has 32 columns of a group."""
    again, get_mean = row_again(center, weighted), mean_of(center)

    def total(stack, call, plane, column, begin, end, leaf_rows):
        leaves = 0
        g = quotient(column, call.length)
        for k in range(begin, end):
            a = 0.0
            for row in range(k * leaf_rows, min(call.rows, (k + 1) * leaf_rows)):
                unit = row * call.groups + g
                at, u = row * call.groups * call.length + column, 0.0
                if plane == 0:
                    m, r = get_mean(call.mean, unit), read1(call.rstd, unit)
                    offset = again(call, unit, m, r)[2]
                    u = fma(load1(call.dy, at), fma(load1(call.x, at) - m, r, offset), a)
                else:
                    u = a + load1(call.dy, at)
                a = u
            push(stack, thread(), MOST, 0, leaves, (a,))
            leaves += 1
        s = (0.0,)
        if leaves > 0:
            s = drain(stack, thread(), MOST, 0, leaves, s)
        return s[0]

    return device(total)


@device
def parts_total(room, v, parts):
    """The pairs' sum of a column's parts, of which each warp of the block has one; in the first."""
    t, step = thread(), 1
    while step < parts:
        room[t] = v
        barrier()
        if t >> 5 & (2 * step - 1) == 0 and (t >> 5) + step < parts:
            v = v + room[t + step * WARP]
        barrier()
        step *= 2
    return v


@device
def any_of_block(room, some):
    """Whether it is true for any thread of the first warp; in all threads of the block."""
    t = thread()
    if t < WARP:
        room[t] = 1.0 if some else 0.0
    barrier()
    found = vote(room[t & 31] > 0.0)
    barrier()
    return found


@device
def any_wide(w, n):
    """Whether any of n weights is no float32 number, and no nan; in all threads of the warp."""
    found = False
    for i in range(thread() & 31, n, WARP):
        v = read1(w, i)
        if v == v and widen(single(v)) != v:
            found = True
    return vote(found)


def join_rows(arithmetic: Arithmetic, apart: int, flags: tuple[bool, ...]) -> Any:
    """The sums of `rows_gradients` -> grads (2, groups * length), and what had no room in float32 again.

    flags: center, weighted, whether dx is wanted, whether the others are, and whether weights are float64. A warp takes 32
    columns of a group and `chunk` leaves, a power of two.
    """
    center, weighted, write, parameters, doubtful = flags
    mends = arithmetic.single
    total, total_again, rows_again = column_of_sums(apart), column_again(center, weighted), dx_again(center, weighted)

    def kernel(x, dy, dx, w, mean, rstd, table, sums, grads, rows, groups, length, block_rows, strips, chunk, count):
        stack = cuda.shared.array(STACK, float64)
        room = cuda.shared.array(MOST, float64)
        call = Walk(x, dy, w, mean, rstd, sums, rows, groups, length, block_rows, count)
        part, parts, every = thread() >> 5, threads() >> 5, False
        if mends and doubtful:
            every = any_wide(w, groups * length)
        if parameters and block() < groups * strips:
            g = quotient(block(), strips)
            place = (block() - g * strips) * WARP + (thread() & 31)
            there, column = place < length, g * length + min(place, length - 1)
            leaves = quotient(rows + apart * block_rows - 1, apart * block_rows)
            begin = min(leaves, part * chunk)
            end = min(leaves, begin + chunk)
            for plane in range(2):
                v = parts_total(room, total(stack, call, plane, column, begin, end), parts)
                if mends and any_of_block(room, every or not abs(v) < math.inf):
                    again = total_again(stack, call, plane, column, begin, end, apart * block_rows)
                    again = parts_total(room, again, parts)
                    if every or not abs(v) < math.inf:
                        v = again
                if part == 0 and there:
                    store1(grads, plane * groups * length + column, v)
        if mends and write:
            rows_again(call, dx, table, every, block() * parts + part, blocks() * parts)

    return kernel
