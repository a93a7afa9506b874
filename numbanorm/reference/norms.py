"""Every formula of the norms in plain NumPy, with the bits of the kernels on both backends.

Arrays have the axes of a plan: (B, M, G, K, T), samples, runs, groups, channels of a group, elements of a channel in a run.
docs/numerics.md says why the formulas are what they are. Only what leaves float64's range is missing, which the kernels compute
again, scaled by a power of two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import by_columns, gradient_family
from .numbers import (
    Array,
    Number,
    distance,
    finite_part,
    fma,
    minus,
    negative,
    over,
    plus,
    quotient,
    rounded,
    times,
    two_sum,
)
from .trees import Tree, add_product, add_term, row_tree, run_tree


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


def measure(plan: Plan, x: Array, eps: float, center: bool, one_read: bool, limbs: int) -> Statistics:
    """The statistics of x, float64 (B, M, G, L)."""
    tree, count = Tree(by_columns(plan), plan.G * plan.K * plan.T), float(plan.count)
    mean = low = np.zeros((plan.B, plan.G))
    sums = tree.leaves(add_term, tree.inner([x]), limbs)
    if center:
        mean, low = quotient(tree.joined(sums), count)
    if one_read and center:
        about_mean = merged_squares(tree, x, sums, mean)
    else:
        about_mean = tree.total(squares, distance(x, mean[:, None, :, None], limbs), limbs)
    m2 = rounded(about_mean) - (count * low) * low
    high, rest = quotient(about_mean, count)
    square = times([low], [low], limbs)
    high, rest = (high, rest - square[0]) if limbs == 1 else minus([high, rest], square)
    return Statistics(mean, low, m2, inverse_root(high, rest, eps))


def forward(
    plan: Plan, x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5, *, center: bool = True,
    given: tuple[Array, Array] | None = None, method: str = "two_pass",
) -> tuple[Array, Statistics]:  # fmt: skip
    """Normalize.

    Parameters
    ----------
    plan : Plan
    x : array of the plan's size, float16, bfloat16, float32 or float64
    weight, bias : array of G * K elements, optional
    eps : float
    center : bool
        False for a mean of 0 (RMS norm).
    given : (mean, variance) of G elements each, optional
        To normalize with, in place of x's own.
    method : {"two_pass", "welford"}

    Returns
    -------
    (array of x's shape and dtype, Statistics)
    """
    wide = x.astype(np.float64).reshape(plan.B, plan.M, plan.G, plan.K * plan.T)
    with np.errstate(all="ignore"):
        if given is None:
            s = measure(plan, wide, eps, center, method == "welford", 2 if x.itemsize == 8 else 1)
        else:
            mean, var = (np.broadcast_to(a.astype(np.float64), (plan.B, plan.G)) for a in given)
            s = Statistics(mean, np.zeros_like(mean), var, inverse_root(var, np.zeros_like(var), eps))
        mean, low, rstd = (a[:, None, :, None, None] for a in (s.mean, s.low, s.rstd))
        w, b = parameter(plan, weight, 1.0), parameter(plan, bias, -0.0)
        scale, shift = rstd * w, fma(-(low * rstd), w, b)
        y = fma(wide.reshape(plan.B, plan.M, plan.G, plan.K, plan.T) - mean, scale, shift)
    return narrow(y, x.dtype).reshape(x.shape), s


def parameter(plan: Plan, values: Array | None, absent: float) -> Array:
    """Weight or bias as float64 (G, K, 1); `absent` stands for none: -0 changes not even the sign of a zero."""
    if values is None:
        return np.full((plan.G, plan.K, 1), absent)
    return values.astype(np.float64).reshape(plan.G, plan.K, 1)


def narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    """float64 rounded once to another type; bfloat16 by way of float32, rounded to odd."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.name != "bfloat16":
            return values.astype(dtype)
        single = values.astype(np.float32)
        bits, lost = single.view(np.int32), values - single
        towards = np.copysign(np.float32(np.inf), lost).astype(np.float32)
        odd = np.where((lost != 0) & (bits & 1 == 0) & np.isfinite(single), np.nextafter(single, towards), single)
        return odd.astype(dtype)


class Slant(NamedTuple):
    """Constants of a group's dx = (x - mean) * slope + (u * rstd + shift), and of the normalized x, (x - mean) * rstd +
    offset. Of (B, G) each."""

    slope: Number
    shift: Number
    offset: Array


def slant(sums: list[Number], rstd: Array, count: float, center: bool, limbs: int) -> Slant:
    """From a group's sums of u, u * d and d; without `center` no mean was subtracted, and only that of u * d matters."""
    c1, c2, delta = (over(s, count) for s in sums)
    if not center:
        c1, delta = ([np.zeros_like(limb) for limb in s] for s in (c1, delta))
    high, *low = minus(c2, times(delta, c1, limbs))
    cube = [high, low[0] if low else np.zeros_like(high)]
    for _ in range(3):
        cube = times(cube, [rstd], 2)
    total = cube[0] + cube[1]
    total = np.where(np.isnan(total), cube[0], total)
    slope = negative([total, cube[1] - (total - cube[0])][:limbs])
    shift = minus(negative(times(c1, [rstd], limbs)), times(delta, slope, limbs))
    return Slant(slope, shift, -rounded(times(delta, [rstd], limbs)))


def sloped(d: Number, slope: Number, u: Number, shift: Number) -> Array:
    """d * slope + (u + shift): exactly 0 where u is its own mean, as in a group of one."""
    total = u[0] + shift[0]
    rough: Array = fma(d[0], slope[0], total)
    if len(d) == 1:
        return rough
    low = fma(d[0], slope[1], u[1] + shift[1])
    dx = fma(d[0], slope[0], total + fma(d[1], slope[0], low))
    return np.where(np.isnan(dx), rough, dx)


def products(tree: Tree, u: Number, d: Number, limbs: int) -> list[Number]:
    """Sums of u, u * d and d over M runs of T; u, d: (B, M, *, T)."""
    return [
        tree.total(add_term, u, limbs),
        tree.total(lambda acc, *ud: add_product(acc, list(ud[: len(u)]), list(ud[len(u) :])), [*u, *d], limbs),
        tree.total(add_term, d, limbs),
    ]


def backward(
    plan: Plan, x: Array, dy: Array, mean: Array | None, rstd: Array, weight: Array | None = None, *, center: bool = True,
    given: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of x, weight and bias.

    Parameters
    ----------
    plan : Plan
    x, dy : array of the plan's size and one dtype
    mean, rstd : array of B * G elements
        As the forward pass returned them; a mean of None is 0.
    weight : array of G * K elements, optional
    center : bool
        False for a mean of 0 (RMS norm).
    given : bool
        Whether the statistics do not depend on x.

    Returns
    -------
    dx : array of x's shape and dtype
    dweight, dbias : float64 array (G, K), not yet rounded to the weight's dtype
    """
    shape, limbs = (plan.B, plan.M, plan.G, plan.K, plan.T), 2 if x.itemsize == 8 else 1
    wide, dy_ = (a.astype(np.float64).reshape(shape) for a in (x, dy))
    stats = (np.zeros_like(rstd) if mean is None else mean, rstd)
    anchor, root = (a.astype(np.float64).reshape(plan.B, plan.G) for a in stats)
    w, family = parameter(plan, weight, 1.0), gradient_family(plan)
    with np.errstate(all="ignore"):
        d = distance(wide, anchor[:, None, :, None, None], limbs)
        way = of_rows if family == "rows" else of_channels
        s, dweight, dbias = way(plan, d, dy_, root, w, center and not given, limbs)
        r = [root[:, None, :, None, None]]
        if given:
            dx = fma(dy_ - 0.0, r[0] * w, fma(-0.0, w, -0.0))
        else:
            u = times(times([dy_], [w], limbs), r, limbs) if family == "rows" else times([dy_], times(r, [w], limbs), limbs)
            slope, shift = ([limb[:, None, :, None, None] for limb in number] for number in (s.slope, s.shift))
            dx = sloped(d, slope, u, shift)
    return narrow(dx, x.dtype).reshape(x.shape), dweight, dbias


def of_channels(
    plan: Plan, d: Number, dy: Array, rstd: Array, w: Array, center: bool, limbs: int
) -> tuple[Slant, Array, Array]:
    """Channels first or last: sums of each channel in each sample serve all gradients."""
    tree = Tree(gradient_family(plan) == "columns", plan.G * plan.K * plan.T)

    def channels(a: Array) -> Array:
        return a.reshape(plan.B, plan.M, plan.G * plan.K, plan.T)

    sums = products(tree, [channels(dy)], [channels(limb) for limb in d], limbs)
    sums = [[limb.reshape(plan.B, plan.G, plan.K) for limb in s] for s in sums]
    factors = w[..., 0], w[..., 0], np.ones((plan.G, plan.K))
    weighted = [times(s, [np.broadcast_to(f, s[0].shape)], limbs) for s, f in zip(sums, factors, strict=True)]
    of_groups = [row_tree(plus, [np.moveaxis(limb, 2, 0) for limb in s], limbs) for s in weighted]
    found = slant(of_groups, rstd, float(plan.count), center, limbs)
    r, offset = rstd[..., None], found.offset[..., None]
    of_bias = plus(times(sums[0], [np.ones_like(r)], limbs), *times([np.zeros_like(s) for s in sums[0]], [r * 0.0], limbs))
    of_weight = plus(times(sums[1], [r], limbs), *times(sums[0], [offset], limbs))
    return found, *(rounded(row_tree(plus, s, limbs)) for s in (of_weight, of_bias))


def of_rows(plan: Plan, d: Number, dy: Array, rstd: Array, w: Array, center: bool, limbs: int) -> tuple[Slant, Array, Array]:
    """Layer and RMS norm: a weight has an element or a few in each row."""

    def runs(a: Array) -> Array:
        return a.reshape(plan.B, 1, plan.G, plan.K * plan.T)

    u = times([dy], [np.broadcast_to(w, dy.shape)], limbs)
    sums = products(Tree(False, 0), [runs(limb) for limb in u], [runs(limb) for limb in d], limbs)
    found = slant(sums, rstd, float(plan.count), center, limbs)
    r, h = (np.broadcast_to(a[:, None, :, None, None], dy.shape) for a in (rstd, found.offset))
    for limb in reversed(d):
        h = fma(limb, r, h)
    of_weight = row_tree(lambda acc, g, h: add_product(acc, [g], [h]), [dy, h], limbs)
    of_bias = row_tree(add_term, [dy], limbs)
    return found, *(rounded(across(s, plan.T)) for s in (of_weight, of_bias))


def across(sums: Number, t: int) -> Number:
    """(1, G, K, T) -> (G, K): the run tree over what shares a weight."""
    elements = [np.moveaxis(limb[0], 2, 0) for limb in sums]
    return [limb[0] for limb in elements] if t == 1 else run_tree(plus, elements, len(sums))
