"""dx from sums that come from anywhere, by the last step of the kernels of gradients: what they settle is settled here.

dx = (x - mean) * slope + (dy * scale + shift)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..spec.plan import Plan
from ..spec.tree import LEAST_RUN, by_columns
from .arith.arithmetic import FAST
from .layout import ANCHOR, APPLY, ROOT, SHIFT, SINGLES, SLOPE, UNIT, ColumnsGradientSizes, RunsGradientSizes, Step
from .schedule.backward import columns_schedule, runs_schedule
from .schedule.forward import Schedule

Array = np.ndarray[Any, Any]


def cut_slant(plan: Plan, itemsize: int, flags: int, threads: int) -> Schedule:
    """One step, which writes dx; no sums, so that any kernel will do that takes the runs as they are."""
    if by_columns(plan) or plan.T < LEAST_RUN:
        s = columns_schedule(plan, itemsize, flags, threads)
        columns: ColumnsGradientSizes = s.sizes
        pieces, slots = -(-columns.groups // columns.most) * columns.chunks, columns.slots
    else:
        s = runs_schedule(plan, itemsize, flags, threads)
        runs: RunsGradientSizes = s.sizes
        pieces, slots = runs.groups * runs.runs * -(-runs.length // runs.span), runs.slots
    return replace(s, steps=(Step(APPLY, flags, pieces, min(slots, pieces)),))


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
