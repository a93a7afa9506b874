"""Who computes: numbanorm and the copies; and the list of all, with the peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from . import arrays_only, copies, peers
from .cases import EPS, GROUPS, Case, Data
from .expressions import numpy_job
from .jobs import APART, COPY, EXACT, FRESH, OURS, STREAMED, Contender, Job, UnsupportedError


def numbanorm_job(case: Case, a: Data, threads: int, into: bool = True, exact: bool = False) -> Job:
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
    options: dict[str, Any] = {"exact": exact, "out": np.zeros_like(a.x) if into else None}
    if not case.backward:
        before: dict[str, dict[str, Any]] = {
            "residual": {"residual": a.other, "return_residual": True},
            "relu": {"addend": a.other, "activation": "relu"},
        }
        options |= before.get(case.around, {})
        return Job(lambda: forward[norm](**options), lambda y: (y[0] if case.around == "residual" else y,))
    stats, dy = forward[norm](return_stats=True)[1], a.dy
    assert dy is not None
    after: dict[str, dict[str, Any]] = {
        "residual": {"dresidual": a.other},
        "relu": {"y": a.other, "activation": "relu", "return_daddend": True},
    }
    options |= after.get(case.around, {})
    gradients: dict[str, Callable[..., Any]] = {
        "layer": lambda: nn.layer_norm_backward(dy, a.x, c, stats, a.weight, **options),
        "rms": lambda: nn.rms_norm_backward(dy, a.x, c, stats, a.weight, **options),
        "batch": lambda: nn.batch_norm_backward(dy, a.x, stats, a.weight, training=True, **given, **options),
        "eval": lambda: nn.batch_norm_backward(dy, a.x, stats, a.weight, training=False, **given, **options),
        "group": lambda: nn.group_norm_backward(dy, a.x, GROUPS, stats, a.weight, **given, **options),
        "instance": lambda: nn.instance_norm_backward(dy, a.x, stats, a.weight, **given, **options),
    }
    return Job(gradients[norm], lambda found: tuple(found[:-1] if case.around == "relu" else found))


def numbanorm_apart(case: Case, a: Data, threads: int) -> Job:
    """What stands around the norm by NumPy's functions, before or after it; all into memory that is there."""
    if not case.around:
        raise UnsupportedError("one call as it is")
    dy: Any = a.dy
    other: Any = a.other
    kept, alone = np.zeros_like(a.x), replace(case, around="")
    if case.backward and case.around == "relu":
        job = numbanorm_job(alone, a._replace(dy=kept), threads)
        return Job(lambda: (np.multiply(dy, other > 0, out=kept), job.run())[1], job.fetch)
    if case.backward:
        job = numbanorm_job(alone, a, threads)
        return Job(lambda: (np.add((found := job.run())[0], other, out=found[0]), *found[1:]), job.fetch)
    if case.around == "residual":
        job = numbanorm_job(alone, a._replace(x=kept), threads)
        return Job(lambda: (np.add(a.x, other, out=kept), job.run())[1], job.fetch)
    job, nothing = numbanorm_job(alone, a, threads), a.x.dtype.type(0)
    return Job(lambda: np.maximum(np.add(y := job.run(), other, out=y), nothing, out=y), job.fetch)


def numbanorm_fresh(case: Case, a: Data, threads: int) -> Job:
    return numbanorm_job(case, a, threads, into=False)


def numbanorm_exact(case: Case, a: Data, threads: int) -> Job:
    return numbanorm_job(case, a, threads, exact=True)


def copy_job(case: Case, a: Data, threads: int) -> Job:
    """The same bytes, through the caches or past them; a multiple of 128 from an address that is one."""
    size = -(-case.nbytes // 128) * 16
    x, y = (copies.aligned(size) for _ in range(2))
    return Job(lambda: copies.copy(x, y))


def streamed_job(case: Case, a: Data, threads: int) -> Job:
    size = -(-case.nbytes // 128) * 16
    x, y = (copies.aligned(size) for _ in range(2))
    return Job(lambda: copies.streamed(x, y, threads))


def contenders() -> tuple[Contender, ...]:
    """All of them, installed or not."""
    return (
        Contender(COPY, copy_job, peer=False),
        Contender(STREAMED, streamed_job, peer=False),
        Contender(OURS, numbanorm_job, peer=False, note="into `out=`, memory that is there"),
        Contender(FRESH, numbanorm_fresh, peer=False, note="as most peers, which make a new array in each call"),
        Contender(EXACT, numbanorm_exact, peer=False, note="with exact=True, into `out=`"),
        Contender(APART, numbanorm_apart, peer=False, note="what stands around the norm by NumPy's functions, into `out=`"),
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
