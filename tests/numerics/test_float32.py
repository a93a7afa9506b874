"""The default, float32 arithmetic on float64 statistics from one read: how near it is, and where it goes another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, DTYPES, FLOAT32, Arguments, Case, call, needs_long_double
from close import check_near, check_statistics
from hostile import KINDS, groups_of, hostile
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]

NARROW = [dtype for dtype in DTYPES if dtype.itemsize < 8]
every_narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.name)


def pixels(z: Array) -> Array:
    return np.where(z > 1, 255.0, 0.0)


# beyond those that are hostile to sums in float32: what is usual, and what is near the limits of the two ways
SETS = {
    "normal": lambda z, rng: z,
    "plus_10": lambda z, rng: z + 10,
    "plus_1e3": lambda z, rng: z + 1e3,
    "plus_1e6": lambda z, rng: z + 1e6,
    "pixels": lambda z, rng: pixels(z),
    "constant": lambda z, rng: np.full(z.shape, 10 * rng.standard_normal()),
    "zeros": lambda z, rng: np.zeros(z.shape),
    "mixed": lambda z, rng: z * 10.0 ** rng.integers(-30, 30, z.shape),
    "largest": lambda z, rng: np.sign(z) * 3.3e38,
    "small_and_far": lambda z, rng: 1e-30 * (1e3 + z),
    "two_neighbours": lambda z, rng: np.where(z > 2, np.nextafter(np.float32(1e3), np.float32(2e3)), np.float32(1e3)),
}


def drawn(kind: str, dtype: np.dtype[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    if kind in KINDS:
        return hostile(kind, dtype, rng, shape)
    largest = 2.0**15 if dtype == np.float16 else np.inf
    return np.clip(SETS[kind](rng.standard_normal(shape), rng), -largest, largest).astype(dtype)


def combinations() -> list[Any]:
    sizes = {"float32": (1, 2, 3, 16, 49, 255, 258, 1000, 4099, 16386), "float16": (2, 49, 1000), "bfloat16": (2, 49, 1000)}
    return [
        pytest.param(case, kind, dtype, id=f"{case.name}-{kind}-{dtype.name}")
        for dtype in NARROW
        for n in sizes[dtype.name]
        for case in groups_of(n)
        for kind in (*SETS, *KINDS)
    ]


def with_parameters(a: Arguments, rng: np.random.Generator) -> list[Arguments]:
    """Without, with those of the case, and with float64 that is no float32; one with a bias larger than all else."""
    shape, biased = np.shape(a.weight), a.bias is not None
    found = [replace(a, weight=None, bias=None), a, replace(a, weight=rng.normal(size=shape))]
    if biased:
        found += [replace(a, weight=None), replace(a, weight=rng.normal(size=shape), bias=1e4 * rng.normal(size=shape))]
    return found


@needs_long_double
@pytest.mark.parametrize(("case", "kind", "dtype"), combinations())
def test_near(case: Case, kind: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    base = replace(cases.arguments(case, dtype), x=drawn(kind, dtype, rng, case.shape))
    for a in with_parameters(base, rng):
        for eps in (1e-5, 0.0):
            truth = cases.expected(case, a, eps)
            if np.isfinite(truth.y).all():  # eps=0 wants a variance
                y, stats = call(case, a, eps=eps, return_stats=True)
                check_near(y, truth, plain=a.weight is None and a.bias is None)
                check_statistics(stats, truth, eps)


@needs_long_double
@every_narrow
@pytest.mark.parametrize("kind", [k for k in (*SETS, *KINDS) if k not in ("cancelling", "constant", "zeros", "largest")])
@pytest.mark.parametrize(("norm", "shape"), [("batch", (49, 5)), ("batch", (2, 3, 300)), ("instance", (2, 3, 7, 7))])
def test_given_statistics(norm: str, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, rng: np.random.Generator) -> None:
    """Of another batch of the kind, kept in float64."""
    case = Case(norm, shape, training=False)
    other = drawn(kind, dtype, rng, (100, shape[1])).astype(np.float64)
    a = replace(cases.arguments(case, dtype), x=drawn(kind, dtype, rng, shape))
    a = replace(a, running_mean=other.mean(axis=0), running_var=other.var(axis=0))
    for b in with_parameters(a, rng):
        check_near(call(case, b), cases.expected(case, b), plain=b.weight is None and b.bias is None)


# what is lost where squares and their mean cancel: no more than ten bits of 53, and a rounding of each sum
ONE_READ = 2.0**-42
# squares about the mean: some roundings of 2**-53 on the way up the tree
TWO_READS = 2.0**-49


@needs_long_double
@pytest.mark.parametrize("method", ALL_METHODS)
@every_narrow
@pytest.mark.parametrize("kind", [*SETS, *KINDS])
@pytest.mark.parametrize(("shape", "axis"), [((2, 1000), 1), ((1000, 3), 0), ((10, 3, 100), (0, 2)), ((50, 3), 1)])
def test_variance(
    shape: tuple[int, ...], axis: Any, kind: str, dtype: np.dtype[Any], method: str | None, rng: np.random.Generator
) -> None:
    x = drawn(kind, dtype, rng, shape)
    mean, d = oracle.centred(oracle.widen(x), axis if isinstance(axis, tuple) else (axis,))
    var = (d * d).mean(axis=axis)
    m = numbanorm.moments(x, axis, method=method)
    assert oracle.relative_error(m.var(), var) <= (ONE_READ if method is None else TWO_READS)
    # the sum is that of any method
    assert m.mean.tobytes() == numbanorm.moments(x, axis, method="two_pass").mean.tobytes()
    assert oracle.relative_error(m.mean, mean.reshape(var.shape), np.sqrt(var)) <= 2.0**-49


FAR = [Case("layer", (5, 300)), Case("batch", (300, 5)), Case("instance", (2, 3, 300)), Case("group", (2, 6, 50), groups=3)]


@pytest.mark.parametrize("case", FAR, ids=lambda c: c.name)
def test_far_from_zero_x_is_read_again(case: Case, rng: np.random.Generator) -> None:
    """The same bits as with method="two_pass", constant groups too; near zero one read is enough, and other roundings."""
    a = cases.arguments(case, FLOAT32)
    for x in (40 + rng.standard_normal(case.shape), 1e6 + rng.standard_normal(case.shape), np.full(case.shape, 0.1)):
        b = replace(a, x=x.astype(np.float32))
        found, expected = (call(case, b, method=method, return_stats=True) for method in (None, "two_pass"))
        assert [v.tobytes() for v in (found[0], *found[1])] == [v.tobytes() for v in (expected[0], *expected[1])]
    b = replace(a, x=(5 + rng.standard_normal(case.shape)).astype(np.float32))
    found, expected = (call(case, b, method=method, return_stats=True)[1] for method in (None, "two_pass"))
    assert found.mean.tobytes() == expected.mean.tobytes()
    assert found.rstd.tobytes() != expected.rstd.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.size <= 20_000], ids=lambda c: c.name)
def test_what_has_one_way_only(case: Case, dtype: np.dtype[Any]) -> None:
    """float64 has no narrower arithmetic and is read twice; RMS norm has no mean, and its squares are read once in any case."""
    a = cases.arguments(case, dtype)
    if dtype == np.float64:
        assert call(case, a).tobytes() == call(case, a, method="two_pass", exact=True).tobytes()
    elif case.norm == "rms":
        assert call(case, a).tobytes() == call(case, a, method="two_pass").tobytes()


POINTWISE = [Case("layer", (3, 49)), Case("rms", (3, 49)), Case("group", (3, 12), groups=2)]


@every_narrow
@pytest.mark.parametrize("case", POINTWISE, ids=lambda c: c.name)
def test_parameters_that_float32_does_not_hold(case: Case, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Where each element has a weight of its own, one of them makes the whole call exact."""
    a = cases.arguments(case, dtype)
    for value in (0.1, 1e300, 1e-300):
        weight = a.weight.astype(np.float64)
        weight.flat[3] = value
        for b in (replace(a, weight=weight), replace(a, weight=None, bias=weight))[: 1 + case.its.center]:
            assert call(case, b).tobytes() == call(case, b, exact=True).tobytes()
    # float64 numbers that are float32 ones are those
    b = replace(a, weight=a.weight.astype(np.float64))
    assert call(case, b).tobytes() == call(case, a).tobytes()


