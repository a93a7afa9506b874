"""The ratio of a copy's time to that of each family's call, on a device, by what numba-cuda needs and nothing else: no torch.

Of large arrays only, in sets that exceed the second-level cache: calls are so long there that the host is ahead of the device,
and events around some of them give the device's time. `gpu.py` measures more, and against others, where torch is installed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from . import gpu_cases as problems
    from .gpu_contenders import own
else:
    import gpu_cases as problems
    from gpu_contenders import own

LEAST = 100e6  # bytes that a case moves
CACHE = 2 * 60 * 2**20  # bytes of inputs that a second-level cache does not hold
ROUNDS, CALLS = 7, 8
BLOCK = 2**20  # elements that are repeated all over an array


def chosen() -> list[problems.Case]:
    """The important cases that are large, in half types too."""
    rows = [*problems.QUICK, *(row for row in problems.TABLE if row[1][0] in ((8192, 8192), (64, 256, 56, 56)))]
    return [case for case in problems.cases(rows) if case.bytes >= LEAST and case.dtype in ("float32", "bfloat16")]


def every() -> list[problems.Case]:
    """Those of gpu.py."""
    return problems.cases(problems.TABLE)


class Clock:
    """Events on the default stream; a dry one runs what is to be timed once."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        if not dry:
            from cuda.bindings import driver

            self.driver = driver
            self.first, self.last = (self.done(driver.cuEventCreate(0)) for _ in range(2))

    def done(self, answer: tuple[Any, ...]) -> Any:
        """The result of a function of the driver's."""
        if int(answer[0]):
            raise RuntimeError(f"the driver answers {answer[0]}")
        return answer[1] if len(answer) > 1 else None

    def copy(self, target: int, origin: int, nbytes: int) -> None:
        if not self.dry:
            self.done(self.driver.cuMemcpyDtoDAsync(target, origin, nbytes, 0))

    def seconds(self, call: Callable[[int], object]) -> float:
        """Of one of several calls in a row."""
        if self.dry:
            call(0)
            return 1.0
        self.done(self.driver.cuEventRecord(self.first, 0))
        for k in range(CALLS):
            call(k)
        self.done(self.driver.cuEventRecord(self.last, 0))
        self.done(self.driver.cuEventSynchronize(self.last))
        return float(self.done(self.driver.cuEventElapsedTime(self.first, self.last))) * 1e-3 / CALLS


def filled(ring: Any, clock: Clock, shape: tuple[int, ...], dtype: str) -> Any:
    """Random numbers, of which a block is repeated."""
    kind = dtype_of(dtype)
    a = ring.new(shape, kind)
    if clock.dry:
        return a
    block = ring.upload(np.random.default_rng(0).standard_normal(min(BLOCK, a.size)).astype(kind))
    for start in range(0, a.nbytes, block.nbytes):
        clock.copy(a.address + start, block.address, min(block.nbytes, a.nbytes - start))
    return a


def dtype_of(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def calls_of(ring: Any, clock: Clock, case: problems.Case, exact: bool) -> tuple[dict[str, Callable[[int], object]], int]:
    """The case's call and the copy, which go round among the sets; and bytes that the copy reads."""
    ring.arrays.reset()
    sets = 2 if clock.dry else max(2, -(-CACHE // case.inputs))
    x, out = ([filled(ring, clock, case.stored, case.dtype) for _ in range(sets)] for _ in range(2))
    dy = [filled(ring, clock, case.stored, case.dtype) for _ in range(sets)] if case.backward else []
    numbers = np.random.default_rng(1).random((4, case.channels)) + 0.5
    call = own(case, x, dy, out, [ring.upload(v.astype(dtype_of(case.parameters))) for v in numbers], exact)
    half = min(case.bytes // 2, x[0].nbytes)

    def copied(k: int) -> None:
        clock.copy(out[k % sets].address, x[k % sets].address, half)

    return {"call": lambda k: call(k % sets), "copy": copied}, half


def ratio(ring: Any, clock: Clock, case: problems.Case, exact: bool) -> dict[str, Any]:
    """Times of a call and of a copy of as many bytes, taken in turn; and the copy's over the call's."""
    calls, half = calls_of(ring, clock, case, exact)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 if clock.dry else ROUNDS + 1):
        for name, run in calls.items():
            seconds = clock.seconds(run)
            if turn or clock.dry:  # the first warms up
                times[name].append(seconds)
    us = statistics.median(times["call"])
    copy = statistics.median(times["copy"]) / (2 * half) * case.bytes  # of as many bytes as the case moves
    return {"us": us * 1e6, "us_least": min(times["call"]) * 1e6, "us_most": max(times["call"]) * 1e6, "copy_us": copy * 1e6,
            "copy_tbs": case.bytes / copy * 1e-12, "of_copy": copy / us, "bytes": case.bytes}  # fmt: skip
