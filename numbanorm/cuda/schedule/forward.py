"""Launches of a forward call. Integers only, and never a bit of the result."""

from __future__ import annotations

from typing import Any

from ...spec.call import Call
from ...spec.tree import LANE_COUNT, LEAST_RUN, TILE, block_rows, by_columns
from .. import combine, partial_sums, rescale, running
from .. import rescale_sums as warps
from ..arith import tiles
from ..arith.elementwise import ALL, EACH, LOW, M2, MEAN, RSTD
from ..arith.results import distrust
from ..families import held as held_rows
from ..families import measure, runs
from ..families import write as results
from .rows import held, row_shape
from .steps import (
    Items,
    Owners,
    Part,
    Schedule,
    element_columns,
    folded,
    items_of,
    join_columns,
    join_runs,
    power_of_two_above,
    row_chunks,
    sharing,
    slots_for,
    sum_columns,
    sum_runs,
)

STATISTICS = {"mean": MEAN, "low": LOW, "m2": M2, "rstd": RSTD}  # arrays of an elementwise kernel, rows of the statistics


def forward(s: Schedule, call: Call) -> Schedule:
    """x -> statistics and y. Arrays: x, y, w, b, stats (4, units); mean and var if they are given."""
    plan = call.plan
    measured = not call.given
    if measured and call.write and call.method != "welford" and held(s, call):
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


