"""Rows whose elements stand apart while neighbouring rows lie side by side, as pixels of channels-first arrays.

So many rows as the cache holds are copied, the kernel of contiguous rows is given the copy, and what it writes is copied back.
It is told that its arrays begin where row 0 would be. So the bits are those of contiguous rows.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64

from ..arith.accumulators import block_rows
from ..arith.turning import elements_at, gather, in_lines, lines_for, number_at, scatter
from ..arith.vectors import advance, keep, named, pointer
from ..compile import device, kernel
from ..entry.calls import invoke
from ..layout import ALONE, FUSED, PARAMETERS, REDUCE, STREAM, WRITE, RowsGradientSizes, RunsSizes, Turning

OF_RUNS, OF_GRADIENTS = len(RunsSizes._fields), len(RowsGradientSizes._fields)
EIGHT = 8  # bytes of a float64, and float64 of a line


@device()
def room_for(rows, length, nbytes):
    """Memory for so many rows, from the first line in it on."""
    return np.empty((rows * length * nbytes + EIGHT - 1) // EIGHT + EIGHT)


@device(inline=False)
def bring(x, lo, hi, length, beside, rows):
    """Rows lo .. hi - 1 of x, `beside` of which lie side by side, to memory where they are contiguous."""
    r = lo
    while r < hi:
        at = r % beside
        n = min(hi - r, beside - at)
        gather(advance(x, (r - at) * length + at), beside, length, n, advance(rows, (r - lo) * length))
        r += n


@device(inline=False)
def bring_back(x, lo, hi, length, beside, rows, streaming):
    """What `bring` brought."""
    r = lo
    while r < hi:
        at = r % beside
        n = min(hi - r, beside - at)
        to = advance(x, (r - at) * length + at)
        past = streaming and in_lines(to) and in_lines(advance(to, beside))
        scatter(advance(rows, (r - lo) * length), length, n, to, beside, past)
        r += n


@kernel()
def turned(phase, flags, x, y, w, b, stats, work, kept, sizes, count, eps, lo, hi, slot):
    """As `runs` of rows, in phase FUSED. x, y: where `layout.Turned` are; `layout.Turning` stands behind the sizes."""
    length, own = named(sizes, RunsSizes).length, named(advance(sizes, OF_RUNS), Turning)
    source, target, write = elements_at(x), elements_at(y), boolean(flags & WRITE)
    of_x, of_y = number_at(x, 1), write and number_at(y, 1)
    one, two = room_for(own.most, length, own.itemsize), room_for(own.most, length, own.itemsize)
    rows, results = lines_for(pointer(one), source), lines_for(pointer(two), target)
    inner = flags & ~STREAM if of_y else flags
    r = lo
    while r < hi:
        last = min(hi, r - r % own.beside % own.most + own.most, r - r % own.beside + own.beside)
        read, written = source, target
        if of_x:
            bring(source, r, last, length, own.beside, rows)
            read = advance(rows, -r * length)
        if of_y:
            written = advance(results, -r * length)
        invoke(own.kernel, (phase, inner, read, written, w, b, stats, work, kept, sizes, count, eps, r, last, slot))
        if of_y:
            bring_back(target, r, last, length, own.beside, results, boolean(flags & STREAM))
        r = last
    keep(one)
    keep(two)


@kernel()
def turned_backward(phase, flags, x, dy, dx, w, table, sums, grads, work, sizes, count, lo, hi, slot):
    """As `rows_backward` in phases FUSED and REDUCE; arrays and sizes as for `turned`."""
    own, gradients = named(sizes, RowsGradientSizes), named(advance(sizes, OF_GRADIENTS), Turning)
    length, beside, kernel = own.length, gradients.beside, gradients.kernel
    many = gradients.most if phase == FUSED else 0
    one, two, three = (
        room_for(many, length, gradients.itemsize),
        room_for(many, length, gradients.itemsize),
        room_for(many, length, gradients.itemsize),
    )
    source, upstream, target = elements_at(x), elements_at(dy), elements_at(dx)
    of_x, of_dy, of_dx = number_at(x, 1), number_at(dy, 1), boolean(flags & WRITE) and number_at(dx, 1)
    rows, gradient_rows = lines_for(pointer(one), source), lines_for(pointer(two), source)
    results = lines_for(pointer(three), source)
    inner, each = (flags & ~STREAM if of_dx else flags) & ~ALONE, own.per_chunk * block_rows(own.rows)
    for q in range(lo, hi if phase == FUSED else lo):
        first, last = q * each, min(own.rows, (q + 1) * each)
        a, b, c, back = source, upstream, target, -first * length
        if of_x:
            bring(source, first, last, length, beside, rows)
            a = advance(rows, back)
        if of_dy:
            bring(upstream, first, last, length, beside, gradient_rows)
            b = advance(gradient_rows, back)
        if of_dx:
            c = advance(results, back)
        invoke(kernel, (phase, inner, a, b, c, w, table, sums, grads, work, sizes, count, q, q + 1, slot))
        if of_dx:
            bring_back(target, first, last, length, beside, results, boolean(flags & STREAM))
    if phase == REDUCE or (flags & ALONE and flags & PARAMETERS):
        none, ends = int64(0), int64(REDUCE)
        invoke(kernel, (ends, inner, source, upstream, target, w, table, sums, grads, work, sizes, count, none, none, slot))
    keep(one)
    keep(two)
    keep(three)
