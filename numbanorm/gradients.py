"""The norms' gradients as functions, from the statistics that the forward pass returned.

With xh = (x - mean) * rstd, u = dy * weight, and sums over the n elements that share a mean:

    dx      = rstd * (u - sum(u) / n - xh * sum(u * xh) / n)      (RMS norm: without sum(u))
    dx      = rstd * u                                            where the statistics were given
    dweight = sum of dy * xh, dbias = sum of dy                   over all elements that share the weight

Sums are in a fixed order, so gradients keep the promises of the forward pass: the same bits at any thread count. With
exact=True sums and elements are float64, and gradients rounded once. Otherwise elements of narrower types, and eight terms of a
sum at a time, are float32, with mh = float32(mean), and slope, shift and offset of a group in float64, then rounded:

    dx      = fma(x - mh, slope, fma(u, rstd, shift))
    dweight = sum of dy * fma(x - mh, rstd, offset)
"""

from __future__ import annotations

from typing import TypeAlias

from .execute import offset
from .execute.backward import backward
from .execute.moved import backward_moved
from .execute.weights import backward_weighted
from .spec import checks, plan
from .spec.checks import Array

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
    backend: str | None = None,
) -> Gradients:
    """Gradients of `layer_norm`.

    Parameters
    ----------
    dy, x : arrays of shape (..., *normalized_shape), of one dtype
        The gradient of the result, and what was normalized. Copied first unless they are C-contiguous.
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
        Where to write dx; may be x or dy. One that is not C-contiguous costs a copy.
    where : bool array that broadcasts to x's shape, optional
        As it was given to `layer_norm`: dx is exactly 0 where it is not set, and neither x nor dy matters there, be it nan.
    weight_offset : float
        As it was given to `layer_norm`; the gradient of the weight is that of the sum.
    axis : int or tuple of int, optional
        As it was given to `layer_norm`.
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
    how = needs, exact, out, backend, where
    if axis is not None:
        gradients = backward_moved("layer_norm", dy, x, normalized_shape, axis, stats, scaled, how)
    else:
        gradients = backward("layer_norm", dy, x, (plan.as_shape("normalized_shape", normalized_shape), 0), stats, scaled, how)
    return gradients if scaled is weight else offset.rounded(gradients, weight)


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
    backend: str | None = None,
) -> Gradients:
    """Gradients of `rms_norm`.

    Parameters
    ----------
    dy, x, normalized_shape, weight, exact, out, where, weight_offset, axis, backend
        As for `layer_norm_backward`.
    stats : Stats
        As `rms_norm` returned them: the mean is None.
    needs : (bool, bool)
        Which of dx, dweight are wanted.

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
    how = needs, exact, out, backend, where
    if axis is not None:
        gradients = backward_moved("rms_norm", dy, x, normalized_shape, axis, stats, scaled, how)
    else:
        gradients = backward("rms_norm", dy, x, (plan.as_shape("normalized_shape", normalized_shape), 0), stats, scaled, how)
    return gradients if scaled is weight else offset.rounded(gradients, weight)


def group_norm_backward(
    dy: Array,
    x: Array,
    num_groups: int,
    stats: tuple[Array, Array],
    weight: Array | None = None,
    *,
    channel_axis: int = 1,
    batch_axis: int | None = 0,
    needs: tuple[bool, bool, bool] = (True, True, True),
    exact: bool = False,
    out: Array | None = None,
    where: Array | None = None,
    weight_offset: float = 0.0,
    backend: str | None = None,
) -> Gradients:
    """Gradients of `group_norm`.

    Parameters
    ----------
    dy, x : arrays of shape (N, C, ...), or (N, ..., C) with channel_axis=-1, of one dtype
    num_groups : int
        As it was given to `group_norm`.
    stats : Stats
        (mean, rstd) of shape (N, num_groups), without a batch axis (num_groups,), as `group_norm` returned them.
    weight : array of shape (C,), optional
    channel_axis : int
        Any axis but 0.
    batch_axis : {0, None}
        As it was given to `group_norm`.
    needs, exact, out, where, weight_offset, backend
        As for `layer_norm_backward`.

    Returns
    -------
    (dx, dweight, dbias)
        As for `layer_norm_backward`; dweight and dbias have shape (C,).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import group_norm
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> y, stats = group_norm(x, 2, eps=0.0, return_stats=True)
    >>> dx, dweight, dbias = group_norm_backward(np.ones_like(x), x, 2, stats)
    >>> dweight
    array([-1.,  1., -1.,  1.])
    """
    which = (plan.as_int("num_groups", num_groups),), *plan.channels_at(channel_axis, batch_axis)
    scaled = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, False)
    gradients = backward("group_norm", dy, x, which, stats, scaled, (needs, exact, out, backend, where))
    return gradients if scaled is weight else offset.rounded(gradients, weight)


