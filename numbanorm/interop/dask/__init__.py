"""Norms, moments and `standardize` over Dask arrays, lazily.

Where the axes that share a mean lie within one chunk, each chunk is normalized by itself, with the bits of NumPy's arrays.
Where they are cut, the moments of the chunks are merged in the order of the chunks, in adjacent pairs, and each chunk is
normalized with them: the bits depend on the chunks, and on no scheduler, worker or thread.

In a task numbanorm takes one thread, for the scheduler keeps the others busy.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import dask
import dask.array
import numpy as np

from ...execute.standardize import roots
from ...moments import Moments
from ...spec import checks, plan
from ...spec.plan import Shape
from ...spec.shown import shown
from ...spec.standardized import kept_of
from . import tasks
from .graphs import Dask, beside, blocks, checked, fitting, gradients_of, merged, norm_of

__all__ = [
    "batch_norm",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "rms_norm",
    "rms_norm_backward",
    "standardize",
]


def layer_norm(
    x: Dask, normalized_shape: int | Shape, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, exact: bool = False
) -> Dask:
    """Normalize over the last axes; see `numbanorm.layer_norm`.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    normalized_shape, eps, exact
        As for `numbanorm.layer_norm`.
    weight, bias : array of NumPy or Dask, of shape normalized_shape, optional

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
    """Scale the last axes to a root mean square of 1; see `numbanorm.rms_norm`, and `layer_norm` for what is as there.

    Where the axes are cut, squares beyond float64's range are not computed again.
    """
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return norm_of("rms_norm", x, which, (weight, None), eps, exact)


def group_norm(
    x: Dask, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, channel_axis: int = 1,
    exact: bool = False,
) -> Dask:  # fmt: skip
    """Normalize groups of channels of each sample; see `numbanorm.group_norm`, and `layer_norm` for what is as there.

    Channels that are cut are brought into one chunk first, for a group may lie on both sides.
    """
    axis = plan.as_int("channel_axis", channel_axis)
    which, whole = ((plan.as_int("num_groups", num_groups),), axis), checked(x)
    if -x.ndim <= axis < x.ndim and x.numblocks[axis] > 1:
        whole = x.rechunk({axis: -1})
    return norm_of("group_norm", whole, which, (weight, bias), eps, exact).rechunk(x.chunks)


def instance_norm(
    x: Dask, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False
) -> Dask:
    """Normalize each channel of each sample; see `numbanorm.instance_norm`, and `layer_norm` for what is as there."""
    return norm_of("instance_norm", x, ((), plan.as_int("channel_axis", channel_axis)), (weight, bias), eps, exact)


def batch_norm(
    x: Dask, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None, training: bool = False,
    eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False,
) -> Dask:  # fmt: skip
    """Normalize each channel over the batch; see `numbanorm.batch_norm`, and `layer_norm` for what is as there.

    In training x's own statistics normalize it, and nothing is updated: running statistics are to be made of `moments`.
    """
    which, own = ((), plan.as_int("channel_axis", channel_axis)), checks.flag("training", training)
    given = running_mean, running_var
    if own and any(a is not None for a in given):
        raise ValueError(f"running_mean and running_var must be left out in training, for nothing is computed yet: got "
                         f"{shown(given)}; update them with moments(x, axes).compute()")  # fmt: skip
    if not own and any(a is None for a in given):
        raise ValueError("running_mean and running_var must be given to normalize with them: got None; or pass training=True")
    return norm_of("batch_norm", x, which, (weight, bias), eps, exact, None if own else given)


def layer_norm_backward(
    dy: Dask, x: Dask, normalized_shape: int | Shape, weight: Any = None, eps: float = 1e-5, *, exact: bool = False
) -> tuple[Dask, ...]:
    """Gradients of `layer_norm`; see `numbanorm.layer_norm_backward`.

    The statistics are taken again, from x. Axes that share a mean are brought into one chunk. The gradients of the parameters
    are added in float64, in the order of the chunks, in adjacent pairs.

    Parameters
    ----------
    dy, x : dask arrays of one shape and dtype
        Of known chunk sizes.
    normalized_shape, eps, exact
        As for `layer_norm`.
    weight : array of NumPy or Dask, optional
        As it was given to `layer_norm`.

    Returns
    -------
    (dx, dweight, dbias)
        dask arrays. What is not computed costs nothing.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.from_array(np.array([[1.0, 2.0, 4.0]]))
    >>> dx, dweight, dbias = layer_norm_backward(da.ones_like(x), x, 3)
    >>> dweight.compute().round(4)
    array([-1.069 , -0.2673,  1.3363])
    """
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return gradients_of("layer_norm", dy, x, which, weight, eps, exact)


