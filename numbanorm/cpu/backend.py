"""The CPU backend: Numba kernels over explicit vectors; see `backends.protocol`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..spec.around import Around, AroundGradients
from ..spec.call import Call, Known, exactly, scales, scaling_of, sums_of
from ..spec.gaps import without_gaps
from ..spec.plan import Plan
from ..spec.sources import RSTD as RSTD_ALONE
from .around import differentiate_around, normalize_around
from .compile import COMPILES
from .entry.calls import DONE, REFUSED, TOO_WIDE, TRACKING, Program, members_of, places_of, run_tracking
from .entry.objects import identities
from .gaps import TOLD, reading, words
from .launch import GUARD, at_addresses, entry, in_default_environment, prepare
from .layout import AT_ONCE, BOTH, CENTER, COUNT, LOW, M2, MEAN, MERGED, OWN, PARAMETERS, RSTD, SINGLE, SQUARES, STREAM, WRITE
from .masks import Mask, fill_excluded, mask_of, write_empty
from .rescale import keep_scaled, scaled_gradients, scaled_groups
from .schedule import turned
from .schedule.backward import cut_backward
from .schedule.forward import SERIAL, Schedule, cut
from .slants import cut_slant, tables, without_room

__all__ = ["COMPILES", "describe", "differentiate", "fill", "mask_of", "measure", "normalize", "slant", "try_backward",
           "try_backward_at", "try_forward", "try_forward_at", "update_included", "update_running"]  # fmt: skip

Array = np.ndarray[Any, Any]
Statistics = tuple[Array | None, Array]  # mean, None for 0, and rstd
READS = {
    "one_read": "x is read once for its sums and squares",
    "two_pass": "x is read for its sums, and again for squares about the mean",
    "welford": "x is read once for the moments of its parts, which are merged",
}


def as_float64(*arrays: Array | None) -> list[Array | None]:
    """Copies of parameters that the kernels know for sure: contiguous, and of a dtype that is NumPy's own object."""
    return [None if a is None else a.astype(np.float64, order="C") for a in arrays]


def flags_of(call: Call) -> int:
    """Flags of `layout` for a call; STREAM allows results to be written past the caches."""
    flags = (WRITE | (0 if call.in_place else STREAM)) if call.write else 0
    if call.backward:
        own = 0 if call.given else OWN | CENTER if call.center else OWN
        return flags | own | (PARAMETERS if call.affine else 0) | (0 if call.exact else SINGLE)
    if call.given:
        return flags
    if not call.center:
        return flags | OWN | SQUARES
    return flags | OWN | BOTH | {"one_read": AT_ONCE, "welford": MERGED, "two_pass": 0}[call.method]


def schedule_of(call: Call, threads: int) -> Schedule:
    """The schedule of a call for so many threads."""
    p, itemsize, flags, side = call.plan, call.dtype.itemsize, flags_of(call), call.turned
    if call.backward:
        return (turned.cut_backward if side else cut_backward)(p, itemsize, flags, threads)
    return (turned.cut if side else cut)(p, itemsize, flags, call.affine, threads)


@lru_cache(maxsize=4096)
def prepared(call: Call, threads: int) -> tuple[Any, Program]:
    """Entry point and program of a call for so many threads (cached)."""
    s, p = schedule_of(call, threads), call.plan
    places, count = places_of(p, call.backward, call.affine), members_of(p, call.backward, call.source)
    return prepare(s, call, places=places, count=count, times=p.T if s.family == "rows_backward" else 1)


@lru_cache(maxsize=4096)
def prepared_slant(call: Call, threads: int) -> tuple[Any, Program]:
    """The same of a call that writes dx from sums that are given."""
    s = cut_slant(call.plan, call.dtype.itemsize, flags_of(call), threads)
    return prepare(s, call, places=call.plan.units, count=call.plan.count, times=1, alone=True)


