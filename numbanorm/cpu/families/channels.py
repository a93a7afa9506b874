"""Sums of channels in each sample -> what dx of their groups takes, and gradients of parameters.

A group's sums are the row tree over its channels, each times its weight; dweight and dbias are the row tree over the samples of
what the channel's sums give. So x and dy are read once for all gradients of parameters, and once for dx.
"""

from __future__ import annotations

from numba import int64

from ..arith.accumulators import block_rows, drain, empty, get, plus, push
from ..arith.elementwise import fits_scale
from ..arith.gradient_sums import gradients_of, numbers, settle, weighted
from ..arith.statistics import divisor
from ..arith.vectors import advance
from ..compile import device
from ..layout import OFFSET, ROOT, UNIT


@device(inline=False)
def settle_group(flags, arrays, sums, groups, channels, u, stack):
    """The sums of the channels of group u, times their weights, in the row tree -> its table. sums: (units, channels, 4)."""
    x, _, _, w, table, count = arrays
    rows, first, good = block_rows(channels), u % groups * channels, True
    blocks = (channels + rows - 1) // rows
    for b in range(blocks):
        a = empty(x, 4)
        for k in range(b * rows, min(channels, (b + 1) * rows)):
            good &= fits_scale(x, table[UNIT * u + ROOT], w[first + k])
            a = plus(a, weighted(get(sums, 4 * (u * channels + k), empty(x, 4)), w[first + k]))
        push(stack, int64(0), int64(4), b, a)
    n = divisor(count, u, int64(1), empty(x, 1))
    settle(flags, drain(stack, int64(0), int64(4), blocks, empty(x, 4)), advance(table, UNIT * u), n, good)


@device(inline=False)
def reduce_samples(x, sums, table, grads, sizes, lo, hi, stack):
    """dweight and dbias of channels lo .. hi - 1: the row tree over the samples. sums: (samples, groups * channels, 4)."""
    samples, groups, channels = sizes.samples, sizes.groups, sizes.channels
    rows, every = block_rows(samples), groups * channels
    blocks = (samples + rows - 1) // rows
    for c in range(lo, hi):
        for k in range(blocks):
            a = empty(x, 4)
            for b in range(k * rows, min(samples, (k + 1) * rows)):
                unit = UNIT * (b * groups + c // channels)
                a = plus(a, gradients_of(get(sums, 4 * (b * every + c), empty(x, 4)), table[unit + ROOT], table[unit + OFFSET]))
            push(stack, int64(0), int64(4), k, a)
        grads[every + c], grads[c] = numbers(drain(stack, int64(0), int64(4), blocks, empty(x, 4)))
