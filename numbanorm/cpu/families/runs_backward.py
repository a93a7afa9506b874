"""Gradients, family *runs*: T elements of a run share a weight.

A channel of a sample, M runs of T, is summed as in the forward pass: the run tree over each run, then the row tree over them.
"""

from __future__ import annotations

from numba import boolean, int64

from ..arith.accumulators import advance_by, empty, put
from ..arith.elementwise import affine_run
from ..arith.gradient_elements import gradient_run, scaling
from ..arith.gradient_sums import span_products
from ..arith.statistics import divisors
from ..arith.vectors import advance, named
from ..compile import device, kernel
from ..layout import (
    ALONE,
    ANCHOR,
    APPLY,
    FUSED,
    JOIN,
    LEVELS,
    MEASURE,
    OWN,
    PARAMETERS,
    REDUCE,
    ROOT,
    SLOPE,
    STREAM,
    UNIT,
    WRITE,
    GradientArrays,
    RunsGradientSizes,
    Span,
)
from .channels import reduce_samples, settle_group
from .runs import group_sum, rows_together


@device()
def first_run(c, sizes):
    """Where the first run of channel c, counted over all samples, starts; the next one is G * K * T elements further on."""
    runs, every, length = sizes.runs, sizes.groups * sizes.channels, sizes.length
    if runs == 1:  # two divisions a channel take a twentieth of the time of 196 elements
        return c * length
    return (c // every * runs * every + c % every) * length


@device()
def apply_run(flags, arrays, span, u, c):
    """dx of a span of a run of unit u, whose weight is w[c]."""
    x, dy, dx, w, table, _ = arrays
    if flags & OWN:
        gradient_run(x, dy, dx, span, w[c], advance(table, UNIT * u))
    else:  # given statistics: dx = dy * scale, whatever x is
        slope = table[UNIT * u + SLOPE]
        affine_run(dy, dx, span, scaling(dy, table[UNIT * u + ROOT] * w[c] if slope == slope else slope))


@device()
def span_of(i, n, ahead, flags):
    """n elements of one run from `i` on."""
    return Span(i, n, ahead, boolean(flags & STREAM), int64(1), int64(1))


@kernel()
def runs_backward(phase, flags, x, dy, dx, w, table, sums, grads, work, sizes, count, lo, hi, slot):
    """Groups lo .. hi - 1 (phases FUSED, JOIN), spans lo .. hi - 1 (MEASURE, APPLY) or channels lo .. hi - 1 (REDUCE).

    x, dy, dx: where (size,) elements are; w: float64 (G * K,); table: float64 (units, UNIT), see `layout`; sums: float64
    (B * G * K, 4); grads: float64 (2, G * K), dweight and dbias; sizes: `RunsGradientSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, partials), then the channels' partials.
    """
    sizes, arrays = named(sizes, RunsGradientSizes), GradientArrays(x, dy, dx, w, table, divisors(x, count))
    _, runs, groups, channels, length, ahead, span, scratch, slots = sizes
    spans, every = (length + span - 1) // span, groups * channels
    each = runs * spans
    stack = advance(work, slot * scratch)
    if phase == FUSED:
        next_run = ahead if runs > 1 else 0
        partials, together = advance_by(stack, 8 * LEVELS, empty(x, 1)), rows_together(runs * channels * length)
        for first in range(lo, hi, together):
            units = min(hi, first + together)
            for c in range(first * channels, units * channels):
                i, place, mean = first_run(c, sizes), 0, table[UNIT * (c // channels) + ANCHOR]
                for _ in range(runs):
                    for e in range(0, length, span):
                        n = min(span, length - e)
                        put(partials, place, span_products(x, dy, i + e, n, next_run, mean, 1.0, stack))
                        place += 4
                    i += every * length
                put(sums, 4 * c, group_sum(partials, empty(x, 4), int64(4), runs, spans, stack))
            for u in range(first, units):
                settle_group(flags, arrays, sums, groups, channels, u, stack)
            if flags & WRITE:
                own = first % groups * channels
                for u in range(first, units):
                    i = first_run(u * channels, sizes)
                    for _ in range(runs):
                        for k in range(channels):
                            apply_run(flags, arrays, span_of(i + k * length, length, ahead, flags), u, own + k)
                        i += every * length
                    own = own + channels if own + channels < every else 0
    elif phase == MEASURE:
        partials = advance(work, slots * scratch)
        for p in range(lo, hi):
            c, j, e = p // each, p // spans % runs, p % spans * span
            i, mean = first_run(c, sizes) + j * every * length + e, table[UNIT * (c // channels) + ANCHOR]
            put(partials, 4 * p, span_products(x, dy, i, min(span, length - e), int64(0), mean, 1.0, stack))
    elif phase == JOIN:
        partials = advance(work, slots * scratch)
        for u in range(lo, hi):
            for c in range(u * channels, (u + 1) * channels):
                own = advance_by(partials, 4 * c * each, empty(x, 4))
                put(sums, 4 * c, group_sum(own, empty(x, 4), int64(4), runs, spans, stack))
            settle_group(flags, arrays, sums, groups, channels, u, stack)
    elif phase == APPLY:
        for p in range(lo, hi):
            run, e = p // spans, p % spans * span
            part = span_of(run * length + e, min(span, length - e), ahead, flags)
            apply_run(flags, arrays, part, run // (every * runs) * groups + run % every // channels, run % every)
    if phase == REDUCE or (flags & ALONE and flags & PARAMETERS):
        first, last = (lo, hi) if phase == REDUCE else (0, every)
        reduce_samples(x, sums, table, grads, sizes, first, last, stack)
