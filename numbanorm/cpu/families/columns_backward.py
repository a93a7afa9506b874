"""Gradients, family *columns*: many short runs.

A channel is summed as in the forward pass: the row tree for each column, then the run tree over its columns.
"""

from __future__ import annotations

from numba import boolean, int64

from ..arith.accumulators import advance_by, drain, empty, get, push, put
from ..arith.elementwise import affine_columns, put_constants, repeat_constants
from ..arith.gradient_elements import gradient_columns, narrow_rows, product_error, rows_of_parameters
from ..arith.gradient_sums import SUMS, add_row_products, as_one, sums_of
from ..arith.memory import fill, repeat
from ..arith.statistics import divisors
from ..arith.vectors import advance, named
from ..compile import device, kernel
from ..layout import (
    ALONE,
    ANCHOR,
    FUSED,
    JOIN,
    LANE_ROOM,
    MEASURE,
    OWN,
    PARAMETERS,
    PIECE,
    REDUCE,
    ROOT,
    SHIFT,
    SHIFT_LOW,
    SLOPE,
    SLOPE_LOW,
    STREAM,
    UNIT,
    WRITE,
    ColumnsGradientSizes,
    GradientArrays,
    Space,
)
from .channels import reduce_samples, settle_group
from .columns import block_at, group_total, join_chunks, side_by_side, strip_at


@device(inline=False)
def strip_products(x, dy, strip, room, means, stack, out):
    """Row trees of a strip's columns over its blocks -> out[k * room + column] for each sum k."""
    first, last, kinds = strip.first, strip.last, sums_of(x)
    wide = kinds * PIECE
    acc, levels = stack, advance_by(stack, SUMS * PIECE, empty(x, 1))
    for start in range(0, strip.width, PIECE):
        size = min(PIECE, strip.width - start)
        for k in range(first, last):
            even = (k - first) & 1 == 0  # the first of a pair waits where it is summed
            here = levels if even else acc
            add_row_products(x, dy, block_at(strip, k, start, size), advance(means, start), here, int64(PIECE))
            if not even:
                for q in range(0, wide, PIECE):
                    for c in range(q, q + size, 16):
                        push(levels, c, int64(wide), k - first, get(acc, c, empty(x, 16)))
        for q in range(kinds):
            for c in range(0, size, 16):
                put(out, q * room + start + c, drain(levels, q * PIECE + c, int64(wide), last - first, empty(x, 16)))


@device(inline=False)
def join_columns(flags, arrays, totals, sizes, strip, partials, chunks, space):
    """Chunks' sums (chunks, `sums_of`, room) of a strip -> the sums of its groups' channels, and their tables."""
    x, length, fold, room, sums = arrays.x, sizes.length, sizes.fold, sizes.room, space.sums
    if chunks == 1:
        sums = partials
    else:
        join_chunks(x, sums, partials, chunks, sums_of(x), room, strip.width, space.stack)
    stride = sizes.groups * sizes.channels * length
    for k in range(strip.groups * sizes.channels):
        at = k * length
        one = group_total(sums, at, length, fold, stride, empty(x, 1), space.lanes)
        two = group_total(sums, at + room, length, fold, stride, empty(x, 1), space.lanes)
        three = empty(x, 1)
        if sums_of(x) == SUMS:
            three = group_total(sums, at + 2 * room, length, fold, stride, three, space.lanes)
        put(totals, 4 * (strip.u * sizes.channels + k), as_one(one, two, three))
    for u in range(strip.u, strip.u + strip.groups):
        settle_group(flags, arrays, totals, sizes.groups, sizes.channels, u, space.stack)


