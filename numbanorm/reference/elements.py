"""Each element from the statistics of its group: the float64 value rounded once, or float32 arithmetic where that is near."""

from __future__ import annotations

import numpy as np

from ..spec.plan import Plan
from ..spec.rounding import narrow as narrow
from ..spec.tree import by_columns
from .numbers import Array, fma, fma32, single
from .statistics import Statistics

# where no float32 number below leaves its range, nor a low part that matters: |mean|, by whether the statistics are x's own;
# m2 of its own ones, so that no |x - mean| reaches 2**124; rstd and rstd * weight, with the inverse below; the shift
MEAN, M2, SCALE, SHIFT = {True: 2.0**125, False: 2.0**103}, 2.0**248, 2.0**100, 2.0**127


def parameter(plan: Plan, values: Array | None, absent: float) -> Array:
    """Weight or bias as float64 (G, K, 1); `absent` stands for none: -0 changes not even the sign of a zero."""
    if values is None:
        return np.full((plan.G, plan.K, 1), absent)
    return values.astype(np.float64).reshape(plan.G, plan.K, 1)


def of_group(a: Array) -> Array:
    """(B, G) -> what broadcasts against (B, M, G, K, T)."""
    return a[:, None, :, None, None]


def rounded_once(plan: Plan, x: Array, s: Statistics, w: Array, b: Array) -> Array:
    """y in float64, of x (B, M, G, K, T)."""
    mean, low, rstd = (of_group(a) for a in (s.mean, s.low, s.rstd))
    scale, shift = rstd * w, fma(-(low * rstd), w, b)
    return np.asarray(fma(x.astype(np.float64) - mean, scale, shift))


def pointwise(plan: Plan) -> bool:
    """Whether each element of a group has a weight of its own: it is no part of the group's constants then."""
    return plan.K > 1 and plan.T == 1 and not by_columns(plan)


def within(a: Array, most: float) -> Array:
    """Whether 1 / SCALE < |a| < most, or a is 0."""
    return np.asarray((a == 0) | ((np.abs(a) > 1 / SCALE) & (np.abs(a) < most)))


def in_two(a: Array) -> tuple[Array, Array]:
    """Two float32 of one sign whose sum a number is, to 2**-40: so no product with an infinity makes a nan of theirs."""
    high = single(a)
    high = np.where(np.abs(high.astype(np.float64)) > np.abs(a), np.nextafter(high, np.float32(0)), high)
    rest = a - high
    return high, single(np.where(rest == 0, high.astype(np.float64) * 2.0**-40, rest))


def in_float32(plan: Plan, x: Array, s: Statistics, w: Array, b: Array, own: bool) -> tuple[Array, Array]:
    """y of x (B, M, G, K, T), by float32 operations; and a mask of what it is good for, which broadcasts against it.

    Two constants stand for each that matters: the mean is high + low, and so is rstd or rstd * weight. What is left is that x -
    mean is rounded, the result is, and what comes between them.
    """
    mean, rstd = of_group(s.mean), of_group(s.rstd)
    high = single(mean)
    low = (mean - high) + of_group(s.low)
    good = (np.abs(mean) < MEAN[own]) & (rstd != 0) & within(rstd, SCALE) & ((not own) | (of_group(s.m2) < M2))
    d = x.astype(np.float32) - high
    if pointwise(plan):
        high, rest = in_two(rstd)
        normalized = fma32(d, high, fma32(d, rest, single(-(low * rstd))))
        exact = all(((p == single(p)) | np.isnan(p)).all() for p in (w, b))
        return fma32(normalized, single(w), single(b)), good & exact
    scale, shift = rstd * w, fma(-low, rstd * w, b)
    high, rest = in_two(scale)
    y = fma32(d, high, fma32(d, rest, single(shift)))
    return y, good & within(scale, SCALE) & (np.abs(shift) < SHIFT)
