"""The CPU backend: Numba kernels over explicit vectors."""
