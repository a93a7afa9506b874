"""`reference.backward32`, gradients in float32 that no kernel computes yet: how near, where nothing leaves its range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import DTYPES, MODES, Case, call, needs_long_double
from hostile import groups_of, hostile
from numpy.typing import NDArray

from numbanorm import reference

pytestmark = needs_long_double

Array = NDArray[Any]

NARROW = [dtype for dtype in DTYPES if dtype.itemsize < 8]
# sets whose products are numbers of float32
KINDS = ["offset", "large_offset", "lognormal", "outlier", "cancelling"]
# dx has four roundings of 2**-24 of its terms: of x - mean, of u, and of two sums; each is an ulp at most
DX_ULPS = 4.0
# a half type's dx is rounded again, by half a unit of its own
HALF_ULPS = 0.51
# of 2**-24 of the absolute terms: seven sums of eight, and a rounding each of x - mean and of the normalized x
SUMS = {"dweight": 9.0, "dbias": 7.0}


def check(case: Case, a: cases.Arguments, dy: Array) -> None:
    p, center, own = case.its.planned(case.shape, case.told, case.channel_axis), case.its.center, case.training
    _, stats = call(case, a, method="two_pass", return_stats=True)
    found = reference.backward32(p, a.x, dy, stats.mean, stats.rstd, a.weight, center=center, given=not own)
    truth = cases.expected_gradients(case, a, dy)
    dx, exact = found[0].reshape(case.shape), truth.dx
    assert oracle.ulp_error(dx, exact.value, exact.terms) <= (HALF_ULPS if dx.itemsize == 2 else DX_ULPS)
    for (name, most), got, true in zip(SUMS.items(), found[1 : 2 + center], truth[1:], strict=False):
        off = np.abs(oracle.widen(got).reshape(true.value.shape) - true.value)
        assert (off <= most * 2.0**-24 * true.terms).all(), name


@pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.name)
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.size <= 1 << 17], ids=lambda c: c.name)
def test_table(case: Case, dtype: np.dtype[Any]) -> None:
    check(case, cases.arguments(case, dtype), cases.upstream(case, dtype))


@pytest.mark.parametrize("of_dy", MODES, ids=["x", "dy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.name)
@pytest.mark.parametrize("case", [c for n in (2, 49, 258, 4099) for c in groups_of(n)], ids=lambda c: c.name)
def test_hostile_numbers(case: Case, dtype: np.dtype[Any], kind: str, of_dy: bool, rng: np.random.Generator) -> None:
    a, dy, numbers = cases.arguments(case, dtype), cases.upstream(case, dtype), hostile(kind, dtype, rng, case.shape)
    check(case, a if of_dy else replace(a, x=numbers), numbers if of_dy else dy)
