"""The summary page: the latest comparison with a copy and with other libraries, and the way into asv's graphs."""

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

PAGE = """\
<!doctype html>
<html>
  <head>
    <meta http-equiv="Content-Type" content="text/html; charset=utf-8">
    <title>{project}: summary</title>
    <link href="vendor/bootstrap.min.css" rel="stylesheet" type="text/css"/>
    <link href="asv.css" rel="stylesheet" type="text/css"/>
    <link href="local.css" rel="stylesheet" type="text/css"/>
    <link rel="shortcut icon" href="swallow.ico"/>
  </head>
  <body>
    <nav id="nav" class="navbar navbar-left navbar-default navbar-fixed-top" role="navigation">
      <ul class="nav navbar-nav navbar-left">
        <li><p class="navbar-text"><img src="swallow.png" width="22" height="22" alt="swallow"> {project}</p></li>
        <li><a href="index.html#/">Benchmark grid</a></li>
        <li><a href="index.html#/summarylist">Benchmark list</a></li>
        <li><a href="index.html#/regressions">Regressions</a></li>
        <li class="active"><a href="summary.html">Summary</a></li>
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


def page(site: Path, bench: dict[str, Any] | None) -> str:
    """The whole page; `site` is what asv wrote."""
    index, faults = (json.loads((site / name).read_text(encoding="utf-8")) for name in ("index.json", "regressions.json"))
    names = set(index["benchmarks"])
    parts = comparison(bench, names) if bench else [heading("Speed and accuracy"), NO_BENCH]
    return PAGE.format(project=escape(index["project"]), body="\n".join([*parts, *over_time(index, faults["regressions"])]))


NO_BENCH = (
    "<p>No comparison with a copy and with other libraries is committed: <code>python -m numbanorm bench --out "
    "benchmarks/results/bench</code> makes one.</p>"
)


def comparison(bench: dict[str, Any], names: set[str]) -> list[str]:
    """Machine, geometric means, every case, accuracy."""
    results, machine = [result(case) for case in bench["cases"]], bench["machine"]
    facts = [[name, str(machine[name])] for name in (*FACTS, *machine.get("peers", ())) if name in machine]
    averages = report.means(results)
    head = next(iter(averages.values()))
    parts = [
        heading("Speed: geometric means"),
        "<p>Time of numbanorm as a share of the time of another: below 1 means that numbanorm is faster.</p>",
        table(
            ("norm, direction", *head),
            ([kind, *map(report.number, row.values())] for kind, row in averages.items()),
            linking(names),
        ),
        heading("Speed: every case"),
        *(f"<p>{escape(text)}</p>" for text in report.HEADER.split("\n\n")),
        table(report.SUMMARY, map(report.summary_row, results), linking(names)),
    ]
    if bench["accuracy"]:
        contestants = list(next(iter(bench["accuracy"].values())))
        rows = ([mean, *(report.distance(number(row.get(n))) for n in contestants)] for mean, row in bench["accuracy"].items())
        words = "Largest error of layer norm (64, 1024) in ulp, standard deviation 1: the true value rounded once has 0.5."
        parts += [heading("Accuracy"), f"<p>{words}</p>", table(("mean / std", *contestants), rows)]
    return [*parts, heading("Machine of these figures"), table(("", ""), facts)]


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


def over_time(index: dict[str, Any], regressions: Sequence[Sequence[Any]]) -> list[str]:
    """Every benchmark of asv, with what has become slower; and the machines."""
    slower: dict[str, int] = {}
    for name, *_, jumps in regressions:
        benchmark = name.partition("(")[0]
        slower[benchmark] = slower.get(benchmark, 0) + len(jumps or ())
    rows = [
        [name, str(math.prod(map(len, b["params"]))), b.get("unit") or "", str(slower.get(name, 0))]
        for name, b in sorted(index["benchmarks"].items())
    ]
    machines = [[m.get(key, "") for key in ("machine", "cpu", "num_cpu", "ram", "os")] for m in index["machines"].values()]
    link = f'<a href="index.html#/regressions">{sum(slower.values())} regressions</a>'
    return [
        heading("Over the commits"),
        f"<p>Graphs of {len(index['revision_to_hash'])} commits; asv finds {link}.</p>",
        table(("benchmark", "parameters", "unit", "regressions"), rows, lambda name: graph_link(name, name)),
        heading("Machines of the graphs"),
        table(("machine", "CPU", "cores", "memory", "system"), machines),
    ]


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
