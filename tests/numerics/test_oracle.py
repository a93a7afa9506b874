"""The oracle against exact fractions and against torch, before anything is measured with it."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import oracle
import pytest
from cases import needs_long_double

pytestmark = needs_long_double


def exact_moments(values: np.ndarray) -> tuple[Fraction, Fraction]:
    """Mean and biased variance without any rounding."""
    exact = [Fraction(float(v)) for v in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return mean, sum(((v - mean) ** 2 for v in exact), Fraction(0)) / len(exact)


def fraction(value: np.longdouble) -> Fraction:
    return Fraction(*value.as_integer_ratio())


HARD = {
    "offset_1e6_float64": lambda rng, n: 1e6 + rng.standard_normal(n),
    "offset_1e8": lambda rng, n: 1e8 + rng.standard_normal(n),
    "outlier": lambda rng, n: np.concatenate([rng.standard_normal(n - 1), [1e8]]),
    "cancelling": lambda rng, n: np.resize([1e8, 1.0, -1e8, 1.0], n),
    "scale_1e-30": lambda rng, n: 1e-30 * rng.standard_normal(n),
    "scale_3e38": lambda rng, n: rng.uniform(-3e38, 3e38, n),
    "scale_1e150": lambda rng, n: 1e150 * rng.standard_normal(n),
    "denormal": lambda rng, n: rng.integers(1, 1000, n) * 2.0**-149,
}


@pytest.mark.parametrize("n", [1, 2, 7, 49, 1000, 4099])
@pytest.mark.parametrize("kind", HARD)
def test_moments_agree_with_fractions(kind: str, n: int) -> None:
    x = HARD[kind](np.random.default_rng(n), n).astype(np.float64)
    mean, var = exact_moments(x)
    truth = oracle.layer_norm(x, 1)
    assert truth.mean is not None
    # a long double is 2**-64 off when it is rounded; 2**-59 leaves room for the few roundings of a pairwise sum
    slack = Fraction(1, 2**59)
    spread = fraction(np.sqrt(truth.var)[()])
    assert abs(fraction(truth.mean[()]) - mean) <= slack * max(abs(mean), spread)
    assert abs(fraction(truth.var[()]) - var) <= slack * 4 * var


@pytest.mark.parametrize("kind", HARD)
def test_result_agrees_with_fractions(kind: str) -> None:
    x = HARD[kind](np.random.default_rng(5), 1000).astype(np.float64)
    mean, var = exact_moments(x)
    y = oracle.layer_norm(x, 1, eps=0).y
    for value, result in zip(x[:50].tolist(), y[:50], strict=True):
        # y**2 is rational although y is not
        square, sign = (Fraction(value) - mean) ** 2 / var, value > mean
        got = fraction(result)
        # 2**-56: sixteen times finer than the float64 it must judge
        assert abs(got**2 - square) <= Fraction(1, 2**56) * max(square, 1)
        assert (got > 0) == sign or got == 0


def test_sum_of_many_is_pairwise() -> None:
    x = np.full((1, 2**22), 0.1)
    mean = oracle.layer_norm(x, 1).mean
    assert mean is not None
    assert mean[0] == np.longdouble(0.1)


@pytest.mark.parametrize("axis", [1, -1])
def test_agrees_with_torch(axis: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: the oracle is compared with it")
    functional = torch.nn.functional
    rng = np.random.default_rng(1)
    x, w, b = rng.standard_normal((4, 6, 5, 3)), rng.standard_normal(6), rng.standard_normal(6)
    mean, var = rng.standard_normal(6), rng.uniform(0.5, 2, 6)
    t, tw, tb, tm, tv = (torch.from_numpy(a) for a in (x, w, b, mean, var))
    last = np.moveaxis(x, 1, axis)
    pairs = [
        (oracle.batch_norm(last, w, b, channel_axis=axis), functional.batch_norm(t, None, None, tw, tb, True)),
        (oracle.batch_norm(last, w, b, channel_axis=axis, given=(mean, var)), functional.batch_norm(t, tm, tv, tw, tb)),
        (oracle.instance_norm(last, w, b, channel_axis=axis), functional.instance_norm(t, None, None, tw, tb)),
        (oracle.group_norm(last, 3, w, b, channel_axis=axis), functional.group_norm(t, 3, tw, tb)),
    ]
    for truth, expected in pairs:
        # 1e-14: torch computes in float64, a few roundings of values near 3
        np.testing.assert_allclose(np.moveaxis(truth.y, axis, 1).astype(float), expected.numpy(), rtol=0, atol=1e-14)


def test_row_norms_agree_with_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: the oracle is compared with it")
    rng = np.random.default_rng(2)
    x, w, b = rng.standard_normal((4, 5, 6)), rng.standard_normal((5, 6)), rng.standard_normal((5, 6))
    t, tw, tb = (torch.from_numpy(a) for a in (x, w, b))
    layer = torch.nn.functional.layer_norm(t, (5, 6), tw, tb).numpy()
    rms = torch.nn.functional.rms_norm(t, (5, 6), tw, 1e-3).numpy()
    # 1e-14: as above
    np.testing.assert_allclose(oracle.layer_norm(x, 2, w, b).y.astype(float), layer, rtol=0, atol=1e-14)
    np.testing.assert_allclose(oracle.rms_norm(x, 2, w, 1e-3).y.astype(float), rms, rtol=0, atol=1e-14)


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu"])
def test_what_stands_around_agrees_with_torch(activation: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: the oracle is compared with it")
    rng = np.random.default_rng(3)
    x, r, z, dy, dr, w = (4 * rng.standard_normal((7, 40)) for _ in range(6))
    tx, tz, tw = (torch.from_numpy(a).requires_grad_() for a in (x, z, w[0]))
    h = tx + torch.from_numpy(r)
    y = getattr(torch.nn.functional, activation)(torch.nn.functional.layer_norm(h, (40,), tw) + tz)
    torch.autograd.backward([y, h], [torch.from_numpy(dy), torch.from_numpy(dr)])
    sums = oracle.rounded(oracle.widen(x) + oracle.widen(r), x.dtype)
    truth = oracle.around(oracle.layer_norm(sums, 1, w[0]), z, activation, x.dtype)
    dz = oracle.passed(dy, y.detach().numpy(), activation)
    g = oracle.layer_norm_backward(dz, sums, 1, w[0])
    pairs = (truth.y, y.detach()), (dz, tz.grad), (oracle.beside(g.dx, dr).value, tx.grad), (g.dweight.value, tw.grad)
    for found, expected in pairs:
        # 2e-13: torch computes in float64, sums of 40 products near 16, and a few roundings of values near 30
        np.testing.assert_allclose(found.astype(float), expected.numpy(), rtol=0, atol=2e-13)


def test_rounded_is_what_numpy_rounds_to() -> None:
    v = np.random.default_rng(4).standard_normal(1000).astype(np.longdouble) * np.longdouble(2.0) ** np.arange(-160, 90, 0.25)
    ties = np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-150, 3 * 2.0**-150], np.longdouble)
    for values in (v, ties):
        assert np.array_equal(oracle.rounded(values, np.float32), values.astype(np.float32).astype(np.longdouble))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_ulp_error_counts_units_in_the_last_place(dtype: type) -> None:
    ulp = 2.0 ** (1 - oracle.FORMATS[np.dtype(dtype).name][0])
    y = np.array([1.0, -1.5, 0.0], dtype)
    assert oracle.ulp_error(y, oracle.widen(y)) == 0
    assert oracle.ulp_error(y, oracle.widen(y) + np.longdouble(ulp) / 2) == 0.5
    assert oracle.ulp_error(y, oracle.widen(y) + np.longdouble(ulp), weight=4.0) == 0.25
    assert oracle.eps_error(y, oracle.widen(y) + np.longdouble(ulp)) == 1


def test_ulp_error_compares_classes() -> None:
    y = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert oracle.ulp_error(y, oracle.widen([np.nan, 1e39, -1e39, 1.0])) == 0
    assert oracle.ulp_error(y, oracle.widen([np.nan, -1e39, -1e39, 1.0])) == np.inf
    assert oracle.ulp_error(y, oracle.widen([0.0, 1e39, -1e39, 1.0])) == np.inf
    assert oracle.ulp_error(y, oracle.widen([np.nan, 1e38, -1e39, 1.0])) == np.inf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_spacing_is_that_of_numpy(dtype: type) -> None:
    info = np.finfo(dtype)
    values = np.array([0, info.smallest_subnormal, info.tiny, 0.9999, 1, 1.0001, 2, 1000, info.max / 2], dtype)
    assert np.array_equal(oracle.spacing(oracle.widen(values), dtype), oracle.widen(np.spacing(values)))
