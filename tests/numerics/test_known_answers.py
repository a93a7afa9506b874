"""What tutorials of these layers print, the exact statistics behind it, and results that can be had by hand."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, METHODS, needs_long_double
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]

FILE = json.loads((Path(__file__).parent / "data" / "known_answers.json").read_text(encoding="utf-8"))
BY_ID: dict[str, dict[str, Any]] = {case["id"]: case for case in FILE["cases"]}
PRINTED = [case for case in FILE["cases"] if case["op"] in ("batch_norm", "layer_norm", "group_norm", "instance_norm")]
MEASURED = [case for case in PRINTED if case["stats"] is not None]
TYPES = [np.dtype(np.float32), np.dtype(np.float64)]

# a statistic is rounded when the mean is divided, squares are added, and the root is taken: a few float64 roundings
FEW_ROUNDINGS = 4 * 2.0**-52
# y is the true value rounded once
ROUNDED_ONCE = 0.51


def name(value: Any) -> str | None:
    """Ids that can be read: the case's own, and the name of a dtype."""
    return value["id"] if isinstance(value, dict) else value.name if isinstance(value, np.dtype) else None


def run(case: dict[str, Any], x: Array, eps: float, **options: Any) -> Any:
    if case["op"] == "batch_norm":
        return numbanorm.batch_norm(x, training=True, eps=eps, **options)
    if case["op"] == "layer_norm":
        return numbanorm.layer_norm(x, tuple(case["normalized_shape"]), eps=eps, **options)
    if case["op"] == "group_norm":
        return numbanorm.group_norm(x, case["num_groups"], eps=eps, **options)
    return numbanorm.instance_norm(x, eps=eps, **options)


def printed(case: dict[str, Any], zero_eps: bool) -> list[tuple[Any, Array]]:
    """(index into y, values) of what was printed; without an entry for eps=0 the table holds for both."""
    if "expected_4dp" in case:
        return [(..., np.array(case["expected_4dp"]))]
    table = case["expected_4dp_by_sample_eps0" if zero_eps else "expected_4dp_by_sample"]
    return [(int(sample), np.array(values)) for sample, values in table.items()]


def fractions(value: Any, key: str) -> Any:
    """The nested lists of statistics with one number each, as long double."""
    if isinstance(value, dict):
        exact = Fraction(value[key])
        return np.longdouble(exact.numerator) / np.longdouble(exact.denominator)
    return [fractions(v, key) for v in value]


def reduced(case: dict[str, Any], x: Array) -> tuple[Array, tuple[int, ...]]:
    """x and the axes over which `moments` takes the statistics of the case."""
    if case["op"] == "batch_norm":
        return x, tuple(axis for axis in range(x.ndim) if axis != 1)
    if case["op"] == "layer_norm":
        return x, tuple(range(x.ndim - len(case["normalized_shape"]), x.ndim))
    if case["op"] == "group_norm":
        groups = case["num_groups"]
        return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]), tuple(range(2, x.ndim + 1))
    return x, tuple(range(2, x.ndim))


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("case", PRINTED, ids=name)
def test_printed_table(case: dict[str, Any], dtype: np.dtype[Any], method: str | None) -> None:
    x = np.array(case["x"], dtype)
    assert list(x.shape) == case["shape"]
    with_zero = case.get("also_matches_eps0", False) or "expected_4dp_by_sample_eps0" in case
    for eps in (case["eps"], 0.0) if with_zero else (case["eps"],):
        y = run(case, x, eps, method=method)
        assert y.dtype == dtype
        for where, values in printed(case, eps == 0):
            assert y[where].shape == values.shape
            # the file states the reason for its tolerance
            assert np.abs(y[where] - values).max() <= FILE["tolerance"], FILE["tolerance_reason"]


