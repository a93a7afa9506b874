"""The command: choose, measure, show."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numbanorm as nn

from ..spec.dtypes import DTYPES
from . import report
from .cases import FUSED, NORMS, ROWS, Case, chosen, memory_free, memory_needed
from .contenders import contenders
from .jobs import APART, COPY, EXACT, FRESH, OURS, STREAMED, Contender
from .measure import Figure, Result, accuracy, measure, steady
from .workers import OverError, Worker

ALWAYS = (COPY, STREAMED, OURS, FRESH, EXACT, APART)
BRIEFLY = (COPY, OURS, FRESH)  # of them, what a few lines show
BUSY = 0.3  # of the cores: parallel calls of microseconds then take as long as the scheduler lets a thread wait
BOX = 50.0  # seconds of a quick run, however busy the machine is: with the imports before it, a minute
QUICK = ("layer", "rms", "batch", "group")
QUICK_PEERS = ("torch", "onnxruntime", "numpy")
MEANS = tuple(10.0**k for k in range(9))
PACKAGES = ("torch", "onnxruntime", "onnx", "jax", "jaxlib", "numbagg", "bottleneck", "scikit-learn", "scipy", "matplotlib")


@dataclass(frozen=True)
class Options:
    """Options as typed; None is the default, which `--quick` and `--scaling` change."""

    sizes: tuple[str, ...] | None = None
    norms: tuple[str, ...] = NORMS
    directions: tuple[str, ...] = ("forward", "backward")
    layouts: tuple[str, ...] = ("first", "last")
    dtypes: tuple[str, ...] = ("float32",)
    peers: tuple[str, ...] | None = None
    rounds: int | None = None
    threads: int | None = None
    quick: bool = False
    scaling: bool = False
    out: Path | None = None


@dataclass
class Run:
    """Results so far: all that Ctrl-C leaves is shown."""

    results: list[Result] = field(default_factory=list)
    errors: dict[float, dict[str, float | None]] = field(default_factory=dict)
    curves: list[tuple[str, str, dict[int, Figure]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # the report
    brief: bool = False
    stream: TextIO | None = None

    def say(self, text: str) -> None:
        """Add to the report, which is printed as it grows, unless few words are wanted."""
        self.lines.append(text)
        if not self.brief:
            print(text, file=self.stream or sys.stdout, flush=True)

    def tell(self, text: str) -> None:
        """Print where few words are wanted; the report has more."""
        if self.brief and text:
            print(text, file=self.stream or sys.stdout, flush=True)


def run(options: Options, stream: TextIO | None = None) -> None:
    """Measure and print to `stream` (default: stdout); ValueError where an option cannot be met.

    An interrupt shows what there is, and is raised again.
    """
    cases, rounds, threads, every = resolved(options)
    done = Run(brief=options.quick and not options.scaling, stream=stream)
    say = done.say
    there = [c for c in every if not c.missing() and (not done.brief or options.out or c.name in BRIEFLY or c.peer)]
    until = time.monotonic() + BOX if done.brief else None
    facts = machine(threads)
    where = f"numbanorm {nn.__version__} on {facts['processor']}, {threads} of {facts['cores']} cores"
    say(f"# {where}\n")
    done.tell(f"{where}: microseconds, median of {rounds} rounds")
    say(", ".join(f"{name} {facts[name]}" for name in ("python", "numba", "numpy", *facts["peers"]) if name in facts) + "\n")
    say(report.HEADER + "\n")
    for line in [c.missing() for c in every if c.missing()]:
        say(f"- {line}")
    if (load := os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0) > BUSY * facts["cores"]:
        busy = f"- the machine is busy (load {load:.1f}), and calls wait for a core: run again when it is idle"
        say(busy)
        done.tell(busy)
    cases = list(within_memory(cases, len(there), say))
    say("")
    interrupted = None
    try:
        if options.scaling:
            scale(cases, rounds, threads, there, done, say)
        else:
            compare(cases, rounds, threads, there, done, say, until)
    except KeyboardInterrupt as error:
        interrupted = error
        say("\nInterrupted: what there is so far.")
        done.tell("Interrupted: what there is so far.")
    say("" if options.scaling else "\n" + report.closing(done.results, done.errors, there))
    done.tell(report.brief_closing(done.results))
    if options.out is not None:
        typed = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items() if k != "out"}
        write(options.out, done, {"machine": facts, "options": {**typed, "rounds": rounds, "threads": threads}}, say)
    if interrupted is not None:
        raise interrupted


def resolved(options: Options) -> tuple[list[Case], int, int, list[Contender]]:
    """Cases, rounds, threads and contenders; every mistake is told here."""
    default = ("1e7",) if options.scaling else ("1e6",) if options.quick else ("1e4", "1e5", "1e6", "1e7", "1e8")
    sizes = []
    for size in options.sizes or default:
        known = [n for n in ROWS if size in (str(n), f"{n:.0e}".replace("e+0", "e"))]
        if not known:
            raise ValueError(
                f"--sizes must be of {', '.join(f'1e{len(str(n)) - 1}' for n in ROWS)}: got {size}; choose from these"
            )
        sizes += known
    every = contenders()
    peers = tuple(c.name for c in every if c.name not in ALWAYS)
    some = QUICK_PEERS if options.quick and not options.scaling else peers
    wanted = some if options.peers is None else () if options.peers == ("none",) else options.peers
    choices = (("norms", options.norms, (*NORMS, *FUSED)), ("dtype", options.dtypes, tuple(DTYPES)), ("peers", wanted, peers))
    for flag, values, allowed in choices:
        for value in values:
            if value not in allowed:
                raise ValueError(
                    f"--{flag} must be of {', '.join(allowed)}: got {value}; choose from these, with commas between"
                )
    rounds = options.rounds or (5 if options.quick else 15)
    threads = options.threads or cores()
    if rounds < 1 or threads < 1:
        raise ValueError(
            f"--rounds and --threads must be 1 or more: got {rounds} and {threads}; leave them out for the default"
        )
    if options.out is not None and not options.out.resolve().parent.is_dir():
        raise ValueError(
            f"--out must be a folder, or a new one in a folder that exists: got {options.out}; make the folder first"
        )
    norms, layouts = options.norms, options.layouts
    if options.quick and not options.scaling:  # a minute is enough for these
        norms = QUICK if norms == NORMS else norms
        layouts = layouts[:1]
    cases = chosen(norms, tuple(sizes), options.directions, layouts, options.dtypes)
    fused = any(c.around for c in cases)
    return cases, rounds, threads, [c for c in every if c.name in (*ALWAYS, *wanted) and (fused or c.name != APART)]


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def within_memory(cases: Sequence[Case], count: int, say: Any) -> Iterator[Case]:
    for case in cases:
        need, free = memory_needed(case, count), memory_free()
        if need <= 0.9 * free:
            yield case
        else:
            say(f"- {case.name} is left out: {count} contenders need about {need / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")


@contextmanager
def team(members: Sequence[Contender], threads: int, until: float | None = None) -> Iterator[dict[str, Worker]]:
    """A process each, all ended on the way out."""
    workers: dict[str, Worker] = {}
    try:
        for member in members:
            workers[member.name] = Worker(member, threads, until)
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def compare(
    cases: list[Case], rounds: int, threads: int, members: list[Contender], done: Run, say: Any, until: float | None = None
) -> None:
    """The errors, which are soon known; then each line of the table as soon as it is there, `until` the time is over."""
    computing = [c for c in members if c.name not in (COPY, STREAMED)]
    layer = "layer" in {c.kind for c in cases if not c.backward}
    means = [m for m in MEANS if layer and not done.brief and (m <= 1e4 or cases[0].dtype != "float16")]  # which ends at 65504
    progress = Progress(len(cases) + len(means))
    with team(members, threads, until) as workers, team([] if done.brief else computing, 1) as single:
        for mean in means:
            progress.show(f"error at mean / std {mean:.0e}")
            case = Case("layer", (64, 1024), dtype=cases[0].dtype, mean=mean)
            done.errors[mean] = accuracy(case, {c.name: workers[c.name] for c in computing})
        progress.clear()
        say(report.table(report.SUMMARY, ()))
        done.tell(report.brief_row(None))
        try:
            for case in cases:
                progress.show(case.name)
                done.results.append(steady(lambda c=case: measure(c, workers, single, rounds)))  # type: ignore[misc]
                progress.clear()
                say(report.line(report.summary_row(done.results[-1])))
                done.tell(report.brief_row(done.results[-1]))
        except OverError:
            progress.clear()
            over = report.over(len(done.results), len(cases), BOX)
            say(over)
            done.tell(over)
    progress.clear()


def scale(cases: list[Case], rounds: int, threads: int, members: list[Contender], done: Run, say: Any) -> None:
    """Each case with 1, 2, ... threads; from 8 on only with powers of two."""
    counts = [t for t in range(1, threads + 1) if threads <= 8 or t == threads or t & (t - 1) == 0]
    progress = Progress(len(cases) * len(counts))
    figures: dict[tuple[str, str], dict[int, Figure]] = {}
    try:
        for count in counts:
            with team(members, count) as workers:
                for case in cases:
                    progress.show(f"{case.name}, {count} threads")
                    for name, figure in measure(case, workers, {}, rounds).figures.items():
                        figures.setdefault((case.name, name), {})[count] = figure
    finally:
        progress.clear()
        done.curves = [(case, name, f) for (case, name), f in figures.items() if any(one.times for one in f.values())]
        complete = [c for c in done.curves if len(c[2]) == max(len(f) for *_, f in done.curves)]
        say(report.scaling_table(complete))


class Progress:
    """Progress on one line of a terminal; silent elsewhere."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self.total, self.done, self.stream, self.start = total, 0, stream, time.monotonic()

    def show(self, what: str) -> None:
        """`what` begins; what was shown before it is done."""
        if self.stream.isatty():
            left = (time.monotonic() - self.start) / max(self.done, 1) * (self.total - self.done)
            wait = f"about {left / 60:.0f} min left" if self.done else "starting"
            self.stream.write(f"\r\x1b[K[{'#' * (24 * self.done // self.total):<24}] {self.done}/{self.total}, {wait}: {what}")
            self.stream.flush()
        self.done += 1

    def clear(self) -> None:
        if self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()


def machine(threads: int) -> dict[str, Any]:
    """Circumstances that a figure depends on."""
    facts: dict[str, Any] = {k: v for k, v in nn.info().items() if k not in ("kernel cache", "threads", *PACKAGES)}
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "processor": processor(),
        "cores": cores(),
        "threads": threads,
        "date": today,
        **facts,
        **versions,
        "peers": list(versions),
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(folder: Path, done: Run, facts: dict[str, Any], say: Any) -> None:
    """bench.md, bench.json and bench.png"""
    folder.mkdir(exist_ok=True)
    found = report.document(done.results, done.errors)
    curves = [{"case": c, "contender": n, "threads": {t: report.as_json(f) for t, f in fs.items()}} for c, n, fs in done.curves]
    (folder / "bench.json").write_text(json.dumps({**facts, **found, "scaling": curves}, indent=1, allow_nan=False) + "\n")
    if done.results:
        from .plot import draw

        try:
            draw(folder / "bench.png", done.results, done.errors)
        except ImportError:
            say("- the picture is left out: matplotlib is not installed; pip install 'numbanorm[bench]' brings it")
    (folder / "bench.md").write_text("\n".join(done.lines) + "\n")
