"""Cases to measure: norms, shapes, numbers, and which groups of a large array are checked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..spec.dtypes import DTYPES

Array = np.ndarray[Any, np.dtype[Any]]

NORMS = ("layer", "rms", "batch", "eval", "group", "instance")  # batch: training; eval: batch norm with given statistics
# with what stands around them, see `Case.around`; measured where they are asked for by name
FUSED = ("layer+residual", "rms+residual", "batch+relu", "eval+relu")
GROUPS = 32
EPS = 1e-5
CHECKED = 2_000_000  # elements in long double: a second or less
DRAWN = 1 << 24  # numbers; larger arrays repeat them, for each process draws its own

#: elements, rounded -> rows of layer and RMS norm; samples, channels and picture of the others
ROWS = {10**3: (16, 64), 10**4: (13, 768), 10**5: (128, 768), 10**6: (1024, 1024), 10**7: (8192, 1280), 10**8: (24576, 4096)}
PICTURES = {
    10**3: (2, 64, 3, 3),
    10**4: (3, 64, 7, 7),
    10**5: (8, 64, 14, 14),
    10**6: (5, 64, 56, 56),
    10**7: (50, 64, 56, 56),
    10**8: (125, 64, 112, 112),
}


@dataclass(frozen=True)
class Case:
    """One line of a table."""

    norm: str
    shape: tuple[int, ...]  # channels first
    last: bool = False  # the same, stored channels last
    backward: bool = False  # all gradients, from what the forward pass left
    dtype: str = "float32"
    mean: float = 0.0  # of the numbers, whose standard deviation is 1
    around: str = ""  # "residual": norm(x + r), and that sum; "relu": relu(norm(x) + z)

    @property
    def kind(self) -> str:
        return "+".join(filter(None, [self.norm, self.around]))

    @property
    def name(self) -> str:
        words = [f"{self.kind} {self.shape}", "last" * self.last, "backward" * self.backward]
        return " ".join(filter(None, [*words, self.dtype * (self.dtype != "float32")]))

    @property
    def stored(self) -> tuple[int, ...]:
        return (self.shape[0], *self.shape[2:], self.shape[1]) if self.last else self.shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def view(self) -> tuple[int, int, int, int, int]:
        """Stored x as (B, M, G, K, T): a mean for each (b, g), over M, K and T; a weight for each (g, k)."""
        n, c, s = self.shape[0], self.shape[1], math.prod(self.shape[2:])
        if self.norm in ("layer", "rms"):
            return n, 1, 1, c, 1
        groups = GROUPS if self.norm == "group" else c
        inner = (s, groups, c // groups, 1) if self.last else (1, groups, c // groups, s)
        return (1, n * inner[0], *inner[1:]) if self.norm in ("batch", "eval") else (n, *inner)


class Data(NamedTuple):
    """Arrays of a case's dtype."""

    x: Array  # stored shape
    weight: Array  # (C,)
    bias: Array  # (C,)
    mean: Array  # (C,), given to eval
    var: Array  # (C,)
    dy: Array | None  # as x, for gradients
    # as x, for what stands around: what is added; of gradients what comes back through the sum, or the result of ReLU
    other: Array | None = None


def dtype_of(name: str) -> np.dtype[Any]:
    if DTYPES[name].native:
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def data(case: Case) -> Data:
    """The same numbers in every process."""
    rng = np.random.default_rng(0)
    dtype, c = dtype_of(case.dtype), case.shape[1]
    made: Any = np.float64 if case.dtype == "float64" or case.mean else np.float32
    x = rng.standard_normal(min(DRAWN, math.prod(case.shape)), dtype=made)
    if case.mean:
        x += case.mean
    weight, bias, mean = (rng.standard_normal(c).astype(dtype) for _ in range(3))
    x = np.resize(x.astype(dtype, copy=False), case.stored)
    dy = np.ascontiguousarray(x.reshape(-1)[::-1]).reshape(x.shape) if case.backward else None
    var = rng.uniform(0.5, 2.0, c).astype(dtype)
    other = np.roll(x.reshape(-1), c + 1).reshape(x.shape) if case.around else None
    if other is not None and case.backward and case.around == "relu":
        other = np.maximum(other, other.dtype.type(0))
    return Data(x, weight, bias, mean, var, dy, other)


def checked(case: Case) -> tuple[int, Array, bool]:
    """Axis of the view and indices on it that are compared with the truth, and whether sums over samples are whole there."""
    axis = 2 if case.view[2] > 1 else 0
    length = case.view[axis]
    count = min(length, max(1, CHECKED * length // math.prod(case.view)))
    return axis, np.linspace(0, length - 1, count).astype(int), axis == 2 or count == length


def picked(case: Case, results: tuple[Array, ...]) -> list[Array]:
    """Parts of x-shaped and (C,) results to check, as float64: (B, G, K, M * T), then (G, K) for each that is whole."""
    axis, index, whole = checked(case)
    first = results[0].reshape(case.view).take(index, axis=axis).astype(np.float64)
    b, m, g, k, t = first.shape
    parts = [first.transpose(0, 2, 3, 1, 4).reshape(b, g, k, m * t)]
    if whole:
        parameters = [p.reshape(case.view[2:4]) for p in results[1:]]
        parts += [(p.take(index, axis=0) if axis == 2 else p).astype(np.float64) for p in parameters]
    return parts


def chosen(
    norms: tuple[str, ...],
    sizes: tuple[int, ...],
    directions: tuple[str, ...],
    layouts: tuple[str, ...],
    dtypes: tuple[str, ...],
) -> list[Case]:
    """Smallest first within a norm. Rows have no channels, and stand under both layouts."""
    cases = []
    for dtype in dtypes:
        for direction in directions:
            for kind in norms:
                norm, _, around = kind.partition("+")
                rows = norm in ("layer", "rms")
                for layout in ("first",) if rows else layouts:
                    shapes = [(ROWS if rows else PICTURES)[size] for size in sizes]
                    told: dict[str, Any] = {
                        "last": layout == "last",
                        "backward": direction == "backward",
                        "dtype": dtype,
                        "around": around,
                    }
                    cases += [Case(norm, shape, **told) for shape in shapes]
    return cases


def memory_needed(case: Case, contenders: int) -> int:
    """Bytes, about: each holds x, a result and one more array, for gradients dy and what the forward pass kept; and code."""
    return (contenders + 1) * case.nbytes * ((5 if case.backward else 3) + 2 * bool(case.around)) + contenders * (400 << 20)


def memory_free() -> float:
    """Bytes that can be had without swapping; infinity where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            facts = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf
