"""Numbers on which the usual float32 evaluation of the gradients fails, in x, in dy and in both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, DTYPES, Case, call, call_backward, check_gradients, gradients, needs_long_double
from hostile import KINDS, groups_of, hostile, members, numbers
from numpy.typing import NDArray

import numbanorm
from numbanorm import Stats

pytestmark = needs_long_double

Array = NDArray[Any]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


SIZES = {"float32": (2, 49, 258, 4099), "float64": (2, 49, 1000), "float16": (2, 258), "bfloat16": (3, 1000)}


def combinations() -> list[Any]:
    """Sizes on both sides of a vector, a tile, a block of rows and a span; the half types are float32 once they are read."""
    return [
        pytest.param(case, kind, dtype, id=f"{case.name}-{kind}-{dtype.name}")
        for dtype in DTYPES
        for n in SIZES[dtype.name]
        for case in groups_of(n)
        for kind in KINDS
    ]


@pytest.mark.parametrize(("case", "kind", "dtype"), combinations())
def test_rounded_once(case: Case, kind: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    plain, mild = cases.arguments(case, dtype), cases.upstream(case, dtype)
    x, dy = (numbers(kind, dtype, rng, case.shape) for _ in range(2))
    # what is small enough to vanish beside eps is measured without it too
    for eps in (1e-5, 0.0) if kind in ("small", "denormal") else (1e-5,):
        for a, upstream in ((replace(plain, x=x), mild), (plain, dy), (replace(plain, x=x), dy)):
            truth = cases.expected_gradients(case, a, upstream, eps)
            check_gradients(gradients(case, a, upstream, eps=eps), truth)


@pytest.mark.parametrize("kind", KINDS)
@every_dtype
@pytest.mark.parametrize(("norm", "shape"), [("batch", (49, 5)), ("batch", (2, 3, 300)), ("instance", (2, 3, 7, 7))])
def test_given_statistics(norm: str, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, rng: np.random.Generator) -> None:
    """Of another batch of the kind, kept in float64."""
    case = Case(norm, shape, training=False)
    other = numbers(kind, dtype, rng, (100, shape[1])).astype(np.float64)
    a = replace(cases.arguments(case, dtype), x=numbers(kind, dtype, rng, shape))
    a = replace(a, running_mean=other.mean(axis=0), running_var=other.var(axis=0))
    dy = numbers(kind, dtype, rng, shape)
    check_gradients(gradients(case, a, dy), cases.expected_gradients(case, a, dy))


@every_dtype
@pytest.mark.parametrize("case", [c for n in (2, 49, 1000) for c in groups_of(n)], ids=lambda c: c.name)
def test_dx_that_cancels(case: Case, dtype: np.dtype[Any]) -> None:
    """What adds a constant to x, or scales it, does not change y: of such a dy nothing is left but eps."""
    a = replace(cases.arguments(case, dtype), weight=None, bias=None)
    y = call(case, a)
    for dy in (np.ones_like(y), y, (y.astype(np.float64) * 3 - 0.75).astype(dtype)):
        check_gradients(gradients(case, a, dy), cases.expected_gradients(case, a, dy))


MANY = [
    Case("batch", (262144, 4)),
    Case("batch", (262144, 4), training=False),
    Case("layer", (65536, 16)),
    Case("rms", (65536, 16)),
    Case("group", (16384, 16, 4), groups=4),
    Case("instance", (16384, 4, 16)),
    Case("instance", (4, 65536, 4), channel_axis=-1),
]


@every_dtype
@pytest.mark.parametrize("case", MANY, ids=lambda c: c.name)
def test_sums_over_very_many(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """dweight and dbias of ones: what grows like the sum in float32, or in a chain, is off by many ulp here."""
    a = cases.arguments(case, dtype)
    dy = rng.normal(1.0, 1.0, case.shape).astype(dtype)
    check_gradients(gradients(case, a, dy), cases.expected_gradients(case, a, dy))


@every_dtype
@pytest.mark.parametrize("case", [c for n in (49, 1000, 4098) for c in groups_of(n)], ids=lambda c: c.name)
def test_x_far_from_zero(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """At 10000, with the least spread that the type shows there."""
    digits, _ = oracle.FORMATS[dtype.name]
    spread = max(1.0, 2.0 ** (14 - digits))
    a = replace(cases.arguments(case, dtype), x=rng.normal(1e4, spread, case.shape).astype(dtype))
    dy = cases.upstream(case, dtype)
    for method in ALL_METHODS:
        check_gradients(gradients(case, a, dy, method), cases.expected_gradients(case, a, dy))


@pytest.mark.parametrize("offset", [1e6, 1e9])
@pytest.mark.parametrize("case", [c for n in (49, 1000, 4098) for c in groups_of(n) if c.norm != "rms"], ids=lambda c: c.name)
def test_mean_that_float64_does_not_hold(case: Case, offset: float, rng: np.random.Generator) -> None:
    """At 1e9 it is 6e-8 off by its rounding alone, which is hundreds of millions of eps in x - mean."""
    dtype = np.dtype(np.float64)
    a = replace(cases.arguments(case, dtype), x=offset + rng.standard_normal(case.shape))
    dy = cases.upstream(case, dtype)
    check_gradients(gradients(case, a, dy), cases.expected_gradients(case, a, dy))


@pytest.mark.parametrize("n", [99_992, 300_008])
def test_mean_that_float64_does_not_hold_of_float32(n: int) -> None:
    """Numbers 8 apart around 1e8, nearly all of them equal."""
    dtype = np.dtype(np.float32)
    x = hostile("large_offset", dtype, np.random.default_rng(n), (n,))
    for case in (Case("layer", (1, n)), Case("batch", (n, 1)), Case("group", (1, 8, n // 8))):
        a = replace(cases.arguments(case, dtype), x=x.reshape(case.shape))
        dy = cases.upstream(case, dtype)
        check_gradients(gradients(case, a, dy), cases.expected_gradients(case, a, dy))


@every_dtype
@pytest.mark.parametrize(
    "case", [Case("layer", (5, 1)), Case("layer", (1, 1)), Case("group", (4, 6), groups=6)], ids=lambda c: c.name
)
def test_groups_of_one_have_no_gradient(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    for kind in KINDS:
        a = replace(cases.arguments(case, dtype), x=numbers(kind, dtype, rng, case.shape))
        dx, dweight, _ = gradients(case, a, numbers(kind, dtype, rng, case.shape))
        assert (dx == 0).all()
        assert (dweight == 0).all()


@every_dtype
@pytest.mark.parametrize("n", [2, 3, 16, 49, 255, 256, 1000, 4099, 20000])
def test_constant_rows_under_a_constant(n: int, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """u is the mean of itself, and xh is 0."""
    weight = 2.0 ** rng.integers(-2, 3, n)
    x = np.array([[0.1], [-7.3], [3000.0]], dtype).repeat(n, axis=1)
    _, stats = numbanorm.layer_norm(x, n, weight, return_stats=True)
    for constant in (0.75, -3.0):
        dy = np.broadcast_to(constant / weight, x.shape).astype(dtype)
        dx, dweight, _ = numbanorm.layer_norm_backward(dy, x, n, stats, weight, exact=True)
        assert (dx == 0).all()
        assert (dweight == 0).all()
    if dtype.itemsize < 8:  # n of them are more digits than a float64 sum of float64 numbers has
        dx, *_ = numbanorm.layer_norm_backward(np.full_like(x, 0.1), x, n, tuple(stats), exact=True)  # and now without weight
        assert (dx == 0).all()


SHAPES = [case for n in (49, 1000, 40000) for case in groups_of(n)]


def touched(case: Case, elements: Array) -> Array:
    """Mask of the parameters that some of the elements share."""
    if case.rows:
        return elements.any(axis=0)
    return np.moveaxis(elements, case.channel_axis, 0).reshape(case.parameter_shape[0], -1).any(axis=1)


def check_only_there(got: Array, clean: Array, there: Array) -> None:
    """Not a number or infinite there, and as it was elsewhere."""
    assert not np.isfinite(got[there]).any()
    assert got[~there].tobytes() == clean[~there].tobytes()


@every_dtype
@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_nan_and_inf_of_x_stay_in_their_group(case: Case, dtype: np.dtype[Any]) -> None:
    """Without warnings, which would be errors."""
    a, dy, group = cases.arguments(case, dtype), cases.upstream(case, dtype), members(case)
    clean = gradients(case, a, dy)
    for value in (np.nan, np.inf, -np.inf):
        x = a.x.copy()
        x[tuple(np.argwhere(group)[-1])] = value
        dx, dweight, *dbias = gradients(case, replace(a, x=x), dy)
        check_only_there(dx, clean[0], group)
        # an infinite root mean square makes all but the infinite element 0, and so adds nothing to the other sums
        if case.norm != "rms" or value != value:
            check_only_there(dweight, clean[1], touched(case, group))
        assert [s.tobytes() for s in dbias] == [s.tobytes() for s in clean[2:]]


@every_dtype
@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_nan_and_inf_of_dy_stay_in_their_group(case: Case, dtype: np.dtype[Any]) -> None:
    a, plain, group = cases.arguments(case, dtype), cases.upstream(case, dtype), members(case)
    clean = gradients(case, a, plain)
    place = np.zeros(case.shape, bool)
    place[tuple(np.argwhere(group)[-1])] = True
    for value in (np.nan, np.inf, -np.inf):
        dx, *sums = gradients(case, a, np.where(place, dtype.type(value), plain))
        check_only_there(dx, clean[0], group)
        for got, expected in zip(sums, clean[1:], strict=True):
            check_only_there(got, expected, touched(case, place))


GIVEN = [
    Case("batch", (49, 5), training=False),
    Case("batch", (2, 3, 1000), training=False),
    Case("instance", (2, 3, 7, 7), training=False),
    Case("instance", (2, 300, 5), channel_axis=-1, training=False),
]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_dtype
@pytest.mark.parametrize("case", GIVEN, ids=lambda c: c.name)
def test_nan_and_inf_beside_given_statistics(case: Case, dtype: np.dtype[Any], value: float) -> None:
    """dx does not depend on x, and an element of it on one of dy alone."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    clean = gradients(case, a, dy)
    place = np.zeros(case.shape, bool)
    place[1, 2, ...] = True
    dx, dweight, dbias = gradients(case, replace(a, x=np.where(place, dtype.type(value), a.x)), dy)
    assert dx.tobytes() == clean[0].tobytes()
    check_only_there(dweight, clean[1], touched(case, place))
    assert dbias.tobytes() == clean[2].tobytes()
    for got, expected, there in zip(
        gradients(case, a, np.where(place, dtype.type(value), dy)), clean, (place, *[touched(case, place)] * 2), strict=True
    ):
        check_only_there(got, expected, there)


@every_dtype
def test_statistics_that_are_not_finite(dtype: np.dtype[Any]) -> None:
    """A constant group without eps has an infinite rstd: nan or infinities in its dx, and in no other."""
    case = Case("layer", (3, 49))
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, eps=0.0, return_stats=True)
    clean, *_ = call_backward(case, a, dy, stats)
    for bad in (
        Stats(stats.mean, np.array([1, np.inf, 1]) * stats.rstd),
        Stats(np.array([0, np.nan, 0]) + stats.mean, stats.rstd),
    ):
        dx, *_ = call_backward(case, a, dy, bad)
        check_only_there(dx, clean, members(case))
