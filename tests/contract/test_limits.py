"""Where the sizes end: axes of length 0, 64 axes, 2**24 elements in a group; and memory that several arguments share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from bad_input import NO_GROUPS, STEPS, overlapping_itself
from cases import METHODS
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]
Kwargs = dict[str, Any]

# axes of length 0, and groups of one element
SHAPES = [
    (0, 6, 4), (2, 6, 0), (2, 0, 4), (0, 0, 0), (1, 6, 0), (0, 6, 1), (0, 6), (2, 0), (1, 0), (0, 0), (2, 6, 0, 4), (1, 0, 1),
    (1, 6), (2, 6), (1, 6, 1), (2, 6, 1), (1, 6, 2), (1, 1, 1),
]  # fmt: skip
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def outcome(call: Callable[[], Any]) -> Any:
    """Shapes and values of what a call returns, or that it refuses."""
    try:
        found = call()
    except (RuntimeError, ValueError):  # torch's, where it checks in C++
        return "refused"
    return [(tuple(a.shape), np.asarray(a).tolist()) for a in found]


def tracked(function: Any, x: Any, ones: Any, own: bool) -> list[Any]:
    """y and what becomes of running statistics."""
    mean, var, one = ones(x.shape[1]) / 2, ones(x.shape[1]) * 2, ones(x.shape[1])
    return [function(x, mean, var, one, one, own), mean, var]


def ours_and_torchs(shape: tuple[int, ...]) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """The same calls of both, where torch has a rule: without samples or channels its instance and batch norm look for the
    first of them, and fail with an IndexError."""
    torch = pytest.importorskip("torch", reason="torch is not installed, so its rules cannot be asked for")
    x, t, f = zeros(*shape), torch.zeros(shape), torch.nn.functional

    def batch(x: Any, mean: Any, var: Any, w: Any, b: Any, own: bool) -> Any:
        return numbanorm.batch_norm(x, mean, var, w, b, training=own)

    def instance(x: Any, mean: Any, var: Any, w: Any, b: Any, own: bool) -> Any:
        return numbanorm.instance_norm(x, mean, var, w, b, use_input_stats=own)

    pairs = [(partial(numbanorm.group_norm, x, g), partial(f.group_norm, t, g)) for g in {1, 2, max(1, shape[1])}]
    for own in (shape[-1:], shape[-2:]):
        w, v = np.ones(own, np.float32), torch.ones(own)
        pairs.append((partial(numbanorm.layer_norm, x, own, w, w), partial(f.layer_norm, t, own, v, v)))
        pairs.append((partial(numbanorm.rms_norm, x, own, w), partial(f.rms_norm, t, own, v)))
    for ours, theirs in pairs:
        yield lambda ours=ours: [ours()], lambda theirs=theirs: [theirs()]
    of_channels = [(batch, f.batch_norm)] if shape[1] else []
    of_channels += [(instance, f.instance_norm)] if shape[0] and shape[1] and len(shape) > 2 else []
    for (ours, theirs), own in product(of_channels, (True, False)):
        yield partial(tracked, ours, x, partial(np.ones, dtype=np.float32), own), partial(tracked, theirs, t, torch.ones, own)


@shapes
def test_nothing_and_one_element_as_in_torch(shape: tuple[int, ...]) -> None:
    """Results, running statistics and refusals; of zeros, whose norms are the bias."""
    for ours, theirs in ours_and_torchs(shape):
        mine, expected = outcome(ours), outcome(theirs)
        assert (mine == "refused") == (expected == "refused")
        if mine != "refused":
            assert [s for s, _ in mine] == [s for s, _ in expected]
            for (_, one), (_, other) in zip(mine, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 in s and s[1] and s[:1] + s[2:] != (1,)], ids=str)
def test_gradients_of_nothing_as_in_torch(shape: tuple[int, ...]) -> None:
    """Sums of nothing are 0. (torch's group norm of no pixels says nan.)"""
    torch = pytest.importorskip("torch", reason="torch is not installed, so its gradients cannot be asked for")
    x, w = zeros(*shape), np.ones(shape[1], np.float32)
    for ours, theirs, back, more in [
        (numbanorm.group_norm, "group_norm", numbanorm.group_norm_backward, (1,)),
        (numbanorm.layer_norm, "layer_norm", numbanorm.layer_norm_backward, (shape[1:],)),
    ]:
        weight = w if theirs == "group_norm" else np.ones(shape[1:], np.float32)
        _, stats = ours(x, *more, weight, weight, return_stats=True)
        found = back(x, x, *more, stats, weight)
        leaves = [torch.zeros(shape), torch.ones(weight.shape), torch.zeros(weight.shape)]
        for leaf in leaves:
            leaf.requires_grad_()
        getattr(torch.nn.functional, theirs)(leaves[0], *more, *leaves[1:]).sum().backward()
        assert [g.shape for g in found] == [tuple(leaf.grad.shape) for leaf in leaves]
        assert not any(g.any() for g in found)


@pytest.mark.parametrize("call", [call for _, call in NO_GROUPS], ids=[words for words, _ in NO_GROUPS])
def test_no_groups(call: Callable[[], Any]) -> None:
    """Which torch finds out by dividing."""
    with pytest.raises(ValueError, match=r"num_groups must be at least 1: got 0; 1 normalizes all \d channels together"):
        call()


AXES = 64  # the most that NumPy has
LONG = [(1,) * 60 + (2, 3, 2, 5), (4, 3) + (1,) * 60 + (2, 5), (2, 1) * 6 + (1,) * 50 + (3, 1)]


@pytest.mark.parametrize("shape", LONG, ids=["last", "both ends", "between"])
def test_64_axes(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """The same bits as with few, gradients too, which are those of a weight with as many axes."""
    x, dy = (rng.normal(1, 2, shape).astype(np.float32) for _ in range(2))
    assert x.ndim == AXES
    for kept in (0, 1, 2, 32, 62, 63):
        own = shape[kept:]
        weight, n = rng.uniform(1, 2, own).astype(np.float32), int(np.prod(own))
        y, stats = numbanorm.layer_norm(x, own, weight, weight, return_stats=True)
        grads = numbanorm.layer_norm_backward(dy, x, own, stats, weight)
        flat, w = x.reshape(-1, n), weight.reshape(-1)
        expected, few = numbanorm.layer_norm(flat, n, w, w, return_stats=True)
        assert (y.shape, stats.mean.shape) == (shape, shape[:kept])
        assert y.tobytes() == expected.tobytes()
        assert [g.shape for g in grads] == [shape, own, own]
        assert [g.tobytes() for g in grads] == [
            g.tobytes() for g in numbanorm.layer_norm_backward(dy.reshape(-1, n), flat, n, few, w)
        ]
        turned = np.asfortranarray(x)
        assert numbanorm.layer_norm(turned, own, weight, weight, out=turned) is turned
        assert np.array_equal(turned, y)


@pytest.mark.parametrize("shape", LONG, ids=["last", "both ends", "between"])
def test_channels_of_64_axes(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.normal(1, 2, shape).astype(np.float32)
    for axis in (1, 12, 61, 62, -1):
        three = x.reshape(int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis:])) // shape[axis])
        y = numbanorm.batch_norm(x, training=True, channel_axis=axis)
        assert y.tobytes() == numbanorm.batch_norm(three, training=True).tobytes()
        kept = tuple(k for k in range(AXES) if k != axis % AXES)
        assert np.array_equal(numbanorm.moments(x, kept).mean, numbanorm.moments(three, (0, 2)).mean)
        y = numbanorm.group_norm(x, 1, channel_axis=axis)
        assert y.tobytes() == numbanorm.layer_norm(x, shape[1:]).tobytes()


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.long] * (m == "welford")) for m in METHODS])
@pytest.mark.parametrize("family", ["runs", "columns"])
def test_more_elements_than_a_float_counts(family: str, method: str) -> None:
    """A sum of 2**24 ones in float32 would stay there."""
    n = 2**24 + 6
    x = np.ones((n,), np.float32)
    x[:3] = 4  # of n elements, so that the mean is 1 + 9 / n
    y, stats = numbanorm.batch_norm(
        x.reshape((1, 1, n) if family == "runs" else (n, 1)), training=True, eps=0.0, method=method, return_stats=True
    )
    mean = 1 + 9 / n
    var = 27 / n - (9 / n) ** 2
    np.testing.assert_allclose(stats.mean, [mean], rtol=1e-15)
    np.testing.assert_allclose(stats.rstd, [var**-0.5], rtol=1e-12)
    flat = y.reshape(-1)
    np.testing.assert_allclose(flat[[0, 3, -1]], (x[[0, 3, -1]].astype(float) - mean) / var**0.5, rtol=1e-6)
    assert (flat[3:] == flat[-1]).all()


