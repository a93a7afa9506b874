"""Kernels on disk and kernels in threads: whatever the folder, the process or the threading layer, the same bits, and one
word of complaint at most. Most tests run interpreters of their own, for both are settled when Numba is imported."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import numbanorm
from numbanorm.runtime import cache

X = np.arange(40, dtype=np.float32).reshape(4, 10) ** 2
PACKAGE = Path(numbanorm.__file__).parent

CALL = """
import json, os, time
import numpy as np
import numbanorm
from numbanorm.cpu.launch import FAMILIES
x = np.arange(40, dtype=os.environ.get("DTYPE", "float32")).reshape(4, 10) ** 2
start = time.perf_counter()
y = numbanorm.layer_norm(x, 10)
seconds = time.perf_counter() - start
stats = FAMILIES["runs"].stats
loaded, compiled = sum(stats.cache_hits.values()), sum(stats.cache_misses.values())
print(json.dumps({"y": y.tobytes().hex(), "seconds": seconds, "loaded": loaded, "compiled": compiled}))
"""


def child(code: str, strict: bool = True, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, in which every warning is an error if `strict`; it imports from `cwd` before all else."""
    command = [sys.executable, *(["-W", "error"] if strict else []), "-c", code]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 480, "check": False, "cwd": cwd}
    return subprocess.run(command, env={**os.environ, **environment}, **options)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """What it printed; it must have ended well and complained of nothing."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def bits(dtype: str = "float32") -> str:
    return numbanorm.layer_norm(X.astype(dtype), 10).tobytes().hex()


def first_call(folder: Path | str, **environment: str) -> dict[str, Any]:
    """One call in a process of its own, with its kernels in `folder`: the right bits, and how they were had."""
    told: dict[str, Any] = json.loads(printed(child(CALL, NUMBA_CACHE_DIR=str(folder), **environment)))
    assert told["y"] == bits(environment.get("DTYPE", "float32"))
    assert told["loaded"] + told["compiled"] == 1
    return told


def complains(folder: Path | str, before: str = "", **environment: str) -> str:
    """What a call that cannot use its folder warns of: once, for two functions and all that they compile, and what to do."""
    done = child(before + CALL, strict=False, NUMBA_CACHE_DIR=str(folder), **environment)
    told = json.loads(done.stdout)
    assert (told["y"], told["compiled"], done.returncode) == (bits(), 1, 0)
    assert done.stderr.count("Warning: ") == 1
    assert "RuntimeWarning: kernels are compiled in every process unless" in done.stderr
    assert "; set NUMBA_CACHE_DIR to a folder of your own" in done.stderr
    return done.stderr.split(": got ")[1].split("; set ")[0]


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


def kernels(folder: Path) -> Path:
    """The one folder in a cache folder."""
    (one,) = folder.iterdir()
    return one


def test_second_process_compiles_nothing(folder: Path) -> None:
    before = contents(folder)
    assert {Path(name).suffix for name in before} == {".nbc"}
    told = first_call(folder)
    assert told["loaded"] == 1
    assert told["seconds"] < 1.0  # a load takes 0.1 s and a compilation 2 s or more; the rest is for a busy machine
    assert contents(folder) == before


@pytest.mark.skipif(os.name != "posix", reason="files have no mode here")
def test_nobody_else_can_write(filled: Path) -> None:
    assert stat.S_IMODE(kernels(filled).stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in kernels(filled).iterdir()} == {0o600}


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "within the digest": lambda data: data[: cache.DIGEST - 1],
    "digest alone": lambda data: data[: cache.DIGEST],
    "first byte of the rest": lambda data: data[: cache.DIGEST + 1],
    "cut in half": lambda data: data[: len(data) // 2],
    "one byte missing": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "a bit of the digest flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a bit flipped": flipped,
    "zeros, as after a crash": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "a pickle of Numba's own": lambda data: data[cache.DIGEST :],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_none(damage: str, filled: Path, tmp_path: Path) -> None:
    for path in kernels(filled).iterdir():
        data = path.read_bytes()
        assert cache.load(path) == data[cache.DIGEST :]
        spoilt = tmp_path / path.name
        spoilt.write_bytes(DAMAGE[damage](data))
        spoilt.chmod(0o600)
        assert cache.load(spoilt) is None


@pytest.mark.long
def test_damaged_files_cost_one_compilation(folder: Path) -> None:
    """The process that meets them puts them right."""
    for path, damage in zip(kernels(folder).iterdir(), ("empty", "a bit flipped"), strict=True):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert first_call(folder)["compiled"] == 1
    assert first_call(folder)["loaded"] == 1, "the damage is still there"


@pytest.mark.long
def test_folders_where_the_files_should_be(folder: Path) -> None:
    for path in kernels(folder).iterdir():
        path.unlink()
        path.mkdir()
    assert "where nothing can be written" in complains(folder)
    assert not contents(folder), "a temporary file is left"


@pytest.mark.long
def test_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a folder")
    assert str(path) in complains(path)
    assert path.read_text() == "not a folder"


def read_only_folder(tmp_path: Path) -> Path:
    """One that this user cannot write to; for root, to whom permissions do not apply, one that the kernel guards."""
    tmp_path.chmod(0o500)
    if not os.access(tmp_path, os.W_OK):
        return tmp_path
    if Path("/proc/self").is_dir():
        return Path("/proc")
    pytest.skip("permissions do not bind this user, and there is no /proc: no folder is read-only here")


@pytest.mark.long
def test_read_only_folder(tmp_path: Path) -> None:
    folder = read_only_folder(tmp_path)
    try:
        assert first_call(folder)["compiled"] == 1
        assert str(folder) in complains(folder)
        assert not list(folder.glob("numbanorm*"))
    finally:
        tmp_path.chmod(0o700)


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="files have no limits of size here")
def test_full_disk(tmp_path: Path) -> None:
    """A kernel takes more than the bytes that may be written. Once there is room, kernels are kept."""
    assert "where nothing can be written (File too large)" in complains(tmp_path, before=LIMIT)
    assert not contents(tmp_path), "a part of a file is left"
    assert first_call(tmp_path)["compiled"] == 1
    assert first_call(tmp_path)["loaded"] == 1


@pytest.mark.long
def test_switched_off(folder: Path) -> None:
    before = contents(folder)
    assert first_call(folder, NUMBANORM_CACHE="0")["compiled"] == 1
    assert contents(folder) == before


@pytest.fixture
def no_word_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not been warned."""
    monkeypatch.setattr(cache, "TOLD", [])


