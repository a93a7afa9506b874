"""Gradients whose sums, or powers of rstd, left float64's range: computed again for groups and for weights, as in `rescale`."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64

from ..spec.tree import LARGE_RSTD, LARGE_U
from .arith.accumulators import less, multiply, plus, product, settled, term, value
from .arith.device import block, device, load1, mul, quotient, read1, store1, thread
from .arith.elementwise import LEFT, OFFSET, SIZE, normalized, slanted
from .arith.stages import finish_one
from .rescale_sums import (
    DISTANCES,
    PRODUCTS,
    STACK,
    WARP,
    ZERO,
    Runs,
    Sources,
    U,
    Weights,
    any_of_warp,
    drain_own,
    dy_at,
    group_total,
    largest,
    push_own,
    roots_of_scale,
    scaled,
    warp_total,
    x_at,
)


@device
def usual(v):
    """Whether a gradient is neither huge nor, but for 0, tiny; nan is not."""
    return v == 0.0 or 1.0 / LARGE_U < abs(v) < LARGE_U


@device
def gradient_lost(rstd, table, u, units):
    """1 if what a group's dx takes is not what it would be without limits."""
    if u < units:
        r = read1(rstd, u)
        if not (1.0 / LARGE_RSTD < r < LARGE_RSTD and usual(load1(table, SIZE * units + u))):
            return 1.0
    return 0.0


class Backward(NamedTuple):
    """Arrays and sizes of `gradients_again`; rows, fold, length: of a channel's runs."""

    x: Any
    dy: Any
    dx: Any
    w: Any
    mean: Any
    rstd: Any
    table: Any
    units: int
    groups: int
    rows: int
    tree_rows: int
    fold: int
    channels: int
    channel_rows: int
    length: int
    t: int
    elements: float  # of a group


@cache
def channels_total(sum_of: Any, weigh: bool, zero: tuple[float, ...] = ZERO) -> Any:
    """The function that sums a group's channels, each with its weight, by the row tree; runs: of the first channel."""

    def total(stacks, data, runs, channels, channel_rows):
        at, stride, rows, tree_rows, fold, length = runs
        blocks = 0
        for first in range(0, channels, channel_rows):
            a = zero
            for k in range(first, min(channels, first + channel_rows)):
                v = sum_of(stacks, data, Runs(at + k * length, stride, rows, tree_rows, fold, length))
                if weigh:
                    v = multiply(v, (read1(data.weights.w, data.weights.first + k),), zero)
                a = plus(a, v)
            push_own(stacks[2], blocks, a)
            blocks += 1
        return drain_own(stacks[2], blocks, zero)

    return device(total)


@cache
def gradient_of_group(by_rows: bool, weighted: bool, zero: tuple[float, ...] = ZERO) -> Any:
    """A function that writes dx of a group's rows, scaled back twice with `by`, from the scaled rstd and (slope, shift)."""

    def put_dx(data, dx, r, of_group, runs, by):
        for row in range(runs.rows):
            for e in range(thread(), runs.length, WARP):
                i, w = runs.at + row * runs.stride + e, 1.0
                if weighted:
                    w = read1(data.weights.w, data.weights.first + quotient(e, data.weights.t))
                g, d = (dy_at(data, i),), less(x_at(data, i), data.mean, zero)
                u = multiply(multiply(g, (w,), zero), (r,), zero) if by_rows else multiply(g, multiply((r,), (w,), zero), zero)
                finish_one(dx, i, scaled(slanted(d, of_group[0], u, of_group[1]), by))

    return device(put_dx)


