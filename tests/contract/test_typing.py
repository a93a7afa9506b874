"""What mypy sees of a call, and that the types are those of the functions."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import numbanorm
from numbanorm.spec.norms import NORMS

STUB = Path(numbanorm.__file__).with_name("functional") / "__init__.pyi"
CALLS = """
from typing import assert_type
import numpy as np
import numbanorm as nb
from numbanorm.spec.checks import Array

x = np.ones((2, 4, 6), np.float32)
flag = bool(x.size)
{calls}
assert_type(nb.layer_norm(x, 6, residual=x, return_residual=True), tuple[Array, Array])
assert_type(nb.rms_norm(x, 6, residual=x, return_residual=True, return_stats=True), tuple[Array, Array, nb.Stats])
y, stats = nb.layer_norm(x, 6, exact=True, method="welford", return_stats=True)
y.round(2)
"""
NORM_CALLS = """
assert_type(nb.{name}({given}), Array)
assert_type(nb.{name}({given}, return_stats=False, exact=True), Array)
assert_type(nb.{name}({given}, return_stats=True, out=x), tuple[Array, nb.Stats])
assert_type(nb.{name}({given}, return_stats=flag), {either})
"""
RESULT = "Array | tuple[Array, nb.Stats]"
EITHER = RESULT + " | tuple[Array, Array] | tuple[Array, Array, nb.Stats]"
SUMS = ("layer_norm", "rms_norm", "group_norm")  # have residual
GIVEN = {
    "layer_norm": "x, 6, None, None",
    "rms_norm": "x, (6,), eps=1e-6",
    "group_norm": "x, 2, channel_axis=1",
    "instance_norm": 'x, momentum=None, convention="keras"',
    "batch_norm": "x, training=True, channel_axis=-1",
}


def mypy(folder: Path, code: str) -> str:
    """What mypy in strict mode says of a program that uses the package; empty if nothing."""
    (folder / "program.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={folder}", "program.py"]
    environment = {"MYPYPATH": str(STUB.parents[1]), "PATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy, of the [lint] extra, is not installed")
def test_mypy_sees_what_comes_back(tmp_path: Path) -> None:
    assert GIVEN.keys() == NORMS.keys()
    calls = "".join(
        NORM_CALLS.format(name=name, given=given, either=EITHER if name in SUMS else RESULT) for name, given in GIVEN.items()
    )
    of_program = [line for line in mypy(tmp_path, CALLS.format(calls=calls)).splitlines() if line.startswith("program")]
    assert of_program == []
    assert "has no attribute" in mypy(tmp_path, "import numbanorm as nb, numpy as np\nnb.layer_norm(np.ones(3), 3).mean_of()\n")


@pytest.mark.parametrize("name", NORMS)
def test_types_have_the_arguments_of_the_function(name: str) -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8")).body
    classes = {node.name: node for node in tree if isinstance(node, ast.ClassDef)}

    def keys(cls: str) -> list[str]:
        own = [node.target.id for node in classes[cls].body if isinstance(node, ast.AnnAssign)]
        return own + [key for base in classes[cls].bases if base.id in classes for key in keys(base.id)]

    function = inspect.signature(getattr(numbanorm, name)).parameters
    found = [node for node in tree if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(found) == (5 if "return_residual" in function else 3)
    for node in found:
        assert [a.arg for a in node.args.args] == [p.name for p in function.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
        annotation = node.args.kwarg.annotation
        named = {a.arg for a in node.args.kwonlyargs} | set(keys(annotation.slice.id))
        assert named == {p.name for p in function.values() if p.kind == p.KEYWORD_ONLY}


def test_dir_has_the_public_names() -> None:
    assert set(dir(numbanorm)) == {*numbanorm.__all__, "__doc__", "__version__"}
