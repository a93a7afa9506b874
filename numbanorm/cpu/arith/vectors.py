"""Explicit vectors of 16 lanes: how LLVM code for loads, stores and conversions is written.

Numba cannot vectorize a sum whose order is fixed, so the order is written down in vectors. LLVM splits 16 lanes into
whatever the CPU has; no fast-math flag is set and nothing is contracted, so the bits are the same everywhere.

The loops over elements are written with LLVM's builder too, in a handful of intrinsics: as Numba functions they took
four times as long to compile, for each of those is optimized as a module of its own, with all that it calls.

Elements are named by how they are stored, for Numba types neither float16 nor bfloat16 on the CPU: uint16 stands for
the bits of a float16, int16 for those of a bfloat16 (see `STORAGE`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from ...spec.dtypes import DTYPES
from ..compile import intrinsic, types

LANES = 16

#: dtype name -> the dtype under which the kernels see the same bytes
STORAGE = {name: dtype.stored for name, dtype in DTYPES.items()}

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
MEMORY = {types.float32: F32, types.float64: F64, types.uint16: I16, types.int16: I16}


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def constant(element: ir.Type, value: Any, lanes: int = LANES) -> ir.Constant:
    return ir.Constant(vector(element, lanes), [value] * lanes)


def call(b: ir.IRBuilder, name: str, result: ir.Type, args: list[Any]) -> Any:
    """Call the LLVM intrinsic `name`."""
    fnty = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, fnty, name), args)


def broadcast(b: ir.IRBuilder, value: Any, lanes: int = LANES) -> Any:
    vt = vector(value.type, lanes)
    v = b.insert_element(ir.Constant(vt, ir.Undefined), value, ir.Constant(I32, 0))
    return b.shuffle_vector(v, v, ir.Constant(vector(I32, lanes), [0] * lanes))


def take(b: ir.IRBuilder, v: Any, lanes: list[int]) -> Any:
    """These lanes of a vector, in this order."""
    return b.shuffle_vector(v, v, ir.Constant(vector(I32, len(lanes)), lanes))


def first_lanes(b: ir.IRBuilder, n: Any) -> Any:
    """Mask of the lanes below `n`."""
    return b.icmp_signed("<", ir.Constant(vector(I64), list(range(LANES))), broadcast(b, n))


def fused(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once"""
    suffix = f"v{x.type.count}f64" if isinstance(x.type, ir.VectorType) else "f64"
    return call(b, f"llvm.fma.{suffix}", x.type, [x, y, z])


# --- half precision: one rounding, and the same bits whatever the CPU has ------------------------------------------------


#: what the CPU that code is generated for has: conversions of float16 from and to float32 ("f16c"), and all of its arithmetic
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
F16C, FP16 = "+f16c" in FEATURES, "+avx512fp16" in FEATURES


def widened_half(b: ir.IRBuilder, h: Any) -> Any:
    """Bits of float16 -> float64; without the CPU's help, shift the fields into place and repair the exponent by a product."""
    if F16C:
        return b.fpext(b.bitcast(h, vector(F16)), vector(F64))
    # magnitude = (h & 0x7fff) << 13
    # value = magnitude | 0x7f800000 if h is inf or nan else bits of (the float32 of magnitude) * 2**112
    # return value | (h & 0x8000) << 16
    w = b.zext(h, vector(I32))
    magnitude = b.shl(b.and_(w, constant(I32, 0x7FFF)), constant(I32, 13))
    value = b.fmul(b.bitcast(magnitude, vector(F32)), constant(F32, 2.0**112))
    special = b.icmp_unsigned(">=", magnitude, constant(I32, 0x7C00 << 13))  # inf, nan: all exponent bits set
    bits = b.select(special, b.or_(magnitude, constant(I32, 0x7F800000)), b.bitcast(value, vector(I32)))
    sign = b.shl(b.and_(w, constant(I32, 0x8000)), constant(I32, 16))
    return b.fpext(b.bitcast(b.or_(bits, sign), vector(F32)), vector(F64))


