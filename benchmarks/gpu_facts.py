"""Ask a CUDA device what the design of the kernels depends on, and print the answers as one JSON object.

Versions; what the driver says of the device; bandwidth of copies and reads; rates of conversions, of float64 arithmetic and of
shuffles; whether clusters and large shared memory can be had; what a launch and what a public call cost the host. A question
that cannot be answered costs its own answer only, which then is {"error": ...}.

    python benchmarks/gpu_facts.py [--json FILE] [--only REGEX]

Exits with 1 where a question has no answer, with 2 where there is no device.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from . import gpu_facts_kernels as kernels
else:
    import gpu_facts_kernels as kernels

PACKAGES = (
    *("numbanorm", "numpy", "numba", "llvmlite", "numba-cuda", "cuda-core", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit"),
    *("nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc", "nvidia-cuda-nvcc", "torch", "triton", "cupy-cuda13x"),
    *("cupy-cuda12x", "jax", "liger-kernel", "ml-dtypes", "pytest"),
)  # fmt: skip
ATTRIBUTES = (
    *("MULTIPROCESSOR_COUNT", "CLOCK_RATE", "MEMORY_CLOCK_RATE", "GLOBAL_MEMORY_BUS_WIDTH", "L2_CACHE_SIZE"),
    *("MAX_PERSISTING_L2_CACHE_SIZE", "MAX_SHARED_MEMORY_PER_BLOCK", "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    *("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR", "MAX_REGISTERS_PER_MULTIPROCESSOR", "MAX_THREADS_PER_MULTIPROCESSOR"),
    *("MAX_BLOCKS_PER_MULTIPROCESSOR", "COOPERATIVE_LAUNCH", "CLUSTER_LAUNCH", "COMPUTE_CAPABILITY_MAJOR"),
    "COMPUTE_CAPABILITY_MINOR",
)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def per_cycle(operations: int, cycles: list[int]) -> float:
    """Results of a multiprocessor in a cycle, by the slowest."""
    return kernels.THREADS * kernels.CHAINS * kernels.TURNS * operations / max(cycles)


def terabytes(nbytes: float, seconds: float) -> float:
    """Per second."""
    return nbytes / seconds * 1e-12


def spread(samples: list[float]) -> dict[str, float]:
    """Median and extremes, in microseconds."""
    return {"us": statistics.median(samples) * 1e6, "us_least": min(samples) * 1e6, "us_most": max(samples) * 1e6}


def attempt(ask: Callable[[], Any]) -> Any:
    """The answer, or in its place what went wrong."""
    try:
        return ask()
    except Exception as e:
        return {"error": f"{type(e).__name__}: {' '.join(str(e).split())}"[:600]}


def errors(found: Any) -> int:
    """How many answers say what went wrong instead."""
    if not isinstance(found, dict):
        return 0
    return 1 if set(found) == {"error"} else sum(map(errors, found.values()))


def host_seconds(call: Callable[[], object], wait: Callable[[], object], calls: int = 200, rounds: int = 7) -> list[float]:
    """What a call costs the host: many in a row, fewer than the queue holds, and the wait for the device left out."""
    found = []
    for _ in range(rounds + 1):  # the first warms up
        start = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - start) / calls)
        wait()
    return found[1:]


# --- questions -------------------------------------------------------------------------------------------------------


class Device:
    """The device in use, and what it takes to run something on it."""

    def __init__(self) -> None:
        from cuda import core
        from numba import cuda

        self.core, self.cuda = core, cuda
        core.Device(0).set_current()
        self.capability: Any = tuple(core.Device(0).compute_capability)
        self.multiprocessors = int(core.Device(0).properties.multiprocessor_count)
        self.stream = core.LEGACY_DEFAULT_STREAM

    def load(self, kernel: Any, kinds: tuple[str, ...]) -> Any:
        from numbanorm.cuda import compiler

        made = compiler.cubin(kernel, kinds, self.capability)
        return self.core.ObjectCode.from_cubin(made).get_kernel(compiler.entry(made))

    def launch(self, kernel: Any, *arguments: int, **configuration: Any) -> None:
        self.core.launch(self.stream, self.core.LaunchConfig(**configuration), kernel, *arguments)

    def room(self, n: int) -> tuple[Any, int]:
        """An int64 array of zeros, and its address."""
        a = self.cuda.to_device(np.zeros(n, np.int64))
        return a, int(a.__cuda_array_interface__["data"][0])


def versions(d: Device) -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    from cuda.bindings import driver

    found["numba.cuda is in"] = str(getattr(d.cuda, "__file__", None))  # Numba's own, or numba-cuda in its place
    found["cuda driver"] = int(driver.cuDriverGetVersion()[1])
    return found


def attributes(d: Device) -> dict[str, Any]:
    from cuda.bindings import driver

    found: dict[str, Any] = {"name": d.core.Device(0).name, "free_and_total_bytes": [int(n) for n in driver.cuMemGetInfo()[1:]]}
    for name in ATTRIBUTES:
        which = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}", None)
        found[name.lower()] = None if which is None else int(driver.cuDeviceGetAttribute(which, 0)[1])
    return found


def bandwidth(d: Device) -> dict[str, Any]:
    """TB/s of torch's copies (bytes read and written) and of its sums (bytes read), from the cache and from memory."""
    import torch

    found = {}
    for megabytes in (8, 32, 128, 512, 2048):
        n = megabytes * 2**18
        a, b = torch.ones(n, device="cuda"), torch.empty(n, device="cuda")
        calls = {"copy": (lambda a=a, b=b: b.copy_(a), 8 * n), "sum": (lambda a=a: a.sum(), 4 * n), "fill": (b.zero_, 4 * n)}
        for name, (call, nbytes) in calls.items():
            found[f"{name}, {megabytes} MB"] = terabytes(nbytes, device_seconds(call, torch))
    return found


