"""Layer and RMS norm over axes that are named: those of the array with these moved to the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from close import identical
from numpy.typing import NDArray

import numbanorm

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
    assert "runs of 4" in numbanorm.explain(numbanorm.layer_norm, x, 4, axis=1)
    assert "cpu" in numbanorm.explain(numbanorm.rms_norm_backward, x, x, 4, (None, np.ones((2, 7))), axis=1)


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
