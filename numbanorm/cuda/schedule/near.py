"""Gradients of channels in float32: launches of `families.near`, and of `mend` for what float32 has no room for."""

from __future__ import annotations

from ...spec.call import Call
from ...spec.tree import block_rows, gradient_family
from .. import combine, mend
from ..families import near
from ..partial_sums import BLOCK
from ..rescale_sums import WARP
from .steps import Owners, Part, Schedule, folded, items_of, join_block, join_columns, join_runs, reduce, row_chunks


def near_channels(s: Schedule, call: Call) -> None:
    """Sums of each channel of each sample serve all gradients; with statistics that are given, those of parameters alone."""
    table = settle_near(s, call, channel_sums(s, call))
    if call.write and not call.given:
        write_near(s, call, table)
    mend_channels(s, call, table)


def channel_sums(s: Schedule, call: Call) -> Part:
    """Sums of dy and of dy * d: (2, samples * channels)."""
    plan = call.plan
    channels, planes = plan.G * plan.K, combine.PLANES[combine.NEAR_CHANNEL]
    totals = s.reserve(planes * plan.B * channels)
    arrays = {"x": "x", "dy": "dy", "mean": "mean"}
    if gradient_family(plan) == "columns":
        g = folded(plan, s.aligned)
        sums = s.reserve(planes * g.samples * g.chunks * g.width)
        s.add(
            near.near_columns, (g.wide, call.center), g.samples * g.chunks * g.strips, BLOCK,
            **arrays, out=sums, **g.sizes(plan), per_block=g.tree_rows, chunks=g.chunks, per=g.per,
        )  # fmt: skip
        join_columns(s, plan, combine.NEAR_CHANNEL, totals, sums, g, g.chunks)
    else:
        i = items_of(plan.B * plan.M * channels, plan.T, s.aligned)
        sums = s.reserve(planes * i.n)
        owners = Owners(plan.M * channels, channels, plan.K)
        constants = (i.wide, call.center)
        s.add(near.near_runs, constants, i.grid, i.block, 128, **arrays, out=sums, **i.sizes, **owners._asdict())
        join_runs(s, plan, combine.NEAR_CHANNEL, totals, sums, i, channels)
    return totals


def settle_near(s: Schedule, call: Call, totals: Part) -> Part:
    """Constants of groups, and gradients of parameters."""
    plan = call.plan
    table = s.reserve(s.arithmetic.table(plan.units))
    block, width = join_block(plan.K, 1)
    s.add(
        combine.settle_near, (call.center, s.types["w"] is not None), plan.units, block, combine.MOST,
        sums=totals, w="w", mean="mean", rstd="rstd", table=table, units=plan.units, count=float(plan.count), outer=plan.K,
        width=width, rows=block_rows(plan.K), groups=plan.G,
    )  # fmt: skip
    if call.affine:
        reduce(s, call, totals, table, corrected=True)
    return table


def write_near(s: Schedule, call: Call, table: Part) -> None:
    """x, dy and the constants in `table` -> dx."""
    plan = call.plan
    arrays = {"x": "x", "dy": "dy", "dx": "dx", "w": "w", "mean": "mean", "rstd": "rstd", "table": table, "units": plan.units}
    flags = (call.center, s.types["w"] is not None)
    if gradient_family(plan) == "columns":
        g, blocks, chunk, chunks = row_chunks(plan, s.aligned)
        sizes = {**g.sizes(plan), "t": plan.T, "chunk": chunk, "chunks": chunks}
        s.add(near.near_gradient_columns, (g.wide, *flags), blocks, BLOCK, **arrays, **sizes)
        return
    channels = plan.G * plan.K
    i = items_of(plan.B * plan.M * channels, plan.T, s.aligned)
    owners = Owners(plan.M * channels, channels, plan.K)
    s.add(near.near_gradient_runs, (i.wide, *flags), i.grid, i.block, 128, **arrays, **i.sizes, **owners._asdict())


def mend_channels(s: Schedule, call: Call, table: Part) -> None:
    """Groups and weights that float32 had no room for."""
    plan = call.plan
    columns, write = gradient_family(plan) == "columns", call.write and not call.given
    rows = folded(plan, s.aligned).rows if columns else plan.M
    constants = (columns, call.center, s.types["w"] is not None, write, call.affine, not call.given)
    s.add(
        mend.mend_channels, constants, -(-max(plan.units, plan.G * plan.K) // WARP), WARP,
        x="x", dy="dy", dx="dx" if write else None, w="w", mean="mean", rstd="rstd", table=table,
        grads="grads" if call.affine else None, samples=plan.B, sample_rows=block_rows(plan.B), groups=plan.G, rows=rows,
        tree_rows=block_rows(rows), fold=plan.M // rows, channels=plan.K, channel_rows=block_rows(plan.K), length=plan.T,
        count=float(plan.count),
    )  # fmt: skip
