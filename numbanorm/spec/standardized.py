"""Calls with statistics from anywhere: the plan in which every unit may have statistics and a weight of its own."""

from __future__ import annotations

from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np

from . import checks
from .call import Call, Present, Which
from .norms import NORMS
from .plan import Plan, Shape, over_axes
from .sources import GIVEN, OWN, RSTD

LEAST_SAMPLE = 8192  # elements of a sample from which on it is worth a call of its own
AS_IT_LIES, TOGETHER, EACH = 0, 1, 2


@lru_cache(maxsize=4096)
def kept_of(shape: Shape, axes: Shape) -> Shape:
    """Shape of the axes that are kept."""
    return tuple(n for k, n in enumerate(shape) if k not in axes)


@lru_cache(maxsize=4096)
def apart(shape: Shape, axes: Shape, parameter: Shape) -> bool:
    """Whether a parameter, of a shape that broadcasts to the kept axes, may differ along those before the first reduced one."""
    return differs(shape, tuple(k in axes for k in range(len(shape))), parameter)


def differs(shape: Shape, reduced: tuple[bool, ...], parameter: Shape) -> bool:
    """`apart`; compiled code has it too."""
    kept, found = 0, False
    for is_reduced in reduced:
        kept += 0 if is_reduced else 1
    place = len(parameter) - kept
    for n, is_reduced in zip(shape, reduced):  # noqa: B905 - Numba knows no strict=
        if is_reduced and n != 1:
            return found
        if not is_reduced:
            found = found or (place >= 0 and parameter[place] != 1)
            place += 1
    return found


def how(b: int, m: int, g: int, t: int, apart: bool) -> int:
    """Whether such sizes are computed as they lie, as those of one sample, or each sample by itself; compiled code has it too.

    Large samples have a call each: to move the axes of (16, 3136, 64) took 8 times as long.
    """
    if apart and m > 1 and m * g * t >= LEAST_SAMPLE:
        return EACH
    return TOGETHER if apart or m == 1 else AS_IT_LIES


def one_sample(shape: Shape, axes: Shape) -> tuple[Plan, Shape]:
    """The plan in which all kept axes are groups of one sample, and the order to which x's axes are moved for it.

    As it lies (kept, reduced, kept, reduced) has a weight for the third part alone: its reduced second part goes to the front.
    """
    plan, order = over_axes(shape, axes)
    if plan.M > 1 and plan.B > 1:
        large = [k for k in order if shape[k] != 1]
        lead = list(takewhile(lambda k: k not in axes, large))
        block = list(takewhile(lambda k: k in axes, large[len(lead) :]))
        order = (*block, *(k for k in order if k not in block))
    return Plan(1, plan.M, plan.B * plan.G, 1, plan.T, plan.stats_shape, (plan.units,)), order


@lru_cache(maxsize=4096)
def standardize_call(shape: Shape, dtype: Any, axes: Shape, apart: bool, exact: bool, present: Present) -> tuple[Call, Shape]:
    """The call, and the order of axes; apart: whether weight or bias is not the same for all samples."""
    plan, order = over_axes(shape, axes)
    way = how(plan.B, plan.M, plan.G, plan.T, apart)
    if way == EACH:
        plan = Plan(1, plan.M, plan.G, 1, plan.T, plan.stats_shape, (plan.G,))
    elif way == TOGETHER:
        plan, order = one_sample(shape, axes)
    return Call(plan, dtype, False, True, RSTD, exact=exact or dtype.itemsize == 8, weight=present[0], bias=present[1],
                in_place=present[2]), order  # fmt: skip


@lru_cache(maxsize=4096)
def norm_call(norm: str, shape: Shape, dtype: Any, which: Which, exact: bool, present: Present) -> Call:
    """The call of a norm in `NORMS` with mean and rstd that are given."""
    row = NORMS[norm]
    return Call(
        row.plan_of(shape, *which), dtype, False, row.center, RSTD, "two_pass", exact or dtype.itemsize == 8, True, *present
    )


@lru_cache(maxsize=4096)
def sums_call(shape: Shape, dtype: Any, axes: Shape) -> tuple[Call, Shape]:
    """The call that sums dy and dy * normalized x of every unit, and the order of axes."""
    plan, order = one_sample(shape, axes)
    return Call(plan, dtype, True, True, GIVEN, write=False, weight=True, bias=True), order


@lru_cache(maxsize=4096)
def slant_call(shape: Shape, dtype: Any, axes: Shape, exact: bool) -> tuple[Call, Shape]:
    """The call that writes dx, from sums that it is given, and the order of axes."""
    plan, order = one_sample(shape, axes)
    return Call(plan, dtype, True, True, OWN, exact=exact or dtype.itemsize == 8), order


@lru_cache(maxsize=4096)
def roots_call(units: int, dtype: Any, exact: bool) -> Call:
    """The call that makes 1 / sqrt(var + eps) of so many variances, by the kernels for x of this dtype; it reads no x."""
    exact = exact or dtype.itemsize == 8
    return Call(Plan(1, 1, units, 1, 1, (units,), (units,)), dtype, False, True, GIVEN, exact=exact, write=False)


def spread(name: str, value: Any, kept: Shape) -> checks.Array:
    """An array of a shape that broadcasts to the kept axes, checked."""
    a = checks.array(name, value)
    fits_spread(name, a, kept)
    return a


def fits_spread(name: str, a: Any, kept: Shape) -> None:
    """An array, wherever it lies, is of a shape that broadcasts to the kept axes."""
    if a.shape == kept:
        return
    try:
        fits = np.broadcast_shapes(a.shape, kept) == kept
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to the axes that are not in axis, {kept}: got {a.shape}; "
                         f"{name} has an element for what shares it, as moments(x, axis).mean does")  # fmt: skip
