"""Norms of channels: group, instance and batch norm."""

from __future__ import annotations

from typing import Any, TypeAlias

from .. import synchronized
from ..execute import offset
from ..execute.forward import forward
from ..execute.weights import forward_weighted
from ..spec import checks, plan
from ..spec.checks import Array

Result: TypeAlias = Any  # an array; with return_stats=True (array, Stats): __init__.pyi says so to those who check types


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
    residual: Array | None = None,
    return_residual: bool = False,
    addend: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    backend: str | None = None,
) -> Result:
    """Normalize groups of neighbouring channels of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    Y. Wu, K. He, "Group normalization", 2018.

    Parameters
    ----------
    x : array of shape (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64. Copied first unless it is C-contiguous, or has contiguous samples that stand
        apart, as rows for `layer_norm`.
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
    method, exact, out
        As for `layer_norm`.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape (N, num_groups), without a batch axis (num_groups,).
    where, fill, weight_offset, residual, return_residual, addend, activation, backend
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
    how, beside = (method, exact, out, return_stats, backend), (fill, residual, return_residual, addend, activation)
    return forward("group_norm", x, which, (weight, bias, eps), how, None, where, beside)


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
    addend: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    backend: str | None = None,
) -> Result:
    """Normalize each channel of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient for fast stylization", 2016.

    Parameters
    ----------
    x : array of shape (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64. Copied first unless it is C-contiguous, or has contiguous samples that stand
        apart, as rows for `layer_norm`.
    running_mean, running_var : array of shape (C,), optional
        With use_input_stats they are updated in place, with the mean over the samples; without, they normalize.
    weight, bias : array of shape (C,), optional
    use_input_stats : bool
        Whether x's own statistics normalize it.
    momentum
        As for `batch_norm`.
    eps : float
        Added to the variance.
    channel_axis : int
        Any axis but 0; -1 reads channels-last arrays as they lie.
    batch_axis : {0, None}
        None: x is one sample and has no batch axis, (C, ...) or, with channel_axis=-1, (..., C). channel_axis is then that of
        x[None], whose result this is.
    num_batches_tracked, convention
        As for `batch_norm`.
    method, exact, out
        As for `layer_norm`.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape (N, C), without a batch axis (C,).
    where, fill, weight_offset, addend, activation, backend
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
    how, beside = (method, exact, out, return_stats, backend), (fill, None, False, addend, activation)
    return forward("instance_norm", x, which, (weight, bias, eps), how, running, where, beside)


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
    addend: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    comm: Any = None,
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
    method, exact, out
        As for `layer_norm`.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape (C,).
    where, fill, weight_offset
        As for `layer_norm`.
    weights : array of numbers >= 0 that broadcasts to x's shape, optional
        How often each element counts in training's statistics, as in `moments`; `running_var` takes their sum for n.
    addend, activation
        As for `layer_norm`.
    comm : communicator, optional
        In training, the processes that the batch is spread over: a communicator of mpi4py, a process group of
        torch.distributed, or a function that takes an array of each rank to (ranks, ...). All of them must make the call, one
        without data with x of no samples. Each gets its own y, and the statistics, running ones too, of all together, the same
        to the bit. method=None is "two_pass" then. On the CPU.
    backend
        As for `layer_norm`.

    Returns
    -------
    array
        Of x's shape and dtype, C-contiguous; with return_stats=True (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel in training; before anything is computed.
    RuntimeError
        With comm, for an error of another rank.

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
    affine = weight, bias, eps
    how, beside = (method, exact, out, return_stats, backend), (fill, None, False, addend, activation)
    if weights is not None:
        return forward_weighted(x, which, affine, how, running, (weights, comm), where, beside)
    if comm is not None and own:
        return synchronized.forward(x, which[1], affine, how, running, where, beside, comm)
    return forward("batch_norm", x, which, affine, how, running, where, beside)
