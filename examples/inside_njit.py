"""Norms inside compiled functions: z-scores of ragged segments, and a small network that is trained in one function.

Both are also computed by calls from Python and timed. Where the operations are the same, so are the results, to the bit.

    python examples/inside_njit.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np

import numbanorm as nb

Array = np.ndarray[Any, Any]


@numba.njit
def outliers(values: Array, starts: Array, limit: float) -> Array:
    """Mark values that are more than `limit` standard deviations from the mean of their segment.

    values: (n,); starts: where each segment begins, and the end of the last one.
    """
    marks = np.zeros(len(values), np.bool_)
    for k in range(len(starts) - 1):
        segment = values[starts[k] : starts[k + 1]]
        scores = nb.layer_norm(segment, len(segment), eps=1e-12)
        for i in range(len(segment)):
            marks[starts[k] + i] = abs(scores[i]) > limit
    return marks


def outliers_by_numpy(values: Array, starts: Array, limit: float) -> Array:
    """The same, each segment a call."""
    marks = np.zeros(len(values), bool)
    for start, end in pairwise(starts):
        marks[start:end] = np.abs(nb.layer_norm(values[start:end], int(end - start), eps=1e-12)) > limit
    return marks


def trained(x: Array, y: Array, first: Array, second: Array, batch: int, epochs: int, rate: float) -> float:
    """Train linear -> layer norm -> relu -> linear by stochastic gradient descent, in place; the loss of the last epoch.

    x: (n, d); y: (n,); first: (d, hidden); second: (hidden,). Numba compiles it as it stands.
    """
    weight, bias, loss = np.ones_like(second), np.zeros_like(second), 0.0
    for _ in range(epochs):
        loss = 0.0
        for start in range(0, len(x) - batch + 1, batch):
            inputs = x[start : start + batch]
            hidden = np.dot(inputs, first)
            normed, stats = nb.layer_norm(hidden, hidden.shape[1], weight, bias, return_stats=True)
            active = np.maximum(normed, np.float32(0.0))
            error = np.dot(active, second) - y[start : start + batch]
            loss += float((error * error).sum())
            upstream = error.reshape(batch, 1) * second.reshape(1, len(second)) * (normed > 0)
            d_hidden, d_weight, d_bias = nb.layer_norm_backward(
                upstream.astype(np.float32), hidden, hidden.shape[1], stats, weight
            )
            step = np.float32(rate / batch)
            second -= step * np.dot(active.T, error)
            weight -= step * d_weight
            bias -= step * d_bias
            first -= step * np.dot(inputs.T, d_hidden)
    return loss / len(x)


def seconds(function: Callable[..., Any], *args: Any) -> float:
    """The least of three times; arrays are copied, for some functions change them."""
    times = []
    for _ in range(3):
        own = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        start = time.perf_counter()
        function(*own)
        times.append(time.perf_counter() - start)
    return min(times)


def main(small: bool) -> None:
    """Compute both ways, compare and time."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 200, 200 if small else 20000)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.standard_normal(starts[-1], np.float32)
    marks = outliers(values, starts, 3.0)
    assert (marks == outliers_by_numpy(values, starts, 3.0)).all()
    ratio = seconds(outliers_by_numpy, values, starts, 3.0) / seconds(outliers, values, starts, 3.0)
    print(f"{marks.sum()} outliers in {len(lengths)} segments; in one compiled function {ratio:.1f} times as fast")

    x = rng.standard_normal((320 if small else 3200, 10), np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2]
    first, second = (rng.normal(0.0, 0.3, shape).astype(np.float32) for shape in ((10, 16), 16))
    parts = x, y, first, second
    compiled = numba.njit(trained)
    before, after = (compiled(*(a.copy() for a in parts), 16, epochs, 0.05) for epochs in (1, 20))
    assert after < before
    ratio = seconds(trained, *parts, 16, 3, 0.05) / seconds(compiled, *parts, 16, 3, 0.05)
    print(f"loss {before:.3f} after one epoch, {after:.3f} after twenty; in one compiled function {ratio:.1f} times as fast")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="less data")
    main(parser.parse_args().small)
