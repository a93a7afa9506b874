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
from ..arith.arithmetic import at_once
from ..arith.elementwise import affine_run, constants_at, has_no_room, own_parameters, plain_run, pointwise_run, put_constants
from ..arith.moments import get_moments, span_moments, sum_and_squares
from ..arith.statistics import conclude, conclude_moments, divisors, get_lanes, rows_of, unknown
from ..arith.vectors import advance, named
from ..compile import device, kernel
from ..layout import (
    AGAIN,
    AT_ONCE,
    BOTH,
    CENTER,
    FUSED,
    JOIN,
    LEVELS,
    MEASURE,
    MERGED,
    OWN,
    SQUARES,
    STACK,
    STREAM,
    WRITE,
    Arrays,
    Pieces,
    RunsSizes,
    Span,
)
from ..layout import rows_together as together

rows_together = device()(together)


@device(inline=False)
def span_sum(kind, x, i, n, mean, kept, stack):
    """Sum (kind CENTER) or squares about `mean` (SQUARES) of one span, x[i : i + n].

    With MERGED the moments of each tile, about its own mean, are kept when the sum is taken, and merged about the group's
    mean for the squares (Chan, Golub, LeVeque 1979; all tiles at once, so that no division waits for another).
    kept: (tiles, 2).
    """
    tiles = (n + TILE - 1) // TILE
    k = 0
    while True:
        at, size = i + TILE * k, min(TILE, n - TILE * k)
        if kind & CENTER and not at_once(x):
            s = tile_sum(x, at, size)
            if kind & MERGED:
                put(kept, 2 * k, s)
                put(kept, 2 * k + 1, tile_squares(x, at, size, ratio(s, float(size))[0]))
        elif kind & MERGED and not at_once(x):
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


@device()
def next_piece(u, g, c, pieces):
    """Unit, its place among the groups of a sample, and channel of the piece behind."""
    if c + 1 < pieces.channels:
        return u, g, c + 1
    return u + 1, g + 1 if g + 1 < pieces.groups else 0, 0


@device()
def lanes_of(rows, i, n, like):
    """n values from `i` on of each of four rows of statistics, as lanes."""
    a, b, c, d = rows
    return get_lanes(a, i, n, like), get_lanes(b, i, n, like), get_lanes(c, i, n, like), get_lanes(d, i, n, like)


@device(inline=False)
def apply_span(flags, arrays, span, pieces, table):
    """Normalize a span in pieces, each with constants of its own, which are made for sixteen at a time: see `layout.Pieces`.

    One by one they took longer than a run of 64 elements. table: float64, six rows of 16 for what goes into `put_constants`,
    and five for what comes out.
    """
    x, y, w, b, own, stats = arrays
    size, at, pointwise, of_x, like = pieces.size, pieces.at, pieces.pointwise, boolean(flags & OWN), empty(x, 16)
    c, done, constants = at // size if at else 0, 0, advance(table, 6 * 16)
    left, at = (at + span.n - 1) // size + 1 - c, at - c * size  # pieces; elements of the first that are not in the span
    u, g = pieces.unit, pieces.group
    ahead, four = (u, g, c), (stats.mean, stats.low, stats.m2, stats.rstd)
    for j in range(16 if pointwise else 0):
        table[64 + j], table[80 + j] = 1.0, -0.0
    while left > 0:
        n = min(16, left)
        if pieces.channels == 1 and (pointwise or ahead[1] + n <= pieces.groups):  # side by side where they are
            v, h, k = ahead
            statistics, parameters = lanes_of(four, v, n, like), (advance(table, 64), advance(table, 80))
            if not pointwise:
                parameters = advance(w, h), advance(b, h)
            ahead = v + n, h + n if h + n < pieces.groups else 0, k
        else:
            for j in range(n):
                v, h, k = ahead
                table[j], table[16 + j], table[32 + j], table[48 + j] = stats.mean[v], stats.low[v], stats.m2[v], stats.rstd[v]
                place = h * pieces.channels + k
                if not pointwise:
                    table[64 + j], table[80 + j] = w[place], b[place]
                ahead = next_piece(v, h, k, pieces)
            rows = table, advance(table, 16), advance(table, 32), advance(table, 48)
            statistics, parameters = lanes_of(rows, 0, n, like), (advance(table, 64), advance(table, 80))
        mean, low, m2, rstd = statistics
        numbers = (mean, low, m2, rstd, get_lanes(parameters[0], 0, n, like), get_lanes(parameters[1], 0, n, like))
        mixed = put_constants(x, constants, 16, 0, n, numbers, of_x, boolean(pointwise))
        for j in range(n):
            part = Span(span.i + done, min(size - at, span.n - done), span.ahead, span.streaming, span.runs, span.stride)
            known, plain = constants_at(x, constants, 16, j), mixed and has_no_room(x, constants, 16, j)
            if pointwise:
                k = g * size + at
                if plain:
                    plain_run(x, y, part, (stats.mean[u], stats.low[u], stats.rstd[u]), advance(w, k), advance(b, k))
                else:
                    pointwise_run(x, y, part, known, advance(own[0], k), advance(own[1], k))
            elif plain:
                k = g * pieces.channels + c
                plain_run(x, y, part, (stats.mean[u], stats.low[u], stats.rstd[u]), w[k], b[k])
            else:
                affine_run(x, y, part, known)
            done += part.n
            at = 0
            u, g, c = next_piece(u, g, c, pieces)
        left -= n


