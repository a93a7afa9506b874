"""Which kernels run, in which launches, and what they are told: integers only, and never a bit of the result.

A *step* is a launch. Its arguments are names of arrays, parts of them, integers and floats, so that a schedule is made once for
a plan and serves every call of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from ..plan import Plan
from ..tree import TILE, block_rows, by_columns, fold_for, gradient_family
from . import columns, joins, partials, rows, running, runs, tiles
from .compiler import Kernel
from .driver import DRIVER
from .elementwise import DELTA, EACH, FOURS, LOW, MEAN, RSTD, SOME

SLOTS = 16  # of a block of 128 threads
MOST_HELD = 64  # slots of a row that a block holds in registers: 512 threads of 128 registers each
FEW = 64  # rows below which longer ones are cut up: a device has more than a hundred multiprocessors
ROWS_TOGETHER = 8  # of each thread in an elementwise kernel for columns


NUMBERS = ("eps", "n", "old", "new")  # arguments that differ from call to call


@dataclass(frozen=True)
class Part:
    """An array from one of its elements on."""

    name: str
    offset: int


@dataclass(frozen=True)
class Step:
    """A launch: `template` holds its arguments but for pointers (place, array, element) and numbers (place, name)."""

    kernel: Kernel
    kinds: tuple[str, ...]
    grid: int
    block: int
    template: list[Any]
    pointers: tuple[tuple[int, str, int], ...]
    numbers: tuple[tuple[int, str], ...]


class Call(NamedTuple):
    """What a schedule depends on, beside the plan. Types are dtype names; None for what is not there."""

    types: tuple[tuple[str, str | None], ...]
    center: bool
    given: bool
    aligned: bool  # all addresses allow 16-byte accesses
    one_read: bool = False
    write: bool = True  # y, or dx
    parameters: bool = False  # dweight and dbias


@dataclass
class Schedule:
    """Steps, and float64 elements of work space; made by adding to it."""

    types: dict[str, str | None]
    work: int = 0
    steps: list[Step] = field(default_factory=list)
    reason: str = ""
    prepared: dict[int, list[Any]] = field(default_factory=dict)  # device -> what to launch

    @property
    def parts(self) -> int:
        """float64 numbers of an accumulator."""
        return 2 if self.types["x"] == "float64" else 1

    def room(self, accumulators: int) -> Part:
        """Work space."""
        part = Part("work", self.work)
        self.work += accumulators * self.parts
        return part

    def add(
        self, build: Any, constants: tuple[Any, ...], grid: int, block: int, arguments: tuple[Any, ...], most: int = 0
    ) -> None:
        kinds = tuple(self.kind(a) for a in arguments)
        parts = [Part(a, 0) if isinstance(a, str) and a not in NUMBERS else a for a in arguments]
        there = [isinstance(a, Part) and self.types.get(a.name, "") is not None for a in parts]
        pointers = tuple((k, a.name, a.offset) for k, a in enumerate(parts) if there[k])
        numbers = tuple((k, a) for k, a in enumerate(parts) if a in NUMBERS)
        template = [a if isinstance(a, (int, float)) else DRIVER.null for a in parts]
        self.steps.append(Step(Kernel(build, constants, most or block), kinds, grid, block, template, pointers, numbers))

    def kind(self, argument: Any) -> str:
        """The type of an argument; an array that is not there is never read, so any type does."""
        if isinstance(argument, float) or argument in NUMBERS:
            return "float"
        if isinstance(argument, str):
            return self.types.get(argument) or "float64"
        return "int" if isinstance(argument, int) else "float64"


def power_of_two_above(n: int) -> int:
    return int(1 << max(0, n - 1).bit_length())


def sharing(wide: bool, t: int) -> int:
    """How the weights lie of which each serves t elements; see `elementwise.parameters`."""
    return EACH if t == 1 else FOURS if wide and t % 4 == 0 else SOME


def slots_for(length: int) -> int:
    """Slots of a row: 1, 2 or a multiple of 4 that holds it."""
    tiles = -(-length // TILE)
    return tiles if tiles <= 2 else -(-tiles // 4) * 4


# --- sums: partial ones, and joining them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Items:
    """How runs are cut: into `spans` items of `span` elements, `per` slots each."""

    runs: int
    length: int
    per: int
    wide: bool

    @property
    def span(self) -> int:
        return self.per * TILE

    @property
    def spans(self) -> int:
        return -(-self.length // self.span)

    @property
    def n(self) -> int:
        return self.runs * self.spans

    @property
    def block(self) -> int:
        """Threads: of as many items as the driver likes, but of whole ones."""
        return max(int(DRIVER.block_threads), 8 * self.per)

    @property
    def grid(self) -> int:
        return -(-self.n // (self.block // 8 // self.per))


def items_of(runs: int, length: int, wide: bool) -> Items:
    return Items(runs, length, min(SLOTS, power_of_two_above(-(-length // TILE))), wide and length % 4 == 0)


def fewer(s: Schedule, sums: Part, planes: int, n: int, columns: int, most: int) -> tuple[Part, int]:
    """Parts (planes, n, columns) joined in pairs until there are at most `most`."""
    while n > most:
        less = -(-n // joins.FACTOR)
        size = planes * less * columns
        out = s.room(size)
        s.add(joins.pairs, (s.parts,), -(-size // partials.BLOCK), partials.BLOCK, (sums, out, size, n, less, columns))
        sums, n = out, less
    return sums, n


def join_block(outer: int, inner: int) -> tuple[int, int]:
    """Threads of a block that joins outer x inner sums, and of each inner group."""
    width = power_of_two_above(inner)
    wanted = max(power_of_two_above(outer) * width, 32)
    return min(joins.MOST, wanted), width


def join(
    s: Schedule, kind: int, out: Any, sums: Part, units: int, outer: int, inner: int, by_rows: bool, strides: tuple[int, ...],
    count: float = 1.0, eps: Any = 0.0,
) -> None:  # fmt: skip
    """strides: groups, a plane, a sample, a group, columns, a row, a part; see `joins.partial_sums`."""
    tree_rows = block_rows(outer)
    block, width = join_block(outer, inner)
    arguments = (
        sums,
        out,
        "stats" if kind == joins.SPREAD else None,
        units,
        count,
        eps,
        outer,
        inner,
        width,
        tree_rows,
        *strides,
    )
    s.add(joins.join, (kind, s.parts, by_rows), units, block, arguments, most=joins.MOST)


def most_parts(outer: int) -> int:
    """Parts that a join takes: a block of 1024 threads must hold those of a block of rows."""
    return 32 if outer > 1 else joins.MOST


def join_runs(
    s: Schedule, plan: Plan, kind: int, out: Any, sums: Part, i: Items, groups: int, planes: int, **more: Any
) -> None:
    """Sums of items of runs, `groups` to a row, to their units."""
    sums, inner = fewer(s, sums, planes * i.runs, i.spans, 1, most_parts(plan.M))
    strides = (groups, i.runs * inner, plan.M * groups * inner, inner, 1, groups * inner, 1)
    join(s, kind, out, sums, plan.B * groups, plan.M, inner, True, strides, **more)


@dataclass(frozen=True)
class Grid:
    """How columns are cut: blocks of threads take `span` columns and `per` blocks of rows. Rows may be folded."""

    samples: int
    rows: int
    width: int
    wide: bool

    @property
    def span(self) -> int:
        return 4 * min(32, power_of_two_above(-(-self.width // 4)))

    @property
    def per(self) -> int:
        return 4 * partials.BLOCK // self.span

    @property
    def tree_rows(self) -> int:
        return block_rows(self.rows)

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.tree_rows)

    @property
    def chunks(self) -> int:
        return -(-self.blocks // self.per)

    @property
    def strips(self) -> int:
        return -(-self.width // self.span)


def grid_of(samples: int, rows_: int, width: int, wide: bool) -> Grid:
    return Grid(samples, rows_, width, wide and width % 4 == 0)


def folded(plan: Plan, wide: bool) -> Grid:
    width = plan.G * plan.K * plan.T
    fold = fold_for(plan.M, width)
    return grid_of(plan.B, plan.M // fold, fold * width, wide)


def sum_columns(
    s: Schedule, kind: int, g: Grid, arrays: tuple[Any, ...], real: int, length: int, groups: int, flags: tuple[bool, ...]
) -> tuple[Part, int]:
    """Partial sums of columns -> where they are, and how many chunks of them."""
    planes, both = partials.PLANES[kind], kind == partials.BOTH
    chunks = g.blocks if both else g.chunks
    out = s.room(planes * g.samples * chunks * g.width)
    sizes = (g.samples, g.rows, g.width, real, length, groups, g.span, g.tree_rows, g.chunks, g.per)
    grid = g.samples * g.chunks * g.strips
    s.add(columns.columns, (kind, g.wide, s.parts, *flags), grid, partials.BLOCK, (*arrays, out, *sizes))
    return out, chunks


def join_columns(
    s: Schedule, kind: int, out: Any, sums: Part, g: Grid, chunks: int, planes: int, real: int, columns: int, **more: Any
) -> None:
    """Chunks of columns' sums to their units, of `columns` columns each (times what is folded)."""
    outer = g.width // real * columns
    sums, inner = fewer(s, sums, planes * g.samples, chunks, g.width, most_parts(outer))
    strides = (real // columns, g.samples * inner * g.width, inner * g.width, columns, columns, real, g.width)
    join(s, kind, out, sums, g.samples * (real // columns), outer, inner, False, strides, **more)


# --- forward ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def forward(plan: Plan, call: Call) -> Schedule:
    """x -> statistics and y. Arrays: x, y, w, b, stats (4, units); mean and var if they are given."""
    s = Schedule(dict(call.types))
    measured = not call.given
    if measured and call.write and not call.one_read and held(plan, call, s.parts):
        rows_forward(s, plan, call)
        return s
    units = plan.B * plan.G
    columns = by_columns(plan) and (measured or plan.T < 16)
    if call.given:
        s.add(running.prepare, (), -(-units // partials.BLOCK), partials.BLOCK, ("mean", "var", "stats", units, plan.G, "eps"))
    elif columns:
        measure_columns(s, plan, call)
    else:
        measure_runs(s, plan, call)
    if call.write:
        (write_columns if columns else write_runs)(s, plan, call, ("x", "y"), False)
    length = plan.K * plan.T
    how = "columns side by side" if columns else f"runs of {length} contiguous elements"
    s.reason = f"{how}, {plan.M} a group, {units} groups; sums of parts, then y: {len(s.steps)} launches"
    return s


def held(plan: Plan, call: Call, parts: int) -> bool:
    """Whether a block of threads holds a whole group in registers, and there are groups enough."""
    length = plan.K * plan.T
    per = slots_for(length)
    most = MOST_HELD if call.aligned and length % 4 == 0 and parts == 1 else MOST_HELD // 2
    return plan.M == 1 and per <= most and (plan.B * plan.G >= FEW or per <= SLOTS)


def row_shape(units: int, per: int) -> tuple[int, int]:
    """Blocks and threads for rows of `per` slots each."""
    block = max(DRIVER.block_threads, 8 * per) if per <= 4 else 8 * per
    return -(-units // (block // 8 // per)), block


def most_threads(wide: bool, parts: int) -> int:
    """Threads that a block of rows may have: registers for all that they hold."""
    return 8 * MOST_HELD if wide and parts == 1 else 4 * MOST_HELD


def rows_forward(s: Schedule, plan: Plan, call: Call) -> None:
    length, units = plan.K * plan.T, plan.B * plan.G
    per, wide = slots_for(length), call.aligned and length % 4 == 0
    grid, block = row_shape(units, per)
    weighted, biased = s.types["w"] is not None, s.types["b"] is not None
    t = plan.T if weighted or biased else length
    constants = (wide, s.parts, call.center, sharing(wide, t), weighted, biased)
    sizes = (units, plan.G, length, t, per, float(plan.count), "eps")
    s.add(rows.rows_forward, constants, grid, block, ("x", "w", "b", "y", "stats", *sizes), most_threads(wide, s.parts))
    s.reason = (
        f"{units} groups of {length} contiguous elements, each held in registers by {max(8 * per, 8)} threads; one launch"
    )


def measure_runs(s: Schedule, plan: Plan, call: Call) -> None:
    length, n = plan.K * plan.T, plan.B * plan.M * plan.G
    count = float(plan.count)
    if call.one_read and call.center:
        i = Items(n, length, 1, call.aligned and length % 4 == 0)
        moments = s.room(2 * i.n)
        s.add(runs.tile_moments, (i.wide, s.parts), i.grid, i.block, ("x", moments, i.n, i.spans, length), 128)
        join_runs(s, plan, joins.CENTER, "stats", moments, i, plan.G, 1, count=count)
        sizes = (i.n, i.spans, TILE, length, plan.M * plan.G, plan.G, 1, 1)
        s.add(partials.merge, (s.parts, False), -(-i.n // partials.BLOCK), partials.BLOCK, (moments, Part("stats", 0), *sizes))
        squares = Part("work", moments.offset + i.n * s.parts)
        join_runs(s, plan, joins.SPREAD, "stats", squares, i, plan.G, 1, count=count, eps="eps")
        return
    i = items_of(n, length, call.aligned)
    sums = s.room(i.n)
    for kind, joined in kinds_of(call):
        sum_runs(s, kind, i, ("x", "x", None, "stats", sums), plan.M * plan.G, plan.G, 1, length, (call.center, EACH, False))
        join_runs(s, plan, joined, "stats", sums, i, plan.G, 1, count=count, eps="eps")


def kinds_of(call: Call) -> tuple[tuple[int, int], ...]:
    """What is summed, and what becomes of it: a mean first, unless it is 0."""
    if call.center:
        return (partials.SUM, joins.CENTER), (partials.SQUARES, joins.SPREAD)
    return ((partials.SQUARES, joins.SQUARE),)


def sum_runs(
    s: Schedule, kind: int, i: Items, arrays: tuple[Any, ...], per_sample: int, groups: int, channels: int, t: int,
    flags: tuple[int, ...],
) -> None:  # fmt: skip
    """flags: center, sharing, weighted; see `runs.tiles`."""
    sizes = (i.n, i.spans, i.span, i.length, per_sample, groups, channels, t, i.per)
    s.add(runs.tiles, (kind, i.wide, s.parts, *flags), i.grid, i.block, (*arrays, *sizes), 128)


def measure_columns(s: Schedule, plan: Plan, call: Call) -> None:
    g, length = folded(plan, call.aligned), plan.K * plan.T
    real, count = plan.G * length, float(plan.count)
    arrays = ("x", "x", "stats", None, None)
    if call.one_read and call.center:
        moments, chunks = sum_columns(s, partials.BOTH, g, arrays, real, length, plan.G, (False, False))
        join_columns(s, joins.CENTER, "stats", moments, g, chunks, 1, real, length, count=count)
        n = g.samples * chunks * g.width
        sizes = (n, chunks, g.tree_rows, g.rows, real, plan.G, length, g.width)
        s.add(partials.merge, (s.parts, True), -(-n // partials.BLOCK), partials.BLOCK, (moments, "stats", *sizes))
        squares = Part("work", moments.offset + n * s.parts)
        join_columns(s, joins.SPREAD, "stats", squares, g, chunks, 1, real, length, count=count, eps="eps")
        return
    for kind, joined in kinds_of(call):
        sums, chunks = sum_columns(s, kind, g, arrays, real, length, plan.G, (call.center, False))
        join_columns(s, joined, "stats", sums, g, chunks, 1, real, length, count=count, eps="eps")


def write_runs(s: Schedule, plan: Plan, call: Call, arrays: tuple[str, str], scaling: bool) -> None:
    """y from x; or, `scaling`, dx from dy with statistics that were given: y of mean 0 and no bias."""
    weighted, biased = s.types["w"] is not None, not scaling and s.types["b"] is not None
    length, units = plan.K * plan.T, plan.B * plan.G
    t = plan.T if weighted or biased else length
    i = items_of(plan.B * plan.M * plan.G, length, call.aligned)
    stats = (None, None, "rstd") if scaling else tuple(Part("stats", row * units) for row in (MEAN, LOW, RSTD))
    sizes = (i.n, i.spans, i.span, length, plan.M * plan.G, plan.G, 1, t, i.per)
    constants = (i.wide, call.center and not scaling, sharing(i.wide, t), weighted, biased)
    s.add(
        runs.apply_runs, constants, i.grid, i.block, (arrays[0], "w", "b" if biased else None, arrays[1], *stats, *sizes), 128
    )


def write_columns(s: Schedule, plan: Plan, call: Call, arrays: tuple[str, str], scaling: bool) -> None:
    weighted, biased = s.types["w"] is not None, not scaling and s.types["b"] is not None
    units = plan.B * plan.G
    stats = (None, None, "rstd") if scaling else tuple(Part("stats", row * units) for row in (MEAN, LOW, RSTD))
    flags = (call.center and not scaling, weighted, biased, False)
    element_columns(s, plan, call, (arrays[0], arrays[0], arrays[1], "w", "b" if biased else None, *stats, None), flags)


def element_columns(s: Schedule, plan: Plan, call: Call, arrays: tuple[Any, ...], flags: tuple[bool, ...]) -> None:
    """flags: center, weighted, biased, gradient; see `columns.apply_columns`."""
    g = folded(plan, call.aligned)
    chunk = 4 * partials.BLOCK // g.span * ROWS_TOGETHER
    chunks, length = -(-g.rows // chunk), plan.K * plan.T
    sizes = (plan.B * plan.G, g.samples, g.rows, g.width, plan.G * length, length, plan.G, plan.T, g.span, chunk, chunks)
    grid = g.samples * chunks * g.strips
    s.add(columns.apply_columns, (g.wide, *flags), grid, partials.BLOCK, (*arrays, *sizes))


@lru_cache(maxsize=1024)
def tracking(types: tuple[tuple[str, str | None], ...], samples: int, channels: int, averaging: bool) -> Schedule:
    """Running statistics from a batch's. Arrays: stats (4, samples * channels), mean, var, counter; numbers: n, old, new."""
    s = Schedule(dict(types))
    flags = (s.types["mean"] is not None, s.types["var"] is not None, averaging)
    if any(flags[:2]):
        arguments = ("stats", "mean", "var", "counter", samples * channels, channels, "n", "old", "new")
        s.add(running.update, flags, -(-channels // partials.BLOCK), partials.BLOCK, arguments)
    if s.types["counter"] is not None:
        s.add(running.count, (), 1, 32, ("counter",))
    return s


# --- backward --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def backward(plan: Plan, call: Call) -> Schedule:
    """x, dy -> dx and grads (2, G * K). Arrays: x, dy, dx, w, mean, rstd (units,), grads."""
    s = Schedule(dict(call.types))
    family = gradient_family(plan)
    scaled = call.write and call.given
    if call.parameters or not call.given:
        {"rows": gradients_of_rows, "runs": gradients_of_channels, "columns": gradients_of_channels}[family](s, plan, call)
    if scaled:
        columns = by_columns(plan) and plan.T < 16
        (write_columns if columns else write_runs)(s, plan, call, ("dy", "dx"), True)
    s.reason = f"family {family}, {plan.M} runs of {plan.K * plan.T} a group, {plan.B * plan.G} groups; {len(s.steps)} launches"
    return s


def gradients_of_channels(s: Schedule, plan: Plan, call: Call) -> None:
    """Sums of each channel of each sample serve all gradients."""
    channels = plan.G * plan.K
    totals = s.room(3 * plan.B * channels)
    arrays = ("x", "dy", None, "mean")
    if gradient_family(plan) == "columns":
        g, real = folded(plan, call.aligned), channels * plan.T
        columns = ("x", "dy", "mean", None, None)
        sums, chunks = sum_columns(s, partials.PRODUCTS, g, columns, real, plan.K * plan.T, plan.G, (call.center, False))
        join_columns(s, joins.CHANNEL, totals, sums, g, chunks, 3, real, plan.T)
    else:
        i = items_of(plan.B * plan.M * channels, plan.T, call.aligned)
        sums = s.room(3 * i.n)
        flags = (call.center, EACH, False)
        sum_runs(s, partials.PRODUCTS, i, (*arrays, sums), plan.M * channels, channels, plan.K, plan.T, flags)
        join_runs(s, plan, joins.CHANNEL, totals, sums, i, channels, 3)
    table = settle(s, plan, call, totals, plan.K, s.types["w"] is not None)
    if call.write and not call.given:
        write_gradients(s, plan, call, table)
    if call.parameters:
        block, width = join_block(plan.B, 1)
        corrected = call.center and not call.given
        arguments = (totals, "rstd", table, "grads", channels, plan.B, width, block_rows(plan.B), plan.G)
        s.add(joins.reduce, (s.parts, corrected), channels, block, arguments, most=joins.MOST)


def settle(s: Schedule, plan: Plan, call: Call, totals: Part, channels: int, weighted: bool) -> Part | None:
    """What dx takes; nothing where the statistics were given."""
    if call.given:
        return None
    units = plan.B * plan.G
    table = Part("work", s.work)
    s.work += 3 * units
    block, width = join_block(channels, 1)
    arguments = (totals, "w", "rstd", table, units, float(plan.count), channels, width, block_rows(channels), plan.G)
    s.add(joins.settle, (s.parts, call.center, weighted), units, block, arguments, most=joins.MOST)
    return table


def write_gradients(s: Schedule, plan: Plan, call: Call, table: Part | None) -> None:
    weighted, units = s.types["w"] is not None, plan.B * plan.G
    family = gradient_family(plan)
    if family == "columns":
        arrays = ("x", "dy", "dx", "w", None, "mean", None, "rstd", table)
        element_columns(s, plan, call, arrays, (call.center, weighted, False, True))
        return
    if family == "runs":  # a run is what shares a weight
        groups, channels, length, t = plan.G * plan.K, plan.K, plan.T, plan.T
    else:
        groups, channels, length, t = plan.G, 1, plan.K * plan.T, plan.T
    i = items_of(plan.B * plan.M * groups, length, call.aligned)
    sizes = (units, i.n, i.spans, i.span, length, plan.M * groups, groups, channels, t, i.per)
    constants = (i.wide, call.center, sharing(i.wide, t), weighted, family == "rows")
    s.add(runs.apply_gradient_runs, constants, i.grid, i.block, ("x", "dy", "dx", "w", "mean", "rstd", table, *sizes), 128)


def gradients_of_rows(s: Schedule, plan: Plan, call: Call) -> None:
    """Rows whose elements have weights of their own: dx row by row, dweight and dbias down the rows."""
    if call.write and call.parameters and not call.given and walked(plan, s.parts):
        walk_rows(s, plan, call)
        return
    table = slants_of_rows(s, plan, call) if not call.given and (call.write or call.center) else None
    if call.parameters:
        length, corrected = plan.K * plan.T, table is not None and call.center
        g = grid_of(1, plan.B, plan.G * length, call.aligned)
        delta = Part("work", table.offset + DELTA * plan.B * plan.G) if table is not None and corrected else None
        arrays = ("x", "dy", "mean", "rstd", delta)
        sums, chunks = sum_columns(s, partials.WEIGHTS, g, arrays, g.width, length, plan.G, (call.center, corrected))
        join_columns(s, joins.GRADIENTS, "grads", sums, g, chunks, 2, g.width, plan.T)


def walked(plan: Plan, parts: int) -> bool:
    """Whether threads keep the sums of their columns while they go down a block of rows: short rows, and enough of them."""
    warps = -(-plan.K * plan.T // TILE)
    return parts == 1 and plan.T == 1 and warps <= tiles.WARPS and -(-plan.B // block_rows(plan.B)) * plan.G * warps >= 4 * FEW


def walk_rows(s: Schedule, plan: Plan, call: Call) -> None:
    """dx, dweight and dbias with one read of x and dy."""
    length, weighted, tree_rows = plan.K * plan.T, s.types["w"] is not None, block_rows(plan.B)
    warps, blocks, width = -(-length // TILE), -(-plan.B // tree_rows), plan.G * length
    together = max(1, DRIVER.block_threads // 32 // warps)
    sums = s.room(2 * blocks * width)
    arrays = ("x", "dy", "dx", "w", "mean", "rstd", sums)
    sizes = (plan.B, plan.G, length, warps, tree_rows, float(plan.count))
    grid = -(-blocks * plan.G // together)
    s.add(
        rows.rows_gradients,
        (call.center, weighted),
        grid,
        32 * warps * together,
        (*arrays, *sizes),
        32 * tiles.WARPS,
    )
    join_columns(s, joins.GRADIENTS, "grads", sums, grid_of(1, plan.B, width, False), blocks, 2, width, plan.T)


def slants_of_rows(s: Schedule, plan: Plan, call: Call) -> Part:
    """What dx takes of each row, and dx if it is wanted."""
    length, units, weighted = plan.K * plan.T, plan.B * plan.G, s.types["w"] is not None
    if call.write and held(plan, call, s.parts):
        per, wide = slots_for(length), call.aligned and length % 4 == 0
        grid, block = row_shape(units, per)
        table = Part("work", s.work)
        s.work += 3 * units
        constants = (wide, s.parts, call.center, sharing(wide, plan.T), weighted)
        sizes = (units, plan.G, length, plan.T, per, float(plan.count))
        arrays = ("x", "dy", "dx", "w", "mean", "rstd", table)
        s.add(rows.rows_backward, constants, grid, block, (*arrays, *sizes), most_threads(wide, s.parts))
        return table
    i = items_of(units, length, call.aligned)
    sums, totals = s.room(3 * i.n), s.room(3 * units)
    flags = (call.center, sharing(i.wide, plan.T), weighted)
    sum_runs(s, partials.PRODUCTS, i, ("x", "dy", "w", "mean", sums), plan.G, plan.G, 1, plan.T, flags)
    join_runs(s, plan, joins.CHANNEL, totals, sums, i, plan.G, 3)
    found = settle(s, plan, call, totals, 1, False)
    assert found is not None
    if call.write:
        write_gradients(s, plan, call, found)
    return found
