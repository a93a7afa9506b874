"""The table of dtypes says what the types themselves say."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from numbanorm.spec.dtypes import DTYPES


@pytest.mark.parametrize("name", DTYPES)
def test_table(name: str) -> None:
    dtype, row = np.dtype(name), DTYPES[name]
    limits = ml_dtypes.finfo(dtype)
    assert row.itemsize == dtype.itemsize == np.dtype(row.stored).itemsize
    assert row.digits == limits.nmant + 1
    assert row.lowest == limits.minexp
    assert row.native == (dtype.type.__module__ == "numpy")
