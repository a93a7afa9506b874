"""Who computes: numbanorm, the NumPy expression and the copies; and the list of all, with the peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .cases import EPS, GROUPS, Array, Case, Data

COPY, STREAMED, OURS, FRESH = "copy", "copy, non-temporal", "numbanorm", "numbanorm, new array"


class UnsupportedError(Exception):
    """The contender has nothing for a case; the message says why."""


class Job(NamedTuple):
    """A case made ready: `run` is what is timed, `fetch` makes NumPy arrays in stored shape of what it returns."""

    run: Callable[[], Any]
    fetch: Callable[[Any], tuple[Array, ...]] = lambda _: ()


@dataclass(frozen=True)
class Contender:
    """Called in a process of its own; `make` gets the case, its data and the number of threads."""

    name: str
    make: Callable[[Case, Data, int], Job]
    modules: tuple[str, ...] = ()
    peer: bool = True
    plain: bool = False  # no weight, bias and eps: less work, so never counted as the best peer
    into: bool = False  # writes into memory that is there
    note: str = ""

    def missing(self) -> str:
        """What is not installed, and how to get it; "" where nothing is missing."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if not absent:
            return ""
        return f"{self.name} is left out: {', '.join(absent)} is not installed; pip install 'numbanorm[bench]' brings it"


def numbanorm_job(case: Case, a: Data, threads: int, into: bool = True) -> Job:
    """Results in `out`, which is there already, or in new arrays."""
    import numbanorm as nn

    axis, c, norm = -1 if case.last else 1, a.x.shape[-1], case.norm
    given: dict[str, Any] = {"channel_axis": axis}
    forward: dict[str, Callable[..., Any]] = {
        "layer": lambda **o: nn.layer_norm(a.x, c, a.weight, a.bias, EPS, **o),
        "rms": lambda **o: nn.rms_norm(a.x, c, a.weight, EPS, **o),
        "batch": lambda **o: nn.batch_norm(a.x, a.mean, a.var, a.weight, a.bias, training=True, eps=EPS, **given, **o),
        "eval": lambda **o: nn.batch_norm(a.x, a.mean, a.var, a.weight, a.bias, eps=EPS, **given, **o),
        "group": lambda **o: nn.group_norm(a.x, GROUPS, a.weight, a.bias, EPS, **given, **o),
        "instance": lambda **o: nn.instance_norm(a.x, None, None, a.weight, a.bias, eps=EPS, **given, **o),
    }
    options: dict[str, Any] = {"out": np.zeros_like(a.x)} if into else {}
    if not case.backward:
        return Job(lambda: forward[norm](**options), lambda y: (y,))
    stats, dy = forward[norm](return_stats=True)[1], a.dy
    assert dy is not None
    gradients: dict[str, Callable[..., Any]] = {
        "layer": lambda: nn.layer_norm_backward(dy, a.x, c, stats, a.weight, **options),
        "rms": lambda: nn.rms_norm_backward(dy, a.x, c, stats, a.weight, **options),
        "batch": lambda: nn.batch_norm_backward(dy, a.x, stats, a.weight, training=True, **given, **options),
        "eval": lambda: nn.batch_norm_backward(dy, a.x, stats, a.weight, training=False, **given, **options),
        "group": lambda: nn.group_norm_backward(dy, a.x, GROUPS, stats, a.weight, **given, **options),
        "instance": lambda: nn.instance_norm_backward(dy, a.x, stats, a.weight, **given, **options),
    }
    return Job(gradients[norm], tuple)


def numbanorm_fresh(case: Case, a: Data, threads: int) -> Job:
    return numbanorm_job(case, a, threads, into=False)


class View(NamedTuple):
    """x as (B, M, G, K, T), which costs no copy, and its parameters as they broadcast there."""

    x: Array
    weight: Array
    bias: Array
    mean: Array
    var: Array
    dy: Array | None


def viewed(case: Case, a: Data) -> View:
    wide = (1, 1, *case.view[2:4], 1)
    dy = None if a.dy is None else a.dy.reshape(case.view)
    weight, bias, mean, var = (p.reshape(wide) for p in a[1:5])
    return View(a.x.reshape(case.view), weight, bias, mean, var, dy)


AXES = (1, 3, 4)


