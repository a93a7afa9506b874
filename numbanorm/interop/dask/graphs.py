"""What is asked, checked, and the graphs for it: nothing here computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import dask.array
import numpy as np

from ...moments import Moments
from ...spec import checks
from ...spec.call import Which, forward_call
from ...spec.checks import Array
from ...spec.norms import NORMS
from ...spec.plan import Shape
from ...spec.shown import shown
from ...spec.sources import GIVEN, OWN
from ...spec.standardized import fits_spread, spread
from . import tasks

Dask: TypeAlias = Any  # dask.array.Array; mypy, which is not shown Dask, takes no such name for a type


def checked(x: Any) -> Dask:
    """A dask array of floating-point numbers, of known chunk sizes."""
    if not isinstance(x, dask.array.Array):
        raise TypeError(
            f"x must be a Dask array: got {shown(x)}; write dask.array.from_array(x), or take numbanorm's functions"
        )
    if not checks.is_float(x.dtype):
        raise TypeError(checks.not_float("x", x.dtype, "x.astype(np.float32)"))
    if any(math.isnan(n) for sizes in x.chunks for n in sizes):
        raise ValueError(f"x must have known chunk sizes: got {x.chunks}; call x.compute_chunk_sizes() first")
    return x


def floats(name: str, a: Any) -> Any:
    """An array of NumPy or Dask that holds floating-point numbers."""
    if not isinstance(a, dask.array.Array):
        return checks.array(name, a)
    if not checks.is_float(a.dtype):
        raise TypeError(checks.not_float(name, a.dtype, f"{name}.astype(np.float32)"))
    return a


def fitting(name: str, a: Any, kept: Shape) -> Any:
    """An array of NumPy or Dask, or None, in the shape of the kept axes."""
    if a is None or not isinstance(a, dask.array.Array):
        return None if a is None else np.broadcast_to(spread(name, a, kept), kept)
    fits_spread(name, floats(name, a), kept)
    return dask.array.broadcast_to(a, kept)


def parameter(name: str, p: Any, shape: Shape) -> Any:
    """A parameter of a norm, an array of NumPy or Dask, or None."""
    if p is not None:
        checks.fits_parameter(name, floats(name, p), shape)
    return p


def beside(x: Dask, shared: Shape, a: Any) -> Dask | None:
    """An array over the axes of x that are not `shared`, in the chunks of x, with one of length 1 for each that is."""
    if a is None:
        return None
    chunks = tuple(x.chunks[k] for k in range(x.ndim) if k not in shared)
    a = a.rechunk(chunks) if isinstance(a, dask.array.Array) else dask.array.from_array(np.array(a), chunks=chunks)
    return a[tuple(None if k in shared else slice(None) for k in range(x.ndim))]


def blocks(x: Dask, function: Callable[..., Array], *arrays: Dask | None) -> Dask:
    """`function(block, *others)` of each block of x; of arrays, of which some are None, come blocks that belong to it."""
    there = [a for a in arrays if a is not None]
    own = partial(tasks.with_missing, function, tuple(a is not None for a in arrays))
    return dask.array.map_blocks(own, x, *there, dtype=x.dtype, meta=np.empty((0,) * x.ndim, x.dtype), chunks=x.chunks)


def merged(x: Dask, measure: Callable[[Array], Moments], reduced: Shape) -> Dask:
    """Moments of the blocks, merged along the reduced axes: an array of objects, one a block of the other axes."""
    nothing, ones = np.empty((0,) * x.ndim, object), tuple((1,) * n for n in x.numblocks)
    each = dask.array.map_blocks(partial(tasks.as_object, measure), x, dtype=object, meta=nothing, chunks=ones)
    one = tuple((1,) if k in reduced else sizes for k, sizes in enumerate(ones))
    each = each.rechunk(dict.fromkeys(reduced, -1))
    # by `blocks`, or Dask makes the sum a part of the task of each block of x: half of the time of 24 blocks with 1024 channels
    return dask.array.map_blocks(tasks.total, each, dtype=object, meta=nothing, chunks=one).blocks[...]


def norm_of(
    norm: str, x: Any, which: Which, affine: tuple[Any, Any], eps: Any, exact: Any, given: tuple[Any, Any] | None = None
) -> Dask:
    """A norm in `NORMS` over a dask array; given: running mean and variance."""
    x, row, exact = checked(x), NORMS[norm], checks.flag("exact", exact)
    present = affine[0] is not None, affine[1] is not None, False
    call = forward_call(norm, x.shape, x.dtype, which, OWN if given is None else GIVEN, None, exact, present)
    number = checks.eps(eps) if row.center else checks.eps_without_bias(call.eps if eps is None else eps)
    asked = tasks.Asked(norm, which[0], which[1], number, exact)
    reduced = asked.reduced(x.ndim)
    features = asked.channel(x.ndim) if row.channels else reduced
    others = tuple(k for k in range(x.ndim) if k not in features)
    names, shapes = (
        ("weight", "bias", "running_mean", "running_var"),
        [call.plan.weight_shape] * 2 + [call.plan.stats_shape] * 2,
    )
    values = (*affine, *(given or (None, None)))
    arrays = [beside(x, others, parameter(*v)) for v in zip(names, values, shapes, strict=True)]
    if given is not None or (call.plan.count > 1 and all(x.numblocks[k] == 1 for k in reduced)):
        return blocks(x, partial(tasks.normalized, asked), *arrays)
    return blocks(x, partial(tasks.finished, asked), merged(x, partial(tasks.measured_groups, asked), reduced), *arrays[:2])


def gradients_of(norm: str, dy: Any, x: Any, which: Which, weight: Any, eps: Any, exact: Any) -> tuple[Dask, ...]:
    """dx and the parameters' gradients of a norm whose mean is of one sample; what shares one is brought into one chunk."""
    x, dy, row, exact = checked(x), checked(dy), NORMS[norm], checks.flag("exact", exact)
    if dy.shape != x.shape or dy.dtype != x.dtype:
        raise ValueError(f"dy must be like x, {x.dtype} of shape {x.shape}: got {dy.dtype} of shape {dy.shape}; give the "
                         f"gradient of the result")  # fmt: skip
    call = forward_call(norm, x.shape, x.dtype, which, OWN, None, exact, (weight is not None, False, False))
    number = checks.eps(eps) if row.center else checks.eps_without_bias(call.eps if eps is None else eps)
    asked, shape = tasks.Asked(norm, which[0], which[1], number, exact), call.plan.weight_shape
    weight, free = parameter("weight", weight, shape), 1 if row.channels else x.ndim - len(which[0])
    kind = x.dtype if weight is None else weight.dtype
    if isinstance(weight, dask.array.Array):
        weight = dask.delayed(weight)  # the whole of it with each block
    x = x.rechunk(dict.fromkeys(range(free, x.ndim), -1))
    nothing, ones = np.empty((0,) * x.ndim, object), tuple((1,) * n for n in x.numblocks)
    as_objects = partial(dask.array.map_blocks, dtype=object, meta=nothing)
    each = as_objects(partial(tasks.differentiated, asked), x, dy.rechunk(x.chunks), weight=weight, chunks=ones)
    dx = dask.array.map_blocks(tasks.first, each, dtype=x.dtype, meta=nothing.astype(x.dtype), chunks=x.chunks)
    parts = as_objects(tasks.second, each, chunks=ones).rechunk(-1)
    total = dask.delayed(as_objects(tasks.total, parts, chunks=((1,),) * x.ndim))
    make = dask.delayed(tasks.gradient_of)
    rest = (dask.array.from_delayed(make(total, k, kind), shape, kind) for k in range(len(row.parameters)))
    return dx, *rest
