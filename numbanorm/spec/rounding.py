"""float64 rounded once to another type, in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    """float64 rounded once to another type; bfloat16 by way of float32, rounded to odd."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.name != "bfloat16":
            return values.astype(dtype)
        single = values.astype(np.float32)
        bits, lost = single.view(np.int32), values - single
        towards = np.copysign(np.float32(np.inf), lost).astype(np.float32)
        odd = np.where((lost != 0) & (bits & 1 == 0) & np.isfinite(single), np.nextafter(single, towards), single)
        return odd.astype(dtype)
