"""The norms as functions of tensors and as modules: torch's signatures, classes and state, numbanorm's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ...spec import checks
from .checks import check_tensors, with_offset
from .convert import register
from .included import joined, normalize_included
from .operators import NO_RUNNING, Running, call, normalize, normalize_unseen, spread_out


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    exact: bool = False,
    where: Tensor | None = None,
    weight_offset: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.layer_norm`, computed by `numbanorm.layer_norm`.

    Parameters
    ----------
    input : tensor of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Copied first unless it is contiguous.
    normalized_shape : sequence of int
    weight, bias : tensor of shape normalized_shape, optional
        Both of one float type, not necessarily the input's. Of any shape that broadcasts to the input's: plain tensors on the
        CPU, in eager mode, and first derivatives.
    eps : float
    exact : bool
        As for `numbanorm.layer_norm`.
    where : bool tensor that broadcasts to the input's shape, optional
        As for `numbanorm.layer_norm`: plain tensors on the CPU, in eager mode, and first derivatives.
    weight_offset : float
        As for `numbanorm.layer_norm`: added by torch, in float32, or in float64 with exact and for a float64 input.

    Returns
    -------
    contiguous tensor of the input's shape and dtype

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.
    """
    if has_torch_function_variadic(input, weight, bias):
        tensors, how = (input, weight, bias), {"exact": exact, "where": where, "weight_offset": weight_offset}
        return handle_torch_function(layer_norm, tensors, input, normalized_shape, weight, bias, eps, **how)
    if weight_offset != 0.0:
        weight, bias = with_offset(input, weight, bias, weight_offset, exact)
    return _apply("layer_norm", input, normalized_shape, (weight, bias), (eps, exact, where))


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    exact: bool = False,
    where: Tensor | None = None,
    weight_offset: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.rms_norm`, computed by `numbanorm.rms_norm`.

    Parameters
    ----------
    input : tensor of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Copied first unless it is contiguous.
    normalized_shape : sequence of int
    weight : tensor of shape normalized_shape, optional
        Of any of these float types.
    eps : float, optional
        By default the machine epsilon of float32, or that of float64 for a float64 input: what torch computes with.
    exact, where, weight_offset
        As for `layer_norm`.

    Returns
    -------
    contiguous tensor of the input's shape and dtype

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.
    """
    if has_torch_function_variadic(input, weight):
        how = {"exact": exact, "where": where, "weight_offset": weight_offset}
        return handle_torch_function(rms_norm, (input, weight), input, normalized_shape, weight, eps, **how)
    if weight_offset != 0.0:
        weight, _ = with_offset(input, weight, None, weight_offset, exact)
    return _apply("rms_norm", input, normalized_shape, (weight, None), (eps, exact, where))


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    exact: bool = False,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.group_norm`, computed by `numbanorm.group_norm`.

    Parameters
    ----------
    input : tensor of shape (N, C, ...), float16, bfloat16, float32 or float64
        Contiguous or channels_last; else copied first.
    num_groups : int
    weight, bias : tensor of shape (C,), optional
        Both of one float type, not necessarily the input's.
    eps : float
    exact, where
        As for `layer_norm`.

    Returns
    -------
    tensor of the input's shape and dtype, channels_last if the input is

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.
    """
    if has_torch_function_variadic(input, weight, bias):
        tensors, how = (input, weight, bias), {"exact": exact, "where": where}
        return handle_torch_function(group_norm, tensors, input, num_groups, weight, bias, eps, **how)
    return _apply("group_norm", input, (num_groups,), (weight, bias), (eps, exact, where))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    exact: bool = False,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.instance_norm`, computed by `numbanorm.instance_norm`.

    Parameters
    ----------
    input : tensor of shape (N, C, ...), float16, bfloat16, float32 or float64
        Contiguous or channels_last; else copied first.
    running_mean, running_var : tensor of shape (C,), optional
        Updated in place with use_input_stats; without, they normalize.
    weight, bias : tensor of shape (C,), optional
        Both of one float type, not necessarily the input's.
    use_input_stats : bool
    momentum, eps : float
    exact, where
        As for `layer_norm`.

    Returns
    -------
    tensor of the input's shape and dtype, channels_last if the input is

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel; before anything is computed.
    """
    tensors = (input, running_mean, running_var, weight, bias)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(instance_norm, tensors, *tensors, use_input_stats, momentum, eps, exact=exact, where=where)
    running = (running_mean, running_var, None)
    return _apply("instance_norm", input, (), (weight, bias), (eps, exact, where), running, use_input_stats, momentum)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    exact: bool = False,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, computed by `numbanorm.batch_norm`.

    Parameters
    ----------
    input : tensor of shape (N, C) or (N, C, ...), float16, bfloat16, float32 or float64
        Contiguous or channels_last; else copied first.
    running_mean, running_var : tensor of shape (C,), or None
        Updated in place in training; else they are wanted, and normalize.
    weight, bias : tensor of shape (C,), optional
        Both of one float type, not necessarily the input's.
    training : bool
    momentum, eps : float
    exact, where
        As for `layer_norm`.

    Returns
    -------
    tensor of the input's shape and dtype, channels_last if the input is

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel in training; before anything is computed.
    """
    tensors = (input, running_mean, running_var, weight, bias)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(batch_norm, tensors, *tensors, training, momentum, eps, exact=exact, where=where)
    running = (running_mean, running_var, None)
    return _apply("batch_norm", input, (), (weight, bias), (eps, exact, where), running, training, momentum)


def _counted_batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    training: bool, how: tuple[float, bool, Tensor | None], num_batches_tracked: Tensor,
) -> Tensor:  # fmt: skip
    """`batch_norm` whose running statistics average over all batches, of which so many came before; how: see `_apply`."""
    tensors = (input, running_mean, running_var, weight, bias)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(_counted_batch_norm, tensors, *tensors, training, how, num_batches_tracked)
    running = (running_mean, running_var, num_batches_tracked)
    return _apply("batch_norm", input, (), (weight, bias), how, running, training, None)


def affine_of(module: Any) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias, in a tenth of the time of torch's __getattr__, which is for what is no parameter (parametrized)."""
    own = module._parameters
    try:
        return own["weight"], own["bias"]
    except KeyError:
        return module.weight, getattr(module, "bias", None)  # RMS norm has none


