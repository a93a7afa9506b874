"""Schedules of gradients: their family, and the cut of the work; as `forward`, for the kernels of gradients."""

from __future__ import annotations

from ...spec.plan import Plan
from ...spec.tree import SHORT_SUM, gradient_family
from ..arith.gradient_sums import SUMS
from ..compile import jitable
from ..layout import (
    ALONE,
    APPLY,
    FUSED,
    JOIN,
    LANE_ROOM,
    LEVELS,
    MEASURE,
    PARAMETERS,
    PIECE,
    REDUCE,
    SINGLE,
    STREAM,
    WRITE,
    ColumnsGradientSizes,
    RowsGradientSizes,
    RunsGradientSizes,
    Step,
)
from .forward import (
    MOST_COLUMNS,
    STREAM_RUN,
    Cut,
    Schedule,
    balanced,
    bits_of,
    block_rows,
    blocks_per_chunk,
    how_columns,
    most_threads,
    parts_of,
    rows_sharing_loads,
    sixteens,
    span_for,
    streaming,
    strips_for,
)
from .machine import cache_bytes

WIDEST = 65536  # columns whose sums a thread keeps while it walks down the rows
AHEAD = 1024  # elements of a run up to which the next one is asked for
REDUCED = 1 << 16  # channels of all samples from which on joining them is worth more than one thread

Steps = tuple[Step, ...]


def cut_backward(plan: Plan, itemsize: int, flags: int, threads: int) -> Schedule:
    """Cut `plan` for `threads` threads; flags: WRITE if dx is wanted, PARAMETERS if dweight or dbias is, and flags for both."""
    flags = streaming(flags, 3 * plan.size * itemsize)
    schedule = {"columns": columns_schedule, "rows": rows_schedule, "runs": runs_schedule}
    return schedule[gradient_family(plan)](plan, itemsize, flags, threads)


@jitable
def channel_steps(plan: Plan, fused: bool, flags: int, units: int, pieces: int, threads: int) -> Steps:
    """Sums and dx in one step or in three, then the channels' sums over the samples."""
    none, wide, channels = Step(FUSED, 0, 0, 0), min(threads, pieces), plan.G * plan.K
    if fused and min(threads, units) == 1:
        return Step(FUSED, flags | ALONE, units, 1), none, none, none
    reducing = min(threads, channels) if plan.B * channels >= REDUCED else 1
    last = Step(REDUCE, flags, channels, reducing if flags & PARAMETERS else 0)
    if fused:
        return Step(FUSED, flags, units, min(threads, units)), none, none, last
    return (
        Step(MEASURE, flags & ~WRITE, pieces, wide),
        Step(JOIN, flags, units, 1),
        Step(APPLY, flags, pieces, wide if flags & WRITE else 0),
        last,
    )


