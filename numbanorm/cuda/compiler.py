"""From a kernel's Python function to machine code, on any machine that has the compiler's wheels; and a disk cache of it.

The cache is keyed on the source of this package and the compiler's versions, as the CPU's is, so it cannot be stale; a cache
that cannot be read or written costs a compilation and is never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numba

from ..runtime.cache import cache_folder, digest_of, load, store

PACKAGES = ("numba", "llvmlite", "numba-cuda", "cuda-core")
#: the libraries that make machine code, and the wheels that may bring them
LIBRARIES = {"nvvm": ("nvidia-nvvm", "nvidia-cuda-nvcc-cu12"), "nvJitLink": ("nvidia-nvjitlink", "nvidia-nvjitlink-cu12")}
NAME = re.compile(rb"\.text\.([\w$.]+)")  # the section that holds a kernel's code is called after it


@dataclass(frozen=True)
class Kernel:
    """A kernel, made by `build(*constants)` for blocks of at most `threads` threads."""

    build: Callable[..., Any]
    constants: tuple[Any, ...]
    threads: int

    @property
    def name(self) -> str:
        return f"{self.build.__name__}{self.constants}"


def arguments(kinds: tuple[str, ...]) -> list[Any]:
    """Numba types of a kernel's arguments: "int", "float", or the dtype behind a pointer."""
    from .arith.intrinsics import POINTERS, types

    scalars = {"int": types.int64, "float": types.float64}
    return [scalars[k] if k in scalars else POINTERS[k] for k in kinds]


def intermediate(kernel: Kernel, kinds: tuple[str, ...], capability: tuple[int, int]) -> bytes:
    """LTO-IR of a kernel."""
    from numba import cuda

    signature = numba.void(*arguments(kinds))
    built = kernel.build(*kernel.constants)
    code, _ = cuda.compile(
        built, signature, device=False, abi="numba", cc=capability, output="ltoir", launch_bounds=kernel.threads
    )
    return bytes(code)


def linked(code: bytes, capability: tuple[int, int], what: str = "cubin") -> tuple[bytes, str]:
    """LTO-IR -> a cubin (or the PTX it is made from), and what the linker said of registers and memory."""
    from cuda.bindings import nvjitlink as linker

    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-lto", "-verbose", *(["-ptx"] if what == "ptx" else [])]
    handle = linker.create(len(options), options)
    try:
        linker.add_data(handle, linker.InputType.LTOIR, code, len(code), "numbanorm")
        linker.complete(handle)
        size, get = (
            (linker.get_linked_ptx_size, linker.get_linked_ptx)
            if what == "ptx"
            else (linker.get_linked_cubin_size, linker.get_linked_cubin)
        )
        result, log = bytearray(size(handle)), bytearray(linker.get_info_log_size(handle))
        get(handle, result)
        if log:
            linker.get_info_log(handle, log)
    finally:
        linker.destroy(handle)
    return bytes(result), log.decode(errors="replace")


def versions(packages: tuple[str, ...]) -> list[str]:
    """Names and versions of those packages that are installed."""
    found = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return found


def of_toolkit(library: str) -> list[str]:
    """Key of the file that a library of a CUDA toolkit is, whose version cannot be asked; nothing where there is none."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        path = os.path.realpath(load_nvidia_dynamic_lib(library).abs_path)
        status = os.stat(path)
    except (DynamicLibNotFoundError, OSError):  # kernels that were compiled before need no compiler
        return []
    return [f"{path} {status.st_size} {status.st_mtime_ns}"]


def compiler_key() -> list[str]:
    """Versions of what compiles: Python, whose bytecode decides the order of operations, Numba, and NVIDIA's two libraries."""
    libraries = [versions(wheels) or of_toolkit(library) for library, wheels in LIBRARIES.items()]
    return [str(sys.implementation.cache_tag), *versions(PACKAGES), *chain.from_iterable(libraries)]


@cache
def source_key() -> str:
    """Digest of every source file of the kernels, and of the compiler's versions."""
    here = Path(__file__).parent
    spec = here.parent / "spec"
    return digest_of("\0".join(compiler_key()), spec / "dtypes.py", spec / "tree.py", here)


def cache_file(kernel: Kernel, kinds: tuple[str, ...], capability: tuple[int, int]) -> Path | None:
    """File of a cubin; None when NUMBANORM_CACHE=0 switches the cache off."""
    folder = cache_folder()
    if folder is None:
        return None
    key = hashlib.sha256(f"{kernel.name} {kernel.threads} {kinds} {capability}".encode()).hexdigest()
    return folder / f"numbanorm-cuda-{source_key()[:16]}" / f"{kernel.build.__name__}-{key[:32]}.cubin"


def cubin(kernel: Kernel, kinds: tuple[str, ...], capability: tuple[int, int]) -> bytes:
    """The machine code of a kernel, from the cache where it is there."""
    path = cache_file(kernel, kinds, capability)
    found = None if path is None else load(path)
    if found is not None:
        return found
    code, _ = linked(intermediate(kernel, kinds, capability), capability)
    if path is not None:
        store(path, code)
    return code


def entry(code: bytes) -> str:
    """The name of the kernel in a cubin; all that it calls is inlined."""
    names = set(NAME.findall(code))
    assert len(names) == 1, f"a cubin must hold one kernel: got {names}"
    return str(names.pop().decode())
