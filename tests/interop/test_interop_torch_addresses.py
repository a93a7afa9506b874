"""Calls by the addresses of tensors: which they are, which are not, and that nothing else differs."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from torch_norms import DTYPES, SHAPE, Norm, arguments, every_dtype, every_norm, ours, run, same, tensor, torch

import numbanorm
from numbanorm.spec.dtypes import DTYPES as TABLE

ops: Any = importlib.import_module("numbanorm.interop.torch.operators")
entry: Any = importlib.import_module("numbanorm.cpu.entry.addresses")
ways: Any = importlib.import_module("numbanorm.interop.torch.addresses")

X = torch.arange(72.0).reshape(3, 6, 4).sin()
W = torch.linspace(0.5, 2.0, 4)
grad = torch.autograd.grad


@pytest.fixture
def by_arrays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that go by arrays, in order: forward and backward."""
    calls: list[str] = []

    def watch(name: str, way: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            calls.append(name)
            return way(*args)

        return watched

    monkeypatch.setattr(ops, "normalized", watch("forward", ops.normalized))
    monkeypatch.setattr(ops, "differentiated", watch("backward", ops.differentiated))
    return calls


def test_dtypes_have_the_numbers_that_compiled_code_knows() -> None:
    assert [ways.NUMBERS[getattr(torch, name)] for name in TABLE] == list(range(1, 1 + len(TABLE)))
    assert list(TABLE)[entry.FLOAT64 - 1] == "float64"
    assert ways.BITS == entry.BITS
    assert len(TABLE) < 1 << entry.BITS


@every_dtype
@every_norm
def test_usual_calls_go_by_addresses(
    norm: Norm, dtype: str, by_arrays: list[str], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Forward and backward, contiguous and channels_last, with the bits that arrays have; strided ones once they are copied."""
    dy, arrays = arguments(norm, dtype, rng)
    t = [tensor(a) for a in arrays]
    slow = []
    with monkeypatch.context() as m:
        m.setattr(ops, "normalized_at", lambda *_: None)
        for layout in (torch.contiguous_format, torch.channels_last):
            slow.append(run(norm, ours, tensor(dy), [t[0].contiguous(memory_format=layout), *t[1:]]))
    assert by_arrays == ["forward", "backward"] * 2
    by_arrays.clear()
    for k, layout in enumerate((torch.contiguous_format, torch.channels_last)):
        found = run(norm, ours, tensor(dy), [t[0].contiguous(memory_format=layout), *t[1:]])
        assert all(map(same, found, slow[k]))
        assert [a.stride() for a in found] == [a.stride() for a in slow[k]]
    strided = run(norm, ours, tensor(dy).mT.contiguous().mT, [t[0].mT.contiguous().mT, *t[1:]])
    assert all(map(same, strided, slow[0]))
    assert "forward" not in by_arrays


@every_norm
def test_each_gradient_alone(norm: Norm, by_arrays: list[str], rng: np.random.Generator) -> None:
    dy, arrays = arguments(norm, "float32", rng)
    every = run(norm, ours, tensor(dy), [tensor(a) for a in arrays])
    for k in range(3 if norm.bias else 2):
        t = [tensor(a) for a in arrays]
        t[k].requires_grad_()
        (alone,) = grad(norm.forward(ours, *t), t[k], tensor(dy))
        assert same(alone, every[1 + k])
    assert "forward" not in by_arrays


def test_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """x, dy and their results are read and written where they lie."""
    backend, seen = importlib.import_module("numbanorm.cpu.backend"), []
    for name in ("try_forward_at", "try_backward_at"):
        way = getattr(backend, name)
        monkeypatch.setattr(backend, name, lambda call, lie, *rest, way=way: (seen.append(list(lie)), way(call, lie, *rest))[1])
    leaf, w, dy = X.clone().requires_grad_(), W.clone().requires_grad_(), torch.randn(X.shape)
    y = ours.layer_norm(leaf, (4,), w)
    dx, dw = grad(y, (leaf, w), dy)
    lie = [[leaf, y, w, None, None, None], [leaf, dy, dx, w, dw, None]]
    assert seen == [[0 if t is None else t.data_ptr() for t in call] for call in lie]


class Mine(torch.Tensor):  # type: ignore[misc]
    pass


def statistics() -> tuple[Any, Any]:
    return torch.zeros(6), torch.ones(6)


STRIDED = torch.stack((W, W), 1)[:, 0]
ONE = torch.zeros(12)
# calls that do not go by addresses, and are right
UNUSUAL: dict[str, Callable[[], Any]] = {
    "strided weight": lambda: ours.layer_norm(X, (4,), STRIDED),
    "strided statistics": lambda: ours.batch_norm(X, *(t.repeat(2)[::2] for t in statistics()), training=False),
    "statistics that overlap": lambda: ours.batch_norm(X, ONE[:6], ONE[3:9], training=True),
    "a weight that is updated": lambda: ours.batch_norm(X, ONE[:6], ONE[6:], ONE[6:], training=True),
    "nothing": lambda: ours.layer_norm(X[:0], (4,)),
    "out of range": lambda: ours.layer_norm(X.double() * 1e300, (4,)),
    "a wide weight": lambda: ours.layer_norm(X, (4,), W.double() * 1e60, W.double())[:, :, :0],
}


@pytest.mark.parametrize("name", list(UNUSUAL))
def test_unusual_calls_go_by_arrays(name: str, by_arrays: list[str]) -> None:
    ONE.fill_(0.5)
    UNUSUAL[name]()
    assert set(by_arrays) == {"forward"}


def test_the_same_numbers_either_way() -> None:
    strided = ours.layer_norm(X, (4,), STRIDED)
    assert same(strided, ours.layer_norm(X, (4,), W))
    assert same(strided, numbanorm.layer_norm(X.numpy(), 4, W.numpy()))
    big = X.double() * 1e300
    assert same(ours.layer_norm(big, (4,)), numbanorm.layer_norm(big.numpy(), 4))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "shape": (lambda: ours.layer_norm(X, (4,), torch.ones(5)), "weight must"),
    "axes": (lambda: ours.layer_norm(X, (4,), torch.ones(2, 2)), "weight must"),
    "of statistics": (lambda: ours.batch_norm(X, torch.ones(5), torch.ones(5)), "running_mean must"),
    "dtype": (lambda: ours.layer_norm(X, (4,), W.long()), "weight must hold"),
    "of x": (lambda: ours.layer_norm(X.long(), (4,)), "input must hold"),
    "of bias": (lambda: ours.layer_norm(X, (4,), W, W.double()), "bias must have the dtype"),
    "eps": (lambda: ours.layer_norm(X, (4,), W, eps=-1.0), "eps must"),
    "momentum": (lambda: ours.batch_norm(X, *statistics(), training=True, momentum=2.0), "momentum must"),
    "one statistic": (lambda: ours.batch_norm(X, torch.ones(6), None, training=True), "must be given together"),
    "no statistics": (lambda: ours.batch_norm(X, None, None), "must be given to normalize"),
    "a float for a size": (lambda: ours.layer_norm(X, (4.0,)), "(?i)int"),
    "a leaf": (lambda: ours.batch_norm(X, statistics()[0].requires_grad_(), statistics()[1], training=True), "leaf"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_refusals_have_the_words_of_arrays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a call that is known, for what is like it must not be taken for it."""
    ours.layer_norm(X, (4,), W)
    call, told = WRONG[name]
    words = []
    for by_address in (True, False):
        if not by_address:
            monkeypatch.setattr(ops, "normalized_at", lambda *_: None)
        with pytest.raises((TypeError, ValueError, RuntimeError), match=told) as caught:
            call()
        words.append(str(caught.value))
    assert words[0] == words[1]


def test_a_subclass_is_no_plain_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "normalized_at", lambda *_: pytest.fail("by address"))
    assert type(ours.layer_norm(X.as_subclass(Mine), (4,), W)) is Mine
    ours.layer_norm(X, (4,), W.as_subclass(Mine))


def test_memory_that_was_given_back() -> None:
    """Compiled code refuses an address of 0: it takes it neither for None nor for memory."""
    from numbanorm.cpu import backend

    call, codes, *_ = ways.asked("layer_norm", True, False, X.shape, (4,), 1, X.dtype, W.dtype, None, None, None)
    y = torch.empty_like(X)
    for lie in ((X, y, None), (None, y, W), (X, None, W)):
        lost = [0 if t is None else t.data_ptr() for t in (*lie, None, None, None)]
        assert backend.try_forward_at(call, lost, codes, 1e-5, None, None) == entry.REFUSED


def test_gradients_of_a_broadcast_sum() -> None:
    """dy of one number for all elements, which has no strides."""
    leaf, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    y = ours.layer_norm(leaf, (4,), w)
    summed, filled = grad(y.sum(), (leaf, w), retain_graph=True), grad(y, (leaf, w), torch.ones_like(y))
    assert all(map(same, summed, filled))


def test_threads_share_nothing() -> None:
    """Eight threads, each with its own numbers, in calls that are like each other."""
    data = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(k)) for k in range(8)]

    def work(x: Any) -> list[Any]:
        leaf, w = x.clone().requires_grad_(), torch.ones(SHAPE[-1:], requires_grad=True)
        m, v = torch.zeros(SHAPE[1]), torch.ones(SHAPE[1])
        y = ours.layer_norm(leaf, SHAPE[-1:], w)
        return [y.detach(), *grad(y, (leaf, w), x), ours.batch_norm(x, m, v, training=True), m, v]

    expected = [work(x) for x in data]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(25):
            for found, one in zip(pool.map(work, data), expected, strict=True):
                assert all(map(same, found, one))


def test_nothing_is_kept() -> None:
    """No tensor outlives its call and its graph."""
    leaf, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    seen = [weakref.ref(t) for t in (leaf, w)]
    y = ours.layer_norm(leaf, (4,), w)
    y.sum().backward()
    del leaf, w, y
    gc.collect()
    assert [t() for t in seen] == [None, None]


def test_table_of_dtypes() -> None:
    assert set(DTYPES) == set(ways.NAMES.values())
