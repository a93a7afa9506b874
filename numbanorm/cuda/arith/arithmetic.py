"""Arithmetics: how a kernel computes numbers, as a value among the constants of its builder.

A number is a tuple of float64, its parts, and each device function takes the branch for so many when it is compiled. So an
arithmetic says how many there are, how elements come in and go out, and what follows for launches; nobody else asks whether
something is float64, or whether results are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numba import float32, float64

from . import stages
from .device import single, widen


@dataclass(frozen=True)
class Arithmetic:
    """What the arithmetics share; equal by class and field, for kernels are kept by their constants."""

    parts: ClassVar[int]  # float64 of a number, and of an accumulator
    rows: ClassVar[int]  # of the table of what a gradient takes
    rescales: ClassVar[bool]  # groups may leave float64's range, and are then computed again
    walks: ClassVar[bool]  # `rows_gradients` has registers for sums of columns
    single: ClassVar[bool] = False  # whether results are computed in float32, where that has room for a group's constants
    element: ClassVar[Any] = float32  # what an element is that a thread holds, see `stages.take`
    number: ClassVar[Any] = float64  # what an element is in `rows_gradients`, and a sum of its first terms
    numbered = staticmethod(widen)  # such a number

    at_once: bool = False  # whether sums and squares are taken in one read, or one after the other

    enter = staticmethod(stages.enter)
    take = staticmethod(stages.take)
    finish = staticmethod(stages.finish)
    finish_gradient = staticmethod(stages.finish_gradient)

    @property
    def zero(self) -> tuple[float, ...]:
        """An accumulator of nothing."""
        return (0.0,) * self.parts

    @property
    def sums(self) -> Arithmetic:
        """The same for kernels that write no elements: one for all that add alike."""
        return PAIRS if self.parts == PAIRS.parts else EXACT

    def table(self, units: int) -> int:
        """Elements of the table of what a gradient takes, and of the flag behind it."""
        return self.rows * units + self.rescales


@dataclass(frozen=True)
class Exact(Arithmetic):
    """One float64, for elements of 32 bits or fewer."""

    parts, rows, rescales, walks = 1, 3, False, True


@dataclass(frozen=True)
class Fast(Exact):
    """The same sums, and results in float32: see `elements32`. Gradients have float32 sums of eight terms, too."""

    single, number, numbered = True, float32, staticmethod(single)


@dataclass(frozen=True)
class ExactPairs(Arithmetic):
    """Two, the second what the first has lost, for float64 elements."""

    parts, rows, rescales, walks, element = 2, 6, True, False, float64


EXACT, PAIRS = Exact(), ExactPairs()


def arithmetic_of(dtype: str | None, exact: bool = True, at_once: bool = False) -> Arithmetic:
    """The arithmetic for elements of a dtype; see `Call` for the others."""
    if dtype == "float64":
        return PAIRS
    return Exact(at_once) if exact else Fast(at_once)