def round_to_odd(b: ir.IRBuilder, v: Any, single: Any) -> Any:
    """float64, and the same rounded to float32 -> bits of float32, an inexact result made odd.

    A second rounding to fewer bits is then the only one: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums:
    proved algorithms using rounding to odd", 2008.
    """
    # if single == v or bits & 1: return bits
    # return bits - 1 if abs(single) > abs(v) else bits + 1
    back = b.fpext(single, vector(F64))
    bits = b.bitcast(single, vector(I32))
    even = b.icmp_signed("==", b.and_(bits, constant(I32, 1)), constant(I32, 0))
    absolute = [call(b, f"llvm.fabs.v{LANES}f64", vector(F64), [a]) for a in (back, v)]
    outward = b.fcmp_ordered(">", *absolute)
    step = b.select(outward, constant(I32, -1), constant(I32, 1))
    fix = b.and_(even, b.fcmp_ordered("!=", back, v))
    return b.add(bits, b.select(fix, step, constant(I32, 0)))


def bits_to_round(b: ir.IRBuilder, v: Any, dropped: int) -> Any:
    """float64 -> bits of a float32 that rounds to what v rounds to, when `dropped` bits or more are dropped.

    To round twice is wrong only where the first result lies half way between two of the second. All bits below that one are 0
    then, in one vector of hundreds, and only such a vector is rounded to odd (float16 1.4, bfloat16 1.25 times as fast).
    """
    # bits = bits of float32(v)
    # if any(bits & ((1 << dropped - 1) - 1) == 0): bits = round_to_odd(v)
    single = b.fptrunc(v, vector(F32))
    bits = b.bitcast(single, vector(I32))
    place = cgutils.alloca_once_value(b, bits)
    suspect = b.icmp_signed("==", b.and_(bits, constant(I32, (1 << (dropped - 1)) - 1)), constant(I32, 0))
    with b.if_then(b.icmp_unsigned("!=", b.bitcast(suspect, I16), ir.Constant(I16, 0)), likely=False):
        b.store(round_to_odd(b, v, single), place)
    return b.load(place)


def to_bfloat(b: ir.IRBuilder, v: Any) -> Any:
    """float64 -> bits of bfloat16, to nearest even."""
    # return (bits | 0x400000 if nan else bits + 0x7fff + (bits >> 16 & 1)) >> 16
    bits = bits_to_round(b, v, 16)
    single = b.bitcast(bits, vector(F32))
    lsb = b.and_(b.lshr(bits, constant(I32, 16)), constant(I32, 1))
    rounded = b.add(b.add(bits, constant(I32, 0x7FFF)), lsb)
    quiet = b.or_(bits, constant(I32, 0x400000))  # a carry must not turn a nan into infinity
    return b.trunc(b.lshr(b.select(b.fcmp_unordered("uno", single, single), quiet, rounded), constant(I32, 16)), vector(I16))


def to_half(b: ir.IRBuilder, v: Any) -> Any:
    """float64 -> bits of float16, to nearest even; without the CPU's help, denormal results are rounded by a float addition."""
    if FP16:
        return b.bitcast(b.fptrunc(v, vector(F16)), vector(I16))
    bits = bits_to_round(b, v, 13)
    if F16C:
        return b.bitcast(b.fptrunc(b.bitcast(bits, vector(F32)), vector(F16)), vector(I16))
    # h = bits of (magnitude + 0.5), less those of 0.5, if the result is denormal, else magnitude, rounded, with 15 in place
    # of 127 added to its exponent; inf from 2**16 on, or nan; and the sign
    sign = b.and_(bits, constant(I32, -0x80000000))
    magnitude = b.xor(bits, sign)
    lsb = b.and_(b.lshr(magnitude, constant(I32, 13)), constant(I32, 1))
    rebias = constant(I32, ((15 - 127) << 23) + 0xFFF)
    normal = b.lshr(b.add(b.add(magnitude, rebias), lsb), constant(I32, 13))
    magic = 126 << 23  # 0.5: its ulp is that of float16's denormals
    shifted = b.fadd(b.bitcast(magnitude, vector(F32)), constant(F32, 0.5))
    denormal = b.sub(b.bitcast(shifted, vector(I32)), constant(I32, magic))
    h = b.select(b.icmp_unsigned("<", magnitude, constant(I32, 113 << 23)), denormal, normal)
    h = b.select(b.icmp_unsigned(">=", magnitude, constant(I32, 143 << 23)), constant(I32, 0x7C00), h)
    h = b.select(b.icmp_unsigned(">", magnitude, constant(I32, 0x7F800000)), constant(I32, 0x7E00), h)
    return b.trunc(b.or_(h, b.lshr(sign, constant(I32, 16))), vector(I16))


def widen(b: ir.IRBuilder, v: Any, element: Any) -> Any:
    """Stored elements -> float64, exactly."""
    if element == types.float64:
        return v
    if element == types.uint16:
        return widened_half(b, v)
    if element == types.int16:
        v = b.bitcast(b.shl(b.zext(v, vector(I32)), constant(I32, 16)), vector(F32))
    return b.fpext(v, vector(F64))


