"""Gradients of channels for which float32 has no room: groups and weights are computed again in float64, each by a warp.

`combine.settle_near` marks a group by nan, and what became of a weight's sums is seen by what it is. That is slow, and seldom;
an infinity in dy is enough, though. The sums are those of `rescale_sums`, of one part and not scaled.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64

from .arith.accumulators import average, settled, value
from .arith.arithmetic import EXACT
from .arith.device import block, device, from_lane, load1, mul, quotient, read1, store1, thread, vote
from .arith.elementwise import SLOPE
from .rescale_gradients import channels_total, gradient_of_group, weight_by_channels
from .rescale_sums import DISTANCES, LEVELS, PRODUCTS, WARP, Runs, Sources, U, Weights, group_total

ONE = EXACT.zero
STACK = LEVELS * WARP  # of accumulators of one part


class Channels(NamedTuple):
    """Arrays and sizes of `mend_channels`; rows, fold, length: of a channel's runs. stacks: for the sums of a group."""

    x: Any
    dy: Any
    dx: Any
    w: Any
    mean: Any
    rstd: Any
    stacks: Any
    samples: int
    sample_rows: int
    groups: int
    rows: int
    tree_rows: int
    fold: int
    channels: int
    channel_rows: int
    length: int
    elements: float  # of a group


@cache
def total_of(columns: bool, kind: int, weighted: bool = False) -> Any:
    """The function that sums a group's channels."""
    return channels_total(group_total(columns, kind, zero=ONE), weighted, ONE)


@device
def runs_of(call, u):
    """Runs of the first channel of a group."""
    sample, stride = quotient(u, call.groups), call.groups * call.channels * call.length
    at = sample * call.rows * call.fold * stride + (u - sample * call.groups) * call.channels * call.length
    return Runs(at, stride, call.rows, call.tree_rows, call.fold, call.length)


@cache
def source_of_unit(columns: bool, center: bool, own: bool) -> Any:
    """A function that gives a unit's `Sources`, rstd, and offset; own: whether the statistics are those of x."""
    sum_d = total_of(columns, DISTANCES)

    def of_unit(call, unit, dy_down):
        r, m, offset = read1(call.rstd, unit), 0.0, -0.0
        if center:
            m = read1(call.mean, unit)
        data = Sources(call.x, 1.0, m, call.dy, dy_down, None)
        if center and own:
            d = sum_d(call.stacks, data, runs_of(call, unit), call.channels, call.channel_rows)
            offset = -mul(average(d, call.elements)[0], r)
        return data, r, offset

    return device(of_unit)


@cache
def dx_of_unit(columns: bool, center: bool, weighted: bool) -> Any:
    """A function that writes dx of a group."""
    sum_u, sum_ud, sum_d = total_of(columns, U, weighted), total_of(columns, PRODUCTS, weighted), total_of(columns, DISTANCES)
    put_dx = gradient_of_group(False, weighted, ONE)

    def again(call, u):
        runs, width, r, m = runs_of(call, u), call.channels * call.length, read1(call.rstd, u), 0.0
        g = u - quotient(u, call.groups) * call.groups
        if center:
            m = read1(call.mean, u)
        data = Sources(call.x, 1.0, m, call.dy, 1.0, Weights(call.w, g * call.channels, call.length))
        one = sum_u(call.stacks, data, runs, call.channels, call.channel_rows)
        two = sum_ud(call.stacks, data, runs, call.channels, call.channel_rows)
        three = sum_d(call.stacks, data, runs, call.channels, call.channel_rows)
        slope, shift, _, _ = settled(center, one, two, three, call.elements, r)
        whole = Runs(runs.at, runs.stride, call.rows * call.fold, 1, 1, width)
        put_dx(data, call.dx, r, (slope, shift), whole, 1.0)

    return device(again)


@device
def is_finite(v):
    return abs(v) < math.inf


def mend_channels(columns: bool, center: bool, weighted: bool, write: bool, parameters: bool, own: bool) -> Any:
    """dx of groups whose slope in table (3, units) is nan, and what is not finite of grads (2, groups * channels).

    write, parameters: what is looked at; own: whether the statistics are those of x. dx must not be x or dy.
    """
    again = dx_of_unit(columns, center, weighted)
    total = weight_by_channels(source_of_unit(columns, center, own), columns, ONE)

    def kernel(
        x, dy, dx, w, mean, rstd, table, grads, samples, sample_rows, groups, rows, tree_rows, fold, channels, channel_rows,
        length, count,
    ):  # fmt: skip
        inner, outer = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        of_group, of_weight = cuda.shared.array(STACK, float64), cuda.shared.array(STACK, float64)
        call = Channels(
            x, dy, dx, w, mean, rstd, (inner, outer, of_group), samples, sample_rows, groups, rows, tree_rows, fold, channels,
            channel_rows, length, count,
        )  # fmt: skip
        units, n, first = samples * groups, groups * channels, block() * WARP
        if write:
            mark = 0.0
            if first + thread() < units:
                mark = read1(table, SLOPE * units + first + thread())
            if vote(mark != mark):
                for k in range(min(WARP, units - first)):
                    one = from_lane(mark, k)
                    if one != one:
                        again(call, first + k)
        if parameters:
            for plane in range(2):
                v = 0.0
                if first + thread() < n:
                    v = load1(grads, plane * n + first + thread())
                if vote(not is_finite(v)):
                    for k in range(min(WARP, n - first)):
                        if not is_finite(from_lane(v, k)):
                            s = value(total(plane, (inner, outer, of_weight), call, first + k, 1.0))
                            if thread() == 0:
                                store1(grads, plane * n + first + k, s)

    return kernel
