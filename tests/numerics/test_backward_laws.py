"""What the gradients have to do with the norms, with each other, and with those of the same data in another place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import DTYPES, Case, call, call_backward, gradients, needs_long_double
from numpy.typing import NDArray

import numbanorm
from numbanorm import Stats

Array = NDArray[Any]

PICTURES = [(2, 6, 5), (3, 4, 7, 7), (2, 6, 300), (1, 2, 130, 131), (2, 3, 2, 3, 4)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_picture = pytest.mark.parametrize("shape", PICTURES, ids=lambda s: "x".join(map(str, s)))

FAMILIES = [
    Case("layer", (3, 5)),
    Case("layer", (2, 3, 4), dims=2),
    Case("rms", (3, 5)),
    Case("batch", (7, 3)),
    Case("batch", (3, 2, 4)),
    Case("batch", (3, 4, 2), channel_axis=-1),
    Case("batch", (3, 2, 4), training=False),
    Case("instance", (2, 3, 4)),
    Case("instance", (2, 4, 3), channel_axis=-1),
    Case("instance", (2, 3, 4), training=False),
    Case("group", (2, 4, 3), groups=2),
    Case("group", (2, 3, 4), groups=2, channel_axis=-1),
]
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)


def slope(f: Callable[[Array], Any], at: Array, h: float) -> Array:
    """Of a function of many numbers, by central differences of the fourth order."""
    found = np.empty(at.shape, at.dtype)
    for place in np.ndindex(at.shape):
        total = at.dtype.type(0)
        for step, share in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = at.copy()
            moved[place] += step * h
            total += share * f(moved)
        found[place] = total / (12 * h)
    return found


def slopes(f: Callable[[cases.Arguments], Any], a: cases.Arguments, h: float) -> dict[str, Array]:
    """Of f in x, weight and bias."""
    names = [name for name in ("x", "weight", "bias") if getattr(a, name) is not None]
    return {name: slope(lambda v, n=name: f(replace(a, **{n: v})), getattr(a, name), h) for name in names}


@every_family
def test_is_the_slope_of_the_norm(case: Case) -> None:
    """Of sum(dy * y), as computed in float64."""
    dtype = np.dtype(np.float64)
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    found = gradients(case, a, dy)
    # a step of 1e-3: 1e-12 of a fifth derivative that rstd**5 makes large, and 1e-16 / 1e-3 of the sum for its rounding
    for got, expected in zip(found, slopes(lambda b: (dy * call(case, b)).sum(), a, 1e-3).values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@needs_long_double
@every_family
def test_the_oracle_is_the_slope_of_the_oracle(case: Case) -> None:
    """The definition of the gradients, before anything is measured with it."""
    a, dy = cases.arguments(case, np.dtype(np.float64)), oracle.widen(cases.upstream(case, np.dtype(np.float64)))
    truth = cases.expected_gradients(case, a, dy)
    wide = replace(a, x=oracle.widen(a.x), weight=oracle.widen(a.weight), bias=None if a.bias is None else oracle.widen(a.bias))
    # as above, with a step and a rounding that are a thousand times smaller; rms norm takes its eps from the type of x
    eps = 1e-5 if case.norm != "rms" else cases.rms_eps(a.x.dtype)
    expected = slopes(lambda b: (dy * cases.expected(case, b, eps).y).sum(), wide, 1e-4)
    for got, exact in zip(truth, expected.values(), strict=False):
        assert oracle.relative_error(got.value, exact, 1.0) <= 1e-12
        assert (got.terms >= np.abs(got.value) * (1 - 1e-15)).all()


def data(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """dy, x, and a weight for each channel of axis 1."""
    x = rng.normal(1.5, 2.0, shape)
    dy = rng.normal(0.5, 1.0, shape) + 0.25 * x
    return dy.astype(dtype), x.astype(dtype), rng.uniform(0.5, 2, shape[1]).astype(dtype)


def check_same(found: tuple[Array, ...], again: tuple[Array, ...]) -> None:
    for a, b in zip(found, again, strict=True):
        assert (a.dtype, a.size) == (b.dtype, b.size)
        assert a.tobytes() == b.tobytes()


def check_near(a: Array, b: Array, terms: Array, name: str = "dx") -> None:
    """Two roundings of one truth: twice the error of one."""
    if a.dtype == np.float64:
        assert oracle.eps_error(a, oracle.widen(b), terms) <= 2 * cases.FLOAT64_EPS[name]
    else:
        floor = terms * (cases.CANCELLED * 2.0 ** oracle.FORMATS[a.dtype.name][0])
        assert oracle.ulp_error(a, oracle.widen(b), floor) <= 2 * cases.ROUNDED_ONCE


@every_dtype
@every_picture
def test_groups_of_one_channel_are_instance_norm(
    shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    dy, x, weight = data(shape, dtype, rng)
    a = cases.Arguments(x, weight)
    check_same(gradients(Case("group", shape, groups=shape[1]), a, dy), gradients(Case("instance", shape), a, dy))


@every_dtype
@every_picture
def test_batch_of_one_is_instance_norm(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    dy, x, weight = data((1, *shape[1:]), dtype, rng)
    a = cases.Arguments(x, weight)
    check_same(gradients(Case("batch", x.shape), a, dy), gradients(Case("instance", x.shape), a, dy))


@needs_long_double
@every_dtype
@every_picture
def test_one_group_is_layer_norm_of_the_sample(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Not to the bit: layer norm has a weight for each element, which group norm adds up in another order."""
    dy, x, weight = data(shape, dtype, rng)
    group, layer = Case("group", shape, groups=1), Case("layer", shape, dims=len(shape) - 1)
    each = np.broadcast_to(weight.reshape(-1, *(1,) * (len(shape) - 2)), shape[1:]).astype(np.float64)
    truth = cases.expected_gradients(group, cases.Arguments(x, weight), dy)
    dx, *sums = gradients(group, cases.Arguments(x, weight), dy)
    of_layer, *parts = gradients(layer, cases.Arguments(x, each), dy)
    check_near(dx, of_layer, truth.dx.terms)
    for name, got, part in zip(("dweight", "dbias"), sums, parts, strict=True):
        added = part.reshape(shape[1], -1).sum(axis=1).astype(got.dtype)
        check_near(got, added, getattr(truth, name).terms, name)


