"""Launching kernels: on a device, or in Numba's simulator. One place that knows how."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from numba import config

from .compiler import Kernel, cubin, entry

Arguments = list[Any]


@cache
def why_not() -> str | None:
    """Why kernels cannot run here, and what would help; None where they can."""
    if config.ENABLE_CUDASIM:
        return None
    missing = [name for name in ("numba_cuda", "cuda.core") if not installed(name)]
    if missing:
        return (
            f"CUDA must be installed: {' and '.join(missing)} cannot be imported; "
            f"write pip install 'numbanorm[cuda13]' (or [cuda12] for a CUDA 12 driver)"
        )
    from cuda.bindings import driver

    try:
        (error,) = driver.cuInit(0)
        count = driver.cuDeviceGetCount()[1] if int(error) == 0 else 0
    except Exception as e:  # no libcuda.so: cuda.bindings has changed the type of this error
        return f"CUDA must have a driver: {' '.join(str(e).split())}; install NVIDIA's driver, or leave backend out"
    if int(error) != 0 or count == 0:
        return f"CUDA must have a device: the driver answers {error!r} with {count} devices; leave backend out"
    return None


def device_name() -> str:
    """The first device."""
    if config.ENABLE_CUDASIM:
        return "simulated by Numba"
    from cuda.core import Device

    device = Device(0)
    return f"{device.name}, compute capability {'.'.join(map(str, device.compute_capability))}"


def installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def core() -> Any:
    """cuda.core; an import statement in each launch took half a microsecond, and more for each name."""
    from cuda import core

    return core


@cache
def bindings() -> Any:
    """The driver's own functions, likewise."""
    from cuda.bindings import driver

    return driver


class Simulator:
    """Numba's simulator: pointers are NumPy arrays, and a warp exchanges through the block."""

    null = None
    block_threads = 32  # of kernels that may have any number: each is a thread of the operating system

    def __init__(self) -> None:
        self.kernels: dict[Kernel, Any] = {}

    def enter(self, device: int) -> None:
        """There is one device."""

    def leave(self, before: None) -> None:
        """Nothing to restore."""

    def ready(self, kernel: Kernel, kinds: tuple[str, ...], device: int) -> Any:
        from .arith.device import compiled

        if kernel not in self.kernels:
            self.kernels[kernel] = compiled(kernel.build(*kernel.constants))
        return self.kernels[kernel], kinds

    def pointer(self, array: Any, offset: int) -> Any:
        from .arith.simulated import Pointer

        return Pointer(array.memory, offset)

    def launch(self, ready: Any, grid: int, block: int, stream: int, arguments: Arguments) -> None:
        from .arith.simulated import seen_as

        kernel, kinds = ready
        kernel[grid, block](*map(seen_as, arguments, kinds))


class Hardware:
    """A device, by way of cuda.core."""

    null = 0
    block_threads = 128

    def __init__(self) -> None:
        self.kernels: dict[Any, Any] = {}
        self.streams: dict[int, Any] = {}
        self.configurations: dict[tuple[int, int], Any] = {}

    def enter(self, device: int) -> int | None:
        """Make a device current if it is not, and say which one was, for `leave`: a launch goes to the current one."""
        error, here = bindings().cuCtxGetDevice()
        current = int(error) == 0
        if current and int(here) == device:
            return None
        core().Device(device).set_current()
        return int(here) if current else None

    def leave(self, before: int | None) -> None:
        if before is not None:
            core().Device(before).set_current()

    def ready(self, kernel: Kernel, kinds: tuple[str, ...], device: int) -> Any:
        """The loaded kernel; a library is loaded once for all devices of a compute capability."""
        capability = tuple(core().Device(device).compute_capability)
        key = (kernel, kinds, capability)
        if key not in self.kernels:
            code = cubin(kernel, kinds, capability)
            self.kernels[key] = core().ObjectCode.from_cubin(code).get_kernel(entry(code))
        return self.kernels[key]

    def pointer(self, array: Any, offset: int) -> int:
        return array.address + offset * array.itemsize if offset else array.address  # type: ignore[no-any-return]

    def stream(self, handle: int) -> Any:
        found = self.streams.get(handle)
        if found is None:
            found = core().LEGACY_DEFAULT_STREAM if handle == 0 else core().Stream.from_handle(handle)
            self.streams[handle] = found
        return found

    def follow(self, stream: int, other: int) -> None:
        """Make what is launched on a stream from now on wait for all that another one has been given; the host does not."""
        self.stream(stream).wait(self.stream(other))

    def launch(self, ready: Any, grid: int, block: int, stream: int, arguments: Arguments) -> None:
        configuration = self.configurations.get((grid, block))
        if configuration is None:
            configuration = self.configurations[grid, block] = core().LaunchConfig(grid=grid, block=block)
        core().launch(self.stream(stream), configuration, ready, *arguments)


DRIVER: Any = Simulator() if config.ENABLE_CUDASIM else Hardware()
