"""One table of calls for `numbanorm.interop.torch`, and what it takes to make one: of torch's functions, of their drop-ins,
and of the functions for arrays. Whoever imports this is skipped where torch is not installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from numbanorm import gradients

torch: Any = pytest.importorskip("torch", reason="torch is not installed: its layers are what is replaced here")
ours: Any = importlib.import_module("numbanorm.interop.torch")
theirs: Any = torch.nn.functional

Array = NDArray[Any]

DTYPES = {dtype.name: dtype for dtype in cases.DTYPES}
every_dtype = pytest.mark.parametrize("dtype", list(DTYPES))
# torch adds float32 in float32, and float64 in float64 with roundings of its own: some units at sums of some tens
CLOSE: dict[str, Any] = {"float32": {"rtol": 1e-4, "atol": 1e-4}, "float64": {"rtol": 1e-12, "atol": 1e-12}}
EPS = 1e-3
SHAPE = (4, 6, 3, 5)


@dataclass(frozen=True)
class Norm:
    """One call: `forward` of numbanorm, torch.nn.functional or interop, on arrays or tensors; `backward` on arrays."""

    forward: Callable[..., Any]  # of the namespace, x, weight, bias, running mean and variance
    backward: Callable[..., Any]  # of dy, x, stats, weight
    parameters: tuple[int, int] = (1, 2)  # from and to which axis of x, their shape
    bias: bool = True


CHANNELS: dict[str, Norm] = {
    "group": Norm(
        lambda f, x, w, b, m, v, **o: f.group_norm(x, 3, w, b, EPS, **o),
        lambda dy, x, s, w, **o: gradients.group_norm_backward(dy, x, 3, s, w, **o),
    ),
    "instance": Norm(
        lambda f, x, w, b, m, v, **o: f.instance_norm(x, m, v, w, b, True, 0.3, EPS, **o),
        lambda dy, x, s, w, **o: gradients.instance_norm_backward(dy, x, s, w, **o),
    ),
    "instance-given": Norm(
        lambda f, x, w, b, m, v, **o: f.instance_norm(x, m, v, w, b, False, 0.3, EPS, **o),
        lambda dy, x, s, w, **o: gradients.instance_norm_backward(dy, x, s, w, use_input_stats=False, **o),
    ),
    "batch": Norm(
        lambda f, x, w, b, m, v, **o: f.batch_norm(x, m, v, w, b, True, 0.3, EPS, **o),
        lambda dy, x, s, w, **o: gradients.batch_norm_backward(dy, x, s, w, **o),
    ),
    "batch-given": Norm(
        lambda f, x, w, b, m, v, **o: f.batch_norm(x, m, v, w, b, False, 0.3, EPS, **o),
        lambda dy, x, s, w, **o: gradients.batch_norm_backward(dy, x, s, w, training=False, **o),
    ),
}
NORMS: dict[str, Norm] = {
    "layer": Norm(
        lambda f, x, w, b, m, v, **o: f.layer_norm(x, w.shape, w, b, EPS, **o),
        lambda dy, x, s, w: gradients.layer_norm_backward(dy, x, w.shape, s, w),
        (2, 4),
    ),
    "rms": Norm(
        lambda f, x, w, b, m, v, **o: f.rms_norm(x, w.shape, w, EPS, **o),
        lambda dy, x, s, w: (*gradients.rms_norm_backward(dy, x, w.shape, s, w), None),
        (3, 4),
        bias=False,
    ),
    **CHANNELS,
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=list(NORMS))


def tensor(a: Array) -> Any:
    """A copy."""
    return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16) if a.dtype == ml_dtypes.bfloat16 else torch.tensor(a)


def array(t: Any) -> Array:
    t = t.detach()
    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else np.asarray(t.numpy())


def same(a: Any, b: Any) -> bool:
    """Same shape, dtype and bits (of arrays, or of tensors)."""
    a, b = (x if isinstance(x, np.ndarray) else array(x) for x in (a, b))
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def arguments(norm: Norm, dtype: str, rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> tuple[Array, list[Array]]:
    """dy; x, weight, bias, running mean and variance: the parameters of half types are float32, as they usually are."""
    kind = cases.FLOAT32 if DTYPES[dtype].itemsize == 2 else DTYPES[dtype]
    dy, x = rng.normal(size=shape).astype(DTYPES[dtype]), rng.normal(1.5, 2.0, shape).astype(DTYPES[dtype])
    p = shape[slice(*norm.parameters)]
    draws = rng.uniform(0.5, 2, p), rng.normal(size=p), rng.normal(size=p), rng.uniform(0.5, 2, p)
    return dy, [x, *(a.astype(kind) for a in draws)]


def run(norm: Norm, f: Any, dy: Any, tensors: list[Any]) -> list[Any]:
    """y, dx, dweight, dbias, and the running statistics; the tensors are left as they are."""
    copies = [t.detach().clone() for t in tensors]
    leaves = [t.requires_grad_() for t in copies[: 3 if norm.bias else 2]]
    y = norm.forward(f, *copies)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy), *copies[3:]]
