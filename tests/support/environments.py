"""Floating-point environments other than the default one, for the calling thread, and what the norms give there.

    python tests/support/environments.py flush

prints a hash of that: the threads of the pool are started, and kernels are compiled or loaded, in that environment.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import cases
import numba
import numpy as np
from cases import ALL_METHODS, DTYPES, MODES, Case, call, call_backward
from digest import SHARED
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from numbanorm.versions import threading_layer

MACHINE = platform.machine().lower()
X86 = MACHINE in ("x86_64", "amd64")
HERE = X86 or MACHINE in ("aarch64", "arm64")
#: name -> what is put into the control register of x86 (MXCSR) or AArch64 (FPCR)
ENVIRONMENTS = {
    "flush": 0x9FC0 if X86 else 1 << 24,
    "down": 0x3F80 if X86 else 2 << 22,
    "up": 0x5F80 if X86 else 1 << 22,
    "toward zero": 0x7F80 if X86 else 3 << 22,
}
DEFAULT = 0x1F80 if X86 else 0
FLAGS = 0x3F if X86 else 0  # which tell what has happened: every operation may set them

#: powers of two that make numbers about 1 denormal
DENORMAL = {"float32": -133, "float64": -1030, "float16": -17, "bfloat16": -131}
SMALL = [
    Case("layer", (5, 20)), Case("rms", (5, 20)), Case("group", (2, 6, 5), groups=2), Case("instance", (2, 3, 5)),
    Case("batch", (5, 3)), Case("batch", (4, 3, 5)), Case("batch", (4, 3, 5), training=False), Case("batch", (5, 30)),
]  # fmt: skip


def register(b: Any, name: str, pointer: bool, result: Any, args: list[Any]) -> Any:
    fnty = ir.FunctionType(result, [ir.IntType(8).as_pointer()] if pointer else [a.type for a in args])
    args = [b.bitcast(a, ir.IntType(8).as_pointer()) for a in args] if pointer else args
    return b.call(cgutils.get_or_insert_function(b.module, fnty, name), args)


@intrinsic
def register_now(tc: Any) -> Any:
    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not X86:
            return register(b, "llvm.aarch64.get.fpcr", False, ir.IntType(64), [])
        place = cgutils.alloca_once(b, ir.IntType(32))
        register(b, "llvm.x86.sse.stmxcsr", True, ir.VoidType(), [place])
        return b.zext(b.load(place), ir.IntType(64))

    return types.int64(), codegen


@intrinsic
def set_register(tc: Any, value: Any) -> Any:
    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if X86:
            place = cgutils.alloca_once_value(b, b.trunc(a[0], ir.IntType(32)))
            register(b, "llvm.x86.sse.ldmxcsr", True, ir.VoidType(), [place])
        else:
            register(b, "llvm.aarch64.set.fpcr", False, ir.VoidType(), a)
        return ctx.get_dummy_value()

    return types.void(types.int64), codegen


@numba.njit
def register_of_thread() -> int:
    return register_now()


@numba.njit
def change(value: int) -> None:
    set_register(value)


def current() -> int:
    """The control register of this thread, but for what happened in it."""
    return int(register_of_thread()) & ~FLAGS


@contextmanager
def environment(value: int) -> Iterator[None]:
    """Whatever is called within changes nothing of it."""
    before = current()
    try:
        change(value)
        yield
        after = current()
    finally:
        change(before)
    assert after == value


def denormal(a: Any, dtype: np.dtype[Any]) -> Any:
    """An array, or None, made so small that the dtype has it as denormal numbers."""
    return None if a is None else np.ldexp(a.astype(np.float64), DENORMAL[dtype.name]).astype(a.dtype)


def arguments(case: Case, dtype: np.dtype[Any], parameters: bool) -> tuple[cases.Arguments, Any]:
    """Denormal x and dy, and with `parameters` what else there is."""
    a, dy = cases.arguments(case, dtype), denormal(cases.upstream(case, dtype), dtype)
    if parameters:
        a = replace(
            a, weight=denormal(a.weight, dtype), bias=denormal(a.bias, dtype), running_mean=denormal(a.running_mean, dtype)
        )
    return replace(a, x=denormal(a.x, dtype)), dy


def bits(case: Case, a: cases.Arguments, dy: Any, method: str | None, eps: float, **options: Any) -> list[bytes]:
    """Of y, statistics, running statistics and gradients."""
    if case.norm in ("batch", "instance") and case.training:
        c = case.parameter_shape
        a = replace(a, running_mean=np.zeros(c, a.x.dtype), running_var=np.ones(c, a.x.dtype))
    y, stats = call(case, a, method=method, eps=eps, return_stats=True, **options)
    gradients = call_backward(case, a, dy, stats, **options)
    arrays = (y, *stats, *gradients, a.running_mean, a.running_var)
    return [v.tobytes() for v in arrays if v is not None]


def main(name: str) -> str:
    """A hash of the bits of all cases, computed in the environment of that name, or in the default one."""
    inputs = [(case, *arguments(case, dtype, parameters=True)) for case in (*SHARED, *SMALL) for dtype in DTYPES]
    total = hashlib.sha256()
    with environment(ENVIRONMENTS.get(name, DEFAULT)):
        threading_layer()  # which starts its threads
        for case, a, dy in inputs:
            for method, exact in product(ALL_METHODS, MODES):
                total.update(b"".join(bits(case, a, dy, method, 1e-5, exact=exact)))
    return total.hexdigest()


if __name__ == "__main__":
    print(main(sys.argv[1]))
