"""Launches of a forward call. Integers only, and never a bit of the result."""

from __future__ import annotations

from typing import Any

from ...spec.call import Call
from ...spec.tree import LEAST_RUN, TILE, block_rows, by_columns
from .. import combine, partial_sums, rescale, running
from .. import rescale_sums as warps
from ..arith.elementwise import EACH, LOW, MEAN, RSTD
from ..families import rows, runs
from .rows import held, most_held, row_shape
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
    sharing,
    slots_for,
    sum_columns,
    sum_runs,
)

STATISTICS = {"mean": MEAN, "low": LOW, "rstd": RSTD}  # arrays of an elementwise kernel, rows of the statistics


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
    if call.method == "welford":
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
    if call.method == "welford":
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
