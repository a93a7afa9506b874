"""Schedules: the family that works, the cut of the work, and its work space. Integers only, and never a bit of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ...spec import tree
from ...spec.plan import Plan
from ...spec.tree import LEAST_RUN, SHORT, TILE
from .. import layout
from ..compile import jitable
from ..layout import (
    AGAIN,
    APPLY,
    AT_ONCE,
    CENTER,
    FUSED,
    JOIN,
    LANE_ROOM,
    MEASURE,
    MERGED,
    OWN,
    PIECE,
    SQUARES,
    STACK,
    STREAM,
    WRITE,
    ColumnsSizes,
    RunsSizes,
    Step,
)
from .machine import cache_bytes, kept

block_rows, by_columns, fold_for = jitable(tree.block_rows), jitable(tree.by_columns), jitable(tree.fold_for)
rows_together = jitable(layout.rows_together)

SERIAL = 40960  # elements below which a second thread does not pay: layer norm of 33024 takes 12 us in one, 13 in two
STREAM_RUN = 1024  # elements of a run from which on streaming pays although its ends are not aligned
MOST_COLUMNS = 4096  # of a strip: its sums and parameters must stay in the cache
BESIDE = 512  # columns that are normalized side by side, where a row has fewer
LEAST_STRIP = 256  # columns: 1 KiB of float32; shorter pieces of a row waste what memory brings along


@dataclass(frozen=True, slots=True)
class Schedule:
    """A call cut for threads."""

    family: str
    steps: tuple[Step, ...]
    sizes: Any  # what the family's kernel wants to know, see `layout`
    work: int
    kept: int
    reason: str


class Cut(NamedTuple):
    """What a schedule has but words, as compiled code makes it too."""

    steps: tuple[Step, ...]  # as many of every call; one without threads is left out
    sizes: Any
    work: int
    kept: int

    def told(self, family: str, reason: str) -> Schedule:
        """The schedule, in words."""
        return Schedule(family, tuple(s for s in self.steps if s.threads), self.sizes, self.work, self.kept, reason)


def cut(plan: Plan, itemsize: int, flags: int, affine: bool, threads: int) -> Schedule:
    """Cut `plan` for `threads` threads; `flags`: flags of `layout`, STREAM allowed or not."""
    flags = streaming(flags, 2 * plan.size * itemsize)
    schedule = columns_schedule if in_columns(plan, flags) else runs_schedule
    return schedule(plan, itemsize, flags, affine, threads)


@jitable
def streaming(flags: int, size: int) -> int:
    """The flags, without STREAM where so many bytes stay in the caches."""
    return flags & ~STREAM if kept(size) else flags


@jitable
def in_columns(plan: Plan, flags: int) -> bool:
    """Whether *columns* is the family of a forward call."""
    return by_columns(plan) and ((flags & (CENTER | SQUARES)) != 0 or plan.T < LEAST_RUN)


@jitable
def balanced(units: int, threads: int) -> bool:
    """Whether dealing whole units keeps every thread busy at least 85 % of the time."""
    return -(-units // threads) * threads * 0.85 <= units


@jitable
def bits_of(n: int) -> int:
    """Bits of an integer >= 0."""
    bits = 0
    while n > 0:
        n, bits = n >> 1, bits + 1
    return bits


@jitable
def power_of_two_above(n: int) -> int:
    return 1 << bits_of(max(0, n - 1))


@jitable
def parts_of(itemsize: int) -> int:
    """float64 numbers that an accumulator takes a lane; see `arithmetic.arithmetic_of`."""
    return 2 if itemsize == 8 else 1


@jitable
def sixteens(n: int) -> int:
    return -(-n // 16) * 16


@jitable
def blocks_per_chunk(blocks: int, units: int, threads: int) -> int:
    """A power of two (an aligned subtree of the row tree): the largest with which threads are busy 90 % of the time.

    Fewer chunks mean fewer sums to write and to join, which one thread does.
    """
    size = power_of_two_above(blocks)
    while size > 1 and -(-units * -(-blocks // size) // threads) * threads * size * 0.9 > units * blocks:
        size //= 2
    return size


@jitable
def steps_for(fused: bool, flags: int, units: int, pieces: int, threads: int) -> tuple[Step, ...]:
    """One step that does it all, or one after the other; joining is too little work for more than one thread."""
    none, wide = Step(FUSED, 0, 0, 0), min(threads, pieces)
    if fused:
        return Step(FUSED, flags, units, min(threads, units)), none, none, none, none
    means, squares = flags & CENTER, flags & SQUARES
    if flags & AT_ONCE:
        means, squares = CENTER | SQUARES | AT_ONCE, SQUARES | AGAIN
    elif flags & MERGED:
        means, squares = means | MERGED, squares | MERGED
    return (
        Step(MEASURE, means, pieces, wide if means else 0),
        Step(JOIN, means, units, 1 if means or not squares else 0),
        Step(MEASURE, squares, pieces, wide if squares else 0),
        Step(JOIN, squares, units, 1 if squares else 0),
        Step(APPLY, flags & (WRITE | STREAM | OWN), pieces, wide if flags & WRITE else 0),
    )


@jitable
def most_threads(steps: tuple[Step, ...]) -> int:
    """Threads of the step that has most."""
    most = 0
    for step in steps:
        most = max(most, step.threads)
    return most


@jitable
def span_for(length: int, runs: int, threads: int) -> int:
    """Elements that a thread sums at once, of `runs` runs: whole tiles, a power of two, few where threads want work."""
    span = 64 * TILE
    while threads > 1 and span > 4 * TILE and runs * -(-length // span) < 4 * threads:
        span //= 2
    return span


@jitable
def cut_runs(plan: Plan, itemsize: int, flags: int, affine: bool, threads: int) -> Cut:
    """Whole groups to a thread, or spans of runs where there are too few groups."""
    units, runs, length = plan.B * plan.G, plan.M, plan.K * plan.T
    parts = parts_of(itemsize)
    t = plan.T if affine else length
    if (length if t == 1 else t) < STREAM_RUN:
        flags &= ~STREAM
    fused = balanced(units, threads) and (runs == 1 or (flags & (CENTER | SQUARES)) != 0)
    tiles = -(-length // TILE)
    span = span_for(length, units * runs, 1 if fused else threads)
    spans = -(-length // span)
    steps = steps_for(fused, flags, units, units * runs * spans, threads)
    slots = most_threads(steps)
    together = rows_together(length) if runs * spans == 1 else runs
    lanes = 2 if flags & AT_ONCE else 1
    totals = max(runs * spans, lanes * sixteens(rows_together(runs * length)))
    scratch = (STACK + (totals if fused else 0)) * parts
    work = slots * scratch + (0 if fused else lanes * units * runs * spans * parts)
    kept = 2 * tiles * parts * (slots * together if fused else units * runs) if flags & MERGED else 0
    # the next row is asked for while this one is written; a row that fills the cache would be driven out again
    ahead = length if runs == 1 and length * itemsize <= cache_bytes(2) // 4 else 0
    sizes = RunsSizes(runs=runs, groups=plan.G, length=length, t=t, ahead=ahead, span=span, scratch=scratch, slots=slots)
    return Cut(steps, sizes, work, kept)


def runs_schedule(plan: Plan, itemsize: int, flags: int, affine: bool, threads: int) -> Schedule:
    """`cut_runs`, in words."""
    c = cut_runs(plan, itemsize, flags, affine, threads)
    fused, s = c.steps[0].phase == FUSED, c.sizes
    how = "each thread takes whole groups" if fused else f"cut into spans of {s.span} elements for {threads} threads"
    reason = f"runs of {s.length} contiguous elements, {s.runs} a group, {plan.units} groups; {how}"
    return c.told("runs", reason)


@jitable
def rows_sharing_loads(columns: int, itemsize: int) -> int:
    """Rows for which mean, scale and shift of a column are loaded once; a shorter row than a page is never cut.

    Where L1 is small, the parameters of 1024 columns fill it: four rows together took 1.4 ms for (4096, 1024) instead of 2.6
    (Zen 4, 32 KiB). A larger one, read twice as fast, wants each row in one piece: 1.0 ms instead of 0.6 (Intel, 48 KiB).
    Rows of half a page always do: 2.5 ms instead of 1.3 for (8192, 512).
    """
    return 4 if columns * itemsize >= 4096 and cache_bytes(1) < 48 << 10 else 1


class Strips(NamedTuple):
    """Columns dealt out: strips of groups, each by one thread if `fused`, else cut into chunks of blocks of rows."""

    most: int  # groups a strip
    fused: bool
    units: int  # strips of all samples
    rows: int  # each `fold` runs long, as they are summed
    fold: int
    beside: int  # rows that are normalized side by side
    blocks: int
    per_chunk: int  # blocks
    chunks: int
    room: int  # float64 numbers for one of each column


@jitable
def strips_for(plan: Plan, itemsize: int, measured: bool, threads: int) -> Strips:
    """Strips that stay in the cache, or chunks where there are too few; itemsize: bytes that are read for each element."""
    groups, length = plan.G, plan.K * plan.T
    fold = fold_for(plan.M, groups * length)
    rows = plan.M // fold
    beside = power_of_two_above(-(-BESIDE // (groups * length)))
    step = block_rows(rows)
    blocks = -(-rows // step)
    most, fused = groups, threads == 1
    if measured and beside == 1:
        most, fused = fused_strips(plan, itemsize, threads)
    if beside == 1 and not (fused and measured):
        most = min(groups, max(1, MOST_COLUMNS // length))
    units = plan.B * -(-groups // most)
    if not fused and beside > 1:
        fused = balanced(units, threads)
    per_chunk = blocks if fused else blocks_per_chunk(blocks, units, threads)
    room = sixteens(most * length * max(fold, beside))
    return Strips(most, fused, units, rows, fold, beside, blocks, per_chunk, -(-blocks // per_chunk), room)


@jitable
def cut_columns(plan: Plan, itemsize: int, flags: int, affine: bool, threads: int) -> Cut:
    """Strips of columns, or chunks of their rows."""
    groups, length = plan.G, plan.K * plan.T
    c = strips_for(plan, itemsize, (flags & (CENTER | SQUARES)) != 0, threads)
    parts = parts_of(itemsize)
    sums = 2 if flags & AT_ONCE else 1
    stack = PIECE * (3 + sums * (bits_of(c.blocks) + 1))
    steps = steps_for(c.fused, flags, c.units, c.units * c.chunks, threads)
    slots = most_threads(steps)
    scratch = (stack + 2 * c.room + LANE_ROOM) * parts + 5 * c.room
    work = slots * scratch + (0 if c.fused else sums * c.units * c.chunks * c.room * parts)
    kept = 2 * c.blocks * c.room * parts * (slots if c.fused else c.units) if flags & MERGED else 0
    t, together = plan.T if affine else length, rows_sharing_loads(groups * length, itemsize)
    sizes = ColumnsSizes(
        rows=c.rows, groups=groups, length=length, t=t, most=c.most, chunks=c.chunks, per_chunk=c.per_chunk, stack=stack,
        room=c.room, fold=c.fold, beside=c.beside, together=together, scratch=scratch, slots=slots,
    )  # fmt: skip
    return Cut(steps, sizes, work, kept)


def how_columns(c: Cut, threads: int) -> str:
    """How columns are shared out."""
    s = c.sizes
    if c.steps[0].phase == FUSED:
        return f"each thread takes strips of {s.most * s.length} columns"
    return f"chunks of {s.per_chunk * block_rows(s.rows) * s.fold} rows, shared by {threads} threads"


def columns_schedule(plan: Plan, itemsize: int, flags: int, affine: bool, threads: int) -> Schedule:
    """`cut_columns`, in words."""
    c = cut_columns(plan, itemsize, flags, affine, threads)
    reason = f"{plan.M} runs of {c.sizes.length} < {SHORT} contiguous elements a group: columns side by side"
    return c.told("columns", f"{reason}; {how_columns(c, threads)}")


@jitable
def fused_strips(plan: Plan, itemsize: int, threads: int) -> tuple[int, bool]:
    """Groups a strip so that it stays in the cache, and whether such strips can be had for all threads."""
    rows, groups, length, cache = plan.M, plan.G, plan.K * plan.T, cache_bytes(2)
    columns = min(MOST_COLUMNS, max(LEAST_STRIP, cache // 2 // (rows * itemsize)))
    most = min(groups, max(1, columns // length))
    strips = -(-groups // most)
    if not balanced(plan.B * strips, threads):
        more = -(-(-(-plan.B * strips // threads) * threads) // plan.B)
        finer = max(1, -(-groups // more))
        if finer * length >= min(LEAST_STRIP, most * length):
            most, strips = finer, -(-groups // finer)
    if rows * most * length * itemsize > cache:  # no pass finds anything in the cache: rows as long as may be
        most = min(groups, max(1, MOST_COLUMNS // length))
        strips = -(-groups // most)
    return most, balanced(plan.B * strips, threads)
