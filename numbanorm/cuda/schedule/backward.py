"""Launches of a backward call, as `forward`."""

from __future__ import annotations

from ...spec.call import Call
from ...spec.tree import LEAST_RUN, block_rows, by_columns, fold_for, gradient_family
from .. import combine, partial_sums, rescale_gradients
from .. import rescale_sums as warps
from ..arith.elementwise import EACH, OFFSET
from ..families import rows, runs
from .forward import write_columns, write_runs
from .near import near_channels
from .rows import held, most_held, row_shape, walked
from .steps import (
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
    reduce,
    sharing,
    slots_for,
    sum_columns,
    sum_runs,
)
from .walk import walk_rows, walked_in_float32


def backward(s: Schedule, call: Call) -> Schedule:
    """x, dy -> dx and grads (2, G * K). Arrays: x, dy, dx, w, mean, rstd (units,), grads."""
    plan = call.plan
    family = gradient_family(plan)
    scaled = call.write and call.given
    s.exact = s.exact or not (walked_in_float32(s, call) if family == "rows" else s.types["x"] != "float64")
    if not s.exact and (call.affine or not call.given):
        (walk_rows if family == "rows" else near_channels)(s, call)
        if call.in_place and not call.given:
            s.elsewhere("dx", plan.size)
    elif call.affine or (call.write and not call.given):
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
    if s.exact and not call.exact and s.types["x"] != "float64":
        s.reason += "; these rows have no kernels in float32, so gradients are those of exact=True"
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
        reduce(s, call, totals, table, call.center and not call.given)
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
    in_registers = dx and not (call.in_place and call.affine and not s.arithmetic.rescales) and held(s, call)
    table = (hold_rows if in_registers else sum_rows)(s, call) if slanted else None
    if call.affine:
        g = grid_of(1, plan.B, plan.G * plan.K * plan.T, s.aligned)
        offsets = Part("work", table.offset + OFFSET * plan.units) if table is not None and call.center else None
        arrays = {"x": "x", "dy": "dy", "mean": "mean", "rstd": "rstd", "offsets": offsets}
        sums, chunks = sum_columns(s, plan, partial_sums.WEIGHTS, g, arrays, call.center, corrected=offsets is not None)
        join_columns(s, plan, combine.GRADIENTS, "grads", sums, g, chunks)
    if dx and not in_registers:
        write_gradients(s, call, table)
    return table


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
