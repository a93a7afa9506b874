"""Kernel family *runs*: groups of long runs (row norms, channels first).

A group is M runs of L = K*T contiguous elements that stand G*L apart. Its sums are the run tree over each run, then the
row tree over the run sums:

    run tree    tiles of 256 = 8 steps x 32 lanes; lanes by halves; tile sums in adjacent pairs
    row tree    blocks of R run sums in order, starting from +0.0; block sums in adjacent pairs

The tree is a function of M and L alone. A run is summed by *spans*, aligned subtrees of its tree, so that a thread may
take all of a group (phase FUSED) or some spans of many (MEASURE, JOIN, APPLY): the bits are the same.
"""

from __future__ import annotations

from numba import boolean, int64

from ..arith.accumulators import (
    TILE,
    advance_by,
    block_rows,
    drain,
    empty,
    get,
    get_first,
    plus,
    push,
    put,
    ratio,
    squares_about,
    tile_squares,
    tile_sum,
)
from ..arith.elementwise import affine_run, share
from ..arith.statistics import conclude, rows_of
from ..arith.vectors import advance, named
from ..compile import device, kernel
from ..layout import (
    BATCH,
    CENTER,
    FUSED,
    JOIN,
    LEVELS,
    MEASURE,
    ONE_READ,
    SQUARES,
    STREAM,
    WRITE,
    Arrays,
    RunsSizes,
    Span,
)


@device(inline=False)
def span_sum(kind, x, i, n, mean, kept, stack):
    """Sum (kind CENTER) or squares about `mean` (SQUARES) of one span, x[i : i + n].

    With ONE_READ the moments of each tile, about its own mean, are kept when the sum is taken, and merged about the group's
    mean for the squares (Chan, Golub, LeVeque 1979; all tiles at once, so that no division waits for another).
    kept: (tiles, 2).
    """
    tiles = (n + TILE - 1) // TILE
    k = 0
    while True:
        at, size = i + TILE * k, min(TILE, n - TILE * k)
        if kind & CENTER:
            s = tile_sum(x, at, size)
            if kind & ONE_READ:
                put(kept, 2 * k, s)
                put(kept, 2 * k + 1, tile_squares(x, at, size, ratio(s, float(size))[0]))
        elif kind & ONE_READ:
            high, low = ratio(get(kept, 2 * k, empty(x, 1)), float(size))
            s = squares_about(get(kept, 2 * k + 1, empty(x, 1)), float(size), high, low, mean)
        else:
            s = tile_squares(x, at, size, mean)
        if tiles == 1:
            return s
        push(stack, int64(0), int64(1), k, s)
        k += 1
        if k == tiles:
            return drain(stack, int64(0), int64(1), tiles, s)


@device(inline=False)
def group_sum(partials, like, lanes, runs, spans, stack):
    """Row tree over the sums of `runs` runs, each from `spans` partial sums in pairs; `like` has so many lanes."""
    rows = block_rows(runs)
    blocks = (runs + rows - 1) // rows
    for b in range(blocks):
        a = like
        for j in range(b * rows, min(runs, (b + 1) * rows)):
            for s in range(spans):
                push(stack, int64(0), lanes, s, get(partials, lanes * (j * spans + s), like))
            a = plus(a, drain(stack, int64(0), lanes, spans, like))
        push(stack, lanes * LEVELS, lanes, b, a)
    return drain(stack, lanes * LEVELS, lanes, blocks, like)