@device(inline=False)
def expand(arrays, sizes, strip, rows, out):
    """So many constants of each column of a strip, as often as rows are side by side -> out, see `gradient_columns`."""
    table, channels, length, room, column = arrays.table, sizes.channels, sizes.length, sizes.room, 0
    for u in range(strip.u, strip.u + strip.groups):
        unit = UNIT * u
        for k in range(channels):
            rstd, weight = table[unit + ROOT], arrays.w[u % sizes.groups * channels + k]
            high = table[unit + ANCHOR], rstd * weight, table[unit + SLOPE], table[unit + SHIFT]
            numbers = (*high, product_error(rstd, weight), table[unit + SLOPE_LOW], table[unit + SHIFT_LOW])
            for row in range(rows):
                if length == 1:
                    out[column + row * room] = numbers[row]
                else:
                    fill(out, column + row * room, length, numbers[row])
            column += length
    copies = max(sizes.fold, sizes.beside)
    for row in range(rows):
        repeat(advance(out, row * room), column, copies)


@device(inline=False)
def expand_scales(arrays, sizes, strip, out):
    """Constants of dx = dy * scale of each column of a strip, as often as rows are side by side -> out, see `put_constants`."""
    x, length, room, column = arrays.x, sizes.length, sizes.room, 0
    for u in range(strip.u, strip.u + strip.groups):
        for k in range(sizes.channels):
            numbers = 0.0, 0.0, 0.0, arrays.table[UNIT * u + ROOT], arrays.w[u % sizes.groups * sizes.channels + k], -0.0
            put_constants(x, out, room, column, length, numbers, False, False)
            column += length
    repeat_constants(x, out, room, column, max(sizes.fold, sizes.beside))


@device(inline=False)
def apply_columns(flags, arrays, sizes, strip, table):
    """dx for the columns and rows of a strip."""
    x, dy, dx, room, columns, own = arrays.x, arrays.dy, arrays.dx, sizes.room, sizes.channels * sizes.length, flags & OWN
    if own:
        expand(arrays, sizes, strip, rows_of_parameters(x), table)
        narrow_rows(x, table, room, strip.groups * columns * max(sizes.fold, sizes.beside))
    else:  # given statistics: whatever x is
        expand_scales(arrays, sizes, strip, table)
    for block in side_by_side(strip, sizes, columns):
        if own:
            gradient_columns(x, dy, dx, block, boolean(flags & STREAM), table, room)
        else:
            affine_columns(dy, dx, block, boolean(flags & STREAM), table, room)


@kernel()
def columns_backward(phase, flags, x, dy, dx, w, table, sums, grads, work, sizes, count, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN), chunks lo .. hi - 1 (MEASURE, APPLY) or channels lo .. hi - 1 (REDUCE).

    Arrays as in `runs_backward`; sizes: `ColumnsGradientSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, parameters), then the sums of all chunks.
    """
    sizes, arrays, one = (
        named(sizes, ColumnsGradientSizes),
        GradientArrays(x, dy, dx, w, table, divisors(x, count)),
        empty(x, 1),
    )
    room, chunks, fused, columns = sizes.room, sizes.chunks, phase == FUSED, sizes.channels * sizes.length
    stack = advance(work, slot * sizes.scratch)
    column_sums = advance_by(stack, sizes.stack, one)
    lanes = advance_by(column_sums, SUMS * room, one)
    space = Space(stack, column_sums, lanes, advance_by(lanes, LANE_ROOM, one))
    partials = advance(work, sizes.slots * sizes.scratch)
    whole = phase in (FUSED, JOIN)
    for p in range(lo, hi if phase != REDUCE else lo):
        strip = strip_at(p, whole, sizes, columns)
        out = column_sums if fused else advance_by(partials, (p * chunks if whole else p) * sums_of(x) * room, one)
        if phase in (FUSED, MEASURE):
            expand(arrays, sizes, strip, int64(1), space.table)  # the mean alone
            strip_products(x, dy, strip, room, space.table, stack, out)
        if whole:
            join_columns(flags, arrays, sums, sizes, strip, out, int64(1) if fused else chunks, space)
        if flags & WRITE and phase != JOIN:
            apply_columns(flags, arrays, sizes, strip, space.table)
    if phase == REDUCE or (flags & ALONE and flags & PARAMETERS):
        first, last = (lo, hi) if phase == REDUCE else (0, sizes.groups * sizes.channels)
        reduce_samples(x, sums, table, grads, sizes, first, last, stack)
