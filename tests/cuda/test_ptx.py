"""The PTX interpreter on PTX written by hand, and on kernels that Numba compiles here: against NumPy, to the bit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ptx import Memory, Program
from ptx_ops import fma
from ptx_programs import HEAD, HOSTILE, nearest, same, written

# --- control and memory, by hand -------------------------------------------------------------------------------------


def test_scopes_votes_and_shared_memory() -> None:
    x = np.arange(64, dtype=np.uint64) * 3
    body = "{ .reg .b32 lo, %temp; mov.b64 {lo, %temp}, %rd4; cvt.u64.u32 %rd5, lo; }"
    same(written(body, x), x)
    vote = "setp.eq.u32 %p1, %r1, 35; vote.sync.ballot.b32 %r2, %p1, -1; cvt.u64.u32 %rd5, %r2;"
    same(written(vote, x), np.repeat(np.array([0, 8], np.uint64), 32))
    generic = """and.b32 %r2, %r1, 7; mul.wide.u32 %rd6, %r2, 8; mov.u64 %rd7, table; cvta.shared.u64 %rd8, %rd7;
        add.s64 %rd8, %rd8, %rd6; add.s64 %rd7, %rd7, %rd6; st.shared.u64 [%rd7], %rd4; bar.sync 0; ld.u64 %rd5, [%rd8];"""
    same(written(generic, x, threads=8, grid=1)[:8], x[:8])


def test_copies_into_shared_memory() -> None:
    x = np.arange(8, dtype=np.uint64) * 7
    body = """mov.u64 %rd6, table; add.s64 %rd6, %rd6, %rd3; cp.async.ca.shared.global [%rd6], [%rd1], 8; cp.async.commit_group;
        cp.async.wait_group 0; bar.sync 0; xor.b32 %r2, %r1, 1; mul.wide.u32 %rd7, %r2, 8; mov.u64 %rd8, table;
        add.s64 %rd8, %rd8, %rd7; ld.shared.u64 %rd5, [%rd8];"""
    same(written(body, x), x.reshape(-1, 2)[:, ::-1].ravel())


@pytest.mark.parametrize("where", ["%rd1+8", "%rd1+-512", "%rd3"])
def test_out_of_bounds(where: str) -> None:
    with pytest.raises(
        IndexError, match=r"k: `ld.global.u64 %rd5, .*` is out of bounds in thread (0|63) of block 0: address 0x"
    ):
        written(f"ld.global.u64 %rd5, [{where}];", np.zeros(64, np.uint64))


def test_shared_memory_of_another_block_is_out_of_bounds() -> None:
    with pytest.raises(IndexError, match=r"`st.shared.u64 .*` is out of bounds in thread 8 of block 0"):
        written("mov.u64 %rd6, table; add.s64 %rd6, %rd6, %rd3; st.shared.u64 [%rd6], %rd3;", np.zeros(16, np.uint64))


def test_misaligned() -> None:
    with pytest.raises(IndexError, match=r"`ld.global.v2.u64 .*` is misaligned in thread 1"):
        written("ld.global.v2.u64 {%rd5, %rd6}, [%rd1];", np.zeros(64, np.uint64), threads=32)


@pytest.mark.parametrize("met", ["bar.sync 0;", "shfl.sync.bfly.b32 %r2|%p2, %r1, 1, 31, -1;"])
@pytest.mark.parametrize("other", ["ret;", "bar.warp.sync -1; bra $L2;", "bar.sync 0; bra $L2;"])
def test_divergent_threads_are_never_met(met: str, other: str) -> None:
    body = f"setp.lt.u32 %p1, %r1, 7; @%p1 bra $L1; {met} bra $L2; $L1: {other} $L2:"
    with pytest.raises(RuntimeError, match="with divergent threads: k: `"):
        written(body, np.zeros(64, np.uint64))


def test_shuffles_need_lanes_that_barriers_do_not() -> None:
    x = np.zeros(32, np.uint64)
    early = "setp.lt.u32 %p1, %r1, 7; mov.u64 %rd5, 1; @%p1 ret; "
    same(written(early + "bar.sync 0;", x)[7:], np.ones(25, np.uint64))
    with pytest.raises(RuntimeError, match=r"exchange with divergent threads: .* thread 7 of block 0"):
        written(early + "shfl.sync.idx.b32 %r2, %r1, 1, 31, -1;", x)
    with pytest.raises(NotImplementedError, match="member mask"):
        written("shfl.sync.idx.b32 %r2, %r1, 1, 31, 1;", x)
    with pytest.raises(ValueError, match="needs blocks of whole warps: got 8 threads"):
        written("shfl.sync.idx.b32 %r2, %r1, 1, 31, -1;", x, threads=8)


def test_threads_wait_for_those_whose_code_lies_behind() -> None:
    """The join is placed before a branch that leads to it, as compilers do."""
    x = np.arange(64, dtype=np.uint64)
    body = """setp.lt.u32 %p1, %r1, 7; mov.u64 %rd5, 1; @%p1 bra $L1;
        $L0: bar.sync 0; shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; bra $L2; $L1: mov.u64 %rd5, 2; bra $L0; $L2:"""
    same(written(body, x), np.where(x < 7, 2, 1).astype(np.uint64))


UNKNOWN = """add.ftz.f32 %f1, %f1, %f1; rcp.approx.ftz.f64 %fd1, %fd1; add.rz.f64 %fd1, %fd1, %fd1; call.uni f, ();
ex2.approx.f32 %f1, %f1; cvt.rn.sat.f16.f64 %h1, %fd1; brx.idx %r1, t; mov.u32 %r1, %clock; add.s32 %r1, %r1, %q;
atom.global.add.u32 %r1, [%rd1], 1; div.full.f32 %f1, %f1, %f1; add.s64 %rd1, %r1, 1; fma.rn.f16 %h1, %h1, %h1, %h1;
bra $nowhere; ld.global.v3.f32 {%f1, %f2, %f3}, [%rd1]; bar.sync 1, 64; add.s32 %r1, %r1;"""


@pytest.mark.parametrize("unknown", [f"{u.strip()};" for u in UNKNOWN.split(";")[:-1]])
def test_unknown_instructions_are_named(unknown: str) -> None:
    with pytest.raises(NotImplementedError, match=re.escape(unknown)):
        Program(HEAD + unknown + "ret; }")


def test_memory_is_checked() -> None:
    memory = Memory(1 << 16)
    first = memory.put(np.arange(3, dtype=np.float32))
    assert (memory.view(memory.allocate(8), 2, np.float32).view(np.uint32) == 0xFFFFFFFF).all()
    with pytest.raises(IndexError, match="not inside of one allocation"):
        memory.view(first, 4, np.float32)
    with pytest.raises(MemoryError, match="Memory\\(capacity"):
        memory.allocate(1 << 16)
    with pytest.raises(TypeError, match="takes 2 arguments"):
        Program(HEAD + "ret; }").launch(memory, (1, 1, 1), 32, [first])


# --- kernels by Numba ------------------------------------------------------------------------------------------------


class Compiler:
    """Kernels through Numba and nvJitLink, as the package makes them; and what these kernels are written with."""

    def __init__(self, cuda: Any, link: Any) -> None:
        from llvmlite import ir
        from numba import types
        from numba.cuda import cgutils
        from numba.cuda.extending import intrinsic

        self.cuda, self.link, self.types = cuda, link, types

        @intrinsic
        def load(typing: Any, p: Any, i: Any) -> Any:
            return p.dtype(p, types.int64), lambda context, b, signature, a: b.load(b.gep(a[0], [a[1]]))

        @intrinsic
        def store(typing: Any, p: Any, i: Any, v: Any) -> Any:
            def generate(context: Any, b: Any, signature: Any, a: Any) -> Any:
                b.store(a[2], b.gep(a[0], [a[1]]))
                return context.get_dummy_value()

            return types.void(p, types.int64, p.dtype), generate

        @intrinsic
        def load4(typing: Any, p: Any, i: Any) -> Any:
            result = types.UniTuple(types.float32, 4)

            def generate(context: Any, b: Any, signature: Any, a: Any) -> Any:
                vector = ir.VectorType(ir.FloatType(), 4).as_pointer()
                v = b.load(b.bitcast(b.gep(a[0], [a[1]]), vector), align=16)
                return cgutils.pack_array(b, [b.extract_element(v, ir.Constant(ir.IntType(32), k)) for k in range(4)])

            return result(p, types.int64), generate

        def cast(source: Any, to: Any, generate: Callable[[Any, Any], Any]) -> Any:
            @intrinsic
            def function(typing: Any, v: Any) -> Any:
                return to(source), lambda context, b, signature, a: generate(b, a[0])

            return function

        def bfloat(b: Any, v: Any) -> Any:
            fn = ir.FunctionType(ir.IntType(16), [ir.DoubleType()])
            return b.call(ir.InlineAsm(fn, "{ .reg .b16 t; cvt.rn.bf16.f64 t, $1; mov.b16 $0, t; }", "=h,d"), [v])

        half, bits = ir.HalfType(), ir.IntType(16)
        self.load, self.store, self.load4 = load, store, load4
        self.to_half = cast(types.float64, types.uint16, lambda b, v: b.bitcast(b.fptrunc(v, half), bits))
        self.from_half = cast(types.uint16, types.float64, lambda b, v: b.fpext(b.bitcast(v, half), ir.DoubleType()))
        self.to_bfloat = cast(types.float64, types.uint16, bfloat)

    def pointers(self, *names: str) -> list[Any]:
        return [self.types.CPointer(getattr(self.types, name)) for name in names]

    def program(self, kernel: Callable[..., None], *signature: Any) -> Program:
        void = self.types.void(*signature)
        code, _ = self.cuda.compile(kernel, void, cc=(9, 0), output="ltoir", device=False, abi="numba")
        options = ["-arch=sm_90", "-lto", "-ptx"]
        handle = self.link.create(len(options), options)
        try:
            self.link.add_data(handle, self.link.InputType.LTOIR, code, len(code), "kernel")
            self.link.complete(handle)
            text = bytearray(self.link.get_linked_ptx_size(handle))
            self.link.get_linked_ptx(handle, text)
        finally:
            self.link.destroy(handle)
        return Program(text.decode().rstrip("\0"))


@pytest.fixture(scope="module")
def gpu() -> Compiler:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    link = pytest.importorskip("cuda.bindings.nvjitlink", reason="nvJitLink (cuda-bindings) is not installed")
    return Compiler(pytest.importorskip("numba.cuda", reason="compiles a kernel: needs Numba's CUDA target"), link)


def run(program: Program, grid: Any, block: Any, arrays: list[np.ndarray], *rest: Any, shared: int = 0) -> list[np.ndarray]:
    """The arrays after a launch that got them first."""
    memory = Memory(1 << 26)
    addresses = [memory.put(a) for a in arrays]
    executed = program.launch(memory, grid, block, [*addresses, *rest], shared)
    assert executed > 0
    return [memory.view(p, a.shape, a.dtype).copy() for p, a in zip(addresses, arrays, strict=True)]


def test_loops_divergence_and_64_bit_division(gpu: Compiler, rng: np.random.Generator) -> None:
    cuda, load, store = gpu.cuda, gpu.load, gpu.store

    def kernel(x, y, z, n, d):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= n:
            return
        a, steps = load(x, i), 0
        while a != 1 and steps < 60:
            a = a // 2 if a % 2 == 0 else 3 * a + 1
            steps += 1
        store(y, i, steps)
        b = load(x, n - 1 - i)
        store(z, i, b // d + b % d)

    n = 40_001
    x = rng.integers(1, 10_000, n)
    types = gpu.types
    program = gpu.program(kernel, *gpu.pointers("int64", "int64", "int64"), types.int64, types.int64)
    expected, a = np.zeros(n, np.int64), x.copy()
    for _ in range(60):
        going = a != 1
        expected += going
        a = np.where(going, np.where(a % 2 == 0, a // 2, 3 * a + 1), a)
    for d in (7, -7, 2**33):
        _, y, z = run(program, (-(-n // 96), 1, 1), 96, [x, np.zeros(n, np.int64), np.zeros(n, np.int64)], n, d)
        same(y, expected)
        same(z, (x // d + x % d)[::-1])


def test_32_bit_integers(gpu: Compiler, rng: np.random.Generator) -> None:
    cuda, load, store = gpu.cuda, gpu.load, gpu.store

    def kernel(x, y, n):
        i = cuda.grid(1)
        a, b = load(x, i), load(x, i + n)
        store(y, i, np.int32(a // b))
        store(y, i + n, np.int32(a % b))
        store(y, i + 2 * n, np.int32(max(a, b) ^ abs(a) + cuda.popc(b) - cuda.clz(a)))

    n = 640
    x = rng.integers(-(2**31), 2**31, 2 * n).astype(np.int32)
    x[n:] >>= rng.integers(0, 30, n).astype(np.int32)
    x[n:][x[n:] == 0] = 5
    program = gpu.program(kernel, *gpu.pointers("int32", "int32"), gpu.types.int64)
    _, y = run(program, (5, 1, 1), 128, [x, np.zeros(3 * n, np.int32)], n)
    a, b = x[:n].astype(np.int64), x[n:].astype(np.int64)
    zeros = np.array([32 - int(v).bit_length() for v in x[:n].view(np.uint32)])
    mixed = np.maximum(a, b) ^ np.abs(a) + np.bitwise_count(x[n:].view(np.uint32)) - zeros
    same(y, np.concatenate([a // b, a % b, mixed]).astype(np.int32))


def test_compensated_sums_with_shuffles_and_shared_memory(gpu: Compiler, rng: np.random.Generator) -> None:
    """Tuples, loops, vector loads, a tree over lanes, then over warps: the bits of the same tree in NumPy."""
    cuda, store, load4 = gpu.cuda, gpu.store, gpu.load4

    def kernel(x, y, rounds):
        t = cuda.threadIdx.x
        parts = cuda.shared.array(0, np.float64)
        total = (0.0, 0.0)
        for r in range(rounds):
            for v in load4(x, ((cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x) * rounds + r) * 512 + 4 * t):
                high = total[0] + v
                z = high - total[0]
                total = high, total[1] + ((total[0] - (high - z)) + (v - z))
        s = total[0] + total[1]
        for m in (16, 8, 4, 2, 1):
            s += cuda.shfl_xor_sync(0xFFFFFFFF, s, m)
        if t % 32 == 0:
            parts[t // 32] = s
        cuda.syncthreads()
        if t == 0:
            store(y, cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x, (parts[0] + parts[1]) + (parts[2] + parts[3]))

    program = gpu.program(kernel, *gpu.pointers("float32", "float64"), gpu.types.int64)
    x = (rng.standard_normal((150 * 2, 3, 128, 4)) * np.exp2(rng.integers(-20, 20, (300, 3, 128, 4)))).astype(np.float32)
    _, y = run(program, (150, 2, 1), 128, [x, np.zeros(300)], 3, shared=32)
    high = low = np.zeros((300, 128))
    for v in x.astype(np.float64).transpose(1, 3, 0, 2).reshape(12, 300, 128):
        s = high + v
        z = s - high
        high, low = s, low + ((high - (s - z)) + (v - z))
    lanes = (high + low).reshape(300, 4, 32)
    for m in (16, 8, 4, 2, 1):
        lanes = lanes + lanes[..., np.arange(32) ^ m]
    w = lanes[..., 0].T
    same(y, (w[0] + w[1]) + (w[2] + w[3]))


def test_shuffles_by_index_and_distance(gpu: Compiler, rng: np.random.Generator) -> None:
    cuda, load, store = gpu.cuda, gpu.load, gpu.store

    def kernel(x, y, n):
        i = cuda.grid(1)
        v = load(x, i)
        store(y, i, cuda.shfl_sync(0xFFFFFFFF, v, 5))
        store(y, i + n, cuda.shfl_up_sync(0xFFFFFFFF, v, 3))
        store(y, i + 2 * n, cuda.shfl_down_sync(0xFFFFFFFF, v, 7))

    x = rng.standard_normal(192).astype(np.float32)
    program = gpu.program(kernel, *gpu.pointers("float32", "float32"), gpu.types.int64)
    _, y = run(program, (3, 1, 1), (64, 1), [x, np.zeros(576, np.float32)], 192)
    lane, warps = np.arange(32), x.reshape(-1, 32)
    index = [np.full(32, 5), np.where(lane < 3, lane, lane - 3), np.where(lane > 24, lane, lane + 7)]
    same(y, np.concatenate([warps[:, i].ravel() for i in index]))


def test_local_arrays_and_blocks_of_three_dimensions(gpu: Compiler) -> None:
    cuda, store, load = gpu.cuda, gpu.store, gpu.load

    def kernel(x, y, k):
        own = cuda.local.array(16, np.float64)
        block = cuda.blockIdx.x + cuda.gridDim.x * (cuda.blockIdx.y + cuda.gridDim.y * cuda.blockIdx.z)
        thread = cuda.threadIdx.x + cuda.blockDim.x * (cuda.threadIdx.y + cuda.blockDim.y * cuda.threadIdx.z)
        t = thread + block * cuda.blockDim.x * cuda.blockDim.y * cuda.blockDim.z
        for j in range(16):
            own[(j * k + thread) % 16] = load(x, t) * j
        store(y, t, own[k] + own[1 if load(x, t) > 100.0 else 0])

    x = np.arange(24 * 60, dtype=np.float64)
    program = gpu.program(kernel, *gpu.pointers("float64", "float64"), gpu.types.int64)
    _, y = run(program, (2, 3, 4), (3, 4, 5), [x, np.zeros_like(x)], 7)
    inverse = np.argsort(np.arange(16) * 7 % 16)
    thread = np.tile(np.arange(60), 24)
    same(y, x * inverse[(7 - thread) % 16] + x * inverse[((x > 100) - thread) % 16])


def test_float_conversions_and_functions(gpu: Compiler, rng: np.random.Generator) -> None:
    cuda, load, store, to_half, from_half, to_bfloat = gpu.cuda, gpu.load, gpu.store, gpu.to_half, gpu.from_half, gpu.to_bfloat

    def kernel(x, y, single, half, n):
        i = cuda.grid(1)
        if i < n:
            v = load(x, i)
            h = to_half(v)
            store(half, i, h)
            store(half, i + n, to_bfloat(v))
            store(single, i, np.float32(v))
            store(single, i + n, np.float32(from_half(h)) / np.float32(v))
            store(y, i, from_half(h))
            store(y, i + n, cuda.fma(v, v, -1.0))
            store(y, i + 2 * n, 1.0 / math.sqrt(v) if v > 0.0 else min(-v, v))

    x = np.concatenate([HOSTILE, rng.standard_normal(500) * np.exp2(rng.integers(-30, 20, 500))])
    n = x.size
    types = gpu.pointers("float64", "float64", "float32", "uint16")
    with np.errstate(all="ignore"):
        half, single = x.astype(np.float16), x.astype(np.float32)
        root = np.where(x > 0, 1.0 / np.sqrt(np.abs(x)), -np.abs(x))
        expected = [half.astype(np.float64), fma(x, x, -1.0), root]
        quotient = half.astype(np.float32) / single
        bfloat = nearest(x, 8, -133, 3.4e38)
    program = gpu.program(kernel, *types, gpu.types.int64)
    empty = [np.zeros(3 * n), np.zeros(2 * n, np.float32), np.zeros(2 * n, np.uint16)]
    _, y, s, h = run(program, (-(-n // 64), 1, 1), 64, [x, *empty], n)
    same(y, np.concatenate(expected))
    same(s, np.concatenate([single, quotient]))
    same(h[:n].view(np.float16), half)
    same((h[n:].astype(np.uint32) << 16).view(np.float32).astype(np.float64), bfloat)
