"""The floating-point environment of a thread: how it rounds, whether denormal numbers count as 0, and what traps.

A program may change that of a thread (torch.set_flush_denormal, fesetround, a library linked with -ffast-math), and threads of
a pool have that of whoever started them. A kernel would then round in one thread as it does in no other. So whatever computes
runs in the default environment, that of IEEE 754 and C, and the caller's comes back afterwards, whatever happened.

LLVM knows of no environment, and may carry arithmetic across a change of it. So what is between two changes is nothing but the
call of a function that LLVM does not see into.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from ..compile import intrinsic, kernel, types
from .vectors import I8, I32, I64, call, integer

#: of the CPU that code is generated for
ARCHITECTURE = cpu_target.target_context.codegen().magic_tuple()[0].partition("-")[0]
X86, ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
#: content of the control register: x86's MXCSR masks every exception; AArch64's FPCR traps none; others are let be
DEFAULT = 0x1F80 if ARCHITECTURE in X86 else 0
FLAGS = 0x3F if ARCHITECTURE in X86 else 0  # of it, which say what has happened, and belong to no environment
KEEP = -1  # in place of an environment, changes none
VOID = ir.VoidType()


def current(b: ir.IRBuilder, architecture: str = ARCHITECTURE) -> Any:
    """The control register of this thread, as an int64."""
    if architecture in X86:
        place = cgutils.alloca_once(b, I32)
        call(b, "llvm.x86.sse.stmxcsr", VOID, [b.bitcast(place, I8.as_pointer())])
        return b.zext(b.load(place), I64)
    return call(b, "llvm.aarch64.get.fpcr", I64, []) if architecture in ARM else integer(0)


def change(b: ir.IRBuilder, value: Any, architecture: str = ARCHITECTURE) -> None:
    """Write the control register of this thread."""
    if architecture in X86:
        place = cgutils.alloca_once(b, I32)
        b.store(b.trunc(value, I32), place)
        call(b, "llvm.x86.sse.ldmxcsr", VOID, [b.bitcast(place, I8.as_pointer())])
    elif architecture in ARM:
        call(b, "llvm.aarch64.set.fpcr", VOID, [value])


@contextmanager
def default_environment(b: ir.IRBuilder) -> Iterator[None]:
    """Context of the call of an opaque function, the one thing to emit within: it runs in the default environment.

    Nearly every caller has it, and to look takes no time; to write other content to the register, be it a flag, takes 80 ns.
    """
    before = current(b)
    other = b.icmp_signed("!=", b.and_(before, integer(~FLAGS)), integer(DEFAULT))
    with b.if_then(other, likely=False):
        change(b, integer(DEFAULT))
    yield
    with b.if_then(other, likely=False):
        change(b, before)


@intrinsic
def call_by_default(tc: Any, function: Any, args: Any) -> Any:
    """function(*args) of a compiled function, in the default environment; the caller's comes back after an error too."""
    sig = function.get_call_type(tc, args.types, {})

    def codegen(ctx: Any, b: Any, _: Any, a: Any) -> Any:
        compiled, values = function.dispatcher.get_compile_result(sig), cgutils.unpack_tuple(b, a[1])
        ctx.add_linking_libs([compiled.library])
        callee = ctx.declare_function(b.module, compiled.fndesc)
        with default_environment(b):
            found = ctx.call_conv.call_function(b, callee, sig.return_type, sig.args, values, attrs=("noinline",))
        with cgutils.if_unlikely(b, found[0].is_error):
            ctx.call_conv.return_status_propagate(b, found[0])
        return found[1]

    return sig.return_type(function, args), codegen


@intrinsic
def exchanged(tc: Any, value: Any) -> Any:
    """The environment that was, after a change to another or, with KEEP, to none."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        before = current(b)
        with b.if_then(b.icmp_signed("!=", a[0], integer(KEEP))):
            change(b, a[0])
        return before

    return types.int64(types.int64), codegen


@kernel()
def exchange(value: Any) -> Any:
    """`exchanged`, for Python."""
    return exchanged(value)
