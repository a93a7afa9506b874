"""Moments of what counts, and of what counts more often than once, against their definition."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, needs_long_double
from close import STATISTICS, same
from numpy.typing import NDArray
from oracle import relative_error, widen

from numbanorm import Moments, moments

Array = NDArray[Any]
AXES = [0, 1, 2, (0, 2), (1, 2), (0, 1), None]
# a product of float64 and its sum are rounded, and the weights' sum is: four units at the scale of what is summed
WEIGHTED = 4 * 2.0**-52

pytestmark = needs_long_double
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


def definition(x: Array, w: Array, axis: Any) -> tuple[Array, Array, Array]:
    """Sum of the weights, mean and squares about it in long double; what weighs nothing may be nan."""
    w = np.broadcast_to(w, x.shape).astype(np.longdouble)
    wide = np.where(w > 0, widen(x), 0)
    size = w.sum(axis, keepdims=True)
    mean = (w * wide).sum(axis, keepdims=True) / np.where(size > 0, size, 1)
    squares = (w * (wide - mean) ** 2).sum(axis)
    return size.reshape(squares.shape), mean.reshape(squares.shape), squares


def gaps(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...] = (7, 40, 11)) -> Array:
    x = (rng.normal(size=shape) + 3).astype(dtype)
    x[rng.random(shape) < 0.2] = np.nan
    x[:, :, 4] = np.nan  # a group without an element
    return x


@every_dtype
@pytest.mark.parametrize("axis", AXES, ids=str)
def test_what_is_nan_is_left_out(dtype: np.dtype[Any], axis: Any, rng: np.random.Generator) -> None:
    x = gaps(rng, dtype)
    m, there = moments(x, axis, nan="omit"), ~np.isnan(x)
    count, mean, squares = definition(x, there, axis)
    assert m.count.dtype == np.int64
    assert np.array_equal(m.count, count)
    std = np.sqrt(squares / np.where(count > 0, count, 1))
    assert relative_error(m.mean, mean, np.where(count > 0, std, 1)) <= STATISTICS
    assert relative_error(m.m2, squares, np.where(count > 0, squares, 1)) <= STATISTICS
    assert np.array_equal(np.isnan(m.var()), count == 0)
    assert np.array_equal(m.mean[count == 0], np.zeros((count == 0).sum()))
    assert same_arrays(m, moments(x, axis, where=there))
    assert same_arrays(m, moments(np.where(there, x, np.array(np.inf, dtype)), axis, where=there)), "whatever is there"


def same_arrays(a: Moments, b: Moments) -> bool:
    return all(
        np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in ((a.count, b.count), (a.mean, b.mean), (a.m2, b.m2))
    )


@every_dtype
def test_all_of_it_has_the_bits_of_no_mask(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    x = rng.normal(size=(7, 40, 11)).astype(dtype)
    for axis, how in itertools.product(AXES, ({"nan": "omit"}, {"where": np.ones((40, 1), bool)})):
        whole, m = moments(x, axis), moments(x, axis, **how)
        assert (m.count == whole.count).all()
        m.count = whole.count
        assert same(m, whole)


@every_dtype
@pytest.mark.parametrize("axis", AXES, ids=str)
def test_weights(dtype: np.dtype[Any], axis: Any, rng: np.random.Generator) -> None:
    """Broadcast, with zeros, with gaps in x; means far from 0, too."""
    x = gaps(rng, dtype)
    for shape in ((7, 1, 1), (11,), x.shape):
        w = rng.random(shape) * 3 * (rng.random(shape) < 0.8)
        m = moments(x, axis, weights=w, nan="omit")
        size, mean, squares = definition(x, np.where(np.isnan(x), 0, w), axis)
        safe = np.where(size > 0, size, 1)
        assert relative_error(m.count, size, safe) <= WEIGHTED
        assert relative_error(m.mean, mean, np.where(size > 0, np.sqrt(squares / safe) + np.abs(mean), 1)) <= WEIGHTED
        rounded = size * (mean * 2.0**-51) ** 2  # what is left of a single element, whose mean is rounded
        assert (np.abs(m.m2 - squares) <= 2 * WEIGHTED * squares + rounded).all()
    far = (rng.normal(size=(500, 3)) + 1e7).astype(np.float64)
    w = rng.integers(0, 4, (500, 1))
    m, repeated = moments(far, 0, weights=w), moments(np.repeat(far, w[:, 0], axis=0), 0)
    assert relative_error(m.var(1), repeated.var(1)) <= 1e-9, "a unit of the mean, 2e-9, squared, is nothing beside 1"


def test_whole_weights_are_repetitions(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(50, 3)), rng.integers(0, 4, (50, 1))
    m, repeated = moments(x, 0, weights=w), moments(np.repeat(x, w[:, 0], axis=0), 0)
    assert np.array_equal(m.count, np.full(3, repeated.count))
    for found, wanted in ((m.mean, repeated.mean), (m.var(1), repeated.var(1)), (m.sum(), repeated.sum())):
        np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_pieces_add_up(rng: np.random.Generator) -> None:
    """Masked and weighted pieces, of which some have nothing for some groups."""
    x, w = gaps(rng, np.float64), rng.random((7, 1, 1))
    for how in ({}, {"weights": w}):
        parts = [{k: v[i:j] for k, v in how.items()} | {"x": x[i:j]} for i, j in ((0, 1), (1, 1), (1, 4), (4, 7))]
        m = Moments(axis=(0, 1))
        for part in parts:
            m.update(**part, nan="omit")
        whole = moments(x, (0, 1), nan="omit", **how)
        np.testing.assert_allclose(m.count, whole.count, rtol=1e-15)
        np.testing.assert_allclose(m.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(m.m2, whole.m2, rtol=1e-14)


def test_standardized_with_gaps(rng: np.random.Generator) -> None:
    """What is nan stays so; the rest is standardized by what is there."""
    x = gaps(rng, np.float32)[..., :4].copy()
    z = moments(x, (0, 1), nan="omit").transform(x)
    assert np.array_equal(np.isnan(z), np.isnan(x))
    np.testing.assert_allclose(np.nanmean(z, (0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(z, (0, 1)), 1, atol=1e-5)
