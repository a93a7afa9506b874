"""Calls of plain tensors by the addresses of their memory.

What a call asks is one look-up of what its tensors are like, and no array is made of any: four of them take as long as the rest
of a small call. What is unusual gets None here, and goes by arrays, which say what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...backends import host
from ...spec import blend
from ...spec.call import Call, backward_call, forward_call, scales
from ...spec.dtypes import DTYPES
from ...spec.norms import NORMS
from ...spec.plan import Shape
from ...spec.sources import GIVEN, OWN, TRACKED

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
NUMBERS = {getattr(torch, name): 1 + k for k, name in enumerate(DTYPES)}  # as compiled code knows dtypes
NAMES = {getattr(torch, name): name for name in DTYPES}
BITS = 4  # of a number
# a call, the numbers of all dtypes in one, the shape of weight and bias, and whether x's strides are y's: an axis of one
# element may have any
Asked = tuple[Call, int, Shape, bool]


class Table(NamedTuple):
    """A call, and the statistics that its kernels left, float64 (4, units); None where nobody asked for them."""

    call: Call
    rows: np.ndarray[Any, Any] | None


def layout_of(kind: str, x: Tensor) -> tuple[Any, int]:
    """In which memory format x is read, and where its channels lie then; norms of channels keep channels_last."""
    if x.is_contiguous():
        return torch.contiguous_format, 1
    last = CHANNELS_LAST.get(x.dim()) if NORMS[kind].channels else None
    if last is None or not x.is_contiguous(memory_format=last):
        return torch.contiguous_format, 1
    return last, -1


def sized(kind: str, size: Sequence[int]) -> Sequence[int]:
    """What says which axes share a mean, of integers."""
    if len(size) == 1 and (type(size) is tuple or type(size) is torch.Size) and type(size[0]) is int:  # what most are
        return size
    return NORMS[kind].which(size, 1)[0]


def seen(kind: str, shape: Shape, size: Sequence[int], axis: int) -> tuple[Shape, Any]:
    """Shape of x with its channels at an axis, and what calls are looked up by."""
    shape = tuple(shape) if axis == 1 else (shape[0], *shape[2:], shape[1])
    return shape, NORMS[kind].which(size, axis)


def numbers(*dtypes: Any) -> int:
    """The numbers of dtypes, 0 of None, in one."""
    return sum(NUMBERS[d] << (BITS * k) for k, d in enumerate(dtypes) if d is not None)


@lru_cache(maxsize=4096)
def asked(kind: str, own: bool, exact: bool, shape: Shape, size: Sequence[int], axis: int, *dtypes: Any) -> Asked | None:
    """The forward call of tensors of these dtypes: x, weight, bias, mean, variance. None if it is not for addresses."""
    x, weight, bias, mean, var = dtypes
    if not NUMBERS.keys() >= {d for d in dtypes if d is not None} or (mean is None) is not (var is None):
        return None
    shape, which = seen(kind, shape, size, axis)
    source = OWN if mean is None else TRACKED if own else GIVEN
    present = weight is not None, bias is not None, False
    call = forward_call(kind, shape, np.dtype(NAMES[x]), which, source, None, exact, present)
    if call.plan.size == 0 or not (own or mean is not None):
        return None
    return call, numbers(x, x, weight, bias, mean, var), call.plan.weight_shape, 1 not in shape


@lru_cache(maxsize=4096)
def asked_backward(
    kind: str, own: bool, exact: bool, shape: Shape, size: Sequence[int], axis: int, needs: tuple[bool, ...], *dtypes: Any
) -> Asked | None:
    """The backward call of tensors of these dtypes: x, weight; None if it is not for addresses."""
    (x, weight), (needs_x, needs_weight, needs_bias) = dtypes, needs
    shape, which = seen(kind, shape, size, axis)
    wanted = needs if NORMS[kind].center else needs[:2]
    call = backward_call(kind, shape, np.dtype(NAMES[x]), which, OWN if own else GIVEN, wanted, exact, False)
    if scales(call) or not (call.write or call.affine) or (weight is None and call.affine):
        return None
    codes = numbers(x, x, x if needs_x else None, weight, weight if needs_weight else None, weight if needs_bias else None)
    return call, codes, call.plan.weight_shape, 1 not in shape


def addresses(shape: Shape, *tensors: Tensor | None) -> list[int] | None:
    """Where tensors lie, 0 of None; None if one is not contiguous or has another shape."""
    found = []
    for t in tensors:
        if t is None:
            found.append(0)
        elif t.shape == shape and t.is_contiguous():
            found.append(t.data_ptr())
        else:
            return None
    return found


def normalized_at(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Any, how: Any, with_stats: bool
) -> tuple[Tensor, Any] | None:
    """`operators.normalized` of tensors that torch need not see, its statistics as a `Table`; or None, and nothing was done."""
    (kind, size, own, momentum, eps, exact), (mean, var, counter) = how, running
    if counter is not None or type(momentum) is not float or not 0.0 <= momentum <= 1.0:
        return None
    if x.is_contiguous():
        layout, axis = torch.contiguous_format, 1
    else:
        layout, axis = layout_of(kind, x)
        x = x.contiguous(memory_format=layout)
    found = asked(
        kind, own, exact, x.shape, sized(kind, size), axis, x.dtype, None if weight is None else weight.dtype,
        None if bias is None else bias.dtype, None if mean is None else mean.dtype, None if var is None else var.dtype,
    )  # fmt: skip
    if found is None:
        return None
    call, codes, shape, alike = found
    eps = call.eps if eps is None else eps
    if type(eps) is not float or not 0.0 <= eps < math.inf:
        return None
    parameters = addresses(shape, weight, bias, mean, var) if mean is not None else addresses(shape, weight, bias)
    if parameters is None:
        return None
    if mean is None:
        parameters += (0, 0)
    y = torch.empty_like(x) if alike else torch.empty_like(x, memory_format=layout)
    stats = np.zeros((4, call.plan.units)) if with_stats else None
    shares = blend.of_momentum(momentum) if call.source == TRACKED else None
    status = host.cpu_backend().try_forward_at(call, (x.data_ptr(), y.data_ptr(), *parameters), codes, eps, shares, stats)
    if status != 0:
        return None
    return y, None if stats is None else Table(call, stats)


def differentiated_at(
    dy: Tensor, x: Tensor, weight: Tensor | None, stats: Any, how: tuple[str, Sequence[int], bool, bool], needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """`operators.differentiated`, likewise, of the statistics that `normalized_at` gave."""
    kind, size, own, exact = how
    if x.is_contiguous() and dy.is_contiguous():
        layout, axis = torch.contiguous_format, 1
    else:
        layout, axis = layout_of(kind, x)
        x, dy = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    dtype = x.dtype
    kinds = dtype, None if weight is None else weight.dtype
    found = asked_backward(kind, own, exact, x.shape, sized(kind, size), axis, needs, *kinds)
    if found is None or dy.shape != x.shape or dy.dtype is not dtype or len(stats[0]) != found[0].plan.units:
        return None
    call, codes, shape, alike = found
    if weight is not None and not (weight.shape == shape and weight.is_contiguous()):
        return None
    dx = None if not needs[0] else torch.empty_like(x) if alike else torch.empty_like(x, memory_format=layout)
    dweight = torch.empty_like(weight) if needs[1] else None
    dbias = torch.empty_like(weight) if needs[2] else None
    lie = [0 if t is None else t.data_ptr() for t in (x, dy, dx, weight, dweight, dbias)]
    return (dx, dweight, dbias) if host.cpu_backend().try_backward_at(call, lie, codes, stats) == 0 else None
