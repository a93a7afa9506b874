"""After `warmup` no call compiles anything, nor loads it: compiled functions are counted before and after a sweep of calls.

Run as a program with a dtype, a mode and names of functions, this file is that sweep: an interpreter can be warmed only once.
"""

from __future__ import annotations

import doctest
import gc
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from layouts import LAYOUTS, Array, possible
from numba.core import event
from numba.core.dispatcher import Dispatcher

import numbanorm
from numbanorm import precompile
from numbanorm.spec import dtypes

NAMES = [function.__name__ for function in precompile.FUNCTIONS]
KERNELS = {"runs", "columns", "rows_backward", "columns_backward", "runs_backward"}
BACKWARD = KERNELS - {"runs", "columns"}
# the kernel families that a norm needs: for what is measured, for gradients, and for dx of statistics that were given
FAMILIES = {
    "layer_norm": {"runs"},
    "rms_norm": {"runs"},
    "group_norm": {"runs", "columns"},
    "instance_norm": {"runs", "columns"},
    "batch_norm": {"runs", "columns"},
    "moments": {"runs", "columns"},
    "layer_norm_backward": {"rows_backward"},
    "rms_norm_backward": {"rows_backward"},
    "group_norm_backward": BACKWARD,
    "instance_norm_backward": {*BACKWARD, "runs", "columns"},
    "batch_norm_backward": {*BACKWARD, "runs", "columns"},
}
GIVEN = {"batch_norm": "training", "instance_norm": "use_input_stats"}
# (n, m, C, t): elements that share a weight in short runs and long, one and many; enough of them for threads, and not
SIZES = [s for s in product((1, 40), (1, 2), (1, 6, 256, 4096), (1, 15, 16, 127, 128)) if np.prod(s) <= 1 << 17]
BOTH = (True, False)
EXACT, FAST = "exact", "fast"
WARMED = [(dtype, mode) for mode in (FAST, EXACT) for dtype in dtypes.DTYPES if (dtype, mode) != ("float64", EXACT)]
DTYPES = [name for name, dtype in dtypes.DTYPES.items() if dtype.native or find_spec("ml_dtypes")]


def compiled() -> dict[str, int]:
    """How many versions there are of every function of the package that Numba compiles."""
    found: dict[str, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Dispatcher) and (thing.py_func.__module__ or "").startswith("numbanorm."):
            found[thing.py_func.__name__] = found.get(thing.py_func.__name__, 0) + len(thing.overloads)
    return {name: n for name, n in found.items() if n}


