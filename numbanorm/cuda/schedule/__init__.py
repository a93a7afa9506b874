"""Kernels that a call launches."""
