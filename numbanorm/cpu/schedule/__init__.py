"""Schedules: the work of a call, cut for threads."""
