"""Statistics that are given, and those that are kept from batch to batch."""

from __future__ import annotations

from typing import Any

from numba import float64

from .arith.accumulators import inverse_root
from .arith.device import block, device, div, load1, mul, quotient, read1, store1, thread
from .arith.elementwise import LOW, M2, MEAN, RSTD
from .partial_sums import BLOCK


def prepare() -> Any:
    """Statistics that are given, mean and variance of each of `groups`, the same for all samples -> stats (4, units)."""

    def kernel(mean, var, stats, units, groups, eps):
        u = block() * BLOCK + thread()
        if u < units:
            g = u - quotient(u, groups) * groups
            store1(stats, MEAN * units + u, read1(mean, g))
            store1(stats, LOW * units + u, 0.0)
            store1(stats, M2 * units + u, read1(var, g))
            store1(stats, RSTD * units + u, inverse_root(read1(var, g), 0.0, eps))

    return kernel


def update(with_mean: bool, with_var: bool, averaging: bool) -> Any:
    """running = old * running + new * batch, for those of mean and variance that are kept.

    stats: float64 (4, samples * channels); n: elements behind each, less one where the variance is unbiased; counter: int64,
    batches before this one. `averaging` takes new = 1 / (batches with this one), old = 1 - new.
    """

    def batch(stats, row, units, channels, c):
        """The mean over the samples, added in order."""
        total = read1(stats, row * units + c)
        for u in range(channels + c, units, channels):
            total = total + read1(stats, row * units + u)
        if units > channels:
            total = div(total, float64(quotient(units, channels)))
        return total

    batch = device(batch)

    def kernel(stats, mean, var, counter, units, channels, n, old, new):
        c = block() * BLOCK + thread()
        if c < channels:
            if averaging:
                new = div(1.0, float64(read1(counter, 0) + 1))
                old = 1.0 - new
            if with_mean:
                store1(mean, c, mul(load1(mean, c), old) + mul(batch(stats, MEAN, units, channels, c), new))
            if with_var:
                v = div(batch(stats, M2, units, channels, c), n)
                store1(var, c, mul(load1(var, c), old) + mul(v, new))

    return kernel


def count() -> Any:
    """One batch more; a launch of its own, for `update` reads the number from many blocks."""

    def kernel(counter):
        if thread() == 0:
            store1(counter, 0, load1(counter, 0) + 1)

    return kernel
