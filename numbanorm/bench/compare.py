"""asv's fast benchmarks on a commit and on the working tree, in turn: what changed beyond noise."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import site
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache import cache_folder
from .command import cores
from .dashboard import CONFIG, git, read_config

SELECTION = "fast.txt"  # beside the benchmarks: regular expressions, one a line, of what is measured
ATTRIBUTES = ("rounds=1", "repeat=10,20,0.3", "warmup_time=0.1")
MORE = 2  # rounds of a second look: the first only has to miss nothing
AT_ONCE = 12  # that looked different are measured again together
REGRESSION = 1

Case = tuple[str, int]  # asv's name with parameters, threads
Samples = dict[str, list[float]]


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


@dataclass(frozen=True)
class Trees:
    """Two folders with sources, and how asv is called for them."""

    folder: Path
    config: Path
    benchmarks: Path
    project: str

    def measure(self, side: str, threads: int, what: Sequence[str]) -> Samples:
        """One process for each case; compiled kernels are kept where they always are, by what their sources say."""
        with tempfile.TemporaryDirectory(dir=self.folder) as results:
            settings = json.loads(self.config.read_text()) | {"results_dir": results}
            self.config.write_text(json.dumps(settings))
            chosen = [word for each in what for word in ("--bench", each)]
            attributes = [word for each in ATTRIBUTES for word in ("--attribute", each)]
            done = self.asv(
                side, threads, "run", "-E", f"existing:{sys.executable}", "--set-commit-hash", "HEAD", "--record-samples",
                "--show-stderr", *attributes, *(["--launch-method", "forkserver"] if hasattr(os, "fork") else []), *chosen,
            )  # fmt: skip
            found = list(Path(results).glob("*/*-existing*.json"))
            if not found:
                raise ValueError(f"asv run must succeed: got {last_line(done.stdout)!r}; repair what it names and try again")
            samples, failed = read(json.loads(found[0].read_text()))
        if side == "tree" and failed:
            reason = f"got {failed[0]} failed: {last_line(done.stdout)}"
            raise ValueError(f"every benchmark that is chosen must run in the working tree: {reason}; repair it and try again")
        return samples

    def asv(self, side: str, threads: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "asv", arguments[0], "--config", str(self.config), *arguments[1:]]
        return self.call(side, threads, command)

    def call(self, side: str, threads: int, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run with the sources of a side, in a home of its own: asv keeps a file there, and asks questions if it has none."""
        home = {
            "TMPDIR": str(self.folder),
            "HOME": str(self.folder),
            "USERPROFILE": str(self.folder),
            "PYTHONUSERBASE": site.getuserbase(),
        }
        sources = dict.fromkeys(("PYTHONPATH", "ASV_PYTHONPATH"), str(self.folder / side))  # asv takes the first away
        environment = {**os.environ, **home, **sources, "NUMBA_NUM_THREADS": str(threads)}
        if threads == 1:
            environment["NUMBANORM_BENCH_TIMER"] = "thread"
        if (kernels := cache_folder()) is not None:
            environment["NUMBA_CACHE_DIR"] = str(kernels)
        try:
            return subprocess.run(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
        except BaseException:
            self.end_processes()
            raise

    def end_processes(self) -> None:
        """After an interrupt: those that asv started outlive it, and are known by the folder's name in their arguments."""
        if shutil.which("ps") is not None:
            lines = subprocess.run(
                ["ps", "-A", "-ww", "-o", "pid=,args="], stdout=subprocess.PIPE, text=True, check=False
            ).stdout
            for line in lines.splitlines():
                if str(self.folder) in line:
                    with contextlib.suppress(OSError):
                        os.kill(int(line.split()[0]), signal.SIGTERM)


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
    root = checkout(Path.cwd())
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


# ------------------------------------------------------------------------------------ what is compared


def checkout(start: Path) -> Path:
    """The folder with the configuration, here or above; it must be of a repository, and git and asv be there."""
    root = next((folder for folder in (start, *start.parents) if (folder / CONFIG).is_file()), None)
    if shutil.which("git") is None:
        raise ValueError("compare needs git, which knows the commits, and it is not installed; install it")
    if root is None or git(root, "rev-parse", "--is-inside-work-tree") != "true":
        raise ValueError(f"compare must run in a git clone with {CONFIG}: got {root or start}; clone the repository")
    if importlib.util.find_spec("asv") is None:
        raise ValueError("compare needs asv, which is not installed; pip install 'numbanorm[bench]' brings it")
    return root


def base_of(root: Path, name: str | None) -> tuple[str, str]:
    """The commit that the working tree is compared with, and what it is called."""
    if name is None:
        name = "HEAD" if git(root, "--no-optional-locks", "status", "--porcelain", "--", ".") else "HEAD~1"
    commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit is None:
        raise ValueError(f"BASE must be a commit of this repository: got {name}; see git log, or fetch it")
    return commit, name


def prepared(root: Path, commit: str, folder: Path) -> Trees:
    """Both trees in `folder`, copied from what git stores and from what lies there: index, refs and objects stay untouched."""
    archive = subprocess.run(["git", "-C", str(root), "archive", commit], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder / "base", filter="tar")
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    for path in filter(None, listed.split("\0")):
        if (root / path).is_file():  # neither deleted nor a submodule
            (folder / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, folder / "tree" / path)
    config = read_config(root)
    benchmarks = folder / "tree" / config.get("benchmark_dir", "benchmarks")
    paths = {"repo": str((root / config.get("repo", ".")).resolve()), "benchmark_dir": str(benchmarks)}
    paths |= {"env_dir": str(folder / "env"), "html_dir": str(folder / "html")}
    (folder / CONFIG).write_text(json.dumps({**config, **paths, "environment_type": "existing", "matrix": {}}))
    trees = Trees(folder, folder / CONFIG, benchmarks, config["project"])
    for side in ("base", "tree"):
        found = trees.call(side, 1, [sys.executable, "-c", f"import {trees.project}; print({trees.project}.__file__)"])
        if found.returncode or not Path(last_line(found.stdout)).is_relative_to((folder / side).resolve()):
            where = "the working tree" if side == "tree" else commit[:8]
            raise ValueError(f"{where} must be importable: got {last_line(found.stdout)!r}; repair it or choose another BASE")
    done = trees.asv("tree", 1, "machine", "--yes")
    if done.returncode:
        raise ValueError(f"asv machine must succeed: got {last_line(done.stdout)!r}; repair what it names and try again")
    return trees


def selection(benchmarks: Path) -> list[str]:
    """The regular expressions of the working tree."""
    file = benchmarks / SELECTION
    found = file.read_text().split("\n") if file.is_file() else []
    if not any(found):
        raise ValueError(f"{SELECTION} beside the benchmarks must choose some: got none; write it, or give --bench REGEX")
    return [line for line in found if line]


def last_line(text: str) -> str:
    """What an error ends with, without asv's marks."""
    lines = [re.sub(r"^\[.*?%\]|[·\s]+", " ", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("asv:")), "nothing")


# ------------------------------------------------------------------------------------ measuring


def read(result: dict[str, Any]) -> tuple[Samples, list[str]]:
    """Samples of each case in a file of asv's results, and the cases that failed; what was skipped is left out."""
    samples: Samples = {}
    failed: list[str] = []
    for name, row in result["results"].items():
        columns = dict(zip(result["result_columns"], row, strict=False))
        values = itertools.product(*columns.get("params") or [])
        names = [f"{name}({', '.join(each)})" if each else name for each in values]
        if columns["result"] is None:
            failed += names
            continue
        taken = columns.get("samples") or [None] * len(names)
        for case, value, several in zip(names, columns["result"], taken, strict=True):
            if value is None:
                failed.append(case)
            elif not math.isnan(value):
                samples[case] = several or [value]
    return samples, failed


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
    """What differs in a second and a third look too, from the rounds of these; and what was not looked at again.

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
