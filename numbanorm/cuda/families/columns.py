"""Kernel family *columns*: sums down the rows, and what is written row by row. A thread has four columns.

Rows are taken four at a time, so that many loads are on their way at once; y may be x, and dx may be x or dy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import cuda, float64

from ..arith.accumulators import plus
from ..arith.arithmetic import Arithmetic
from ..arith.device import barrier, block, device, quotient, read1, thread
from ..arith.elementwise import (
    SHIFT,
    SHIFT_LOW,
    SLOPE,
    SLOPE_LOW,
    four_normalized,
    four_shares,
    four_slants,
)
from ..arith.moments import together
from ..arith.tiles import (
    deposit,
    four,
    four_distances,
    four_lesses,
    four_minus,
    four_multiplied,
    four_only,
    four_products,
    four_sums,
    four_terms,
    four_widen,
    hold,
    once,
    present,
    recall,
    same,
    withdraw,
)
from ..partial_sums import BLOCK, BOTH, PLANES, PRODUCTS, SQUARES, SUM, WEIGHTS, column_unit, four_own_means, put_sum

ROOM = 4 * 2 * BLOCK
BATCH = 4  # rows at a time
HELD = 4 * BATCH


@device
def column_of(wide, e, first, wide_block):
    """A thread's column e, the block's `wide_block` columns beginning at `first`."""
    tx = thread() & ((wide_block >> 2) - 1)
    if wide:
        return first + 4 * tx + e
    return first + tx + (wide_block >> 2) * e


@device
def columns_of(wide, first, wide_block):
    """Four columns of a thread: neighbours, or far apart so that neighbouring threads read neighbours."""
    return (
        column_of(wide, 0, first, wide_block),
        column_of(wide, 1, first, wide_block),
        column_of(wide, 2, first, wide_block),
        column_of(wide, 3, first, wide_block),
    )


@device
def within(column, width):
    """1 if a column exists, or 0."""
    there = 0
    if column < width:
        there = 1
    return there


@device
def entry(unit, there, table, start):
    """A group's number in a row of a table that begins at `start`."""
    v = 0.0
    if there > 0:
        v = read1(table, start + unit)
    return v


four_within, four_units, four_entries = four(within, 1), four(column_unit, 1), four(entry, 2)
# with one predicate for neighbours ptxas spills sums of two arrays, and takes loads of float64 apart
neighbours_within = once(within, 1)


@device
def remainder(column, real):
    """A column's place in its row, of which some are folded into one."""
    return column - quotient(column, real) * real


@device
def next_remainder(own, real):
    """The place in a row behind another."""
    own += 1
    if own == real:
        own = 0
    return own


@device
def next_quotient(q, own, size):
    """own // size, from that of the place before it in a row."""
    if own == 0:
        q = 0
    elif own == (q + 1) * size:
        q += 1
    return q


four_remainders, four_owners = four(remainder, 1), four(quotient, 1)


@device
def places_in_row(wide, column, real):
    """Four columns' places in their rows: one division where they are neighbours."""
    if wide:
        a = remainder(column[0], real)
        b = next_remainder(a, real)
        c = next_remainder(b, real)
        return a, b, c, next_remainder(c, real)
    return four_remainders(column, real)


@device
def owners(wide, own, size):
    """Which of those that have `size` places of a row each these four belong to; likewise."""
    if wide:
        a = quotient(own[0], size)
        b = next_quotient(a, own[1], size)
        c = next_quotient(b, own[2], size)
        return a, b, c, next_quotient(c, own[3], size)
    return four_owners(own, size)


@device
def pairs_of_blocks(acc, room, row, rows_of_threads, there):
    """Accumulators of `rows_of_threads` rows of threads -> their pairs' sum, in row 0; `there`: how many have a block."""
    t, width = thread(), quotient(BLOCK, rows_of_threads)
    step = 1
    while step < rows_of_threads:
        if row & (2 * step - 1) == step:
            deposit(room, 8 * t, 4, acc[0])
            deposit(room, 8 * t + 1, 4, acc[1])
            deposit(room, 8 * t + 2, 4, acc[2])
            deposit(room, 8 * t + 3, 4, acc[3])
        barrier()
        if row & (2 * step - 1) == 0 and row + step < there:
            at = 8 * (t + step * width)
            acc = (
                plus(acc[0], withdraw(room, at, 4, acc[0])),
                plus(acc[1], withdraw(room, at + 1, 4, acc[1])),
                plus(acc[2], withdraw(room, at + 2, 4, acc[2])),
                plus(acc[3], withdraw(room, at + 3, 4, acc[3])),
            )
        step *= 2
    barrier()
    return acc


