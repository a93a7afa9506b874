"""Functions of users, compiled: each calls one of the package's, with what a case has."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from typing import Any

import cases
import numba
import numpy as np
from cases import Arguments, Case

import numbanorm

Array = cases.Array


@lru_cache(maxsize=512)
def compiled(line: str) -> Any:
    """A function that returns what a line says of these arguments."""
    space: dict[str, Any] = {"nb": numbanorm, "np": np}
    exec(f"def user(dy, x, size, stats, weight, bias, mean, var, out):\n    return {line}", space)
    return numba.njit(space["user"])


def options(case: Case) -> str:
    """Arguments of a case that both functions take, written out."""
    own = case.its.own
    parts = [f"{case.its.sized}=size"] * bool(case.its.sized) + [f"channel_axis={case.channel_axis}"] * case.its.channels
    return ", ".join(parts + [f"{own}={case.training}"] * bool(own))


def size_of(case: Case) -> Any:
    return (case.parameter_shape if case.dims > 1 else case.shape[-1]) if case.rows else case.groups


def norm(case: Case, a: Arguments, more: str = "", out: Array | None = None) -> Any:
    """What the norm gives, called from a compiled function; more: other arguments, written out."""
    arrays = ", weight=weight" + (", bias=bias" if case.its.center else "")
    arrays += ", running_mean=mean, running_var=var" if case.its.own else ""
    user = compiled(f"nb.{case.norm}_norm(x, {options(case)}{arrays}{more})")
    return user(None, a.x, size_of(case), None, a.weight, a.bias, a.running_mean, a.running_var, out)


def gradients(case: Case, a: Arguments, dy: Array, stats: Any, more: str = "", out: Array | None = None) -> Any:
    """What the backward function gives, likewise."""
    user = compiled(f"nb.{case.norm}_norm_backward(dy, x, stats=stats, weight=weight, {options(case)}{more})")
    return user(dy, a.x, size_of(case), tuple(stats), a.weight, None, None, None, out)


def installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def flat(result: Any) -> list[Any]:
    """All arrays of a result, None among them."""
    if result is None or isinstance(result, np.ndarray):
        return [result]
    return [a for part in result for a in flat(part)]


def same(got: Any, expected: Any) -> bool:
    """Whether two results have the same arrays, to the bit."""

    def told(a: Any) -> Any:
        return None if a is None else (a.dtype, a.shape, a.tobytes())

    return [told(a) for a in flat(got)] == [told(a) for a in flat(expected)]
