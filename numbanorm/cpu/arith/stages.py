"""The first and the last stage of an element, in sums and in results, whatever the family.

Between them every element is numbers of an arithmetic: what else is done to one, before or after, is to be done here. What
another array adds, or an activation does, has the roundings of operations on whole arrays: to the type that is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from ..compile import types
from ..layout import Apart, Joined, Masked
from .arithmetic import EXACT, FAST, Exact, Number, arithmetic_of, is_masked, stage_of, stored_as
from .conversions import widen
from .memory import Past, put_first, put_whole, stored
from .vectors import F32, F64, I64, address, broadcast, first_lanes, integer, like, prefetch

LINE = 64  # bytes of a cache line
AHEAD = 1024  # elements that are asked for ahead of what joins a result: 11 % for layer norm of (8192, 1024)


class Beside(NamedTuple):
    """What joins an array: `layout.Joined`, its addresses as pointers and its numbers in 16 lanes."""

    other: Any
    kept: Any
    slope: Any
    top: Any


class Elements(NamedTuple):
    """An array of a kernel: the type of its pointer, and the pointer; and its mask, or what joins it, if there is such."""

    type: Any
    pointer: Any
    mask: Masked | None = None
    beside: Beside | None = None
    gaps: tuple[Any, ...] = ()  # of rows that stand apart: reciprocals and gaps

    @property
    def arithmetic(self) -> Exact:
        return arithmetic_of(self.type.dtype)

    @property
    def stored(self) -> Any:
        return stored_as(self.type.dtype)

    @property
    def stage(self) -> str:
        return stage_of(self.type.dtype)


def seen(b: ir.IRBuilder, types: Iterable[Any], values: Iterable[Any]) -> list[Elements]:
    """Arrays of a kernel, from its arguments."""
    return [one_seen(b, t, value) for t, value in zip(types, values, strict=False)]


def one_seen(b: ir.IRBuilder, t: Any, value: Any) -> Elements:
    """An array from its address, or from that of its `layout.Masked`, `layout.Joined` or `layout.Apart`."""
    if is_masked(t.dtype):
        mask = Masked(*words_at(b, value, len(Masked._fields)))
        return Elements(t, b.inttoptr(mask.elements, value.type), mask)
    if not stage_of(t.dtype):
        return Elements(t, value)
    if stage_of(t.dtype) == "gaps":
        elements, *gaps = words_at(b, value, len(Apart._fields))
        return Elements(t, b.inttoptr(elements, value.type), gaps=tuple(gaps))
    words, wide = Joined(*words_at(b, value, len(Joined._fields))), stored_as(t.dtype) == types.float64
    elements, other, kept = (b.inttoptr(word, value.type) for word in words[:3])
    numbers = [b.bitcast(word, F64) for word in words[3:]]
    slope, top = (broadcast(b, v if wide else b.fptrunc(v, F32)) for v in numbers)
    return Elements(t, elements, None, Beside(other, kept, slope, top))


def at_row(b: ir.IRBuilder, x: Elements, i: Any) -> Elements:
    """The array for the row that element `i` is in: with gaps, indices count from where the row would begin without."""
    if not x.gaps:
        return x
    wide, place = ir.IntType(128), integer(0)
    for reciprocal, gap in zip(x.gaps[::2], x.gaps[1::2], strict=True):
        product = b.mul(b.zext(i, wide), b.zext(reciprocal, wide))
        before = b.trunc(b.lshr(product, ir.Constant(wide, 64)), I64)
        place = b.add(place, b.mul(before, gap))
    return x._replace(pointer=b.gep(x.pointer, [place]))


def words_at(b: ir.IRBuilder, words: Any, n: int) -> list[Any]:
    """n integers in memory."""
    numbers = b.bitcast(words, I64.as_pointer())
    return [b.load(b.gep(numbers, [integer(k)])) for k in range(n)]


def ask(b: ir.IRBuilder, x: Elements, i: Any, near: bool = False) -> None:
    """Have the elements from `i` on brought near; but with gaps, of whose rows they may be past the end."""
    if x.gaps:
        return
    prefetch(b, x.pointer, i, near)
    if x.beside is not None:
        prefetch(b, x.beside.other, i, near)


def fetch(b: ir.IRBuilder, x: Elements, i: Any, n: Any = None) -> Any:
    """The 16 elements of x from `i` on as they are stored, or would be; with `n` only that many are read, and +0.0 behind."""
    v = stored(b, x.stored, x.pointer, i, n)
    if x.beside is None:
        return v
    other = stored(b, x.stored, x.beside.other, i, n)
    if x.stage == "plus":
        return plus(b, x, v, other)
    # gate: v where other > 0, v * slope below, 0 from the top on
    of, slope, top = operations(x), x.beside.slope, x.beside.top
    v, y = of.opened(b, v, x.stored), of.opened(b, other, x.stored)
    v = b.select(b.fcmp_ordered("<=", y, like(y, 0.0)), sloped(b, v, slope), v)
    return of.closed(b, b.select(b.fcmp_ordered(">=", y, top), like(v, 0.0), v), x.stored)


def operations(x: Elements) -> Exact:
    """The arithmetic of operations on whole arrays: that of float64 for such, that of float32 for others."""
    return EXACT if x.stored == types.float64 else FAST


def plus(b: ir.IRBuilder, x: Elements, v: Any, other: Any) -> Any:
    """v + other, of elements as they are stored, rounded to their type."""
    of = operations(x)
    return of.closed(b, b.fadd(of.opened(b, v, x.stored), of.opened(b, other, x.stored)), x.stored)


def sloped(b: ir.IRBuilder, v: Any, slope: Any) -> Any:
    """v * slope, and +0.0 where the slope is 0, whatever v is."""
    flat = b.fcmp_ordered("==", slope, like(slope, 0.0))
    return b.select(flat, like(v, 0.0), b.fmul(v, slope))


def retain(b: ir.IRBuilder, x: Elements, i: Any, v: Any, n: Any, streaming: Past | None, y: Elements) -> None:
    """Store what `fetch` gave where it is to be kept, if it is; past the caches where y goes there and lines begin alike."""
    if x.beside is None:
        return
    kept = x.beside.kept
    with b.if_then(cgutils.is_not_null(b, kept)):
        if streaming is not None:
            apart = b.and_(b.xor(b.ptrtoint(kept, I64), b.ptrtoint(y.pointer, I64)), integer(LINE - 1))
            streaming = Past(b.and_(streaming.flag, b.icmp_unsigned("==", apart, integer(0))), streaming.align)
        put(b, Elements(x.type, kept), i, v, n, streaming)


def enter(b: ir.IRBuilder, x: Elements, i: Any, n: Any = None) -> Any:
    """The 16 elements of x from `i` on, for results; with `n` only that many are read, and +0.0 stands behind them."""
    return x.arithmetic.opened(b, fetch(b, x, i, n), x.stored)


def enter_last(
    b: ir.IRBuilder, x: Elements, i: Any, n: Any, streaming: Past | None, y: Elements, of: Exact | None = None
) -> Any:
    """`enter` where y is written: what is kept of x is stored, too. of: another arithmetic than that of x."""
    v = fetch(b, x, i, n)
    retain(b, x, i, v, n, streaming, y)
    return (of or x.arithmetic).opened(b, v, x.stored)


def enter_wide(b: ir.IRBuilder, x: Elements, i: Any, n: Any = None) -> Any:
    """`enter`, for statistics."""
    return widen(b, fetch(b, x, i, n), x.stored)


def centered(b: ir.IRBuilder, of: Exact, v: Any, mean: Any, n: Any) -> Number:
    """Distances of 16 elements from the mean, to be summed; with `n` 0 for those that are not there."""
    d = of.distance(b, v, mean)
    return d if n is None else [b.select(first_lanes(b, n), part, like(part, 0.0)) for part in d]


def finish(
    b: ir.IRBuilder, y: Elements, i: Any, result: Any, n: Any = None, streaming: Past | None = None, of: Exact | None = None
) -> None:
    """The 16 elements of y from `i` on, rounded once; with `n` only that many. `streaming`: see `memory.store`; of: another
    arithmetic than that of y."""
    of = of or y.arithmetic
    if y.beside is None:
        of.store(b, y.stored, y.pointer, i, result, n, streaming)
    else:
        put(b, y, i, of.closed(b, result, y.stored), n, streaming)


def put(b: ir.IRBuilder, y: Elements, i: Any, v: Any, n: Any, streaming: Past | None = None) -> None:
    """`finish` of what is rounded."""
    if y.beside is not None:
        if "plus" in y.stage:
            if n is None:
                prefetch(b, y.beside.other, b.add(i, integer(AHEAD)))
            v = plus(b, y, v, stored(b, y.stored, y.beside.other, i, n))
        if "act" in y.stage:
            v = activated(b, y, v)
    if n is None:
        put_whole(b, y.stored, [address(b, y.pointer, i, y.stored)], [v], streaming)
    else:
        put_first(b, y.stored, y.pointer, i, v, n)


def activated(b: ir.IRBuilder, y: Elements, v: Any) -> Any:
    """v > 0 ? v : v * slope, and no more than the top; what is nan stays so."""
    assert y.beside is not None
    of, slope, top = operations(y), y.beside.slope, y.beside.top
    v = of.opened(b, v, y.stored)
    v = b.select(b.fcmp_ordered("<=", v, like(v, 0.0)), sloped(b, v, slope), v)
    return of.closed(b, b.select(b.fcmp_ordered(">", v, top), top, v), y.stored)
