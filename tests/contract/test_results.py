"""Memory of large results: given back when nobody looks at them any more, and never before."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest

import numbanorm
from numbanorm.runtime import results

pytestmark = pytest.mark.skipif(not results.kept(), reason="this system has no MADV_FREE, or NUMBANORM_POOL=0 was set")
OFF = """
import numpy as np, numbanorm
from numbanorm.runtime import results
y = numbanorm.rms_norm(np.ones((8192, 1024), np.float32), 1024)
print(y.flags.owndata)
del y
print(len(results.FREE))
"""
SHAPE = (results.LEAST // 4 // 1024, 1024)  # of float32: just large enough


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    gc.collect()
    results.FREE.clear()
    yield
    results.FREE.clear()


def address(a: np.ndarray[Any, Any]) -> int:
    return int(a.__array_interface__["data"][0])


def test_the_next_result_has_the_memory_of_one_that_has_gone() -> None:
    x = np.ones(SHAPE, np.float32)
    y, dx = numbanorm.rms_norm(x, 1024), None
    first = address(y)
    del y
    stats = numbanorm.rms_norm(x, 1024, return_stats=True)[1]
    assert len(results.FREE) == 1
    dx = numbanorm.rms_norm_backward(x, x, 1024, stats, needs=(True, False))[0]
    assert dx is not None
    assert address(dx) == first
    assert first % 64 == 0


def test_a_view_keeps_it() -> None:
    y = results.empty(SHAPE, np.dtype(np.float32))
    y[...] = 7
    view = y[1:, ::2].T
    del y
    assert not results.FREE
    other = results.empty(SHAPE, np.dtype(np.float32))
    other[...] = 8
    assert (view == 7).all()
    del view
    assert len(results.FREE) == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_an_array_is_as_any_other(dtype: Any) -> None:
    y = results.empty((3, results.LEAST), np.dtype(dtype))
    assert (y.shape, y.dtype, y.flags.carray, type(y)) == ((3, results.LEAST), np.dtype(dtype), True, np.ndarray)
    y[...] = 1
    assert y[2, -1] == 1


def test_small_and_very_large_ones_are_numpys() -> None:
    assert results.empty((7,), np.dtype(np.float32)).flags.owndata
    assert results.empty((results.MOST + 1,), np.dtype(np.uint8)).flags.owndata
    assert results.FEW * 8 <= results.LEAST


def test_no_more_is_kept_than_said() -> None:
    arrays = [results.empty((results.LEAST + k * results.STEP,), np.dtype(np.uint8)) for k in range(30)]
    arrays.clear()
    assert results.MOST - 2 * results.LEAST < sum(map(len, results.FREE)) <= results.MOST


def test_threads_never_share_it() -> None:
    """Each writes its own number all over its array, again and again, and finds nothing else there."""
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            y = results.empty((results.LEAST,), np.dtype(np.uint8))
            y[::4096] = number
            if (y[::4096] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_its_own() -> None:
    y = results.empty(SHAPE, np.dtype(np.float32))
    y[...] = 3
    del y
    child = os.fork()
    if child == 0:
        try:
            z = results.empty(SHAPE, np.dtype(np.float32))
            z[...] = 5
            del z
            os._exit(0)
        finally:
            os._exit(1)
    z = results.empty(SHAPE, np.dtype(np.float32))
    z[...] = 4
    assert os.waitpid(child, 0)[1] == 0
    assert (z == 4).all()


def test_it_can_be_switched_off() -> None:
    told = subprocess.run(
        [sys.executable, "-c", OFF], env={**os.environ, "NUMBANORM_POOL": "0"}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["True", "0"]


def test_memory_that_cannot_be_given_back_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the process has locked all of it: it is unmapped, and nobody hears of it."""

    class Locked(mmap.mmap):
        def madvise(self, *_: Any) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(results.mmap, "mmap", Locked)
    y = results.empty(SHAPE, np.dtype(np.float32))
    assert not y.flags.owndata
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what goes wrong in __del__, too
        del y
    assert not results.FREE


def test_what_is_kept_goes_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    y = results.empty(SHAPE, np.dtype(np.float32))
    del y
    assert results.FREE
    monkeypatch.setattr(results, "taken", lambda size: mmap.mmap(-1, 1 << 60))
    assert results.empty((2 * SHAPE[0], 1024), np.dtype(np.float32)).flags.owndata
    assert not results.FREE


def limited(code: str) -> str:
    program = f"import resource; resource.setrlimit(resource.{code}, (1 << 36, 1 << 36))\n" + OFF
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_none_is_kept_where_memory_is_limited(limit: str) -> None:
    assert limited(limit).split() == ["True", "0"]


def test_arrays_may_outlive_everything() -> None:
    """Of a process that ends, too."""
    code = f"""
import builtins, numpy as np
from numbanorm.runtime import results
builtins.y = results.empty({SHAPE}, np.dtype("f4"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_an_error_gives_it_back() -> None:
    x = np.ones(SHAPE, np.float32)
    with pytest.raises(ValueError, match="weight must have shape"):
        numbanorm.rms_norm(x, 1024, np.ones(3, np.float32))
    gc.collect()
    y = numbanorm.rms_norm(x, 1024)
    assert y.shape == SHAPE
    assert numba.get_num_threads() >= 1
