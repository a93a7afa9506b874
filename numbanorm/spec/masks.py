"""Masks of x: which elements are measured, as kernels read them.

A mask is kept as it is broadcast. It is seen as (outer, middle, line), sizes of x's elements as they lie in memory, and has of
each axis one byte or all. A line is what a vector of a kernel never leaves; so one place in the mask, and a step of 0 or 1,
serves a whole line. What a mask has within an axis of these, but not along all of it, is written out for that axis alone.
"""

from __future__ import annotations

from functools import lru_cache
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


def compact(mask: Array, shape: Shape, lines: Lines) -> Array:
    """A mask that broadcasts to `shape` -> contiguous bytes, of each axis of `lines` all or one."""
    mask = mask[(None,) * (len(shape) - mask.ndim) + (...,)]
    mask = mask[tuple(slice(None) if step else slice(1) for step in mask.strides)]  # what broadcast views repeat
    axes, pieces, ends = [(n, k == 1 < n) for n, k in zip(shape, mask.shape, strict=True)], [], []
    for size in lines[:3]:
        own = 1
        while own < size:
            n, once = axes.pop(0)
            part = min(n, size // own)
            if part < n:  # channels, of which some are a group
                axes.insert(0, (n // part, once))
            pieces.append((part, once))
            own *= part
        ends.append(len(pieces))
    mask, at, sizes = mask.reshape([1 if once else n for n, once in pieces]), 0, list[int]()
    full = list[int]()
    for end in ends:
        own_pieces = pieces[at:end]
        each = lines.whole or not all(once or n == 1 for n, once in own_pieces)
        full += [n if each else 1 for n, _ in own_pieces]
        sizes.append(int(np.prod([n for n, _ in own_pieces], dtype=np.int64)) if each else 1)
        at = end
    return np.ascontiguousarray(np.broadcast_to(mask, full).reshape(sizes)).view(np.uint8)