def narrow(b: ir.IRBuilder, v: Any, element: Any) -> Any:
    """float64 -> stored elements, rounded once."""
    if element == types.float64:
        return v
    if element == types.float32:
        return b.fptrunc(v, vector(F32, v.type.count))
    return to_half(b, v) if element == types.uint16 else to_bfloat(b, v)


# --- memory ----------------------------------------------------------------------------------------------------------


def address(b: ir.IRBuilder, p: Any, i: Any, element: Any, lanes: int = LANES) -> Any:
    """Pointer to `lanes` elements from `i` on."""
    return b.bitcast(b.gep(p, [i]), vector(MEMORY[element], lanes).as_pointer())


def masked(operation: str, element: Any) -> str:
    e = MEMORY[element]
    return f"llvm.masked.{operation}.v{LANES}{'i16' if e == I16 else 'f' + str(element.bitwidth)}.p0"


def load(b: ir.IRBuilder, element: Any, p: Any, i: Any, n: Any = None) -> Any:
    """16 elements from `i` on, widened; with `n` only that many are read, and +0.0 stands behind them."""
    where, align = address(b, p, i, element), element.bitwidth // 8
    if n is None:
        return widen(b, b.load(where, align=align), element)
    vt = vector(MEMORY[element])
    nothing = ir.Constant(vt, [0 if MEMORY[element] == I16 else 0.0] * LANES)
    args = [where, ir.Constant(I32, align), first_lanes(b, n), nothing]
    return widen(b, call(b, masked("load", element), vt, args), element)


def store(b: ir.IRBuilder, element: Any, p: Any, i: Any, v: Any, n: Any = None, streaming: Any = None) -> None:
    """16 float64 to `i` on, rounded once; with `n` only that many.

    Where `streaming` (a run-time flag) holds, the store goes past the caches and wants `i` aligned to 16 elements.
    """
    align = element.bitwidth // 8
    if n is not None:
        args = [narrow(b, v, element), address(b, p, i, element), ir.Constant(I32, align), first_lanes(b, n)]
        call(b, masked("store", element), ir.VoidType(), args)
        return
    lanes = LANES // 2 if element == types.float32 else LANES  # to join what 16 float64 became takes an operation more
    pieces = [ir.Constant(vector(I32, lanes), list(range(k, k + lanes))) for k in range(0, LANES, lanes)]
    stored = [narrow(b, b.shuffle_vector(v, v, piece), element) for piece in pieces]
    places = [address(b, p, b.add(i, integer(k * lanes)), element, lanes) for k in range(len(pieces))]
    if streaming is None:
        store_all(b, stored, places, align)
    else:
        with b.if_else(streaming) as (past, through):
            with past:
                store_all(b, stored, places, lanes * align, past_caches=True)
            with through:
                store_all(b, stored, places, align)


def store_all(b: ir.IRBuilder, values: list[Any], places: list[Any], align: int, past_caches: bool = False) -> None:
    for value, place in zip(values, places, strict=True):
        instruction = b.store(value, place, align=align)
        if past_caches:
            instruction.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))


def prefetch(b: ir.IRBuilder, p: Any, i: Any, write: bool = False) -> None:
    """Ask for the cache line of element `i` (into L2; any address is allowed)."""
    where = b.bitcast(b.gep(p, [i]), I8.as_pointer())
    call(b, "llvm.prefetch.p0", ir.VoidType(), [where, *(ir.Constant(I32, k) for k in (int(write), 2, 1))])


