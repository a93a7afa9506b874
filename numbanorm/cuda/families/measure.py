"""Sums and squares of parts, in one read; and the squares about the mean of those groups for which that was not enough."""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, float64

from ..arith.accumulators import spread
from ..arith.arithmetic import EXACT
from ..arith.device import block, load1, quotient, store1, thread
from ..arith.elementwise import LOW, M2, MEAN, RSTD
from ..arith.moments import fold_one, join_both, together
from ..arith.stages import take
from ..arith.tiles import (
    HELD,
    ROOM,
    STEPS,
    begins,
    four_only,
    four_products,
    four_terms,
    four_widen,
    hold,
    items,
    recall,
)
from ..rescale_sums import SQUARES, STACK, Runs, Values, group_total
from .columns import BATCH, Chunk, columns_of, four_next, neighbours_within, put_chunk, row_present
from .columns import HELD as COLUMNS_HELD
from .columns import ROOM as CHUNK_ROOM
from .runs import four_inside, item_places, note_sums

ROOMS = 2 * ROOM


# for each item: out[:, item] = sum(x), sum(x * x), each by the tree of a tile, then tiles in adjacent pairs
def run_moments(wide: bool) -> Any:
    """x: runs of `length` elements, one after the other -> partials (2, n) of n items."""
    nothing, wait = (EXACT.zero,) * 4, together(STEPS)

    def kernel(x, out, n, spans, span, length, per):
        room, held = cuda.shared.array(ROOMS, float64), cuda.local.array(HELD, float32)
        item, begin = items(wide, per), begins(wide, per)
        at, left = item_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        a, q = nothing, nothing
        for j in range(STEPS):
            hold(held, j, take(wide, x, at, left, j))
        if wide:
            wait(held, held, per)
        for j in range(STEPS):
            v = four_only(four_widen(recall(held, j)))
            a, q = four_terms(a, v), four_products(q, v, v)
        a, q = join_both(wide, fold_one(wide, a), fold_one(wide, q), per, room, 0)
        note_sums(wide, a, item, begin, out, n, 0)
        note_sums(wide, q, item, begin, out, n, 1)

    return kernel


# for each chunk of rows: out[:, chunk, column] = sum(x), sum(x * x), blocks of rows in order, then in adjacent pairs
def column_moments(wide: bool) -> Any:
    """x: (samples, rows, width) -> out (2, samples, chunks, width); see `columns.columns`."""
    nothing, wait = (EXACT.zero,) * 4, together(BATCH)

    def kernel(x, out, samples, rows, width, span, per_block, chunks, per):
        room, held = cuda.shared.array(CHUNK_ROOM, float64), cuda.local.array(COLUMNS_HELD, float32)
        strips = quotient(width + span - 1, span)
        strip_chunk = quotient(block(), strips)
        sample, row_of_threads = quotient(strip_chunk, chunks), quotient(thread(), span >> 2)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there, chunk = neighbours_within(wide, column, width), strip_chunk - sample * chunks
        k = chunk * per + row_of_threads
        first, last = k * per_block, min(rows, (k + 1) * per_block)
        a, q = nothing, nothing
        at = four_next(column, (sample * rows + first) * width)
        for row in range(first, last, BATCH):
            for j in range(BATCH):
                hold(held, j, take(wide, x, four_next(at, j * width), row_present(there, row + j, last), 0))
            if wide:
                wait(held, held, per)
            for j in range(BATCH):
                v = four_only(four_widen(recall(held, j)))
                a, q = four_terms(a, v), four_products(q, v, v)
            at = four_next(at, BATCH * width)
        blocks = quotient(rows + per_block - 1, per_block) - chunk * per
        own, base = Chunk(row_of_threads, per, blocks, column, there), strip_chunk * width
        put_chunk(a, room, own, out, base)
        put_chunk(q, room, own, out, samples * chunks * width + base)

    return kernel


def measure_again(columns: bool) -> Any:
    """Groups whose rstd is 0, for one read was not enough -> their squares about the mean, and rstd.

    A block, of one warp, looks at a group and returns; or goes through all of it.
    """
    total = group_total(columns, SQUARES, zero=EXACT.zero)

    def kernel(x, stats, units, groups, rows, tree_rows, fold, length, count, eps):
        stacks = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        u = block()
        if load1(stats, RSTD * units + u) == 0.0:
            sample, stride = quotient(u, groups), groups * length
            at = (sample * rows * fold * groups + u - sample * groups) * length
            data = Values(x, 1.0, load1(stats, MEAN * units + u))
            low = load1(stats, LOW * units + u)
            m2, rstd = spread(total(stacks, data, Runs(at, stride, rows, tree_rows, fold, length)), low, count, eps)
            if thread() == 0:
                store1(stats, M2 * units + u, m2)
                store1(stats, RSTD * units + u, rstd)

    return kernel
