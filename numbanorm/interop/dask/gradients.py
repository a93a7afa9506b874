"""Gradients of the norms over Dask arrays."""

from __future__ import annotations

from typing import Any

from ...spec import plan
from ...spec.plan import Shape
from .graphs import Dask, gradients_of


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
    normalized_shape
        As for `layer_norm`.
    weight : array of NumPy or Dask, optional
        As it was given to `layer_norm`.
    eps, exact
        As for `layer_norm`.

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
    >>> import numpy as np
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
    """Gradients of `rms_norm`, computed as by `layer_norm_backward`.

    Parameters
    ----------
    dy, x : dask arrays of one shape and dtype
        Of known chunk sizes.
    normalized_shape
        As for `rms_norm`.
    weight : array of NumPy or Dask, optional
        As it was given to `rms_norm`.
    eps, exact
        As for `rms_norm`.

    Returns
    -------
    (dx, dweight)
        As for `layer_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[3.0, 4.0]]))
    >>> dx, dweight = rms_norm_backward(da.ones_like(x), x, 2)
    >>> dweight.compute().round(4)
    array([0.8485, 1.1314])
    """
    which = plan.as_shape("normalized_shape", normalized_shape), 0
    return gradients_of("rms_norm", dy, x, which, weight, eps, exact)


def group_norm_backward(
    dy: Dask, x: Dask, num_groups: int, weight: Any = None, eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False
) -> tuple[Dask, ...]:
    """Gradients of `group_norm`, computed as by `layer_norm_backward`; each sample is brought into one chunk.

    Parameters
    ----------
    dy, x : dask arrays of one shape and dtype
        Of known chunk sizes.
    num_groups
        As for `group_norm`.
    weight : array of NumPy or Dask, optional
        As it was given to `group_norm`.
    eps, channel_axis, exact
        As for `group_norm`.

    Returns
    -------
    (dx, dweight, dbias)
        As for `layer_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[1.0, 3.0, 10.0, 30.0]]))
    >>> dx, dweight, dbias = group_norm_backward(da.ones_like(x), x, 2, eps=0.0)
    >>> dweight.compute()
    array([-1.,  1., -1.,  1.])
    """
    which = (plan.as_int("num_groups", num_groups),), plan.as_int("channel_axis", channel_axis)
    return gradients_of("group_norm", dy, x, which, weight, eps, exact)


def instance_norm_backward(
    dy: Dask, x: Dask, weight: Any = None, eps: float = 1e-5, *, channel_axis: int = 1, exact: bool = False
) -> tuple[Dask, ...]:
    """Gradients of `instance_norm`, computed as by `layer_norm_backward`; each sample is brought into one chunk.

    Parameters
    ----------
    dy, x : dask arrays of one shape and dtype
        Of known chunk sizes.
    weight : array of NumPy or Dask, optional
        As it was given to `instance_norm`.
    eps, channel_axis, exact
        As for `instance_norm`.

    Returns
    -------
    (dx, dweight, dbias)
        As for `layer_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, when it is called; nothing is computed then.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> x = da.from_array(np.array([[[1.0, 3.0], [10.0, 30.0]]]))
    >>> dx, dweight, dbias = instance_norm_backward(da.ones_like(x), x, eps=0.0)
    >>> dweight.compute()
    array([0., 0.])
    """
    return gradients_of("instance_norm", dy, x, ((), plan.as_int("channel_axis", channel_axis)), weight, eps, exact)
