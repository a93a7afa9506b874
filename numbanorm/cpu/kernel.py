"""The two decorators of every compiled function, and a disk cache that cannot be stale.

Numba keys its cache on the one file a function stands in, and so serves old code when a callee in another file has
changed. Here the key is the source of this whole package and the versions it was built with, and no fault of the cache
folder (read-only, full, corrupt, absent) is ever an error: it costs a compilation.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import llvmlite
import numba
import numba.core.types
import numba.extending
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime import rtsys

from ..cache import cache_folder


def source_key() -> str:
    """Digest of every source file of the kernel package and of the compiler's versions."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    here = Path(__file__).parent
    for path in [*sorted(here.glob("*.py")), here.parent / "tree.py"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


KEY = source_key()
# Numba's own annotations do not know what its decorators return, nor which types there are
intrinsic: Any = numba.extending.intrinsic
types: Any = numba.core.types


class KernelLocator(_CacheLocator):
    """One folder per source key, so that two versions of the library do not evict each other."""

    def __init__(self, py_func: Any, folder: Path) -> None:
        self._line, self._folder = py_func.__code__.co_firstlineno, folder

    def get_cache_path(self) -> str:
        return str(self._folder / f"numbanorm-{KEY[:16]}")

    def get_source_stamp(self) -> str:
        return KEY

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> KernelLocator | None:
        folder = cache_folder()
        return None if folder is None else cls(py_func, folder)


class KernelCacheImpl(CompileResultCacheImpl):
    _locator_classes: ClassVar[list[Any]] = [KernelLocator]


class KernelCache(FunctionCache):
    _impl_class = KernelCacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As Numba's own, but for the `refresh` of all registries: it takes 0.3 s, and what was compiled needs none."""
        try:
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except Exception:  # a truncated index or data file raises whatever unpickling meets
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        for _ in range(2):
            try:
                super().save_overload(sig, data)
                return
            except Exception:  # a damaged index is begun anew; where nothing can be written, the kernel is there all the same
                with contextlib.suppress(Exception):
                    self.flush()


def kernel(parallel: bool = False) -> Callable[[Callable[..., None]], Any]:
    """What Python or another kernel calls: compiled on first use, kept on disk, runs without the GIL."""

    def decorate(function: Callable[..., None]) -> Any:
        dispatcher: Any = numba.njit(nogil=True, parallel=parallel, error_model="numpy")(function)
        if cache_folder() is not None:
            with contextlib.suppress(Exception):  # no folder to be had, or another numba: compile in every process
                dispatcher._cache = KernelCache(function)
        return dispatcher

    return decorate


def device(inline: bool = True) -> Any:
    """A part of a kernel, for kernels only; a vector that crosses a call which is not inlined goes through memory.

    Constants are passed to it as int64(0): Numba compiles a function anew for each literal.
    """
    return numba.njit(nogil=True, forceinline=inline, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
