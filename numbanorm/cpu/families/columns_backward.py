"""Gradients, family *columns*: many short runs.

A channel is summed as in the forward pass: the row tree for each column, then the run tree over its columns.
"""

from __future__ import annotations

import math

from numba import int64

from ..arith.accumulators import advance_by, block_rows, drain, empty, get, push, put
from ..arith.elementwise import (
    affine_columns,
    gradient_columns,
    lost,
    rows_of_parameters,
)
from ..arith.gradient_sums import SUMS, add_row_products, as_one
from ..arith.vectors import advance, fill, named, repeat
from ..compile import device, kernel
from ..layout import (
    ALONE,
    ANCHOR,
    CENTER,
    FUSED,
    JOIN,
    LANE_ROOM,
    MEASURE,
    PARAMETERS,
    PIECE,
    REDUCE,
    ROOT,
    SHIFT,
    SHIFT_LOW,
    SLOPE,
    SLOPE_LOW,
    TALL,
    UNIT,
    WRITE,
    ColumnsGradientSizes,
)
from .channels import reduce_samples, settle_group
from .columns import group_total


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
def join_columns(todo, x, partials, chunks, room, sizes, u, groups, w, table, totals, count, stack, sums, scratch):
    """Chunks' sums (chunks, SUMS, room) of a strip of `groups` groups, the first being unit u -> their channels and tables."""
    all_groups, channels, length, fold = sizes.groups, sizes.channels, sizes.length, sizes.fold
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
def expand(x, table, u, w, groups, sizes, room, out):
    """Constants of each column of `groups` groups from unit u on, side by side -> out, see `gradient_columns`."""
    all_groups, channels, length = sizes.groups, sizes.channels, sizes.length
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
        repeat(out, row * room, column, max(sizes.fold, sizes.beside))


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
def columns_backward(phase, todo, x, dy, dx, w, table, sums, grads, work, sizes, count, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN), chunks lo .. hi - 1 (MEASURE, APPLY) or channels lo .. hi - 1 (REDUCE).

    Arrays as in `runs_backward`; sizes: `ColumnsGradientSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, parameters), then the sums of all chunks.
    """
    sizes = named(sizes, ColumnsGradientSizes)
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
    ) = sizes
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
            expand(x, table, u, w, groups, sizes, room, parameters)
            strip_products(x, dy, i, k0, k1, rows, stride * fold, width * fold, room, parameters, stack, out)
        if whole:
            n = int64(1) if phase == FUSED else chunks
            join_columns(todo, x, out, n, room, sizes, u, groups, w, table, sums, count, stack, column_sums, lane_sums)
        if todo & WRITE and phase != JOIN:
            expand(x, table, u, w, groups, sizes, room, parameters)
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
