"""Bridges to other frameworks. Each module imports its framework; nothing else in the package does."""
