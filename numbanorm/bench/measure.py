"""Contenders in turn: times, distance from the truth, and whether one thread gives the same bits."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .cases import Case, data
from .jobs import COPY, FRESH, OURS, Contender
from .truth import Truth, known, truth, ulp
from .workers import FailedError, Prepared, Worker

ROUND = 0.02  # seconds of calls in a round, about
PATIENCE = 4.0  # seconds for a contender and case, after LEAST rounds
LEAST = 3
STEADY = 1.5  # a median that is so many times the shortest round is one of the machine's other work, not of the call
FASTEST = 0.5  # of a copy's time: less is not to be had, so the copy has waited for something


@dataclass
class Figure:
    """A contender and a case."""

    contender: Contender
    times: list[float] = field(default_factory=list)  # seconds of a call, the median of a round each
    ulp: float | None = None  # None: not checked
    same_bits: bool | None = None  # with one thread; None: not checked
    note: str = ""  # why there is no time

    @property
    def seconds(self) -> float:
        return statistics.median(self.times) if self.times else math.nan

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.times) < 2:
            return self.seconds, self.seconds
        first, _, third = statistics.quantiles(self.times, n=4, method="inclusive")
        return first, third


@dataclass
class Result:
    """A line of the table."""

    case: Case
    figures: dict[str, Figure]

    def of_peer(self, name: str) -> float:
        """numbanorm's time as a share of a peer's, like with like: into memory that is there, or a new array."""
        return self.ratio(OURS if name in self.figures and self.figures[name].contender.into else FRESH, name)

    def best_peer(self) -> Figure | None:
        """Of those that do the same work, the one beside which numbanorm looks worst."""
        peers = [f for f in self.figures.values() if f.contender.peer and not f.contender.plain and f.times]
        ratios = [(0.0 if math.isnan(r := self.of_peer(f.contender.name)) else r) for f in peers]
        return peers[ratios.index(max(ratios))] if peers else None

    def unsteady(self) -> list[str]:
        """Contenders of a line whose rounds disagree, or whose time cannot be true."""
        peer = self.best_peer()
        names = [n for n in (COPY, OURS, FRESH, *([peer.contender.name] if peer else [])) if n in self.figures]
        figures = [(n, self.figures[n]) for n in names if self.figures[n].times]
        return [
            n for n, f in figures
            if f.seconds > STEADY * min(f.times) or (n == COPY and self.ratio(OURS, COPY) < FASTEST)
        ]  # fmt: skip

    def figure(self, name: str) -> Figure | None:
        return self.figures.get(name)

    def ratio(self, name: str, other: str) -> float:
        """Of the medians; nan where one is missing."""
        both = [self.figures[n].seconds if n in self.figures else math.nan for n in (name, other)]
        return both[0] / both[1]


class Truths:
    """The truth of a case, computed when it is first asked for."""

    def __init__(self, case: Case) -> None:
        self.case, self.numbers = case, data(case)
        self.known: dict[bool, list[Truth]] = {}

    def error(self, contender: Contender, results: list[Any]) -> float | None:
        if not results or not known(self.case.dtype):
            return None
        if contender.plain not in self.known:
            self.known[contender.plain] = truth(self.case, self.numbers, contender.plain)
        return ulp(results, self.known[contender.plain], self.case.dtype)


def measure(case: Case, workers: Mapping[str, Worker], single: Mapping[str, Worker], rounds: int) -> Result:
    """`workers` are timed; those of `single` have one thread and are only asked for their bits."""
    bits = {name: _bits(case, worker) for name, worker in single.items()}
    truths = Truths(case)
    figures: dict[str, Figure] = {}
    ready: dict[str, Prepared] = {}
    for name, worker in workers.items():
        figures[name] = figure = Figure(worker.contender)
        try:
            ready[name] = done = worker.prepare(case)
        except FailedError as error:
            figure.note = str(error)
            continue
        figure.ulp = truths.error(worker.contender, done.results)
        figure.same_bits = done.digest == bits[name] if bits.get(name) and done.digest else None
    del truths
    _in_turn({name: workers[name] for name in ready}, {name: p.seconds for name, p in ready.items()}, figures, rounds)
    for name in ready:
        try:
            workers[name].release()
        except FailedError as error:
            figures[name].note = str(error)
    return Result(case, figures)


def steady(measured: Callable[[], Result]) -> Result:
    """A result, measured again if rounds of it disagree; the steadier of two."""
    first = measured()
    if not first.unsteady():
        return first
    return min(first, measured(), key=lambda result: len(result.unsteady()))


def _bits(case: Case, worker: Worker) -> str:
    """The digest of what one thread computes; "" where it computes nothing."""
    try:
        digest = worker.prepare(case).digest
        worker.release()
    except FailedError:
        return ""
    return digest


def _in_turn(workers: Mapping[str, Worker], once: Mapping[str, float], figures: dict[str, Figure], rounds: int) -> None:
    """The machine's speed drifts, so each round asks all of them; who is slow is asked less often. The others are halted."""
    spent = dict.fromkeys(workers, 0.0)
    for worker in workers.values():
        worker.stop()
    try:
        for number in range(rounds):
            for name, worker in workers.items():
                if figures[name].note or (number >= LEAST and spent[name] > PATIENCE):
                    continue
                start = time.perf_counter()
                worker.resume()
                try:
                    figures[name].times.append(worker.time(max(1, min(200, int(ROUND / max(once[name], 1e-9))))))
                except FailedError as error:
                    figures[name].note, figures[name].times = str(error), []
                worker.stop()
                spent[name] += time.perf_counter() - start
    finally:
        for worker in workers.values():
            worker.resume()


def accuracy(case: Case, workers: Mapping[str, Worker]) -> dict[str, float | None]:
    """Distance from the truth in ulp, without times; None for who has none."""
    truths, errors = Truths(case), {}
    for name, worker in workers.items():
        try:
            errors[name] = truths.error(worker.contender, worker.prepare(case).results)
            worker.release()
        except FailedError:
            errors[name] = None
    return errors
