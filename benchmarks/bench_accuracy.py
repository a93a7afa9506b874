"""Largest error on data that is hard: in ulp of the result's type, 0.5 being the true value rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import numbanorm as nn

from .problems import METHODS, dtype_of, needs_exact, ulp_error

Array = np.ndarray[Any, Any]
ROWS, LENGTH = 64, 1000

HARD: dict[str, Callable[[Array], Array]] = {
    "normal": lambda z: z,
    "mean 1e4, std 0.01": lambda z: 1e4 + 0.01 * z,
    "mean 1e6, std 1": lambda z: 1e6 + z,
    "scale 1e-30": lambda z: 1e-30 * z,
    "lognormal": np.exp,
}


class LayerNormError:
    """layer_norm of rows of 1000 elements."""

    param_names = ("data", "dtype", "method")
    params = (tuple(HARD), ("float32", "float64", "float16", "bfloat16"), METHODS)
    unit = "ulp"

    def setup(self, data: str, dtype: str, method: str) -> None:
        if dtype == "float16" and data not in ("normal", "lognormal"):
            raise NotImplementedError("out of float16's range or resolution")
        self.x = HARD[data](np.random.default_rng(0).standard_normal((ROWS, LENGTH))).astype(dtype_of(dtype))

    def track_largest_error(self, data: str, dtype: str, method: str) -> float:
        x = self.x
        return ulp_error(x, nn.layer_norm(x, LENGTH, eps=0.0, method=method))


class LayerNormExactError(LayerNormError):
    """The same with exact=True: half an ulp, and the last bits of float64 that it is computed in."""

    def setup(self, data: str, dtype: str, method: str) -> None:
        needs_exact()
        super().setup(data, dtype, method)

    def track_largest_error(self, data: str, dtype: str, method: str) -> float:
        return ulp_error(self.x, nn.layer_norm(self.x, LENGTH, eps=0.0, method=method, exact=True))


class ThreadsError:
    """Bits that differ between one thread and all of them: 0 is promised."""

    param_names = ("dtype",)
    params = (("float32", "float64"),)
    unit = "bytes"

    def track_different_bytes(self, dtype: str) -> int:
        import numba

        x = np.random.default_rng(0).standard_normal((4, 3, 300, 301)).astype(dtype)
        most = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            alone = nn.batch_norm(x, training=True).tobytes()
        finally:
            numba.set_num_threads(most)
        together = nn.batch_norm(x, training=True).tobytes()
        return sum(a != b for a, b in zip(alone, together, strict=True)) if alone != together else 0
