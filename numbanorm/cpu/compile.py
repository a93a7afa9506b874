"""The two decorators of every compiled function, and a disk cache that cannot be stale.

Numba keys its cache on the one file a function stands in, and so serves old code when a callee in another file has
changed; and two processes that compile at once can exchange their files under its index. Here each version of a function is
one file, whose name is a digest of all that it was compiled from and for.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
import numba.core.types
import numba.extending
from numba.core.caching import NullCache
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from ..runtime.cache import cache_folder, digest_of, load, store

SEEN = ("dtypes", "plan", "sources", "standardized", "tree")  # of the package `spec`, by kernels


def source_key() -> str | None:
    """Digest of every source file that kernels come from, and of the compiler's versions; None if there are no such files."""
    here = Path(__file__).parent
    spec = here.parent / "spec"
    try:
        return digest_of(f"{numba.__version__} {llvmlite.__version__}", *(spec / f"{name}.py" for name in SEEN), here)
    except OSError:  # in a zip file, or a program that was frozen
        return None


KEY = source_key()
COMPILES = not numba.config.DISABLE_JIT  # else Numba's decorators give back what they were given
# Numba's own annotations do not know what its decorators return, nor which types there are
intrinsic: Any = numba.extending.intrinsic
types: Any = numba.core.types
T = TypeVar("T")
OPTIONS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")  # Numba's, that change the code


class KernelCache(NullCache):
    """The versions of one function; a folder for each source key, so that two versions of the library can share a disk."""

    def __init__(self, function: Callable[..., None], folder: Path, key: str) -> None:
        self._function, self._folder, self._key = function, folder / f"numbanorm-{key[:16]}", key

    @property
    def cache_path(self) -> str:
        return str(self._folder)

    def path(self, sig: Any, codegen: Any) -> Path:
        """The file of a version, for this CPU and Python and these options of Numba."""
        options = [getattr(numba.config, name, None) for name in OPTIONS]
        python = sys.implementation.cache_tag, getattr(sys, "abiflags", "")
        name = self._function.__module__, self._function.__qualname__
        version = repr((self._key, name, sig, codegen.magic_tuple(), python, options))
        return self._folder / f"{self._function.__name__}-{hashlib.sha256(version.encode()).hexdigest()[:32]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Without the `refresh` of all registries that Numba does first: it takes 0.3 s, and what was compiled needs none."""
        try:
            rtsys.initialize(target_context)
            content = load(self.path(sig, target_context.codegen()))
            return None if content is None else CompileResult._rebuild(target_context, *pickle.loads(content))
        except Exception:  # a development version of Numba, say, that changed what it keeps
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a version, unless the source has changed since it was imported, for then who knows what was compiled."""
        with contextlib.suppress(Exception):
            if source_key() == self._key and not data.library.has_dynamic_globals:
                store(self.path(sig, data.codegen), dumps(data._reduce()))


@contextlib.contextmanager
def parts_left_to(kernel: Any) -> Iterator[None]:
    """While a kernel is compiled, its parts are optimized where they end up, in the kernel.

    Numba optimizes each function by itself, with all that it calls, and again in whatever calls it. Without that a first call
    takes a third less time, and the machine code is as good. Another Numba may have no such method: then nothing is gained.
    """
    library: Any = CPUCodeLibrary
    everything = getattr(library, "_optimize_final_module", None)
    if everything is None:
        yield
        return

    def optimize(self: Any) -> None:
        if self.name == kernel.__name__:
            everything(self)

    with global_compiler_lock:  # whatever else is compiled waits
        library._optimize_final_module = optimize
        try:
            yield
        finally:
            library._optimize_final_module = everything


def kernel(parallel: bool = False) -> Callable[[Callable[..., None]], Any]:
    """Decorator of what Python or another kernel calls: compiled on first use, kept on disk, runs without the GIL."""

    def decorate(function: Callable[..., None]) -> Any:
        dispatcher: Any = numba.njit(nogil=True, parallel=parallel, error_model="numpy")(function)
        folder = cache_folder()
        if folder is not None and KEY is not None:
            dispatcher._cache = KernelCache(function, folder, KEY)
        return dispatcher

    return decorate


def jitable(function: T) -> T:
    """A function on integers, for Python and for compiled code."""
    return numba.extending.register_jitable(error_model="numpy")(function)  # type: ignore[no-any-return]


def device(inline: bool = True) -> Any:
    """A part of a kernel, for kernels only; a vector that crosses a call which is not inlined goes through memory.

    Constants are passed to it as int64(0): Numba compiles a function anew for each literal.
    """
    return numba.njit(nogil=True, forceinline=inline, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