def state_of(module: Any) -> tuple[Tensor | None, Tensor | None]:
    """Running mean and variance, likewise."""
    own = module._buffers
    try:
        return own["running_mean"], own["running_var"]
    except KeyError:
        return module.running_mean, module.running_var


def running_of(module: Any) -> tuple[bool, float | None, Tensor | None, Tensor | None, Tensor | None]:
    """Of a batch norm: whether x's own statistics normalize it, momentum (None: an average), running statistics, counter."""
    tracking = module.training and module.track_running_stats
    mean, var = state_of(module)
    own = module.training or (mean is None and var is None)
    mean, var = (mean, var) if tracking or not module.training else (None, None)
    counter = module.num_batches_tracked if tracking else None
    # without a counter there is no average, and torch leaves the running statistics as they are
    return own, None if module.momentum is None and counter is not None else module.momentum or 0.0, mean, var, counter


class _Batch(_BatchNorm):
    """torch's forward pass with numbanorm's; the batch is counted when it is done."""

    def forward(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        self._check_input_dim(input)
        own, momentum, mean, var, counter = running_of(self)
        weight, bias = affine_of(self)
        if momentum is None and counter is not None:
            y = _counted_batch_norm(input, mean, var, weight, bias, own, (self.eps, self.exact, where), counter)
        else:
            y = batch_norm(input, mean, var, weight, bias, own, momentum or 0.0, self.eps, exact=self.exact, where=where)
        if counter is not None:
            counter.add_(1)
        return y


class BatchNorm1d(_Batch, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, computed by `batch_norm`."""


class BatchNorm2d(_Batch, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, computed by `batch_norm`."""


class BatchNorm3d(_Batch, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, computed by `batch_norm`."""


class _Instance(_InstanceNorm):
    """torch's forward pass around `instance_norm` of this module."""

    def forward(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        if where is None:
            return super().forward(input)
        self._check_input_dim(input)
        alone = input.dim() == self._get_no_batch_dim()
        y = self._apply_instance_norm(input[None] if alone else input, where)
        return y[0] if alone else y

    def _apply_instance_norm(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        momentum = 0.0 if self.momentum is None else self.momentum
        own = self.training or not self.track_running_stats
        (weight, bias), (mean, var) = affine_of(self), state_of(self)
        return instance_norm(input, mean, var, weight, bias, own, momentum, self.eps, exact=self.exact, where=where)


class InstanceNorm1d(_Instance, torch.nn.InstanceNorm1d):
    """`torch.nn.InstanceNorm1d`, computed by `instance_norm`."""


class InstanceNorm2d(_Instance, torch.nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d`, computed by `instance_norm`."""


class InstanceNorm3d(_Instance, torch.nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d`, computed by `instance_norm`."""


class LayerNorm(torch.nn.LayerNorm):
    """`torch.nn.LayerNorm`, computed by `layer_norm`."""

    def forward(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        weight, bias = affine_of(self)
        return layer_norm(input, self.normalized_shape, weight, bias, self.eps, exact=self.exact, where=where)


class RMSNorm(torch.nn.RMSNorm):
    """`torch.nn.RMSNorm`, computed by `rms_norm`."""

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.normalized_shape, affine_of(self)[0], self.eps, exact=self.exact, where=where)


class GroupNorm(torch.nn.GroupNorm):
    """`torch.nn.GroupNorm`, computed by `group_norm`."""

    def forward(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        weight, bias = affine_of(self)
        return group_norm(input, self.num_groups, weight, bias, self.eps, exact=self.exact, where=where)


MODULES = (
    *(BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d),
    *(LayerNorm, RMSNorm, GroupNorm),
)
register(MODULES, (layer_norm, rms_norm, group_norm, instance_norm, batch_norm))


def _apply(
    kind: str, input: Tensor, size: Sequence[int], parameters: tuple[Tensor | None, Tensor | None],
    how: tuple[float | None, bool, Tensor | None], running: Running = NO_RUNNING, own: bool = True,
    momentum: float | None = 0.0,
) -> Tensor:  # fmt: skip
    """Check what NumPy cannot see, normalize, and update the running statistics. parameters: weight, bias; how: eps, exact,
    where."""
    (weight, bias), (eps, exact, where) = parameters, how
    done = (
        None if where is not None else normalize_unseen(input, weight, bias, running, (kind, size, own, momentum, eps, exact))
    )
    if done is not None:
        return done
    exact = checks.flag("exact", exact)
    check_tensors(input=input, weight=weight, bias=bias, running_mean=running[0], running_var=running[1])
    if eps is None:
        eps = torch.finfo(torch.float64 if input.dtype == torch.float64 else torch.float32).eps
    if bias is not None and weight is None:
        weight = torch.ones_like(bias)  # for its dtype, which dbias has
    how_ = kind, size, own, momentum, eps, exact
    if spread_out(weight, bias, how_):
        return normalize_included(input, *joined(weight, bias), running, how_, where)
    if where is not None:
        return normalize_included(input, weight, bias, running, how_, where)
    y, _, _, *updated = call(normalize, input, weight, bias, *running, kind, list(size), own, momentum, eps, exact)
    if own:
        for old, new in zip(running[:2], updated, strict=True):
            if old is not None:
                old.copy_(new)
    return y
