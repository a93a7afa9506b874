"""Small PTX programs, and numbers at which their roundings change."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from ptx import Memory, Program

HEAD = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b)
{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .f32 %f<9>; .reg .f64 %fd<9>;
.shared .align 16 .b8 table[64];
mov.u32 %r1, %tid.x;
ld.param.u64 %rd1, [a];
ld.param.u64 %rd2, [b];
mul.wide.u32 %rd3, %r1, 8;
add.s64 %rd1, %rd1, %rd3;
add.s64 %rd2, %rd2, %rd3;
ld.global.u64 %rd4, [%rd1];
"""

#: numbers at which roundings and ranges change
VALUES = """0 -0 1 -1.5 0.1 2.5 3.5 0.5 -0.5 255.5 1e308 -1e308 5e-324 3.4e38 3.5e38 65504 65519.999 65520 inf -inf nan
0x1p-1022 0x1p-149 0x1p-150 0x1.8p-150 0x1p-24 0x1p-25 0x1.0000000008p-25 0x1.00200000004p0 0x1.0100000001p0 0x1p31 -0x1p31
0x1p63 -0x1p63 0x1p64"""

HOSTILE = np.array([float.fromhex(v) if "0x" in v else float(v) for v in VALUES.split()])


def written(body: str, *arrays: Any, threads: int | None = None, grid: int = 1) -> np.ndarray:
    """Result (n,) uint64 of PTX that finds its element in %rd4 (%r1 is the thread) and leaves what to store in %rd5."""
    memory = Memory(1 << 20)
    address = memory.put(arrays[0])
    out = memory.allocate(8 * arrays[0].size)
    Program(HEAD + body + "st.global.u64 [%rd2], %rd5; ret; }").launch(
        memory, (grid, 1, 1), threads or arrays[0].size, [address, out]
    )
    return memory.view(out, arrays[0].shape, np.uint64)


def same(a: Any, b: Any) -> None:
    """Equal to the bit, any nan for any other."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if a.dtype.kind == "f":
        nan = np.isnan(a)
        np.testing.assert_array_equal(nan, np.isnan(b))
        a, b = (np.where(nan, 0, x).astype(a.dtype).view(f"u{a.dtype.itemsize}") for x in (a, b))
    np.testing.assert_array_equal(a, b)


def nearest(values: np.ndarray, precision: int, lowest: int, largest: float) -> np.ndarray:
    """float64 rounded once to `precision` bits with 2**lowest the smallest unit, by exact fractions."""
    result = values.copy()
    for i, v in enumerate(values):
        if np.isfinite(v) and v:
            unit = Fraction(2) ** max(int(np.frexp(v)[1]) - precision, lowest)
            result[i] = np.copysign(float(round(Fraction(float(v)) / unit) * unit), v)
            if abs(result[i]) > largest:
                result[i] = np.copysign(np.inf, v)
    return result
