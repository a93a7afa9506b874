"""Which elements moments are of, and how much each of them weighs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends import host
from ..pairs import product, quick_two_sum
from ..spec import checks
from ..spec.call import moments_call
from ..spec.plan import Shape
from ..spec.shown import shown

Array = np.ndarray[Any, Any]


def included(space: Any, x: Any, where: Any, nan: Any) -> Array | None:
    """The mask of the elements of x that count, or None for all."""
    if nan not in ("propagate", "omit"):
        raise ValueError(f"nan must be 'propagate' or 'omit': got {shown(nan)}; write 'omit' to leave out what is nan")
    kept: Array | None = space.mask(where, x.shape)
    if nan == "propagate":
        return kept
    if not isinstance(x, np.ndarray):
        raise ValueError("nan must be 'propagate' on a CUDA device, for masks are computed on the CPU alone: got 'omit'; "
                         "copy x to the host")  # fmt: skip
    there = ~np.isnan(x)
    return there if kept is None else there & kept


def weights_of(weights: Any, shape: Shape) -> Array:
    """Weights as float64 of the shape of x: what broadcasts stays a view."""
    if not isinstance(weights, np.ndarray) or weights.dtype.kind not in "iufV" or weights.dtype.names:
        got = f"an array of {weights.dtype}" if isinstance(weights, np.ndarray) else type(weights).__name__
        raise TypeError(f"weights must be a NumPy array of numbers: got {got}; write np.asarray(weights, dtype=float)")
    if not checks.broadcasts(weights.shape, shape):
        raise ValueError(f"weights must broadcast to the shape of x, {shape}: got {weights.shape}; give it an axis of length 1 "
                         f"or of x's own for each axis of x, as weights[:, None] for a weight of each row")  # fmt: skip
    wide = weights.astype(np.float64)
    if not (np.isfinite(wide) & (wide >= 0.0)).all():
        raise ValueError(f"weights must be finite, and 0 or more: got {shown(float(wide.min()))} as the least; use 0 for what "
                         f"is not to count")  # fmt: skip
    return np.broadcast_to(wide, shape)


def total(a: Array, axes: Shape) -> Array:
    """Sums of float64 over axes, in the order of a mean's, rounded once."""
    call, order = moments_call(a.shape, a.dtype, axes, "two_pass")
    if a.size == 0:
        return np.zeros(call.plan.stats_shape)
    mean, low, *_ = host.measure(call, host.contiguous(host.transposed(a, order)))
    n = float(call.plan.count)
    rough, lost = product(mean, n)
    lost = lost + low * n
    result: Array = np.where(np.isfinite(lost), rough + lost, rough)
    return result


def weighted(x: Array, weights: Any, kept: Array | None, axes: Shape) -> tuple[Array, Array, Array, Array]:
    """Sum of the weights, weighted mean, its low part, and weighted sum of squares about it, float64 of the axes that are kept.

    D. H. D. West, "Updating mean and variance estimates: an improved method", 1979, has the formulas. The mean is taken of the
    products, then once more of what is left, so it is as exact as float64 has products w * x, whatever x's distance from 0.
    """
    if not isinstance(x, np.ndarray):
        raise ValueError("weights must be None on a CUDA device, where nothing is weighted: got an array; copy x to the host")
    w = weights_of(weights, x.shape)
    if kept is not None:
        w = np.where(kept, w, 0.0)
    with np.errstate(all="ignore"):  # nan and inf pass on
        values = np.where(w > 0.0, x, 0.0).astype(np.float64)  # what weighs nothing may be nan
        size = total(w, axes)
        over = np.where(size > 0.0, size, 1.0)
        mean = total(w * values, axes) / over
        d = values - np.expand_dims(mean, axes)
        rest = total(w * d, axes) / over
        squares = total(w * d * d, axes) - size * rest * rest
        high, low = quick_two_sum(mean, rest)
        good = np.isfinite(high)
        return size, np.where(good, high, mean), np.where(good, low, 0.0), np.maximum(squares, 0.0)
