"""What runs in a task: functions of blocks, in one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numba
import numpy as np

from ... import functional, gradients
from ...execute import standardize as given
from ...moments import KEPT, Moments, given_by, made
from ...moments import moments as moments_of
from ...spec.call import Which
from ...spec.checks import Array
from ...spec.norms import NORMS
from ...spec.plan import Shape
from ...spec.standardized import kept_of

P = ParamSpec("P")
T = TypeVar("T")


class Asked(NamedTuple):
    """A norm over a dask array, but for its arrays."""

    norm: str
    size: Shape  # what its `sized` argument says of x
    channel_axis: int
    eps: float
    exact: bool

    def channel(self, ndim: int) -> Shape:
        """The axis of the channels."""
        return (self.channel_axis % ndim,)

    def reduced(self, ndim: int) -> Shape:
        """Axes of x that share a mean; of group norm also that of the channels, in part."""
        if not NORMS[self.norm].channels:
            return tuple(range(ndim - len(self.size), ndim))
        return tuple(k for k in range(ndim) if k not in self.channel(ndim) and (k or self.norm == "batch_norm"))

    def viewed(self, block: Array) -> tuple[Array, Shape]:
        """A block, of group norm with the channels in (groups, channels of one), and its axes that share a mean."""
        if self.norm == "group_norm":
            (k,), groups = self.channel(block.ndim), self.size[0]
            block = block.reshape(*block.shape[:k], groups, block.shape[k] // groups, *block.shape[k + 1 :])
            return block, tuple(j for j in range(1, block.ndim) if j != k)
        return block, self.reduced(block.ndim)

    def which(self, block: Array) -> Which:
        """What the norm of a block is told: of layer and RMS norm its own last axes."""
        return (self.size if NORMS[self.norm].channels else block.shape[block.ndim - len(self.size) :]), self.channel_axis

    def parameter(self, block: Array, p: Array | None) -> Array | None:
        """A parameter, in the shape that the norm of a block takes."""
        return None if p is None else p.reshape(-1 if NORMS[self.norm].channels else self.which(block)[0])


def in_one_thread(work: Callable[P, T]) -> Callable[P, T]:
    """A function that leaves the other threads to the scheduler."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return work(*args, **kwargs)
        finally:
            numba.set_num_threads(before)

    return run


@in_one_thread
def with_missing(function: Callable[..., Array], there: tuple[bool, ...], block: Array, *arrays: Array) -> Array:
    """`function(block, *arrays)`, with None for those that are not there."""
    rest = iter(arrays)
    return function(np.ascontiguousarray(block), *(next(rest) if one else None for one in there))


@in_one_thread
def as_object(measure: Callable[[Array], Moments], block: Array) -> Array:
    """Moments of a block as an array of one object."""
    found = np.empty((1,) * block.ndim, object)
    found[(0,) * block.ndim] = measure(np.ascontiguousarray(block))
    return found


def total(each: Array) -> Array:
    """The sum of all moments, in adjacent pairs."""
    found, waiting = np.empty((1,) * each.ndim, object), list(each.reshape(-1))
    while len(waiting) > 1:
        waiting = [a + b for a, b in zip(waiting[::2], waiting[1::2], strict=False)] + waiting[len(waiting) & ~1 :]
    found[(0,) * each.ndim] = waiting[0]
    return found


def measured(axes: Shape, method: str | None, block: Array) -> Moments:
    """Moments of a block."""
    return moments_of(block, axes, method=method)


def measured_groups(asked: Asked, block: Array) -> Moments:
    """Moments of what shares a mean in a block."""
    return moments_of(*asked.viewed(block))


def concatenated(each: Array, axes: Shape, axis: Any) -> Moments:
    """Moments of the blocks of the axes that are kept as one. axis: what the caller said for `axes`."""
    grid = each.reshape([n for k, n in enumerate(each.shape) if k not in axes])

    def field(name: str) -> Any:
        parts = np.empty(grid.shape, object)
        for place in np.ndindex(grid.shape):
            m: Any = grid[place]
            parts[place] = np.broadcast_to(getattr(m, name), np.shape(m.mean))
        return np.block(parts.tolist())

    count = max(m.count for m in grid.reshape(-1))  # 0 where there is no group
    return made(count, axis, *(field(name) for name in ("mean", *KEPT)))


