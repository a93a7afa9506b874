"""The bound that no norm can beat: a copy of as many bytes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu.arith import memory, vectors
from .cases import Array


def aligned(size: int) -> Array:
    """float64 from an address that is a multiple of 128, each page touched"""
    buffer = np.zeros(size + 16)
    start = -(buffer.ctypes.data // 8) % 16
    buffer[:] = 1.0
    return buffer[start : start + size]


@intrinsic
def past_caches(tc: Any, y: Any, x: Any, lo: Any, hi: Any) -> Any:
    """y[lo:hi] = x[lo:hi] with non-temporal stores; lo and hi are multiples of 16."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        to, source, start, stop = a
        with cgutils.for_range_slice(b, start, stop, vectors.integer(vectors.LANES), intp=vectors.I64) as (i, _):
            memory.store(
                b,
                types.float64,
                to,
                i,
                memory.load(b, types.float64, source, i),
                streaming=memory.Past(ir.Constant(vectors.I1, 1)),
            )
        return ctx.get_dummy_value()

    return types.void(y, x, types.int64, types.int64), codegen


@numba.njit(parallel=True)
def copy(x: Any, y: Any) -> None:
    for i in prange(x.size):
        y[i] = x[i]


@numba.njit(parallel=True)
def streamed(x: Any, y: Any, threads: Any) -> None:
    blocks = x.size // 16
    for t in prange(threads):
        slot = np.int64(t)
        lo, hi = blocks * slot // threads * 16, blocks * (slot + 1) // threads * 16
        past_caches(vectors.pointer(y), vectors.pointer(x), lo, hi)
