"""Calls of norms: arguments are checked, the call is looked up, and a backend's kernels are started."""
