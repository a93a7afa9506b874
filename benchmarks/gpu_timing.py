"""How benchmarks/gpu.py takes times: of the device with a cold cache, of the replay of a CUDA graph, and of the host."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

Run = Callable[[int], Any]
MOST_CALLS = 50  # between two events: the queue of a stream holds 1024 launches
BATCH = 1e-3  # seconds that these calls take together
HEAD_START = 0.05  # seconds at most


class TimeUp(BaseException):
    """Not an Exception: no contender's failure."""


class DeviceLost(Exception):
    """A kernel broke the CUDA context: nothing runs on it any more."""


class Clock:
    """What differs between a GPU and the dry run on the CPU."""

    def __init__(self, device: str) -> None:
        import torch

        self.device, self.gpu, self.torch = device, device == "cuda", torch

    def wait(self) -> None:
        if self.gpu:
            self.torch.cuda.synchronize()

    def elapsed(self, call: Callable[[], object], head_start: float) -> float:
        """Seconds on the device, which is kept busy for `head_start` seconds while the host queues the calls."""
        if not self.gpu:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        cuda = self.torch.cuda
        first, last = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda._sleep(int(min(head_start, HEAD_START) * 2e9))  # cycles: clocks are below 2 GHz, so it is no shorter
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e-3

    def cache(self) -> int:
        """Bytes of the second-level cache."""
        return int(getattr(self.torch.cuda.get_device_properties(0), "L2_cache_size", 2**26)) if self.gpu else 0

    def alive(self) -> None:
        try:
            self.wait()
        except Exception as e:
            raise DeviceLost(shown(e)) from e


def shown(e: BaseException) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return f"{type(e).__name__}: {lines[0] if lines else ''}"[:300]


def captured(run: Run, calls: int, sets: int, clock: Clock) -> Callable[[], object]:
    """The replay of a graph of so many calls, one set after the other."""
    cuda = clock.torch.cuda
    side, graph = cuda.Stream(), cuda.CUDAGraph()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):  # what is made once for a stream must not be made during the capture
        run(0)
    cuda.current_stream().wait_stream(side)
    clock.wait()
    with cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for i in range(calls):
            run(i % sets)
    graph.replay()
    clock.wait()
    return graph.replay  # type: ignore[no-any-return]


def host_seconds(run: Run, sets: int, clock: Clock) -> float:
    """What a call costs the host: calls in a row without waiting for them, and the wait for all left out."""
    times, calls = [], 20
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        for i in range(calls):
            run(i % sets)
        times.append((time.perf_counter() - start) / calls)
        clock.wait()
    return statistics.median(times[1:])


def summary(samples: list[float], key: str) -> dict[str, float]:
    """Median and quartiles, in us."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    return {key: middle * 1e6, f"{key}_q1": low * 1e6, f"{key}_q3": high * 1e6}


class Turn:
    """Goes round among the sets, whoever calls: the next one is that whose last use is longest ago."""

    def __init__(self, sets: int) -> None:
        self.sets, self.next = sets, 0

    def calls(self, run: Run, count: int) -> Callable[[], None]:
        def several() -> None:
            for _ in range(count):
                run(self.next)
                self.next = (self.next + 1) % self.sets

        return several


def measure(runs: dict[str, Run], sets: int, rounds: int, clock: Clock) -> dict[str, dict[str, Any]]:
    """Times of each contender, called in turn; the one that begins changes from round to round."""
    found: dict[str, dict[str, Any]] = {}
    plans: list[tuple[str, str, Callable[[], object], int, float]] = []
    turn = Turn(sets)
    for name, run in runs.items():
        host = host_seconds(run, sets, clock)
        found[name] = {"host_us": host * 1e6}
        calls = max(3, min(MOST_CALLS, int(BATCH / (clock.elapsed(turn.calls(run, 3), 5 * host) / 3))))
        plans.append((name, "us", turn.calls(run, calls), calls, 1.5 * host * calls))
        if clock.gpu:
            calls = -(-calls // sets) * sets  # all sets: the next contender finds none of them in the cache
            try:
                plans.append((name, "graph_us", captured(run, calls, sets, clock), calls, 1e-4))
            except Exception as e:
                found[name]["graph_error"] = shown(e)
                clock.alive()
    samples: dict[tuple[str, str], list[float]] = {plan[:2]: [] for plan in plans}
    for r in range(rounds):
        start = r % max(1, len(plans))
        for name, key, call, count, head_start in plans[start:] + plans[:start]:
            samples[name, key].append(clock.elapsed(call, head_start) / count)
    for (name, key), times in samples.items():
        found[name] |= summary(times, key)
    return found


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp after that many seconds, wherever the program is, and again should something swallow it."""

    def stop(*_: object) -> None:
        raise TimeUp

    if not hasattr(signal, "setitimer"):  # Windows: there the clock is looked at before each case only
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
