"""`intrinsics` in plain Python, for Numba's CUDA simulator (NUMBA_ENABLE_CUDASIM=1). Slow; for tests."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
from numba import cuda, float64
from numba.cuda.simulator.kernel import _get_kernel_context

LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
LIBM.fma.restype, LIBM.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
ROOM: Any = 1024  # threads of a block at most
context: Any = _get_kernel_context


class Pointer:
    """The memory of an array from one of its elements on."""

    def __init__(self, memory: Any, start: int = 0) -> None:
        self.memory, self.start = memory, start


def device(function: Any) -> Any:
    return function


def compiled(function: Any) -> Any:
    return cuda.jit(function)


def mul(x: Any, y: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.float64(x) * np.float64(y)


def fma(x: Any, y: Any, z: Any) -> Any:
    return np.float64(LIBM.fma(x, y, z))


def div(x: Any, y: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.float64(x) / np.float64(y)


def root(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.sqrt(np.float64(x))


def load1(p: Pointer, i: Any) -> Any:
    at = p.start + int(i)
    assert 0 <= at < p.memory.size, f"load outside of the array: {at} of {p.memory.size}"
    v = p.memory[at]
    return int(v) if p.memory.dtype.kind == "i" else np.float64(v)


def load4(p: Pointer, i: Any) -> Any:
    return load1(p, i), load1(p, i + 1), load1(p, i + 2), load1(p, i + 3)


read1, read4 = load1, load4


def store1(p: Pointer, i: Any, v: Any) -> None:
    at = p.start + int(i)
    assert 0 <= at < p.memory.size, f"store outside of the array: {at} of {p.memory.size}"
    if p.memory.dtype.name == "bfloat16":  # ml_dtypes rounds by way of float32
        with np.errstate(all="ignore"):
            short = np.float32(v)
            if np.float64(short) != v and not short.view(np.uint32) & 1:  # to odd: the neighbour on v's side
                short = np.nextafter(short, np.float32(np.inf if v > short else -np.inf))
            v = short
    with np.errstate(all="ignore"):
        p.memory[at] = v


def store4(p: Pointer, i: Any, v: Any) -> None:
    for k in range(4):
        store1(p, i + k, v[k])


def quotient(n: Any, d: Any) -> Any:
    return int(n) // int(d)


# Numba swaps the module `cuda` while a device function runs, for all threads at once: the first to leave one takes it from
# those that are still inside. So the module that it would put there is asked for.


def thread() -> Any:
    return context().threadIdx.x


def block() -> Any:
    return context().blockIdx.x


def threads() -> Any:
    return context().blockDim.x


def barrier() -> None:
    context().syncthreads()


def exchange(v: Any, distance: Any) -> Any:
    """Exchange by the whole block's shared memory: so every thread of the block must take part, not only the warp."""
    here = context()
    room = here.shared.array(ROOM, float64)
    room[here.threadIdx.x] = v
    here.syncthreads()
    other = room[here.threadIdx.x ^ distance]
    here.syncthreads()
    return other
