"""The CPU backend: Numba kernels over explicit vectors.

A backend is a module that offers these functions over a plan and arrays; `dispatch` knows no more of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import gradient_family
from .arith.environment import DEFAULT, KEEP, exchange
from .compile import COMPILES, types
from .entry.calls import GIVEN, NOT_GIVEN, ONLY_RSTD, TRACKED, TRACKING, Program, run_tracking
from .entry.objects import identities
from .launch import GUARD, entry, prepare
from .layout import CENTER, LOW, ONE_READ, PARAMETERS, SQUARES, STREAM, WRITE
from .rescale import keep_scaled, scaled_gradients, scaled_groups
from .schedule.backward import cut_backward
from .schedule.forward import SERIAL, cut

__all__ = ["COMPILES", "differentiate", "explain", "explain_backward", "measure", "normalize", "update_running"]

Array = np.ndarray[Any, Any]
Given = tuple[Array, ...]
P = ParamSpec("P")
T = TypeVar("T")


def in_default_environment(work: Callable[P, T]) -> Callable[P, T]:
    """A function that NumPy computes in: it has the floating-point environment of the kernels."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        switch = entry(exchange, (types.int64,))
        before = switch(KEEP)
        try:
            switch(DEFAULT)
            return work(*args, **kwargs)
        finally:
            switch(before)

    return run


def plain(*arrays: Array | None) -> list[Array | None]:
    """Copies of parameters that the kernels know for sure: contiguous, and of a dtype that is NumPy's own object."""
    return [None if a is None else a.astype(np.float64, order="C") for a in arrays]


def threads_for(plan: Plan) -> int:
    """Threads that a call is worth."""
    return 1 if plan.size < SERIAL else GUARD.threads()


def threads_now(plan: Plan) -> int:
    """Threads for a call that begins now: one while other processes keep the cores busy."""
    return 1 if plan.size < SERIAL or GUARD.waits() else GUARD.threads()


def flags(center: bool, given: bool, one_read: bool) -> int:
    """Flags of what is measured: none if the statistics are given, no mean for RMS norm."""
    if given:
        return 0
    return (CENTER if center else 0) | SQUARES | (ONE_READ if one_read and center else 0)


@lru_cache(maxsize=4096)
def prepared(plan: Plan, dtype: Any, todo: int, affine: bool, given: int, threads: int) -> tuple[Any, Program]:
    """Entry point and program for this plan, dtype and these flags (cached)."""
    s = cut(plan, dtype.itemsize, todo, affine, threads)
    places, count = plan.G * (plan.K if affine else 1), {GIVEN: 1, ONLY_RSTD: 0}.get(given, plan.count)
    return prepare(False, s, dtype, plan, places=places, count=count, given=given)


def at_once(
    plan: Plan,
    x: Array,
    y: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    center: bool,
    one_read: bool,
    mean: Array | None,
    var: Array | None,
    shares: tuple[float, float] | None,
    stats: Array | None,
    checked: bool = False,
) -> bool:
    """As `normalize`; False if any argument that nobody has checked is not as it should be, and then nothing is done.

    mean, var: running statistics, updated with these shares of old and new, or given if there are none; stats: zeros, if they
    are wanted. False too if float64 left its range: then y and stats are to be written again, and running statistics are as
    they were.
    """
    what = NOT_GIVEN if mean is None and var is None else GIVEN if shares is None else TRACKED
    todo = WRITE | flags(center, what == GIVEN, one_read) | (0 if y is x else STREAM)
    affine = weight is not None or bias is not None
    run, program = prepared(plan, x.dtype, todo, affine, what, threads_now(plan))
    done: bool = run(x, y, weight, bias, mean, var, stats, program, checked, eps, plan.count - 1.0, *(shares or (0.0, 0.0)))
    return done


