"""benchmarks/gpu_facts.py, as far as a machine without a GPU can tell."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_facts as facts
from benchmarks import gpu_facts_kernels as kernels
from numbanorm.backends import dispatch

needs_compiler = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")


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


@needs_compiler
def test_the_kernels_that_are_prepared_are_those_of_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Loading:
        multiprocessors = 1

        def load(self, *key: Any) -> Any:
            loaded.append(key)
            raise LookupError

        def room(self, n: int) -> Any:
            return None, 0

    for question in (facts.rates, facts.clusters):
        question(Loading())  # type: ignore[arg-type]
    assert set(loaded) < set(kernels.needed())
    assert len(set(loaded)) == len(kernels.needed()) - 3, "but one of shared memory and two that are empty"
