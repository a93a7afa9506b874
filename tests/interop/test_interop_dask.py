"""Norms over Dask arrays: the bits of NumPy's where nothing is cut, the definition elsewhere, and no scheduler shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cases
import numba
import numpy as np
import oracle
import pytest
from cases import DTYPES, MODES, Case, needs_long_double
from close import check_mode, same
from numpy.typing import NDArray

import numbanorm

WHY = "dask is not installed: pip install 'numbanorm[dask]' distributed"
dask = pytest.importorskip("dask", reason=WHY)
da = pytest.importorskip("dask.array", reason=WHY)

from numbanorm.interop import dask as over_dask  # noqa: E402 - where there is one

Array = NDArray[Any]

pytestmark = needs_long_double

NORMS = [
    Case("layer", (6, 4, 30), dims=2),
    Case("layer", (9, 50)),
    Case("rms", (6, 4, 30), dims=2),
    Case("rms", (9, 50)),
    Case("batch", (6, 8, 10, 5)),
    Case("batch", (6, 10, 5, 8), channel_axis=-1),
    Case("batch", (6, 8, 30), training=False),
    Case("instance", (6, 8, 10, 5)),
    Case("instance", (6, 10, 8), channel_axis=-1),
    Case("group", (6, 8, 10, 5), groups=4),
    Case("group", (6, 10, 8), groups=2, channel_axis=-1),
    Case("group", (6, 8), groups=8),
]
# sizes of chunks by the length of an axis: none cut; the first alone; all, unevenly; with empty ones
CUTS: dict[str, Callable[[int, int], Any]] = {
    "whole": lambda k, n: n,
    "samples": lambda k, n: 2 if k == 0 else n,
    "all": lambda k, n: (3, n - 4, 1) if n > 4 else (1, n - 1),
    "empty": lambda k, n: (0, n) if k == 0 else (2, 0, n - 2),
}
every_norm = pytest.mark.parametrize("case", NORMS, ids=lambda c: c.name)
every_cut = pytest.mark.parametrize("cut", CUTS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_mode = pytest.mark.parametrize("exact", MODES, ids=lambda e: "exact" if e else "fast")


@pytest.fixture(autouse=True)
def in_this_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def lazy(x: Array, cut: str) -> Any:
    return da.from_array(x, chunks=tuple(CUTS[cut](k, n) for k, n in enumerate(x.shape)))


def norm_of(case: Case, a: cases.Arguments, x: Any, exact: bool) -> Any:
    """The norm of the case over x, a dask array; weights are arrays of Dask if the channels are."""
    options = {name: v for name, v in case.options.items() if name != "use_input_stats"}
    names = (*(("running_mean", "running_var") if not case.training else ()), *case.its.parameters)
    arrays = {name: getattr(a, name) for name in names}
    return getattr(over_dask, f"{case.norm}_norm")(x, **arrays, **options, exact=exact)


@every_norm
@every_cut
@every_mode
@every_dtype
def test_definition(case: Case, cut: str, exact: bool, dtype: np.dtype[Any]) -> None:
    a = cases.arguments(case, dtype)
    y = norm_of(case, a, lazy(a.x, cut), exact)
    assert (y.shape, y.dtype, y.chunks) == (a.x.shape, dtype, lazy(a.x, cut).chunks)
    found = y.compute()
    assert (type(found), found.dtype) == (np.ndarray, dtype)
    check_mode(found, cases.truth(case, dtype), exact)
    if cut == "whole" or (cut == "samples" and case.norm != "batch") or not case.training:
        assert found.tobytes() == cases.call(case, a, exact=exact).tobytes()


def test_one_value_in_a_group_of_a_chunk() -> None:
    """What is refused for one sample alone is not for a chunk of one; a single one in all is."""
    x = np.arange(6.0).reshape(3, 2)
    y = over_dask.group_norm(da.from_array(x, chunks=(1, 2)), 2).compute()
    assert not y.any()
    with pytest.raises(ValueError, match="a variance needs more than one value per group"):
        over_dask.group_norm(da.from_array(x[:1], chunks=1), 2)


@every_dtype
@every_cut
def test_moments(cut: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (6, 8, 10)).astype(dtype)
    for axis in (None, 0, (0, 2), (1,), (0, -1), ()):
        m = over_dask.moments(lazy(x, cut), axis).compute()
        whole = numbanorm.moments(x, axis)
        assert (m.count, m.axis, m.mean.shape) == (whole.count, whole.axis, whole.mean.shape)
        assert oracle.relative_error(m.mean, whole.mean, whole.std()) < 1e-14
        assert oracle.relative_error(m.m2, whole.m2) < 1e-14
        if cut == "whole":
            assert same(m, whole)


def test_moments_are_lazy(rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (6, 8, 10))
    m = over_dask.moments(lazy(x, "all"), (0, 2))
    assert np.array_equal(m.rstd(1e-5).compute(), m.compute().rstd(1e-5))
    far = over_dask.moments(lazy(x * 1e200, "all"), 0).compute()
    assert oracle.relative_error(far.std(), (x * 1e200 / 1e200).std(0) * 1e200) < 1e-14


@every_cut
@every_mode
@every_dtype
def test_standardize(cut: str, exact: bool, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """With arrays of NumPy and of Dask, and Moments: the bits of `numbanorm.standardize`."""
    x = rng.normal(3, 2, (6, 8, 10)).astype(dtype)
    for axes in ((0, 2), (1,), (0,), (0, 1, 2)):
        kept = tuple(n for k, n in enumerate(x.shape) if k not in axes)
        mean, rstd, weight = rng.normal(size=kept), rng.uniform(1, 2, kept), rng.normal(size=kept[-1:])
        y = numbanorm.standardize(x, mean, rstd, weight, axis=axes, exact=exact)
        for make in (np.asarray, da.asarray):
            z = over_dask.standardize(lazy(x, cut), make(mean), make(rstd), make(weight), axis=axes, exact=exact)
            assert z.compute().tobytes() == y.tobytes()
        m = numbanorm.moments(x, axes)
        y = numbanorm.standardize(x, m, bias=mean, exact=exact)
        assert over_dask.standardize(lazy(x, cut), m, bias=mean, exact=exact).compute().tobytes() == y.tobytes()


@contextmanager
def cluster() -> Iterator[Any]:
    """Two processes of two threads; distributed says much of ports and of how it ends."""
    distributed = pytest.importorskip("distributed", reason=WHY)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50) as made,
        distributed.Client(made) as client,
    ):
        yield client


def results(case: Case, cut: str) -> list[Any]:
    a = cases.arguments(case, DTYPES[0])
    x = lazy(a.x, cut)
    return [norm_of(case, a, x, False), over_dask.moments(x, 0).m2, over_dask.over_axes(x, (0, -1))]


@pytest.mark.filterwarnings("ignore")
def test_any_scheduler() -> None:
    """This thread, many threads, processes with threads."""
    made = [(case, cut) for case in NORMS for cut in ("samples", "all")]
    lists = [results(*m) for m in made]
    bits = [[np.asarray(a).tobytes() for a in dask.compute(*r)] for r in lists]
    for _ in range(3):
        assert [[np.asarray(a).tobytes() for a in dask.compute(*r, scheduler="threads")] for r in lists] == bits
    with cluster() as client:
        assert [[np.asarray(a).tobytes() for a in r] for r in client.gather(client.compute(lists))] == bits


def test_nothing_is_computed_before() -> None:
    def fail() -> Array:
        raise AssertionError("computed")

    x = da.from_delayed(dask.delayed(fail)(), (6, 8), np.float32)
    x = da.concatenate([x, x], 0)
    for y in (
        over_dask.layer_norm(x, 8), over_dask.rms_norm(x, 8), over_dask.batch_norm(x, training=True), over_dask.moments(x),
        over_dask.instance_norm(x[..., None].repeat(2, 2)), over_dask.group_norm(x, 2),
        over_dask.standardize(x, np.ones(8), np.ones(8), axis=0),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="computed"):
            y.compute()


def test_a_task_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from numbanorm.interop.dask import tasks

    seen, whole = [], numbanorm.functional.layer_norm
    monkeypatch.setattr(
        tasks.functional, "layer_norm", lambda *a, **k: (seen.append(numba.get_num_threads()), whole(*a, **k))[1]
    )
    before = numba.get_num_threads()
    over_dask.layer_norm(da.ones((4, 8), chunks=(2, 8)), 8).compute()
    assert seen == [1, 1]
    assert numba.get_num_threads() == before


def test_moments_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask fuses a task with those that take its result, and what every block takes was computed with every block."""
    from numbanorm.interop.dask import tasks

    seen, whole = [], tasks.total
    monkeypatch.setattr(tasks, "total", lambda each: (seen.append(each.size), whole(each))[1])
    x = da.random.default_rng(0).normal(size=(12, 8), chunks=(2, 8))
    over_dask.batch_norm(x, training=True).persist()
    over_dask.over_axes(x, 0).persist()
    assert seen == [6, 6]