@pytest.mark.parametrize("case", [c for n in (49, 1000) for c in groups_of(n)], ids=lambda c: c.name)
def test_groups_beyond_float32_are_exact(case: Case, rng: np.random.Generator) -> None:
    """And change nothing in the others."""
    a = cases.arguments(case, FLOAT32)
    plain, exact = call(case, a, eps=0.0), call(case, a, eps=0.0, exact=True)
    for scale in (2.0**-120, 2.0**120):
        x = a.x.copy()
        for group in cases.groups_of(case, x)[::2]:
            group *= np.float32(scale)
        y, of_exact = (call(case, replace(a, x=x), eps=0.0, exact=e) for e in (False, True))
        found = [cases.groups_of(case, v) for v in (y, of_exact, plain, exact)]
        for k, (got, rounded, as_before, _) in enumerate(zip(*found, strict=True)):
            assert got.tobytes() == (rounded if k % 2 == 0 else as_before).tobytes()


def test_a_channel_whose_scale_leaves_float32(rng: np.random.Generator) -> None:
    """float64 weights of 1e-40 and 1e40, of which the other channels of the group know nothing."""
    case = Case("group", (2, 6, 50), groups=2)
    a = cases.arguments(case, FLOAT32)
    far = replace(a, weight=a.weight * np.array([1, 1e-40, 1, 1, 1e35, 1]), bias=a.bias.astype(np.float64))
    y, exact, before = call(case, far), call(case, far, exact=True), call(case, a)
    for channel in range(6):
        assert y[:, channel].tobytes() == (exact if channel in (1, 4) else before)[:, channel].tobytes()


@needs_long_double
def test_below_the_normal_numbers() -> None:
    """A normalized x that is no normal number has fewer bits, and a weight does not bring them back."""
    a = Arguments(np.array([[1, 1e-45, 3e-44, 1e-40]], np.float32), np.full(4, 1e30, np.float32))
    check_near(call(Case("rms", (1, 4)), a), cases.expected(Case("rms", (1, 4)), a))
