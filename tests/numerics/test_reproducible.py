"""The same bits, whatever computes them: any number of threads, any company in the batch, any run, any CPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cases
import digest as program
import numba
import numpy as np
import pytest
from cases import ALL_METHODS, DTYPES, MODES, Case, call, call_backward
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray

import numbanorm
import numbanorm.cpu.backend
from numbanorm.spec import plan

Array = NDArray[Any]

SCHEDULES = [importlib.import_module(f"numbanorm.cpu.schedule.{name}") for name in ("forward", "backward", "machine")]

# what runs code for them: AVX2; AVX without fused multiply-add; SSE2, or what else is the least
CPUS = {"haswell": "avx2", "sandybridge": "avx", "generic": ""}
# to compile all kernels takes a minute for each type: two types each, and every type on one of them at least
OF_TYPES = {"haswell": ("float32", "bfloat16"), "sandybridge": ("float16", "float32"), "generic": ("bfloat16", "float64")}

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_method = pytest.mark.parametrize("method", ALL_METHODS)


def start(code: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A fresh interpreter."""
    env = os.environ | environment
    return subprocess.Popen([sys.executable, *code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return printed


def digest(environment: dict[str, str], *threads: int, types: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return start([program.__file__, *map(str, threads), *types], environment)


@pytest.fixture(scope="module")
def of_host() -> dict[str, str]:
    """Hashes by type, in one thread, on the CPU that is here."""
    return json.loads(finish(digest({}, 1)))["hashes"]["1"]


def runs_here(cpu: str) -> bool:
    return not CPUS[cpu] or bool(get_host_cpu_features().get(CPUS[cpu]))


@pytest.fixture(scope="module")
def of_other_cpus() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All at once, for most of their time is compilation: nothing that another CPU's run left on disk is used."""
    foreign = {"NUMBA_CPU_FEATURES": "", "NUMBANORM_CACHE": "0"}
    names = {name: {"NUMBA_CPU_NAME": name, **foreign} for name in CPUS if runs_here(name)}
    two = {"NUMBA_NUM_THREADS": "2"}
    running = {name: digest({**env, **two}, 2, types=OF_TYPES[name]) for name, env in names.items()}
    yield running
    for process in running.values():
        process.kill()


@pytest.mark.long
@pytest.mark.parametrize("cpu", CPUS)
def test_any_cpu(cpu: str, of_other_cpus: dict[str, subprocess.Popen[str]], of_host: dict[str, str]) -> None:
    if not runs_here(cpu):
        pytest.skip(f"code for {cpu} cannot run on this CPU: it has no {CPUS[cpu]}")
    told = json.loads(finish(of_other_cpus[cpu]))
    assert (told["cpu"], told["features"]) == (cpu, "")
    wanted = OF_TYPES[cpu]
    assert told["hashes"] == {"2": {name: found for name, found in of_host.items() if name.split(",")[0] in wanted}}
    assert len(told["hashes"]["2"]) == 2 * len(wanted)


def test_any_number_of_threads(of_host: dict[str, str]) -> None:
    """More threads than this machine has cores, in one process."""
    told = json.loads(finish(digest({"NUMBA_NUM_THREADS": "7"}, 1, 2, 3, 4, 7)))
    assert told["hashes"] == {str(n): of_host for n in (1, 2, 3, 4, 7)}


def test_threading_layer_that_is_everywhere(of_host: dict[str, str]) -> None:
    told = json.loads(finish(digest({"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "3"}, 3)))
    assert told["hashes"] == {"3": of_host}


def bits(case: Case, a: cases.Arguments, method: str | None) -> bytes:
    """Of y, the statistics and the gradients, in both modes."""
    kept: list[Any] = []
    for exact in MODES:
        y, stats = call(case, a, method=method, exact=exact, return_stats=True)
        kept += [y, *stats, *call_backward(case, a, cases.upstream(case, a.x.dtype), stats, exact=exact)]
    return b"".join(v.tobytes() for v in kept if v is not None)


@every_method
@every_dtype
@pytest.mark.parametrize("case", program.SHARED, ids=lambda c: c.name)
def test_threads_and_runs(case: Case, dtype: np.dtype[Any], method: str | None) -> None:
    """In this process: with one thread, and with all of them time and again."""
    a = cases.arguments(case, dtype)
    everyone = numba.get_num_threads()
    _, stats = call(case, a, return_stats=True)
    # the case would prove nothing if it ran in one thread anyway
    dy = cases.upstream(case, dtype)
    for run in (cases.norm_of(case, a, method=method), cases.gradient_of(case, a, dy, stats)):
        assert f" {everyone} of {everyone} threads" in numbanorm.explain(run)
    numba.set_num_threads(1)
    try:
        alone = bits(case, a, method)
    finally:
        numba.set_num_threads(everyone)
    assert {bits(case, a, method) for _ in range(4)} == {alone}


@pytest.fixture
def set_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Pretends that this machine has caches of another size, by which work is cut and results are stored."""

    def forget() -> None:
        numbanorm.cpu.backend.prepared.cache_clear()

    def pretend(size: int) -> None:
        for module in SCHEDULES:
            monkeypatch.setattr(module, "cache_bytes", lambda level: size)
        forget()

    yield pretend
    forget()


@pytest.mark.parametrize("case", [*program.SHARED, *cases.TABLE[::8]], ids=lambda c: c.name)
def test_any_size_of_the_caches(case: Case, set_cache: Callable[[int], None]) -> None:
    expected = {(d, m): bits(case, cases.arguments(case, d), m) for d in DTYPES for m in ALL_METHODS}
    for size in (2**9, 2**15, 2**40):
        set_cache(size)
        for dtype, method in expected:
            assert bits(case, cases.arguments(case, dtype), method) == expected[dtype, method]


def placed(x: Array, elements: int) -> Array:
    """A copy that starts so many elements after an address that is a multiple of 64."""
    room = np.zeros(x.nbytes + 64 + elements * x.itemsize, np.uint8)
    start = -room.ctypes.data % 64 + elements * x.itemsize
    view = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


# both families, with rows shorter and longer than what streaming stores are used for, of odd and even lengths
ROWS = [(5, 49), (3, 256), (3, 1500), (2, 2049)]
PLACED = [
    *(Case(norm, shape) for norm in ("layer", "batch") for shape in ROWS),
    *(Case("batch", shape, training=False) for shape in ROWS),
    Case("rms", (3, 1025)),
    Case("batch", (9, 5, 40)),
    Case("instance", (2, 3, 1100)),
    Case("group", (2, 6, 350), groups=2),
    Case("group", (2, 9, 1026), groups=2, channel_axis=-1),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])
@pytest.mark.parametrize("exact", MODES)
@every_dtype
@pytest.mark.parametrize("case", PLACED, ids=lambda c: c.name)
def test_any_alignment(
    case: Case, dtype: np.dtype[Any], exact: bool, streaming: bool, set_cache: Callable[[int], None]
) -> None:
    """x and out start anywhere in a cache line; what is too large for the cache is stored at aligned addresses."""
    a = cases.arguments(case, dtype)
    expected = call(case, a, exact=exact).tobytes()
    if streaming:
        set_cache(2**9)
    for elements in range(16):
        x, out = placed(a.x, elements), placed(np.zeros(case.shape, dtype), (5 * elements + 3) % 16)
        assert call(case, replace(a, x=x), out=out, exact=exact) is out
        assert out.tobytes() == expected
        assert call(case, replace(a, x=x), out=x, exact=exact) is x
        assert x.tobytes() == expected


@pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])
@every_dtype
@pytest.mark.parametrize("case", PLACED, ids=lambda c: c.name)
def test_gradients_at_any_alignment(
    case: Case, dtype: np.dtype[Any], streaming: bool, set_cache: Callable[[int], None]
) -> None:
    """x, dy and out start anywhere in a cache line, each in another place of it."""
    a, upstream = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, return_stats=True)
    expected = [g.tobytes() for g in call_backward(case, a, upstream, stats)]
    if streaming:
        set_cache(2**9)
    for elements in range(16):
        for target in ("out", "x", "dy"):
            x, dy = placed(a.x, elements), placed(upstream, (3 * elements + 1) % 16)
            out = {"x": x, "dy": dy, "out": placed(np.zeros(case.shape, dtype), (5 * elements + 3) % 16)}[target]
            dx, *sums = call_backward(case, replace(a, x=x), dy, stats, out=out)
            assert dx is out
            assert [g.tobytes() for g in (dx, *sums)] == expected


def test_streaming_can_be_asked_for(set_cache: Callable[[int], None]) -> None:
    """What the three tests above rely on."""
    jobs = importlib.import_module("numbanorm.cpu.layout")
    case = Case("layer", (3, 1500))
    run, p = cases.norm_of(case, cases.arguments(case, DTYPES[0])), plan.trailing(case.shape, case.parameter_shape)

    def streamed() -> bool:
        steps = SCHEDULES[1].cut_backward(p, 4, jobs.WRITE | jobs.STREAM, 1).steps
        return any(flags & jobs.STREAM for _, flags, *_ in steps)

    assert "through the cache" in numbanorm.explain(run)
    assert not streamed()
    set_cache(2**9)
    assert "past the cache" in numbanorm.explain(run)
    assert streamed()


# samples of many kinds of groups; enough of them that a batch is dealt to all threads and one alone is not
SAMPLES = [
    Case("layer", (300, 49)),
    Case("layer", (60, 1000)),
    Case("layer", (5, 40000)),
    Case("rms", (300, 257)),
    Case("rms", (5, 40000)),
    Case("instance", (40, 3, 7, 7)),
    Case("instance", (7, 3, 90, 91)),
    Case("instance", (40, 49, 3), channel_axis=-1),
    Case("instance", (9, 2500, 3), channel_axis=-1),
    Case("instance", (5, 4, 6, 700), channel_axis=2),
    Case("instance", (40, 3, 7, 7), training=False),
    Case("group", (40, 6, 7, 7), groups=2),
    Case("group", (7, 6, 50, 51), groups=3),
    Case("group", (40, 49, 6), groups=2, channel_axis=-1),
    Case("group", (9, 2500, 6), groups=2, channel_axis=-1),
    Case("batch", (500, 70), training=False),
    Case("batch", (9, 5, 40, 41), training=False),
    Case("batch", (9, 40, 41, 5), channel_axis=-1, training=False),
]


@pytest.mark.parametrize("exact", MODES)
@every_method
@every_dtype
@pytest.mark.parametrize("case", SAMPLES, ids=lambda c: c.name)
def test_sample_alone_is_the_sample_in_the_batch(case: Case, dtype: np.dtype[Any], method: str | None, exact: bool) -> None:
    a = cases.arguments(case, dtype)
    y, stats = call(case, a, method=method, exact=exact, return_stats=True)
    n = case.shape[0]
    for part in (slice(0, 1), slice(n - 1, n), slice(1, 3), slice(2, n)):
        alone, own = call(case, replace(a, x=a.x[part]), method=method, exact=exact, return_stats=True)
        assert alone.tobytes() == y[part].tobytes()
        if case.norm != "batch":  # there the statistics are those that were given
            assert own.rstd.tobytes() == stats.rstd[part].tobytes()
            assert own.mean is None or own.mean.tobytes() == stats.mean[part].tobytes()


@every_method
@every_dtype
@pytest.mark.parametrize("case", [c for c in SAMPLES if c.training], ids=lambda c: c.name)
def test_dx_of_a_sample_alone_is_that_in_the_batch(case: Case, dtype: np.dtype[Any], method: str | None) -> None:
    """With the sample's share of the batch's statistics, and with those of the sample alone."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, method=method, return_stats=True)
    dx, *_ = call_backward(case, a, dy, stats)
    n = case.shape[0]
    for part in (slice(0, 1), slice(n - 1, n), slice(1, 3), slice(2, n)):
        alone = replace(a, x=a.x[part])
        _, own = call(case, alone, method=method, return_stats=True)
        share = numbanorm.Stats(*(s if s is None else s[part] for s in stats))
        for of_sample in (own, share):
            for needs in ((True, False, False), (True, True, True)):
                found, *_ = call_backward(case, alone, dy[part], of_sample, needs=needs)
                assert found.tobytes() == dx[part].tobytes()


@every_dtype
@pytest.mark.parametrize("case", [c for c in SAMPLES if not c.training], ids=lambda c: c.name)
def test_dx_beside_given_statistics_is_that_of_the_sample(case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    dx, *_ = cases.gradients(case, a, dy)
    n = case.shape[0]
    for part in (slice(0, 1), slice(n - 1, n), slice(1, 3), slice(2, n)):
        alone, *_ = cases.gradients(case, replace(a, x=a.x[part]), dy[part])
        assert alone.tobytes() == dx[part].tobytes()


@every_dtype
@pytest.mark.parametrize("case", SAMPLES, ids=lambda c: c.name)
def test_order_of_the_samples(case: Case, dtype: np.dtype[Any]) -> None:
    a = cases.arguments(case, dtype)
    order = np.random.default_rng(0).permutation(case.shape[0])
    assert call(case, replace(a, x=a.x[order])).tobytes() == call(case, a)[order].tobytes()


@every_dtype
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.norm == "batch" and c.size > 600], ids=lambda c: c.name)
def test_measured_or_normalized(case: Case, dtype: np.dtype[Any]) -> None:
    """The statistics of a norm are those of `moments` over the same axes, to the bit."""
    if not case.training:
        case = replace(case, training=True)
    a = cases.arguments(case, dtype)
    axis = case.channel_axis % len(case.shape)
    for method in ALL_METHODS:
        _, stats = call(case, a, method=method, return_stats=True)
        m = numbanorm.moments(a.x, tuple(i for i in range(len(case.shape)) if i != axis), method=method)
        assert m.mean.tobytes() == stats.mean.tobytes()


def test_python_threads_in_this_process() -> None:
    """Different norms and types at once, and their gradients, each with results of its own."""
    jobs = [(case, cases.arguments(case, dtype), None) for case in program.SHARED for dtype in DTYPES]
    alone = [bits(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: bits(*job), jobs)) == alone
