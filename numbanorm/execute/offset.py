"""`weight_offset`: what is added to every weight, in a wider type than the weights' own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..spec import checks
from ..spec.checks import Array
from ..spec.rounding import narrow
from ..spec.shown import shown


def checked(value: Any) -> float:
    """A finite number."""
    number = checks.real("weight_offset", value)
    if not math.isfinite(number):
        raise ValueError(f"weight_offset must be finite: got {number}; 1.0 is that of Gemma's norms, 0.0 adds nothing")
    return number


def added(weight: Any, offset: Any, x: Any, exact: Any, own: bool) -> Any:
    """weight + offset, float64; a float32 number where elements of x take weights of their `own` in that type."""
    number = checked(offset)
    if number == 0.0:
        return weight
    if weight is None:
        raise ValueError(f"weight_offset is added to weight: got weight_offset={shown(number)} and weight=None; pass a weight")
    if checks.device_library(weight):
        raise ValueError(f"weight_offset must be 0 for arrays on a CUDA device, where nothing is added: got {shown(number)}; "
                         f"write weight + {shown(number)}, of float32 or float64")  # fmt: skip
    wide = checks.array("weight", weight).astype(np.float64) + number
    single = own and not exact and getattr(getattr(x, "dtype", None), "itemsize", 8) < 8
    with np.errstate(over="ignore"):
        return wide.astype(np.float32).astype(np.float64) if single else wide


def rounded(gradients: tuple[Array | None, ...], weight: Any, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
    """dx, gradients of parameters in the type of the weight that an offset was added to, and what comes behind them."""
    kind, n = checks.array("weight", weight).dtype, len(needs)
    dx, *of_parameters = gradients[:n]
    narrowed = (g if g is None or g.dtype == kind else narrow(g.astype(np.float64), kind) for g in of_parameters)
    return dx, *narrowed, *gradients[n:]
