"""Writing y: a thread's elements of a few steps, by the arithmetic of the call.

An element has its group's (mean, low, m2, rstd) and a weight and a bias. `Fast` writes float32 results where float32 has room
for what an element shares with others, and then goes through the steps once more, one at a time, if some were left over: few
groups are such, so that part is small and slow.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import int32

from .arithmetic import Arithmetic
from .device import device, peek4, read1, single, store1, store4, take4, thread, vote, widen
from .elements32 import apart, fits, fits_joined, four_affines, four_near, four_weighted, joined
from .elementwise import ALL, EACH, FOURS, four_affine, four_shares, parameters
from .stages import take
from .tiles import (
    four,
    four_add,
    four_minus,
    four_peeks,
    four_places,
    four_takes,
    four_widen,
    once,
    put,
    recall,
    same,
)

BATCH = 2  # steps whose parameters are loaded at once as float64: with all eight ptxas takes more registers than there are
PRESENT = 1 << 30  # elements from a thread's first to the end where it has all of its steps


@device
def four_steps(at, j):
    """Places of step j from those of step 0."""
    k = 32 * j
    return at[0] + k, at[1] + k, at[2] + k, at[3] + k


@device
def place_if(at, left):
    """A place, or that of the first element if there is none."""
    if left <= 0:
        at = 0
    return at


@device
def all_or_none(left):
    """So many elements that each of a thread's steps is there, or none."""
    there = int32(0)
    if left > 0:
        there = int32(PRESENT)
    return there


four_place_if, four_all_or_none = four(place_if, 2), four(all_or_none, 1)


@device
def unless(left, fit):
    """`left`, or 0 where an element fits."""
    if fit:
        left = int32(0)
    return left


@device
def negated(fit):
    return not fit


four_unless, four_negated = four(unless, 2), four(negated, 1)


@device
def both_fit(a, b):
    return a and b


four_both = four(both_fit, 2)
four_apart, four_joined, four_fit_joined = once(apart, 1), once(joined, 3), once(fits_joined, 3)
four_fits = {own: once(fits(own), 1) for own in (False, True)}


@device
def agreed(wide, fit):
    """Whether four elements fit: of those that are written together, whether all do."""
    if wide:
        fit = same(fit[0] and fit[1] and fit[2] and fit[3])
    return fit


@device
def larger(a, b):
    if b > a:
        a = b
    return a


four_larger = four(larger, 2)


@device
def any_left(left):
    return left[0] > 0 or left[1] > 0 or left[2] > 0 or left[3] > 0


@device
def column(group, k):
    """A number of each of four groups."""
    return group[0][k], group[1][k], group[2][k], group[3][k]


@cache
def stored_parameters(wide: bool, even: bool, weighted: bool, biased: bool) -> Any:
    """A function that loads weight and bias of a step's elements, each of which has its own, as they are stored."""

    def load(p, at, left, j):
        places = four_steps(at, j) if even else four_places(at, left, 32 * j)
        if wide:
            return peek4(p, places[0])
        return four_peeks(places, p)

    load = device(load)

    def both(w, b, at, left, j):
        scale, shift = same(single(1.0)), same(single(-0.0))
        if weighted:
            scale = load(w, at, left, j)
        if biased:
            shift = load(b, at, left, j)
        return scale, shift

    return device(both)


@device
def take_even(wide, p, at, j):
    """Step j of x where a thread has all of its steps, or none and reads the first elements."""
    places = four_steps(at, j)
    if wide:
        return take4(p, places[0])
    return four_takes(places, p)


@cache
def write_exactly(wide: bool, sharing: int, weighted: bool, biased: bool, steps: int) -> Any:
    """A function that writes y in float64, rounded once."""
    both, batch = parameters(wide, sharing, weighted, biased, early=False), min(BATCH, steps)

    def write(x, w, b, y, held, at, left, group, start, begin, t, turns, trusted):
        mean, rstd = column(group, 0), column(group, 3)
        c = four_shares(column(group, 1), rstd)
        for h in range(0, steps, batch):
            scale, shift = both(w, b, start, begin, left, h, t)
            if batch > 1:
                other, another = both(w, b, start, begin, left, h + 1, t)
            d = four_minus(four_widen(recall(held, h)), mean)
            put(wide, y, at, left, h, four_affine(d, rstd, c, scale, shift))
            if batch > 1:
                d = four_minus(four_widen(recall(held, h + 1)), mean)
                put(wide, y, at, left, h + 1, four_affine(d, rstd, c, other, another))

    return device(write)


@cache
def constants_of(wide: bool, sharing: int, own: bool) -> Any:
    """A function that gives four elements' constants in float32, and whether they are good; `good`: of their groups."""
    together = wide and sharing in (FOURS, ALL)

    def pointwise(group, good, w, b):
        return four_apart(wide, group), good

    def of_channel(group, good, w, b):
        return four_joined(together, group, w, b), four_both(good, four_fit_joined(together, group, w, b))

    return device(pointwise if sharing == EACH else of_channel)


