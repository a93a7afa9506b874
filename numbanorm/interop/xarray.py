"""`standardize` over named dimensions of xarray's DataArrays, of NumPy or Dask arrays."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import xarray

from ..moments import moments
from ..spec import checks
from ..spec.shown import shown

__all__ = ["standardize"]


def standardize(
    da: xarray.DataArray, dim: Hashable | Iterable[Hashable], *, eps: float = 0.0, weight: Any = None, bias: Any = None,
    exact: bool = False,
) -> xarray.DataArray:  # fmt: skip
    """Normalize over dimensions: y = (da - mean) / sqrt(var + eps) * weight + bias.

    Parameters
    ----------
    da : xarray.DataArray of float16, bfloat16, float32 or float64
        Of NumPy arrays, or of Dask arrays with known chunk sizes: then nothing is computed yet.
    dim : name, or names
        Dimensions that share a mean and a (biased) variance; ... is all.
    eps : float
        Added to the variance; without, a constant is nan.
    weight, bias : DataArray or array, optional
        Over some of the other dimensions: by name, or of a shape that broadcasts to them.
    exact : bool
        See `numbanorm.layer_norm`.

    Returns
    -------
    xarray.DataArray
        With the name, the dimensions, the coordinates and the attributes of `da`, and its dtype.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> t = xr.DataArray(np.array([[1.0, 10.0], [3.0, 30.0]]), dims=("time", "place"), attrs={"units": "K"})
    >>> standardize(t, "time").values
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    if not isinstance(da, xarray.DataArray):
        raise TypeError(f"da must be an xarray.DataArray: got {shown(da)}; write xarray.DataArray(x, dims=...)")
    names = da.dims if dim is ... else (dim,) if isinstance(dim, str) or not isinstance(dim, Iterable) else tuple(dim)
    unknown = [name for name in names if name not in da.dims]
    if unknown:
        raise ValueError(f"dim must name dimensions of da: got {shown(unknown[0])} for {da.dims}; take one of these")
    axes = tuple(da.get_axis_num(name) for name in names)
    kept = tuple(name for name in da.dims if name not in names)
    affine = ordered("weight", weight, kept), ordered("bias", bias, kept)
    if da.chunks is None:
        values = moments(da.values, axes).transform(da.values, eps, *affine, exact=exact)
    else:
        from .dask import over_axes

        values = over_axes(da.data, axes, affine, eps, checks.flag("exact", exact))
    return da.copy(data=values)


def ordered(name: str, p: Any, kept: tuple[Hashable, ...]) -> Any:
    """The array of a parameter whose dimensions have names, as it broadcasts to those that are kept; others as they are."""
    if not isinstance(p, xarray.DataArray):
        return p
    if not set(p.dims) <= set(kept):
        raise ValueError(f"{name} must be over dimensions that are not in dim, {kept}: got {p.dims}; leave out the others")
    return p.expand_dims([d for d in kept if d not in p.dims]).transpose(*kept).data