@needs_long_double
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("case", MEASURED, ids=name)
def test_exact_statistics(case: dict[str, Any], dtype: np.dtype[Any], method: str) -> None:
    x = np.array(case["x"], dtype)
    mean, var, unbiased = (np.array(fractions(case["stats"], key)) for key in ("mean", "var_biased", "var_unbiased"))
    _, stats = run(case, x, case["eps"], method=method, return_stats=True)
    rstd = 1 / np.sqrt(var + np.longdouble(case["eps"]))
    # a sum of small integers is exact, so its one division leaves the nearest float64
    assert stats.mean.dtype == np.float64
    assert stats.mean.tobytes() == mean.astype(np.float64).tobytes()
    assert oracle.relative_error(stats.rstd, rstd) <= FEW_ROUNDINGS
    view, axes = reduced(case, x)
    m = numbanorm.moments(view, axes, method=method)
    assert {m.count} == set(np.ravel(fractions(case["stats"], "n")).astype(int).tolist())
    assert m.mean.tobytes() == stats.mean.tobytes()
    assert oracle.relative_error(m.var(), var) <= FEW_ROUNDINGS
    assert oracle.relative_error(m.var(ddof=1), unbiased) <= FEW_ROUNDINGS
    assert oracle.relative_error(m.rstd(case["eps"]), rstd) <= FEW_ROUNDINGS


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", TYPES, ids=name)
def test_zero_variance_is_zero_before_the_affine_step(dtype: np.dtype[Any], method: str | None) -> None:
    weight, bias = np.array([2.0, -3.0, 0.5, 7.0], dtype), np.array([0.25, -0.125, 3.0, -1.0], dtype)
    x = np.array(BY_ID["layer-norm-last-2"]["x"], dtype)
    constant = x[..., 0] == x[..., 1]
    assert constant.sum() == 10  # of the 24 pairs in the printed tensor
    assert (numbanorm.layer_norm(x, 2, method=method)[constant] == 0).all()
    assert (numbanorm.layer_norm(x, 2, weight[:2], bias[:2], method=method)[constant] == bias[:2]).all()
    x = np.array(BY_ID["instance-norm"]["x"], dtype)
    assert (numbanorm.instance_norm(x, weight=weight, bias=bias, method=method)[0, 0] == bias[0]).all()


@needs_long_double
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES, ids=name)
def test_batch_norm_3d_by_hand(dtype: np.dtype[Any], method: str, rng: np.random.Generator) -> None:
    x = rng.normal(2.0, 3.0, (2, 3, 4, 5, 6)).astype(dtype)
    weight, bias = rng.uniform(0.5, 2, 3).astype(dtype), rng.normal(size=3).astype(dtype)
    y = numbanorm.batch_norm(x, None, None, weight, bias, training=True, method=method, exact=True)
    for channel in range(3):
        values = x[:, channel].astype(np.longdouble).ravel()
        mean = sum(values) / values.size
        var = sum((v - mean) ** 2 for v in values) / values.size
        hand = (x[:, channel].astype(np.longdouble) - mean) / np.sqrt(var + np.longdouble(1e-5)) * weight[channel] + bias[
            channel
        ]
        if dtype == np.float32:
            assert oracle.ulp_error(y[:, channel], hand, abs(weight[channel])) <= ROUNDED_ONCE
        else:
            # float64: rstd, the product with the weight and the sum with the bias each round
            assert oracle.eps_error(y[:, channel], hand, abs(weight[channel])) <= 4


