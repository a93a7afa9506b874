"""Kernels on disk and kernels in threads: whatever the folder, the process or the threading layer, the same bits and no
word of complaint. Every test runs interpreters of its own, for both are settled when Numba is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbanorm

X = np.arange(40, dtype=np.float32).reshape(4, 10) ** 2

CALL = """
import json, time
import numpy as np
import numbanorm
from numbanorm.cpu.launch import FAMILIES
x = np.arange(40, dtype=np.float32).reshape(4, 10) ** 2
start = time.perf_counter()
y = numbanorm.layer_norm(x, 10)
seconds = time.perf_counter() - start
stats = FAMILIES["runs"].stats
loaded, compiled = sum(stats.cache_hits.values()), sum(stats.cache_misses.values())
print(json.dumps({"y": y.tobytes().hex(), "seconds": seconds, "loaded": loaded, "compiled": compiled}))
"""


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-c", code]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "check": False}
    return subprocess.run(command, env={**os.environ, **environment}, **options)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """What it printed; it must have ended well and complained of nothing."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def first_call(folder: Path | str, **environment: str) -> dict[str, Any]:
    """One call in a process of its own, with its kernels in `folder`: the right bits, and how they were had."""
    told: dict[str, Any] = json.loads(printed(child(CALL, NUMBA_CACHE_DIR=str(folder), **environment)))
    assert told["y"] == numbanorm.layer_norm(X, 10).tobytes().hex()
    assert told["loaded"] + told["compiled"] == 1
    return told


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file, with size and time of its last change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder after one process has used it."""
    folder = tmp_path_factory.mktemp("filled")
    assert first_call(folder)["compiled"] == 1
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def test_second_process_compiles_nothing(folder: Path) -> None:
    before = contents(folder)
    assert {Path(name).suffix for name in before} == {".nbi", ".nbc"}
    told = first_call(folder)
    assert told["loaded"] == 1
    assert told["seconds"] < 1.0  # a load takes 0.1 s and a compilation 2 s or more; the rest is for a busy machine
    assert contents(folder) == before


DAMAGE = {"cut in half": lambda data: data[: len(data) // 2], "empty": lambda data: b""}


@pytest.mark.parametrize(("suffix", "damage"), [(".nbi", "cut in half"), (".nbc", "empty")])
def test_damaged_files_cost_one_compilation(suffix: str, damage: str, folder: Path) -> None:
    """As a full disk or a crash leaves them. The process that meets them puts them right."""
    spoilt = list(folder.rglob(f"*{suffix}"))
    assert spoilt
    for path in spoilt:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert first_call(folder)["compiled"] == 1
    assert first_call(folder)["loaded"] == 1, "the damage is still there"


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a folder")
    assert first_call(path)["compiled"] == 1
    assert path.read_text() == "not a folder"


def read_only_folder(tmp_path: Path) -> Path:
    """One that this user cannot write to; for root, to whom permissions do not apply, one that the kernel guards."""
    tmp_path.chmod(0o500)
    if not os.access(tmp_path, os.W_OK):
        return tmp_path
    if Path("/proc/self").is_dir():
        return Path("/proc")
    pytest.skip("permissions do not bind this user, and there is no /proc: no folder is read-only here")


def test_read_only_folder(tmp_path: Path) -> None:
    folder = read_only_folder(tmp_path)
    try:
        assert first_call(folder)["compiled"] == 1
        assert not list(folder.glob("numbanorm*"))
    finally:
        tmp_path.chmod(0o700)


def test_switched_off(folder: Path) -> None:
    before = contents(folder)
    assert first_call(folder, NUMBANORM_CACHE="0")["compiled"] == 1
    assert contents(folder) == before


@pytest.mark.parametrize("change", ["a comment in another file", "a new file", "the tree", "the compiler"])
def test_key_changes_with(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel was compiled from is more than the file it stands in."""
    kernel = import_module("numbanorm.cpu.kernel")  # as an attribute of the package, this may be a function
    sources = Path(shutil.copytree(Path(kernel.__file__).parent, tmp_path / "cpu"))
    tree = Path(shutil.copy(Path(kernel.__file__).parent.parent / "tree.py", tmp_path))
    monkeypatch.setattr(kernel, "__file__", str(sources / "kernel.py"))
    before = kernel.source_key()
    assert kernel.source_key() == before
    if change == "a comment in another file":
        sources.joinpath("sums.py").write_text(sources.joinpath("sums.py").read_text() + "# changed\n")
    elif change == "a new file":
        sources.joinpath("new.py").write_text("")
    elif change == "the tree":
        tree.write_text(tree.read_text() + "# changed\n")
    else:
        monkeypatch.setattr(kernel.llvmlite, "__version__", "0")
    assert kernel.source_key() != before


LAYERS = ["omp", "workqueue", "tbb"]
# large enough for more than one thread, with rows, columns, and a group that is cut
NORMS = """
import os, sys, threading
import numba, numpy as np
import numbanorm
x = np.random.default_rng(0).normal(1, 2, (64, 1024)).astype(np.float32)
norms = [
    lambda: numbanorm.layer_norm(x, 1024),
    lambda: numbanorm.batch_norm(x, training=True),
    lambda: numbanorm.group_norm(x[None], 1),
    lambda: numbanorm.rms_norm(x, 1024, method="welford"),
]
def bits():
    return [norm().tobytes() for norm in norms]
"""

FORK = """
want = bits()
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"], numba.threading_layer()
child = os.fork()
if child == 0:
    os._exit(0 if bits() == want else 3)
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("child", ended, "parent", bits() == want)
"""

THREADS = """
found, start = [], threading.Barrier(4)
def work():
    start.wait()
    found.extend(bits() for _ in range(8))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"], numba.threading_layer()
numba.set_num_threads(1)
print(len(found), all(f == bits() for f in found))
"""


def in_layer(code: str, layer: str) -> str:
    """Run in two threads of `layer`, however many cores there are."""
    done = child(NORMS + code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"Numba cannot load the threading layer {layer!r} on this machine")
    return printed(done)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("layer", LAYERS)
def test_child_forked_after_a_parallel_call(layer: str) -> None:
    """Of the pool that the parent's call has started, no thread is in the child."""
    assert in_layer(FORK, layer) == "child 0 parent True"


@pytest.mark.parametrize("layer", LAYERS)
def test_calls_from_several_threads_at_once(layer: str) -> None:
    """From the first call on, which is the one that starts the pool."""
    assert in_layer(THREADS, layer) == "32 True"
