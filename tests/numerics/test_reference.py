"""The kernels against `numbanorm.reference`, plain NumPy with the same tree and formulas: with `==`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import ALL_METHODS, DTYPES, MODES, Arguments, Case, call, call_backward
from close import identical
from hostile import KINDS, groups_of, hostile
from numpy.typing import NDArray

from numbanorm import reference

Array = NDArray[Any]

# the reference makes an array for each operation: the largest cases take it seconds
TABLE = [case for case in cases.TABLE if np.prod(case.shape) <= 1 << 17]
NARROW = [dtype for dtype in DTYPES if dtype.itemsize < 8]  # float64 that leaves its range is not the reference's

every_mode = pytest.mark.parametrize("exact", MODES, ids=["float32", "exact"])
every_method = pytest.mark.parametrize("method", ALL_METHODS)
every_case = pytest.mark.parametrize("case", TABLE, ids=lambda c: c.name)


def check_forward(case: Case, a: Arguments, method: str | None, exact: bool, eps: float | None = None) -> None:
    """y and statistics."""
    p, center = case.its.planned(case.shape, case.told, case.channel_axis), case.its.center
    given = None if case.training else (a.running_mean, a.running_var)
    if eps is None:
        eps = 1e-5 if center else cases.rms_eps(a.x.dtype)
    y, stats = call(case, a, eps=eps, method=method, exact=exact, return_stats=True)
    options = {"center": center, "given": given, "method": method, "exact": exact}
    expected, measured = reference.forward(p, a.x, (a.weight, a.bias), eps, **options)
    identical(y, expected, f"{a.x.dtype}: y")
    identical(stats.rstd, measured.rstd, f"{a.x.dtype}: rstd")
    if center:
        identical(stats.mean, measured.mean, f"{a.x.dtype}: mean")


@every_mode
@every_method
@every_case
def test_forward(case: Case, method: str | None, exact: bool) -> None:
    for dtype in DTYPES:
        check_forward(case, cases.arguments(case, dtype), method, exact)


def check_backward(case: Case, a: Arguments, dy: Array, exact: bool, eps: float = 1e-5) -> None:
    """All gradients."""
    p, center, dtype = case.its.planned(case.shape, case.told, case.channel_axis), case.its.center, a.x.dtype
    _, stats = call(case, a, eps=eps, return_stats=True)
    found = call_backward(case, a, dy, stats, exact=exact)
    backward = reference.backward if exact or dtype.itemsize == 8 else reference.backward32
    dx, *of_parameters = backward(p, a.x, dy, stats.mean, stats.rstd, a.weight, center=center, given=not case.training)
    identical(found[0], dx, f"{dtype}: dx")
    kind = dtype if a.weight is None else a.weight.dtype
    for name, got, true in zip(("dweight", "dbias"), found[1:], of_parameters, strict=False):
        identical(got, reference.narrow(true, kind), f"{dtype}: {name}")


@every_mode
@every_case
def test_backward(case: Case, exact: bool) -> None:
    for dtype in DTYPES:
        check_backward(case, cases.arguments(case, dtype), cases.upstream(case, dtype), exact)


# the groups of a call go one way or the other: by their offset for the statistics, by their scale for the elements
SIZES = [case for n in (2, 49, 258, 1000, 4099) for case in groups_of(n)]
GIVEN = [Case("batch", (49, 5), training=False), Case("batch", (2, 3, 300), training=False)]


def with_parameters(a: Arguments, kind: str, rng: np.random.Generator) -> Arguments:
    """None of them; float32; float64 that no float32 holds; or of which every other one leaves float32's range."""
    if kind == "none":
        return replace(a, weight=None, bias=None)
    if kind == "float32":
        return a
    shape = np.shape(a.weight)
    size = np.where(np.arange(np.size(a.weight)) % 2, 1e40, 1e-40).reshape(shape) if kind == "far" else 1.0
    return replace(a, weight=rng.normal(size=shape) * size, bias=None if a.bias is None else rng.normal(size=shape) * size)