def options(norm: str, shape: tuple[int, ...]) -> Iterator[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]]:
    """What the norm must be told of an x of this shape, and the shapes of statistics and weight."""
    n, _, channels, _ = shape
    if norm in ("layer_norm", "rms_norm"):
        for k in (1, 2, 3):
            yield {"normalized_shape": shape[k:]}, shape[:k], shape[k:]
    elif norm == "group_norm":
        for groups in sorted({1, channels, max(1, channels // 128)}):
            yield {"num_groups": groups, "channel_axis": 2}, (n, groups), (channels,)
    elif norm == "moments":
        for axis in (None, 0, 3, (0, 1, 3), (1, 3), (0, 2)):
            yield {"axis": axis}, (), ()
    else:
        yield {"channel_axis": 2}, (channels,) if norm == "batch_norm" else (n, channels), (channels,)


def calls(
    name: str, x: Array, parameters: list[np.dtype[Any]], exact: bool
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of every kind for a function and an x, and methods that have the default's kernels: but for float64, one read
    and two reads have kernels of their own."""
    norm, channels = name.removesuffix("_backward"), x.shape[2]
    once, twice = (None,), ("two_pass", "welford")
    methods = (*once, *twice) if x.dtype == np.float64 else twice if norm == "moments" else once
    for told, stats_shape, weight_shape in options(norm, x.shape):
        if norm == "moments":
            yield from (((x,), {**told, "method": method}) for method in methods)
            continue
        weights: list[Any] = [None, *(np.ones(weight_shape, dtype) for dtype in parameters)]
        for weight, own in product(weights, BOTH if norm in GIVEN else (True,)):
            given = {"exact": exact} | ({GIVEN[norm]: own} if norm in GIVEN else {})
            if name != norm:
                # those that are not float64, the forward function's own, have exact gradients in either mode
                kind = weight.dtype if exact and weight is not None else np.float64
                stats = None if norm == "rms_norm" else np.zeros(stats_shape), np.ones(stats_shape, kind)
                n = 2 if norm == "rms_norm" else 3
                for needs in product(BOTH, repeat=n) if x.size < 1000 else ((True,) * n, (True, False, False)[:n]):
                    yield (x, x), {"stats": stats, "weight": weight, "needs": needs, **told, **given}
            else:
                kind = np.float32 if weight is None else weight.dtype
                tracked = {"running_mean": np.zeros(channels), "running_var": np.ones(channels, kind)} if norm in GIVEN else {}
                bias = {} if norm == "rms_norm" else {"bias": weight}
                for method in methods:
                    yield (x,), {"weight": weight, "method": method, "return_stats": own, **bias, **told, **given, **tracked}


def arrays(dtype: np.dtype[Any], every: int) -> Iterator[Array]:
    """Arrays of one in `every` size and, if small, of every layout."""
    for shape in SIZES[::every]:
        yield np.zeros(shape, dtype)
    for layout, make in LAYOUTS.items():
        x = np.zeros((2, 3, 4, 5), dtype)
        if possible(layout, x):
            yield make(x)


def sweep(name: str, dtype: np.dtype[Any], others: list[np.dtype[Any]], every: int, exact: bool) -> set[str]:
    """Call a function in every way, in one thread and in two; the kernels and threads that it is said to have used."""
    function, used = getattr(numbanorm, name), set()
    for threads in (1, 2):
        numba.set_num_threads(threads)
        for x in arrays(dtype, every):
            for args, more in calls(name, x, others if x.size < 1000 else [], exact):
                try:
                    function(*args, **more)
                except ValueError as error:
                    assert "more than one value" in str(error)  # noqa: PT017
                    continue
                if name != "moments":
                    used |= set(re.findall(r"family (\w+, \d) of", numbanorm.explain(function, *args, **more)))
    return used


def main(word: str, mode: str, *names: str) -> dict[str, Any]:
    """Warm functions for a dtype and a mode, and count what is compiled before and after the sweep of each."""
    if find_spec("ml_dtypes"):
        import ml_dtypes  # noqa: F401
    others, exact, every = [np.dtype(name) for name in DTYPES], mode == EXACT or word == "float64", 1 if len(names) == 1 else 5
    numbanorm.warmup(*(getattr(numbanorm, name) for name in names), dtypes=word, exact=exact)
    before = compiled()
    with event.install_recorder("numba:compile") as recorder:
        used = {name: sorted(sweep(name, np.dtype(word), others, every, exact)) for name in names}
    return {"before": before, "after": compiled(), "events": len(recorder.buffer), "used": used}


def child(*command: str, **environment: str) -> Any:
    """What a fresh interpreter of two threads, in which every warning is an error, prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "NUMBA_NUM_THREADS": "2", **environment},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def swept(words: tuple[str, ...]) -> Any:
    return child(__file__, *words)


@pytest.fixture(scope="module")
def told() -> dict[tuple[str, ...], Any]:
    """What `main` says of all functions for each dtype, and of each function for float32; two interpreters at a time."""
    each = [(dtype, mode, *NAMES) for dtype, mode in WARMED if dtype in DTYPES]
    each += [("float32", FAST, name) for name in NAMES]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(each, pool.map(swept, each), strict=True))


def nothing_left(one: Any) -> None:
    assert one["after"] == one["before"]
    assert one["events"] == 0


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_one_function(name: str, told: dict[tuple[str, ...], Any]) -> None:
    """No kernel family is compiled that is not needed, and the sweep has seen each, in one thread and in two."""
    one = told["float32", FAST, name]
    nothing_left(one)
    assert KERNELS & set(one["before"]) == FAMILIES[name]
    named = [f for f in FAMILIES[name] if f.endswith("backward") == name.endswith("backward") and name != "moments"]
    assert set(one["used"][name]) == {f"{family}, {threads}" for family in named for threads in (1, 2)}


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "mode"), WARMED)
def test_all_functions(dtype: str, mode: str, told: dict[tuple[str, ...], Any]) -> None:
    """Which is every kernel family, once; and beside the one that reads once one that reads twice, for `moments`."""
    if dtype not in DTYPES:
        pytest.skip("ml_dtypes, which has bfloat16, is not installed")
    one = told[dtype, mode, *NAMES]
    nothing_left(one)
    expected = {family: 1 + (dtype != "float64" and family not in BACKWARD) for family in KERNELS}
    assert {family: one["before"][family] for family in KERNELS} == expected


def test_every_public_function_can_be_warmed() -> None:
    public = {getattr(numbanorm, name) for name in numbanorm.__all__}
    functions = {f for f in public if inspect.isfunction(f) and "backend" in inspect.signature(f).parameters}
    of_batch_norm = {numbanorm.standardize, numbanorm.standardize_backward, numbanorm.standardize_sums}  # by its kernels
    assert functions - {numbanorm.warmup} - of_batch_norm == set(precompile.FUNCTIONS)