@lru_cache(maxsize=4096)
def prepared_at(call: Call, threads: int) -> tuple[Any, Program]:
    """`prepared`, for addresses in place of arrays (cached)."""
    run, program = prepared(call, threads)
    return at_addresses(run, call), program


def threads_of(call: Call) -> int:
    """Threads for a call that begins now: one while other processes keep the cores busy."""
    return 1 if call.plan.size < SERIAL or GUARD.waits() else GUARD.threads()


def ready(call: Call) -> tuple[Any, Program]:
    """Entry point and program for a call that begins now."""
    return prepared(call, threads_of(call))


def try_forward(call: Call, x: Array, y: Array, weight: Any, bias: Any, eps: float, known: Known, stats: Array | None) -> int:
    """As `normalize`, of arguments that nobody has checked: DONE, REFUSED (then nothing was done) or OUT_OF_RANGE.

    stats: zeros, if they are wanted. Out of range, y and stats are to be written again; running statistics are as they were.
    """
    run, program = ready(call)
    mean, var, shares, _ = known
    old, new = shares or (0.0, 0.0)
    status: int = run(x, y, weight, bias, mean, var, stats, program, False, eps, call.plan.count - 1.0, old, new)
    return status


def try_forward_at(call: Call, addresses: Sequence[int], codes: int, eps: float, shares: Any, stats: Array | None) -> int:
    """`try_forward` of x, y, weight, bias, mean and variance by their addresses, 0 for None; codes: see `entry.addresses`."""
    run, program = prepared_at(call, threads_of(call))
    old, new = shares or (0.0, 0.0)
    status: int = run(*addresses, codes, stats, program, eps, call.plan.count - 1.0, old, new)
    return status


@in_default_environment
def normalize(
    call: Call, x: Array, y: Array, weight: Array | None, bias: Array | None, eps: float, known: Known,
    mask: Mask | Around | None = None,
) -> Array:  # fmt: skip
    """Write the normalized x to y (which may be x) and return the statistics.

    Parameters
    ----------
    call : Call
    x, y : C-contiguous arrays of the plan's size and one dtype.
    weight, bias : arrays of the size of the plan's weight_shape, of any float type, or None.
    eps : float
    known : mean and variance of G elements and any float type, if they are given; or mean and rstd of B * G, for source RSTD.
    mask : of the elements that are measured, if the call has one; or what stands around the norm.

    Returns
    -------
    float64 array (4, B * G) of mean, its low part, sum of squares (the variance, if given) and rstd; (5, B * G) with a mask:
    and how many were measured.
    """
    if isinstance(mask, Around):
        return normalize_around((ready, normalize), call, (x, y), (weight, bias, eps), known, mask)
    stats, kept = np.zeros((4 if mask is None else 5, call.plan.units)), x
    weight, bias, mean, var = as_float64(weight, bias, *known[:2])
    if known[3] is not None:
        stats[LOW] = known[3]
    if call.source == RSTD_ALONE and mean is not None:
        stats[MEAN] = mean
    if x.itemsize == 8 and y is x and not call.given:
        kept = x.copy()  # what leaves float64's range is computed again

    def compute(call: Call, x: Array, y: Array, weight: Any, bias: Any, eps: float, stats: Array, mask: Mask | None) -> bool:
        run, program = ready(call)
        arrays = reading(call, x, mask), words(call, y) if call.gaps_out else y
        status = run(*arrays, weight, bias, mean, var, stats, program, True, eps, 0.0, 0.0, 0.0)
        return compute(exactly(call), x, y, weight, bias, eps, stats, mask) if status == TOO_WIDE else status == DONE

    done = compute(call, kept, y, weight, bias, eps, stats, mask)
    if not done and call.gaps:  # which hardly ever happens
        z = np.empty(x.shape, x.dtype)
        stats = normalize(without_gaps(call), np.array(kept, order="C"), z, weight, bias, eps, known)
        assign(y, z)
        return stats
    if mask is not None:
        stats[COUNT] = mask.counts
        stats[RSTD, mask.counts == 0] = 0.0
    if not done:
        for group in scaled_groups(call, kept, (weight, bias, eps), stats, compute, mask):
            y.reshape(call.plan.B, call.plan.M, call.plan.G, -1)[group.where] = group.y
    if mask is not None:
        write_empty(call, y, bias, mask.counts)
    return stats


