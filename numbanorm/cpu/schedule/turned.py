"""Schedules of rows that lie side by side: those of contiguous rows, in pieces that are copied."""

from __future__ import annotations

from ...spec.plan import Plan
from ..layout import FUSED
from . import backward, forward
from .forward import Schedule, block_rows
from .machine import cache_bytes


def rows_at_once(plan: Plan, itemsize: int) -> int:
    """Rows whose copies stay in the cache: of gradients, a power of two of the row tree's blocks."""
    blocks = cache_bytes(2) // 4 // (plan.count * itemsize * block_rows(plan.B))
    return block_rows(plan.B) << max(0, blocks.bit_length() - 1)


def cut(plan: Plan, itemsize: int, flags: int, affine: bool, threads: int) -> Schedule:
    """As `forward.cut`: whole rows to a thread."""
    s = forward.cut(plan, itemsize, flags, affine, threads)
    return s if s.steps[0].phase == FUSED else forward.cut(plan, itemsize, flags, affine, 1)


def cut_backward(plan: Plan, itemsize: int, flags: int, threads: int) -> Schedule:
    """As `backward.cut_backward`: chunks of no more rows than are copied at once."""
    most = rows_at_once(plan, itemsize) // block_rows(plan.B)
    flags = forward.streaming(flags, 3 * plan.size * itemsize)
    s = backward.rows_schedule(plan, itemsize, flags, threads, most)
    return s if s.steps[0].phase == FUSED else backward.rows_schedule(plan, itemsize, flags, 1, most)