COUNT = """
import json, pathlib, sys
import numpy as np
import numbanorm
from numba.core import event
recorder = event.RecordingListener()
event.register("numba:compile", recorder)
WORK
started = [e.data["dispatcher"].py_func.__name__ for _, e in recorder.buffer if e.is_start]
files = [path for path in pathlib.Path(sys.argv[1]).rglob("*") if path.suffix == ".nbc"]
kernels = [name for name in started if name in ("runs", "columns")]
print(json.dumps({"compiled": len(started), "kernels": kernels, "files": len(files)}))
"""
WARM = "assert numbanorm.warmup(numbanorm.rms_norm) is None"
CALL = "numbanorm.rms_norm(np.ones((600, 100), np.float32), 100)"


def counted(work: str, folder: Path, **environment: str) -> Any:
    """What a fresh interpreter compiles for some lines of code, with its kernels in `folder`."""
    return child("-c", COUNT.replace("WORK", work), str(folder), NUMBA_CACHE_DIR=str(folder), **environment)


@pytest.mark.long
def test_a_warmed_folder_serves_other_processes(tmp_path: Path) -> None:
    """As one that is filled when an image is built; the parallel path too."""
    first = counted(WARM, tmp_path)
    assert first["kernels"] == ["runs"]
    assert first["files"] >= 2, "one of the kernel, one of what deals its pieces to threads"
    for work in (CALL, WARM):
        assert counted(work, tmp_path) == {"compiled": 0, "kernels": [], "files": first["files"]}


THREADS = f"""
import threading
start = threading.Barrier(4)
def work():
    start.wait()
    numbanorm.warmup(numbanorm.rms_norm)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
before = len(recorder.buffer)
{CALL}
assert len(recorder.buffer) == before > 0
"""


@pytest.mark.long
def test_from_several_threads_with_the_cache_switched_off(tmp_path: Path) -> None:
    """Nothing is written, and the one kernel is compiled once; a call finds it."""
    told = counted(THREADS, tmp_path, NUMBANORM_CACHE="0")
    assert (told["kernels"], told["files"]) == (["runs"], 0)


FORK = f"""
import os, numpy as np, numbanorm
{WARM}
x = np.ones((600, 100), np.float32)
child = os.fork()
if child == 0:
    os._exit(0 if numbanorm.rms_norm(x, 100, eps=0.0).tobytes() == x.tobytes() else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_children_forked_after_it_live(layer: str) -> None:
    """Numba's layer is loaded, and GNU OpenMP ends a child that takes part in what its parent has loaded."""
    assert child("-c", FORK, NUMBA_THREADING_LAYER=layer) == 0


@pytest.mark.parametrize("dtypes", ["float32", np.float32, np.dtype(">f4"), "f", (), ["float32", np.dtype("f4")]])
def test_dtypes_may_be_written(dtypes: Any) -> None:
    assert numbanorm.warmup(numbanorm.rms_norm, dtypes=dtypes) is None


BAD_DTYPES = ["int32", "floating", np.complex64, None, 3, [["float32"]], ("float32", bool), ["float32", "double double"]]


@pytest.mark.parametrize("dtypes", BAD_DTYPES, ids=repr)
def test_dtypes_that_no_norm_takes(dtypes: Any) -> None:
    before = compiled()
    with pytest.raises(TypeError, match=r"dtypes must hold float16, bfloat16, float32 or float64: got .*; write dtypes="):
        numbanorm.warmup(dtypes=dtypes)
    assert compiled() == before


@pytest.mark.parametrize("function", ["layer_norm", ["layer_norm"], numbanorm.explain, numbanorm.LayerNorm, np.mean, None])
def test_what_is_not_a_norm(function: Any) -> None:
    with pytest.raises(TypeError, match=r"warmup wants norms, their backward functions or moments: got .*; write warmup\("):
        numbanorm.warmup(numbanorm.rms_norm, function)


@pytest.mark.parametrize("backend", ["cuda", "gpu", 0])
def test_backend_that_compiles_at_the_first_call(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"backend must be 'cpu' or None, .*first call.*: got .*; leave backend out"):
        numbanorm.warmup(numbanorm.rms_norm, backend=backend)


def test_bfloat16_before_numpy_knows_it() -> None:
    code = """
import numbanorm
try:
    numbanorm.warmup(dtypes="bfloat16")
except TypeError as error:
    print(str(error).count("import ml_dtypes"))
"""
    assert child("-c", code) == 1


def test_example() -> None:
    outcome = doctest.testmod(precompile)
    assert (outcome.failed, outcome.attempted) == (0, 3)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
