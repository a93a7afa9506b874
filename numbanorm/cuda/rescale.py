"""float64 whose squares, sums or cubes left its range: groups and weights are computed again, scaled by powers of two.

The twin of `numbanorm.cpu.rescale`. These kernels are launched after those that compute as if there were no limits, for nothing
here waits for the device. A thread looks at one group, or weight; what was lost, the threads of its warp compute again
together. That is slow, and hardly ever happens.
"""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float64

from ..spec.tree import FLOOR, LARGE_RSTD, LARGE_STAT, LARGE_U
from .arith.accumulators import less, multiply, plus, product, ratio, settled, spread, term, value
from .arith.device import block, device, div, exchange, fma, load1, mul, quotient, read1, root, store1, thread
from .arith.elementwise import LEFT, LOW, M2, MEAN, OFFSET, RSTD, SIZE, normalized, share, slanted
from .arith.stages import finish_one
from .rescale_sums import (
    DISTANCES,
    PRODUCTS,
    SQUARES,
    STACK,
    SUM,
    WARP,
    ZERO,
    U,
    drain_own,
    dy_at,
    group_total,
    larger,
    largest,
    push_own,
    roots_of_scale,
    scaled,
    warp_total,
    x_at,
)


@device
def any_of_warp(lost):
    """Whether any thread has lost something."""
    for h in (16, 8, 4, 2, 1):
        lost = larger(lost, exchange(lost, h))
    return lost > 0.0


@device
def usual(v):
    """Whether a gradient is neither huge nor, but for 0, tiny; nan is not."""
    return v == 0.0 or 1.0 / LARGE_U < abs(v) < LARGE_U


# --- forward ---------------------------------------------------------------------------------------------------------


@device
def group_lost(stats, u, units):
    """1 if a group's sum of squares or rstd is not what it would be without limits."""
    if u < units and not (load1(stats, M2 * units + u) < math.inf and load1(stats, RSTD * units + u) < LARGE_STAT):
        return 1.0
    return 0.0


def normalize_again(center: bool, one_read: bool, columns: bool, weighted: bool, biased: bool, write: bool) -> Any:
    """y and stats (4, units) of the groups that left float64's range; a thread looks at one. x must not be y."""
    sum_of = group_total(columns, SUM)
    squares_of = group_total(columns, SQUARES, one_read=one_read and center)

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
    def put_y(data, w, b, y, low, rstd, at, stride, rows, length, own, t):
        c = share(low, rstd)
        for r in range(rows):
            for e in range(thread(), length, WARP):
                i, scale, shift = at + r * stride + e, 1.0, -0.0
                if weighted:
                    scale = read1(w, own + quotient(e, t))
                if biased:
                    shift = read1(b, own + quotient(e, t))
                finish_one(y, i, fma(x_at(data, i) - data[2], mul(rstd, scale), fma(c, scale, shift)))

    @device
    def put_stats(stats, units, u, mean, low, m2, rstd, down, up, eps):
        store1(stats, MEAN * units + u, scaled(mean, up))
        store1(stats, LOW * units + u, scaled(low, up))
        store1(stats, M2 * units + u, scaled(scaled(m2, up), up))
        rstd = scaled(rstd, down)
        if eps > 0.0 and m2 == 0.0:
            rstd = div(1.0, root(eps))
        store1(stats, RSTD * units + u, rstd)

    @device
    def again(inner, outer, x, w, b, y, stats, u, units, groups, rows, tree_rows, length, t, count, eps):
        sample, stride, mean, low = quotient(u, groups), groups * length, 0.0, 0.0
        g = u - sample * groups
        at = (sample * rows * groups + g) * length
        size = largest(x, at, stride, rows, length)
        if size < math.inf:
            down, up, own_eps = scale_of(size, eps)
            if center:
                total = sum_of(inner, outer, (x, down, 0.0), at, stride, rows, tree_rows, 1, length)
                mean, low = ratio(total, count)
            data = x, down, mean
            total = squares_of(inner, outer, data, at, stride, rows, tree_rows, 1, length)
            m2, rstd = spread(total, low, count, own_eps)
            if write:
                put_y(data, w, b, y, low, rstd, at, stride, rows, length, g * quotient(length, t), t)
            if thread() == 0:
                put_stats(stats, units, u, mean, low, m2, rstd, down, up, eps)

    def kernel(x, w, b, y, stats, units, groups, rows, tree_rows, length, t, count, eps):
        inner, outer = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        first = block() * WARP
        if any_of_warp(group_lost(stats, first + thread(), units)):
            for u in range(first, first + WARP):
                if group_lost(stats, u, units) > 0.0:
                    again(inner, outer, x, w, b, y, stats, u, units, groups, rows, tree_rows, length, t, count, eps)

    return kernel


