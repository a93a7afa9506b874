"""What the norms have to do with each other: the same statistic by another name, or the same data in another place.

Where elements of two calls go two ways, to the bit with exact=True only.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, DTYPES, METHODS, MODES, Case, call, needs_long_double
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]

# either side is within 0.51 ulp of one truth
BOTH_ROUNDED = 1.02
# either side is within 4 eps of one truth
BOTH_FLOAT64 = 8.0

PICTURES = [(2, 6, 5), (3, 4, 7, 7), (2, 6, 300), (1, 2, 130, 131), (2, 3, 2, 3, 4)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_method = pytest.mark.parametrize("method", ALL_METHODS)
every_mode = pytest.mark.parametrize("exact", MODES)
every_picture = pytest.mark.parametrize("shape", PICTURES, ids=lambda s: "x".join(map(str, s)))


def data(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """x, and weight and bias for each channel of axis 1."""
    x = rng.normal(1.5, 2.0, shape).astype(dtype)
    return x, rng.uniform(0.5, 2, shape[1]).astype(dtype), rng.normal(size=shape[1]).astype(dtype)


def check_same(a: Array, b: Array) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def check_near(a: Array, b: Array, weight: Any) -> None:
    """Two roundings of one truth."""
    if a.dtype == np.float64:
        assert oracle.eps_error(a, oracle.widen(b), weight) <= BOTH_FLOAT64
    else:
        assert oracle.ulp_error(a, oracle.widen(b), weight) <= BOTH_ROUNDED


@every_mode
@every_method
@every_dtype
@every_picture
def test_groups_of_one_channel_are_instance_norm(
    shape: tuple[int, ...], dtype: np.dtype[Any], method: str | None, exact: bool, rng: np.random.Generator
) -> None:
    x, weight, bias = data(shape, dtype, rng)
    y, stats = numbanorm.group_norm(x, shape[1], weight, bias, method=method, exact=exact, return_stats=True)
    same, of_instance = numbanorm.instance_norm(x, weight=weight, bias=bias, method=method, exact=exact, return_stats=True)
    check_same(y, same)
    check_same(stats.mean, of_instance.mean)
    check_same(stats.rstd, of_instance.rstd)


@every_method
@every_dtype
@every_picture
def test_one_group_is_layer_norm_of_the_sample(
    shape: tuple[int, ...], dtype: np.dtype[Any], method: str | None, rng: np.random.Generator
) -> None:
    x, weight, bias = data(shape, dtype, rng)
    each = (-1, *(1,) * (len(shape) - 2))
    spread = [np.broadcast_to(p.reshape(each), shape[1:]).copy() for p in (weight, bias)]
    y, stats = numbanorm.group_norm(x, 1, weight, bias, method=method, exact=True, return_stats=True)
    same, of_layer = numbanorm.layer_norm(x, shape[1:], *spread, method=method, exact=True, return_stats=True)
    check_same(y, same)
    check_same(stats.mean[:, 0], of_layer.mean)
    check_same(stats.rstd[:, 0], of_layer.rstd)


@every_mode
@every_method
@every_dtype
@every_picture
def test_batch_of_one_is_instance_norm(
    shape: tuple[int, ...], dtype: np.dtype[Any], method: str | None, exact: bool, rng: np.random.Generator
) -> None:
    x, weight, bias = data((1, *shape[1:]), dtype, rng)
    y, stats = numbanorm.batch_norm(x, None, None, weight, bias, True, method=method, exact=exact, return_stats=True)
    same, of_instance = numbanorm.instance_norm(x, weight=weight, bias=bias, method=method, exact=exact, return_stats=True)
    check_same(y, same)
    check_same(stats.mean, of_instance.mean[0])
    check_same(stats.rstd, of_instance.rstd[0])


@every_method
@every_dtype
@every_picture
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_channels_may_stand_anywhere(
    norm: str, shape: tuple[int, ...], dtype: np.dtype[Any], method: str | None, rng: np.random.Generator
) -> None:
    """Not to the bit: the order of the sums follows the memory."""
    x, weight, bias = data(shape, dtype, rng)
    groups = 2 if shape[1] % 2 == 0 else 3

    def first(a: Array, axis: int) -> Array:
        case = Case(norm, a.shape, groups=groups, channel_axis=axis)
        return np.moveaxis(call(case, cases.Arguments(a, weight, bias), method=method, exact=True), axis, 1)

    y = first(x, 1)
    scale = np.abs(oracle.widen(weight)).reshape(-1, *(1,) * (x.ndim - 2))
    for axis in range(0 if norm == "batch" else 1, x.ndim):
        check_near(first(np.ascontiguousarray(np.moveaxis(x, 1, axis)), axis), y, scale)
        check_same(first(np.moveaxis(x, 1, axis), axis), first(np.ascontiguousarray(np.moveaxis(x, 1, axis)), axis))


@pytest.mark.parametrize("method", METHODS)
@every_dtype
@pytest.mark.parametrize("n", [2, 49, 256, 257, 3000, 4096, 20001, 65536])
def test_adding_a_constant_changes_nothing(n: int, dtype: np.dtype[Any], method: str, rng: np.random.Generator) -> None:
    """Where x + c is exact (bfloat16 has eight bits: the integers up to 256), and the squares are taken about the mean."""
    constant = 2.0 ** {"bfloat16": 7, "float16": 10, "float32": 20, "float64": 20}[dtype.name]
    x = rng.integers(0, 100, (2, n)).astype(dtype)
    moved = (x.astype(np.float64) + constant).astype(dtype)
    assert (moved.astype(np.float64) - constant == x.astype(np.float64)).all()
    y, again = (numbanorm.layer_norm(v, n, method=method, exact=True) for v in (x, moved))
    if n & (n - 1) == 0:  # sums of small integers are exact, and so is their mean: the same distances to it
        check_same(again, y)
    else:
        check_near(again, y, 1.0)


@needs_long_double
@every_method
@every_dtype
@pytest.mark.parametrize("shape", [(2, 5), (49, 3), (257, 17), (3000, 7), (40, 1000)])
def test_batch_norm_is_layer_norm_of_the_transpose(
    shape: tuple[int, int], dtype: np.dtype[Any], method: str | None, rng: np.random.Generator
) -> None:
    """Not to the bit: columns are added in another order than rows."""
    x = rng.normal(1.5, 2.0, shape).astype(dtype)
    y, stats = numbanorm.batch_norm(x, training=True, method=method, exact=True, return_stats=True)
    rows, of_rows = numbanorm.layer_norm(x.T, shape[0], method=method, exact=True, return_stats=True)
    check_near(y, rows.T, 1.0)
    # float64 sums of numbers near 2: a few roundings
    np.testing.assert_allclose(stats.mean, of_rows.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(stats.rstd, of_rows.rstd, rtol=1e-14)


@every_mode
@every_method
@every_dtype
def test_negating_x_negates_y(dtype: np.dtype[Any], method: str | None, exact: bool, rng: np.random.Generator) -> None:
    """To the bit: rounding is symmetric."""
    for shape in PICTURES:
        x = rng.normal(1.5, 2.0, shape).astype(dtype)
        y = numbanorm.batch_norm(x, training=True, method=method, exact=exact)
        check_same(numbanorm.batch_norm(-x, training=True, method=method, exact=exact), -y)


@needs_long_double
@every_dtype
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.training and c.norm != "rms"], ids=lambda c: c.name)
def test_all_methods_are_near(case: Case, dtype: np.dtype[Any]) -> None:
    a = cases.arguments(case, dtype)
    first, *others = (call(case, a, method=method, exact=True) for method in (*METHODS, None))
    for y in others:
        check_near(first, y, cases.truth(case, dtype).weight)


@every_dtype
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.training and c.norm == "batch"], ids=lambda c: c.name)
def test_own_statistics_given_back_change_nothing(case: Case, dtype: np.dtype[Any]) -> None:
    """Evaluation with the batch's mean and variance is training without the update."""
    a = cases.arguments(case, dtype)
    y, stats = call(case, a, exact=True, return_stats=True)
    # 1 / rstd**2 - eps is the variance but for a few roundings of float64
    var = 1 / stats.rstd**2 - 1e-5
    given = Case("batch", case.shape, channel_axis=case.channel_axis, training=False)
    again = call(given, cases.Arguments(a.x, a.weight, a.bias, stats.mean, var), exact=True)
    check_near(again, y, cases.truth(case, dtype).weight)


@every_mode
@every_dtype
def test_rms_norm_of_centred_data_is_layer_norm(dtype: np.dtype[Any], exact: bool, rng: np.random.Generator) -> None:
    half = rng.integers(1, 100, (4, 150)).astype(dtype)
    x = np.concatenate([half, -half], axis=1)  # the mean is exactly 0
    check_same(numbanorm.rms_norm(x, 300, eps=1e-5, exact=exact), numbanorm.layer_norm(x, 300, exact=exact))


@every_mode
@every_method
@every_dtype
def test_normalized_data_has_mean_0_and_std_1(
    dtype: np.dtype[Any], method: str | None, exact: bool, rng: np.random.Generator
) -> None:
    x = rng.normal(30, 5, (8, 3, 40, 40)).astype(dtype)
    y = numbanorm.batch_norm(x, training=True, eps=0.0, method=method, exact=exact).astype(np.float64)
    # half the spacing of y at 4, if all roundings had one sign; NumPy's own sums of 12800 float64 are 1e-14 off
    unit = max(cases.epsilon(dtype) * 2, 1e-14)
    assert np.abs(y.mean((0, 2, 3))).max() <= unit
    assert np.abs(y.std((0, 2, 3)) - 1).max() <= unit
