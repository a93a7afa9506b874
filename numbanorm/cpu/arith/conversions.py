"""Elements as they are stored <-> float32 and float64: exact or rounded once, and the same bits whatever the CPU has."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from ..compile import types
from .vectors import F16, F32, F64, I16, I32, LANES, call, constant, vector

#: what the CPU that code is generated for has: conversions of float16 from and to float32 ("f16c"), and all of its arithmetic
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
F16C, FP16 = "+f16c" in FEATURES, "+avx512fp16" in FEATURES


def widened_half(b: ir.IRBuilder, h: Any) -> Any:
    """Bits of float16 -> float32; without the CPU's help, shift the fields into place and repair the exponent by a product."""
    if F16C:
        return b.fpext(b.bitcast(h, vector(F16)), vector(F32))
    # magnitude = (h & 0x7fff) << 13
    # value = magnitude | 0x7f800000 if h is inf or nan else bits of (the float32 of magnitude) * 2**112
    # return value | (h & 0x8000) << 16
    w = b.zext(h, vector(I32))
    magnitude = b.shl(b.and_(w, constant(I32, 0x7FFF)), constant(I32, 13))
    value = b.fmul(b.bitcast(magnitude, vector(F32)), constant(F32, 2.0**112))
    special = b.icmp_unsigned(">=", magnitude, constant(I32, 0x7C00 << 13))  # inf, nan: all exponent bits set
    bits = b.select(special, b.or_(magnitude, constant(I32, 0x7F800000)), b.bitcast(value, vector(I32)))
    sign = b.shl(b.and_(w, constant(I32, 0x8000)), constant(I32, 16))
    return b.bitcast(b.or_(bits, sign), vector(F32))


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


def bits_of_bfloat(b: ir.IRBuilder, bits: Any) -> Any:
    """Bits of float32 -> bits of bfloat16, to nearest even."""
    # return (bits | 0x400000 if nan else bits + 0x7fff + (bits >> 16 & 1)) >> 16
    single = b.bitcast(bits, vector(F32))
    lsb = b.and_(b.lshr(bits, constant(I32, 16)), constant(I32, 1))
    rounded = b.add(b.add(bits, constant(I32, 0x7FFF)), lsb)
    quiet = b.or_(bits, constant(I32, 0x400000))  # a carry must not turn a nan into infinity
    return b.trunc(b.lshr(b.select(b.fcmp_unordered("uno", single, single), quiet, rounded), constant(I32, 16)), vector(I16))


def bits_of_half(b: ir.IRBuilder, bits: Any) -> Any:
    """Bits of float32 -> bits of float16, to nearest even; without the CPU's help, a float addition rounds denormal results."""
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


def single(b: ir.IRBuilder, v: Any, element: Any) -> Any:
    """Stored elements of 32 bits or fewer -> float32, exactly."""
    if element == types.float32:
        return v
    if element == types.uint16:
        return widened_half(b, v)
    return b.bitcast(b.shl(b.zext(v, vector(I32)), constant(I32, 16)), vector(F32))


def from_single(b: ir.IRBuilder, v: Any, element: Any) -> Any:
    """float32 -> stored elements, rounded once."""
    if element == types.float32:
        return v
    return (bits_of_half if element == types.uint16 else bits_of_bfloat)(b, b.bitcast(v, vector(I32)))


def widen(b: ir.IRBuilder, v: Any, element: Any) -> Any:
    """Stored elements -> float64, exactly."""
    return v if element == types.float64 else b.fpext(single(b, v, element), vector(F64, v.type.count))


def narrow(b: ir.IRBuilder, v: Any, element: Any) -> Any:
    """float64 -> stored elements, rounded once."""
    if element == types.float64:
        return v
    if element == types.float32:
        return b.fptrunc(v, vector(F32, v.type.count))
    if element == types.int16:
        return bits_of_bfloat(b, bits_to_round(b, v, 16))
    return b.bitcast(b.fptrunc(v, vector(F16)), vector(I16)) if FP16 else bits_of_half(b, bits_to_round(b, v, 13))