def expression(case: Case, v: View, numpy: Any = np) -> Any:
    """The norm as one writes it with NumPy (or with something that has its functions)."""
    if case.norm == "rms":
        return v.x / numpy.sqrt((v.x * v.x).mean(axis=AXES, keepdims=True) + EPS) * v.weight
    mean = v.mean if case.norm == "eval" else v.x.mean(axis=AXES, keepdims=True)
    var = v.var if case.norm == "eval" else v.x.var(axis=AXES, keepdims=True)
    return (v.x - mean) / numpy.sqrt(var + EPS) * v.weight + v.bias


def numpy_job(case: Case, a: Data, threads: int) -> Job:
    v = viewed(case, a)
    if case.backward:
        return numpy_backward(case, v)
    return Job(lambda: expression(case, v).astype(v.x.dtype, copy=False), lambda y: (y,))


def numpy_backward(case: Case, v: View) -> Job:
    """dx = rstd * (u - mean(u) - xh * mean(u * xh)) with u = dy * w, from the mean and rstd of the forward pass."""
    x, dy, own = v.x, v.dy, case.norm != "eval"
    assert dy is not None
    mean = v.mean if not own else 0 if case.norm == "rms" else x.mean(axis=AXES, keepdims=True)
    var = (
        v.var if not own else (x * x).mean(axis=AXES, keepdims=True) if case.norm == "rms" else x.var(axis=AXES, keepdims=True)
    )
    rstd = 1 / np.sqrt(var + EPS)

    def run() -> tuple[Array, ...]:
        xh, u = (x - mean) * rstd, dy * v.weight
        dweight, dbias = (dy * xh).sum(axis=(0, 1, 4)), dy.sum(axis=(0, 1, 4))
        if own:
            u -= xh * (u * xh).mean(axis=AXES, keepdims=True) + (0 if case.norm == "rms" else u.mean(axis=AXES, keepdims=True))
        u *= rstd
        return (u, dweight) if case.norm == "rms" else (u, dweight, dbias)

    return Job(run, tuple)


def copy_job(case: Case, a: Data, threads: int) -> Job:
    """The same bytes, through the caches or past them; a multiple of 128 from an address that is one."""
    from . import copies

    size = -(-case.nbytes // 128) * 16
    x, y = (copies.aligned(size) for _ in range(2))
    return Job(lambda: copies.copy(x, y))


def streamed_job(case: Case, a: Data, threads: int) -> Job:
    from . import copies

    size = -(-case.nbytes // 128) * 16
    x, y = (copies.aligned(size) for _ in range(2))
    return Job(lambda: copies.streamed(x, y, threads))


def contenders() -> tuple[Contender, ...]:
    """All of them, installed or not."""
    from . import arrays_only, peers

    return (
        Contender(COPY, copy_job, peer=False),
        Contender(STREAMED, streamed_job, peer=False),
        Contender(OURS, numbanorm_job, peer=False, note="into `out=`, memory that is there"),
        Contender(FRESH, numbanorm_fresh, peer=False, note="as most peers, which make a new array in each call"),
        Contender("torch", peers.torch_job, ("torch",), note="native operations, without autograd where torch has them so"),
        Contender(
            "onnxruntime",
            peers.onnxruntime_job,
            ("onnxruntime", "onnx"),
            into=True,
            note="I/O binding into memory that is there; channels first; no gradients on a CPU; eps is a float32",
        ),
        Contender(
            "jax", peers.jax_job, ("jax",), note="jit of the expression, gradients by vjp; XLA decides how many threads work"
        ),
        Contender("numpy", numpy_job, note="the expression, one thread"),
        Contender(
            "numbagg",
            arrays_only.numbagg_job,
            ("numbagg",),
            note="nanmean and nanvar, the rest in NumPy",
        ),
        Contender(
            "bottleneck",
            arrays_only.bottleneck_job,
            ("bottleneck",),
            note="nanmean and nanvar (rms: ss), the rest in NumPy, one thread",
        ),
        Contender(
            "scikit-learn",
            arrays_only.sklearn_job,
            ("sklearn",),
            plain=True,
            note="preprocessing.scale, StandardScaler (eval), normalize (rms, times the root of the length): "
            "no weight, bias and eps, one thread",
        ),
        Contender(
            "scipy", arrays_only.scipy_job, ("scipy",), plain=True, note="stats.zscore: no weight, bias and eps, one thread"
        ),
    )
