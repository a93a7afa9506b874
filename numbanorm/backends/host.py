"""Arrays of a call in host memory: checked, made, copied, and computed by the CPU backend.

`cuda.arrays.space.Device` has methods of these names for arrays on a device; the functions know no more of either. This is
a module for speed: a call of a method costs 30 ns more, of which a norm of a small array has a dozen.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..runtime.uninterrupted import unbroken
from ..spec import blend, checks
from ..spec.checks import Array
from ..spec.plan import Plan

on_device = False
array, parameter, running, counter = checks.array, checks.parameter, checks.running, checks.counter
like, stats, output, apart = checks.like, checks.stats, checks.output, checks.apart
shares, contiguous = checks.shares_memory, checks.contiguous


@cache
def cpu_backend() -> Any:
    """Imported at the first call: Numba's compiler is half of the import time."""

    def load() -> Any:
        from ..cpu import backend as cpu

        if not cpu.COMPILES:
            raise ValueError("NUMBA_DISABLE_JIT must be 0 or unset, for kernels are compiled by Numba and nothing else can run "
                             "them: got 1; unset it before Python starts")  # fmt: skip
        return cpu

    return unbroken(load)


module = cpu_backend


def foreseen(x: Array) -> Array:
    """x as the backend will see it, for `explain`."""
    return x


def users(x: Array) -> Array:
    """The caller's own array behind a checked one."""
    return x


def transposed(x: Array, order: tuple[int, ...]) -> Array:
    return x.transpose(order)


def given(mean: Array, var: Array) -> tuple[Array, Array]:
    """Running statistics to normalize with, as the backend takes them."""
    return mean, var


def destination(out: Array | None, x: Array, *sources: Array) -> Array:
    """C-contiguous memory for a result like x: `out` where kernels can write there, and the source that `out` is."""
    if out is None or not out.flags.carray:
        return np.empty(x.shape, x.dtype)
    for source in sources:
        if np.may_share_memory(out, source) and checks.same_memory(out, source):
            return source
    return out.view(np.ndarray)


def written(out: Array | None, y: Array) -> Array:
    """The caller's result, once y is computed."""
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


def measure(p: Plan, x: Array, one_read: bool) -> tuple[Array, Array, Array, Array]:
    """(mean, its low part, m2, scale) for the caller, the low part divided by the scale and m2 by its square."""
    scale = np.ones(p.B * p.G)
    stats = cpu_backend().measure(p, x, one_read, scale)
    mean, low, m2 = (row(stats, k, p.stats_shape) for k in range(3))
    return mean, low, m2, scale.reshape(p.stats_shape)


def at_once(
    p: Plan, x: Array, out: Any, weight: Any, bias: Any, eps: float, center: bool, method: Any, with_stats: bool,
    mean: Any = None, var: Any = None, shares: tuple[float, float] | None = None,
) -> tuple[Array, Array | None] | None:  # fmt: skip
    """Fast path: (y, statistics) if compiled code accepts every argument, else None.

    Compiled code looks at them: what is right it knows in 50 ns, and what is wrong Python finds out again. mean, var: running
    statistics, to be updated with these shares of old and new, or given if there are none.
    """
    if p.size == 0 or method.__class__ is not str or method not in ("two_pass", "welford"):
        return None
    y = np.empty(x.shape, x.dtype) if out is None else out
    stats = np.zeros((4, p.B * p.G)) if with_stats else None
    one_read = method == "welford"
    if cpu_backend().at_once(p, x, y, weight, bias, eps, center, one_read, mean, var, shares, stats):
        return y, stats
    return None


def differentiate(
    p: Plan, x: Array, dy: Array, dx: Array | None, weight: Array | None, mean: Array | None, rstd: Array,
    center: bool, given: bool, parameters: tuple[bool, ...],
) -> tuple[Array | None, ...]:  # fmt: skip
    """Write dx, and return the gradients of the parameters, in the weight's dtype, or x's."""
    grads, shape = None, (2, p.G * p.K)  # weight_shape may have as many axes as NumPy can count
    if any(parameters):
        dtype = x.dtype if weight is None else weight.dtype
        grads = np.empty(shape, dtype) if p.size else np.zeros(shape, dtype)
    if p.size:
        cpu_backend().differentiate(p, x, dy, dx, weight, mean, rstd, center, given, parameters, grads)
    if grads is None:
        return (None,) * len(parameters)
    return tuple([g.reshape(p.weight_shape) if n else None for g, n in zip(grads, parameters, strict=False)])


def differentiate_at_once(
    p: Plan, x: Array, dy: Any, stats: Any, weight: Any, needs: tuple[bool, ...], out: Any, center: bool, given: bool
) -> tuple[Array | None, ...] | None:
    """The gradients of a call whose arguments are all as kernels want them, see `at_once`."""
    if p.size == 0 or not isinstance(stats, tuple) or len(stats) != 2 or (weight is None and getattr(stats, "weighted", False)):
        return None
    (mean, rstd), wanted = stats, needs[1] or needs[-1]
    if (mean is not None) is not center or rstd is None or dy is None or (out is not None and not needs[0]):
        return None
    if not (weight is None or type(weight) is np.ndarray):
        return None
    try:
        grads = np.empty((2, *p.weight_shape), (x if weight is None else weight).dtype) if wanted else None
    except ValueError:  # an axis more than NumPy has
        return None
    dx = None if not needs[0] else np.empty(x.shape, x.dtype) if out is None else out
    if not cpu_backend().differentiate_at_once(p, x, dy, dx, weight, mean, rstd, given, grads):
        return None
    return (dx, *[grads[k] if grads is not None and n else None for k, n in enumerate(needs[1:])])


def update(
    stats: Array, samples: int, n: int, mean: Array | None, var: Array | None, counter: Array | None,
    shares: tuple[float, float] | None,
) -> None:  # fmt: skip
    """Take a batch into running statistics. stats: float64 (4, samples * C); n: what its sums of squares are divided by;
    shares: of old and new, or None for those of an average over all batches.
    """
    if counter is not None:
        counter += 1
    if mean is None and var is None:
        return
    if shares is None:
        assert counter is not None
        shares = blend.of_average(int(counter.reshape(-1)[0]))
    cpu_backend().update_running(stats, samples, n, mean, var, *shares)
