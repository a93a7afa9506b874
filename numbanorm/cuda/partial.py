"""Partial sums: what a block adds up before another kernel joins the blocks' sums.

*Tiles* for runs, a part of a run at a time; *columns* for what is summed down the rows. Both sum one of:

    SUM        x
    SQUARES    (x - mean)²
    BOTH       x, and the squares about the part's own mean (method "welford": x is read once)
    PRODUCTS   u, u * d and d, with d = x - mean, u = dy * weight
    WEIGHTS    dy * (d * rstd + offset) and dy: rows with statistics of their own, for the gradients of their parameters
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float64, int32

from .device import barrier, block, device, fma, mul, quotient, read1, store1, thread
from .elementwise import parameters
from .sums import plus, ratio, scaled_square
from .tiles import (
    HELD,
    ROOM,
    STEPS,
    begins,
    deposit,
    fetch,
    fold,
    four,
    four_distances,
    four_mul,
    four_products,
    four_terms,
    hold,
    items,
    join,
    present,
    recall,
    same,
    withdraw,
)

SUM, SQUARES, BOTH, PRODUCTS, WEIGHTS = 0, 1, 2, 3, 4
PLANES = {SUM: 1, SQUARES: 1, BOTH: 2, PRODUCTS: 3, WEIGHTS: 2}  # accumulators that each gives
BLOCK = 128  # threads of a block
ROOMS = 3 * ROOM  # a place for each sum: so no barrier is needed between them
COLUMN_ROOM = 4 * 2 * BLOCK


@device
def put_sum(p, at, acc):
    """Write an accumulator to partials (n, parts)."""
    if len(acc) == 1:
        store1(p, at, acc[0])
    else:
        store1(p, 2 * at, acc[0])
        store1(p, 2 * at + 1, acc[1])


@device
def get_sum(p, at, like):
    if len(like) == 1:
        return (read1(p, at),)
    return read1(p, 2 * at), read1(p, 2 * at + 1)


@device
def note_one(acc, item, begin, p, n, plane):
    """Write an item's sum, which every thread of it has, in its first thread."""
    if begin == 0 and item < n:
        put_sum(p, plane * n + item, acc)


@device
def note_sums(wide, sums, item, begin, p, n, plane):
    note_one(sums[0], item[0], begin[0], p, n, plane)
    if not wide:
        note_one(sums[1], item[1], begin[1], p, n, plane)
        note_one(sums[2], item[2], begin[2], p, n, plane)
        note_one(sums[3], item[3], begin[3], p, n, plane)


@device
def unit_of(run, per_sample, groups, channels):
    """Whose statistics a run has: a sample is `per_sample` runs of `groups` channels, so many `channels` of a group."""
    return quotient(quotient(run, per_sample) * groups + run - quotient(run, groups) * groups, channels)


@device
def place(item, begin, spans, span, length):
    """Where an item's element lies in x: runs of `length` lie one after the other, each in `spans` items."""
    run = quotient(item, spans)
    return run * length + (item - run * spans) * span + begin


@device
def inside(item, begin, n, spans, span, length):
    """Elements from `begin` to the item's end; none if there is no such item."""
    rest = length - (item - quotient(item, spans) * spans) * span
    return int32((span if rest > span else rest) - begin if item < n else 0)


@device
def parameter_base(item, spans, groups, per_run):
    """Where the parameters of an item's run begin, `groups` runs having `per_run` each of their own."""
    run = quotient(item, spans)
    return (run - quotient(run, groups) * groups) * per_run


@device
def in_run(item, begin, spans, span):
    """Where an item's element lies in its run."""
    return (item - quotient(item, spans) * spans) * span + begin


@device
def mean_of(item, mean, n, spans, per_sample, groups, channels):
    return read1(mean, unit_of(quotient(item, spans), per_sample, groups, channels)) if item < n else 0.0


@device
def own_mean(acc, left, begin):
    """The mean of a tile, or of what there is of it."""
    return ratio(acc, float64(max(left + begin, 1)))[0]


four_places, four_inside = four(place, 2), four(inside, 2)
four_bases, four_in_runs = four(parameter_base, 1), four(in_run, 2)
four_means, four_own_means = four(mean_of, 1), four(own_mean, 3)


