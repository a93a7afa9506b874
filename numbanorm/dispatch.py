"""Which backend computes: the one where the arrays live. No fallback, no global state.

A backend is a module with `normalize`, `measure` and `explain` over a plan and contiguous arrays. Adding one touches its
module and one line here.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NoReturn

BACKENDS = ("cpu",)


class Explained(Exception):
    """Carries what a call would have run, in place of running it."""


class Explaining:
    """A `backend` argument that asks which backend it would be, and stops the call before anything is computed."""

    def __init__(self, backend: str | None) -> None:
        self.backend = backend

    def tell(self, plan: Any, x: Any, center: bool, given: bool, one_read: bool, affine: bool) -> NoReturn:
        if plan.size == 0:
            raise Explained("nothing: x is empty")
        raise Explained(select(self.backend).explain(plan, x, center, given, one_read, affine))

    def tell_backward(self, plan: Any, x: Any, center: bool, given: bool, needs: tuple[bool, ...]) -> NoReturn:
        if plan.size == 0:
            raise Explained("nothing: x is empty")
        raise Explained(select(self.backend).explain_backward(plan, x, center, given, needs))

    def measure(self, plan: Any, x: Any, one_read: bool) -> NoReturn:
        raise TypeError("explain wants one of the norms: got moments; write explain(layer_norm, x, 768)")


@cache
def cpu_backend() -> ModuleType:
    """Imported at the first call: Numba's compiler is half of the import time."""
    from . import cpu

    return cpu


def select(backend: Any) -> ModuleType | Any:
    """The module that computes."""
    if backend is None or backend == "cpu":
        return cpu_backend()
    if isinstance(backend, Explaining):
        return backend
    if backend == "cuda":
        raise ValueError("backend must be 'cpu' or None: this version has no CUDA backend; leave backend out")
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))} or None: got {backend!r}; leave it out")
