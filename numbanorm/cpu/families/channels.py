"""Sums of channels in each sample -> what dx of their groups takes, and gradients of parameters.

A group's sums are the row tree over its channels, each times its weight; dweight and dbias are the row tree over the samples of
what the channel's sums give. So x and dy are read once for all gradients of parameters, and once for dx.
"""

from __future__ import annotations

from numba import int64

from ..arith.accumulators import advance_by, block_rows, drain, empty, get, plus, push
from ..arith.gradient_sums import gradients_of, numbers, settle, weighted
from ..arith.vectors import advance
from ..compile import device
from ..layout import OFFSET, ROOT, UNIT


@device(inline=False)
def settle_group(todo, x, sums, w, channels, table, count, stack):
    """The sums of a group's channels (channels, 4), times their weights, in the row tree -> its table."""
    rows = block_rows(channels)
    blocks = (channels + rows - 1) // rows
    for b in range(blocks):
        a = empty(x, 4)
        for k in range(b * rows, min(channels, (b + 1) * rows)):
            a = plus(a, weighted(get(sums, 4 * k, empty(x, 4)), w[k]))
        push(stack, int64(0), int64(4), b, a)
    settle(todo, drain(stack, int64(0), int64(4), blocks, empty(x, 4)), table, count)


@device()
def settle_unit(todo, arrays, sums, sizes, u, stack):
    """`settle_group` for unit u of all, (samples, groups)."""
    first, w = u * sizes.channels, advance(arrays.w, u % sizes.groups * sizes.channels)
    own = advance_by(sums, 4 * first, empty(arrays.x, 4))
    settle_group(todo, arrays.x, own, w, sizes.channels, advance(arrays.table, UNIT * u), arrays.n, stack)


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