def tiles(kind: int, wide: bool, parts: int, center: bool, pointwise: bool, weighted: bool) -> Any:
    """x (and dy): runs of `length` elements, one after the other -> partials (planes, n, parts) of n items.

    mean: float64 (units,), 0 without `center`; w: the weights of `groups` runs, each for t elements, if `weighted`.
    """
    nothing = ((0.0,) * parts,) * 4
    weights = parameters(wide, pointwise, weighted, 1.0)
    centered = center and kind in (SQUARES, PRODUCTS)

    def kernel(x, dy, w, mean, out, n, spans, span, length, per_sample, groups, channels, t, per):
        room = cuda.shared.array(ROOMS, float64)
        item, begin = items(wide, per), begins(wide, per)
        at, left = four_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        base, where = four_bases(item, spans, groups, quotient(length, t)), four_in_runs(item, begin, spans, span)
        u, product_, d_ = nothing, nothing, nothing
        means = same(0.0)
        if centered:
            means = four_means(item, mean, n, spans, per_sample, groups, channels)
        for j in range(STEPS):
            v = fetch(wide, x, at, left, j)
            if kind == SUM:
                u = four_terms(u, v)
            else:
                d = four_distances(v, means, present(left, j))
                if kind == SQUARES:
                    u = four_products(u, d, d)
                else:
                    g = four_mul(fetch(wide, dy, at, left, j), weights(w, base, where, left, j, t))
                    u, product_, d_ = four_terms(u, g), four_products(product_, g, d), four_terms(d_, d)
        note_sums(wide, join(wide, fold(wide, u), per, room, 0), item, begin, out, n, 0)
        if kind == PRODUCTS:
            note_sums(wide, join(wide, fold(wide, product_), per, room, ROOM), item, begin, out, n, 1)
            note_sums(wide, join(wide, fold(wide, d_), per, room, 2 * ROOM), item, begin, out, n, 2)

    return kernel


def tile_moments(wide: bool, parts: int) -> Any:
    """x: runs of `length` elements -> of each tile its sum, and the squares about its own mean: out (2, n, parts)."""
    nothing = ((0.0,) * parts,) * 4

    def kernel(x, out, n, spans, length):
        held = cuda.local.array(HELD, float64)
        item, begin = items(wide, 1), begins(wide, 1)
        at, left = four_places(item, begin, spans, 256, length), four_inside(item, begin, n, spans, 256, length)
        a, q = nothing, nothing
        for j in range(STEPS):
            v = fetch(wide, x, at, left, j)
            hold(held, j, v)
            a = four_terms(a, v)
        a = fold(wide, a)
        means = four_own_means(a, left, begin)
        for j in range(STEPS):
            d = four_distances(recall(held, j), means, present(left, j))
            q = four_products(q, d, d)
        note_sums(wide, a, item, begin, out, n, 0)
        note_sums(wide, fold(wide, q), item, begin, out, n, 1)

    return kernel


@device
def column_of(wide, e, first, wide_block):
    """A thread's column e, the block's `wide_block` columns beginning at `first`."""
    tx = thread() & ((wide_block >> 2) - 1)
    return first + (4 * tx + e if wide else tx + (wide_block >> 2) * e)


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
    return 1 if column < width else 0


@device
def column_unit(column, sample, width, length, groups):
    """Whose statistics a column has: `length` columns of a row are a group, and rows may be folded into one."""
    own = column - quotient(column, width) * width
    return sample * groups + quotient(own, length)


@device
def column_mean(unit, there, mean):
    return read1(mean, unit) if there > 0 else 0.0


@device
def row_offset(rstd, delta):
    return -mul(delta, rstd)


@device
def normalized(d, rstd, offset):
    return fma(d, rstd, offset)


four_within, four_units, four_column_means = four(within, 1), four(column_unit, 1), four(column_mean, 2)
four_offsets, four_normalized = four(row_offset, 2), four(normalized, 3)


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
    if there > 0:
        put_sum(p, at + column, acc)


four_put = four(put_column, 3)


@device
def next_row(column, step):
    return column + step


four_next = four(next_row, 1)


