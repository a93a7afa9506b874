"""The page that opens first: the latest comparison with a copy and with other libraries, and the way into asv's graphs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from numbanorm.bench import report
from numbanorm.bench.cases import Case
from numbanorm.bench.contenders import contenders
from numbanorm.bench.jobs import Contender
from numbanorm.bench.measure import Figure, Result

from . import drawing, measured

PAGE = """\
<!doctype html>
<html>
  <head>
    <meta http-equiv="Content-Type" content="text/html; charset=utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{project}: speed and accuracy</title>
    <link href="vendor/bootstrap.min.css" rel="stylesheet" type="text/css"/>
    <link href="asv.css" rel="stylesheet" type="text/css"/>
    <link href="local.css" rel="stylesheet" type="text/css"/>
    <link rel="shortcut icon" href="swallow.ico"/>
  </head>
  <body>
    <nav id="nav" class="navbar navbar-left navbar-default navbar-fixed-top" role="navigation">
      <ul class="nav navbar-nav navbar-left">
        <li><p class="navbar-text"><img src="swallow.png" width="22" height="22" alt="swallow"> {project}</p></li>
        <li class="active"><a href="summary.html">Summary</a></li>
        <li><a href="index.html#/">Benchmark grid</a></li>
        <li><a href="index.html#/summarylist">Benchmark list</a></li>
        <li><a href="index.html#/regressions">Regressions</a></li>
      </ul>
    </nav>
    <div id="summary">
{body}
    </div>
  </body>
</html>
"""
#: norm -> class in benchmarks/bench_forward.py
SUITES = {
    "layer": "LayerNorm",
    "rms": "RMSNorm",
    "batch": "BatchNormTraining",
    "eval": "BatchNormEval",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
}
FACTS = ("processor", "cores", "threads", "vectors", "caches", "system", "date", "python", "numbanorm", "numba", "numpy")


def newest(folder: Path) -> dict[str, Any] | None:
    """Read what `python -m numbanorm bench --out DIR` wrote last, of all in `folder`; None where there is none."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["cases"]:  # a run of --scaling has none
                found.append((content["machine"]["date"], content))
        except (ValueError, KeyError, TypeError):  # another kind of file
            continue
    return max(found, key=lambda pair: pair[0])[1] if found else None


def page(site: Path, bench: dict[str, Any] | None, missing: Sequence[str] = ()) -> str:
    """The whole page; `site` is what asv wrote, tidied, and `missing` the benchmarks without any result."""
    index, faults = (json.loads((site / name).read_text(encoding="utf-8")) for name in ("index.json", "regressions.json"))
    names = set(index["benchmarks"])
    history = over_time(site, index, faults["regressions"], missing)
    parts = [INTRODUCTION, '<div class="figures">', drawn_history(site, index), "</div>", NO_BENCH, *history]
    if bench:
        results = [result(case) for case in bench["cases"]]
        pictures = [beside_peers(results), drawn_history(site, index)]
        parts = [INTRODUCTION, made(bench["machine"]), '<div class="figures">', *pictures, "</div>"]
        parts += [*averages(results, names), *accuracy(bench["accuracy"]), *history, *every_case(results, names)]
        parts += machine(bench["machine"])
    return PAGE.format(project=escape(index["project"]), body="\n".join(parts))


INTRODUCTION = """\
<h1>How fast and how exact numbanorm is</h1>
<p>numbanorm normalizes NumPy arrays: batch, layer, group, instance and RMS norm, and their gradients. This page shows what a
call takes beside a plain copy of its data and beside other libraries, how large its error is, and how both changed over the
commits. <a href="index.html#/">Benchmark grid</a> has a graph of each benchmark, <a href="index.html#/summarylist">Benchmark
list</a> the newest value of each case, <a href="index.html#/regressions">Regressions</a> what became slower and stayed so.</p>
<ul>
<li><strong>Times</strong> are medians, in microseconds (us) where nothing else is said.</li>
<li><strong>&ldquo;of torch&rdquo;</strong> and the like: numbanorm's time as a share of that one's. Below 1 (green)
numbanorm is faster, above 1 (red) it is slower. A copy of the data is the least that memory allows.</li>
<li><strong>Errors</strong> are in ulp, units in the last place of the result's type. The true value rounded once has at
most 0.5.</li>
<li>&ldquo;(8192, 1024)&rdquo; is the shape of the array; &ldquo;last&rdquo;: its channels are the last axis.</li>
</ul>"""


