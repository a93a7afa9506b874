"""Sums and squares in one read: two sums in the trees of `accumulators`, of which each has the bits that it would have alone.

What a group's squares about 0 and its sum give is accepted where 2**10 times its squares about the mean are no less than those
about 0: at least 42 bits of the variance are then right. It is a function
of the group alone. Any other group has its squares about the mean taken as well; see `statistics.conclude_moments`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import int64
from numba.core import cgutils

from ..compile import device, intrinsic, types
from .accumulators import TILE, Running, drain, empty, push, running_at, slot, through_tile, write_back
from .arithmetic import Vec, arithmetic_of
from .masked import counted, included, track, visit, visited
from .stages import Elements, ask, at_row, enter_wide, seen
from .vectors import F64, I32, I64, broadcast, call, constant, down_rows, integer, smaller, take, vector

N = types.intp
AHEAD = 1024  # elements that sums ask for ahead: (512, 768) 6 % and (4096, 768) 3 % faster; the CPU's own guess is too late


def add_both(b: ir.IRBuilder, acc: tuple[Running, Running], x: Elements, i: Any, n: Any, mask: Any) -> None:
    """Add the 16 elements of x from `i` on, or n of them, and their squares. acc: of sums, and of squares."""
    (v,) = counted(b, mask, [enter_wide(b, x, i, n)])
    acc[0].add_term(b, v)
    acc[1].add_product(b, [v], [v])


def fold_both(b: ir.IRBuilder, sums: list[Running], squares: list[Running]) -> Any:
    """`accumulators.fold` of two sums at once, side by side in one vector from 8 lanes down -> <2 x double>."""

    def half(v: Any, k: int, n: int) -> Any:
        return take(b, v, list(range(k * n, (k + 1) * n)))

    both = []
    for low, high in (sums, squares):
        v = b.fadd(low.now(b)[0], high.now(b)[0])
        both.append(b.fadd(half(v, 0, 8), half(v, 1, 8)))
    for n in (4, 2, 1):
        parts = [[half(v, k, n) for v in both] for k in (0, 1)]
        joined = [b.shuffle_vector(s, q, ir.Constant(vector(I32, 2 * n), list(range(2 * n)))) for s, q in parts]
        total = b.fadd(*joined)
        both = [half(total, 0, n), half(total, 1, n)]
    return total


@intrinsic
def tile_moments(tc: Any, x: Any, i: Any, n: Any) -> Any:
    """Sum and sum of squares of the tile x[i : i + n], n <= 256, as one accumulator of two lanes."""
    of = arithmetic_of(x.dtype)
    t = Vec(2, of)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for k in range(n):
        #     lane[k % 32] += x[i + k]
        #     squares[k % 32] += x[i + k] * x[i + k]
        # return fold(lane), fold(squares)
        if not of.at_once:  # no call asks for it
            return t.zero()
        (xs,), i, n = seen(b, [x], a), a[1], a[2]
        xs = at_row(b, xs, i)

        def of_tile(mask: Any) -> Any:
            sums, squares = ([Running(b, of) for _ in range(2)] for _ in range(2))

            def add(at: Any, rest: Any = None) -> None:
                for half in range(2):
                    start, left = b.add(at, integer(16 * half)), None if rest is None else b.sub(rest, integer(16 * half))
                    if rest is None and (half == 0 or x.dtype.bitwidth > 16):
                        ask(b, xs, b.add(start, integer(AHEAD)), near=True)
                    own = included(b, mask, integer(0), b.sub(start, i), left)
                    add_both(b, (sums[half], squares[half]), xs, start, left, own)

            through_tile(b, i, n, add)
            return fold_both(b, sums, squares)

        return visited(b, track(b, xs, i), of_tile, t.zero())

    return t(x, N, N), codegen


@device()
def span_moments(x, i, n, stack):
    """Sums and squares of x[i : i + n], an aligned part of a run: its run tree."""
    tiles = (n + TILE - 1) // TILE
    if tiles == 1:
        return tile_moments(x, i, n)
    for k in range(tiles):
        push(stack, int64(0), int64(2), k, tile_moments(x, i + TILE * k, min(TILE, n - TILE * k)))
    return drain(stack, int64(0), int64(2), tiles, empty(x, 2))


@intrinsic
def add_row_moments(tc: Any, x: Any, block: Any, out: Any, room: Any) -> Any:
    """out[c] = sum, out[room + c] = sum of squares of column c over the rows of a block; see `accumulators.add_rows`."""
    t = Vec(arithmetic=arithmetic_of(x.dtype))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # for r in range(rows):
        #     for c in range(width):
        #         out[c] += x[i + r * stride + c]
        #         out[room + c] += x[i + r * stride + c] ** 2
        if not t.arithmetic.at_once:
            return ctx.get_dummy_value()
        (xs,), block, out, room = seen(b, [x], a), cgutils.unpack_tuple(b, a[1]), a[2], a[3]
        i, _, together, stride, _ = block
        masks = track(b, xs, i, stride)

        def step(first: Any, c: Any, n: Any, rows: Any) -> None:
            columns = [c, b.add(c, room)]
            sums = running_at(b, t, out, columns, b.icmp_signed("==", first, integer(0)))
            with rows() as (at, row):
                ask(b, xs, b.add(at, b.mul(together, stride)))
                visit(b, masks, row, lambda mask: add_both(b, (sums[0], sums[1]), xs, at, n, included(b, mask, row, c, n)))
            write_back(b, t, out, columns, sums)

        down_rows(b, block, step)
        return ctx.get_dummy_value()

    return types.void(x, block, out, N), codegen


@intrinsic
def sum_and_squares(tc: Any, both: Any) -> Any:
    """The two lanes of `tile_moments` as two accumulators."""
    of = both.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        parts = of.split(b, a[0])
        return ctx.make_tuple(b, sig.return_type, [of.join(b, [take(b, part, [k]) for part in parts]) for k in range(2)])

    return types.UniTuple(Vec(1, of), 2)(both), codegen


@intrinsic
def get_moments(tc: Any, p: Any, i: Any, n: Any, like: Any) -> Any:
    """n <= 16 pairs of sum and squares from pair `i` of work space on -> two accumulators of 16 lanes, 0 in the others."""
    of = like.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not of.at_once:
            return ctx.make_tuple(b, sig.return_type, [like.zero()] * 2)
        p, i, n, _ = a
        both, width = Vec(2, of), 2 * like.lanes
        left = smaller(b, b.add(n, n), integer(width))
        mask = b.icmp_signed("<", ir.Constant(vector(I64, width), list(range(width))), broadcast(b, left, width))
        where = b.bitcast(slot(b, p, b.add(i, i), both), vector(F64, width).as_pointer())
        args = [where, ir.Constant(I32, 8), mask, constant(F64, 0.0, width)]
        v = call(b, f"llvm.masked.load.v{width}f64.p0", vector(F64, width), args)
        return ctx.make_tuple(b, sig.return_type, [take(b, v, list(range(k, width, 2))) for k in range(2)])

    return types.UniTuple(like, 2)(p, N, N, like), codegen
