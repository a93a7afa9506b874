"""The CUDA backend: Numba kernels that share the CPU's trees, and so the bits of its statistics.

Arrays are `arrays.DeviceArray`; everything is launched on the stream of the library that made x, and nothing waits for the
device. See `backends.protocol`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..spec.call import Call, Known
from . import driver
from .arrays.described import DeviceArray, name_of
from .schedule.plans import scheduled, tracking
from .schedule.steps import Schedule

__all__ = ["describe", "differentiate", "measure", "normalize", "update_running"]

Arrays = dict[str, "DeviceArray | None"]
Statistics = tuple[DeviceArray | None, DeviceArray]


def run(s: Schedule, x: DeviceArray, arrays: Arrays, **numbers: float) -> None:
    """Launch all steps on x's stream and device, which waits for the streams that other arrays name, and then they for it."""
    before = driver.DRIVER.enter(x.device)
    try:
        stream = x.kind.stream(x)
        others = x.kind.beside(stream, arrays.values())
        for other in others:
            driver.DRIVER.follow(stream, other)
        launch_all(s, x, stream, arrays, numbers)
        for other in others:
            driver.DRIVER.follow(other, stream)
    finally:
        driver.DRIVER.leave(before)


def launch_all(s: Schedule, x: DeviceArray, stream: int, arrays: Arrays, numbers: dict[str, float]) -> None:
    if s.work:
        arrays["work"] = x.kind.empty((s.work,), "float64", x)
    prepared = s.prepared.get(x.device)
    if prepared is None:
        prepared = s.prepared[x.device] = [(driver.DRIVER.ready(k.kernel, k.kinds, x.device), k) for k in s.steps]
    pointer, launch = driver.DRIVER.pointer, driver.DRIVER.launch
    for ready, step in prepared:
        arguments = step.template.copy()
        for at, name, offset in step.pointers:
            arguments[at] = pointer(arrays[name], offset)
        for at, name in step.numbers:
            arguments[at] = numbers[name]
        launch(ready, step.grid, step.block, stream, arguments)


def dtypes_of(*arrays: DeviceArray | None) -> tuple[Any, ...]:
    return tuple([None if a is None else a.dtype for a in arrays])


def aligned(*arrays: DeviceArray | None) -> bool:
    """Whether 16-byte accesses are possible: a misaligned one would end the context."""
    together = 0
    for a in arrays:
        if a is not None:
            together |= a.address
    return together & 15 == 0


def normalize(
    call: Call, x: DeviceArray, y: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, eps: float, known: Known
) -> DeviceArray:
    """Write the normalized x to y (which may be x) and return the statistics; see `backends.protocol`."""
    mean, var = known[:2]
    wide = aligned(x, y, weight, bias) if call.plan.T == 1 else aligned(x, y)
    s = scheduled(call, dtypes_of(x, y, weight, bias, mean, var), wide)
    stats = x.kind.empty((4, call.plan.units), "float64", x)
    arrays: Arrays = {"x": x, "y": y, "w": weight, "b": bias, "mean": mean, "var": var, "stats": stats}
    run(s, x, arrays, eps=eps)
    return stats


def measure(call: Call, x: DeviceArray) -> DeviceArray:
    """The statistics of `normalize` with eps 0, and nothing written."""
    stats = x.kind.empty((4, call.plan.units), "float64", x)
    s = scheduled(call, dtypes_of(x, None, None, None, None, None), aligned(x))
    run(s, x, {"x": x, "stats": stats}, eps=0.0)
    return stats


def differentiate(
    call: Call, x: DeviceArray, dy: DeviceArray, dx: DeviceArray | None, weight: DeviceArray | None, stats: Statistics,
    grads: DeviceArray | None,
) -> None:  # fmt: skip
    """Write the gradient of x to dx (which may be x or dy), and those of weight and bias to grads (2, G * K)."""
    mean, rstd = stats
    if not call.weight and (dx is None or call.given):
        x = dy  # for dbias x need not be read
    wide = aligned(x, dy, dx, weight) if call.plan.T == 1 else aligned(x, dy, dx)
    s = scheduled(call, dtypes_of(x, dy, dx, weight, mean, rstd, grads), wide)
    arrays: Arrays = {"x": x, "dy": dy, "dx": dx, "w": weight, "mean": mean, "rstd": rstd, "grads": grads}
    run(s, x, arrays)


def update_running(
    stats: DeviceArray,
    samples: int,
    channels: int,
    n: int,
    mean: DeviceArray | None,
    var: DeviceArray | None,
    counter: DeviceArray | None,
    shares: tuple[float, float] | None,
) -> None:
    """Running statistics in place, from those of a batch (4, samples * channels); see `host.update`."""
    arrays: Arrays = {"mean": mean, "var": var, "counter": counter, "stats": stats}
    types = tuple((name, None if a is None else name_of(a.dtype)) for name, a in arrays.items())
    s = tracking(types, samples, channels, shares is None)
    old, new = shares or (0.0, 0.0)  # without them the kernel asks the counter
    run(s, stats, arrays, n=float(n), old=old, new=new)


def describe(call: Call, x: DeviceArray) -> str:
    """Say which kernels would run, and why; x as it lies, or as a copy of it would."""
    float64 = np.dtype(np.float64)
    if call.backward:
        dtypes = (x.dtype, x.dtype, x.dtype if call.write else None, x.dtype, float64 if call.center else None, float64)
        return told(scheduled(call, (*dtypes, x.dtype if call.affine else None), aligned(x) or not x.contiguous))
    parameters = (x.dtype if there else None for there in (call.weight, call.bias))
    given = float64 if call.given else None
    return told(scheduled(call, (x.dtype, x.dtype, *parameters, given, given), aligned(x) or not x.contiguous))


def told(s: Schedule) -> str:
    launches = ", ".join(f"{k.kernel.build.__name__} {k.grid} x {k.block}" for k in s.steps)
    return f"cuda, {s.reason}; kernels (blocks x threads): {launches}"
