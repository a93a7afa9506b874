"""Batch norm of a batch that is spread over processes, each of which has some of it, or nothing.

Every rank sends its moments, and merges those of all in the order of the ranks: so all have the same statistics to the bit. The
gradients' sums go the same way. What a rank has is normalized there, in host memory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .backends import host
from .communicators import exchanged
from .execute import standardize as execute
from .execute.running import Running, RunningArguments
from .execute.standardize import Asked, Given
from .moments import Moments, given_by, made, moments
from .spec import checks
from .spec.around import refuse_around
from .spec.call import Stats
from .spec.checks import Array
from .spec.norms import NORMS
from .spec.plan import Plan, Shape

How = tuple[Any, ...]  # method, exact, out, return_stats, backend; backward needs, exact, out, backend, where, around the norm


class Part(NamedTuple):
    """What a rank has of a call, checked."""

    asked: Asked
    weight: Array | None
    bias: Array | None
    eps: float
    exact: bool
    running: Running
    where: Array | None
    fill: float | None


def forward(
    x: Any,
    channel_axis: int,
    affine: tuple[Any, Any, Any],
    how: How,
    running: RunningArguments,
    where: Any,
    beside: tuple[Any, ...],
    comm: Any,
) -> Any:
    """y, or (y, Stats), of batch norm in training, with the statistics of all ranks. affine: weight, bias, eps; beside: fill,
    and what stands around the norm."""
    parts: list[Part] = []

    def local() -> Array:
        """The moments of this rank, (5, channels); of a mask, -1 - count."""
        parts.append(check(x, channel_axis, affine, how, running, where, beside))
        part = parts[0]
        m: Any = moments(part.asked.x, part.asked.axes, where=part.where, method=how[0] or "two_pass")
        count = m.count if part.where is None else -1 - np.asarray(m.count)
        return rows((count, m.mean, m._low, m._squares, m._scale), part.asked.kept)

    found = exchanged(comm, "batch_norm", local)
    part, m = parts[0], of_all_ranks(found)
    if np.ndim(m.count) == 0 and m.count == 1:
        raise ValueError("a variance needs more than one value per channel: got a single one on all ranks of comm together; "
                         "use a larger batch, or given statistics")  # fmt: skip
    y, stats = normalized(part, m, how[2])
    if np.any(np.asarray(m.count) > 0):
        update(part.running, m, stats.rstd)
    return (y, stats) if how[3] else y


def check(
    x: Any,
    channel_axis: int,
    affine: tuple[Any, Any, Any],
    how: How,
    running: RunningArguments,
    where: Any,
    beside: tuple[Any, ...],
) -> Part:
    """Check all arguments, as one process does, but for the size of the batch; see `forward`."""
    (weight, bias, eps), (method, exact, out, with_stats, backend), (fill, *around) = affine, how, beside
    refuse_around("comm", around)
    asked = of_channels(x, channel_axis, backend)
    checks.method(method)
    checks.flag("return_stats", with_stats)
    tracked = Running(host, running, asked.kept[0], "training")
    w, b = (host.parameter(name, p, asked.kept) for name, p in (("weight", weight), ("bias", bias)))
    kept, value = host.mask(where, asked.x.shape), checks.fill(fill, where)
    others = ("x", x), ("weight", weight), ("bias", bias), ("where", where)
    if out is not None:
        host.output(out, asked.x, (*others, *tracked.arrays()))
    host.apart(tracked.arrays(), others)
    return Part(asked, w, b, checks.eps(eps), checks.flag("exact", exact), tracked, kept, value)


def of_channels(x: Any, channel_axis: int, backend: Any) -> Asked:
    """x, checked, with all axes reduced but that of the channels."""
    x_ = execute.asked(x, (), backend).x
    p = NORMS["batch_norm"].plan_of(x_.shape, (), channel_axis)
    channel = channel_axis % x_.ndim
    return Asked(x_, tuple(k for k in range(x_.ndim) if k != channel), p.stats_shape)


def of_all_ranks(found: Array) -> Moments:
    """The moments of all ranks, merged in their order."""
    counts, total = counts_of(found[:, 0]), Moments()
    for count, (_, mean, low, squares, scale) in zip(counts, found, strict=True):
        total = total + made(count, None, mean, low, squares, 0.0, scale)
    return total


def counts_of(sent: Array) -> list[Any]:
    """How many elements each rank has: a number, or for each channel where a rank has a mask."""
    if (sent < 0.0).any():
        return [np.where(row < 0.0, -1 - row, row).astype(np.int64) for row in sent]
    return [int(row.max(initial=0.0)) for row in sent]


def rows(values: tuple[Any, ...], kept: Shape) -> Array:
    """Numbers and arrays of the kept axes as float64 (values, channels)."""
    return np.array([np.broadcast_to(v, kept) for v in values], np.float64)


def normalized(part: Part, m: Moments, out: Any) -> tuple[Array, Stats]:
    """y of what a rank has, and the statistics of all. Of a channel without an element they are 0, without a mask nan."""
    asked, several = part.asked, np.ndim(m.count) > 0
    source, given = given_by(m, asked, part.eps, part.exact)
    rstd = given.rstd if type(m._scale) is float else m.rstd(part.eps)
    if several:
        there = np.asarray(m.count) > 0
        given, rstd = given._replace(rstd=np.where(there, given.rstd, 0.0)), np.where(there, rstd, 0.0)
    y = execute.forward(source, given, (part.weight, part.bias), asked.axes, part.exact, out)
    if part.fill is not None and part.where is not None:
        np.copyto(y, np.asarray(part.fill).astype(y.dtype), where=~part.where)
    empty = not several and m.count == 0
    stats = Stats(np.full(asked.kept, math.nan) if empty else np.array(m.mean), np.array(rstd))
    stats.weighted = part.weight is not None
    stats.low = None if empty else np.array(np.broadcast_to(m.mean_low, asked.kept))
    if several:
        stats.count = np.array(m.count)
    return y, stats


def update(running: Running, m: Moments, rstd: Array) -> None:
    """Take the moments of all ranks into running statistics."""
    count: Any = m.count
    several = (count,) if np.ndim(count) else ()
    n = int(np.max(count))
    stats = rows((m.mean, m.mean_low, m.m2, rstd, *several), rstd.shape)
    running.update(stats, Plan(1, n, rstd.size, 1, 1, rstd.shape, rstd.shape))


def backward(dy: Any, x: Any, channel_axis: int, stats: Any, weight: Any, how: How, comm: Any) -> tuple[Array | None, ...]:
    """Gradients of batch norm with the statistics of all ranks; those of weight and bias are of what is here."""
    parts: list[PartBackward] = []

    def local() -> Array:
        """This rank's counts, and its sums of dy and of dy * normalized x, (3, channels)."""
        parts.append(check_backward(dy, x, channel_axis, stats, weight, how))
        part, sums = parts[0], execute.sums(parts[0].dy, parts[0].asked.x, parts[0].given, parts[0].asked.axes)
        parts[0] = part._replace(sums=sums)
        return rows((part.count, *sums), part.asked.kept)

    found = exchanged(comm, "batch_norm_backward", local)
    part, total = parts[0], found[0]
    for one in found[1:]:
        total = total + one
    dtype = part.asked.x.dtype if part.weight is None else part.weight.dtype
    of_dy, of_product = part.sums
    needs, exact, out = how[0], part.exact, how[2]
    dx = None
    if needs[0]:
        sums = total[1], total[2], total[0]
        dx = execute.slanted((part.dy, part.asked.x), part.given, part.weight, sums, part.asked.axes, exact, out)
        if part.where is not None:
            np.copyto(dx, np.zeros((), dx.dtype), where=~part.where)
    return dx, of_product.astype(dtype) if needs[1] else None, of_dy.astype(dtype) if needs[2] else None