@jitable
def cut_runs(plan: Plan, itemsize: int, flags: int, threads: int) -> Cut:
    """Whole groups to a thread, or spans of runs where there are too few groups."""
    units, runs, length = plan.B * plan.G, plan.M, plan.T
    fused = balanced(units, threads)
    channels = units * plan.K
    span = span_for(length, channels * runs, 1 if fused else threads)
    spans = -(-length // span)
    if length < STREAM_RUN:
        flags &= ~STREAM
    steps = channel_steps(plan, fused, flags, units, channels * runs * spans, threads)
    slots = most_threads(steps)
    parts = parts_of(itemsize)
    scratch = (8 * LEVELS + (4 * runs * spans if fused else 0)) * parts
    work = slots * scratch + (0 if fused else 4 * channels * runs * spans * parts)
    # the group's next run; of a long one the CPU foresees most, and it would drive out what was read before
    ahead = (plan.G * plan.K if runs > 1 else 1) * length if length <= AHEAD else 0
    sizes = RunsGradientSizes(
        samples=plan.B, runs=runs, groups=plan.G, channels=plan.K, length=length, ahead=ahead, span=span, scratch=scratch,
        slots=slots,
    )  # fmt: skip
    return Cut(steps, sizes, work, 4 * channels * parts)


def runs_schedule(plan: Plan, itemsize: int, flags: int, threads: int) -> Schedule:
    """`cut_runs`, in words."""
    c = cut_runs(plan, itemsize, flags, threads)
    fused, s = c.steps[0].phase == FUSED, c.sizes
    how = "each thread takes whole groups" if fused else f"cut into spans of {s.span} elements for {threads} threads"
    many = f"{s.runs * plan.K} a group, {plan.units} groups"
    return c.told("runs_backward", f"runs of {s.length} contiguous elements share a weight, {many}; {how}")


@jitable
def cut_columns(plan: Plan, itemsize: int, flags: int, threads: int) -> Cut:
    """Strips of columns, or chunks of their rows."""
    groups, length = plan.G, plan.K * plan.T
    c = strips_for(plan, 2 * itemsize, True, threads)
    stack = max(SUMS * PIECE * (2 + bits_of(c.blocks)), 16 * LEVELS)
    steps = channel_steps(plan, c.fused, flags, c.units, c.units * c.chunks, threads)
    slots = most_threads(steps)
    parts = parts_of(itemsize)
    scratch = (stack + SUMS * c.room + LANE_ROOM) * parts + (3 + 3 * parts) * c.room
    work = slots * scratch + (0 if c.fused else c.units * c.chunks * SUMS * c.room * parts)
    share = rows_sharing_loads(groups * length, itemsize)
    sizes = ColumnsGradientSizes(
        samples=plan.B, rows=c.rows, groups=groups, channels=plan.K, length=plan.T, most=c.most, chunks=c.chunks,
        per_chunk=c.per_chunk, stack=stack, room=c.room, fold=c.fold, beside=c.beside, together=share, scratch=scratch,
        slots=slots,
    )  # fmt: skip
    return Cut(steps, sizes, work, 4 * plan.B * groups * plan.K * parts)


def columns_schedule(plan: Plan, itemsize: int, flags: int, threads: int) -> Schedule:
    """`cut_columns`, in words."""
    c, length = cut_columns(plan, itemsize, flags, threads), plan.K * plan.T
    how = how_columns(c._replace(sizes=c.sizes._replace(length=length)), threads)
    reason = f"{plan.M} runs of {length} contiguous elements a group: columns side by side; {how}"
    return c.told("columns_backward", reason)


@jitable
def cut_rows(plan: Plan, itemsize: int, flags: int, threads: int, most: int = 1 << 62) -> Cut:
    """Chunks of rows to a thread; where there are too few, spans of rows and then strips of columns. most: blocks a chunk."""
    rows, groups, length = plan.B, plan.G, plan.K * plan.T
    step, padded = block_rows(rows), sixteens(length)
    blocks, room = -(-rows // step), padded * groups
    fused = room <= WIDEST and (threads == 1 or balanced(blocks, threads))
    per_chunk = min(most, blocks_per_chunk(blocks, 1, threads))
    chunks = -(-blocks // per_chunk)
    span = span_for(length, rows * groups, 1 if fused else threads)
    spans, columns = -(-length // span), padded
    while not fused and columns > 256 and (columns > MOST_COLUMNS or chunks * groups * -(-length // columns) < 4 * threads):
        columns = sixteens(columns // 2)
    # in float32 eight rows are one sum, whatever the machine
    together = SHORT_SUM if flags & SINGLE else min(step, max(4, cache_bytes(2) // 16 // (2 * groups * length * itemsize)))
    counts = chunks, rows * groups * spans, chunks * groups * -(-length // columns)
    steps = row_steps(fused, flags, counts, rows * groups, threads)
    slots = most_threads(steps)
    own = room if fused else sixteens(columns)
    parts = parts_of(itemsize)
    scratch = max(4 * LEVELS + 2 * own * (2 + bits_of(per_chunk)), 16 * LEVELS + LANE_ROOM) * parts
    sizes = RowsGradientSizes(
        rows=rows, groups=groups, length=length, t=plan.T, padded=padded, span=span, together=together, per_chunk=per_chunk,
        chunks=chunks, columns=columns, scratch=scratch, slots=slots,
    )  # fmt: skip
    work = slots * scratch + chunks * 2 * room * parts
    return Cut(steps, sizes, work, 0 if fused else 4 * rows * groups * spans * parts)


@jitable
def row_steps(fused: bool, flags: int, counts: tuple[int, int, int], units: int, threads: int) -> Steps:
    """Steps over chunks of rows, or over spans and strips. counts: how many of these there are."""
    chunks, pieces, strips = counts
    none = Step(FUSED, 0, 0, 0)
    if fused and min(threads, chunks) == 1:
        return Step(FUSED, flags | ALONE, chunks, 1), none, none, none
    last = Step(REDUCE, flags, 1, 1 if flags & PARAMETERS else 0)
    if fused:
        return Step(FUSED, flags, chunks, min(threads, chunks)), none, none, last
    return (
        Step(MEASURE, flags, pieces, min(threads, pieces)),
        Step(JOIN, flags, units, 1),
        Step(APPLY, flags, strips, min(threads, strips)),
        last,
    )


def rows_schedule(plan: Plan, itemsize: int, flags: int, threads: int, most: int = 1 << 62) -> Schedule:
    """`cut_rows`, in words."""
    c = cut_rows(plan, itemsize, flags, threads, most)
    fused, s = c.steps[0].phase == FUSED, c.sizes
    chunks = f"chunks of {s.per_chunk * block_rows(s.rows)} rows"
    how = chunks if fused else f"spans of {s.span} elements, then strips of {s.columns} columns"
    many = f"{s.rows * s.groups} rows of {s.length} elements, each with its weight"
    return c.told("rows_backward", f"{many}; {how}, shared by {threads} threads")