@device()
def pieces_of(sizes, u, at):
    """Pieces of a span that begins `at` elements into a run of unit u."""
    groups, length, t = sizes.groups, sizes.length, sizes.t
    if t == 1 and length > 1:
        return Pieces(u, u % groups, int64(1), groups, length, at, int64(1))
    return Pieces(u, u % groups, length // t, groups, t, at, int64(0))


@device(inline=False)
def group_moments(x, i, sizes, stack):
    """Sum and squares of the group whose first run begins at x[i]: the row tree over its run trees."""
    runs, at, two = sizes.runs, int64(2 * LEVELS), int64(2)
    rows = block_rows(runs)
    blocks = (runs + rows - 1) // rows
    for b in range(blocks):
        a = empty(x, 2)
        for _ in range(b * rows, min(runs, (b + 1) * rows)):
            a = plus(a, span_moments(x, i, sizes.length, stack))
            i += sizes.groups * sizes.length
        push(stack, at, two, b, a)
    return drain(stack, at, two, blocks, empty(x, 2))


@device(inline=False)
def units_at_once(x, stats, sizes, totals, stack, u, n):
    """Sums and squares of units u .. u + n - 1 of a sample -> their statistics, sixteen together: single, a third longer."""
    i = first_run(u, sizes)
    for r in range(n):
        at = i + r * sizes.length
        put(totals, 2 * r, span_moments(x, at, sizes.length, stack) if sizes.runs == 1 else group_moments(x, at, sizes, stack))
    for k in range(0, n, 16):
        some = min(16, n - k)
        sums, squares = get_moments(totals, k, some, empty(x, 16))
        conclude_moments(sums, squares, stats, u + k, some)


@device(inline=False)
def rows_one_by_one(kind, arrays, sizes, kept, stack, u, n):
    """Sums (kind CENTER) or squares (SQUARES) of rows u .. u + n - 1 -> their statistics; or (0) what follows from given ones.

    kept: the moments of the tiles of the rows.
    """
    x, stats, length, of = arrays.x, arrays.stats, sizes.length, kind & (CENTER | SQUARES)
    tiles, totals, one = (length + TILE - 1) // TILE, advance_by(stack, STACK, empty(x, 1)), empty(x, 1)
    for r in range(n if of else 0):
        own, total = advance_by(kept, 2 * r * tiles, one), one
        if of == CENTER or stats.rstd[u + r] == 0.0:
            total = span_sum(kind, x, (u + r) * length, length, stats.mean[u + r], own, stack)
        put(totals, r, total)
    if n == 1:
        conclude(of, get_first(totals, 0, n if of else 0, one), stats, u, n)
        return
    for k in range(0, n, 16):
        some = min(16, n - k)
        conclude(of, get_first(totals, k, some if of else 0, empty(x, 16)), stats, u + k, some)


@device(inline=False)
def whole_rows(flags, arrays, sizes, kept, stack, lo, hi):
    """Units lo .. hi - 1 that are one span each, as the rows of layer norm: no partial sums, no index arithmetic.

    A batch of short rows goes through each pass together, so that one row's division and square root are waited for while
    the next row is summed (128 elements: 96 ns a row became 65). kept: the moments of the tiles of a batch.
    """
    x, stats, length, merged = arrays.x, arrays.stats, sizes.length, flags & MERGED
    batch, totals = rows_together(length), advance_by(stack, STACK, empty(x, 1))
    for u in range(lo, hi, batch):
        n = min(batch, hi - u)
        if flags & AT_ONCE and at_once(x):
            units_at_once(x, stats, sizes, totals, stack, u, n)
            if unknown(stats.rstd, u, n):
                rows_one_by_one(int64(SQUARES), arrays, sizes, kept, stack, u, n)
        else:
            if flags & CENTER and not at_once(x):
                rows_one_by_one(CENTER | merged, arrays, sizes, kept, stack, u, n)
            rows_one_by_one(flags & SQUARES | merged, arrays, sizes, kept, stack, u, n)
        if flags & WRITE:
            span = Span(u * length, n * length, batch * sizes.ahead, boolean(flags & STREAM), int64(1), int64(1))
            apply_span(flags, arrays, span, pieces_of(sizes, u, int64(0)), stack)


@device(inline=False)
def apply_spans(flags, arrays, sizes, table, lo, hi):
    """Normalize spans lo .. hi - 1, counted as they lie in memory. table: see `apply_span`."""
    runs, groups, length, _, ahead, span, _, _ = sizes
    spans, p = (length + span - 1) // span, lo
    while p < hi:
        run, e = p // spans, p % spans * span
        together = min(hi - p, groups - run % groups) if spans == 1 else 1  # runs of neighbouring units
        n = together * length if spans == 1 else min(span, length - e)
        part = Span(run * length + e, n, ahead, boolean(flags & STREAM), int64(1), int64(1))
        unit = run // (runs * groups) * groups + run % groups
        apply_span(flags, arrays, part, pieces_of(sizes, unit, e), table)
        p += together


@device(inline=False)
def sum_group(flags, arrays, sizes, first, stack, u, kept):
    """Sums (CENTER) or squares (SQUARES) of unit u -> its statistics; or what follows from given ones.

    first: the first of the unit's tiles in `kept`.
    """
    x, stats, group, length, span = arrays.x, arrays.stats, sizes.runs, sizes.length, sizes.span
    spans, tiles, one = (length + span - 1) // span, (length + TILE - 1) // TILE, empty(x, 1)
    i, partials, place = first_run(u, sizes), advance_by(stack, STACK, one), 0
    for _ in range(group if flags & (CENTER | SQUARES) else 0):
        for e in range(0, length, span):
            own = advance_by(kept, 2 * (first + e // TILE), one)
            put(partials, place, span_sum(flags, x, i + e, min(span, length - e), stats.mean[u], own, stack))
            place += 1
        i += sizes.groups * length
        first += tiles
    conclude_group(flags, arrays, partials, group, spans, stack, u)


@device(inline=False)
def conclude_group(flags, arrays, partials, group, spans, stack, u):
    """Sums of the spans of unit u -> its statistics."""
    x, stats, one = arrays.x, arrays.stats, empty(arrays.x, 1)
    if flags & AT_ONCE and at_once(x):
        sums, squares = sum_and_squares(group_sum(partials, empty(x, 2), int64(2), group, spans, stack))
        conclude_moments(sums, squares, stats, u, int64(1))
    elif flags & (CENTER | SQUARES):
        conclude(flags & BOTH, group_sum(partials, one, int64(1), group, spans, stack), stats, u, int64(1))
    else:
        conclude(int64(0), one, stats, u, int64(1))


@device(inline=False)
def whole_groups(flags, arrays, sizes, slot, kept, stack, lo, hi):
    """Units lo .. hi - 1, each all at once. kept: the moments of the tiles of one unit a slot."""
    x, stats, group, groups, length = arrays.x, arrays.stats, sizes.runs, sizes.groups, sizes.length
    first, merged, batch = slot * group * ((length + TILE - 1) // TILE), flags & MERGED, rows_together(group * length)
    totals = advance_by(stack, STACK, empty(x, 1))
    u = lo
    while u < hi:
        n = min(batch, hi - u, groups - u % groups)
        if flags & AT_ONCE and at_once(x):
            units_at_once(x, stats, sizes, totals, stack, u, n)
        for k in range(u, u + n):
            if not (flags & AT_ONCE and at_once(x)):
                if flags & CENTER and not at_once(x):
                    sum_group(CENTER | merged, arrays, sizes, first, stack, k, kept)
                sum_group(flags & SQUARES | merged, arrays, sizes, first, stack, k, kept)
            elif stats.rstd[k] == 0.0:
                sum_group(int64(SQUARES), arrays, sizes, first, stack, k, kept)
        if flags & WRITE:
            span = Span(first_run(u, sizes), n * length, n * sizes.ahead, boolean(flags & STREAM), group, groups * length)
            apply_span(flags, arrays, span, pieces_of(sizes, u, int64(0)), stack)
        u += n


@kernel()
def runs(phase, flags, x, y, w, b, stats, work, kept, sizes, count, eps, lo, hi, slot):
    """Units lo .. hi - 1 (phases FUSED, JOIN) or spans lo .. hi - 1 (MEASURE, APPLY).

    x, y: where (size,) elements are; w, b: float64 (G * L / t,), see `elementwise.own_parameters`; stats: (4, units), see
    `layout`; sizes: `RunsSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, then partials), then the partials of all units.
    kept: the moments of tiles, of one unit (or batch of rows) a slot in FUSED, or of all units.
    """
    sizes, stats, one = named(sizes, RunsSizes), rows_of(stats, divisors(x, count), eps), empty(x, 1)
    group, groups, length, t, _, span, scratch, slots = sizes
    arrays = Arrays(x, y, w, b, own_parameters(x, w, b, groups * (length // t)), stats)
    spans, tiles = (length + span - 1) // span, (length + TILE - 1) // TILE
    stack, partials = advance(work, slot * scratch), advance(work, slots * scratch)
    if phase == FUSED and group == 1 and spans == 1:
        own = advance_by(kept, 2 * slot * rows_together(length) * tiles, one)
        whole_rows(flags, arrays, sizes, own, stack, lo, hi)
    elif phase == FUSED:
        whole_groups(flags, arrays, sizes, slot, kept, stack, lo, hi)
    elif phase == MEASURE:
        for p in range(lo, hi):
            u, j, e = p // (group * spans), p // spans % group, p % spans * span
            i, n = first_run(u, sizes) + j * groups * length + e, min(span, length - e)
            if flags & AT_ONCE and at_once(x):
                put(partials, 2 * p, span_moments(x, i, n, stack))
            elif not (flags & AGAIN and stats.rstd[u] != 0.0):
                own = advance_by(kept, 2 * ((u * group + j) * tiles + e // TILE), one)
                put(partials, p, span_sum(flags, x, i, n, stats.mean[u], own, stack))
    elif phase == JOIN:
        lanes = 2 if flags & AT_ONCE else 1
        for u in range(lo, hi):
            if not (flags & AGAIN and stats.rstd[u] != 0.0):
                own = advance_by(partials, lanes * u * group * spans, one)
                conclude_group(flags, arrays, own, group, spans, stack, u)
    else:
        apply_spans(flags, arrays, sizes, stack, lo, hi)
