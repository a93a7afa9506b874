"""The one place from which kernels are started, in one thread or in many.

Numba's threading layers differ in what they survive: omp kills a child that forked after its parent's first parallel
call, workqueue aborts when two threads launch at once. The bits do not depend on threads, so a forked child stays in
its one thread, and under workqueue launches take turns.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numba
import numpy as np
from numba import int64, prange
from numba.core import cgutils

from .columns import columns
from .kernel import intrinsic, kernel, types
from .runs import runs
from .schedule import Schedule

FAMILIES = {"runs": runs, "columns": columns}


@intrinsic
def invoke(tc: Any, address: Any, args: Any) -> Any:
    """Call the compiled kernel at `address`; linked in, it would be optimized all over again for every caller."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        signature = ctx.call_conv.get_function_type(types.none, args.types)
        function = b.inttoptr(a[0], signature.as_pointer())
        ctx.call_conv.call_function(b, function, types.none, args.types, cgutils.unpack_tuple(b, a[1]))
        return ctx.get_dummy_value()

    return types.void(types.intp, args), codegen


@kernel(parallel=True)
def spread(address, phase, todo, x, y, w, b, stats, work, kept, dims, count, eps, n, threads):
    """Pieces 0 .. n - 1 of a kernel (see `runs`, `columns`), dealt to `threads` threads."""
    for i in prange(threads):
        slot = int64(i)  # prange counts in unsigned integers
        lo, hi = n * slot // threads, n * (slot + 1) // threads
        invoke(address, (phase, todo, x, y, w, b, stats, work, kept, dims, count, eps, lo, hi, slot))


class Guard:
    """Knows whether this process may launch in parallel, and takes the turns that workqueue wants."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layer = ""
        self.serial = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """In the child: no thread of the parent's pool came along, nor whoever held the lock."""
        self.lock = threading.RLock()
        self.serial = self.serial or self.layer == "omp"

    def threads(self) -> int:
        return 1 if self.serial else int(numba.get_num_threads())

    def launch(self, *args: Any) -> None:
        if self.layer in ("omp", "tbb"):
            spread(*args)
            return
        with self.lock:  # the first launch of all, and every one under workqueue
            spread(*args)
            self.layer = numba.threading_layer()


GUARD = Guard()
NOTHING = np.empty(0)
ADDRESSES: dict[tuple[str, np.dtype[Any]], int] = {}


def address(family: str, args: tuple[Any, ...], storage: np.dtype[Any]) -> int:
    """Machine code of a family for one storage type; compiled, or taken from disk, the first time."""
    known = ADDRESSES.get((family, storage))
    if known is None:
        signature = (*(numba.typeof(a) for a in args), int64, int64, int64)
        FAMILIES[family].compile(signature)
        compiled = FAMILIES[family].overloads[signature]
        known = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        ADDRESSES[family, storage] = known
    return known


def execute(plan: Schedule, x: Any, y: Any, w: Any, b: Any, stats: Any, count: float, eps: float) -> None:
    """Run the steps of a schedule. x, y: flat, as stored; w, b: flat float64; stats: float64 (4, units)."""
    work, kept = np.empty(plan.work), np.empty(plan.kept) if plan.kept else NOTHING
    for phase, todo, n, threads in plan.steps:
        args = (phase, todo, x, y, w, b, stats, work, kept, plan.dims, count, eps)
        if threads == 1:
            FAMILIES[plan.family](*args, 0, n, 0)
        else:
            GUARD.launch(address(plan.family, args, x.dtype), *args, n, threads)
