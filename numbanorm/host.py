"""What a norm does with arrays in host memory: checks them, makes others, and has the CPU backend compute.

`cuda.home.Device` has methods of these names for arrays on a device; the functions know no more of either. This is a module
for speed: a call of a method costs 30 ns more, of which a norm of a small array has a dozen.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import checks
from .checks import Array
from .plan import Plan

on_device = False
array, parameter, running, counter = checks.array, checks.parameter, checks.running, checks.counter
like, stats, output, apart = checks.like, checks.stats, checks.output, checks.apart
shares, contiguous = checks.shares_memory, checks.contiguous


@cache
def cpu_backend() -> Any:
    """Imported at the first call: Numba's compiler is half of the import time."""
    from . import cpu

    return cpu


module = cpu_backend


def foreseen(x: Array) -> Array:
    """x as the backend will see it, for `explain`."""
    return x


def users(x: Array) -> Array:
    """What the functions take for what `array` gave."""
    return x


def transposed(x: Array, order: tuple[int, ...]) -> Array:
    return x.transpose(order)


def given(mean: Array, var: Array) -> tuple[Array, Array]:
    """Running statistics to normalize with, as the backend takes them."""
    return mean.astype(np.float64), var.astype(np.float64)


def destination(out: Array | None, x: Array, *sources: Array) -> Array:
    """C-contiguous memory for a result like x: `out` where kernels can write there, and the source that `out` is."""
    if out is None or not out.flags.carray:
        return np.empty(x.shape, x.dtype)
    for source in sources:
        if np.may_share_memory(out, source) and checks.same_memory(out, source):
            return source
    return out.view(np.ndarray)


def written(out: Array | None, y: Array) -> Array:
    """What the caller gets, once y is computed."""
    if out is None:
        return y
    if not out.flags.carray:
        out[...] = y
    return out


def full(shape: tuple[int, ...], value: float) -> Array:
    return np.full(shape, value)


def row(stats: Array, k: int, shape: tuple[int, ...]) -> Array:
    """A row of the statistics, for the caller."""
    one: Array = stats[k].reshape(shape)
    return one


def differentiate(
    p: Plan, x: Array, dy: Array, dx: Array | None, weight: Array | None, mean: Array | None, rstd: Array,
    center: bool, given: bool, parameters: tuple[bool, ...], original: Any,
) -> tuple[Array | None, ...]:  # fmt: skip
    """Write dx, and return the gradients of the parameters, in the dtype of the `original` weight."""
    if p.size == 0:
        sums = np.zeros((2, p.G * p.K))
    else:
        sums = cpu_backend().differentiate(p, x, dy, dx, weight, mean, rstd, center, given, parameters)
    if not any(parameters):
        return (None,) * len(parameters)
    dtype = x.dtype if original is None else checks.array("weight", original).dtype
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for the dtype is inf there
        grads = sums.astype(dtype).reshape(2, *p.weight_shape)
    return tuple([g if n else None for g, n in zip(grads, parameters, strict=False)])


def update(
    stats: Array, samples: int, count: int, mean: Array | None, var: Array | None, counter: Array | None,
    momentum: float | None, keras: bool,
) -> None:  # fmt: skip
    """Take a batch into running statistics. stats: float64 (4, samples * C); count: elements behind each."""
    if counter is not None:
        counter += 1
    if mean is None and var is None:
        return
    if momentum is None:
        assert counter is not None
        new = 1.0 / float(counter.reshape(-1)[0])
    else:
        new = 1.0 - momentum if keras else momentum
    old = momentum if keras and momentum is not None else 1.0 - new
    stats = stats.reshape(4, samples, -1)
    for running, batch, n in ((mean, stats[0], 1), (var, stats[2], count if keras else count - 1)):
        if running is not None:
            with np.errstate(over="ignore", invalid="ignore"):  # nan and inf pass on, as they do through y
                total = running.astype(np.float64)
                total *= old
                total += (batch[0] if len(batch) == 1 else batch.mean(axis=0)) / n * new
                running[...] = total