# views of shape (5, 8) in which elements stand in several places
READ: dict[str, Callable[[Array], Array]] = {
    "one row": lambda r: np.broadcast_to(r[:8], (5, 8)),
    "one column": lambda r: np.broadcast_to(r[:5, None], (5, 8)),
    "one number": lambda r: np.broadcast_to(r[0], (5, 8)),
    "windows": lambda r: sliding_window_view(r[:12], 8),
    "windows backwards": lambda r: sliding_window_view(r[:12], 8)[::-1, ::-1],
    "halves of numbers": lambda r: as_strided(r, (5, 8), (2, 4)),
}


@pytest.mark.parametrize("view", READ)
def test_what_is_read_may_overlap_itself(view: str, rng: np.random.Generator) -> None:
    """x, dy, weight, bias, statistics that are given: as a copy."""
    x = READ[view](rng.normal(1, 2, 48).astype(np.float32))
    w, s = np.broadcast_to(np.float32(2), (8,)), sliding_window_view(rng.uniform(1, 2, 9), 5)[0]
    stats, columns = (s, s), np.broadcast_to(rng.uniform(1, 2, 1), (8,))
    calls: list[Callable[..., Any]] = [
        lambda v, w, s, c: [numbanorm.layer_norm(v, 8, w, w)],
        lambda v, w, s, c: [numbanorm.batch_norm(v, c, c, w, w)],
        lambda v, w, s, c: [numbanorm.batch_norm(v, weight=w, bias=w, training=True)],
        lambda v, w, s, c: numbanorm.layer_norm_backward(v, v, 8, s, w),
        lambda v, w, s, c: numbanorm.batch_norm_backward(v, v, (c, c), w),
    ]
    for call in calls:
        found, expected = call(x, w, stats, columns), call(x.copy(), w.copy(), (s.copy(), s.copy()), columns.copy())
        assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


