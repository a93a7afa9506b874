"""Kernel family *columns*: groups of many short runs (channels last, (N, C), small pictures channels first).

x is M rows of W = G*L contiguous elements for each sample; a group is L < 128 neighbouring columns. Its sums are the row
tree for each column, then the run tree over the L column sums:

    row tree    blocks of R rows in order, starting from +0.0; block sums in adjacent pairs
    run tree    one tile: 32 lanes in order, lanes by halves

Where W is small, `fold` rows side by side are one row (fold a power of two that divides M, see `spec.tree.fold_for`), and a
group has fold*L columns: so three channels fill a vector too.

A unit is a *strip*: some neighbouring groups of one sample, at best so few that their columns stay in the cache between
the passes (phase FUSED). A strip's rows may also be shared out in *chunks*, aligned subtrees of the row tree (MEASURE,
JOIN, APPLY): the bits are the same.
"""

from __future__ import annotations

from numba import boolean, int64

from ..arith.accumulators import (
    add_row_squares,
    add_row_sums,
    advance_by,
    block_rows,
    drain,
    empty,
    get,
    plus,
    push,
    put,
    ratio,
    squares_about,
    tile_of_sums,
)
from ..arith.elementwise import affine_columns, parameters, share
from ..arith.statistics import conclude, get_lanes, put_lanes, stats_of
from ..arith.vectors import advance, fill, named, repeat
from ..compile import device, kernel
from ..layout import (
    CENTER,
    FUSED,
    JOIN,
    LANE_ROOM,
    LOW,
    MEAN,
    MEASURE,
    ONE_READ,
    PIECE,
    RSTD,
    SQUARES,
    TALL,
    WRITE,
    ColumnsSizes,
)

FEW = 8  # columns of a group that are added one by one in less time than in vectors


@device(inline=False)
def block_moments(kind, one_read, x, i, n, stride, width, means, kept, room, acc, own):
    """Sums, or squares about `means`, of `width` <= PIECE columns over the n rows of a block -> acc[0 : width].

    With `one_read` the block's sums and its squares about its own means (`own`) are kept when the sums are taken, and
    merged about the group's mean for the squares (Chan, Golub, LeVeque 1979). kept: (2, room).
    """
    together = n if stride <= TALL else 8
    out, about = acc, means
    if kind == CENTER:
        add_row_sums(x, i, n, together, stride, width, acc)
        if not one_read:
            return
        out, about = advance_by(kept, room, empty(x, 1)), own
        for c in range(0, width, 16):
            s = get(acc, c, empty(x, 16))
            put(kept, c, s)
            put(own, c, ratio(s, float(n))[0])
    elif one_read:
        for c in range(0, width, 16):
            high, low = ratio(get(kept, c, empty(x, 16)), float(n))
            mean = get_lanes(means, c, min(16, width - c))
            put(acc, c, squares_about(get(kept, room + c, empty(x, 16)), float(n), high, low, mean))
        return
    add_row_squares(x, i, n, together, stride, width, out, about)


@device(inline=False)
def strip_sums(kind, one_read, x, i, first, last, rows, stride, width, room, means, kept, stack, out):
    """Row trees of `width` columns over their blocks first .. last - 1 -> out[0 : width].

    x[i] is the strip's first element; means: float64 (width,), wanted for the squares; kept: (blocks, 2, room).
    """
    step = block_rows(rows)
    acc = stack
    own = advance_by(acc, PIECE, empty(x, 1))
    levels = advance_by(own, PIECE, empty(x, 1))
    for start in range(0, width, PIECE):
        size = min(PIECE, width - start)
        for k in range(first, last):
            n, at = min(step, rows - k * step), i + k * step * stride + start
            keep = advance_by(kept, 2 * k * room + start, empty(x, 1))
            even = (k - first) & 1 == 0  # the first of a pair waits where it is summed
            here = levels if even else acc
            block_moments(kind, one_read, x, at, n, stride, size, advance(means, start), keep, room, here, own)
            if not even:
                for c in range(0, size, 16):
                    push(levels, c, int64(PIECE), k - first, get(acc, c, empty(x, 16)))
        for c in range(0, size, 16):
            put(out, start + c, drain(levels, c, int64(PIECE), last - first, empty(x, 16)))


