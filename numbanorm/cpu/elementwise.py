"""y = (x - mean) * scale + shift in float64, rounded once: over a run, and over rows of columns.

scale = rstd * weight and shift = c * weight + bias, c being the share of the mean's low part. The mean stays apart: folded
into the shift it would cancel. What a group of one value gets is exactly its bias, for then c = 0.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .kernel import intrinsic, types
from .simd import I64, broadcast, fused, integer, load, misaligned, prefetch, sixteens, smaller, store


def scale_and_shift(b: ir.IRBuilder, rstd: Any, c: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """The one place that joins statistics and parameters: scalars or vectors."""
    return b.fmul(rstd, weight), fused(b, c, weight, bias)


@intrinsic
def parameters(tc: Any, rstd: Any, c: Any, weight: Any, bias: Any) -> Any:
    """(scale, shift) of float64 scalars."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_tuple(b, sig.return_type, scale_and_shift(b, *a))

    f8 = types.float64
    return types.UniTuple(f8, 2)(f8, f8, f8, f8), codegen


def aligned_sixteens(b: ir.IRBuilder, element: Any, streaming: Any, y: Any, i: Any, n: Any, step: Any) -> None:
    """`sixteens` over y[i : i + n]; when streaming, what stands before the first aligned address is a step apart."""
    start = b.select(streaming, smaller(b, n, misaligned(b, element, y, i)), integer(0))
    with b.if_then(b.icmp_signed(">", start, integer(0))):
        step(integer(0), start)
    sixteens(b, start, n, step)


N, R = types.intp, types.float64


@intrinsic
def affine_run(
    tc: Any, streaming: Any, x: Any, y: Any, i: Any, n: Any, ahead: Any, mean: Any, rstd: Any, c: Any, w: Any, b: Any
) -> Any:
    """y[i : i + n] from x[i : i + n]; `w` and `b` are scalars, or pointers to n float64 each."""
    pointwise = isinstance(w, types.CPointer)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        streaming, xp, yp, i, n, ahead = a[:6]
        mean = broadcast(b, a[6])
        rstd, c = (broadcast(b, v) for v in a[7:9])
        fixed = None if pointwise else [broadcast(b, v) for v in scale_and_shift(b, *a[7:])]

        def step(e: Any, n: Any) -> None:
            at = b.add(i, e)
            if n is None:
                prefetch(b, xp, b.add(at, ahead))
            scale, shift = fixed or scale_and_shift(b, rstd, c, *(load(b, types.float64, p, e, n) for p in a[9:]))
            d = b.fsub(load(b, x.dtype, xp, at, n), mean)
            store(b, x.dtype, yp, at, fused(b, d, scale, shift), n, streaming)

        aligned_sixteens(b, x.dtype, streaming, yp, i, n, step)
        return ctx.get_dummy_value()

    return types.void(types.boolean, x, y, N, N, N, R, R, R, w, b), codegen


@intrinsic
def affine_columns(tc: Any, x: Any, y: Any, i: Any, rows: Any, stride: Any, width: Any, parameters: Any, room: Any) -> Any:
    """`width` columns from x[i] on in `rows` rows; parameters: float64 (3, room): mean, scale, shift.

    Four rows at a time where a row is a page or more: the parameters of 1024 columns fill L1, and loaded for each row they
    take longer than x and y (2.6 ms became 1.4 for (4096, 1024)). Shorter rows go one by one: two rows in a page are more
    than the CPU's prefetcher follows (2.5 ms became 1.3 for (8192, 512)). Stores that go past the caches gained nothing
    here, and lost a fifth where y was not aligned.
    """
    element = x.dtype

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        xp, yp, i, rows, stride, width, parameters, room = a
        paged = b.icmp_signed(">=", stride, integer(4096 * 8 // element.bitwidth))
        together = b.select(paged, integer(4), integer(1))
        with cgutils.for_range_slice(b, integer(0), rows, together, intp=I64) as (first, _):
            start, count = b.add(i, b.mul(first, stride)), smaller(b, together, b.sub(rows, first))

            def step(e: Any, n: Any) -> None:
                places = (b.add(e, b.mul(room, integer(k))) for k in range(3))
                mean, scale, shift = (load(b, types.float64, parameters, k) for k in places)
                with cgutils.for_range(b, count, intp=I64) as row:
                    at = b.add(b.add(start, e), b.mul(row.index, stride))
                    d = b.fsub(load(b, element, xp, at, n), mean)
                    store(b, element, yp, at, fused(b, d, scale, shift), n)

            sixteens(b, integer(0), width, step)
        return ctx.get_dummy_value()

    return types.void(x, y, N, N, N, N, parameters, N), codegen
