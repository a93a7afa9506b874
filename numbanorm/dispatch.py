"""Which backend computes: the one where the arrays live. No fallback, no global state.

A backend is a module with `normalize`, `measure` and `explain` over a plan and contiguous arrays. Adding one touches its
module and one line here.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

BACKENDS = ("cpu",)


class Explained(Exception):
    """Carries what a call would have run, in place of running it."""


class Explaining:
    """A `backend` argument that asks which backend it would be, and stops the call before anything is computed."""

    def __init__(self, backend: str | None) -> None:
        self.backend = backend

    def normalize(self, plan: Any, x: Any, y: Any, weight: Any, bias: Any, eps: float, **how: Any) -> Any:
        affine = weight is not None or bias is not None
        center, given, one_read = how.get("center", True), how.get("given") is not None, how.get("one_read", False)
        module = select(self.backend)
        raise Explained(module.explain(plan, x, center=center, given=given, one_read=one_read, affine=affine))


def select(backend: Any) -> ModuleType | Any:
    """The module that computes."""
    if backend is None or backend == "cpu":
        from . import cpu

        return cpu
    if isinstance(backend, Explaining):
        return backend
    if backend == "cuda":
        raise ValueError("backend must be 'cpu' or None: this version has no CUDA backend; leave backend out")
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))} or None: got {backend!r}; leave it out")
