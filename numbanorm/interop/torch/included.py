"""Norms with a mask, or with parameters of samples or rows, of plain tensors on the CPU, in eager mode; first derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .eager import recorded, unseen
from .operators import How, Running, differentiated, normalized, tensor_of, tracked


class Included(torch.autograd.Function):
    """What was computed with a mask, for autograd; as `operators.Numbanorm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, where: Any, made: tuple[Tensor, Any, How]) -> Tensor:
        y, ctx.stats, (ctx.kind, ctx.size, ctx.own, _, _, ctx.exact) = made
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if needs_weight or (needs_x and ctx.own) else None, weight, where)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, where = ctx.saved_tensors
        refuse_unless_plain("the result's gradient", dy, x, weight)
        how = ctx.kind, ctx.size, ctx.own, ctx.exact
        dx, *rest = differentiated(dy, dy if x is None else x, weight, ctx.stats, how, ctx.needs_input_grad[:3], where)
        return dx, *(None if g is None else tensor_of(g) for g in rest), None, None


def refuse_unless_plain(name: str, x: Tensor, *others: Tensor | None) -> None:
    """Raise if torch wants to see the operations that are no operators of its own."""
    if not unseen(x, *others):
        raise ValueError(
            f"where wants plain tensors on the CPU, as parameters of samples do, and neither compiler, transform nor tracer: "
            f"got {name} of type {type(x).__name__} on {x.device}; leave where out, or such parameters, or call from a "
            f"function under torch.compiler.disable"
        )


def normalize_included(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running, how: How, where: Tensor | None
) -> Tensor:
    """y of tensors that were checked but for the mask; running statistics are updated where they lie."""
    if where is not None and (not isinstance(where, Tensor) or where.dtype != torch.bool):
        got = where.dtype if isinstance(where, Tensor) else type(where).__name__
        raise TypeError(f"where must be a tensor of bool: got {got}; write where.bool(), or where != 0")
    refuse_unless_plain("an input", x, weight, bias, *running, where)
    (running, updated), records = tracked(running, how[2]), recorded(x, weight, bias)
    y, stats = normalized(x, weight, bias, running, how, records, where)
    for t in updated:
        torch.autograd.graph.increment_version(t)
    return Included.apply(x, weight, bias, where, (y, stats, how)) if records else y


def joined(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of one shape, which the gradients of both have; as they are if none will do."""
    try:
        one, two = torch.broadcast_tensors(weight, bias)
    except (RuntimeError, TypeError):
        return weight, bias
    return one, two
