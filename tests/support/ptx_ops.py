"""What the arithmetic instructions of PTX compute, as functions of NumPy arrays: the tables behind `ptx.Program`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import vectorize
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[..., Any]

_BITS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
#: type of an instruction -> dtype of its operands; bfloat16 are bits
DTYPES: dict[str, np.dtype[Any]] = {"pred": np.dtype(bool), "bf16": np.dtype(np.uint16)}
DTYPES |= {f"{k}{n}": np.dtype(f"{c}{n // 8}") for n in _BITS for k, c in (("b", "u"), ("u", "u"), ("s", "i"))}
DTYPES |= {f"f{n}": np.dtype(f"f{n // 8}") for n in (16, 32, 64)}


@intrinsic
def _llvm_fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    def generate(context: Any, b: ir.IRBuilder, signature: Any, args: list[Any]) -> Any:
        t = args[0].type
        name = "llvm.fma.f64" if isinstance(t, ir.DoubleType) else "llvm.fma.f32"
        return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(t, [t] * 3), name), args)

    return x(x, y, z), generate


@vectorize([f"{t}({t}, {t}, {t})" for t in ("float32", "float64")])  # in this order: the first that holds all is taken
def fma(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once: an instruction of the CPU, or the function of the C library."""
    return _llvm_fma(x, y, z)


# --- integers --------------------------------------------------------------------------------------------------------


def unsigned(x: Array) -> Array:
    return x.view(_BITS[8 * x.dtype.itemsize])


def doubled(x: Array) -> np.dtype[Any]:
    return np.dtype(f"{x.dtype.kind}{2 * x.dtype.itemsize}")


def truncated_quotient(a: Array, b: Array) -> Array:
    """Rounded toward zero, as C does; of 0 for a divisor 0, where PTX specifies nothing."""
    if a.dtype.kind == "u":
        return np.floor_divide(a, b)
    magnitude = np.floor_divide(unsigned(np.abs(a)), unsigned(np.abs(b))).view(a.dtype)
    return np.where((a < 0) != (b < 0), -magnitude, magnitude)


def multiply_wide(a: Array, b: Array) -> Array:
    return np.multiply(a, b, dtype=doubled(a))


def multiply_high(a: Array, b: Array) -> Array:
    """The upper half of the product."""
    if a.dtype.itemsize < 8:
        return (multiply_wide(a, b) >> (8 * a.dtype.itemsize)).astype(a.dtype)
    x, y, half, low = unsigned(a), unsigned(b), np.uint64(32), np.uint64(0xFFFFFFFF)
    middle = (x >> half) * (y & low) + ((x & low) * (y & low) >> half)
    cross = (x & low) * (y >> half) + (middle & low)
    high = ((x >> half) * (y >> half) + (middle >> half) + (cross >> half)).view(a.dtype)
    return high if a.dtype.kind == "u" else high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def leading_zeros(x: Array) -> Array:
    length = np.zeros(np.shape(x), np.uint32)
    for shift in (s for s in (32, 16, 8, 4, 2, 1) if s < 8 * x.dtype.itemsize):
        big = x >= (1 << shift)
        length += big.astype(np.uint32) * np.uint32(shift)
        x = np.where(big, x >> shift, x)
    return np.uint32(8 * x.dtype.itemsize) - length - (x != 0)


def reverse_bits(x: Array) -> Array:
    width = 8 * x.dtype.itemsize
    return sum((((x >> i) & 1) << (width - 1 - i) for i in range(width)), np.zeros_like(x))


def field_mask(dtype: np.dtype[Any], position: Array, length: Array) -> Array:
    """Ones from bit `position` on, `length` of them."""
    one, p, n = dtype.type(1), position & 255, length & 255
    return np.left_shift(np.left_shift(one, n).astype(dtype) - one, p).astype(dtype)


def insert_field(a: Array, b: Array, position: Array, length: Array) -> Array:
    mask = field_mask(b.dtype, position, length)
    return (b & ~mask) | (np.left_shift(a, position & 255).astype(b.dtype) & mask)


def extract_field(a: Array, position: Array, length: Array) -> Array:
    """Bits of `a` from `position` on; of a signed type, continued by the uppermost that exists."""
    width, zero = 8 * a.dtype.itemsize, np.uint32(0)
    p, n = position & 255, length & 255
    x = unsigned(a)
    bits = np.right_shift(x, p) & field_mask(x.dtype, zero, n)
    if a.dtype.kind == "u":
        return bits
    last = np.minimum(p + np.maximum(n, 1) - 1, width - 1)
    negative = (np.right_shift(x, last) & 1).astype(bool) & (n > 0)
    shown = np.minimum(n, width - np.minimum(p, width))
    return np.where(negative, bits | ~field_mask(x.dtype, zero, shown), bits).view(a.dtype)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    pool = (np.asarray(b, np.uint64) << np.uint64(32)) | a
    result = np.zeros(np.broadcast(pool, selector).shape, np.uint32)
    for i in range(4):
        nibble = (selector >> (4 * i)) & 15
        byte = (pool >> ((nibble & 7) * 8)) & 255
        byte = np.where(nibble & 8, np.where(byte & 128, 255, 0), byte)
        result |= byte.astype(np.uint32) << np.uint32(8 * i)
    return result


