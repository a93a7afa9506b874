"""The CPU backend: Numba kernels over explicit vectors.

A backend is a module that offers these functions over a plan and arrays; `dispatch` knows no more of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..plan import Plan
from ..tree import gradient_family
from .backward_schedule import cut_backward
from .jobs import ANCHOR, CENTER, M2, MEAN, ONE_READ, PARAMETERS, ROOT, RSTD, SQUARES, STREAM, UNIT, WRITE
from .launch import GUARD, execute
from .schedule import SERIAL, Schedule, cut
from .simd import STORAGE

__all__ = ["differentiate", "explain", "explain_backward", "measure", "normalize"]

Array = np.ndarray[Any, Any]
NOTHING = np.empty(0)
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
    return cut(plan, x.itemsize, todo, affine, threads_for(plan))


def threads_for(plan: Plan) -> int:
    return 1 if plan.size < SERIAL else GUARD.threads()


def flags(center: bool, given: bool, one_read: bool) -> int:
    """What is to be measured: nothing if the statistics are given, no mean for RMS norm."""
    if given:
        return 0
    return (CENTER if center else 0) | SQUARES | (ONE_READ if one_read and center else 0)


def run(s: Schedule, x: Array, y: Array, weight: Array, bias: Array, stats: Array, count: float, eps: float) -> None:
    kept = np.empty(s.kept) if s.kept else NOTHING
    execute(s, x, y, weight, bias, stats, np.empty(s.work), kept, s.dims, count, eps)


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
    run(plan_schedule(plan, x, todo, affine), x_flat, y_flat, weight, bias, stats, count, eps)
    return stats


def measure(plan: Plan, x: Array, one_read: bool) -> Array:
    """The statistics of `normalize` with eps 0, and nothing written."""
    w, b = constants(plan.G)
    stats = np.zeros((4, plan.B * plan.G))
    todo = flags(True, False, one_read)
    x_flat = flat(x)
    run(plan_schedule(plan, x, todo, False), x_flat, x_flat, w, b, stats, float(plan.count), 0.0)
    return stats


def explain(plan: Plan, x: Array, center: bool, given: bool, one_read: bool, affine: bool) -> str:
    """Which kernel would run, and why."""
    s = plan_schedule(plan, x, WRITE | STREAM | flags(center, given, one_read), affine)
    threads = max(step[3] for step in s.steps)
    streaming = "past the cache" if any(step[1] & STREAM for step in s.steps) else "through the cache"
    return f"cpu, family {s.family}, {threads} of {GUARD.threads()} threads: {s.reason}; y is written {streaming}"


def differentiate(
    plan: Plan,
    x: Array,
    dy: Array,
    dx: Array | None,
    weight: Array | None,
    mean: Array | None,
    rstd: Array,
    center: bool,
    given: bool,
    parameters: tuple[bool, ...],
) -> Array:
    """Write the gradient of x to dx (which may be x or dy) and return those of weight and bias.

    Parameters
    ----------
    plan : Plan
    x, dy, dx : C-contiguous arrays of the plan's size and one dtype; dx None if it is not wanted.
    weight : flat float64 array of the size of the plan's weight_shape, or None.
    mean, rstd : float64 of B * G elements; mean None for 0.
    center : False for a mean of 0 (RMS norm).
    given : the statistics do not depend on x.
    parameters : whether the gradients of weight and of bias are wanted.

    Returns
    -------
    float64 array (2, G * K): dweight, dbias; only what is wanted is defined.
    """
    w = constants(plan.G * plan.K)[0] if weight is None else weight
    grads = np.empty((2, plan.G * plan.K))
    wanted, in_place = any(parameters), dx is x or dx is dy
    x_flat, dy_flat = flat(x), flat(dy)
    dx_flat = x_flat if dx is None or dx is x else dy_flat if dx is dy else flat(dx)
    scaled = dx is not None and scales(plan, given, wanted)
    if not parameters[0] and (dx is None or given):
        x_flat = dy_flat  # for dbias x need not be read
    if wanted or not given:
        todo = (PARAMETERS if wanted else 0) | (CENTER if center and not given else 0)
        todo |= 0 if dx is None or scaled else WRITE if in_place else WRITE | STREAM
        s = cut_backward(plan, x.itemsize, todo, threads_for(plan))
        table = np.empty((plan.B * plan.G, UNIT))
        table[:, ROOT] = rstd
        table[:, ANCHOR] = 0.0 if mean is None else mean
        spread_w = np.repeat(w, plan.T) if s.family == "rows_backward" and plan.T > 1 else w
        args = (x_flat, dy_flat, dx_flat, spread_w, table.reshape(-1), np.empty(s.kept), grads.reshape(-1), np.empty(s.work))
        execute(s, *args, s.dims, float(plan.count))
    if scaled:
        scale(plan, dy_flat, dx_flat, w, rstd, in_place)
    return grads


def scales(plan: Plan, given: bool, wanted: bool) -> bool:
    """Whether dx is dy * weight * rstd by the kernel of the forward pass: no sums are wanted, or they go with other rows."""
    return given and (not wanted or gradient_family(plan) == "rows")


def scale(plan: Plan, dy: Array, dx: Array, weight: Array, rstd: Array, in_place: bool) -> None:
    """dx = dy * weight * rstd: the forward pass, with mean 0 and no bias."""
    stats = np.zeros((4, plan.B * plan.G))
    stats[RSTD] = rstd
    s = cut(plan, dy.itemsize, WRITE | (0 if in_place else STREAM), True, threads_for(plan))
    run(s, dy, dx, weight, constants(weight.size)[1], stats, 0.0, 0.0)


def explain_backward(plan: Plan, x: Array, center: bool, given: bool, needs: tuple[bool, ...]) -> str:
    """Which kernel would compute gradients, and why."""
    wanted, told = any(needs[1:]), []
    scaled = needs[0] and scales(plan, given, wanted)
    todo = (PARAMETERS if wanted else 0) | (WRITE | STREAM if needs[0] and not scaled else 0)
    if todo:
        s = cut_backward(plan, x.itemsize, todo | (CENTER if center and not given else 0), threads_for(plan))
        told.append(f"family {s.family}, {max(step[3] for step in s.steps)} of {GUARD.threads()} threads: {s.reason}")
    if scaled:
        told.append("dx = dy * weight * rstd by the kernel of the forward pass")
    return "cpu, " + ("; ".join(told) or "nothing: no gradient is wanted")
