"""Masks in kernels: which of 16 elements count, and what happens to the others. See `spec.masks`.

The place of an element is found by divisions once a tile, or a block of rows; from there on it is a step to the next.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Which of 16 elements count where each has its byte, None for all; with `n` only that many are there."""
    if mask is None:
        return None
    return b.icmp_unsigned("!=", load_bytes(b, place_in(b, mask, row, column), n), constant(I8, 0))


def place_in(b: ir.IRBuilder, mask: Track, row: Any, column: Any) -> Any:
    """The byte of an element."""
    return b.gep(mask.bytes, [b.add(mask.start, b.add(b.mul(row, mask.row), b.mul(column, mask.column)))])


def visit(b: ir.IRBuilder, mask: Track | None, row: Any, part: Callable[[Track | None], None]) -> None:
    """`part(mask)` where each element of a row has its byte; else `part(None)`, or nothing if the row does not count."""
    if mask is None:
        part(None)
        return
    with b.if_else(b.icmp_signed("!=", mask.column, integer(0))) as (each, all_alike):
        with each:
            part(mask)
        with all_alike:
            counts = b.icmp_unsigned("!=", b.load(place_in(b, mask, row, integer(0))), ir.Constant(I8, 0))
            with b.if_then(counts):
                part(None)


def visited(b: ir.IRBuilder, mask: Track | None, part: Callable[[Track | None], Any], nothing: Any) -> Any:
    """The value of `part` for one row, see `visit`; or `nothing`."""
    if mask is None:
        return part(None)
    place = cgutils.alloca_once_value(b, nothing)
    visit(b, mask, integer(0), lambda own: b.store(part(own), place))
    return b.load(place)


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
def overwrite(tc: Any, y: Any, i: Any, n: Any, mask: Any, at: Any, value: Any) -> Any:
    """y[i : i + n] = value where mask[at : at + n] is 0."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        y_, i, n, mask, at, value = a
        values, nothing = broadcast(b, value), constant(I8, 0)

        def put(k: Any, some: Any) -> None:
            out = b.icmp_unsigned("==", load_bytes(b, b.gep(mask, [b.add(at, k)]), some), nothing)
            out = out if some is None else b.and_(out, first_lanes(b, some))
            args = [values, address(b, y_, b.add(i, k), y.dtype), ir.Constant(I32, y.dtype.bitwidth // 8), out]
            call(b, masked("store", y.dtype), ir.VoidType(), args)

        sixteens(b, integer(0), n, put)
        return ctx.get_dummy_value()

    return types.void(y, N, N, mask, N, value), codegen
