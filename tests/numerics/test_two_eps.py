"""float64 within two eps of its terms: at the ends of its range, by rational numbers, and where roundings gather."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import METHODS, needs_long_double

import numbanorm

Array = np.ndarray[Any, Any]
EPS = Fraction(2) ** -52
LEAST = Fraction(2) ** -1074
SMALLEST, LARGEST = Fraction(2) ** -1022, Fraction(1.7e308)
every_method = pytest.mark.parametrize("method", METHODS)


def inverse_root(v: Fraction) -> Fraction:
    """1 / sqrt(v) to 80 digits."""
    with localcontext() as c:
        c.prec, c.Emax, c.Emin = 80, 10**6, -(10**6)
        return Fraction(1 / (Decimal(v.numerator) / Decimal(v.denominator)).sqrt())


class Group:
    """A group and its gradient from their definitions; an error counts against the sum of the absolute terms."""

    def __init__(self, x: Array, eps: float) -> None:
        exact = [Fraction(v) for v in x.tolist()]
        mean = sum(exact, Fraction(0)) / len(exact)
        self.d = [v - mean for v in exact]
        self.rstd = inverse_root(sum((v * v for v in self.d), Fraction(0)) / len(exact) + Fraction(eps))

    def y(self, weight: float, bias: float) -> list[tuple[Fraction, Fraction]]:
        w, b = Fraction(weight), Fraction(bias)
        return [(v * self.rstd * w + b, max(abs(v * self.rstd * w) + abs(b), abs(w))) for v in self.d]

    def dx(self, dy: Array, weight: float) -> list[tuple[Fraction, Fraction]]:
        u, n = [Fraction(v) * Fraction(weight) for v in dy.tolist()], len(self.d)
        normal = [v * self.rstd for v in self.d]
        size = [max(abs(v), Fraction(1)) for v in normal]
        c1, c2 = sum(u) / n, sum(a * b for a, b in zip(u, normal, strict=True)) / n
        all1, all2 = sum(map(abs, u)) / n, sum(abs(a) * b for a, b in zip(u, size, strict=True)) / n
        return [
            (self.rstd * (a - c1 - v * c2), self.rstd * (abs(a) + all1 + s * all2))
            for a, v, s in zip(u, normal, size, strict=True)
        ]

    def dweight(self, dy: Array) -> tuple[Fraction, Fraction]:
        normal, exact = [v * self.rstd for v in self.d], [Fraction(v) for v in dy.tolist()]
        terms = sum(abs(a) * max(abs(v), 1) for a, v in zip(exact, normal, strict=True))
        return sum((a * v for a, v in zip(exact, normal, strict=True)), Fraction(0)), terms


def check(found: Array, true: list[tuple[Fraction, Fraction]]) -> None:
    for got, (value, terms) in zip(found.tolist(), true, strict=True):
        if terms < LARGEST:
            assert abs(Fraction(got) - value) <= 2 * EPS * terms + LEAST


def numbers(kind: str, rng: np.random.Generator) -> Array:
    x = rng.standard_normal(50)
    return {
        "normal": x,
        "offset_1e12": x + 1e12,
        "offset_1e15": np.round(x * 8) / 8 + 1e15,
        "two_neighbours": np.where(x > 0.1, np.nextafter(1e9, 2e9), 1e9),
        "squares_overflow": x * 1e200,
        "squares_underflow": x * 1e-200,
        "cubes_underflow": x * 1e90,
        "sum_overflows": np.abs(x) * 1e307 + 1e308,
        "distance_overflows": np.sign(x) * (1.6e308 + np.abs(x) * 1e306),
        "denormal": rng.integers(-9, 9, 50) * 5e-324,
        "all_magnitudes": np.ldexp(x, rng.integers(-1060, 1010, 50)),
        "cancelling": np.resize([1.5e308, 1.0, -1.5e308, 3.0, 1e-308], 50),
        "one_large": np.where(np.arange(50) == 7, 1e300, x * 1e-300),
    }[kind]


KINDS = [
    "normal", "offset_1e12", "offset_1e15", "two_neighbours", "squares_overflow", "squares_underflow", "cubes_underflow",
    "sum_overflows", "distance_overflows", "denormal", "all_magnitudes", "cancelling", "one_large",
]  # fmt: skip
UPSTREAM = ["normal", "squares_overflow", "squares_underflow", "cubes_underflow", "denormal", "sum_overflows", "one_large"]
WEIGHTS = [1.7, 1e150, -1e-150]  # the ends of what a weight may be


@every_method
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("eps", [0.0, 1e-290, 1e-5])
@pytest.mark.parametrize("kind", KINDS)
def test_forward(kind: str, eps: float, weight: float, method: str, rng: np.random.Generator) -> None:
    x, bias = numbers(kind, rng), -0.3 * weight
    y = numbanorm.layer_norm(x[None], 50, np.full(50, weight), np.full(50, bias), eps, method=method)[0]
    check(y, Group(x, eps).y(weight, bias))


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind: str, eps: float, upstream: str, weight: float, rng: np.random.Generator) -> None:
    """Three groups, of which each has numbers of its own size: layer norm's, and the channels of instance norm."""
    kinds, upstreams = (kind, "normal", "normal"), (upstream, "normal", "squares_underflow")
    x, dy = (np.array([numbers(k, rng) for k in names]) for names in (kinds, upstreams))
    groups = [Group(row, eps) for row in x]
    each, one = np.full(50, weight), np.full(3, weight)
    rows = numbanorm.layer_norm(x, 50, each, eps=eps, return_stats=True)[1]
    channels = numbanorm.instance_norm(x[None], None, None, one, eps=eps, return_stats=True)[1]
    of_rows = numbanorm.layer_norm_backward(dy, x, 50, rows, each)[0]
    of_channels, dweight, _ = numbanorm.instance_norm_backward(dy[None], x[None], channels, one)
    for k, (group, upstream_row, a, b) in enumerate(zip(groups, dy, of_rows, of_channels[0], strict=True)):
        if SMALLEST < group.rstd < LARGEST:  # otherwise the rstd that gradients are given is not within half an eps
            true = group.dx(upstream_row, weight)
            check(a, true)
            check(b, true)
            check(dweight[k : k + 1], [group.dweight(upstream_row)])


