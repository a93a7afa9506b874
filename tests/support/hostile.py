"""Numbers on which the usual float32 evaluation fails, and every norm over as many of them as are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
from cases import Case
from numpy.typing import NDArray

Array = NDArray[Any]

# offset at std 1, smallest scale, largest scale, outlier, ends of a uniform set. float64: as far as a long double can tell,
# and the variance is in range (test_extreme goes on)
NUMBERS = {
    "float32": (1e8, 1e-30, 1e30, 1e8, 3e38),
    "bfloat16": (1e8, 1e-30, 1e30, 1e8, 3e38),
    "float16": (6e4, 1e-4, 1e3, 6e4, 6.5e4),
    "float64": (9e5, 1e-150, 1e150, 1e8, 1e150),
}

KINDS = ["offset", "large_offset", "small", "large", "lognormal", "outlier", "cancelling", "widest", "denormal"]


def hostile(kind: str, dtype: np.dtype[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A set of numbers of one kind, finite in `dtype`."""
    offset, small, large, outlier, widest = NUMBERS[dtype.name]
    digits, lowest = oracle.FORMATS[dtype.name]
    x = rng.standard_normal(shape)
    if kind == "offset":
        x += 100
    elif kind == "large_offset":
        x += offset
    elif kind in ("small", "large"):
        x *= small if kind == "small" else large
    elif kind == "lognormal":
        x = np.minimum(np.exp(2 * x), 6e4)
    elif kind == "outlier":
        x.flat[x.size // 2] = outlier
    elif kind == "cancelling":
        x = np.resize([outlier, 1.0, -outlier, 1.0], shape)
    elif kind == "widest":
        x = rng.uniform(-widest, widest, shape)
    else:
        x = rng.integers(1, 2 ** (digits - 1), shape) * 2.0 ** (lowest - digits + 1)
    return x.astype(dtype)


def groups_of(n: int) -> Iterator[Case]:
    """Every norm with groups of n elements, in both kernel families."""
    yield Case("layer", (3, n))
    yield Case("rms", (3, n))
    if n == 1:  # no variance for the others: an error
        return
    yield Case("instance", (2, 3, n))
    yield Case("instance", (2, n, 3), channel_axis=-1)
    yield Case("batch", (n, 3))
    if n % 2 == 0:
        yield Case("batch", (2, 3, n // 2))
        yield Case("group", (2, 6, n // 2), groups=3)
        yield Case("group", (1, n // 2, 6), groups=3, channel_axis=-1)


def members(case: Case) -> Array:
    """Mask of the elements that share the second statistic of the last sample."""
    mask = np.zeros(case.shape, bool)
    if case.rows:
        mask[1] = True
        return mask
    per_group = case.shape[case.channel_axis] // case.groups if case.norm == "group" else 1
    channels = np.moveaxis(mask, case.channel_axis, 0)[per_group : 2 * per_group]
    if case.norm == "batch":
        channels[...] = True
    else:
        channels[:, -1] = True
    return mask


def numbers(kind: str, dtype: np.dtype[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """`hostile`, but for float64, which has nothing finer below its range: products with denormals lose their digits."""
    return hostile("small" if kind == "denormal" and dtype == np.float64 else kind, dtype, rng, shape)
