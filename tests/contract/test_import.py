"""What importing costs and brings along, and what the package says of itself."""

from __future__ import annotations

import ast
import graphlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest

import numbanorm

PACKAGE = Path(numbanorm.__file__).parent
# the floors of the package, from the ground up: what stands on one imports only from those below it, and within its own part
FLOORS = (
    {"spec", "runtime"},
    {"communicators", "pairs", "saved"},
    {"cpu", "cuda"},
    {"backends"},
    {"execute"},
    {"merging", "reference"},
    {"moments"},
    {"synchronized"},
    {"functional", "gradients", "standardize"},
    {"explained", "interop", "jit", "layers", "precompile", "versions"},
    {"bench", "commands", "demo"},
    {"cli"},
    {"__main__"},
)
# what computes must not know of them; whoever has one of their arrays has imported them already
FRAMEWORKS = {"torch", "ml_dtypes", "matplotlib", "onnxruntime", "cupy"}


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
    """At most 0.3 s of CPU on top of Numba: the best of three, and no wall time, for others may take the CPU meanwhile."""
    code = "import time, numba; start = time.process_time(); import numbanorm; print(time.process_time() - start)"
    assert min(float(python(code)) for _ in range(3)) < 0.3


def imported(file: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, and of what it imports from them, anywhere in it."""
    inside = file.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = inside[: -node.level] if node.level else ()
            module = ".".join((*start, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    """The module that a full name of the package is in: `numbanorm.spec.plan.Plan` is in `numbanorm.spec.plan`."""
    parts = name.split(".")
    while not PACKAGE.parent.joinpath(*parts).with_suffix(".py").exists():
        if PACKAGE.parent.joinpath(*parts, "__init__.py").exists():
            return ".".join([*parts, "__init__"])
        parts.pop()
    return ".".join(parts)


def graph() -> dict[str, set[str]]:
    """The modules of the package, and which of the others each imports, anywhere in it."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        own = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        names = {module_of(name) for name in imported(file) if name.split(".")[0] == "numbanorm"}
        found[own] = names - {own, "numbanorm.__init__"}
    return found


def test_what_is_imported_is_seen() -> None:
    """Relative, absolute and within functions."""
    found = graph()
    assert {"numbanorm.spec.call", "numbanorm.cpu.launch"} <= found["numbanorm.cpu.backend"]
    assert "numbanorm.cpu.backend" in found["numbanorm.backends.host"]
    assert "numbanorm.demo" in found["numbanorm.cli"]
    assert "numpy" in set(imported(PACKAGE / "spec" / "checks.py"))


def test_there_is_no_circle() -> None:
    """Neither among modules nor among the folders of a backend."""
    found = graph()
    graphlib.TopologicalSorter(found).prepare()  # raises CycleError, which names it
    for part in ("cpu", "cuda"):
        folders: dict[str, set[str]] = {}
        for module, others in found.items():
            if module.startswith(f"numbanorm.{part}."):
                own = ".".join(module.split(".")[:3])
                folders.setdefault(own, set()).update(".".join(o.split(".")[:3]) for o in others if f".{part}." in o)
                folders[own] -= {own}
        graphlib.TopologicalSorter(folders).prepare()


def test_imports_only_go_down() -> None:
    floor = {part: level for level, parts in enumerate(FLOORS) for part in parts}
    for module, others in graph().items():
        part = module.split(".")[1]
        if part == "__init__":
            continue  # the package itself, which offers what is public
        for other in others:
            below = other.split(".")[1]
            assert below == part or floor[below] < floor[part], f"{module} imports {other}"


def test_what_computes_knows_no_framework() -> None:
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        names = [name.split(".") for name in imported(file)]
        if part not in ("bench", "interop", "demo"):
            assert FRAMEWORKS.isdisjoint(name[0] for name in names), file
        if part not in ("cuda", "bench"):
            assert ["numba", "cuda"] not in [name[:2] for name in names], file


def conditional(value: ast.expr | None) -> bool:
    """Whether an expression is a conditional one, or is made of one by a tuple or a conversion."""
    if isinstance(value, ast.Tuple):
        return any(map(conditional, value.elts))
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("int32", "float64"):
        return any(map(conditional, value.args))
    if isinstance(value, ast.BinOp):
        return conditional(value.left) or conditional(value.right)
    return isinstance(value, ast.IfExp)


def test_cuda_kernels_have_the_same_blocks_in_every_python() -> None:
    """What follows a conditional expression 3.12 writes twice, if it is short; see `numbanorm.cuda.arith.intrinsics.device`."""
    files = [
        file for file in sorted((PACKAGE / "cuda").rglob("*.py")) if "numbanorm.cuda.arith.device.device" in set(imported(file))
    ]
    assert len(files) > 8
    for file in files:
        returns = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Return)]
        assert [f"{file.name}:{node.lineno}" for node in returns if conditional(node.value)] == []
    for bad in ("a if c else b", "int32(a if c else b)", "(a, b if c else d)", "a + (b if c else d)"):
        assert conditional(ast.parse(bad, mode="eval").body)


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


def test_explain_names_the_threads() -> None:
    """One for what is small, for to wake the others takes longer; all of those that Numba has for what is large."""
    every = numba.get_num_threads()
    assert f", 1 of {every} threads:" in numbanorm.explain(numbanorm.layer_norm, np.ones((8, 16), np.float32), 16)
    large = np.ones((64 * every, 2048), np.float32)
    assert f", {every} of {every} threads:" in numbanorm.explain(numbanorm.layer_norm, large, 2048)
    assert f", {every} of {every} threads:" in numbanorm.explain(numbanorm.group_norm, large[None], 1)


def test_explain_says_how_numbers_are_computed() -> None:
    x = np.ones((8, 16), np.float32)
    assert "read once for its sums and squares; results are computed in float32" in numbanorm.explain(
        numbanorm.layer_norm, x, 16
    )
    told = numbanorm.explain(numbanorm.layer_norm, x, 16, exact=True, method="two_pass")
    assert "read for its sums, and again" in told
    assert told.endswith("results are float64 numbers rounded once")
    assert told == numbanorm.explain(numbanorm.layer_norm, x.astype(np.float64), 16)
    assert "x is read" not in numbanorm.explain(numbanorm.rms_norm, x, 16)


@pytest.mark.parametrize("training", [True, False])
def test_explain_changes_nothing(training: bool) -> None:
    arrays = [np.arange(12.0).reshape(4, 3), np.zeros(3), np.ones(3), np.full(3, 2.0), np.ones(3)]
    out, count = np.full((4, 3), -7.0), np.array(0)
    before = [a.tobytes() for a in (*arrays, out, count)]
    assert numbanorm.explain(numbanorm.batch_norm, *arrays, training, num_batches_tracked=count, out=out)
    assert [a.tobytes() for a in (*arrays, out, count)] == before


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


def test_info_says_all_that_is_printed() -> None:
    facts = numbanorm.info()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert facts["numbanorm"] == numbanorm.__version__
    assert facts["numba"] == numba.__version__
    assert facts["threads"] == str(numba.get_num_threads())
    assert facts["threading layer"] in ("omp", "tbb", "workqueue")
    file = io.StringIO()
    numbanorm.show_versions(file)
    assert [line.split("  ", 1)[0].strip() for line in file.getvalue().splitlines()] == list(facts)


def test_bfloat16_works_when_its_package_is_there() -> None:
    x = np.array([[1.0, 2.0, 3.0]], ml_dtypes.bfloat16)
    assert numbanorm.layer_norm(x, 3, eps=0.0).astype(float).tolist() == [[-1.2265625, 0.0, 1.2265625]]
