"""NUMBA_DISABLE_JIT=1, with which people look for faults in kernels of their own: one sentence, at the first call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SENTENCE = (
    "NUMBA_DISABLE_JIT must be 0 or unset, for kernels are compiled by Numba and nothing else can run them: got 1; "
    "unset it before Python starts"
)
ARRAYS = """
import numpy as np, numbanorm
x = np.arange(12, dtype=np.float32).reshape(4, 3)
mean, var, count, out = np.zeros(3), np.ones(3), np.array(0), np.full((4, 3), 7, np.float32)
stats = numbanorm.Stats(np.zeros(4), np.ones(4))
layer = numbanorm.BatchNorm1d(3)
"""
CALLS = {
    "layer_norm": "numbanorm.layer_norm(x, 3, out=out)",
    "rms_norm": "numbanorm.rms_norm(x.T, 4)",
    "group_norm": "numbanorm.group_norm(x, 3, backend='cpu')",
    "instance_norm": "numbanorm.instance_norm(x[None], mean, var)",
    "batch_norm": "numbanorm.batch_norm(x, mean, var, training=True, num_batches_tracked=count, out=out)",
    "nothing": "numbanorm.layer_norm(x[:0], 3)",
    "gradients": "numbanorm.layer_norm_backward(x, x, 3, stats, out=out)",
    "moments": "numbanorm.moments(x)",
    "update": "numbanorm.Moments().update(x)",
    "layer": "layer(x)",
    "explain": "numbanorm.explain(numbanorm.layer_norm, x, 3)",
    "warmup": "numbanorm.warmup()",
}


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1", **variables}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=200, check=False)


def printed(code: str, **variables: str) -> list[str]:
    done = run("-c", code, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_call_says_so_and_changes_nothing() -> None:
    """And the second call says it again."""
    attempts = "".join(f"\ntry:\n    {call}\nexcept ValueError as error:\n    print(error)\n" for call in CALLS.values())
    same = "print(mean.any(), (var == 1).all(), count, (out == 7).all(), layer.num_batches_tracked, layer.running_mean.any())"
    assert printed(ARRAYS + attempts + same) == [SENTENCE] * len(CALLS) + ["False True 0 True 0 False"]


def test_what_computes_nothing_works() -> None:
    """`info` imports a part of what would compute; the sentence comes after it too."""
    code = (
        "facts = numbanorm.info(); print(facts['threads'])\ntry:\n    layer(x)\nexcept ValueError as error:\n    print(error)"
    )
    assert printed(ARRAYS + code, NUMBA_NUM_THREADS="2") == ["2", SENTENCE]
    done = run("-m", "numbanorm", "info")
    assert (done.returncode, done.stderr) == (0, "")


def test_zero_is_not_one() -> None:
    assert printed(ARRAYS + "print(numbanorm.layer_norm(x, 3).shape)", NUMBA_DISABLE_JIT="0") == ["(4, 3)"]


def test_command_line(tmp_path: Path) -> None:
    numbers = tmp_path / "x.npy"
    assert printed(f"{ARRAYS}np.save({str(numbers)!r}, x)") == []
    for command in (
        ["normalize", str(numbers), str(tmp_path / "y.npy"), "--norm", "layer"],
        ["demo", "--out", str(tmp_path / "d.png")],
    ):
        done = run("-m", "numbanorm", *command)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"numbanorm: error: {SENTENCE}")
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_simulated_gpu() -> None:
    """Whose kernels Python runs: they are compiled nowhere."""
    code = "print(numbanorm.layer_norm(x, 3, backend='cuda').shape)"
    assert printed(ARRAYS + code, NUMBA_ENABLE_CUDASIM="1") == ["(4, 3)"]
