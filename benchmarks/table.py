"""A table of 100,000 rows and 100 columns, each column to mean 0 and deviation 1: numbanorm beside scikit-learn and SciPy.

    python benchmarks/table.py            # needs scikit-learn and scipy

All contenders are called in turn, in one process; what is printed is the median of each and its ratio to the first one's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import numbanorm as nb

Array = np.ndarray[Any, Any]


def numbanorm(x: Array) -> Array:
    """Moments of each column, and the table by them."""
    return nb.moments(x, 0).transform(x)


def contenders() -> dict[str, Callable[[Array], Array]]:
    """What standardizes a table, by name."""
    from scipy.stats import zscore
    from sklearn.preprocessing import StandardScaler

    return {
        "numbanorm moments, transform": numbanorm,
        "numbanorm batch_norm": lambda x: nb.batch_norm(x, training=True, eps=0.0),  # type: ignore[no-any-return]
        "sklearn StandardScaler": lambda x: StandardScaler().fit_transform(x),
        "scipy zscore": lambda x: zscore(x, axis=0),
    }


def measured(rows: int, columns: int, dtype: str, rounds: int) -> dict[str, float]:
    """Median seconds of each contender."""
    x = np.random.default_rng(0).normal(50, 10, (rows, columns)).astype(dtype)
    found: dict[str, list[float]] = {}
    for k in range(rounds + 1):
        for name, f in contenders().items():
            start = time.perf_counter()
            f(x)
            if k:  # the first round compiles
                found.setdefault(name, []).append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    a = parser.parse_args()
    for dtype in ("float32", "float64"):
        medians = measured(a.rows, a.columns, dtype, a.rounds)
        first = next(iter(medians.values()))
        for name, seconds in medians.items():
            print(f"{dtype}  {name:30} {1e3 * seconds:8.2f} ms  {seconds / first:6.2f}")


if __name__ == "__main__":
    main()
