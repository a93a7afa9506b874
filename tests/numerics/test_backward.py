"""Every norm's gradients against their definition: the table of cases, in every type, and each gradient for itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import cases
import numpy as np
import pytest
from cases import ALL_METHODS, DTYPES, FLOAT32, Case, call, call_backward, check_gradients, needs_long_double

import numbanorm
from numbanorm import Stats

pytestmark = needs_long_double

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_case = pytest.mark.parametrize("case", cases.TABLE, ids=lambda c: c.name)

# one case of each family, each with statistics that are computed or given
FAMILIES = [
    Case("layer", (5, 49)),
    Case("layer", (3, 4, 7, 5), dims=3),
    Case("rms", (5, 49)),
    Case("batch", (9, 35)),
    Case("batch", (3, 5, 40)),
    Case("batch", (2, 5, 300)),
    Case("batch", (9, 35), training=False),
    Case("batch", (2, 5, 300), training=False),
    Case("instance", (2, 5, 49)),
    Case("instance", (2, 49, 5), channel_axis=-1),
    Case("instance", (2, 49, 5), channel_axis=-1, training=False),
    Case("group", (2, 6, 49), groups=2),
    Case("group", (2, 49, 6), groups=2, channel_axis=-1),
]
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)


def stats_of(case: Case, a: cases.Arguments, method: str | None = None) -> Stats:
    return call(case, a, method=method, return_stats=True)[1]


@every_dtype
@every_case
def test_is_its_definition(case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    kind = dtype if a.weight is None else a.weight.dtype
    for method in ALL_METHODS:
        dx, *sums = call_backward(case, a, dy, stats_of(case, a, method), exact=True)
        assert (dx.shape, dx.dtype) == (case.shape, dtype)
        assert dx.flags.c_contiguous
        assert [(s.shape, s.dtype) for s in sums] == [(case.parameter_shape, kind)] * (case.gradients - 1)
        check_gradients((dx, *sums), cases.true_gradients(case, dtype))


@every_dtype
@every_case
def test_each_gradient_for_itself(case: Case, dtype: np.dtype[Any]) -> None:
    """The same bits, whichever others are asked for; None for what is not."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    stats = stats_of(case, a)
    everything = call_backward(case, a, dy, stats)
    for needs in product((False, True), repeat=case.gradients):
        found = call_backward(case, a, dy, stats, needs=needs)
        assert len(found) == len(needs)
        for got, expected, needed in zip(found, everything, needs, strict=True):
            assert (got is not None) == needed
            assert got is None or (got.dtype, got.tobytes()) == (expected.dtype, expected.tobytes())


@every_family
def test_signs_of_zeros(case: Case) -> None:
    """They too do not depend on what else is asked for."""
    a, dy = cases.with_zeros(case, FLOAT32)
    stats = stats_of(case, a)
    everything = call_backward(case, a, dy, stats)
    assert case.training or (everything[0] == 0).any()
    for needs in product((False, True), repeat=case.gradients):
        found = call_backward(case, a, dy, stats, needs=needs)
        for got, expected in zip(found, everything, strict=True):
            assert got is None or got.tobytes() == expected.tobytes(), needs


@pytest.mark.parametrize("of_weight", DTYPES, ids=lambda d: f"weight_{d.name}")
@every_family
def test_weight_of_any_float_type(case: Case, of_weight: np.dtype[Any]) -> None:
    """Which is the type of its gradient and of the bias's."""
    for dtype in DTYPES:
        a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
        a = replace(a, weight=a.weight.astype(of_weight))
        dx, *sums = cases.gradients(case, a, dy)
        assert dx.dtype == dtype
        assert {s.dtype for s in sums} == {of_weight}
        check_gradients((dx, *sums), cases.expected_gradients(case, a, dy))


@every_dtype
@every_family
def test_no_weight_is_a_weight_of_one(case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    stats = tuple(stats_of(case, a))  # a plain pair does not know of a weight
    plain = call_backward(case, replace(a, weight=None), dy, stats)
    ones = call_backward(case, replace(a, weight=np.ones(case.parameter_shape, dtype)), dy, stats)
    assert [(g.dtype, g.shape, g.tobytes()) for g in plain] == [(g.dtype, g.shape, g.tobytes()) for g in ones]


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-3, 1.0])
@every_family
def test_eps_is_in_rstd(case: Case, eps: float) -> None:
    """So the backward functions do not ask for it."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    check_gradients(cases.gradients(case, a, dy, eps=eps), cases.expected_gradients(case, a, dy, eps))


@every_family
def test_statistics_that_somebody_else_computed(case: Case) -> None:
    """Any pair of arrays of a float type; float32 holds no more than 7 digits of them, and so are the gradients."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    stats = stats_of(case, a)
    expected = call_backward(case, a, dy, stats)
    for pair, kind, rtol in ((tuple, np.float64, 0), (list, np.float64, 0), (tuple, np.float32, 2e-6)):
        found = call_backward(case, a, dy, pair(None if s is None else s.astype(kind) for s in stats))
        for got, exact in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, exact, rtol=rtol, atol=rtol * np.abs(exact).max())


@every_family
def test_arguments_are_only_read(case: Case) -> None:
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    stats = stats_of(case, a)
    read = [v for v in (dy, a.x, a.weight, *stats) if v is not None]
    before = [v.tobytes() for v in read]
    found = call_backward(case, a, dy, stats)
    assert [v.tobytes() for v in read] == before
    assert not any(np.shares_memory(g, v) for g in found for v in read)


@every_family
def test_x_may_be_dy(case: Case) -> None:
    """One array for both is only read twice."""
    a = cases.arguments(case, FLOAT32)
    stats = stats_of(case, a)
    expected = call_backward(case, a, a.x.copy(), stats)
    assert [g.tobytes() for g in call_backward(case, a, a.x, stats)] == [g.tobytes() for g in expected]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3, 0), (0, 3, 4, 4)])
@every_dtype
def test_empty_in_empty_out(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Sums of nothing are zero."""
    x = np.empty(shape, dtype)
    families = [Case("layer", shape), Case("rms", shape)]
    if len(shape) > 1 and shape[1]:
        families += [Case("batch", shape), Case("batch", shape, training=False), Case("group", shape, groups=shape[1])]
    if len(shape) > 2:
        families += [Case("instance", shape), Case("instance", shape, training=False)]
    for case in families:
        weight = np.ones(case.parameter_shape, np.float32)
        given = {} if case.training else {"running_mean": weight, "running_var": weight}
        dx, *sums = cases.gradients(case, cases.Arguments(x, weight, **given), x)
        assert (dx.shape, dx.dtype) == (shape, dtype)
        for s in sums:
            assert (s.shape, s.dtype) == (case.parameter_shape, np.float32)
            assert not s.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_sums_beyond_the_weights_type_are_infinite(dtype: np.dtype[Any]) -> None:
    """Without a warning, which would be an error; dx is not concerned."""
    largest = np.array(0x7BFF, np.uint16).view(np.float16).astype(dtype)  # of float16, and all others hold it or near it
    x, weight = np.array([[0, 2]] * 4, dtype).repeat(2, 0), np.ones(2, np.float16)
    dy = np.full(x.shape, largest)
    stats = Stats(np.ones(8), np.ones(8))
    dx, dweight, dbias = numbanorm.layer_norm_backward(dy, x, 2, stats, weight)
    assert dweight.tolist() == [-np.inf, np.inf]
    assert dbias.tolist() == [np.inf, np.inf]
    assert not dx.any()
