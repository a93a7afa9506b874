"""Each norm and its gradients from their definitions in long double, and how far a result is from them.

Nothing of numbanorm is used but its table of dtypes. Arrays are (B, G, K, N), as `cases.picked` lays them out: a mean is over K
and N, a parameter is (G, K).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..spec.dtypes import DTYPES
from .cases import EPS, Array, Case, Data, checked, picked

Long = np.longdouble


class Truth(NamedTuple):
    """A result, and the scale below which its rounding does not get smaller: that of the largest of its terms; of dx the
    largest of its group's, of dweight and dbias that of all terms together."""

    value: Array
    floor: Array


def known(dtype: str) -> bool:
    """Whether long double is wider than the type, as it is not everywhere for float64."""
    return np.finfo(Long).nmant + 1 > DTYPES[dtype].digits + 8


def truth(case: Case, numbers: Data, plain: bool = False) -> list[Truth]:
    """y; or dx, dweight and dbias, those of the parameters where they are whole. `plain` is without weight, bias and eps."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _gradients(case, numbers) if case.backward else [_forward(case, numbers, plain)]


def _parameters(case: Case, numbers: Data) -> list[Array]:
    """weight, bias, mean and var as (G, K, 1)"""
    axis, index, _ = checked(case)
    parts = [p.reshape(case.view[2:4]) for p in numbers[1:5]]
    return [(p.take(index, axis=0) if axis == 2 else p).astype(np.float64)[..., None].astype(Long) for p in parts]


def _normalized(case: Case, x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """(x - mean) * rstd and rstd, which broadcasts"""
    n = math.prod(x.shape[2:])
    if case.norm == "eval":
        d = x - mean
    elif case.norm == "rms":
        d = x
    else:  # the mean in two parts: x - high is exact where x is near it
        high = (_over_group(x) / n).astype(np.float64)
        d = x - high
        d = d - _over_group(d) / n
    rstd = 1 / np.sqrt((var if case.norm == "eval" else _over_group(d * d) / n) + Long(eps))
    return d * rstd, rstd


def _over_group(v: Array) -> Array:
    b, g = v.shape[:2]
    return np.asarray(np.ascontiguousarray(v).reshape(b, g, -1).sum(axis=2).reshape(b, g, 1, 1))


def _over_samples(v: Array) -> Array:
    """(B, G, K, N) -> (G, K)"""
    b, g, k, n = v.shape
    return np.asarray(np.ascontiguousarray(v.transpose(1, 2, 0, 3)).reshape(g, k, b * n).sum(axis=2))


def _forward(case: Case, numbers: Data, plain: bool) -> Truth:
    """y, with what stands around; a sum is rounded before it is normalized."""
    if numbers.other is None or case.around == "relu":
        y = _norm(case, numbers, numbers.x, plain)
        return y if numbers.other is None else _activated(y, picked(case, (numbers.other,))[0])
    return _norm(case, numbers, numbers.x + numbers.other, plain)


def _activated(y: Truth, other: Array) -> Truth:
    """relu(y + other). y, which is rounded by itself, may be larger than its terms, and than the sum."""
    floor = np.max([y.floor, np.abs(y.value), np.abs(other)], axis=0)
    return Truth(np.maximum(y.value + other, 0), floor)


def _norm(case: Case, numbers: Data, whole: Array, plain: bool) -> Truth:
    weight, bias, mean, var = _parameters(case, numbers)
    x = picked(case, (whole,))[0].astype(Long)
    xh, _ = _normalized(case, x, mean, var, 0.0 if plain else EPS)
    if plain:
        return Truth(xh, np.ones_like(xh))
    scaled = xh * weight
    if case.norm == "rms":
        return Truth(scaled, np.maximum(np.abs(scaled), np.abs(weight)))
    return Truth(scaled + bias, np.maximum(np.maximum(np.abs(scaled), np.abs(weight)), np.abs(bias)))


def _gradients(case: Case, numbers: Data) -> list[Truth]:
    weight, _, mean, var = _parameters(case, numbers)
    assert numbers.dy is not None
    x, dy = (picked(case, (a,))[0].astype(Long) for a in (numbers.x, numbers.dy))
    other = picked(case, (numbers.other,))[0].astype(Long) if numbers.other is not None else Long(0)
    if case.around == "relu":
        dy = np.where(other > 0, dy, 0)
    xh, rstd = _normalized(case, x, mean, var, EPS)
    n, u = math.prod(x.shape[2:]), dy * weight
    terms = [u]
    if case.norm != "eval":
        terms.append(-xh * (_over_group(u * xh) / n))
        if case.norm != "rms":
            terms.append(np.broadcast_to(-_over_group(u) / n, u.shape))
    largest = np.max(np.abs(terms), axis=0)
    if case.norm != "eval":  # where there is a group
        largest = np.broadcast_to(largest.max(axis=(2, 3), keepdims=True), largest.shape)
    dx = Truth(sum(terms[1:], terms[0]) * rstd, largest * rstd)
    if case.around == "residual":
        dx = Truth(dx.value + other, np.maximum(dx.floor, np.abs(other)))
    sums = [dy * xh] if case.norm == "rms" else [dy * xh, dy]
    return [dx, *(Truth(_over_samples(v), _over_samples(np.abs(v))) for v in sums)]


def ulp(found: list[Array], true: list[Truth], dtype: str) -> float:
    """Largest distance of any result, in units of the last place of `dtype` at max(|result|, floor)."""
    digits, lowest = DTYPES[dtype].digits, DTYPES[dtype].lowest
    worst = 0.0
    for y, t in zip(found, true, strict=False):  # parameters' gradients may be checked on one side only
        if y.shape != t.value.shape or not np.isfinite(y).all():
            return math.inf
        scale = np.maximum(np.abs(y), t.floor)
        exponent = np.where(scale == 0, lowest, np.maximum(np.frexp(scale)[1] - 1, lowest))
        worst = max(worst, float(np.max(np.abs(y - t.value) / np.ldexp(Long(1), exponent - (digits - 1)), initial=0)))
    return worst
