"""What stands around a norm, on the CPU: kernels whose elements another array's join, see `arith.stages`.

They have the bits of operations on whole arrays, which are here, too: for what the kernels leave to Python, as float64 out of
range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..spec.around import Activation, Around, AroundGradients
from ..spec.call import Call, Known, exactly, plain_of, scales
from .entry.calls import DONE, TOO_WIDE

Array = np.ndarray[Any, Any]
Ways = tuple[Callable[[Call], Any], Callable[..., Any]]  # entry point and program of a call, and the norm alone


def words(a: Array, other: Array | None, kept: Array | None, activation: Activation | None) -> Array:
    """`layout.Joined` of an array; who uses it keeps all of them."""
    addresses = [0 if array is None else array.__array_interface__["data"][0] for array in (a, other, kept)]
    numbers = np.zeros(2) if activation is None else np.array([slope_for(a, activation), activation.top])
    return np.concatenate([np.array(addresses, np.int64), numbers.view(np.int64)])


def slope_for(a: Array, activation: Activation) -> float:
    """The slope as NumPy takes it to the dtype of the array that it multiplies."""
    return float(np.array(activation.slope).astype(a.dtype))


def add(a: Array, other: Array | None, out: Array | None = None) -> Array:
    """a + other in their dtype, or a."""
    if other is None:
        return a
    with np.errstate(all="ignore"):
        return np.add(a, other, out=out)


def activate(y: Array, around: Around) -> None:
    """y = activation(y + addend)"""
    add(y, around.addend, y)
    if around.activation is not None:
        kind, (_, slope, top) = y.dtype.type, around.activation
        with np.errstate(all="ignore"):
            np.copyto(y, y * kind(slope) if slope else kind(0), where=y <= 0)
            np.copyto(y, kind(top), where=y > kind(top))


def gated(dy: Array, around: AroundGradients) -> Array:
    """dy as it was before the activation, which is kept if it is wanted; a new array."""
    if around.activation is None:
        return dy
    kind, (_, slope, top) = dy.dtype.type, around.activation
    result = dy.copy() if around.kept is None else around.kept
    if result is around.kept:
        np.copyto(result, dy)
    with np.errstate(all="ignore"):
        np.copyto(result, dy * kind(slope) if slope else kind(0), where=around.y <= 0)
        np.copyto(result, kind(0), where=around.y >= kind(top))
    return result


def normalize_around(
    ways: Ways, call: Call, arrays: tuple[Array, Array], affine: tuple[Any, Any, float], known: Known, around: Around
) -> Array:
    """`backend.normalize` in one pass, or one after the other where float64 leaves its range. arrays: x, y."""
    (x, y), (weight, bias, eps), (ready, alone) = arrays, affine, ways
    stats, own = np.zeros((4, call.plan.units)), y
    if x.itemsize == 8 and y is x and not call.given:
        own = np.empty_like(x)  # what leaves float64's range is computed again
    read, written, (run, program) = x, own, ready(call)
    if around.residual is not None:
        read = words(x, around.residual, around.kept, None)
    if around.addend is not None or around.activation is not None:
        written = words(own, around.addend, None, around.activation)
    parameters = (None if a is None else a.astype(np.float64, order="C") for a in (weight, bias, *known[:2]))
    status = run(read, written, *parameters, stats, program, True, eps, 0.0, 0.0, 0.0)
    if status == TOO_WIDE:
        return normalize_around(ways, exactly(call), arrays, affine, known, around)
    if status != DONE:
        stats = alone(plain_of(call), add(x, around.residual, around.kept), own, *affine, known)
        activate(own, around)
    if own is not y:
        y[...] = own
    return stats


def differentiate_around(
    ways: Ways, call: Call, arrays: tuple[Array, Array, Any], others: tuple[Any, Any, Any], around: AroundGradients
) -> None:
    """`backend.differentiate` in one pass, or one after the other. arrays: x, dy, dx; others: weight, stats and grads."""
    (x, dy, dx), (weight, stats, grads), (ready, alone) = arrays, others, ways
    plain = all(a is None or a.dtype.type is np.float64 for a in stats) and (grads is None or grads.dtype.name != "bfloat16")
    if dx is not None and not scales(call) and plain:
        own = np.empty_like(x) if dx is x or dx is dy else dx
        own_grads = grads if grads is None or x.itemsize < 8 else np.empty(grads.shape)
        read, written, (run, program) = dy, own, ready(call)
        if around.activation is not None:
            read = words(dy, around.y, around.kept, around.activation)
        if around.residual is not None:
            written = words(own, around.residual, None, None)
        given = (None if a is None else a.astype(np.float64, order="C") for a in (weight, *stats))
        if run(x, read, written, *given, own_grads, program, True) == DONE:
            for target, values in ((grads, own_grads), (dx, own)):
                if target is not values:
                    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for the dtype is inf there
                        target[...] = values
            return
    alone(plain_of(call), x, gated(dy, around), dx, weight, stats, grads)
    if dx is not None:
        add(dx, around.residual, dx)
