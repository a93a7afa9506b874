"""Accumulators, and what a group's sums become: statistics, and what a gradient takes.

An accumulator is a tuple: (high,) for elements of 32 bits or fewer, (high, low) for float64 ones, an unevaluated sum kept by
TwoSum; so are other numbers, which may have fewer parts than what is computed from them. Each function is the twin of one in
`numbanorm.cpu.arith`'s accumulators, arithmetic or gradient_sums, with the same roundings in the same order: docs/numerics.md
has the formulae.
"""

from __future__ import annotations

from ...spec.tree import TOO_FAR
from .device import device, div, exchange, fma, mul, nothing, root


@device
def two_sum(x, y):
    """x + y as the rounded sum and its exact error."""
    s = x + y
    z = s - x
    return s, (x - (s - z)) + (y - z)


@device
def number(low):
    """A low part, or 0 where it is nan: the error of an infinite sum says nothing."""
    if low != low:
        low = 0.0
    return low


@device
def or_nothing(v, there):
    """v, or 0 if it is not there."""
    if not there:
        v = nothing(v)
    return v


@device
def empty(one):
    """An accumulator of nothing; `one` is any accumulator."""
    if len(one) == 1:
        return (0.0,)
    return 0.0, 0.0


@device
def less(x, y, like):
    """x - y of two float64, exactly if an accumulator like this has two parts."""
    if len(like) == 1:
        return (x - y,)
    return two_sum(x, -y)


@device
def multiply(x, y, like):
    """x * y, of as many parts as an accumulator like this; the low part is not normalized."""
    high = mul(x[0], y[0])
    if len(like) == 1:
        return (high,)
    low = fma(x[0], y[0], -high)
    if len(y) == 2:
        low = fma(x[0], y[1], low)
    if len(x) == 2:
        low = fma(x[1], y[0], low)
    return high, low


@device
def term(acc, x):
    """acc + x; the low part needs no renormalizing until accumulators are joined."""
    if len(acc) == 1:
        return (acc[0] + x[0],)
    s, e = two_sum(acc[0], x[0])
    if len(x) == 2:
        e = e + x[1]
    return s, acc[1] + e


@device
def product(acc, x, y):
    """acc + x * y"""
    if len(acc) == 1:
        return (fma(x[0], y[0], acc[0]),)
    return term(acc, multiply(x, y, acc))


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
    d = less(high, mean, acc)
    return term(acc, multiply(multiply(d, plus(d, padded(low + low, acc)), acc), (n,), acc))


@device
def padded(x, like):
    """A float64 with as many parts as an accumulator like this."""
    if len(like) == 1:
        return (x,)
    return x, 0.0


@device
def negative(x):
    """Minus a number."""
    if len(x) == 1:
        return (-x[0],)
    return -x[0], -x[1]


@device
def kept(there, x):
    """A number, or 0 if it is not there."""
    if len(x) == 1:
        return (or_nothing(x[0], there),)
    return or_nothing(x[0], there), or_nothing(x[1], there)


@device
def inverse_root(high, low, eps):
    """1 / sqrt(high + low + eps), rounded once: a Newton step takes in what the sum, the root and the quotient lost."""
    v, error = two_sum(high, number(low))
    v, more = two_sum(v, eps)
    return inverse_of_root(v, error + more)


@device
def inverse_of_root(v, error):
    """1 / sqrt(v + error), rounded once."""
    r = div(1.0, root(v))
    p = mul(v, r)
    rest = fma(v, r, -p)
    e = fma(-p, r, 1.0) - mul(r, rest + mul(error, r))
    better = fma(mul(0.5, r), e, r)
    if better != better:  # an infinite r has no error
        better = r
    return better


@device
def variance(high, low, d, like):
    """high + low - d * d as (high, low), of what an accumulator like this gave."""
    if len(like) == 1:
        return high, low - mul(d, d)
    return plus((high, low), negative(multiply((d,), (d,), like)))


@device
def spread(total, low, count, eps):
    """Squares about the mean's high part, and its low part -> (sum of squares about the mean, rstd)."""
    high, rest = ratio(total, count)
    high, rest = variance(high, rest, low, total)
    return value(total) - mul(mul(count, low), low), inverse_root(high, rest, eps)


@device
def quotient_by(x, n, inverse):
    """x / n, rounded, of a whole n, whose `inverse` is rounded: two steps from the product, where div takes a branch too."""
    q = mul(x, inverse)
    q = fma(fma(-q, n, x), inverse, q)
    return fma(fma(-q, n, x), inverse, q)


@device
def ratio_by(x, n, inverse, halving):
    """Twin of `ratio` for a float64, nan where that is infinite; halving: whether n is a power of two, and nothing is lost."""
    if halving:
        q = mul(x, inverse)
        return q, fma(-q, n, x)
    q = quotient_by(x, n, inverse)
    return q, quotient_by(fma(-q, n, x), n, inverse)


@device
def moments(s, q, n, inverse, halving, eps):
    """Sum and sum of squares of a group -> (mean, low, m2, rstd), and rstd is 0 where their difference loses too many bits."""
    mean, low = ratio_by(s[0], n, inverse, halving)
    if mean != mean:
        mean = s[0]  # what is infinite stays so
    m2 = fma(-s[0], mean, q[0])
    high, rest = ratio_by(m2, n, inverse, halving)
    if halving:
        v, error = two_sum(high, eps)
        rstd = inverse_of_root(v, error)
    else:
        rstd = inverse_root(high, rest, eps)
    return mean, low, m2, if_accepted(q[0], m2, rstd)


@device
def if_accepted(q, m2, rstd):
    """rstd, or 0 if squares about 0 are too many times those about the mean."""
    if not q <= mul(TOO_FAR, m2):
        rstd = 0.0
    return rstd


@device
def moments_of(s, q, n, eps):
    """Twin of `moments` where there is no inverse of n."""
    mean, low = ratio((s[0],), n)
    m2 = fma(-s[0], mean, q[0])
    high, rest = ratio((m2,), n)
    return mean, low, m2, if_accepted(q[0], m2, inverse_root(high, rest, eps))


@device
def times_cube(c, r):
    """c * r**3, of as many parts, and with one rounded once."""
    high, low = c[0], 0.0
    if len(c) == 2:
        low = c[1]
    for _ in range(3):
        p = mul(high, r)
        low = fma(low, r, fma(high, r, -p))
        high = p
    total = high + low
    total = total if total == total else high  # what is infinite has no low part
    if len(c) == 1:
        return (total,)
    return total, low - (total - high)


@device
def average(s, n):
    """s / n, of as many parts."""
    if len(s) == 1:
        return (div(s[0], n),)
    return ratio(s, n)


@device
def settled(center, u, ud, d, count, rstd):
    """A group's sums of u, u * d and d -> (slope, shift, offset, size).

    dx = d * slope + (u * rstd + shift), where slope and shift have the parts of u; d * rstd + offset is the normalized x;
    size is that of an average u.
    """
    c1, c2, delta = average(u, count), average(ud, count), average(d, count)
    return of_averages(center, c1, c2, kept(center, delta), rstd)


@device
def of_averages(center, c1, c2, delta, rstd):
    """`settled`, from averages."""
    size = abs(c1[0]) + abs(mul(c2[0], rstd))
    c1 = kept(center, c1)
    r = (rstd,)
    slope = negative(times_cube(plus(c2, negative(multiply(delta, c1, c1))), rstd))
    shift = plus(negative(multiply(c1, r, c1)), negative(multiply(delta, slope, c1)))
    return slope, shift, -value(multiply(delta, r, c1)), size