@pytest.mark.parametrize("dtype", TYPES, ids=name)
def test_running_statistics_after_one_step_from_zero(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    shape = BY_ID["running-momentum"]["shape"]
    x = rng.normal(3.0, 2.0, shape).astype(dtype)
    axes = (0, 2, 3)
    assert x.size // shape[1] == 16
    for momentum, share in ((0.1, 0.1), (1.0, 1.0)):
        mean, var = np.zeros(3), np.zeros(3)
        numbanorm.batch_norm(x, mean, var, training=True, momentum=momentum)
        wide = x.astype(np.float64)
        # 1e-14: NumPy's own float64 sums of 16 numbers, and the product with the momentum
        np.testing.assert_allclose(mean, share * wide.mean(axes), rtol=1e-14)
        np.testing.assert_allclose(var, share * (16 / 15) * wide.var(axes), rtol=1e-14)


@pytest.mark.parametrize("dtype", TYPES, ids=name)
def test_running_statistics_as_fractions(dtype: np.dtype[Any]) -> None:
    case = BY_ID["running-3x4x2x2"]
    mean, var = np.zeros(4), np.ones(4)
    x = np.array(case["x"], dtype)
    numbanorm.batch_norm(x, mean, var, training=True, momentum=case["momentum"], method="two_pass")
    for running, key in ((mean, "running_mean"), (var, "running_var")):
        expected = np.array([float(Fraction(f)) for f in case[key]])
        # 0.9 and 0.1 are no float64, and two products and a sum round
        np.testing.assert_allclose(running, expected, rtol=FEW_ROUNDINGS, atol=0)


def picture(dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """One grey picture of mean 0.4865 and standard deviation 0.1834: shades, an edge and some grain."""
    row, column = np.mgrid[0:512, 0:512] / 512
    grey = np.sin(5 * row + 2 * column) + 0.8 * (column > row) + 0.2 * rng.standard_normal((512, 512))
    grey = (grey - grey.mean()) / grey.std(ddof=1) * 0.1834 + 0.4865
    return grey.astype(dtype)[None, None]


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", TYPES, ids=name)
def test_picture_of_one_channel(dtype: np.dtype[Any], method: str | None, rng: np.random.Generator) -> None:
    x = picture(dtype, rng)
    wide = x.astype(np.float64)
    assert (round(wide.mean(), 4), round(wide.std(ddof=1), 4)) == (0.4865, 0.1834)
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)  # how a fresh layer starts
    y = numbanorm.batch_norm(x, None, None, one, zero, training=True, method=method).astype(np.float64)
    assert abs(y.mean()) < 1e-7  # 262144 roundings of 3e-8 each, of either sign, all but cancel
    assert f"{y.std(ddof=1):.4f}" == "0.9999"  # sqrt(v / (v + 1e-5)) = 0.99985: eps stands inside the root


def d2l_batch_norm(
    x: Array, gamma: Array, beta: Array, moving_mean: Array, moving_var: Array, eps: float, momentum: float, training: bool
) -> tuple[Array, Array, Array]:
    """The book's function (A. Zhang et al., "Dive into Deep Learning"), with NumPy in place of its framework."""
    if not training:
        x_hat = (x - moving_mean) / np.sqrt(moving_var + eps)
    else:
        assert x.ndim in (2, 4)
        if x.ndim == 2:
            mean = x.mean(axis=0)
            var = ((x - mean) ** 2).mean(axis=0)
        else:
            mean = x.mean(axis=(0, 2, 3), keepdims=True)
            var = ((x - mean) ** 2).mean(axis=(0, 2, 3), keepdims=True)
        x_hat = (x - mean) / np.sqrt(var + eps)
        moving_mean = momentum * moving_mean + (1.0 - momentum) * mean
        moving_var = momentum * moving_var + (1.0 - momentum) * var
    return gamma * x_hat + beta, moving_mean, moving_var


@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("shape", [(16, 5), (4, 5, 6, 7)], ids=["NC", "NCHW"])
def test_d2l_batch_norm(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    case = BY_ID["running-keras"]
    eps, momentum = case["eps"], case["momentum"]
    flat = (1, 5) if len(shape) == 2 else (1, 5, 1, 1)
    gamma, beta = rng.uniform(0.5, 2, 5), rng.normal(size=5)
    book_mean, book_var = np.zeros(flat), np.ones(flat)
    mean, var = np.zeros(5), np.ones(5)
    # the book computes in float64 here; a float32 y is rounded to 6e-8 of a value below 16
    tolerance = {"rtol": 0, "atol": 1e-13 if dtype == np.float64 else 1e-6}
    for _ in range(5):
        x = rng.normal(1.5, 2.0, shape).astype(dtype)
        book = d2l_batch_norm(
            x.astype(float), gamma.reshape(flat), beta.reshape(flat), book_mean, book_var, eps, momentum, True
        )
        expected, book_mean, book_var = book
        y = numbanorm.batch_norm(x, mean, var, gamma, beta, True, momentum, eps, convention=case["convention"], exact=True)
        np.testing.assert_allclose(y, expected, **tolerance)
        # both in float64, from the same numbers: roundings only
        np.testing.assert_allclose(mean, book_mean.ravel(), rtol=1e-14)
        np.testing.assert_allclose(var, book_var.ravel(), rtol=1e-14)
    x = rng.normal(size=shape).astype(dtype)
    book = d2l_batch_norm(x.astype(float), gamma.reshape(flat), beta.reshape(flat), book_mean, book_var, eps, momentum, False)
    np.testing.assert_allclose(numbanorm.batch_norm(x, mean, var, gamma, beta, eps=eps, exact=True), book[0], **tolerance)


def test_momentum_of_both_conventions() -> None:
    """Torch's momentum 0.1 and the book's 0.9 give one running mean; the increments of the variance differ by (m-1)/m."""
    x = np.array(BY_ID["batch-norm-3x4x2x2"]["x"], np.float64)
    book, torch = (np.zeros(4), np.zeros(4)), (np.zeros(4), np.zeros(4))
    numbanorm.batch_norm(x, *book, training=True, momentum=0.9, convention="keras")
    numbanorm.batch_norm(x, *torch, training=True, momentum=0.1)
    # 1 - 0.9 is not the float64 nearest to 0.1
    np.testing.assert_allclose(book[0], torch[0], rtol=FEW_ROUNDINGS)
    np.testing.assert_allclose(book[1], torch[1] * 11 / 12, rtol=FEW_ROUNDINGS)


def test_every_case_of_the_file_is_used() -> None:
    by_name = {"running-3x4x2x2", "running-momentum", "one-channel-picture", "running-keras"}
    assert {case["id"] for case in PRINTED} | by_name == set(BY_ID)
    assert len(BY_ID) == len(FILE["cases"])
