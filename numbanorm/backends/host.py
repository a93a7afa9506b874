"""Arrays of a call in host memory: checked, made, copied, and computed by the CPU backend.

`cuda.arrays.space.Device` has methods of these names for arrays on a device; the functions know no more of either. This is
a module for speed: a call of a method costs 30 ns more, of which a norm of a small array has a dozen.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..runtime import results
from ..runtime.uninterrupted import unbroken
from ..spec import blend, checks
from ..spec.around import AroundGradients
from ..spec.call import Call, Known
from ..spec.checks import Array
from ..spec.gaps import levels_of, rows_of, turned_of, with_gaps, with_turned
from ..spec.plan import Plan
from .protocol import CompiledEntry, Tracked

array, parameter, running, counter, mask = checks.array, checks.parameter, checks.running, checks.counter, checks.mask
like, stats, output, apart = checks.like, checks.stats, checks.output, checks.apart
shares, contiguous = checks.shares_memory, checks.contiguous


@cache
def cpu_backend() -> CompiledEntry:
    """Imported at the first call: Numba's compiler is half of the import time."""

    def load() -> CompiledEntry:
        from ..cpu import backend as cpu

        if not cpu.COMPILES:
            raise ValueError("NUMBA_DISABLE_JIT must be 0 or unset, for kernels are compiled by Numba and nothing else can run "
                             "them: got 1; unset it before Python starts")  # fmt: skip
        return cpu

    return unbroken(load)


backend = cpu_backend


def callers(x: Array) -> Array:
    """The caller's own array behind a checked one."""
    return x


def transposed(x: Array, order: tuple[int, ...]) -> Array:
    return x.transpose(order)


def ready(*arrays: Array | None) -> tuple[Array | None, ...]:
    """Small arrays as the backend takes them: it makes copies of its own."""
    return arrays


def target(out: Array, *sources: Array) -> Array | None:
    """Memory for what goes to `out`: the source that it is, `out`, or None if kernels cannot write there."""
    if not out.flags.carray:
        return None
    for source in sources:
        if np.may_share_memory(out, source) and checks.same_memory(out, source):
            return source
    return out.view(np.ndarray)


def in_rows(call: Call, out: Array | None, *read: Array) -> tuple[Call, Array | None]:
    """The call for arrays whose rows stand apart, or as it came; and where it writes if `out` is such, else None."""
    if all(checks.packed(a) for a in (*read, *([] if out is None else [out]))):
        return call, None
    row = rows_of(call)
    if not row or call.plan.size == 0:
        return call, None
    if any(levels_of(a, row) is None for a in read):
        return (call, None) if call.plan.G > 1 else in_columns(call, out, read, row)
    if out is None or checks.packed(out) or levels_of(out, row) is None:
        return with_gaps(call, False), None
    for a in read:
        if np.may_share_memory(out, a) and checks.same_memory(out, a):
            return with_gaps(call, True), a
    return with_gaps(call, True), out.view(np.ndarray)


def in_columns(call: Call, out: Array | None, read: tuple[Array, ...], row: int) -> tuple[Call, Array | None]:
    """`in_rows` for arrays of which rows lie side by side, element by element: each is such, or C-contiguous."""
    kinds = {0 if checks.packed(a) else turned_of(a, row) or -1 for a in (*read, *([] if out is None else [out]))} - {0}
    if len(kinds) != 1 or -1 in kinds:
        return call, None
    target = None
    if out is not None:
        same = (a for a in read if np.may_share_memory(out, a) and checks.same_memory(out, a))
        target = next(same, out.view(np.ndarray))
    return with_turned(call, kinds.pop()), target


def empty_like(x: Array) -> Array:
    """C-contiguous memory for a result like x."""
    return results.empty(x.shape, x.dtype) if x.size >= results.FEW else np.empty(x.shape, x.dtype)


def written(out: Array | None, y: Array) -> Array:
    """The caller's result, once y is computed."""
    if out is None:
        return y
    if not (out.flags.carray or checks.same_memory(out, y)):
        out[...] = y
    return out


def full(shape: tuple[int, ...], value: float) -> Array:
    return np.full(shape, value)


def row(stats: Array, k: int, shape: tuple[int, ...]) -> Array:
    """A row of the statistics, for the caller; if it is that of one sample, for each."""
    one: Array = stats[k]
    try:
        return one.reshape(shape)
    except ValueError:
        return np.resize(one, shape)


