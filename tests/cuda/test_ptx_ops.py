"""The arithmetic of the PTX interpreter against Python's integers, exact fractions and the C library, to the bit."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
import pytest
from ptx_ops import fma, operation
from ptx_programs import HOSTILE, nearest, same, written

# --- arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name", "kind"), [(np.float64, "fma", ctypes.c_double), (np.float32, "fmaf", ctypes.c_float)]
)
def test_fma_is_rounded_once(dtype: Any, name: str, kind: Any, rng: np.random.Generator) -> None:
    library = ctypes.util.find_library("m")
    if library is None:
        pytest.skip("there is no libm to compare with")
    function = getattr(ctypes.CDLL(library), name)
    function.restype, function.argtypes = kind, [kind] * 3
    with np.errstate(all="ignore"):
        bits = rng.integers(0, 2**63, 9000).astype(np.uint64) * np.uint64(2)
        wild = bits.view(np.float64).astype(dtype) if dtype is np.float64 else bits.view(np.float32)[:9000]
        near = rng.standard_normal(9000).astype(dtype)
        hard = np.array(np.meshgrid(*[HOSTILE.astype(dtype)] * 3)).reshape(3, -1)
        x = np.concatenate([wild[:3000], near[:3000], hard[0]])
        y = np.concatenate([wild[3000:6000], near[3000:6000], hard[1]])
        z = np.concatenate([wild[6000:], -(x * y)[3000:6000], hard[2]])
        same(fma(x, y, z), np.array([function(*v) for v in zip(x.tolist(), y.tolist(), z.tolist(), strict=True)], dtype))


def test_conversions_round_once(rng: np.random.Generator) -> None:
    x = np.concatenate([HOSTILE, rng.standard_normal(2000) * np.exp2(rng.integers(-30, 20, 2000))])
    ties = (1 + rng.integers(0, 256, 500) / 128 + 2.0**-8) * (1 + rng.choice([0, 2.0**-40, -(2.0**-40)], 500))
    x = np.concatenate([x, -x, ties, 1 + (ties - 1) / 8])
    with np.errstate(all="ignore"):
        half = operation("cvt.rn.f16.f64")[0](x)
        same(half.astype(np.float64), nearest(x, 11, -24, 65504.0))
        bfloat = (operation("cvt.rn.bf16.f64")[0](x).astype(np.uint32) << 16).view(np.float32)
        same(bfloat.astype(np.float64), nearest(x, 8, -133, 3.4e38))
        single = x.astype(np.float32)
        bfloat = (operation("cvt.rn.bf16.f32")[0](single).astype(np.uint32) << 16).view(np.float32)
        same(bfloat.astype(np.float64), nearest(single.astype(np.float64), 8, -133, 3.4e38))
        toward_zero = operation("cvt.rz.f32.f64")[0](x)
        finite = np.isfinite(x)
        assert (np.abs(toward_zero[finite].astype(np.float64)) <= np.abs(x[finite])).all()
        away = np.nextafter(np.abs(toward_zero[finite]), np.float32(np.inf))
        assert (away.astype(np.float64) > np.abs(x[finite])).all()


def test_floats_to_integers_are_clamped() -> None:
    for op, dtype in (("s64.f64", np.int64), ("u32.f64", np.uint32), ("s32.f32", np.int32), ("u64.f64", np.uint64)):
        info = np.iinfo(dtype)
        with np.errstate(over="ignore"):
            x = HOSTILE.astype(np.float32 if op.endswith("f32") else np.float64)
        missing = 0 if op == "s32.f32" else 1 << (info.bits - 1)
        expected = [
            missing if np.isnan(v) else info.max if v == np.inf else info.min if v == -np.inf
            else min(max(round(float(v)), info.min), info.max) for v in x
        ]  # fmt: skip
        with np.errstate(all="ignore"):
            got = operation(f"cvt.rni.{op}")[0](x)
        assert [int(v) & (2**info.bits - 1) for v in got] == [v & (2**info.bits - 1) for v in expected]


INTEGERS = {
    "mul.hi.s64": lambda a, b, s: a * b >> s,
    "mul.hi.u64": lambda a, b, s: a * b >> s,
    "mul.hi.u32": lambda a, b, s: a * b >> s,
    "mul.lo.s64": lambda a, b, s: a * b,
    "div.s64": lambda a, b, s: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else 0,
    "div.u64": lambda a, b, s: a // b if b else 0,
    "rem.s32": lambda a, b, s: abs(a) % abs(b) * (-1 if a < 0 else 1) if b else 0,
    "rem.u64": lambda a, b, s: a % b if b else 0,
    "shl.b64": lambda a, b, s: a << min(b & 0xFFFFFFFF, s),
    "shr.s64": lambda a, b, s: a >> min(b & 0xFFFFFFFF, s),
    "shr.u32": lambda a, b, s: a >> min(b & 0xFFFFFFFF, s),
    "min.s32": lambda a, b, s: min(a, b),
    "max.u64": lambda a, b, s: max(a, b),
    "clz.b64": lambda a, b, s: s - a.bit_length(),
    "clz.b32": lambda a, b, s: s - a.bit_length(),
    "popc.b32": lambda a, b, s: a.bit_count(),
    "brev.b64": lambda a, b, s: int(f"{a:0{s}b}"[::-1], 2),
}


@pytest.mark.parametrize("op", INTEGERS)
def test_integers(op: str, rng: np.random.Generator) -> None:
    fn, kinds = operation(op)
    sources = [{"s": f"i{int(k[1:]) // 8}"}.get(k[0], f"u{int(k[1:]) // 8}") for k in kinds]
    special = np.array([0, 1, 2, 31, 32, 33, 63, 64, 65, 2**31, 2**32 - 1, 2**63, 2**64 - 1], np.uint64)
    a = np.concatenate([np.repeat(special, special.size), rng.integers(0, 2**64, 500, np.uint64)])
    b = np.concatenate(
        [np.tile(special, special.size), rng.integers(0, 2**64, 500, np.uint64) >> rng.integers(0, 64, 500, np.uint64)]
    )
    operands = [v.astype(f"u{t[1:]}").view(t) for v, t in zip((a, b), sources[1:], strict=False)]
    with np.errstate(all="ignore"):
        got = np.asarray(fn(*operands)).astype(sources[0])
    bits = int(kinds[1][1:])
    pairs = zip(operands[0].tolist(), operands[-1].tolist(), strict=True)
    expected = [INTEGERS[op](x, y, bits) for x, y in pairs]
    out = 8 * got.dtype.itemsize
    assert [int(v) % 2**out for v in got] == [v % 2**out for v in expected]


def test_bit_fields(rng: np.random.Generator) -> None:
    x = rng.integers(0, 2**63, 64).astype(np.uint64) * np.uint64(2) + np.uint64(1)
    same(written("bfe.u64 %rd5, %rd4, 13, 20;", x), (x >> 13) & (2**20 - 1))
    same(written("bfe.s64 %rd5, %rd4, 13, 20;", x), ((x << 31).view(np.int64) >> 44).view(np.uint64))
    same(written("mov.u64 %rd6, -1; bfi.b64 %rd5, %rd4, %rd6, 32, 8;", x), (x & 255) << 32 | np.uint64(0xFFFFFF00FFFFFFFF))
    swap = "mov.b64 {%r2, %r3}, %rd4; prmt.b32 %r4, %r2, %r3, 0x1234; cvt.u64.u32 %rd5, %r4;"
    same(written(swap, x), sum((x >> (8 * k) & 255) << (8 * i) for i, k in enumerate((4, 3, 2, 1))))
    look = "mov.b64 {%r2, %r3}, %rd4; lop3.b32 %r4, %r2, %r3, %r1, 0x96; cvt.u64.u32 %rd5, %r4;"
    same(written(look, x), (x ^ x >> 32 ^ np.arange(64, dtype=np.uint64)) & 0xFFFFFFFF)


def test_comparisons() -> None:
    a, b = (v.ravel() for v in np.meshgrid(HOSTILE, HOSTILE[[0, 1, 2, 4, 12, 18, 20]]))
    with np.errstate(over="ignore"):
        singles = np.array([a, b]).astype(np.float32)
    pairs = singles.T.copy().view(np.uint64).ravel()
    x, y = pairs.view(np.float32).reshape(-1, 2).T
    nan = np.isnan(x) | np.isnan(y)
    cases = {
        "lt": x < y,
        "ne": ~nan & (x != y),
        "neu": x != y,
        "ltu": ~(x >= y),
        "equ": nan | (x == y),
        "num": ~nan,
        "nan": nan,
    }
    for name, expected in cases.items():
        body = f"mov.b64 {{%f1, %f2}}, %rd4; setp.{name}.f32 %p1|%p2, %f1, %f2; selp.b64 %rd5, 1, 2, %p1;"
        body += "@%p2 add.s64 %rd5, %rd5, 8;"
        same(written(body, pairs), np.where(expected, 1, 10).astype(np.uint64))
    body = "setp.lt.u32 %p1, %r1, 9; setp.gt.and.s32 %p2, %r1, 3, !%p1; selp.b64 %rd5, 5, 6, %p2;"
    same(written(body, pairs[:32]), np.where(np.arange(32) < 9, 6, 5).astype(np.uint64))


def test_minimum_and_maximum_order_zeros_and_leave_nan() -> None:
    a, b = np.array([0.0, -0.0, np.nan, 1.0, np.nan]), np.array([-0.0, 0.0, 1.0, np.nan, np.nan])
    same(operation("min.f64")[0](a, b), np.array([-0.0, -0.0, 1.0, 1.0, np.nan]))
    same(operation("max.f64")[0](a, b), np.array([0.0, 0.0, 1.0, 1.0, np.nan]))
