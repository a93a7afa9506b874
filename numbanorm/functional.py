"""The norms as functions.

Names, order and defaults are those of torch.nn.functional; everything after `eps` is keyword-only. `x` may be any NumPy
array of float16, bfloat16 (ml_dtypes), float32 or float64. It is read where it lies if it is C-contiguous; any other
layout (Fortran order, strides, unaligned memory, foreign byte order) is copied first. The result is C-contiguous and has
x's dtype, in native byte order.

Arrays on a CUDA device (of CuPy, torch or Numba) are computed where they lie, and their results are arrays of the same
library; all arrays of a call must be there. See docs/cuda.md.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from .execute import offset
from .execute.forward import forward
from .execute.moved import forward_moved
from .execute.weights import forward_weighted
from .spec import checks, plan
from .spec.call import Stats as Stats
from .spec.checks import Array

Result: TypeAlias = Any  # an array; with return_stats=True (array, Stats): functional.pyi says so to those who check types


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
    backend: str | None = None,
) -> Result:
    """Normalize over the last axes: y = (x - mean) / sqrt(var + eps) * weight + bias.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016.

    Parameters
    ----------
    x : array of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Copied first unless it is C-contiguous.
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
        Where to write the result; may be x. One that is not C-contiguous costs a copy.
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
        The axes that normalized_shape names, from first to last; by default the last ones. Others are moved to the end by a
        copy of x, and y back by another one. Statistics have the shape of the axes that are kept.
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
    if axis is not None:
        how = method, exact, out, return_stats, backend
        return forward_moved("layer_norm", x, normalized_shape, axis, (weight, bias, eps), how, where, fill)
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return forward("layer_norm", x, which, (weight, bias, eps), (method, exact, out, return_stats, backend), None, where, fill)


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
    backend: str | None = None,
) -> Result:
    """Scale the last axes to a root mean square of 1: y = x / sqrt(mean(x**2) + eps) * weight.

    B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.

    Parameters
    ----------
    x : array of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Copied first unless it is C-contiguous.
    normalized_shape : int or tuple of int
        The last axes of x: they share a mean square.
    weight : array of shape normalized_shape, optional
    eps : float, optional
        Added to the mean square; by default the machine epsilon of float32, or float64's for float64: as in torch.
    method : {None, "two_pass", "welford"}
        All are one, for there is no mean to take first.
    exact, out, return_stats, where, fill, weight_offset, axis, backend
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
    if axis is not None:
        how = method, exact, out, return_stats, backend
        return forward_moved("rms_norm", x, normalized_shape, axis, (weight, None, eps), how, where, fill)
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return forward("rms_norm", x, which, (weight, None, eps), (method, exact, out, return_stats, backend), None, where, fill)


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    batch_axis: int | None = 0,
    method: str | None = None,
    exact: bool = False,
    out: Array | None = None,
    return_stats: bool = False,
    where: Array | None = None,
    fill: float | None = None,
    weight_offset: float = 0.0,
    backend: str | None = None,
) -> Result:
    """Normalize groups of neighbouring channels of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    Y. Wu, K. He, "Group normalization", 2018.

    Parameters
    ----------
    x : array of shape (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64; copied first unless it is C-contiguous.
    num_groups : int
        Divides C. 1 is layer norm over a whole sample, C is instance norm.
    weight, bias : array of shape (C,), optional
    eps : float
        Added to the variance.
    channel_axis : int
        Any axis but 0; -1 reads channels-last arrays as they lie.
    batch_axis : {0, None}
        None: x is one sample and has no batch axis, (C, ...) or, with channel_axis=-1, (..., C). channel_axis is then that of
        x[None], whose result this is.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape (N, num_groups), without a batch axis (num_groups,).
    method, exact, out, where, fill, weight_offset, backend
        As for `layer_norm`.

    Returns
    -------
    array
        Of x's shape and dtype, C-contiguous; with return_stats=True (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and (as torch) for a single value in all; before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])  # a sample of four channels
    >>> group_norm(x, 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    >>> picture = np.array([[[1.0, 2.0], [3.0, 6.0]]])
    >>> group_norm(picture, 1, batch_axis=None, eps=0.0).round(3)  # (C, H, W)
    array([[[-1.069, -0.535],
            [ 0.   ,  1.604]]])
    """
    which = (plan.as_int("num_groups", num_groups),), *plan.channels_at(channel_axis, batch_axis)
    weight = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, False)
    return forward("group_norm", x, which, (weight, bias, eps), (method, exact, out, return_stats, backend), None, where, fill)


def instance_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    batch_axis: int | None = 0,
    num_batches_tracked: Array | None = None,
    convention: str = "torch",
    method: str | None = None,
    exact: bool = False,
    out: Array | None = None,
    return_stats: bool = False,
    where: Array | None = None,
    fill: float | None = None,
    weight_offset: float = 0.0,
    backend: str | None = None,
) -> Result:
    """Normalize each channel of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient for fast stylization", 2016.

    Parameters
    ----------
    x : array of shape (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64; copied first unless it is C-contiguous.
    running_mean, running_var : array of shape (C,), optional
        With use_input_stats they are updated in place, with the mean over the samples; without, they normalize.
    weight, bias : array of shape (C,), optional
    use_input_stats : bool
        Whether x's own statistics normalize it.
    momentum, num_batches_tracked, convention
        As for `batch_norm`.
    eps : float
        Added to the variance.
    channel_axis : int
        Any axis but 0; -1 reads channels-last arrays as they lie.
    batch_axis : {0, None}
        None: x is one sample and has no batch axis, (C, ...) or, with channel_axis=-1, (..., C). channel_axis is then that of
        x[None], whose result this is.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape (N, C), without a batch axis (C,).
    method, exact, out, where, fill, weight_offset, backend
        As for `layer_norm`.

    Returns
    -------
    array
        Of x's shape and dtype, C-contiguous; with return_stats=True (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel; before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])  # a sample of two channels
    >>> instance_norm(x, eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    >>> picture = np.array([[[1.0, 10.0], [3.0, 30.0]]])
    >>> instance_norm(picture, channel_axis=-1, batch_axis=None).round(3)  # (H, W, C)
    array([[[-1., -1.],
            [ 1.,  1.]]])
    """
    which, own = ((), *plan.channels_at(channel_axis, batch_axis)), checks.flag("use_input_stats", use_input_stats)
    running = running_mean, running_var, momentum, num_batches_tracked, convention, own
    weight = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, False)
    return forward(
        "instance_norm", x, which, (weight, bias, eps), (method, exact, out, return_stats, backend), running, where, fill
    )


def batch_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    num_batches_tracked: Array | None = None,
    convention: str = "torch",
    method: str | None = None,
    exact: bool = False,
    out: Array | None = None,
    return_stats: bool = False,
    where: Array | None = None,
    fill: float | None = None,
    weight_offset: float = 0.0,
    weights: Array | None = None,
    backend: str | None = None,
) -> Result:
    """Normalize each channel over the batch: y = (x - mean) / sqrt(var + eps) * weight + bias.

    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Parameters
    ----------
    x : array of shape (N, C), (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64; copied first unless it is C-contiguous.
    running_mean, running_var : array of shape (C,), optional
        In training they are updated in place (if given); else they are wanted, and normalize.
    weight, bias : array of shape (C,), optional
    training : bool
        Whether the batch's own statistics normalize it.
    momentum : float in [0, 1], or None
        Weight of the batch: running = (1 - momentum) * running + momentum * batch. None averages over all batches
        so far, which num_batches_tracked counts.
    eps : float
        Added to the (biased) variance.
    channel_axis : int
        Any axis; -1 reads channels-last arrays as they lie.
    num_batches_tracked : integer array of one element, optional
        Incremented in place in training.
    convention : {"torch", "keras"}
        Of the running statistics. "keras" (also Flax, ONNX, the d2l book): momentum weighs the *old* value, and the
        running variance is that of the biased batch variance; "torch" takes the unbiased one.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape (C,).
    weights : array of numbers >= 0 that broadcasts to x's shape, optional
        How often each element counts in training's statistics, as in `moments`; `running_var` takes their sum for n.
    method, exact, out, where, fill, weight_offset, backend
        As for `layer_norm`.

    Returns
    -------
    array
        Of x's shape and dtype, C-contiguous; with return_stats=True (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel in training; before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])  # two samples of two channels
    >>> mean, var = np.zeros(2), np.ones(2)
    >>> batch_norm(x, mean, var, training=True, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> mean
    array([0.2, 2. ])
    >>> batch_norm(np.array([[0.2, 2.0]]), mean, var)
    array([[0., 0.]])
    """
    which, own = ((), plan.as_int("channel_axis", channel_axis)), checks.flag("training", training)
    running = running_mean, running_var, momentum, num_batches_tracked, convention, own
    weight = weight if weight_offset == 0.0 else offset.added(weight, weight_offset, x, exact, False)
    affine, how = (weight, bias, eps), (method, exact, out, return_stats, backend)
    if weights is not None:
        return forward_weighted(x, which, affine, how, running, weights, where, fill)
    return forward("batch_norm", x, which, affine, how, running, where, fill)
