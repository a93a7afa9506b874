"""Memory of large results, which the next ones get when nobody looks at the old ones any more.

From 32 MiB on malloc maps memory afresh for each array, and the system clears it page by page as it is written: a new result
took 1.4 to 1.7 times as long as one that goes to `out`. So blocks whose arrays have all gone are kept, up to MOST bytes in all.
The system may have their pages back whenever it wants them (MADV_FREE). NUMBANORM_POOL=0 keeps none, and none are where the
memory of processes is limited.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections import deque
from math import prod
from typing import Any

import numpy as np

LEAST, MOST = 32 << 20, 256 << 20  # bytes
STEP = 2 << 20  # of a block's size: that of a large page
FEW = LEAST // 8  # elements of which no array is large
FREE: deque[mmap.mmap] = deque()  # each operation is atomic: an array may go at any moment, in any thread


def kept() -> bool:
    """Whether blocks are kept: by choice, where the system has all that it takes, and memory is not limited."""
    if os.environ.get("NUMBANORM_POOL") == "0" or not hasattr(mmap, "MADV_FREE") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    import resource  # which Windows has not

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return all(resource.getrlimit(limit)[0] == resource.RLIM_INFINITY for limit in limits)


class Lease:
    """A block that an array lies in: the owner of the array's memory, in NumPy's words its base."""

    __slots__ = ("__array_interface__", "block")

    def __init__(self, size: int) -> None:
        self.block = taken(size)
        self.__array_interface__ = np.frombuffer(self.block, np.uint8).__array_interface__

    def __del__(self) -> None:
        if hasattr(self, "block") and sys is not None and not sys.is_finalizing():  # then it goes with the process
            given(self.block)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`np.empty`, of kept memory if it is much."""
    size = prod(shape) * dtype.itemsize
    try:
        if size < LEAST or size > MOST or not kept():
            return np.empty(shape, dtype)
        flat: np.ndarray[Any, Any] = np.asarray(Lease(-(-size // STEP) * STEP))
        return flat[:size].view(dtype).reshape(shape)
    except (MemoryError, OSError):  # without what is kept there may be enough; if not, NumPy has the words
        FREE.clear()
        return np.empty(shape, dtype)


def taken(size: int) -> mmap.mmap:
    """A block of so many bytes, kept or new."""
    for block in FREE.copy():
        if len(block) == size:
            try:
                FREE.remove(block)
            except (ValueError, IndexError):  # another thread has taken it, or one beside it, meanwhile
                continue
            return block
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # advice, which some systems do not take
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def given(block: mmap.mmap) -> None:
    """Keep a block, and let those go that have been kept longest if it is too much."""
    if not kept():
        FREE.clear()
        return
    try:
        block.madvise(mmap.MADV_FREE)
    except OSError:  # locked in memory: then it is not for keeping
        return
    FREE.append(block)
    while sum(map(len, FREE.copy())) > MOST:
        with contextlib.suppress(IndexError):  # other threads have taken all
            FREE.popleft()
