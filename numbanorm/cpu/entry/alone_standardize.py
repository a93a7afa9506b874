"""Statistics from anywhere for compiled callers, as `execute.standardize` has them for Python.

A caller says where his arrays lie; kernels are reached by the entries of `alone` and `alone_backward`, by their address.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64

from ...spec.sources import GIVEN, OWN, RSTD
from ...spec.tree import LEAST_RUN, by_columns
from ..arith.arithmetic import FAST
from ..arith.environment import call_by_default
from ..arith.vectors import advance, keep, named, pointer
from ..compile import device, jitable, kernel
from ..layout import ANCHOR, LOW, MEAN, ROOT, SHIFT, SINGLE, SINGLES, SLOPE, UNIT
from ..slants import cut_slant_columns, cut_slant_runs
from .addresses import BITS, FLOAT64, array_at, status_of
from .alone import WORDS, Asked, Sizes, address_of, memory, write_program
from .alone_backward import AskedGradients, GradientKernels
from .calls import DONE, IDS, REFUSED, invoke
from .spread import (
    BIAS,
    COUNT,
    DY,
    LOWS,
    MEANS,
    ROOTS,
    SUM_DY,
    SUM_PRODUCT,
    WEIGHT,
    AskedSpread,
    X,
    Y,
    described,
    is_contiguous,
    kept_axes,
    laid,
    move,
    spread,
)

jitable(by_columns)
LARGEST, SMALLEST, LARGEST_MEAN = FAST.LARGEST, FAST.SMALLEST, FAST.LARGEST_MEAN


@device()
def room_for(n, itemsize):
    """Memory of n elements."""
    return np.empty((n * itemsize + 7) // 8)


@device()
def ask(code, table, asked):
    """The status of a call that is said in integers."""
    words = np.empty(len(asked), np.int64)
    for k in range(len(asked)):
        words[k] = asked[k]
    status = status_of(code, (table, address_of(words), 0.0, 0.0))
    keep(words)
    return status


@device()
def overlap(p, q, nbytes):
    """Whether two arrays of so many bytes share some, and are not the same."""
    return p != q and abs(p - q) < nbytes


@device(inline=False)
def standardize(unused, words, nor, neither):
    """y = (x - mean) * rstd * weight + bias."""
    a, none = memory(words, int64), int64(0)
    h = named(a, AskedSpread)
    x, y = described(a, h.ndim, X), described(a, h.ndim, Y)
    p, order = laid(a, h.ndim, False)
    if p.size == 0:
        return int64(DONE)
    read, written = p.straight and is_contiguous(x, h.ndim), p.straight and is_contiguous(y, h.ndim)
    if read and written and overlap(x[0], y[0], p.size * h.itemsize):
        return int64(REFUSED)
    room_x, room_y = room_for(none if read else p.size, h.itemsize), room_for(none if written else p.size, h.itemsize)
    if not read:
        move(x, order, h.itemsize, address_of(room_x), False)
    source, target = x[0] if read else address_of(room_x), y[0] if written else address_of(room_y)
    mean, low, rstd = spread(a, h.ndim, MEANS, 0.0), spread(a, h.ndim, LOWS, 0.0), spread(a, h.ndim, ROOTS, 1.0)
    weight, bias = spread(a, h.ndim, WEIGHT, 1.0), spread(a, h.ndim, BIAS, 0.0)
    weighted, biased = described(a, h.ndim, WEIGHT)[0] != 0, described(a, h.ndim, BIAS)[0] != 0
    units, n, status = p.kept // p.parts, p.size // p.parts * h.itemsize, int64(DONE)
    groups, stats, own = units // p.samples, np.zeros((4, units)), 1 if h.itemsize == 4 else FLOAT64
    codes = own + (own << BITS) + (FLOAT64 << (5 * BITS))
    codes += (FLOAT64 << (2 * BITS) if weighted else 0) + (FLOAT64 << (3 * BITS) if biased else 0)
    for k in range(p.parts):
        stats[MEAN], stats[LOW] = mean[k * units : (k + 1) * units], low[k * units : (k + 1) * units]
        of_groups = 8 * k * groups
        asked = Asked(
            p.samples, p.M, groups, int64(1), p.T, h.flags, int64(RSTD), int64(weighted or biased), h.itemsize,
            source + k * n, target + k * n, address_of(weight) + of_groups if weighted else none,
            address_of(bias) + of_groups if biased else none, none, address_of(rstd) + 8 * k * units, address_of(stats), none,
            none, codes, none,
        )  # fmt: skip
        status = max(status, ask(h.code, h.table, asked))
    if not written:
        move(y, order, h.itemsize, target, True)
    keep(room_x), keep(room_y), keep(mean), keep(low), keep(rstd), keep(weight), keep(bias), keep(stats)
    return status


@device(inline=False)
def added(values, outer, n, inner):
    """Sums over the middle one of three axes, in adjacent pairs, in place; how many are left: 1, or 0 of none."""
    while n > 1:
        half = (n + 1) // 2
        for o in range(outer):
            for j in range(half):
                for i in range(inner):
                    v = values[(o * n + 2 * j) * inner + i]
                    if 2 * j + 1 < n:
                        v += values[(o * n + 2 * j + 1) * inner + i]
                    values[(o * half + j) * inner + i] = v
        n = half


@device(inline=False)
def give(a, ndim, k, values):
    """Sums of groups to array k, which has axes of 1 where those of several groups are added."""
    axes, d, x = kept_axes(a, ndim), described(a, ndim, k), described(a, ndim, X)
    outer, inner = 1, len(values)
    if d[0] == 0:
        return
    if inner == 0:
        values = np.zeros(1)
    for i in range(len(axes)):
        own, n = d[2 + axes[i]], x[2 + axes[i]]
        inner //= max(n, 1)
        if own != n:
            added(values, outer, n, inner)
        outer *= own
    if d[1] == FLOAT64:
        for i in range(outer):
            memory(d[0], float64)[i] = values[i if len(values) > 1 else 0]
    else:
        for i in range(outer):
            memory(d[0], float32)[i] = values[i if len(values) > 1 else 0]


@device(inline=False)
def sums(unused, words, nor, neither):
    """Sums of dy and of dy * normalized x, exact, over what is reduced, and what shares an element of what is asked for."""
    a, none, status = memory(words, int64), int64(0), int64(DONE)
    h = named(a, AskedSpread)
    x, dy = described(a, h.ndim, X), described(a, h.ndim, DY)
    p, order = laid(a, h.ndim, True)
    x_lies, dy_lies = p.straight and is_contiguous(x, h.ndim), p.straight and is_contiguous(dy, h.ndim)
    room_x, room_dy = room_for(none if x_lies else p.size, h.itemsize), room_for(none if dy_lies else p.size, h.itemsize)
    mean, low, rstd = spread(a, h.ndim, MEANS, 0.0), spread(a, h.ndim, LOWS, 0.0), spread(a, h.ndim, ROOTS, 1.0)
    found, code = np.zeros(2 * p.kept), 1 if h.itemsize == 4 else FLOAT64
    if p.size:
        if not x_lies:
            move(x, order, h.itemsize, address_of(room_x), False)
        if not dy_lies:
            move(dy, order, h.itemsize, address_of(room_dy), False)
        asked = AskedGradients(
            int64(1), p.M, p.kept, int64(1), p.T, h.flags, int64(GIVEN), int64(1), h.itemsize,
            x[0] if x_lies else address_of(room_x), dy[0] if dy_lies else address_of(room_dy), none, none, address_of(mean),
            address_of(rstd), address_of(found), code + (FLOAT64 << (2 * BITS)),
        )  # fmt: skip
        status = ask(h.code, h.table, asked)
    if described(a, h.ndim, LOWS)[0] != 0:
        for u in range(p.kept):
            found[u] -= low[u] * rstd[u] * found[p.kept + u]
    give(a, h.ndim, SUM_PRODUCT, found[: p.kept])
    give(a, h.ndim, SUM_DY, found[p.kept :])
    keep(room_x), keep(room_dy), keep(mean), keep(rstd), keep(found)
    return status


@device(inline=False)
def tabulate(a, ndim, table, single):
    """`slants.tables`."""
    mean, low, rstd, weight = (
        spread(a, ndim, MEANS, 0.0),
        spread(a, ndim, LOWS, 0.0),
        spread(a, ndim, ROOTS, 1.0),
        spread(a, ndim, WEIGHT, 1.0),
    )
    of_dy, of_product, count = spread(a, ndim, SUM_DY, 0.0), spread(a, ndim, SUM_PRODUCT, 0.0), spread(a, ndim, COUNT, 0.0)
    for u in range(len(mean)):
        own = table[UNIT * u : UNIT * (u + 1)]
        delta = (mean[u] - float64(float32(mean[u])) if single else 0.0) + low[u]
        scale, n = rstd[u] * weight[u], count[u] if count[u] > 0.0 else np.inf
        slope = -(of_product[u] / n * rstd[u]) * scale
        own[ANCHOR], own[ROOT], own[SLOPE], own[SHIFT] = mean[u], scale, slope, -(of_dy[u] / n) * scale - delta * slope
        if single:
            singles = memory(address_of(table) + 8 * (UNIT * u + SINGLES), float32)
            for k in range(SINGLES):
                singles[k] = own[k]


@device()
def lacks_room(table, u):
    """Whether `slants.without_room` has unit u."""
    good, finite = abs(table[UNIT * u + ANCHOR]) < LARGEST_MEAN, abs(table[UNIT * u + ANCHOR]) < np.inf
    for k in (ROOT, SLOPE, SHIFT):
        v = abs(table[UNIT * u + k])
        good &= v == 0.0 or SMALLEST < v < LARGEST
        finite &= v < np.inf
    return finite and not good


@device()
def one_sample(p):
    """The sizes of a plan in which every group has a weight."""
    return Sizes(int64(1), p.M, p.kept, int64(1), p.T)


@device(inline=False)
def run_slant(h, p, table, x, dy, dx, exact):
    """Write dx of what `tabulate` gave, by `slants.run_slants`."""
    kernels, words, none = named(memory(h.table, int64), GradientKernels), np.empty(WORDS, np.int64), int64(0)
    plan, wide = one_sample(p), exact and kernels.exact == 0
    flags = h.flags & ~SINGLE if exact else h.flags
    asked = AskedGradients(
        int64(1), p.M, p.kept, int64(1), p.T, flags, int64(OWN), none, h.itemsize, x, dy, dx, none, none, none, none, none
    )
    if by_columns(plan) or plan.T < LEAST_RUN:
        address = kernels.exact_columns if wide else kernels.columns
        write_program(words, cut_slant_columns(plan, h.itemsize, flags, 1), plan, asked, address, exact, True, False, int64(1))
    else:
        address = kernels.exact_runs if wide else kernels.runs
        write_program(words, cut_slant_runs(plan, h.itemsize, flags, 1), plan, asked, address, exact, True, False, int64(1))
    program = pointer(words)
    ids, shape, code = advance(program, IDS), advance(program, words[IDS - 1]), int64(FLOAT64)  # which nobody looks at
    args = (
        array_at(x, code, ids, shape), array_at(dy, code, ids, shape), array_at(dx, code, ids, shape),
        array_at(address_of(table), code, ids, shape), array_at(program, code, ids, shape),
    )  # fmt: skip
    invoke(h.code, args)
    keep(words), keep(table)


@device(inline=False)
def slant(unused, words, nor, neither):
    """dx from sums over all elements that share statistics, as `backend.slant`."""
    a, none = memory(words, int64), int64(0)
    h = named(a, AskedSpread)
    x, dy, dx = described(a, h.ndim, X), described(a, h.ndim, DY), described(a, h.ndim, Y)
    p, order = laid(a, h.ndim, True)
    if p.size == 0:
        return int64(DONE)
    x_lies, dy_lies = p.straight and is_contiguous(x, h.ndim), p.straight and is_contiguous(dy, h.ndim)
    written, nbytes = p.straight and is_contiguous(dx, h.ndim), p.size * h.itemsize
    if written and ((x_lies and overlap(dx[0], x[0], nbytes)) or (dy_lies and overlap(dx[0], dy[0], nbytes))):
        return int64(REFUSED)
    room_x, room_dy = room_for(none if x_lies else p.size, h.itemsize), room_for(none if dy_lies else p.size, h.itemsize)
    room_dx = room_for(none if written else p.size, h.itemsize)
    if not x_lies:
        move(x, order, h.itemsize, address_of(room_x), False)
    if not dy_lies:
        move(dy, order, h.itemsize, address_of(room_dy), False)
    source, upstream = x[0] if x_lies else address_of(room_x), dy[0] if dy_lies else address_of(room_dy)
    target, single = dx[0] if written else address_of(room_dx), (h.flags & SINGLE) != 0
    table, lacking = np.zeros(UNIT * p.kept), 0
    tabulate(a, h.ndim, table, single)
    for u in range(p.kept if single else 0):
        lacking += lacks_room(table, u)
    fine = np.empty(p.size if lacking else 0, np.float32)
    if lacking:
        exact = np.zeros(UNIT * p.kept)
        tabulate(a, h.ndim, exact, False)
        run_slant(h, p, exact, source, upstream, address_of(fine), True)
    run_slant(h, p, table, source, upstream, target, not single)
    for u in range(p.kept if lacking else 0):
        if lacks_room(table, u):
            for m in range(p.M):
                for i in range((m * p.kept + u) * p.T, (m * p.kept + u + 1) * p.T):
                    memory(target, float32)[i] = fine[i]
    if not written:
        move(dx, order, h.itemsize, target, True)
    keep(room_x), keep(room_dy), keep(room_dx), keep(fine)
    return int64(DONE)


@kernel()
def standardize_alone(unused, words, nor, neither):
    """`standardize`, in the default floating-point environment."""
    return call_by_default(standardize, (unused, words, nor, neither))


@kernel()
def sums_alone(unused, words, nor, neither):
    """`sums`, in the default floating-point environment."""
    return call_by_default(sums, (unused, words, nor, neither))


@kernel()
def slant_alone(unused, words, nor, neither):
    """`slant`, in the default floating-point environment."""
    return call_by_default(slant, (unused, words, nor, neither))
