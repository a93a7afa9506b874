"""The first and the last stage of an element, in sums and in results, whatever the family.

Between them every element is numbers of an arithmetic: what else is done to one, before or after, is to be done here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from .arithmetic import Exact, Number, arithmetic_of, stored_as
from .memory import Past
from .vectors import first_lanes, like


class Elements(NamedTuple):
    """An array of a kernel: the type of its pointer, and the pointer."""

    type: Any
    pointer: Any

    @property
    def arithmetic(self) -> Exact:
        return arithmetic_of(self.type.dtype)

    @property
    def stored(self) -> Any:
        return stored_as(self.type.dtype)


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