SHAPES = [
    cases.Case("layer", (400, 49)), cases.Case("rms", (400, 16)), cases.Case("instance", (40, 8, 49)),
    cases.Case("instance", (40, 49, 8), channel_axis=-1), cases.Case("group", (40, 8, 7, 7), groups=4),
    cases.Case("batch", (49, 400)), cases.Case("batch", (7, 400, 7)), cases.Case("layer", (20, 1000)),
]  # fmt: skip


@needs_long_double
@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_outliers(case: cases.Case, rng: np.random.Generator) -> None:
    """Two values make up a group's variance, and one of dy its gradient: then nothing averages the roundings.

    With the distances to the mean, slope and shift rounded, two of a hundred thousand gradients were more than 2 eps off, the
    worst of 1e8 2.8.
    """
    for _ in range(20):
        a = cases.arguments(case, np.dtype(np.float64))
        x, dy = 0.01 * rng.standard_normal(case.shape), 1e-3 * rng.standard_normal(case.shape)
        for of_x, of_dy in zip(cases.groups_of(case, x), cases.groups_of(case, dy), strict=True):
            first, second = rng.choice(of_x.size, 2, replace=False)
            of_x[np.unravel_index(first, of_x.shape)] = v = rng.uniform(0.5, 2)
            of_x[np.unravel_index(second, of_x.shape)] = -v * rng.uniform(0.9, 1.1)
            of_dy[np.unravel_index(second, of_x.shape)] = rng.uniform(0.5, 2)
        a = replace(a, x=x)
        y, stats = cases.call(case, a, return_stats=True)
        truth = cases.expected(case, a)
        assert oracle.eps_error(y, truth.y, truth.terms) <= 2
        cases.check_gradients(cases.call_backward(case, a, dy, stats), cases.expected_gradients(case, a, dy))