def try_forward(
    call: Call, x: Array, out: Any, weight: Any, bias: Any, eps: float, known: Known, with_stats: bool
) -> tuple[Array, Array | None] | None:
    """Fast path: (y, statistics) if compiled code accepts every argument, else None.

    Compiled code looks at them: what is right it knows in 50 ns, and what is wrong Python finds out again.
    """
    if call.plan.size == 0:
        return None
    y = out if out is not None else np.empty(x.shape, x.dtype) if call.plan.size < results.FEW else empty_like(x)
    stats = np.zeros((4, call.plan.units)) if with_stats else None
    return (y, stats) if cpu_backend().try_forward(call, x, y, weight, bias, eps, known, stats) == 0 else None


def try_backward(call: Call, x: Array, dy: Any, stats: Any, weight: Any, out: Any) -> tuple[Array | None, ...] | None:
    """Fast path: the gradients if compiled code accepts every argument, else None."""
    p = call.plan
    if p.size == 0 or not isinstance(stats, tuple) or len(stats) != 2 or (weight is None and getattr(stats, "weighted", False)):
        return None
    if (stats[0] is not None) is not call.center or stats[1] is None or dy is None or (out is not None and not call.write):
        return None
    if not (weight is None or type(weight) is np.ndarray):
        return None
    try:
        grads = np.empty((2, *p.weight_shape), (x if weight is None else weight).dtype) if call.affine else None
    except ValueError:  # an axis more than NumPy has
        return None
    dx = out
    if out is None and call.write:
        dx = np.empty(x.shape, x.dtype) if p.size < results.FEW else empty_like(x)
    if cpu_backend().try_backward(call, x, dy, dx, weight, stats, grads) != 0:
        return None
    dweight, dbias = (grads[0] if call.weight else None, grads[1] if call.bias else None) if grads is not None else (None, None)
    return (dx, dweight, dbias) if call.center else (dx, dweight)


def differentiate(
    call: Call,
    x: Array,
    dy: Array,
    dx: Array | None,
    weight: Array | None,
    stats: tuple[Array | None, Array],
    where: Array | None = None,
    around: AroundGradients | None = None,
) -> tuple[Array | None, Array | None]:
    """Write dx, and return the gradients of the parameters, in the weight's dtype, or x's."""
    p, grads = call.plan, None
    if call.affine:
        dtype = x.dtype if weight is None else weight.dtype
        grads = (np.empty if p.size else np.zeros)((2, p.G * p.K), dtype)  # weight_shape may have as many axes as NumPy has
    if p.size:
        mask = around if where is None else cpu_backend().mask_of(call, where, x.shape)
        cpu_backend().differentiate(call, x, dy, dx, weight, stats, grads, mask)
    if grads is None:
        return None, None
    return grads[0].reshape(p.weight_shape) if call.weight else None, grads[1].reshape(p.weight_shape) if call.bias else None


def measure(call: Call, x: Array, where: Array | None = None) -> tuple[Array, Array, Array, Array, Array | None]:
    """(mean, its low part, m2, scale) for the caller, the low part divided by the scale and m2 by its square; with a mask of x,
    and how many elements each group has."""
    scale, shape, mask = np.ones(call.plan.units), call.plan.stats_shape, None
    if where is not None:
        mask = cpu_backend().mask_of(call, where, x.shape)
    stats = cpu_backend().measure(call, x, scale, mask)
    mean, low, m2 = (row(stats, k, shape) for k in range(3))
    return mean, low, m2, scale.reshape(shape), None if mask is None else mask.counts.reshape(shape)


def update(stats: Array, p: Plan, tracked: Tracked) -> None:
    """Take the statistics of a batch, float64 (4, B * G), into running statistics."""
    shares = tracked.shares
    if tracked.counter is not None:
        tracked.counter[...] += 1
        shares = shares or blend.of_average(int(tracked.counter.reshape(-1)[0]))
    if tracked.mean is not None and shares is not None:
        if len(stats) == 4:
            cpu_backend().update_running(stats, p.B, p.count - tracked.unbiased, tracked.mean, tracked.var, *shares)
        else:  # with a mask
            cpu_backend().update_included(stats, p, tracked.unbiased, tracked.mean, tracked.var, *shares)
