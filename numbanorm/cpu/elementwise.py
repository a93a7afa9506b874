"""y = ((x - mean) * rstd + c) * weight + bias in float64, rounded once: over a run, and over rows of columns."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .kernel import intrinsic
from .simd import I64, LANES, broadcast, fused, integer, load, misaligned, prefetch, smaller, store


def sixteens(b: ir.IRBuilder, start: Any, stop: Any, step: Any) -> None:
    """`step(e, None)` for whole vectors from `start` on, then `step(e, n)` for the n < 16 elements that remain."""
    rest = b.and_(b.sub(stop, start), integer(LANES - 1))
    whole = b.sub(stop, rest)
    with cgutils.for_range_slice(b, start, whole, integer(LANES), intp=I64) as (e, _):
        step(e, None)
    with b.if_then(b.icmp_signed(">", rest, integer(0))):
        step(whole, rest)


def run(b: ir.IRBuilder, element: Any, streaming: bool, pointwise: bool, args: Any) -> None:
    """args: x, y, i, n, ahead, mean, rstd, c, w, b; w and b scalars, or `pointwise` pointers to n float64."""
    x, y, i, n, ahead = args[:5]
    mean, rstd, c = (broadcast(b, v) for v in args[5:8])
    fixed = None if pointwise else [broadcast(b, v) for v in args[8:]]

    def step(e: Any, n: Any) -> None:
        at = b.add(i, e)
        if n is None:
            prefetch(b, x, b.add(at, ahead))
        weight, bias = fixed or (load(b, types.float64, p, e, n) for p in args[8:])
        z = fused(b, b.fsub(load(b, element, x, at, n), mean), rstd, c)
        store(b, element, y, at, fused(b, z, weight, bias), n, streaming)

    start = integer(0)
    if streaming:  # what stands before the first aligned address is written apart
        start = smaller(b, n, misaligned(b, element, y, i))
        with b.if_then(b.icmp_signed(">", start, integer(0))):
            step(integer(0), start)
    sixteens(b, start, n, step)


@intrinsic
def affine_run(
    tc: Any, streaming: Any, x: Any, y: Any, i: Any, n: Any, ahead: Any, mean: Any, rstd: Any, c: Any, w: Any, b: Any
) -> Any:
    """y[i : i + n] from x[i : i + n]; `w` and `b` are scalars, or pointers to n float64 each."""

    def codegen(ctx: Any, builder: Any, sig: Any, a: Any) -> Any:
        with builder.if_else(a[0]) as (yes, no):
            for branch, chosen in ((yes, True), (no, False)):
                with branch:
                    run(builder, x.dtype, chosen, isinstance(w, types.CPointer), a[1:])
        return ctx.get_dummy_value()

    n_, r_ = types.intp, types.float64
    return types.void(types.boolean, x, y, n_, n_, n_, r_, r_, r_, w, b), codegen


def rows_of_columns(b: ir.IRBuilder, element: Any, streaming: bool, args: Any) -> None:
    """args: x, y, i, rows, stride, width, parameters, room; the parameters of column k stand at k + room * (0 .. 4)."""
    x, y, i, rows, stride, width, parameters, room = args

    def step(e: Any, n: Any) -> None:
        mean, rstd, c, weight, bias = (load(b, types.float64, parameters, b.add(e, b.mul(room, integer(k)))) for k in range(5))
        with cgutils.for_range(b, rows, intp=I64) as row:
            at = b.add(b.add(i, e), b.mul(row.index, stride))
            z = fused(b, b.fsub(load(b, element, x, at, n), mean), rstd, c)
            store(b, element, y, at, fused(b, z, weight, bias), n, streaming)

    start = integer(0)
    if streaming:
        start = smaller(b, width, misaligned(b, element, y, i))
        with b.if_then(b.icmp_signed(">", start, integer(0))):
            step(integer(0), start)
    sixteens(b, start, width, step)


@intrinsic
def affine_columns(
    tc: Any, streaming: Any, x: Any, y: Any, i: Any, rows: Any, stride: Any, width: Any, parameters: Any, room: Any
) -> Any:
    """`width` columns from x[i] on in `rows` rows; parameters: float64 (5, room): mean, rstd, c, weight, bias.

    Streaming wants `stride` to be a multiple of 16.
    """

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        with b.if_else(a[0]) as (yes, no):
            for branch, chosen in ((yes, True), (no, False)):
                with branch:
                    rows_of_columns(b, x.dtype, chosen, a[1:])
        return ctx.get_dummy_value()

    n_ = types.intp
    return types.void(types.boolean, x, y, n_, n_, n_, n_, parameters, n_), codegen
