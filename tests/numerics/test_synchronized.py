"""Batch norm of a batch that is spread over ranks: one process's results, the same statistics everywhere, and no hang."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray
from ranks import together

from numbanorm import BatchNorm1d, batch_norm, batch_norm_backward, communicators, explain

Array = NDArray[Any]
C = 6
# rows of each rank: alike, unequal, one without data at the start, in the end, and all data on one
SPLITS = [(20, 20, 20), (1, 57, 2), (0, 31, 29), (60, 0), (59, 1, 0, 0)]


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """x, dy, weight and bias; x's channels are up to 1e4 deviations away from 0."""
    x = (rng.normal(size=(60, C, 7)) + np.array([0, 1, -30, 1e3, 1e4, 2])[:, None]).astype(np.float32)
    return x, rng.normal(size=x.shape).astype(np.float32), rng.normal(size=C).astype(np.float32), rng.normal(size=C)


def cut(a: Array, split: tuple[int, ...]) -> list[Array]:
    return np.split(a, np.cumsum(split)[:-1])


def same_but_for_few(found: Array, expected: Array) -> None:
    """At most one in 10,000 elements is another, and that by one rounding."""
    off = np.abs(oracle.widen(found) - oracle.widen(expected))
    assert np.count_nonzero(off) <= max(1, expected.size // 10_000)
    assert (off <= oracle.spacing(np.abs(oracle.widen(expected)), expected.dtype)).all()


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_one_process(split: tuple[int, ...], data: tuple[Array, ...]) -> None:
    """y, running statistics and gradients are those of all data in one process; statistics are the same on all ranks."""
    x, dy, weight, bias = data
    xs, dys = cut(x, split), cut(dy, split)

    def work(rank: int, comm: Callable[[Array], Array]) -> Any:
        mean, var, seen = np.zeros(C), np.ones(C), np.array(0)
        y, stats = batch_norm(xs[rank], mean, var, weight, bias, True, num_batches_tracked=seen, return_stats=True, comm=comm)
        return y, (*stats, stats.low, mean, var, seen), batch_norm_backward(dys[rank], xs[rank], stats, weight, comm=comm)

    ranks = together(len(split), work)
    known = [pickle.dumps([np.asarray(a).tobytes() for a in statistics]) for _, statistics, _ in ranks]
    assert len(set(known)) == 1
    mean, rstd, low, running_mean, running_var, seen = ranks[0][1]
    truth = oracle.batch_norm(x, weight, bias)
    assert truth.mean is not None
    std = np.sqrt(truth.var).reshape(-1)
    assert (np.abs(oracle.widen(mean) + low - truth.mean.reshape(-1)) <= 2.0**-52 * std).all()  # the bound
    assert oracle.relative_error(rstd, 1 / np.sqrt(truth.var + 1e-5).reshape(-1)) <= 3 * 2.0**-52
    one_mean, one_var = np.zeros(C), np.ones(C)
    y = batch_norm(x, one_mean, one_var, weight, bias, True)
    same_but_for_few(np.concatenate([r[0] for r in ranks]), y)
    assert seen == 1
    assert oracle.relative_error(running_mean, one_mean, 1e-3 * std.astype(float)) <= 2.0**-40  # of one read in float32's mode
    assert oracle.relative_error(running_var, one_var) <= 2.0**-40
    expected = oracle.channels_backward(dy, x, 0, weight)
    gradient = np.concatenate([r[2][0] for r in ranks])
    assert oracle.ulp_error(gradient, expected.dx.value, expected.dx.terms) <= 4  # the documented bound, at the terms' scale
    for k, of in ((1, expected.dweight), (2, expected.dbias)):
        total = sum(oracle.widen(r[2][k]) for r in ranks)
        assert (np.abs(total - of.value.reshape(-1)) <= 4 * 2.0**-24 * of.terms.reshape(-1)).all()


@pytest.mark.parametrize("masked", [(True, True, True), (True, False, False)], ids=str)
def test_masks(masked: tuple[bool, ...], data: tuple[Array, ...]) -> None:
    """Of all ranks or of one; a channel that is nowhere included has y of the bias, and statistics of 0."""
    x, dy, weight, bias = data
    where = np.arange(x.size).reshape(x.shape) % 3 > 0
    if all(masked):
        where[:, 2] = False
    xs, dys, masks = (cut(a, (20, 20, 20)) for a in (np.where(where, x, np.float32(np.nan)), dy, where))
    for k, one in enumerate(masked):
        if not one:
            masks[k][...] = True
            xs[k][...] = x[20 * k : 20 * k + 20]

    def work(rank: int, comm: Any) -> Any:
        own = masks[rank] if masked[rank] else None
        running = np.zeros(C), np.ones(C)
        y, stats = batch_norm(xs[rank], *running, weight, bias, True, where=own, fill=None if own is None else 5.0,
                              return_stats=True, comm=comm)  # fmt: skip
        return y, stats, batch_norm_backward(dys[rank], xs[rank], stats, weight, where=own, comm=comm), running

    ranks = together(3, work)
    whole, running = np.concatenate(masks), (np.zeros(C), np.ones(C))
    y, stats = batch_norm(np.concatenate(xs), *running, weight, bias, True, where=whole, fill=5.0, return_stats=True)
    same_but_for_few(np.concatenate([r[0] for r in ranks]), y)
    grads = batch_norm_backward(dy, np.concatenate(xs), stats, weight, where=whole)
    dx = np.concatenate([r[2][0] for r in ranks])
    assert not dx[~whole].any()
    # both are within 4 ulp of the truth
    assert oracle.ulp_error(dx, grads[0], np.abs(dy * weight[:, None] * stats.rstd[:, None])) <= 8
    for _, found, _, own in ranks:
        assert found.count.tolist() == stats.count.tolist()
        assert oracle.relative_error(found.rstd, stats.rstd, np.maximum(stats.rstd, 1)) <= 2.0**-40
        assert all(oracle.relative_error(a, b, 1e4) <= 2.0**-40 for a, b in zip(own, running, strict=True))


def test_no_data_anywhere() -> None:
    """As in one process: statistics are nan, and the running ones stay as they are."""

    def work(_: int, comm: Any) -> Any:
        running = np.zeros(C), np.ones(C), np.array(3)
        x = np.zeros((0, C, 2), np.float32)
        y, stats = batch_norm(x, *running[:2], training=True, num_batches_tracked=running[2], return_stats=True, comm=comm)
        return y.shape, np.isnan(stats).all(), [a.tolist() for a in running], batch_norm_backward(x, x, stats, comm=comm)

    for shape, empty, running, (dx, dweight, dbias) in together(2, work):
        assert (shape, dx.shape, bool(empty)) == ((0, C, 2), (0, C, 2), True)
        assert running == [[0.0] * C, [1.0] * C, 3]
        assert not dweight.any()
        assert not dbias.any()


def test_numbers_beyond_the_range_of_squares(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 3)) * np.array([1e200, 1e-200, 1.0])
    ranks = together(3, lambda rank, comm: batch_norm(x[10 * rank : 10 * rank + 10], training=True, eps=0.0, comm=comm))
    assert oracle.eps_error(np.concatenate(ranks), oracle.batch_norm(x / [1e200, 1e-200, 1.0], eps=0.0).y) <= 4


