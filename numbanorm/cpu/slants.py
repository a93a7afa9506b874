"""dx from sums that come from anywhere, by the last step of the kernels of gradients: what they settle is settled here.

dx = (x - mean) * slope + (dy * scale + shift)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import LEAST_RUN, by_columns
from .arith.arithmetic import FAST
from .compile import jitable
from .layout import ANCHOR, APPLY, ROOT, SHIFT, SINGLES, SLOPE, UNIT, Step
from .schedule.backward import cut_columns, cut_runs
from .schedule.forward import Cut, Schedule

Array = np.ndarray[Any, Any]


@jitable
def cut_slant_columns(plan: Plan, itemsize: int, flags: int, threads: int) -> Cut:
    """One step, of `columns_backward`."""
    c = cut_columns(plan, itemsize, flags, threads)
    pieces = -(-c.sizes.groups // c.sizes.most) * c.sizes.chunks
    return Cut((Step(APPLY, flags, pieces, min(c.sizes.slots, pieces)),), c.sizes, c.work, c.kept)


@jitable
def cut_slant_runs(plan: Plan, itemsize: int, flags: int, threads: int) -> Cut:
    """One step, of `runs_backward`."""
    c = cut_runs(plan, itemsize, flags, threads)
    pieces = c.sizes.groups * c.sizes.runs * -(-c.sizes.length // c.sizes.span)
    return Cut((Step(APPLY, flags, pieces, min(c.sizes.slots, pieces)),), c.sizes, c.work, c.kept)


def cut_slant(plan: Plan, itemsize: int, flags: int, threads: int) -> Schedule:
    """One step, which writes dx; no sums, so that any kernel will do that takes the runs as they are."""
    if by_columns(plan) or plan.T < LEAST_RUN:
        return cut_slant_columns(plan, itemsize, flags, threads).told("columns_backward", "dx alone")
    return cut_slant_runs(plan, itemsize, flags, threads).told("runs_backward", "dx alone")


def tables(
    stats: tuple[Array, Array | None, Array],
    weight: Array,
    sums: tuple[Array, Array, Array],
    single: bool,
    weighted: bool = False,
) -> Array:
    """What the kernels take for each unit, float64 (units, UNIT), see `layout`.

    stats: mean, its low part and rstd; sums: of dy, of dy * normalized x, and how many elements; all (units,). weighted:
    whether dy is times the weight in the sums already.
    """
    (mean, low, rstd), (of_dy, of_product, count) = stats, sums
    table = np.zeros((len(mean), UNIT))
    with np.errstate(all="ignore"):  # nan and inf pass on
        delta = mean - mean.astype(np.float32) if single else np.zeros_like(mean)
        delta = delta if low is None else delta + low
        scale, n = rstd * weight, np.where(count > 0, count, np.inf)  # nothing was summed of none
        of_sums = rstd if weighted else scale
        slope = -(of_product / n * rstd) * of_sums
        table[:, ANCHOR], table[:, ROOT], table[:, SLOPE] = mean, scale, slope
        table[:, SHIFT] = -(of_dy / n) * of_sums - delta * slope
        if single:
            table[:, SINGLES:].view(np.float32)[:, :SINGLES] = table[:, :SINGLES]
    return table


def without_room(table: Array) -> Array:
    """Units for which float32 does not do, but float64 may."""
    mean, *others = np.abs(table[:, [ANCHOR, ROOT, SLOPE, SHIFT]].T)
    good = mean < FAST.LARGEST_MEAN
    for v in others:
        good &= (v == 0) | ((v > FAST.SMALLEST) & (v < FAST.LARGEST))
    return np.flatnonzero(~good & np.isfinite([mean, *others]).all(0))