def look_up(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Bit by bit, the bit of `table` that the bits of a, b and c number."""
    terms = ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c) for i in range(8) if int(table) >> i & 1)
    return sum(terms, np.zeros_like(a))


# --- floats ----------------------------------------------------------------------------------------------------------


def extremum(fn: Function, tie: Function) -> Function:
    """min or max by PTX: a number wins over nan, and -0 is less than +0."""

    def pick(a: Array, b: Array) -> Array:
        bits = tie(unsigned(a), unsigned(b)).view(a.dtype)
        return np.where(a == b, bits, fn(a, b))

    return pick


def to_nearest(x: Array, dtype: np.dtype[Any]) -> Array:
    return x.astype(dtype)


def directed(target: float | None) -> Function:
    """Rounding toward `target`, None for zero: a value rounded to nearest the other way is moved by one step."""

    def convert(x: Array, dtype: np.dtype[Any]) -> Array:
        near = x.astype(dtype)
        back = near.astype(np.float64)
        goal = dtype.type(0 if target is None else target)
        past = np.abs(back) > np.abs(x) if target is None else (back < x if target > 0 else back > x)
        return np.where(past, np.nextafter(near, goal), near)

    return convert


def to_bfloat(x: Array) -> Array:
    """Bits of bfloat16 to nearest: rounded to odd in float32 first, which makes the second rounding the only one."""
    single = directed(None)(x, DTYPES["f32"])
    bits = single.view(np.uint32) | (single != x)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def from_bfloat(h: Array) -> Array:
    return (h.astype(np.uint32) << 16).view(np.float32)


def packed(narrow: Function) -> Function:
    """Two values into the halves of 32 bits, the first into the upper one."""
    return lambda hi, lo: (unsigned(narrow(hi)).astype(np.uint32) << 16) | unsigned(narrow(lo))


def to_integer(rounding: Function, dtype: np.dtype[Any]) -> Function:
    """Float -> integer, clamped to its range; nan is 0, or the sign bit where 64 bits take part."""
    info = np.iinfo(dtype)
    above = float(2 ** (info.bits - (dtype.kind == "i")))

    def convert(x: Array) -> Array:
        r = rounding(x.astype(np.float64))
        missing = 0 if x.dtype.itemsize < 8 and info.bits < 64 else 1 << (info.bits - 1)
        clamped = np.where(r >= above, info.max, np.where(r <= info.min, info.min, r.astype(dtype)))
        return np.where(np.isnan(r), np.array(missing, f"u{info.bits // 8}").view(dtype), clamped)

    return convert


# --- tables ----------------------------------------------------------------------------------------------------------

ROUND_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
ROUND = {"rn": to_nearest, "rz": directed(None), "rm": directed(-np.inf), "rp": directed(np.inf)}
PAIRS = {
    "cvt.rn.bf16x2.f32": packed(to_bfloat),
    "cvt.rn.f16x2.f32": packed(lambda x: x.astype(np.float16)),
}

#: key: name and modifiers, then the kinds of type: i integer, f float32 or 64, h float16, p predicate.
#: The operands' types, the result's first: t that of the instruction, w one twice as wide, u u32, p a predicate.
OPERATIONS: dict[str, tuple[Function, str]] = {
    "add ifh": (np.add, "ttt"),
    "add.rn fh": (np.add, "ttt"),
    "sub ifh": (np.subtract, "ttt"),
    "sub.rn fh": (np.subtract, "ttt"),
    "mul fh": (np.multiply, "ttt"),
    "mul.rn fh": (np.multiply, "ttt"),
    "mul.lo i": (np.multiply, "ttt"),
    "mul.hi i": (multiply_high, "ttt"),
    "mul.wide i": (multiply_wide, "wtt"),
    "mad.lo i": (lambda a, b, c: np.multiply(a, b) + c, "tttt"),
    "mad.hi i": (lambda a, b, c: multiply_high(a, b) + c, "tttt"),
    "mad.wide i": (lambda a, b, c: multiply_wide(a, b) + c, "wttw"),
    "fma.rn f": (fma, "tttt"),
    "div i": (truncated_quotient, "ttt"),
    "div.rn f": (np.divide, "ttt"),
    "rem i": (np.fmod, "ttt"),
    "sqrt.rn f": (np.sqrt, "tt"),
    "rcp.rn f": (np.reciprocal, "tt"),
    "neg ifh": (np.negative, "tt"),
    "abs ifh": (np.absolute, "tt"),
    "min i": (np.minimum, "ttt"),
    "max i": (np.maximum, "ttt"),
    "min fh": (extremum(np.fmin, np.bitwise_or), "ttt"),
    "max fh": (extremum(np.fmax, np.bitwise_and), "ttt"),
    "and ip": (np.bitwise_and, "ttt"),
    "or ip": (np.bitwise_or, "ttt"),
    "xor ip": (np.bitwise_xor, "ttt"),
    "not ip": (np.invert, "tt"),
    "shl i": (np.left_shift, "ttu"),
    "shr i": (np.right_shift, "ttu"),
    "popc i": (np.bitwise_count, "ut"),
    "clz i": (leading_zeros, "ut"),
    "brev i": (reverse_bits, "tt"),
    "bfe i": (extract_field, "ttuu"),
    "bfi i": (insert_field, "tttuu"),
    "prmt i": (permute_bytes, "tttt"),
    "lop3 i": (look_up, "ttttu"),
    "selp if": (lambda a, b, p: np.where(p, a, b), "tttp"),
}
_TABLE = {(key.split()[0], kind): entry for key, entry in OPERATIONS.items() for kind in key.split()[1]}


def unordered(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


#: comparisons; of floats, each is false where one is nan, and its name with a u true
COMPARE: dict[str, Function] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
COMPARE_INTEGERS = COMPARE | {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
COMPARE_FLOATS = (
    COMPARE
    | {"ne": lambda a, b: (a < b) | (a > b), "neu": np.not_equal, "equ": lambda a, b: ~((a < b) | (a > b))}
    | {"ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b)}
    | {"geu": lambda a, b: ~(a < b), "nan": unordered, "num": lambda a, b: ~unordered(a, b)}
)


def comparison(name: str, kind: str) -> Function:
    """The comparison of a setp, KeyError where there is none."""
    return (COMPARE_FLOATS if kind[0] == "f" else COMPARE_INTEGERS)[name]


def conversion(op: str) -> Function:
    """What a cvt computes, KeyError for one that is not known here."""
    _, *modes, to, source = op.split(".")
    dtype, floats = DTYPES[to], ("f" in to, "f" in source)
    if source == "bf16" or (to == "bf16" and not floats[1]):
        if source != "bf16" or modes or to not in ("f32", "f64"):
            raise KeyError(op)
        return lambda h: from_bfloat(h).astype(dtype)
    if to == "bf16":
        if modes != ["rn"]:
            raise KeyError(op)
        return to_bfloat
    if floats == (False, True):
        (mode,) = modes or [""]
        return to_integer(ROUND_TO_INTEGER[mode], dtype)
    exact = floats == (False, False) or (floats == (True, True) and dtype.itemsize >= DTYPES[source].itemsize)
    if exact and not modes:
        return lambda x: x.astype(dtype)
    (mode,) = modes or [""]
    if floats == (True, True):
        if to == source:
            return ROUND_TO_INTEGER[mode]
        if not exact:
            rounding = ROUND[mode]
            return lambda x: rounding(x, dtype)
    elif floats == (True, False) and mode == "rn":  # to float16 by float64: what that rounds overflows
        return lambda x: (x.astype(np.float64) if to == "f16" else x).astype(dtype)
    raise KeyError(op)


def operation(op: str) -> tuple[Function, list[str]]:
    """The function of an arithmetic instruction and the types of its operands, the result's first; or KeyError."""
    if op in PAIRS:
        return PAIRS[op], ["b32", "f32", "f32"]
    *name, kind = op.split(".")
    if name[0] == "cvt":
        return conversion(op), [name[-1], kind]
    if kind not in DTYPES or kind == "bf16":
        raise KeyError(op)
    group = "p" if kind == "pred" else "h" if kind == "f16" else "f" if kind[0] == "f" else "i"
    if name[0] == "slct" and len(name) == 2 and kind in ("s32", "f32"):
        return (lambda a, b, c: np.where(c >= 0, a, b)), [name[1]] * 3 + [kind]
    fn, signature = _TABLE[".".join(name), group]
    wide = f"{kind[0]}{2 * int(kind[1:])}" if "w" in signature else ""
    return fn, [{"t": kind, "w": wide, "u": "u32", "p": "pred"}[letter] for letter in signature]
