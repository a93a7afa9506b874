"""Measure numbanorm on a CUDA device against a copy of the same bytes, torch, torch.compile and Liger.

Each result is compared with float64 before it is timed. Times are those of the device, with its second-level cache cold: calls
go round among input sets that together exceed it twice, and start only after the host has queued them. Contenders are called in
turn over many rounds; a time is the median over the rounds. `graph` is the same from the replay of a CUDA graph, `host` what
one call costs the host. `of copy` is the copy's time over numbanorm's, the other ratios are the contender's over numbanorm's:
above 1, numbanorm is faster. `ulp` is the largest error of all results, at the scale of their terms.

    python benchmarks/gpu.py [--json FILE] [--quick] [--only REGEX] [--contenders A,B] [--seconds 540] [--device cuda]

Exits with 1 where a result of numbanorm was wrong or failed, with 2 where nothing could be run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import gpu_cases as problems
    from . import gpu_contenders as contenders
    from .gpu_timing import Clock, DeviceLost, Run, TimeUp, limit, measure, shown
else:
    import gpu_cases as problems
    import gpu_contenders as contenders
    from gpu_timing import Clock, DeviceLost, Run, TimeUp, limit, measure, shown

Case = problems.Case
PACKAGES = ("numbanorm", "numpy", "numba", "numba-cuda", "cuda-core", "torch", "triton", "liger-kernel", "ml-dtypes")
PEERS = ("torch", "compile", "liger")
# units at the scale of the terms; the float64 reference has errors of its own where the results are float64
ALLOWED = {"float16": 1.0, "bfloat16": 1.0, "float32": 1.0, "float64": 16.0}
ALLOWED_PEERS = {"float16": 64.0, "bfloat16": 64.0, "float32": 4096.0, "float64": 4096.0}
MOST_SETS = 256
HEADER = ("family", "shape", "layout", "dtype", "direction", "MB", "us", "q1-q3", "TB/s", "graph us", "host us", "of copy",
          *(f"/ {p}" for p in PEERS), *(f"ulp {p}" for p in ("numbanorm", *PEERS)))  # fmt: skip


def poison(case: Case, d: problems.Data, truth: list[Any]) -> None:
    """Fill with nan the result's memory, and memory like it that the allocator is going to hand out next."""
    import torch

    d.out[0].fill_(math.nan)
    kinds = [case.dtype, *[case.parameters] * (len(truth) - 1)]
    blocks = [torch.full_like(v, math.nan, dtype=getattr(torch, k)) for (v, _), k in zip(truth, kinds, strict=True)]
    del blocks


def results(case: Case, c: contenders.Contender) -> list[Any]:
    """Copies of what it gives for set 0, stored as the case is."""
    import torch

    found = [contenders.tensor(t) for t in c.run(0)]
    found[0] = found[0].movedim(1, -1) if c.first else found[0]
    return [t.detach().clone(memory_format=torch.contiguous_format) for t in found]


def check(name: str, case: Case, c: contenders.Contender, d: problems.Data, truth: list[Any]) -> dict[str, Any]:
    """The error of each result, and for numbanorm whether two runs agree to the bit; `error` where it is wrong."""
    import torch

    if name == "copy":
        return {} if all(bool((t == 1).all()) for t in c.run(0)) else {"error": "wrong: bytes were not copied"}
    poison(case, d, truth)
    found = results(case, c)
    errors = {n: problems.ulp(t, *v) for n, t, v in zip(case.results, found, truth, strict=True)}
    entry: dict[str, Any] = {"ulp": {n: e if math.isfinite(e) else None for n, e in errors.items()}}
    limits = ALLOWED if name == "numbanorm" else ALLOWED_PEERS
    kinds = (str(t.dtype).removeprefix("torch.") for t in found)
    wrong = [f"{n} is off by {e:.3g} ulp" for (n, e), k in zip(errors.items(), kinds, strict=True) if not e <= limits[k]]
    if name == "numbanorm":
        poison(case, d, truth)
        pairs = zip(found, results(case, c), strict=True)
        entry["same_bits"] = all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)
        wrong += [] if entry["same_bits"] else ["two runs differ in their bits"]
    return entry | ({"error": "wrong: " + ", ".join(wrong)} if wrong else {})


