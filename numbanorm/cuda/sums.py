"""Accumulators, and what a group's sums become: statistics, and what a gradient takes.

An accumulator is a tuple: (high,) for elements of 32 bits or fewer, (high, low) for float64 ones, an unevaluated sum kept by
TwoSum. Each function is the twin of one in `numbanorm.cpu.sums` or `cpu.products`, with the same roundings in the same order:
docs/numerics.md has the formulae.
"""

from __future__ import annotations

from .device import device, div, exchange, fma, mul, root


@device
def two_sum(x, y):
    """x + y as the rounded sum and its exact error."""
    s = x + y
    z = s - x
    return s, (x - (s - z)) + (y - z)


@device
def number(low):
    """A low part, or 0 where it is nan: the error of an infinite sum says nothing."""
    return low if low == low else 0.0


@device
def empty(one):
    """An accumulator of nothing; `one` is any accumulator."""
    if len(one) == 1:
        return (0.0,)
    return 0.0, 0.0


@device
def term(acc, v):
    """One number more; the low part needs no renormalizing until accumulators are joined."""
    if len(acc) == 1:
        return (acc[0] + v,)
    s, e = two_sum(acc[0], v)
    return s, acc[1] + e


@device
def product(acc, x, y):
    """acc + x * y"""
    if len(acc) == 1:
        return (fma(x, y, acc[0]),)
    p = mul(x, y)
    s, e = two_sum(acc[0], p)
    return s, acc[1] + (e + fma(x, y, -p))


@device
def plus(a, b):
    """The sum of two accumulators."""
    if len(a) == 1:
        return (a[0] + b[0],)
    s, e = two_sum(a[0], b[0])
    return two_sum(s, number(e + (a[1] + b[1])))


@device
def across(a, distance):
    """Joined with the accumulator of the thread that is `distance` away in the warp."""
    if len(a) == 1:
        return (a[0] + exchange(a[0], distance),)
    return plus(a, (exchange(a[0], distance), exchange(a[1], distance)))


@device
def ratio(s, n):
    """s / n as (high, low), high the rounded quotient: the true division makes a constant's mean that constant."""
    q = div(s[0], n)
    rest = fma(-q, n, s[0])
    if len(s) == 1:
        return q, div(rest, n)
    low = number(div(rest + s[1], n))
    high = q + low
    return high, low - (high - q)


@device
def value(s):
    """An accumulator as one number."""
    if len(s) == 1:
        return s[0]
    return s[0] + number(s[1])


@device
def squares_about(acc, n, high, low, mean):
    """Squares about `high` of n elements whose mean is high + low -> their squares about `mean`."""
    d = high - mean
    return term(acc, mul(n, mul(d, d + (low + low))))


@device
def weighted(acc, w):
    """acc * w"""
    high = mul(acc[0], w)
    if len(acc) == 1:
        return (high,)
    return high, fma(acc[1], w, fma(acc[0], w, -high))


@device
def inverse_root(high, low, eps):
    """1 / sqrt(high + low + eps), rounded once: a Newton step takes in what the sum, the root and the quotient lost."""
    v, error = two_sum(high, number(low))
    v, more = two_sum(v, eps)
    error = error + more
    r = div(1.0, root(v))
    p = mul(v, r)
    rest = fma(v, r, -p)
    e = fma(-p, r, 1.0) - mul(r, rest + mul(error, r))
    better = fma(mul(0.5, r), e, r)
    return better if better == better else r  # an infinite r has no error


@device
def spread(total, low, count, eps):
    """Squares about the mean's high part, and its low part -> (sum of squares about the mean, rstd)."""
    off = mul(low, low)
    high, rest = ratio(total, count)
    return value(total) - mul(mul(count, low), low), inverse_root(high, rest - off, eps)


@device
def times_cube(c, r):
    """c * r**3, rounded once."""
    high, low = c, 0.0
    for _ in range(3):
        p = mul(high, r)
        low = fma(low, r, fma(high, r, -p))
        high = p
    total = high + low
    return total if total == total else high  # what is infinite has no low part


@device
def settled(center, u, ud, d, count, rstd):
    """A group's sums of u, u * d and d -> (slope, shift, delta): dx = d * slope + (u * rstd + shift)."""
    c1, c2, delta = div(value(u), count), div(value(ud), count), div(value(d), count)
    if not center:
        c1, delta = 0.0, 0.0
    slope = -times_cube(c2 - mul(delta, c1), rstd)
    return slope, -mul(c1, rstd) - mul(delta, slope), delta