def made(facts: dict[str, Any]) -> str:
    """When, on what and with which version the comparison was made."""
    date, version, processor, threads = (str(facts.get(key, "?")) for key in ("date", "numbanorm", "processor", "threads"))
    words = f"The comparison with other libraries is of {date[:10]}, numbanorm {version}, {processor}, {threads} threads."
    return f"<p>{escape(words)}</p>"


def beside_peers(results: Sequence[Result]) -> str:
    """Picture of each case beside the best of the others, by size."""
    series: dict[str, list[tuple[float, float]]] = {"forward": [], "gradients": []}
    for r in results:
        if not r.unsteady() and (best := r.best_peer()) and math.isfinite(share := r.of_peer(best.contender.name)):
            series["gradients" if r.case.backward else "forward"].append((math.prod(r.case.shape), share))
    words = "Time as a share of the best other library's, one dot for each case: below the line at 1 numbanorm is faster."
    left_out = sum(bool(r.unsteady()) for r in results)
    words += f" Left out: {left_out} cases whose rounds disagreed." if left_out else ""
    return drawing.figure(series, words, ("elements of x", "share of the time"), decades=True, lines=False)


def drawn_history(site: Path, index: dict[str, Any]) -> str:
    """Picture of each benchmark's time over the commits, on the first machine."""
    times = {name: b["pretty_name"] for name, b in index["benchmarks"].items() if b["type"] == "time"}
    lines = {name: json.loads((site / "graphs" / "summary" / f"{name}.json").read_text(encoding="utf-8")) for name in times}
    revisions = sorted({revision for points in lines.values() for revision, _ in points})
    series = {
        times[n]: [(float(revisions.index(r)), v / points[0][1]) for r, v in points] for n, points in lines.items() if points
    }
    words = f"Time over the {len(revisions)} commits that were measured, as a share of the first one's"
    words += f", on {index['params']['machine'][0]}."
    return drawing.figure(series, words, ("commits, oldest first", "share of the first time"), decades=False, lines=True)


NO_BENCH = (
    "<p>No comparison with a copy and with other libraries is committed: <code>python -m numbanorm bench --out "
    "benchmarks/results/bench</code> makes one.</p>"
)


def averages(results: Sequence[Result], names: set[str]) -> list[str]:
    """Geometric means for each norm and direction."""
    rows = report.means(results)
    head = next(iter(rows.values()))
    return [
        heading("Speed: geometric means"),
        "<p>Time of numbanorm as a share of the time of another: below 1 means that numbanorm is faster.</p>",
        table(
            ("norm, direction", *head),
            ([kind, *map(report.number, row.values())] for kind, row in rows.items()),
            linking(names),
        ),
    ]


def every_case(results: Sequence[Result], names: set[str]) -> list[str]:
    """The long table, and what not to believe of it."""
    words = re.sub("`(.*?)`", r"<code>\1</code>", escape(report.HEADER))
    return [
        heading("Speed: every case"),
        f"<p>{words}</p>",
        *(f'<p class="text-danger">{escape(text)}</p>' for text in report.doubtful(results)),
        table(report.SUMMARY, map(report.summary_row, results), linking(names)),
    ]


def accuracy(errors: dict[str, dict[str, Any]]) -> list[str]:
    """Largest errors by mean / std."""
    if not errors:
        return []
    contestants = list(next(iter(errors.values())))
    rows = ([mean, *(report.distance(number(row.get(n))) for n in contestants)] for mean, row in errors.items())
    words = "Largest error of layer norm (64, 1024) in ulp, standard deviation 1: the true value rounded once has 0.5."
    return [heading("Accuracy"), f"<p>{words}</p>", table(("mean / std", *contestants), rows)]


def machine(facts: dict[str, Any]) -> list[str]:
    rows = [[name, str(facts[name])] for name in (*FACTS, *facts.get("peers", ())) if name in facts]
    return [heading("Machine of these figures"), table(("", ""), rows)]


def result(case: dict[str, Any]) -> Result:
    """A line of the report, from its JSON."""
    known = {c.name: c for c in contenders()}
    backward, last = case["direction"] == "backward", case["layout"] == "last"
    figures = {}
    for name, f in case["contenders"].items():
        contender = known.get(name) or Contender(name, known["numpy"].make)
        figures[name] = Figure(contender, f["times"], number(f.get("ulp")), f.get("same_bits"), f.get("note", ""))
    return Result(Case(case["norm"], tuple(case["shape"]), last, backward, case["dtype"]), figures)


