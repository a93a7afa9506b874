"""Peers that work on NumPy arrays in two dimensions: statistics or whole scalings along one axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .cases import EPS, Array, Case, Data
from .jobs import Job, UnsupportedError


def table(case: Case, a: Data) -> tuple[Array, int]:
    """x in two dimensions, each group along the axis that is returned."""
    b, m, g, k, t = case.view
    if case.backward or case.around:
        raise UnsupportedError("no gradients" if case.backward else "the norm alone")
    if m == 1:
        return a.x.reshape(b * g, k * t), 1
    if b == k == t == 1:
        return a.x.reshape(m, g), 0
    raise UnsupportedError("a group is no row or column of a table")


def _with_statistics(case: Case, a: Data, mean: Any, var: Any, squares: Any) -> Job:
    """(x - mean) / sqrt(var + eps) * w + b in NumPy, with the statistics from the three functions of (table, axis)."""
    if case.norm == "eval":
        raise UnsupportedError("no statistics are taken")
    x, axis = table(case, a)
    b, m, g, k, t = case.view
    inner = (1, m, g, k, t) if axis == 0 else (b, 1, g, k, t)
    wide, groups = (1, 1, g, k, 1), (1, 1, g, 1, 1) if axis == 0 else (b, 1, g, 1, 1)
    weight, bias, full = a.weight.reshape(wide), a.bias.reshape(wide), a.x.reshape(inner)

    def centred() -> Array:
        rstd = 1 / np.sqrt(var(x, axis) + x.dtype.type(EPS))
        return np.asarray((full - mean(x, axis).reshape(groups)) * rstd.reshape(groups) * weight + bias)

    def about_zero() -> Array:
        rstd = 1 / np.sqrt(squares(x, axis) + x.dtype.type(EPS))
        return np.asarray(full * rstd.reshape(groups) * weight)

    return Job(about_zero if case.norm == "rms" else centred, lambda y: (y,))


def numbagg_job(case: Case, a: Data, threads: int) -> Job:
    import numbagg

    def squares(x: Array, axis: int) -> Any:
        return numbagg.nanmean(x * x, axis=axis)

    def var(x: Array, axis: int) -> Any:
        return numbagg.nanvar(x, axis=axis, ddof=0)

    return _with_statistics(case, a, lambda x, axis: numbagg.nanmean(x, axis=axis), var, squares)


def bottleneck_job(case: Case, a: Data, threads: int) -> Job:
    import bottleneck

    if case.dtype not in ("float32", "float64"):
        raise UnsupportedError("float32 and float64 only; NumPy would do the work")
    return _with_statistics(
        case, a, bottleneck.nanmean, bottleneck.nanvar, lambda x, axis: bottleneck.ss(x, axis) / x.dtype.type(x.shape[axis])
    )


def sklearn_job(case: Case, a: Data, threads: int) -> Job:
    from sklearn import preprocessing

    if case.norm == "eval" and not case.backward and not case.around:
        if case.view[0] != 1 or case.view[3:] != (1, 1):
            raise UnsupportedError("samples and channels only")
        x = a.x.reshape(case.view[1:3])
        scaler = preprocessing.StandardScaler().fit(x[:2])
        scaler.mean_, scaler.var_, scaler.scale_ = a.mean, a.var, np.sqrt(a.var)
        return Job(lambda: scaler.transform(x), lambda y: (y,))
    x, axis = table(case, a)
    if case.norm != "rms":
        return Job(lambda: preprocessing.scale(x, axis=axis), lambda y: (y,))
    root = x.dtype.type(math.sqrt(x.shape[1]))
    return Job(lambda: preprocessing.normalize(x, axis=1) * root, lambda y: (y,))


def scipy_job(case: Case, a: Data, threads: int) -> Job:
    from scipy import stats

    if case.norm in ("eval", "rms"):
        raise UnsupportedError("zscore takes a mean and a standard deviation of its own")
    x, axis = table(case, a)
    return Job(lambda: stats.zscore(x, axis=axis), lambda y: (y,))
