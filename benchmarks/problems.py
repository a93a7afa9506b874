"""The problems that are timed and tracked: one table for all suites. Only the public functions of numbanorm are used."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import numbanorm as nn

Array = np.ndarray[Any, Any]

#: name -> shape, channel axis; the smallest first, for the test that runs every suite once
SHAPES: dict[str, dict[str, tuple[tuple[int, ...], int]]] = {
    "layer": {"8x16": ((8, 16), -1), "512x768": ((512, 768), -1), "8192x1024": ((8192, 1024), -1)},
    "rms": {"8x16": ((8, 16), -1), "512x768": ((512, 768), -1), "8192x1024": ((8192, 1024), -1)},
    "batch": {
        "8x16": ((8, 16), 1),
        "32x64x56x56": ((32, 64, 56, 56), 1),
        "32x56x56x64": ((32, 56, 56, 64), -1),
        "256x512x7x7": ((256, 512, 7, 7), 1),
        "8x3x224x224": ((8, 3, 224, 224), 1),
    },
    "eval": {"8x16": ((8, 16), 1), "32x64x56x56": ((32, 64, 56, 56), 1), "32x56x56x64": ((32, 56, 56, 64), -1)},
    "group": {"2x32x4x4": ((2, 32, 4, 4), 1), "8x256x64x64": ((8, 256, 64, 64), 1), "8x64x64x256": ((8, 64, 64, 256), -1)},
    "instance": {"2x3x4x4": ((2, 3, 4, 4), 1), "32x64x56x56": ((32, 64, 56, 56), 1), "1x3x600x512": ((1, 3, 600, 512), 1)},
}
DTYPES = ("float32", "float64", "float16", "bfloat16")
METHODS = ("two_pass", "welford")
NUM_GROUPS = 32
SAMPLE, MOST = 2e-3, 200  # seconds, calls
#: what `compare` sets for one thread: the thread's own time, in which other jobs on the machine have no part
TIMER = time.thread_time if os.environ.get("NUMBANORM_BENCH_TIMER") == "thread" else time.perf_counter


def dtype_of(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def run_of(norm: str, x: Array, axis: int, **options: Any) -> Callable[[], Array]:
    """The call that is measured, with parameters, into memory that is already there."""
    c = x.shape[axis]
    w, b, mean, var = (np.full(c, v, np.float32) for v in (1.25, 0.5, 0.0, 1.0))
    options["out"] = np.zeros_like(x)
    calls: dict[str, Callable[[], Array]] = {
        "layer": lambda: nn.layer_norm(x, c, w, b, **options),
        "rms": lambda: nn.rms_norm(x, c, w, **options),
        "batch": lambda: nn.batch_norm(x, mean, var, w, b, training=True, channel_axis=axis, **options),
        "eval": lambda: nn.batch_norm(x, mean, var, w, b, channel_axis=axis, **options),
        "group": lambda: nn.group_norm(x, NUM_GROUPS, w, b, channel_axis=axis, **options),
        "instance": lambda: nn.instance_norm(x, weight=w, bias=b, channel_axis=axis, **options),
    }
    return calls[norm]


def gradients_of(norm: str, x: Array, axis: int, **options: Any) -> Callable[[], Any]:
    """The same for the gradients, from the statistics of the forward call."""
    if not hasattr(nn, "layer_norm_backward"):
        raise NotImplementedError("this version has no backward pass")
    c = x.shape[axis]
    w, mean, var = (np.full(c, v, np.float32) for v in (1.25, 0.0, 1.0))
    dy, options = np.ascontiguousarray(x[::-1]), {"out": np.zeros_like(x), **options}
    if norm in ("layer", "rms"):
        forward, backward = {"layer": (nn.layer_norm, nn.layer_norm_backward), "rms": (nn.rms_norm, nn.rms_norm_backward)}[norm]
        stats = forward(x, c, w, return_stats=True)[1]
        return lambda: backward(dy, x, c, stats, w, **options)
    if norm == "group":
        stats = nn.group_norm(x, NUM_GROUPS, w, channel_axis=axis, return_stats=True)[1]
        return lambda: nn.group_norm_backward(dy, x, NUM_GROUPS, stats, w, channel_axis=axis, **options)
    if norm == "instance":
        stats = nn.instance_norm(x, weight=w, channel_axis=axis, return_stats=True)[1]
        return lambda: nn.instance_norm_backward(dy, x, stats, w, channel_axis=axis, **options)
    own = norm == "batch"
    stats = nn.batch_norm(x, mean, var, w, training=own, channel_axis=axis, return_stats=True)[1]
    return lambda: nn.batch_norm_backward(dy, x, stats, w, training=own, channel_axis=axis, **options)


def needs_exact() -> None:
    """Skips a version that has one mode only."""
    if "exact" not in inspect.signature(nn.layer_norm).parameters:
        raise NotImplementedError("this version has one mode")


@functools.lru_cache(maxsize=1)
def problem(norm: str, shape: str, dtype: str, backward: bool = False, **options: Any) -> tuple[Callable[[], Any], int]:
    """A warm call and how many make a sample. A shape that the norm does not have is skipped by asv."""
    if shape not in SHAPES[norm]:
        raise NotImplementedError(f"{norm} has no {shape}")
    size, axis = SHAPES[norm][shape]
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32).astype(dtype_of(dtype))
    return sampled((gradients_of if backward else run_of)(norm, x, axis, **options))


def sampled(run: Callable[[], Any]) -> tuple[Callable[[], Any], int]:
    """The call, compiled and its memory touched, and how many of it take 2 ms.

    asv repeats `setup` before every call and, left to itself, times single calls: so suites set `number`, and what `setup`
    makes is kept.
    """
    run()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return run, max(1, min(MOST, round(SAMPLE / min(seconds))))


def alone() -> None:
    """Skips what is never split where it was measured in one thread already."""
    if os.environ.get("NUMBA_NUM_THREADS", "1") != "1":
        raise NotImplementedError("small calls take one thread")


def ulp_error(x: Array, y: Array) -> float:
    """Largest distance of rows y from layer norm of x (eps 0) in long double, in ulp of y's dtype at max(|y|, 1)."""
    wide, result = (a.astype(np.float32).astype(np.longdouble) if a.dtype.name == "bfloat16" else a.astype(np.longdouble)
                    for a in (x, y))  # fmt: skip
    high = (wide.sum(1, keepdims=True) / x.shape[1]).astype(np.float64)
    d = wide - high
    d -= d.sum(1, keepdims=True) / x.shape[1]  # what the rounded mean left
    truth = d / np.sqrt((d * d).sum(1, keepdims=True) / x.shape[1])
    digits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[x.dtype.name]
    exponent = np.frexp(np.maximum(np.abs(result), 1))[1]
    return float(np.max(np.abs(result - truth) / np.ldexp(np.longdouble(1), exponent - digits)))
