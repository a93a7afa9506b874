"""benchmarks/gpu_facts.py and benchmarks/on_gpu.sh, as far as a machine without a GPU can tell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_facts as facts
from benchmarks import gpu_facts_kernels as kernels
from numbanorm.backends import dispatch

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed: on_gpu.sh is written for it")


def test_arithmetic() -> None:
    operations = 1024 * 8 * 4096  # of the kernel, each of its steps being one
    assert facts.per_cycle(1, [operations // 64, operations // 128]) == 64
    assert facts.per_cycle(2, [operations // 64]) == 128
    assert facts.terabytes(3e9, 1e-3) == pytest.approx(3)
    assert facts.spread([3e-6, 1e-6, 8e-6]) == pytest.approx({"us": 3, "us_least": 1, "us_most": 8})


def test_a_question_that_fails_costs_its_own_answer() -> None:
    def ask() -> None:
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED:\n  launch failed")

    assert facts.attempt(lambda: 3) == 3
    assert facts.attempt(ask) == {"error": "RuntimeError: CUDA_ERROR_LAUNCH_FAILED: launch failed"}
    assert facts.errors({"a": facts.attempt(ask), "b": {"c": 1, "d": facts.attempt(ask)}, "e": [1], "error": "of four"}) == 2


def test_the_wait_for_the_device_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(facts.time, "perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    found = facts.host_seconds(lambda: spend(2.0), lambda: spend(100.0), calls=5, rounds=3)
    assert found == [2.0] * 3


def test_without_a_device_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dispatch, "why_no_cuda", lambda: "there is no driver")
    assert facts.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch("there is no CUDA device to ask: .*\n", said.err)


def test_answers_are_saved_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "facts.json"
    asked: dict[str, Any] = {
        "one": lambda d: 1,
        "two": lambda d: {"seen": json.loads(saved.read_text())},
        "not": lambda d: 1 / 0,
    }
    monkeypatch.setattr(dispatch, "why_no_cuda", lambda: None)
    monkeypatch.setattr(facts, "Device", object)
    monkeypatch.setattr(facts, "QUESTIONS", asked)
    assert facts.main(["--json", str(saved), "--only", "one|two"]) == 0
    assert json.loads(saved.read_text()) == {"one": 1, "two": {"seen": {"one": 1}}}
    assert json.loads(capsys.readouterr().out) == json.loads(saved.read_text())
    assert facts.main(["--json", str(saved)]) == 1
    assert json.loads(saved.read_text())["not"] == {"error": "ZeroDivisionError: division by zero"}


def ptx(function: Any, kinds: tuple[str, ...]) -> str:
    from numbanorm.cuda import compiler

    kernel = compiler.Kernel(lambda: function, (), 32)
    return compiler.linked(compiler.intermediate(kernel, kinds, (9, 0)), (9, 0), "ptx")[0].decode()


@needs_compiler
@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("convert_up", ["cvt.f64.f32"]),
        ("convert_down", ["cvt.rn.f32.f64"]),
        ("convert_both", ["cvt.f64.f32", "cvt.rn.f32.f64"]),
        ("fma_f32", ["fma.rn.f32"]),
        ("add_f64", ["add.rn.f64"]),
        ("fma_f64", ["fma.rn.f64"]),
        ("shuffle_32", ["shfl.sync.bfly.b32"]),
    ],
)
def test_a_rate_is_that_of_its_instruction(name: str, instructions: list[str]) -> None:
    """The loop holds it once for each chain, however often it is unrolled; and no conversion but those measured."""
    kind = "float64" if name.endswith("f64") else "float32"
    text = ptx(kernels.rate_kernel(name), ("int64", kind, "int"))
    loop = text[text.index("%clock64") : text.rindex("%clock64")]
    assert len(instructions) == kernels.code()["steps"][name][1]
    for instruction in instructions:
        assert loop.count(instruction) > 0
        assert loop.count(instruction) % kernels.CHAINS == 0
    measured = loop.count("cvt.f64.f32") + loop.count("cvt.rn.f32.f64")
    assert measured == (sum(map(loop.count, instructions)) if name.startswith("convert") else 0)


@needs_compiler
def test_a_kernel_can_ask_for_clusters() -> None:
    asks = [".reqnctapercluster 4, 1, 1" in ptx(kernels.cluster_kernel(inside), ("int64",)) for inside in (False, True)]
    assert asks == [False, True]


@needs_compiler
def test_kernels_that_do_little_are_not_optimized_away() -> None:
    assert "st.shared" in ptx(kernels.shared_kernel(), ("int64", "int"))
    assert ptx(kernels.empty_kernel(6, 6), ("float32",) * 6 + ("int",) * 6).count(".param .u64") == 12


TESTS = """
import os, pytest
def test_first(): pass
def test_lost(): pytest.exit("the device is lost", returncode=66)
def test_after(): pass
def test_wrong(): assert False
def test_crash(): os.abort()
def test_last(): pass
"""


def on_gpu(folder: Path, program: str) -> tuple[int, dict[str, str]]:
    """on_gpu.sh in a project of nothing but stand-ins -> status, and a line of the summary for each part."""
    for name, text in {
        "benchmarks/gpu_facts.py": program,
        "benchmarks/gpu.py": "print('a table')",
        "tests/cuda/test_cuda_gpu.py": TESTS,
        "tests/cuda/test_cuda_gpu_interop.py": "def test_carried(): pass",
        "tests/cuda/test_cuda_table.py": "def test_table(): pass",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    shutil.copy(ROOT / "benchmarks" / "on_gpu.sh", folder / "benchmarks")
    command = ["bash", str(folder / "benchmarks" / "on_gpu.sh"), "results"]
    environment = {**os.environ, "PYTHON": sys.executable, "BUDGET": "100"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False)
    lines = (folder / "results" / "summary.txt").read_text().splitlines()
    return done.returncode, {line.split()[0]: line for line in lines}


@pytest.mark.long
@needs_bash
def test_no_failure_stops_the_command(tmp_path: Path) -> None:
    """Nor does a test that ends its process: those after it are run by another."""
    status, said = on_gpu(tmp_path, "raise SystemExit(1)")
    assert status == 1
    assert list(said) == ["facts", "shared", "gpu", "table", "sanitizer", "benchmark"]
    assert "FAILED (1)" in said["facts"]
    assert "ok: 1 passed" in said["shared"]
    log = (tmp_path / "results" / "gpu.log").read_text()
    for name, times in (("first", 1), ("after", 1), ("last", 1)):
        assert len(re.findall(rf"test_{name} PASSED", log)) == times
    assert len(re.findall("test_wrong FAILED", log)) == 1
    assert "FAILED" in said["gpu"]
    assert "ok: 1 passed" in said["table"]
    assert "FAILED (5): no test ran" in said["sanitizer"]
    assert "ok: a table" in said["benchmark"]


@needs_bash
def test_without_a_device_the_command_ends_at_once(tmp_path: Path) -> None:
    status, said = on_gpu(tmp_path, "import sys; sys.exit('there is no CUDA device to ask' and 2)")
    assert (status, list(said)) == (1, ["facts"])
