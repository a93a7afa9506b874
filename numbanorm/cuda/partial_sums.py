"""Partial sums: what a block adds up before another kernel joins the blocks' sums, and whose they are.

*Runs* are summed a part at a time, *columns* down the rows. Both sum one of:

    SUM        x
    SQUARES    (x - mean)²
    BOTH       x, and the squares about the part's own mean (method "welford": x is read once)
    PRODUCTS   u, u * d and d, with d = x - mean, u = dy * weight
    MOMENTS    x and x² (one read, where that is enough)
    WEIGHTS    dy * (d * rstd + offset) and dy: rows with statistics of their own, for the gradients of their parameters
"""

from __future__ import annotations

from typing import Any

from numba import float64

from .arith.accumulators import ratio, squares_about
from .arith.arithmetic import Arithmetic
from .arith.device import block, device, load1, quotient, read1, store1, thread
from .arith.tiles import four, once

SUM, SQUARES, BOTH, PRODUCTS, WEIGHTS, MOMENTS = 0, 1, 2, 3, 4, 5
PLANES = {SUM: 1, SQUARES: 1, BOTH: 2, PRODUCTS: 3, WEIGHTS: 2, MOMENTS: 2}  # accumulators that each gives
BLOCK = 128  # threads of a block where nothing else is said


@device
def put_sum(p, at, acc):
    """Write an accumulator to partials (n, parts)."""
    if len(acc) == 1:
        store1(p, at, acc[0])
    else:
        store1(p, 2 * at, acc[0])
        store1(p, 2 * at + 1, acc[1])


@device
def get_sum(p, at, like):
    """Read one, from where a kernel may write too."""
    if len(like) == 1:
        return (load1(p, at),)
    return load1(p, 2 * at), load1(p, 2 * at + 1)


@device
def own_mean(acc, left, begin):
    """The mean of a tile, or of what there is of it."""
    return ratio(acc, float64(max(left + begin, 1)))[0]


four_own_means, own_means = four(own_mean, 3), once(own_mean, 3)


@device
def unit_of(run, per_sample, groups, channels):
    """Unit (group of a sample) of a run: a sample is `per_sample` runs, of `groups` groups of so many `channels`."""
    return quotient(quotient(run, per_sample) * groups + run - quotient(run, groups) * groups, channels)


@device
def column_unit(column, sample, width, length, groups):
    """Unit that a column belongs to: `length` columns of a row are a group, and rows may be folded into one."""
    own = column - quotient(column, width) * width
    return sample * groups + quotient(own, length)


def merge(arithmetic: Arithmetic, by_columns: bool) -> Any:
    """Squares about the means of their own parts -> about the group's mean (Chan, Golub, LeVeque 1979), in place.

    moments: (2, n, parts), sums and squares. Parts of runs: `per` to a run, each of 256 elements but for the last. Parts of
    columns: (samples, per, width), each of `size` rows but for the last; a row is `per_sample` columns, of `groups` groups of
    so many `channels`, and may be folded.
    """
    zero = arithmetic.zero

    def kernel(moments, mean, n, per, size, length, per_sample, groups, channels, width):
        i = block() * BLOCK + thread()
        if i < n:
            if by_columns:
                row = quotient(i, width)
                sample = quotient(row, per)
                part, unit = row - sample * per, column_unit(i - row * width, sample, per_sample, channels, groups)
            else:
                run = quotient(i, per)
                part, unit = i - run * per, unit_of(run, per_sample, groups, channels)
            count = float64(min(size, length - part * size))
            high, low = ratio(get_sum(moments, i, zero), count)
            put_sum(moments, n + i, squares_about(get_sum(moments, n + i, zero), count, high, low, read1(mean, unit)))

    return kernel


def copy() -> Any:
    """y = x, of n elements."""

    def kernel(x, y, n):
        i = block() * BLOCK + thread()
        if i < n:
            store1(y, i, load1(x, i))

    return kernel
