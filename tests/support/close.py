"""How near to the truth a result must be: y, statistics, moments and running statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
from numpy.typing import NDArray

from numbanorm import Moments

Array = NDArray[Any]

# half an ulp, and 0.01 for a float64 evaluation near the middle of two numbers
ROUNDED_ONCE = 0.51
# float64 cannot round an exact value: the distance to the mean, rstd, the product with the weight and the sum each round, by
# half an eps of |x^ * weight| + |bias|
FLOAT64_EPS = 2.0
# of a running statistic, too: both weights, both products and the sum round
STEP_EPS = 4.0
# float32 arithmetic. Where x - mean is rounded, and where the normalized x is, 2**-24 of it is lost: an ulp, and half a one of
# what is rounded last. A weight makes both an ulp; the sum, and the bias in what is added, lose half a one each
FLOAT32_ULPS, WITH_PARAMETERS = 1.51, 3.0
# what is lost below the normal numbers of float32 is multiplied by the weight
LEAST = 2.0**-126
# the statistics are float64 sums of at most 2**24 terms
STATISTICS = 1e-12


def identical(found: Any, expected: Array, what: str) -> None:
    """Bit for bit; a nan is a nan."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.ravel(), expected.ravel(), err_msg=what)
    assert (np.signbit(found) == np.signbit(expected.reshape(found.shape)))[~np.isnan(found)].all(), f"{what}: a zero's sign"


def check_close(y: Array, truth: oracle.Truth) -> None:
    if y.dtype == np.float64:
        assert oracle.eps_error(y, truth.y, truth.terms) <= FLOAT64_EPS
    else:
        assert oracle.ulp_error(y, truth.y, truth.weight) <= ROUNDED_ONCE


def check_near(y: Array, truth: oracle.Truth, plain: bool = False) -> None:
    """Of exact=False; `plain`: without weight and bias."""
    scale = np.maximum(truth.largest, truth.weight * LEAST)
    if y.dtype == np.float64:
        check_close(y, truth)
    elif y.dtype == np.float32:
        assert oracle.ulp_error(y, truth.y, scale) <= (FLOAT32_ULPS if plain else WITH_PARAMETERS)
    else:  # what is rounded again is within 3 ulp of float32, 2**-13 of one of float16
        assert oracle.ulp_error(y, truth.y, scale) <= ROUNDED_ONCE


def check_mode(y: Array, truth: oracle.Truth, exact: bool, plain: bool = False) -> None:
    """Of either mode."""
    if exact:
        check_close(y, truth)
    else:
        check_near(y, truth, plain)


def check_statistics(stats: Any, truth: oracle.Truth, eps: float) -> None:
    std = np.sqrt(truth.var)
    with np.errstate(divide="ignore"):  # a constant group with eps=0
        rstd = 1 / np.sqrt(truth.var + np.longdouble(eps))
    finite = np.isfinite(rstd)
    assert np.array_equal(np.isfinite(stats.rstd), finite)
    assert oracle.relative_error(stats.rstd[finite], rstd[finite]) <= STATISTICS
    if truth.mean is not None:
        assert oracle.relative_error(stats.mean, truth.mean, std) <= STATISTICS


def definition(x: Array, axes: tuple[int, ...]) -> tuple[int, Array, Array]:
    """Count, mean and sum of squares about it, in long double, without the axes that were reduced."""
    wide = oracle.widen(x)
    mean, d = oracle.centred(wide, axes)
    kept = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    return math.prod(x.shape[axis] for axis in axes), mean.reshape(kept), oracle.total(d * d, axes).reshape(kept)


def same(a: Moments, b: Moments) -> bool:
    return a.count == b.count and all(
        np.shape(p) == np.shape(q) and np.asarray(p).tobytes() == np.asarray(q).tobytes()
        for p, q in ((a.mean, b.mean), (a.m2, b.m2))
    )


def of_batch(norm: str, x: Array, ddof: int) -> tuple[Array, Array]:
    """Mean and variance of a batch for each channel; instance norm averages those of the samples."""
    wide = oracle.widen(x)
    if norm == "batch":
        return wide.mean(axis=(0, 2)), wide.var(axis=(0, 2), ddof=ddof)
    return wide.mean(axis=2).mean(axis=0), wide.var(axis=2, ddof=ddof).mean(axis=0)


# of a variance from one read of x, in units of 2**-52
ONE_READ = 2.0**10


def check_step(new: Array, old: Array, batch: Array, share: np.longdouble, method: str | None = "two_pass") -> None:
    """running = (1 - share) * running + share * batch, rounded to the buffer's type."""
    kept, added = (1 - share) * oracle.widen(old), share * batch
    scale = np.maximum(np.abs(kept), np.abs(added))
    if new.dtype == np.float64:
        assert oracle.eps_error(new, kept + added, scale) <= STEP_EPS + (ONE_READ if method is None else 0)
    else:
        assert oracle.ulp_error(new, kept + added, scale) <= ROUNDED_ONCE
