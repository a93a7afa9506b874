"""What a call costs that has next to nothing to compute: arrays of (8, 16), in one thread."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import numbanorm as nn

from .problems import TIMER, alone, gradients_of, sampled

KINDS = ("layer", "layer plain", "layer out", "layer stats", "rms", "group", "instance", "batch training", "batch eval")


class Calls:
    """Forward, as most programs call: a new array each time, weight and bias, running statistics for batch norm."""

    param_names = ("call",)
    params = (KINDS,)
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 2.0)

    def setup(self, call: str) -> None:
        alone()
        self.run, self.number = forward_of(call)

    def time_call(self, call: str) -> None:
        self.run()


class GradientCalls:
    """Backward, all gradients."""

    param_names = ("norm",)
    params = (("layer", "rms", "group", "batch", "eval"),)
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 2.0)

    def setup(self, norm: str) -> None:
        alone()
        self.run, self.number = backward_of(norm)

    def time_call(self, norm: str) -> None:
        self.run()


@functools.lru_cache(maxsize=1)
def forward_of(call: str) -> tuple[Callable[[], Any], int]:
    x = np.random.default_rng(0).standard_normal((8, 16), dtype=np.float32)
    w, b, mean, var = (np.full(16, v, np.float32) for v in (1.25, 0.5, 0.0, 1.0))
    out, picture = np.empty_like(x), x.reshape(2, 4, 16)
    calls: dict[str, Callable[[], Any]] = {
        "layer": lambda: nn.layer_norm(x, 16, w, b),
        "layer plain": lambda: nn.layer_norm(x, 16),
        "layer out": lambda: nn.layer_norm(x, 16, w, b, out=out),
        "layer stats": lambda: nn.layer_norm(x, 16, w, b, return_stats=True),
        "rms": lambda: nn.rms_norm(x, 16, w),
        "group": lambda: nn.group_norm(x, 4, w, b),
        "instance": lambda: nn.instance_norm(picture),
        "batch training": lambda: nn.batch_norm(x, mean, var, w, b, training=True),
        "batch eval": lambda: nn.batch_norm(x, mean, var, w, b),
    }
    return sampled(calls[call])


@functools.lru_cache(maxsize=1)
def backward_of(norm: str) -> tuple[Callable[[], Any], int]:
    x = np.random.default_rng(0).standard_normal((8, 32), dtype=np.float32)
    return sampled(gradients_of(norm, x, -1 if norm in ("layer", "rms") else 1))