@every_mode
@every_method
@pytest.mark.parametrize("parameters", ["none", "float32", "float64", "far"])
@pytest.mark.parametrize("case", [*SIZES, *GIVEN], ids=lambda c: c.name)
def test_groups_that_go_either_way(
    case: Case, parameters: str, method: str | None, exact: bool, rng: np.random.Generator
) -> None:
    """Each group has an offset and a scale of its own; one is constant, and others have a nan and an infinity."""
    offsets, scales = (0, 10, 1e3, -30, 1e5, 25, -31, -33), (1, 1e-20, 1e-32, 1e37, 3e5, 1e-38, 1e25, 1e30)
    for dtype in NARROW:
        with np.errstate(over="ignore"):
            x = rng.standard_normal(case.shape)
            for k, group in enumerate(cases.groups_of(case, x)):
                group[...] = 3.0 if k == 5 else (group + offsets[k % 8]) * (scales[k * 5 % 8] if dtype != np.float16 else 1)
                if k in (6, 7):
                    group[(-1,) * group.ndim] = (np.nan, np.inf)[k - 6]
            a = replace(cases.arguments(case, dtype), x=x.astype(dtype))
        if not case.training:
            var = np.resize([1.0, 1e-70, 1e-60, 1e62, 1e-35], case.parameter_shape)
            a = replace(a, running_mean=np.resize([0.5, 1e31, 1e-31, 0.0, -3e30], case.parameter_shape), running_var=var)
        a = with_parameters(a, parameters, rng)
        for eps in (1e-5, 0.0):
            check_forward(case, a, method, exact, eps)


@every_mode
@every_method
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SIZES, ids=lambda c: c.name)
def test_hostile_numbers(case: Case, kind: str, method: str | None, exact: bool, rng: np.random.Generator) -> None:
    for dtype in NARROW:
        a = replace(cases.arguments(case, dtype), x=hostile(kind, dtype, rng, case.shape))
        check_forward(case, a, method, exact)


@every_mode
@pytest.mark.parametrize("parameters", ["none", "float32", "float64", "far"])
@pytest.mark.parametrize("case", [*SIZES, *GIVEN], ids=lambda c: c.name)
def test_gradients_for_which_float32_has_no_room(case: Case, parameters: str, exact: bool, rng: np.random.Generator) -> None:
    """Each group has a scale of its own, and its dy another."""
    of_x, of_dy = (1, 1e-20, 1e15, 1, 1e-36, 1, 1e30), (1, 1, 1e-15, 1e-36, 1, 1e-42, 1e30, 1e20)
    for dtype in NARROW:
        a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype).astype(np.float64)
        x = a.x.astype(np.float64)
        if dtype != np.float16:
            for k, groups in enumerate(zip(cases.groups_of(case, x), cases.groups_of(case, dy), strict=True)):
                for group, scales in zip(groups, (of_x, of_dy), strict=True):
                    group *= scales[k % len(scales)]
        if not case.training:
            mean, var = np.resize([0.5, 1e31, -1e-31, 0.0, -3e30], case.parameter_shape), [1.0, 1e-70, 1e-24, 1e62, 1e-35]
            a = replace(a, running_mean=mean, running_var=np.resize(var, case.parameter_shape))
        a = with_parameters(replace(a, x=x.astype(dtype)), parameters, rng)
        for eps in (1e-5, 0.0):
            check_backward(case, a, dy.astype(dtype), exact, eps)


@every_mode
@pytest.mark.parametrize("of_dy", MODES, ids=["x", "dy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SIZES, ids=lambda c: c.name)
def test_hostile_gradients(case: Case, kind: str, of_dy: bool, exact: bool, rng: np.random.Generator) -> None:
    for dtype in NARROW:
        a, dy, numbers = cases.arguments(case, dtype), cases.upstream(case, dtype), hostile(kind, dtype, rng, case.shape)
        check_backward(case, a if of_dy else replace(a, x=numbers), numbers if of_dy else dy, exact)


@pytest.mark.parametrize("offset", [5.6, 10.0, 31.0, 32.0, 33.0])
def test_where_one_read_is_enough(offset: float, rng: np.random.Generator) -> None:
    """Groups of a call on both sides: the mean is some 32 standard deviations from 0."""
    for case in (
        Case("layer", (64, 48)),
        Case("batch", (50, 64)),
        Case("batch", (3, 32, 300)),
        Case("group", (4, 32, 90), groups=16),
    ):
        x = (offset + rng.standard_normal(case.shape)).astype(np.float32)
        check_forward(case, replace(cases.arguments(case, np.dtype(np.float32)), x=x), None, False)