def misaligned(b: ir.IRBuilder, element: Any, p: Any, i: Any) -> Any:
    """Elements between `i` and the next address that is a multiple of 16 elements: 0 to 15."""
    index = b.udiv(b.ptrtoint(b.gep(p, [i]), I64), ir.Constant(I64, element.bitwidth // 8))
    return b.and_(b.neg(index), ir.Constant(I64, LANES - 1))


def integer(n: int) -> Any:
    return ir.Constant(I64, n)


def smaller(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.icmp_signed("<", x, y), x, y)


def sixteens(b: ir.IRBuilder, start: Any, stop: Any, step: Any) -> None:
    """`step(e, None)` for whole vectors from `start` on, then `step(e, n)` for the n < 16 elements that remain."""
    # for e in range(start, stop - 15, 16): step(e, None)
    # if (stop - start) % 16: step(stop - (stop - start) % 16, (stop - start) % 16)
    rest = b.and_(b.sub(stop, start), integer(LANES - 1))
    whole = b.sub(stop, rest)
    with cgutils.for_range_slice(b, start, whole, integer(LANES), intp=I64) as (e, _):
        step(e, None)
    with b.if_then(b.icmp_signed(">", rest, integer(0))):
        step(whole, rest)


def down_rows(b: ir.IRBuilder, block: Any, step: Any) -> None:
    """`step(first, c, n, rows)` for 16 columns at a time, or n, c being the first, and some rows together from `first` on.

    `with rows() as at` is a loop over these rows, at their elements of column c. block: the fields of a `layout.Block`.
    """
    # for first in range(0, rows, together):
    #     for c in range(0, width, 16): step(first, c, ...)
    i, rows, together, stride, width = block
    with cgutils.for_range_slice(b, integer(0), rows, together, intp=I64) as (first, _):
        start, count = b.add(i, b.mul(first, stride)), smaller(b, together, b.sub(rows, first))

        def at_columns(c: Any, n: Any) -> None:
            @contextmanager
            def loop() -> Iterator[Any]:
                with cgutils.for_range(b, count, intp=I64) as row:
                    yield b.add(b.add(start, c), b.mul(row.index, stride))

            step(first, c, n, loop)

        sixteens(b, integer(0), width, at_columns)


@intrinsic
def convert(tc: Any, source: Any, n: Any, target: Any) -> Any:
    """target[:n] = source[:n] by way of float64: exact when it widens, rounded once when it narrows."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        stored, n, made = a
        with cgutils.for_range_slice(b, integer(0), n, integer(LANES), intp=I64) as (i, _):
            left = b.sub(n, i)
            store(b, target.dtype, made, i, load(b, source.dtype, stored, i, left), left)
        return ctx.get_dummy_value()

    return types.void(source, types.intp, target), codegen


@intrinsic
def fill(tc: Any, p: Any, i: Any, n: Any, value: Any) -> Any:
    """p[i : i + n] = value, float64"""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        p, i, n, value = a
        v = broadcast(b, value)
        sixteens(b, integer(0), n, lambda k, m: store(b, types.float64, p, b.add(i, k), v, m))
        return ctx.get_dummy_value()

    return types.void(p, types.intp, types.intp, types.float64), codegen


@intrinsic
def repeat(tc: Any, p: Any, i: Any, n: Any, copies: Any) -> Any:
    """Write p[i : i + n], float64, so many times side by side, of which the first is there."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for k in range(n):
        #     for at in range(n, n * copies, n): p[i + at + k] = p[i + k]
        p, i, n, copies = a

        def step(k: Any, m: Any) -> None:
            v = load(b, types.float64, p, b.add(i, k), m)
            with cgutils.for_range_slice(b, n, b.mul(n, copies), n, intp=I64) as (at, _):
                store(b, types.float64, p, b.add(b.add(i, at), k), v, m)

        sixteens(b, integer(0), n, step)
        return ctx.get_dummy_value()

    return types.void(p, types.intp, types.intp, types.intp), codegen


@intrinsic
def pointer(tc: Any, array: Any) -> Any:
    """Address of a contiguous array's first element."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_array(sig.args[0])(ctx, b, value=a[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def keep(tc: Any, array: Any) -> Any:
    """Nothing; but Numba frees an array after its last use, and does not see those by its address."""
    return types.void(array), lambda ctx, b, sig, a: ctx.get_dummy_value()


@intrinsic
def advance(tc: Any, p: Any, n: Any) -> Any:
    """The pointer `n` elements further on."""
    return p(p, types.intp), lambda ctx, b, sig, a: b.gep(a[0], [a[1]])


@intrinsic
def named(tc: Any, p: Any, layout: Any) -> Any:
    """Integers from memory as a NamedTuple of this class."""
    fields = layout.instance_class._fields
    result = types.NamedUniTuple(types.intp, len(fields), layout.instance_class)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_tuple(b, result, [b.load(b.gep(a[0], [integer(k)])) for k in range(len(fields))])

    return result(p, layout), codegen


@intrinsic(prefer_literal=True)
def unpacked(tc: Any, dims: Any, n: Any) -> Any:
    """n integers as a tuple."""
    result = types.UniTuple(types.intp, n.literal_value)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_tuple(b, result, [b.load(b.gep(a[0], [integer(k)])) for k in range(result.count)])

    return result(dims, n), codegen
