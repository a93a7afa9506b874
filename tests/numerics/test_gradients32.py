"""Gradients with exact=False, the default: float32 elements, and sums that are float32 for eight terms. How near they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import DTYPES, MODES, Arguments, Case, call, call_backward, needs_long_double
from hostile import KINDS, groups_of, hostile
from numpy.typing import NDArray

pytestmark = needs_long_double

Array = NDArray[Any]

FLOAT32 = np.dtype(np.float32)
NARROW = [dtype for dtype in DTYPES if dtype.itemsize < 8]
every_narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.name)
# dx has four roundings of 2**-24 of its terms: of x - mean, of u, and of two sums; each is an ulp at most
DX_ULPS = 4.0
# what is of a half type is rounded again, by half a unit of its own
HALF_ULPS = 0.51
# of 2**-24 of the absolute terms: seven sums of eight, and a rounding each of x - mean and of the normalized x, could lose 9;
# their signs differ, and no more than 3.8 was measured
SUMS = 4.0
# half the distance of numbers below the normal ones: what a product that leaves those may lose
LOST = 2.0**-150
GIVEN = [Case("batch", (49, 5), training=False), Case("instance", (2, 3, 258), training=False)]


def over_groups(case: Case, a: Array) -> Array:
    """The largest of each group, for each of its elements."""
    found = np.array(a)
    for group in cases.groups_of(case, found):
        group[...] = group.max()
    return found


def share_of(found: Array, true: oracle.Gradient, allowed: Array) -> float:
    """Largest error as a share of what is allowed, besides the last rounding to a half type; infinite if nan or inf differ."""
    wide = oracle.widen(found)
    if not oracle.same_class(wide, true.value, found.dtype):
        return np.inf
    if found.itemsize == 2:
        allowed = allowed + HALF_ULPS * oracle.spacing(np.abs(wide), found.dtype)
    with np.errstate(invalid="ignore"):  # infinities, which are where they ought to be
        return float(np.max(np.abs(wide - true.value) / allowed, where=np.isfinite(wide), initial=0))


def dx_share(case: Case, dx: Array, true: oracle.Gradient) -> float:
    """Of the ulps, each one of the group's largest term, or of 2**-126."""
    largest = over_groups(case, np.broadcast_to(true.terms, case.shape))
    return share_of(dx, true, DX_ULPS * oracle.spacing(largest, FLOAT32))


def check(case: Case, a: Arguments, dy: Array) -> None:
    stats = call(case, a, return_stats=True)[1]
    dx, *sums = call_backward(case, a, dy, stats, exact=False)
    truth = cases.expected_gradients(case, a, dy)
    assert dx_share(case, dx, truth.dx) <= 1
    # each product may lose so much: of dy and the normalized x, or of dy and x - mean, which is multiplied by rstd then; what
    # is stored is rounded there, too
    lost = case.size // sums[0].size * LOST * np.maximum(1, np.max(stats.rstd)), 0.0
    for name, got, true, least in zip(("dweight", "dbias"), sums, truth[1:], lost, strict=False):  # RMS norm has no bias
        assert share_of(got, true, SUMS * 2.0**-24 * true.terms + least + LOST) <= 1, name


@every_narrow
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.size <= 1 << 17], ids=lambda c: c.name)
def test_table(case: Case, dtype: np.dtype[Any]) -> None:
    check(case, cases.arguments(case, dtype), cases.upstream(case, dtype))


@pytest.mark.parametrize("of_dy", MODES, ids=["x", "dy"])
@pytest.mark.parametrize("kind", KINDS)
@every_narrow
@pytest.mark.parametrize("case", [*(c for n in (2, 49, 258, 4099) for c in groups_of(n)), *GIVEN], ids=lambda c: c.name)
def test_hostile_numbers(case: Case, dtype: np.dtype[Any], kind: str, of_dy: bool, rng: np.random.Generator) -> None:
    a, dy, numbers = cases.arguments(case, dtype), cases.upstream(case, dtype), hostile(kind, dtype, rng, case.shape)
    check(case, a if of_dy else replace(a, x=numbers), numbers if of_dy else dy)


@pytest.mark.parametrize(("of_x", "of_dy"), [(1e-11, 1e-29), (2.0**-39, 2.0**-97), (2.0**-38, 2.0**-92), (1.0, 1e-31)])
@pytest.mark.parametrize(
    "case", [Case("instance", (1, 1, 16)), Case("layer", (1, 16)), Case("rms", (3, 40))], ids=lambda c: c.name
)
def test_products_that_would_be_no_normal_numbers(case: Case, of_x: float, of_dy: float, rng: np.random.Generator) -> None:
    """x, dy and the gradients are; dy * (x - mean) in float32 would not be, and would lose its bits."""
    a = replace(cases.arguments(case, FLOAT32), weight=None, bias=None)
    x, dy = ((rng.standard_normal(case.shape) * scale).astype(np.float32) for scale in (of_x, of_dy))
    a = replace(a, x=x)
    stats = call(case, a, eps=0.0, return_stats=True)[1]
    dx, *sums = call_backward(case, a, dy, stats, exact=False)
    truth = cases.expected_gradients(case, a, dy, eps=0.0)
    assert dx_share(case, dx, truth.dx) <= 1
    for got, true in zip(sums, truth[1:], strict=False):
        assert share_of(got, true, SUMS * 2.0**-24 * true.terms) <= 1
