"""Norms with what stands around them, as modules: one pass, of plain tensors on the CPU, in eager mode, and first derivatives.

Other tensors, and whoever wants to see torch's operations, get the operations one after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...execute.backward import backward
from ...execute.forward import forward
from ...spec.around import activation_of
from ...spec.norms import NORMS
from .addresses import layout_of
from .convert import leaf
from .eager import recorded, unseen
from .modules import BatchNorm2d, LayerNorm, RMSNorm, affine_of, running_of, state_of
from .operators import NO_RUNNING, How, Running, _array, tensor_of, tracked

FUNCTIONS: dict[str, Any] = {"relu": torch.nn.functional.relu, "relu6": torch.nn.functional.relu6}
Named = str | tuple[str, float] | None  # an activation


class Beside(NamedTuple):
    """What stands around a norm."""

    residual: Tensor | None = None
    addend: Tensor | None = None
    activation: Named = None


class Joined(torch.autograd.Function):
    """What was computed in one pass, for autograd; as `operators.Numbanorm`. made: y, x + residual, statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Any, bias: Any, residual: Any, addend: Any, made: tuple[Any, ...], told: tuple[How, Named]
    ) -> Any:
        (y, h, ctx.stats), (ctx.how, ctx.activation) = made, told
        ctx.save_for_backward(x if h is None else h, weight, None if ctx.activation is None else y)
        ctx.set_materialize_grads(False)
        return y if h is None else (y, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None = None) -> tuple[Tensor | None, ...]:
        h, weight, y = ctx.saved_tensors
        kind, size, own, _, _, exact = ctx.how
        x_, w_, b_, residual, addend = ctx.needs_input_grad[:5]
        needs, norm = (x_ or residual, w_, b_), NORMS[kind]
        layout, axis = layout_of(kind, h)
        dy = torch.zeros_like(h) if dy is None else dy.contiguous(memory_format=layout)
        dx = torch.empty_like(h, memory_format=layout) if needs[0] else None
        after = None if dh is None or dx is None else _array(dh.contiguous(memory_format=layout), axis)
        how = needs[: 1 + len(norm.parameters)], exact, None if dx is None else _array(dx, axis), None, None
        around = None if y is None else _array(y, axis), ctx.activation, after, addend
        arrays, w = (_array(dy, axis), _array(h, axis)), None if weight is None else _array(weight)
        _, *rest = backward(kind, *arrays, norm.which(size, axis), ctx.stats, w, (*how, *around), own)
        dz = _tensor(rest.pop(), axis) if addend else None
        gradients = [None if g is None else tensor_of(g) for g in (*rest, *(None,) * (2 - len(rest)))]
        return dx if x_ else None, *gradients, dx if residual else None, dz, None, None


def _tensor(a: Any, axis: int) -> Tensor:
    """An array with its channels there as a tensor."""
    t = tensor_of(a)
    return t if axis == 1 else t.movedim(-1, 1)


def fits(x: Tensor, *others: Tensor | None) -> bool:
    """Whether one pass can be made of these."""
    return unseen(x, *others) and x.is_floating_point() and all(t is None or t.is_floating_point() for t in others)


def in_one_pass(
    x: Tensor, parameters: tuple[Tensor | None, Tensor | None], how: How, beside: Beside, running: Running = NO_RUNNING
) -> tuple[Tensor, Tensor | None]:
    """y, and x + residual if there is one, of tensors that `fits`; running statistics are updated where they lie."""
    (kind, size, own, momentum, eps, exact), (weight, bias) = how, parameters
    norm, (layout, axis) = NORMS[kind], layout_of(kind, x)
    if bias is not None and weight is None:
        weight = torch.ones_like(bias)  # for its dtype, which dbias has
    residual, addend = (None if t is None else t.contiguous(memory_format=layout) for t in beside[:2])
    source, tracking, (running, updated) = x.contiguous(memory_format=layout), None, tracked(running, own)
    y = torch.empty_like(source, memory_format=layout)
    if norm.own:
        mean, var, counter = (None if t is None else _array(t) for t in running)
        tracking = mean, var, momentum, counter, "torch", own
    affine = None if weight is None else _array(weight), None if bias is None else _array(bias), eps
    z, r = (None if t is None else _array(t, axis) for t in (addend, residual))
    around = None, r, r is not None, z, beside.activation
    options, which = (None, exact, _array(y, axis), True, None), norm.which(size, axis)
    _, *h, stats = forward(kind, _array(source, axis), which, affine, options, tracking, None, around)
    for t in updated:
        torch.autograd.graph.increment_version(t)
    total = _tensor(h[0], axis) if h else None
    if not recorded(x, weight, bias, residual, addend):
        return y, total
    result = Joined.apply(x, weight, bias, beside.residual, beside.addend, (y, total, stats), (how, beside.activation))
    return result if isinstance(result, tuple) else (result, None)


