"""Zarr arrays for the command `normalize`: folders, which zarr reads and writes a chunk at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .parsers import CommandError
from .signals import unwinding

SUFFIX = ".zarr"
METADATA = ("zarr.json", ".zarray")  # of the formats 3 and 2


def is_array(path: Path) -> bool:
    """Whether a folder holds a zarr array, or a group of them."""
    return any((path / name).is_file() for name in METADATA)


def named(path: Path) -> bool:
    """Whether what is written there is to be a zarr array."""
    return path.suffix == SUFFIX


def library(path: Path) -> Any:
    """zarr, which only some users have."""
    try:
        import zarr
    except ImportError:
        raise CommandError(f"{path} is a zarr array, for which zarr must be installed: got none; "
                           f"pip install 'numbanorm[zarr]'") from None  # fmt: skip
    return zarr


def opened(path: Path) -> Any:
    """The zarr array in a folder; nothing of it is read."""
    zarr = library(path)
    try:
        return zarr.open_array(path, mode="r")
    except Exception as error:  # zarr's own are many
        raise CommandError(
            f"IN must be the folder of one zarr array: got {path} ({error}); name the array of a group as GROUP/ARRAY"
        ) from None


def created(path: Path, x: Any, dtype: Any) -> Any:
    """A new zarr array of the shape of x, in its chunks if it has any."""
    how = {"chunks": x.chunks} if hasattr(x, "chunks") else {}
    return library(path).create_array(path, shape=x.shape, dtype=dtype, overwrite=True, **how)


def chunks_of(x: Any, y: Any) -> tuple[int, ...] | None:
    """Chunks of what is read or written, if either has some."""
    chunks: tuple[int, ...] | None = getattr(x, "chunks", getattr(y, "chunks", None))
    return chunks


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of a folder on success, and is removed on any failure."""
    stem = f".{path.name}.{secrets.token_hex(4)}"
    temporary, before = path.with_name(f"{stem}.tmp{SUFFIX}"), path.with_name(f"{stem}.old{SUFFIX}")
    with unwinding():
        try:
            yield temporary
            try:
                if path.exists():
                    os.rename(path, before)  # a folder takes the place of an empty one only
                os.rename(temporary, path)
            except BaseException:  # signals, too
                if before.exists() and not path.exists():
                    os.rename(before, path)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if before.is_dir():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.unlink(missing_ok=True)
