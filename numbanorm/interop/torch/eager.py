"""Whether a call may pass torch by: nothing of torch's wants to see which operations compute it.

A custom operator costs 0.1 ms a call, most of which asks who wants to see it. In a call of plain tensors in eager mode
nobody does, and a look at the same places finds that out in 2 us. What it does not know for sure goes to the operator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

PLAIN_TYPES = frozenset((Tensor, torch.nn.Parameter))  # others may have methods of their own
_compiling = torch.compiler.is_compiling
_keys = torch._C._dispatch_keys
_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.get_dynamic_layer_stack_depth
_tracing = torch._C._get_tracing_state
_profiled = torch._C._autograd._profiler_enabled
_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality  # that of all devices


def _plain_keys() -> frozenset[int]:
    """What the dispatcher knows of dense tensors on the CPU: made outside of inference mode, and within."""
    with torch.inference_mode():
        inference = torch.empty(0)
    with torch.inference_mode(False):
        return frozenset(_keys(t).raw_repr() for t in (torch.empty(0), inference))


# so neither fake, functional, batched, conjugated, nested, sparse, quantized, nor of another device or a user's class
PLAIN_KEYS = _plain_keys()


def unseen(x: Tensor, *others: Tensor | None) -> bool:
    """Whether these are plain tensors on the CPU, and neither compiler, mode, transform, tracer nor profiler is at work.

    x, or a gradient like it: where its keys are plain, tensors of plain types beside it have none that change what they hold.
    """
    if _compiling() or _modes() or _transforms() or forward_ad._current_level >= 0:
        return False
    if _profiled() or _tracing() is not None or type(x) not in PLAIN_TYPES or _keys(x).raw_repr() not in PLAIN_KEYS:
        return False
    for t in others:  # noqa: SIM110 - a generator would take 0.4 us more
        if t is not None and (type(t) not in PLAIN_TYPES or not t.is_cpu):
            return False
    return True


def recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records what becomes of these."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return not _excluded(_AUTOGRAD)
    return False
