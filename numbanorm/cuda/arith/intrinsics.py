"""All that the kernels need beyond Python: rounded arithmetic, vector loads and stores, conversions, exchange in a warp.

The only module that writes LLVM code. `simulated` offers the same names in plain Python, for Numba's CUDA simulator;
`device` chooses.

NVVM contracts a product and a sum into one rounding, and ptxas does so on its own, unless one of both is marked as rounded.
Here every product of floats is `mul` or `fma`, so sums may stay `+` and nothing is contracted.

A pointer's element type tells what is stored: float32, float64, uint16 for the bits of a float16, int16 for those of a
bfloat16 (as on the CPU). Loads widen to float64, stores round once.
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
    """x * y, never contracted."""
    return float64(float64, float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.mul.rn.d", F64, list(a))


@intrinsic
def fma(tc: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""
    return float64(float64, float64, float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.fma.rn.d", F64, list(a))


@intrinsic
def div(tc: Any, x: Any, y: Any) -> Any:
    """x / y, rounded; 0 is no error."""
    return float64(float64, float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.div.rn.d", F64, list(a))


@intrinsic
def root(tc: Any, x: Any) -> Any:
    """Square root, rounded."""
    return float64(float64), lambda ctx, b, sig, a: call(b, "llvm.nvvm.sqrt.rn.d", F64, list(a))


# float64(v), float64(v.view(float16)) or float64((uint32(v) << 16).view(float32))
def widened(b: ir.IRBuilder, element: Any, v: Any) -> Any:
    """A number that was loaded, as float64."""
    if element in (types.float64, types.int64):
        return v
    if element == types.uint16:
        v = b.fpext(b.bitcast(v, F16), F32)
    elif element == types.int16:
        v = b.bitcast(b.shl(b.zext(v, I32), ir.Constant(I32, 16)), F32)
    return b.fpext(v, F64)


def four_elements(b: ir.IRBuilder, element: Any, at: Any) -> tuple[Any, list[Any]]:
    """One load of four elements, and each of them."""
    if element.bitwidth != 16:
        v = b.load(b.bitcast(at, ir.VectorType(MEMORY[element], 4).as_pointer()), align=16)
        return v, [b.extract_element(v, ir.Constant(I32, k)) for k in range(4)]
    # as <4 x half> LLVM would split the load in two
    v = b.load(b.bitcast(at, ir.VectorType(I32, 2).as_pointer()), align=8)
    halves = [b.extract_element(v, ir.Constant(I32, k)) for k in range(2)]
    return v, [b.trunc(b.lshr(h, ir.Constant(I32, shift)), I16) for h in halves for shift in (0, 16)]


# float32(v), float16(v), or for bfloat16
#     short = v rounded towards 0 to float32
#     bfloat16((short.view(uint32) | (short != v)).view(float32))
def narrowed(b: ir.IRBuilder, element: Any, v: Any) -> Any:
    """A float64 as it is stored, rounded once."""
    if element == types.float64:
        return v
    if element == types.float32:
        return b.fptrunc(v, F32)
    if element == types.uint16:
        return b.bitcast(b.fptrunc(v, F16), I16)
    # cvt.rn.bf16.f64 is for cc 9.0 and later: to odd in float32, which keeps what the second rounding must know
    short = call(b, "llvm.nvvm.d2f.rz", F32, [v])
    inexact = b.zext(b.fcmp_unordered("!=", b.fpext(short, F64), v), I32)
    odd = b.bitcast(b.or_(b.bitcast(short, I32), inexact), F32)
    return b.call(ir.InlineAsm(ir.FunctionType(I16, [F32]), "cvt.rn.bf16.f32 $0, $1;", "=h,f"), [odd])


def loads(lanes: int, constant: bool) -> Any:
    """An intrinsic that loads one element, or four that are aligned to 16 bytes (8, of two bytes each).

    constant: nothing writes there while the kernel runs, so loads may pass stores (ld.global.nc).
    """

    def load(tc: Any, p: Any, i: Any) -> Any:
        def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
            at = b.gep(a[0], [a[1]])
            v, elements = (b.load(at), []) if lanes == 1 else four_elements(b, p.dtype, at)
            if constant:
                v.set_metadata("invariant.load", b.module.add_metadata([]))
            if lanes == 1:
                return widened(b, p.dtype, v)
            return ctx.make_tuple(b, sig.return_type, [widened(b, p.dtype, e) for e in elements])

        kind = types.int64 if p.dtype == types.int64 else float64
        return (kind if lanes == 1 else types.UniTuple(kind, lanes))(p, types.int64), codegen

    return intrinsic(load)


load1, load4, read1, read4 = loads(1, False), loads(4, False), loads(1, True), loads(4, True)


@intrinsic
def store1(tc: Any, p: Any, i: Any, v: Any) -> Any:
    """p[i] = v, rounded once; an int64 as it is."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        b.store(a[2] if p.dtype == types.int64 else narrowed(b, p.dtype, a[2]), b.gep(a[0], [a[1]]))
        return ctx.get_dummy_value()

    return types.void(p, types.int64, types.int64 if p.dtype == types.int64 else float64), codegen


@intrinsic
def store4(tc: Any, p: Any, i: Any, v: Any) -> Any:
    """p[i : i + 4] = v, four float64; the address is aligned as for `load4`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        kind = ir.VectorType(MEMORY[p.dtype], 4)
        vector = ir.Constant(kind, ir.Undefined)
        for k, e in enumerate(cgutils.unpack_tuple(b, a[2])):
            vector = b.insert_element(vector, narrowed(b, p.dtype, e), ir.Constant(I32, k))
        at = b.bitcast(b.gep(a[0], [a[1]]), kind.as_pointer())
        b.store(vector, at, align=min(16, p.dtype.bitwidth // 2))
        return ctx.get_dummy_value()

    return types.void(p, types.int64, types.UniTuple(float64, 4)), codegen


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