def gradients_again(by_rows: bool, columns: bool, center: bool, weighted: bool, write: bool) -> Any:
    """dx, and the offsets in `table`, of the groups that left float64's range. dx must not be x or dy.

    `by_rows`, where elements have weights of their own, channels is 1.
    """
    weigh, put_dx = weighted and not by_rows, gradient_of_group(by_rows, weighted)
    sum_u, sum_ud, sum_d = (
        channels_total(group_total(columns, kind, weighted and by_rows), weigh and kind != DISTANCES)
        for kind in (U, PRODUCTS, DISTANCES)
    )

    @device
    def again(stacks, call, u):
        sample, width, r, m = quotient(u, call.groups), call.channels * call.length, read1(call.rstd, u), 0.0
        g, stride = u - sample * call.groups, call.groups * width
        at, size = (sample * call.rows * call.fold * call.groups + g) * width, math.inf
        whole = Runs(at, stride, call.rows * call.fold, 1, 1, width)
        if 0.0 < r < math.inf:
            size = largest(call.dy, whole)
        if size < math.inf:
            down, up = roots_of_scale(r)
            dy_down, dy_up = roots_of_scale(size)
            r = scaled(r, down)
            if center:
                m = scaled(read1(call.mean, u), up)
            data = Sources(call.x, up, m, call.dy, dy_down, Weights(call.w, g * quotient(width, call.t), call.t))
            runs = Runs(at, stride, call.rows, call.tree_rows, call.fold, call.length)
            one = sum_u(stacks, data, runs, call.channels, call.channel_rows)
            two = sum_ud(stacks, data, runs, call.channels, call.channel_rows)
            three = sum_d(stacks, data, runs, call.channels, call.channel_rows)
            slope, shift, offset, _ = settled(center, one, two, three, call.elements, r)
            if write:
                put_dx(data, call.dx, r, (slope, shift), whole, mul(dy_up, up))
            if thread() == 0:
                store1(call.table, OFFSET * call.units + u, offset)
                store1(call.table, LEFT * call.units, 1.0)

    def kernel(x, dy, dx, w, mean, rstd, table, units, groups, rows, tree_rows, fold, channels, channel_rows, length, t, count):
        stacks = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        call = Backward(
            x, dy, dx, w, mean, rstd, table, units, groups, rows, tree_rows, fold, channels, channel_rows, length, t, count
        )
        first = block() * WARP
        if any_of_warp(gradient_lost(rstd, table, first + thread(), units)):
            for u in range(first, first + WARP):
                if gradient_lost(rstd, table, u, units) > 0.0:
                    again(stacks, call, u)

    return kernel


class Parameters(NamedTuple):
    """Arrays and sizes of `parameters_again`; rows, fold, length: of a channel's runs, or `by_rows` those of one weight."""

    x: Any
    dy: Any
    mean: Any
    rstd: Any
    table: Any
    samples: int
    sample_rows: int
    groups: int
    channels: int
    rows: int
    tree_rows: int
    fold: int
    length: int


@device
def mendable(grads, rstd, c, channels, n, groups, units):
    """Whether anything can be gained: not if dweight alone is lost, to an rstd that is nan."""
    u, lost = quotient(c, channels) + thread() * groups, 0.0
    while u < units:  # a range of unknown step would cost a division
        if not read1(rstd, u) < math.inf:
            lost = 1.0
        u += WARP * groups
    return not any_of_warp(lost) or not usual(load1(grads, n + c))


@cache
def source_of_unit(center: bool, settled_groups: bool) -> Any:
    """A function that gives a unit's `Sources`, scaled rstd, and offset."""

    def of_unit(call, unit, dy_down):
        r, m, offset = read1(call.rstd, unit), 0.0, -0.0
        down, up = roots_of_scale(r)
        if center:
            m = scaled(read1(call.mean, unit), up)
        if settled_groups and center:
            offset = load1(call.table, OFFSET * (call.samples * call.groups) + unit)
        return Sources(call.x, up, m, call.dy, dy_down, None), scaled(r, down), offset

    return device(of_unit)


