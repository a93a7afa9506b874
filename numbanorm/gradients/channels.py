"""Gradients of norms of channels: group, instance and batch norm."""

from __future__ import annotations

from typing import Any, TypeAlias

from .. import synchronized
from ..execute import offset
from ..execute.backward import backward
from ..execute.weights import backward_weighted
from ..spec import checks, plan
from ..spec.checks import Array

Gradients: TypeAlias = tuple[Array | None, ...]


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
    y: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    dresidual: Array | None = None,
    return_daddend: bool = False,
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
    needs, exact, out, where, weight_offset, y, activation, dresidual, return_daddend, backend
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
    how = needs, exact, out, backend, where, y, activation, dresidual, return_daddend
    gradients = backward("group_norm", dy, x, which, stats, scaled, how)
    return gradients if scaled is weight else offset.rounded(gradients, weight, needs)


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
    y: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    return_daddend: bool = False,
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
    needs, exact, out, where, weight_offset, y, activation, return_daddend, backend
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
    how = needs, exact, out, backend, where, y, activation, None, return_daddend
    gradients = backward("instance_norm", dy, x, which, stats, scaled, how, own)
    return gradients if scaled is weight else offset.rounded(gradients, weight, needs)


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
    y: Array | None = None,
    activation: str | tuple[str, float] | None = None,
    return_daddend: bool = False,
    comm: Any = None,
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
    needs, exact, out, where, weight_offset
        As for `layer_norm_backward`.
    weights : array, optional
        As it was given to `batch_norm`; gradients are then float64 numbers rounded once.
    y, activation, return_daddend
        As for `layer_norm_backward`.
    comm : communicator, optional
        As it was given to `batch_norm`, which returned `stats`. dx is that of the statistics of all processes; dweight and
        dbias are of what is here, and to be added like the gradients of any other weight.
    backend
        As for `layer_norm_backward`.

    Returns
    -------
    (dx, dweight, dbias)
        As for `layer_norm_backward`; dweight and dbias have shape (C,).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.
    RuntimeError
        With comm, for an error of another rank.

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
    how = needs, exact, out, backend, where, y, activation, None, return_daddend
    if weights is not None:
        gradients = backward_weighted(dy, x, which, stats, scaled, how, (weights, comm), own)
    elif comm is not None and own:
        gradients = synchronized.backward(dy, x, which[1], stats, scaled, how, comm)
    else:
        gradients = backward("batch_norm", dy, x, which, stats, scaled, how, own)
    return gradients if scaled is weight else offset.rounded(gradients, weight, needs)
