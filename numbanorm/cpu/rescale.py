"""float64 whose squares, sums or cubes leave its range: groups are scaled by a power of two, which is exact, and back.

The kernels compute as if there were no limits, and tell when there was one (`in_range`, `gradients_in_range`): what they wrote
for such groups is written again here, from x / 2**k. That is slow, and hardly ever happens; to look takes a nanosecond a
group. Narrower types, computed in float64, have no such limits. What a nan or an infinity in the data spoilt is let be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..spec.call import Call
from ..spec.plan import Plan
from ..spec.tree import FLOOR, LEAST_COLUMNS, STEP, UNITS
from .arith.statistics import group_in_range
from .layout import LOW, M2, MEAN, RSTD
from .masks import Mask, mask_of

Array = np.ndarray[Any, Any]


def exponents(a: Any) -> Array:
    """The multiple of STEP next to the exponent of each number; 0 of what is 0 or not finite."""
    nearest: Array = (np.frexp(a)[1] + STEP // 2) // STEP * STEP
    return np.where(np.isfinite(a) & (a != 0), nearest, 0)


def times_power(a: Any, exponent: Any) -> Array:
    """a * 2**exponent, rounded once; what is too large is inf."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # a signalling nan is an invalid operand
        scaled: Array = np.ldexp(a, exponent)
    return scaled


class Scaled(NamedTuple):
    """Groups that were computed from x / 2**exponent."""

    units: Array
    exponent: int
    stats: Array  # (4, n), of what was scaled
    where: Any  # in y, seen as (B, M, G, K * T)
    y: Array


@lru_cache(maxsize=64)
def as_one_sample_of(call: Call, groups: int) -> Call:
    """The call for so many groups, all of one sample; the same each time, for a schedule is kept for each."""
    plan = replace(call.plan, B=1, G=groups, stats_shape=(groups,), weight_shape=(groups * call.plan.K,))
    return call.but(plan=plan, in_place=False)


def scaled_groups(
    call: Call, x: Array, affine: tuple[Any, Any, float], stats: Array, normalize: Callable[..., Any], mask: Mask | None
) -> Iterator[Scaled]:
    """The groups that are not in range, whose stats are corrected. affine: weight, bias, eps.

    normalize(call, x, y, weight, bias, eps, stats, mask) is the kernel. Groups of one exponent go through it as those of one
    sample.
    """
    plan, (weight, bias, eps) = call.plan, affine
    out_of_range = np.flatnonzero(~group_in_range.py_func(stats[M2], stats[RSTD]))

    def of_groups(a: Array) -> Array:
        return a.reshape(plan.B, plan.M, plan.G, -1)[out_of_range // plan.G, :, out_of_range % plan.G]

    shape = x.shape
    x, kept = of_groups(x), np.True_ if mask is None else of_groups(np.broadcast_to(mask.where, shape))
    measured = np.where(kept, x, 0.0)
    finite = np.isfinite(measured).all((1, 2))
    out_of_range, x, kept = out_of_range[finite], x[finite], np.broadcast_to(kept, x.shape)[finite]
    exponent = exponents(np.abs(measured[finite]).max((1, 2)))
    if eps:
        exponent = np.maximum(exponent, exponents(np.sqrt(eps)))
    for e in np.unique(exponent):
        units = out_of_range[exponent == e]
        n, where = len(units), (units // plan.G, slice(None), units % plan.G)
        # more groups, of zeros, so that rows are never folded: a group's bits do not depend on how many others are here
        room = max(n, -(-LEAST_COLUMNS // x.shape[2]))
        own = as_one_sample_of(call, room)
        scaled, found = np.zeros((plan.M, room, x.shape[2])), np.zeros((4, room))
        scaled[:, :n] = times_power(x[exponent == e], -e).transpose(1, 0, 2)
        own_weight, own_bias = (
            None if p is None else np.resize(p.reshape(plan.G, -1)[units % plan.G], (room, plan.K)) for p in (weight, bias)
        )
        y, own_eps = np.empty(scaled.shape), max(float(times_power(np.float64(eps), -2 * e)), FLOOR) if eps else 0.0
        own_mask = None
        if mask is not None:
            own_where = np.zeros(scaled.shape, bool)
            own_where[:, :n] = kept[exponent == e].transpose(1, 0, 2)
            own_mask = mask_of(own, own_where, scaled.shape)
        normalize(own, scaled, y, own_weight, own_bias, own_eps, found, own_mask)
        for row, power in ((MEAN, e), (LOW, e), (M2, 2 * e), (RSTD, -e)):
            stats[row, units] = times_power(found[row, :n], power)
        if eps:
            stats[RSTD, units[found[M2, :n] == 0]] = 1.0 / np.sqrt(eps)
        yield Scaled(units, int(e), found[:, :n], where, y[:, :n].transpose(1, 0, 2))


def keep_scaled(group: Scaled, stats: Array, scale: Array) -> None:
    """Leave low parts and sums of squares in units of a scale and its square, in which they are in range."""
    mean, low, m2 = group.stats[: M2 + 1]
    power = np.where(m2 > 0, np.sign(group.exponent) * UNITS, 0)
    scale[group.units] = np.ldexp(1.0, power)
    low = low + (mean - times_power(stats[MEAN, group.units], -group.exponent))  # what denormal numbers have no place for
    stats[LOW, group.units] = times_power(low, group.exponent - power)
    stats[M2, group.units] = times_power(m2, 2 * (group.exponent - power))


def scaled_gradients(
    plan: Plan, x: Array, dy: Array, dx: Array | None, mean: Array | None, rstd: Array, grads: Array | None,
    differentiate: Callable[..., Any],
) -> None:  # fmt: skip
    """Write dx and grads, where groups or dy need a scale. differentiate(x, dy, dx, mean, rstd, grads) is the kernel.

    dy has a scale for each group where dx is computed, and one for each weight where the gradients of parameters are.
    """
    shape, units = (plan.B, plan.M, plan.G, plan.K, plan.T), (plan.B, 1, plan.G, 1, 1)
    of_x, dy, size = -exponents(rstd), dy.reshape(shape), np.abs(dy.reshape(shape))
    x = times_power(x.reshape(shape), -of_x.reshape(units))
    mean, rstd = None if mean is None else times_power(mean, -of_x), times_power(rstd, of_x)

    def computed(of_dy: Array) -> tuple[Array | None, Array | None]:
        found = None if dx is None else np.empty(shape), None if grads is None else np.empty(grads.shape)
        differentiate(x, times_power(dy, -of_dy), found[0], mean, rstd, found[1])
        return found

    if dx is not None:
        of_dy = exponents(size.max((1, 3, 4), keepdims=True))
        dx[...] = times_power(computed(of_dy)[0], of_dy - of_x.reshape(units)).reshape(dx.shape)
    if grads is not None:
        of_dy = exponents(size.max((0, 1, 4), keepdims=True))
        grads[...] = times_power(computed(of_dy)[1], np.tile(of_dy.ravel(), 2).reshape(grads.shape))