def normalized(
    asked: Asked, block: Array, weight: Array | None, bias: Array | None, mean: Array | None, var: Array | None
) -> Array:
    """A block that has all that share a mean, or with running statistics."""
    row, (size, axis) = NORMS[asked.norm], asked.which(block)[:2]
    arrays = {"weight": weight, "bias": bias} | ({"running_mean": mean, "running_var": var} if mean is not None else {})
    own = {name: asked.parameter(block, a) for name, a in arrays.items() if a is not None}
    return getattr(functional, asked.norm)(  # type: ignore[no-any-return]
        block, eps=asked.eps, exact=asked.exact, **row.options(size, mean is None, axis), **own
    )


def finished(asked: Asked, block: Array, m: Array, weight: Array | None, bias: Array | None) -> Array:
    """A block, from the moments of all that share a mean."""
    view, axes = asked.viewed(block)
    own, part = m.reshape(-1)[0], given.Asked(view, axes, kept_of(view.shape, axes))
    if NORMS[asked.norm].center:
        view, known = given_by(own, part, asked.eps, asked.exact)
    else:
        known = part.given(own.mean, None, own.var() + own.mean * own.mean)
        known = known._replace(rstd=given.roots(known.rstd, asked.eps, view, asked.exact))
    affine = asked.parameter(block, weight), asked.parameter(block, bias)
    return given.as_norm(asked.norm, view.reshape(block.shape), asked.which(block), known, affine, asked.exact)


def standardized(axes: Shape, exact: bool, block: Array, *arrays: Array | None) -> Array:
    """A block with statistics that are given. arrays: mean, rstd, the mean's low part, weight, bias, 1 long in shared axes."""
    part = given.Asked(block, axes, kept_of(block.shape, axes))
    mean, rstd, low, weight, bias = [None if a is None else a.reshape(part.kept) for a in arrays]
    assert mean is not None
    assert rstd is not None
    return given.forward(block, part.given(mean, low, rstd), (weight, bias), axes, exact, None)


def transformed(
    axes: Shape, eps: float, exact: bool, block: Array, m: Array, weight: Array | None, bias: Array | None
) -> Array:
    """A block with the moments of all that share a mean."""
    part = given.Asked(block, axes, kept_of(block.shape, axes))
    source, known = given_by(m.reshape(-1)[0], part, eps, exact)
    affine = tuple(None if a is None else a.reshape(part.kept) for a in (weight, bias))
    return given.forward(source, known, (affine[0], affine[1]), axes, exact, None)


@in_one_thread
def differentiated(asked: Asked, block: Array, dy: Array, weight: Array | None = None) -> Array:
    """(dx, float64 [dweight, dbias]) of a block that has all that share a mean, as an array of one object."""
    row, (size, axis) = NORMS[asked.norm], asked.which(block)[:2]
    options, x = row.options(size, True, axis), np.ascontiguousarray(block)
    w = np.ones((block.shape[axis],) if row.channels else size) if weight is None else weight.astype(np.float64)
    _, stats = getattr(functional, asked.norm)(x, eps=asked.eps, exact=asked.exact, return_stats=True, **options)
    backward = getattr(gradients, f"{asked.norm}_backward")
    dx, *rest = backward(np.ascontiguousarray(dy), x, stats=stats, weight=w, exact=asked.exact, **options)
    found = np.empty((1,) * block.ndim, object)
    found[(0,) * block.ndim] = dx, np.array(rest)
    return found


def first(pair: Array) -> Array:
    """dx of what `differentiated` gave."""
    dx: Array = pair.reshape(-1)[0][0]
    return dx


def second(pair: Array) -> Array:
    """The gradients of the parameters, likewise, as an array of one object."""
    found = np.empty(pair.shape, object)
    found[(0,) * pair.ndim] = pair.reshape(-1)[0][1]
    return found


def gradient_of(each: Array, k: int, dtype: Any) -> Array:
    """A gradient of a parameter, from the sum over all blocks."""
    found: Array = each.reshape(-1)[0][k].astype(dtype)
    return found
