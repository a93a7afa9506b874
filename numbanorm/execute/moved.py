"""Layer and RMS norm over any axes: where these are not the last, of x and of what is written with them last.

Kernels read and write such arrays where they lie, if `spec.gaps` says so; others are copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..backends import dispatch, host
from ..spec import checks
from ..spec.around import refuse_around
from ..spec.call import Stats
from ..spec.norms import NORMS
from ..spec.plan import Shape, as_axes, as_shape
from ..spec.shown import shown
from .backward import backward
from .forward import forward


class Moved(NamedTuple):
    """x of a known dtype, what `normalized_shape` says, and the order of axes in which those that share a mean are last."""

    x: Any
    own: Shape
    order: Shape

    @property
    def straight(self) -> bool:
        """Whether the axes are the last ones."""
        return self.order == tuple(range(len(self.order)))

    def there(self, a: Any) -> Any:
        """An array like x in that order."""
        return a.transpose(self.order)

    def mask(self, where: Any) -> Any:
        """A mask in that order; None as it is."""
        kept = checks.mask(where, self.x.shape)
        return None if kept is None else self.there(np.broadcast_to(kept, self.x.shape))

    def target(self, out: Any) -> Any:
        """Where a result goes: an array that fits, or a new one; whether it may overlap others, they look at in that order."""
        if out is None:
            return host.empty_like(self.x)
        host.output(out, self.x, ())
        return out


def moved(x: Any, normalized_shape: Any, axis: Any, backend: Any, around: Iterable[Any]) -> Moved:
    """What is asked for, checked as far as it is said by x, normalized_shape, axis and what stands around the norm."""
    space = dispatch.space(x, backend)
    x_ = space.array("x", x)
    named, shape = as_shape("axis", axis), tuple(x_.shape)
    axes, own = as_axes(axis, shape), as_shape("normalized_shape", normalized_shape)
    if tuple(a % len(x_.shape) for a in named) != axes:
        raise ValueError(f"axis must name axes from first to last, as weight has them: got {named}; write {axes}")
    if own != tuple(x_.shape[a] for a in axes):
        raise ValueError(f"normalized_shape must have the sizes of the axes that axis names, {tuple(shape[a] for a in axes)}: "
                         f"got {own} for x of shape {shape} and axis={named}; take them from x.shape")  # fmt: skip
    found = Moved(x_, own, (*(k for k in range(len(x_.shape)) if k not in axes), *axes))
    if space is not host and not found.straight:
        raise ValueError(f"axis must name the last axes of x on a CUDA device: got {shown(named)} for {len(x_.shape)} axes; "
                         f"move them to the end")  # fmt: skip
    if not found.straight:
        refuse_around("axis", around)
    return found


def forward_moved(
    norm: str,
    x: Any,
    normalized_shape: Any,
    axis: Any,
    affine: tuple[Any, Any, Any],
    how: Any,
    where: Any,
    beside: tuple[Any, ...],
) -> Any:
    """As `forward`, over these axes."""
    method, exact, out, return_stats, backend = how
    m = moved(x, normalized_shape, axis, backend, beside[1:])
    if m.straight:
        return forward(norm, x, (m.own, 0), affine, how, None, where, beside)
    y = m.target(out)
    given = method, exact, m.there(y), return_stats, None
    result = forward(norm, m.there(m.x), (m.own, 0), affine, given, None, m.mask(where), beside)
    return (y, result[1]) if return_stats else y


def backward_moved(
    norm: str, dy: Any, x: Any, normalized_shape: Any, axis: Any, stats: Stats | tuple[Any, Any], weight: Any, how: Any
) -> Any:
    """As `backward`, over these axes."""
    needs, exact, out, backend, where, *around = how
    m = moved(x, normalized_shape, axis, backend, around)
    if m.straight:
        return backward(norm, dy, x, (m.own, 0), stats, weight, how)
    upstream, wanted = host.like("dy", dy, m.x), checks.needs(needs, 1 + len(NORMS[norm].parameters))
    dx = None if out is None and not wanted[0] else m.target(out)
    given = wanted, exact, None if dx is None else m.there(dx), None, m.mask(where)
    _, *rest = backward(norm, m.there(upstream), m.there(m.x), (m.own, 0), stats, weight, given)
    return dx, *rest
