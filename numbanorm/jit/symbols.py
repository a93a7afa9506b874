"""Symbols by which machine code of a user finds ours, in his process and, from his cache on disk, in the next one.

Nothing of a kernel is linked into his function, or it would be there still after an upgrade. A symbol is defined when a
function that needs it is compiled, and when one is read from a cache: Numba then calls what stands in `_reload_init`, which is
private (its own parallel loops use it). A Numba without it has the address written into the function, and says that it does not
cache it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from llvmlite import ir
from llvmlite.binding import add_symbol
from numba.core import cgutils
from numba.np.ufunc import wrappers

from ..cpu.compile import intrinsic, types
from ..cpu.entry.alone import NORMALIZE, Kernels, normalize_alone, refuse
from ..cpu.entry.alone_backward import GradientKernels, differentiate_alone
from ..cpu.entry.alone_standardize import slant_alone, standardize_alone, sums_alone
from ..cpu.entry.calls import BACKWARD, FORWARD, run_backward, run_forward
from ..cpu.entry.slants import SLANTS, run_slants
from ..cpu.launch import family_address, machine_code
from ..cpu.schedule.machine import tell_sizes
from ..cpu.threads import find_tbb
from ..runtime.cache import digest_of

ADDRESS = ir.IntType(64)


@cache
def version() -> str | None:
    """Digest of all that a user's function was compiled against; None where there are no source files."""
    package = Path(__file__).parent.parent
    try:
        return digest_of("", *(package / name for name in ("cpu", "jit", "spec")))[:16]
    except OSError:
        return None


class Entry(NamedTuple):
    """A compiled function that callers jump to."""

    name: str

    def words(self) -> list[int]:
        """Its address, and what it needs itself."""
        tell_sizes()
        return [machine_code(*ENTRIES[self.name])]


ENTRIES: dict[str, tuple[Any, ...]] = {
    "normalize": (normalize_alone, *NORMALIZE),
    "differentiate": (differentiate_alone, *NORMALIZE),
    "standardize": (standardize_alone, *NORMALIZE),
    "sums": (sums_alone, *NORMALIZE),
    "slant": (slant_alone, *NORMALIZE),
    "slants": (run_slants, *SLANTS),
}


class Forward(NamedTuple):
    """Kernels of forward calls."""

    families: tuple[str, ...]
    storage: str
    exact: bool
    at_once: bool
    wide: bool  # whether parameters may be what float32 has not

    def words(self) -> list[int]:
        """`Kernels`."""
        fine = [self.family(name, self.exact) for name in ("runs", "columns")]
        exact = [self.family(name, True) if self.wide else 0 for name in ("runs", "columns")]
        return list(Kernels._make([machine_code(run_forward, *FORWARD), *fine, *exact, int(self.exact)]))

    def family(self, name: str, exact: bool) -> int:
        """Machine code of a family, if it may be called."""
        return family_address(name, self.storage, not exact, self.at_once, False) if name in self.families else 0


class Backward(NamedTuple):
    """Kernels of backward calls."""

    families: tuple[str, ...]
    storage: str
    exact: bool
    given: bool  # whether dx may be scaled dy

    def words(self) -> list[int]:
        """`GradientKernels`."""
        fine = [self.family(name, self.exact) for name in ("columns", "rows", "runs")]
        exact = [0 if self.exact else self.family(name, True) for name in ("columns", "rows", "runs")]
        scaling = Forward(("runs", "columns"), self.storage, self.exact, True, False).words()[:3] if self.given else [0, 0, 0]
        run = machine_code(run_backward, *BACKWARD)
        return list(GradientKernels._make([run, *fine, *exact, int(self.exact), *scaling]))

    def family(self, name: str, exact: bool) -> int:
        """Machine code of a family, if it may be called."""
        if name not in self.families:
            return 0
        return family_address(f"{name}_backward", self.storage, not exact, False, False)


Needed = Entry | Forward | Backward
DEFINED: dict[str, bool] = {}  # symbols of this process, and whether they are functions


@cache
def define(needed: Needed) -> tuple[int, Any]:
    """Have something compiled, or loaded, and its symbol defined: its address, and the memory that is there."""
    find_tbb()  # for a parallel loop around it, which is not compiled yet
    words = needed.words()
    memory = (ctypes.c_int64 * len(words))(*words)
    address = words[0] if isinstance(needed, Entry) else ctypes.addressof(memory)
    add_symbol(symbol_of(needed), address)
    DEFINED[symbol_of(needed)] = isinstance(needed, Entry)
    return address, memory


def symbol_of(needed: Needed) -> str:
    """The name that a caller's machine code has for it; what was compiled by another version of the package has others."""
    return f"numbanorm.{version()}.{type(needed).__name__}.{'.'.join(map(str, needed))}"


class Reload:
    """What a function that was compiled needs, kept in the user's cache with it."""

    def __init__(self, needed: Needed) -> None:
        self.needed = needed

    def __call__(self) -> None:
        define(self.needed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reload) and self.needed == other.needed

    def __hash__(self) -> int:
        return hash(self.needed)

    def __reduce__(self) -> tuple[Any, ...]:
        return reloaded, (version(), self.needed, tuple(DEFINED.items()))


def reloaded(compiled_by: str, needed: Needed, defined: tuple[tuple[str, bool], ...]) -> Reload:
    """The same in the next process. This name is in the caches of users: it must not move.

    What another version was compiled for is not to be used: to Numba an OSError means that the file has gone, and it compiles
    the function anew. Only the wrapper of a gufunc would be read even so, from a file of its own without hooks: in this process
    no such file is read any more. Should Numba do otherwise, symbols that are `defined` say STALE.
    """
    if compiled_by != version():
        setattr(getattr(wrappers, "GufWrapperCache", None) or Reload, "load_overload", lambda *_: None)  # noqa: B010
        for name, is_function in defined:
            add_symbol(name, machine_code(refuse, *NORMALIZE) if is_function else id(DEFINED))
        raise FileNotFoundError("this function was compiled with another version of numbanorm: got its machine code from a "
                                "cache of Numba's; empty the folder __pycache__ or NUMBA_CACHE_DIR")  # fmt: skip
    find_tbb()  # before what else the caller's hooks load
    return Reload(needed)


def hooks_of(library: Any) -> set[Any] | None:
    """What Numba calls when it reads a function from its cache; None if it does not."""
    return getattr(library, "_reload_init", None)


def address_of_symbol(needed: Needed) -> Any:
    """An intrinsic that has the address of what is needed, as an integer."""
    address, _ = define(needed)

    @intrinsic
    def found(tc: Any) -> Any:
        def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
            hooks = hooks_of(ctx.active_code_library)
            if hooks is None or version() is None:
                return b.ptrtoint(ctx.add_dynamic_addr(b, address, info=symbol_of(needed)), ADDRESS)
            hooks.add(Reload(needed))
            name = symbol_of(needed)
            if isinstance(needed, Entry):  # to a function LLVM jumps otherwise than it loads from an address
                nothing = ir.FunctionType(ir.VoidType(), [])
                return b.ptrtoint(cgutils.get_or_insert_function(b.module, nothing, name), ADDRESS)
            place = b.module.globals.get(name) or cgutils.add_global_variable(b.module, ir.IntType(8), name)
            place.linkage = "external"
            return b.ptrtoint(place, ADDRESS)

        return types.int64(), codegen

    return found
