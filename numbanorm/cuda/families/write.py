"""y from x and statistics, element by element: by runs, or row by row of columns."""

from __future__ import annotations

from typing import Any

from numba import cuda, float32

from ..arith.arithmetic import Arithmetic
from ..arith.device import block, device, quotient, take4, thread
from ..arith.elements32 import four_affines, four_near
from ..arith.elementwise import SOME, four_affine, four_shares
from ..arith.moments import together
from ..arith.results import (
    agreed,
    any_left,
    constants_of,
    four_fits,
    four_unless,
    trusting,
    writer,
)
from ..arith.stages import take
from ..arith.tiles import (
    HELD,
    STEPS,
    begins,
    four,
    four_minus,
    four_places,
    four_takes,
    four_widen,
    hold,
    items,
    put,
    recall,
    same,
)
from ..partial_sums import BLOCK
from .columns import BATCH, columns_of, four_next, neighbours_within, owners, places_in_row, row_present
from .columns import HELD as COLUMNS_HELD
from .columns import four_entries as column_entries
from .runs import four_bases, four_entries, four_in_runs, four_inside, four_item_units, item_places


@device
def group_of(mean, low, m2, rstd):
    return mean, low, m2, rstd


four_groups = four(group_of, 4)


# y[item] from x[item] and its unit's statistics, as `results` has it
def apply_runs(
    wide: bool, arithmetic: Arithmetic, center: bool, own: bool, sharing: int, weighted: bool, biased: bool,
    doubted: bool = False,
) -> Any:  # fmt: skip
    """x: runs of `length` elements, in n items -> y. mean, low, m2, rstd: float64 (units,); own: whether those are of x."""
    element, write = arithmetic.element, writer(arithmetic, wide, False, sharing, weighted, biased, STEPS, own)
    is_trusted = trusting(doubted)

    def kernel(x, w, b, y, mean, low, m2, rstd, trust, n, spans, span, length, per_sample, groups, channels, t, per, turns):
        held, item, begin = cuda.local.array(HELD, element), items(wide, per), begins(wide, per)
        at, left = item_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        for j in range(STEPS):
            hold(held, j, take(wide, x, at, left, j))
        unit = four_item_units(item, n, spans, per_sample, groups, channels)
        m, rest, squares, r = same(0.0), same(0.0), same(0.0), four_entries(unit, rstd, 0, 0)
        if center:
            m, rest, squares = four_entries(unit, mean, 0, 0), four_entries(unit, low, 0, 0), four_entries(unit, m2, 0, 0)
        base, where = four_bases(item, spans, groups, quotient(length, t)), four_in_runs(item, begin, spans, span)
        write(x, w, b, y, held, at, left, four_groups(m, rest, squares, r), base, where, t, turns, is_trusted(trust))

    return kernel


@device
def taken(wide, p, at, here):
    """Four elements as they are held, or any where they are not there and are not written."""
    places = four_places(at, here, 0)
    if wide:
        return take4(p, places[0])
    return four_takes(places, p)


# y[sample, row, column] = (x[sample, row, column] - mean) * scale + shift
def apply_columns_fast(wide: bool, center: bool, own: bool, weighted: bool, biased: bool) -> Any:
    """`columns.apply_columns` forward, with results in float32."""
    constants, fit_of, wait = constants_of(wide, SOME, own), four_fits[own], together(BATCH)

    def kernel(x, y, w, b, mean, low, m2, rstd, samples, rows, width, real, length, groups, t, span, chunk, chunks):
        held = cuda.local.array(COLUMNS_HELD, float32)
        strips, threads_of_row = quotient(width + span - 1, span), span >> 2
        strip_chunk = quotient(block(), strips)
        sample = quotient(strip_chunk, chunks)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there = neighbours_within(wide, column, width)
        own_places = places_in_row(wide, column, real)
        unit, place = four_next(owners(wide, own_places, length), sample * groups), owners(wide, own_places, t)
        m, rest, squares, r = same(0.0), same(0.0), same(0.0), column_entries(unit, there, rstd, 0)
        if center:
            m, rest = column_entries(unit, there, mean, 0), column_entries(unit, there, low, 0)
            squares = column_entries(unit, there, m2, 0)
        scale, shift = same(1.0), same(-0.0)
        if weighted:
            scale = column_entries(place, there, w, 0)
        if biased:
            shift = column_entries(place, there, b, 0)
        group = four_groups(m, rest, squares, r)
        known, fit = constants(group, fit_of(False, group), scale, shift)
        over = four_unless(there, agreed(wide, fit))
        fine = four_minus(there, over)
        step = quotient(BLOCK, threads_of_row)
        first = (strip_chunk - sample * chunks) * chunk
        last, start = min(rows, first + chunk), first + quotient(thread(), threads_of_row)
        at, row = four_next(column, (sample * rows + start) * width), start
        while row < last:
            for j in range(BATCH):
                here = row_present(there, row + j * step, last)
                hold(held, j, taken(wide, x, four_next(at, j * step * width), here))
            if wide:
                wait(held, held, chunk)
            for j in range(BATCH):
                here = row_present(fine, row + j * step, last)
                put(wide, y, four_next(at, j * step * width), here, 0, four_affines(recall(held, j), known))
            row += BATCH * step
            at = four_next(at, BATCH * step * width)
        if any_left(over):
            at, c = four_next(column, (sample * rows + start) * width), four_shares(rest, r)
            row = start
            while row < last:
                v = take(wide, x, at, over, 0)
                exact = four_affine(four_minus(four_widen(v), m), r, c, scale, shift)
                put(wide, y, at, over, 0, four_near(fit, four_affines(v, known), exact))
                at = four_next(at, step * width)
                row += step

    return kernel