# --- backward --------------------------------------------------------------------------------------------------------


@device
def gradient_lost(rstd, table, u, units):
    """1 if what a group's dx takes is not what it would be without limits."""
    if u < units:
        r = read1(rstd, u)
        if not (1.0 / LARGE_RSTD < r < LARGE_RSTD and usual(load1(table, SIZE * units + u))):
            return 1.0
    return 0.0


def gradients_again(by_rows: bool, columns: bool, center: bool, weighted: bool, write: bool) -> Any:
    """dx, and the offsets in `table`, of the groups that left float64's range. dx must not be x or dy.

    rows, fold, length: of a channel's runs; `by_rows`, where elements have weights of their own, channels is 1.
    """
    sums = [group_total(columns, kind, weighted and by_rows) for kind in (U, PRODUCTS, DISTANCES)]

    def channels_total(sum_of: Any, weigh: bool) -> Any:
        """The row tree over a group's channels, each with its weight."""

        def total(inner, outer, upper, data, at, stride, rows, tree_rows, fold, length, channels, channel_rows):
            blocks = 0
            for first in range(0, channels, channel_rows):
                a = ZERO
                for k in range(first, min(channels, first + channel_rows)):
                    v = sum_of(inner, outer, data, at + k * length, stride, rows, tree_rows, fold, length)
                    if weigh:
                        v = multiply(v, (read1(data[5], data[6] + k),), ZERO)
                    a = plus(a, v)
                push_own(upper, blocks, a)
                blocks += 1
            return drain_own(upper, blocks)

        return device(total)

    weigh = weighted and not by_rows
    sum_u, sum_ud, sum_d = (channels_total(s, weigh and s is not sums[2]) for s in sums)

    @device
    def put_dx(data, dx, r, slope, shift, at, stride, rows, length, by):
        for row in range(rows):
            for e in range(thread(), length, WARP):
                i, w = at + row * stride + e, 1.0
                if weighted:
                    w = read1(data[5], data[6] + quotient(e, data[7]))
                g, d = (dy_at(data, i),), less(x_at(data, i), data[2], ZERO)
                u = multiply(multiply(g, (w,), ZERO), (r,), ZERO) if by_rows else multiply(g, multiply((r,), (w,), ZERO), ZERO)
                finish_one(dx, i, scaled(slanted(d, slope, u, shift), by))

    @device
    def again(inner, outer, upper, x, dy, dx, w, mean, rstd, table, u, units, groups, sizes, count):
        rows, tree_rows, fold, channels, channel_rows, length, t = sizes
        sample, width, r, m = quotient(u, groups), channels * length, read1(rstd, u), 0.0
        g, stride = u - sample * groups, groups * width
        at, size = (sample * rows * fold * groups + g) * width, math.inf
        if 0.0 < r < math.inf:
            size = largest(dy, at, stride, rows * fold, width)
        if size < math.inf:
            down, up = roots_of_scale(r)
            dy_down, dy_up = roots_of_scale(size)
            r = scaled(r, down)
            if center:
                m = scaled(read1(mean, u), up)
            data = x, up, m, dy, dy_down, w, g * quotient(width, t), t
            one = sum_u(inner, outer, upper, data, at, stride, rows, tree_rows, fold, length, channels, channel_rows)
            two = sum_ud(inner, outer, upper, data, at, stride, rows, tree_rows, fold, length, channels, channel_rows)
            three = sum_d(inner, outer, upper, data, at, stride, rows, tree_rows, fold, length, channels, channel_rows)
            slope, shift, offset, _ = settled(center, one, two, three, count, r)
            if write:
                put_dx(data, dx, r, slope, shift, at, stride, rows * fold, width, mul(dy_up, up))
            if thread() == 0:
                store1(table, OFFSET * units + u, offset)
                store1(table, LEFT * units, 1.0)

    def kernel(x, dy, dx, w, mean, rstd, table, units, groups, rows, tree_rows, fold, channels, channel_rows, length, t, count):
        inner, outer, upper = (
            cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64),
        )  # fmt: skip
        first, sizes = block() * WARP, (rows, tree_rows, fold, channels, channel_rows, length, t)
        if any_of_warp(gradient_lost(rstd, table, first + thread(), units)):
            for u in range(first, first + WARP):
                if gradient_lost(rstd, table, u, units) > 0.0:
                    again(inner, outer, upper, x, dy, dx, w, mean, rstd, table, u, units, groups, sizes, count)

    return kernel


