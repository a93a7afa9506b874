"""Gradients, each rounded once: float64 sums and elements, of two limbs for float64 data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import gradient_family
from .elements import narrow, of_group, parameter
from .numbers import Array, Masked, Number, distance, fma, minus, negative, over, plus, rounded, split, times
from .trees import Tree, add_product, add_term, row_tree, run_tree


class Slant(NamedTuple):
    """Constants of a group's dx = (x - mean) * slope + (u * rstd + shift), and of the normalized x, (x - mean) * rstd +
    offset. Of (B, G) each."""

    slope: Number
    shift: Number
    offset: Array


def slant(sums: list[Number], rstd: Array, count: Any, center: bool) -> Slant:
    """From a group's sums of u, u * d and d; without `center` no mean was subtracted, and only that of u * d matters."""
    c1, c2, delta = (over(s, count) for s in sums)
    return of_averages(c1, c2, delta, rstd, center)


def of_averages(c1: Number, c2: Number, delta: Number, rstd: Array, center: bool) -> Slant:
    """`slant`, from averages."""
    limbs = len(c2)
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
    plan: Plan, x: Masked, dy: Array, mean: Array | None, rstd: Array, weight: Array | None = None, *, center: bool = True,
    given: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of x, weight and bias.

    Parameters
    ----------
    plan : Plan
    x, dy : array of the plan's size and one dtype; or (x, mask) for x
        With a mask, dx is 0 where it is not set, and neither x nor dy matters there.
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
    x, where = split(x)
    shape, limbs = (plan.B, plan.M, plan.G, plan.K, plan.T), 2 if x.itemsize == 8 else 1
    wide, dy_ = (a.astype(np.float64).reshape(shape) for a in (x, dy))
    kept, count, anchor, root = included(plan, where, mean, rstd)
    w, family = parameter(plan, weight, 1.0), gradient_family(plan)
    with np.errstate(all="ignore"):
        d = [np.where(kept, limb, 0.0) for limb in distance(wide, of_group(anchor), limbs)]
        way, dy_ = of_rows if family == "rows" else of_channels, np.where(kept, dy_, 0.0)
        s, dweight, dbias = way(plan, d, dy_, (root, count), w, center and not given, limbs)
        r = [root[:, None, :, None, None]]
        if given:
            dx = fma(dy_ - 0.0, r[0] * w, fma(-0.0, w, -0.0))
        else:
            u = times(times([dy_], [w], limbs), r, limbs) if family == "rows" else times([dy_], times(r, [w], limbs), limbs)
            slope, shift = ([limb[:, None, :, None, None] for limb in number] for number in (s.slope, s.shift))
            dx = sloped(d, slope, u, shift)
    return narrow(np.where(kept, dx, 0.0), x.dtype).reshape(x.shape), dweight, dbias


def included(plan: Plan, where: Array | None, mean: Array | None, rstd: Array) -> tuple[Any, Any, Array, Array]:
    """A mask (B, M, G, K, T), the divisor of each group, its mean and rstd; 0 and 1 where nothing was measured."""
    stats = (np.zeros_like(rstd) if mean is None else mean, rstd)
    anchor, root = (a.astype(np.float64).reshape(plan.B, plan.G) for a in stats)
    if where is None:
        return np.True_, np.float64(plan.count), anchor, root
    kept = where.reshape(plan.B, plan.M, plan.G, plan.K, plan.T)
    count = kept.sum((1, 3, 4))
    return kept, np.maximum(count, 1).astype(np.float64), np.where(count, anchor, 0.0), np.where(count, root, 1.0)


def of_channels(
    plan: Plan, d: Number, dy: Array, stats: tuple[Array, Any], w: Array, center: bool, limbs: int
) -> tuple[Slant, Array, Array]:
    """Channels first or last: sums of each channel in each sample serve all gradients. stats: rstd, and how many elements."""
    rstd, count = stats
    tree = Tree(gradient_family(plan) == "columns", plan.G * plan.K * plan.T)

    def channels(a: Array) -> Array:
        return a.reshape(plan.B, plan.M, plan.G * plan.K, plan.T)

    sums = products(tree, [channels(dy)], [channels(limb) for limb in d], limbs)
    sums = [[limb.reshape(plan.B, plan.G, plan.K) for limb in s] for s in sums]
    factors = w[..., 0], w[..., 0], np.ones((plan.G, plan.K))
    weighted = [times(s, [np.broadcast_to(f, s[0].shape)], limbs) for s, f in zip(sums, factors, strict=True)]
    of_groups = [row_tree(plus, [np.moveaxis(limb, 2, 0) for limb in s], limbs) for s in weighted]
    found = slant(of_groups, rstd, count, center)
    r, offset = rstd[..., None], found.offset[..., None]
    of_bias = plus(times(sums[0], [np.ones_like(r)], limbs), *times([np.zeros_like(s) for s in sums[0]], [r * 0.0], limbs))
    of_weight = plus(times(sums[1], [r], limbs), *times(sums[0], [offset], limbs))
    return found, *(rounded(row_tree(plus, s, limbs)) for s in (of_weight, of_bias))


def of_rows(
    plan: Plan, d: Number, dy: Array, stats: tuple[Array, Any], w: Array, center: bool, limbs: int
) -> tuple[Slant, Array, Array]:
    """Layer and RMS norm: a weight has an element or a few in each row."""
    rstd, count = stats

    def runs(a: Array) -> Array:
        return a.reshape(plan.B, 1, plan.G, plan.K * plan.T)

    u = times([dy], [np.broadcast_to(w, dy.shape)], limbs)
    sums = products(Tree(False, 0), [runs(limb) for limb in u], [runs(limb) for limb in d], limbs)
    found = slant(sums, rstd, count, center)
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
