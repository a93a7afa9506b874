"""Masks in kernels: which of 16 elements count, and what happens to the others. See `spec.masks`.

The place of an element is found by divisions once a tile, or a block of rows; from there on it is a step to the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from ..compile import intrinsic, types
from .arithmetic import Number
from .memory import load_bytes, masked
from .stages import Elements
from .vectors import I8, I32, I64, address, broadcast, call, constant, first_lanes, integer, like, sixteens, vector

N = types.intp


class Track(NamedTuple):
    """Where a mask has what a part of a kernel reads: the place of its first element, and steps to the next row and column."""

    bytes: Any
    start: Any
    row: Any
    column: Any


def track(b: ir.IRBuilder, x: Elements, i: Any, stride: Any = None) -> Track | None:
    """The mask of x from element `i` on, of rows `stride` apart; None if there is none. Divisions: once a tile or a block."""
    m = x.mask
    if m is None:
        return None
    row, rest = b.udiv(i, m.row), b.urem(i, m.row)
    line, e = b.udiv(rest, m.line), b.urem(rest, m.line)
    start = b.add(b.mul(row, m.row_step), b.add(b.mul(line, m.line_step), b.mul(e, m.step)))
    down = integer(0) if stride is None else b.mul(b.udiv(stride, m.row), m.row_step)
    return Track(b.inttoptr(m.mask, I8.as_pointer()), start, down, m.step)


def included(b: ir.IRBuilder, mask: Track | None, row: Any, column: Any, n: Any = None) -> Any:
    """Which of 16 elements count, None for all; with `n` only that many are there."""
    if mask is None:
        return None
    at = b.gep(mask.bytes, [b.add(mask.start, b.add(b.mul(row, mask.row), b.mul(column, mask.column)))])
    with b.if_else(b.icmp_signed("!=", mask.column, integer(0))) as (each, all_alike):
        with each:
            own, from_each = load_bytes(b, at, n), b.block
        with all_alike:
            same, from_same = broadcast(b, b.load(at)), b.block
    found = b.phi(vector(I8))
    found.add_incoming(own, from_each)
    found.add_incoming(same, from_same)
    return b.icmp_unsigned("!=", found, constant(I8, 0))


def counted(b: ir.IRBuilder, mask: Any, x: Number) -> Number:
    """A number in 16 lanes, and 0 in those of what does not count: nan and infinities are gone there."""
    return x if mask is None else [b.select(mask, part, like(part, 0.0)) for part in x]


@intrinsic
def popcount(tc: Any, p: Any, i: Any, n: Any) -> Any:
    """How many of the bytes p[i : i + n] are not 0, 64 at a time."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        total, start, whole = cgutils.alloca_once_value(b, integer(0)), b.gep(a[0], [a[1]]), b.and_(a[2], integer(-64))

        def add(found: Any) -> None:
            b.store(b.add(b.load(total), found), total)

        with cgutils.for_range_slice(b, integer(0), whole, integer(64), intp=I64) as (k, _):
            some = b.load(b.bitcast(b.gep(start, [k]), vector(I8, 64).as_pointer()), align=1)
            add(call(b, "llvm.ctpop.i64", I64, [b.bitcast(b.icmp_unsigned("!=", some, constant(I8, 0, 64)), I64)]))
        with cgutils.for_range_slice(b, whole, a[2], integer(1), intp=I64) as (k, _):
            add(b.zext(b.icmp_unsigned("!=", b.load(b.gep(start, [k])), ir.Constant(I8, 0)), I64))
        return b.load(total)

    return types.int64(p, N, N), codegen


@intrinsic
def overwrite(tc: Any, y: Any, i: Any, n: Any, mask: Any, at: Any, step: Any, value: Any) -> Any:
    """y[i : i + n] = value where mask[at : at + n] is 0; with step 0 everywhere."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for k in range(n):
        #     if not mask[at + k * step]: y[i + k] = value
        y_, i, n, mask, at, step, value = a
        track, values = Track(mask, at, integer(0), step), broadcast(b, value)

        def put(k: Any, some: Any) -> None:
            keep = included(b, track, integer(0), k, some)
            place, align = address(b, y_, b.add(i, k), y.dtype), y.dtype.bitwidth // 8
            if some is not None:
                keep = b.or_(keep, b.not_(first_lanes(b, some)))
            args = [values, place, ir.Constant(I32, align), b.not_(keep)]
            call(b, masked("store", y.dtype), ir.VoidType(), args)

        sixteens(b, integer(0), n, put)
        return ctx.get_dummy_value()

    return types.void(y, N, N, mask, N, N, value), codegen
