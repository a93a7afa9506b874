"""Gradients in float32, for elements of 32 bits or fewer.

Elements, and the first eight terms of each sum, are float32; sums of sums, and the constants of a group, are float64. Two
roundings of an element's terms are left in dx, and in dweight and dbias those of each term and of seven sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import gradient_family
from .elements import MEAN, SCALE, in_float32, of_group, parameter, within
from .gradients import Slant, across, backward, included, of_averages
from .numbers import Array, Masked, fma32, plus, single, split
from .statistics import Statistics
from .trees import Tree, add32, add_product32, blocks32, pairs, row_tree

ROOT = 2.0**40  # rstd, whose cube is taken, is less, and more than its inverse


def slant32(of_u: Array, of_ud: Array, anchor: Array, rstd: Array, count: Any, center: bool) -> tuple[Slant, Array]:
    """From a group's sums of u and u * d, and whether float32 has room for it. The third average is known: what the mean has
    beyond its float32."""
    c1, c2 = of_u / count, of_ud / count
    found = of_averages([c1], [c2], [anchor - single(anchor)], rstd, center)
    size = np.abs(c1) + np.abs(c2 * rstd)
    known = (np.abs(anchor) < MEAN[True]) & (rstd > 1 / ROOT) & (rstd < ROOT)
    # what is summed are products of size and size / rstd: none that matters may lose its bits
    known &= (size == 0) | ((size > np.maximum(rstd, 1.0) / SCALE) & (size < SCALE))
    offset = -((anchor - single(anchor)) * rstd)  # a mean that is given has it, too
    good = known & within(found.slope[0], SCALE) & within(found.shift[0], SCALE)
    return found._replace(offset=np.where(known, offset, np.nan)), good


def backward32(
    plan: Plan, x: Masked, dy: Array, mean: Array | None, rstd: Array, weight: Array | None = None, *, center: bool = True,
    given: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of x, weight and bias in float32; arguments and results are those of `backward`.

    From there are taken those of a group for which float32 has no room, dweight and dbias that are not finite, and all if
    elements have weights that are no float32 numbers.
    """
    exact = backward(plan, x, dy, mean, rstd, weight, center=center, given=given)
    x, where = split(x)
    shape = plan.B, plan.M, plan.G, plan.K, plan.T
    kept, count, anchor, root = included(plan, where, mean, rstd)
    w, rows = parameter(plan, weight, 1.0), gradient_family(plan) == "rows"
    if rows and not ((w == single(w)) | np.isnan(w)).all():
        return exact
    with np.errstate(all="ignore"):
        d, dy_ = x.astype(np.float32).reshape(shape) - of_group(single(anchor)), dy.astype(np.float32).reshape(shape)
        d, dy_ = (np.where(kept, a, np.float32(0)) for a in (d, dy_))
        (s, good), *of_parameters = (of_rows32 if rows else of_channels32)(plan, d, dy_, (anchor, root, count), w, center)
        scale = of_group(root) if rows else of_group(root) * w
        if not rows:
            good = good & within(scale, SCALE).reshape(plan.B, plan.G, plan.K).all(axis=2)
        u = dy_ * single(w) if rows else dy_
        slope, shift = (of_group(single(a[0])) for a in (s.slope, s.shift))
        dx, good = fma32(d, slope, fma32(u, single(scale), shift)), of_group(good)
        if given:
            nothing = np.zeros_like(root)
            dx, good = in_float32(plan, dy_, Statistics(nothing, nothing, nothing, root), w, np.full_like(w, -0.0), False)
        dx = np.where(good & kept, dx.astype(x.dtype), exact[0].reshape(shape)).reshape(x.shape)
        dweight, dbias = (np.where(np.isfinite(a), a, e) for a, e in zip(of_parameters, exact[1:], strict=True))
        return dx, dweight, dbias


def of_channels32(
    plan: Plan, d: Array, dy: Array, stats: tuple[Array, Array, Any], w: Array, center: bool
) -> tuple[tuple[Slant, Array], Array, Array]:
    """Channels first or last: sums of each channel in each sample serve all gradients. stats: mean, rstd."""
    tree, rstd = Tree(gradient_family(plan) == "columns", plan.G * plan.K * plan.T), stats[1]
    d, dy = (a.reshape(plan.B, plan.M, plan.G * plan.K, plan.T) for a in (d, dy))
    sums = tree.total32(add32, [dy]), tree.total32(add_product32, [dy, d])
    of_dy, of_product = (s.reshape(plan.B, plan.G, plan.K) for s in sums)
    of_u, of_ud = (row_tree(plus, [np.moveaxis(s * w[..., 0], 2, 0)], 1)[0] for s in (of_dy, of_product))
    found = slant32(of_u, of_ud, *stats, center)
    of_weight = of_product * rstd[..., None] + of_dy * found[0].offset[..., None]
    return found, row_tree(plus, [of_weight], 1)[0], row_tree(plus, [of_dy + 0.0], 1)[0]


def of_rows32(
    plan: Plan, d: Array, dy: Array, stats: tuple[Array, Array, Any], w: Array, center: bool
) -> tuple[tuple[Slant, Array], Array, Array]:
    """Layer and RMS norm: a weight has an element or a few in each row."""
    tree, runs = Tree(False, 0), (plan.B, 1, plan.G, plan.K * plan.T)
    u = (dy * single(w)).reshape(runs)
    of_u, of_ud = tree.total32(add32, [u]), tree.total32(add_product32, [u, d.reshape(runs)])
    found = slant32(of_u, of_ud, *stats, center)
    h = fma32(d, of_group(single(stats[1])), of_group(single(found[0].offset)))
    of_weight, of_bias = pairs([blocks32(add_product32, [dy, h])]), pairs([blocks32(add32, [dy])])
    return found, across(of_weight, plan.T)[0], across(of_bias, plan.T)[0]
