"""The formulae that are applied to each element, and the parameters they take. Forward and backward, all families."""

from __future__ import annotations

from functools import cache
from typing import Any

from .accumulators import multiply
from .device import device, fma, mul, quotient, read1
from .tiles import fetch, fetch_constant, four, four_add, four_fma, four_mul, four_reads, same

MEAN, LOW, M2, RSTD = 0, 1, 2, 3  # rows of the statistics, float64 (4, units): the mean is MEAN + LOW, unevaluated
# elements that share a parameter: any number, one, a multiple of a thread's four neighbours, all of a run
SOME, EACH, FOURS, ALL = 0, 1, 2, 3
# rows of what a gradient takes, float64 (3, units); of float64 elements (6, units), and LEFT: 1 if any group left the range
SLOPE, SHIFT, OFFSET, SLOPE_LOW, SHIFT_LOW, SIZE, LEFT = 0, 1, 2, 3, 4, 5, 6


@device
def share(low, rstd):
    """Share of the mean's low part in a normalized element."""
    return -mul(low, rstd)


four_shares = four(share, 2)


@device
def four_affine(d, rstd, c, w, b):
    """The one place of the formula: y = (x - mean) * (rstd * weight) + (c * weight + bias), d being x - mean."""
    return four_fma(d, four_mul(rstd, w), four_fma(c, w, b))


@device
def slanted(d, slope, u, shift):
    """dx = d * slope + (u + shift), u scaled with rstd: exactly 0 where u is its own mean."""
    total = u[0] + shift[0]
    rough = fma(d[0], slope[0], total)
    if len(d) == 1:
        return rough
    low = fma(d[0], slope[1], u[1] + shift[1])
    dx = fma(d[0], slope[0], total + fma(d[1], slope[0], low))
    if dx != dx:  # what is infinite has no low part
        dx = rough
    return dx


@device
def normalized(d, rstd, offset):
    """d * rstd + offset as a number of one part."""
    if len(d) == 2:
        offset = fma(d[1], rstd, offset)
    return (fma(d[0], rstd, offset),)


@device
def slant(unit, there, table, row, low_row, units, like):
    """A unit's slope or shift, with the parts of an accumulator like this."""
    high, low = 0.0, 0.0
    if there > 0:
        high = read1(table, row * units + unit)
    if len(like) == 1:
        return (high,)
    if there > 0:
        low = read1(table, low_row * units + unit)
    return high, low


@device
def side_by_side(slope, shift, offset, size):
    """A unit's numbers in the order of a table's rows."""
    if len(slope) == 1:
        return slope[0], shift[0], offset
    return slope[0], shift[0], offset, slope[1], shift[1], size


@device
def table_rows(slants):
    """A unit's (slope, shift, offset, size) in the order of a table's rows."""
    return side_by_side(slants[0], slants[1], slants[2], slants[3])


four_slanted, four_normalized, four_slants = four(slanted, 4), four(normalized, 3), four(slant, 2)


@cache
def upstream(is_weighted: bool) -> Any:
    """A function that gives u = dy * weight, or dy, with the parts of an accumulator."""

    def with_weight(dy, w, acc):
        return multiply((dy,), (w,), acc)

    def without(dy, w, acc):
        return (dy,)

    return four(device(with_weight if is_weighted else without), 3)


@device
def shared_place(start, begin, left, k, e, t):
    """Place of the parameter of element `begin` + k + e of a run, of which t elements share one; 0 if there is none."""
    place = 0
    if left > k:
        place = start + quotient(begin + k + e, t)
    return place


@device
def shared_places(wide, start, begin, left, k, t):
    """Places of the parameters of four elements, t elements of a run sharing one."""
    one = 1 if wide else 0
    return (
        shared_place(start[0], begin[0], left[0], k, 0, t),
        shared_place(start[1], begin[1], left[1], k, one, t),
        shared_place(start[2], begin[2], left[2], k, 2 * one, t),
        shared_place(start[3], begin[3], left[3], k, 3 * one, t),
    )


@cache
def parameters(wide: bool, sharing: int, weighted: bool, biased: bool, early: bool = True) -> Any:
    """A function that loads weight and bias of a step's elements; 1 and -0.0 where there are none.

    sharing: how many elements have one, EACH, FOURS (all four of a thread), ALL (of a run) or SOME. Loads that need not be
    `early` cannot pass stores, and so take fewer registers.
    """
    load = fetch_constant if early else fetch

    def each(w, b, start, begin, left, j, t):
        at, scale, shift = four_add(start, begin), same(1.0), same(-0.0)
        if weighted:
            scale = load(wide, w, at, left, j)
        if biased:
            shift = load(wide, b, at, left, j)
        return scale, shift

    def by_fours(w, b, start, begin, left, j, t):
        at, scale, shift = shared_place(start[0], begin[0], left[0], 32 * j, 0, t), 1.0, -0.0
        if weighted:
            scale = read1(w, at)
        if biased:
            shift = read1(b, at)
        return same(scale), same(shift)

    def by_runs(w, b, start, begin, left, j, t):
        scale, shift = same(1.0), same(-0.0)
        if weighted:
            scale = same(read1(w, start[0])) if wide else four_reads(start, w)
        if biased:
            shift = same(read1(b, start[0])) if wide else four_reads(start, b)
        return scale, shift

    def by_some(w, b, start, begin, left, j, t):
        at, scale, shift = shared_places(wide, start, begin, left, 32 * j, t), same(1.0), same(-0.0)
        if weighted:
            scale = four_reads(at, w)
        if biased:
            shift = four_reads(at, b)
        return scale, shift

    return device({EACH: each, FOURS: by_fours, SOME: by_some, ALL: by_runs}[sharing])
