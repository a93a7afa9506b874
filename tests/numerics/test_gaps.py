"""Rows that stand apart are read where they lie: the bits of the same call of contiguous arrays, and no copy."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import DTYPES
from close import identical
from numpy.typing import NDArray

import numbanorm
from numbanorm.spec.gaps import levels

Array = NDArray[Any]

# (batch, time, 3, heads, features) -> rows with one gap, with two and with three; read backwards, or one for all
VIEWS: dict[str, Callable[[Array], Array]] = {
    "fused": lambda a: a.reshape(*a.shape[:2], 3, -1)[:, :, 1],
    "heads": lambda a: a[:, :, 1],
    "transposed": lambda a: a[:, :, 1].transpose(0, 2, 1, 3),
    "backwards": lambda a: a[:, ::-1, 2, 0],
    "broadcast": lambda a: np.broadcast_to(a[:, :1, 1], a[:, :, 1].shape),
}
SHAPE = (2, 9, 3, 4, 37)


# float16 differs from bfloat16 in how a number is converted, which has nothing to do with where it lies
KINDS = [dtype for dtype in DTYPES if dtype.name != "float16"]


@pytest.mark.long  # kernels of each dtype and arithmetic: half a minute a dtype
@pytest.mark.parametrize("dtype", KINDS, ids=lambda d: d.name)
@pytest.mark.parametrize("view", VIEWS)
def test_bits(view: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    x, dy = (VIEWS[view](rng.normal(1.5, 2, SHAPE).astype(dtype)) for _ in range(2))
    n = x.shape[-1]
    w, b = (rng.normal(size=n).astype(dtype) for _ in range(2))
    plain, upstream = (np.array(a, order="C") for a in (x, dy))
    for exact in (False, True):
        y, stats = numbanorm.layer_norm(x, n, w, b, exact=exact, return_stats=True)
        z, known = numbanorm.layer_norm(plain, n, w, b, exact=exact, return_stats=True)
        for found, true in zip((y, *stats), (z, *known), strict=True):
            identical(np.array(found), np.array(true), view)
        assert y.flags.c_contiguous
        results = numbanorm.layer_norm_backward(dy, x, n, known, w, exact=exact)
        expected = numbanorm.layer_norm_backward(upstream, plain, n, known, w, exact=exact)
        for found, true in zip(results, expected, strict=True):
            identical(np.array(found), np.array(true), view)
        if view != "broadcast":
            written(x, dy, (w, b), known, (z, expected), exact)


def written(x: Array, dy: Array, affine: tuple[Array, Array], stats: Any, expected: tuple[Any, Any], exact: bool) -> None:
    """Check what goes to rows that stand apart: in place, in memory of its own, and with only one array that is such."""
    n, (w, b), (y, grads) = x.shape[-1], affine, expected
    for source in (x, np.array(x)):
        room = np.zeros((*x.shape[:-1], n + 5), x.dtype)
        assert numbanorm.layer_norm(source, n, w, b, exact=exact, out=room[..., 2:-3]).base is not None
        identical(np.array(room[..., 2:-3]), np.array(y), "out")
        assert not room[..., :2].any()
        assert not room[..., -3:].any()
        room = np.zeros_like(room)
        numbanorm.layer_norm_backward(dy, source, n, stats, w, exact=exact, out=room[..., 2:-3])
        identical(np.array(room[..., 2:-3]), np.array(grads[0]), "dx")
        assert not room[..., :2].any()
        assert not room[..., -3:].any()
    room = np.zeros((*x.shape[:-1], n + 5), x.dtype)
    own = room[..., 2:-3]
    own[...] = x
    numbanorm.layer_norm(own, n, w, b, exact=exact, out=own)
    identical(np.array(own), np.array(y), "in place")
    own[...] = x
    numbanorm.layer_norm_backward(dy, own, n, stats, w, exact=exact, out=own)
    identical(np.array(own), np.array(grads[0]), "dx in place")
    assert not room[..., :2].any()


@pytest.mark.parametrize("rows", [3, 700])
def test_long_rows_rms_norm_and_threads(rows: int, rng: np.random.Generator) -> None:
    fused = rng.normal(size=(2, rows, 3, 1100)).astype(np.float32)
    x, dy, w = fused[0, :, 1], fused[1, :, 2], rng.normal(size=1100).astype(np.float32)
    y, stats = numbanorm.rms_norm(x, 1100, w, return_stats=True)
    identical(y, numbanorm.rms_norm(x.copy(), 1100, w), "y")
    found = numbanorm.rms_norm_backward(dy, x, 1100, stats, w)
    for own, true in zip(found, numbanorm.rms_norm_backward(dy.copy(), x.copy(), 1100, stats, w), strict=True):
        identical(own, true, "gradients")
    assert "rows stand apart" in numbanorm.explain(numbanorm.rms_norm, x, 1100, w)


def test_who_may_not_write_has_the_kernel_of_others(rng: np.random.Generator) -> None:
    x = rng.normal(size=(700, 64)).astype(np.float32)
    _, stats = numbanorm.layer_norm(x, 64, return_stats=True)
    own, backward = numbanorm.layer_norm, numbanorm.layer_norm_backward
    told = numbanorm.explain(own, x, 64), numbanorm.explain(backward, x, x, 64, stats)
    x.flags.writeable = False
    assert (numbanorm.explain(own, x, 64), numbanorm.explain(backward, x, x, 64, stats)) == told


@pytest.mark.long  # kernels of float64 and of the exact arithmetic: half a minute
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_room(dtype: Any, rng: np.random.Generator) -> None:
    """float64 out of range, and groups and weights that float32 cannot hold."""
    fused = rng.normal(size=(2, 5, 3, 40)).astype(dtype)
    fused[:, 1] *= 1e-30 if dtype == np.float32 else 1e-250
    fused[:, 2] *= 1e30 if dtype == np.float32 else 1e250
    x, dy = fused[0, :, 1], fused[1, :, 2]
    for w in (np.ones(40), np.full(40, 1e200)):
        y, stats = numbanorm.layer_norm(x, 40, w, eps=0.0, return_stats=True)
        z, known = numbanorm.layer_norm(x.copy(), 40, w, eps=0.0, return_stats=True)
        for own, true in zip((y, *stats), (z, *known), strict=True):
            identical(own, true, str(dtype))
        found = numbanorm.layer_norm_backward(dy, x, 40, known, w)
        for own, true in zip(found, numbanorm.layer_norm_backward(dy.copy(), x.copy(), 40, known, w), strict=True):
            identical(own, true, str(dtype))


@pytest.mark.parametrize("result", ["y", "dx", pytest.param("rows", marks=pytest.mark.long)])  # which has a kernel of its own
def test_no_copy(result: str, rng: np.random.Generator) -> None:
    fused = rng.normal(size=(4000, 3, 700)).astype(np.float32)
    x, dy, out = fused[:, 0], fused[:, 1], np.empty((4000, 700), np.float32)
    _, stats = numbanorm.layer_norm(x, 700, return_stats=True)
    calls: dict[str, Callable[[], Any]] = {
        "y": lambda: numbanorm.layer_norm(x, 700, out=out),
        "dx": lambda: numbanorm.layer_norm_backward(dy, x, 700, stats, out=out),
        "rows": lambda: numbanorm.layer_norm(x, 700, out=fused[:, 2]),
    }
    run = calls[result]
    run()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.nbytes // 8, peak  # statistics, and sums of chunks of rows


def test_gaps_are_exact_or_refused() -> None:
    """Quotients by reciprocals are those of divisions for every element; what cannot be found is copied."""
    for n, t in ((3, 5), (768, 1000), (4097, 77)):
        (level, outer, _) = found = levels((7, t, n), (4 * t * n * 5, 4 * 2 * n, 4), 4, n) or ()
        assert len(found) == 3
        for i in {k * n + d for k in (1, 2, t - 1, 7 * t - 1) for d in (-1, 0, 1)}:
            assert i * level.reciprocal >> 64 == i // n
            assert i * outer.reciprocal >> 64 == i // (n * t)
    assert levels((4, 6), (4, 16), 4, 6) is None  # Fortran order
    assert levels((4, 6), (26, 4), 4, 6) is None  # no whole elements
    assert levels((4, 1), (8, 4), 4, 1) is None
    assert levels((2, 2, 2, 2, 6), (9000, 2000, 600, 100, 4), 4, 6) is None  # four gaps
