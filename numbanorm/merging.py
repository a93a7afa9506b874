"""The arithmetic by which two `Moments` become one, in numbers of two parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .pairs import library, quick_two_sum, ratio, split, two_sum, units, unscaled


def nothing(m: Any) -> bool:
    """Whether there is no element in any group."""
    return not hasattr(m.count, "shape") and m.count == 0


def computable(m: Any) -> Any:
    """The moments themselves, unless their arrays have no arithmetic."""
    if not hasattr(type(m.mean), "__add__"):
        raise TypeError(
            f"moments must be of arrays with arithmetic to be merged, or for a variance: got {type(m.mean).__name__}; "
            f"take those of a CuPy array, cupy.asarray(x)"
        )
    return m


def merged(a: Any, b: Any) -> tuple[Any, ...]:
    """Count, mean and what Moments keep of both data sets, of which neither is empty.

    In units of the largest of their deviations and distance.
    """
    lib, n = library(a.mean), a.count + b.count
    several = hasattr(n, "shape")  # counts
    over = lib.where(n > 0, n, 1) if several else n
    weight = (a.count * 1.0 if several else a.count) * b.count / over
    with np.errstate(all="ignore"):  # nan and inf pass on; what is too small to matter is lost
        scale = units(lib.maximum(lib.maximum(deviation(a), deviation(b)), abs(b.mean - a.mean)))
        (of_a, low_a, *squares_a), (of_b, low_b, *squares_b) = in_units(a, scale), in_units(b, scale)
        d = distance(of_a, low_a, of_b, low_b)
        mean, low = moved(of_a, low_a, d, *ratio(b.count, over))
        m2, lost = total(squares_a, squares_b, (d[0] * d[0] * weight, d[0] * d[1] * (2.0 * weight)))
        good, rounded = lib.isfinite(mean), unscaled(mean, scale, 1)
        if type(scale) is not float:
            low = low + (mean - rounded / scale)  # what denormal numbers have no place for
        rounded = lib.where(good, rounded, a.mean * (a.count / over) + b.mean * (b.count / over))
        found = [rounded, lib.where(good, low, 0.0), m2, lost]
        if several:  # where one is empty, the other one as it is
            for other, own in ((b, (a.mean, low_a, *squares_a)), (a, (b.mean, low_b, *squares_b))):
                found = [lib.where(other.count == 0, value, v) for value, v in zip(own, found, strict=True)]
    return n, *found, scale


def deviation(m: Any) -> Any:
    """The standard deviation, or one that is as small and no denormal number."""
    std = m.std()
    if hasattr(m.count, "shape"):
        std = library(std).where(m.count > 0, std, 0.0)
    if type(m._scale) is float:
        return std
    return library(std).where((std < 2.0**-1000) & (m._squares > 0.0), 2.0**-1000, std)


def in_units(m: Any, scale: Any) -> tuple[Any, ...]:
    """Mean, its low part, and the two parts of m2, divided by a scale and its square."""
    if type(scale) is float and type(m._scale) is float:
        return m.mean, m._low, m._squares, m._lost
    change = m._scale / scale
    return m.mean / scale, m._low * change, m._squares * change * change, m._lost * change * change


def distance(a: Any, a_low: Any, b: Any, b_low: Any) -> tuple[Any, Any]:
    """b + b_low - (a + a_low) in two parts."""
    d, lost = two_sum(b, -a)
    return quick_two_sum(d, lost + (b_low - a_low))


def moved(a: Any, low: Any, d: tuple[Any, Any], share: float, rest: float) -> tuple[Any, Any]:
    """a + low + d * (share + rest) in two parts; `share` has 26 bits, so that its products with halves of d are exact."""
    half, other = split(d[0])
    s, lost = two_sum(a, half * share)
    return quick_two_sum(s, (lost + low) + (other * share + (d[0] * rest + d[1] * share)))


def total(*terms: Sequence[Any]) -> tuple[Any, Any]:
    """The sum of numbers >= 0 in two parts, in two parts; what is not finite has one."""
    s, low = terms[0]
    for high, lost in terms[1:]:
        s, error = two_sum(s, high)
        low = low + (lost + error)
    better, low = quick_two_sum(s, low)
    lib = library(s)
    good = lib.isfinite(better)
    return lib.where(good, better, s), lib.where(good, low, 0.0)
