"""Gradients of rows whose elements have weights of their own (layer norm): dx, dweight and dbias with one read of x and dy.

Threads go down a block of rows and keep the sums of their columns. `join_rows` joins what they found.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64, int32

from ..arith.accumulators import settled
from ..arith.arithmetic import Arithmetic
from ..arith.device import (
    barrier,
    block,
    device,
    exchange,
    fma,
    from_lane,
    mul,
    peek1,
    peek4,
    pinned,
    quotient,
    read1,
    stage4,
    staged,
    store1,
    store4,
    take1,
    take4,
    thread,
    unstage4,
    widen,
)
from ..arith.gradients32 import settled_single
from ..arith.tiles import WARPS

ROW_ROOM = 2 * 3 * WARPS  # three sums of each warp, of this row and of the next
KEEP = 256  # threads of a block that have registers for weights in float64, and for a row while its sums are joined


class Cut(NamedTuple):
    """How a row is cut."""

    block: int  # threads
    per: int  # tiles
    steps: int  # of a tile
    even: bool  # whether all are whole
    lanes: int  # of a tile that a thread takes, 1 or 4, which are neighbours
    stage: int  # float64 of shared memory for the row that comes next


@cache
def neighbours(numbered: Any) -> Any:
    """Functions for four elements in one access: load, load weights as numbers, store. `left` more than 0 of all are there."""

    def take_four(p, i, left):
        if left < 1:
            i = 0
        return take4(p, i)

    def weigh(p, i, left):
        v = peek4(p, i if left > 0 else 0)
        return numbered(v[0]), numbered(v[1]), numbered(v[2]), numbered(v[3])

    def put_four(p, i, held, j, left):
        if left > 0:
            store4(p, i, (held[4 * j], held[4 * j + 1], held[4 * j + 2], held[4 * j + 3]))

    return device(take_four), device(weigh), device(put_four)


@cache
def singles(numbered: Any, lanes: int) -> Any:
    """The same in an access for each of one or four elements, of which `left` are there; others are the array's first."""

    @device
    def take_one(p, i, left):
        if left < 1:
            i = 0
        return take1(p, i)

    @device
    def weigh_one(p, i, left):
        return numbered(peek1(p, i if left > 0 else 0))

    def take(p, i, left):
        if lanes == 1:
            return (take_one(p, i, left),)
        return take_one(p, i, left), take_one(p, i + 1, left - 1), take_one(p, i + 2, left - 2), take_one(p, i + 3, left - 3)

    def weigh(p, i, left):
        if lanes == 1:
            return (weigh_one(p, i, left),)
        return (
            weigh_one(p, i, left),
            weigh_one(p, i + 1, left - 1),
            weigh_one(p, i + 2, left - 2),
            weigh_one(p, i + 3, left - 3),
        )

    def put(p, i, held, j, left):
        for e in range(lanes):
            if left > e:
                store1(p, i + e, held[lanes * j + e])

    return device(take), device(weigh), device(put)


