"""Numbers of one float64, or of two whose unevaluated sum they are: a list of limbs, the high one first.

What is computed for float64 data has two limbs, all else one. What is computed in float32 is an array of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Number = list[Array]
Masked = Array | tuple[Array, Array]  # an array, or one with a mask of what is measured


def split(x: Masked) -> tuple[Array, Array | None]:
    """An array and its mask, if it has one."""
    return x if isinstance(x, tuple) else (x, None)


def two_sum(x: Any, y: Any) -> tuple[Any, Any]:
    """x + y, rounded, and what was lost (D. Knuth, TAOCP vol. 2, 4.2.2)."""
    s = x + y
    z = s - x
    return s, (x - (s - z)) + (y - z)


def two_product(x: Any, y: Any) -> tuple[Any, Any]:
    """x * y, rounded, and what was lost (T. Dekker, 1971)."""

    def halves(a: Any) -> tuple[Any, Any]:
        scaled = a * (2.0**27 + 1)
        high = scaled - (scaled - a)
        return high, a - high

    p, (a, b), (c, d) = x * y, halves(x), halves(y)
    return p, b * d - (((p - a * c) - b * c) - a * d)


def fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once (S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums", 2008)."""
    product, lost = two_product(x, y)
    high, low = two_sum(z, lost)
    s, error = two_sum(product, high)
    total, rest = two_sum(low, error)
    even = np.asarray(total).view(np.int64) & 1 == 0
    odd = np.where((rest != 0) & even, np.nextafter(total, np.copysign(np.inf, rest)), total)
    found, plain = s + odd, x * y + z
    return np.where(np.isfinite(found) & (found != 0), found, plain)  # plain has the sign of a zero


def single(a: Any) -> Any:
    """Rounded to float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(a).astype(np.float32)


def fma32(x: Any, y: Any, z: Any) -> Any:
    """x * y + z of float32, rounded once: float64 holds the product; the sum is rounded to odd, and that to float32."""
    product, wide = x.astype(np.float64) * y, np.asarray(z).astype(np.float64)
    s, lost = two_sum(product, wide)
    even = np.asarray(s).view(np.int64) & 1 == 0
    odd = np.where((lost != 0) & even & np.isfinite(s), np.nextafter(s, np.copysign(np.inf, lost)), s)
    return single(odd)


def finite_part(low: Any) -> Any:
    """A low limb, or 0 where it is nan: what an infinite sum lost says nothing."""
    return np.where(np.isnan(low), 0.0, low)


def plus(x: Number, *y: Any) -> Number:
    """x + y."""
    if len(x) == 1:
        return [x[0] + y[0]]
    s, e = two_sum(x[0], y[0])
    return list(two_sum(s, finite_part(e + (x[1] + y[1]))))


def negative(x: Number) -> Number:
    return [-limb for limb in x]


def minus(x: Number, y: Number) -> Number:
    return [x[0] - y[0]] if len(x) == 1 else plus(x, *negative(y))


def distance(x: Any, y: Any, limbs: int) -> Number:
    """x - y of two float64; two limbs are exact."""
    return [x - y] if limbs == 1 else list(two_sum(x, -y))


def times(x: Number, y: Number, limbs: int) -> Number:
    """x * y; each may have fewer limbs than the product, whose low one may overlap the high one."""
    high = x[0] * y[0]
    if limbs == 1:
        return [high]
    low = fma(x[0], y[0], -high)
    for limb in y[1:]:
        low = fma(x[0], limb, low)
    for limb in x[1:]:
        low = fma(limb, y[0], low)
    return [high, low]


def over(x: Number, n: Any) -> Number:
    """x / n: truly, so that the mean of equal numbers is that number."""
    q = x[0] / n
    if len(x) == 1:
        return [q]
    low = finite_part((fma(-q, n, x[0]) + x[1]) / n)
    high = q + low
    return [high, low - (high - q)]


def quotient(x: Number, n: Any) -> tuple[Any, Any]:
    """x / n, rounded, and what was lost, whatever x has of limbs."""
    q = over(x, n)
    return (q[0], q[1]) if len(x) == 2 else (q[0], fma(-q[0], n, x[0]) / n)


def rounded(x: Number) -> Any:
    return x[0] if len(x) == 1 else x[0] + finite_part(x[1])
