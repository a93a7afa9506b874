"""The norms in plain NumPy: slow, the documentation of record, and what tests compare the kernels with by `==`."""

from .norms import Statistics, backward, forward, narrow

__all__ = ["Statistics", "backward", "forward", "narrow"]
