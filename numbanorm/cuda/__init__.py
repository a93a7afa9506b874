"""The CUDA backend. What imports any part of it imports numba.cuda first, by way of `compat`."""

from . import compat

__all__ = ["compat"]
