"""Facts for the report of a problem: versions, CPU, threads, cache."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import TextIO

PACKAGES = ("numbanorm", "numba", "llvmlite", "numpy", "ml_dtypes", "torch", "numba-cuda", "cuda-core")


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def vector_width(features: str) -> str:
    """Widest vectors among LLVM's list of CPU features (+avx2,-avx512f,...)."""
    have = {f[1:] for f in features.split(",") if f.startswith("+")}
    for feature, width in (("avx512f", "512 bits (AVX-512)"), ("avx2", "256 bits (AVX2)"), ("avx", "256 bits (AVX)")):
        if feature in have:
            return width + ("" if "fma" in have or "fma4" in have else ", no fused multiply-add: slow")
    return "128 bits"


def threading_layer() -> str:
    """The layer in use; asking starts it, if no parallel kernel has yet."""
    import numba

    @numba.njit(parallel=True)
    def start() -> int:
        n = 0
        for _ in numba.prange(2):
            n += 1
        return n

    start()
    return str(numba.threading_layer())


def gpu() -> str:
    """Device and driver of the CUDA backend, or why it does not run."""
    from .backends.dispatch import why_no_cuda

    reason = why_no_cuda()
    if reason is not None:
        return f"not used: {reason}"
    from .cuda.driver import device_name

    return device_name()


def info() -> dict[str, str]:
    """Versions of numbanorm and what it stands on, and what this machine offers.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> from numbanorm import info
    >>> sorted(info())[:3]
    ['caches', 'cpu', 'cuda-core']
    """
    import numba
    from numba.core.registry import cpu_target

    from .cpu.schedule.machine import cache_bytes
    from .runtime.cache import cache_folder

    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    folder = cache_folder()
    return {
        "python": sys.version.split()[0],
        **{name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu,
        "vectors": vector_width(features),
        "caches": f"L2 {cache_bytes(2) >> 10} KiB, L3 {cache_bytes(3) >> 20} MiB",
        "threads": str(numba.get_num_threads()),
        "threading layer": threading_layer(),
        "kernel cache": "off" if folder is None else str(folder),
        "gpu": gpu(),
    }


def show_versions(file: TextIO | None = None) -> None:
    """Print `info()`; please add it when you report a problem.

    Parameters
    ----------
    file : text file, optional
        Where to print; by default standard output.

    Examples
    --------
    >>> from numbanorm import show_versions
    >>> show_versions()  # doctest: +ELLIPSIS
    python ...
    """
    facts = info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}", file=file)