@in_default_environment
def normalize(
    plan: Plan,
    x: Array,
    y: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    center: bool,
    given: Given | None,
    one_read: bool,
) -> Array:
    """Write the normalized x to y (which may be x) and return the statistics.

    Parameters
    ----------
    plan : Plan
    x, y : C-contiguous arrays of the plan's size and one dtype.
    weight, bias : arrays of the size of the plan's weight_shape, of any float type, or None.
    eps : float
    center : False for a mean of 0 (RMS norm).
    given : (mean, variance), of G elements and any float type, in place of x's own; or (mean, variance, the mean's low part),
        where there is one sample.
    one_read : measure with one pass over x (method "welford").

    Returns
    -------
    float64 array (4, B * G) of mean, its low part, sum of squares (the variance, if given) and rstd.
    """
    stats, kept = np.zeros((4, plan.B * plan.G)), x
    weight, bias, mean, var = plain(weight, bias, *(given or (None, None))[:2])
    if given is not None and len(given) > 2:
        stats[LOW] = given[2]
    if x.itemsize == 8 and y is x and given is None:
        kept = x.copy()  # what leaves float64's range is computed again

    def compute(plan: Plan, x: Array, y: Array, weight: Any, bias: Any, eps: float, stats: Array) -> bool:
        return at_once(plan, x, y, weight, bias, eps, center, one_read, mean, var, None, stats, True)

    if not compute(plan, kept, y, weight, bias, eps, stats):
        for group in scaled_groups(plan, kept, weight, bias, eps, stats, compute):
            y.reshape(plan.B, plan.M, plan.G, -1)[group.where] = group.y
    return stats


@in_default_environment
def measure(plan: Plan, x: Array, one_read: bool, scale: Array | None = None) -> Array:
    """The statistics of `normalize` with eps 0, and nothing written.

    scale: (B * G,), of ones; where a sum of squares leaves float64's range it becomes the power of two that the low part, and
    with its square the sum, are left divided by.
    """
    stats, todo = np.zeros((4, plan.B * plan.G)), flags(True, False, one_read)

    def compute(plan: Plan, x: Array, y: Any, weight: None, bias: None, eps: float, stats: Array) -> bool:
        run, program = prepared(plan, x.dtype, todo, False, NOT_GIVEN, threads_now(plan))
        done: bool = run(x, x, None, None, None, None, stats, program, True, eps, 0.0, 0.0, 0.0)
        return done

    if not compute(plan, x, None, None, None, 0.0, stats):
        for group in scaled_groups(plan, x, None, None, 0.0, stats, compute):
            if scale is not None:
                keep_scaled(group, stats, scale)
    return stats


def explain(plan: Plan, x: Array, center: bool, given: bool, one_read: bool, affine: bool) -> str:
    """Which kernel would run, and why."""
    s = cut(plan, x.itemsize, WRITE | STREAM | flags(center, given, one_read), affine, threads_for(plan))
    threads = max(step[3] for step in s.steps)
    streaming = "past the cache" if any(step[1] & STREAM for step in s.steps) else "through the cache"
    return f"cpu, family {s.family}, {threads} of {GUARD.threads()} threads: {s.reason}; y is written {streaming}"


@lru_cache(maxsize=4096)
def prepared_backward(plan: Plan, dtype: Any, todo: int, threads: int) -> tuple[Any, Program]:
    """Entry point and program of gradients for this plan, dtype and these flags (cached)."""
    s = cut_backward(plan, dtype.itemsize, todo, threads)
    times = plan.T if s.family == "rows_backward" else 1
    return prepare(True, s, dtype, plan, places=plan.G * plan.K, count=plan.count, times=times)


def tasks(x: Array, dy: Array, dx: Array | None, center: bool, wanted: bool) -> int:
    """Flags of a backward call; `wanted`: gradients of parameters are."""
    todo = (PARAMETERS if wanted else 0) | (CENTER if center else 0)
    return todo if dx is None else todo | (WRITE if dx is x or dx is dy else WRITE | STREAM)


def differentiate_at_once(
    plan: Plan,
    x: Array,
    dy: Array,
    dx: Array | None,
    weight: Array | None,
    mean: Array | None,
    rstd: Array,
    given: bool,
    grads: Array | None,
) -> bool:
    """As `differentiate`, of arguments that nobody has checked; False, and nothing done, if one does not fit."""
    if scales(plan, given, grads is not None):
        return False
    todo = tasks(x, dy, dx, mean is not None and not given, grads is not None)
    run, program = prepared_backward(plan, x.dtype, todo, threads_now(plan))
    done: bool = run(x, dy, dx, weight, mean, rstd, grads, program, False)
    return done


