"""Gradients over Dask arrays: NumPy's bits of dx, parameters' from all chunks, whatever the cut and the scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

import numbanorm

WHY = "dask is not installed: pip install 'numbanorm[dask]'"
dask = pytest.importorskip("dask", reason=WHY)
da = pytest.importorskip("dask.array", reason=WHY)

from numbanorm.interop import dask as over_dask  # noqa: E402 - where there is one

Array = NDArray[Any]
SHAPE = (11, 6, 30)
NORMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "layer_norm": ({"normalized_shape": 30}, (30,)),
    "rms_norm": ({"normalized_shape": (6, 30)}, (6, 30)),
    "group_norm": ({"num_groups": 3}, (6,)),
    "instance_norm": ({"channel_axis": -1}, (30,)),
}


@pytest.mark.parametrize("chunks", [SHAPE, (4, 2, 7), ((0, 11), 6, 30)], ids=["whole", "cut", "empty"])
@pytest.mark.parametrize("weighted", ["none", "numpy", "dask"])
@pytest.mark.parametrize("norm", NORMS)
def test_numpy(norm: str, weighted: str, chunks: Any, rng: np.random.Generator) -> None:
    options, shape = NORMS[norm]
    x, dy = rng.normal(1, 2, (2, *SHAPE)).astype(np.float32)
    weight = None if weighted == "none" else rng.normal(size=shape).astype(np.float32)
    _, stats = getattr(numbanorm, norm)(x, return_stats=True, **options)
    expected = getattr(numbanorm, f"{norm}_backward")(dy, x, stats=stats, weight=weight, **options)
    lazy = [da.from_array(a, chunks=chunks) for a in (dy, x)]
    w: Any = da.from_array(weight, chunks=2) if weighted == "dask" else weight
    found = getattr(over_dask, f"{norm}_backward")(*lazy, weight=w, **options)
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in expected]
    dx, *rest = dask.compute(*found, scheduler="synchronous")
    assert dx.tobytes() == expected[0].tobytes()
    for a, b in zip(rest, expected[1:], strict=True):
        # both within 4 * 2**-24 of the sum of the absolute terms, here at most some 330 of up to 10
        assert oracle.relative_error(a, b, 3000.0) <= 8 * 2.0**-24
    again = dask.compute(*found, scheduler="threads")
    assert [a.tobytes() for a in again] == [a.tobytes() for a in (dx, *rest)]


def test_dx_alone_and_what_is_refused(rng: np.random.Generator) -> None:
    x = da.from_array(rng.normal(size=(6, 4)), chunks=(2, 4))
    dx, *_ = over_dask.layer_norm_backward(x, x, 4)
    assert dx.chunks == x.chunks
    with pytest.raises(ValueError, match=r"dy must be like x, float64 of shape \(6, 4\): got float64 of shape \(3, 4\); give"):
        over_dask.layer_norm_backward(x[:3], x, 4)
    with pytest.raises(TypeError, match="x must be a Dask array"):
        over_dask.layer_norm_backward(np.ones((6, 4)), x, 4)
    with pytest.raises(ValueError, match="weight must have shape"):
        over_dask.layer_norm_backward(x, x, 4, np.ones(3))
