"""Choice of kernels and launches: forward, running statistics, backward. Integers only, and never a bit of the result."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ...spec.call import Call
from ...spec.plan import Plan
from ...spec.tree import LEAST_RUN, TILE, block_rows, by_columns, fold_for, gradient_family
from .. import combine, driver, partial_sums, rescale, rescale_gradients, running
from .. import rescale_sums as warps
from ..arith import tiles
from ..arith.arithmetic import Arithmetic
from ..arith.elementwise import EACH, LOW, MEAN, OFFSET, RSTD
from ..arrays.described import name_of
from ..families import rows, runs
from .steps import (
    SLOTS,
    Items,
    Owners,
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
STATISTICS = {"mean": MEAN, "low": LOW, "rstd": RSTD}  # arrays of an elementwise kernel, rows of the statistics
FEW = 64  # rows below which longer ones are cut up: a device has more than a hundred multiprocessors


@lru_cache(maxsize=4096)
def scheduled(call: Call, dtypes: tuple[Any, ...], aligned: bool) -> Schedule:
    """Cached schedule for arrays of these dtypes; keyed by dtype, since dtype names cost 2 us."""
    names = BACKWARD if call.backward else FORWARD
    types = {n: None if d is None else name_of(d) for n, d in zip(names, dtypes, strict=True)}
    return (backward if call.backward else forward)(Schedule(types, aligned), call)


# arrays of a forward and of a backward call
FORWARD, BACKWARD = ("x", "y", "w", "b", "mean", "var"), ("x", "dy", "dx", "w", "mean", "rstd", "grads")


def forward(s: Schedule, call: Call) -> Schedule:
    """x -> statistics and y. Arrays: x, y, w, b, stats (4, units); mean and var if they are given."""
    plan = call.plan
    measured = not call.given
    if measured and call.write and not call.one_read and held(s, call):
        rows_forward(s, call)
        normalize_again(s, call)
        return s
    units = plan.units
    columns = by_columns(plan) and (measured or plan.T < LEAST_RUN)
    if call.given:
        s.add_each(running.prepare, (), units, mean="mean", var="var", stats="stats", units=units, groups=plan.G, eps="eps")
    elif columns:
        measure_columns(s, call)
    else:
        measure_runs(s, call)
    if call.write:
        (write_columns if columns else write_runs)(s, call, "x", "y", False)
    if measured:
        normalize_again(s, call)
    length = plan.K * plan.T
    how = "columns side by side" if columns else f"runs of {length} contiguous elements"
    s.reason = f"{how}, {plan.M} a group, {units} groups; sums of parts, then y: {len(s.steps)} launches"
    return s


def most_held(wide: bool, arithmetic: Arithmetic) -> int:
    """Slots of a row that a block holds in registers."""
    return MOST_HELD // max(arithmetic.parts, 1 if wide else 2)


def held(s: Schedule, call: Call) -> bool:
    """Whether a block of threads holds a whole group in registers, and there are groups enough."""
    plan = call.plan
    length = plan.K * plan.T
    per, most = slots_for(length), most_held(s.aligned and length % 4 == 0, s.arithmetic)
    return plan.M == 1 and per <= most and (plan.units >= FEW or per <= SLOTS)


def row_shape(units: int, per: int) -> tuple[int, int]:
    """Blocks and threads for rows of `per` slots each."""
    block = max(driver.DRIVER.block_threads, 8 * per) if per <= 4 else 8 * per
    return -(-units // (block // 8 // per)), block


def normalize_again(s: Schedule, call: Call) -> None:
    """Groups of float64 that left its range."""
    plan = call.plan
    if not s.arithmetic.rescales:
        return
    length, units = plan.K * plan.T, plan.units
    weighted, biased = (call.write and s.types[name] is not None for name in ("w", "b"))
    constants = (call.center, call.one_read and call.center, by_columns(plan), weighted, biased, call.write)
    s.add(
        rescale.normalize_again, constants, -(-units // warps.WARP), warps.WARP,
        x="x", w="w", b="b", y="y", stats="stats", units=units, groups=plan.G, rows=plan.M, tree_rows=block_rows(plan.M),
        length=length, t=plan.T, count=float(plan.count), eps="eps",
    )  # fmt: skip
    if call.in_place:
        s.elsewhere("y", plan.size)


def rows_forward(s: Schedule, call: Call) -> None:
    """x -> statistics and y, a row in a block's registers."""
    plan = call.plan
    length, units = plan.K * plan.T, plan.units
    per, wide = slots_for(length), s.aligned and length % 4 == 0
    grid, block = row_shape(units, per)
    weighted, biased = s.types["w"] is not None, s.types["b"] is not None
    t = plan.T if weighted or biased else length
    constants = (wide, s.arithmetic, call.center, sharing(wide, t), weighted, biased)
    s.add(
        rows.rows_forward, constants, grid, block, 8 * most_held(wide, s.arithmetic),
        x="x", w="w", b="b", y="y", stats="stats", units=units, groups=plan.G, length=length, t=t, per=per,
        count=float(plan.count), eps="eps",
    )  # fmt: skip
    s.reason = f"{units} groups of {length} contiguous elements, each held in registers by {max(8 * per, 8)} threads"