def prepare(
    case: Case, d: problems.Data, clock: Clock, absent: dict[str, None], names: list[str]
) -> tuple[dict[str, Run], dict[str, Any]]:
    """The contenders that are right, warm, and what was found of each."""
    import torch

    truth = problems.reference(case, d)
    inputs = [d.x[0], *d.dy[:1], d.weight]
    before = [t.clone() for t in inputs]
    runs: dict[str, Run] = {}
    entries: dict[str, Any] = {}
    for name, make in contenders.MAKERS.items():
        if names and name not in names:
            continue
        try:
            c = make(case, d)
            entries[name] = check(name, case, c, d, truth)
            if not all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True)):
                raise ValueError("wrong: it wrote to what it was given")
            if "error" not in entries[name]:
                runs[name] = c.run
        except contenders.AbsentError as e:
            absent[str(e)] = None
        except Exception as e:
            entries[name] = {"error": shown(e)}
            clock.alive()
            for a, b in zip(inputs, before, strict=True):
                a.copy_(b)
    return runs, entries


def row_of(case: Case, args: argparse.Namespace, clock: Clock, absent: dict[str, None]) -> dict[str, Any]:
    """Check and time a case."""
    sets = max(2, min(MOST_SETS, -(-2 * clock.cache() // case.inputs)))
    row = {**asdict(case), "name": case.name, "layout": case.layout, "direction": case.direction, "bytes": case.bytes}
    row |= {"sets": sets, "cold": clock.gpu and sets * case.inputs >= 2 * clock.cache()}
    d = problems.data(case, sets, clock.device)
    try:
        runs, row["contenders"] = prepare(case, d, clock, absent, args.contenders)
        for name, times in measure(runs, sets, args.rounds, clock).items():
            row["contenders"][name] |= times | {"tbs": case.bytes / times["us"] * 1e-6}
    finally:
        d.clear()
    runs.clear()
    if clock.gpu:
        clock.torch.cuda.empty_cache()
    return row


def line(case: Case, row: dict[str, Any]) -> str:
    """Of the Markdown table."""
    all_ = row["contenders"]
    own = all_.get("numbanorm", {})

    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    def ratio(name: str) -> str:
        mine, other = own.get("us"), all_.get(name, {}).get("us")
        return number(other / mine if mine and other else None, 2)

    def error(name: str) -> str:
        units = all_.get(name, {}).get("ulp", {"": None}).values()
        return number(None if None in units else max(units), 2)

    spread = f"{own['us_q1']:.1f}-{own['us_q3']:.1f}" if "us" in own else "failed" if "error" in own else "-"
    cells = [case.family, case.size, case.layout, case.dtype, case.direction, f"{case.bytes * 1e-6:.1f}"]
    cells += [number(own.get("us"), 1), spread, number(own.get("tbs"), 2), number(own.get("graph_us"), 1)]
    cells += [number(own.get("host_us"), 1), *map(ratio, ("copy", *PEERS)), *map(error, ("numbanorm", *PEERS))]
    return "| " + " | ".join(cells) + " |"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def machine(clock: Clock) -> dict[str, Any]:
    """The device as it is found."""
    found: dict[str, Any] = {"device": clock.device, "platform": platform.platform(), "cpus": os.cpu_count()}
    if not clock.gpu:
        return found
    p = clock.torch.cuda.get_device_properties(0)
    found |= {"gpu": p.name, "capability": f"{p.major}.{p.minor}", "sms": p.multi_processor_count}
    found |= {"memory_bytes": p.total_memory, "l2_bytes": clock.cache(), "cuda": clock.torch.version.cuda}
    keys = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu")
    program = shutil.which("nvidia-smi")
    if program:
        command = [program, f"--query-gpu={','.join(keys)}", "--format=csv,noheader", "-i", "0"]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if told.returncode == 0:
            found |= dict(zip(keys, (v.strip() for v in told.stdout.strip().split(",")), strict=False))
    return found


def save(report: dict[str, Any], path: str | None) -> None:
    """At once or not at all: who is killed here leaves the file of the case before."""
    if path:
        with open(f"{path}.part", "w") as file:
            json.dump(report, file, indent=1)
        os.replace(f"{path}.part", path)


def tell(case: Case, row: dict[str, Any], report: dict[str, Any]) -> None:
    """Print the line, and what went wrong to stderr."""
    print(line(case, row), flush=True)
    for name, entry in row["contenders"].items():
        if "error" in entry:
            report["failures"].append({"case": case.name, "contender": name, "error": entry["error"]})
            print(f"{case.name}: {name}: {entry['error']}", file=sys.stderr, flush=True)
        elif "graph_error" in entry:
            print(f"{case.name}: {name}: not captured: {entry['graph_error']}", file=sys.stderr, flush=True)


def run_all(chosen: list[Case], args: argparse.Namespace, clock: Clock, deadline: float) -> dict[str, Any]:
    """All cases, as far as the time goes. The report is written after each."""
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": vars(args), "machine": machine(clock), "versions": versions(),
        "stopped": None, "absent": [], "failures": [], "not_run": [c.name for c in chosen], "rows": [],
    }  # fmt: skip
    absent: dict[str, None] = {}
    save(report, args.json)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER), flush=True)
    try:
        with limit(deadline - time.monotonic()):
            for case in chosen:
                if time.monotonic() >= deadline:
                    raise TimeUp
                try:
                    row = row_of(case, args, clock, absent)
                except DeviceLost:
                    raise
                except Exception as e:  # of the data or the reference: no contender's
                    row = {**asdict(case), "name": case.name, "contenders": {"case": {"error": shown(e)}}}
                    clock.alive()
                report["rows"].append(row)
                report["not_run"].remove(case.name)
                report["absent"] = list(absent)
                tell(case, row, report)
                save(report, args.json)
    except TimeUp:
        report["stopped"] = "the time is up"
    except DeviceLost as e:
        report["stopped"] = f"the device is lost: {e}"
    save(report, args.json)
    return report


