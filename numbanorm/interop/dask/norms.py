"""The norms over Dask arrays."""

from __future__ import annotations

from typing import Any

from ...spec import checks, plan
from ...spec.plan import Shape
from ...spec.shown import shown
from .graphs import Dask, checked, norm_of


def layer_norm(
    x: Dask, normalized_shape: int | Shape, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, exact: bool = False
) -> Dask:
    """Normalize over the last axes; see `numbanorm.layer_norm`.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    normalized_shape
        As for `numbanorm.layer_norm`.
    weight, bias : array of NumPy or Dask, of shape normalized_shape, optional
    eps, exact
        As for `numbanorm.layer_norm`.

    Returns
    -------
    dask array of x's shape, dtype and chunks

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[1.0, 2.0, 3.0, 6.0]]), chunks=(1, 2))
    >>> layer_norm(x, 4, eps=0.0).compute().round(3)
    array([[-1.069, -0.535,  0.   ,  1.604]])
    """
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return norm_of("layer_norm", x, which, (weight, bias), eps, exact)


def rms_norm(
    x: Dask, normalized_shape: int | Shape, weight: Any = None, eps: float | None = None, *, exact: bool = False
) -> Dask:
    """Scale the last axes to a root mean square of 1; see `numbanorm.rms_norm`.

    Where the axes are cut, squares beyond float64's range are not computed again.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    normalized_shape
        As for `numbanorm.rms_norm`.
    weight : array of NumPy or Dask, of shape normalized_shape, optional
    eps, exact
        As for `numbanorm.rms_norm`.

    Returns
    -------
    dask array of x's shape, dtype and chunks

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[3.0, 4.0]]), chunks=(1, 1))
    >>> rms_norm(x, 2).compute().round(4)
    array([[0.8485, 1.1314]])
    """
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return norm_of("rms_norm", x, which, (weight, None), eps, exact)


def group_norm(
    x: Dask, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, channel_axis: int = 1,
    exact: bool = False,
) -> Dask:  # fmt: skip
    """Normalize groups of channels of each sample; see `numbanorm.group_norm`.

    Channels that are cut are brought into one chunk first, for a group may lie on both sides.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    num_groups
        As for `numbanorm.group_norm`.
    weight, bias : array of NumPy or Dask, of shape (C,), optional
    eps, channel_axis, exact
        As for `numbanorm.group_norm`.

    Returns
    -------
    dask array of x's shape, dtype and chunks

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[1.0, 3.0, 10.0, 30.0]]), chunks=(1, 1))
    >>> group_norm(x, 2, eps=0.0).compute()
    array([[-1.,  1., -1.,  1.]])
    """
    axis = plan.as_int("channel_axis", channel_axis)
    which, whole = ((plan.as_int("num_groups", num_groups),), axis), checked(x)
    if -x.ndim <= axis < x.ndim and x.numblocks[axis] > 1:
        whole = x.rechunk({axis: -1})
    return norm_of("group_norm", whole, which, (weight, bias), eps, exact).rechunk(x.chunks)


def instance_norm(
    x: Dask, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False
) -> Dask:
    """Normalize each channel of each sample; see `numbanorm.instance_norm`.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    weight, bias : array of NumPy or Dask, of shape (C,), optional
    eps, channel_axis, exact
        As for `numbanorm.instance_norm`.

    Returns
    -------
    dask array of x's shape, dtype and chunks

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[[1.0, 3.0], [10.0, 30.0]]]))
    >>> instance_norm(x, eps=0.0).compute()
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return norm_of("instance_norm", x, ((), plan.as_int("channel_axis", channel_axis)), (weight, bias), eps, exact)


def batch_norm(
    x: Dask, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None, training: bool = False,
    eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False,
) -> Dask:  # fmt: skip
    """Normalize each channel over the batch; see `numbanorm.batch_norm`.

    In training x's own statistics normalize it, and nothing is updated: running statistics are to be made of `moments`.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    running_mean, running_var : array of NumPy or Dask, of shape (C,), optional
        What normalizes x in evaluation; to be left out in training.
    weight, bias : array of NumPy or Dask, of shape (C,), optional
    training, eps, channel_axis, exact
        As for `numbanorm.batch_norm`.

    Returns
    -------
    dask array of x's shape, dtype and chunks

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[1.0, 10.0], [3.0, 30.0]]), chunks=(1, 2))
    >>> batch_norm(x, training=True, eps=0.0).compute()
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    which, own = ((), plan.as_int("channel_axis", channel_axis)), checks.flag("training", training)
    given = running_mean, running_var
    if own and any(a is not None for a in given):
        raise ValueError(f"running_mean and running_var must be left out in training, for nothing is computed yet: got "
                         f"{shown(given)}; update them with moments(x, axes).compute()")  # fmt: skip
    if not own and any(a is None for a in given):
        raise ValueError("running_mean and running_var must be given to normalize with them: got None; or pass training=True")
    return norm_of("batch_norm", x, which, (weight, bias), eps, exact, None if own else given)
