"""The norms as functions of tensors: torch's signatures, numbanorm's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ...spec import checks
from .checks import check_tensors, with_offset
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
        The last axes of the input, which share a mean and a variance.
    weight, bias : tensor of shape normalized_shape, optional
        Both of one float type, not necessarily the input's. For plain tensors on the CPU, in eager mode and with first
        derivatives, they may have any shape that broadcasts to the input's.
    eps : float
        Added to the variance.
    exact : bool
        As for `numbanorm.layer_norm`.
    where : bool tensor that broadcasts to the input's shape, optional
        As for `numbanorm.layer_norm`; for plain tensors on the CPU, in eager mode and with first derivatives.
    weight_offset : float
        As for `numbanorm.layer_norm`; torch adds it, in float32, or in float64 with exact and for a float64 input.

    Returns
    -------
    contiguous tensor of the input's shape and dtype

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import torch
    >>> layer_norm(torch.tensor([[1.0, 2.0, 3.0]]), (3,))
    tensor([[-1.2247,  0.0000,  1.2247]])
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
        The last axes of the input, which share a mean square.
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

    Examples
    --------
    >>> import torch
    >>> rms_norm(torch.tensor([[3.0, 4.0]]), (2,), eps=0.0)
    tensor([[0.8485, 1.1314]])
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
        Into how many groups of neighbours the channels are divided; each group of a sample has a mean.
    weight, bias : tensor of shape (C,), optional
        Both of one float type, not necessarily the input's.
    eps : float
        Added to the variance.
    exact, where
        As for `layer_norm`.

    Returns
    -------
    tensor of the input's shape and dtype, channels_last if the input is

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import torch
    >>> group_norm(torch.randn(2, 4, 6, 6), 2).shape
    torch.Size([2, 4, 6, 6])
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
        Whether each sample and channel has its own statistics; else the running ones normalize.
    momentum : float
        How much the new batch weighs in the running statistics.
    eps : float
        Added to the variance.
    exact, where
        As for `layer_norm`.

    Returns
    -------
    tensor of the input's shape and dtype, channels_last if the input is

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel; before anything is computed.

    Examples
    --------
    >>> import torch
    >>> instance_norm(torch.randn(2, 4, 6, 6)).shape
    torch.Size([2, 4, 6, 6])
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
        Whether the batch's own statistics normalize it; else the running ones do.
    momentum : float
        How much the new batch weighs in the running statistics.
    eps : float
        Added to the variance.
    exact, where
        As for `layer_norm`.

    Returns
    -------
    tensor of the input's shape and dtype, channels_last if the input is

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel in training; before anything is computed.

    Examples
    --------
    >>> import torch
    >>> batch_norm(torch.randn(2, 4, 6, 6), None, None, training=True).shape
    torch.Size([2, 4, 6, 6])
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
