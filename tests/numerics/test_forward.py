"""Every norm against its definition: the table of cases, in every type, memory layout, method and mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, DTYPES, FLOAT32, MODES, Case, call, needs_long_double
from close import STATISTICS, check_mode
from layouts import LAYOUTS, possible

import numbanorm

pytestmark = needs_long_double


def layouts(case: Case, dtype: np.dtype[Any]) -> Iterator[str]:
    """All of them for what is small; what is large or repeats a family is read from plain memory."""
    plain = case.size > 20_000 or (dtype != FLOAT32 and case.size > 2000)
    for layout in ("C",) if plain else LAYOUTS:
        if possible(layout, np.empty(0, dtype)):
            yield layout


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", cases.TABLE, ids=lambda c: c.name)
def test_is_its_definition(case: Case, dtype: np.dtype[Any], method: str | None, exact: bool) -> None:
    """From x of any layout: the layouts in one test, for a test of pytest's takes longer than a call."""
    a = cases.arguments(case, dtype)
    plain = call(case, a, method=method, exact=exact)
    assert (plain.shape, plain.dtype) == (case.shape, dtype)
    check_mode(plain, cases.truth(case, dtype), exact, plain=not case.affine)
    for layout in layouts(case, dtype):
        x = LAYOUTS[layout](a.x)
        before = x.tobytes()
        y = call(case, replace(a, x=x), method=method, exact=exact)
        assert y.tobytes() == plain.tobytes(), layout
        assert (y.shape, y.dtype) == (case.shape, dtype), layout
        assert y.flags.c_contiguous, layout
        assert y.dtype.isnative, layout
        assert x.tobytes() == before, layout


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", cases.TABLE, ids=lambda c: c.name)
def test_statistics(case: Case, dtype: np.dtype[Any], method: str | None) -> None:
    a, truth = cases.arguments(case, dtype), cases.truth(case, dtype)
    y, stats = call(case, a, method=method, return_stats=True)
    assert y.tobytes() == call(case, a, method=method).tobytes()
    eps = cases.rms_eps(dtype) if case.norm == "rms" else 1e-5
    # given statistics are one per channel; instance norm hands them out for each sample
    shape = truth.var.shape if case.training else (-1,)
    assert stats.rstd.dtype == np.float64
    std = np.sqrt(truth.var)
    rstd = 1 / np.sqrt(truth.var + np.longdouble(eps))
    assert oracle.relative_error(stats.rstd, np.broadcast_to(rstd.reshape(shape), stats.rstd.shape)) <= STATISTICS
    if case.norm == "rms":
        assert stats.mean is None
        return
    assert truth.mean is not None
    assert stats.mean.dtype == np.float64
    mean = np.broadcast_to(truth.mean.reshape(shape), stats.mean.shape)
    assert oracle.relative_error(stats.mean, mean, std.reshape(shape)) <= STATISTICS


# one case of each family, each with statistics that are computed or given
FAMILIES = [
    Case("layer", (5, 49)),
    Case("rms", (5, 49)),
    Case("batch", (9, 35)),
    Case("batch", (3, 5, 40)),
    Case("batch", (2, 5, 300)),
    Case("batch", (9, 35), training=False),
    Case("batch", (2, 5, 300), training=False),
    Case("instance", (2, 5, 49)),
    Case("instance", (2, 49, 5), channel_axis=-1),
    Case("group", (2, 6, 49), groups=2),
    Case("group", (2, 49, 6), groups=2, channel_axis=-1),
]


@pytest.mark.parametrize("of_bias", DTYPES, ids=lambda d: f"bias_{d.name}")
@pytest.mark.parametrize("of_weight", DTYPES, ids=lambda d: f"weight_{d.name}")
@pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)
def test_parameters_of_any_float_type(case: Case, of_weight: np.dtype[Any], of_bias: np.dtype[Any]) -> None:
    for dtype in DTYPES:
        a = cases.arguments(case, dtype)
        a = replace(
            a,
            weight=a.weight.astype(of_weight) if a.weight is not None else None,
            bias=a.bias.astype(of_bias) if a.bias is not None else None,
            running_mean=a.running_mean.astype(of_bias) if a.running_mean is not None else None,
            running_var=a.running_var.astype(of_weight) if a.running_var is not None else None,
        )
        for exact in MODES:
            y = call(case, a, exact=exact)
            assert y.dtype == dtype
            check_mode(y, cases.expected(case, a), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)
@pytest.mark.parametrize("only", ["weight", "bias"])
def test_one_of_weight_and_bias(case: Case, dtype: np.dtype[Any], only: str) -> None:
    a = cases.arguments(case, dtype)
    a = replace(a, bias=None) if only == "weight" else replace(a, weight=None)
    for exact in MODES:
        check_mode(call(case, a, exact=exact), cases.expected(case, a), exact)


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)
def test_eps_stands_inside_the_root(case: Case, eps: float) -> None:
    a = cases.arguments(case, FLOAT32)
    for exact in MODES:
        check_mode(call(case, a, eps=eps, exact=exact), cases.expected(case, a, eps), exact)


@pytest.mark.parametrize("number", [np.array(1e-3), np.array(1e-3, np.float32), np.float64(1e-3), np.array(1)], ids=repr)
@pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)
def test_eps_may_be_an_array_without_axes(case: Case, number: Any) -> None:
    a = cases.arguments(case, FLOAT32)
    assert call(case, a, eps=number).tobytes() == call(case, a, eps=float(number)).tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_small_data_has_an_rms_of_one_in_every_type(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """The default eps is no more than float32's, which is 5e-5 of the mean square of these; float16's own is 0.4 of it."""
    y = numbanorm.rms_norm(rng.normal(0, 0.05, (8, 1024)).astype(dtype), 1024)
    rms = np.sqrt(np.mean(y.astype(np.float64) ** 2, axis=1))
    np.testing.assert_allclose(rms, 1, atol=1e-3 + cases.epsilon(dtype) / 4)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3, 0), (0, 3, 4, 4)])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_empty_in_empty_out(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    x = np.empty(shape, dtype)
    families = [Case("layer", shape), Case("rms", shape)]
    if len(shape) > 1 and shape[1]:
        families += [Case("batch", shape), Case("batch", shape, training=False), Case("group", shape, groups=shape[1])]
    if len(shape) > 2:
        families += [Case("instance", shape), Case("instance", shape, training=False)]
    for case in families:
        channels = np.ones(case.parameter_shape, np.float32)
        given = {} if case.training else {"running_mean": channels, "running_var": channels}
        y = call(case, cases.Arguments(x, channels, **given))
        assert (y.shape, y.dtype) == (shape, dtype)
