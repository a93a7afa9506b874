"""What importing costs and brings along, and what the package says of itself."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbanorm


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("used", ["", "; numbanorm.layer_norm(numpy.ones((2, 3)), 3)"], ids=["imported", "used"])
def test_import_brings_no_framework_along(used: str) -> None:
    """Neither the import nor a call on NumPy's own types needs what only some users have."""
    unwanted = ("numba.cuda", "torch", "ml_dtypes", "matplotlib", "onnxruntime")
    code = f"import sys, numpy, numbanorm{used}; print([name for name in {unwanted} if name in sys.modules])"
    assert python(code) == "[]"


def test_import_is_quick() -> None:
    """At most 0.3 s on top of Numba: the best of three, for another process may take the CPU meanwhile."""
    code = "import time, numba; start = time.perf_counter(); import numbanorm; print(time.perf_counter() - start)"
    assert min(float(python(code)) for _ in range(3)) < 0.3


def test_public_names() -> None:
    promised = {"batch_norm", "layer_norm", "instance_norm", "group_norm", "rms_norm", "moments", "Moments", "Stats"}
    assert promised | {"explain", "show_versions"} <= set(numbanorm.__all__)
    for name in numbanorm.__all__:
        assert (getattr(numbanorm, name).__doc__ or "").strip(), name


EXPLAINED = [
    pytest.param(numbanorm.layer_norm, (np.ones((4, 768)), 768), {}, "runs", id="rows"),
    pytest.param(numbanorm.rms_norm, (np.ones((4, 768), np.float16), 768), {}, "runs", id="rms_rows"),
    pytest.param(numbanorm.group_norm, (np.ones((2, 4, 30)), 2), {}, "runs", id="groups"),
    pytest.param(numbanorm.instance_norm, (np.ones((2, 400, 3)),), {"channel_axis": -1}, "columns", id="last"),
    pytest.param(numbanorm.batch_norm, (np.ones((50, 3)),), {"training": True}, "columns", id="features"),
    pytest.param(numbanorm.batch_norm, (np.ones((3, 2, 400)),), {"training": True}, "runs", id="long_runs"),
]


@pytest.mark.parametrize(("norm", "args", "options", "family"), EXPLAINED)
def test_explain_names_backend_family_and_reason(norm: Any, args: tuple[Any, ...], options: Any, family: str) -> None:
    text = str(numbanorm.explain(norm, *args, **options))
    assert "cpu" in text
    assert f"family {family}" in text
    reason = text.partition(":")[2]
    assert "contiguous elements" in reason
    assert "threads" in text


def test_explain_changes_nothing() -> None:
    x, out = np.arange(12.0).reshape(4, 3), np.zeros((4, 3))
    mean, var, count = np.zeros(3), np.ones(3), np.array(0)
    numbanorm.explain(numbanorm.batch_norm, x, mean, var, training=True, num_batches_tracked=count, out=out)
    assert (mean.tolist(), var.tolist(), int(count)) == ([0] * 3, [1] * 3, 0)
    assert not out.any()


def test_explain_refuses_what_the_call_refuses() -> None:
    with pytest.raises(ValueError, match="num_groups must divide the channels"):
        numbanorm.explain(numbanorm.group_norm, np.ones((2, 6)), 4)
    with pytest.raises(ValueError, match="backend must be"):
        numbanorm.explain(numbanorm.layer_norm, np.ones((2, 6)), 6, backend="gpu")


def test_explain_of_nothing() -> None:
    assert "empty" in str(numbanorm.explain(numbanorm.layer_norm, np.ones((0, 6)), 6))


def test_show_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert numbanorm.show_versions() is None
    printed = capsys.readouterr().out
    for word in ("numbanorm", numbanorm.__version__, "numba", "numpy", np.__version__, "cpu", "vectors", "threading layer"):
        assert word in printed
    file = io.StringIO()
    numbanorm.show_versions(file)
    assert file.getvalue() == printed


def test_bfloat16_works_when_its_package_is_there() -> None:
    x = np.array([[1.0, 2.0, 3.0]], ml_dtypes.bfloat16)
    assert numbanorm.layer_norm(x, 3, eps=0.0).astype(float).tolist() == [[-1.2265625, 0.0, 1.2265625]]
