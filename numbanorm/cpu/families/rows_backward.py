"""Gradients, family *rows*: one run a group, and hardly two elements share a weight (layer norm).

u = dy * weight is summed by the run tree. dweight and dbias are the row tree over the samples for each column, summed while
dx is written.
"""

from __future__ import annotations

from numba import boolean, int64

from ..arith.accumulators import advance_by, block_rows, drain, empty, get, push, put, value
from ..arith.gradient_elements import gradient_rows, own_weights
from ..arith.gradient_sums import settle, span_products
from ..arith.statistics import divisor, divisors
from ..arith.vectors import advance, named
from ..compile import device, kernel
from ..layout import (
    ALONE,
    ANCHOR,
    APPLY,
    FUSED,
    JOIN,
    LEVELS,
    MEASURE,
    PARAMETERS,
    REDUCE,
    STREAM,
    UNIT,
    WRITE,
    Block,
    GradientArrays,
    RowsGradientSizes,
)
from .columns import group_total, join_chunks


@device(inline=False)
def rows_chunk(phase, flags, arrays, sizes, stack, partials, q, strip):
    """Chunk q of a strip, which is (first group, groups, first column, columns): dx, and dweight and dbias -> partials.

    In phase FUSED, which takes all columns, the rows' own sums come first, some rows ahead.
    """
    x, dy, dx, w, table, count = arrays
    rows, all_groups, length, padded = sizes.rows, sizes.groups, sizes.length, sizes.padded
    g, groups, c0, width = strip
    step, own = block_rows(rows), padded * groups if phase == FUSED else (width + 15) // 16 * 16
    k0, k1 = q * sizes.per_chunk, min((rows + step - 1) // step, (q + 1) * sizes.per_chunk)
    one, room, apart = empty(x, 1), padded * all_groups, UNIT * all_groups
    out = advance_by(partials, q * 2 * room + g * padded + c0, one)
    acc = advance_by(stack, 4 * LEVELS, one)
    levels, wide = advance_by(acc, 2 * own, one), 2 * own
    write, add = boolean(flags & WRITE), boolean(flags & PARAMETERS)
    for k in range(k0, k1):
        last, even = min(rows, (k + 1) * step), (k - k0) & 1 == 0
        here = levels if even else acc  # the first of a pair waits where it is summed
        for r in range(k * step, last, sizes.together):
            n = min(sizes.together, last - r)
            if phase == FUSED:
                for u in range(r * all_groups, (r + n) * all_groups):
                    weights, mean = advance(w, u % all_groups * length), table[UNIT * u + ANCHOR]
                    total = span_products(x, dy, u * length, length, int64(0), mean, weights, stack)
                    settle(flags, total, advance(table, UNIT * u), divisor(count, u, int64(1), one), True)
            for j in range(g, g + groups):
                u = r * all_groups + j
                block = Block(u * length + c0, n, n, all_groups * length, width)
                weights, units = advance(w, j * length + c0), (advance(table, UNIT * u), apart)
                sums = advance_by(here, (j - g) * padded, one), own
                gradient_rows((write, add, r == k * step, boolean(flags & STREAM)), x, dy, dx, block, weights, units, sums)
        if add and not even:
            for c in range(0, wide, 16):
                push(levels, c, wide, k - k0, get(acc, c, empty(x, 16)))
    if add:
        for q in range(2):
            for c in range(0, own, 16):
                put(out, q * room + c, drain(levels, q * own + c, wide, k1 - k0, empty(x, 16)))


@device(inline=False)
def reduce_chunks(x, partials, grads, sizes, chunks, room, lane_sums, stack):
    """dweight and dbias: the pairs of the chunks' sums (chunks, 2, room), then the run tree over what shares a weight."""
    groups, length, t, padded = sizes.groups, sizes.length, sizes.t, sizes.padded
    join_chunks(x, partials, partials, chunks, int64(2), room, room, stack)
    channels = length // t
    for q in range(2):
        for g in range(groups):
            for k in range(channels):
                total = group_total(partials, q * room + g * padded + k * t, t, int64(1), int64(0), empty(x, 1), lane_sums)
                grads[(q * groups + g) * channels + k] = value(total)


@kernel()
def rows_backward(phase, flags, x, dy, dx, w, table, sums, grads, work, sizes, count, lo, hi, slot):
    """Chunks of rows lo .. hi - 1 (phase FUSED), spans (MEASURE), groups (JOIN), pieces of chunks (APPLY), or all (REDUCE).

    Arrays as in `runs_backward`, but w: float64 (G * L,), a weight for each element of a row, and sums: float64 (units *
    spans, 4); sizes: `RowsGradientSizes`.
    work: `slots` scratch areas (stack, columns' sums and their levels), then the chunks' sums.
    """
    sizes = named(sizes, RowsGradientSizes)
    _, groups, length, _, padded, span, _, _, chunks, columns, scratch, slots = sizes
    w = own_weights(x, w, groups * length)
    arrays = GradientArrays(x, dy, dx, w, table, divisors(x, count))
    spans = (length + span - 1) // span
    stack, one = advance(work, slot * scratch), empty(x, 1)
    partials = advance(work, slots * scratch)
    if phase == FUSED:
        for q in range(lo, hi):
            rows_chunk(phase, flags, arrays, sizes, stack, partials, q, (int64(0), groups, int64(0), length))
    elif phase == MEASURE:
        for p in range(lo, hi):
            u, s = p // spans, p % spans
            i, own = u * length + s * span, advance(w, u % groups * length + s * span)
            n = min(span, length - s * span)
            put(sums, 4 * p, span_products(x, dy, i, n, int64(0), table[UNIT * u + ANCHOR], own, stack))
    elif phase == JOIN:
        for u in range(lo, hi):
            for s in range(spans):
                push(stack, int64(0), int64(4), s, get(sums, 4 * (u * spans + s), empty(x, 4)))
            n = divisor(arrays.n, u, int64(1), one)
            settle(flags, drain(stack, int64(0), int64(4), spans, empty(x, 4)), advance(table, UNIT * u), n, True)
    elif phase == APPLY:
        strips = (length + columns - 1) // columns
        for p in range(lo, hi):
            q, g, c0 = p // (strips * groups), p // strips % groups, p % strips * columns
            strip = g, int64(1), c0, min(columns, length - c0)
            rows_chunk(phase, flags, arrays, sizes, stack, partials, q, strip)
    if phase == REDUCE or (flags & ALONE and flags & PARAMETERS):
        reduce_chunks(x, partials, grads, sizes, chunks, padded * groups, advance_by(stack, 16 * LEVELS, one), stack)
