"""The short way through a call: compiled code that looks at the arrays itself, and does nothing unless all are right."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import DTYPES, FLOAT32, Case, call, call_backward

import numbanorm
from numbanorm.backends import host
from numbanorm.cpu import backend as cpu
from numbanorm.cpu.entry import objects
from numbanorm.spec import call as spec
from numbanorm.spec.sources import OWN, TRACKED

USUAL = [
    Case("layer", (4, 20)), Case("layer", (3, 4, 5), dims=2), Case("layer", (4, 20), affine=False), Case("rms", (4, 20)),
    Case("group", (2, 6, 5), groups=2), Case("group", (2, 5, 6), groups=2, channel_axis=-1), Case("instance", (2, 3, 5)),
    Case("batch", (5, 3)), Case("batch", (4, 3, 5)), Case("batch", (4, 3, 5), training=False),
    Case("batch", (5, 3), affine=False),
]  # fmt: skip
EVERY = pytest.mark.parametrize("case", USUAL, ids=lambda c: c.name)


@pytest.fixture
def no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that compiled code does not accept fail."""

    def other(*_: Any) -> Any:
        raise AssertionError("the arguments were looked at one by one")

    for name in ("normalize", "differentiate", "update_running"):
        monkeypatch.setattr(cpu, name, other)


@pytest.mark.usefixtures("no_other_way")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERY
def test_usual_calls_take_it(case: Case, dtype: np.dtype[Any]) -> None:
    """In every type, with parameters of another, statistics returned or not, into memory that is there, and in place."""
    a = cases.arguments(case, dtype)
    y, stats = call(case, a, return_stats=True)
    parameters = {f.name: getattr(a, f.name) for f in fields(a) if f.name != "x"}
    wide = replace(a, **{k: None if v is None else v.astype(np.float64) for k, v in parameters.items()})
    for b in (a, wide):
        assert call(case, b).dtype == dtype
        out = np.empty_like(a.x)
        assert call(case, b, out=out) is out
        if case.training:  # where running statistics move on, the second call is another one
            assert np.array_equal(out, y, equal_nan=True)
        dx = np.empty_like(a.x)
        assert call_backward(case, b, cases.upstream(case, dtype), stats, out=dx)[0] is dx
    if dtype == np.float64 and case.training:
        return  # in place, they are copied first: see `extreme`
    x = a.x.copy()
    assert call(case, replace(a, x=x), out=x) is x


@EVERY
def test_the_long_way_gives_the_same_bits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for short in (True, False):
        if not short:
            monkeypatch.setattr(host, "try_forward", lambda *_: None)
            monkeypatch.setattr(host, "try_backward", lambda *_: None)
        for dtype in DTYPES:
            a = cases.arguments(case, dtype)
            y, stats = call(case, a, return_stats=True)
            gradients = call_backward(case, a, cases.upstream(case, dtype), stats)
            arrays = [y, *stats, *gradients, a.running_mean, a.running_var]
            results.append([None if v is None else v.tobytes() for v in arrays])
    assert results[: len(DTYPES)] == results[len(DTYPES) :]


@EVERY
def test_arrays_from_a_pickle(case: Case) -> None:
    """Whose dtype equals NumPy's, but is another object; compiled code compares objects."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    b, dy_ = pickle.loads(pickle.dumps((a, dy)))
    assert b.x.dtype is not a.x.dtype  # or this tests nothing
    y, stats = call(case, a, return_stats=True)
    y_, stats_ = call(case, b, return_stats=True)
    assert y_.tobytes() == y.tobytes()
    for one, other in zip(call_backward(case, a, dy, stats), call_backward(case, b, dy_, stats_), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    for one, other in ((a.running_mean, b.running_mean), (a.running_var, b.running_var)):
        assert (one is None) is (other is None)
        assert one is None or one.tobytes() == other.tobytes()


class Shaped(np.ndarray[Any, Any]):
    """A subclass."""


def strided(n: int) -> Any:
    return np.ones(2 * n, np.float32)[::2]


def unaligned(n: int) -> Any:
    return np.frombuffer(b"\0" * (4 * n + 1), np.uint8)[1:].view(np.float32)


ODD: dict[str, Callable[[int], Any]] = {
    "list": lambda n: [1.0] * n, "number": lambda n: 1.0, "string": lambda n: "x", "type": lambda n: np.ndarray,
    "no axis": lambda n: np.ones((), np.float32), "two axes": lambda n: np.ones((1, n), np.float32),
    "longer": lambda n: np.ones(n + 1, np.float32), "empty": lambda n: np.ones(0, np.float32),
    "integers": lambda n: np.ones(n, np.int32), "objects": lambda n: np.array([1.0] * n, object),
    "complex": lambda n: np.ones(n, np.complex64), "swapped": lambda n: np.ones(n, ">f4"), "strided": strided,
    "reversed": lambda n: np.ones(n, np.float32)[::-1], "unaligned": unaligned,
    "broadcast": lambda n: np.broadcast_to(np.float32(1), (n,)), "subclass": lambda n: np.ones(n, np.float32).view(Shaped),
    "masked": lambda n: np.ma.ones(n, np.float32), "records": lambda n: np.ones(n, [("a", "f4")]),
}  # fmt: skip


def folded(odd: Any) -> Any:
    """What stands for x-shaped arrays, in x's shape."""
    return odd.reshape(5, 4) if isinstance(odd, np.ndarray) and odd.shape == (20,) else odd


