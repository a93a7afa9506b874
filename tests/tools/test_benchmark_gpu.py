"""benchmarks/gpu.py on the CPU, where it measures nothing: that it finds what is wrong, and writes what it found."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, without torch.compile: that takes seconds, and the dry run of the whole program has it."""
    pytest.importorskip("torch", reason="torch is not installed: it holds the data of these benchmarks")
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("gpu", "gpu_cases", "gpu_contenders", "gpu_timing")
    loaded = SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    monkeypatch.delitem(loaded.gpu_contenders.MAKERS, "compile")
    return loaded


def test_a_dry_run(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: it holds the data of these benchmarks")
    path = tmp_path / "report.json"
    done = python(str(FOLDER / "gpu.py"), "--device", "cpu", "--quick", "--rounds", "3", "--json", str(path))
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert {"date", "machine", "versions", "arguments"} <= report.keys()
    assert {"python", "torch", "numba", "numpy"} <= report["versions"].keys()
    assert report["stopped"] is None
    assert report["failures"] == report["not_run"] == []
    assert any("Liger" in note for note in report["absent"])
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(report["rows"])
    assert len({line.count("|") for line in table}) == 1, "as many cells in each line as in the header"
    seen = {(row["family"], row["layout"], row["direction"]) for row in report["rows"]}
    mapped = {
        (f, m, d) for f in ("batch", "eval", "group", "instance") for m in ("first", "last") for d in ("forward", "backward")
    }
    assert seen == mapped | {(f, "rows", d) for f in ("layer", "rms") for d in ("forward", "backward")}
    for row in report["rows"]:
        assert set(row["contenders"]) == {"copy", "numbanorm", "torch", "compile"}, row["name"]
        for entry in row["contenders"].values():
            assert 0 < entry["us_q1"] <= entry["us"] <= entry["us_q3"]
            assert entry["host_us"] > 0
            assert math.isclose(entry["tbs"], row["bytes"] / entry["us"] * 1e-6)
        own = row["contenders"]["numbanorm"]
        assert own["same_bits"]
        assert max(own["ulp"].values()) <= 0.51
        assert set(own["ulp"]) == ({"y"} if row["direction"] == "forward" else {"dx", "dweight", "dbias"} - (
            {"dbias"} if row["family"] == "rms" else set()))  # fmt: skip


Planted = Callable[[Any, int], tuple[Any, ...]]  # of the results and the number of the run


def nothing_written(results: Any, run: int) -> tuple[Any, ...]:
    results[0].reshape(-1)[-1] = np.nan
    return tuple(results)


def raising(results: Any, run: int) -> tuple[Any, ...]:
    raise RuntimeError("no such kernel\nsecond line")


PLANTED: dict[str, tuple[Planted, str]] = {
    "a little off": (lambda r, _: (r[0] * np.float32(1.000001), *r[1:]), "wrong: {first} is off by "),
    "one element not written": (nothing_written, "wrong: {first} is off by inf ulp"),
    "another result": (lambda r, _: (*r[:-1], r[-1] * np.float32(1.001)), "wrong: {last} is off by "),
    "another shape": (lambda r, _: (r[0][:1], *r[1:]), "wrong: {first} is off by inf ulp"),
    "not twice the same": (
        lambda r, run: (np.nextafter(r[0], np.float32(run)), *r[1:]),
        "wrong: two runs differ in their bits",
    ),
    "failing": (raising, "RuntimeError: no such kernel"),
}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("change", "message"), PLANTED.values(), ids=list(PLANTED))
def test_a_wrong_result_is_caught(
    modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, change: Planted, message: str, backward: bool
) -> None:
    right = modules.gpu_contenders.numbanorm

    def wrong(case: Any, d: Any) -> Any:
        run, count = right(case, d).run, 0

        def changed(i: int) -> tuple[Any, ...]:
            nonlocal count
            count += 1
            return change(list(run(i)), 100 * (-1) ** count)

        return modules.gpu_contenders.Contender(changed)

    monkeypatch.setitem(modules.gpu_contenders.MAKERS, "numbanorm", wrong)
    monkeypatch.setitem(modules.gpu.ALLOWED, "float32", 1.6)  # or neighbours, which differ between the runs, are wrong already
    path = tmp_path / "report.json"
    name = f"layer .* float32 {'backward' if backward else 'forward'}"
    assert modules.gpu.main(["--device", "cpu", "--quick", "--rounds", "1", "--only", name, "--json", str(path)]) == 1
    report = json.loads(path.read_text())
    (failure,) = report["failures"]
    first, last = ("dx", "dbias") if backward else ("y", "y")
    assert failure["contender"] == "numbanorm"
    assert failure["error"].startswith(message.format(first=first, last=last))
    told = capsys.readouterr()
    assert failure["error"] in told.err
    assert "failed" in told.out
    (row,) = report["rows"]
    assert "us" not in row["contenders"]["numbanorm"], "what is wrong is not timed"
    assert row["contenders"]["torch"]["us"] > 0


