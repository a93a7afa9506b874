"""Measurements as Markdown and as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .jobs import COPY, EXACT, FRESH, OURS, STREAMED, Contender
from .measure import Figure, Result

HEADER = f"""\
Medians over rounds, in microseconds; every contender is a process of its own, called in turn, with the same number of threads.
"{OURS}" writes into `out=`, memory that is there, as the copies do: its ratio to a copy of one tensor of x's size is "of
copy", to one with non-temporal stores "of nt copy". "{FRESH}" makes a new array in each call, as most peers do; "{EXACT}" is
the first with exact=True. A peer is compared with whichever of the two does as it does; the "best peer" is the one beside
which numbanorm looks worst, "of best peer" the share of its time; below 1 means that numbanorm is faster. "ulp": largest
distance from the result in long double, in units of the last place of the dtype, at the scale of the largest term where the
result is smaller (of dx: the largest of its group; of dweight and dbias: all terms together); rounded once is 0.5.
Of large arrays about two million elements are checked, in whole groups. "same bits": one thread gives those of all."""

SUMMARY = (
    *("case", "MB", "copy", "nt copy", OURS, "of copy", "of nt copy", "new array", "best peer", "its time", "of best peer"),
    *("ulp", "peer's ulp", "same bits"),
)
EACH = ("case", "contender", "us", "quartiles", "of copy", "of nt copy", "of best peer", "ulp", "same bits")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(line(cells) for cells in (head, ["---"] * len(head), *rows))


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def microseconds(seconds: float) -> str:
    return number(1e6 * seconds, 1)


def distance(ulp: float | None) -> str:
    if ulp is None or not math.isfinite(ulp):
        return "-" if ulp is None else "not finite"
    return f"{ulp:.2f}" if ulp < 100 else f"{ulp:.1e}"


def same(bits: bool | None) -> str:
    return {None: "-", True: "yes", False: "no"}[bits]


def summary_row(result: Result) -> list[str]:
    best, ours = result.best_peer(), result.figures[OURS]
    seconds = {name: f.seconds for name, f in result.figures.items()}
    return [
        result.case.name,
        f"{result.case.nbytes / 1e6:.1f}",
        *(microseconds(seconds.get(name, math.nan)) for name in (COPY, STREAMED, OURS)),
        *(number(result.ratio(OURS, name)) for name in (COPY, STREAMED)),
        microseconds(seconds.get(FRESH, math.nan)),
        "-" if best is None else best.contender.name,
        microseconds(math.nan if best is None else best.seconds),
        number(math.nan if best is None else result.of_peer(best.contender.name)),
        distance(ours.ulp),
        distance(None if best is None else best.ulp),
        same(ours.same_bits),
    ]


BRIEF = ("case", "copy", OURS, "of copy", "best other", "its time", "of its time", "error, ulp", "its error")
WIDTHS = (31, 8, 9, 7, 14, 9, 11, 10, 9)


def brief_row(result: Result | None) -> str:
    """A line of the quick table, without figures if they cannot be true; None for its head."""
    if result is None:
        cells: Sequence[str] = BRIEF
    elif names := result.unsteady():
        return f"{result.case.name:<{WIDTHS[0]}}  no figures: measured twice, and not steady ({'; '.join(names)})"
    else:
        row = dict(zip(SUMMARY, summary_row(result), strict=True))
        order = ("case", "copy", OURS, "of copy", "best peer", "its time", "of best peer", "ulp", "peer's ulp")
        cells = [row[name] for name in order]
    first, *rest = (f"{cell:{'<' if k == 0 else '>'}{w}}" for k, (cell, w) in enumerate(zip(cells, WIDTHS, strict=True)))
    return "  ".join([first, *rest]).rstrip()


def brief_closing(results: Sequence[Result]) -> str:
    """The quick table in a sentence, of the cases that have figures."""
    steady = [r for r in results if not r.unsteady()]
    if not steady:
        return "No case has figures to believe: run again when the machine is idle." if results else ""
    average = list(means(steady).values())[-1]
    words = [f"On the average numbanorm takes {number(average['of copy'])} of a copy's time"]
    if not math.isnan(average["of best peer"]):
        words += [
            f", and {number(average['of best peer'])} of the best other's (below 1: numbanorm is faster). ",
            'Times are into memory that is there, "of its time" with a new array where the other makes one',
        ]
    return "".join(words) + "."


def over(measured: int, wanted: int, seconds: float) -> str:
    """What a run says that ended before its last case."""
    return (f"The {seconds:.0f} seconds of a quick run are over after {measured} of {wanted} cases: run again, for what was "
            f"compiled is kept, or leave --quick out")  # fmt: skip


def doubtful(results: Sequence[Result]) -> list[str]:
    """Cases whose rounds disagreed twice."""
    found = [f"{r.case.name} ({', '.join(names)})" for r in results if (names := r.unsteady())]
    return [f"Not steady, also when measured again, so do not rely on it: {'; '.join(found)}"] if found else []


def each_rows(result: Result) -> list[list[str]]:
    rows, best = [], result.best_peer()
    for name, f in result.figures.items():
        if not f.times:
            continue
        rows.append([result.case.name, name, microseconds(f.seconds), " to ".join(map(microseconds, f.quartiles))])
        rows[-1] += [number(result.ratio(name, other)) for other in (COPY, STREAMED)]
        rows[-1] += [number(f.seconds / best.seconds if best else None), distance(f.ulp), same(f.same_bits)]
    return rows


def geometric_mean(ratios: Iterable[float]) -> float:
    """Of those that are there; nan where none is."""
    there = [r for r in ratios if not math.isnan(r)]
    return statistics.geometric_mean(there) if there else math.nan


def means(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """For each norm and direction, and for all: geometric means of the ratios."""
    peers = sorted({n for r in results for n, f in r.figures.items() if f.contender.peer and not f.contender.plain})
    kinds: dict[str, list[Result]] = {}
    for r in results:
        kinds.setdefault(f"{r.case.kind}, {'backward' if r.case.backward else 'forward'}", []).append(r)
    if len(kinds) > 1:
        kinds["all"] = list(results)
    return {
        kind: {
            "of copy": geometric_mean(r.ratio(OURS, COPY) for r in some),
            "of nt copy": geometric_mean(r.ratio(OURS, STREAMED) for r in some),
            "of best peer": geometric_mean(r.of_peer(best.contender.name) for r in some if (best := r.best_peer())),
            **{f"of {peer}": geometric_mean(r.of_peer(peer) for r in some) for peer in peers},
        }
        for kind, some in kinds.items()
    }


def means_table(results: Sequence[Result]) -> str:
    rows = means(results)
    head = next(iter(rows.values()), {})
    return table(("geometric means", *head), ([kind, *map(number, row.values())] for kind, row in rows.items()))


def notes(results: Sequence[Result]) -> list[str]:
    """Each reason why a contender has no figure, once, with the cases."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in results:
        for name, f in r.figures.items():
            if f.note:
                reasons.setdefault((name, f.note), []).append(r.case.name)
    shown = (
        (name, note, cases[0] + (f" and {len(cases) - 1} more" * (len(cases) > 1))) for (name, note), cases in reasons.items()
    )
    return [f"{name} has no figure ({note}): {where}" for name, note, where in shown]