def columns(kind: int, wide: bool, parts: int, center: bool, corrected: bool = False) -> Any:
    """x (and dy): (samples, rows, width) -> sums down `per` blocks of rows, out (planes, samples, chunks, width, parts).

    mean (and rstd, delta): float64, of `groups` of `length` columns each, the columns `real` wide before folding; of a
    sample, or (WEIGHTS) of each row, with delta if `corrected`. A block of threads takes `span` columns and as many blocks of
    rows as it has rows of threads, BLOCK / (span / 4).
    """
    nothing = ((0.0,) * parts,) * 4
    centered = center and kind in (SQUARES, PRODUCTS)
    planes = PLANES[kind]

    def kernel(x, dy, mean, rstd, delta, out, samples, rows, width, real, length, groups, span, per_block, chunks, per):
        room = cuda.shared.array(COLUMN_ROOM, float64)
        strips = quotient(width + span - 1, span)
        strip_chunk = quotient(block(), strips)
        sample = quotient(strip_chunk, chunks)
        row_of_threads = quotient(thread(), span >> 2)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there = four_within(column, width)
        chunk = strip_chunk - sample * chunks
        k = chunk * per + row_of_threads
        last = min(rows, (k + 1) * per_block)
        means = same(0.0)
        if centered:
            means = four_column_means(four_units(column, sample, real, length, groups), there, mean)
        a, q, s = nothing, nothing, nothing
        row = k * per_block
        at = four_next(column, (sample * rows + row) * width)
        while row < last:
            v = fetch(wide, x, at, there, 0)
            if kind == WEIGHTS:
                unit = four_units(column, row, real, length, groups)
                g, r = fetch(wide, dy, at, there, 0), four_column_means(unit, there, rstd)
                offset = same(-0.0)
                if center:
                    means = four_column_means(unit, there, mean)
                if corrected:
                    offset = four_offsets(r, four_column_means(unit, there, delta))
                h = four_normalized(four_distances(v, means, present(there, 0)), r, offset)
                a, q = four_products(a, g, h), four_terms(q, g)
            elif kind in (SUM, BOTH):
                a = four_terms(a, v)
            else:
                d = four_distances(v, means, present(there, 0))
                if kind == SQUARES:
                    a = four_products(a, d, d)
                else:
                    g = fetch(wide, dy, at, there, 0)
                    a, q, s = four_terms(a, g), four_products(q, g, d), four_terms(s, d)
            at = four_next(at, width)
            row += 1
        if kind == BOTH:
            row = k * per_block
            means = four_own_means(a, same(max(last - row, 1)), same(0))
            at = four_next(column, (sample * rows + row) * width)
            while row < last:
                d = four_distances(fetch(wide, x, at, there, 0), means, present(there, 0))
                q = four_products(q, d, d)
                at = four_next(at, width)
                row += 1
            if k * per_block < rows:
                blocks = quotient(rows + per_block - 1, per_block)
                four_put(a, column, there, out, (sample * blocks + k) * width)
                four_put(q, column, there, out, ((samples + sample) * blocks + k) * width)
        else:
            blocks = quotient(rows + per_block - 1, per_block) - chunk * per
            plane, first_ = samples * chunks * width, strip_chunk * width
            a = pairs_of_blocks(a, room, row_of_threads, per, blocks)
            if row_of_threads == 0:
                four_put(a, column, there, out, first_)
            if planes > 1:
                q = pairs_of_blocks(q, room, row_of_threads, per, blocks)
                if row_of_threads == 0:
                    four_put(q, column, there, out, plane + first_)
            if planes > 2:
                s = pairs_of_blocks(s, room, row_of_threads, per, blocks)
                if row_of_threads == 0:
                    four_put(s, column, there, out, 2 * plane + first_)

    return kernel


def merge(parts: int, by_columns: bool) -> Any:
    """Squares about the means of their own parts -> about the group's mean (Chan, Golub, LeVeque 1979), in place.

    moments: (2, n, parts), sums and squares. Parts of runs: `per` to a run, each of 256 elements but for the last. Parts of
    columns: (samples, per, width), each of `size` rows but for the last.
    """
    zero = (0.0,) * parts

    def kernel(moments, mean, n, per, size, length, per_sample, groups, channels, width):
        i = block() * BLOCK + thread()
        if i < n:
            if by_columns:
                row = quotient(i, width)
                sample = quotient(row, per)
                part, unit = row - sample * per, column_unit(i - row * width, sample, per_sample, channels, groups)
            else:
                run = quotient(i, per)
                part, unit = i - run * per, unit_of(run, per_sample, groups, channels)
            count = float64(min(size, length - part * size))
            high, low = ratio(get_sum(moments, i, zero), count)
            d = (high - read1(mean, unit)) + low
            put_sum(moments, n + i, scaled_square(get_sum(moments, n + i, zero), count, d))

    return kernel
