"""The kernels, by how the elements of a group lie in memory."""
