"""All that the kernels need beyond Python: rounded arithmetic, vector loads and stores, conversions, exchange in a warp.

The only module that writes LLVM code. `simulated` offers the same names in plain Python, for Numba's CUDA simulator;
`device` chooses.

NVVM contracts a product and a sum into one rounding, and ptxas does so on its own, unless one of both is marked as rounded.
Here every product of floats is `mul` or `fma`, so sums may stay `+` and nothing is contracted.

A pointer's element type tells what is stored: float32, float64, uint16 for the bits of a float16, int16 for those of a
bfloat16 (as on the CPU). Loads widen to float64, or `take` and `peek` to float32 if that holds it; stores round once.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import cuda
from numba.core import types as core_types
from numba.cuda import cgutils
from numba.cuda.extending import intrinsic as cuda_intrinsic

from ...spec.dtypes import DTYPES

# Numba's own annotations do not know what its decorators return, nor which types there are
intrinsic: Any = cuda_intrinsic
types: Any = core_types
float32: Any = numba.float32
float64: Any = numba.float64

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I16, I32, I64 = (ir.IntType(n) for n in (16, 32, 64))
MEMORY = {types.float32: F32, types.float64: F64, types.uint16: I16, types.int16: I16, types.int64: I64}
#: dtype name -> the pointer type of its arrays
POINTERS = {name: types.CPointer(getattr(types, dtype.stored)) for name, dtype in DTYPES.items()}
POINTERS["int64"] = types.CPointer(types.int64)


def device(function: Any) -> Any:
    """A part of a kernel; NVVM inlines it.

    It must not return a conditional expression, but a name that an `if` has set: what follows such an expression Python writes
    once up to 3.11 and twice from 3.12 on, and from other blocks LLVM and ptxas make another order, other registers and spills.
    """
    return cuda.jit(device=True)(function)


def compiled(function: Any) -> Any:
    """A kernel, before its argument types are known."""
    return function


def call(b: ir.IRBuilder, name: str, result: ir.Type, args: list[Any]) -> Any:
    """Call the NVVM intrinsic `name`."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), args)


