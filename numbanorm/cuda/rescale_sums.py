"""Sums of scaled float64 by one warp, which goes through a group from end to end in the order of the trees; see `rescale`.

A power of two is given by its root, for float64 does not hold 2**1024: a number is multiplied twice.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float64

from ..spec.tree import TILE
from .arith.accumulators import across, less, multiply, plus, product, ratio, squares_about, term
from .arith.arithmetic import PAIRS
from .arith.device import device, exchange, mul, quotient, read1, thread
from .arith.stages import enter_one
from .arith.tiles import drain, push

WARP = 32
LEVELS = 32  # of a pairs tree, whose leaves are tiles or blocks of rows
STACK = 2 * LEVELS * WARP
STEPS = TILE // WARP
ZERO = PAIRS.zero
SUM, SQUARES, U, PRODUCTS, DISTANCES = 0, 1, 2, 3, 4


# --- powers of two ---------------------------------------------------------------------------------------------------


@device
def roots_of_scale(size):
    """(down, up): down**2 * size is within 2**128 of 1, and up is 1 / down; both are 1 where size is 0 or not finite."""
    down, up, limit = 2.0**512, 2.0**-512, 2.0**-897
    for _ in range(8):
        if size >= limit:
            down, up = mul(down, 2.0**-128), mul(up, 2.0**128)
        limit = mul(limit, 2.0**256)
    if not (size > 0.0 and size < math.inf):
        down, up = 1.0, 1.0
    return down, up


@device
def scaled(v, by):
    return mul(mul(v, by), by)


@device
def larger(x, y):
    """The larger one, or nan if either is."""
    if not (x != x or x > y):
        x = y
    return x


# --- the trees, by one warp ------------------------------------------------------------------------------------------


@device
def push_own(stack, k, s):
    """Leaf k of a pairs tree; every thread has a stack of its own."""
    push(stack, thread(), WARP, LEVELS * WARP, k, s)


@device
def drain_own(stack, leaves):
    """Sum of the leaves >= 1 that were pushed."""
    return drain(stack, thread(), WARP, LEVELS * WARP, leaves, ZERO)


@device
def warp_total(a):
    """The sum of a tile from those of its lanes, in all threads."""
    return across(across(across(across(across(a, 16), 8), 4), 2), 1)


@device
def x_at(data, i):
    return scaled(enter_one(data[0], i), data[1])


@device
def dy_at(data, i):
    return scaled(enter_one(data[3], i), data[4])


def entering(kind: int, weighted: bool = False) -> Any:
    """acc + what element i gives to a sum; it is the `place`-th of its run.

    data: x, the root of its scale, the scaled mean; dy, the root of its scale; weights, where they begin, elements that share
    one.
    """

    def with_weight(data, i, place):
        return multiply((dy_at(data, i),), (read1(data[5], data[6] + quotient(place, data[7])),), ZERO)

    def without(data, i, place):
        return dy_at(data, i), 0.0

    upstream = device(with_weight if weighted else without)

    def add_x(acc, data, i, place):
        return term(acc, (x_at(data, i),))

    def add_square(acc, data, i, place):
        d = less(x_at(data, i), data[2], acc)
        return product(acc, d, d)

    def add_u(acc, data, i, place):
        return term(acc, upstream(data, i, place))

    def add_product(acc, data, i, place):
        return product(acc, upstream(data, i, place), less(x_at(data, i), data[2], acc))

    def add_distance(acc, data, i, place):
        return term(acc, less(x_at(data, i), data[2], acc))

    return device({SUM: add_x, SQUARES: add_square, U: add_u, PRODUCTS: add_product, DISTANCES: add_distance}[kind])


def tile_of(enter: Any) -> Any:
    """The sum of the n <= 256 elements from `at` on, the first being the `place`-th of its run; `step` is 1."""

    def total(data, at, place, n, step):
        a = ZERO
        for j in range(STEPS):
            e = WARP * j + thread()
            if e < n:
                a = enter(a, data, at + e, place + e)
        return warp_total(a)

    return device(total)


def rows_of(enter: Any) -> Any:
    """The sum of n elements of a column, `step` apart, in order; each thread has a column of its own."""

    def total(data, at, place, n, step):
        a = ZERO
        for r in range(n):
            a = enter(a, data, at + r * step, place)
        return a

    return device(total)


def merged(part: Any) -> Any:
    """The squares of a part about its own mean, taken about the group's (method "welford"); `part` is one of the two above."""
    sum_of, squares_of = part(entering(SUM)), part(entering(SQUARES))

    def total(data, at, place, n, step):
        high, low = ratio(sum_of(data, at, place, n, step), float64(n))
        squares = squares_of((data[0], data[1], high), at, place, n, step)
        return squares_about(squares, float64(n), high, low, data[2])

    return device(total)


def group_total(columns: bool, kind: int, weighted: bool = False, one_read: bool = False) -> Any:
    """The function that sums a group's `rows` (times `fold`) runs of `length` elements from `at` on, `stride` apart.

    By columns the row tree for each position, then the run tree; otherwise the run tree for each run, then the row tree.
    """
    part = rows_of if columns else tile_of
    sum_of = merged(part) if one_read and kind == SQUARES else part(entering(kind, weighted))

    def by_columns(inner, outer, data, at, stride, rows, tree_rows, fold, length):
        a = ZERO
        for p in range(thread(), fold * length, WARP):
            f, leaf = quotient(p, length), 0
            place = p - f * length
            for r in range(0, rows, tree_rows):
                here = at + (r * fold + f) * stride + place
                push_own(inner, leaf, sum_of(data, here, place, min(tree_rows, rows - r), fold * stride))
                leaf += 1
            a = plus(a, drain_own(inner, leaf))
        return warp_total(a)

    def by_runs(inner, outer, data, at, stride, rows, tree_rows, fold, length):
        blocks = 0
        for first in range(0, rows, tree_rows):
            a = ZERO
            for r in range(first, min(rows, first + tree_rows)):
                leaf = 0
                for e in range(0, length, TILE):
                    push_own(inner, leaf, sum_of(data, at + r * stride + e, e, min(TILE, length - e), 1))
                    leaf += 1
                a = plus(a, drain_own(inner, leaf))
            push_own(outer, blocks, a)
            blocks += 1
        return drain_own(outer, blocks)

    return device(by_columns if columns else by_runs)


@device
def largest(p, at, stride, rows, length):
    """The largest absolute value of `rows` runs, in all threads; nan if there is one."""
    size = 0.0
    for r in range(rows):
        for e in range(thread(), length, WARP):
            size = larger(size, abs(enter_one(p, at + r * stride + e)))
    for h in (16, 8, 4, 2, 1):
        size = larger(size, exchange(size, h))
    return size
