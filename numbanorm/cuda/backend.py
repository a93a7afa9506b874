"""The CUDA backend: Numba kernels that share the CPU's trees, and so the bits of its statistics.

A backend is a module that offers these functions over a plan and arrays; `dispatch` knows no more of it. Arrays are
`arrays.DeviceArray`; everything is launched on the stream of the library that made x, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

from ..spec.plan import Plan
from . import driver
from .arrays.described import DeviceArray, name_of
from .schedule.plans import backward, forward, scheduled, tracking
from .schedule.steps import Call, Schedule

__all__ = ["differentiate", "explain", "explain_backward", "measure", "normalize", "update_running"]

Arrays = dict[str, "DeviceArray | None"]


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


FORWARD, BACKWARD = ("x", "y", "w", "b", "mean", "var"), ("x", "dy", "dx", "w", "mean", "rstd", "grads")


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
    plan: Plan,
    x: DeviceArray,
    y: DeviceArray,
    weight: DeviceArray | None,
    bias: DeviceArray | None,
    eps: float,
    center: bool,
    given: tuple[DeviceArray, DeviceArray] | None,
    one_read: bool,
) -> DeviceArray:
    """Write the normalized x to y (which may be x) and return the statistics; see `numbanorm.cpu.normalize`."""
    mean, var = given or (None, None)
    wide = aligned(x, y, weight, bias) if plan.T == 1 else aligned(x, y)
    dtypes = dtypes_of(x, y, weight, bias, mean, var)
    s = scheduled(forward, plan, FORWARD, dtypes, center, given is not None, wide, one_read, y is x)
    stats = x.kind.empty((4, plan.B * plan.G), "float64", x)
    arrays: Arrays = {"x": x, "y": y, "w": weight, "b": bias, "mean": mean, "var": var, "stats": stats}
    run(s, x, arrays, eps=eps)
    return stats


def measure(plan: Plan, x: DeviceArray, one_read: bool) -> DeviceArray:
    """The statistics of `normalize` with eps 0, and nothing written."""
    stats = x.kind.empty((4, plan.B * plan.G), "float64", x)
    dtypes = dtypes_of(x, None, None, None, None, None)
    in_place = write = False
    s = scheduled(forward, plan, FORWARD, dtypes, True, False, aligned(x), one_read, in_place, write)
    run(s, x, {"x": x, "stats": stats}, eps=0.0)
    return stats


def differentiate(
    plan: Plan,
    x: DeviceArray,
    dy: DeviceArray,
    dx: DeviceArray | None,
    weight: DeviceArray | None,
    mean: DeviceArray | None,
    rstd: DeviceArray,
    center: bool,
    given: bool,
    parameters: tuple[bool, ...],
    grads: DeviceArray | None,
) -> None:
    """Write the gradient of x to dx (which may be x or dy), and those of weight and bias to grads (2, *weight_shape)."""
    if not parameters[0] and (dx is None or given):
        x = dy  # for dbias x need not be read
    wide = aligned(x, dy, dx, weight) if plan.T == 1 else aligned(x, dy, dx)
    dtypes, in_place = dtypes_of(x, dy, dx, weight, mean, rstd, grads), dx is x or dx is dy
    one_read, write, wanted = False, dx is not None, any(parameters)
    s = scheduled(backward, plan, BACKWARD, dtypes, mean is not None, given, wide, one_read, in_place, write, wanted)
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


def explain(plan: Plan, x: DeviceArray, center: bool, given: bool, one_read: bool, affine: bool) -> str:
    """Which kernels would run, and why."""
    parameter = x.dtype.name if affine else None
    types = {"x": x.dtype.name, "y": x.dtype.name, "w": parameter, "b": parameter, "mean": "float64", "var": "float64"}
    return told(forward(plan, Call(tuple(types.items()), center, given, aligned(x), one_read)))


def explain_backward(plan: Plan, x: DeviceArray, center: bool, given: bool, needs: tuple[bool, ...]) -> str:
    """Which kernels would compute gradients, and why."""
    name = x.dtype.name
    types = {"x": name, "dy": name, "dx": name, "w": name, "mean": "float64", "rstd": "float64", "grads": name}
    call = Call(tuple(types.items()), center, given, aligned(x), write=needs[0], parameters=any(needs[1:]))
    return told(backward(plan, call))


def told(s: Schedule) -> str:
    launches = ", ".join(f"{k.kernel.build.__name__} {k.grid} x {k.block}" for k in s.steps)
    return f"cuda, {s.reason}; kernels (blocks x threads): {launches}"