@in_default_environment
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
    needs: tuple[bool, ...],
    grads: Array | None,
) -> None:
    """Write the gradient of x to dx (which may be x or dy), and those of weight and bias to grads.

    Parameters
    ----------
    plan : Plan
    x, dy, dx : C-contiguous arrays of the plan's size and one dtype; dx None if it is not wanted.
    weight : array of the size of the plan's weight_shape, of any float type, or None.
    mean, rstd : arrays of B * G elements and any float type; mean None for 0.
    center : False for a mean of 0 (RMS norm).
    given : the statistics do not depend on x.
    needs : whether the gradients of weight and of bias are wanted.
    grads : C-contiguous array of twice the size of weight_shape: dweight, dbias, of which only what is wanted is defined; or
        None, if none is.
    """
    wanted = grads is not None
    scaled = dx is not None and scales(plan, given, wanted)
    if wanted or not given:
        by_sums = None if scaled else dx
        todo = tasks(x, dy, by_sums, center and not given, wanted)
        read = dy if not needs[0] and (dx is None or given) else x  # for dbias x need not be read
        differentiate_by_sums(plan, read, dy, by_sums, weight, mean, rstd, todo, grads)
    if scaled:
        todo = tasks(x, dy, dx, False, False)
        run, program = prepared(plan, dy.dtype, todo, True, ONLY_RSTD, threads_now(plan))
        run(dy, dx, *plain(weight, None, None, rstd), None, program, True, 0.0, 0.0, 0.0, 0.0)


def differentiate_by_sums(
    plan: Plan, x: Array, dy: Array, dx: Array | None, weight: Array | None, mean: Array | None, rstd: Array, todo: int,
    grads: Array | None,
) -> None:  # fmt: skip
    """The part of `differentiate` that needs sums over groups. float64 that leaves its range is computed again: so nothing that
    is read is overwritten before, and gradients are kept unrounded."""
    run, program = prepared_backward(plan, x.dtype, todo, threads_now(plan))
    (weight, mean), rstd = plain(weight, mean), rstd.astype(np.float64, order="C")
    own, own_grads = dx, grads
    if x.itemsize == 8 and (dx is x or dx is dy):
        own = np.empty(x.shape)
    if grads is not None and (x.itemsize == 8 or grads.dtype is not np.dtype(grads.dtype.name)):
        own_grads = np.empty(grads.shape)

    def compute(x: Array, dy: Array, dx: Array | None, mean: Array | None, rstd: Array, grads: Array | None) -> bool:
        done: bool = run(x, dy, x if dx is None else dx, weight, mean, rstd, grads, program, True)
        return done

    if not compute(x, dy, own, mean, rstd, own_grads):
        scaled_gradients(plan, x, dy, own, mean, rstd, own_grads, compute)
    for target, values in ((grads, own_grads), (dx, own)):
        if target is not values:
            assign(target, values)


def assign(target: Array | None, values: Array | None) -> None:
    """Copy values into an array of any layout and type."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for the dtype is inf there
        if target is not None:
            target[...] = values


def scales(plan: Plan, given: bool, wanted: bool) -> bool:
    """Whether dx is dy * weight * rstd by the kernel of the forward pass: no sums are wanted, or they go with other rows."""
    return given and (not wanted or gradient_family(plan) == "rows")


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


@in_default_environment
def update_running(stats: Array, samples: int, n: int, mean: Array | None, var: Array | None, old: float, new: float) -> None:
    """Take a batch into running statistics of any float type, or None; see `entry.calls.track`."""
    told, own = np.array([*identities(), stats.shape[1] // samples]), plain(mean, var)
    entry(run_tracking, TRACKING)(stats, *own, told, samples, float(n), old, new)
    assign(mean, own[0])
    assign(var, own[1])
