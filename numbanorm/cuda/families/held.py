"""Rows that a block holds in registers, forward: statistics and y with one read and one write of memory."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import cuda, float64, int32

from ..arith.arithmetic import Arithmetic
from ..arith.device import device, quotient, vote
from ..arith.moments import any_of_four, fold_one, four_by_both, four_moments, four_refused, four_sums_if_there, join_both
from ..arith.results import PRESENT, four_all_or_none, four_place_if, take_even, trusting, writer
from ..arith.tiles import (
    ROOM,
    begins,
    first,
    fold,
    four,
    four_distances,
    four_only,
    four_products,
    four_sums,
    four_terms,
    four_widen,
    hold,
    items,
    join,
    present,
    ratios,
    recall,
    same,
    second,
    spreads,
)
from .rows import four_parameter_starts, four_remaining, four_starts, note_statistics

ROOMS3 = 3 * ROOM  # a place for each sum: so no barrier is needed between them


class Row(NamedTuple):
    """What is known of rows when their kernel is compiled: they are `per` slots, and a thread has `steps` steps of one."""

    even: bool  # whether a thread has all of its elements or none
    full: bool  # whether every thread has all
    halving: bool  # whether a row's length is a power of two
    grouped: bool  # whether parameters of several groups lie one behind the other
    per: int
    steps: int


@device
def beside(means, spreads):
    """(mean, low, m2, rstd) of a unit."""
    return means[0], means[1], spreads[0], spreads[1]


four_beside = four(beside, 2)


@cache
def in_one_read(wide: bool, row: Row, arithmetic: Arithmetic) -> Any:
    """A function that gives (mean, low, m2, rstd) of held rows by sums and squares; if that is not enough, x is read again."""
    nothing, take = (arithmetic.zero,) * 4, arithmetic.take
    even, _, halving, _, per, steps = row

    def squares(x, at, left, turns, means, per, room):
        a, j = nothing, 0
        while True:
            d = four_distances(a, four_widen(take(wide, x, at, left, j)), means, present(left, j))
            a, j = four_products(a, d, d), j + 1
            if j >= turns:
                break
        return join(wide, fold(wide, a), per, room, 2 * ROOM)

    squares = device(squares)

    def measured(x, held, at, left, turns, count, inverse, eps, room):
        a, q = nothing, nothing
        for j in range(steps):
            v = four_only(four_widen(recall(held, j)))
            a, q = four_terms(a, v), four_products(q, v, v)
        a, q = fold_one(wide, a), fold_one(wide, q)
        if even:
            a, q = four_sums_if_there(a, left), four_sums_if_there(q, left)
        a, q = join_both(wide, a, q, per, room, 0)
        group = four_moments(wide, a, q, count, inverse, halving, eps)
        if vote(any_of_four(four_refused(wide, group))):
            about = squares(x, at, left, turns, first(group), per, room)
            group = four_by_both(wide, group, spreads(wide, about, second(group), count, eps))
        return group

    return device(measured)


@cache
def in_two_passes(wide: bool, row: Row, arithmetic: Arithmetic, center: bool) -> Any:
    """Twin of `in_one_read` by a mean, and the squares about it."""
    nothing, (even, _, _, _, per, steps) = (arithmetic.zero,) * 4, row

    def measured(x, held, at, left, turns, count, inverse, eps, room):
        means = same((0.0, 0.0))
        if center:
            a = nothing
            for j in range(steps):
                a = four_sums(a, four_widen(recall(held, j)))
            a = fold(wide, a)
            if even:
                a = four_sums_if_there(a, left)
            means = ratios(wide, join(wide, a, per, room, 0), count)
        a = nothing
        for j in range(steps):
            d = four_distances(a, four_widen(recall(held, j)), first(means), present(left, j))
            a = four_products(a, d, d)
        found = spreads(wide, join(wide, fold(wide, a), per, room, ROOM), second(means), count, eps)
        return four_beside(means, found)

    return device(measured)


# for each row x[unit]: mean = sum(x) / n; rstd = 1 / sqrt(sum((x - mean)**2) / n + eps); y[unit] as `results` has it
def rows_forward(
    wide: bool, row: Row, arithmetic: Arithmetic, center: bool, sharing: int, weighted: bool, biased: bool,
    doubted: bool = False,
) -> Any:  # fmt: skip
    """x: (units, length) -> y and statistics."""
    even, full, _, grouped, per, steps = row
    held_size, element, take, at_once = 4 * steps, arithmetic.element, arithmetic.take, arithmetic.at_once and center
    write = writer(arithmetic, wide, even and arithmetic.single, sharing, weighted, biased, steps, True)
    is_trusted = trusting(doubted)
    measured = in_one_read(wide, row, arithmetic) if at_once else in_two_passes(wide, row, arithmetic, center)

    def kernel(x, w, b, y, stats, trust, units, groups, length, t, turns, count, inverse, eps):
        room, held = cuda.shared.array(ROOMS3, float64), cuda.local.array(held_size, element)
        unit, begin = items(wide, per), begins(wide, per)
        at, left = four_starts(unit, begin, length), four_remaining(unit, begin, units, length)
        if full:
            left = same(int32(PRESENT))
        elif even:
            at, left = four_place_if(at, left), four_all_or_none(left)
        for j in range(steps):
            hold(held, j, take_even(wide, x, at, j) if even else take(wide, x, at, left, j))
        group = measured(x, held, at, left, turns, count, inverse, eps, room)
        note_statistics(wide, stats, unit, units, begin, group)
        own = same(0)
        if grouped:
            own = four_parameter_starts(unit, groups, quotient(length, t))
        write(x, w, b, y, held, at, left, group, own, begin, t, turns, is_trusted(trust))

    return kernel