def measure_runs(s: Schedule, call: Call) -> None:
    """x -> statistics, by sums of parts of runs."""
    plan = call.plan
    length, n, owners = plan.K * plan.T, plan.B * plan.M * plan.G, Owners(plan.M * plan.G, plan.G, 1)
    if call.one_read and call.center:
        i = Items(n, length, 1, s.aligned and length % 4 == 0)
        moments = s.room(2 * i.n)
        tile_sizes = {"n": i.n, "spans": i.spans, "length": length}
        s.add(runs.tile_moments, (i.wide, s.arithmetic), i.grid, i.block, 128, x="x", out=moments, **tile_sizes)
        join_runs(s, plan, combine.CENTER, "stats", moments, i, plan.G)
        s.add_each(
            partial_sums.merge, (s.arithmetic, False), i.n,
            moments=moments, mean="stats", n=i.n, per=i.spans, size=TILE, length=length, **owners._asdict(), width=1,
        )  # fmt: skip
        squares = Part("work", moments.offset + i.n * s.arithmetic.parts)
        join_runs(s, plan, combine.SPREAD, "stats", squares, i, plan.G)
        return
    i = items_of(n, length, s.aligned)
    sums = s.room(i.n)
    arrays = {"x": "x", "dy": "x", "w": None, "mean": "stats", "out": sums}
    for kind, joined in kinds_of(call):
        sum_runs(s, kind, i, arrays, owners, length, (call.center, EACH, False))
        join_runs(s, plan, joined, "stats", sums, i, plan.G)


def kinds_of(call: Call) -> tuple[tuple[int, int], ...]:
    """Sums to take, and what becomes of each: a mean first, unless it is 0."""
    if call.center:
        return (partial_sums.SUM, combine.CENTER), (partial_sums.SQUARES, combine.SPREAD)
    return ((partial_sums.SQUARES, combine.SQUARE),)


def measure_columns(s: Schedule, call: Call) -> None:
    """x -> statistics, by sums down columns."""
    plan = call.plan
    g, length = folded(plan, s.aligned), plan.K * plan.T
    arrays = {"x": "x", "dy": "x", "mean": "stats", "rstd": None, "offsets": None}
    if call.one_read and call.center:
        moments, chunks = sum_columns(s, plan, partial_sums.BOTH, g, arrays, center=False)
        join_columns(s, plan, combine.CENTER, "stats", moments, g, chunks)
        n = g.samples * chunks * g.width
        s.add_each(
            partial_sums.merge, (s.arithmetic, True), n,
            moments=moments, mean="stats", n=n, per=chunks, size=g.tree_rows, length=g.rows,
            **Owners(plan.G * length, plan.G, length)._asdict(), width=g.width,
        )  # fmt: skip
        squares = Part("work", moments.offset + n * s.arithmetic.parts)
        join_columns(s, plan, combine.SPREAD, "stats", squares, g, chunks)
        return
    for kind, joined in kinds_of(call):
        sums, chunks = sum_columns(s, plan, kind, g, arrays, call.center)
        join_columns(s, plan, joined, "stats", sums, g, chunks)


