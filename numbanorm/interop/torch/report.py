"""`report`: which norm layers of a torch model `numbanorm` computes, and why not the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from ...backends import dispatch
from .around import AROUND
from .convert import THEIRS, fused_norms, ours_of
from .recognized import TRANSFORMERS

FROZEN = "FrozenBatchNorm"  # torchvision's, and those of others
NORMS = (_NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm, torch.nn.LocalResponseNorm)


class NormLayer(NamedTuple):
    """A norm layer of a model."""

    name: str  # as in model.named_modules(); empty for the model itself
    kind: str  # name of its class
    converted: bool  # whether numbanorm computes it
    why: str  # it does not; empty if it does
    exact: bool = False  # whether it does so with exact=True


class Report(tuple[NormLayer, ...]):
    """The norm layers of a model, in the order of model.named_modules(); printed, a table."""

    __slots__ = ()

    def __str__(self) -> str:
        cells = [
            (n.name or "(itself)", n.kind, "numbanorm" + ", exact" * n.exact if n.converted else f"left alone: {n.why}")
            for n in self
        ]
        widths = [max((len(row[k]) for row in cells), default=0) for k in (0, 1)]
        rows = [f"{name:{widths[0]}}  {kind:{widths[1]}}  {state}" for name, kind, state in cells]
        return "\n".join([*rows, f"{sum(n.converted for n in self)} of {len(self)} norm layers are computed by numbanorm"])


def report(module: torch.nn.Module) -> Report:
    """List the norm layers of a model: which numbanorm computes, and why not the others.

    Parameters
    ----------
    module : torch.nn.Module
        Converted or not; not changed. Listed are torch's norm layers, their subclasses, and whatever looks like one: a
        class with Norm in its name, a `weight`, and an attribute like `eps`.

    Returns
    -------
    Report
        A tuple of `NormLayer`: name, kind, converted, why, exact. Printed, it is a table.

    Examples
    --------
    >>> import torch
    >>> from numbanorm.interop.torch import convert, report
    >>> model = torch.nn.Sequential(convert(torch.nn.LayerNorm(4)), torch.nn.GroupNorm(2, 4))
    >>> print(report(model))
    0  LayerNorm  numbanorm
    1  GroupNorm  left alone: still torch's; call convert
    1 of 2 norm layers are computed by numbanorm
    >>> [layer.name for layer in report(model) if not layer.converted]
    ['1']
    """
    fused = {norm: m for m in module.modules() for norm in fused_norms(m)}
    rows = []
    for name, m in module.named_modules():
        if _looks_like_a_norm(m):
            why = _why_not(m) or _why_not_always(m, fused.get(m))
            rows.append(NormLayer(name, _kind(m), not why, why, not why and m.exact))
    return Report(rows)


def _kind(m: Any) -> str:
    """Name of a module's class, before TorchScript compiled it."""
    return str(m.original_name) if isinstance(m, torch.jit.ScriptModule) else type(m).__name__


def _looks_like_a_norm(m: Any) -> bool:
    """Whether this is a norm layer, by its class, or by its class's name and its attributes."""
    if isinstance(m, NORMS) or _known(type(m)) or FROZEN in _kind(m):
        return True
    if "Norm" not in _kind(m):
        return False
    return isinstance(m, torch.jit.ScriptModule) or (hasattr(m, "weight") and any("eps" in name for name in vars(m)))


def _why_not(m: Any) -> str:
    """Why a layer's own class does not compute with numbanorm; empty if it does."""
    cls: Any = type(m)
    ours = next((base for base in cls.__mro__ if base in THEIRS or base in AROUND), None)
    known = _known(cls)
    if isinstance(m, torch.jit.ScriptModule):
        return "compiled by TorchScript"
    if "forward" in vars(m):
        return "its forward was replaced on the instance"
    if ours is not None:
        return "" if cls.forward is ours.forward else f"subclass of {ours.__name__} with a forward of its own"
    if cls is known:
        return "still transformers'; call convert" if _of_transformers(cls) else "still torch's; call convert"
    if isinstance(m, LazyModuleMixin):
        return "lazy; call convert after its first call"
    if is_parametrized(m):
        return "parametrized; call convert before it is"
    if isinstance(m, torch.nn.SyncBatchNorm):
        return "" if cls.__module__.startswith("numbanorm.") else "its statistics are those of all processes"
    if cls.__module__.startswith("torch.ao."):
        return "quantized"
    if isinstance(m, torch.nn.LocalResponseNorm):
        return "divides by sums over neighbouring channels, which no norm of numbanorm does"
    if FROZEN in cls.__name__:
        return "frozen: multiplies and adds, and takes no statistics"
    if known is None:
        return "its forward is none that convert knows" if _of_transformers(cls) else "not a class of torch.nn's"
    own = "with a forward of its own" if cls.forward is not known.forward else "which may compute something else"
    return f"subclass of {'transformers' if _of_transformers(known) else 'torch.nn'}.{known.__name__}, {own}"


def _known(cls: type) -> Any:
    """The class that convert knows of a class and its bases; None if there is none."""
    return next((base for base in cls.__mro__ if ours_of(base)), None)


def _of_transformers(cls: type) -> bool:
    """Whether a class is of the library transformers."""
    return cls.__module__.startswith(TRANSFORMERS)


def _why_not_always(m: Any, owner: torch.nn.Module | None) -> str:
    """Why numbanorm does not compute a layer all the same: who bypasses it, or where its tensors lie."""
    if owner is not None:
        return f"bypassed by {type(owner).__name__} in evaluation without gradients; call convert on the whole model"
    for device in {t.device for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))}:
        if device.type not in ("cpu", "cuda", "meta"):
            return f"on {device}; move it to the CPU or a CUDA device"
        if device.type == "cuda" and dispatch.why_no_cuda():
            return f"on {device}; move it to the CPU, or mend this: {dispatch.why_no_cuda()}"
    return ""