def parameters_again(by_rows: bool, columns: bool, center: bool, settled_groups: bool) -> Any:
    """grads (2, groups * channels) of the weights for which that of weight or bias is not usual, or all if a group was lost.

    rows, fold, length: as in `gradients_again`, but `by_rows` those of one weight: the samples are its rows.
    """
    sum_dy, sum_product = group_total(columns, U), group_total(columns, PRODUCTS)

    @device
    def weight_lost(grads, table, c, n, units):
        if c < n:
            if settled_groups and load1(table, LEFT * units) > 0.0:
                return 1.0
            if not (usual(load1(grads, c)) and usual(load1(grads, n + c))):
                return 1.0
        return 0.0

    @device
    def mendable(grads, rstd, c, n, g, groups, units):
        """Whether anything can be gained: not if dweight alone is lost, to an rstd that is nan."""
        u, lost = g + thread() * groups, 0.0
        while u < units:  # a range of unknown step would cost a division
            if not read1(rstd, u) < math.inf:
                lost = 1.0
            u += WARP * groups
        return not any_of_warp(lost) or not usual(load1(grads, n + c))

    @device
    def of_unit(x, dy, mean, rstd, table, unit, units, dy_down):
        """The data of a unit (see `entering`), its scaled rstd, and its offset."""
        r, m, offset = read1(rstd, unit), 0.0, -0.0
        down, up = roots_of_scale(r)
        if center:
            m = scaled(read1(mean, unit), up)
        if settled_groups and center:
            offset = load1(table, OFFSET * units + unit)
        return (x, up, m, dy, dy_down), scaled(r, down), offset

    @device
    def of_rows(plane, inner, outer, upper, arrays, c, sizes, dy_down):
        """The row tree over the samples for each of the columns that share the weight, then the run tree."""
        samples, sample_rows, groups, channels, _, _, _, length = sizes
        x, dy, mean, rstd, table = arrays
        g, a = quotient(c, channels), ZERO
        for p in range(thread(), length, WARP):
            leaf = 0
            for first in range(0, samples, sample_rows):
                s = ZERO
                for b in range(first, min(samples, first + sample_rows)):
                    unit, i = b * groups + g, (b * groups * channels + c) * length + p
                    data, r, offset = of_unit(x, dy, mean, rstd, table, unit, samples * groups, dy_down)
                    if plane == 0:
                        s = product(s, (dy_at(data, i),), normalized(less(x_at(data, i), data[2], ZERO), r, offset))
                    else:
                        s = term(s, (dy_at(data, i),))
                push_own(inner, leaf, s)
                leaf += 1
            a = plus(a, drain_own(inner, leaf))
        return warp_total(a)

    @device
    def of_channels(plane, inner, outer, upper, arrays, c, sizes, dy_down):
        """The row tree over the samples of what the channel's sums give."""
        samples, sample_rows, groups, channels, rows, tree_rows, fold, length = sizes
        x, dy, mean, rstd, table = arrays
        stride, leaf = groups * channels * length, 0
        for first in range(0, samples, sample_rows):
            a = ZERO
            for b in range(first, min(samples, first + sample_rows)):
                unit, at = b * groups + quotient(c, channels), b * rows * fold * stride + c * length
                data, r, offset = of_unit(x, dy, mean, rstd, table, unit, samples * groups, dy_down)
                v = sum_dy(inner, outer, data, at, stride, rows, tree_rows, fold, length)
                if plane == 0:
                    d = sum_product(inner, outer, data, at, stride, rows, tree_rows, fold, length)
                    v = plus(multiply(d, (r,), ZERO), multiply(v, (offset,), ZERO))
                a = plus(a, v)
            push_own(upper, leaf, a)
            leaf += 1
        return drain_own(upper, leaf)

    total = of_rows if by_rows else of_channels

    def kernel(x, dy, mean, rstd, table, grads, samples, sample_rows, groups, channels, rows, tree_rows, fold, length):
        inner, outer, upper = (
            cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64),
        )  # fmt: skip
        n, units, first = groups * channels, samples * groups, block() * WARP
        sizes, arrays = (samples, sample_rows, groups, channels, rows, tree_rows, fold, length), (x, dy, mean, rstd, table)
        if any_of_warp(weight_lost(grads, table, first + thread(), n, units)):
            for c in range(first, first + WARP):
                lost = weight_lost(grads, table, c, n, units) > 0.0
                if lost and mendable(grads, rstd, c, n, quotient(c, channels), groups, units):
                    size = largest(dy, c * length, n * length, samples * rows * fold, length)
                    if size < math.inf:
                        down, up = roots_of_scale(size)
                        dweight = value(total(0, inner, outer, upper, arrays, c, sizes, down))
                        dbias = value(total(1, inner, outer, upper, arrays, c, sizes, down))
                        if thread() == 0:
                            store1(grads, c, scaled(dweight, up))
                            store1(grads, n + c, scaled(dbias, up))

    return kernel
