"""The norms as one writes them with NumPy, forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .cases import EPS, Array, Case, Data
from .jobs import Job


class View(NamedTuple):
    """x as (B, M, G, K, T), which costs no copy, and its parameters as they broadcast there."""

    x: Array
    weight: Array
    bias: Array
    mean: Array
    var: Array
    dy: Array | None
    other: Array | None


def viewed(case: Case, a: Data) -> View:
    wide = (1, 1, *case.view[2:4], 1)
    dy, other = (None if p is None else p.reshape(case.view) for p in (a.dy, a.other))
    weight, bias, mean, var = (p.reshape(wide) for p in a[1:5])
    return View(a.x.reshape(case.view), weight, bias, mean, var, dy, other)


AXES = (1, 3, 4)


def expression(case: Case, v: View, numpy: Any = np) -> Any:
    """The norm as one writes it with NumPy (or with something that has its functions)."""
    if case.norm == "rms":
        return v.x / numpy.sqrt((v.x * v.x).mean(axis=AXES, keepdims=True) + EPS) * v.weight
    mean = v.mean if case.norm == "eval" else v.x.mean(axis=AXES, keepdims=True)
    var = v.var if case.norm == "eval" else v.x.var(axis=AXES, keepdims=True)
    return (v.x - mean) / numpy.sqrt(var + EPS) * v.weight + v.bias


def numpy_job(case: Case, a: Data, threads: int) -> Job:
    v = viewed(case, a)
    if case.backward:
        return numpy_backward(case, v)
    other, kind = v.other, v.x.dtype

    def run() -> Array:
        whole = v._replace(x=v.x + other) if case.around == "residual" else v
        y: Array = expression(case, whole).astype(kind, copy=False)
        return np.maximum(y + other, kind.type(0)) if case.around == "relu" else y

    return Job(run, lambda y: (y,))


def numpy_backward(case: Case, v: View) -> Job:
    """dx = rstd * (u - mean(u) - xh * mean(u * xh)) with u = dy * w, from the mean and rstd of the forward pass."""
    x, upstream, other, own = v.x, v.dy, v.other, case.norm != "eval"
    assert upstream is not None
    mean = v.mean if not own else 0 if case.norm == "rms" else x.mean(axis=AXES, keepdims=True)
    var = (
        v.var if not own else (x * x).mean(axis=AXES, keepdims=True) if case.norm == "rms" else x.var(axis=AXES, keepdims=True)
    )
    rstd = 1 / np.sqrt(var + EPS)

    def run() -> tuple[Array, ...]:
        dy = upstream if other is None or case.around != "relu" else upstream * (other > 0)
        xh, u = (x - mean) * rstd, dy * v.weight
        dweight, dbias = (dy * xh).sum(axis=(0, 1, 4)), dy.sum(axis=(0, 1, 4))
        if own:
            u -= xh * (u * xh).mean(axis=AXES, keepdims=True) + (0 if case.norm == "rms" else u.mean(axis=AXES, keepdims=True))
        u *= rstd
        if case.around == "residual":
            u += other
        return (u, dweight) if case.norm == "rms" else (u, dweight, dbias)

    return Job(run, tuple)
