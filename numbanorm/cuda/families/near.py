"""Gradients of channels in float32, by runs and by columns: sums of dy and of dy * d, and dx.

The first eight terms of a sum are float32, as in `numbanorm.reference.gradients32`. A group that float32 has no room for gets
some dx here, and its own from `mend`.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, float64

from ..arith.arithmetic import EXACT
from ..arith.device import block, quotient, single, thread
from ..arith.elementwise import SHIFT, SLOPE
from ..arith.moments import fold_one, join_both, together
from ..arith.stages import take
from ..arith.tiles import (
    ROOM,
    begins,
    four,
    four_add,
    four_fma,
    four_minus,
    four_mul,
    four_only,
    four_sums,
    four_widen,
    hold,
    items,
    put,
    recall,
    same,
)
from ..partial_sums import BLOCK
from .columns import (
    BATCH,
    Chunk,
    columns_of,
    four_next,
    four_units,
    neighbours_within,
    owners,
    places_in_row,
    put_chunk,
    row_present,
)
from .columns import HELD as COLUMNS_HELD
from .columns import ROOM as CHUNK_ROOM
from .columns import four_entries as column_entries
from .runs import HALF, HALF_HELD, four_bases, four_entries, four_inside, four_item_units, item_places, note_sums

ROOMS = 2 * ROOM


four_single = four(single, 1)


# for each item: d = x - mean; out[:, item] = sum(dy), sum(dy * d), each by the tree of a tile, then tiles in adjacent pairs
def near_runs(wide: bool, center: bool) -> Any:
    """x, dy: runs of `length` elements, one after the other -> partials (2, n) of n items; mean: float64 (units,)."""
    wait = together(HALF, True)

    def kernel(x, dy, mean, out, n, spans, span, length, per_sample, groups, channels, per):
        room = cuda.shared.array(ROOMS, float64)
        held, given = cuda.local.array(HALF_HELD, float32), cuda.local.array(HALF_HELD, float32)
        item, begin = items(wide, per), begins(wide, per)
        at, left = item_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        a, q, m = same(single(0.0)), same(single(0.0)), same(single(0.0))
        if center:
            m = four_single(four_entries(four_item_units(item, n, spans, per_sample, groups, channels), mean, 0, 0))
        for h in (0, HALF):
            for j in range(HALF):
                hold(held, j, take(wide, x, at, left, h + j))
                hold(given, j, take(wide, dy, at, left, h + j))
            if wide:
                wait(held, given, per)
            for j in range(HALF):
                g = recall(given, j)
                a, q = four_add(a, g), four_fma(g, four_minus(recall(held, j), m), q)
        of_dy, of_product = fold_one(wide, four_only(four_widen(a))), fold_one(wide, four_only(four_widen(q)))
        of_dy, of_product = join_both(wide, of_dy, of_product, per, room, 0)
        note_sums(wide, of_dy, item, begin, out, n, 0)
        note_sums(wide, of_product, item, begin, out, n, 1)

    return kernel


# for each chunk of rows: out[:, chunk, column] = sum(dy), sum(dy * d), eight rows in float32, these in order, then in pairs
def near_columns(wide: bool, center: bool) -> Any:
    """x, dy: (samples, rows, width) -> out (2, samples, chunks, width); see `columns.columns`."""
    nothing, wait = (EXACT.zero,) * 4, together(BATCH, True)

    def kernel(x, dy, mean, out, samples, rows, width, real, length, groups, span, per_block, chunks, per):
        room = cuda.shared.array(CHUNK_ROOM, float64)
        held, given = cuda.local.array(COLUMNS_HELD, float32), cuda.local.array(COLUMNS_HELD, float32)
        strips = quotient(width + span - 1, span)
        strip_chunk = quotient(block(), strips)
        sample, row_of_threads = quotient(strip_chunk, chunks), quotient(thread(), span >> 2)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there, chunk = neighbours_within(wide, column, width), strip_chunk - sample * chunks
        k = chunk * per + row_of_threads
        first, last = k * per_block, min(rows, (k + 1) * per_block)
        zero = same(single(0.0))
        m, of_dy, of_product, a, q = zero, nothing, nothing, zero, zero
        if center:
            m = four_single(column_entries(four_units(column, sample, real, length, groups), there, mean, 0))
        at = four_next(column, (sample * rows + first) * width)
        for row in range(first, last, BATCH):
            for j in range(BATCH):
                here = row_present(there, row + j, last)
                hold(held, j, take(wide, x, four_next(at, j * width), here, 0))
                hold(given, j, take(wide, dy, four_next(at, j * width), here, 0))
            if wide:
                wait(held, given, per)
            for j in range(BATCH):
                g = recall(given, j)
                a, q = four_add(a, g), four_fma(g, four_minus(recall(held, j), m), q)
            if (row - first) & BATCH:
                of_dy, of_product = four_sums(of_dy, four_widen(a)), four_sums(of_product, four_widen(q))
                a, q = zero, zero
            at = four_next(at, BATCH * width)
        of_dy, of_product = four_sums(of_dy, four_widen(a)), four_sums(of_product, four_widen(q))
        blocks = quotient(rows + per_block - 1, per_block) - chunk * per
        own, base = Chunk(row_of_threads, per, blocks, column, there), strip_chunk * width
        put_chunk(of_dy, room, own, out, base)
        put_chunk(of_product, room, own, out, samples * chunks * width + base)

    return kernel


# dx[item] = (x[item] - mean) * slope + (dy[item] * (rstd * w) + shift)
def near_gradient_runs(wide: bool, center: bool, weighted: bool) -> Any:
    """x, dy: runs of `length` elements, which share a weight, in n items -> dx; table: float64 (3, units)."""
    wait = together(HALF, True)

    def kernel(x, dy, dx, w, mean, rstd, table, units, n, spans, span, length, per_sample, groups, channels, per):
        held, given = cuda.local.array(HALF_HELD, float32), cuda.local.array(HALF_HELD, float32)
        item, begin = items(wide, per), begins(wide, per)
        at, left = item_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        unit, m, scale = four_item_units(item, n, spans, per_sample, groups, channels), same(single(0.0)), same(1.0)
        if center:
            m = four_single(four_entries(unit, mean, 0, 0))
        if weighted:
            scale = four_entries(four_bases(item, spans, groups, 1), w, 0, 0)
        scale = four_single(four_mul(four_entries(unit, rstd, 0, 0), scale))
        slope = four_single(four_entries(unit, table, SLOPE, units))
        shift = four_single(four_entries(unit, table, SHIFT, units))
        for h in (0, HALF):
            for j in range(HALF):
                hold(held, j, take(wide, x, at, left, h + j))
                hold(given, j, take(wide, dy, at, left, h + j))
            if wide:
                wait(held, given, per)
            for j in range(HALF):
                u = four_fma(recall(given, j), scale, shift)
                put(wide, dx, at, left, h + j, four_fma(four_minus(recall(held, j), m), slope, u))

    return kernel


# dx[sample, row, column], likewise
def near_gradient_columns(wide: bool, center: bool, weighted: bool) -> Any:
    """x, dy: (samples, rows, width) -> dx, `chunk` rows to a block; see `write.apply_columns_fast`."""
    wait = together(BATCH, True)

    def kernel(
        x, dy, dx, w, mean, rstd, table, units, samples, rows, width, real, length, groups, t, span, chunk, chunks
    ):  # fmt: skip
        held, given = cuda.local.array(COLUMNS_HELD, float32), cuda.local.array(COLUMNS_HELD, float32)
        strips, threads_of_row = quotient(width + span - 1, span), span >> 2
        strip_chunk = quotient(block(), strips)
        sample = quotient(strip_chunk, chunks)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there = neighbours_within(wide, column, width)
        own_places = places_in_row(wide, column, real)
        unit, m, scale = four_next(owners(wide, own_places, length), sample * groups), same(single(0.0)), same(1.0)
        if center:
            m = four_single(column_entries(unit, there, mean, 0))
        if weighted:
            scale = column_entries(owners(wide, own_places, t), there, w, 0)
        scale = four_single(four_mul(column_entries(unit, there, rstd, 0), scale))
        slope = four_single(column_entries(unit, there, table, SLOPE * units))
        shift = four_single(column_entries(unit, there, table, SHIFT * units))
        step = quotient(BLOCK, threads_of_row)
        first = (strip_chunk - sample * chunks) * chunk
        last, row = min(rows, first + chunk), first + quotient(thread(), threads_of_row)
        at = four_next(column, (sample * rows + row) * width)
        while row < last:
            for j in range(BATCH):
                here = row_present(there, row + j * step, last)
                hold(held, j, take(wide, x, four_next(at, j * step * width), here, 0))
                hold(given, j, take(wide, dy, four_next(at, j * step * width), here, 0))
            if wide:
                wait(held, given, chunk)
            for j in range(BATCH):
                u = four_fma(recall(given, j), scale, shift)
                v = four_fma(four_minus(recall(held, j), m), slope, u)
                put(wide, dx, four_next(at, j * step * width), row_present(there, row + j * step, last), 0, v)
            row += BATCH * step
            at = four_next(at, BATCH * step * width)

    return kernel
