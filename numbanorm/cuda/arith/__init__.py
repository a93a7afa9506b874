"""Arithmetic of kernels, with the bits of the CPU; or in plain Python where Numba simulates a GPU."""