def result_arrays(s: Schedule, units: int, x: str, y: str, scaling: bool) -> dict[str, Any]:
    """Arrays of kernels that write y from x; or, `scaling`, dx from dy with statistics that were given: of mean 0, no bias."""
    stats: dict[str, Any] = {name: Part("stats", row * units) for name, row in STATISTICS.items()}
    if scaling:
        stats = {"mean": None, "low": None, "rstd": "rstd"}
    return {"x": x, "y": y, "w": "w", "b": None if scaling or s.types["b"] is None else "b", **stats}


def write_runs(s: Schedule, call: Call, x: str, y: str, scaling: bool) -> None:
    """x -> y by runs; see `result_arrays`."""
    plan = call.plan
    arrays = result_arrays(s, plan.units, x, y, scaling)
    weighted, biased = s.types["w"] is not None, arrays["b"] is not None
    length = plan.K * plan.T
    t = plan.T if weighted or biased else length
    i = items_of(plan.B * plan.M * plan.G, length, s.aligned)
    constants = (i.wide, s.arithmetic, call.center and not scaling, sharing(i.wide, t), weighted, biased)
    owners = Owners(plan.M * plan.G, plan.G, 1)
    s.add(runs.apply_runs, constants, i.grid, i.block, 128, **arrays, **i.sizes, **owners._asdict(), t=t)


def write_columns(s: Schedule, call: Call, x: str, y: str, scaling: bool) -> None:
    """x -> y by columns; see `result_arrays`."""
    plan = call.plan
    arrays = result_arrays(s, plan.units, x, y, scaling)
    flags = (call.center and not scaling, s.types["w"] is not None, arrays["b"] is not None, False)
    element_columns(s, call, {**arrays, "dy": x, "table": None}, flags)


@lru_cache(maxsize=1024)
def tracking(types: tuple[tuple[str, str | None], ...], samples: int, channels: int, averaging: bool) -> Schedule:
    """Running statistics from a batch's. Arrays: stats (4, samples * channels), mean, var, counter; numbers: n, old, new."""
    s = Schedule(dict(types))
    flags = (s.types["mean"] is not None, s.types["var"] is not None, averaging)
    if any(flags[:2]):
        arrays = {name: name for name in ("stats", "mean", "var", "counter")}
        s.add_each(
            running.update, flags, channels, **arrays, units=samples * channels, channels=channels, n="n", old="old", new="new"
        )
    if s.types["counter"] is not None:
        s.add(running.count, (), 1, 32, counter="counter")
    return s


# --- backward --------------------------------------------------------------------------------------------------------


def backward(s: Schedule, call: Call) -> Schedule:
    """x, dy -> dx and grads (2, G * K). Arrays: x, dy, dx, w, mean, rstd (units,), grads."""
    plan = call.plan
    family = gradient_family(plan)
    scaled = call.write and call.given
    if call.affine or not call.given:
        rescales, make = s.arithmetic.rescales, gradients_of_rows if family == "rows" else gradients_of_channels
        table = make(s, call)
        if rescales:
            again(s, call, table)
        if rescales and call.in_place and not call.given:
            s.elsewhere("dx", plan.size)
    if scaled:
        columns = by_columns(plan) and plan.T < LEAST_RUN
        (write_columns if columns else write_runs)(s, call, "dy", "dx", True)
    s.reason = f"family {family}, {plan.M} runs of {plan.K * plan.T} a group, {plan.units} groups; {len(s.steps)} launches"
    return s


