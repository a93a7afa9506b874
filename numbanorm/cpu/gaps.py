"""Arrays whose rows stand apart, as kernels read and write them; see `spec.gaps`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..spec.call import Call
from ..spec.gaps import levels_of, rows_of
from .masks import Mask

Array = np.ndarray[Any, Any]
TOLD = (
    "rows stand apart, and are read where they lie",
    "elements of a row stand apart: as many rows as the cache holds are copied at a time, and what is written",
)


def words(call: Call, a: Array) -> Array:
    """`layout.Apart` or `layout.Turned` of an array; who uses it keeps both."""
    if call.turned:
        return np.array([a.__array_interface__["data"][0], not a.flags.c_contiguous], np.int64)
    found = levels_of(a, rows_of(call))
    assert found is not None  # who made the call has seen to it
    numbers = [a.__array_interface__["data"][0], *(number for level in found for number in level)]
    return np.array([number % (1 << 64) for number in numbers], np.uint64).view(np.int64)


def reading(call: Call, x: Array, mask: Mask | None) -> Array:
    """What stands for x in a call of compiled code."""
    return words(call, x) if call.gaps else x if mask is None else mask.words(x)