@device()
def group_total(sums, at, length, fold, stride, like, scratch):
    """Run tree over sums[at : at + length] of each of `fold` rows side by side, fold * length <= 256 in all."""
    if length * fold == 1:
        return get(sums, at, like)
    if fold == 1 and length > FEW:
        return tile_of_sums(sums, at, length, like)
    n = min(LANE_ROOM, length * fold)
    for lane in range(n):
        put(scratch, lane, like)
    lane = 0
    for j in range(fold):
        for k in range(length):
            put(scratch, lane, plus(get(scratch, lane, like), get(sums, at + j * stride + k, like)))
            lane = (lane + 1) % LANE_ROOM
    half = LANE_ROOM // 2
    while half:
        for lane in range(min(half, n - half)):
            put(scratch, lane, plus(get(scratch, lane, like), get(scratch, lane + half, like)))
        n = min(n, half)
        half >>= 1
    return get(scratch, 0, like)


@device()
def columns_total(sums, at, fold, stride, like):
    """`group_total` of sixteen groups of one column each, in as many lanes; sums are overwritten."""
    if fold == 1:
        return get(sums, at, like)
    n = min(LANE_ROOM, fold)
    for j in range(fold):
        lane = at + j % LANE_ROOM * stride
        put(sums, lane, plus(like if j < LANE_ROOM else get(sums, lane, like), get(sums, at + j * stride, like)))
    half = LANE_ROOM // 2
    while half:
        for lane in range(at, at + min(half, n - half) * stride, stride):
            put(sums, lane, plus(get(sums, lane, like), get(sums, lane + half * stride, like)))
        n = min(n, half)
        half >>= 1
    return get(sums, at, like)


@device(inline=False)
def join(kind, x, partials, chunks, room, width, groups, sizes, u, stats, count, eps, stack, sums, scratch):
    """Chunks' sums (chunks, room) of a strip of `groups` groups, the first being unit u -> their statistics."""
    length, fold, all_groups = sizes.length, sizes.fold, sizes.groups
    if chunks == 1:
        sums = partials
    else:
        for c in range(0, width, 16):
            for q in range(chunks):
                push(stack, int64(0), int64(16), q, get(partials, q * room + c, empty(x, 16)))
            put(sums, c, drain(stack, int64(0), int64(16), chunks, empty(x, 16)))
    if length == 1 and (fold == 1 or all_groups % 16 == 0):
        for g in range(0, groups, 16):
            totals = empty(x, 16)
            if kind & (CENTER | SQUARES):
                totals = columns_total(sums, g, fold, all_groups, totals)
            conclude(kind, totals, stats, u + g, min(16, groups - g), count, eps)
        return
    for g in range(groups):
        total = empty(x, 1)
        if kind & (CENTER | SQUARES):
            total = group_total(sums, g * length, length, fold, all_groups * length, total, scratch)
        conclude(kind, total, stats, u + g, int64(1), count, eps)


@device(inline=False)
def expand(stats, u, w, b, first, groups, length, t, copies, room, rows, out, like):
    """Mean, scale and shift of each column of `groups` groups, side by side `copies` times -> out, float64 (3, room).

    u: the first group's unit; w, b: float64, its parameters start at `first`; rows: 1 where the mean is enough.
    """
    if length == 1:
        for g in range(0, groups, 16):
            n = min(16, groups - g)
            put_lanes(out, g, n, stats_of(stats, MEAN, u + g, n, like))
            if rows > 1:
                rstd, low = stats_of(stats, RSTD, u + g, n, like), stats_of(stats, LOW, u + g, n, like)
                weights, biases = get_lanes(w, first + g, n), get_lanes(b, first + g, n)
                scale, shift = parameters(rstd, share(low, rstd), weights, biases)
                put_lanes(out, room + g, n, scale)
                put_lanes(out, 2 * room + g, n, shift)
    else:
        for g in range(groups):
            fill(out, g * length, length, stats[MEAN, u + g])
            rstd = stats[RSTD, u + g]
            c = share(stats[LOW, u + g], rstd)
            for column in range(g * length, (g + 1) * length if rows > 1 else 0, t):
                scale, shift = parameters(rstd, c, w[first], b[first])
                first += 1
                fill(out, room + column, t, scale)
                fill(out, 2 * room + column, t, shift)
    for row in range(rows):
        repeat(out, row * room, groups * length, copies)


