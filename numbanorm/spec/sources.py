"""Sources of the statistics of a call. Compiled code knows these numbers."""

from __future__ import annotations

OWN = 0  # x
TRACKED = 1  # x, and running statistics are updated with them
GIVEN = 2  # running statistics
RSTD = 3  # a rstd, and a mean or 0
