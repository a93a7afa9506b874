"""Batch norm whose statistics are weighted, and its gradients, in host memory.

Statistics are those of `moments` with weights; then x is normalized by the kernels for given statistics. Gradients are NumPy's
float64 arithmetic, element by element, and sums those of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..backends import dispatch, host
from ..spec import checks
from ..spec.around import refuse_around, refuse_beside
from ..spec.call import Stats, Which
from ..spec.checks import Array
from ..spec.plan import Shape
from ..spec.rounding import narrow
from ..spec.shown import shown
from . import backward, forward
from .running import Running, RunningArguments
from .standardize import Given, added, roots
from .standardize import forward as standardized
from .weighted import total, weighted, weights_of

NORM = "batch_norm"


def allowed(x: Any, around: Iterable[Any], comm: Any, own: bool, method: Any, backend: Any) -> Array:
    """x of a known dtype, of a call that has no option beside weights that they are not computed with."""
    refuse_around("weights", around)
    refuse_beside("comm", "weights, whose moments are not exchanged", [comm],
                  "merge `moments(x, axis, weights=weights)` of all ranks, and call `standardize`")  # fmt: skip
    if dispatch.space(x, backend) is not host:
        raise ValueError("weights must be None on a CUDA device, where nothing is weighted: got an array; copy the arrays to "
                         "the host, or leave backend out")  # fmt: skip
    if not own:
        raise ValueError("weights must be None with training=False, for statistics are given: got an array; leave it out")
    if method == "welford":
        raise ValueError(f"method must be None or 'two_pass' with weights: got {shown(method)}; leave it out")
    return checks.array("x", x)


def axes_of(x: Array, channel_axis: int, spread: bool) -> Shape:
    """Axes along which parameters are the same: all but the channels, or if they are `spread` but those and the samples."""
    return tuple(k for k in range(x.ndim) if k != channel_axis % x.ndim and not (spread and k == 0))


def forward_weighted(
    x: Any,
    which: Which,
    affine: Any,
    how: Any,
    running: RunningArguments,
    weighting: tuple[Any, Any],
    where: Any,
    beside: tuple[Any, ...],
) -> Any:
    """As `forward`, of batch norm; weighting: weights of the elements of x, and what connects processes, which must be None."""
    (method, _, out, return_stats, backend), (weights, fill) = how, (weighting[0], beside[0])
    x_ = allowed(x, beside[1:], weighting[1], running[-1], method, backend)
    with_stats = checks.flag("return_stats", return_stats)
    asked = forward.check(NORM, host, (x, x_, where, fill), which, affine, how, running)
    axis = which[1] % x_.ndim
    size, mean, low, squares = weighted(x_, weights, asked.where, axes_of(x_, axis, False))
    var = squares / np.where(size > 0, size, 1.0)
    rstd = np.where(size > 0, roots(var, asked.eps, x_, asked.call.exact), 0.0)
    parameters, axes = (asked.weight, asked.bias), axes_of(x_, axis, asked.lead is not None)
    kept = tuple(n for k, n in enumerate(x_.shape) if k not in axes)
    given = Given(*(np.array(np.broadcast_to(a, kept)) for a in (mean, low, rstd)))
    y = standardized(x_, given, parameters, axes, asked.call.exact, out)
    if not size.all():  # the bias alone, whatever x is there
        bias = np.zeros(kept) if asked.bias is None else np.broadcast_to(asked.bias.astype(np.float64), kept)
        whole = np.broadcast_to(np.expand_dims(bias, axes), x_.shape)
        nothing = np.broadcast_to(by_channel(size == 0, axis, x_.ndim), x_.shape)
        y[nothing] = narrow(whole[nothing], y.dtype)
    if asked.where is not None and asked.fill is not None:
        y[~np.broadcast_to(asked.where, x_.shape)] = asked.fill
    if asked.running is not None:
        track(asked.running, asked.call.plan, size, mean, var)
    if not with_stats:
        return y
    stats = Stats(mean, rstd)
    stats.weighted = asked.weight is not None
    return y, stats


def by_channel(a: Array, axis: int, ndim: int) -> Array:
    """A number for each channel, as it broadcasts against x."""
    return a.reshape([-1 if k == axis else 1 for k in range(ndim)])


def track(running: Running, plan: Any, size: Array, mean: Array, var: Array) -> None:
    """Take weighted statistics into running ones: a channel of which nothing counts stays as it is."""
    less = size - running.unbiased
    counted = [(running.mean, size > 0), (running.var, less > 0)]
    before = [None if a is None else a.copy() for a, _ in counted]
    n = plan.count - running.unbiased
    stats = np.stack([mean, np.zeros_like(mean), var * (size / np.where(less > 0, less, 1.0)) * n, mean])
    running.update(stats, plan)
    for (a, there), old in zip(counted, before, strict=True):
        if a is not None and old is not None:
            a[~there] = old[~there]


def backward_weighted(
    dy: Any,
    x: Any,
    which: Which,
    stats: Any,
    weight: Any,
    how: Any,
    weighting: tuple[Any, Any],
    own: bool,
) -> Any:
    """As `backward`, of batch norm with weighted statistics; weighting: see `forward_weighted`."""
    (needs, exact, out, backend, where, *around), (weights, comm) = how, weighting
    x_ = allowed(x, around, comm, own, None, backend)
    needs, exact = checks.needs(needs, 3), checks.flag("exact", exact)
    asked = backward.check(NORM, host, (dy, x, x_), which, stats, weight, (needs, exact, out, backend, where), own)
    axis, w = which[1] % x_.ndim, weights_of(weights, x_.shape)
    everything, axes = axes_of(x_, axis, False), axes_of(x_, axis, asked.lead is not None)
    mean, rstd = (by_channel(np.asarray(s, np.float64), axis, x_.ndim) for s in asked.stats)
    kept = np.True_ if asked.where is None else np.broadcast_to(asked.where, x_.shape)
    with np.errstate(all="ignore"):  # nan and inf pass on
        w = np.where(kept, w, 0.0)
        normalized = np.where(kept, (x_.astype(np.float64) - mean) * rstd, 0.0)
        upstream = np.where(kept, asked.dy.astype(np.float64), 0.0)
        grads = [narrowed(upstream * v, axes, asked.weight, x_) if n else None
                 for n, v in zip(needs[1:], (normalized, 1.0), strict=True)]  # fmt: skip
        if not needs[0]:
            return None, *grads
        if asked.weight is not None:
            upstream = upstream * np.expand_dims(np.broadcast_to(asked.weight.astype(np.float64), kept_shape(x_, axes)), axes)
        size = total(w, everything)
        share = w / by_channel(np.where(size > 0, size, 1.0), axis, x_.ndim)
        one, two = (by_channel(total(a, everything), axis, x_.ndim) for a in (upstream, upstream * normalized))
        dx = narrow(np.where(kept, rstd * (upstream - share * (one + normalized * two)), 0.0), x_.dtype)
    if out is None:
        return dx, *grads
    out[...] = dx
    return out, *grads


def kept_shape(x: Array, axes: Shape) -> Shape:
    """Sizes of the other axes."""
    return tuple(n for k, n in enumerate(x.shape) if k not in axes)


def narrowed(a: Array, axes: Shape, weight: Array | None, x: Array) -> Array:
    """Sums over what shares a parameter, in its shape and type; or x's type without a weight."""
    sums = total(a, axes)
    return narrow(sums, x.dtype) if weight is None else narrow(added(sums, weight.shape), weight.dtype)
