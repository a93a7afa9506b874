"""One sample without a batch axis, batch_axis=None: the bits of a batch of one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, MODES
from numpy.typing import NDArray

import numbanorm
from numbanorm import GroupNorm, InstanceNorm2d, group_norm, group_norm_backward, instance_norm, instance_norm_backward

Array = NDArray[Any]

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "instance": (instance_norm, instance_norm_backward),
    "group": (partial(group_norm, num_groups=3), partial(group_norm_backward, num_groups=3)),
}
# a shape of the sample, and channel_axis as for a batch of such
SAMPLES = [((6, 5, 7), 1), ((6, 300), 1), ((5, 7, 6), -1), ((9, 40, 6), 3), ((300, 6, 2), 2), ((6, 4), 1), ((4, 6), -1)]

every_norm = pytest.mark.parametrize("name", FUNCTIONS)
every_mode = pytest.mark.parametrize("exact", MODES, ids=lambda e: "exact" if e else "fast")
every_sample = pytest.mark.parametrize(("shape", "axis"), SAMPLES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


def same(a: Any, b: Any) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> tuple[Array, Array, Array, Array]:
    """x, dy, weight and bias of 6 channels."""
    x, dy = (rng.normal(1, 2, shape).astype(dtype) for _ in range(2))
    return x, dy, rng.uniform(1, 2, 6), rng.normal(size=6)


@every_norm
@every_mode
@every_dtype
@every_sample
def test_bits_of_a_batch_of_one(
    name: str, shape: tuple[int, ...], axis: int, dtype: np.dtype[Any], exact: bool, rng: np.random.Generator
) -> None:
    (norm, backward), (x, dy, weight, bias) = FUNCTIONS[name], draw(rng, shape, dtype)
    options: dict[str, Any] = {"channel_axis": axis, "exact": exact}
    y, stats = norm(x, weight=weight, bias=bias, batch_axis=None, return_stats=True, **options)
    of_batch, of_one = norm(x[None], weight=weight, bias=bias, return_stats=True, **options)
    assert same(y, of_batch[0])
    assert all(same(a, b[0]) for a, b in zip(stats, of_one, strict=True))
    grads = backward(dy, x, stats=stats, weight=weight, batch_axis=None, **options)
    expected = backward(dy[None], x[None], stats=of_one, weight=weight, **options)
    assert all(same(a, b) for a, b in zip(grads, (expected[0][0], *expected[1:]), strict=True))


@every_norm
@pytest.mark.parametrize("backend", [None, "cpu"])
def test_memory_of_the_result(name: str, backend: str | None, rng: np.random.Generator) -> None:
    """`out`, in place too, whichever way the call takes; and another layout."""
    (norm, backward), (x, dy, weight, bias) = FUNCTIONS[name], draw(rng, (6, 5, 7))
    y, stats = norm(x, weight=weight, bias=bias, batch_axis=None, return_stats=True)
    own = np.asfortranarray(x)
    for out, source in ((np.empty_like(x), x), (np.asfortranarray(x), x), (own, own)):
        assert norm(source, weight=weight, bias=bias, batch_axis=None, out=out, backend=backend) is out
        assert same(np.ascontiguousarray(out), y)
    dx = backward(dy, x, stats=stats, weight=weight, batch_axis=None)[0]
    for upstream in (dy.copy(), np.asfortranarray(dy)):
        found = backward(upstream, x, stats=stats, weight=weight, batch_axis=None, out=upstream, backend=backend)[0]
        assert found is upstream
        assert same(np.ascontiguousarray(found), dx)


@pytest.mark.parametrize("use_input_stats", [True, False])
def test_running_statistics(use_input_stats: bool, rng: np.random.Generator) -> None:
    x, dy, weight, bias = draw(rng, (5, 7, 6))
    running = [np.full(6, 0.5), np.full(6, 2.0)]
    others, options = [a.copy() for a in running], {"channel_axis": -1, "use_input_stats": use_input_stats}
    y, stats = instance_norm(x, *running, weight, bias, batch_axis=None, return_stats=True, **options)
    of_batch, of_one = instance_norm(x[None], *others, weight, bias, return_stats=True, **options)
    assert same(y, of_batch[0])
    assert all(same(a, b) for a, b in zip(running, others, strict=True))
    assert all(same(a, b[0]) for a, b in zip(stats, of_one, strict=True))
    dx = instance_norm_backward(dy, x, stats, weight, batch_axis=None, **options)[0]
    assert same(dx, instance_norm_backward(dy[None], x[None], of_one, weight, **options)[0][0])


@every_norm
def test_empty_and_explained(name: str) -> None:
    norm, _ = FUNCTIONS[name]
    y, stats = norm(np.empty((6, 0)), batch_axis=None, return_stats=True)
    assert y.shape == (6, 0)
    assert stats.rstd.shape == ((6,) if name == "instance" else (3,))
    x = np.ones((6, 400), np.float32)
    assert numbanorm.explain(norm, x, batch_axis=None) == numbanorm.explain(norm, x[None])


@every_norm
def test_what_does_not_fit_is_said_of_the_sample(name: str) -> None:
    norm, _ = FUNCTIONS[name]
    with pytest.raises(ValueError, match=r"channel_axis must not be the batch axis"):
        norm(np.ones((6, 4)), channel_axis=0, batch_axis=None)
    with pytest.raises(ValueError, match=r"of at least 2 axes"):
        norm(np.ones(()), batch_axis=None)


def test_layers(rng: np.random.Generator) -> None:
    """GroupNorm is told; InstanceNorm sees it by the number of axes, as torch's does."""
    x, dy, *_ = draw(rng, (5, 7, 6))
    for alone, batched in (
        (GroupNorm(3, 6, channel_axis=-1, batch_axis=None), GroupNorm(3, 6, channel_axis=-1)),
        (InstanceNorm2d(6, channel_axis=-1, affine=True), InstanceNorm2d(6, channel_axis=-1, affine=True)),
    ):
        for layer in (alone, pickle.loads(pickle.dumps(alone)), copy.deepcopy(alone)):
            assert same(layer(x), batched(x[None])[0])
            assert same(layer.backward(dy), batched.backward(dy[None])[0])
            assert all(same(layer.grad[k], batched.grad[k]) for k in ("weight", "bias"))
    assert repr(GroupNorm(3, 6, batch_axis=None)).endswith(", batch_axis=None)")
    old = GroupNorm(3, 6)
    del old.__dict__["batch_axis"]
    assert same(pickle.loads(pickle.dumps(old))(x[None].swapaxes(1, 3)), GroupNorm(3, 6)(x[None].swapaxes(1, 3)))
