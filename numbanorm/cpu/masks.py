"""Masks of a call: what the kernels of masked elements read, and what is written where a mask leaves elements out."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..spec.call import Call
from ..spec.masks import Lines, compact, lines_of
from .arith.vectors import STORAGE, popcount
from .compile import kernel, types
from .launch import entry

Array = np.ndarray[Any, Any]
BYTES, INTEGERS = types.Array(types.uint8, 1, "C"), types.Array(types.int64, 1, "C")


class Mask(NamedTuple):
    """A mask as a kernel walks through it."""

    where: Array  # bool, of x's shape
    bytes: Array  # uint8, see `spec.masks.compact`
    lines: Lines
    steps: tuple[int, int, int]  # bytes from a row to the next, from a line, and from an element
    counts: Array  # int64 (B * G,)

    def words(self, x: Array, divisors: Array) -> Array:
        """`layout.Masked` of x. Who uses it keeps x, the divisors and the mask."""
        own, (row, line, element) = self.lines, self.steps
        addresses = (address(a) for a in (x, self.bytes, divisors))
        return np.array([*addresses, own.middle * own.line, own.line, row, line, element], dtype=np.int64)

    @property
    def divisors(self) -> Array:
        """What sums are divided by: so an empty group has a mean of 0, and no nan."""
        return np.maximum(self.counts, 1).astype(np.float64)


def address(a: Array) -> int:
    return int(a.__array_interface__["data"][0])


def mask_of(call: Call, where: Array, shape: tuple[int, ...]) -> Mask:
    """The mask of a call, of x of this shape."""
    lines = lines_of(call)
    own = compact(where, shape, lines)
    outer, middle, line = own.shape
    element = int(line > 1 or lines.whole)
    steps = (middle * line if outer > 1 or lines.whole else 0, line if middle > 1 else 0, element)
    counts = np.zeros(call.plan.units, np.int64)
    sizes = call.plan.M, call.plan.G, *lines[:4], *steps
    entry(count, (BYTES, types.UniTuple(types.int64, len(sizes)), INTEGERS))(own.reshape(-1), sizes, counts)
    return Mask(np.broadcast_to(where, shape), own, lines, steps, counts)


@kernel()
def count(mask, sizes, counts):
    """Bytes that are set, of each group -> counts (B * G,). sizes: runs, groups, the first four of `Lines`, three steps."""
    runs, groups, outer, middle, line, each, row_step, line_step, step = sizes
    columns = np.zeros(line if line > each else 0, np.int64)
    for o in range(outer):
        first = o // runs * groups
        for j in range(middle):
            at = o * row_step + j * line_step
            if line == each:  # j * line // (all that a group has of a row)
                n = popcount(mask, at, line) if step else line * (mask[at] != 0)
                counts[first + j // (middle // groups)] += n
            elif step:
                for k in range(line):
                    columns[k] += mask[at + k] != 0
            elif mask[at]:
                for k in range(groups):
                    counts[first + k] += each
        if line > each and step and (o + 1) % runs == 0:
            for k in range(line):
                counts[first + k // each] += columns[k]
                columns[k] = 0


@kernel()
def overwrite(y, value, mask, sizes):
    """y = value[0] where a byte is not set. sizes: the first three of `Lines`, and three steps."""
    outer, middle, line, row_step, line_step, step = sizes
    for o in range(outer):
        for j in range(middle):
            at, first = o * row_step + j * line_step, (o * middle + j) * line
            if step:
                for k in range(line):
                    if not mask[at + k]:
                        y[first + k] = value[0]
            elif not mask[at]:
                for k in range(line):
                    y[first + k] = value[0]


@cache
def filler(stored: str) -> Any:
    """`overwrite` for elements that are stored so."""
    elements = types.Array(getattr(types, stored), 1, "C")
    return entry(overwrite, (elements, elements, BYTES, types.UniTuple(types.int64, 6)))


def fill_excluded(y: Array, mask: Mask, value: float) -> None:
    """Write a value to the elements of contiguous y that a mask leaves out, rounded once."""
    stored = STORAGE[y.dtype.name]
    with np.errstate(over="ignore"):
        own = np.array([value]).astype(y.dtype).view(stored)
    filler(stored)(y.reshape(-1).view(stored), own, mask.bytes.reshape(-1), (*mask.lines[:3], *mask.steps))

