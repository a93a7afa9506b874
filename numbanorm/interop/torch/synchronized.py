"""Batch norm of tensors on the CPU whose batch is spread over the processes of torch.distributed, and its module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from ...communicators import refused
from ...functional import batch_norm as forward
from ...gradients import batch_norm_backward
from ...spec import checks
from .addresses import layout_of
from .checks import check_tensors
from .modules import _Batch
from .operators import _array, tensor_of


class Synchronized(torch.autograd.Function):
    """Batch norm with the statistics of all processes; every one of them has to call backward, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Any, how: Any) -> Tensor:
        momentum, eps, exact, group = how
        layout, axis = layout_of("batch_norm", x)
        x = x.contiguous(memory_format=layout)
        y = torch.empty_like(x, memory_format=layout)
        arrays = [None if t is None else _array(t) for t in (*running, weight, bias)]
        _, ctx.stats = forward(
            _array(x, axis), arrays[0], arrays[1], arrays[3], arrays[4], True, momentum, eps, channel_axis=axis,
            num_batches_tracked=arrays[2], exact=exact, out=_array(y, axis), return_stats=True, comm=group,
        )  # fmt: skip
        for t in running:
            if t is not None:
                torch.autograd.graph.increment_version(t)
        ctx.save_for_backward(x, weight)
        ctx.how = exact, group
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (exact, group) = ctx.saved_tensors, ctx.how
        layout, axis = layout_of("batch_norm", x)
        dx = torch.empty_like(x, memory_format=layout) if ctx.needs_input_grad[0] else None
        grads = batch_norm_backward(
            _array(dy.contiguous(memory_format=layout), axis), _array(x, axis), ctx.stats,
            None if weight is None else _array(weight), channel_axis=axis, needs=ctx.needs_input_grad[:3], exact=exact,
            out=None if dx is None else _array(dx, axis), comm=group,
        )  # fmt: skip
        return dx, *(None if g is None else tensor_of(g) for g in grads[1:]), None, None


def group_of(own: Any) -> Any:
    """What connects the processes, or None: a communicator of another library needs nothing of torch.distributed."""
    distributed = torch.distributed
    known = distributed.is_available()
    if own is not None and not (known and isinstance(own, distributed.ProcessGroup)):
        return own
    return (own or distributed.group.WORLD) if known and distributed.is_initialized() else None


class SyncBatchNorm(torch.nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` for tensors on the CPU, which torch's refuses, over gloo; computed by `numbanorm.batch_norm`.

    In training the statistics are those of the batches of all processes, the same on all to the bit; a process may have a batch
    of no samples, and an error of one is an error of all. Each has to call forward and backward as often as the others. The
    gradients of weight and bias are of what is here, as those of all other parameters: DistributedDataParallel takes their
    mean. In evaluation, and where torch.distributed is not initialized, it is `BatchNorm1d`, `BatchNorm2d` or `BatchNorm3d`.

    `process_group` may also be a communicator of mpi4py, or a function, as `comm` of `numbanorm.batch_norm`.

    Parameters
    ----------
    *args
        As for `torch.nn.SyncBatchNorm`.
    exact : bool
        As for `numbanorm.batch_norm`; also an attribute.
    **kwargs
        As for `torch.nn.SyncBatchNorm`.

    Examples
    --------
    >>> import torch
    >>> layer = SyncBatchNorm(3)
    >>> layer(torch.randn(8, 3, 4, 4)).shape
    torch.Size([8, 3, 4, 4])
    """

    exact = False

    def __init__(self, *args: Any, exact: bool = False, **kwargs: Any) -> None:
        """Make the layer; the arguments are those of `torch.nn.SyncBatchNorm`, and `exact` is as for `numbanorm.layer_norm`."""
        super().__init__(*args, **kwargs)
        if checks.flag("exact", exact):
            self.exact = True

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        group = group_of(self.process_group) if self.training else None
        if group is None:
            return _Batch.forward(self, input)
        tracked = (self.running_mean, self.running_var, self.num_batches_tracked) if self.track_running_stats else (None,) * 3
        try:
            self._check_input_dim(input)
            check_tensors(input=input, weight=self.weight, bias=self.bias, running_mean=tracked[0], running_var=tracked[1])
            if input.device.type != "cpu":
                raise TypeError(
                    f"input must be on the CPU: got {input.device}; take torch.nn.SyncBatchNorm, which computes there"
                )
        except Exception as error:
            refused(group, "batch_norm", error)
        how = self.momentum, self.eps, self.exact, group
        y: Tensor = Synchronized.apply(input, self.weight, self.bias, tracked, how)
        return y

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Let the batch norms of a model take the statistics of all processes.

        Parameters
        ----------
        module : torch.nn.Module
            A model, changed in place, other than by torch's: batch norms stay the objects that they are, with their parameters,
            buffers and hooks, and only their class is another. Those with a forward of their own, and lazy ones, stay.
        process_group : optional
            The processes; all of torch.distributed by default. Or a communicator of mpi4py.

        Returns
        -------
        torch.nn.Module
            `module` itself.

        Examples
        --------
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
        >>> isinstance(convert_sync_batchnorm(model)[1], SyncBatchNorm)
        True
        """
        known = {_BatchNorm.forward, torch.nn.SyncBatchNorm.forward, cls.forward}
        known |= {c.forward for c in _Batch.__subclasses__()}
        for m in module.modules():
            if not isinstance(m, _BatchNorm) or isinstance(m, LazyModuleMixin) or "forward" in vars(m):
                continue
            if type(m).forward in known:
                m.__class__ = cls
                m.process_group = process_group
        return module
