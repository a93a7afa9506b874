"""What the tests that want a CUDA device share: whether there is one, arrays on it, what the CPU backend makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import cases
import ml_dtypes
import numba
import numpy as np
import pytest
from cases import FLOAT32, Arguments, Case
from rings import AS_CUDA, call, call_backward

import numbanorm
from numbanorm.backends import dispatch

DEVICE = "cuda"
LOST = 66  # pytest's exit status once a kernel has broken the context: nothing that follows could pass
CYCLES = 200_000_000  # a tenth of a second at 2 GHz: far longer than the host needs to queue a call
FLOAT64, FLOAT16, BFLOAT16 = cases.DTYPES[1:]

# each way through the schedules: rows held by a block, rows cut up, columns, folded columns, runs, given statistics
CASES = (
    Case("layer", (7, 768)),
    Case("layer", (3, 257)),
    Case("layer", (1, 90001)),
    Case("layer", (5000, 7)),
    Case("layer", (512, 4096)),
    Case("rms", (300, 1000)),
    Case("rms", (1, 40003)),
    Case("batch", (4096, 2)),
    Case("batch", (40, 1000)),
    Case("batch", (16, 6, 7, 7)),
    Case("batch", (32, 16, 28, 28)),
    Case("batch", (2, 3, 130, 131)),
    Case("batch", (2, 3, 7, 7), training=False),
    Case("batch", (8, 28, 28, 48), channel_axis=-1),
    Case("instance", (1, 3, 200, 201)),
    Case("instance", (2, 2047, 5), channel_axis=-1),
    Case("group", (2, 64, 17, 1), groups=8),
    Case("group", (4, 32, 56, 56), groups=8),
    Case("group", (2, 33, 514), groups=2, channel_axis=-1),
)
# the same ways in few elements, for what slows kernels down a hundredfold
SMALL = (
    Case("layer", (5, 64)),
    Case("layer", (3, 257)),
    Case("layer", (1, 17001)),
    Case("rms", (3, 1000)),
    Case("batch", (33, 17)),
    Case("batch", (2049, 16)),
    Case("batch", (3, 2, 257)),
    Case("batch", (9, 5), training=False),
    Case("instance", (2, 9, 300), channel_axis=-1),
    Case("group", (2, 12, 2, 3, 2), groups=4),
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
every_dtype = pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda d: d.name)
# what other libraries say of their own future is not for these tests to settle
MARKS = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings(r"default:::(torch|cupy|triton|jax)(\..*)?"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


def no_device() -> str | None:
    """Why these tests cannot run here."""
    if numba.config.ENABLE_CUDASIM:
        return "Numba simulates a GPU, by NUMBA_ENABLE_CUDASIM: these tests want a real one"
    why = dispatch.why_no_cuda()
    return None if why is None else f"no CUDA device: {why}"


def device() -> Iterator[None]:
    """A fixture's body: skip without a device, and end the session when the test has broken it."""
    why = no_device()
    if why is not None:
        pytest.skip(why)
    yield
    from numba import cuda

    try:
        cuda.synchronize()
    except Exception as e:
        if "PYTEST_XDIST_WORKER" in os.environ:  # of which another takes the place
            os._exit(LOST)
        pytest.exit(f"the CUDA context is lost: {type(e).__name__}: {e}", returncode=LOST)


def need_torch() -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed: its tensors and streams are what is tested here")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    return torch


def need_cupy() -> Any:
    return pytest.importorskip("cupy", reason="CuPy is not installed: its arrays and streams are what is tested here")


def both(case: Case, a: Arguments, dy: Any, **options: Any) -> dict[str, Any]:
    """All that a forward and a backward call give, where the arrays lie."""
    y, stats = call(case, a, return_stats=True, **options)
    gradients = call_backward(case, a, dy, stats, **options)
    named = {"y": y, "mean": stats.mean, "rstd": stats.rstd, **dict(zip(("dx", "dweight", "dbias"), gradients, strict=False))}
    return {name: v for name, v in named.items() if v is not None}


