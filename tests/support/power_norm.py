"""A norm that the package does not have: batch norm's axes, and no mean. A row in the table is all it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbanorm.execute.backward import backward
from numbanorm.execute.forward import forward
from numbanorm.spec import plan
from numbanorm.spec.norms import NORMS, Norm

Array = np.ndarray[Any, Any]
NAME, EPS = "power_norm", 1e-5
# (N, C, ...) and the axis of C: runs and columns, whole and shared out, folded and not
SHAPES = [
    ((8, 6), 1),
    ((4, 6, 5, 5), 1),
    ((4, 5, 5, 6), -1),
    ((3, 2, 300), 1),
    ((40, 30, 7), 1),
    ((2000, 3), 1),
    ((1, 2, 40001), 1),
]


def in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row, for one test."""
    monkeypatch.setitem(NORMS, NAME, Norm(lambda shape, _, axis: plan.batch(shape, axis), center=False))


def power_norm(x: Any, weight: Any, axis: int, method: str = "two_pass", exact: bool = True) -> Any:
    """x / sqrt(mean(x**2) + eps) * weight, each channel's mean over the batch; and Stats."""
    return forward(NAME, x, ((), axis), (weight, None, EPS), (method, exact, None, True, None))


def power_norm_backward(dy: Any, x: Any, stats: Any, weight: Any, axis: int, exact: bool = True) -> Any:
    """dx and dweight."""
    return backward(NAME, dy, x, ((), axis), stats, weight, ((True, True), exact, None, None, None))


def arguments(shape: tuple[int, ...], axis: int, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """x, weight, dy"""
    rng = np.random.default_rng(7)
    x, dy = rng.normal(1.0, 2.0, (2, *shape))
    return x.astype(dtype), rng.normal(size=shape[axis]).astype(dtype), dy.astype(dtype)


def defined(x: Array, weight: Array, dy: Array, axis: int) -> tuple[Array, Array, Array]:
    """y, dx and dweight from the definition, in long double."""
    x, weight, dy = (np.moveaxis(v, axis, -1) if v.ndim > 1 else v for v in (v.astype(np.longdouble) for v in (x, weight, dy)))
    axes = tuple(range(x.ndim - 1))
    rstd = 1 / np.sqrt((x * x).mean(axes) + np.longdouble(EPS))
    u, xh = dy * weight, x * rstd
    dx = rstd * (u - xh * (u * xh).mean(axes))
    return np.moveaxis(xh * weight, -1, axis), np.moveaxis(dx, -1, axis), (dy * xh).sum(axes)