def test_a_contender_that_writes_to_its_inputs_harms_no_other(
    modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = modules.gpu_contenders.native

    def wrong(case: Any, d: Any) -> Any:
        c = right(case, d)
        return c._replace(run=lambda i: (c.run(i), d.x[i].mul_(2))[0])

    makers = {"torch": wrong, "numbanorm": modules.gpu_contenders.numbanorm}
    monkeypatch.setattr(modules.gpu_contenders, "MAKERS", makers)
    path = tmp_path / "report.json"
    assert modules.gpu.main(["--device", "cpu", "--quick", "--rounds", "1", "--only", "rms", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert {(f["contender"], f["error"]) for f in report["failures"]} == {
        ("torch", "ValueError: wrong: it wrote to what it was given")
    }
    assert all("us" in row["contenders"]["numbanorm"] for row in report["rows"])


def test_it_stops_in_time(modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """In the middle of a case, and with the report of those before."""
    if os.name != "posix":
        pytest.skip("Windows has no interval timers: there the time is looked at between cases")

    def slow(case: Any, d: Any) -> Any:
        time.sleep(60 if case.backward else 0)
        return right(case, d)

    right = modules.gpu_contenders.native
    monkeypatch.setattr(modules.gpu_contenders, "MAKERS", {"torch": slow})  # nothing that Numba may have to compile first
    path, begun = tmp_path / "report.json", time.monotonic()
    arguments = ["--device", "cpu", "--quick", "--rounds", "1", "--json", str(path), "--seconds", "8"]
    assert modules.gpu.main(arguments) == 0
    assert time.monotonic() - begun < 8
    report = json.loads(path.read_text())
    assert report["stopped"] == "the time is up"
    assert [row["direction"] for row in report["rows"]] == ["forward"]
    assert len(report["not_run"]) == len(modules.gpu_cases.cases(modules.gpu_cases.TINY_QUICK)) - 1
    assert "not run: " in capsys.readouterr().out


def truth_of(case: Any, d: Any) -> list[tuple[Any, Any]]:
    """tests/support/oracle.py's values and scales."""
    arrays = [None if t is None else t.float().numpy() for t in (d.dy[0] if d.dy else None, d.x[0], d.weight, d.bias)]
    if case.dtype == "float64":
        arrays = [None if t is None else t.numpy() for t in (d.dy[0] if d.dy else None, d.x[0], d.weight, d.bias)]
    dy, x, w, b = arrays
    given = (d.mean.numpy(), d.var.numpy()) if case.family == "eval" else None
    axis, groups = case.axis, case.groups
    if not case.backward:
        y = {
            "layer": lambda: oracle.layer_norm(x, 1, w, b), "rms": lambda: oracle.rms_norm(x, 1, w),
            "group": lambda: oracle.group_norm(x, groups, w, b, channel_axis=axis),
            "instance": lambda: oracle.instance_norm(x, w, b, channel_axis=axis),
        }.get(case.family, lambda: oracle.batch_norm(x, w, b, channel_axis=axis, given=given))()  # fmt: skip
        return [(y.y, np.broadcast_to(y.weight, y.y.shape))]
    g = {
        "layer": lambda: oracle.layer_norm_backward(dy, x, 1, w),
        "rms": lambda: oracle.layer_norm_backward(dy, x, 1, w, center=False),
        "group": lambda: oracle.group_norm_backward(dy, x, groups, w, channel_axis=axis),
    }.get(case.family, lambda: oracle.channels_backward(
        dy, x, int(case.family == "instance"), w, channel_axis=axis, given=given))()  # fmt: skip
    return [(v.value, v.terms) for v in g][: len(case.results)]


def test_the_reference_is_the_oracle(modules: Any) -> None:
    for case in modules.gpu_cases.cases(modules.gpu_cases.TINY):
        d = modules.gpu_cases.data(case, 2, "cpu")
        x = d.x[0].clone()
        found = modules.gpu_cases.reference(case, d)
        assert (d.x[0] == x).all(), case.name
        for (value, scale), (true_value, true_scale) in zip(found, truth_of(case, d), strict=True):
            assert value.shape == true_value.shape, case.name
            np.testing.assert_allclose(value.numpy(), true_value.astype(float), rtol=1e-11, atol=1e-13, err_msg=case.name)
            np.testing.assert_allclose(scale.numpy(), true_scale.astype(float), rtol=1e-11, atol=1e-13, err_msg=case.name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_errors_are_counted_as_by_the_oracle(modules: Any, dtype: str, rng: np.random.Generator) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    value, scale = rng.normal(size=1000) * 10.0 ** rng.integers(-9, 3, 1000), 10.0 ** rng.uniform(-9, 1, 1000)
    got = (value * (1 + 1e-3 * rng.normal(size=1000))).astype(kind)
    torch = importlib.import_module("torch")
    found = modules.gpu_cases.ulp(modules.gpu_contenders.tensor(got), torch.from_numpy(value), torch.from_numpy(scale))
    assert math.isclose(found, oracle.ulp_error(got, value, scale), rel_tol=1e-9)


def test_the_table(modules: Any) -> None:
    cases = modules.gpu_cases.cases(modules.gpu_cases.TABLE)
    assert len({case.name for case in cases}) == len(cases)
    quick = modules.gpu_cases.cases(modules.gpu_cases.QUICK)
    assert cases[: len(quick)] == quick, "the most important first"
    case = modules.gpu_cases.Case("layer", (16384, 4096), "bfloat16", backward=True)
    assert case.bytes == (3 * 16384 + 3) * 4096 * 2, "dy, x and dx; the weight and its gradients"


def test_without_a_gpu() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it holds the data of these benchmarks")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = python(str(FOLDER / "gpu.py"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("there is no CUDA device")
    assert done.stderr.count("\n") == 1


def test_without_torch() -> None:
    """Every file can be imported, which asv does with all of this folder."""
    code = "import sys; sys.modules['torch'] = None; import benchmarks.gpu as gpu; sys.exit(gpu.main(['--device', 'cpu']))"
    done = python("-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("torch is not installed")
    assert done.stderr.count("\n") == 1


def test_an_unknown_case(modules: Any, capsys: Any) -> None:
    assert modules.gpu.main(["--device", "cpu", "--only", "no such norm"]) == 2
    assert "no case" in capsys.readouterr().err
