"""Rows that are contiguous in themselves and stand apart, as queries that are sliced from a fused projection.

Their place is a function of how many elements come before them: floor(i / size) * gap more than i, for up to three sizes.
A quotient is the upper half of a product with `reciprocal`, which is exact for all elements of an array or the array is copied.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from .call import Call
from .plan import Shape

LEVELS = 3  # of batch, heads and time of (B, H, T, D), transposed, no two can be one
WORD = 1 << 64
FEWEST = 16  # rows side by side that are worth more than a copy of the array: a line of float32
LONGEST = 16384  # elements of a row of which as many fit in a cache


class Level(NamedTuple):
    """A gap after each so many elements."""

    reciprocal: int  # 2**64 / elements, rounded up; 0: there is no such gap
    gap: int  # elements


NONE = Level(0, 0)


def rows_of(call: Call) -> int:
    """Elements of a row that must be contiguous, or 0 if kernels do not take rows that stand apart."""
    p = call.plan
    plain = p.M == 1 and not (call.given or call.where or call.joined)
    return p.G * p.count if plain else 0


def levels_of(a: Any, row: int) -> tuple[Level, ...] | None:
    """The gaps of an array in rows of so many elements; None if its rows have gaps within, or kernels cannot find them."""
    return levels(a.shape, a.strides, a.itemsize, row) if a.flags.aligned else None


@lru_cache(maxsize=4096)
def levels(shape: Shape, strides: Shape, itemsize: int, row: int) -> tuple[Level, ...] | None:
    """`levels_of` an array of this shape and these strides, in bytes."""
    axes = [(n, s) for n, s in zip(shape, strides, strict=True) if n > 1]
    inner, place, found, total = 1, row, list[Level](), 1
    for n in shape:
        total *= n
    while axes and inner < row and axes[-1][1] == inner * itemsize:
        inner *= axes.pop()[0]
    if inner != row or any(s % itemsize for _, s in axes):
        return None
    while axes:
        n, s = axes.pop()
        while axes and axes[-1][1] == n * s:
            n *= axes.pop()[0]
        found.append(Level(-(-WORD // inner), s // itemsize - place))
        if inner == 1 or total * (found[-1].reciprocal * inner - WORD) >= WORD:
            return None
        inner, place = inner * n, n * (s // itemsize)
    return (*found, *[NONE] * (LEVELS - len(found))) if len(found) <= LEVELS else None


def turned_of(a: Any, row: int) -> int:
    """How many rows of an array lie side by side, element by element, if none is contiguous; or 0, if it is not so."""
    return turned(a.shape, a.strides, a.itemsize, row) if a.flags.aligned else 0


@lru_cache(maxsize=4096)
def turned(shape: Shape, strides: Shape, itemsize: int, row: int) -> int:
    """`turned_of` an array of this shape and these strides, in bytes."""
    axes = [(n, s) for n, s in zip(shape, strides, strict=True) if n > 1]
    found = list[tuple[int, int]]()  # sizes and strides of a row, of rows side by side, and of these
    for size in (row, 0, 0):
        n, s = axes.pop() if axes else (1, 0)
        while axes and n != size and axes[-1][1] == n * s:
            n *= axes.pop()[0]
        found.append((n, s))
    (length, across), (beside, step), (_, outer) = found
    plain = not axes and length == row and step == itemsize and across == beside * itemsize
    return beside if plain and outer in (0, beside * row * itemsize) and beside >= FEWEST and row <= LONGEST else 0


@lru_cache(maxsize=4096)
def with_turned(call: Call, beside: int) -> Call:
    """The call whose rows lie side by side, so many of them."""
    return call.but(gaps=True, gaps_out=True, turned=beside)


@lru_cache(maxsize=4096)
def with_gaps(call: Call, written: bool) -> Call:
    """The call whose rows stand apart; written: those of y, or dx, too."""
    return call.but(gaps=True, gaps_out=written)


@lru_cache(maxsize=4096)
def without_gaps(call: Call) -> Call:
    """The call whose rows lie side by side, and whose result is no array that it reads."""
    return call.but(gaps=False, gaps_out=False, turned=0, in_place=False)
