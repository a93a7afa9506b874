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
from ...spec.standardized import kept_of
from . import tasks
from .gradients import group_norm_backward, instance_norm_backward, layer_norm_backward, rms_norm_backward
from .graphs import Dask, beside, blocks, checked, fitting, merged
from .norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

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
