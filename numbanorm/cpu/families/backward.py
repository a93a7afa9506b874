"""Backward kernels. Three families, by where a weight's elements lie; all sum dy, dy * d and d (see `products`).

*runs*: T elements of a run share a weight. A channel of a sample, M runs of T, is summed as in the forward pass: the run
tree over each run, then the row tree over the runs.

*columns*: many short runs. A channel is summed as in the forward pass: the row tree for each column, then the run tree over
its columns.

In both, dweight and dbias are the row tree over the samples of what the channel's sums give, and a group's sums are the row
tree over its channels, each times its weight. So x and dy are read once for all gradients of parameters, and once for dx.

*rows*: one run a group, and hardly two elements share a weight (layer norm). u = dy * weight is summed by the run tree.
dweight and dbias are the row tree over the samples for each column, summed while dx is written.
"""

from __future__ import annotations

import math

from numba import boolean, int64

from ..arith.accumulators import advance_by, block_rows, drain, get, plus, push, put, value
from ..arith.elementwise import (
    affine_columns,
    affine_run,
    gradient_columns,
    gradient_rows,
    gradient_run,
    lost,
    rows_of_parameters,
)
from ..arith.gradient_sums import SUMS, add_row_products, as_one, empty, gradients_of, numbers, settle, span_products, weighted
from ..arith.vectors import advance, fill, repeat, unpacked
from ..compile import device, kernel
from ..layout import (
    ALONE,
    ANCHOR,
    APPLY,
    CENTER,
    FUSED,
    JOIN,
    LANE_ROOM,
    LEVELS,
    MEASURE,
    OFFSET,
    PARAMETERS,
    PIECE,
    REDUCE,
    ROOT,
    SHIFT,
    SHIFT_LOW,
    SLOPE,
    SLOPE_LOW,
    STREAM,
    TALL,
    UNIT,
    WRITE,
)
from .columns import group_total
from .runs import group_sum, rows_together


@device(inline=False)
def settle_group(todo, x, sums, w, u, channels, table, count, stack, first):
    """The sums of the channels of group u, times their weights (w from `first` on), in the row tree -> its table."""
    rows = block_rows(channels)
    blocks = (channels + rows - 1) // rows
    for b in range(blocks):
        a = empty(x, 4)
        for k in range(b * rows, min(channels, (b + 1) * rows)):
            a = plus(a, weighted(get(sums, 4 * (u * channels + k), empty(x, 4)), w[first + k]))
        push(stack, int64(0), int64(4), b, a)
    settle(todo, drain(stack, int64(0), int64(4), blocks, empty(x, 4)), table, UNIT * u, count)