@cache
def joined(arithmetic: Arithmetic, lanes: int, per: int) -> Any:
    """The function that makes of sums[k * lanes + e], u, u * d and d of a thread's lanes, those of its row; d if it is taken.

    One exchange serves more sums than one: half of the threads go on with that of u, the others with that of u * d, and of
    these halves one half each with that of d.
    """
    third = not arithmetic.single
    of_tile = 32 // lanes
    far, near = of_tile // 2, of_tile // 4  # threads that hold the lanes 16 and 8 further on
    warps = -(-per // lanes)

    @device
    def halved(sums, e, upper, middle):
        """Lane e: halves 16 and 8."""
        one, two = sums[e], sums[lanes + e]
        kept, sent = one, two
        if upper:
            kept, sent = two, one
        return widen(kept) + widen(exchange(sent, far))

    @device
    def quartered(sums, e, v, middle):
        if third:
            d = widen(sums[2 * lanes + e])
            d = d + exchange(d, far)
            kept, sent = v, d
            if middle:
                kept, sent = d, v
            return kept + exchange(sent, near)
        return v + exchange(v, near)

    @device
    def of_lane(sums, e, upper, middle):
        return quartered(sums, e, halved(sums, e, upper, middle), middle)

    @device
    def of_tiles(sums):
        """The sum of a row's tiles in a warp, of the kind that is the thread's."""
        t = thread()
        upper, middle = t & far != 0, t & near != 0
        if lanes == 4:
            a, b = of_lane(sums, 0, upper, middle), of_lane(sums, 1, upper, middle)
            c, d = of_lane(sums, 2, upper, middle), of_lane(sums, 3, upper, middle)
            a, b, c, d = a + exchange(a, 1), b + exchange(b, 1), c + exchange(c, 1), d + exchange(d, 1)
            v = (a + c) + (b + d)
            if per > 1:
                v = v + exchange(v, 8)
            if per > 2:
                v = v + exchange(v, 16)
        else:
            v = of_lane(sums, 0, upper, middle)
            v = v + exchange(v, 4)
            v = v + exchange(v, 2)
            v = v + exchange(v, 1)
        return v

    @device
    def of_warps(room, place, there):
        """The sum of a row's warps, of which this thread reads one."""
        v = room[place] if there else 0.0
        if warps > 1:
            v = v + exchange(v, 1)
        if warps > 2:
            v = v + exchange(v, 2)
        if warps > 4:
            v = v + exchange(v, 4)
        if warps > 8:
            v = v + exchange(v, 8)
        return v

    @device
    def total(sums, room, phase, own):
        v, t, s = of_tiles(sums), thread(), 0.0
        if warps == 1:
            base = t & 31 & ~(of_tile - 1)
            if third:
                s = from_lane(v, base + near)
            return from_lane(v, base), from_lane(v, base + far), s
        lane, warp = t & 31, t >> 5
        if lane & ~(far + near) == 0 and (lane & near == 0 or (third and lane & far == 0)):
            kind = 2 if lane & near else 1 if lane & far else 0
            room[phase + kind * WARPS + warp] = v
        barrier()
        i = lane & (WARPS - 1)
        place = phase + own * warps + i
        v = of_warps(room, place + (lane >> 4) * WARPS, i < warps)
        if third:
            s = of_warps(room, place + 2 * WARPS, i < warps)
        return from_lane(v, 0), from_lane(v, 16), s

    return total


@cache
def constants_of_row(arithmetic: Arithmetic, center: bool) -> Any:
    """The function that makes of a row's sums (slope, shift, offset), and whether there is room for them."""
    numbered, single = arithmetic.numbered, arithmetic.single

    def of_row(sums, count, mean, rstd):
        u, ud, d = sums
        if single:
            slope, shift, offset, good = settled_single(center, u, ud, count, mean, rstd)
        else:
            slopes, shifts, offset, _ = settled(center, (u,), (ud,), (d,), count, rstd)
            slope, shift, good = slopes[0], shifts[0], True
        return numbered(slope), numbered(shift), numbered(offset), good

    return device(of_row)


# for each block of rows: for each row: d = x - mean; u = dy * w; slope, shift, offset = settled(sum(u), sum(u * d), sum(d))
#     dx = d * slope + (u * rstd + shift)
#     dweight += dy * (d * rstd + offset); dbias += dy
def rows_gradients(
    wide: bool, arithmetic: Arithmetic, cut: Cut, center: bool, weighted: bool, write: bool, parameters: bool
) -> Any:
    """x, dy: (rows, groups, length) -> dx, and dweight and dbias of each block of rows: out (2, blocks, groups * length).

    `wide`: whether a thread's neighbours are one access, as length and addresses allow. In float32 a row that it has no room
    for is noted in table (rows * groups) by nan, and its dx is not written. dx may be x or dy.
    """
    n, per, steps, even, lanes, stage = cut
    number, element, numbered, fast = arithmetic.number, arithmetic.element, arithmetic.numbered, arithmetic.single
    take, weigh, put = neighbours(numbered) if wide else singles(numbered, lanes)
    each, of_tile, three = lanes * steps, 32 // lanes, 3 * lanes
    total, constants, staging = joined(arithmetic, lanes, per), constants_of_row(arithmetic, center), stage > 0
    large = not fast and n > KEEP
    keeps = weighted and not large
    items, room_of_stage = n // (of_tile * per), max(stage, 1)

    @device
    def there(left, j, e):
        """Elements from lane e of step j to the end of the row, more than 0 where it is known that it is there."""
        if even:
            return 4
        return left - 32 * j - e

    @device
    def hold(held, j, v):
        if lanes == 4:
            held[4 * j], held[4 * j + 1] = pinned(v[0]), pinned(v[1])
            held[4 * j + 2], held[4 * j + 3] = pinned(v[2]), pinned(v[3])
        else:
            held[j] = pinned(v[0])

    @device
    def begin(room, x, dy, at, left):
        """Begin to copy a row's elements into shared memory."""
        for j in range(steps):
            place = at + 32 * j
            if there(left, j, 0) < 1:
                place = 0
            stage4(room, 2 * j * n + thread(), x, place)
            stage4(room, (2 * j + 1) * n + thread(), dy, place)

    @device
    def read(room, x, dy, at, left, held, given):
        """A row's elements."""
        for j in range(steps):
            if staging:
                hold(held, j, unstage4(room, 2 * j * n + thread(), x))
                hold(given, j, unstage4(room, (2 * j + 1) * n + thread(), dy))
            else:
                hold(held, j, take(x, at + 32 * j, there(left, j, 0)))
                hold(given, j, take(dy, at + 32 * j, there(left, j, 0)))

    def kernel(x, dy, dx, w, mean, rstd, table, out, rows, groups, length, block_rows, count):
        room = cuda.shared.array(ROW_ROOM, float64)  # the simulator tells arrays apart by their lines
        next_row = cuda.shared.array(room_of_stage, float64)
        held, given, made = cuda.local.array(each, element), cuda.local.array(each, element), cuda.local.array(each, number)
        weights = cuda.local.array(each, number)
        dweight, dbias, sums = cuda.local.array(each, number), cuda.local.array(each, number), cuda.local.array(three, number)
        zero, slot = numbered(0.0), quotient(thread(), of_tile)
        own = quotient(slot, per)
        item = block() * items + own
        k = quotient(item, groups)
        g = item - k * groups
        column = ((slot - own * per) << 8) + (thread() & (of_tile - 1)) * lanes
        left, first = int32(length - column), k * block_rows
        turns = min(block_rows, rows - quotient(block() * items, groups) * block_rows)
        for j in range(steps):
            for e in range(lanes):
                dweight[lanes * j + e], dbias[lanes * j + e], weights[lanes * j + e] = zero, zero, zero
            if keeps:
                hold(weights, j, weigh(w, g * length + column + 32 * j, there(left, j, 0)))
        if staging:
            begin(next_row, x, dy, (min(first, rows - 1) * groups + g) * length + column, left)
        for i in range(turns):
            row = min(first + i, rows - 1)
            unit = row * groups + g
            at, m, r = unit * length + column, 0.0, read1(rstd, unit)
            if center:
                m = read1(mean, unit)
            if staging:
                staged()
            read(next_row, x, dy, at, left, held, given)
            if staging and i + 1 < turns:
                begin(next_row, x, dy, (min(row + 1, rows - 1) * groups + g) * length + column, left)
            anchor = numbered(m)
            for e in range(three):
                sums[e] = zero
            for j in range(steps):
                if weighted and not keeps:
                    hold(weights, j, weigh(w, g * length + column + 32 * j, there(left, j, 0)))
                for e in range(lanes):
                    of = lanes * j + e
                    d, u = numbered(held[of]) - anchor, numbered(given[of])
                    if weighted:
                        u = mul(u, weights[of])
                    if there(left, j, e) < 1:
                        d, u = zero, zero
                    sums[e], sums[lanes + e] = sums[e] + u, fma(u, d, sums[lanes + e])
                    if not fast:
                        sums[2 * lanes + e] = sums[2 * lanes + e] + d
            slope, shift, offset, good = constants(total(sums, room, (i & 1) * 3 * WARPS, own), count, m, r)
            if first + i < rows:
                root = numbered(r)
                if fast and column == 0:
                    store1(table, unit, widen(slope) if good else math.nan)
                if large:  # from the cache
                    read(next_row, x, dy, at, left, held, given)
                for j in range(steps):
                    if weighted and not keeps:
                        hold(weights, j, weigh(w, g * length + column + 32 * j, there(left, j, 0)))
                    for e in range(lanes):
                        of = lanes * j + e
                        d, u = numbered(held[of]) - anchor, numbered(given[of])
                        if parameters:
                            dweight[of], dbias[of] = fma(u, fma(d, root, offset), dweight[of]), dbias[of] + u
                        if weighted:
                            u = mul(u, weights[of])
                        if fast:
                            made[of] = fma(d, slope, fma(u, root, shift))
                        else:
                            made[of] = fma(d, slope, mul(u, root) + shift)
                    if write and good:
                        put(dx, at + 32 * j, made, j, there(left, j, 0))
        if parameters and first < rows:
            blocks, width = quotient(rows + block_rows - 1, block_rows), groups * length
            for j in range(steps):
                at = k * width + g * length + column + 32 * j
                put(out, at, dweight, j, there(left, j, 0))
                put(out, blocks * width + at, dbias, j, there(left, j, 0))

    return kernel
