"""Numbers in two parts, and the powers of two that they are scaled by: arithmetic on arrays of any library that has one.

NumPy hands CuPy's arrays to CuPy; torch has its own functions, of the same names. Nothing here waits for a device.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .spec.tree import LARGE_STAT, LIMIT, UNITS

Array = np.ndarray[Any, Any]

HALF = 2.0**27 + 1.0  # splits a float64 into two of 26 bits (T. J. Dekker, 1971)


def library(*arrays: Any) -> Any:
    """Library of the functions: torch if one is a tensor, else NumPy."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and any(isinstance(a, torch.Tensor) for a in arrays) else np


def fresh(a: Any) -> Any:
    """A copy of a number or an array; one of Numba's device arrays, which have no arithmetic either, as it is."""
    if isinstance(a, (float, np.ndarray, np.generic)):
        return np.copy(a)
    return getattr(a, "clone", getattr(a, "copy", lambda: a))()


def array(a: Any) -> Array:
    """A number as an array; arrays as they are."""
    return np.asarray(a) if isinstance(a, (float, np.generic)) else a


def root(a: Any) -> Any:
    """Square root, by the library whose array it is."""
    return a.sqrt() if hasattr(a, "sqrt") else np.sqrt(a)


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """a + b, rounded, and what that lost (D. E. Knuth, 1969)."""
    s = a + b
    of_b = s - a
    return s, (a - (s - of_b)) + (b - of_b)


def quick_two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The same where |a| >= |b|; elsewhere what is lost is off by 2**-53 of b."""
    s = a + b
    return s, b - (s - a)


def split(a: Any) -> tuple[Any, Any]:
    """Two numbers of 26 bits whose sum is a; |a| < 2**996."""
    c = a * HALF
    high = c - (c - a)
    return high, a - high


def product(a: Any, b: Any) -> tuple[Any, Any]:
    """a * b, rounded, and what that lost (T. J. Dekker, 1971)."""
    p, (high, rest), (most, few) = a * b, split(a), split(b)
    return p, rest * few - (((p - high * most) - rest * most) - high * few)


def ratio(a: Any, b: Any) -> tuple[Any, Any]:
    """a / b <= 1 in two parts, the first of 26 bits; integers, or arrays of such below 2**53, which give the same."""
    high = split(a / b)[0]
    if hasattr(high, "shape"):
        most, few = split(b * 1.0)
        return high, ((a - high * most) - high * few) / b
    over, under = high.as_integer_ratio()
    return high, (a * under - over * b) / (b * under)


def units(size: Any) -> Any:
    """The power of two that numbers of about this size are to be divided by, so that their squares are in range.

    NumPy's arrays are looked at: where all are in range it is the number 1. To ask a device would mean to wait for it.
    """
    positive = size > 0.0
    if isinstance(size, (np.ndarray, np.generic)):
        least, most = float(np.min(size, where=positive, initial=1.0)), float(np.max(size, initial=0.0))
        if least >= 2.0**-LIMIT and most <= 2.0**LIMIT:
            return 1.0
    where, one = library(size).where, library(size).ones_like(size)
    small = where((size < 2.0**-LIMIT) & positive, one * 2.0**-UNITS, one)
    return where(size > 2.0**LIMIT, one * 2.0**UNITS, small)


def unscaled(a: Any, scale: Any, power: int) -> Any:
    """a * scale**power; a itself where the scale is the number 1."""
    if type(scale) is float:
        return a
    with np.errstate(all="ignore"):  # what is too large is inf
        for _ in range(power):
            a = a * scale
    return a


def rescued(m2: Any, rstd: Any, count: int) -> tuple[Any, Any]:
    """(m2 / scale**2, scale) of groups whose sum of squares left float64's range; rstd, which did not, has what is lost.

    A standard deviation below 2**-1024, whose inverse leaves it too, is 0.
    """
    lib = library(m2)
    one, known = lib.ones_like(m2), (rstd > 0.0) & (rstd < np.inf)
    large, small = known & (m2 == np.inf), known & (rstd >= LARGE_STAT)
    scale = lib.where(large, one * 2.0**UNITS, lib.where(small, one * 2.0**-UNITS, one))
    with np.errstate(all="ignore"):  # where nothing was lost
        r = rstd * scale
        return lib.where(large | small, count / (r * r), m2), scale
