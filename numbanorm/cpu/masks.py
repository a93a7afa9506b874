"""Masks of a call: what the kernels of masked elements read, and what is written where a mask leaves elements out."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..spec.call import Call
from ..spec.masks import Lines, compact, lines_of
from .arith.vectors import STORAGE
from .compile import types
from .families.masks import count, fill, write
from .launch import entry

Array = np.ndarray[Any, Any]


class Mask(NamedTuple):
    """A mask as a kernel walks through it."""

    where: Array  # bool, as it came
    bytes: Array  # uint8, see `spec.masks.compact`
    lines: Lines
    steps: tuple[int, int, int]  # bytes from a row to the next, from a line, and from an element
    counts: Array  # int64 (B * G,)
    divisors: Array  # float64, no less than 1: so an empty group has a mean of 0, and no nan

    def words(self, x: Array) -> Array:
        """`layout.Masked` of x; who uses it keeps both."""
        own = self.lines
        addresses = (a.__array_interface__["data"][0] for a in (x, self.bytes, self.divisors))
        return np.array([*addresses, own.middle * own.line, own.line, *self.steps], dtype=np.int64)


def mask_of(call: Call, where: Array, shape: tuple[int, ...]) -> Mask:
    """The mask of a call, of x of this shape."""
    lines = lines_of(call)
    own = compact(where, shape, lines)
    outer, middle, line = own.shape
    element = int(line > 1 or lines.whole)
    steps = (middle * line if outer > 1 or lines.whole else 0, line if middle > 1 else 0, element)
    counts = np.zeros(call.plan.units, np.int64)
    counter()(own, (call.plan.M, call.plan.G, *lines[:4], *steps), counts)
    return Mask(where, own, lines, steps, counts, np.maximum(counts, 1).astype(np.float64))


def fill_excluded(y: Array, mask: Mask, value: float) -> None:
    """Write a value to the elements of contiguous y that a mask leaves out, rounded once."""
    stored = STORAGE[y.dtype.name]
    with np.errstate(over="ignore"):
        own = np.array([value]).astype(y.dtype).view(stored)
    filler(stored)(y.reshape(-1).view(stored), own, mask.bytes, (*mask.lines[:3], *mask.steps))


def write_empty(call: Call, y: Array, bias: Array | None, counts: Array) -> None:
    """The bias for the elements of groups of which nothing is measured, whatever is there, be it nan."""
    if counts.all():
        return
    p, stored = call.plan, STORAGE[y.dtype.name]
    with np.errstate(over="ignore"):
        biases = np.zeros(p.G * p.K, y.dtype) if bias is None else (bias.reshape(-1) + 0.0).astype(y.dtype)
    own, elements = y.reshape(-1).view(stored), types.Array(getattr(types, stored), 1, "C")
    writer(elements)(own, biases.view(stored), counts, (p.M, p.G, p.K, p.T))


BYTES = types.Array(types.uint8, 3, "C")


@cache
def counter() -> Any:
    """`count`, compiled."""
    return entry(count, (BYTES, types.UniTuple(types.int64, 9), types.Array(types.int64, 1, "C")))


@cache
def filler(stored: str) -> Any:
    """`fill`, compiled for elements that are stored so."""
    elements = types.Array(getattr(types, stored), 1, "C")
    return entry(fill, (elements, elements, BYTES, types.UniTuple(types.int64, 6)))


@cache
def writer(elements: Any) -> Any:
    """`write`, compiled for elements that are stored so."""
    return entry(write, (elements, elements, types.Array(types.int64, 1, "C"), types.UniTuple(types.int64, 4)))