@pytest.mark.usefixtures("no_word_yet")
@pytest.mark.parametrize("default", ["~/.cache/numbanorm", "numbanorm"])
def test_user_without_a_home(default: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whom no folder ~ is made, wherever the process stands; and XDG_CACHE_HOME may be empty."""
    monkeypatch.delenv("NUMBANORM_CACHE", raising=False)
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache, "AppDirs", lambda *a, **k: SimpleNamespace(user_cache_dir=default))
    with pytest.warns(RuntimeWarning, match=rf"got {default}, for this user has no home; set NUMBA_CACHE_DIR"):
        assert cache.cache_folder() is None
    assert cache.cache_folder() is None  # and not another word


def test_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBANORM_CACHE", raising=False)
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", "kernels")
    monkeypatch.chdir(tmp_path)
    assert cache.cache_folder() == tmp_path / "kernels"


@pytest.mark.usefixtures("no_word_yet")
def test_warnings_that_are_errors_are_none(tmp_path: Path) -> None:
    """A call must not fail because the next process will take longer."""
    cache.store(tmp_path, b"content")  # a folder: it cannot be replaced by a file
    assert len(cache.TOLD) == 1


class Planted:
    """What another user might leave behind: when it is unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="files have no mode here")
@pytest.mark.parametrize("mode", [0o700, 0o770, 0o1777], ids=oct)
def test_folder_that_others_can_write(mode: int, folder: Path, tmp_path: Path) -> None:
    """Nothing in it is executed, and nothing is put there."""
    trace = tmp_path / "executed"
    for path in kernels(folder).iterdir():
        cache.store(path, pickle.dumps(Planted(trace)))
    before = contents(folder)
    kernels(folder).chmod(mode)
    if mode == 0o700:
        assert first_call(folder)["compiled"] == 1
        assert trace.exists(), "what was planted would do nothing, and so this test would show nothing"
        return
    assert f"of user {os.geteuid()} and mode {mode:o}" in complains(folder)
    assert not trace.exists()
    assert contents(folder) == before


@pytest.mark.skipif(os.name != "posix", reason="files have no mode here")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666], ids=oct)
def test_files_that_others_can_write(mode: int, tmp_path: Path) -> None:
    """They are none, and are written anew."""
    path = tmp_path / "private" / "file"
    cache.store(path, b"content")
    assert cache.load(path) == b"content"
    path.chmod(mode)
    assert cache.load(path) is None
    cache.store(path, b"other")
    assert cache.load(path) == b"other"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="links may not be made by everybody here")
def test_folder_that_is_a_link(folder: Path) -> None:
    real = kernels(folder)
    moved = real.rename(folder.parent / "elsewhere")
    real.symlink_to(moved)
    before = contents(moved)
    assert complains(folder).endswith("which is a link")
    assert contents(moved) == before


