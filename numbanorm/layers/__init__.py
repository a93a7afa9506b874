"""The norms as layers with state: torch.nn's constructor arguments, attributes and state_dict, on NumPy arrays.

    y = (x - mean) / sqrt(var + eps) * weight + bias        (RMS norm: x / sqrt(mean(x**2) + eps) * weight)

A layer keeps parameters and running statistics and hands them to the functions of `functional` and `gradients`, which say
what is computed: the bits are theirs.

    y = layer(x)
    dx = layer.backward(dy)
    layer.weight -= rate * layer.grad["weight"]

There is no tape. `backward` is that of the layer's last call; what it needs (x itself, not a copy, and the statistics) is
kept until the next one. In evaluation mode a call changes nothing else, so many threads may share a layer; whose call was
the last is then a matter of chance, so `backward` is for a layer that one thread uses.
"""

from .norms import GroupNorm, LayerNorm, RMSNorm
from .running import BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
]