@in_default_environment
def measure(call: Call, x: Array, scale: Array | None = None, mask: Mask | None = None) -> Array:
    """The statistics of `normalize` with eps 0, and nothing written.

    scale: (B * G,), of ones; where a sum of squares leaves float64's range it becomes the power of two that the low part, and
    with its square the sum, are left divided by.
    """
    stats = np.zeros((4, call.plan.units))

    def compute(call: Call, x: Array, y: Any, weight: None, bias: None, eps: float, stats: Array, mask: Mask | None) -> bool:
        run, program = ready(call)
        status = run(reading(call, x, mask), x, None, None, None, None, stats, program, True, eps, 0.0, 0.0, 0.0)
        return status == DONE  # type: ignore[no-any-return]

    if not compute(call, x, None, None, None, 0.0, stats, mask):
        for group in scaled_groups(call, x, (None, None, 0.0), stats, compute, mask):
            if scale is not None:
                keep_scaled(group, stats, scale)
    return stats


def try_backward(
    call: Call, x: Array, dy: Array, dx: Array | None, weight: Any, stats: tuple[Any, Any], grads: Array | None
) -> int:
    """As `differentiate`, of arguments that nobody has checked: DONE, or another status, and nothing to be relied on."""
    if scales(call) or not (call.write or call.affine):
        return REFUSED
    run, program = ready(call)
    status: int = run(x, dy, dx, weight, *stats, grads, program, False)
    return status


def try_backward_at(call: Call, addresses: Sequence[int], codes: int, stats: Array) -> int:
    """`try_backward` of x, dy, dx, weight, dweight and dbias by their addresses; stats: those of `try_forward_at`."""
    if scales(call) or not (call.write or call.affine):
        return REFUSED
    run, program = prepared_at(call, threads_of(call))
    status: int = run(*addresses, codes, stats, call.center, program)
    return status


@in_default_environment
def differentiate(
    call: Call,
    x: Array,
    dy: Array,
    dx: Array | None,
    weight: Array | None,
    stats: Statistics,
    grads: Array | None,
    mask: Mask | AroundGradients | None = None,
) -> None:
    """Write the gradient of x to dx (which may be x or dy), and those of weight and bias to grads.

    Parameters
    ----------
    call : Call
    x, dy, dx : C-contiguous arrays of the plan's size and one dtype; dx None if it is not wanted.
    weight : array of the size of the plan's weight_shape, of any float type, or None.
    stats : mean and rstd, of B * G elements and any float type; mean None for 0.
    grads : C-contiguous array of twice the size of weight_shape: dweight, dbias, of which only what is wanted is defined; or
        None, if none is.
    mask : of the elements that were measured, if the call has one; dx is 0 elsewhere. Or what stood around the norm.
    """
    if isinstance(mask, AroundGradients):
        return differentiate_around((ready, differentiate), call, (x, dy, dx), (weight, stats, grads), mask)
    if not call.exact and any(a is not None and a.dtype != np.float64 for a in stats):
        call = exactly(call)  # which makes good what the mean was rounded by
    sums = sums_of(call)
    if sums.write or sums.affine:
        read = dy if not call.weight and (dx is None or call.given) else x  # for dbias x need not be read
        differentiate_by_sums(sums, read, dy, dx if sums.write else None, weight, stats, grads, mask)
    if scales(call):
        run, program = ready(scaling_of(call))
        run(dy, dx, *as_float64(weight, None, None, stats[1]), None, program, True, 0.0, 0.0, 0.0, 0.0)
    if mask is not None and dx is not None:
        fill_excluded(dx, mask, 0.0)


