"""A process for each contender: two OpenMP runtimes in one process slow each other down."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from .cases import Array, Case, data, picked
from .jobs import Contender, Job, UnsupportedError

# read when a library is imported, which the process does after it has started
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")

PAUSE = 0.02  # seconds for those threads to sleep, where a process cannot be halted


class FailedError(Exception):
    """A contender has no figure for a case; the message says why."""


class OverError(Exception):
    """The time of the run is over."""


class Prepared(NamedTuple):
    """Answer of a process whose case is ready."""

    seconds: float  # of one call
    digest: str  # of the bits of all results; "" where there are none
    results: list[Array]  # those that are checked, as float64


class Worker:
    """The parent's end: `prepare` a case, `time` it as often as needed, `release` its memory.

    Nothing is waited for beyond `until`, of `time.monotonic`.
    """

    def __init__(self, contender: Contender, threads: int, until: float | None = None) -> None:
        self.contender, self.threads, self.until = contender, threads, until
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(self.contender, self.threads, far), daemon=True)
        with _environment(self.threads), _interrupts_ignored():
            self.process.start()
        far.close()  # or the end of the process would not be seen

    def _ask(self, *message: Any) -> Any:
        try:
            self.pipe.send(message)
            if not self.pipe.poll(None if self.until is None else max(0.0, self.until - time.monotonic())):
                raise OverError
            kind, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.close()
            code = self.process.exitcode
            self._start()
            raise FailedError(f"its process ended with status {code}") from None
        if kind == "failed":
            raise FailedError(answer)
        return answer

    def prepare(self, case: Case) -> Prepared:
        return Prepared(*self._ask("prepare", case))

    def time(self, calls: int) -> float:
        """Median seconds of that many calls in a row."""
        return float(self._ask("time", calls))

    def release(self) -> None:
        self._ask("release")

    def stop(self) -> None:
        """Halt the process, whose threads may spin on a core for some milliseconds when their work is done."""
        if hasattr(signal, "SIGSTOP"):
            self._signal(signal.SIGSTOP)
        else:
            time.sleep(PAUSE)

    def resume(self) -> None:
        if hasattr(signal, "SIGCONT"):
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.resume()  # or it would not hear of its end
        self.pipe.close()
        self.process.terminate()
        self.process.join()


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Settings that a new process takes over."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A terminal sends Ctrl-C to every process; who started them ends them."""
    try:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def serve(contender: Contender, threads: int, pipe: Any) -> None:
    """In the process: answer until the other end is closed."""
    warnings.simplefilter("ignore")
    job: Job | None = None
    while True:
        try:
            request, *rest = pipe.recv()
        except (EOFError, OSError):
            return
        answer: Any = None
        reply: tuple[str, Any]
        try:
            if request == "prepare":
                job = None  # its memory first
                job, answer = _prepare(contender, rest[0], threads)
            elif request == "time":
                assert job is not None
                answer = _time(job, rest[0])
            else:
                job = None
            reply = ("done", answer)
        except UnsupportedError as error:
            reply = ("failed", str(error))
        except Exception as error:  # whatever a peer raises is a line of the report
            first = next(iter(str(error).strip().splitlines()), "")
            reply = ("failed", f"{type(error).__name__}: {first[:160]}")
        try:
            pipe.send(reply)
        except OSError:
            return


def _prepare(contender: Contender, case: Case, threads: int) -> tuple[Job, tuple[float, str, list[Array]]]:
    numbers = data(case)
    job = contender.make(case, numbers, threads)
    results = job.fetch(job.run())
    if results and results[0].dtype != numbers.x.dtype:
        raise UnsupportedError(f"its result is {results[0].dtype}")
    digest = hashlib.blake2b()
    for array in results:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    start = time.perf_counter()
    job.run()
    seconds = time.perf_counter() - start
    return job, (seconds, digest.hexdigest() if results else "", picked(case, results) if results else [])


def _time(job: Job, calls: int) -> float:
    times = []
    job.run()  # wakes the threads, and brings back what the others drove out of the caches
    for _ in range(calls):
        start = time.perf_counter()
        job.run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
