"""Sums of scaled float64 by one warp, which goes through a group from end to end in the order of the trees; see `rescale`.

A power of two is given by its root, for float64 does not hold 2**1024: a number is multiplied twice.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

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


class Runs(NamedTuple):
    """Runs of `length` elements, `stride` apart, the first from `at` on: `rows` of a group, or `fold` times as many."""

    at: int
    stride: int
    rows: int
    tree_rows: int  # that are added in order before pairs begin
    fold: int
    length: int


class Values(NamedTuple):
    """x, the root of its scale, and the scaled mean."""

    x: Any
    by: float
    mean: float


class Weights(NamedTuple):
    """Weights, of which a run's begin at `first` and serve t elements each."""

    w: Any
    first: int
    t: int


class Sources(NamedTuple):
    """`Values`, dy, the root of its scale, and the weights that go with it or None."""

    x: Any
    by: float
    mean: float
    dy: Any
    dy_by: float
    weights: Weights | None


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
    """v, twice multiplied."""
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
def drain_own(stack, leaves, like):
    """Sum of the leaves >= 1 that were pushed."""
    return drain(stack, thread(), WARP, LEVELS * WARP, leaves, like)


@device
def warp_total(a):
    """The sum of a tile from those of its lanes, in all threads."""
    return across(across(across(across(across(a, 16), 8), 4), 2), 1)


@device
def x_at(data, i):
    """Element i of x, scaled."""
    return scaled(enter_one(data.x, i), data.by)


@device
def dy_at(data, i):
    """Element i of dy, scaled."""
    return scaled(enter_one(data.dy, i), data.dy_by)


@cache
def entering(kind: int, weighted: bool = False) -> Any:
    """A function that adds to `acc` what element i, the `place`-th of its run, gives; data: `Values` or `Sources`."""

    def with_weight(data, i, place):
        weights = data.weights
        return multiply((dy_at(data, i),), (read1(weights.w, weights.first + quotient(place, weights.t)),), ZERO)

    def without(data, i, place):
        return dy_at(data, i), 0.0

    upstream = device(with_weight if weighted else without)

    def add_x(acc, data, i, place):
        return term(acc, (x_at(data, i),))

    def add_square(acc, data, i, place):
        d = less(x_at(data, i), data.mean, acc)
        return product(acc, d, d)

    def add_u(acc, data, i, place):
        return term(acc, upstream(data, i, place))

    def add_product(acc, data, i, place):
        return product(acc, upstream(data, i, place), less(x_at(data, i), data.mean, acc))

    def add_distance(acc, data, i, place):
        return term(acc, less(x_at(data, i), data.mean, acc))

    return device({SUM: add_x, SQUARES: add_square, U: add_u, PRODUCTS: add_product, DISTANCES: add_distance}[kind])


@cache
def tile_of(enter: Any, zero: Any = ZERO) -> Any:
    """The sum of the n <= 256 elements from `at` on, the first being the `place`-th of its run; `step` is 1."""

    def total(data, at, place, n, step):
        a = zero
        for j in range(STEPS):
            e = WARP * j + thread()
            if e < n:
                a = enter(a, data, at + e, place + e)
        return warp_total(a)

    return device(total)


@cache
def rows_of(enter: Any, zero: Any = ZERO) -> Any:
    """The sum of n elements of a column, `step` apart, in order; each thread has a column of its own."""

    def total(data, at, place, n, step):
        a = zero
        for r in range(n):
            a = enter(a, data, at + r * step, place)
        return a

    return device(total)


@cache
def merged(part: Any) -> Any:
    """The squares of a part about its own mean, taken about the group's (method "welford"); `part` is one of the two above."""
    sum_of, squares_of = part(entering(SUM)), part(entering(SQUARES))

    def total(data, at, place, n, step):
        high, low = ratio(sum_of(data, at, place, n, step), float64(n))
        squares = squares_of(Values(data.x, data.by, high), at, place, n, step)
        return squares_about(squares, float64(n), high, low, data.mean)

    return device(total)


@cache
def group_total(
    columns: bool, kind: int, weighted: bool = False, one_read: bool = False, zero: tuple[float, ...] = ZERO
) -> Any:
    """The function that sums a group's runs, with stacks for leaves of the inner and the outer tree.

    By columns the row tree for each position, then the run tree; otherwise the run tree for each run, then the row tree.
    """
    part = rows_of if columns else tile_of
    sum_of = merged(part) if one_read and kind == SQUARES else part(entering(kind, weighted), zero)

    def by_columns(stacks, data, runs):
        at, stride, rows, tree_rows, fold, length = runs
        a, inner = zero, stacks[0]
        for p in range(thread(), fold * length, WARP):
            f, leaf = quotient(p, length), 0
            place = p - f * length
            for r in range(0, rows, tree_rows):
                here = at + (r * fold + f) * stride + place
                push_own(inner, leaf, sum_of(data, here, place, min(tree_rows, rows - r), fold * stride))
                leaf += 1
            a = plus(a, drain_own(inner, leaf, zero))
        return warp_total(a)

    def by_runs(stacks, data, runs):
        blocks, inner, outer = 0, stacks[0], stacks[1]
        for first in range(0, runs.rows, runs.tree_rows):
            a = zero
            for r in range(first, min(runs.rows, first + runs.tree_rows)):
                leaf = 0
                for e in range(0, runs.length, TILE):
                    push_own(inner, leaf, sum_of(data, runs.at + r * runs.stride + e, e, min(TILE, runs.length - e), 1))
                    leaf += 1
                a = plus(a, drain_own(inner, leaf, zero))
            push_own(outer, blocks, a)
            blocks += 1
        return drain_own(outer, blocks, zero)

    return device(by_columns if columns else by_runs)


@device
def largest(p, runs):
    """The largest absolute value of runs that are not folded, in all threads; nan if there is one."""
    size = 0.0
    for r in range(runs.rows):
        for e in range(thread(), runs.length, WARP):
            size = larger(size, abs(enter_one(p, runs.at + r * runs.stride + e)))
    for h in (16, 8, 4, 2, 1):
        size = larger(size, exchange(size, h))
    return size


@device
def any_of_warp(lost):
    """Whether any thread has lost something."""
    for h in (16, 8, 4, 2, 1):
        lost = larger(lost, exchange(lost, h))
    return lost > 0.0