class PartBackward(NamedTuple):
    """What a rank has of a backward call, checked; x and dy are 0 where a mask leaves them out."""

    asked: Asked
    dy: Array
    given: Given
    weight: Array | None
    exact: bool
    where: Array | None
    count: Any
    sums: tuple[Array, Array] = (np.zeros(0), np.zeros(0))


def check_backward(dy: Any, x: Any, channel_axis: int, stats: Any, weight: Any, how: How) -> PartBackward:
    """Check all arguments, as one process does."""
    needs, exact, out, backend, where, *around = how
    refuse_around("comm", around)
    asked = of_channels(x, channel_axis, backend)
    wanted, dy_ = checks.needs(needs, 3), host.like("dy", dy, asked.x)
    known: Any = host.stats(stats, asked.kept, True)
    mean, rstd = known
    w = host.parameter("weight", weight, asked.kept)
    if weight is None and getattr(stats, "weighted", False):
        raise ValueError("weight must be given, for the forward call had one: got None; pass the same weight")
    if out is not None:
        if not wanted[0]:
            raise ValueError(f"out is where dx is written: got needs={wanted}; leave out away, or ask for dx")
        others = ("x", x), ("dy", dy), ("weight", weight), ("mean", mean), ("rstd", rstd), ("where", where)
        host.output(out, asked.x, others, may_be=("x", "dy"))
    given = asked.given(mean, getattr(stats, "low", None), rstd)
    kept, count = host.mask(where, asked.x.shape), math.prod(asked.x.shape[k] for k in asked.axes)
    if kept is not None:
        dy_, x_ = (included(a, kept) for a in (dy_, asked.x))
        asked, count = asked._replace(x=x_), np.broadcast_to(kept, x_.shape).sum(asked.axes)
    return PartBackward(asked, dy_, given, w, checks.flag("exact", exact), kept, count)


def included(a: Array, where: Array) -> Array:
    """A copy of an array, 0 where it is not included."""
    a = np.array(a)
    np.copyto(a, np.zeros((), a.dtype), where=~where)
    return a