@needs_long_double
@every_dtype
@every_picture
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_channels_may_stand_anywhere(norm: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Not to the bit: the order of the sums follows the memory."""
    dy, x, weight = data(shape, dtype, rng)
    groups = 2 if shape[1] % 2 == 0 else 3

    def first(axis: int, copy: Callable[[Array], Array]) -> tuple[Array, ...]:
        moved = [copy(np.moveaxis(v, 1, axis)) for v in (dy, x)]
        case = Case(norm, moved[1].shape, groups=groups, channel_axis=axis)
        dx, *sums = gradients(case, cases.Arguments(moved[1], weight), moved[0])
        return (np.moveaxis(dx, axis, 1), *sums)

    found = first(1, np.ascontiguousarray)
    truth = cases.expected_gradients(Case(norm, shape, groups=groups), cases.Arguments(x, weight), dy)
    for axis in range(0 if norm == "batch" else 1, x.ndim):
        again = first(axis, np.ascontiguousarray)
        for name, a, b, true in zip(truth._fields, found, again, truth, strict=True):
            check_near(a, b, true.terms, name)
        check_same(first(axis, lambda v: v), again)


SIZES = [
    Case("layer", (30, 257)),
    Case("rms", (30, 257)),
    Case("batch", (300, 17)),
    Case("batch", (5, 3, 700)),
    Case("batch", (5, 3, 700), training=False),
    Case("instance", (3, 5, 7, 7)),
    Case("instance", (3, 600, 5), channel_axis=-1),
    Case("group", (3, 6, 50), groups=2),
    Case("group", (3, 50, 6), groups=3, channel_axis=-1),
]
every_size = pytest.mark.parametrize("case", SIZES, ids=lambda c: c.name)


def check_scaled(found: tuple[Array, ...], again: tuple[Array, ...], *factors: float) -> None:
    """To the bit, but for numbers below the normal ones of the type, which are rounded to multiples of the least."""
    for a, b, factor in zip(found, again, factors, strict=False):
        wide, other = a.astype(np.float64), b.astype(np.float64)
        normal = np.minimum(np.abs(wide), np.abs(other)) >= 2.0 ** oracle.FORMATS[a.dtype.name][1]
        assert normal.mean() > 0.9
        assert np.array_equal(other[normal], wide[normal] * factor)


@every_dtype
@every_size
def test_dy_scaled_by_a_power_of_two(case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    found = gradients(case, a, dy)
    for factor in (-1.0, 4.0, 2.0**-3) if dtype == np.float16 else (-1.0, 2.0**60, 2.0**-70):
        check_scaled(found, gradients(case, a, dy * dtype.type(factor)), factor, factor, factor)


@every_dtype
@pytest.mark.parametrize("case", [c for c in SIZES if c.training], ids=lambda c: c.name)
def test_x_scaled_by_a_power_of_two(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Without eps y stays, and so do the sums of dy with it; dx is scaled the other way."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    a = replace(a, x=rng.integers(-200, 200, case.shape).astype(dtype))  # eight bits, which every type holds at these scales
    found = gradients(case, a, dy, eps=0.0)
    for factor in (-1.0, 2.0**-5, 2.0) if dtype == np.float16 else (-1.0, 2.0**-40, 2.0**50):
        again = gradients(case, replace(a, x=a.x * dtype.type(factor)), dy, eps=0.0)
        check_scaled(found, again, 1 / abs(factor), np.sign(factor), 1.0)


@every_dtype
@every_size
def test_gradients_of_a_sum_are_the_sum(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    a = cases.arguments(case, dtype)
    # multiples of 1/4 up to 16, and so are their sums: seven bits
    one, two = (np.round(rng.uniform(-32, 32, case.shape)).astype(dtype) / dtype.type(4) for _ in range(2))
    parts = zip(*(gradients(case, a, dy) for dy in (one, two)), strict=True)
    for got, (p, q) in zip(gradients(case, a, one + two), parts, strict=True):
        # either side is rounded once, at the scale of the largest; sums of 5000 float64 are no more than 1e-13 off
        unit = max(cases.epsilon(got.dtype), 1e-13) * max(np.abs(v.astype(np.float64)).max() for v in (got, p, q))
        assert np.abs(got.astype(np.float64) - p.astype(np.float64) - q.astype(np.float64)).max() <= 2 * unit


def in_groups(case: Case, v: Array) -> Array:
    """Elements that share a mean, row by row."""
    if case.rows:
        return v.reshape(case.shape[0], -1)
    v = np.moveaxis(v, case.channel_axis, 1)
    if case.norm == "batch":
        return v.swapaxes(0, 1).reshape(v.shape[1], -1)
    return v.reshape(v.shape[0] * (case.groups if case.norm == "group" else v.shape[1]), -1)


@every_dtype
@pytest.mark.parametrize("case", [c for c in SIZES if c.training], ids=lambda c: c.name)
def test_dx_has_no_part_that_y_does_not_follow(case: Case, dtype: np.dtype[Any]) -> None:
    """Neither a mean (which RMS norm does not take away) nor, without eps, a share of x."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    dx = in_groups(case, gradients(case, a, dy, eps=0.0)[0].astype(np.float64))
    wide = cases.Arguments(a.x.astype(np.float64))
    xh = in_groups(case, call(case, wide, eps=0.0))
    # every element is half an ulp off; a few roundings of float64 are left where that is all there is
    unit = max(cases.epsilon(dtype) / 2, 1e-14) * np.abs(dx).max()
    assert np.abs((dx * xh).mean(axis=1)).max() <= unit * np.abs(xh).max()
    if case.norm != "rms":
        assert np.abs(dx.mean(axis=1)).max() <= unit


@every_dtype
@pytest.mark.parametrize("case", [c for c in SIZES if c.norm != "rms"], ids=lambda c: c.name)
def test_gradient_of_the_bias_does_not_know_x(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    other = replace(a, x=rng.normal(-70, 3, case.shape).astype(dtype))
    assert gradients(case, other, dy)[2].tobytes() == gradients(case, a, dy)[2].tobytes()


@every_dtype
def test_given_statistics_that_are_the_batchs_own(dtype: np.dtype[Any]) -> None:
    """dweight and dbias are those of training; dx is not, for these statistics do not follow x."""
    case = Case("batch", (5, 3, 700))
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, return_stats=True)
    dx, *sums = call_backward(case, a, dy, stats, exact=True)
    of_given, *same = call_backward(replace(case, training=False), a, dy, stats, exact=True)
    truth = cases.true_gradients(case, dtype)
    for name, got, again in zip(("dweight", "dbias"), sums, same, strict=True):
        check_near(got, again, getattr(truth, name).terms, name)
    assert np.abs((of_given - dx).astype(np.float64)).max() > 0.1


@every_dtype
def test_rms_norm_of_centred_data_under_a_centred_dy_is_layer_norm(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    half, of_dy = rng.integers(1, 100, (4, 150)).astype(dtype), rng.integers(-9, 9, (4, 150)).astype(dtype)
    x = np.concatenate([half, -half], axis=1)  # the mean is exactly 0
    dy = np.concatenate([of_dy, -of_dy], axis=1)
    _, stats = numbanorm.layer_norm(x, 300, return_stats=True)
    dx, dweight, _ = numbanorm.layer_norm_backward(dy, x, 300, stats, exact=True)
    check_same((dx, dweight), numbanorm.rms_norm_backward(dy, x, 300, Stats(None, stats.rstd), exact=True))
