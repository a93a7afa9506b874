"""Numbers on which the usual float32 evaluation fails: y of exact=True is the true value rounded once, whatever mean/std is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, DTYPES, MODES, Case, call, needs_long_double
from close import STATISTICS, check_close, check_statistics
from hostile import KINDS, groups_of, hostile, members
from numpy.typing import NDArray

import numbanorm

pytestmark = needs_long_double

Array = NDArray[Any]


def combinations() -> list[Any]:
    """float32 in sizes on both sides of a vector, a tile, a block of rows and a span; the others in some of them."""
    chosen = []
    for dtype in DTYPES:
        sizes = [1, 2, 3, 16, 49, 255, 258, 1000, 4099, 16386] if dtype == np.float32 else [1, 2, 49, 1000]
        for n in sizes:
            for case in groups_of(n):
                for kind in KINDS:
                    if not (kind == "denormal" and dtype == np.float64):  # their squares are below float64's range
                        chosen.append(pytest.param(case, kind, dtype, id=f"{case.name}-{kind}-{dtype.name}"))
    return chosen


@pytest.mark.parametrize(("case", "kind", "dtype"), combinations())
def test_rounded_once(case: Case, kind: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    a = replace(cases.arguments(case, dtype), x=hostile(kind, dtype, rng, case.shape))
    # what is small enough to vanish beside eps is measured without it too
    for eps in (1e-5, 0.0) if kind in ("small", "denormal") else (1e-5,):
        truth = cases.expected(case, a, eps)
        for method in ALL_METHODS:
            y, stats = call(case, a, eps=eps, method=method, exact=True, return_stats=True)
            check_close(y, truth)
            check_statistics(stats, truth, eps)


LAYOUTS_OF_MOMENTS = [((2, 1000), 1), ((1000, 3), 0), ((10, 3, 100), (0, 2)), ((2, 500, 2, 300), (1, 3)), ((4099,), None)]


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS_OF_MOMENTS)
def test_moments(shape: tuple[int, ...], axis: Any, kind: str, method: str | None, rng: np.random.Generator) -> None:
    for dtype in DTYPES:
        if kind == "denormal" and dtype == np.float64:  # as above
            continue
        x = hostile(kind, dtype, rng, shape)
        axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
        mean, d = oracle.centred(oracle.widen(x), axes)
        count = x.size // mean.size
        var = oracle.total(d * d, axes) / count
        m = numbanorm.moments(x, axis, method=method)
        assert m.count == count
        assert oracle.relative_error(m.mean, mean.squeeze(axes), np.sqrt(var).squeeze(axes)) <= STATISTICS
        assert oracle.relative_error(m.var(), var.squeeze(axes)) <= STATISTICS


LARGE_SETS = [
    (2**22, "large_offset", "float32"),
    (2**22, "cancelling", "float32"),
    (2**22, "widest", "float32"),
    (2**22, "outlier", "float16"),
    (2**22, "cancelling", "bfloat16"),
    (2**20, "large_offset", "float64"),  # fewer: no type is at hand in which long doubles could be rounded beforehand
]


ONE = np.ones(())  # of a result without a weight: its scale


def one_group_of(n: int) -> list[Case]:
    return [
        Case("layer", (1, n), affine=False),
        Case("batch", (n, 1), affine=False),
        Case("batch", (8, 1, n // 8), affine=False),
        Case("instance", (1, n, 1), channel_axis=-1, affine=False),
        Case("group", (1, 4, n // 4), affine=False),
    ]


@pytest.mark.long
@pytest.mark.slow(gigabytes=4)
@pytest.mark.parametrize(("n", "kind", "name"), LARGE_SETS)
def test_largest_group(n: int, kind: str, name: str, rng: np.random.Generator) -> None:
    """The same numbers as one group of every norm, so that the long doubles are had only once."""
    dtype = np.dtype(name)
    x = hostile(kind, dtype, rng, (n,))
    truth = oracle.layer_norm(x, 1)
    nearest = truth.y.astype(np.float32 if dtype.itemsize == 2 else dtype).astype(dtype)
    for case in one_group_of(n):
        for method in ALL_METHODS:
            y, stats = call(case, cases.Arguments(x.reshape(case.shape)), method=method, exact=True, return_stats=True)
            y = y.ravel()
            off = np.flatnonzero(y != nearest)  # elsewhere it is the nearest number already
            check_close(y[off], truth._replace(y=truth.y[off], weight=ONE, terms=ONE, largest=ONE))
            check_statistics(stats._replace(mean=stats.mean.reshape(()), rstd=stats.rstd.reshape(())), truth, 1e-5)


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize(("n", "seed"), [(99_992, 2), (300_008, 0), (700_008, 1)])
def test_mean_that_float64_does_not_hold(n: int, seed: int, method: str | None) -> None:
    """Numbers 8 apart around 1e8, nearly all of them equal: rounding their mean to float64 costs a tenth of an ulp or more."""
    x = hostile("large_offset", np.dtype(np.float32), np.random.default_rng(seed), (n,))
    truth = oracle.layer_norm(x, 1)
    d = x.astype(np.float64) - x.sum(dtype=np.float64) / n  # the sum of such numbers is exact
    plain = (d / np.sqrt((d * d).mean() + 1e-5)).astype(np.float32)
    assert oracle.ulp_error(plain, truth.y) > 0.6, "these numbers are no longer hard"
    for case in one_group_of(n):
        y = call(case, cases.Arguments(x.reshape(case.shape)), method=method, exact=True)
        check_close(y.ravel(), truth)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cancelling"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("norm", "shape"), [("batch", (49, 5)), ("batch", (2, 3, 300)), ("instance", (2, 3, 7, 7))])
def test_given_statistics(norm: str, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, rng: np.random.Generator) -> None:
    """Statistics of another batch of the kind, kept in float64."""
    if kind == "denormal" and dtype == np.float64:
        kind = "small"
    case = Case(norm, shape, training=False)
    other = hostile(kind, dtype, rng, (100, shape[1])).astype(np.float64)
    a = replace(cases.arguments(case, dtype), x=hostile(kind, dtype, rng, shape))
    a = replace(a, running_mean=other.mean(axis=0), running_var=other.var(axis=0))
    truth = cases.expected(case, a)
    check_close(call(case, a, exact=True), truth)


SHAPES = [case for n in (49, 1000, 40000) for case in groups_of(n) if case.norm != "rms"]


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_constant_is_exactly_bias(case: Case, dtype: np.dtype[Any], method: str | None, exact: bool) -> None:
    digits, lowest = oracle.FORMATS[dtype.name]
    largest = (2 - 2.0 ** (1 - digits)) * 2.0 ** min(1 - lowest, 500)  # float64: its square is in range
    a = cases.arguments(case, dtype)
    by_channel = (1, -1, *(1,) * (len(case.shape) - 2)) if case.channel_axis == 1 and case.norm != "layer" else (-1,)
    bias = np.broadcast_to(a.bias.astype(dtype).reshape(by_channel), case.shape)
    for value in (0.1, -7.3, 1e4 / 3, largest, -(2.0 ** (lowest - digits + 1)), 0.0):
        a = replace(a, x=np.full(case.shape, value, dtype))
        y, stats = call(case, a, method=method, exact=exact, return_stats=True)
        assert y.tobytes() == bias.tobytes()
        assert (stats.mean == a.x.flat[0].astype(np.float64)).all()
        assert (stats.rstd == 1 / np.sqrt(1e-5)).all()


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_constant_without_eps_is_nan(
    case: Case, dtype: np.dtype[Any], method: str | None, exact: bool, rng: np.random.Generator
) -> None:
    """0/0, as in torch, and in the constant group only: another group of the same call is as it was."""
    a, options = cases.arguments(case, dtype), {"eps": 0.0, "method": method, "exact": exact}
    assert np.isnan(call(case, replace(a, x=np.full(case.shape, 3, dtype)), **options)).all()
    clean = call(case, a, **options)
    assert np.isfinite(clean).all()
    group = members(case)
    x = a.x.copy()
    x[group] = 3
    y = call(case, replace(a, x=x), **options)
    assert np.isnan(y[group]).all()
    assert y[~group].tobytes() == clean[~group].tobytes()


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", [*SHAPES, Case("rms", (3, 49)), Case("rms", (3, 40000))], ids=lambda c: c.name)
def test_nan_and_inf_stay_in_their_group(case: Case, dtype: np.dtype[Any], method: str | None, exact: bool) -> None:
    """Without warnings, which would be errors."""
    a = cases.arguments(case, dtype)
    clean = call(case, a, method=method, exact=exact)
    group = members(case)
    places = np.flatnonzero(group)
    for values in ((np.nan,), (np.inf,), (-np.inf, np.inf)):
        x = a.x.copy()
        for place, value in zip((places[-1], places[0]), values, strict=False):
            x.flat[place] = value
        y = call(case, replace(a, x=x), method=method, exact=exact)
        assert y[~group].tobytes() == clean[~group].tobytes()
        if case.norm == "rms" and values[0] != values[0]:
            assert np.isnan(y[group]).all()
        elif case.norm == "rms":  # the others are divided by an infinite root: 0, signed as they are
            assert (y[group] == 0).sum() == places.size - len(values)
            assert np.isnan(y.flat[places[-1]])
        else:
            assert np.isnan(y[group]).all()


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", [c for n in (50, 1000, 20000) for c in groups_of(n)], ids=lambda c: c.name)
def test_scaling_by_a_power_of_two_changes_no_bit(
    case: Case, dtype: np.dtype[Any], method: str | None, exact: bool, rng: np.random.Generator
) -> None:
    a = cases.arguments(case, dtype)
    x = rng.integers(-200, 200, case.shape).astype(dtype)  # eight bits, which every type holds at every scale below
    options = {"eps": 0.0, "method": method, "exact": exact}
    y = call(case, replace(a, x=x), **options)
    far = (-120, 100) if exact else (-80, 80)  # beyond, groups are rounded once in either mode
    for power in (-16, -1, 1, 8) if dtype == np.float16 else (-7, 1, *far):
        scaled = x * dtype.type(2.0**power)
        assert (scaled.astype(np.float64) == x.astype(np.float64) * 2.0**power).all()
        assert call(case, replace(a, x=scaled), **options).tobytes() == y.tobytes()


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=lambda d: d.name)
def test_every_number_of_16_bits_is_read_and_written(dtype: np.dtype[Any], exact: bool) -> None:
    """Normalized with mean 0 and variance 1 each comes back as it was, -0, denormals and infinities too."""
    bits = np.arange(2**16, dtype=np.uint16)
    x, number = bits.view(dtype), bits % 2**15 <= np.array(np.inf, dtype).view(np.uint16)
    for shape, axis in (((1, 2, 2**15), 1), ((2**13, 8), 1)):
        y = numbanorm.batch_norm(x.reshape(shape), np.zeros(shape[axis]), np.ones(shape[axis]), eps=0.0, exact=exact).ravel()
        assert y[number].tobytes() == x[number].tobytes()
        assert np.isnan(y[~number]).all()


@pytest.mark.parametrize("dtype", DTYPES[:1] + DTYPES[2:], ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(3, 4000), (4000, 3)])
def test_float64_is_rounded_to_nearest_even(shape: tuple[int, int], dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """The bias of a constant group is written as it is: numbers at, and next to, the middle of two of the type."""
    digits, lowest = oracle.FORMATS[dtype.name]
    exponent = rng.integers(lowest - 3, 10, 4000)
    unit = np.ldexp(1.0, np.maximum(exponent, lowest) - digits + 1)
    middle = np.floor(np.ldexp(rng.uniform(1, 2, 4000), exponent) / unit) * unit + unit / 2
    bias = rng.choice([-1, 1], 4000) * np.nextafter(middle, rng.choice([-np.inf, np.inf], 4000))
    bias[::3] = middle[::3]
    nearest = np.rint(bias / unit) * unit  # rint rounds to even; exact, for a unit is a power of two
    if shape[1] == 4000:
        y = numbanorm.layer_norm(np.ones(shape, dtype), 4000, bias=bias, exact=True)[0]
    else:
        y = np.concatenate(
            [numbanorm.batch_norm(np.ones((8, 250), dtype), bias=b, training=True, exact=True)[7] for b in np.split(bias, 16)]
        )
    assert (y.astype(np.float64) == nearest).all()