@device
def put_column(acc, column, there, p, at):
    """Write a column's accumulator, if it is there."""
    if there > 0:
        put_sum(p, at + column, acc)


four_put = four(put_column, 3)


class Chunk(NamedTuple):
    """A thread's part of a chunk: its row of so many rows of threads, blocks that there are, its columns and which exist."""

    row: int
    rows: int
    blocks: int
    column: tuple[int, ...]
    there: tuple[int, ...]


@device
def put_chunk(acc, room, chunk, out, base):
    """Join a chunk's blocks and write the sums of its columns."""
    acc = pairs_of_blocks(acc, room, chunk.row, chunk.rows, chunk.blocks)
    if chunk.row == 0:
        four_put(acc, chunk.column, chunk.there, out, base)


@device
def next_row(column, step):
    """A column's place `step` elements on."""
    return column + step


four_next = four(next_row, 1)


@device
def row_present(there, row, last):
    """Presence of four columns in a row: `there`, or none if there is no such row."""
    if row >= last:
        there = same(0)
    return there


# v = x[sample, first:last, column]; d = v - mean[unit]; here for SQUARES
#     for k in range(blocks): block_sums[k] = sum of d * d, row by row, of its rows
#     out[0, sample, chunk, column] = block_sums in adjacent pairs
def columns(kind: int, wide: bool, arithmetic: Arithmetic, center: bool, corrected: bool = False) -> Any:
    """x (and dy): (samples, rows, width) -> sums down `per` blocks of rows, out (planes, samples, chunks, width, parts).

    mean (and rstd, offsets): float64, of `groups` of `length` columns each, the columns `real` wide before folding; of a
    sample, or (WEIGHTS) of each row, with offsets if `corrected`. A block of threads takes `span` columns and as many blocks of
    rows as it has rows of threads, BLOCK / (span / 4).
    """
    nothing = (arithmetic.zero,) * 4
    take, element = (arithmetic.take, arithmetic.element) if wide else (arithmetic.enter, float64)
    centered, two = center and kind in (SQUARES, PRODUCTS), kind in (PRODUCTS, WEIGHTS)
    planes, batch = PLANES[kind], BATCH // arithmetic.parts if two else BATCH  # rows loaded at once; more made float64 spill
    wait = together(batch, two)

    def kernel(x, dy, mean, rstd, offsets, out, samples, rows, width, real, length, groups, span, per_block, chunks, per):
        room = cuda.shared.array(ROOM, float64)
        held, given = cuda.local.array(HELD, element), cuda.local.array(HELD, element)
        strips = quotient(width + span - 1, span)
        strip_chunk = quotient(block(), strips)
        sample = quotient(strip_chunk, chunks)
        row_of_threads = quotient(thread(), span >> 2)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there = four_within(column, width)
        chunk = strip_chunk - sample * chunks
        k = chunk * per + row_of_threads
        first, last = k * per_block, min(rows, (k + 1) * per_block)
        means = same(0.0)
        if centered:
            means = four_entries(four_units(column, sample, real, length, groups), there, mean, 0)
        a, q, s = nothing, nothing, nothing
        at = four_next(column, (sample * rows + first) * width)
        for row in range(first, last, batch):
            for j in range(batch):
                here = row_present(there, row + j, last)
                hold(held, j, take(wide, x, four_next(at, j * width), here, 0))
                if two:
                    hold(given, j, take(wide, dy, four_next(at, j * width), here, 0))
            if wide:
                wait(held, given, per)
            for j in range(batch):
                here, v = present(row_present(there, row + j, last), 0), four_widen(recall(held, j))
                if kind == WEIGHTS:
                    unit, offset = four_units(column, row + j, real, length, groups), same(-0.0)
                    g = four_widen(recall(given, j))
                    r = four_entries(unit, row_present(there, row + j, last), rstd, 0)
                    if center:
                        means = four_entries(unit, row_present(there, row + j, last), mean, 0)
                    if corrected:
                        offset = four_entries(unit, row_present(there, row + j, last), offsets, 0)
                    d = four_distances(a, v, means, here)
                    a = four_products(a, four_only(g), four_normalized(d, r, offset))
                    q = four_sums(q, g)
                elif kind in (SUM, BOTH):
                    a = four_sums(a, v)
                else:
                    d = four_distances(a, v, means, here)
                    if kind == SQUARES:
                        a = four_products(a, d, d)
                    else:
                        g = four_widen(recall(given, j))
                        a, q, s = four_sums(a, g), four_products(q, four_only(g), d), four_terms(s, d)
            at = four_next(at, batch * width)
        if kind == BOTH:
            means = four_own_means(a, same(max(last - first, 1)), same(0))
            at = four_next(column, (sample * rows + first) * width)
            for row in range(first, last, batch):
                for j in range(batch):
                    hold(held, j, take(wide, x, four_next(at, j * width), row_present(there, row + j, last), 0))
                if wide:
                    wait(held, given, per)
                for j in range(batch):
                    d = four_distances(q, four_widen(recall(held, j)), means, present(row_present(there, row + j, last), 0))
                    q = four_products(q, d, d)
                at = four_next(at, batch * width)
            if first < rows:
                blocks = quotient(rows + per_block - 1, per_block)
                four_put(a, column, there, out, (sample * blocks + k) * width)
                four_put(q, column, there, out, ((samples + sample) * blocks + k) * width)
        else:
            blocks = quotient(rows + per_block - 1, per_block) - chunk * per
            plane, base, own = samples * chunks * width, strip_chunk * width, Chunk(row_of_threads, per, blocks, column, there)
            put_chunk(a, room, own, out, base)
            if planes > 1:
                put_chunk(q, room, own, out, plane + base)
            if planes > 2:
                put_chunk(s, room, own, out, 2 * plane + base)

    return kernel


