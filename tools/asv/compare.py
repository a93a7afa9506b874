"""asv's fast benchmarks on a commit and on the working tree, in turn: what changed beyond noise."""

from __future__ import annotations

import itertools
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from numbanorm.bench.command import cores

from .repository import base_of, checkout
from .trees import Trees, prepared, selection

MORE = 2  # rounds of a second look: the first only has to miss nothing
AT_ONCE = 12  # that looked different are measured again together
REGRESSION = 1

Case = tuple[str, int]  # asv's name with parameters, threads


@dataclass(frozen=True)
class Pair:
    """Samples of a case by round: of the base and of the working tree, measured seconds apart."""

    base: list[list[float]]
    tree: list[list[float]]

    def factor(self) -> float:
        """How many times the base's time the tree takes: the median over the rounds."""
        return statistics.median(quotients(self))

    def seems(self, least: float) -> bool:
        """To differ by `least` or more in the median of the rounds, and in the best samples by half of that.

        What another job on the machine slows is seldom the best of all samples.
        """
        factor, best = self.factor(), quotient(*(min(itertools.chain(*side)) for side in (self.base, self.tree)))
        if factor < 1:
            factor, best = quotient(factor, 1), quotient(best, 1)
        return factor >= least and best >= math.sqrt(least)

    def differs(self, least: float) -> bool:
        """As it seems, and the same way in three rounds of four."""
        same = sum((q > 1) == (self.factor() > 1) for q in quotients(self))
        return self.seems(least) and same >= len(self.base) - len(self.base) // 4


def quotient(of: float, by: float) -> float:
    """by / of; 0 / 0 is no change."""
    return by / of if of else math.inf if by else 1.0


def quotients(pair: Pair) -> list[float]:
    return [quotient(statistics.median(a), statistics.median(b)) for a, b in zip(pair.base, pair.tree, strict=True)]


def run(
    base: str | None = None,
    factor: float = 1.15,
    rounds: int = 3,
    threads: Sequence[int] | None = None,
    bench: str | None = None,
) -> int:
    """Measure and print; 1 if the working tree is slower, else 0. ValueError where that cannot be measured."""
    if not factor > 1 or rounds < 2:
        raise ValueError(f"--factor must be above 1 and --rounds 2 or more: got {factor:g} and {rounds}; leave them out")
    chosen = tuple(dict.fromkeys(threads or (1,)))
    if not all(1 <= t <= cores() for t in chosen):
        raise ValueError(f"--threads must be of 1 to {cores()}, this machine's cores: got {threads}; leave it out")
    root = checkout("compare")
    commit, name = base_of(root, base)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="compare-", ignore_cleanup_errors=True) as temporary:
        trees = prepared(root, commit, Path(temporary))
        what = [bench] if bench else selection(trees.benchmarks)
        print(
            f"The working tree beside {commit[:8]} ({name}), {rounds} rounds, threads: {', '.join(map(str, chosen))}",
            flush=True,
        )
        first = measured(trees, dict.fromkeys(chosen, what), rounds, "")
        confirmed, doubtful = confirm(trees, first, factor, rounds)
    return show(first, confirmed, doubtful, factor, time.monotonic() - start)


# ------------------------------------------------------------------------------------ measuring


def measured(trees: Trees, what: dict[int, list[str]], rounds: int, again: str) -> dict[Case, Pair]:
    """Both sides in turn, and the other way round in every other round."""
    taken: dict[Case, dict[str, list[list[float]]]] = {}
    for number in range(rounds):
        start = time.monotonic()
        for threads, names in what.items():
            for side in ("base", "tree") if number % 2 == 0 else ("tree", "base"):
                for name, samples in trees.measure(side, threads, names).items():
                    taken.setdefault((name, threads), {"base": [], "tree": []})[side].append(samples)
        print(f"round {number + 1} of {rounds}{again}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return {case: Pair(**sides) for case, sides in taken.items() if all(len(side) == rounds for side in sides.values())}


def confirm(
    trees: Trees,
    first: dict[Case, Pair],
    least: float,
    rounds: int,
    measured: Callable[[Trees, dict[int, list[str]], int, str], dict[Case, Pair]] = measured,
) -> tuple[dict[Case, Pair], set[Case]]:
    """Differences that a second and a third look confirm, from the rounds of these; and what was not looked at again.

    Of 40 cases the noisiest is chosen by its noise, so the first look counts for nothing. The slower ones come first, the
    most different of them before the others; when one is confirmed the answer is known, and the rest is left.
    """
    suspects = sorted(
        (c for c, p in first.items() if p.seems(least)),
        key=lambda c: -abs(math.log(first[c].factor() or 1e-9)),
    )
    suspects.sort(key=lambda c: first[c].factor() < 1)  # stable: the slower ones first
    confirmed: dict[Case, Pair] = {}
    while suspects and not (confirmed and (first[suspects[0]].factor() < 1 or any(p.factor() > 1 for p in confirmed.values()))):
        some, suspects = suspects[:AT_ONCE], suspects[AT_ONCE:]
        found = dict.fromkeys(some, Pair([], []))
        for look in ("second", "third"):
            what = {t: [f"^{re.escape(name)}$" for name, threads in some if threads == t] for t in {t for _, t in some}}
            more = measured(trees, what, rounds + MORE, f", a {look} look at {len(some)}")
            found = {c: Pair(found[c].base + more[c].base, found[c].tree + more[c].tree) for c in some if c in more}
            some = [c for c, p in found.items() if p.seems(least) and (p.factor() > 1) == (first[c].factor() > 1)]
            if not some:
                break
        confirmed |= {c: found[c] for c in some if found[c].differs(least)}
    return confirmed, set(suspects)


# ------------------------------------------------------------------------------------ showing


def show(first: dict[Case, Pair], confirmed: dict[Case, Pair], doubtful: Collection[Case], least: float, seconds: float) -> int:
    """The table and one line of sum; 1 if anything is slower."""
    if not first:
        raise ValueError("both trees must have a benchmark that is chosen: got none; give another --bench or BASE")
    rows = [("slower" if p.factor() > 1 else "faster", c, p) for c, p in confirmed.items()]
    for verdict, (name, threads), pair in sorted(rows, key=lambda row: (row[0] != "slower", -row[2].factor())):
        a, b = (statistics.median(statistics.median(s) for s in side) for side in (pair.base, pair.tree))
        print(f"{verdict} {pair.factor():6.2f} x  {scaled(a):>8} -> {scaled(b):>8}  {name}, threads: {threads}")
    slower = sum(verdict == "slower" for verdict, *_ in rows)
    faster = sum(verdict == "faster" for verdict, *_ in rows)
    middle = math.exp(statistics.fmean(math.log(p.factor() or 1e-9) for p in first.values()))
    if doubtful:
        print(f"{len(doubtful)} more seemed to differ at first, and were not looked at again")
    print(
        f"{len(first)} benchmarks in {seconds / 60:.1f} min: {slower} slower and {faster} faster by {least:g} or more; "
        f"geometric mean {middle:.2f} of the base's time"
    )
    return REGRESSION if slower else 0


def scaled(seconds: float) -> str:
    """Seconds for people; values that asv only tracks are small numbers too."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
