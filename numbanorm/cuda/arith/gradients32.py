"""Gradients in float32: what a group's sums become, and whether there is room for it.

The twin of `numbanorm.reference.gradients32`: the third average is known, it is what the mean has beyond its float32.
"""

from __future__ import annotations

import math

from .accumulators import average, kept, of_averages
from .device import device, mul, single, widen
from .elements32 import LARGEST, LARGEST_MEAN, SMALLEST

LARGEST_ROOT = 2.0**40  # of rstd, whose cube is taken


@device
def normal(size):
    """Whether a size is 0, or has all its bits in float32, and so have products with it."""
    return size == 0.0 or (size > SMALLEST and size < LARGEST)


@device
def settled_single(center, u, ud, count, mean, rstd):
    """(slope, shift, offset, good) of a group as `settled` has them. The offset is nan where sums may have lost bits."""
    c1, c2, delta = average((u,), count), average((ud,), count), mean - widen(single(mean))
    slope, shift, offset, size = of_averages(center, c1, c2, kept(center, (delta,)), rstd)
    least = mul(SMALLEST, max(rstd, 1.0))  # what is summed are products of size and size / rstd
    known = abs(mean) < LARGEST_MEAN and rstd > 1.0 / LARGEST_ROOT and rstd < LARGEST_ROOT
    known = known and (size == 0.0 or (size > least and size < LARGEST))
    good = known and normal(abs(slope[0])) and normal(abs(shift[0]))
    if not known:
        offset = math.nan
    return slope[0], shift[0], offset, good