@kernel()
def columns(phase, todo, x, y, w, b, stats, work, kept, sizes, count, eps, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN) or chunks lo .. hi - 1 (MEASURE, APPLY).

    x, y: where (size,) elements are; w, b: float64 (G * L / t,); stats: (4, units), see `layout`;
    sizes: `ColumnsSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, parameters), then the sums of all chunks.
    kept: the moments of blocks, of one strip a slot (FUSED) or of all strips.
    """
    sizes = named(sizes, ColumnsSizes)
    rows, all_groups, length, t, most, chunks, per_chunk, stack_size, room, fold, beside, together, scratch, slots = sizes
    strips, stride, step = (all_groups + most - 1) // most, all_groups * length, block_rows(rows)
    blocks = (rows + step - 1) // step
    one_read = boolean(todo & ONE_READ)
    stack = advance(work, slot * scratch)
    sums = advance_by(stack, stack_size, empty(x, 1))
    lane_sums = advance_by(sums, room, empty(x, 1))
    table = advance_by(lane_sums, LANE_ROOM, empty(x, 1))
    partials = advance(work, slots * scratch)
    whole = phase in (FUSED, JOIN)
    copies = max(fold, beside)
    for p in range(lo, hi):
        unit, chunk = (p, 0) if whole else (p // chunks, p % chunks)
        sample, g = unit // strips, unit % strips * most
        groups = min(most, all_groups - g)
        u, i, first = sample * all_groups + g, sample * rows * fold * stride + g * length, g * (length // t)
        width = groups * length * fold
        k0, k1 = (0, blocks) if whole else (chunk * per_chunk, min(blocks, (chunk + 1) * per_chunk))
        keep = advance_by(kept, (slot if phase == FUSED else unit) * 2 * blocks * room, empty(x, 1))
        out = sums if phase == FUSED else advance_by(partials, (unit * chunks + chunk) * room, empty(x, 1))
        for kind in (CENTER, SQUARES):
            if todo & kind:
                if phase in (FUSED, MEASURE):
                    if kind == SQUARES:
                        expand(stats, u, w, b, first, groups, length, t, copies, room, 1, table, empty(x, 16))
                    strip_sums(kind, one_read, x, i, k0, k1, rows, stride * fold, width, room, table, keep, stack, out)
                if whole:
                    n = int64(1) if phase == FUSED else chunks
                    join(kind, x, out, n, room, width, groups, sizes, u, stats, count, eps, stack, sums, lane_sums)
        if whole and not todo & (CENTER | SQUARES):
            join(int64(0), x, out, int64(1), room, width, groups, sizes, u, stats, count, eps, stack, sums, lane_sums)
        if todo & WRITE and phase != JOIN:
            expand(stats, u, w, b, first, groups, length, t, copies, room, 3, table, empty(x, 16))
            n, at = (min(rows, k1 * step) - k0 * step) * fold, i + k0 * step * fold * stride
            if beside == 1:
                affine_columns(x, y, at, n, together, stride, groups * length, table, room)
            else:
                wide = beside * stride
                affine_columns(x, y, at, n // beside, together, wide, wide, table, room)
                affine_columns(x, y, at + n // beside * wide, 1, 1, wide, n % beside * stride, table, room)
