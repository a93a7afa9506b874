"""Which kernels run, in which launches: forward, running statistics, backward. Integers only, and never a bit of the result."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ...spec import call as spec
from ...spec.plan import Plan
from ...spec.tree import LEAST_RUN, TILE, block_rows, by_columns, fold_for, gradient_family
from .. import combine, driver, partial_sums, rescale, running
from .. import rescale_sums as warps
from ..arith import tiles
from ..arith.elementwise import EACH, LOW, MEAN, OFFSET, ROWS, RSTD
from ..arrays.described import name_of
from ..families import rows, runs
from .steps import (
    SLOTS,
    Call,
    Items,
    Part,
    Schedule,
    element_columns,
    folded,
    grid_of,
    items_of,
    join_block,
    join_columns,
    join_runs,
    sharing,
    slots_for,
    sum_columns,
    sum_runs,
)

MOST_HELD = 64  # slots of a row that a block holds in registers: 512 threads of 128 registers each
FEW = 64  # rows below which longer ones are cut up: a device has more than a hundred multiprocessors


@lru_cache(maxsize=4096)
def scheduled(asked: spec.Call, dtypes: tuple[Any, ...], aligned: bool) -> Schedule:
    """Cached schedule for arrays of these dtypes; keyed by dtype, since dtype names cost 2 us."""
    names = BACKWARD if asked.backward else FORWARD
    types = tuple((n, None if d is None else name_of(d)) for n, d in zip(names, dtypes, strict=True))
    flags = asked.one_read, asked.in_place, asked.write, asked.backward and asked.affine
    call = Call(types, asked.center, asked.given, aligned, *flags)
    return (backward if asked.backward else forward)(asked.plan, call)


# arrays of a forward and of a backward call
FORWARD, BACKWARD = ("x", "y", "w", "b", "mean", "var"), ("x", "dy", "dx", "w", "mean", "rstd", "grads")


def forward(plan: Plan, call: Call) -> Schedule:
    """x -> statistics and y. Arrays: x, y, w, b, stats (4, units); mean and var if they are given."""
    s = Schedule(dict(call.types))
    measured = not call.given
    if measured and call.write and not call.one_read and held(plan, call, s.parts):
        rows_forward(s, plan, call)
        normalize_again(s, plan, call)
        return s
    units = plan.B * plan.G
    columns = by_columns(plan) and (measured or plan.T < LEAST_RUN)
    if call.given:
        s.add(
            running.prepare,
            (),
            -(-units // partial_sums.BLOCK),
            partial_sums.BLOCK,
            ("mean", "var", "stats", units, plan.G, "eps"),
        )
    elif columns:
        measure_columns(s, plan, call)
    else:
        measure_runs(s, plan, call)
    if call.write:
        (write_columns if columns else write_runs)(s, plan, call, ("x", "y"), False)
    if measured:
        normalize_again(s, plan, call)
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
    block = max(driver.DRIVER.block_threads, 8 * per) if per <= 4 else 8 * per
    return -(-units // (block // 8 // per)), block


def most_threads(wide: bool, parts: int) -> int:
    """Threads that a block of rows may have: registers for all that they hold."""
    return 8 * MOST_HELD if wide and parts == 1 else 4 * MOST_HELD


def normalize_again(s: Schedule, plan: Plan, call: Call) -> None:
    """Groups of float64 that left its range."""
    if s.parts == 1:
        return
    length, units = plan.K * plan.T, plan.B * plan.G
    weighted, biased = (call.write and s.types[name] is not None for name in ("w", "b"))
    constants = (call.center, call.one_read and call.center, by_columns(plan), weighted, biased, call.write)
    sizes = (units, plan.G, plan.M, block_rows(plan.M), length, plan.T, float(plan.count), "eps")
    grid = -(-units // warps.WARP)
    s.add(rescale.normalize_again, constants, grid, warps.WARP, ("x", "w", "b", "y", "stats", *sizes))
    if call.in_place:
        s.elsewhere("y", plan.size)


def rows_forward(s: Schedule, plan: Plan, call: Call) -> None:
    length, units = plan.K * plan.T, plan.B * plan.G
    per, wide = slots_for(length), call.aligned and length % 4 == 0
    grid, block = row_shape(units, per)
    weighted, biased = s.types["w"] is not None, s.types["b"] is not None
    t = plan.T if weighted or biased else length
    constants = (wide, s.parts, call.center, sharing(wide, t), weighted, biased)
    sizes = (units, plan.G, length, t, per, float(plan.count), "eps")
    s.add(rows.rows_forward, constants, grid, block, ("x", "w", "b", "y", "stats", *sizes), most_threads(wide, s.parts))
    s.reason = f"{units} groups of {length} contiguous elements, each held in registers by {max(8 * per, 8)} threads"


def measure_runs(s: Schedule, plan: Plan, call: Call) -> None:
    length, n = plan.K * plan.T, plan.B * plan.M * plan.G
    count = float(plan.count)
    if call.one_read and call.center:
        i = Items(n, length, 1, call.aligned and length % 4 == 0)
        moments = s.room(2 * i.n)
        s.add(runs.tile_moments, (i.wide, s.parts), i.grid, i.block, ("x", moments, i.n, i.spans, length), 128)
        join_runs(s, plan, combine.CENTER, "stats", moments, i, plan.G, 1, count=count)
        sizes = (i.n, i.spans, TILE, length, plan.M * plan.G, plan.G, 1, 1)
        s.add(
            partial_sums.merge,
            (s.parts, False),
            -(-i.n // partial_sums.BLOCK),
            partial_sums.BLOCK,
            (moments, Part("stats", 0), *sizes),
        )
        squares = Part("work", moments.offset + i.n * s.parts)
        join_runs(s, plan, combine.SPREAD, "stats", squares, i, plan.G, 1, count=count, eps="eps")
        return
    i = items_of(n, length, call.aligned)
    sums = s.room(i.n)
    for kind, joined in kinds_of(call):
        sum_runs(s, kind, i, ("x", "x", None, "stats", sums), plan.M * plan.G, plan.G, 1, length, (call.center, EACH, False))
        join_runs(s, plan, joined, "stats", sums, i, plan.G, 1, count=count, eps="eps")


def kinds_of(call: Call) -> tuple[tuple[int, int], ...]:
    """Sums to take, and what becomes of each: a mean first, unless it is 0."""
    if call.center:
        return (partial_sums.SUM, combine.CENTER), (partial_sums.SQUARES, combine.SPREAD)
    return ((partial_sums.SQUARES, combine.SQUARE),)


def measure_columns(s: Schedule, plan: Plan, call: Call) -> None:
    g, length = folded(plan, call.aligned), plan.K * plan.T
    real, count = plan.G * length, float(plan.count)
    arrays = ("x", "x", "stats", None, None)
    if call.one_read and call.center:
        moments, chunks = sum_columns(s, partial_sums.BOTH, g, arrays, real, length, plan.G, (False, False))
        join_columns(s, combine.CENTER, "stats", moments, g, chunks, 1, real, length, count=count)
        n = g.samples * chunks * g.width
        sizes = (n, chunks, g.tree_rows, g.rows, real, plan.G, length, g.width)
        s.add(partial_sums.merge, (s.parts, True), -(-n // partial_sums.BLOCK), partial_sums.BLOCK, (moments, "stats", *sizes))
        squares = Part("work", moments.offset + n * s.parts)
        join_columns(s, combine.SPREAD, "stats", squares, g, chunks, 1, real, length, count=count, eps="eps")
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


@lru_cache(maxsize=1024)
def tracking(types: tuple[tuple[str, str | None], ...], samples: int, channels: int, averaging: bool) -> Schedule:
    """Running statistics from a batch's. Arrays: stats (4, samples * channels), mean, var, counter; numbers: n, old, new."""
    s = Schedule(dict(types))
    flags = (s.types["mean"] is not None, s.types["var"] is not None, averaging)
    if any(flags[:2]):
        arguments = ("stats", "mean", "var", "counter", samples * channels, channels, "n", "old", "new")
        s.add(running.update, flags, -(-channels // partial_sums.BLOCK), partial_sums.BLOCK, arguments)
    if s.types["counter"] is not None:
        s.add(running.count, (), 1, 32, ("counter",))
    return s


# --- backward --------------------------------------------------------------------------------------------------------


def backward(plan: Plan, call: Call) -> Schedule:
    """x, dy -> dx and grads (2, G * K). Arrays: x, dy, dx, w, mean, rstd (units,), grads."""
    s = Schedule(dict(call.types))
    family = gradient_family(plan)
    scaled = call.write and call.given
    if call.parameters or not call.given:
        double, of = s.parts == 2, {"rows": gradients_of_rows, "runs": gradients_of_channels, "columns": gradients_of_channels}
        table = of[family](s, plan, call._replace(in_place=call.in_place and not double))
        if double:
            again(s, plan, call, table)
        if double and call.in_place and not call.given:
            s.elsewhere("dx", plan.size)
    if scaled:
        columns = by_columns(plan) and plan.T < LEAST_RUN
        (write_columns if columns else write_runs)(s, plan, call, ("dy", "dx"), True)
    s.reason = f"family {family}, {plan.M} runs of {plan.K * plan.T} a group, {plan.B * plan.G} groups; {len(s.steps)} launches"
    return s


def again(s: Schedule, plan: Plan, call: Call, table: Part | None) -> None:
    """Groups and weights of float64 that left its range."""
    family, units, channels = gradient_family(plan), plan.B * plan.G, plan.G * plan.K
    fold = fold_for(plan.M, channels * plan.T) if family == "columns" else 1
    rows_ = plan.M // fold
    rows_of, kind = (rows_, block_rows(rows_), fold), (family == "rows", family == "columns")
    if table is not None:
        each, length = (1, plan.K * plan.T) if family == "rows" else (plan.K, plan.T)
        sizes = (units, plan.G, *rows_of, each, block_rows(each), length, plan.T, float(plan.count))
        constants = (*kind, call.center, s.types["w"] is not None, call.write)
        arrays = ("x", "dy", "dx", "w", "mean", "rstd", table)
        s.add(rescale.gradients_again, constants, -(-units // warps.WARP), warps.WARP, (*arrays, *sizes))
    if call.parameters:
        arguments = ("x", "dy", "mean", "rstd", table, "grads", plan.B, block_rows(plan.B), plan.G, plan.K, *rows_of, plan.T)
        flags = (*kind, call.center, table is not None)
        s.add(rescale.parameters_again, flags, -(-channels // warps.WARP), warps.WARP, arguments)


def gradients_of_channels(s: Schedule, plan: Plan, call: Call) -> Part | None:
    """Sums of each channel of each sample serve all gradients."""
    channels = plan.G * plan.K
    totals = s.room(3 * plan.B * channels)
    arrays = ("x", "dy", None, "mean")
    if gradient_family(plan) == "columns":
        g, real = folded(plan, call.aligned), channels * plan.T
        columns = ("x", "dy", "mean", None, None)
        sums, chunks = sum_columns(s, partial_sums.PRODUCTS, g, columns, real, plan.K * plan.T, plan.G, (call.center, False))
        join_columns(s, combine.CHANNEL, totals, sums, g, chunks, 3, real, plan.T)
    else:
        i = items_of(plan.B * plan.M * channels, plan.T, call.aligned)
        sums = s.room(3 * i.n)
        flags = (call.center, EACH, False)
        sum_runs(s, partial_sums.PRODUCTS, i, (*arrays, sums), plan.M * channels, channels, plan.K, plan.T, flags)
        join_runs(s, plan, combine.CHANNEL, totals, sums, i, channels, 3)
    table = settle(s, plan, call, totals, plan.K, s.types["w"] is not None)
    if call.write and not call.given:
        write_gradients(s, plan, call, table)
    if call.parameters:
        block, width = join_block(plan.B, 1)
        corrected = call.center and not call.given
        arguments = (totals, "rstd", table, "grads", channels, plan.B, width, block_rows(plan.B), plan.G)
        s.add(combine.reduce, (s.parts, corrected), channels, block, arguments, most=combine.MOST)
    return table


def settle(s: Schedule, plan: Plan, call: Call, totals: Part, channels: int, weighted: bool) -> Part | None:
    """Constants of dx; none where the statistics were given."""
    if call.given:
        return None
    units = plan.B * plan.G
    table = Part("work", s.work)
    s.work += table_size(s, units)
    block, width = join_block(channels, 1)
    arguments = (totals, "w", "rstd", table, units, float(plan.count), channels, width, block_rows(channels), plan.G)
    s.add(combine.settle, (s.parts, call.center, weighted), units, block, arguments, most=combine.MOST)
    return table


def table_size(s: Schedule, units: int) -> int:
    """Of what dx takes, and of a flag."""
    return ROWS[s.parts] * units + (s.parts == 2)


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
    constants = (i.wide, s.parts, call.center, sharing(i.wide, t), weighted, family == "rows")
    s.add(runs.apply_gradient_runs, constants, i.grid, i.block, ("x", "dy", "dx", "w", "mean", "rstd", table, *sizes), 128)


def gradients_of_rows(s: Schedule, plan: Plan, call: Call) -> Part | None:
    """Rows whose elements have weights of their own: dx row by row, dweight and dbias down the rows.

    These read x and dy once more, so dx, which may be one of them, is then written last.
    """
    dx, slanted = call.write and not call.given, not call.given and (call.write or call.center)
    if dx and call.parameters and walked(plan, s.parts):
        walk_rows(s, plan, call)
        return None
    at_once = dx and not (call.in_place and call.parameters) and held(plan, call, s.parts)
    table = (hold_rows if at_once else sum_rows)(s, plan, call) if slanted else None
    if call.parameters:
        length, corrected = plan.K * plan.T, table is not None and call.center
        g = grid_of(1, plan.B, plan.G * length, call.aligned)
        offsets = Part("work", table.offset + OFFSET * plan.B * plan.G) if table is not None and corrected else None
        arrays = ("x", "dy", "mean", "rstd", offsets)
        sums, chunks = sum_columns(s, partial_sums.WEIGHTS, g, arrays, g.width, length, plan.G, (call.center, corrected))
        join_columns(s, combine.GRADIENTS, "grads", sums, g, chunks, 2, g.width, plan.T)
    if dx and not at_once:
        write_gradients(s, plan, call, table)
    return table


def walked(plan: Plan, parts: int) -> bool:
    """Whether threads keep the sums of their columns while they go down a block of rows: short rows, and enough of them."""
    warps = -(-plan.K * plan.T // TILE)
    return parts == 1 and plan.T == 1 and warps <= tiles.WARPS and -(-plan.B // block_rows(plan.B)) * plan.G * warps >= 4 * FEW


def walk_rows(s: Schedule, plan: Plan, call: Call) -> None:
    """dx, dweight and dbias with one read of x and dy."""
    length, weighted, tree_rows = plan.K * plan.T, s.types["w"] is not None, block_rows(plan.B)
    warps, blocks, width = -(-length // TILE), -(-plan.B // tree_rows), plan.G * length
    together = max(1, driver.DRIVER.block_threads // 32 // warps)
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
    join_columns(s, combine.GRADIENTS, "grads", sums, grid_of(1, plan.B, width, False), blocks, 2, width, plan.T)


def hold_rows(s: Schedule, plan: Plan, call: Call) -> Part:
    """dx and what it takes of each row, a row in a block's registers."""
    length, units, weighted = plan.K * plan.T, plan.B * plan.G, s.types["w"] is not None
    per, wide = slots_for(length), call.aligned and length % 4 == 0
    grid, block = row_shape(units, per)
    table = Part("work", s.work)
    s.work += table_size(s, units)
    constants = (wide, s.parts, call.center, sharing(wide, plan.T), weighted)
    sizes = (units, plan.G, length, plan.T, per, float(plan.count))
    arrays = ("x", "dy", "dx", "w", "mean", "rstd", table)
    s.add(rows.rows_backward, constants, grid, block, (*arrays, *sizes), most_threads(wide, s.parts))
    return table


def sum_rows(s: Schedule, plan: Plan, call: Call) -> Part | None:
    """Constants of dx of each row, from sums of its parts."""
    units = plan.B * plan.G
    i = items_of(units, plan.K * plan.T, call.aligned)
    sums, totals = s.room(3 * i.n), s.room(3 * units)
    flags = (call.center, sharing(i.wide, plan.T), s.types["w"] is not None)
    sum_runs(s, partial_sums.PRODUCTS, i, ("x", "dy", "w", "mean", sums), plan.G, plan.G, 1, plan.T, flags)
    join_runs(s, plan, combine.CHANNEL, totals, sums, i, plan.G, 3)
    return settle(s, plan, call, totals, 1, False)
