"""The order of every sum: a row tree over few terms a place, a run tree over many.

An accumulator is a number; `add` takes a term into it, `plus` joins two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..spec.tree import LANE_COUNT, TILE, block_rows, fold_for
from .numbers import Array, Number, fma, fma32, plus, times, two_sum

Add = Callable[..., Number]  # (accumulator, *term) -> accumulator
Add32 = Callable[..., Array]  # the same in float32
LEAST_BLOCK = 8  # rows that are added in float32: as many as lanes add


def add_term(acc: Number, high: Any, low: Any = 0.0) -> Number:
    """acc + a term and its own error; the low limb is not made small before it is joined."""
    if len(acc) == 1:
        return [acc[0] + high]
    s, e = two_sum(acc[0], high)
    return [s, acc[1] + (e + low)]


def add_product(acc: Number, x: Number, y: Number) -> Number:
    """acc + x * y."""
    if len(acc) == 1:
        return [fma(x[0], y[0], acc[0])]
    return add_term(acc, *times(x, y, 2))


def add32(acc: Array, term: Array) -> Array:
    return acc + term


def add_product32(acc: Array, x: Array, y: Array) -> Any:
    return fma32(x, y, acc)


def pairs(leaves: Number) -> Number:
    """Leaves (n, ...) joined in adjacent pairs, level by level; an odd one passes up."""
    while (n := len(leaves[0])) > 1:
        even, odd = ([limb[k : n - n % 2 : 2] for limb in leaves] for k in (0, 1))
        left = [limb[n - n % 2 :] for limb in leaves]
        leaves = [np.concatenate(limb) for limb in zip(plus(even, *odd), left, strict=True)]
    return [limb[0] for limb in leaves]


def blocks(add: Add, terms: list[Array], limbs: int) -> Number:
    """Leaves of a row tree over terms (rows, ...): so many rows each, added in order."""
    rows = len(terms[0])
    step = block_rows(rows)
    acc = [np.zeros((-(-rows // step), *terms[0].shape[1:])) for _ in range(limbs)]
    for r in range(min(step, rows)):
        there = [term[r::step] for term in terms]
        k = len(there[0])
        for limb, new in zip(acc, add([limb[:k] for limb in acc], *there), strict=True):
            limb[:k] = new
    return acc


def padded(term: Array, length: int) -> Array:
    """A term with zeros behind it: what is absent adds nothing."""
    return np.concatenate([term, np.zeros((length - len(term), *term.shape[1:]), term.dtype)])


def by_halves(lanes: Number) -> Number:
    """Sums of tiles (n, LANE_COUNT, ...): the second half of the lanes is added to the first, until one is left."""
    half = LANE_COUNT
    while half := half // 2:
        lanes = plus([limb[:, :half] for limb in lanes], *[limb[:, half:] for limb in lanes])
    return [limb[:, 0] for limb in lanes]


def tiles(add: Add, terms: list[Array], limbs: int) -> Number:
    """Leaves of a run tree over terms (length, ...): 8 steps of 32 lanes, each in order, then the lanes by halves."""
    n = -(-len(terms[0]) // TILE)
    shape = terms[0].shape[1:]
    steps = [padded(term, n * TILE).reshape(n, -1, LANE_COUNT, *shape) for term in terms]
    acc = [np.zeros((n, LANE_COUNT, *shape)) for _ in range(limbs)]
    for k in range(TILE // LANE_COUNT):
        acc = add(acc, *[term[:, k] for term in steps])
    return by_halves(acc)


def blocks32(add: Add32, terms: list[Array]) -> Array:
    """Leaves of a row tree whose first sums are float32: of LEAST_BLOCK rows, which are then added in order in float64."""
    step = block_rows(len(terms[0]))
    n = -(-len(terms[0]) // step)
    parts = [padded(term, n * step).reshape(n, -1, LEAST_BLOCK, *term.shape[1:]) for term in terms]
    acc = np.zeros_like(parts[0][:, :, 0], np.float32)
    for k in range(LEAST_BLOCK):
        acc = add(acc, *[part[:, :, k] for part in parts])
    total = np.zeros_like(acc[:, 0], np.float64)
    for k in range(step // LEAST_BLOCK):
        total += acc[:, k]
    return total


def tiles32(add: Add32, terms: list[Array]) -> Array:
    """Leaves of a run tree whose lanes are float32; they are joined in float64."""
    n = -(-len(terms[0]) // TILE)
    steps = [padded(term, n * TILE).reshape(n, -1, LANE_COUNT, *term.shape[1:]) for term in terms]
    acc = np.zeros_like(steps[0][:, 0], np.float32)
    for k in range(TILE // LANE_COUNT):
        acc = add(acc, *[term[:, k] for term in steps])
    return by_halves([acc.astype(np.float64)])[0]


def row_tree(add: Add, terms: list[Array], limbs: int) -> Number:
    """Sum of terms (rows, ...)."""
    return pairs(blocks(add, terms, limbs))


def run_tree(add: Add, terms: list[Array], limbs: int) -> Number:
    """Sum of terms (length, ...)."""
    return pairs(tiles(add, terms, limbs))


class Tree(NamedTuple):
    """The sum of terms (B, M, G, L) over a group's M runs of L elements, in two trees: the inner one has leaves."""

    narrow: bool  # runs are summed column by column: the inner tree goes over rows, the outer one over columns
    width: int  # elements of a row of all groups

    def inner(self, terms: list[Array]) -> list[Array]:
        """Terms with the axis of the inner tree first: rows (M / fold, B, fold, G, L), or elements of runs (L, B, M, G)."""
        if not self.narrow:
            return [np.moveaxis(term, 3, 0) for term in terms]
        b, m, g, length = terms[0].shape
        fold = fold_for(m, self.width)
        return [np.moveaxis(term.reshape(b, m // fold, fold, g, length), 1, 0) for term in terms]

    def step(self, n: int) -> int:
        """Terms a leaf, of n in all."""
        return block_rows(n) if self.narrow else TILE

    def leaves(self, add: Add, terms: list[Array], limbs: int) -> Number:
        """Sums of the leaves of terms as `inner` gives them."""
        return (blocks if self.narrow else tiles)(add, terms, limbs)

    def joined(self, leaves: Number) -> Number:
        """Sums of groups (B, G)."""
        sums = pairs(leaves)
        if not self.narrow:
            return row_tree(plus, [np.moveaxis(limb, 1, 0) for limb in sums], len(sums))
        b, fold, g, length = sums[0].shape
        columns = [limb.transpose(1, 3, 0, 2).reshape(fold * length, b, g) for limb in sums]
        return [limb[0] for limb in columns] if fold * length == 1 else run_tree(plus, columns, len(sums))

    def total(self, add: Add, terms: list[Array], limbs: int) -> Number:
        return self.joined(self.leaves(add, self.inner(terms), limbs))

    def total32(self, add: Add32, terms: list[Array]) -> Array:
        """As `total`, with the first sums in float32."""
        return self.joined([(blocks32 if self.narrow else tiles32)(add, self.inner(terms))])[0]