def differentiate_by_sums(
    call: Call,
    x: Array,
    dy: Array,
    dx: Array | None,
    weight: Array | None,
    stats: Statistics,
    grads: Array | None,
    mask: Mask | None,
) -> None:
    """The part of `differentiate` that needs sums over groups. What leaves its range is computed again: so nothing that is read
    is overwritten before, and gradients of float64 are kept unrounded."""
    run, program = ready(call)
    (weight, mean), rstd = as_float64(weight, stats[0]), stats[1].astype(np.float64, order="C")
    if mask is not None:  # numbers of a group of which nothing was measured, with which no sum has to be taken again
        for a, value in ((mean, 0.0), (rstd, 1.0)):
            assign(None if a is None else a.reshape(-1), value, mask.counts == 0)
    own, own_grads = dx, grads
    if (x.itemsize == 8 or not call.exact) and (dx is x or dx is dy):
        own = np.empty(x.shape, x.dtype)
    if grads is not None and (x.itemsize == 8 or grads.dtype is not np.dtype(grads.dtype.name)):
        own_grads = np.empty(grads.shape)

    def compute(x: Array, dy: Array, dx: Array | None, mean: Array | None, rstd: Array, grads: Array | None) -> int:
        arrays = [reading(call, x, mask), dy, x if dx is None else dx]
        if call.gaps:
            arrays[1:] = words(call, dy), words(call, arrays[2]) if call.gaps_out or dx is None else dx
        status: int = run(*arrays, weight, mean, rstd, grads, program, True)
        return status

    status = compute(x, dy, own, mean, rstd, own_grads)
    if status == TOO_WIDE:
        return differentiate_by_sums(exactly(call), x, dy, dx, weight, stats, grads, mask)
    if status != DONE and call.gaps:  # which hardly ever happens
        (x, dy), own = (np.array(a, order="C") for a in (x, dy)), None if own is None else np.empty(x.shape, x.dtype)
        differentiate_by_sums(without_gaps(call), x, dy, own, weight, (mean, rstd), own_grads, mask)
    elif status != DONE and call.exact:
        x, dy = (a if mask is None else np.where(mask.where, a, 0.0) for a in (x, dy))
        scaled_gradients(call.plan, x, dy, own, mean, rstd, own_grads, compute)
    elif status != DONE:
        exact_dx, exact_grads = (None if a is None else np.empty(a.shape, a.dtype) for a in (own, own_grads))
        differentiate_by_sums(exactly(call), x, dy, exact_dx, weight, (mean, rstd), exact_grads, mask)
        mend(call, (own, own_grads), (exact_dx, exact_grads))
    for target, values in ((grads, own_grads), (dx, own)):
        if target is not values:
            assign(target, values)


@in_default_environment
def slant(
    call: Call, x: Array, dy: Array, dx: Array, stats: tuple[Array, Array | None, Array], weight: Array, *sums: Any
) -> None:
    """Write dx (which may be x or dy) for sums over all elements that share statistics, which may be more than those of x.

    Parameters
    ----------
    call : Call
    x, dy, dx : C-contiguous arrays of the plan's size and one dtype.
    stats : mean, its low part (or None) and rstd, float64 of G elements.
    weight : float64 of G elements.
    *sums : of dy, of dy * normalized x, and the number of elements, float64 of G elements; True if dy is weighted there.
    """
    table = tables(stats, weight, (sums[0], sums[1], sums[2]), not call.exact, *sums[3:])
    groups = np.empty(0, int) if call.exact else without_room(table)
    if groups.size:
        fine = np.empty_like(x)
        slant(exactly(call), x, dy, fine, stats, weight, *sums)
    run, program = prepared_slant(call, threads_of(call))
    run(x, dy, dx, table, program)
    if groups.size:
        to, source = (a.reshape(call.plan.M, call.plan.G, -1) for a in (dx, fine))
        to[:, groups] = source[:, groups]