@cache
def weight_by_rows(of_unit: Any) -> Any:
    """The function that sums a weight's samples: the row tree for each of the columns that share it, then the run tree."""

    def of_rows(plane, stacks, call, c, dy_down):
        g, a = quotient(c, call.channels), ZERO
        for p in range(thread(), call.length, WARP):
            leaf = 0
            for first in range(0, call.samples, call.sample_rows):
                s = ZERO
                for b in range(first, min(call.samples, first + call.sample_rows)):
                    unit, i = b * call.groups + g, (b * call.groups * call.channels + c) * call.length + p
                    data, r, offset = of_unit(call, unit, dy_down)
                    if plane == 0:
                        s = product(s, (dy_at(data, i),), normalized(less(x_at(data, i), data.mean, ZERO), r, offset))
                    else:
                        s = term(s, (dy_at(data, i),))
                push_own(stacks[0], leaf, s)
                leaf += 1
            a = plus(a, drain_own(stacks[0], leaf, ZERO))
        return warp_total(a)

    return device(of_rows)


@cache
def weight_by_channels(of_unit: Any, columns: bool, zero: tuple[float, ...] = ZERO) -> Any:
    """The function that sums a weight's samples: the row tree of what the channel's sums give."""
    sum_dy, sum_product = group_total(columns, U, zero=zero), group_total(columns, PRODUCTS, zero=zero)

    def of_channels(plane, stacks, call, c, dy_down):
        stride, leaf = call.groups * call.channels * call.length, 0
        for first in range(0, call.samples, call.sample_rows):
            a = zero
            for b in range(first, min(call.samples, first + call.sample_rows)):
                unit, at = b * call.groups + quotient(c, call.channels), b * call.rows * call.fold * stride + c * call.length
                runs = Runs(at, stride, call.rows, call.tree_rows, call.fold, call.length)
                data, r, offset = of_unit(call, unit, dy_down)
                v = sum_dy(stacks, data, runs)
                if plane == 0:
                    d = sum_product(stacks, data, runs)
                    v = plus(multiply(d, (r,), zero), multiply(v, (offset,), zero))
                a = plus(a, v)
            push_own(stacks[2], leaf, a)
            leaf += 1
        return drain_own(stacks[2], leaf, zero)

    return device(of_channels)


def parameters_again(by_rows: bool, columns: bool, center: bool, settled_groups: bool) -> Any:
    """grads (2, groups * channels) of the weights for which that of weight or bias is not usual, or all if a group was lost."""
    of_unit = source_of_unit(center, settled_groups)
    total = weight_by_rows(of_unit) if by_rows else weight_by_channels(of_unit, columns)

    @device
    def weight_lost(grads, table, c, n, units):
        """1 if a weight's gradients are not what they would be without limits."""
        if c < n:
            if settled_groups and load1(table, LEFT * units) > 0.0:
                return 1.0
            if not (usual(load1(grads, c)) and usual(load1(grads, n + c))):
                return 1.0
        return 0.0

    def kernel(x, dy, mean, rstd, table, grads, samples, sample_rows, groups, channels, rows, tree_rows, fold, length):
        stacks = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        n, units, first = groups * channels, samples * groups, block() * WARP
        call = Parameters(x, dy, mean, rstd, table, samples, sample_rows, groups, channels, rows, tree_rows, fold, length)
        if any_of_warp(weight_lost(grads, table, first + thread(), n, units)):
            for c in range(first, first + WARP):
                lost = weight_lost(grads, table, c, n, units) > 0.0
                if lost and mendable(grads, rstd, c, channels, n, groups, units):
                    size = largest(dy, Runs(c * length, n * length, samples * rows * fold, 1, 1, length))
                    if size < math.inf:
                        down, up = roots_of_scale(size)
                        dweight = value(total(0, stacks, call, c, down))
                        dbias = value(total(1, stacks, call, c, down))
                        if thread() == 0:
                            store1(grads, c, scaled(dweight, up))
                            store1(grads, n + c, scaled(dbias, up))

    return kernel