@pytest.mark.parametrize("place", ["weight", "bias", "mean", "var", "out"])
@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_is_not_touched(what: str, place: str) -> None:
    """Compiled code says no, whatever it is given, and has written nothing."""
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    own: dict[str, Any] = {"weight": np.ones(4, np.float32), "bias": np.ones(4, np.float32)}
    own |= {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32), "out": np.full((5, 4), 7, np.float32)}
    before = {k: v.copy() for k, v in own.items()}
    odd = ODD[what](20 if place == "out" else 4)
    given = {**own, place: folded(odd)}
    out, weight, bias, mean, var = (given[k] for k in ("out", "weight", "bias", "mean", "var"))
    call_ = spec.forward_call("batch_norm", x.shape, x.dtype, ((), 1), TRACKED, "two_pass", True, (True, True, False))
    assert host.try_forward(call_, x, out, weight, bias, 1e-5, (mean, var, (0.9, 0.1), None), True) is None
    assert all(np.array_equal(own[k], before[k]) for k in own)


@pytest.mark.parametrize("place", ["dy", "weight", "mean", "rstd", "out"])
@pytest.mark.parametrize("what", ODD)
def test_odd_gradients_are_not_touched(what: str, place: str) -> None:
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    own: dict[str, Any] = {"dy": x + 1, "weight": np.ones(4, np.float32), "mean": np.zeros(5), "rstd": np.ones(5)}
    own |= {"out": np.full((5, 4), 7, np.float32)}
    odd = ODD[what](20 if place in ("dy", "out") else 4 if place == "weight" else 5)
    given = {**own, place: folded(odd)}
    call_ = spec.backward_call("layer_norm", x.shape, x.dtype, ((4,), 0), OWN, (True,) * 3, True, False)
    assert host.try_backward(call_, x, given["dy"], (given["mean"], given["rstd"]), given["weight"], given["out"]) is None
    assert np.array_equal(own["out"], np.full((5, 4), 7, np.float32))


def test_shared_memory_is_seen() -> None:
    """To the byte: neighbours are fine, one element in common is not."""
    memory = np.ones(200, np.float32)
    x, near = memory[:20].reshape(5, 4), memory[20:40].reshape(5, 4)

    def accepted(out: Any, weight: Any, mean: Any = None, var: Any = None) -> bool:
        source, present = OWN if mean is None else TRACKED, (weight is not None, False)
        call_ = spec.forward_call("batch_norm", x.shape, x.dtype, ((), 1), source, "two_pass", True, (*present, out is x))
        return host.try_forward(call_, x, out, weight, None, 1e-5, (mean, var, (0.9, 0.1), None), False) is not None

    assert accepted(near, memory[40:44], memory[44:48], memory[48:52])
    assert accepted(x, memory[20:24])
    assert not accepted(memory[19:39].reshape(5, 4), None)  # part of x
    assert not accepted(near, memory[39:43])
    assert not accepted(near, memory[17:21])
    assert not accepted(near, memory[60:64], memory[63:67])
    assert not accepted(near, memory[60:64], memory[70:74], memory[73:77])
    assert not accepted(near, memory[60:64], memory[19:23])  # a running statistic that is part of x
    assert not accepted(near, None, memory[36:40])


def test_fields_are_where_numpy_has_them() -> None:
    """Of arrays of many kinds, as NumPy says them."""
    for a in (np.zeros((3, 4, 5), np.float16), np.zeros(7)[::2], np.zeros((), np.float32), np.asfortranarray(np.zeros((3, 4)))):
        read = [int(v) for v in np.frombuffer(ctypes.string_at(id(a), objects.FLAGS + 8), np.int64)]
        assert read[objects.TYPE // 8] == id(np.ndarray)
        assert read[objects.DATA // 8] == a.ctypes.data
        assert read[objects.NDIM // 8] & 0xFFFFFFFF == a.ndim
        assert read[objects.DESCR // 8] == id(a.dtype)
        assert read[objects.FLAGS // 8] & 0xFFFFFFFF & 1 == a.flags.c_contiguous
        assert bool(read[objects.FLAGS // 8] & 0x100) == a.flags.aligned
        assert bool(read[objects.FLAGS // 8] & 0x400) == a.flags.writeable


def test_one_array_in_many_places() -> None:
    """x that is dy, weight that is bias: reading twice from one place is no sharing to refuse."""
    x = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    w = np.ones(6, np.float32)
    y, stats = numbanorm.layer_norm(x, 6, w, w, return_stats=True)
    assert np.isfinite(y).all()
    one, other = (numbanorm.layer_norm_backward(dy, x, 6, stats, w) for dy in (x, x.copy()))
    assert [a.tobytes() for a in one] == [a.tobytes() for a in other]