@device()
def first_run(u, sizes):
    """Where the first run of unit u starts; the next one is G * L elements further on."""
    return (u // sizes.groups * sizes.runs * sizes.groups + u % sizes.groups) * sizes.length


@device(inline=False)
def apply_span(arrays, t, span, at, u, first):
    """Normalize a span of a run of unit u, which starts `at` elements into the run; a parameter serves t elements of the run.

    The run's parameters start at `first`.
    """
    x, y, w, b, stats = arrays
    mean, rstd = stats.mean[u], stats.rstd[u]
    c = share(stats.low[u], rstd)
    if t == 1:
        affine_run(x, y, span, mean, rstd, c, advance(w, first + at), advance(b, first + at))
        return
    k = at // t if at else 0
    done = 0
    while done < span.n:
        size = min(span.n, (k + 1) * t - at) - done
        part = Span(span.i + done, size, span.ahead, span.streaming)
        affine_run(x, y, part, mean, rstd, c, w[first + k], b[first + k])
        done += size
        k += 1


@device()
def rows_together(length):
    return max(1, BATCH // length)


@device(inline=False)
def conclude_all(kind, totals, x, stats, u, n):
    """Groups u .. u + n - 1 from `totals`, sixteen at a time: one by one took a third of a short row's time."""
    for k in range(0, n, 16):
        some = min(16, n - k)
        conclude(kind, get_first(totals, k, some, empty(x, 16)), stats, u + k, some)


@device(inline=False)
def whole_rows(flags, arrays, sizes, kept, stack, lo, hi):
    """Units lo .. hi - 1 that are one span each, as the rows of layer norm: no partial sums, no index arithmetic.

    A batch of short rows goes through each pass together, so that one row's division and square root are waited for while
    the next row is summed (128 elements: 96 ns a row became 65). kept: the moments of the tiles of a batch.
    """
    x, stats, groups, length, t = arrays.x, arrays.stats, sizes.groups, sizes.length, sizes.t
    one_read, streaming = flags & ONE_READ, boolean(flags & STREAM)
    tiles, per_group, batch = (length + TILE - 1) // TILE, length // t, rows_together(length)
    totals, ahead = advance_by(stack, 2 * LEVELS, empty(x, 1)), batch * sizes.ahead
    g = lo % groups
    for u in range(lo, hi, batch):
        n = min(batch, hi - u)
        for kind in (CENTER, flags & SQUARES):
            if kind & flags == kind:
                if kind:
                    for r in range(n):
                        own = advance_by(kept, 2 * r * tiles, empty(x, 1))
                        put(totals, r, span_sum(kind | one_read, x, (u + r) * length, length, stats.mean[u + r], own, stack))
                if n == 1:
                    conclude(kind, get(totals, 0, empty(x, 1)), stats, u, n)
                else:
                    conclude_all(kind, totals, x, stats, u, n)
        if flags & WRITE:
            for r in range(u, u + n):
                apply_span(arrays, t, Span(r * length, length, ahead, streaming), int64(0), r, g * per_group)
                g = g + 1 if g + 1 < groups else 0


@device(inline=False)
def apply_spans(flags, arrays, sizes, lo, hi):
    """Normalize spans lo .. hi - 1, counted as they lie in memory."""
    runs, groups, length, t, ahead, span, _, _ = sizes
    spans = (length + span - 1) // span
    run, s = lo // spans, lo % spans
    g = run % groups
    unit = run // (runs * groups) * groups  # of group 0 of this sample
    left = runs * groups - run % (runs * groups)  # runs of this sample
    for _ in range(lo, hi):
        i, n = run * length + s * span, min(span, length - s * span)
        apply_span(arrays, t, Span(i, n, ahead, boolean(flags & STREAM)), s * span, unit + g, g * (length // t))
        s += 1
        if s == spans:
            s = 0
            run += 1
            g = g + 1 if g + 1 < groups else 0
            left -= 1
            if left == 0:
                left = runs * groups
                unit += groups


@kernel()
def runs(phase, flags, x, y, w, b, stats, work, kept, sizes, count, eps, lo, hi, slot):
    """Units lo .. hi - 1 (phases FUSED, JOIN) or spans lo .. hi - 1 (MEASURE, APPLY).

    x, y: where (size,) elements are; w, b: float64 (G * L / t,); stats: (4, units), see `layout`; sizes: `RunsSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, then partials), then the partials of all units.
    kept: the moments of tiles, of one unit (or batch of rows) a slot in FUSED, or of all units.
    """
    sizes, stats, one = named(sizes, RunsSizes), rows_of(stats, count, eps), empty(x, 1)
    arrays = Arrays(x, y, w, b, stats)
    group, groups, length, t, ahead, span, scratch, slots = sizes
    spans, tiles = (length + span - 1) // span, (length + TILE - 1) // TILE
    stack = advance(work, slot * scratch)
    if phase == FUSED and group == 1 and spans == 1:
        own = advance_by(kept, 2 * slot * rows_together(length) * tiles, one)
        whole_rows(flags, arrays, sizes, own, stack, lo, hi)
    elif phase == FUSED:
        partials = advance_by(stack, 2 * LEVELS, one)
        for u in range(lo, hi):
            for kind in (CENTER, flags & SQUARES):
                if kind & flags == kind:
                    if kind:
                        i, mean, first, place = first_run(u, sizes), stats.mean[u], slot * group * tiles, 0
                        for _ in range(group):
                            for e in range(0, length, span):
                                n, own = min(span, length - e), advance_by(kept, 2 * (first + e // TILE), one)
                                put(partials, place, span_sum(kind | flags & ONE_READ, x, i + e, n, mean, own, stack))
                                place += 1
                            i += groups * length
                            first += tiles
                    conclude(kind, group_sum(partials, one, int64(1), group, spans, stack), stats, u, int64(1))
            if flags & WRITE:
                i, first = first_run(u, sizes), u % groups * (length // t)
                for _ in range(group):
                    apply_span(arrays, t, Span(i, length, ahead, boolean(flags & STREAM)), int64(0), u, first)
                    i += groups * length
    elif phase == MEASURE:
        partials = advance(work, slots * scratch)
        for p in range(lo, hi):
            u, j, e = p // (group * spans), p // spans % group, p % spans * span
            i, n = first_run(u, sizes) + j * groups * length + e, min(span, length - e)
            own = advance_by(kept, 2 * ((u * group + j) * tiles + e // TILE), one)
            put(partials, p, span_sum(flags, x, i, n, stats.mean[u], own, stack))
    elif phase == JOIN:
        partials = advance(work, slots * scratch)
        for u in range(lo, hi):
            total = one
            if flags & (CENTER | SQUARES):
                total = group_sum(advance_by(partials, u * group * spans, one), one, int64(1), group, spans, stack)
            conclude(flags, total, stats, u, int64(1))
    else:
        apply_spans(flags, arrays, sizes, lo, hi)
