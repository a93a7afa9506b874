"""Normalization with statistics from anywhere, and its gradients, in host memory.

Statistics and parameters come checked, of shapes that broadcast to the kept axes. Where a layout has no kernel that gives
every unit a weight, x is transposed, and what was computed transposed back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backends import host
from ..spec import checks
from ..spec.call import Which
from ..spec.checks import Array
from ..spec.plan import Shape, as_axes
from ..spec.shown import shown
from ..spec.standardized import apart, kept_of, norm_call, roots_call, slant_call, spread, standardize_call, sums_call


class Given(NamedTuple):
    """Statistics, float64 of the shape of the kept axes: the mean is mean + low."""

    mean: Array
    low: Array | None
    rstd: Array


class Asked(NamedTuple):
    """x of a known dtype, the axes along which statistics are the same, and the shape of the others."""

    x: Array
    axes: Shape
    kept: Shape

    def spread(self, name: str, value: Any) -> Array | None:
        """An array that broadcasts to the kept axes, checked; None as it is."""
        return None if value is None else spread(name, value, self.kept)

    def given(self, mean: Array, low: Array | None, rstd: Array) -> Given:
        """Checked statistics as kernels take them."""
        return Given(over(mean, self.kept), None if low is None else over(low, self.kept), over(rstd, self.kept))


def asked(x: Any, axis: Any, backend: Any) -> Asked:
    """What is asked for, checked as far as it is said by x and axis."""
    if backend is not None and not (isinstance(backend, str) and backend == "cpu"):
        raise ValueError(f"backend must be 'cpu' or None, for given statistics are computed with in host memory: "
                         f"got {shown(backend)}; leave it out")  # fmt: skip
    if checks.device_library(x):
        raise TypeError(f"x must be in host memory to be standardized: got {type(x).__name__} on a CUDA device; copy it to the "
                        f"host, as cupy.asnumpy(x) or x.cpu().numpy() do")  # fmt: skip
    x_ = checks.array("x", x)
    axes = as_axes(axis, x_.shape)
    return Asked(x_, axes, kept_of(x_.shape, axes))


def over(a: Any, kept: Shape) -> Array:
    """What broadcasts to the kept axes -> float64 of their shape."""
    wide = np.asarray(a, np.float64)
    return wide if wide.shape == kept and wide.flags.c_contiguous else np.array(np.broadcast_to(wide, kept))


def roots(var: Array, eps: float, x: Array, exact: bool) -> Array:
    """1 / sqrt(var + eps), rounded once: the rstd that kernels for x make of a variance that is given."""
    if var.size == 0:
        return var
    call, flat = roots_call(var.size, x.dtype, exact), var.reshape(-1)
    stats = host.backend().normalize(call, x, x, None, None, eps, (np.zeros_like(flat), flat, None, None))
    return host.row(stats, 3, var.shape)


def back(a: Array, order: Shape) -> Array:
    """What is in this order of axes, in the caller's."""
    return a.transpose(np.argsort(order))


def room_for(out: Array | None, source: Array, order: Shape, *others: Array) -> Array:
    """Memory for what kernels write, like `source` (x in this order): `out` where they can write there."""
    straight = order == tuple(range(source.ndim))
    target = host.target(out, source, *others) if out is not None and straight else None
    return host.empty_like(source) if target is None else target


def added(a: Array, shape: Shape) -> Array:
    """Sums over the axes along which a parameter of this shape is the same, float64, in adjacent pairs: the same on any CPU."""
    if a.size == 0:  # of which no pairs are left
        return np.zeros(shape)
    own = (1,) * (a.ndim - len(shape)) + shape
    for k, n in enumerate(own):
        while a.shape[k] != n:
            even, odd = (np.take(a, np.arange(first, a.shape[k], 2), k) for first in (0, 1))
            pairs = [slice(0, odd.shape[j]) if j == k else slice(None) for j in range(a.ndim)]
            even[tuple(pairs)] += odd
            a = even
    return a.reshape(shape)


def finished(y: Array, out: Array | None, order: Shape) -> Array:
    """The caller's result, of what kernels wrote in this order of axes."""
    if order == tuple(range(y.ndim)):
        return host.written(out, y)
    if out is None:
        return host.contiguous(back(y, order))
    out[...] = back(y, order)
    return out


