"""Normalization kernels for NumPy arrays: exact, reproducible, at memory speed, in one call."""

from .commands import quiet  # noqa: F401 - before all that takes long
from .explained import explain
from .functional import Stats, batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .gradients import batch_norm_backward, group_norm_backward, instance_norm_backward, layer_norm_backward, rms_norm_backward
from .jit import INSIDE  # noqa: F401 - what Numba is told of
from .layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from .moments import Moments, moments
from .precompile import warmup
from .standardize import standardize, standardize_backward, standardize_sums
from .versions import info, show_versions

__version__ = "0.2.0"

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Moments",
    "RMSNorm",
    "Stats",
    "batch_norm",
    "batch_norm_backward",
    "explain",
    "group_norm",
    "group_norm_backward",
    "info",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "rms_norm",
    "rms_norm_backward",
    "show_versions",
    "standardize",
    "standardize_backward",
    "standardize_sums",
    "warmup",
]


def __dir__() -> list[str]:
    """What a user looks for: the public names, and not the modules that they come from."""
    return [*__all__, "__doc__", "__version__"]
