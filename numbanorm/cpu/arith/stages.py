"""The first and the last stage of an element, in sums and in results, whatever the family.

Between them every element is numbers of an arithmetic: what else is done to one, before or after, is to be done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from llvmlite import ir

from ..layout import Masked
from .arithmetic import Exact, Number, arithmetic_of, is_masked, stored_as
from .memory import Past
from .vectors import I64, first_lanes, integer, like


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
    return [
        with_mask(b, t, value) if is_masked(t.dtype) else Elements(t, value) for t, value in zip(types, values, strict=False)
    ]


def with_mask(b: ir.IRBuilder, t: Any, words: Any) -> Elements:
    """An array from the address of its `layout.Masked`."""
    numbers = b.bitcast(words, I64.as_pointer())
    mask = Masked(*(b.load(b.gep(numbers, [integer(k)])) for k in range(len(Masked._fields))))
    return Elements(t, b.inttoptr(mask.elements, words.type), mask)


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
