"""Every norm's forward pass and its backward pass, as functions of tensors, and as what torch wants to see of them.

That is nothing in most calls: `normalize_unseen` computes at once, and an autograd.Function keeps what the backward pass will
read. Where torch does want to see them, they are two custom operators. These have no side effects: running statistics come back
as new tensors. So autograd and torch.compile take them as they are. torch.func's transforms do not: they take the two
autograd.Functions that share the operators' formulae.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from ...backends import host
from ...execute.backward import backward
from ...execute.forward import forward, stats_of
from ...spec import checks
from ...spec.norms import NORMS
from .addresses import Table, differentiated_at, layout_of, normalized_at
from .eager import PLAIN_TYPES, recorded, unseen
from .higher import differentiate_gradients

NO_MEAN = torch.empty(0, dtype=torch.float64)
Running = tuple[Tensor | None, Tensor | None, Tensor | None]  # running_mean, running_var, num_batches_tracked
NO_RUNNING: Running = (None, None, None)
# of a call: kind, size, own, momentum, eps, exact
How = tuple[str, Sequence[int], bool, float | None, float | None, bool]


def normalized(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running,
    how: How,
    with_stats: bool = True,
    where: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """y, and the arrays (mean, rstd) if they are wanted. Running statistics are updated where they lie."""
    kind, size, own, momentum, eps, exact = how
    norm = NORMS[kind]
    layout, axis = layout_of(kind, x)
    if not x.is_contiguous(memory_format=layout):
        x = x.contiguous(memory_format=layout)
    y = torch.empty_like(x, memory_format=layout)
    affine = None if weight is None else _array(weight), None if bias is None else _array(bias), eps
    tracked = None
    if norm.own:
        mean, var, counter = (None if t is None else _array(t) for t in running)
        tracked = mean, var, momentum, counter, "torch", own
    how_ = None, exact, _array(y, axis), with_stats, None
    result = forward(kind, _array(x, axis), norm.which(size, axis), affine, how_, tracked, _mask(where, x, axis))
    return y, result[1] if with_stats else None


def differentiated(
    dy: Tensor, x: Tensor, weight: Tensor | None, stats: tuple[Any, Any], how: tuple[str, Sequence[int], bool, bool],
    needs: Sequence[bool], where: Tensor | None = None,
) -> tuple[Tensor | None, Any, Any]:  # fmt: skip
    """dx, and the arrays dweight and dbias; None where not needed. stats: arrays mean and rstd; how: kind, size, own, exact."""
    (kind, size, own, exact), norm = how, NORMS[how[0]]
    layout, axis = layout_of(kind, x)
    if not (x.is_contiguous(memory_format=layout) and dy.is_contiguous(memory_format=layout)):
        x, dy = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    dx = torch.empty_like(x, memory_format=layout) if needs[0] else None
    wanted = tuple(needs) if norm.center else tuple(needs[:2])
    how_ = wanted, exact, None if dx is None else _array(dx, axis), None, _mask(where, x, axis)
    weight = None if weight is None else _array(weight)
    _, *rest = backward(kind, _array(dy, axis), _array(x, axis), norm.which(size, axis), stats, weight, how_, own)
    return dx, *rest, *(None,) * (2 - len(rest))


@torch.library.custom_op("numbanorm::normalize", mutates_args=(), device_types=("cpu", "cuda"))
def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    num_batches_tracked: Tensor | None, kind: str, size: list[int], own: bool, momentum: float | None, eps: float,
    exact: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, mean, rstd, and copies of the running statistics that have taken in x if its own statistics normalize it."""
    x = _plain(x)
    mean_, var_, counter = (None if t is None else _plain(t).clone() for t in (running_mean, running_var, num_batches_tracked))
    y, (mean, rstd) = normalized(x, weight, bias, (mean_, var_, counter), (kind, size, own, momentum, eps, exact))
    updated = (x.new_empty(0) if t is None else t for t in (mean_, var_))
    return y, x.new_empty(0, dtype=torch.float64) if mean is None else _apart(mean), tensor_of(rstd), *updated


@normalize.register_fake
def normalize_shapes(
    x: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, counter: Any, kind: str, size: list[int], *_: Any
) -> tuple[Tensor, ...]:
    shape = NORMS[kind].planned(tuple(x.shape), size, 1).stats_shape
    mean, rstd = (x.new_empty(s, dtype=torch.float64) for s in (shape if NORMS[kind].center else (0,), shape))
    updated = (x.new_empty(0) if t is None else torch.empty_like(t) for t in (running_mean, running_var))
    return torch.empty_like(x, memory_format=layout_of(kind, x)[0]), mean, rstd, *updated


