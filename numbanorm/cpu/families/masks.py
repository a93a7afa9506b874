"""What a mask lets in, counted; and what is written where it leaves elements out."""

from __future__ import annotations

import numpy as np

from ..arith.masked import overwrite, popcount
from ..arith.vectors import keep, pointer
from ..compile import kernel


@kernel()
def write(y, biases, counts, sizes):
    """The bias of its channel for each element of y (B, M, G, K, T) in groups of count 0. sizes: M, G, K, T."""
    runs, groups, channels, length = sizes
    to, values = pointer(y), pointer(biases)
    for u in range(len(counts)):
        if counts[u] == 0:
            g, first = u % groups, (u // groups * runs * groups + u % groups) * channels * length
            for i in range(first, first + runs * groups * channels * length, groups * channels * length):
                for k in range(channels):
                    for j in range(i + k * length, i + (k + 1) * length):
                        to[j] = values[g * channels + k]


@kernel()
def count(mask, sizes, counts):
    """Bytes that are set, of each group -> counts (B * G,). sizes: runs, groups, the first four of `Lines`, three steps."""
    runs, groups, outer, middle, line, each, row_step, line_step, step = sizes
    p, apart = pointer(mask), line > each  # a line has several groups, and is all of a row
    columns = np.zeros(line if apart else 0, np.int64)
    sums = pointer(columns)
    for o in range(outer):
        first = o // runs * groups
        for j in range(middle):
            at = o * row_step + j * line_step
            if not apart:
                n = popcount(p, at, line) if step else line * (p[at] != 0)
                counts[first + j * groups // middle] += n
            elif step:
                for k in range(line):
                    sums[k] += p[at + k] != 0
            else:
                sums[0] += p[at] != 0
        if apart and (o + 1) % runs == 0:
            for k in range(line):
                counts[first + k // each] += sums[k * step]
            for k in range(line):
                sums[k] = 0
    keep(columns)


@kernel()
def fill(y, value, mask, sizes):
    """y = value[0] where a byte is not set. sizes: the first three of `Lines`, and three steps."""
    outer, middle, line, row_step, line_step, step = sizes
    to, p = pointer(y), pointer(mask)
    for o in range(outer):
        for j in range(middle):
            at, i = o * row_step + j * line_step, (o * middle + j) * line
            if step:
                overwrite(to, i, line, p, at, value[0])
            elif p[at] == 0:
                for k in range(i, i + line):
                    to[k] = value[0]
