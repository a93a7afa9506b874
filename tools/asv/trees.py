"""Two versions of the sources, side by side, and asv's measurements of either."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import signal
import site
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numbanorm.runtime.cache import cache_folder

from .repository import CONFIG, git, last_lines, read_config

SELECTION = "fast.txt"  # beside the benchmarks: regular expressions, one a line, of what is measured
ATTRIBUTES = ("rounds=1", "repeat=10,20,0.3", "warmup_time=0.1")

Samples = dict[str, list[float]]


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
                raise ValueError(f"asv run must succeed: got {last_lines(done.stdout)!r}; repair what it names and try again")
            samples, failed = read(json.loads(found[0].read_text()))
        if side == "tree" and failed:
            reason = f"got {failed[0]} failed: {last_lines(done.stdout)}"
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
        if found.returncode or not Path(last_lines(found.stdout)).is_relative_to((folder / side).resolve()):
            where = "the working tree" if side == "tree" else commit[:8]
            raise ValueError(f"{where} must be importable: got {last_lines(found.stdout)!r}; repair it or choose another BASE")
    done = trees.asv("tree", 1, "machine", "--yes")
    if done.returncode:
        raise ValueError(f"asv machine must succeed: got {last_lines(done.stdout)!r}; repair what it names and try again")
    return trees


def selection(benchmarks: Path) -> list[str]:
    """The regular expressions of the working tree."""
    file = benchmarks / SELECTION
    found = file.read_text().split("\n") if file.is_file() else []
    if not any(found):
        raise ValueError(f"{SELECTION} beside the benchmarks must choose some: got none; write it, or give --bench REGEX")
    return [line for line in found if line]


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
