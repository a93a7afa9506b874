"""What stands around a norm: something added to x before it, something to its result after it, and an activation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from .checks import real
from .shown import shown


class Activation(NamedTuple):
    """v where v > 0, v * slope where not, and no more than the top; a slope of 0 gives 0, whatever v is."""

    name: str
    slope: float
    top: float  # nan: none


ACTIVATIONS = {
    "relu": Activation("relu", 0.0, math.nan),
    "relu6": Activation("relu6", 0.0, 6.0),
    "leaky_relu": Activation("leaky_relu", 0.01, math.nan),
}


def activation_of(value: Any) -> Activation | None:
    """An activation by its name, or by its name and slope."""
    name, *slope = value if isinstance(value, tuple) and value else (value,)
    known = ACTIVATIONS.get(name) if isinstance(name, str) else None
    if value is None or (known is not None and not slope):
        return known
    if known is None or len(slope) > 1 or name != "leaky_relu":
        names = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation must be None, one of {names}, or ('leaky_relu', slope): got {shown(value)}; "
                         f"call others on the result")  # fmt: skip
    number = real("activation", slope[0])
    if not 0.0 <= number < 1.0:
        raise ValueError(f"activation must have a slope in [0, 1), for gradients go by the sign of y: got {number}; "
                         f"write ('leaky_relu', 0.01)")  # fmt: skip
    return known._replace(slope=number)


def refuse_beside(name: str, what: str, others: Iterable[Any], remedy: str) -> None:
    """Refuse an option that is given beside others, which are None or False where they are not."""
    if any(a is not None and a is not False for a in others):
        raise ValueError(f"{name} must be left out beside {what}: got both; {remedy}")


def refuse_around(name: str, given: Iterable[Any]) -> None:
    """Refuse what stands around a norm beside an option that has no pass for it; given: whichever of the two may be absent."""
    refuse_beside(name, "residual, addend, activation and their gradients", given, "add and activate apart")


class Around(NamedTuple):
    """The arrays around a norm, contiguous and of x's shape and dtype, or None."""

    residual: Any = None  # to be added to x
    kept: Any = None  # where the sum goes
    addend: Any = None  # to be added to the result
    activation: Activation | None = None  # of that


class AroundGradients(NamedTuple):
    """The same of gradients."""

    y: Any = None  # the result, if there was an activation
    kept: Any = None  # where dy goes, as it was before the activation
    residual: Any = None  # to be added to dx
    activation: Activation | None = None
