"""`standardize` over named dimensions: the bits of Moments, what belongs to a DataArray is kept, and Dask stays lazy."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from cases import DTYPES, MODES

import numbanorm

xr = pytest.importorskip("xarray", reason="xarray is not installed: pip install 'numbanorm[xarray]'")

from numbanorm.interop.xarray import standardize  # noqa: E402 - where there is one


def made(rng: np.random.Generator, dtype: Any = np.float32) -> Any:
    coords = {"time": np.arange(6), "place": list("abcd"), "height": ("level", np.arange(5.0))}
    values = rng.normal(280, 5, (6, 4, 5)).astype(dtype)
    return xr.DataArray(values, coords, ("time", "place", "level"), "temperature", {"units": "K"})


def alike(a: Any, b: Any) -> bool:
    """All but the values."""
    return (a.name, a.dims, a.attrs, a.dtype) == (b.name, b.dims, b.attrs, b.dtype) and a.coords.equals(b.coords)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize(
    ("dim", "axes"), [("time", 0), (["time", "level"], (0, 2)), (("level",), 2), (..., None), ("place", 1)]
)
def test_values_and_what_is_kept(dim: Any, axes: Any, exact: bool, dtype: Any, rng: np.random.Generator) -> None:
    da = made(rng, dtype)
    before = da.copy(deep=True)
    y = standardize(da, dim, eps=1e-5, exact=exact)
    assert alike(y, da)
    assert y.values.tobytes() == numbanorm.moments(da.values, axes).transform(da.values, 1e-5, exact=exact).tobytes()
    assert alike(da, before)
    assert da.values.tobytes() == before.values.tobytes()


def test_weights_by_name(rng: np.random.Generator) -> None:
    da = made(rng)
    weight, bias = rng.normal(size=(5, 4)), rng.normal(size=4)
    expected = numbanorm.moments(da.values, 0).transform(da.values, 0.0, weight.T.copy(), bias[:, None].copy())
    found = standardize(da, "time", weight=xr.DataArray(weight, dims=("level", "place")), bias=xr.DataArray(bias, dims="place"))
    assert found.values.tobytes() == expected.tobytes()
    assert standardize(da, "time", weight=weight.T, bias=bias[:, None]).values.tobytes() == expected.tobytes()


def test_dask_stays_lazy(rng: np.random.Generator) -> None:
    pytest.importorskip("dask.array", reason="dask is not installed: pip install 'numbanorm[dask]'")
    da = made(rng)
    weight = xr.DataArray(rng.normal(size=4), dims="place")
    for chunks in ({"time": 2}, {"place": 2, "level": 2}, {"time": 4, "place": 3, "level": 2}):
        for dim in ("time", ["time", "level"], ...):
            options = {} if dim is ... else {"weight": weight}
            y = standardize(da.chunk(chunks), dim, **options)
            assert y.chunks == da.chunk(chunks).chunks
            assert alike(y, da)
            expected = standardize(da, dim, **options)
            assert oracle.ulp_error(y.values, expected.values, np.maximum(np.abs(expected.values), 1)) <= 1


def test_what_is_refused(rng: np.random.Generator) -> None:
    da = made(rng)
    with pytest.raises(TypeError, match=r"da must be an xarray.DataArray: got float32 array of .*; write"):
        standardize(da.values, "time")
    with pytest.raises(ValueError, match=r"dim must name dimensions of da: got 'tim' for \('time', .*; take"):
        standardize(da, ["place", "tim"])
    with pytest.raises(ValueError, match=r"axis must name each axis once"):
        standardize(da, ["time", "time"])
    with pytest.raises(ValueError, match=r"weight must be over dimensions that are not in dim, .*: got \('time',\); leave"):
        standardize(da, "time", weight=xr.DataArray(np.ones(6), dims="time"))
    with pytest.raises(TypeError, match=r"x must hold float16, .*: got int64"):
        standardize(da.astype(int), "time")
