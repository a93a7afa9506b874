"""float64 at the ends of its range: sums, squares and cubes that overflow or underflow change nothing but the scale."""

from __future__ import annotations

from dataclasses import replace

import cases
import numpy as np
import pytest
from cases import METHODS, Case, call, call_backward

import numbanorm

FLOAT64 = np.dtype(np.float64)
# rows are no narrower than 64, or one row a group: then the groups that are computed again have the tree of those that are not
SCALED = [
    Case("layer", (5, 33)), Case("layer", (2, 3, 7), dims=2), Case("rms", (3, 300)), Case("batch", (9, 70)),
    Case("batch", (3, 2, 300)), Case("batch", (5, 4, 4, 16), channel_axis=-1), Case("instance", (2, 3, 7, 7)),
    Case("instance", (2, 40, 64), channel_axis=-1), Case("group", (2, 6, 5, 5), groups=3),
    Case("group", (2, 9, 64), groups=8, channel_axis=-1), Case("layer", (3, 257), affine=False),
]  # fmt: skip
EXPONENTS = [500, 600, 1019, -460, -600, -1000]
every_method = pytest.mark.parametrize("method", METHODS)
every_case = pytest.mark.parametrize("case", SCALED, ids=lambda c: c.name)
every_exponent = pytest.mark.parametrize("exponent", EXPONENTS)


def scaled(case: Case, exponent: int) -> tuple[cases.Arguments, cases.Arguments]:
    """Arguments of a case, and the same with x scaled, which is exact."""
    a = cases.arguments(case, FLOAT64)
    x = np.ldexp(np.round(a.x * 2**20), -20)  # few bits: they are all there among the denormals too
    return replace(a, x=x), replace(a, x=np.ldexp(x, exponent))


@every_method
@every_exponent
@every_case
def test_a_power_of_two_changes_no_bit(case: Case, exponent: int, method: str) -> None:
    plain, extreme = scaled(case, exponent)
    y, stats = call(case, plain, eps=0.0, method=method, return_stats=True)
    z, found = call(case, extreme, eps=0.0, method=method, return_stats=True)
    assert y.tobytes() == z.tobytes()
    assert found.rstd.tobytes() == np.ldexp(stats.rstd, -exponent).tobytes()
    if stats.mean is not None:
        assert found.mean.tobytes() == np.ldexp(stats.mean, exponent).tobytes()
    out = extreme.x.copy()
    assert call(case, replace(extreme, x=out), eps=0.0, method=method, out=out) is out
    assert out.tobytes() == y.tobytes()


@every_exponent
@every_case
def test_nor_do_gradients_but_for_the_scale(case: Case, exponent: int) -> None:
    plain, extreme = scaled(case, exponent)
    dy = cases.upstream(case, FLOAT64)
    stats, found = (call(case, a, eps=0.0, return_stats=True)[1] for a in (plain, extreme))
    true, got = call_backward(case, plain, dy, stats), call_backward(case, extreme, dy, found)
    # the smallest gradients are denormal: they have fewer bits
    assert np.abs(np.ldexp(got[0], exponent) - true[0]).max() <= max(2.0 ** (exponent - 1074), 0.0)
    for one, other in zip(true[1:], got[1:], strict=True):
        assert one is other is None or one.tobytes() == other.tobytes()
    for source in (extreme.x, dy):
        a, upstream = replace(extreme, x=extreme.x.copy()), dy.copy()
        out = a.x if source is extreme.x else upstream
        assert call_backward(case, a, upstream, found, out=out)[0] is out
        assert out.tobytes() == got[0].tobytes()


@pytest.mark.parametrize("exponent", [1010, -1000])
@every_case
def test_nor_does_a_scale_of_dy(case: Case, exponent: int) -> None:
    a, dy = cases.arguments(case, FLOAT64), cases.upstream(case, FLOAT64)
    stats = call(case, a, return_stats=True)[1]
    true, got = call_backward(case, a, dy, stats), call_backward(case, a, np.ldexp(dy, exponent), stats)
    for one, other in zip(true, got, strict=True):
        if one is not None:
            assert np.isfinite(other).all()
            # what overflowed was computed again, from a scaled dy; what did not lost bits among the denormals
            assert np.abs(np.ldexp(other, -exponent) - one).max() <= 2.0**-52 * np.abs(one).max()


@every_method
@every_case
def test_groups_keep_to_themselves(case: Case, method: str) -> None:
    """Each of the groups has its own scale; one holds a nan, one an infinity, and one is constant."""
    plain, _ = scaled(case, 0)
    exponents = np.array([0, 600, -600, 1000, -1000, 0, 300])
    x = plain.x.copy()
    for k, group in enumerate(cases.groups_of(case, x)):
        group[...] = np.ldexp(group, exponents[k % 7])
    for k, value in ((3, np.nan), (1, np.inf), (0, 1e308)):
        for j, group in enumerate(cases.groups_of(case, x)):
            if j % 11 == k and value == 1e308:
                group[...] = value
            elif j % 11 == k:
                group[(0,) * group.ndim] = value
    with np.errstate(invalid="ignore"):
        y = call(case, replace(plain, x=x), eps=0.0, method=method)
    expected = call(case, plain, eps=0.0, method=method)
    for k, (found, true) in enumerate(zip(cases.groups_of(case, y), cases.groups_of(case, expected), strict=True)):
        if k % 11 not in (0, 1, 3):
            assert found.tobytes() == true.tobytes()
        else:
            assert np.isnan(found).any() or (case.norm == "rms" and k % 11 != 3)