def instance_norm_backward(
    dy: Array,
    x: Array,
    stats: tuple[Array, Array],
    weight: Array | None = None,
    *,
    channel_axis: int = 1,
    batch_axis: int | None = 0,
    use_input_stats: bool = True,
    needs: tuple[bool, bool, bool] = (True, True, True),
    exact: bool = False,
    out: Array | None = None,
    where: Array | None = None,
    weight_offset: float = 0.0,
    backend: str | None = None,
) -> Gradients:
    """Gradients of `instance_norm`.

    Parameters
    ----------
    dy, x : arrays of shape (N, C, ...), or (N, ..., C) with channel_axis=-1, of one dtype
    stats : Stats
        (mean, rstd) of shape (N, C), without a batch axis (C,), as `instance_norm` returned them.
    weight : array of shape (C,), optional
    channel_axis : int
        Any axis but 0.
    batch_axis : {0, None}
        As it was given to `instance_norm`.
    use_input_stats : bool
        As it was given to `instance_norm`: False for running statistics, which do not depend on x.
    needs, exact, out, where, weight_offset, backend
        As for `layer_norm_backward`.

    Returns
    -------
    (dx, dweight, dbias)
        As for `layer_norm_backward`; dweight and dbias have shape (C,).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import instance_norm
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> y, stats = instance_norm(x, eps=0.0, return_stats=True)
    >>> dx, dweight, dbias = instance_norm_backward(np.ones_like(x), x, stats)
    >>> dbias
    array([2., 2.])
    """
    which, own = ((), *plan.channels_at(channel_axis, batch_axis)), checks.flag("use_input_stats", use_input_stats)
    scaled = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, False)
    gradients = backward("instance_norm", dy, x, which, stats, scaled, (needs, exact, out, backend, where), own)
    return gradients if scaled is weight else offset.rounded(gradients, weight)


def batch_norm_backward(
    dy: Array,
    x: Array,
    stats: tuple[Array, Array],
    weight: Array | None = None,
    *,
    channel_axis: int = 1,
    training: bool = True,
    needs: tuple[bool, bool, bool] = (True, True, True),
    exact: bool = False,
    out: Array | None = None,
    where: Array | None = None,
    weight_offset: float = 0.0,
    weights: Array | None = None,
    backend: str | None = None,
) -> Gradients:
    """Gradients of `batch_norm`.

    Parameters
    ----------
    dy, x : arrays of shape (N, C), (N, C, ...), or (N, ..., C) with channel_axis=-1, of one dtype
    stats : Stats
        (mean, rstd) of shape (C,), as `batch_norm` returned them.
    weight : array of shape (C,), optional
    channel_axis : int
        Any axis.
    training : bool
        As it was given to `batch_norm`: False for running statistics, which do not depend on x.
    weights : array, optional
        As it was given to `batch_norm`; gradients are then float64 numbers rounded once.
    needs, exact, out, where, weight_offset, backend
        As for `layer_norm_backward`.

    Returns
    -------
    (dx, dweight, dbias)
        As for `layer_norm_backward`; dweight and dbias have shape (C,).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import batch_norm
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, stats = batch_norm(x, training=True, eps=0.0, return_stats=True)
    >>> dx, dweight, dbias = batch_norm_backward(y, x, stats)
    >>> dweight
    array([2., 2.])
    """
    which, own = ((), plan.as_int("channel_axis", channel_axis)), checks.flag("training", training)
    scaled = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, False)
    how = needs, exact, out, backend, where
    if weights is not None:
        gradients = backward_weighted(dy, x, which, stats, scaled, how, weights, own)
    else:
        gradients = backward("batch_norm", dy, x, which, stats, scaled, how, own)
    return gradients if scaled is weight else offset.rounded(gradients, weight)
