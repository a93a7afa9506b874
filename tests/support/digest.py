"""A hash of what the norms and their gradients give, for each number of threads asked for, and for the types that are named.
Run as a program, under an environment that decides what it runs on: `test_reproducible` compares what it prints.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cases
import numba
import numpy as np
from cases import DTYPES, METHODS, Case, call, call_backward
from numba.core.registry import cpu_target

import numbanorm

# beyond the table: enough elements to be dealt to many threads, in few groups and in many
SHARED = [
    Case("layer", (40, 1111)),
    Case("layer", (1, 90001)),
    Case("rms", (40, 1111)),
    Case("rms", (1, 90001)),
    Case("batch", (1031, 67)),
    Case("batch", (20011, 5)),
    Case("batch", (5, 3, 65, 67)),
    Case("batch", (40, 33, 7, 7)),
    Case("batch", (5, 3, 65, 67), training=False),
    Case("instance", (1, 3, 200, 201)),
    Case("instance", (3, 5000, 7), channel_axis=-1),
    Case("group", (3, 6, 90, 91), groups=2),
    Case("group", (2, 3000, 12), groups=3, channel_axis=-1),
]
OFTEN = 7  # one in so many cases of the table is taken


def results(dtype: np.dtype[Any]) -> Iterator[tuple[str, bytes]]:
    """Each case's name, and the bits of exact y, of its statistics and of the exact gradients."""
    for case in (*SHARED, *cases.TABLE[::OFTEN]):
        a = cases.arguments(case, dtype)
        # 1e4 times the spread: sums whose order shows
        a = replace(a, x=(a.x.astype(np.float64) + 1e4).astype(dtype))
        for method in METHODS:
            y, stats = call(case, a, method=method, exact=True, return_stats=True)
            mean = b"" if stats.mean is None else stats.mean.tobytes()
            yield f"{case.name}-{dtype.name}-{method}", y.tobytes() + mean + stats.rstd.tobytes()
        found = call_backward(case, a, cases.upstream(case, dtype), stats, exact=True)
        yield f"{case.name}-{dtype.name}-backward", b"".join(g.tobytes() for g in found)
    for axis in (None, 0, 1, (0, 2)):
        for method in METHODS:
            x = np.random.default_rng(3).normal(1e4, 1, (31, 40, 55)).astype(dtype)
            m = numbanorm.moments(x, axis, method=method)
            yield f"moments-{axis}-{dtype.name}-{method}", np.asarray(m.mean).tobytes() + np.asarray(m.m2).tobytes()


def results_by_default(dtype: np.dtype[Any]) -> Iterator[tuple[str, bytes]]:
    """The same of calls that ask for no method and not for exact ones: near 0, and 1e4 times the spread away from it."""
    for case in (*SHARED, *cases.TABLE[::OFTEN]):
        for offset in (0, 1e4):
            a = cases.arguments(case, dtype)
            a = replace(a, x=(a.x.astype(np.float64) + offset).astype(dtype))
            y, stats = call(case, a, return_stats=True)
            found = y, *stats, *call_backward(case, a, cases.upstream(case, dtype), stats)
            yield f"{case.name}-{dtype.name}-{offset}", b"".join(v.tobytes() for v in found if v is not None)


def digest(types: list[str]) -> dict[str, str]:
    """One hash for each type and mode, so that a difference says where it is; of all types if none is named."""
    found = {}
    for dtype in DTYPES:
        if types and dtype.name not in types:
            continue
        for name, made in ((dtype.name, results), (f"{dtype.name}, by default", results_by_default)):
            total = hashlib.sha256()
            for case, bits in made(dtype):
                total.update(case.encode() + bits)
            found[name] = total.hexdigest()
    return found


def main(threads: list[int], types: list[str]) -> dict[str, Any]:
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    hashes = {}
    for n in threads:
        numba.set_num_threads(n)
        hashes[str(n)] = digest(types)
    return {"cpu": cpu, "features": features, "hashes": hashes}


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if not name.isdecimal()]
    print(json.dumps(main([int(n) for n in sys.argv[1:] if n not in names], names)))
