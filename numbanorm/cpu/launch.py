"""The one place from which kernels are started, in one thread or in many.

Numba's threading layers differ in what they survive: omp kills a child that forked after its parent's first parallel
call, workqueue aborts when two threads launch at once. The bits do not depend on threads, so a forked child stays in
its one thread, and under workqueue launches take turns.
"""

from __future__ import annotations

import contextlib
import os
import threading
from functools import cache, partial
from typing import Any

import numba
from numba.np.ufunc import parallel

from ..plan import Plan
from .backward import columns_backward, rows_backward, runs_backward
from .columns import columns
from .enter import (
    BACKWARD,
    FORWARD,
    Program,
    program,
    run_backward,
    run_forward,
    spread,
)
from .kernel import types
from .runs import runs
from .schedule import Schedule
from .simd import STORAGE

KERNELS = (runs, columns, runs_backward, columns_backward, rows_backward)
ANY, NUMBERS, INTEGERS, NUMBER = (*[types.CPointer(t) for t in (types.uint8, types.float64, types.int64)], types.float64)
# what kernels take between the flags and the pieces, behind the arrays of x's type
ARGUMENTS = (NUMBERS, NUMBERS, types.Array(NUMBER, 2, "C"), NUMBERS, NUMBERS, INTEGERS, NUMBER, NUMBER)
GRADIENT_ARGUMENTS = (*[NUMBERS] * 5, INTEGERS, NUMBER)
FAMILIES = {k.py_func.__name__: k for k in KERNELS}


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
        with contextlib.suppress(ValueError):  # no layer is loaded; to ask for the number of threads is enough to load one
            self.serial = self.serial or numba.threading_layer() == "omp"

    def threads(self) -> int:
        if self.serial:
            return 1
        if self.layer:  # is loaded, and known: Numba's own function, which makes sure of that, takes 1.4 us in place of 0.3
            return int(getattr(parallel, "_get_num_threads", numba.get_num_threads)())
        return int(numba.get_num_threads())

    def launch(self, run: Any, *args: Any) -> Any:
        """Call what will deal out work to threads."""
        if self.layer in ("omp", "tbb"):
            return run(*args)
        with self.lock:  # the first launch of all, and every one under workqueue
            result = run(*args)
            self.layer = numba.threading_layer()
            return result


GUARD = Guard()


def compiled(kernel: Any, *signature: Any) -> Any:
    """A kernel for one signature; compiled, or taken from disk, the first time."""
    kernel.compile(signature)
    return kernel.overloads[signature]


def address(kernel: Any, *signature: Any) -> int:
    """Machine code of a kernel."""
    result = compiled(kernel, *signature)
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


@cache
def family_address(family: str, storage: str) -> int:
    """Machine code of a family for one storage type."""
    x = types.CPointer(getattr(types, storage))
    arguments = (x, x, x, *GRADIENT_ARGUMENTS) if family.endswith("backward") else (x, x, *ARGUMENTS)
    return address(FAMILIES[family], types.int64, types.int64, *arguments, *[types.int64] * 3)


@cache
def dealer(backward: bool) -> int:
    """Machine code of what deals a kernel's pieces to threads."""
    arguments = (ANY, ANY, ANY, *GRADIENT_ARGUMENTS) if backward else (ANY, ANY, *ARGUMENTS)
    return address(spread, *[types.int64] * 5, types.BaseTuple.from_types(arguments))


@cache
def entry(kernel: Any, signature: tuple[Any, ...]) -> Any:
    """What Python calls: the function that Numba's dispatcher would choose."""
    return compiled(kernel, *signature).entry_point


def prepare(backward: bool, s: Schedule, dtype: Any, plan: Plan, **more: Any) -> tuple[Any, Program]:
    """What to call to run a schedule, and its program."""
    shared = any(step[3] > 1 for step in s.steps)
    addresses = family_address(s.family, STORAGE[dtype.name]), dealer(backward) if shared else 0
    run = entry(run_backward, BACKWARD) if backward else entry(run_forward, FORWARD)
    return partial(GUARD.launch, run) if shared else run, program(s, addresses, plan, dtype, **more)