@pytest.mark.skipif(os.name != "posix", reason="files have no owner here")
@pytest.mark.parametrize(("owner", "mode", "safe"), [
    (1000, 0o40700, True), (1000, 0o40755, True), (1000, 0o100644, True), (0, 0o40755, True), (0, 0o100600, True),
    (1001, 0o40700, False), (1001, 0o100644, False), (65534, 0o100600, False),
    (1000, 0o40770, False), (1000, 0o40777, False), (0, 0o41777, False), (1000, 0o100664, False), (0, 0o100646, False),
])  # fmt: skip
def test_who_may_have_written(owner: int, mode: int, safe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """User 1000 trusts files of his own and of root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cache.safe(os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))) is safe


def as_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


NOBODY = 65534
ROOT = pytest.mark.skipif(not as_root(), reason="only root can give files to other users")


@pytest.mark.long
@ROOT
def test_folder_of_another_user(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    for path in (kernels(folder), *kernels(folder).iterdir()):
        if path.is_file():
            cache.store(path, pickle.dumps(Planted(trace)))
        os.chown(path, NOBODY, NOBODY)
    assert f"of user {NOBODY} and mode 700" in complains(folder)
    assert not trace.exists()


@pytest.mark.long
@ROOT
def test_file_of_another_user(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    for path in kernels(folder).iterdir():
        cache.store(path, pickle.dumps(Planted(trace)))
        os.chown(path, NOBODY, NOBODY)
    assert first_call(folder)["compiled"] == 1
    assert not trace.exists()
    assert first_call(folder)["loaded"] == 1


# with all modules that a call imports: nobody may not be let into the folders where they are
AS_NOBODY = f"""
import contextlib, importlib
for name in os.environ["MODULES"].split():
    with contextlib.suppress(ImportError):  # what Cython made is no file
        importlib.import_module(name)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""


@ROOT
def test_folder_that_root_has_filled(folder: Path, tmp_path: Path) -> None:
    """As in an image; the mode must let others read."""
    for path in (folder, kernels(folder)):
        path.chmod(0o755)
    for path in kernels(folder).iterdir():
        path.chmod(0o644)
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # the folders of pytest are root's own
    shutil.copytree(folder, place, dirs_exist_ok=True)  # with its mode
    modules = "import sys, numpy, numbanorm; numbanorm.layer_norm(numpy.ones((4, 10), 'float32'), 10); print(*sys.modules)"
    try:
        env = {"NUMBA_CACHE_DIR": str(place), "MODULES": printed(child(modules, NUMBA_CACHE_DIR=str(place)))}
        told = json.loads(printed(child(CALL.replace("start =", AS_NOBODY + "start ="), **env)))
    finally:
        shutil.rmtree(place)
    assert (told["y"], told["loaded"]) == (bits(), 1)


@pytest.mark.long
def test_another_cpu(folder: Path) -> None:
    """A file of its own, with the same bits; and a third processor would not take either."""
    before = contents(folder)
    assert first_call(folder, NUMBA_CPU_NAME="generic")["compiled"] == 1
    assert first_call(folder, NUMBA_CPU_NAME="generic")["loaded"] == 1
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)


@pytest.mark.long
def test_options_of_numba(folder: Path) -> None:
    """What is compiled to find a fault is not what later processes get."""
    before = contents(folder)
    assert first_call(folder, NUMBA_BOUNDSCHECK="1")["compiled"] == 1
    assert first_call(folder)["loaded"] == 1
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)


def test_numbas_own_locators_are_not_asked(folder: Path) -> None:
    """For they know only the file that a function stands in."""
    before = contents(folder)
    assert first_call(folder, NUMBA_CACHE_LOCATOR_CLASSES="InTreeCacheLocator")["loaded"] == 1
    assert contents(folder) == before


