"""The same names inside `numba.njit`. Until a function is compiled that uses them, all that Numba knows of them is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import overload

from .. import functional, gradients
from ..moments import moments
from ..spec.norms import NORMS
from ..standardize import standardize, standardize_backward, standardize_sums
from .made import made


def forward(norm: str) -> Callable[..., Any]:
    """The overload of a norm."""

    def of_types(*args: Any) -> Any:
        from .forward import implementation  # Numba's compiler and ours, half of the time that an import takes

        return implementation(norm, args)

    return of_types


def backward(norm: str) -> Callable[..., Any]:
    """The overload of its backward function."""

    def of_types(*args: Any) -> Any:
        from .backward import implementation

        return implementation(norm, args)

    return of_types


def measure(*args: Any) -> Any:
    """The overload of `moments`."""
    from .moments import implementation

    return implementation(args)


def scale(name: str) -> Callable[..., Any]:
    """The overload of `standardize`, or of what belongs to it."""

    def of_types(*args: Any) -> Any:
        from .standardize import IMPLEMENTATIONS

        return IMPLEMENTATIONS[name](args)

    return of_types


def register(function: Callable[..., Any], maker: Callable[..., Any]) -> None:
    """Tell Numba of a function; maker: of the types of all arguments in their order, what is to be compiled in its place."""
    from inspect import signature

    names = signature(function).parameters
    shown = ", ".join(n if p.default is p.empty else f"{n}={p.default!r}" for n, p in names.items())
    of_types = made("of_types", f"def of_types({shown}):\n    return maker({', '.join(names)})", {"maker": maker})
    overload(function, strict=False, prefer_literal=True)(of_types)


INSIDE: dict[Callable[..., Any], Callable[..., Any]] = {
    moments: measure,
    **{function: scale(function.__name__) for function in (standardize, standardize_backward, standardize_sums)},
    **{getattr(functional, name): forward(name) for name in NORMS},
    **{getattr(gradients, f"{name}_backward"): backward(name) for name in NORMS},
}
for _function, _maker in INSIDE.items():
    register(_function, _maker)
