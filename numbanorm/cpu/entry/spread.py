"""Where arrays of a compiled caller lie, by axes of x, and how x is seen: for statistics that come from anywhere.

To spread statistics over the axes that are kept, and to move x, took each caller ten seconds to compile: it is done here, in
functions that are compiled once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray, float32, float64, int32, int64

from ...spec.plan import four_sizes
from ...spec.standardized import AS_IT_LIES, EACH, TOGETHER, differs, how
from ..arith.vectors import advance, pointer
from ..compile import device, jitable
from .addresses import FLOAT64
from .alone import memory

for _function in (four_sizes, differs, how):
    jitable(_function)
INT64 = 15  # in place of the number of a dtype
# places of arrays; each is its address, the number of its dtype, and its sizes and strides along x's axes: 1 and 0 where it has
# no such axis. The sums are written where they are asked for, and read where dx is
X, Y, MEANS, LOWS, ROOTS, WEIGHT, BIAS = range(7)
DY, SUM_DY, SUM_PRODUCT, COUNT = range(7, 11)


class AskedSpread(NamedTuple):
    """What is asked; whether each axis is reduced, and the arrays, follow."""

    ndim: int
    code: int  # address of the compiled call that is made
    table: int  # and of its kernels
    flags: int  # of `layout`, for it
    itemsize: int


HEAD = len(AskedSpread._fields)


class Laid(NamedTuple):
    """How x is seen."""

    M: int
    T: int
    kept: int  # groups, of all samples
    size: int
    parts: int  # samples that have a call each, or one call
    samples: int  # of such a call
    straight: bool  # whether axes stay as they are


@device()
def described(a, ndim, k):
    """Array k of those that are asked for."""
    return advance(a, HEAD + ndim + k * (2 + 2 * ndim))


@device()
def kept_axes(a, ndim):
    """The axes that are not reduced."""
    axes, n = np.empty(ndim, np.int64), 0
    for k in range(ndim):
        if a[HEAD + k] == 0:
            axes[n] = k
            n += 1
    return axes[:n]


@device(inline=False)
def ordered(sizes, reduced, moved, first):
    """The order to which axes are moved: kept ones first, or first the block of reduced ones behind the first kept ones."""
    order, n, state, ndim = np.empty(len(sizes), np.int64), 0, 0, len(sizes)
    taken = np.zeros(ndim, np.int64)
    for k in range(ndim):
        if sizes[k] != 1 and state < 2:
            state = 1 if reduced[k] else 2 * state
        taken[k] = (reduced[k] == 0) if moved else first and state == 1 and sizes[k] != 1
        if taken[k]:
            order[n] = k
            n += 1
    for k in range(ndim):
        if not taken[k]:
            order[n] = k
            n += 1
    return order


@device(inline=False)
def walk(to, to_steps, source, steps, sizes):
    """to[...] = source[...] of so many elements along each axis, whose steps are in elements."""
    n, total = len(sizes), 1
    for k in range(n):
        total *= sizes[k]
    if total == 0:
        return
    last = sizes[n - 1] if n else int64(1)
    to_last, source_last = (to_steps[n - 1], steps[n - 1]) if n else (int64(0), int64(0))
    index, i, j = np.zeros(n + 1, np.int64), int64(0), int64(0)
    for _ in range(total // last):
        for e in range(last):
            to[i + e * to_last] = source[j + e * source_last]
        k = n - 2
        while k >= 0:
            index[k] += 1
            i += to_steps[k]
            j += steps[k]
            if index[k] < sizes[k]:
                break
            i -= to_steps[k] * sizes[k]
            j -= steps[k] * sizes[k]
            index[k] = 0
            k -= 1


@device(inline=False)
def flat(sizes):
    """Steps of a C-contiguous array."""
    steps, step = np.empty(len(sizes), np.int64), 1
    for k in range(len(sizes) - 1, -1, -1):
        steps[k] = step
        step *= sizes[k]
    return steps


@device(inline=False)
def move(d, order, itemsize, room, back):
    """Copy an array like x to contiguous memory, its axes in this order, or back."""
    n = len(order)
    sizes, steps = np.empty(n, np.int64), np.empty(n, np.int64)
    for k in range(n):
        sizes[k], steps[k] = d[2 + order[k]], d[2 + n + order[k]]
    own = flat(sizes)
    if itemsize == 8:
        wide, wide_room = memory(d[0], float64), memory(room, float64)
        if back:
            walk(wide, steps, wide_room, own, sizes)
        else:
            walk(wide_room, own, wide, steps, sizes)
    else:
        single, single_room = memory(d[0], int32), memory(room, int32)
        if back:
            walk(single, steps, single_room, own, sizes)
        else:
            walk(single_room, own, single, steps, sizes)


@device(inline=False)
def is_contiguous(d, ndim):
    """Whether an array like x is C-contiguous."""
    step = 1
    for k in range(ndim - 1, -1, -1):
        if d[2 + k] != 1 and d[2 + ndim + k] != step:
            return False
        step *= d[2 + k]
    return True


@device(inline=False)
def spread(a, ndim, k, missing):
    """Array k over the kept axes, as float64; or so many of what stands for one that there is not."""
    axes, d, x = kept_axes(a, ndim), described(a, ndim, k), described(a, ndim, X)
    sizes, steps, n = np.empty(len(axes), np.int64), np.empty(len(axes), np.int64), 1
    for i in range(len(axes)):
        sizes[i], steps[i] = x[2 + axes[i]], d[2 + ndim + axes[i]]
        n *= sizes[i]
    out = np.full(n, missing)
    if d[0] != 0 and d[1] == FLOAT64:
        walk(pointer(out), flat(sizes), memory(d[0], float64), steps, sizes)
    elif d[0] != 0 and d[1] == INT64:
        walk(pointer(out), flat(sizes), memory(d[0], int64), steps, sizes)
    elif d[0] != 0:
        walk(pointer(out), flat(sizes), memory(d[0], float32), steps, sizes)
    return out


@device()
def sizes_of(d, axes):
    """Sizes of an array along these axes."""
    sizes = np.empty(len(axes), np.int64)
    for i in range(len(axes)):
        sizes[i] = d[2 + axes[i]]
    return sizes


@device(inline=False)
def is_apart(a, ndim, k):
    """Whether parameter k differs along kept axes before the first reduced one."""
    d, reduced = described(a, ndim, k), carray(advance(a, HEAD), (ndim,))
    sizes = carray(advance(described(a, ndim, X), 2), (ndim,))
    return d[0] != 0 and differs(sizes, reduced, sizes_of(d, kept_axes(a, ndim)))


@device(inline=False)
def laid(a, ndim, one_sample):
    """How x is seen, and the order of its axes; one_sample: whether every group has a weight of its own anyway."""
    sizes, reduced = carray(advance(described(a, ndim, X), 2), (ndim,)), carray(advance(a, HEAD), (ndim,))
    b, m, g, t, moved = four_sizes(sizes, reduced)
    way = int64(TOGETHER)
    if not one_sample:
        way = int64(how(b, m, g, t, is_apart(a, ndim, WEIGHT) or is_apart(a, ndim, BIAS)))
    first = way == TOGETHER and m > 1 and b > 1
    parts, samples = b if way == EACH else 1, b if way == AS_IT_LIES else 1
    seen = Laid(m, t, b * g, b * m * g * t, parts, samples, not moved and not first)
    return seen, ordered(sizes, reduced, moved, first)
