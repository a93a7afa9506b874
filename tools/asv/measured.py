"""What asv published, less what nobody measured: names to read, no blank panels or empty values, no line of two machines."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: names for people; asv's own are those of the results, so classes and functions keep theirs
NAMES = {
    "bench_accuracy.LayerNormError.track_largest_error": "Layer norm: largest error",
    "bench_accuracy.LayerNormExactError.track_largest_error": "Layer norm, exact=True: largest error",
    "bench_accuracy.ThreadsError.track_different_bytes": "Bytes that threads change (0 is promised)",
    "bench_backward.Backward.time_backward": "Gradients of every norm",
    "bench_backward.Needs.time_backward": "Gradients: some of them (needs=)",
    "bench_calls.Calls.time_call": "Small calls, forward",
    "bench_calls.GradientCalls.time_call": "Small calls, gradients",
    "bench_forward.BatchNormEval.time_forward": "Batch norm, inference",
    "bench_forward.BatchNormTraining.time_forward": "Batch norm, training",
    "bench_forward.Copy.time_copy": "NumPy's copy, to compare with",
    "bench_forward.Exact.time_forward": "Default beside exact=True",
    "bench_forward.GroupNorm.time_forward": "Group norm",
    "bench_forward.InstanceNorm.time_forward": "Instance norm",
    "bench_forward.LayerNorm.time_forward": "Layer norm",
    "bench_forward.Method.time_forward": "method: two_pass beside welford",
    "bench_forward.RMSNorm.time_forward": "RMS norm",
    "bench_memory.Peak.peakmem_call": "Peak memory of a process",
    "bench_start.Disk.track_kernels": "Compiled kernels on disk",
    "bench_start.Start.track_process": "A process that makes one call",
}
GROUPS = {
    "bench_accuracy": "Accuracy",
    "bench_backward": "Gradients",
    "bench_calls": "Calls of a few elements",
    "bench_forward": "Forward",
    "bench_memory": "Memory",
    "bench_start": "The first call",
}
ALONE = 1.3  # a point this many times above both its neighbours, or below both, is an outlier


class Outlier(NamedTuple):
    """A measurement beside which those of the commits before and after it agree better with each other."""

    name: str
    case: str
    environment: str
    commit: str
    before: float
    value: float
    after: float


def tidy(site: Path) -> list[str]:
    """Rewrite asv's files in `site`; the names of the benchmarks that have no result at all, which are left out."""
    index, faults = (json.loads((site / name).read_text(encoding="utf-8")) for name in ("index.json", "regressions.json"))
    graphs = graphs_of(site, index)
    missing = [name for name in index["benchmarks"] if name not in graphs]
    orders = {}
    for name in missing:
        del index["benchmarks"][name]
    for name, benchmark in index["benchmarks"].items():
        benchmark["pretty_name"] = NAMES.get(name, name)
        if benchmark["params"]:
            benchmark["params"], orders[name] = kept(benchmark["params"], used(graphs[name]))
            reorder(graphs[name], orders[name])
    for row in faults["regressions"]:
        row[3] = orders[row[0].partition("(")[0]].index(row[3]) if row[3] is not None else None
    for file in site.glob("graphs/**/summary.json"):
        if file.parent.name != "summary":
            write(file, list(rows_with_values(json.loads(file.read_text(encoding="utf-8")), orders)))
    first_machine(index, graphs)
    for name, files in graphs.items():
        write(site / "graphs" / "summary" / f"{name}.json", summary_line(name, of_machine(files, index["params"]["machine"])))
    write(site / "index.json", index)
    write(site / "regressions.json", faults)
    return missing


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def graphs_of(site: Path, index: dict[str, Any]) -> dict[str, list[Path]]:
    """Files of each benchmark that hold a number: one for each machine and number of threads."""
    found: dict[str, list[Path]] = {}
    for name in index["benchmarks"]:
        files = [file for file in sorted(site.glob(f"graphs/**/{name}.json")) if file.parent.name != "summary"]
        if there := [file for file in files if used([file])]:
            found[name] = there
    return found


