"""timm's norms that end in an activation for `convert`: BatchNormAct2d and GroupNormAct, in one pass where it is a known one.

The library is not imported here: whoever has such a module has it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .around import channels_norm, fits
from .convert import register
from .modules import BatchNorm2d, GroupNorm, affine_of
from .recognized import _reduce

MODULE = "timm.layers.norm_act"
OURS: dict[str, Any] = {"BatchNormAct2d": BatchNorm2d, "GroupNormAct": GroupNorm}


def activation_of_module(act: Any) -> Any:
    """The activation that a module computes: its name, or None for nothing; False for another."""
    kinds: dict[type, Any] = {torch.nn.Identity: None, torch.nn.ReLU: "relu", torch.nn.ReLU6: "relu6"}
    if type(act) is torch.nn.LeakyReLU and 0.0 <= act.negative_slope < 1.0:
        return "leaky_relu", act.negative_slope
    return False if act._forward_hooks or act._forward_pre_hooks else kinds.get(type(act), False)


def recognize_timm(theirs: Any) -> None:
    """Make and register a class for one of the library's."""
    ours = OURS.get(theirs.__name__)
    if theirs.__module__ != MODULE or ours is None or not issubclass(theirs, ours.__bases__[-1]):
        return

    @functools.wraps(theirs.forward)
    def forward(self: Any, x: Tensor) -> Tensor:
        activation: Any = activation_of_module(self.act) if type(self.drop) is torch.nn.Identity else False
        if activation is not False and fits(x, *affine_of(self)):
            return channels_norm(self, x, None, activation)
        y: Tensor = self.act(self.drop(ours.forward(self, x)))
        return y

    cls = type(theirs.__name__, (theirs,), {"__doc__": theirs.__doc__, "forward": forward, "__reduce_ex__": _reduce})
    register((cls,), ())
