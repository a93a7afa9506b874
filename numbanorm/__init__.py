"""Normalization kernels for NumPy arrays: exact, reproducible, at memory speed, in one call."""

from .about import info, show_versions
from .functional import Stats, batch_norm, explain, group_norm, instance_norm, layer_norm, rms_norm
from .moments import Moments, moments

__version__ = "0.1.0"

__all__ = [
    "Moments",
    "Stats",
    "batch_norm",
    "explain",
    "group_norm",
    "info",
    "instance_norm",
    "layer_norm",
    "moments",
    "rms_norm",
    "show_versions",
]
