"""Batch norm with weighted statistics: the definition, whole numbers as repeated samples, and derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from close import identical
from numpy.typing import NDArray

from numbanorm import batch_norm, batch_norm_backward, explain, moments

Array = NDArray[Any]

SHAPE = (5, 3, 4)


def drawn(rng: np.random.Generator, dtype: Any = np.float64) -> tuple[Array, ...]:
    """x, dy, weight, bias, and whole weights of samples, one of them 0."""
    x, dy = rng.normal(2, 3, SHAPE).astype(dtype), rng.normal(size=SHAPE).astype(dtype)
    return x, dy, rng.normal(size=3), rng.normal(size=3), np.array([2.0, 1.0, 0.0, 3.0, 1.0]).reshape(5, 1, 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_whole_weights_are_repeated_samples(dtype: Any, rng: np.random.Generator) -> None:
    x, dy, weight, bias, weights = drawn(rng, dtype)
    times = weights.ravel().astype(int)
    many = np.repeat(x, times, 0)
    found, expected = [np.zeros(3), np.ones(3)], [np.zeros(3), np.ones(3)]
    y, stats = batch_norm(x, *found, weight, bias, training=True, weights=weights, return_stats=True)
    z, known = batch_norm(many, *expected, weight, bias, training=True, return_stats=True)
    # the same statistics by float64 sums in another order, and y at the scale of a few units of its last place
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 2e-6, "atol": 2e-6}
    np.testing.assert_allclose(np.repeat(y, times, 0), z, **close)
    for one, two in zip((*stats, *found), (*known, *expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    # of repeated samples every copy has the gradient of one
    grads = batch_norm_backward(dy, x, stats, weight, weights=weights)
    first = np.cumsum(times) - times
    seen = np.zeros_like(many)
    seen[first[times > 0]] = dy[times > 0]
    dx, dweight, dbias = batch_norm_backward(seen, many, known, weight)
    together = np.add.reduceat(dx, first[times > 0], 0)
    mass = (dy[2] * weight[:, None], (x[2] - stats.mean[:, None]) * stats.rstd[:, None])
    if dtype == np.float64:  # the sample of weight 0 has dy, too, which the repeated ones do not see
        hidden = batch_norm_backward(np.where(weights > 0, dy, 0), x, stats, weight, weights=weights)
        np.testing.assert_allclose(hidden[0][times > 0], together, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(hidden[1], dweight, rtol=1e-11)
        np.testing.assert_allclose(hidden[2], dbias, rtol=1e-11)
        np.testing.assert_allclose(grads[0][2], mass[0] * stats.rstd[:, None], rtol=1e-12)
        np.testing.assert_allclose(grads[1] - hidden[1], (dy[2] * mass[1]).sum(1), rtol=1e-10)


@pytest.mark.parametrize("per", [(5, 1, 1), SHAPE, (3, 1)], ids=str)
def test_derivatives(per: tuple[int, ...], rng: np.random.Generator) -> None:
    """Beside differences of the function, at half the digits of float64."""
    x, dy, weight, bias, _ = drawn(rng)
    weights = rng.uniform(0.1, 2, per)
    where = rng.random(SHAPE) < 0.8

    def loss(x: Array, weight: Array, bias: Array) -> float:
        y = batch_norm(x, weight=weight, bias=bias, training=True, weights=weights, where=where)
        return float((y * dy)[where].sum())

    _, stats = batch_norm(x, weight=weight, bias=bias, training=True, weights=weights, where=where, return_stats=True)
    found = batch_norm_backward(dy, x, stats, weight, weights=weights, where=where)
    args = [x, weight, bias]
    for k, g in enumerate(found):
        step = rng.normal(size=args[k].shape)
        ahead, back = ([*args[:k], args[k] + s * step, *args[k + 1 :]] for s in (1e-6, -1e-6))
        assert np.sum(g * step) == pytest.approx((loss(*ahead) - loss(*back)) / 2e-6, rel=1e-6, abs=1e-7)


def test_definition_and_what_does_not_count(rng: np.random.Generator) -> None:
    x, _, weight, bias, _ = drawn(rng)
    weights = rng.uniform(0, 2, SHAPE)
    weights[:, 1] = 0.0
    x[0, 0, 0], weights[0, 0, 0] = np.nan, 0.0
    mean, var = np.zeros(3), np.ones(3)
    y, stats = batch_norm(x, mean, var, weight, bias, training=True, weights=weights, return_stats=True)
    m = moments(x, (0, 2), weights=weights)
    identical(stats.mean, m.mean, "mean")
    identical(y[:, 1], np.broadcast_to(bias[1], (5, 4)), "bias")
    assert (mean[1], var[1]) == (0.0, 1.0)
    w, wide = weights[:, 0].astype(oracle.Long), np.nan_to_num(x[:, 0]).astype(oracle.Long)
    true = (w * wide).sum() / w.sum()
    squares = (w * (wide - true) ** 2).sum() / w.sum()
    z = (wide - true) / np.sqrt(squares + oracle.Long(1e-5)) * weight[0] + bias[0]
    there = ~np.isnan(x[:, 0])
    np.testing.assert_allclose(y[:, 0][there], z.astype(float)[there], rtol=1e-14, atol=1e-14)
    spread = batch_norm(x, None, None, np.tile(weight, (5, 1)), training=True, weights=weights)
    np.testing.assert_array_equal(
        spread[:, [0, 2]], batch_norm(x, None, None, weight, training=True, weights=weights)[:, [0, 2]]
    )


def test_what_is_refused() -> None:
    x, w = np.ones(SHAPE, np.float32), np.ones((5, 1, 1))
    for options, words in (
        (
            {"training": False, "running_mean": np.zeros(3), "running_var": np.ones(3)},
            "weights must be None with training=False",
        ),
        ({"weights": -w}, "weights must be finite, and 0 or more"),
        ({"weights": np.ones(5)}, "weights must broadcast to the shape of x"),
        ({"method": "welford"}, "method must be None or 'two_pass' with weights"),
        ({"out": x[:2]}, "out must have the shape of x"),
    ):
        with pytest.raises(ValueError, match=words):
            batch_norm(x, **{"training": True, "weights": w} | options)
    assert "weighted sums" in explain(batch_norm, x, training=True, weights=w)