def rows_of(file: Path) -> list[tuple[int, list[float | None]]]:
    """Revision and values; one value where a benchmark has no parameters."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [(revision, value if isinstance(value, list) else [value]) for revision, value in rows]


def commits(site: Path, index: dict[str, Any]) -> int:
    """How many have a result."""
    return len({revision for files in graphs_of(site, index).values() for file in files for revision, _ in rows_of(file)})


def used(files: Sequence[Path]) -> set[int]:
    """Places of the parameters for which any file has a number."""
    return {k for file in files for _, values in rows_of(file) for k, value in enumerate(values) if value is not None}


def kept(params: Sequence[Sequence[str]], places: set[int]) -> tuple[list[list[str]], list[int]]:
    """Values of each parameter that occur in a place with a number, and the old places of their combinations."""
    combinations = list(itertools.product(*(range(len(values)) for values in params)))
    there = [sorted({combinations[k][axis] for k in places}) for axis in range(len(params))]
    position = {combination: k for k, combination in enumerate(combinations)}
    values = [[params[axis][k] for k in some] for axis, some in enumerate(there)]
    return values, [position[combination] for combination in itertools.product(*there)]


def reorder(files: Sequence[Path], order: Sequence[int]) -> None:
    for file in files:
        write(file, [[revision, [values[k] for k in order]] for revision, values in rows_of(file)])


def rows_with_values(rows: Sequence[dict[str, Any]], orders: dict[str, list[int]]) -> Iterator[dict[str, Any]]:
    """Lines of asv's list, under readable names; parameters are in their new places."""
    for row in rows:
        if row["last_value"] is not None:
            arguments = row["pretty_name"].partition("(")[1:]
            place = None if row["idx"] is None else orders[row["name"]].index(row["idx"])
            yield {**row, "idx": place, "pretty_name": NAMES.get(row["name"], row["name"]) + "".join(arguments)}


def of_machine(files: Sequence[Path], machines: Sequence[str]) -> list[Path]:
    """Files of the first of the machines that has any."""
    return next(some for machine in machines if (some := [file for file in files if f"machine-{machine}" in file.parts]))


def first_machine(index: dict[str, Any], graphs: dict[str, list[Path]]) -> None:
    """The machine that measured the newest commit, or most, comes first, and with it what asv's pages show at first."""
    found: dict[str, tuple[int, int]] = dict.fromkeys(index["params"]["machine"], (-1, 0))
    for file in itertools.chain(*graphs.values()):
        machine = next(part.removeprefix("machine-") for part in file.parts if part.startswith("machine-"))
        newest, count = found.get(machine, (-1, 0))
        rows = rows_of(file)
        found[machine] = (max(newest, rows[-1][0]), count + len(rows))
    first = max(found, key=lambda machine: found[machine])
    facts = index["machines"].get(first, {}) | {"machine": first}
    for name, values in index["params"].items():
        if str(facts.get(name)) in values:
            values.sort(key=lambda value: value != str(facts[name]))


def summary_line(name: str, files: Sequence[Path]) -> list[tuple[int, float]]:
    """asv's own mean over parameters and threads, of one machine's files."""
    from asv.graph import Graph, make_summary_graph

    graphs = []
    for number, file in enumerate(files):
        graph = Graph(name, {"file": str(number)})
        for revision, values in json.loads(file.read_text(encoding="utf-8")):
            graph.add_data_point(revision, values)
        graphs.append(graph)
    points = make_summary_graph(graphs).get_data()
    return [(revision, value) for revision, value, _ in points if value is not None and math.isfinite(value)]


def outliers(site: Path, index: dict[str, Any]) -> list[Outlier]:
    """Times that stand alone between those of the commits measured before and after."""
    found = []
    for name, files in graphs_of(site, index).items():
        benchmark = index["benchmarks"][name]
        cases = list(itertools.product(*benchmark["params"])) or [()]
        for file, (place, case) in itertools.product(files if benchmark["type"] == "time" else [], enumerate(cases)):
            points = [(revision, value) for revision, values in rows_of(file) if (value := values[place]) is not None]
            for (_, a), (revision, value), (_, b) in zip(points, points[1:], points[2:], strict=False):
                if value > ALONE * max(a, b) or ALONE * value < min(a, b):
                    commit = index["revision_to_hash"][str(revision)][:8]
                    found.append(Outlier(name, ", ".join(case), environment(file, index), commit, a, value, b))
    return found


def environment(file: Path, index: dict[str, Any]) -> str:
    """What tells a graph from others: threads, and the machine where there are several."""
    threads = [f"threads: {part.rpartition('-')[2]}" for part in file.parts if part.startswith("env-NUMBA_NUM_THREADS")]
    several = len(index["params"]["machine"]) > 1
    return ", ".join(
        threads + [part.removeprefix("machine-") for part in file.parts if several and part.startswith("machine-")]
    )