@pytest.mark.parametrize("change", ["a comment", "a new file", "numba", "llvmlite"])
def test_key_changes_with(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel was compiled from is more than the file it stands in: a comment in any other counts, wherever it lies."""
    compiler = import_module("numbanorm.cpu.compile")
    folder, key = tmp_path / "cpu", compiler.source_key()
    shutil.copytree(PACKAGE / "cpu", folder)
    shutil.copytree(PACKAGE / "spec", tmp_path / "spec")
    monkeypatch.setattr(compiler, "__file__", str(folder / "compile.py"))
    assert compiler.source_key() == key
    if change == "a comment":
        for path in [*folder.rglob("*.py"), *(tmp_path / "spec" / f"{name}.py" for name in compiler.SEEN)]:
            before = path.read_text()
            path.write_text(before + "# changed\n")
            assert compiler.source_key() != key, path
            path.write_text(before)
    elif change == "a new file":
        for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            path.joinpath("new.py").write_text("")
            assert compiler.source_key() != key, path
            path.joinpath("new.py").unlink()
    else:
        monkeypatch.setattr(getattr(compiler, change), "__version__", "0")
        assert compiler.source_key() != key


# what kernels see lies in their folder or among `compile.SEEN`; all else that is imported there is Python's business alone
OUTSIDE = {"spec.dtypes", "spec.plan", "spec.sources", "spec.standardized", "spec.tree"}
OUTSIDE |= {"spec.around", "spec.call", "spec.gaps", "spec.masks", "runtime.cache", "runtime.uninterrupted"}


@pytest.mark.parametrize("part", ["cpu", "cuda"])
def test_key_knows_all_that_kernels_see(part: str) -> None:
    outside = set[str]()
    for path in (PACKAGE / part).rglob("*.py"):
        inside = ("numbanorm", *path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join([*inside[: -node.level], *filter(None, [node.module])])
                names = [f"{base}.{alias.name}" for alias in node.names]
                outside |= {".".join(n.split(".")[1:3]) for n in names if not n.startswith(f"numbanorm.{part}.")}
    assert {"spec.tree", "spec.dtypes"} <= outside
    assert outside <= OUTSIDE | ({"spec.checks", "spec.shown", "pairs.rescued"} if part == "cuda" else set())  # for Python too


CALLER = "from .callee import value\nfrom .compile import kernel\n\n@kernel()\ndef caller(out):\n    out[0] = value()\n"
CALLEE = "from .compile import device\n\n@device()\ndef value():\n    return {}\n"
ASK = """
import sys
import numpy as np
from numbanorm.cpu.caller import caller
CHANGE
out = np.zeros(1)
caller(out)
print(out[0], sum(caller.stats.cache_hits.values()))
"""


@pytest.fixture
def editable(tmp_path: Path) -> Path:
    """A copy of the package, with a kernel that calls what stands in another file. What is compiled lies beside it."""
    shutil.copytree(PACKAGE, tmp_path / "numbanorm", ignore=shutil.ignore_patterns("__pycache__", "bench"))
    (tmp_path / "numbanorm/cpu/caller.py").write_text(CALLER)
    (tmp_path / "numbanorm/cpu/callee.py").write_text(CALLEE.format(1.0))
    return tmp_path


def ask(root: Path, change: str = "") -> list[float]:
    """What the kernel says, and how often it came from disk."""
    code = ASK.replace("CHANGE", change)
    options = {"NUMBA_CACHE_DIR": str(root / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    return [float(word) for word in printed(child(code, cwd=root, **options)).split()]


def test_an_edit_to_what_a_kernel_calls(editable: Path) -> None:
    assert ask(editable) == [1, 0]
    assert ask(editable) == [1, 1]
    callee = editable / "numbanorm/cpu/callee.py"
    callee.write_text(CALLEE.format(2.0))
    assert ask(editable) == [2, 0]
    assert ask(editable) == [2, 1]
    callee.write_text(CALLEE.format(1.0))
    assert ask(editable) == [1, 1], "both versions are there"


VERSIONS = """
import sys
import numpy as np
from numbanorm.cpu.caller import caller
dtypes = [np.dtype(word) for word in "float64 float32 int64 int32 int16 int8".split()]
for k in range(6):
    out = np.zeros(1, dtypes[(k + START) % 6])
    caller(out)
    assert out[0] == 1
print(sum(caller.stats.cache_hits.values()))
"""


@pytest.mark.long
def test_many_processes_that_compile_at_once(editable: Path) -> None:
    """Six versions of a kernel in six processes, each beginning with another. With one index for all, Numba can hand out one
    for the other, or lose it."""

    def run(start: int) -> str:
        code = VERSIONS.replace("START", str(start))
        return printed(child(code, cwd=editable, NUMBA_CACHE_DIR=str(editable / "cache")))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    assert run(0) == "6"
    assert len(contents(editable / "cache")) == 6, "a temporary file is left, or a version is missing"


def test_an_edit_after_the_import(editable: Path) -> None:
    """Such a process computes by the old source, and keeps nothing: under the name of which source would it be?"""
    callee, new = editable / "numbanorm/cpu/callee.py", CALLEE.format(2.0)
    assert ask(editable, f"import pathlib; pathlib.Path({str(callee)!r}).write_text({new!r})") == [1, 0]
    assert not (editable / "cache").exists()
    assert ask(editable) == [2, 0]


@pytest.mark.long
def test_a_package_in_a_zip_file(editable: Path) -> None:
    """Its source cannot be told, so nothing is kept."""
    archive = shutil.make_archive(str(editable / "package"), "zip", editable, "numbanorm")
    shutil.rmtree(editable / "numbanorm")
    where = f"assert numbanorm.__file__.startswith({archive!r}), numbanorm.__file__"
    done = child(CALL + where, cwd=editable, PYTHONPATH=archive, NUMBA_CACHE_DIR=str(editable / "cache"))
    assert json.loads(printed(done))["y"] == bits()
    assert not (editable / "cache").exists()


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
