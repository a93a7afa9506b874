"""`intrinsics` in plain Python, for Numba's CUDA simulator (NUMBA_ENABLE_CUDASIM=1). Slow; for tests."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
from numba import boolean, cuda, float64
from numba.cuda.simulator.kernel import _get_kernel_context

LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
LIBM.fma.restype, LIBM.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
LIBM.fmaf.restype, LIBM.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
ROOM: Any = 1024  # threads of a block at most
context: Any = _get_kernel_context


class Pointer:
    """The memory of an array from one of its elements on."""

    def __init__(self, memory: Any, start: int = 0) -> None:
        self.memory, self.start = memory, start


def seen_as(argument: Any, kind: str) -> Any:
    """An argument, a pointer as one to elements of another dtype, as which work space may be used."""
    if not isinstance(argument, Pointer) or argument.memory.dtype.name == kind:
        return argument
    memory = argument.memory.view(kind)
    return Pointer(memory, argument.start * argument.memory.itemsize // memory.itemsize)


def device(function: Any) -> Any:
    return function


def compiled(function: Any) -> Any:
    return cuda.jit(function)


def mul(x: Any, y: Any) -> Any:
    kind = np.float32 if isinstance(x, np.float32) and isinstance(y, np.float32) else np.float64
    with np.errstate(all="ignore"):
        return kind(x) * kind(y)


def fma(x: Any, y: Any, z: Any) -> Any:
    if all(isinstance(v, np.float32) for v in (x, y, z)):
        return np.float32(LIBM.fmaf(x, y, z))
    return np.float64(LIBM.fma(x, y, z))


def widen(x: Any) -> Any:
    return np.float64(x)


def single(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.float32(x)


def nothing(like: Any) -> Any:
    return type(like)(0)


def towards_zero(x: Any) -> Any:
    short = single(x)
    if abs(np.float64(short)) > abs(x):
        short = np.nextafter(short, np.float32(0.0))
    return short


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


def take1(p: Pointer, i: Any) -> Any:
    v = load1(p, i)
    return v if p.memory.dtype.itemsize == 8 else np.float32(v)


def take4(p: Pointer, i: Any) -> Any:
    return take1(p, i), take1(p, i + 1), take1(p, i + 2), take1(p, i + 3)


read1, read4, peek1, peek4 = load1, load4, take1, take4


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


def blocks() -> Any:
    return context().gridDim.x


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
    return type(v)(other)


def vote(some: Any) -> Any:
    """Of the whole block, as `exchange`: a warp may be told of what only another one has."""
    here = context()
    room = here.shared.array(ROOM, boolean)
    room[here.threadIdx.x] = some
    here.syncthreads()
    found = bool(room[: here.blockDim.x].any())
    here.syncthreads()
    return found


def from_lane(v: Any, lane: Any) -> Any:
    """As `exchange`."""
    here = context()
    room = here.shared.array(ROOM, float64)
    room[here.threadIdx.x] = v
    here.syncthreads()
    other = room[(here.threadIdx.x & ~31) + lane]
    here.syncthreads()
    return type(v)(other)


def slot_of(room: Any, slot: Any, p: Pointer) -> Any:
    """The four elements of a slot of shared memory."""
    return room.view(p.memory.dtype)[4 * int(slot) : 4 * int(slot) + 4]


def stage4(room: Any, slot: Any, p: Pointer, i: Any) -> None:
    at = p.start + int(i)
    assert 0 <= at <= p.memory.size - 4, f"load outside of the array: {at} of {p.memory.size}"
    slot_of(room, slot, p)[...] = p.memory[at : at + 4]


def staged() -> None:
    pass


def unstage4(room: Any, slot: Any, p: Pointer) -> Any:
    kind = np.float64 if p.memory.dtype.itemsize == 8 else np.float32
    return tuple(kind(v) for v in slot_of(room, slot, p))


def pinned(v: Any) -> Any:
    return v


def seen(before: Any, v: Any) -> Any:
    return before


def after(v: Any, others: Any, n: Any) -> Any:
    assert n < 1 << 32
    return v
