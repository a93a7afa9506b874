"""Norms of rows, whose elements have weights of their own: layer and RMS norm."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..execute import offset
from ..execute.forward import forward
from ..execute.moved import forward_moved
from ..spec import plan
from ..spec.checks import Array

Result: TypeAlias = Any  # an array; with return_stats=True (array, Stats): __init__.pyi says so to those who check types


def layer_norm(
    x: Array,
    normalized_shape: int | tuple[int, ...],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    method: str | None = None,
    exact: bool = False,
    out: Array | None = None,
    return_stats: bool = False,
    where: Array | None = None,
    fill: float | None = None,
    weight_offset: float = 0.0,
    axis: int | tuple[int, ...] | None = None,
    residual: Array | None = None,
    return_residual: bool = False,
    addend: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    backend: str | None = None,
) -> Result:
    """Normalize over the last axes: y = (x - mean) / sqrt(var + eps) * weight + bias.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016.

    Parameters
    ----------
    x : array of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Read where it lies if it is C-contiguous, or, on the CPU, if it has contiguous rows that stand apart, as queries that
        are sliced from a fused projection. Copied first if not, and rows that stand apart also beside `where`, `axis`,
        `residual`, `addend`, `activation`, and parameters that differ between rows.
    normalized_shape : int or tuple of int
        The last axes of x: they share a mean and a (biased) variance.
    weight, bias : array of shape normalized_shape, optional
        Any of x's float types, not necessarily x's own.
    eps : float
        Added to the variance.
    method : {None, "two_pass", "welford"}
        How the statistics are taken. "two_pass": the mean first, then the squares about it. "welford": in one read of x,
        whose tiles are merged as in Chan, Golub and LeVeque 1979. None: sums and squares in one read of x, accepted where
        a bound says that at least 42 bits of the variance remain, any other group by two_pass; float64: two_pass.
    exact : bool
        Whether the result is the true value computed in float64 and rounded once. If not, float32, float16 and bfloat16
        are computed in float32 from the same float64 statistics: within 3 ulp of the largest of its terms (0.51 ulp of the
        type for float16 and bfloat16). For float64 it makes no difference.
    out : array like x, optional
        Where to write the result; may be x. One that is neither C-contiguous nor of such rows as x may have costs a copy.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape x.shape[:-len(normalized_shape)].
    where : bool array that broadcasts to x's shape, optional
        The elements that are measured, on the CPU: statistics are those of these alone, whatever is elsewhere, be it nan. y of
        the others is computed like that of all, unless `fill` is given. It is read as it lies and is broadcast: to leave out
        positions of (N, L, D) costs N * L bytes. `Stats.count` (int64) says how many there were; a group without any has
        mean and rstd 0, and its y is the bias. Where statistics are given, it matters for `fill` alone.
    fill : float, optional
        What y is where `where` is not set.
    weight_offset : float
        Added to the weight in float64: 1.0 for weights that say by how much they differ from 1, as Gemma's do. Where elements
        have weights of their own and are computed in float32, the sum is rounded to that, and y is within 4 ulp.
    axis : int or tuple of int, optional
        The axes that normalized_shape names, from first to last; by default the last ones. Neighbours, as the channels of
        (N, C, H, W), are brought side by side for some pixels at a time; others are moved to the end by a copy of x, and y
        back by another one. Statistics have the shape of the axes that are kept.
    residual : array like x, optional
        h = x + residual, rounded to x's dtype, is normalized in place of x, in the same pass. CPU only, and without `where`, as
        are the three that follow; results have the bits of calls one after the other. `layer_norm_backward` takes h for x.
    return_residual : bool
        Also return h: (y, h), or (y, h, Stats).
    addend : array like x, optional
        Added to the result, rounded to x's dtype before and after.
    activation : {None, "relu", "relu6", "leaky_relu"} or ("leaky_relu", slope)
        Applied to that; the slope, by default 0.01, is in [0, 1). nan stays. SiLU and GELU are left out: their gradients
        need what they were given, which the result does not tell; call them on it.
    backend : {None, "cpu", "cuda"}
        None: where x lies. "cuda" carries NumPy arrays to the device and the results back.

    Returns
    -------
    array
        Of x's shape and dtype, C-contiguous; with return_stats=True (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), 3, eps=0.0).round(4)
    array([[-1.2247,  0.    ,  1.2247]])
    """
    weight = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, True)
    how, beside = (method, exact, out, return_stats, backend), (fill, residual, return_residual, addend, activation)
    if axis is not None:
        return forward_moved("layer_norm", x, normalized_shape, axis, (weight, bias, eps), how, where, beside)
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return forward("layer_norm", x, which, (weight, bias, eps), how, None, where, beside)


def rms_norm(
    x: Array,
    normalized_shape: int | tuple[int, ...],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    method: str | None = None,
    exact: bool = False,
    out: Array | None = None,
    return_stats: bool = False,
    where: Array | None = None,
    fill: float | None = None,
    weight_offset: float = 0.0,
    axis: int | tuple[int, ...] | None = None,
    residual: Array | None = None,
    return_residual: bool = False,
    addend: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    backend: str | None = None,
) -> Result:
    """Scale the last axes to a root mean square of 1: y = x / sqrt(mean(x**2) + eps) * weight.

    B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.

    Parameters
    ----------
    x : array of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        As for `layer_norm`.
    normalized_shape : int or tuple of int
        The last axes of x: they share a mean square.
    weight : array of shape normalized_shape, optional
    eps : float, optional
        Added to the mean square; by default the machine epsilon of float32, or float64's for float64: as in torch.
    method : {None, "two_pass", "welford"}
        All are one, for there is no mean to take first.
    exact, out, return_stats, where, fill, weight_offset, axis, residual, return_residual, addend, activation, backend
        As for `layer_norm`.

    Returns
    -------
    array
        Of x's shape and dtype, C-contiguous; with return_stats=True (array, Stats), in which Stats.mean is None.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> rms_norm(np.array([[3.0, 4.0]]), 2).round(4)
    array([[0.8485, 1.1314]])
    """
    weight = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, True)
    how, beside = (method, exact, out, return_stats, backend), (fill, residual, return_residual, addend, activation)
    if axis is not None:
        return forward_moved("rms_norm", x, normalized_shape, axis, (weight, None, eps), how, where, beside)
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return forward("rms_norm", x, which, (weight, None, eps), how, None, where, beside)
