"""The kernels of benchmarks/gpu_facts.py; they can be compiled on a machine that has no GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

CHAINS = 8  # independent ones in each thread of a kernel that measures a rate
TURNS = 4096
THREADS = 1024


@cache
def code() -> Any:
    """Intrinsics for what is measured: made once, and only where there is Numba's CUDA."""
    from llvmlite import ir
    from numba.core import types
    from numba.cuda.extending import intrinsic

    f32, f64, i32, i64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)

    def assembly(text: str, constraints: str, result: Any, operand: Any) -> Any:
        """An intrinsic of one operand (or, None, of none) that the compiler neither moves nor drops."""
        llvm = {types.float32: f32, types.float64: f64, types.uint32: i32, types.int64: i64}

        def typed(tc: Any, *x: Any) -> Any:
            def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
                kind = ir.FunctionType(llvm[result], [llvm[t] for t in sig.args])
                return b.call(ir.InlineAsm(kind, text, constraints, side_effect=True), list(a))

            return result(*x), codegen

        if operand is None:
            return intrinsic(lambda tc: typed(tc))
        return intrinsic(lambda tc, x: typed(tc, operand))

    @intrinsic
    def clusters_of_four(tc: Any) -> Any:
        """Tell the compiler that blocks come in clusters of 4."""

        def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
            for axis, n in (("x", 4), ("y", 1), ("z", 1)):
                node = b.module.add_metadata([b.function, ir.MetaDataString(b.module, f"cluster_dim_{axis}"), i32(n)])
                b.module.add_named_metadata("nvvm.annotations", node)
            return ctx.get_dummy_value()

        return types.void(), codegen

    # to convert in one direction only, the other is a move of 32 of the 64 bits
    up = "{ .reg .f64 d; .reg .b32 low; cvt.f64.f32 d, $1; mov.b64 {low, $0}, d; }"
    down = "{ .reg .f64 d; mov.b64 d, {$1, $1}; cvt.rn.f32.f64 $0, d; }"
    steps = {
        "convert_up": (assembly(up, "=f,f", types.float32, types.float32), 1),
        "convert_down": (assembly(down, "=f,f", types.float32, types.float32), 1),
        "convert_both": (
            assembly("{ .reg .f64 d; cvt.f64.f32 d, $1; cvt.rn.f32.f64 $0, d; }", "=f,f", types.float32, types.float32),
            2,
        ),
        "fma_f32": (assembly("fma.rn.f32 $0, $1, $1, $1;", "=f,f", types.float32, types.float32), 1),
        "add_f64": (assembly("add.rn.f64 $0, $1, $1;", "=d,d", types.float64, types.float64), 1),
        "fma_f64": (assembly("fma.rn.f64 $0, $1, $1, $1;", "=d,d", types.float64, types.float64), 1),
        "shuffle_32": (assembly("shfl.sync.bfly.b32 $0, $1, 1, 31, -1;", "=f,f", types.float32, types.float32), 1),
    }
    clock = assembly("mov.u64 $0, %clock64;", "=l", types.int64, None)
    blocks = assembly("mov.u32 $0, %cluster_nctarank;", "=r", types.uint32, None)
    return {"steps": steps, "clock": clock, "cluster_blocks": blocks, "clusters_of_four": clusters_of_four}


def rate_kernel(name: str) -> Any:
    """(out: cycles of each block, sink) -> CHAINS * TURNS steps of each thread."""
    import numba
    from numba import cuda

    step, clock = code()["steps"][name][0], code()["clock"]
    kind, chains, turns = (numba.float64 if name.endswith("f64") else numba.float32), CHAINS, TURNS

    def kernel(out, sink, never):
        v = cuda.local.array(chains, kind)
        for j in range(chains):
            v[j] = kind(1) / kind(cuda.threadIdx.x + j + 1)
        cuda.syncthreads()
        start = clock()
        for _ in range(turns):
            for j in range(chains):
                v[j] = step(v[j])
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            out[cuda.blockIdx.x] = clock() - start
        total = kind(0)
        for j in range(chains):
            total += v[j]
        if cuda.threadIdx.x == never:
            sink[0] = total

    return kernel


def cluster_kernel(inside: bool) -> Any:
    """(out,) -> how many blocks are in the cluster of each block."""
    from numba import cuda

    ask, four = code()["cluster_blocks"], code()["clusters_of_four"]
    if inside:

        def kernel(out):
            four()
            if cuda.threadIdx.x == 0:
                out[cuda.blockIdx.x] = ask()
    else:

        def kernel(out):
            if cuda.threadIdx.x == 0:
                out[cuda.blockIdx.x] = ask()

    return kernel


def empty_kernel(pointers: int, integers: int) -> Any:
    """Takes arguments, and does nothing."""
    scope: dict[str, Any] = {}
    names = ", ".join(f"a{k}" for k in range(pointers + integers))
    exec(f"def empty({names}):\n    pass", scope)
    return scope["empty"]


def shared_kernel() -> Any:
    """(out, n) -> n, by way of the last word of dynamic shared memory."""
    import numba
    from numba import cuda

    word = numba.int64

    def kernel(out, n):
        room = cuda.shared.array(0, word)
        room[n - 1] = n
        out[0] = room[n - 1]

    return kernel


@cache
def versioned(build: Callable[..., Any]) -> Callable[..., Any]:
    """A builder whose name tells this file's version: the compiler's cache knows the package's sources only."""

    def made(*constants: Any) -> Any:
        return build(*constants)

    made.__name__ = f"{build.__name__}_{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
    return made


def kernel(build: Callable[..., Any], *constants: Any, threads: int = THREADS) -> Any:
    """A kernel of this file, for `numbanorm.cuda.compiler`."""
    from numbanorm.cuda import compiler

    return compiler.Kernel(versioned(build), constants, threads)


def rate(name: str) -> tuple[Any, tuple[str, ...]]:
    return kernel(rate_kernel, name), ("int64", "float64" if name.endswith("f64") else "float32", "int")


def cluster(inside: bool) -> tuple[Any, tuple[str, ...]]:
    return kernel(cluster_kernel, inside, threads=32), ("int64",)


def shared() -> tuple[Any, tuple[str, ...]]:
    return kernel(shared_kernel, threads=32), ("int64", "int")


def empty(pointers: int, integers: int) -> tuple[Any, tuple[str, ...]]:
    return kernel(empty_kernel, pointers, integers, threads=128), ("float32",) * pointers + ("int",) * integers


def needed() -> list[tuple[Any, tuple[str, ...]]]:
    """All kernels that gpu_facts.py launches, and the types of their arguments."""
    return [*map(rate, code()["steps"]), *map(cluster, (False, True)), shared(), empty(0, 0), empty(6, 6)]
