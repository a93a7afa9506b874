"""Cores that others keep busy: when calls stay in one thread, and what waiting threads do. The rest is in `test_torture`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbanorm
from numbanorm.cpu import backend as cpu
from numbanorm.cpu import threads
from numbanorm.cpu.threads import COLD, GUARD, LONGEST, SLACK, SOON, Launch
from numbanorm.spec.call import Call

USUAL = 4e-3  # seconds of a launch that finds its cores free
SIZE = 10**9  # elements, of which no launch is sure to be late
LATE = 2.5  # in place of the package's own, which other tests are spared


class Clock:
    """Time that passes only as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float) -> Callable[[], bool]:
        """What takes so long."""

        def run() -> bool:
            self.now += seconds
            return True

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(threads, "perf_counter", clock)
    monkeypatch.setattr(threads, "LATE", LATE)
    monkeypatch.setattr(GUARD, "layer", "omp")
    monkeypatch.setattr(GUARD, "pause", 0.0)
    monkeypatch.setattr(GUARD, "resume", 0.0)
    monkeypatch.setattr(GUARD, "ended", clock.now)
    return clock


def launched(launch: Launch, clock: Clock, seconds: float) -> None:
    """Let a launch take so long."""
    launch.run = clock.after(seconds)
    assert launch() is True


def test_what_takes_as_long_as_ever_waits_for_nobody(clock: Clock) -> None:
    launch = Launch(None, SIZE)
    for seconds in (5 * USUAL, USUAL, 2 * USUAL, LATE * USUAL, USUAL):
        launched(launch, clock, seconds)
        assert not GUARD.waits()


def test_a_late_launch_keeps_calls_in_one_thread_for_as_long_as_it_lost(clock: Clock) -> None:
    launch = Launch(None, SIZE)
    launched(launch, clock, USUAL)
    launched(launch, clock, 3 * USUAL)
    assert GUARD.waits()
    clock.now += 2.9 * USUAL
    assert GUARD.waits()
    clock.now += 0.2 * USUAL
    assert not GUARD.waits()


def test_each_time_in_vain_twice_as_long_up_to_a_limit(clock: Clock) -> None:
    launch, pauses = Launch(None, SIZE), []
    launched(launch, clock, USUAL)
    for _ in range(8):
        launched(launch, clock, 4 * USUAL)
        pauses.append(GUARD.pause)
        clock.now += GUARD.pause
        GUARD.ended = clock.now
    np.testing.assert_allclose(pauses, np.minimum(4 * USUAL * 2.0 ** np.arange(8), LONGEST))


def test_launches_in_time_shorten_the_next_pause(clock: Clock) -> None:
    launch = Launch(None, SIZE)
    launched(launch, clock, USUAL)
    launched(launch, clock, 4 * USUAL)
    before = GUARD.pause
    for _ in range(30):
        launched(launch, clock, USUAL)
    assert GUARD.pause < before / 16


def test_what_is_always_late_is_how_long_it_takes(clock: Clock) -> None:
    """A launch that was quick once, by luck, is not late for ever."""
    launch = Launch(None, SIZE)
    launched(launch, clock, USUAL / 10)
    late = 0
    for _ in range(100):
        launched(launch, clock, USUAL)
        late += GUARD.waits()
        clock.now += LONGEST
        GUARD.ended = clock.now
    assert 0 < late < 40
    assert not GUARD.waits()


def test_noise_of_a_short_launch_is_not_late(clock: Clock) -> None:
    launch = Launch(None, SIZE)
    launched(launch, clock, SLACK / 10)
    launched(launch, clock, SLACK)
    assert not GUARD.waits()


def test_threads_that_slept_may_take_longer_to_come(clock: Clock) -> None:
    launch = Launch(None, SIZE)
    launched(launch, clock, SLACK)
    clock.now += 2 * SOON
    launched(launch, clock, 0.9 * COLD)
    assert not GUARD.waits()
    launched(launch, clock, 0.9 * COLD)
    assert GUARD.waits()


def test_what_waits_from_the_first_is_late(clock: Clock) -> None:
    launch = Launch(None, 100_000)
    launched(launch, clock, USUAL)
    assert GUARD.waits()


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
def test_calls_stay_in_one_thread_while_cores_are_busy(
    busy: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """With the bits of two; what `explain` says is not about the moment."""
    x, dy = rng.normal(size=(2, 64, 768)).astype(np.float32)
    expected, stats = numbanorm.layer_norm(x, 768, return_stats=True)
    gradient = numbanorm.layer_norm_backward(dy, x, 768, stats)[0]
    seen, prepared = [], cpu.prepared

    def watched(asked: Call, threads: int) -> Any:
        seen.append(threads)
        return prepared(asked, threads)

    monkeypatch.setattr(cpu, "prepared", watched)
    monkeypatch.setattr(GUARD, "threads", lambda: 2)
    told = numbanorm.explain(numbanorm.layer_norm, x, 768)
    if busy:
        GUARD.wait(1.0)
    assert numbanorm.layer_norm(x, 768).tobytes() == expected.tobytes()
    assert numbanorm.layer_norm_backward(dy, x, 768, stats)[0].tobytes() == gradient.tobytes()
    assert seen == ([1, 1] if busy else [2, 2])
    assert numbanorm.explain(numbanorm.layer_norm, x, 768) == told


PROGRAM = """
import os
import numpy as np
import numbanorm
before = dict(os.environ)
numbanorm.layer_norm(np.ones((64, 768), np.float32), 768)
assert before == dict(os.environ), "the environment is another one"
from numbanorm.cpu.launch import GUARD
print("layer", GUARD.layer)
"""


@pytest.mark.parametrize(
    ("chosen", "spin"),
    [({}, "'100000'"), ({"GOMP_SPINCOUNT": "77"}, "'77'"), ({"OMP_WAIT_POLICY": "active"}, "'30000000000'")],
    ids=["default", "count", "policy"],
)
def test_waiting_threads_spin_for_five_milliseconds_unless_told(chosen: dict[str, str], spin: str) -> None:
    """GNU OpenMP prints, as it is loaded, what it found in the environment."""
    unset = {k: v for k, v in os.environ.items() if k not in threads.CHOSEN}
    environment = {**unset, **chosen, "OMP_DISPLAY_ENV": "VERBOSE", "NUMBA_THREADING_LAYER": "omp", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip("Numba finds no OpenMP here")
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not shown:
        pytest.skip("this OpenMP is not GNU's")
    assert shown[0].split("=")[1].strip() == spin
