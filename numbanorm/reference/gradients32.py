"""Gradients in float32, for elements of 32 bits or fewer: not what the kernels compute, yet.

Elements, and the first eight terms of each sum, are float32; sums of sums, and the constants of a group, are float64. Two
roundings of an element's terms are left in dx, and in dweight and dbias those of each term and of seven sums.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import gradient_family
from .elements import of_group, parameter
from .gradients import across
from .numbers import Array, fma, fma32, plus, single
from .trees import Tree, blocks32, pairs, row_tree


class Slant32(NamedTuple):
    """dx = d * slope + (u * rstd + shift), and the normalized x is d * rstd + offset, where d is x - float32(mean). float64, of
    (B, G) each."""

    rstd: Array
    slope: Array
    shift: Array
    offset: Array


def add32(acc: Array, term: Array) -> Array:
    return acc + term


def add_product32(acc: Array, x: Array, y: Array) -> Any:
    return fma32(x, y, acc)


def slant32(of_u: Array, of_ud: Array, low: Array, rstd: Array, count: float, center: bool) -> Slant32:
    """From a group's sums of u and u * d; `low` is what the mean has below its float32."""
    c1 = of_u / count if center else np.zeros_like(of_u)
    c2 = fma(-low, of_u, of_ud) / count
    slope = -(((c2 * rstd) * rstd) * rstd)
    return Slant32(rstd, slope, fma(-low, slope, -(c1 * rstd)), -(low * rstd))


def backward32(
    plan: Plan, x: Array, dy: Array, mean: Array | None, rstd: Array, weight: Array | None = None, *, center: bool = True,
    given: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of x, weight and bias in float32; arguments and results are those of `backward`."""
    shape = plan.B, plan.M, plan.G, plan.K, plan.T
    stats = (np.zeros_like(rstd) if mean is None else mean, rstd)
    anchor, root = (a.astype(np.float64).reshape(plan.B, plan.G) for a in stats)
    w, rows = parameter(plan, weight, 1.0), gradient_family(plan) == "rows"
    with np.errstate(all="ignore"):
        d, dy_ = x.astype(np.float32).reshape(shape) - of_group(single(anchor)), dy.astype(np.float32).reshape(shape)
        low = anchor - single(anchor)
        s, dweight, dbias = (of_rows32 if rows else of_channels32)(plan, d, dy_, root, w, low, center)
        scale = single(of_group(root) * (np.ones_like(w) if rows and not given else w))
        if given:
            dx = dy_ * scale
        else:
            u = dy_ * single(w) if rows else dy_
            slope, shift = (of_group(single(a)) for a in (s.slope, s.shift))
            dx = fma32(d, slope, fma32(u, scale, shift))
        return dx.astype(x.dtype).reshape(x.shape), dweight, dbias


def of_channels32(
    plan: Plan, d: Array, dy: Array, rstd: Array, w: Array, low: Array, center: bool
) -> tuple[Slant32, Array, Array]:
    """Channels first or last: sums of each channel in each sample serve all gradients."""
    tree = Tree(gradient_family(plan) == "columns", plan.G * plan.K * plan.T)
    d, dy = (a.reshape(plan.B, plan.M, plan.G * plan.K, plan.T) for a in (d, dy))
    sums = tree.total32(add32, [dy]), tree.total32(add_product32, [dy, d])
    of_dy, of_product = (s.reshape(plan.B, plan.G, plan.K) for s in sums)
    of_u, of_ud = (row_tree(plus, [np.moveaxis(s * w[..., 0], 2, 0)], 1)[0] for s in (of_dy, of_product))
    found = slant32(of_u, of_ud, low, rstd, float(plan.count), center)
    of_weight = of_product * rstd[..., None] + of_dy * found.offset[..., None]
    return found, row_tree(plus, [of_weight], 1)[0], row_tree(plus, [of_dy], 1)[0]


def of_rows32(plan: Plan, d: Array, dy: Array, rstd: Array, w: Array, low: Array, center: bool) -> tuple[Slant32, Array, Array]:
    """Layer and RMS norm: a weight has an element or a few in each row."""
    tree, runs = Tree(False, 0), (plan.B, 1, plan.G, plan.K * plan.T)
    u = (dy * single(w)).reshape(runs)
    of_u, of_ud = tree.total32(add32, [u]), tree.total32(add_product32, [u, d.reshape(runs)])
    found = slant32(of_u, of_ud, low, rstd, float(plan.count), center)
    h = fma32(d, of_group(single(rstd)), of_group(single(found.offset)))
    of_weight, of_bias = pairs([blocks32(add_product32, [dy, h])]), pairs([blocks32(add32, [dy])])
    return found, across(of_weight, plan.T)[0], across(of_bias, plan.T)[0]
