"""The same values in every kind of memory an array may have. What lies between the values is nan, so that reading
past them shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def fortran(x: Array) -> Array:
    return np.asfortranarray(x)


def channels_last(x: Array) -> Array:
    """Axis 1 lies innermost in memory, as a picture comes from a file, and is seen as axis 1."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 2 else fortran(x)


def strided(x: Array) -> Array:
    """Every second value of every third row of a larger array."""
    rows = (3 * x.shape[0],) if x.ndim > 1 else ()
    room = np.full(rows + x.shape[len(rows) : -1] + (2 * x.shape[-1],), np.nan, x.dtype)
    view = room[1::3, ..., 1::2] if x.ndim > 1 else room[1::2]
    view[...] = x
    return view


def negative(x: Array) -> Array:
    backwards = tuple(slice(None, None, -1) for _ in x.shape)
    return np.ascontiguousarray(x[backwards])[backwards]


def offset(x: Array) -> Array:
    """A slice of a flat buffer: aligned for its type, not for a vector."""
    room = np.full(x.size + 8, np.nan, x.dtype)
    view = room[3 : 3 + x.size].reshape(x.shape)
    view[...] = x
    return view


def read_only(x: Array) -> Array:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def unaligned(x: Array) -> Array:
    room = np.zeros(x.nbytes + 1, np.uint8)
    view = room[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def swapped(x: Array) -> Array:
    """The bytes of every value in the order that is not this machine's."""
    return x.astype(x.dtype.newbyteorder())


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": np.copy,
    "F": fortran,
    "channels_last": channels_last,
    "strided": strided,
    "negative": negative,
    "offset": offset,
    "read_only": read_only,
    "unaligned": unaligned,
    "swapped": swapped,
}


def possible(layout: str, x: Array) -> bool:
    """bfloat16 comes from outside NumPy and exists in native byte order only."""
    return layout != "swapped" or x.dtype.kind == "f"