@pytest.mark.parametrize("channels", [1, 203, 204, 1000])
def test_one_message_or_two(channels: int, rng: np.random.Generator) -> None:
    """About ROOM numbers, of which a channel has five."""
    x, messages = rng.normal(size=(8, channels)).astype(np.float32), []

    def work(rank: int, comm: Any) -> Array:
        def counted(row: Array) -> Array:
            messages.append(row.size)
            return comm(row)

        return batch_norm(x[4 * rank : 4 * rank + 4], training=True, comm=counted)

    found = together(2, work)
    same_but_for_few(np.concatenate(found), batch_norm(x, training=True))
    rest = 5 * channels - communicators.ROOM
    assert sorted(messages) == sorted([1024] * 2 + [rest] * 2 * (rest > 0))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": [1.0]}, TypeError, "x must be a NumPy array"),
    ({"x": np.zeros((4, 3, 7), np.float32)}, ValueError, r"running_mean must have shape \(3,\)"),
    ({"eps": -1.0}, ValueError, "eps must be"),
    ({"out": np.zeros((1, 1), np.float32)}, ValueError, "out must"),
    ({"method": "none"}, ValueError, "method must be"),
    ({"backend": "cuda"}, ValueError, "backend must be 'cpu' or None"),
    ({"running_var": None}, ValueError, "must be given together"),
]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(("wrong", "error", "text"), BAD, ids=lambda v: str(v)[:30])
def test_an_error_is_one_of_all_ranks(
    at: int, wrong: dict[str, Any], error: type[Exception], text: str, data: tuple[Array, ...]
) -> None:
    """Nobody waits, nothing is changed, and all say who was wrong; the next call goes well."""
    x, _, weight, bias = data
    running = [(np.zeros(C), np.ones(C)) for _ in range(3)]

    def work(rank: int, comm: Any) -> Any:
        good = {"x": x[20 * rank : 20 * rank + 20], "running_mean": running[rank][0], "running_var": running[rank][1]}
        good |= {"weight": weight, "bias": bias, "training": True, "comm": comm}
        try:
            batch_norm(**(good | (wrong if rank == at else {})))
        except Exception as raised:
            return raised, batch_norm(**(good | {"running_mean": None, "running_var": None}))
        return None

    for rank, (raised, y) in enumerate(together(3, work)):
        if rank == at:
            assert type(raised) is error
            assert re.search(text, str(raised))
        else:
            assert type(raised) is RuntimeError
            assert str(raised).startswith(f"no rank of comm may fail: got on rank {at} {error.__name__}: ")
        assert np.isfinite(y).all()
    assert all(not mean.any() and (var == 1).all() for mean, var in running)


