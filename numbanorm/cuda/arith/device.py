"""Operations of kernels: `intrinsics`, or their twins in plain Python where Numba simulates a GPU."""

from __future__ import annotations

from numba import config

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from . import simulated as chosen
else:
    from . import intrinsics as chosen  # type: ignore[no-redef]

barrier, block, compiled, device, div, exchange, fma = (
    chosen.barrier, chosen.block, chosen.compiled, chosen.device, chosen.div, chosen.exchange, chosen.fma,
)  # fmt: skip
load1, load4, mul, read1, read4, root, store1, store4 = (
    chosen.load1, chosen.load4, chosen.mul, chosen.read1, chosen.read4, chosen.root, chosen.store1, chosen.store4,
)  # fmt: skip
nothing, peek1, peek4, single, take1, take4, towards_zero, vote, widen = (
    chosen.nothing, chosen.peek1, chosen.peek4, chosen.single, chosen.take1, chosen.take4, chosen.towards_zero, chosen.vote,
    chosen.widen,
)  # fmt: skip
after, from_lane, pinned, seen, stage4, staged, unstage4 = (
    chosen.after, chosen.from_lane, chosen.pinned, chosen.seen, chosen.stage4, chosen.staged, chosen.unstage4,
)  # fmt: skip
blocks, quotient, thread, threads = chosen.blocks, chosen.quotient, chosen.thread, chosen.threads
