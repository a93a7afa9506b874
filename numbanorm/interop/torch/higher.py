"""The gradients of the norms' gradients, written with torch's differentiable operations: so any higher derivative exists.

With xh, u and rstd as in `numbanorm.gradients`, means over the elements that share a mean, P t = t - mean(t) - xh * mean(t *
xh) (RMS norm: without mean(t); P t = t where the statistics were given), and g, h, j the gradients of dx, dweight, dbias:

    ddy     = weight * rstd * P g + h * xh + j
    dweight = sum of dy * rstd * P g                     over all elements that share the weight
    dx      = rstd * (P q - xh * mean(rstd * P g * u))   with q = h * dy - rstd * (mean(u * xh) * g + mean(g * xh) * u)
    dx      = rstd * h * dy                              where the statistics were given

All in float64, rounded to the dtypes of dy, weight and x at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...spec.plan import Plan

OVER_GROUP, OVER_PLACE = (1, 3, 4), (0, 1, 4)  # axes of the five-axis view that share a mean, and a weight


def differentiate_gradients(
    upstream: tuple[Tensor | None, ...], saved: tuple[Any, ...], p: Plan, center: bool, own: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of dy, x and weight, None for those of which nothing depends.

    upstream: g, h, j, None where nothing depends on that. saved: dy, x (None if no gradient needed it), weight, mean, rstd.
    """
    dy, x, weight, mean, rstd = saved
    sizes, groups, places = (p.B, p.M, p.G, p.K, p.T), (p.B, 1, p.G, 1, 1), (1, 1, p.G, p.K, 1)
    g, t_dy, t_x = (_wide(t, sizes) for t in (upstream[0], dy, x))
    h, j, w = (_wide(t, places) for t in (*upstream[1:], weight))
    r, xh = rstd.reshape(groups), None
    if x is not None:
        r, xh = _standardize(t_x, mean.reshape(groups) if center else None, r, own)

    def project(t: Tensor) -> Tensor:
        """rstd * P t."""
        if not own:
            return r * t
        return r * ((t - _mean(t) if center else t) - xh * _mean(t * xh))

    ddy, dx, dweight, q = rstd.new_zeros(()), None, None, None
    if g is not None:
        u, pg = t_dy if w is None else t_dy * w, project(g)
        ddy, dweight = (pg, None) if w is None else (pg * w, (pg * t_dy).sum(OVER_PLACE))
        if own:
            q, dx = -r * (_mean(u * xh) * g + _mean(g * xh) * u), -r * xh * _mean(pg * u)
    if h is not None:
        ddy, q = ddy + h * xh, h * t_dy if q is None else q + h * t_dy
    if j is not None:
        ddy = ddy + j
    if q is not None:
        dx = project(q) if dx is None else project(q) + dx
    return _like(dy, ddy.expand(sizes)), _like(x, dx), _like(weight, dweight)


def _standardize(x: Tensor, mean: Tensor | None, rstd: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """rstd and xh as functions of x, of which the kernel's statistics are the values.

    Those are taken out first, so that nothing leaves float64's range, and eps need not be known: with z = (x - mean) * rstd,
    1 + mean(z**2) - (its value here) is (variance + eps) in units of its value here.
    """
    z = x * rstd if mean is None else (x - mean) * rstd
    if not own:
        return rstd, z
    if mean is not None:
        z = z - _mean(z)
    square = _mean(z * z)
    change = torch.rsqrt(1.0 + (square - square.detach()))
    return rstd * change, z * change


def _mean(t: Tensor) -> Tensor:
    """The mean over each group."""
    return t.mean(OVER_GROUP, keepdim=True)


def _wide(t: Tensor | None, shape: tuple[int, ...]) -> Any:
    """float64 in this shape."""
    return None if t is None else Tensor.double(t).reshape(shape)  # a subclass may have methods of its own


def _like(t: Tensor | None, gradient: Any) -> Tensor | None:
    """A gradient in the shape and dtype of what it belongs to."""
    return None if t is None or gradient is None else gradient.reshape(t.shape).to(t.dtype)
