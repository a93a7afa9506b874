"""Gradients of norms of rows: layer and RMS norm."""

from __future__ import annotations

from typing import TypeAlias

from ..execute import offset
from ..execute.backward import backward
from ..execute.moved import backward_moved
from ..spec import plan
from ..spec.checks import Array

Gradients: TypeAlias = tuple[Array | None, ...]


def layer_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | tuple[int, ...],
    stats: tuple[Array, Array],
    weight: Array | None = None,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
    exact: bool = False,
    out: Array | None = None,
    where: Array | None = None,
    weight_offset: float = 0.0,
    axis: int | tuple[int, ...] | None = None,
    y: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    dresidual: Array | None = None,
    return_daddend: bool = False,
    backend: str | None = None,
) -> Gradients:
    """Gradients of `layer_norm`.

    Parameters
    ----------
    dy, x : arrays of shape (..., *normalized_shape), of one dtype
        The gradient of the result, and what was normalized. Read where they lie, or copied first, as x by `layer_norm`.
    normalized_shape : int or tuple of int
        The last axes of x.
    stats : Stats
        (mean, rstd) as `layer_norm` returned them with return_stats=True, of shape x.shape[:-len(normalized_shape)]. The
        mean is taken to be that of x but for its rounding, which is made good.
    weight : array of shape normalized_shape, optional
        As it was given to `layer_norm`; leaving out one that it had is an error.
    needs : (bool, bool, bool)
        Which of dx, dweight, dbias are wanted; what is not costs neither time nor memory traffic.
    exact : bool
        Whether gradients are the true values computed in float64 and rounded once. If not, those of float32, float16 and
        bfloat16 are computed in float32: dx within 4 ulp at the scale of its group's largest term, dweight and dbias within
        4 * 2**-24 of the sum of their absolute terms (and rounded to the half types). Exact all the same are float64, groups
        for whose numbers float32 has no room, calls whose `stats` are not float64 or do not depend on x, and those of
        layer_norm and rms_norm with a weight that has a number that is no float32.
    out : array like x, optional
        Where to write dx; may be x or dy. One that is not C-contiguous costs a copy, unless its rows only stand apart.
    where : bool array that broadcasts to x's shape, optional
        As it was given to `layer_norm`: dx is exactly 0 where it is not set, and neither x nor dy matters there, be it nan.
    weight_offset : float
        As it was given to `layer_norm`; the gradient of the weight is that of the sum.
    axis : int or tuple of int, optional
        As it was given to `layer_norm`.
    y, activation : array like x and an activation, optional
        The result and the activation of `layer_norm`, if it had one: dy passes where y > 0, times the slope below, and not
        where y is at a top. On the CPU, without `where`, as are the two that follow; in the passes of the norm's own gradients.
    dresidual : array like x, optional
        Added to dx, rounded to x's dtype before and after: the gradient of h = x + residual, if h was returned. x is h then,
        and dx is also the gradient of the residual.
    return_daddend : bool
        Also return the gradient of the addend, behind the others: dy as it was before the activation; dy itself without one.
    backend : {None, "cpu", "cuda"}
        None: where x lies. "cuda" carries NumPy arrays to the device and the results back.

    Returns
    -------
    (dx, dweight, dbias)
        dx in x's dtype; dweight and dbias of shape normalized_shape in the weight's dtype (x's, without a weight). None
        for what was not wanted.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm
    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> y, stats = layer_norm(x, 3, return_stats=True)
    >>> dx, dweight, dbias = layer_norm_backward(np.ones_like(x), x, 3, stats)
    >>> dweight.round(4)
    array([-1.069 , -0.2673,  1.3363])
    """
    scaled = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, True)
    how = needs, exact, out, backend, where, y, activation, dresidual, return_daddend
    if axis is not None:
        gradients = backward_moved("layer_norm", dy, x, normalized_shape, axis, stats, scaled, how)
    else:
        gradients = backward("layer_norm", dy, x, (plan.as_shape("normalized_shape", normalized_shape), 0), stats, scaled, how)
    return gradients if scaled is weight else offset.rounded(gradients, weight, needs)


def rms_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | tuple[int, ...],
    stats: tuple[Array | None, Array],
    weight: Array | None = None,
    *,
    needs: tuple[bool, bool] = (True, True),
    exact: bool = False,
    out: Array | None = None,
    where: Array | None = None,
    weight_offset: float = 0.0,
    axis: int | tuple[int, ...] | None = None,
    y: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    dresidual: Array | None = None,
    return_daddend: bool = False,
    backend: str | None = None,
) -> Gradients:
    """Gradients of `rms_norm`.

    Parameters
    ----------
    dy, x, normalized_shape
        As for `layer_norm_backward`.
    stats : Stats
        As `rms_norm` returned them: the mean is None.
    weight
        As for `layer_norm_backward`.
    needs : (bool, bool)
        Which of dx, dweight are wanted.
    exact, out, where, weight_offset, axis, y, activation, dresidual, return_daddend, backend
        As for `layer_norm_backward`.

    Returns
    -------
    (dx, dweight)
        As for `layer_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import rms_norm
    >>> x = np.array([[3.0, 4.0]])
    >>> y, stats = rms_norm(x, 2, return_stats=True)
    >>> dx, dweight = rms_norm_backward(np.ones_like(x), x, 2, stats)
    >>> dweight.round(4)
    array([0.8485, 1.1314])
    """
    scaled = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, True)
    how = needs, exact, out, backend, where, y, activation, dresidual, return_daddend
    if axis is not None:
        gradients = backward_moved("rms_norm", dy, x, normalized_shape, axis, stats, scaled, how)
    else:
        gradients = backward("rms_norm", dy, x, (plan.as_shape("normalized_shape", normalized_shape), 0), stats, scaled, how)
    return gradients if scaled is weight else offset.rounded(gradients, weight, needs)