def number(value: float | str | None) -> float | None:
    """JSON has no infinity: report.as_json writes "not finite"."""
    return math.inf if isinstance(value, str) else value


def linking(names: set[str]) -> Callable[[str], str]:
    """Makes of "layer, forward" or "layer (16, 64) last backward" a link to the graph, where asv measured that."""

    def link(text: str) -> str:
        norm = re.split(r"[ ,]", text)[0]
        backward = "backward" in text
        graph = "bench_backward.Backward.time_backward" if backward else f"bench_forward.{SUITES.get(norm)}.time_forward"
        return graph_link(graph, text) if norm in SUITES and graph in names else escape(text)

    return link


def over_time(site: Path, index: dict[str, Any], regressions: Sequence[Sequence[Any]], missing: Sequence[str]) -> list[str]:
    """Every benchmark of asv, with what has become slower; points that stand alone; and the machines."""
    slower: dict[str, int] = {}
    for name, *_, jumps in regressions:
        benchmark = name.partition("(")[0]
        slower[benchmark] = slower.get(benchmark, 0) + len(jumps or ())
    named = {name: b["pretty_name"] for name, b in index["benchmarks"].items()}
    rows = [
        [name, str(math.prod(map(len, b["params"]))), b.get("unit") or "", str(slower.get(name, 0))]
        for name, b in sorted(index["benchmarks"].items(), key=lambda item: named[item[0]])
    ]
    machines = [[m.get(key, "") for key in ("machine", "cpu", "num_cpu", "ram", "os")] for m in index["machines"].values()]
    link = f'<a href="index.html#/regressions">{sum(slower.values())} regressions</a>'
    absent = "; ".join(measured.NAMES.get(name, name) for name in missing)
    return [
        heading("Over the commits"),
        f"<p>Graphs of {measured.commits(site, index)} commits; asv finds {link}.</p>",
        table(("benchmark", "cases", "unit", "regressions"), rows, lambda name: graph_link(name, named[name])),
        *([f"<p>Not measured of these commits, so without a graph: {escape(absent)}.</p>"] if missing else []),
        *standing_alone(measured.outliers(site, index), named),
        heading("Machines of the graphs"),
        "<p>A line in a graph is of one machine, and the grid shows the first one.</p>",
        table(("machine", "CPU", "cores", "memory", "system"), machines),
    ]


def standing_alone(found: Sequence[measured.Outlier], named: dict[str, str]) -> list[str]:
    """The table of outliers."""
    rows = [[o.name, o.case, o.environment, o.commit, *map(report.microseconds, (o.before, o.value, o.after))] for o in found]
    head = ("benchmark", "case", "where", "commit", "before, us", "here, us", "after, us")
    words = f"Times that are {measured.ALONE} times above, or below, those of the commits measured before and after: noise of a"
    if not rows:
        return [heading("Outliers"), f"<p>{words} shared machine, most likely. There is none.</p>"]
    text = f"<p>{words} shared machine, most likely. Do not rely on these {len(rows)}.</p>"
    return [heading("Outliers"), text, table(head, rows, lambda name: graph_link(name, named[name]))]


def graph_link(benchmark: str, text: str) -> str:
    return f'<a href="index.html#{escape(benchmark)}">{escape(text)}</a>'


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], first: Callable[[str], str] = escape) -> str:
    """`first` writes the first cell of a row. Where a peer is compared with, green is faster and red is slower."""
    lines = ["".join(f"<th>{escape(h)}</th>" for h in head)]
    for start, *cells in rows:
        lines.append(f"<td>{first(start)}</td>" + "".join(cell(h, c) for h, c in zip(head[1:], cells, strict=True)))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="table table-condensed table-hover">\n{body}\n</table></div>'


def cell(head: str, text: str) -> str:
    """Numbers to the right."""
    if not head or not re.fullmatch(r"-|[\d.,e+-]+", text):
        return f"<td>{escape(text)}</td>"
    compared = head.startswith("of ") and head not in ("of copy", "of nt copy") and text != "-"
    ratio = float(text.replace(",", "")) if compared else 1.0
    colour = " success" if ratio < 1 else " danger" if ratio > 1 else ""
    return f'<td class="number{colour}">{text}</td>'
