"""Layer and RMS norm over axes that are named: those of the array with these moved to the end."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from close import identical
from numpy.typing import NDArray

import numbanorm
from numbanorm.spec.gaps import FEWEST, LONGEST, turned

Array = NDArray[Any]

SHAPE = (3, 4, 5, 6)
AXES = [1, (1,), 0, (1, 3), (0, 2), (2, 3), -3, (0, 1, 2, 3)]
every_axis = pytest.mark.parametrize("axis", AXES, ids=str)
every_norm = pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])


def last(axis: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes from the front, and the order with these last."""
    axes = tuple(a % 4 for a in (axis if isinstance(axis, tuple) else (axis,)))
    return axes, (*(k for k in range(4) if k not in axes), *axes)


@every_norm
@every_axis
def test_as_with_the_axes_last(norm: str, axis: Any, rng: np.random.Generator) -> None:
    axes, order = last(axis)
    own = tuple(SHAPE[a] for a in axes)
    function, backward = getattr(numbanorm, norm), getattr(numbanorm, f"{norm}_backward")
    for dtype, masked in ((np.float32, False), (np.float64, False), (np.float32, True)):
        x, dy, weight = (rng.normal(size=s).astype(dtype) for s in (SHAPE, SHAPE, own))
        where = rng.random((4, 1, 6)) < 0.7 if masked else None
        moved = None if where is None else np.broadcast_to(where, SHAPE).transpose(order)
        y, stats = function(x, own, weight, axis=axis, return_stats=True, where=where)
        z, known = function(x.transpose(order), own, weight, return_stats=True, where=moved)
        identical(y, z.transpose(np.argsort(order)), "y")
        assert y.flags.c_contiguous
        identical(stats.rstd, known.rstd, "rstd")
        found = backward(dy, x, own, stats, weight, axis=axis, where=where)
        true = backward(dy.transpose(order), x.transpose(order), own, known, weight, where=moved)
        identical(found[0], true[0].transpose(np.argsort(order)), "dx")
        identical(found[1], true[1], "dweight")
        out = x.copy()
        assert function(out, own, weight, axis=axis, out=out, where=where) is out
        identical(out, y, "in place")
        assert backward(dy, x, own, stats, weight, axis=axis, out=out, where=where)[0] is out
        identical(out, found[0], "out")


def test_layers_and_heads(rng: np.random.Generator) -> None:
    """Channels first; and parameters of samples, whose axes are those that are kept."""
    x = rng.normal(size=(2, 4, 7)).astype(np.float32)
    layer, plain = numbanorm.LayerNorm(4, axis=1), numbanorm.LayerNorm(4)
    assert "axis=(1,)" in repr(layer)
    identical(layer(x), plain(x.swapaxes(1, 2)).swapaxes(1, 2), "y")
    identical(layer.backward(x), plain.backward(x.swapaxes(1, 2)).swapaxes(1, 2), "dx")
    weight = rng.normal(size=(2, 1, 4)).astype(np.float32)
    y = numbanorm.layer_norm(x, 4, weight, axis=1)
    identical(y, numbanorm.layer_norm(x.swapaxes(1, 2), 4, weight).swapaxes(1, 2), "of samples")
    heads = numbanorm.RMSNorm(7)
    heads.weight = rng.normal(size=(4, 7)).astype(np.float32)
    identical(heads(x), numbanorm.rms_norm(x, 7, heads.weight), "of heads")
    heads.backward(x)
    assert heads.grad["weight"].shape == (4, 7)
    with pytest.raises(ValueError, match=r"state_dict must fit .*: got weight of shape \(4, 7\), not \(7,\); make the layer"):
        numbanorm.RMSNorm(7).load_state_dict(heads.state_dict())
    assert "runs of 4" in numbanorm.explain(numbanorm.layer_norm, x, 4, axis=1)
    assert "cpu" in numbanorm.explain(numbanorm.rms_norm_backward, x, x, 4, (None, np.ones((2, 7))), axis=1)


BFLOAT16 = pytest.param(ml_dtypes.bfloat16, marks=pytest.mark.long)  # kernels of its own
# blocks of 16 by 16 (8 by 8 of float64) and what is left; several samples; rows for two threads, and chunks of them
SIZES = [(2, 3, FEWEST), (1, 16, 33), (3, 37, 17), (2, 100, 700)]


@every_norm
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16])
def test_channels_first(norm: str, dtype: Any, rng: np.random.Generator) -> None:
    """The bits of contiguous rows, whatever is copied how: results in memory of either order, in place, in one thread."""
    function, backward = getattr(numbanorm, norm), getattr(numbanorm, f"{norm}_backward")
    for shape in SIZES:
        n = shape[1]
        x, dy = (rng.normal(size=shape).astype(dtype) for _ in range(2))
        weight = rng.normal(size=n).astype(dtype)
        last, upstream = (np.array(a.swapaxes(1, 2), order="C") for a in (x, dy))
        z, known = function(last, n, weight, return_stats=True)
        true = backward(upstream, last, n, known, weight)
        assert "elements of a row stand apart" in numbanorm.explain(function, x, n, weight, axis=1)
        for threads in {1, numba.get_num_threads()}:
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            try:
                y, stats = function(x, n, weight, axis=1, return_stats=True)
                found = backward(dy, x, n, stats, weight, axis=1)
            finally:
                numba.set_num_threads(before)
            identical(y.swapaxes(1, 2), z, str(shape))
            identical(stats.rstd, known.rstd, str(shape))
            identical(found[0].swapaxes(1, 2), true[0], str(shape))
            for own, expected in zip(found[1:], true[1:], strict=True):
                identical(own, expected, str(shape))
        identical(function(x.swapaxes(1, 2), n, weight), z, "a view, and y contiguous")
        out = np.zeros_like(x)
        function(last, n, weight, out=out.swapaxes(1, 2))
        identical(out, y, "y alone")
        backward(upstream, x.swapaxes(1, 2), n, known, weight, out=out.swapaxes(1, 2))
        identical(out, found[0], "dy contiguous")
        out[...] = x
        identical(function(out, n, weight, axis=1, out=out), y, "in place")
        alone = (True, *[False] * (len(found) - 1))
        assert backward(dy, x, n, stats, weight, axis=1, needs=alone, out=out)[0] is out
        identical(out, found[0], "dx alone")
        assert backward(dy, x, n, stats, weight, axis=1, needs=(False, *[True] * (len(found) - 1)))[0] is None