def again(s: Schedule, call: Call, table: Part | None) -> None:
    """Groups and weights of float64 that left its range."""
    plan = call.plan
    family, units, channels = gradient_family(plan), plan.units, plan.G * plan.K
    fold = fold_for(plan.M, channels * plan.T) if family == "columns" else 1
    rows_ = plan.M // fold
    kind, length = (family == "rows", family == "columns"), plan.K * plan.T if family == "rows" else plan.T
    arrays = {"x": "x", "dy": "dy", "mean": "mean", "rstd": "rstd", "table": table}
    runs_of = {"groups": plan.G, "rows": rows_, "tree_rows": block_rows(rows_), "fold": fold}
    if table is not None:
        each = 1 if family == "rows" else plan.K
        flags = (*kind, call.center, s.types["w"] is not None, call.write)
        s.add(
            rescale_gradients.gradients_again, flags, -(-units // warps.WARP), warps.WARP,
            **arrays, dx="dx", w="w", units=units, **runs_of, channels=each, channel_rows=block_rows(each), length=length,
            t=plan.T, count=float(plan.count),
        )  # fmt: skip
    if call.affine:
        s.add(
            rescale_gradients.parameters_again, (*kind, call.center, table is not None), -(-channels // warps.WARP), warps.WARP,
            **arrays, grads="grads", samples=plan.B, sample_rows=block_rows(plan.B), **runs_of, channels=plan.K, length=plan.T,
        )  # fmt: skip


def gradients_of_channels(s: Schedule, call: Call) -> Part | None:
    """Sums of each channel of each sample serve all gradients."""
    plan = call.plan
    channels = plan.G * plan.K
    totals = s.room(3 * plan.B * channels)
    if gradient_family(plan) == "columns":
        g, arrays = folded(plan, s.aligned), {"x": "x", "dy": "dy", "mean": "mean", "rstd": None, "offsets": None}
        sums, chunks = sum_columns(s, plan, partial_sums.PRODUCTS, g, arrays, call.center)
        join_columns(s, plan, combine.CHANNEL, totals, sums, g, chunks)
    else:
        i = items_of(plan.B * plan.M * channels, plan.T, s.aligned)
        sums = s.room(3 * i.n)
        of_runs = {"x": "x", "dy": "dy", "w": None, "mean": "mean", "out": sums}
        owners = Owners(plan.M * channels, channels, plan.K)
        sum_runs(s, partial_sums.PRODUCTS, i, of_runs, owners, plan.T, (call.center, EACH, False))
        join_runs(s, plan, combine.CHANNEL, totals, sums, i, channels)
    table = settle(s, call, totals, plan.K, s.types["w"] is not None)
    if call.write and not call.given:
        write_gradients(s, call, table)
    if call.affine:
        block, width = join_block(plan.B, 1)
        corrected = call.center and not call.given
        s.add(
            combine.reduce, (s.arithmetic, corrected), channels, block, combine.MOST,
            sums=totals, rstd="rstd", table=table, grads="grads", channels=channels, outer=plan.B, width=width,
            rows=block_rows(plan.B), groups=plan.G,
        )  # fmt: skip
    return table


def settle(s: Schedule, call: Call, totals: Part, channels: int, weighted: bool) -> Part | None:
    """Constants of dx; none where the statistics were given."""
    plan = call.plan
    if call.given:
        return None
    units = plan.units
    table = s.reserve(s.arithmetic.table(units))
    block, width = join_block(channels, 1)
    s.add(
        combine.settle, (s.arithmetic, call.center, weighted), units, block, combine.MOST,
        sums=totals, w="w", rstd="rstd", table=table, units=units, count=float(plan.count), outer=channels, width=width,
        rows=block_rows(channels), groups=plan.G,
    )  # fmt: skip
    return table


def write_gradients(s: Schedule, call: Call, table: Part | None) -> None:
    """x, dy and the constants in `table` -> dx."""
    plan = call.plan
    weighted, units = s.types["w"] is not None, plan.units
    family = gradient_family(plan)
    arrays = {"x": "x", "dy": "dy", "w": "w", "mean": "mean", "rstd": "rstd", "table": table}
    if family == "columns":
        flags = (call.center, weighted, False, True)
        element_columns(s, call, {**arrays, "y": "dx", "b": None, "low": None}, flags)
        return
    # a run is what shares a weight, or a group
    groups, channels, length = (plan.G * plan.K, plan.K, plan.T) if family == "runs" else (plan.G, 1, plan.K * plan.T)
    i = items_of(plan.B * plan.M * groups, length, s.aligned)
    constants = (i.wide, s.arithmetic, call.center, sharing(i.wide, plan.T), weighted, family == "rows")
    sizes = {**i.sizes, **Owners(plan.M * groups, groups, channels)._asdict(), "t": plan.T}
    s.add(runs.apply_gradient_runs, constants, i.grid, i.block, 128, **arrays, dx="dx", units=units, **sizes)


def gradients_of_rows(s: Schedule, call: Call) -> Part | None:
    """Rows whose elements have weights of their own: dx row by row, dweight and dbias down the rows.

    These read x and dy once more, so dx, which may be one of them, is then written last.
    """
    plan = call.plan
    dx, slanted = call.write and not call.given, not call.given and (call.write or call.center)
    if dx and call.affine and walked(plan, s.arithmetic):
        walk_rows(s, call)
        return None
    at_once = dx and not (call.in_place and call.affine and not s.arithmetic.rescales) and held(s, call)
    table = (hold_rows if at_once else sum_rows)(s, call) if slanted else None
    if call.affine:
        g = grid_of(1, plan.B, plan.G * plan.K * plan.T, s.aligned)
        offsets = Part("work", table.offset + OFFSET * plan.units) if table is not None and call.center else None
        arrays = {"x": "x", "dy": "dy", "mean": "mean", "rstd": "rstd", "offsets": offsets}
        sums, chunks = sum_columns(s, plan, partial_sums.WEIGHTS, g, arrays, call.center, corrected=offsets is not None)
        join_columns(s, plan, combine.GRADIENTS, "grads", sums, g, chunks)
    if dx and not at_once:
        write_gradients(s, call, table)
    return table


def walked(plan: Plan, arithmetic: Arithmetic) -> bool:
    """Whether threads keep the sums of their columns while they go down a block of rows: short rows, and enough of them."""
    warps = -(-plan.K * plan.T // TILE)
    enough = -(-plan.B // block_rows(plan.B)) * plan.G * warps >= 4 * FEW
    return arithmetic.walks and plan.T == 1 and warps <= tiles.WARPS and enough


def walk_rows(s: Schedule, call: Call) -> None:
    """dx, dweight and dbias with one read of x and dy."""
    plan = call.plan
    length, weighted, tree_rows = plan.K * plan.T, s.types["w"] is not None, block_rows(plan.B)
    warps, blocks, width = -(-length // TILE), -(-plan.B // tree_rows), plan.G * length
    together = max(1, driver.DRIVER.block_threads // 32 // warps)
    sums = s.room(2 * blocks * width)
    s.add(
        rows.rows_gradients, (call.center, weighted), -(-blocks * plan.G // together), 32 * warps * together, 32 * tiles.WARPS,
        x="x", dy="dy", dx="dx", w="w", mean="mean", rstd="rstd", out=sums, rows=plan.B, groups=plan.G, length=length,
        warps=warps, tree_rows=tree_rows, count=float(plan.count),
    )  # fmt: skip
    join_columns(s, plan, combine.GRADIENTS, "grads", sums, grid_of(1, plan.B, width, False), blocks)


def hold_rows(s: Schedule, call: Call) -> Part:
    """dx and what it takes of each row, a row in a block's registers."""
    plan = call.plan
    length, units, weighted = plan.K * plan.T, plan.units, s.types["w"] is not None
    per, wide = slots_for(length), s.aligned and length % 4 == 0
    grid, block = row_shape(units, per)
    table = s.reserve(s.arithmetic.table(units))
    constants = (wide, s.arithmetic, call.center, sharing(wide, plan.T), weighted)
    s.add(
        rows.rows_backward, constants, grid, block, 8 * most_held(wide, s.arithmetic),
        x="x", dy="dy", dx="dx", w="w", mean="mean", rstd="rstd", table=table, units=units, groups=plan.G, length=length,
        t=plan.T, per=per, count=float(plan.count),
    )  # fmt: skip
    return table


def sum_rows(s: Schedule, call: Call) -> Part | None:
    """Constants of dx of each row, from sums of its parts."""
    plan = call.plan
    units = plan.units
    i = items_of(units, plan.K * plan.T, s.aligned)
    sums, totals = s.room(3 * i.n), s.room(3 * units)
    flags = (call.center, sharing(i.wide, plan.T), s.types["w"] is not None)
    arrays = {"x": "x", "dy": "dy", "w": "w", "mean": "mean", "out": sums}
    sum_runs(s, partial_sums.PRODUCTS, i, arrays, Owners(plan.G, plan.G, 1), plan.T, flags)
    join_runs(s, plan, combine.CHANNEL, totals, sums, i, plan.G)
    return settle(s, call, totals, 1, False)