def rms_norm_backward(
    dy: Dask, x: Dask, normalized_shape: int | Shape, weight: Any = None, eps: float | None = None, *, exact: bool = False
) -> tuple[Dask, ...]:
    """(dx, dweight) of `rms_norm`; see `layer_norm_backward`."""
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return gradients_of("rms_norm", dy, x, which, weight, eps, exact)


def group_norm_backward(
    dy: Dask, x: Dask, num_groups: int, weight: Any = None, eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False
) -> tuple[Dask, ...]:
    """(dx, dweight, dbias) of `group_norm`; see `layer_norm_backward`. Each sample is brought into one chunk."""
    which = (plan.as_int("num_groups", num_groups),), plan.as_int("channel_axis", channel_axis)
    return gradients_of("group_norm", dy, x, which, weight, eps, exact)


def instance_norm_backward(
    dy: Dask, x: Dask, weight: Any = None, eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False
) -> tuple[Dask, ...]:
    """(dx, dweight, dbias) of `instance_norm`; see `layer_norm_backward`. Each sample is brought into one chunk."""
    return gradients_of("instance_norm", dy, x, ((), plan.as_int("channel_axis", channel_axis)), weight, eps, exact)


def moments(x: Dask, axis: int | Shape | None = None, *, method: str | None = "two_pass") -> Any:
    """Count, mean and sum of squared distances to the mean, over any axes.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    axis : int, tuple of int or None
        Axes to reduce; None is all.
    method : {"two_pass", "welford", None}
        See `numbanorm.layer_norm`.

    Returns
    -------
    dask.delayed.Delayed
        Whose `compute()` gives `Moments`, with NumPy arrays; its methods and fields are lazy, as `moments(x, 0).rstd(1e-5)`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import dask.array as da
    >>> m = moments(da.arange(6.0, chunks=2)).compute()
    >>> m.count, m.mean, m.var()
    (6, array(2.5), array(2.91666667))
    """
    x, how = checked(x), checks.method(method)
    axes = plan.as_axes(axis, x.shape)
    return dask.delayed(tasks.concatenated)(merged(x, partial(tasks.measured, axes, how), axes), axes, axis)


def standardize(
    x: Dask, mean: Any, rstd: Any = None, weight: Any = None, bias: Any = None, *, axis: int | Shape | None = None,
    exact: bool = False,
) -> Dask:  # fmt: skip
    """Normalize with statistics that are given; see `numbanorm.standardize`.

    Parameters
    ----------
    x : dask array of float16, bfloat16, float32 or float64
        Of known chunk sizes.
    mean, rstd, weight, bias : array of NumPy or Dask
        Of a shape that broadcasts to the axes that are not in `axis`; mean may be `Moments`.
    axis, exact
        As for `numbanorm.standardize`.

    Returns
    -------
    dask array of x's shape, dtype and chunks

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> standardize(da.arange(4.0, chunks=2), np.array(1.5), np.array(2.0)).compute()
    array([-3., -1.,  1.,  3.])
    """
    x, exact, low = checked(x), checks.flag("exact", exact), None
    if isinstance(mean, Moments):
        axis = mean.axis if axis is None else axis
        rstd = roots(mean.var(), 0.0, np.zeros(1, x.dtype), exact) if rstd is None else rstd
        mean, low = mean.mean, mean.mean_low
    axes = plan.as_axes(axis, x.shape)
    kept = kept_of(x.shape, axes)
    given = ("mean", mean), ("rstd", rstd), ("low", low), ("weight", weight), ("bias", bias)
    arrays = [beside(x, axes, None if a is None else fitting(name, a, kept)) for name, a in given]
    if arrays[0] is None or arrays[1] is None:
        raise TypeError("mean and rstd must be given: got None; write moments(x, axis), and rstd of it")
    return blocks(x, partial(tasks.standardized, axes, exact), *arrays)


def over_axes(
    x: Dask, axis: int | Shape | None, affine: tuple[Any, Any] = (None, None), eps: float = 0.0, exact: bool = False
) -> Dask:
    """Normalize with x's own statistics over any axes; affine: weight and bias that broadcast to the others."""
    x, eps, exact = checked(x), checks.eps(eps), checks.flag("exact", exact)
    axes = plan.as_axes(axis, x.shape)
    kept = kept_of(x.shape, axes)
    named = zip(("weight", "bias"), affine, strict=True)
    arrays = [beside(x, axes, None if a is None else fitting(name, a, kept)) for name, a in named]
    return blocks(
        x, partial(tasks.transformed, axes, eps, exact), merged(x, partial(tasks.measured, axes, "two_pass"), axes), *arrays
    )
