"""What stands around a norm, each operation rounded to the dtype, as NumPy has them: h = x + residual, act(y + addend)."""

from __future__ import annotations

import numpy as np

from .numbers import Array


def activate(v: Array, activation: str, slope: float = 0.01) -> Array:
    """relu, relu6 or leaky_relu of v, in its dtype; nan stays."""
    kind = v.dtype.type
    below = v * kind(slope) if activation == "leaky_relu" else np.zeros_like(v)
    y = np.where(v <= 0, below, v)
    return np.where(y > 6, kind(6), y) if activation == "relu6" else y


def gate(dy: Array, y: Array, activation: str, slope: float = 0.01) -> Array:
    """The gradient before the activation, for y that it gave: dy where y > 0, and below relu6's top; nan of y lets it pass."""
    below = dy * dy.dtype.type(slope) if activation == "leaky_relu" else np.zeros_like(dy)
    passed = np.where(y <= 0, below, dy)
    return np.where(y >= 6, np.zeros_like(dy), passed) if activation == "relu6" else passed
