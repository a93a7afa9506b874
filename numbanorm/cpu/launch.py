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

from .backward import columns_backward, rows_backward, runs_backward
from .columns import columns
from .kernel import intrinsic, kernel, types
from .runs import runs
from .schedule import Schedule

KERNELS = (runs, columns, runs_backward, columns_backward, rows_backward)
FAMILIES = {k.py_func.__name__: k for k in KERNELS}


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
def spread(address, n, threads, *args):
    """Pieces 0 .. n - 1 of the kernel at `address`, which takes `args` and (lo, hi, slot), dealt to `threads` threads."""
    for i in prange(threads):
        slot = int64(i)  # prange counts in unsigned integers
        invoke(address, (*args, n * slot // threads, n * (slot + 1) // threads, slot))


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


def execute(plan: Schedule, *args: Any) -> None:
    """Run the steps of a schedule. args: what the family's kernel takes between the flags and the pieces, x first."""
    for phase, todo, n, threads in plan.steps:
        if threads == 1:
            FAMILIES[plan.family](phase, todo, *args, 0, n, 0)
        else:
            where = address(plan.family, (phase, todo, *args), args[0].dtype)
            GUARD.launch(where, n, threads, phase, todo, *args)