fill = in_default_environment(fill_excluded)


def mend(call: Call, fast: tuple[Array | None, Array | None], exact: tuple[Array | None, Array | None]) -> None:
    """Take from exact gradients those for which float32 had no room: of x for a group that is nan, of parameters each."""
    if fast[0] is not None and exact[0] is not None:
        p = call.plan
        to, source = (a.reshape(p.B, p.M, p.G, -1) for a in (fast[0], exact[0]))
        sample, group = np.nonzero(np.isnan(to[:, 0, :, 0]))
        spoilt = np.isnan(to[sample, :, group]).all((1, 2))  # a mask may leave out what is nan
        sample, group = sample[spoilt], group[spoilt]
        to[sample, :, group] = source[sample, :, group]
    if fast[1] is not None and exact[1] is not None:
        np.copyto(fast[1], exact[1], where=~np.isfinite(fast[1]))


def assign(target: Array | None, values: Any, where: Any = ...) -> None:
    """Copy values into an array of any layout and type."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for the dtype is inf there
        if target is not None:
            target[where] = values


def describe(call: Call, x: Array) -> str:
    """Say which kernels would run, and why."""
    threads, told = 1 if call.plan.size < SERIAL else GUARD.threads(), []
    part = sums_of(call) if call.backward else call
    if part.write or part.affine:
        s = schedule_of(part, threads)
        told.append(f"family {s.family}, {max(step.threads for step in s.steps)} of {GUARD.threads()} threads: {s.reason}")
        if not call.backward:
            streaming = any(step.flags & STREAM for step in s.steps)
            told.append(f"y is written {'past' if streaming else 'through'} the cache")
            told += [READS[call.method]] if call.center and not call.given else []
    if call.backward and scales(call):
        told.append("dx = dy * weight * rstd by the kernel of the forward pass")
    if told:
        told += ["what stands around the norm is done in the same passes"] if part.joined else []
        told += [TOLD[part.turned > 0]] if part.gaps else []
        told += ["a mask says which elements are measured"] if part.where else []
        told.append("results are float64 numbers rounded once" if part.exact else "results are computed in float32")
    return "cpu, " + ("; ".join(told) or "nothing: no gradient is wanted")


@in_default_environment
def update_running(stats: Array, samples: int, n: int, mean: Array | None, var: Array | None, old: float, new: float) -> None:
    """Take a batch into running statistics of any float type, or None; see `entry.calls.track`."""
    told, own = np.array([*identities(), stats.shape[1] // samples]), as_float64(mean, var)
    entry(run_tracking, TRACKING)(stats, *own, told, samples, float(n), old, new)
    assign(mean, own[0])
    assign(var, own[1])


@in_default_environment
def update_included(
    stats: Array, p: Plan, unbiased: bool, mean: Array | None, var: Array | None, old: float, new: float
) -> None:
    """`update_running`, of what a mask let in: a sample counts where it has a mean, or a variance, and a channel without such
    stays as it is. stats: float64 (5, B * G)."""
    n = p.count - unbiased
    for row, running in ((MEAN, mean), (M2, var)):
        if running is None:
            continue
        counts, values = (stats[k].reshape(p.B, p.G) for k in (COUNT, row))
        if row == M2:
            counts = counts - unbiased
            values = values * (n / np.maximum(counts, 1))
        there, batch, before = counts > 0, np.zeros((4, p.G)), running.copy()
        for sample in np.where(there, values, 0.0):
            batch[row] += sample
        batch[row] /= np.maximum(there.sum(0), 1)
        update_running(batch, 1, n, running if row == MEAN else None, running if row == M2 else None, old, new)
        assign(running, before[~there.any(0)], ~there.any(0))