def test_channels_first_out_of_range(rng: np.random.Generator) -> None:
    """float64 whose squares are not in its range is computed again."""
    x, dy = rng.normal(size=(2, 2, 5, 40))
    x[0] *= 1e200
    last, upstream = (np.array(a.swapaxes(1, 2), order="C") for a in (x, dy))
    z, known = numbanorm.layer_norm(last, 5, eps=0.0, return_stats=True)
    true = numbanorm.layer_norm_backward(upstream, last, 5, known)
    y, stats = numbanorm.layer_norm(x.copy(), 5, axis=1, eps=0.0, return_stats=True)
    for own, expected in zip(stats, known, strict=True):
        identical(own, expected, "statistics")
    identical(y.swapaxes(1, 2), z, "y")
    found = numbanorm.layer_norm_backward(dy, x, 5, stats, axis=1)
    identical(found[0].swapaxes(1, 2), true[0], "dx")
    assert numbanorm.layer_norm(x, 5, axis=1, eps=0.0, out=x) is x
    identical(x, y, "in place")


@pytest.mark.parametrize(("shape", "groups"), [((64, 8), 4), ((64, 8), 1), ((32, 4, 4), 2)])
def test_groups_in_columns(shape: tuple[int, ...], groups: int, rng: np.random.Generator) -> None:
    """Several groups of a sample are not one row."""
    x, dy = rng.normal(size=(2, *shape)).astype(np.float32)
    y, stats = numbanorm.group_norm(x, groups, return_stats=True)
    z, known = numbanorm.group_norm(np.asfortranarray(x), groups, return_stats=True)
    identical(z, y, "y")
    for found, expected in zip(known, stats, strict=True):
        identical(found, expected, "statistics")
    true = numbanorm.group_norm_backward(dy, x, groups, stats=stats)
    for found, expected in zip(numbanorm.group_norm_backward(dy, np.asfortranarray(x), groups, stats=stats), true, strict=True):
        identical(found, expected, "gradient")


def test_channels_first_without_a_copy(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 256, 8000)).astype(np.float32)
    out = np.empty_like(x)
    _, stats = numbanorm.layer_norm(x, 256, axis=1, return_stats=True, out=out)
    numbanorm.layer_norm_backward(x, x, 256, stats, axis=1, out=out)
    for run in (
        lambda: numbanorm.layer_norm(x, 256, axis=1, out=out),
        lambda: numbanorm.layer_norm_backward(out, x, 256, stats, axis=1, out=np.empty_like(x)),
    ):
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < x.nbytes * 3 // 2, peak  # the array that is made above, statistics, and what a thread copies


def test_which_arrays_are_turned() -> None:
    size = 4 * 3 * 20  # bytes of a sample (3, 20) of float32
    assert turned((7, 20, 3), (size, 4, 80), 4, 3) == 20
    assert turned((7, 4, 5, 3), (size, 20, 4, 80), 4, 3) == 20  # two axes that are one
    assert turned((20, 3), (4, 80), 4, 3) == 20
    assert turned((7, 20, 3), (2 * size, 4, 80), 4, 3) == 0  # samples stand apart
    assert turned((7, 20, 3), (size, 8, 160), 4, 3) == 0
    assert turned((7, 20, 3), (size, -4, 80), 4, 3) == 0
    assert turned((7, 8, 3), (96, 4, 32), 4, 3) == 0  # fewer than FEWEST
    assert turned((20, LONGEST + 1), (4, 80), 4, LONGEST + 1) == 0
    assert turned((7, 20, 2, 3), (4 * 120, 4, 240, 80), 4, 6) == 20  # rows of two axes
    assert turned((7, 20, 2, 3), (4 * 120, 4, 80, 160), 4, 6) == 0


def test_what_is_refused() -> None:
    x = np.ones((2, 4, 7), np.float32)
    for axis, shape, error, words in (
        (3, 4, ValueError, "axis must name axes of x"),
        ((1, 1), (4, 4), ValueError, "axis must name each axis once"),
        ((2, 1), (7, 4), ValueError, "axis must name axes from first to last"),
        (1, 7, ValueError, r"normalized_shape must have the sizes of the axes that axis names, \(4,\)"),
        ("1", 4, TypeError, "axis must be an integer"),
        ((), (), ValueError, "normalized_shape must name at least one axis"),
    ):
        with pytest.raises(error, match=words):
            numbanorm.layer_norm(x, shape, axis=axis)
    out = np.ones((2, 4, 7), np.float32)
    with pytest.raises(ValueError, match="out must not overlap weight"):
        numbanorm.layer_norm(x, 4, out.reshape(-1)[:4], axis=1, out=out)
