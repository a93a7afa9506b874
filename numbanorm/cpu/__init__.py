"""The CPU backend: Numba kernels over explicit vectors.

A backend is a module that offers these functions over a plan and arrays; `dispatch` knows no more of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..plan import Plan
from .jobs import CENTER, M2, MEAN, ONE_READ, SQUARES, STREAM, WRITE
from .launch import GUARD, execute
from .schedule import SERIAL, Schedule, cut
from .simd import STORAGE

__all__ = ["explain", "measure", "normalize"]

Array = np.ndarray[Any, Any]
NATIVE = {np.dtype(np.float32), np.dtype(np.float64)}  # halves are known to the kernels by their bits


def flat(x: Array) -> Array:
    """A contiguous array as the kernels see it: one axis, halves as integers, never read-only (that is another type)."""
    if not x.flags.writeable:
        x = np.asarray(Alias(x))
    elif x.dtype not in NATIVE:
        x = x.view(STORAGE[x.dtype.name])
    return x.reshape(-1)


class Alias:
    """The memory of a read-only array, as a writable one; the kernels only read it."""

    def __init__(self, x: Array) -> None:
        x = x if x.dtype in NATIVE else x.view(STORAGE[x.dtype.name])
        self.keep = x
        self.__array_interface__ = {**x.__array_interface__, "data": (x.__array_interface__["data"][0], False)}


@lru_cache(maxsize=64)
def constants(n: int) -> tuple[Array, Array]:
    """Weight 1 and bias -0.0 (which changes not even the sign of a zero) for norms without parameters."""
    return np.ones(n), np.full(n, -0.0)


def plan_schedule(plan: Plan, x: Array, todo: int, affine: bool) -> Schedule:
    threads = 1 if plan.size < SERIAL else GUARD.threads()
    return cut(plan, x.itemsize, todo, affine, threads)


def flags(center: bool, given: bool, one_read: bool) -> int:
    """What is to be measured: nothing if the statistics are given, no mean for RMS norm."""
    if given:
        return 0
    return (CENTER if center else 0) | SQUARES | (ONE_READ if one_read and center else 0)


def normalize(
    plan: Plan,
    x: Array,
    y: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    center: bool,
    given: tuple[Array, Array] | None,
    one_read: bool,
) -> Array:
    """Write the normalized x to y (which may be x) and return the statistics.

    Parameters
    ----------
    plan : Plan
    x, y : C-contiguous arrays of the plan's size and one dtype.
    weight, bias : flat float64 arrays of the size of the plan's weight_shape, or None.
    eps : float
    center : False for a mean of 0 (RMS norm).
    given : (mean, variance), float64 of G elements, in place of x's own.
    one_read : measure with one pass over x (method "welford").

    Returns
    -------
    float64 array (4, B * G) of mean, its low part, sum of squares (the variance, if given) and rstd.
    """
    todo = WRITE | flags(center, given is not None, one_read) | (0 if y is x else STREAM)
    affine = weight is not None or bias is not None
    if weight is None or bias is None:
        ones, zeros = constants(plan.G * (plan.K if affine else 1))
        weight, bias = ones if weight is None else weight, zeros if bias is None else bias
    stats = np.zeros((4, plan.B * plan.G))
    if given is not None:
        per_sample = stats.reshape(4, plan.B, plan.G)
        per_sample[MEAN], per_sample[M2] = given
    x_flat = flat(x)
    y_flat = x_flat if y is x else flat(y)
    count = 1.0 if given is not None else float(plan.count)
    execute(plan_schedule(plan, x, todo, affine), x_flat, y_flat, weight, bias, stats, count, eps)
    return stats


def measure(plan: Plan, x: Array, one_read: bool) -> Array:
    """The statistics of `normalize` with eps 0, and nothing written."""
    w, b = constants(plan.G)
    stats = np.zeros((4, plan.B * plan.G))
    todo = flags(True, False, one_read)
    x_flat = flat(x)
    execute(plan_schedule(plan, x, todo, False), x_flat, x_flat, w, b, stats, float(plan.count), 0.0)
    return stats


def explain(plan: Plan, x: Array, center: bool, given: bool, one_read: bool, affine: bool) -> str:
    """Which kernel would run, and why."""
    s = plan_schedule(plan, x, WRITE | STREAM | flags(center, given, one_read), affine)
    threads = max(step[3] for step in s.steps)
    streaming = "past the cache" if any(step[1] & STREAM for step in s.steps) else "through the cache"
    return f"cpu, family {s.family}, {threads} of {GUARD.threads()} threads: {s.reason}; y is written {streaming}"
