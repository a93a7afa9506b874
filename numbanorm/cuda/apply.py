"""What is written element by element once the statistics, or what a gradient takes, are known.

Forward, y = (x - mean) * scale + shift; backward, dx = (x - mean) * slope + (u + shift). A thread reads all its elements of
a few steps before it writes, so that many loads are on their way at once; y may be x, and dx may be x or dy.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float64

from .device import block, device, quotient, read1, store1, thread
from .elementwise import LOW, M2, MEAN, RSTD, SHIFT, SLOPE, four_affine, four_shares, four_slanted, parameters
from .partial import (
    BLOCK,
    column_unit,
    columns_of,
    four_bases,
    four_in_runs,
    four_inside,
    four_next,
    four_places,
    four_within,
    unit_of,
)
from .sums import inverse_root
from .tiles import STEPS, begins, fetch, four, four_mul, hold, items, put, recall, same

HALF = STEPS // 2
HELD = 4 * HALF


@device
def item_unit(item, n, spans, per_sample, groups, channels):
    return unit_of(quotient(item, spans), per_sample, groups, channels) if item < n else 0


@device
def entry(unit, table, row, units):
    return read1(table, row * units + unit)


four_item_units, four_entries = four(item_unit, 1), four(entry, 1)


def apply_runs(wide: bool, center: bool, pointwise: bool, weighted: bool, biased: bool) -> Any:
    """x: runs of `length` elements, in n items -> y. mean, low, rstd: float64 (units,)."""
    weights, biases = parameters(wide, pointwise, weighted, 1.0), parameters(wide, pointwise, biased, -0.0)

    def kernel(x, w, b, y, mean, low, rstd, n, spans, span, length, per_sample, groups, channels, t, per):
        held = cuda.local.array(HELD, float64)
        item, begin = items(wide, per), begins(wide, per)
        at, left = four_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        unit = four_item_units(item, n, spans, per_sample, groups, channels)
        base, where = four_bases(item, spans, groups, quotient(length, t)), four_in_runs(item, begin, spans, span)
        m, c, r = same(0.0), same(-0.0), four_entries(unit, rstd, 0, 0)
        if center:
            m, c = four_entries(unit, mean, 0, 0), four_shares(four_entries(unit, low, 0, 0), r)
        for h in (0, HALF):
            for j in range(HALF):
                hold(held, j, fetch(wide, x, at, left, h + j))
            for j in range(HALF):
                scale, shift = weights(w, base, where, left, h + j, t), biases(b, base, where, left, h + j, t)
                put(wide, y, at, left, h + j, four_affine(recall(held, j), m, r, c, scale, shift))

    return kernel


def apply_gradient_runs(wide: bool, center: bool, pointwise: bool, weighted: bool, by_rows: bool) -> Any:
    """x, dy: runs of `length` elements, in n items -> dx. mean, rstd: float64 (units,); table: (3, units), see `rows`."""
    weights = parameters(wide, pointwise, weighted, 1.0)

    def kernel(x, dy, dx, w, mean, rstd, table, units, n, spans, span, length, per_sample, groups, channels, t, per):
        held, upstream = cuda.local.array(HELD, float64), cuda.local.array(HELD, float64)
        item, begin = items(wide, per), begins(wide, per)
        at, left = four_places(item, begin, spans, span, length), four_inside(item, begin, n, spans, span, length)
        unit = four_item_units(item, n, spans, per_sample, groups, channels)
        base, where = four_bases(item, spans, groups, quotient(length, t)), four_in_runs(item, begin, spans, span)
        r, slope = four_entries(unit, rstd, 0, units), four_entries(unit, table, SLOPE, units)
        m, shift = same(0.0), four_entries(unit, table, SHIFT, units)
        if center:
            m = four_entries(unit, mean, 0, units)
        for h in (0, HALF):
            for j in range(HALF):
                hold(held, j, fetch(wide, x, at, left, h + j))
                hold(upstream, j, fetch(wide, dy, at, left, h + j))
            for j in range(HALF):
                scale = weights(w, base, where, left, h + j, t)
                g = recall(upstream, j)
                # rounded as on the CPU: a weight of each element goes with dy, one of a run with rstd
                u = four_mul(four_mul(g, scale), r) if by_rows else four_mul(g, four_mul(r, scale))
                put(wide, dx, at, left, h + j, four_slanted(recall(held, j), u, m, slope, shift))

    return kernel


@device
def column_weight(column, there, p, real, t):
    return read1(p, quotient(column - quotient(column, real) * real, t)) if there > 0 else 0.0


@device
def column_entry(unit, there, table, row, units):
    return read1(table, row * units + unit) if there > 0 else 0.0


four_weights, four_column_entries, four_column_units = four(column_weight, 2), four(column_entry, 2), four(column_unit, 1)


def apply_columns(wide: bool, center: bool, weighted: bool, biased: bool, gradient: bool) -> Any:
    """x (and dy): (samples, rows, width) -> y (dx), `chunk` rows to a block. See `apply_runs` and `partial.columns`."""

    def kernel(
        x, dy, y, w, b, mean, low, rstd, table, units, samples, rows, width, real, length, groups, t, span, chunk, chunks
    ):
        held, upstream = cuda.local.array(HELD, float64), cuda.local.array(HELD, float64)
        strips, threads_of_row = quotient(width + span - 1, span), span >> 2
        strip_chunk = quotient(block(), strips)
        sample = quotient(strip_chunk, chunks)
        column = columns_of(wide, (block() - strip_chunk * strips) * span, span)
        there = four_within(column, width)
        unit = four_column_units(column, sample, real, length, groups)
        r, m, scale = four_column_entries(unit, there, rstd, 0, units), same(0.0), same(1.0)
        if center:
            m = four_column_entries(unit, there, mean, 0, units)
        if weighted:
            scale = four_weights(column, there, w, real, t)
        if gradient:
            scale = four_mul(r, scale)
            slope, shift = (
                four_column_entries(unit, there, table, SLOPE, units),
                four_column_entries(unit, there, table, SHIFT, units),
            )
        else:
            slope, shift = same(-0.0), same(-0.0)
            if center:
                slope = four_shares(four_column_entries(unit, there, low, 0, units), r)
            if biased:
                shift = four_weights(column, there, b, real, t)
        step = quotient(BLOCK, threads_of_row)
        first = (strip_chunk - sample * chunks) * chunk
        last, row = min(rows, first + chunk), first + quotient(thread(), threads_of_row)
        at = four_next(column, (sample * rows + row) * width)
        while row < last:
            for j in range(HALF):
                here = there if row + j * step < last else same(0)
                hold(held, j, fetch(wide, x, four_next(at, j * step * width), here, 0))
                if gradient:
                    hold(upstream, j, fetch(wide, dy, four_next(at, j * step * width), here, 0))
            for j in range(HALF):
                here, v = there if row + j * step < last else same(0), recall(held, j)
                if gradient:
                    v = four_slanted(v, four_mul(recall(upstream, j), scale), m, slope, shift)
                else:
                    v = four_affine(v, m, r, slope, scale, shift)
                put(wide, y, four_next(at, j * step * width), here, 0, v)
            row += HALF * step
            at = four_next(at, HALF * step * width)

    return kernel


def prepare() -> Any:
    """Statistics that are given, mean and variance of each group -> stats (4, units)."""

    def kernel(mean, var, stats, units, eps):
        u = block() * BLOCK + thread()
        if u < units:
            store1(stats, MEAN * units + u, read1(mean, u))
            store1(stats, LOW * units + u, 0.0)
            store1(stats, M2 * units + u, read1(var, u))
            store1(stats, RSTD * units + u, inverse_root(read1(var, u), 0.0, eps))

    return kernel
