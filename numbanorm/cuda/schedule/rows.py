"""Rows that threads keep: when a block of them holds a whole one in registers, and when each goes down a block of rows."""

from __future__ import annotations

from ...spec.call import Call
from ...spec.plan import Plan
from ...spec.tree import TILE, block_rows
from .. import driver
from ..arith import tiles
from ..arith.arithmetic import Arithmetic
from .steps import (
    SLOTS,
    Schedule,
    slots_for,
)

MOST_HELD = 64  # slots of a row that a block holds in registers: 512 threads of 128 registers each
FEW = 64  # rows below which longer ones are cut up: a device has more than a hundred multiprocessors


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


def walked(plan: Plan, arithmetic: Arithmetic) -> bool:
    """Whether threads keep the sums of their columns while they go down a block of rows: short rows, and enough of them."""
    warps = -(-plan.K * plan.T // TILE)
    enough = -(-plan.B // block_rows(plan.B)) * plan.G * warps >= 4 * FEW
    return arithmetic.walks and plan.T == 1 and warps <= tiles.WARPS and enough