def forward(x: Array, given: Given, affine: tuple[Array | None, Array | None], axes: Shape, exact: bool, out: Any) -> Array:
    """(x - mean) * rstd * weight + bias; affine: weight and bias."""
    kept, present = kept_of(x.shape, axes), tuple(p is not None for p in affine)
    own = any(p is not None and apart(x.shape, axes, p.shape) for p in affine)
    _, order = standardize_call(x.shape, x.dtype, axes, own, exact, (*present, False))
    source = host.contiguous(x.transpose(order))
    y = room_for(out, source, order)
    call, _ = standardize_call(x.shape, x.dtype, axes, own, exact, (*present, y is source))
    n, units, groups = call.plan.size, call.plan.units, call.plan.G
    weight, bias = (None if p is None else over(p, kept).reshape(-1) for p in affine)
    for k in range(x.size // n if n else 0):  # samples that have a call each, or one call
        stats = [None if a is None else a.reshape(-1)[k * units : (k + 1) * units] for a in given]
        w, b = (None if p is None else p[k * groups : (k + 1) * groups] for p in (weight, bias))
        part, target = (a.reshape(-1)[k * n : (k + 1) * n] for a in (source, y))
        host.backend().normalize(call, part, target, w, b, 0.0, (stats[0], stats[2], None, stats[1]))
    return finished(y, out, order)


def as_norm(norm: str, x: Array, which: Which, given: Given, affine: tuple[Array | None, Array | None], exact: bool) -> Array:
    """What a norm makes of x, C-contiguous, with these statistics; affine: weight and bias of the norm's shape."""
    present = affine[0] is not None, affine[1] is not None, False
    call, y = norm_call(norm, x.shape, x.dtype, which, exact, present), host.empty_like(x)
    if x.size:
        mean, low, rstd = (None if a is None else a.reshape(-1) for a in given)
        host.backend().normalize(
            call, x, y, *affine, 0.0, (mean if call.center else None, rstd, None, low if call.center else None)
        )
    return y


def sums(dy: Array, x: Array, given: Given, axes: Shape) -> tuple[Array, Array]:
    """Sums over the reduced axes of dy, and of dy * normalized x: float64 of the shape of the kept axes."""
    call, order = sums_call(x.shape, x.dtype, axes)
    found = np.zeros((2, call.plan.units))
    if x.size:
        source, upstream = (host.contiguous(a.transpose(order)) for a in (x, dy))
        stats = given.mean.reshape(-1), given.rstd.reshape(-1)
        host.backend().differentiate(call, source, upstream, None, None, stats, found)
    of_product, of_dy = (row.reshape(given.mean.shape) for row in found)
    if given.low is not None:
        with np.errstate(all="ignore"):  # nan and inf pass on
            of_product -= given.low * given.rstd * of_dy
    return of_dy, of_product


def scaled(dy: Array, given: Given, weight: Array | None, axes: Shape, exact: bool, out: Any) -> Array:
    """dx of statistics that do not depend on x: dy * weight * rstd."""
    return forward(dy, Given(np.zeros_like(given.mean), None, given.rstd), (weight, None), axes, exact, out)


def slanted(
    arrays: tuple[Array, Array],
    given: Given,
    weight: Array | None,
    sums: tuple[Any, Any, Any],
    axes: Shape,
    exact: bool,
    out: Any,
) -> Array:
    """dx of statistics that are those of all elements that the sums are of. arrays: dy, x."""
    dy, x = arrays
    kept = given.mean.shape
    call, order = slant_call(x.shape, x.dtype, axes, exact)
    source, upstream = (host.contiguous(a.transpose(order)) for a in (x, dy))
    dx = room_for(out, source, order, upstream)
    if x.size:
        mean, low, rstd = (None if a is None else a.reshape(-1) for a in given)
        numbers = [over(a, kept).reshape(-1) for a in (1.0 if weight is None else weight, *sums)]
        host.cpu_backend().slant(call, source, upstream, dx, (mean, low, rstd), *numbers)
    return finished(dx, out, order)