def main(argv: list[str] | None = None) -> int:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file, again after each case")
    parser.add_argument("--quick", action="store_true", help="the most important cases only")
    parser.add_argument("--only", default="", help="cases whose name, as '(layer|rms) .* bfloat16 backward', has this in it")
    names = ",".join(contenders.MAKERS)
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=[], help=f"of {names}; all by default")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=540.0, help="stop after this time")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny shapes, to test this program")
    args = parser.parse_args(argv)
    try:
        import torch
    except ImportError:
        print("torch is not installed: it holds the data, and is what numbanorm is compared with", file=sys.stderr)
        return 2
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            "there is no CUDA device that torch can use: run this on a machine that has one, or with --device cpu",
            file=sys.stderr,
        )
        return 2
    table = {("cuda", True): problems.QUICK, ("cuda", False): problems.TABLE, ("cpu", True): problems.TINY_QUICK}
    chosen = [c for c in problems.cases(table.get((args.device, args.quick), problems.TINY)) if re.search(args.only, c.name)]
    if not chosen:
        print(f"--only {args.only!r} is in the name of no case", file=sys.stderr)
        return 2
    with torch.no_grad():
        report = run_all(chosen, args, Clock(args.device), begun + 0.97 * args.seconds)
    for note in (*report["absent"], *([f"stopped: {report['stopped']}"] if report["stopped"] else [])):
        print(f"\n{note}")
    if report["not_run"]:
        print(f"\nnot run: {len(report['not_run'])} of {len(chosen)} cases")
    ours = [f for f in report["failures"] if f["contender"] in ("numbanorm", "case")]
    return 1 if ours or str(report["stopped"]).startswith("the device") else 0


if __name__ == "__main__":
    sys.exit(main())