N, C, S = 3, 4, 5
OWN: dict[str, tuple[int, Kwargs]] = {
    "layer": (S, {"normalized_shape": S}), "rms": (S, {"normalized_shape": S}), "group": (C, {"num_groups": 2}),
    "instance": (C, {"use_input_stats": True}), "batch": (C, {"training": True}),
    "instance, evaluation": (C, {"use_input_stats": False}), "batch, evaluation": (C, {"training": False}),
}  # fmt: skip


def forward(name: str, kind: Any, rng: np.random.Generator) -> tuple[Callable[..., Any], Kwargs, list[str]]:
    """A norm, its arguments, and which of them it writes. kind: dtype of the parameters."""
    n, own = OWN[name]
    norm, x = getattr(numbanorm, name.split(",")[0] + "_norm"), rng.normal(1, 2, (N, C, S)).astype(np.float32)
    a = {"x": x, "out": np.zeros_like(x), "weight": rng.uniform(1, 2, n).astype(kind)}
    written = ["out"]
    if name != "rms":
        a["bias"] = rng.uniform(1, 2, n).astype(kind)
    if name.startswith(("instance", "batch")):
        a |= {k: rng.uniform(1, 2, n).astype(kind) for k in ("running_mean", "running_var")}
        if "evaluation" not in name:
            a["num_batches_tracked"] = np.array([3], np.uint64)  # whatever stands there is a number of batches
            written += ["running_mean", "running_var", "num_batches_tracked"]
    return lambda **given: (norm(**given, **own),), a, written


