"""float64 whose squares or sums left its range: groups are computed again, scaled by powers of two; see `rescale_gradients`.

The twin of `numbanorm.cpu.rescale`. These kernels are launched after those that compute as if there were no limits, for nothing
here waits for the device. A thread looks at one group, or weight; what was lost, the threads of its warp compute again
together. That is slow, and hardly ever happens.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64

from ..spec.tree import FLOOR, LARGE_STAT
from .arith.accumulators import ratio, spread
from .arith.device import block, device, div, fma, load1, mul, quotient, read1, root, store1, thread
from .arith.elementwise import LOW, M2, MEAN, RSTD, share
from .arith.stages import finish_one
from .rescale_sums import (
    SQUARES,
    STACK,
    SUM,
    WARP,
    Runs,
    Values,
    any_of_warp,
    group_total,
    largest,
    roots_of_scale,
    scaled,
    x_at,
)


@device
def group_lost(stats, u, units):
    """1 if a group's sum of squares or rstd is not what it would be without limits."""
    if u < units and not (load1(stats, M2 * units + u) < math.inf and load1(stats, RSTD * units + u) < LARGE_STAT):
        return 1.0
    return 0.0


class Forward(NamedTuple):
    """Arrays and sizes of `normalize_again`."""

    x: Any
    w: Any
    b: Any
    y: Any
    stats: Any
    units: int
    groups: int
    rows: int
    tree_rows: int
    length: int
    t: int
    elements: float  # of a group
    eps: float


@device
def scale_of(size, eps):
    """The roots of a group's scale, and the scaled eps, which matters no less than x."""
    down, up = roots_of_scale(size)
    if not eps > 0.0:
        return down, up, 0.0
    least, most = roots_of_scale(root(eps))
    if least < down:
        down, up = least, most
    own_eps = scaled(scaled(eps, down), down)
    if not own_eps > FLOOR:
        own_eps = FLOOR
    return down, up, own_eps


@device
def put_statistics(call, u, found, down, up):
    """Write (mean, low, m2, rstd) of a scaled group."""
    mean, low, m2, rstd = found
    store1(call.stats, MEAN * call.units + u, scaled(mean, up))
    store1(call.stats, LOW * call.units + u, scaled(low, up))
    store1(call.stats, M2 * call.units + u, scaled(scaled(m2, up), up))
    rstd = scaled(rstd, down)
    if call.eps > 0.0 and m2 == 0.0:
        rstd = div(1.0, root(call.eps))
    store1(call.stats, RSTD * call.units + u, rstd)


@cache
def result_of_group(weighted: bool, biased: bool) -> Any:
    """A function that writes y of a group's runs, whose parameters begin at `own`."""

    def put_y(call, data, low, rstd, runs, own):
        c = share(low, rstd)
        for r in range(runs.rows):
            for e in range(thread(), runs.length, WARP):
                i, scale, shift = runs.at + r * runs.stride + e, 1.0, -0.0
                if weighted:
                    scale = read1(call.w, own + quotient(e, call.t))
                if biased:
                    shift = read1(call.b, own + quotient(e, call.t))
                finish_one(call.y, i, fma(x_at(data, i) - data.mean, mul(rstd, scale), fma(c, scale, shift)))

    return device(put_y)


def normalize_again(center: bool, one_read: bool, columns: bool, weighted: bool, biased: bool, write: bool) -> Any:
    """y and stats (4, units) of the groups that left float64's range; a thread looks at one. x must not be y."""
    sum_of = group_total(columns, SUM)
    squares_of = group_total(columns, SQUARES, one_read=one_read and center)
    put_y = result_of_group(weighted, biased)

    @device
    def again(stacks, call, u):
        sample, stride, mean, low = quotient(u, call.groups), call.groups * call.length, 0.0, 0.0
        g = u - sample * call.groups
        runs = Runs((sample * call.rows * call.groups + g) * call.length, stride, call.rows, call.tree_rows, 1, call.length)
        size = largest(call.x, runs)
        if size < math.inf:
            down, up, own_eps = scale_of(size, call.eps)
            if center:
                mean, low = ratio(sum_of(stacks, Values(call.x, down, 0.0), runs), call.elements)
            data = Values(call.x, down, mean)
            m2, rstd = spread(squares_of(stacks, data, runs), low, call.elements, own_eps)
            if write:
                put_y(call, data, low, rstd, runs, g * quotient(call.length, call.t))
            if thread() == 0:
                put_statistics(call, u, (mean, low, m2, rstd), down, up)

    def kernel(x, w, b, y, stats, units, groups, rows, tree_rows, length, t, count, eps):
        stacks = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        call, first = Forward(x, w, b, y, stats, units, groups, rows, tree_rows, length, t, count, eps), block() * WARP
        if any_of_warp(group_lost(stats, first + thread(), units)):
            for u in range(first, first + WARP):
                if group_lost(stats, u, units) > 0.0:
                    again(stacks, call, u)

    return kernel