@cache
def result_of(sharing: int, parametrized: bool) -> Any:
    """A function that gives four elements' results in float32."""

    def pointwise(v, known, w, b):
        return four_weighted(four_affines(v, known), w, b)

    def of_channel(v, known, w, b):
        return four_affines(v, known)

    return device(pointwise if sharing == EACH and parametrized else of_channel)


@cache
def write_left_over(wide: bool, sharing: int, weighted: bool, biased: bool, own: bool) -> Any:
    """A function that writes what float32 has no room for, and what is written together with it: a step at a time."""
    both, constants = parameters(wide, sharing, weighted, biased), constants_of(wide, sharing, own)
    result = result_of(sharing, weighted or biased)

    def write(x, w, b, y, at, left, group, good, start, begin, t, turns):
        mean, rstd, j = column(group, 0), column(group, 3), 0
        c = four_shares(column(group, 1), rstd)
        while True:
            v, (scale, shift) = take(wide, x, at, left, j), both(w, b, start, begin, left, j, t)
            known, fit = constants(group, good, scale, shift)
            exact = four_affine(four_minus(four_widen(v), mean), rstd, c, scale, shift)
            rest = four_unless(left, agreed(wide, fit))
            put(wide, y, at, rest, j, four_near(fit, result(v, known, scale, shift), exact))
            j += 1
            if j >= turns:
                break

    return device(write)


@cache
def write_fast(wide: bool, even: bool, sharing: int, weighted: bool, biased: bool, steps: int, own: bool) -> Any:
    """A function that writes y in float32, but where that has no room."""
    pointwise, all_alike = sharing == EACH, sharing == ALL
    straight = wide and even and (pointwise or all_alike)  # no step is without another, so that loads stay together
    stored, both = stored_parameters(wide, even, weighted, biased), parameters(wide, sharing, weighted, biased)
    constants, result = constants_of(wide, sharing, own), result_of(sharing, weighted or biased)
    left_over, fit_of = write_left_over(wide, sharing, weighted, biased, own), four_fits[own]

    def write(x, w, b, y, held, at, left, group, start, begin, t, turns, trusted):
        good, over, place = four_both(fit_of(wide, group), same(trusted)), same(int32(0)), four_add(start, begin)
        if even:
            place = four_place_if(place, left)
        scale, shift = same(1.0), same(-0.0)
        if all_alike:
            scale, shift = both(w, b, start, begin, left, 0, t)
        known, fit = constants(group, good, scale, shift)
        if straight:
            over = four_unless(left, agreed(wide, fit))
            if left[0] > over[0]:
                for j in range(steps):
                    weight, bias = scale, shift
                    if pointwise:
                        weight, bias = stored(w, b, place, left, j)
                    store4(y, at[0] + 32 * j, result(recall(held, j), known, weight, bias))
        else:
            for j in range(steps):
                weight, bias = scale, shift
                if pointwise:
                    weight, bias = stored(w, b, place, left, j)
                elif not all_alike:
                    weight, bias = both(w, b, start, begin, left, j, t)
                    known, fit = constants(group, good, weight, bias)
                there = agreed(wide, fit)
                over = four_larger(over, four_unless(left, there))
                put(wide, y, at, four_unless(left, four_negated(there)), j, result(recall(held, j), known, weight, bias))
        if any_left(over):
            left_over(x, w, b, y, at, left, group, good, start, begin, t, turns)

    return device(write)


def writer(
    arithmetic: Arithmetic, wide: bool, even: bool, sharing: int, weighted: bool, biased: bool, steps: int, own: bool
) -> Any:
    """A function that writes y, from held elements of `steps` steps; own: whether the statistics are those of x.

    Of its arguments, `trusted` says whether float32 has the weights and biases of single elements.
    """
    if arithmetic.single:
        return write_fast(wide, even, sharing, weighted, biased, steps, own)
    return write_exactly(wide, sharing, weighted, biased, steps)


@cache
def trusting(doubted: bool) -> Any:
    """A function that says whether float32 has all weights and biases: of float64 ones a launch has looked; see `distrust`."""

    def looked_up(trust):
        return read1(trust, 0) > 0.0

    def always(trust):
        return True

    return device(looked_up if doubted else always)


def distrust(weighted: bool, biased: bool) -> Any:
    """Whether float32 has all weights and biases, n of each -> trust: 1 or 0. A launch of one warp."""

    @device
    def lost(p, i):
        v = read1(p, i)
        return v == v and widen(single(v)) != v

    def kernel(w, b, trust, n):
        bad = False
        for i in range(thread(), n, 32):
            if weighted:
                bad = bad or lost(w, i)
            if biased:
                bad = bad or lost(b, i)
        bad = vote(bad)
        if thread() == 0:
            store1(trust, 0, 0.0 if bad else 1.0)

    return kernel
