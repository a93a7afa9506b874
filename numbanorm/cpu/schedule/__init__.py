"""How the work of a call is cut for threads."""
