"""What it takes to add a norm: a row in the table. Kernels, schedules, checks and `explain`'s parts know none by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import power_norm
import pytest
from cases import DTYPES, METHODS

from numbanorm.spec.dtypes import DTYPES as TABLE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("shape", "axis"), power_norm.SHAPES, ids=str)
def test_a_row_is_a_norm(
    shape: tuple[int, ...], axis: int, dtype: np.dtype[Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm's axes without a mean, which no norm of the package has: so no kernel may take one for granted."""
    power_norm.in_table(monkeypatch)
    x, weight, dy = power_norm.arguments(shape, axis, dtype)
    y, stats = power_norm.power_norm(x, weight, axis, method)
    assert stats.mean is None
    dx, dweight = power_norm.power_norm_backward(dy, x, stats, weight, axis)
    eps = 2.0 ** (1 - TABLE[dtype.name].digits)
    of = 4 if dtype.itemsize == 8 else 0.6  # of an eps at the largest term: rounded once; float64 is computed in itself
    for found, exact in zip((y, dx, dweight), power_norm.defined(x, weight, dy, axis), strict=True):
        assert np.abs(found.astype(np.longdouble) - exact).max() <= of * eps * np.abs(exact).max()