def activated(y: Tensor, activation: Named) -> Tensor:
    """The activation as torch computes it."""
    if activation is None:
        return y
    kind = activation_of(activation)
    assert kind is not None
    if kind.name in FUNCTIONS:
        return FUNCTIONS[kind.name](y)
    return torch.nn.functional.leaky_relu(y, kind.slope)


def channels_norm(module: Any, input: Tensor, addend: Tensor | None, activation: Named) -> Tensor:
    """act(batch or group norm + addend) of a module of torch's; what cannot be made one pass is done apart."""
    group, exact = isinstance(module, torch.nn.GroupNorm), getattr(module, "exact", False)
    weight, bias = affine_of(module)
    if not group:
        module._check_input_dim(input)
    own, momentum, *running = (True, 0.0, None, None, None) if group else running_of(module)
    kind, size = ("group_norm", (module.num_groups,)) if group else ("batch_norm", ())
    how = kind, size, own, momentum, module.eps, exact
    y, _ = in_one_pass(input, (weight, bias), how, Beside(None, addend, activation), (running[0], running[1], running[2]))
    if running[2] is not None:
        running[2].add_(1)
    return y


class BatchNormAct2d(BatchNorm2d):
    """`BatchNorm2d`, then what is added, then an activation: act(norm(input) + addend), in one pass.

    The addend may be left out: `layer(input)`.

    Parameters
    ----------
    *args
        As for `torch.nn.BatchNorm2d`.
    activation : {None, "relu", "relu6", "leaky_relu"} or ("leaky_relu", slope)
        As for `numbanorm.batch_norm`.
    **kwargs
        As for `torch.nn.BatchNorm2d`, and `exact`, as for `numbanorm.batch_norm`.

    Examples
    --------
    >>> import torch
    >>> layer, x = BatchNormAct2d(4), torch.randn(8, 4, 6, 6)
    >>> layer(x, addend=x).min().item()
    0.0
    """

    activation: Named = "relu"

    def __init__(self, *args: Any, activation: Named = "relu", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        activation_of(activation)  # raises for what is none
        self.activation = activation

    @leaf
    def forward(self, input: Tensor, addend: Tensor | None = None) -> Tensor:
        tensors = addend, *affine_of(self), *state_of(self)
        if fits(input, *tensors):
            return channels_norm(self, input, addend, self.activation)
        y = super().forward(input)
        return activated(y if addend is None else y + addend, self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class FusedAddLayerNorm(LayerNorm):
    """`LayerNorm` of a sum, in one pass: `layer(input, residual)` gives norm(input + residual), and input + residual.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, bias, device, dtype
        As for `torch.nn.LayerNorm`.
    exact : bool
        As for `numbanorm.layer_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer, x, residual = FusedAddLayerNorm(8), torch.randn(4, 8), torch.randn(4, 8)
    >>> y, h = layer(x, residual)
    >>> bool((h == x + residual).all())
    True
    """

    @leaf
    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = affine_of(self)
        if fits(input, residual, weight, bias):
            how = "layer_norm", tuple(self.normalized_shape), True, 0.0, self.eps, self.exact
            y, h = in_one_pass(input, (weight, bias), how, Beside(residual))
            assert h is not None
            return y, h
        total = input + residual
        return super().forward(total), total


class FusedAddRMSNorm(RMSNorm):
    """`RMSNorm` of a sum, in one pass: `layer(x, residual)` gives norm(x + residual), and x + residual.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, device, dtype
        As for `torch.nn.RMSNorm`.
    exact : bool
        As for `numbanorm.rms_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer, x, residual = FusedAddRMSNorm(8), torch.randn(4, 8), torch.randn(4, 8)
    >>> y, h = layer(x, residual)
    >>> bool((h == x + residual).all())
    True
    """

    @leaf
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        weight, _ = affine_of(self)
        if fits(x, residual, weight):
            how = "rms_norm", tuple(self.normalized_shape), True, 0.0, self.eps, self.exact
            y, h = in_one_pass(x, (weight, None), how, Beside(residual))
            assert h is not None
            return y, h
        total = x + residual
        return super().forward(total), total


AROUND = BatchNormAct2d, FusedAddLayerNorm, FusedAddRMSNorm