def accuracy_table(errors: dict[float, dict[str, float | None]]) -> str:
    names = list(next(iter(errors.values()), {}))
    return table(("mean / std", *names), ([f"{m:.0e}", *(distance(e[name]) for name in names)] for m, e in errors.items()))


def scaling_table(curves: Sequence[tuple[str, str, dict[int, Figure]]]) -> str:
    threads = list(curves[0][2]) if curves else []
    rows = []
    for case, name, figures in curves:
        times = [figures[t].seconds for t in threads]
        rows.append([case, name, *map(microseconds, times), number(times[0] / times[-1])])
    return table(("case", "contender", *(f"{t} thread{'s' * (t > 1)}, us" for t in threads), "speed-up"), rows)


def closing(results: Sequence[Result], errors: dict[float, dict[str, float | None]], contenders: Sequence[Contender]) -> str:
    """All that follows the table of the cases."""
    parts = []
    if results:
        parts += [means_table(results), "Every contender:", table(EACH, (row for r in results for row in each_rows(r)))]
    if errors:
        parts += ["Error of layer norm (64, 1024) in ulp, for numbers of that mean and a standard deviation of 1:"]
        parts += [accuracy_table(errors)]
    words = [f"{c.name}: {c.note}" for c in contenders if c.note] + notes(results) + doubtful(results)
    return "\n\n".join([*parts, "\n".join(f"- {w}" for w in words)])


def as_json(figure: Figure) -> dict[str, Any]:
    """Strict JSON has no nan and no infinity."""
    seconds = None if math.isnan(figure.seconds) else figure.seconds
    return {
        "median": seconds,
        "quartiles": None if seconds is None else figure.quartiles,
        "times": figure.times,
        "ulp": _finite(figure.ulp),
        "same_bits": figure.same_bits,
        "note": figure.note,
    }


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else "not finite"


def document(results: Sequence[Result], errors: dict[float, dict[str, float | None]]) -> dict[str, Any]:
    """The part of the JSON that holds figures."""
    cases = []
    for r in results:
        c = r.case
        facts = {"norm": c.kind, "shape": c.shape, "layout": "last" if c.last else "first", "dtype": c.dtype, "bytes": c.nbytes}
        facts["direction"] = "backward" if c.backward else "forward"
        cases.append({"name": c.name, **facts, "contenders": {n: as_json(f) for n, f in r.figures.items()}})
    average = {kind: {k: None if math.isnan(v) else v for k, v in row.items()} for kind, row in means(results).items()}
    accuracy = {f"{m:.0e}": {n: _finite(e) for n, e in row.items()} for m, row in errors.items()}
    return {"cases": cases, "geometric_means": average, "accuracy": accuracy}