@torch.library.custom_op("numbanorm::differentiate", mutates_args=(), device_types=("cpu", "cuda"))
def differentiate(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, kind: str, size: list[int], own: bool,
    needs: list[bool], exact: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, dweight, dbias; empty where not needed."""
    dy, x = _plain(dy), _plain(x)
    stats = _array(mean) if NORMS[kind].center else None, _array(rstd)
    dx, dweight, dbias = differentiated(dy, x, weight, stats, (kind, size, own, exact), needs)
    gradients = dx, None if dweight is None else tensor_of(dweight), None if dbias is None else _apart(dbias)
    return tuple(x.new_empty(0) if g is None else g for g in gradients)


@differentiate.register_fake
def differentiate_shapes(
    dy: Any, x: Tensor, weight: Any, mean: Any, rstd: Any, kind: str, size: Any, own: bool, needs: list[bool], *_: Any
) -> tuple[Tensor, ...]:
    dx = torch.empty_like(x, memory_format=layout_of(kind, x)[0]) if needs[0] else x.new_empty(0)
    return dx, *(torch.empty_like(weight, memory_format=torch.contiguous_format) if n else x.new_empty(0) for n in needs[1:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep for the backward pass what it will read; x only if its deviations from the mean are in a gradient."""
    x, weight, *_, ctx.kind, ctx.size, ctx.own, _, _, ctx.exact = inputs
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x if needs_weight or (needs_x and ctx.own) else None, weight, *output[1:3])


def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the operator's arguments."""
    x, weight, mean, rstd = ctx.saved_tensors
    return *_seen(ctx, dy, x, weight, mean, rstd), *(None,) * 9


def _seen(ctx: Any, dy: Tensor, x: Tensor | None, *rest: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias by the operator; recorded for the next derivative where autograd records."""
    with torch._C.DisableTorchFunctionSubclass():  # torch's own backward passes do not ask subclasses either
        no_tangent("the result's gradient", dy)
        needs = ctx.needs_input_grad[:3]
        gradients = call(
            differentiate, dy, dy if x is None else x, *rest, ctx.kind, list(ctx.size), ctx.own, list(needs), ctx.exact
        )
    return tuple(g if n else None for g, n in zip(gradients, needs, strict=True))


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what the next derivative will read; x only if a gradient depended on it."""
    dy, x, weight, mean, rstd, ctx.kind, ctx.size, ctx.own, needs, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, needed in zip(output, needs, strict=True) if not needed))
    ctx.save_for_backward(dy, x if needs[1] or (needs[0] and ctx.own) else None, weight, mean, rstd)


def _backward_second(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of dy, x and weight. mean and rstd count as functions of x, so nothing is left for them."""
    with torch._C.DisableTorchFunctionSubclass():
        saved = ctx.saved_tensors
        norm = NORMS[ctx.kind]
        p = norm.planned(tuple(saved[0].shape), ctx.size, 1)
        gradients = differentiate_gradients(upstream, saved, p, norm.center, ctx.own)
    return *gradients, *(None,) * 7


class Numbanorm(torch.autograd.Function):
    """What was computed unseen, for autograd: results are made before, so that a refusal of arguments leaves no trace."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, made: tuple[Tensor, Any, How]) -> Tensor:
        y, ctx.stats, ctx.how = made
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight or (needs_x and ctx.how[2]) else None, weight)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        kind, size, own, _, _, exact = ctx.how
        how, needs = (kind, size, own, exact), ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not unseen(dy, x, weight):
            ctx.kind, ctx.size, ctx.own, ctx.exact = how
            mean, rstd = _stats(ctx.stats)
            return *_seen(ctx, dy, x, weight, NO_MEAN if mean is None else tensor_of(mean), tensor_of(rstd)), None
        of = dy if x is None else x
        gradients = differentiated_at(dy, of, weight, ctx.stats[1], how, needs) if type(ctx.stats) is Table else None
        if gradients is not None:
            return *gradients, None
        dx, *rest = differentiated(dy, of, weight, _stats(ctx.stats), how, needs)
        return dx, *(None if g is None else tensor_of(g) for g in rest), None


# without what Function.apply does for transforms of torch.func and for default arguments, which takes 2.5 us
_record = super(torch.autograd.Function, Numbanorm).apply


def _stats(stats: Any) -> tuple[Any, Any]:
    """Arrays mean and rstd of what a call left for the backward pass."""
    return stats_of(host, *stats, None) if type(stats) is Table else stats


def spread_out(weight: Tensor | None, bias: Tensor | None, how: How) -> bool:
    """Whether a parameter has more axes than the norm's own, and so may be one of samples or rows."""
    own = 1 if NORMS[how[0]].channels else len(how[1])
    return any(isinstance(p, Tensor) and p.dim() > own for p in (weight, bias))


def tracked(running: Running, own: bool) -> tuple[Running, list[Tensor]]:
    """Running statistics with a counter of their own, for the module counts; and those that are updated where they lie."""
    mean, var, counter = running
    return (mean, var, None if counter is None else counter.clone()), [t for t in (mean, var) if own and t is not None]


