"""Rows that are walked backward: their gradients in two launches."""

from __future__ import annotations

from ...spec.call import Call
from ...spec.dtypes import DTYPES
from ...spec.tree import SHORT_SUM, TILE, block_rows, gradient_family
from .. import driver
from ..arith import tiles
from ..families.walk import ROW_ROOM, Cut, rows_gradients
from ..families.walked import MOST, join_rows
from .steps import Part, Schedule, power_of_two_above, slots_for

WIDEST = 32  # tiles of a row: one for each thread of a warp
SHARED = 48 << 10  # bytes of shared memory that a block has without asking for more
SCANNED = 512  # blocks that look for rows to be computed again, at most


def walked_in_float32(s: Schedule, call: Call) -> bool:
    """Whether gradients of rows are float32: where each element has a weight of its own, in rows that a block holds."""
    plan = call.plan
    short = plan.T == 1 and plan.K <= TILE * WIDEST
    return gradient_family(plan) == "rows" and short and not call.given and s.types["x"] != "float64"


def cut_rows(s: Schedule, length: int, wide: bool) -> Cut:
    """Cut of rows: so many to a block that it has as many threads as the driver likes.

    A thread takes four neighbours of a tile in float32 (for sums in float64 it has no registers), if these are one access or
    the row would take too many threads.
    """
    lanes = 4 if wide or (not s.exact and length > TILE * tiles.WARPS) else 1
    per = slots_for(length) if lanes == 4 else -(-length // TILE)
    steps, threads = min(tiles.STEPS, -(-length // 32)), 32 // lanes * per
    block = threads * max(1, driver.DRIVER.block_threads // threads)
    stage = block * steps * DTYPES[str(s.types["x"])].itemsize if wide else 0
    return Cut(block, per, steps, length == per * steps * 32, lanes, stage if 8 * (stage + ROW_ROOM) <= SHARED else 0)


def walk_rows(s: Schedule, call: Call) -> None:
    """dx, dweight and dbias with one read of x and dy."""
    plan = call.plan
    length, weighted, fast = plan.K * plan.T, s.types["w"] is not None, s.arithmetic.single
    rows = SHORT_SUM if fast else block_rows(plan.B)
    blocks, wide = -(-plan.B // rows), fast and s.aligned and length % 4 == 0
    cut = cut_rows(s, length, wide)
    size = 2 * blocks * plan.G * length if call.affine else 0
    sums = Part("work", s.reserve(-(-size // 2) if fast else size).offset, "float32" if fast else "float64")
    table = s.reserve(plan.units) if fast else None
    flags = (call.center, weighted, call.write, call.affine)
    arrays = {"x": "x", "dy": "dy", "dx": "dx", "w": "w", "mean": "mean", "rstd": "rstd", "table": table}
    sizes = {"rows": plan.B, "groups": plan.G, "length": length, "block_rows": rows, "count": float(plan.count)}
    together = cut.block // (cut.per * 32 // cut.lanes)
    s.add(
        rows_gradients, (wide, s.arithmetic, cut, *flags), -(-blocks * plan.G // together), cut.block,
        **arrays, **sizes, out=sums if call.affine else None,
    )  # fmt: skip
    like, doubtful = driver.DRIVER.block_threads, fast and s.types["w"] == "float64"
    block = MOST if like > 32 else like
    apart, strips = block_rows(plan.B) // rows, -(-length // 32)
    leaves, grid = -(-plan.B // block_rows(plan.B)), plan.G * strips if call.affine else 0
    if call.write and fast:
        grid = max(grid, min(SCANNED, -(-plan.units // block)))
    s.add(
        join_rows, (s.arithmetic, apart, (*flags, doubtful)), grid, block, MOST,
        **arrays, **sizes, sums=sums if call.affine else None, grads="grads" if call.affine else None, strips=strips,
        chunk=power_of_two_above(-(-leaves // (block // 32))),
    )  # fmt: skip