@device(inline=False)
def reduce_samples(x, sums, table, grads, samples, groups, channels, lo, hi, stack):
    """dweight and dbias of channels lo .. hi - 1: the row tree over the samples. sums: (samples, groups * channels, 4)."""
    rows, every = block_rows(samples), groups * channels
    blocks = (samples + rows - 1) // rows
    for c in range(lo, hi):
        for k in range(blocks):
            a = empty(x, 4)
            for b in range(k * rows, min(samples, (k + 1) * rows)):
                unit = UNIT * (b * groups + c // channels)
                a = plus(a, gradients_of(get(sums, 4 * (b * every + c), empty(x, 4)), table[unit + ROOT], table[unit + OFFSET]))
            push(stack, int64(0), int64(4), k, a)
        grads[every + c], grads[c] = numbers(drain(stack, int64(0), int64(4), blocks, empty(x, 4)))


# --- runs ------------------------------------------------------------------------------------------------------------


@device()
def first_run(c, dims):
    """Where the first run of channel c, counted over all samples, starts; the next one is G * K * T elements further on."""
    runs, every, length = dims[1], dims[2] * dims[3], dims[4]
    if runs == 1:  # two divisions a channel take a twentieth of the time of 196 elements
        return c * length
    return (c // every * runs * every + c % every) * length


@device()
def apply_run(todo, x, dy, dx, i, n, ahead, w, table, u, c):
    """dx[i : i + n] of a run of unit u, whose weight is w[c]."""
    unit, streaming = UNIT * u, boolean(todo & STREAM)
    if todo & CENTER:
        gradient_run(streaming, x, dy, dx, i, n, ahead, w[c], advance(table, unit))
    else:  # given statistics: dx = dy * scale, whatever x is
        affine_run(streaming, dy, dx, i, n, ahead, 0.0, table[unit + ROOT], -0.0, w[c], -0.0)


@kernel()
def runs_backward(phase, todo, x, dy, dx, w, table, sums, grads, work, dims, count, lo, hi, slot):
    """Groups lo .. hi - 1 (phases FUSED, JOIN), spans lo .. hi - 1 (MEASURE, APPLY) or channels lo .. hi - 1 (REDUCE).

    x, dy, dx: where (size,) elements are; w: float64 (G * K,); table: float64 (units, UNIT), see `jobs`; sums: float64
    (B * G * K, 4); grads: float64 (2, G * K), dweight and dbias; dims: (B, M, G, K, T, elements ahead to prefetch, elements a
    span, scratch, slots). work: `slots` scratch areas of `scratch` float64 (stack, partials), then the channels' partials.
    """
    dims = unpacked(dims, 9)
    samples, runs, groups, channels, length, ahead, span, scratch, slots = dims
    spans = (length + span - 1) // span
    stack, one = advance(work, slot * scratch), empty(x, 1)
    each = runs * spans
    stride = groups * channels * length  # from a run to the next one of its channel
    next_run = ahead if runs > 1 else 0
    if phase == FUSED:
        partials, together = advance_by(stack, 8 * LEVELS, one), rows_together(runs * channels * length)
        for first in range(lo, hi, together):
            units = min(hi, first + together)
            for c in range(first * channels, units * channels):
                i, place, mean = first_run(c, dims), 0, table[UNIT * (c // channels) + ANCHOR]
                for _ in range(runs):
                    for e in range(0, length, span):
                        n = min(span, length - e)
                        put(partials, place, span_products(x, dy, i + e, n, next_run, mean, 1.0, int64(0), stack))
                        place += 4
                    i += stride
                put(sums, 4 * c, group_sum(partials, empty(x, 4), int64(4), runs, spans, stack))
            own = first % groups * channels
            for u in range(first, units):
                settle_group(todo, x, sums, w, u, channels, table, count, stack, own)
                own = own + channels if own + channels < groups * channels else 0
            if todo & WRITE:
                own = first % groups * channels
                for u in range(first, units):
                    i = first_run(u * channels, dims)
                    for _ in range(runs):
                        for k in range(channels):
                            apply_run(todo, x, dy, dx, i + k * length, length, ahead, w, table, u, own + k)
                        i += stride
                    own = own + channels if own + channels < groups * channels else 0
    elif phase == MEASURE:
        partials = advance(work, slots * scratch)
        for p in range(lo, hi):
            c, j, e = p // each, p // spans % runs, p % spans * span
            i, mean = first_run(c, dims) + j * stride + e, table[UNIT * (c // channels) + ANCHOR]
            put(partials, 4 * p, span_products(x, dy, i, min(span, length - e), int64(0), mean, 1.0, int64(0), stack))
    elif phase == JOIN:
        partials = advance(work, slots * scratch)
        for u in range(lo, hi):
            for c in range(u * channels, (u + 1) * channels):
                put(
                    sums,
                    4 * c,
                    group_sum(advance_by(partials, 4 * c * each, one), empty(x, 4), int64(4), runs, spans, stack),
                )
            settle_group(todo, x, sums, w, u, channels, table, count, stack, u % groups * channels)
    elif phase == APPLY:
        for p in range(lo, hi):
            run, e = p // spans, p % spans * span
            c = run % (groups * channels)
            u = run // (groups * channels * runs) * groups + c // channels
            apply_run(todo, x, dy, dx, run * length + e, min(span, length - e), ahead, w, table, u, c)
    if phase == REDUCE or (todo & ALONE and todo & PARAMETERS):
        first, last = (lo, hi) if phase == REDUCE else (0, groups * channels)
        reduce_samples(x, sums, table, grads, samples, groups, channels, first, last, stack)


# --- columns ---------------------------------------------------------------------------------------------------------


@device(inline=False)
def strip_products(x, dy, i, first, last, rows, stride, width, room, means, stack, out):
    """Row trees of `width` columns over their blocks first .. last - 1 -> out[k * room + column] for each sum k."""
    step, wide = block_rows(rows), SUMS * PIECE
    acc, levels = stack, advance_by(stack, wide, empty(x, 1))
    for start in range(0, width, PIECE):
        size = min(PIECE, width - start)
        for k in range(first, last):
            n, at = min(step, rows - k * step), i + k * step * stride + start
            even = (k - first) & 1 == 0  # the first of a pair waits where it is summed
            together, here = n if stride <= TALL else 8, levels if even else acc
            add_row_products(x, dy, at, n, together, stride, size, advance(means, start), here, int64(PIECE))
            if not even:
                for q in range(0, wide, PIECE):
                    for c in range(q, q + size, 16):
                        push(levels, c, int64(wide), k - first, get(acc, c, empty(x, 16)))
        for q in range(SUMS):
            for c in range(0, size, 16):
                put(out, q * room + start + c, drain(levels, q * PIECE + c, int64(wide), last - first, empty(x, 16)))


@device(inline=False)
def join_columns(todo, x, partials, chunks, room, dims, u, groups, w, table, totals, count, stack, sums, scratch):
    """Chunks' sums (chunks, SUMS, room) of a strip of `groups` groups, the first being unit u -> their channels and tables."""
    _, _, all_groups, channels, length, _, _, _, _, _, fold, _, _, _, _ = dims
    if chunks == 1:
        sums = partials
    else:
        for c in range(0, SUMS * room, 16):
            for q in range(chunks):
                push(stack, int64(0), int64(16), q, get(partials, q * SUMS * room + c, empty(x, 16)))
            put(sums, c, drain(stack, int64(0), int64(16), chunks, empty(x, 16)))
    stride = all_groups * channels * length
    for k in range(groups * channels):
        at = k * length
        one = group_total(sums, at, length, fold, stride, empty(x, 1), scratch)
        two = group_total(sums, at + room, length, fold, stride, empty(x, 1), scratch)
        three = group_total(sums, at + 2 * room, length, fold, stride, empty(x, 1), scratch)
        put(totals, 4 * (u * channels + k), as_one(one, two, three))
    for g in range(groups):
        settle_group(todo, x, totals, w, u + g, channels, table, count, stack, (u + g) % all_groups * channels)


@device(inline=False)
def expand(x, table, u, w, groups, dims, room, out):
    """Constants of each column of `groups` groups from unit u on, side by side -> out, see `gradient_columns`."""
    _, _, all_groups, channels, length, _, _, _, _, _, fold, beside, _, _, _ = dims
    column, rows = 0, rows_of_parameters(x)
    for g in range(u, u + groups):
        unit = UNIT * g
        for k in range(channels):
            rstd, weight = table[unit + ROOT], w[g % all_groups * channels + k]
            high = table[unit + ANCHOR], rstd * weight, table[unit + SLOPE], table[unit + SHIFT]
            numbers = (*high, lost(rstd, weight), table[unit + SLOPE_LOW], table[unit + SHIFT_LOW])
            for row in range(rows):
                if length == 1:
                    out[column + row * room] = numbers[row]
                else:
                    fill(out, column + row * room, length, numbers[row])
            column += length
    for row in range(rows):
        repeat(out, row * room, column, max(fold, beside))


@device(inline=False)
def apply_columns(todo, x, dy, dx, i, rows, together, stride, width, parameters, room):
    """dx of `width` columns from i on in `rows` rows."""
    if todo & CENTER:
        gradient_columns(x, dy, dx, i, rows, together, stride, width, parameters, room)
    else:  # given statistics: dx = dy * scale, whatever x is, and a zero has the sign that the forward kernels give it
        for c in range(width):
            parameters[c], parameters[c + 2 * room] = 0.0, math.copysign(0.0, -parameters[c + room])
        affine_columns(dy, dx, i, rows, together, stride, width, parameters, room)


@kernel()
def columns_backward(phase, todo, x, dy, dx, w, table, sums, grads, work, dims, count, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN), chunks lo .. hi - 1 (MEASURE, APPLY) or channels lo .. hi - 1 (REDUCE).

    Arrays as in `runs_backward`; dims: (B, rows = M / fold, G, K, T, groups a strip, chunks a strip, blocks a chunk, size of
    the stack, room of a strip, fold, rows side by side when they are written, rows that share loads then, scratch, slots).
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, parameters), then the sums of all chunks.
    """
    dims = unpacked(dims, 15)
    (
        samples,
        rows,
        all_groups,
        channels,
        length,
        most,
        chunks,
        per_chunk,
        stack_size,
        room,
        fold,
        beside,
        together,
        scratch,
        slots,
    ) = dims
    strips, stride, step = (all_groups + most - 1) // most, all_groups * channels * length, block_rows(rows)
    blocks = (rows + step - 1) // step
    stack, one = advance(work, slot * scratch), empty(x, 1)
    column_sums = advance_by(stack, stack_size, one)
    lane_sums = advance_by(column_sums, SUMS * room, one)
    parameters = advance_by(lane_sums, LANE_ROOM, one)
    partials = advance(work, slots * scratch)
    whole = phase in (FUSED, JOIN)
    for p in range(lo, hi if phase != REDUCE else lo):
        strip, chunk = (p, 0) if whole else (p // chunks, p % chunks)
        sample, g = strip // strips, strip % strips * most
        groups = min(most, all_groups - g)
        u, i = sample * all_groups + g, sample * rows * fold * stride + g * channels * length
        width = groups * channels * length
        k0, k1 = (0, blocks) if whole else (chunk * per_chunk, min(blocks, (chunk + 1) * per_chunk))
        out = column_sums if phase == FUSED else advance_by(partials, (strip * chunks + chunk) * SUMS * room, one)
        if phase in (FUSED, MEASURE):
            expand(x, table, u, w, groups, dims, room, parameters)
            strip_products(x, dy, i, k0, k1, rows, stride * fold, width * fold, room, parameters, stack, out)
        if whole:
            n = int64(1) if phase == FUSED else chunks
            join_columns(todo, x, out, n, room, dims, u, groups, w, table, sums, count, stack, column_sums, lane_sums)
        if todo & WRITE and phase != JOIN:
            expand(x, table, u, w, groups, dims, room, parameters)
            n, at = (min(rows, k1 * step) - k0 * step) * fold, i + k0 * step * fold * stride
            if beside == 1:
                apply_columns(todo, x, dy, dx, at, n, together, stride, width, parameters, room)
            else:
                wide = beside * stride
                apply_columns(todo, x, dy, dx, at, n // beside, together, wide, wide, parameters, room)
                apply_columns(todo, x, dy, dx, at + n // beside * wide, 1, 1, wide, n % beside * stride, parameters, room)
    if phase == REDUCE or (todo & ALONE and todo & PARAMETERS):
        first, last = (lo, hi) if phase == REDUCE else (0, all_groups * channels)
        reduce_samples(x, sums, table, grads, samples, all_groups, channels, first, last, stack)


# --- rows ------------------------------------------------------------------------------------------------------------


@device(inline=False)
def rows_chunk(phase, todo, x, dy, dx, w, table, dims, count, stack, partials, q, strip):
    """Chunk q of a strip, which is (first group, groups, first column, columns): dx, and dweight and dbias -> partials.

    In phase FUSED, which takes all columns, the rows' own sums come first, some rows ahead.
    """
    rows, all_groups, length, _, padded, _, together, per_chunk, _, _, _, _ = dims
    g, groups, c0, width = strip
    step, own = block_rows(rows), padded * groups if phase == FUSED else (width + 15) // 16 * 16
    k0, k1 = q * per_chunk, min((rows + step - 1) // step, (q + 1) * per_chunk)
    one, room = empty(x, 1), padded * all_groups
    out = advance_by(partials, q * 2 * room + g * padded + c0, one)
    acc = advance_by(stack, 4 * LEVELS, one)
    levels, wide = advance_by(acc, 2 * own, one), 2 * own
    write, add = boolean(todo & WRITE), boolean(todo & PARAMETERS)
    for k in range(k0, k1):
        last, even = min(rows, (k + 1) * step), (k - k0) & 1 == 0
        here = levels if even else acc  # the first of a pair waits where it is summed
        for r in range(k * step, last, together):
            n, fresh = min(together, last - r), r == k * step
            if phase == FUSED:
                for u in range(r * all_groups, (r + n) * all_groups):
                    at = u % all_groups * length
                    total = span_products(x, dy, u * length, length, int64(0), table[UNIT * u + ANCHOR], w, at, stack)
                    settle(todo, total, table, UNIT * u, count)
            for j in range(g, g + groups):
                u = r * all_groups + j
                i, weights, units = u * length + c0, advance(w, j * length + c0), advance(table, UNIT * u)
                place = advance_by(here, (j - g) * padded, one)
                apart = UNIT * all_groups
                gradient_rows(write, add, fresh, x, dy, dx, i, n, all_groups * length, width, weights, units, apart, place, own)
        if add and not even:
            for c in range(0, wide, 16):
                push(levels, c, wide, k - k0, get(acc, c, empty(x, 16)))
    if add:
        for q in range(2):
            for c in range(0, own, 16):
                put(out, q * room + c, drain(levels, q * own + c, wide, k1 - k0, empty(x, 16)))


@device(inline=False)
def reduce_chunks(x, partials, grads, dims, chunks, room, lane_sums, stack):
    """dweight and dbias: the pairs of the chunks' sums (chunks, 2, room), then the run tree over what shares a weight."""
    _, groups, length, t, padded, _, _, _, _, _, _, _ = dims
    for c in range(0, 2 * room, 16):
        for q in range(chunks):
            push(stack, int64(0), int64(16), q, get(partials, q * 2 * room + c, empty(x, 16)))
        put(partials, c, drain(stack, int64(0), int64(16), chunks, empty(x, 16)))
    channels = length // t
    for q in range(2):
        for g in range(groups):
            for k in range(channels):
                total = group_total(partials, q * room + g * padded + k * t, t, int64(1), int64(0), empty(x, 1), lane_sums)
                grads[(q * groups + g) * channels + k] = value(total)


@kernel()
def rows_backward(phase, todo, x, dy, dx, w, table, sums, grads, work, dims, count, lo, hi, slot):
    """Chunks of rows lo .. hi - 1 (phase FUSED), spans (MEASURE), groups (JOIN), pieces of chunks (APPLY), or all (REDUCE).

    Arrays as in `runs_backward`, but w: float64 (G * L,), a weight for each element of a row, and sums: float64 (units *
    spans, 4); dims: (B, G, L, T, L rounded up to 16, elements a span, rows together, blocks a chunk, chunks, columns a
    strip, scratch, slots). work: `slots` scratch areas (stack, columns' sums and their levels), then the chunks' sums.
    """
    dims = unpacked(dims, 12)
    _, groups, length, _, padded, span, _, _, chunks, columns, scratch, slots = dims
    spans = (length + span - 1) // span
    stack, one = advance(work, slot * scratch), empty(x, 1)
    partials = advance(work, slots * scratch)
    if phase == FUSED:
        for q in range(lo, hi):
            rows_chunk(phase, todo, x, dy, dx, w, table, dims, count, stack, partials, q, (int64(0), groups, int64(0), length))
    elif phase == MEASURE:
        for p in range(lo, hi):
            u, s = p // spans, p % spans
            i, at = u * length + s * span, u % groups * length + s * span
            n = min(span, length - s * span)
            put(sums, 4 * p, span_products(x, dy, i, n, int64(0), table[UNIT * u + ANCHOR], w, at, stack))
    elif phase == JOIN:
        for u in range(lo, hi):
            for s in range(spans):
                push(stack, int64(0), int64(4), s, get(sums, 4 * (u * spans + s), empty(x, 4)))
            settle(todo, drain(stack, int64(0), int64(4), spans, empty(x, 4)), table, UNIT * u, count)
    elif phase == APPLY:
        strips = (length + columns - 1) // columns
        for p in range(lo, hi):
            q, g, c0 = p // (strips * groups), p // strips % groups, p % strips * columns
            strip = g, int64(1), c0, min(columns, length - c0)
            rows_chunk(phase, todo, x, dy, dx, w, table, dims, count, stack, partials, q, strip)
    if phase == REDUCE or (todo & ALONE and todo & PARAMETERS):
        reduce_chunks(x, partials, grads, dims, chunks, padded * groups, advance_by(stack, 16 * LEVELS, one), stack)
