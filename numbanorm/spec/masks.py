"""Masks of x: which elements are measured, as kernels read them.

A mask is kept as it is broadcast. It is seen as (outer, middle, line), sizes of x's elements as they lie in memory, and has of
each axis one byte or all. A line is what a vector of a kernel never leaves; so one place in the mask, and a step of 0 or 1,
serves a whole line. What a mask has within an axis of these, but not along all of it, is written out for that axis alone.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .call import Call
from .plan import Shape
from .tree import by_columns, fold_for, gradient_family

Array = np.ndarray[Any, Any]


class Lines(NamedTuple):
    """How a kernel walks through the elements of x."""

    outer: int
    middle: int
    line: int
    each: int  # neighbours of a line that share a mean
    whole: bool  # whether vectors leave lines after all, for rows are summed side by side: the mask is written out


@lru_cache(maxsize=4096)
def lines_of(call: Call) -> Lines:
    """The lines of the kernel that sums for a call."""
    p = call.plan
    length, outer = p.K * p.T, p.B * p.M
    if gradient_family(p) == "columns" if call.backward else by_columns(p):
        return Lines(outer, 1, p.G * length, length, fold_for(p.M, p.G * length) > 1)
    if call.backward and gradient_family(p) == "runs":
        return Lines(outer, p.G * p.K, p.T, p.T, False)
    return Lines(outer, p.G, length, length, False)


@lru_cache(maxsize=4096)
def reshaping(shape: Shape, own: Shape, lines: Lines) -> tuple[Shape, Shape, Shape]:
    """How a mask of the shape `own`, with an axis for each of `shape`, becomes (outer, middle, line): it is reshaped,
    broadcast, and reshaped."""
    axes, pieces, full, sizes = list(zip(shape, own, strict=True)), list[int](), list[int](), list[int]()
    for size in lines[:3]:
        told = list[tuple[int, int]]()  # elements of x, and of the mask
        while prod(n for n, _ in told) < size:
            n, k = axes.pop(0)
            part = min(n, size // prod(n for n, _ in told))
            if part < n:  # channels, of which some are a group
                axes.insert(0, (n // part, min(k, n // part)))
            told.append((part, min(k, part)))
        varies = lines.whole or any(k > 1 for _, k in told)
        pieces += [k for _, k in told]
        full += [n if varies else 1 for n, _ in told]
        sizes.append(size if varies else 1)
    return tuple(pieces), tuple(full), tuple(sizes)


def compact(mask: Array, shape: Shape, lines: Lines) -> Array:
    """A mask that broadcasts to `shape` -> contiguous bytes, of each axis of `lines` all or one."""
    if 0 in mask.strides:  # what broadcast views repeat
        mask = mask[tuple(slice(None) if step else slice(1) for step in mask.strides)]
    own = (1,) * (len(shape) - mask.ndim) + mask.shape
    pieces, full, sizes = reshaping(shape, own, lines)
    mask = mask.reshape(pieces)
    if full != pieces:
        mask = np.broadcast_to(mask, full)
    return np.ascontiguousarray(mask.reshape(sizes)).view(np.uint8)