@lru_cache(maxsize=128)
def on_cpu(case: Case, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The same of the CPU backend."""
    return both(case, cases.arguments(case, dtype), cases.upstream(case, dtype))


def as_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let norms compute on the CPU what they do on CUDA, whatever they are asked for, as torch's operators cannot ask."""
    from numbanorm import functional, gradients
    from numbanorm.spec.norms import NORMS

    modes = {f"{name}{kind}": mode for name in NORMS for kind, mode in (("", AS_CUDA), ("_backward", {"exact": True}))}

    def computed(function: Any, mode: dict[str, Any]) -> Any:
        return lambda *args, **options: function(*args, **{**options, **mode})

    for name, mode in modes.items():
        module = gradients if name.endswith("_backward") else functional
        monkeypatch.setattr(module, name, computed(getattr(module, name), mode))


def mapped(put: Any, a: Arguments) -> Arguments:
    """All arrays of a call, put elsewhere."""
    values = {f.name: getattr(a, f.name) for f in fields(a)}
    return replace(a, **{name: put(v) for name, v in values.items() if v is not None})


def tensor(a: Any) -> Any:
    """A tensor on the device."""
    torch = need_torch()
    a = np.ascontiguousarray(a)
    t = torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype == BFLOAT16 else torch.from_numpy(a)
    return t.to(DEVICE, copy=True)


def tensors(case: Case, dtype: np.dtype[Any]) -> tuple[Arguments, Any]:
    """Arguments and dy of a case, as tensors on the device."""
    return mapped(tensor, cases.arguments(case, dtype)), tensor(cases.upstream(case, dtype))


def host(v: Any) -> Any:
    """A NumPy array of the same bits."""
    if isinstance(v, np.ndarray):
        return v
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(v, torch.Tensor):
        v = v.detach().cpu()
        return v.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if v.dtype == torch.bfloat16 else v.numpy()
    return v.get() if hasattr(v, "get") else v.copy_to_host()


def same(found: dict[str, Any], expected: dict[str, Any], where: str = "") -> None:
    """Equal in names, shapes, types and bits; says of which result how many elements differ."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        got, want = (np.ascontiguousarray(host(v)) for v in (found[name], value))
        assert (got.shape, got.dtype) == (want.shape, want.dtype), f"{where} {name}"
        differ = (got.reshape(-1, 1).view(np.uint8) != want.reshape(-1, 1).view(np.uint8)).any(axis=1)
        assert not differ.any(), f"{where} {name}: {differ.sum()} of {differ.size} differ, the first at {differ.argmax()}"


def forget() -> None:
    """Drop all loaded kernels and schedules, as in a new process."""
    from numbanorm.cuda import driver
    from numbanorm.cuda.schedule import plans

    for made in (plans.scheduled, plans.tracking):
        made.cache_clear()
    driver.DRIVER.kernels.clear()


def child(code: str, *before: str, seconds: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that can import what tests do; `before` is a program to run it under."""
    environment = {**os.environ, **environment}
    command = [*before, sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


def every_family() -> None:
    """For compute-sanitizer: NumPy arrays, each in device memory of its own, which shows accesses beside them."""
    for case in SMALL:
        for dtype in (FLOAT32, FLOAT64, BFLOAT16):
            a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
            same(both(case, a, dy, backend="cuda"), on_cpu(case, dtype), f"{case.name} {dtype.name}")
    print(f"{len(SMALL)} families are right")


def out_of_bounds() -> None:
    """For compute-sanitizer: what it must find."""
    from numba import cuda

    @cuda.jit("void(float32[::1], int64)")
    def store(x: Any, i: Any) -> None:
        x[i] = 1.0

    store[1, 1](cuda.device_array(4, np.float32), 4)
    cuda.synchronize()


def first_call() -> None:
    """Print what the first two calls of a process take, how many kernels were compiled for them, and what they gave."""
    from numbanorm.cuda import compiler

    compiled = []
    original = compiler.intermediate
    compiler.intermediate = lambda kernel, *rest: (compiled.append(kernel.name), original(kernel, *rest))[1]
    x = np.arange(40, dtype=np.float32).reshape(4, 10) ** 2
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        y = numbanorm.layer_norm(x, 10, backend="cuda")
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "compiled": compiled, "y": y.tobytes().hex()}))
