"""Schedules, made once for calls that are alike: forward, backward, and of running statistics."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ...spec.call import Call
from .. import running
from ..arrays.described import name_of
from .backward import backward
from .forward import forward
from .steps import Schedule

# arrays of a forward and of a backward call
FORWARD, BACKWARD = ("x", "y", "w", "b", "mean", "var"), ("x", "dy", "dx", "w", "mean", "rstd", "grads")


@lru_cache(maxsize=4096)
def scheduled(call: Call, dtypes: tuple[Any, ...], aligned: bool) -> Schedule:
    """Cached schedule for arrays of these dtypes; keyed by dtype, since dtype names cost 2 us."""
    names = BACKWARD if call.backward else FORWARD
    types = {n: None if d is None else name_of(d) for n, d in zip(names, dtypes, strict=True)}
    return (backward if call.backward else forward)(Schedule(types, aligned, call.exact, call.method == "one_read"), call)


@lru_cache(maxsize=1024)
def tracking(types: tuple[tuple[str, str | None], ...], samples: int, channels: int, averaging: bool) -> Schedule:
    """Running statistics from a batch's. Arrays: stats (4, samples * channels), mean, var, counter; numbers: n, old, new."""
    s = Schedule(dict(types))
    flags = (s.types["mean"] is not None, s.types["var"] is not None, averaging)
    if any(flags[:2]):
        arrays = {name: name for name in ("stats", "mean", "var", "counter")}
        s.add_each(
            running.update, flags, channels, **arrays, units=samples * channels, channels=channels, n="n", old="old", new="new"
        )
    if s.types["counter"] is not None:
        s.add(running.count, (), 1, 32, counter="counter")
    return s
