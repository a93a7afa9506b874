"""Elements that are moved from columns to rows and back: blocks that registers hold, by Eklundh's exchanges (1972)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ..compile import intrinsic, types
from .memory import store_all
from .vectors import I32, I64, MEMORY, integer, vector

Place = tuple[Any, Any, Any]  # a pointer, a first element, and how many are from one row or column to the next
BYTES = 64  # of a row of a block: a cache line, or where elements have two bytes half of one


def side(element: Any) -> int:
    """Rows and columns of a block."""
    return 8 if element == types.float64 else 16


def transposed(b: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """The columns of a block: halves change places across the diagonal, then quarters, down to elements."""
    n, rows = len(rows), list(rows)
    distance = n // 2
    while distance:
        upper = [j ^ distance | n if j & distance else j for j in range(n)]  # lanes of one row, or n more of the other
        lower = [j | n if j & distance else j ^ distance for j in range(n)]
        for i in range(n):
            if not i & distance:
                one, other = rows[i], rows[i | distance]
                for place, lanes in ((i, upper), (i | distance, lower)):
                    rows[place] = b.shuffle_vector(one, other, ir.Constant(vector(I32, n), lanes))
        distance //= 2
    return rows


def block(b: ir.IRBuilder, element: Any, source: Place, target: Place, past: bool) -> None:
    """target[j, i] = source[i, j] of a block; past: the caches."""
    n, align = side(element), element.bitwidth // 8
    places = []
    for p, first, step in (source, target):
        at = [b.gep(p, [b.add(first, b.mul(step, integer(k)))]) for k in range(n)]
        places.append([b.bitcast(a, vector(MEMORY[element], n).as_pointer()) for a in at])
    values = transposed(b, [b.load(p, align=align) for p in places[0]])
    store_all(b, values, places[1], n * align if past else align, past_caches=past)


def one(b: ir.IRBuilder, source: Place, target: Place) -> None:
    """An element."""
    b.store(b.load(b.gep(source[0], [source[1]])), b.gep(target[0], [target[1]]))


def walk(
    b: ir.IRBuilder, element: Any, columns: tuple[Any, Any], rows: tuple[Any, Any], sizes: tuple[Any, Any], move: Any, rest: Any
) -> None:
    """`move` whole blocks, then the `rest` by elements: each is given where they are in the columns and in the rows.

    columns, rows: a pointer, and what is from one to the next; sizes: how many columns there are, and rows.
    """
    n, one = integer(side(element)), integer(1)
    whole = [b.sub(k, b.srem(k, n)) for k in sizes]
    zero = integer(0)
    for i0, i1, j0, j1, step, do in (
        (zero, whole[0], zero, whole[1], n, move),
        (zero, whole[0], whole[1], sizes[1], one, rest),
        (whole[0], sizes[0], zero, sizes[1], one, rest),
    ):
        with (
            cgutils.for_range_slice(b, i0, i1, step, intp=I64) as (i, _),
            cgutils.for_range_slice(b, j0, j1, step, intp=I64) as (j, _),
        ):
            (p, across), (q, over) = columns, rows
            do((p, b.add(b.mul(i, across), j), across), (q, b.add(b.mul(j, over), i), over))


@intrinsic
def gather(tc: Any, columns: Any, across: Any, length: Any, beside: Any, rows: Any) -> Any:
    """rows[j * length + i] = columns[i * across + j] for i below `length` and j below `beside`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        p, across, length, beside, q = a
        walk(b, columns.dtype, (p, across), (q, length), (length, beside), lambda x, y: block(b, columns.dtype, x, y, False),
             lambda x, y: one(b, x, y))  # fmt: skip
        return ctx.get_dummy_value()

    return types.void(columns, types.intp, types.intp, types.intp, rows), codegen


@intrinsic
def scatter(tc: Any, rows: Any, length: Any, beside: Any, columns: Any, across: Any, streaming: Any) -> Any:
    """columns[i * across + j] = rows[j * length + i]; streaming: past the caches, where all whole blocks begin with lines."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        q, length, beside, p, across, streaming = a

        def moved(x: Any, y: Any) -> None:
            with b.if_else(streaming) as (past, through):
                with past:
                    block(b, rows.dtype, y, x, True)
                with through:
                    block(b, rows.dtype, y, x, False)

        walk(b, rows.dtype, (p, across), (q, length), (length, beside), moved, lambda x, y: one(b, y, x))
        return ctx.get_dummy_value()

    return types.void(rows, types.intp, types.intp, columns, types.intp, types.boolean), codegen


@intrinsic
def elements_at(tc: Any, p: Any) -> Any:
    """The pointer that stands where p points."""
    return p(p), lambda ctx, b, sig, a: b.load(b.bitcast(a[0], a[0].type.as_pointer()))


@intrinsic
def number_at(tc: Any, p: Any, k: Any) -> Any:
    """Number k of the integers that stand where p points."""
    return types.int64(p, types.intp), lambda ctx, b, sig, a: b.load(b.gep(b.bitcast(a[0], I64.as_pointer()), [a[1]]))


@intrinsic
def lines_for(tc: Any, space: Any, like: Any) -> Any:
    """The same memory from its first whole line on, for elements like those."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        place = b.and_(b.add(b.ptrtoint(a[0], I64), integer(BYTES - 1)), integer(-BYTES))
        return b.inttoptr(place, ctx.get_value_type(like))

    return like(space, like), codegen


@intrinsic
def in_lines(tc: Any, p: Any) -> Any:
    """Whether a line begins where p points."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.icmp_unsigned("==", b.and_(b.ptrtoint(a[0], I64), integer(BYTES - 1)), integer(0))

    return types.boolean(p), codegen
