"""The norms as modules: torch's classes and state, computed by the functions of `norms`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .convert import register
from .norms import _counted_batch_norm, batch_norm, group_norm, instance_norm, layer_norm, rms_norm


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
    """`torch.nn.BatchNorm1d`, computed by `batch_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for `torch.nn.BatchNorm1d`.
    exact : bool
        As for `numbanorm.batch_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = BatchNorm1d(2)
    >>> layer(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).detach()
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    """


class BatchNorm2d(_Batch, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, computed by `batch_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for `torch.nn.BatchNorm2d`.
    exact : bool
        As for `numbanorm.batch_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = BatchNorm2d(4)
    >>> layer(torch.randn(8, 4, 6, 6)).shape
    torch.Size([8, 4, 6, 6])
    """


class BatchNorm3d(_Batch, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, computed by `batch_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for `torch.nn.BatchNorm3d`.
    exact : bool
        As for `numbanorm.batch_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = BatchNorm3d(4)
    >>> layer(torch.randn(8, 4, 3, 6, 6)).shape
    torch.Size([8, 4, 3, 6, 6])
    """


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
    """`torch.nn.InstanceNorm1d`, computed by `instance_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for `torch.nn.InstanceNorm1d`.
    exact : bool
        As for `numbanorm.instance_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = InstanceNorm1d(4)
    >>> layer(torch.randn(8, 4, 6)).shape
    torch.Size([8, 4, 6])
    """


class InstanceNorm2d(_Instance, torch.nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d`, computed by `instance_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for `torch.nn.InstanceNorm2d`.
    exact : bool
        As for `numbanorm.instance_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = InstanceNorm2d(4, affine=True)
    >>> layer(torch.randn(8, 4, 6, 6)).shape
    torch.Size([8, 4, 6, 6])
    """


class InstanceNorm3d(_Instance, torch.nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d`, computed by `instance_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for `torch.nn.InstanceNorm3d`.
    exact : bool
        As for `numbanorm.instance_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = InstanceNorm3d(4)
    >>> layer(torch.randn(8, 4, 3, 6, 6)).shape
    torch.Size([8, 4, 3, 6, 6])
    """


class LayerNorm(torch.nn.LayerNorm):
    """`torch.nn.LayerNorm`, computed by `layer_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, bias, device, dtype
        As for `torch.nn.LayerNorm`.
    exact : bool
        As for `numbanorm.layer_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = LayerNorm(3, exact=True)
    >>> layer
    LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=True, exact=True)
    """

    def forward(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        weight, bias = affine_of(self)
        return layer_norm(input, self.normalized_shape, weight, bias, self.eps, exact=self.exact, where=where)


class RMSNorm(torch.nn.RMSNorm):
    """`torch.nn.RMSNorm`, computed by `rms_norm`. `layer(x, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, device, dtype
        As for `torch.nn.RMSNorm`.
    exact : bool
        As for `numbanorm.rms_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = RMSNorm(2, eps=0.0)
    >>> layer(torch.tensor([[3.0, 4.0]])).detach()
    tensor([[0.8485, 1.1314]])
    """

    def forward(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.normalized_shape, affine_of(self)[0], self.eps, exact=self.exact, where=where)


class GroupNorm(torch.nn.GroupNorm):
    """`torch.nn.GroupNorm`, computed by `group_norm`. `layer(input, where=mask)` takes a mask, as the function does.

    Parameters
    ----------
    num_groups, num_channels, eps, affine, device, dtype, bias
        As for `torch.nn.GroupNorm`.
    exact : bool
        As for `numbanorm.group_norm`; also an attribute.

    Examples
    --------
    >>> import torch
    >>> layer = GroupNorm(2, 4)
    >>> layer(torch.randn(8, 4, 6, 6)).shape
    torch.Size([8, 4, 6, 6])
    """

    def forward(self, input: Tensor, where: Tensor | None = None) -> Tensor:
        weight, bias = affine_of(self)
        return group_norm(input, self.num_groups, weight, bias, self.eps, exact=self.exact, where=where)


MODULES = (
    *(BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d),
    *(LayerNorm, RMSNorm, GroupNorm),
)
register(MODULES, (layer_norm, rms_norm, group_norm, instance_norm, batch_norm))
