"""Every asv suite runs: each class once, with the first of its parameters, which is the smallest."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import numbers
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
FILES = sorted(FOLDER.glob("bench_*.py"))
# what asv takes for a benchmark
KINDS = ("time_", "timeraw_", "track_", "mem_", "peakmem_")

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)


def load(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """Import a file under `name`, as asv does: whatever else is called that is not looked at."""
    if name not in sys.modules:
        search = None if folder is None else [str(folder)]
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def suites(path: Path) -> list[type]:
    """The classes of a file that hold benchmarks; asv leaves out names that begin with an underscore."""
    load("benchmarks", FOLDER / "__init__.py", FOLDER)
    module = load(f"benchmarks.{path.stem}", path)
    own = (c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__)
    return [c for c in own if not c.__name__.startswith("_") and benchmarks(c)]


def benchmarks(suite: type) -> list[str]:
    return [name for name in dir(suite) if name.startswith(KINDS)]


SUITES = [(path.stem, suite) for path in FILES for suite in suites(path)]


def combinations(suite: Any) -> Iterator[tuple[Any, ...]]:
    """Parameters in asv's order; a single parameter may be given as a plain list."""
    params = list(getattr(suite, "params", []))
    if params and not isinstance(params[0], (list, tuple)):
        params = [params]
    return itertools.product(*params)


def prepared(suite: type) -> tuple[Any, tuple[Any, ...]]:
    """An instance, set up with the first parameters that it takes: NotImplementedError tells asv to pass over some."""
    for parameters in combinations(suite):
        instance = suite()
        arguments = parameters
        if hasattr(instance, "setup_cache"):
            arguments = (instance.setup_cache(), *parameters)
        try:
            getattr(instance, "setup", lambda *_: None)(*arguments)
        except NotImplementedError:
            continue
        return instance, arguments
    raise AssertionError(f"{suite.__name__} takes none of its own parameters")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_has_suites(path: Path) -> None:
    assert suites(path)


def test_asv_looks_here() -> None:
    assert FILES, f"no bench_*.py in {FOLDER.name}"
    assert SUITES
    settings = json.loads((ROOT / "asv.conf.json").read_text())
    assert (ROOT / settings["benchmark_dir"]).resolve() == FOLDER.resolve()


@pytest.mark.parametrize(
    ("file", "suite"),
    [
        # what is compiled for the first time takes it ten seconds
        pytest.param(file, suite, id=f"{file}-{suite.__name__}", marks=[pytest.mark.long] if suite.__name__ == "Disk" else [])
        for file, suite in SUITES
    ],
)
def test_runs(file: str, suite: type) -> None:
    instance, arguments = prepared(suite)
    names = getattr(suite, "param_names", None)
    assert names is None or len(names) == len(next(combinations(suite)))
    for name in benchmarks(suite):
        result = getattr(instance, name)(*arguments)
        if name.startswith("track_"):
            assert isinstance(result, numbers.Real), f"{name} is a number over time"
            assert math.isfinite(result)
            assert result >= 0, "asv takes less for better, so what is tracked is an error, a time or a size"
        elif name.startswith("time_"):
            assert result is None, f"asv drops what {name} returns"
    getattr(instance, "teardown", lambda *_: None)(*arguments)