def backward(name: str, kind: Any, rng: np.random.Generator) -> tuple[Callable[..., Any], Kwargs, list[str]]:
    """As above, of a backward function."""
    _, a, _ = forward(name, kind, rng)
    own = {k.replace("use_input_stats", "training") if name.startswith("batch") else k: v for k, v in OWN[name][1].items()}
    norm, shape = (
        getattr(numbanorm, name.split(",")[0] + "_norm_backward"),
        {"group": (N, 2), "batch": (C,)}.get(name[:5], (N, C)),
    )
    a = {k: a[k] for k in ("x", "out", "weight")} | {"dy": a["x"][::-1].copy(), "rstd": rng.uniform(1, 2, shape)}
    if name != "rms":
        a["mean"] = rng.normal(size=shape)
    return lambda mean=None, rstd=None, **given: norm(stats=(mean, rstd), **given, **own), a, ["out"]


def overlapping(one: Array, other: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Room, and in it two arrays like these, at every distance at which something is likely to be overlooked."""
    far = {k - other.itemsize for k in (0, 2 * other.itemsize, one.nbytes)} | {one.itemsize - other.nbytes}
    for distance in sorted({0, 1, one.nbytes - 1, 1 - other.nbytes, *far}):
        room = np.zeros(one.nbytes + 2 * other.nbytes + 32, np.uint8)
        views = []
        for like, at in ((one, other.nbytes + 16), (other, other.nbytes + 16 + distance)):
            view = room[at : at + like.nbytes].view(like.dtype).reshape(like.shape)
            view[...] = like
            views.append(view)
        if np.shares_memory(*views):
            yield room, *views


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("make", [forward, backward])
def test_what_is_written_in_the_memory_of_another(make: Any, name: str, kind: Any, rng: np.random.Generator) -> None:
    """It is refused before anything is changed, unless what is written is x, or dy: then the bits are those of memory of its
    own."""
    call, own, written = make(name, kind, rng)
    taken = 0
    for one in written:
        for other in [k for k in own if k != one]:
            for room, a, b in overlapping(own[one], own[other]):
                before, apart = room.copy(), {k: v.copy() for k, v in (own | {one: a, other: b}).items()}
                shared = {k: v.copy() for k, v in own.items()} | {one: a, other: b}
                if one == "out" and other in ("x", "dy") and a.ctypes.data == b.ctypes.data:
                    found, expected = call(**shared), call(**apart)
                    assert [g.tobytes() for g in found] == [g.tobytes() for g in expected]
                    taken += 1
                    continue
                with pytest.raises(ValueError, match=r"must not (overlap|share memory with) .*: got arrays that .*; pass "):
                    call(**shared)
                assert np.array_equal(room, before)
    assert taken == (1 if make is forward else 2)


@pytest.mark.parametrize(("dtype", "step"), STEPS)
def test_statistics_that_overlap_themselves(dtype: str, step: int) -> None:
    """Each channel must have a number of its own to be updated."""
    room, mean = overlapping_itself(dtype, step)
    x, var = np.ones((3, mean.size), np.float32), np.ones(mean.size)
    with pytest.raises(ValueError, match=r"running_mean must have memory for every channel: got a .*view.*; pass running_m"):
        numbanorm.batch_norm(x, mean, var, training=True)
    assert (room == 1).all()
    y = numbanorm.batch_norm(x, mean, var)  # to be read, they may be anything
    assert y.tobytes() == numbanorm.batch_norm(x, mean.copy(), var).tobytes()
