"""The formulae that are applied to each element, and the parameters they take. Forward and backward, all families."""

from __future__ import annotations

from typing import Any

from .device import device, fma, mul, quotient, read1
from .tiles import fetch, fetch_constant, four, four_add, four_fma, four_mul, same

MEAN, LOW, M2, RSTD = 0, 1, 2, 3  # rows of the statistics, float64 (4, units): the mean is MEAN + LOW, unevaluated
SLOPE, SHIFT, DELTA = 0, 1, 2  # rows of what a gradient takes, float64 (3, units)


@device
def share(low, rstd):
    """What the mean's low part adds to a normalized element."""
    return -mul(low, rstd)


four_shares = four(share, 2)


@device
def four_affine(d, rstd, c, w, b):
    """The one place of the formula: y = (x - mean) * (rstd * weight) + (c * weight + bias), d being x - mean."""
    return four_fma(d, four_mul(rstd, w), four_fma(c, w, b))


@device
def slanted(d, slope, u, shift):
    """dx = d * slope + (u + shift), u scaled with rstd: exactly 0 where u is its own mean."""
    return fma(d, slope, u + shift)


four_slanted = four(slanted, 4)


@device
def shared_parameters(wide, p, start, begin, left, j, t):
    """The parameters of step j where t elements of a run share one: p[start + (begin + 32 j) // t]."""
    k, one = 32 * j, 1 if wide else 0
    return (
        read1(p, start[0] + quotient(begin[0] + k, t)) if left[0] > k else 0.0,
        read1(p, start[1] + quotient(begin[1] + k + one, t)) if left[1] > k else 0.0,
        read1(p, start[2] + quotient(begin[2] + k + 2 * one, t)) if left[2] > k else 0.0,
        read1(p, start[3] + quotient(begin[3] + k + 3 * one, t)) if left[3] > k else 0.0,
    )


def parameters(wide: bool, pointwise: bool, given: bool, default: float, early: bool = True) -> Any:
    """A function that loads the parameters of a step: one an element, or one for t; or what is neutral."""

    def none(p, at, begin, left, j, t):
        return same(default)

    def one_each(p, at, begin, left, j, t):
        if early:
            return fetch_constant(wide, p, four_add(at, begin), left, j)
        return fetch(wide, p, four_add(at, begin), left, j)

    def one_for_t(p, at, begin, left, j, t):
        return shared_parameters(wide, p, at, begin, left, j, t)

    return device(none if not given else one_each if pointwise else one_for_t)
