"""Phases, flags and array layouts shared by schedules and the five kernels."""

from __future__ import annotations

# phases: all of a unit's work at once, or one step for all units before the next; REDUCE joins gradients of parameters
FUSED, MEASURE, JOIN, APPLY, REDUCE = 0, 1, 2, 3, 4

# flags: CENTER and SQUARES name what is measured (both, in FUSED); the others say how. PARAMETERS: their gradients are wanted;
# ALONE: one call does all in FUSED, and REDUCE follows in it
CENTER, SQUARES, WRITE, ONE_READ, STREAM, PARAMETERS, ALONE = 1, 2, 4, 8, 16, 32, 64

# rows of the statistics, float64 (4, units): mean = MEAN + LOW, unevaluated
MEAN, LOW, M2, RSTD = 0, 1, 2, 3

# columns of the backward pass's table, float64 (units, UNIT): the mean and rstd that came, and what `products.settle` adds;
# slope and shift have low parts for float64 elements
UNIT = 8
ANCHOR, ROOT, SLOPE, SHIFT, OFFSET, SLOPE_LOW, SHIFT_LOW, SIZE = 0, 1, 2, 3, 4, 5, 6, 7

LEVELS = 64  # of a pairs tree: its stack never holds more
PIECE = 512  # columns that are worked on together: their sums, or mean, scale and shift, stay in L1
LANE_ROOM = 32  # accumulators that the run tree over columns uses
TALL = 128  # elements between rows up to which a block's rows are added column by column, not eight rows at a time
BATCH = 4096  # elements of short rows that go through the passes together, so that no row waits for another's division