@pytest.mark.parametrize("exponent", [600, -600])
@every_case
def test_gradients_keep_to_themselves(case: Case, exponent: int) -> None:
    """One group holds a nan, in x or in dy, and another has a scale of its own."""
    plain, _ = scaled(case, 0)
    dy = cases.upstream(case, FLOAT64)
    x = plain.x.copy()
    second = cases.groups_of(case, x)[1]
    second[...] = np.ldexp(second, exponent)
    true, _, *dbias = call_backward(case, plain, dy, call(case, plain, eps=0.0, return_stats=True)[1])
    for k in range(2):
        of_x, of_dy = x.copy(), dy.copy()
        first = cases.groups_of(case, (of_x, of_dy)[k])[0]
        first[(0,) * first.ndim] = np.nan
        a = replace(plain, x=of_x)
        dx, _, *found = call_backward(case, a, of_dy, call(case, a, eps=0.0, return_stats=True)[1])
        groups = list(zip(cases.groups_of(case, dx), cases.groups_of(case, true), strict=True))
        assert np.isnan(groups[0][0]).all()
        assert np.ldexp(groups[1][0], exponent).tobytes() == groups[1][1].tobytes()
        assert all(one.tobytes() == other.tobytes() for one, other in groups[2:])
        for one, other in zip(found, dbias, strict=True):  # rms has no bias, and a case without parameters None
            if one is not None:
                assert np.isnan(one).sum() == k
                assert (one == other).sum() == one.size - k


@pytest.mark.parametrize("value", [np.nan, np.inf])
@every_case
def test_nan_is_no_reason_to_compute_again(case: Case, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing values are no rare thing, and made a call forty times as long."""

    def refuse(*_: object) -> None:
        raise AssertionError

    a, dy = cases.arguments(case, FLOAT64), cases.upstream(case, FLOAT64)
    stats = call(case, a, return_stats=True)[1]
    clean = call_backward(case, a, dy, stats)[0]
    monkeypatch.setattr(numbanorm.cpu.backend, "scaled_groups", refuse)
    monkeypatch.setattr(numbanorm.cpu.backend, "scaled_gradients", refuse)
    for k in range(2):
        x, upstream = a.x.copy(), dy.copy()
        for group in cases.groups_of(case, (x, upstream)[k])[::2]:
            group[(-1,) * group.ndim] = value
        b = replace(a, x=x)
        y, stats = call(case, b, return_stats=True)
        dx = call_backward(case, b, upstream, stats)[0]
        assert call(case, replace(a, x=x), out=x).tobytes() == y.tobytes()
        for j, (one, other) in enumerate(zip(cases.groups_of(case, dx), cases.groups_of(case, clean), strict=True)):
            assert np.isnan(one).any() if j % 2 == 0 else one.tobytes() == other.tobytes()


@every_method
def test_equal_numbers(method: str) -> None:
    """Their sum overflows, and their variance is 0: what is left of rstd is eps."""
    x, bias = np.full((3, 40), 1e308), np.linspace(-1, 1, 40)
    y, stats = numbanorm.layer_norm(x, 40, None, bias, 1e-6, method=method, return_stats=True)
    assert (y == bias).all()
    assert (stats.mean == 1e308).all()
    assert (stats.rstd == 1.0 / np.sqrt(1e-6)).all()


@every_method
@pytest.mark.parametrize("axis", [1, -1])
def test_running_statistics_are_updated_once(axis: int, method: str, rng: np.random.Generator) -> None:
    """With the mean and the variance, or its infinity where float64 has no number for it."""
    x = np.moveaxis(rng.standard_normal((6, 80, 5)) * np.where(np.arange(80) % 2, 1e200, 1e-5)[:, None], 1, axis)
    mean, var, counter = np.ones(80), np.ones(80), np.zeros((), np.int64)
    numbanorm.batch_norm(
        x, mean, var, training=True, momentum=0.25, num_batches_tracked=counter, channel_axis=axis, method=method
    )
    assert counter == 1
    of_channels = np.moveaxis(x, axis, 0).reshape(80, -1)
    np.testing.assert_allclose(mean, 0.75 + 0.25 * of_channels.mean(1), rtol=1e-13)
    assert np.isposinf(var[1::2]).all()
    np.testing.assert_allclose(var[::2], 0.75 + 0.25 * of_channels[::2].var(1, ddof=1), rtol=1e-13)


@every_method
def test_moments(method: str, rng: np.random.Generator) -> None:
    x = np.round(rng.standard_normal((4, 30)) * 2**20)
    true = numbanorm.moments(x, 1, method=method)
    found = numbanorm.moments(np.ldexp(x, [[-520], [480], [0], [990]]), 1, method=method)
    assert (found.mean == np.ldexp(true.mean, [-520, 480, 0, 990])).all()
    assert (found.m2[:3] == np.ldexp(true.m2[:3], [-1040, 960, 0])).all()
    assert np.isposinf(found.m2[3])


def test_gradients_of_float32_weights(rng: np.random.Generator) -> None:
    """They are rounded once, from what was computed again."""
    x, dy = rng.standard_normal((4, 30)), rng.standard_normal((4, 30))
    for weight in (np.ones(30, np.float32), np.ones(30, ">f4")):
        found = []
        for scale in (1.0, 2.0**700):
            stats = numbanorm.layer_norm(x * scale, 30, weight, eps=0.0, return_stats=True)[1]
            found.append(numbanorm.layer_norm_backward(dy, x * scale, 30, stats, weight)[1:])
        assert [a.dtype for a in found[0]] == [a.dtype for a in found[1]]
        assert all((a == b).all() for a, b in zip(*found, strict=True))
