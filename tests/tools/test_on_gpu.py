"""benchmarks/on_gpu.sh on a likeness of the machine that it is for: everything but the launches; see also `.ci/pythons`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "on_gpu.sh"
needs_compiler = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed: on_gpu.sh is written for it")
CASES = "^(layer-5x64-last1 float32|layer 8192x8192 rows float32 forward)"


def run(script: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHON": sys.executable, "BUDGET": "100", **environment}
    done = subprocess.run(
        ["bash", str(script), *arguments], env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    return done.returncode, done.stdout + done.stderr


def summary(folder: Path) -> dict[str, str]:
    """A line for each stage."""
    return {line.split()[0]: line for line in (folder / "summary.txt").read_text().splitlines()}


@needs_compiler
def test_all_but_the_launches(tmp_path: Path) -> None:
    """Prepared, in a dry run: each stage finds each kernel that it would launch."""
    carried, out = tmp_path / "carried", tmp_path / "out"
    at = {"CARRIED": str(carried), "NUMBA_CACHE_DIR": str(tmp_path / "compiled")}
    status, said = run(SCRIPT, "prepare", "--only", CASES, "--no-facts", **at)
    assert status == 0, said
    truth = json.loads((carried / "truth.json").read_text())
    assert list(truth) == [f"layer-5x64-last1 float32 {mode}" for mode in ("default", "exact")]
    assert {"y", "mean", "rstd", "dx", "dweight", "dbias"} == truth["layer-5x64-last1 float32 exact"].keys()
    at["NUMBA_CACHE_DIR"] = str(tmp_path / "device")  # with nothing in it but what is carried
    status, said = run(SCRIPT, str(out), DRY="1", ONLY=CASES, **at)
    assert "FAILED (1): 12 kernels, 12 not prepared" in said, "the facts', which --no-facts left out"
    found = summary(out)
    assert list(found)[:7] == ["load", "bits", "ratios", "speed", "facts", "tests", "sanitizer"]
    for stage in ("load", "bits", "ratios"):
        assert "ok: " in found[stage], said
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["load", "bits", "bits", "ratios", "ratios"]
    assert len(list(out.iterdir())) <= 8
    for path in (carried / "cubins").iterdir():
        path.unlink()
    at["NUMBA_CACHE_DIR"] = str(tmp_path / "empty")
    run(SCRIPT, str(out), DRY="1", ONLY=CASES, **at)
    assert "not prepared: rows_forward" in summary(out)["bits"]


@needs_compiler
def test_bits_are_compared(tmp_path: Path) -> None:
    """By the interpreter of the compiled PTX in place of a GPU; what is not as the CPU has it is named."""
    import gpu_first
    import rings

    if rings.chosen() != "interpreter":
        pytest.skip("there is a GPU, or its simulator: test_cuda_table compares there")
    (tmp_path / "truth.json").write_text("{}")
    asked = {"only": "^layer-5x64-last1 float32 exact", "few": False, "dry": False, "truth": tmp_path / "truth.json"}
    results = str(tmp_path / "results.jsonl")
    for wrong in (False, True):
        with rings.installed() as ring, pytest.MonkeyPatch.context() as patch:
            if wrong:
                patch.setattr(gpu_first, "on_cpu", lambda *_, right=gpu_first.on_cpu: right(*_) | {"dx": "another"})
                Path(results).unlink()
            for _ in range(2):  # what has been answered is not asked again
                gpu_first.bits(ring, answers := gpu_first.Answers(results, "bits", False), argparse.Namespace(**asked))
        (line,) = [json.loads(line) for line in Path(results).read_text().splitlines()]
        assert line["right"] is not wrong
        assert ("aligned" in line, "shifted" in line) == (wrong, wrong)
        assert answers.wrong == 0, "of the second run"
    assert line["aligned"] == ["dx"]


FIRST = """
import os, sys
folder = os.environ["CARRIED"]
stage = next(a for a in sys.argv if a in ("load", "bits", "ratios", "counted"))
count = len(open(f"{folder}/{stage}", "a+").write("x") and open(f"{folder}/{stage}").read())
print(stage, "for the", count)
sys.exit({"load": int(os.environ.get("LOAD", 0)), "bits": 66 if count < 3 else 0}.get(stage, 1))
"""


def pretended(folder: Path) -> Path:
    """on_gpu.sh among stand-ins of what it runs."""
    for name, text in {
        "tests/support/gpu_first.py": FIRST,
        "benchmarks/gpu_facts.py": "print('facts')",
        "benchmarks/gpu.py": "print('a table')",
        "tests/cuda/test_cuda_gpu.py": "def test_stream(): pass",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    return Path(shutil.copy(SCRIPT, folder / "benchmarks"))


def stages(tmp_path: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    script = pretended(tmp_path / "project")
    (tmp_path / "carried").mkdir()
    status, _ = run(script, str(tmp_path / "out"), CARRIED=str(tmp_path / "carried"), **environment)
    return status, summary(tmp_path / "out")


def test_a_lost_context_and_a_failure_stop_nothing(tmp_path: Path) -> None:
    status, found = stages(tmp_path)
    assert status == 1
    assert "ok: load" in found["load"]
    assert "ok: bits" in found["bits"]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("bits for the") == 3, "begun again for as long as the context is lost"
    assert "FAILED (1)" in found["ratios"]
    assert "ok: facts" in found["facts"]


def test_without_a_device_the_command_ends_at_once(tmp_path: Path) -> None:
    status, found = stages(tmp_path, LOAD="1")
    assert (status, list(found)) == (1, ["load"])


def test_the_budget_is_kept(tmp_path: Path) -> None:
    status, found = stages(tmp_path, BUDGET="0")
    assert "the time was up" in found["load"]
    assert (status, list(found)) == (1, ["load"])
