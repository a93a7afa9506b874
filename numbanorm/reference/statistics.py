"""Mean and spread of each group."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import by_columns
from .numbers import Array, Number, distance, finite_part, fma, minus, plus, quotient, rounded, times, two_sum
from .trees import Tree, add_product, add_term

SPREAD = 2.0**10  # the sum of squares over that about the mean, up to which their difference is exact enough


class Statistics(NamedTuple):
    """The mean of each group is mean + low; m2 is the sum of squares about it, or the variance that was given. (B, G) each."""

    mean: Array
    low: Array
    m2: Array
    rstd: Array


def inverse_root(high: Any, low: Any, eps: float) -> Any:
    """1 / sqrt(high + low + eps), rounded once: a Newton step takes in what the sum, the root and the quotient lost."""
    v, error = two_sum(high, finite_part(low))
    v, more = two_sum(v, eps)
    r = 1.0 / np.sqrt(v)
    p = v * r
    rest = fma(v, r, -p)
    e = fma(-p, r, 1.0) - r * (rest + (error + more) * r)
    better = fma(0.5 * r, e, r)
    return np.where(np.isnan(better), r, better)


def squares_about(acc: Number, n: Any, high: Any, low: Any, mean: Any) -> Number:
    """Squares about `high` of n elements whose mean is high + low -> squares about `mean` (Chan, Golub, LeVeque 1979)."""
    limbs = len(acc)
    d = distance(high, mean, limbs)
    square = times(d, plus(d, low + low, np.zeros_like(low)), limbs)
    return add_term(acc, *times(square, [n], limbs))


def squares(acc: Number, *d: Array) -> Number:
    """acc + d * d."""
    return add_product(acc, list(d), list(d))


def merged_squares(tree: Tree, x: Array, leaves: Number, mean: Array) -> Number:
    """Sum of the squares of x about `mean` (B, G), from those of each leaf about its own mean (method "welford")."""
    limbs, inner = len(leaves), tree.inner([x])[0]
    n, step = len(inner), tree.step(len(inner))
    sizes = np.minimum(step, n - np.arange(0.0, n, step)).reshape(-1, *[1] * (inner.ndim - 1))
    own, low = quotient(leaves, sizes)
    about_own = tree.leaves(squares, distance(inner, np.repeat(own, step, axis=0)[:n], limbs), limbs)
    about = tree.inner([np.broadcast_to(mean[:, None, :, None], x.shape)])[0][:1]
    return tree.joined(squares_about(about_own, sizes, own, low, about))


def one_read(of_x: Array, of_squares: Array, s: Statistics, count: Any, eps: float) -> Statistics:
    """From the sums of x and of its squares, where their difference loses few bits (method None); elsewhere `s`.

    It loses no more than log2(SPREAD) of 53, so the variance is within 2**-42 of itself. A constant, but for zeros, and what is
    far from zero are measured about their mean.
    """
    m2 = fma(-of_x, s.mean, of_squares)
    near = of_squares <= SPREAD * m2
    rstd = inverse_root(*quotient([m2], count), eps)
    return Statistics(s.mean, s.low, np.where(near, m2, s.m2), np.where(near, rstd, s.rstd))


def measure(plan: Plan, x: Array, eps: float, how: tuple[bool, str | None], limbs: int, where: Array | None) -> Statistics:
    """The statistics of x, float64 (B, M, G, L), or of its elements where a mask is set. how: center, method."""
    if where is None:
        return measured(plan, x, eps, how, limbs, np.True_, np.float64(plan.count))
    count = where.sum((1, 3))
    s = measured(plan, np.where(where, x, 0.0), eps, how, limbs, where, np.maximum(count, 1).astype(np.float64))
    return s._replace(rstd=np.where(count, s.rstd, 0.0))


def measured(plan: Plan, x: Array, eps: float, how: tuple[bool, str | None], limbs: int, where: Any, count: Any) -> Statistics:
    """`measure`, of x that is 0 where it does not count."""
    tree, (center, method) = Tree(by_columns(plan), plan.G * plan.K * plan.T), how
    mean = low = np.zeros((plan.B, plan.G))
    sums = tree.leaves(add_term, tree.inner([x]), limbs)
    of_x = tree.joined(sums)
    if center:
        mean, low = quotient(of_x, count)
    if method == "welford" and center:
        about_mean = merged_squares(tree, x, sums, mean)
    else:
        d = [np.where(where, limb, 0.0) for limb in distance(x, mean[:, None, :, None], limbs)]
        about_mean = tree.total(squares, d, limbs)
    m2 = rounded(about_mean) - (count * low) * low
    high, rest = quotient(about_mean, count)
    square = times([low], [low], limbs)
    high, rest = (high, rest - square[0]) if limbs == 1 else minus([high, rest], square)
    s = Statistics(mean, low, m2, inverse_root(high, rest, eps))
    if method is not None or not center or limbs > 1:
        return s
    return one_read(of_x[0], tree.total(squares, [x], 1)[0], s, count, eps)


def of_given(plan: Plan, mean: Array, var: Array, eps: float) -> Statistics:
    """Statistics from elsewhere, of G elements each, for all samples."""
    mean, var = (np.broadcast_to(a.astype(np.float64), (plan.B, plan.G)) for a in (mean, var))
    return Statistics(mean, np.zeros_like(mean), var, inverse_root(var, np.zeros_like(var), eps))
