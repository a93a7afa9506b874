"""Arithmetics: how a kernel computes numbers, as a value among the constants of its builder.

A number is a tuple of float64, its parts, and each device function takes the branch for so many when it is compiled. So an
arithmetic says how many there are, how elements come in and go out, and what follows for launches; nobody else asks whether
something is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import stages


@dataclass(frozen=True)
class Arithmetic:
    """What the arithmetics share; equal by class, for kernels are kept by their constants."""

    parts: ClassVar[int]  # float64 of a number, and of an accumulator
    rows: ClassVar[int]  # of the table of what a gradient takes
    rescales: ClassVar[bool]  # groups may leave float64's range, and are then computed again
    walks: ClassVar[bool]  # `rows_gradients` has registers for sums of columns

    enter = staticmethod(stages.enter)
    finish = staticmethod(stages.finish)
    finish_gradient = staticmethod(stages.finish_gradient)

    @property
    def zero(self) -> tuple[float, ...]:
        """An accumulator of nothing."""
        return (0.0,) * self.parts

    def table(self, units: int) -> int:
        """Elements of the table of what a gradient takes, and of the flag behind it."""
        return self.rows * units + self.rescales


@dataclass(frozen=True)
class Exact(Arithmetic):
    """One float64, for elements of 32 bits or fewer."""

    parts, rows, rescales, walks = 1, 3, False, True


@dataclass(frozen=True)
class ExactPairs(Arithmetic):
    """Two, the second what the first has lost, for float64 elements."""

    parts, rows, rescales, walks = 2, 6, True, False


EXACT, PAIRS = Exact(), ExactPairs()


def arithmetic_of(dtype: str | None) -> Arithmetic:
    """The arithmetic for elements of a dtype."""
    return PAIRS if dtype == "float64" else EXACT
