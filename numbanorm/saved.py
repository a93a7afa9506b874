"""Moments in a file: an .npz archive of plain arrays, without pickle."""

from __future__ import annotations

import zipfile
from os import PathLike
from typing import Any, TypeAlias

import numpy as np

Path: TypeAlias = str | PathLike[str]

FORMAT = "numbanorm_moments"  # the name of an array that holds VERSION, and tells such a file from others
VERSION = 1
FIELDS = ("count", "mean", "low", "squares", "lost", "scale")


def write(path: Path, axis: Any, *fields: Any) -> None:
    """Write the axis (left out if it is None) and the arrays of FIELDS, of which each may be a number."""
    arrays = {name: host(name, value) for name, value in zip(FIELDS, fields, strict=True)}
    if axis is not None:
        arrays["axis"] = np.asarray(axis, np.int64)
    with open(path, "wb") as file:  # to a path NumPy would add .npz
        np.savez(file, allow_pickle=False, **{FORMAT: np.asarray(VERSION)}, **arrays)


def host(name: str, value: Any) -> Any:
    """An array in host memory, as it is saved."""
    if not isinstance(value, (int, float, np.ndarray, np.generic)):
        raise TypeError(f"moments must be in host memory to be saved: got {name} in {type(value).__name__}; take those of "
                        f"NumPy arrays")  # fmt: skip
    return np.asarray(value)


def read(path: Path) -> tuple[Any, ...]:
    """The axis, and FIELDS."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file[FORMAT]) != VERSION:
                raise KeyError(f"version {int(file[FORMAT])}, not {VERSION}")
            count, *arrays = (file[name] for name in FIELDS)
            axis = file.get("axis")
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as why:
        raise ValueError(f"{path} must be a file that Moments.save wrote: got another ({why}); save moments again") from why
    own = None if axis is None else int(axis) if axis.ndim == 0 else tuple(map(int, axis))
    return own, int(count) if count.ndim == 0 else count, *arrays