def test_ranks_that_do_not_agree(rng: np.random.Generator) -> None:
    x = rng.normal(size=(8, 3)).astype(np.float32)
    _, stats = batch_norm(x, training=True, return_stats=True)
    for message, calls in {
        r"the same number of channels: got \[3, 2\] in their order; say with": (
            lambda comm: batch_norm(x, training=True, comm=comm),
            lambda comm: batch_norm(x[:, :2], training=True, comm=comm),
        ),
        r"the same call: got \['batch_norm', 'batch_norm_backward'\] in their order; call": (
            lambda comm: batch_norm(x, training=True, comm=comm),
            lambda comm: batch_norm_backward(x, x, stats, comm=comm),
        ),
        "a variance needs more than one value per channel: got a single one on all ranks": (
            lambda comm: batch_norm(x[:1], training=True, comm=comm),
            lambda comm: batch_norm(x[:0], training=True, comm=comm),
        ),
    }.items():
        for error in together(2, lambda rank, comm, calls=calls: calls[rank](comm)):  # type: ignore[misc]
            with pytest.raises(ValueError, match=message):
                raise error


def test_a_single_value_on_each_rank(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, C))
    found = together(3, lambda rank, comm: batch_norm(x[rank : rank + 1], training=True, comm=comm))
    assert oracle.eps_error(np.concatenate(found), oracle.batch_norm(x).y) <= 4


def test_what_is_no_communicator(rng: np.random.Generator) -> None:
    x = rng.normal(size=(8, 3))
    with pytest.raises(TypeError, match=r"comm must be a communicator of mpi4py, .*: got 5; write"):
        batch_norm(x, training=True, comm=5)
    with pytest.raises(ValueError, match=r"comm must take an array of each rank to \(ranks, ...\): got shape \(1024,\)"):
        batch_norm(x, training=True, comm=lambda row: row)
    with pytest.raises(ValueError, match="comm must be None to explain a call"):
        explain(batch_norm, x, training=True, comm=lambda row: row[None])
    running = np.zeros(3), np.ones(3)
    assert (batch_norm(x, *running, comm=5) == batch_norm(x, *running)).all()  # nothing to gather in evaluation


def test_layers(data: tuple[Array, ...]) -> None:
    """Their bits are the functions'; evaluation asks nobody."""
    x, dy, *_ = data

    def work(rank: int, comm: Any) -> Any:
        layer, part = BatchNorm1d(C, comm=comm), slice(20 * rank, 20 * rank + 20)
        y = layer(x[part])
        dx = layer.backward(dy[part])
        mean, var, ones = np.zeros(C, np.float32), np.ones(C, np.float32), np.ones(C, np.float32)
        again, stats = batch_norm(x[part], mean, var, ones, 0 * ones, True, return_stats=True, comm=comm)
        grads = batch_norm_backward(dy[part], x[part], stats, ones, comm=comm)
        same = [(y, again), (dx, grads[0]), (layer.grad["weight"], grads[1]), (layer.running_var, var)]
        layer.comm = None
        layer.eval()(x[part])
        return all(a.tobytes() == b.tobytes() for a, b in same), layer.running_mean.tobytes()

    found = together(3, work)
    assert [same for same, _ in found] == [True] * 3
    assert len({running for _, running in found}) == 1