def normalize_again(s: Schedule, call: Call) -> None:
    """Groups of float64 that left its range."""
    plan = call.plan
    if not s.arithmetic.rescales:
        return
    length, units = plan.K * plan.T, plan.units
    weighted, biased = (call.write and s.types[name] is not None for name in ("w", "b"))
    constants = (call.center, call.method == "welford", by_columns(plan), weighted, biased, call.write)
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
    steps = min(tiles.STEPS, power_of_two_above(-(-length // LANE_COUNT)))
    even = wide and length % (min(steps, tiles.STEPS) * LANE_COUNT) == 0
    grid, block = row_shape(units, per)
    weighted, biased = s.types["w"] is not None, s.types["b"] is not None
    how, t = shared(s, call, wide)
    trust = doubt(s, call, how)
    halving = plan.count & (plan.count - 1) == 0 and s.arithmetic.at_once and call.center
    full = even and length == steps * LANE_COUNT * per and units % (block // 8 // per) == 0
    row = held_rows.Row(even, full, halving, plan.G > 1, per, steps)
    constants = (wide, row, s.arithmetic, call.center, how, weighted, biased, trust is not None)
    s.add(
        held_rows.rows_forward, constants, grid, block,
        x="x", w="w", b="b", y="y", stats="stats", trust=trust, units=units, groups=plan.G, length=length, t=t, turns=steps,
        count=float(plan.count), inverse=1.0 / plan.count, eps="eps",
    )  # fmt: skip
    s.reason = f"{units} groups of {length} contiguous elements, each held in registers by {max(8 * per, 8)} threads"


def shared(s: Schedule, call: Call, wide: bool) -> tuple[int, int]:
    """Layout of the parameters of runs, and how many elements of a run share one; see `elementwise.parameters`.

    EACH is of those that have one of their own, whether there are parameters or not: their constants are a group's.
    """
    plan = call.plan
    length, parameters = plan.K * plan.T, any(s.types.get(name) is not None for name in ("w", "b"))
    if plan.T == 1 and plan.K > 1 and not by_columns(plan):
        return EACH, 1
    if plan.K == 1 or not parameters:
        return ALL, length
    return sharing(wide, plan.T), plan.T


def doubt(s: Schedule, call: Call, how: int) -> Part | None:
    """Where it says whether float32 has all weights and biases, if it may not: float64 ones, which single elements have."""
    plan, wide = call.plan, [s.types.get(name) == "float64" for name in ("w", "b")]
    if how != EACH or not s.arithmetic.single or not any(wide):
        return None
    trust = s.reserve(1)
    s.add(distrust, tuple(wide), 1, warps.WARP, w="w", b="b", trust=trust, n=plan.G * plan.K)
    return trust


def measure_runs(s: Schedule, call: Call) -> None:
    """x -> statistics, by sums of parts of runs."""
    plan = call.plan
    length, n, owners = plan.K * plan.T, plan.B * plan.M * plan.G, Owners(plan.M * plan.G, plan.G, 1)
    if call.method == "welford":
        i = Items(n, length, 1, s.aligned and length % 4 == 0)
        moments = s.room(2 * i.n)
        tile_sizes = {"n": i.n, "spans": i.spans, "length": length}
        s.add(runs.tile_moments, (i.wide, s.arithmetic.sums), i.grid, i.block, 128, x="x", out=moments, **tile_sizes)
        join_runs(s, plan, combine.CENTER, "stats", moments, i, plan.G)
        s.add_each(
            partial_sums.merge, (s.arithmetic.sums, False), i.n,
            moments=moments, mean="stats", n=i.n, per=i.spans, size=TILE, length=length, **owners._asdict(), width=1,
        )  # fmt: skip
        squares = Part("work", moments.offset + i.n * s.arithmetic.parts)
        join_runs(s, plan, combine.SPREAD, "stats", squares, i, plan.G)
        return
    i = items_of(n, length, s.aligned)
    if one_read(call):
        sums = s.room(2 * i.n)
        s.add(measure.run_moments, (i.wide,), i.grid, i.block, 128, x="x", out=sums, **i.sizes)
        join_runs(s, plan, combine.MOMENTS, "stats", sums, i, plan.G)
        measure_again(s, call, False, 1)
        return
    sums = s.room(i.n)
    arrays = {"x": "x", "dy": "x", "w": None, "mean": "stats", "out": sums}
    for kind, joined in kinds_of(call):
        sum_runs(s, kind, i, arrays, owners, length, (call.center, EACH, False))
        join_runs(s, plan, joined, "stats", sums, i, plan.G)


def one_read(call: Call) -> bool:
    return call.method == "one_read" and call.center


def measure_again(s: Schedule, call: Call, columns: bool, fold: int) -> None:
    """Groups for which one read was not enough."""
    plan = call.plan
    rows_ = plan.M // fold
    s.add(
        measure.measure_again, (columns,), plan.units, warps.WARP,
        x="x", stats="stats", units=plan.units, groups=plan.G, rows=rows_, tree_rows=block_rows(rows_), fold=fold,
        length=plan.K * plan.T, count=float(plan.count), eps="eps",
    )  # fmt: skip


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
    if call.method == "welford":
        moments, chunks = sum_columns(s, plan, partial_sums.BOTH, g, arrays, center=False)
        join_columns(s, plan, combine.CENTER, "stats", moments, g, chunks)
        n = g.samples * chunks * g.width
        s.add_each(
            partial_sums.merge, (s.arithmetic.sums, True), n,
            moments=moments, mean="stats", n=n, per=chunks, size=g.tree_rows, length=g.rows,
            **Owners(plan.G * length, plan.G, length)._asdict(), width=g.width,
        )  # fmt: skip
        squares = Part("work", moments.offset + n * s.arithmetic.parts)
        join_columns(s, plan, combine.SPREAD, "stats", squares, g, chunks)
        return
    if one_read(call):
        sums = s.room(2 * g.samples * g.chunks * g.width)
        s.add(
            measure.column_moments, (g.wide,), g.samples * g.chunks * g.strips, partial_sums.BLOCK,
            x="x", out=sums, samples=g.samples, rows=g.rows, width=g.width, span=g.span, per_block=g.tree_rows,
            chunks=g.chunks, per=g.per,
        )  # fmt: skip
        join_columns(s, plan, combine.MOMENTS, "stats", sums, g, g.chunks)
        measure_again(s, call, True, plan.M // g.rows)
        return
    for kind, joined in kinds_of(call):
        sums, chunks = sum_columns(s, plan, kind, g, arrays, call.center)
        join_columns(s, plan, joined, "stats", sums, g, chunks)


def result_arrays(s: Schedule, units: int, x: str, y: str, scaling: bool) -> dict[str, Any]:
    """Arrays of kernels that write y from x; or, `scaling`, dx from dy with statistics that were given: of mean 0, no bias."""
    stats: dict[str, Any] = {name: Part("stats", row * units) for name, row in STATISTICS.items()}
    if scaling:
        stats = {"mean": None, "low": None, "m2": None, "rstd": "rstd"}
    return {"x": x, "y": y, "w": "w", "b": None if scaling or s.types["b"] is None else "b", **stats}


def write_runs(s: Schedule, call: Call, x: str, y: str, scaling: bool) -> None:
    """x -> y by runs; see `result_arrays`."""
    plan = call.plan
    arrays = result_arrays(s, plan.units, x, y, scaling)
    weighted, biased = s.types["w"] is not None, arrays["b"] is not None
    length = plan.K * plan.T
    i = items_of(plan.B * plan.M * plan.G, length, s.aligned)
    how, t = shared(s, call, i.wide)
    trust = doubt(s, call, how)
    constants = (i.wide, s.arithmetic, call.center and not scaling, not call.given, how, weighted, biased, trust is not None)
    owners = Owners(plan.M * plan.G, plan.G, 1)
    s.add(
        results.apply_runs,
        constants,
        i.grid,
        i.block,
        128,
        **arrays,
        **i.sizes,
        **owners._asdict(),
        t=t,
        turns=tiles.STEPS,
        trust=trust,
    )


def write_columns(s: Schedule, call: Call, x: str, y: str, scaling: bool) -> None:
    """x -> y by columns; see `result_arrays`."""
    plan = call.plan
    arrays = result_arrays(s, plan.units, x, y, scaling)
    center, weighted, biased = call.center and not scaling, s.types["w"] is not None, arrays["b"] is not None
    if s.arithmetic.single:
        g, blocks, chunk, chunks = row_chunks(plan, s.aligned)
        s.add(
            results.apply_columns_fast, (g.wide, center, not call.given, weighted, biased), blocks, partial_sums.BLOCK,
            **arrays, **g.sizes(plan), t=plan.T, chunk=chunk, chunks=chunks,
        )  # fmt: skip
        return
    arrays.pop("m2")
    element_columns(s, call, {**arrays, "dy": x, "table": None}, (center, weighted, biased, False))
