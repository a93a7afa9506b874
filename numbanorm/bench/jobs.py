"""Contenders, and the jobs they make of a case, which can be timed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .cases import Array, Case, Data

COPY, STREAMED, OURS, FRESH, EXACT = "copy", "copy, non-temporal", "numbanorm", "numbanorm, new array", "numbanorm, exact"
APART = "numbanorm, calls apart"


class UnsupportedError(Exception):
    """The contender has nothing for a case; the message says why."""


class Job(NamedTuple):
    """A case made ready: `run` is what is timed, `fetch` makes NumPy arrays in stored shape of what it returns."""

    run: Callable[[], Any]
    fetch: Callable[[Any], tuple[Array, ...]] = lambda _: ()


@dataclass(frozen=True)
class Contender:
    """Called in a process of its own; `make` gets the case, its data and the number of threads."""

    name: str
    make: Callable[[Case, Data, int], Job]
    modules: tuple[str, ...] = ()
    peer: bool = True
    plain: bool = False  # no weight, bias and eps: less work, so never counted as the best peer
    into: bool = False  # writes into memory that is there
    note: str = ""

    def missing(self) -> str:
        """Sentence on what is not installed, and how to get it; "" where nothing is missing."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if not absent:
            return ""
        return f"{self.name} is left out: {', '.join(absent)} is not installed; pip install 'numbanorm[bench]' brings it"
