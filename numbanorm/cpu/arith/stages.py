"""The first and the last stage of an element, in sums and in results, whatever the family.

Between them every element is numbers of an arithmetic: what else is done to one, before or after, is to be done here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from .arithmetic import Exact, Number, arithmetic_of
from .vectors import F64, constant, first_lanes


class Elements(NamedTuple):
    """An array of a kernel: the type of its pointer, and the pointer."""

    type: Any
    pointer: Any

    @property
    def arithmetic(self) -> Exact:
        return arithmetic_of(self.type.dtype)


def enter(b: ir.IRBuilder, x: Elements, i: Any, n: Any = None) -> Any:
    """The 16 elements of x from `i` on; with `n` only that many are read, and +0.0 stands behind them."""
    return x.arithmetic.load(b, x.type.dtype, x.pointer, i, n)


def centered(b: ir.IRBuilder, of: Exact, v: Any, mean: Any, n: Any) -> Number:
    """Distances of 16 elements from the mean, to be summed; with `n` 0 for those that are not there."""
    d = of.distance(b, v, mean)
    return d if n is None else [b.select(first_lanes(b, n), part, constant(F64, 0.0)) for part in d]


def finish(b: ir.IRBuilder, y: Elements, i: Any, result: Any, n: Any = None, streaming: Any = None) -> None:
    """The 16 elements of y from `i` on, rounded once; with `n` only that many. `streaming`: see `vectors.store`."""
    y.arithmetic.store(b, y.type.dtype, y.pointer, i, result, n, streaming)
