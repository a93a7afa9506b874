"""Time of the forward functions: norm x shape x dtype, and method where the statistics are measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .problems import DTYPES, METHODS, SHAPES, TIMER, needs_exact, problem, sampled


class _Norm:
    """Shared by the suites below: one class a norm, for each has shapes of its own."""

    norm = ""
    param_names = ("shape", "dtype")
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 3.0)  # fewer than 10 samples can never be found different from 10 others

    def setup(self, shape: str, dtype: str) -> None:
        self.run, self.number = problem(self.norm, shape, dtype)

    def time_forward(self, shape: str, dtype: str) -> None:
        self.run()


class LayerNorm(_Norm):
    """layer_norm over the last axis, with weight and bias."""

    norm = "layer"
    params = (tuple(SHAPES["layer"]), DTYPES)


class RMSNorm(_Norm):
    """rms_norm over the last axis, with weight."""

    norm = "rms"
    params = (tuple(SHAPES["rms"]), DTYPES)


class BatchNormTraining(_Norm):
    """batch_norm in training, with running statistics."""

    norm = "batch"
    params = (tuple(SHAPES["batch"]), DTYPES)


class BatchNormEval(_Norm):
    """batch_norm with given statistics."""

    norm = "eval"
    params = (tuple(SHAPES["eval"]), DTYPES)


class GroupNorm(_Norm):
    """group_norm with 32 groups."""

    norm = "group"
    params = (tuple(SHAPES["group"]), DTYPES)


class InstanceNorm(_Norm):
    """instance_norm, with weight and bias."""

    norm = "instance"
    params = (tuple(SHAPES["instance"]), DTYPES)


class Method:
    """two_pass against welford, float32."""

    param_names = ("norm and shape", "method")
    params = (("layer 8x16", "layer 8192x1024", "batch 32x64x56x56", "batch 32x56x56x64"), METHODS)
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 3.0)

    def setup(self, what: str, method: str) -> None:
        norm, shape = what.split()
        self.run, self.number = problem(norm, shape, "float32", method=method)

    def time_forward(self, what: str, method: str) -> None:
        self.run()


class Exact:
    """exact=True against the default, float32."""

    param_names = ("norm and shape", "exact")
    params = (("layer 8x16", "layer 8192x1024", "batch 32x64x56x56", "batch 32x56x56x64"), (False, True))
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 3.0)

    def setup(self, what: str, exact: bool) -> None:
        needs_exact()
        norm, shape = what.split()
        self.run, self.number = problem(norm, shape, "float32", exact=exact)

    def time_forward(self, what: str, exact: bool) -> None:
        self.run()


class Copy:
    """What a norm is measured against: NumPy's copy of the same bytes, float32."""

    param_names = ("elements",)
    params = ((128, 393216, 8388608),)
    warmup_time = 0.1
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 3.0)

    def setup(self, elements: int) -> None:
        self.run, self.number = copy_of(elements)

    def time_copy(self, elements: int) -> None:
        self.run()


@functools.lru_cache(maxsize=1)
def copy_of(elements: int) -> tuple[Callable[[], Any], int]:
    x = np.ones(elements, np.float32)
    return sampled(functools.partial(np.copyto, np.zeros_like(x), x))
