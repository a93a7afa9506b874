"""The first and the last stage of an element, in sums and in results, whatever the family.

Between them every element is numbers of an arithmetic: what else is done to one, before or after, is to be done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from llvmlite import ir

from ..layout import Masked
from .arithmetic import Exact, Number, arithmetic_of, is_masked, stored_as
from .memory import Past, load_bytes
from .vectors import I8, I64, broadcast, constant, first_lanes, integer, like, vector


class Elements(NamedTuple):
    """An array of a kernel: the type of its pointer, and the pointer; and its mask, if it has one."""

    type: Any
    pointer: Any
    mask: Masked | None = None

    @property
    def arithmetic(self) -> Exact:
        return arithmetic_of(self.type.dtype)

    @property
    def stored(self) -> Any:
        return stored_as(self.type.dtype)


def seen(b: ir.IRBuilder, types: Iterable[Any], values: Iterable[Any]) -> list[Elements]:
    """Arrays of a kernel, from its arguments."""
    return [with_mask(b, t, value) if is_masked(t.dtype) else Elements(t, value) for t, value in zip(types, values, strict=False)]


def with_mask(b: ir.IRBuilder, t: Any, words: Any) -> Elements:
    """An array from the address of its `layout.Masked`."""
    numbers = b.bitcast(words, I64.as_pointer())
    mask = Masked(*(b.load(b.gep(numbers, [integer(k)])) for k in range(len(Masked._fields))))
    return Elements(t, b.inttoptr(mask.elements, words.type), mask)


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


def enter(b: ir.IRBuilder, x: Elements, i: Any, n: Any = None) -> Any:
    """The 16 elements of x from `i` on, for results; with `n` only that many are read, and +0.0 stands behind them."""
    return x.arithmetic.load(b, x.stored, x.pointer, i, n)


def enter_wide(b: ir.IRBuilder, x: Elements, i: Any, n: Any = None) -> Any:
    """`enter`, for statistics."""
    return x.arithmetic.wide(b, x.stored, x.pointer, i, n)


def centered(b: ir.IRBuilder, of: Exact, v: Any, mean: Any, n: Any) -> Number:
    """Distances of 16 elements from the mean, to be summed; with `n` 0 for those that are not there."""
    d = of.distance(b, v, mean)
    return d if n is None else [b.select(first_lanes(b, n), part, like(part, 0.0)) for part in d]


def finish(b: ir.IRBuilder, y: Elements, i: Any, result: Any, n: Any = None, streaming: Past | None = None) -> None:
    """The 16 elements of y from `i` on, rounded once; with `n` only that many. `streaming`: see `memory.store`."""
    y.arithmetic.store(b, y.stored, y.pointer, i, result, n, streaming)