# d = x[sample, row, column] - mean[unit]
#     y[sample, row, column] = d * (rstd[unit] * w[c]) + (-(low[unit] * rstd[unit]) * w[c] + b[c])
#     dx[sample, row, column] = d * slope[unit] + (dy * (rstd[unit] * w[c]) + shift[unit])
def apply_columns(wide: bool, arithmetic: Arithmetic, center: bool, weighted: bool, biased: bool, gradient: bool) -> Any:
    """x (and dy): (samples, rows, width) -> y (dx), `chunk` rows to a block. See `runs.apply_runs` and `columns`."""
    zero, enter = arithmetic.zero, arithmetic.enter
    finish, finish_gradient = arithmetic.finish, arithmetic.finish_gradient

    def kernel(
        x, dy, y, w, b, mean, low, rstd, table, units, samples, rows, width, real, length, groups, t, span, chunk, chunks
    ):
        held, given = cuda.local.array(HELD, float64), cuda.local.array(HELD, float64)
        strips, threads_of_row = quotient(width + span - 1, span), span >> 2
        strip_chunk = quotient(block(), strips)
        sample = quotient(strip_chunk, chunks)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there = four_within(column, width)
        own = places_in_row(wide, column, real)
        unit, place = four_next(owners(wide, own, length), sample * groups), owners(wide, own, t)
        r, m, scale, like = four_entries(unit, there, rstd, 0), same(0.0), same(1.0), same(zero)
        if center:
            m = four_entries(unit, there, mean, 0)
        if weighted:
            scale = four_entries(place, there, w, 0)
        if gradient:
            both = four_multiplied(four_only(r), four_only(scale), like)
            slope = four_slants(unit, there, table, SLOPE, SLOPE_LOW, units, zero)
            shift = four_slants(unit, there, table, SHIFT, SHIFT_LOW, units, zero)
        else:
            c, bias = same(-0.0), same(-0.0)
            if center:
                c = four_shares(four_entries(unit, there, low, 0), r)
            if biased:
                bias = four_entries(place, there, b, 0)
        step = quotient(BLOCK, threads_of_row)
        first = (strip_chunk - sample * chunks) * chunk
        last, row = min(rows, first + chunk), first + quotient(thread(), threads_of_row)
        at = four_next(column, (sample * rows + row) * width)
        while row < last:
            for j in range(BATCH):
                here = row_present(there, row + j * step, last)
                hold(held, j, enter(wide, x, four_next(at, j * step * width), here, 0))
                if gradient:
                    hold(given, j, enter(wide, dy, four_next(at, j * step * width), here, 0))
            for j in range(BATCH):
                here = row_present(there, row + j * step, last)
                if gradient:
                    u = four_multiplied(four_only(recall(given, j)), both, like)
                    d = four_lesses(recall(held, j), m, like)
                    finish_gradient(wide, y, four_next(at, j * step * width), here, 0, d, u, (slope, shift))
                else:
                    d = four_minus(recall(held, j), m)
                    finish(wide, y, four_next(at, j * step * width), here, 0, d, (r, c), (scale, bias))
            row += BATCH * step
            at = four_next(at, BATCH * step * width)

    return kernel
