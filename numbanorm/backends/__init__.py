"""Who computes: the backend where the arrays live, and the arrays of a call in host memory."""
