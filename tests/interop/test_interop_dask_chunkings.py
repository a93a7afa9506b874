"""However data is cut, the statistics are as exact, and results the same but for a rounding here and there."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from cases import needs_long_double
from numpy.typing import NDArray

dask = pytest.importorskip("dask", reason="dask is not installed: pip install 'numbanorm[dask]'")
da = pytest.importorskip("dask.array", reason="dask is not installed: pip install 'numbanorm[dask]'")

from numbanorm.interop import dask as over_dask  # noqa: E402 - where there is one

Array = NDArray[Any]
ROWS, FEATURES = 4000, 16
OFFSETS = np.array([0, 1, -30, 1e3, 1e5, -1e5, 0.1, 7] * 2)  # in standard deviations
pytestmark = needs_long_double


def cuts(seed: int) -> tuple[tuple[int, ...], ...]:
    """Sizes of chunks of the rows at random, one element and none among them, and of the features."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.choice(ROWS, rng.integers(1, 40)))
    rows = np.diff([0, *ends, ROWS])
    return tuple(int(n) for n in rows), (FEATURES,) if seed % 2 else (3, FEATURES - 3)


@pytest.fixture(scope="module")
def data() -> Array:
    return (np.random.default_rng(5).normal(size=(ROWS, FEATURES)) + OFFSETS).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_statistics(seed: int, data: Array) -> None:
    """The mean within one eps of float64 at the scale of the standard deviation, the variance within four."""
    m = over_dask.moments(da.from_array(data, chunks=cuts(seed)), 0).compute(scheduler="synchronous")
    truth = oracle.batch_norm(data, eps=0.0)
    assert truth.mean is not None
    assert (np.abs(oracle.widen(m.mean) + m.mean_low - truth.mean) <= 2.0**-52 * np.sqrt(truth.var)).all()
    assert (np.abs(oracle.widen(m.var()) - truth.var) <= 4 * 2.0**-52 * truth.var).all()


@pytest.mark.parametrize("seed", range(8))
def test_results(seed: int, data: Array) -> None:
    """Those of one chunk, but for at most one in 10,000 elements, by one rounding; the same bits on any scheduler."""
    whole = over_dask.batch_norm(da.from_array(data, chunks=((ROWS - 1, 1), FEATURES)), training=True)
    y = over_dask.batch_norm(da.from_array(data, chunks=cuts(seed)), training=True)
    expected, found = whole.compute(scheduler="synchronous"), y.compute(scheduler="synchronous")
    off = np.abs(oracle.widen(found) - expected)
    assert np.count_nonzero(off) <= expected.size // 10_000
    assert (off <= oracle.spacing(np.abs(oracle.widen(expected)), expected.dtype)).all()
    assert y.compute(scheduler="threads").tobytes() == found.tobytes()