def normalize_unseen(x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running, how: How) -> Tensor | None:
    """y of plain tensors that torch need not see; None if it must, or for the operator's way to say what is wrong."""
    others = (weight, bias) if running is NO_RUNNING else (weight, bias, *running)
    if x is None or not unseen(x, *others) or type(how[2]) is not bool or type(how[5]) is not bool:
        return None
    if bias is not None and (weight is None or weight.dtype is not bias.dtype):
        return None
    running, updated = (running, []) if running is NO_RUNNING else tracked(running, how[2])
    for t in updated:
        if t.requires_grad or t.is_inference() or not t.is_contiguous():  # torch knows which may be written to
            return None
    records = recorded(x, weight, bias)
    try:
        args = x, weight, bias, running, how, records
        found = normalized_at(*args)
        if found is None and spread_out(weight, bias, how):
            return None
        y, stats = found or normalized(*args)
    except (TypeError, ValueError):
        return None
    for t in updated:
        torch.autograd.graph.increment_version(t)
    if not records:
        return y
    result: Tensor = _record(x, weight, bias, (y, stats, how))
    return result


class Normalize(torch.autograd.Function):
    """`normalize` for torch.func's transforms."""

    forward = staticmethod(lambda *args: normalize(*args))
    setup_context, backward = staticmethod(_save), staticmethod(_backward)
    vmap = staticmethod(lambda *args: _each(normalize, *args))
    jvp = staticmethod(lambda *_: _refuse_tangent("input"))


class Differentiate(torch.autograd.Function):
    """`differentiate` for torch.func's transforms."""

    forward = staticmethod(lambda *args: differentiate(*args))
    setup_context, backward = staticmethod(_save_second), staticmethod(_backward_second)
    vmap = staticmethod(lambda *args: _each(differentiate, *args))
    jvp = staticmethod(lambda *_: _refuse_tangent("input"))


normalize.register_autograd(_backward, setup_context=_save)
differentiate.register_autograd(_backward_second, setup_context=_save_second)
FUNCTIONS: dict[Any, Any] = {normalize: Normalize, differentiate: Differentiate}


def call(operator: Any, *args: Any) -> Any:
    """An operator, or where a transform of torch.func is active its Function, which torch.compile leaves to Python."""
    if not torch._C._functorch.get_dynamic_layer_stack_depth():
        return operator(*args)
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break("numbanorm within a transform of torch.func is no part of a graph")
    return FUNCTIONS[operator].apply(*args)


def no_tangent(name: str, t: Tensor) -> None:
    """Refuse a forward-mode derivative, which an operator would drop, and give one of 0."""
    if unpack_dual(t).tangent is not None:
        _refuse_tangent(name)


def _refuse_tangent(name: str) -> None:
    raise RuntimeError(f"{name} must not carry a forward-mode tangent: got one; differentiate backwards, by autograd")


def _each(operator: Any, info: Any, axes: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One call for each example of a torch.vmap."""
    batched = [isinstance(a, Tensor) and axis is not None for a, axis in zip(args, axes, strict=True)]
    calls = (
        call(operator, *(a.select(axis, k) if b else a for a, axis, b in zip(args, axes, batched, strict=True)))
        for k in range(info.batch_size)
    )
    results = tuple(map(torch.stack, zip(*calls, strict=True)))
    return results, (0,) * len(results)


def _array(t: Tensor, channel_axis: int = 1) -> Any:
    """The memory of a tensor as what the functions take, seen with its channels there: on a device, the tensor itself."""
    if t.dtype is not torch.bfloat16 and t.is_cpu and type(t) in PLAIN_TYPES:
        a = t.numpy(force=True)  # which detaches it in half the time of detach()
        return a if channel_axis == 1 else np.moveaxis(a, 1, -1)
    t = _plain(t).detach()
    t = t if channel_axis == 1 else t.movedim(1, -1)
    if checks.device_library(t):
        return t
    if t.dtype is not torch.bfloat16:
        return t.numpy()
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("bfloat16 tensors need ml_dtypes: it is not installed; pip install 'numbanorm[bfloat16]'") from None
    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _mask(where: Tensor | None, x: Tensor, channel_axis: int) -> Any:
    """A mask as an array, with the channels of x where they are seen."""
    if where is None or channel_axis == 1 or where.dim() > x.dim():
        return None if where is None else where.numpy(force=True)
    return where[(None,) * (x.dim() - where.dim())].movedim(1, -1).numpy(force=True)


def _plain(t: Tensor) -> Tensor:
    """A tensor without the methods of its subclass."""
    return t if type(t) in PLAIN_TYPES else Tensor.as_subclass(t, Tensor)


def _apart(a: Any) -> Tensor:
    """`tensor_of` of one row of two that a device's tensors share: results of an operator must not share storage."""
    return a.clone() if isinstance(a, Tensor) else tensor_of(a)


def tensor_of(a: Any) -> Tensor:
    """The memory of what the functions give as a tensor; a copy where it is read-only, which tensors cannot be."""
    if isinstance(a, Tensor):
        return a
    a = a if a.flags.writeable else a.copy()
    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype.kind == "V" else torch.from_numpy(a)