@intrinsic
def mul(tc: Any, x: Any, y: Any) -> Any:
    """x * y, never contracted: rounded to float32 where both are."""
    if (x, y) == (float32,) * 2:
        return float32(x, y), lambda ctx, b, sig, a: call(b, "llvm.nvvm.mul.rn.f", F32, list(a))
    return float64(float64, float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.mul.rn.d", F64, list(a))


@intrinsic
def fma(tc: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once: to float32 where all three are."""
    if (x, y, z) == (float32,) * 3:
        return float32(x, y, z), lambda ctx, b, sig, a: call(b, "llvm.nvvm.fma.rn.f", F32, list(a))
    return float64(float64, float64, float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.fma.rn.d", F64, list(a))


@intrinsic
def widen(tc: Any, x: Any) -> Any:
    """A number as float64."""
    return float64(x), lambda ctx, b, sig, a: b.fpext(a[0], F64) if x == float32 else a[0]


@intrinsic
def single(tc: Any, x: Any) -> Any:
    """A number rounded to float32."""
    return float32(x), lambda ctx, b, sig, a: a[0] if x == float32 else b.fptrunc(a[0], F32)


@intrinsic
def nothing(tc: Any, like: Any) -> Any:
    """0 of a number's type."""
    return like(like), lambda ctx, b, sig, a: ir.Constant(a[0].type, 0.0)


@intrinsic
def towards_zero(tc: Any, x: Any) -> Any:
    """A float64 rounded to the float32 that is no farther from 0."""
    return float32(float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.d2f.rz", F32, list(a))


@intrinsic
def div(tc: Any, x: Any, y: Any) -> Any:
    """x / y, rounded; 0 is no error."""
    return float64(float64, float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.div.rn.d", F64, list(a))


@intrinsic
def root(tc: Any, x: Any) -> Any:
    """Square root, rounded."""
    return float64(float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.sqrt.rn.d", F64, list(a))


# v, v.view(float16) or (uint32(v) << 16).view(float32)
def entered(b: ir.IRBuilder, element: Any, v: Any) -> Any:
    """A number that was loaded, as float32 if that holds it."""
    if element == types.uint16:
        return b.fpext(b.bitcast(v, F16), F32)
    if element == types.int16:
        return b.bitcast(b.shl(b.zext(v, I32), ir.Constant(I32, 16)), F32)
    return v


def halves(b: ir.IRBuilder, element: Any, v: Any) -> list[Any]:
    """The two elements of 16 bits in 32 that were loaded, as float32: the upper half of a bfloat16 needs no shift."""
    if element == types.int16:
        upper = b.and_(v, ir.Constant(I32, -(1 << 16)))
        return [b.bitcast(e, F32) for e in (b.shl(v, ir.Constant(I32, 16)), upper)]
    return [entered(b, element, b.trunc(b.lshr(v, ir.Constant(I32, shift)), I16)) for shift in (0, 16)]


def four_elements(b: ir.IRBuilder, element: Any, at: Any) -> tuple[Any, list[Any]]:
    """One load of four elements, and each of them."""
    if element.bitwidth != 16:
        v = b.load(b.bitcast(at, ir.VectorType(MEMORY[element], 4).as_pointer()), align=16)
        return v, [b.extract_element(v, ir.Constant(I32, k)) for k in range(4)]
    # as <4 x half> LLVM would split the load in two
    v = b.load(b.bitcast(at, ir.VectorType(I32, 2).as_pointer()), align=8)
    return v, [e for k in range(2) for e in halves(b, element, b.extract_element(v, ir.Constant(I32, k)))]


CONVERTED = {types.uint16: "f16", types.int16: "bf16"}


# float32(v), float16(v), or for bfloat16
#     short = v rounded towards 0 to float32
#     bfloat16((short.view(uint32) | (short != v)).view(float32))
def narrowed(b: ir.IRBuilder, element: Any, v: Any) -> Any:
    """A float64 or float32 as it is stored, rounded once."""
    if element == types.float64:
        return b.fpext(v, F64) if v.type == F32 else v
    if element == types.float32:
        return v if v.type == F32 else b.fptrunc(v, F32)
    if element == types.uint16:
        return b.bitcast(b.fptrunc(v, F16), I16)
    if v.type == F64:
        # cvt.rn.bf16.f64 is for cc 9.0 and later: to odd in float32, which keeps what the second rounding must know
        short = call(b, "llvm.nvvm.d2f.rz", F32, [v])
        inexact = b.zext(b.fcmp_unordered("!=", b.fpext(short, F64), v), I32)
        v = b.bitcast(b.or_(b.bitcast(short, I32), inexact), F32)
    return b.call(ir.InlineAsm(ir.FunctionType(I16, [F32]), "cvt.rn.bf16.f32 $0, $1;", "=h,f"), [v])


def packed(b: ir.IRBuilder, element: Any, v: list[Any]) -> list[Any]:
    """Four numbers as they are stored, in elements of a vector: two float32 become halves in one instruction."""
    if element.bitwidth != 16 or v[0].type == F64:
        return [narrowed(b, element, e) for e in v]
    both = ir.InlineAsm(ir.FunctionType(I32, [F32, F32]), f"cvt.rn.{CONVERTED[element]}x2.f32 $0, $1, $2;", "=r,f,f")
    return [b.call(both, [v[k + 1], v[k]]) for k in (0, 2)]


def loads(lanes: int, constant: bool, wide: bool = True) -> Any:
    """An intrinsic that loads one element, or four that are aligned to 16 bytes (8, of two bytes each).

    constant: nothing writes there while the kernel runs, so loads may pass stores (ld.global.nc). wide: as float64; otherwise
    as float32, unless float64 is stored.
    """

    def load(tc: Any, p: Any, i: Any) -> Any:
        kind = types.int64 if p.dtype == types.int64 else float64 if wide or p.dtype == float64 else float32

        def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
            at = b.gep(a[0], [a[1]])
            if lanes == 1:
                v = b.load(at)
                elements = [entered(b, p.dtype, v)]
            else:
                v, elements = four_elements(b, p.dtype, at)
            if constant:
                v.set_metadata("invariant.load", b.module.add_metadata([]))
            elements = [b.fpext(e, F64) if kind == float64 and e.type == F32 else e for e in elements]
            return elements[0] if lanes == 1 else ctx.make_tuple(b, sig.return_type, elements)

        return (kind if lanes == 1 else types.UniTuple(kind, lanes))(p, types.int64), codegen

    return intrinsic(load)


load1, load4, read1, read4 = loads(1, False), loads(4, False), loads(1, True), loads(4, True)
take1, take4, peek1, peek4 = (loads(lanes, constant, wide=False) for constant in (False, True) for lanes in (1, 4))


@intrinsic
def store1(tc: Any, p: Any, i: Any, v: Any) -> Any:
    """p[i] = v, rounded once; an int64 as it is."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        b.store(a[2] if p.dtype == types.int64 else narrowed(b, p.dtype, a[2]), b.gep(a[0], [a[1]]))
        return ctx.get_dummy_value()

    kind = types.int64 if p.dtype == types.int64 else float32 if v == float32 else float64
    return types.void(p, types.int64, kind), codegen


@intrinsic
def store4(tc: Any, p: Any, i: Any, v: Any) -> Any:
    """p[i : i + 4] = v, four float64 or float32; the address is aligned as for `load4`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        elements = packed(b, p.dtype, cgutils.unpack_tuple(b, a[2]))
        kind = ir.VectorType(elements[0].type, len(elements))
        vector = ir.Constant(kind, ir.Undefined)
        for k, e in enumerate(elements):
            vector = b.insert_element(vector, e, ir.Constant(I32, k))
        at = b.bitcast(b.gep(a[0], [a[1]]), kind.as_pointer())
        b.store(vector, at, align=min(16, p.dtype.bitwidth // 2))
        return ctx.get_dummy_value()

    return types.void(p, types.int64, types.UniTuple(v.dtype, 4)), codegen


@intrinsic
def quotient(tc: Any, n: Any, d: Any) -> Any:
    """n // d of numbers that are not negative."""
    return types.int64(types.int64, types.int64), lambda ctx, b, sig, a: b.udiv(*a)


@device
def thread() -> Any:
    """Index of the thread in its block."""
    return cuda.threadIdx.x


@device
def block() -> Any:
    """Index of the block."""
    return cuda.blockIdx.x


@device
def blocks() -> Any:
    """Blocks of the launch."""
    return cuda.gridDim.x


@device
def threads() -> Any:
    """Threads of a block."""
    return cuda.blockDim.x


@device
def barrier() -> None:
    """Wait for all threads of the block."""
    cuda.syncthreads()


@device
def exchange(v: Any, distance: Any) -> Any:
    """The v of the thread whose number in the warp differs in the bit `distance`; all threads of the block take part."""
    return cuda.shfl_xor_sync(0xFFFFFFFF, v, distance)


@intrinsic
def vote(tc: Any, some: Any) -> Any:
    """Whether it is true for any thread of the warp; all threads of the block take part, and may get the same answer."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(1), [I32, ir.IntType(1)])
        fn = cgutils.get_or_insert_function(b.module, kind, "llvm.nvvm.vote.any.sync")
        return b.call(fn, [ir.Constant(I32, -1), a[0]])

    return types.boolean(types.boolean), codegen


@device
def from_lane(v: Any, lane: Any) -> Any:
    """The v of the thread of the warp that has this number; all threads of the block take part."""
    return cuda.shfl_sync(0xFFFFFFFF, v, lane)


def slot_of(ctx: Any, b: ir.IRBuilder, kind: Any, room: Any, element: Any, slot: Any) -> Any:
    """Address of a slot of four elements in shared memory."""
    at = b.mul(slot, ir.Constant(I64, 4 * element.bitwidth // 8))
    return b.gep(b.bitcast(ctx.make_array(kind)(ctx, b, value=room).data, ir.IntType(8).as_pointer()), [at])


@intrinsic
def stage4(tc: Any, room: Any, slot: Any, p: Any, i: Any) -> Any:
    """Begin to copy p[i : i + 4] to a slot of shared memory; `staged` waits for what a thread has begun to copy."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        at, size = slot_of(ctx, b, room, a[0], p.dtype, a[1]), 4 * p.dtype.bitwidth // 8
        to = b.ptrtoint(b.addrspacecast(at, ir.IntType(8).as_pointer(3)), I64)
        how = "cg" if size == 16 else "ca"
        fn = ir.FunctionType(ir.VoidType(), [I64, I64])
        asm = f"cp.async.{how}.shared.global [$0], [$1], {size};"
        b.call(ir.InlineAsm(fn, asm, "l,l,~{memory}", side_effect=True), [to, b.ptrtoint(b.gep(a[2], [a[3]]), I64)])
        return ctx.get_dummy_value()

    return types.void(room, types.int64, p, types.int64), codegen


@intrinsic
def staged(tc: Any) -> Any:
    """Wait for the copies that this thread has begun."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        fn = ir.FunctionType(ir.VoidType(), [])
        b.call(ir.InlineAsm(fn, "cp.async.wait_all;", "~{memory}", side_effect=True), [])
        return ctx.get_dummy_value()

    return types.void(), codegen


@intrinsic
def unstage4(tc: Any, room: Any, slot: Any, p: Any) -> Any:
    """The four elements of a slot, as `take4` gives them; p: any pointer to such elements."""
    kind = float64 if p.dtype == float64 else float32

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        at = slot_of(ctx, b, room, a[0], p.dtype, a[1])
        _, elements = four_elements(b, p.dtype, at)
        return ctx.make_tuple(b, sig.return_type, elements)

    return types.UniTuple(kind, 4)(room, types.int64, p), codegen


@intrinsic
def pinned(tc: Any, v: Any) -> Any:
    """v, which is kept in a register: what is cheap, NVVM would compute again behind a barrier."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        kind, names = (F32, "=f,f") if v == float32 else (F64, "=d,d")
        asm = f"mov.b{v.bitwidth} $0, $1;"
        return b.call(ir.InlineAsm(ir.FunctionType(kind, [kind]), asm, names, side_effect=True), [a[0]])

    return v(v), codegen


@intrinsic
def seen(tc: Any, before: Any, v: Any) -> Any:
    """Some bits of a number, and of others before it, for `after`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        bits = b.bitcast(a[1], I32) if v == float32 else b.trunc(b.bitcast(a[1], I64), I32)
        return b.or_(a[0], bits)

    return types.int32(types.int32, v), codegen


@intrinsic
def after(tc: Any, v: Any, others: Any, n: Any) -> Any:
    """v, but not before the others that were `seen` are loaded.

    n: a size below 2**32. That no bit of the others is taken in the compiler does not know.
    """

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        none = b.and_(a[1], b.trunc(b.lshr(a[2], ir.Constant(I64, 32)), I32))
        if v == float32:
            return b.bitcast(b.or_(b.bitcast(a[0], I32), none), F32)
        return b.bitcast(b.or_(b.bitcast(a[0], I64), b.zext(none, I64)), F64)

    return v(v, types.int32, types.int64), codegen
