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

from numba import int64

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
from ..arith.statistics import conclude, get_lanes, put_lanes, rows_of
from ..arith.vectors import advance, fill, named, repeat
from ..compile import device, kernel
from ..layout import (
    CENTER,
    FUSED,
    JOIN,
    LANE_ROOM,
    MEASURE,
    ONE_READ,
    PIECE,
    SQUARES,
    TALL,
    WRITE,
    Arrays,
    Block,
    ColumnsSizes,
    Space,
    Strip,
)

FEW = 8  # columns of a group that are added one by one in less time than in vectors


@device()
def strip_at(p, whole, sizes, columns):
    """Strip p, or if not `whole` the chunk p, of `columns` columns a group."""
    step, strips = block_rows(sizes.rows), (sizes.groups + sizes.most - 1) // sizes.most
    blocks = (sizes.rows + step - 1) // step
    strip, chunk = (p, 0) if whole else (p // sizes.chunks, p % sizes.chunks)
    sample, g = strip // strips, strip % strips * sizes.most
    groups, stride = min(sizes.most, sizes.groups - g), sizes.groups * columns * sizes.fold
    first, last = (0, blocks) if whole else (chunk * sizes.per_chunk, min(blocks, (chunk + 1) * sizes.per_chunk))
    i = sample * sizes.rows * stride + g * columns
    return Strip(sample * sizes.groups + g, groups, i, first, last, sizes.rows, stride, groups * columns * sizes.fold)


@device()
def block_at(strip, k, start, size):
    """The block k of rows of a strip, of its columns start .. start + size - 1."""
    step = block_rows(strip.rows)
    n = min(step, strip.rows - k * step)
    return Block(strip.i + k * step * strip.stride + start, n, n if strip.stride <= TALL else 8, strip.stride, size)


@device()
def side_by_side(strip, sizes, columns):
    """All rows of a strip as they are written, `beside` of them as one; and those that are left over."""
    step, beside, width = block_rows(strip.rows), sizes.beside, strip.groups * columns
    n = (min(strip.rows, strip.last * step) - strip.first * step) * sizes.fold
    i, wide = strip.i + strip.first * step * strip.stride, beside * sizes.groups * columns
    rest = Block(i + n // beside * wide, int64(1), int64(1), wide, n % beside * width)
    return Block(i, n // beside, sizes.together, wide, beside * width), rest


@device(inline=False)
def block_moments(kind, x, block, means, kept, room, acc, own):
    """Sums, or squares about `means`, of <= PIECE columns over the rows of a block -> acc[0 : width].

    With ONE_READ the block's sums and its squares about its own means (`own`) are kept when the sums are taken, and
    merged about the group's mean for the squares (Chan, Golub, LeVeque 1979). kept: (2, room).
    """
    n, width = float(block.rows), block.width
    out, about = acc, means
    if kind & CENTER:
        add_row_sums(x, block, acc)
        if not kind & ONE_READ:
            return
        out, about = advance_by(kept, room, empty(x, 1)), own
        for c in range(0, width, 16):
            s = get(acc, c, empty(x, 16))
            put(kept, c, s)
            put(own, c, ratio(s, n)[0])
    elif kind & ONE_READ:
        for c in range(0, width, 16):
            high, low = ratio(get(kept, c, empty(x, 16)), n)
            mean = get_lanes(means, c, min(16, width - c), empty(x, 16))
            put(acc, c, squares_about(get(kept, room + c, empty(x, 16)), n, high, low, mean))
        return
    add_row_squares(x, block, out, about)


@device(inline=False)
def strip_sums(kind, x, strip, room, means, kept, stack, out):
    """Row trees of a strip's columns over its blocks -> out[0 : width].

    means: float64 (width,), wanted for the squares; kept: (blocks, 2, room).
    """
    first, last, width = strip.first, strip.last, strip.width
    acc = stack
    own = advance_by(acc, PIECE, empty(x, 1))
    levels = advance_by(own, PIECE, empty(x, 1))
    for start in range(0, width, PIECE):
        size = min(PIECE, width - start)
        for k in range(first, last):
            keep = advance_by(kept, 2 * k * room + start, empty(x, 1))
            even = (k - first) & 1 == 0  # the first of a pair waits where it is summed
            here = levels if even else acc
            block_moments(kind, x, block_at(strip, k, start, size), advance(means, start), keep, room, here, own)
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
def join(kind, x, stats, sizes, strip, partials, chunks, space):
    """Chunks' sums (chunks, room) of a strip -> its groups' statistics."""
    length, fold, all_groups, sums = sizes.length, sizes.fold, sizes.groups, space.sums
    if chunks == 1:
        sums = partials
    else:
        for c in range(0, strip.width, 16):
            for q in range(chunks):
                push(space.stack, int64(0), int64(16), q, get(partials, q * sizes.room + c, empty(x, 16)))
            put(sums, c, drain(space.stack, int64(0), int64(16), chunks, empty(x, 16)))
    if length == 1 and (fold == 1 or all_groups % 16 == 0):
        for g in range(0, strip.groups, 16):
            totals = empty(x, 16)
            if kind & (CENTER | SQUARES):
                totals = columns_total(sums, g, fold, all_groups, totals)
            conclude(kind, totals, stats, strip.u + g, min(16, strip.groups - g))
        return
    for g in range(strip.groups):
        total = empty(x, 1)
        if kind & (CENTER | SQUARES):
            total = group_total(sums, g * length, length, fold, all_groups * length, total, space.lanes)
        conclude(kind, total, stats, strip.u + g, int64(1))


@device(inline=False)
def expand(arrays, sizes, strip, rows, out):
    """Mean, scale and shift of each column of a strip, as often as rows are side by side -> out, float64 (3, room).

    rows: 1 where the mean is enough.
    """
    x, _, w, b, stats = arrays
    u, groups, length, t, room = strip.u, strip.groups, sizes.length, sizes.t, sizes.room
    first, like = u % sizes.groups * (length // t), empty(x, 16)
    if length == 1:
        for g in range(0, groups, 16):
            n = min(16, groups - g)
            put_lanes(out, g, n, get_lanes(stats.mean, u + g, n, like))
            if rows > 1:
                rstd, low = get_lanes(stats.rstd, u + g, n, like), get_lanes(stats.low, u + g, n, like)
                weights, biases = get_lanes(w, first + g, n, like), get_lanes(b, first + g, n, like)
                scale, shift = parameters(rstd, share(low, rstd), weights, biases)
                put_lanes(out, room + g, n, scale)
                put_lanes(out, 2 * room + g, n, shift)
    else:
        for g in range(groups):
            fill(out, g * length, length, stats.mean[u + g])
            rstd = stats.rstd[u + g]
            c = share(stats.low[u + g], rstd)
            for column in range(g * length, (g + 1) * length if rows > 1 else 0, t):
                scale, shift = parameters(rstd, c, w[first], b[first])
                first += 1
                fill(out, room + column, t, scale)
                fill(out, 2 * room + column, t, shift)
    for row in range(rows):
        repeat(out, row * room, groups * length, max(sizes.fold, sizes.beside))


@kernel()
def columns(phase, flags, x, y, w, b, stats, work, kept, sizes, count, eps, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN) or chunks lo .. hi - 1 (MEASURE, APPLY).

    x, y: where (size,) elements are; w, b: float64 (G * L / t,); stats: (4, units), see `layout`;
    sizes: `ColumnsSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, parameters), then the sums of all chunks.
    kept: the moments of blocks, of one strip a slot (FUSED) or of all strips.
    """
    sizes, stats, one = named(sizes, ColumnsSizes), rows_of(stats, count, eps), empty(x, 1)
    arrays, room, chunks, fused = Arrays(x, y, w, b, stats), sizes.room, sizes.chunks, phase == FUSED
    stack = advance(work, slot * sizes.scratch)
    sums = advance_by(stack, sizes.stack, one)
    lanes = advance_by(sums, room, one)
    space = Space(stack, sums, lanes, advance_by(lanes, LANE_ROOM, one))
    partials, step = advance(work, sizes.slots * sizes.scratch), block_rows(sizes.rows)
    each = (sizes.rows + step - 1) // step * 2 * room  # of `kept`
    whole = phase in (FUSED, JOIN)
    for p in range(lo, hi):
        strip = strip_at(p, whole, sizes, sizes.length)
        own = advance_by(kept, (slot if fused else p // chunks) * each, one)
        out = sums if fused else advance_by(partials, (p * chunks if whole else p) * room, one)
        for kind in (CENTER, SQUARES):
            if flags & kind:
                if phase in (FUSED, MEASURE):
                    if kind == SQUARES:
                        expand(arrays, sizes, strip, 1, space.table)
                    strip_sums(kind | flags & ONE_READ, x, strip, room, space.table, own, stack, out)
                if whole:
                    join(kind, x, stats, sizes, strip, out, int64(1) if fused else chunks, space)
        if whole and not flags & (CENTER | SQUARES):
            join(int64(0), x, stats, sizes, strip, out, int64(1), space)
        if flags & WRITE and phase != JOIN:
            expand(arrays, sizes, strip, 3, space.table)
            for block in side_by_side(strip, sizes, sizes.length):
                affine_columns(x, y, block, space.table, room)