def device_seconds(call: Callable[[], object], torch: Any, calls: int = 10, rounds: int = 5) -> float:
    samples = []
    for _ in range(rounds + 1):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(2_000_000)  # while the calls are queued
        first.record()
        for _ in range(calls):
            call()
        last.record()
        last.synchronize()
        samples.append(float(first.elapsed_time(last)) * 1e-3 / calls)
    return statistics.median(samples[1:])


def rates(d: Device) -> dict[str, Any]:
    """Results of a multiprocessor in a cycle, with a block of 1024 threads on each."""

    def one(name: str, operations: int) -> dict[str, float]:
        kernel = d.load(*kernels.rate(name))
        (out, address), (_, sink) = d.room(d.multiprocessors), d.room(1)
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            d.launch(kernel, address, sink, -1, grid=d.multiprocessors, block=kernels.THREADS)
            d.cuda.synchronize()
            seconds = time.perf_counter() - start
        cycles = [int(c) for c in out.copy_to_host()]
        return {"per_cycle": per_cycle(operations, cycles), "cycles": max(cycles), "gigahertz": max(cycles) / seconds * 1e-9}

    return {name: attempt(lambda name=name, n=n: one(name, n)) for name, (_, n) in kernels.code()["steps"].items()}


def clusters(d: Device) -> dict[str, Any]:
    """Blocks in a cluster as a kernel sees them; 4 is right, except for the plain launch of the plain kernel."""

    def one(inside: bool, **configuration: Any) -> list[int]:
        kernel = d.load(*kernels.cluster(inside))
        out, address = d.room(8)
        d.launch(kernel, address, block=32, **configuration)
        d.cuda.synchronize()
        return [int(n) for n in out.copy_to_host()]

    return {
        "asked for nowhere": attempt(lambda: one(False, grid=8)),
        "asked for by the launch": attempt(lambda: one(False, grid=2, cluster=4)),
        "asked for in the kernel": attempt(lambda: one(True, grid=8)),
        "asked for in both": attempt(lambda: one(True, grid=2, cluster=4)),
    }