X = da.ones((6, 8, 10), chunks=(2, 8, 5), dtype=np.float32)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: over_dask.layer_norm(np.ones((2, 3)), 3),
        TypeError,
        "x must be a Dask array: got float64 array of shape .*; write",
    ),
    (lambda: over_dask.moments(X.astype(int)), TypeError, r"x must hold float16, .*: got int64; write x.astype"),
    (
        lambda: over_dask.batch_norm(X[X[:, 0, 0] > 0], training=True),
        ValueError,
        r"known chunk sizes: got .*compute_chunk_sizes",
    ),
    (lambda: over_dask.layer_norm(X, 9), ValueError, "normalized_shape must be the last axes of x"),
    (lambda: over_dask.layer_norm(X, 10, np.ones(9)), ValueError, r"weight must have shape \(10,\): got \(9,\)"),
    (lambda: over_dask.layer_norm(X, 10, da.ones(9)), ValueError, r"weight must have shape \(10,\): got \(9,\)"),
    (lambda: over_dask.layer_norm(X, 10, da.ones(10, dtype=int)), TypeError, "weight must hold float16"),
    (lambda: over_dask.layer_norm(X, 10, [1.0] * 10), TypeError, "weight must be a NumPy array: got list"),
    (lambda: over_dask.layer_norm(X, 10, eps=-1), ValueError, "eps must be finite"),
    (lambda: over_dask.rms_norm(X, 10, None, np.ones(10)), TypeError, "rms_norm has no bias"),
    (lambda: over_dask.group_norm(X, 3), ValueError, "num_groups must divide the channels"),
    (lambda: over_dask.group_norm(X, 2, channel_axis=3), ValueError, "channel_axis must be an axis of x"),
    (lambda: over_dask.instance_norm(X, channel_axis=0), ValueError, "channel_axis must not be the batch axis"),
    (lambda: over_dask.instance_norm(X, exact=1), TypeError, "exact must be True or False"),
    (
        lambda: over_dask.batch_norm(X),
        ValueError,
        "running_mean and running_var must be given to normalize with them: got None",
    ),
    (
        lambda: over_dask.batch_norm(X, np.ones(8), np.ones(8), training=True),
        ValueError,
        "must be left out in training, .*: got",
    ),
    (lambda: over_dask.batch_norm(X, np.ones(8), np.ones(7)), ValueError, r"running_var must have shape \(8,\): got \(7,\)"),
    (lambda: over_dask.moments(X, 3), ValueError, "axis must name axes of x"),
    (lambda: over_dask.moments(X, method="one_pass"), ValueError, "method must be"),
    (lambda: over_dask.standardize(X, np.ones(8), axis=(0, 2)), TypeError, "mean and rstd must be given: got None"),
    (
        lambda: over_dask.standardize(X, np.ones(7), np.ones(8), axis=(0, 2)),
        ValueError,
        r"mean must broadcast to .*: got \(7,\)",
    ),
    (
        lambda: over_dask.standardize(X, np.ones(8), da.ones(7), axis=(0, 2)),
        ValueError,
        r"rstd must broadcast to .*: got \(7,\)",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), WRONG, ids=[words[:40] for *_, words in WRONG])
def test_is_refused_when_it_is_called(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
