"""The two custom operators behind `numbanorm.interop.torch`: every norm's forward pass, and its backward pass.

They have no side effects: running statistics come back as new tensors. So autograd and torch.compile take them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import backward, checks, functional, plan

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Kind(NamedTuple):
    """What tells a norm from the others: arguments that its forward and backward functions share, and its plan."""

    options: Callable[[list[int], bool, int], dict[str, Any]]  # of size, own statistics, channel axis
    planned: Callable[[tuple[int, ...], list[int]], plan.Plan]  # of the shape as torch sees it, and size


# plans of symbolic sizes, which cannot be looked up, are made anew: hence __wrapped__
TRAILING = Kind(
    lambda size, own, axis: {"normalized_shape": tuple(size)},
    lambda shape, size: plan.trailing.__wrapped__(shape, tuple(size)),
)
KINDS = {
    "layer_norm": TRAILING,
    "rms_norm": TRAILING,
    "group_norm": Kind(
        lambda size, own, axis: {"num_groups": size[0], "channel_axis": axis},
        lambda shape, size: plan.group.__wrapped__(shape, size[0], 1),
    ),
    "instance_norm": Kind(
        lambda size, own, axis: {"use_input_stats": own, "channel_axis": axis},
        lambda shape, size: plan.instance.__wrapped__(shape, 1),
    ),
    "batch_norm": Kind(
        lambda size, own, axis: {"training": own, "channel_axis": axis},
        lambda shape, size: plan.batch.__wrapped__(shape, 1),
    ),
}


@torch.library.custom_op("numbanorm::normalize", mutates_args=(), device_types=("cpu", "cuda"))
def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    num_batches_tracked: Tensor | None, kind: str, size: list[int], own: bool, momentum: float | None, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, mean, rstd, and copies of the running statistics that have taken in x if its own statistics normalize it."""
    layout, axis = _layout(kind, x)
    x = x.contiguous(memory_format=layout)
    y = torch.empty_like(x, memory_format=layout)
    parameters = {"weight": weight, "bias": bias}
    tracked = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": num_batches_tracked}
    running = {name: t.clone() for name, t in tracked.items() if t is not None}
    arrays = {name: _array(t) for name, t in (parameters | running).items() if t is not None}
    options = KINDS[kind].options(size, own, axis) | ({"momentum": momentum} if running else {})
    norm = getattr(functional, kind)
    _, (mean, rstd) = norm(_array(x, axis), **arrays, **options, eps=eps, out=_array(y, axis), return_stats=True)
    updated = (running.get(name, x.new_empty(0)) for name in ("running_mean", "running_var"))
    return y, x.new_empty(0, dtype=torch.float64) if mean is None else _apart(mean), _tensor(rstd), *updated


@normalize.register_fake
def normalize_shapes(
    x: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, counter: Any, kind: str, size: list[int], *_: Any
) -> tuple[Tensor, ...]:
    shape = KINDS[kind].planned(tuple(x.shape), size).stats_shape
    mean, rstd = (x.new_empty(s, dtype=torch.float64) for s in ((0,) if kind == "rms_norm" else shape, shape))
    updated = (x.new_empty(0) if t is None else torch.empty_like(t) for t in (running_mean, running_var))
    return torch.empty_like(x, memory_format=_layout(kind, x)[0]), mean, rstd, *updated


@torch.library.custom_op("numbanorm::differentiate", mutates_args=(), device_types=("cpu", "cuda"))
def differentiate(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, kind: str, size: list[int], own: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, dweight, dbias; empty where not needed."""
    layout, axis = _layout(kind, x)
    x, dy = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    dx = torch.empty_like(x, memory_format=layout) if needs[0] else x.new_empty(0)
    gradients = getattr(backward, f"{kind}_backward")(
        *(_array(dy, axis), _array(x, axis)),
        **KINDS[kind].options(size, own, axis),
        stats=(None if kind == "rms_norm" else _array(mean), _array(rstd)),
        weight=None if weight is None else _array(weight),
        needs=tuple(needs[: 2 if kind == "rms_norm" else 3]),
        out=_array(dx, axis) if needs[0] else None,
    )
    dweight, dbias = (*gradients, None)[1:3]
    return dx, x.new_empty(0) if dweight is None else _tensor(dweight), x.new_empty(0) if dbias is None else _apart(dbias)


@differentiate.register_fake
def differentiate_shapes(
    dy: Any, x: Tensor, weight: Any, mean: Any, rstd: Any, kind: str, size: Any, own: bool, needs: list[bool]
) -> tuple[Tensor, ...]:
    dx = torch.empty_like(x, memory_format=_layout(kind, x)[0]) if needs[0] else x.new_empty(0)
    return dx, *(torch.empty_like(weight, memory_format=torch.contiguous_format) if n else x.new_empty(0) for n in needs[1:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep for the backward pass what it will read; x only if its deviations from the mean are in a gradient."""
    x, weight, *_, ctx.kind, ctx.size, ctx.own, _, _ = inputs
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x if needs_weight or (needs_x and ctx.own) else None, weight, *output[1:3])


@once_differentiable
def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, *rest = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    gradients = differentiate(dy, dy if x is None else x, *rest, ctx.kind, ctx.size, ctx.own, list(needs))
    return *(g if n else None for g, n in zip(gradients, needs, strict=True)), *(None,) * 8


normalize.register_autograd(_backward, setup_context=_save)


def _layout(kind: str, x: Tensor) -> tuple[Any, int]:
    """In which memory format x is read, and where its channels lie then; norms of channels keep channels_last."""
    last = None if KINDS[kind] is TRAILING else CHANNELS_LAST.get(x.dim())
    if last is None or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        return torch.contiguous_format, 1
    return last, -1


def _array(t: Tensor, channel_axis: int = 1) -> Any:
    """The memory of a tensor as what the functions take, seen with its channels there: on a device, the tensor itself."""
    t = t.detach()
    if channel_axis == -1:
        t = t.movedim(1, -1)
    if checks.device_library(t):
        return t
    if t.dtype != torch.bfloat16:
        return t.numpy()
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("bfloat16 tensors need ml_dtypes: it is not installed; pip install 'numbanorm[bfloat16]'") from None
    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _apart(a: Any) -> Tensor:
    """`_tensor` of one row of two that a device's tensors share: results of an operator must not share storage."""
    return a.clone() if isinstance(a, Tensor) else _tensor(a)


def _tensor(a: Any) -> Tensor:
    """The memory of what the functions give as a tensor; a copy where it is read-only, which tensors cannot be."""
    if isinstance(a, Tensor):
        return a
    a = a if a.flags.writeable else a.copy()
    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)