def shared_memory(d: Device) -> dict[str, Any]:
    """Whether a kernel gets all the dynamic shared memory that the device offers a block."""
    from cuda.bindings import driver

    most = int(attributes(d)["max_shared_memory_per_block_optin"])
    kernel = d.load(*kernels.shared())
    out, address = d.room(1)
    which = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    told = driver.cuKernelSetAttribute(which, most, driver.CUkernel(int(kernel.handle)), driver.CUdevice(0))[0]
    d.launch(kernel, address, most // 8, grid=1, block=32, shmem_size=most)
    d.cuda.synchronize()
    return {"bytes": most, "set": str(told), "worked": int(out.copy_to_host()[0]) == most // 8}


def bound(kernel: Any, address: int) -> Callable[[], object]:
    """A launch by the driver's function itself, its arguments packed beforehand: what no launch can be cheaper than."""
    library = ctypes.CDLL("libcuda.so.1")
    values = [ctypes.c_uint64(address)] * 6 + [ctypes.c_int64(1)] * 6
    packed = (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values))
    handle, grid, block = ctypes.c_void_p(int(kernel.handle)), ctypes.c_uint(1), ctypes.c_uint(128)
    shape = (grid, grid, grid, block, grid, grid, ctypes.c_uint(0), ctypes.c_void_p(0))

    def launch(keep: Any = (values, kernel)) -> None:
        if library.cuLaunchKernel(handle, *shape, packed, None):
            raise RuntimeError("cuLaunchKernel failed")

    return launch


def launches(d: Device) -> dict[str, Any]:
    """What the launch of an empty kernel costs the host, with no argument and with six pointers and six integers."""
    from numbanorm.cuda.driver import DRIVER

    none, twelve = (lambda: d.load(*kernels.empty(0, 0))), (lambda: d.load(*kernels.empty(6, 6)))
    _, address = d.room(1)
    arguments = (address,) * 6 + (1,) * 6

    def timed(make: Callable[[], Callable[[], object]]) -> Any:
        return attempt(lambda: spread(host_seconds(make(), d.cuda.synchronize)))

    def by_core(kernel: Any, *a: int) -> Callable[[], object]:
        configuration = d.core.LaunchConfig(grid=1, block=128)
        return lambda: d.core.launch(d.stream, configuration, kernel, *a)

    def by_driver() -> Callable[[], object]:
        kernel = twelve()
        return lambda: DRIVER.launch(kernel, 1, 128, 0, arguments)

    return {
        "cuda.core, no argument": timed(lambda: by_core(none())),
        "cuda.core, 12 arguments": timed(lambda: by_core(twelve(), *arguments)),
        "numbanorm's driver, 12 arguments": timed(by_driver),
        "cuLaunchKernel by ctypes, 12 arguments packed before": timed(lambda: bound(twelve(), address)),
    }


def calls(d: Device) -> dict[str, Any]:
    """What public calls cost the host: float32 (64, 768), where the device has next to nothing to do."""
    import torch

    import numbanorm

    x, dy, out = (torch.randn(64, 768, device="cuda") for _ in range(3))
    w, b = (torch.rand(768, device="cuda") for _ in range(2))
    _, stats = numbanorm.layer_norm(x, 768, w, b, return_stats=True)
    mean, var = torch.zeros(768, device="cuda"), torch.ones(768, device="cuda")
    leaf = x.clone().requires_grad_()

    def interop() -> Callable[[], object]:
        from numbanorm.interop.torch import layer_norm

        return lambda: layer_norm(x, (768,), w, b)

    def autograd(f: Callable[..., Any]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(f(leaf, (768,), w, b), leaf, dy)

    def of_cupy() -> Callable[[], object]:
        import cupy

        c = cupy.asarray(x)
        return lambda: numbanorm.layer_norm(c, 768)

    def of_numba() -> Callable[[], object]:
        a = d.cuda.to_device(np.zeros((64, 768), np.float32))
        return lambda: numbanorm.layer_norm(a, 768)

    def drop_in() -> Callable[[], object]:
        from numbanorm.interop.torch import layer_norm

        return autograd(layer_norm)

    questions: dict[str, Callable[[], Callable[[], object]]] = {
        "layer_norm": lambda: lambda: numbanorm.layer_norm(x, 768, w, b),
        "layer_norm, out": lambda: lambda: numbanorm.layer_norm(x, 768, w, b, out=out),
        "layer_norm, return_stats": lambda: lambda: numbanorm.layer_norm(x, 768, w, b, return_stats=True),
        "layer_norm_backward": lambda: lambda: numbanorm.layer_norm_backward(dy, x, 768, stats, w),
        "rms_norm": lambda: lambda: numbanorm.rms_norm(x, 768, w),
        "batch_norm, training": lambda: lambda: numbanorm.batch_norm(x, mean, var, w, b, True),
        "batch_norm, given": lambda: lambda: numbanorm.batch_norm(x, mean, var, w, b),
        "layer_norm of CuPy": of_cupy,
        "layer_norm of Numba": of_numba,
        "interop layer_norm": interop,
        "interop layer_norm and its gradient": drop_in,
        "torch layer_norm": lambda: lambda: torch.nn.functional.layer_norm(x, (768,), w, b),
        "torch layer_norm and its gradient": lambda: autograd(torch.nn.functional.layer_norm),
        "torch.empty": lambda: lambda: torch.empty(64, 768, device="cuda"),
    }

    def one(make: Callable[[], Callable[[], object]]) -> Any:
        return attempt(lambda: spread(host_seconds(make(), torch.cuda.synchronize, 50)))

    return {name: one(make) for name, make in questions.items()}


QUESTIONS: dict[str, Callable[[Device], Any]] = {
    "versions": versions,
    "attributes": attributes,
    "rates": rates,
    "launches": launches,
    "calls": calls,
    "bandwidth": bandwidth,
    "shared_memory": shared_memory,
    "clusters": clusters,  # last: should they break the context, all else is known
}


def save(found: dict[str, Any], path: str | None) -> None:
    if path:
        with open(f"{path}.part", "w") as file:
            json.dump(found, file, indent=1)
        os.replace(f"{path}.part", path)


def not_prepared() -> int:
    """Say which kernels are not in the compiler's cache, and how many."""
    from numbanorm.cuda import compiler

    paths = {kernel.name: compiler.cache_file(kernel, kinds, (9, 0)) for kernel, kinds in kernels.needed()}
    lacking = [name for name, path in paths.items() if path is None or not path.exists()]
    print(f"{len(paths)} kernels, {len(lacking)} not prepared{': ' if lacking else ''}{', '.join(lacking)}")
    return int(bool(lacking))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the answers to this file too, again after each")
    parser.add_argument("--only", default="", help=f"questions with this in their name, of {', '.join(QUESTIONS)}")
    parser.add_argument("--dry", action="store_true", help="ask nothing: say which kernels would have to be compiled")
    args = parser.parse_args(argv)
    if args.dry:
        return not_prepared()
    from numba import config

    from numbanorm.backends import dispatch

    why = "Numba simulates a GPU, by NUMBA_ENABLE_CUDASIM" if config.ENABLE_CUDASIM else dispatch.why_no_cuda()
    if why is not None:
        print(f"there is no CUDA device to ask: {why}", file=sys.stderr)
        return 2
    d, found = Device(), {}
    for name, ask in QUESTIONS.items():
        if re.search(args.only, name):
            print(name, file=sys.stderr, flush=True)
            found[name] = attempt(lambda ask=ask: ask(d))
            save(found, args.json)
    print(json.dumps(found, indent=1), flush=True)
    wrong = errors(found)
    print(f"{len(found)} questions, {wrong} answers that are errors", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
