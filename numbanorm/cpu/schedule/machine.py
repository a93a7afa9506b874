"""Sizes of this machine's caches. They change the speed and never a bit."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import ir
from llvmlite.binding import add_symbol
from numba.core import cgutils
from numba.extending import overload

from ..compile import intrinsic, jitable, types

SIZES = "numbanorm.bytes_of_caches"

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# what is written past the caches lies farther away, for whoever reads it; but a cache of a server is shared by dozens of cores,
# and on two of them calls of 33 to 50 MB took 0.4 to 0.8 of the time with such stores, at 0.26 GB of cache
MOST_KEPT = 32 << 20  # bytes that a call may expect to stay in the last cache
UNKNOWN = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}  # bytes, where the system does not say


@cache
def cache_bytes(level: int) -> int:
    """Size of the data cache at `level` (1 to 3), in bytes."""
    for folder in CACHES.glob("index*"):
        try:
            if int((folder / "level").read_text()) == level and "Instruction" not in (folder / "type").read_text():
                match = re.fullmatch(r"(\d+)([KMG]?)\s*", (folder / "size").read_text())
                if match:
                    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
        except (OSError, ValueError):
            continue
    return UNKNOWN[level]


@overload(cache_bytes, strict=False)
def cache_bytes_compiled(level: Any) -> Any:
    """In compiled code, which may have been compiled on another machine."""
    return lambda level: size_of_cache(level)


@intrinsic
def size_of_cache(tc: Any, level: Any) -> Any:
    """What `cache_bytes` says, by the symbol that `tell_sizes` has defined."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        table = cgutils.add_global_variable(b.module, ir.ArrayType(ir.IntType(64), 3), SIZES)
        table.linkage = "external"
        return b.load(b.gep(table, [ir.IntType(64)(0), b.sub(a[0], ir.IntType(64)(1))]))

    return types.int64(types.int64), codegen


@cache
def tell_sizes() -> ctypes.Array[ctypes.c_int64]:
    """Define the symbol by which compiled code finds the sizes; the memory is kept."""
    sizes = (ctypes.c_int64 * 3)(*map(cache_bytes, (1, 2, 3)))
    add_symbol(SIZES, ctypes.addressof(sizes))
    return sizes


@jitable
def kept(size: int) -> bool:
    """Whether what so many bytes hold stays in the caches, if it is written through them."""
    return size <= min(cache_bytes(3), MOST_KEPT)
