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
from ..arith.arithmetic import at_once
from ..arith.elementwise import affine_columns, mixed_columns, put_constants, repeat_constants
from ..arith.memory import fill, repeat
from ..arith.moments import add_row_moments
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
    LANE_ROOM,
    MEASURE,
    MERGED,
    OWN,
    PIECE,
    SQUARES,
    STREAM,
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

    With MERGED the block's sums and its squares about its own means (`own`) are kept when the sums are taken, and
    merged about the group's mean for the squares (Chan, Golub, LeVeque 1979). kept: (2, room).
    """
    n, width = float(block.rows), block.width
    out, about = acc, means
    if kind & AT_ONCE and at_once(x):
        add_row_moments(x, block, acc, int64(PIECE))
        return
    if kind & CENTER and not at_once(x):
        add_row_sums(x, block, acc)
        if not kind & MERGED:
            return
        out, about = advance_by(kept, room, empty(x, 1)), own
        for c in range(0, width, 16):
            s = get(acc, c, empty(x, 16))
            put(kept, c, s)
            put(own, c, ratio(s, n)[0])
    elif kind & MERGED and not at_once(x):
        for c in range(0, width, 16):
            high, low = ratio(get(kept, c, empty(x, 16)), n)
            mean = get_lanes(means, c, min(16, width - c), empty(x, 16))
            put(acc, c, squares_about(get(kept, room + c, empty(x, 16)), n, high, low, mean))
        return
    add_row_squares(x, block, out, about)


@device(inline=False)
def strip_sums(kind, x, strip, room, means, kept, stack, out):
    """Row trees of a strip's columns over its blocks -> out[0 : width]; with AT_ONCE sums, and squares from out[room] on.

    means: float64 (width,), wanted for the squares; kept: (blocks, 2, room).
    """
    first, last, width, wide = strip.first, strip.last, strip.width, int64(2 * PIECE if kind & AT_ONCE else PIECE)
    acc = stack
    own = advance_by(acc, 2 * PIECE, empty(x, 1))
    levels = advance_by(own, PIECE, empty(x, 1))
    for start in range(0, width, PIECE):
        size = min(PIECE, width - start)
        for k in range(first, last):
            keep = advance_by(kept, 2 * k * room + start, empty(x, 1))
            even = (k - first) & 1 == 0  # the first of a pair waits where it is summed
            here = levels if even else acc
            block_moments(kind, x, block_at(strip, k, start, size), advance(means, start), keep, room, here, own)
            if not even:
                for q in range(0, wide, PIECE):
                    for c in range(q, q + size, 16):
                        push(levels, c, wide, k - first, get(acc, c, empty(x, 16)))
        for q in range(0, wide, PIECE):
            place = start if q == 0 else room + start
            for c in range(0, size, 16):
                put(out, place + c, drain(levels, q + c, wide, last - first, empty(x, 16)))


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
def join_chunks(x, sums, partials, chunks, planes, room, width, stack):
    """Chunks' sums (chunks, planes, room) in pairs -> sums (planes, room), of which only `width` are there; may be in place."""
    for start in range(0, planes * room, room):
        for c in range(start, start + width, 16):
            for q in range(chunks):
                push(stack, int64(0), int64(16), q, get(partials, q * planes * room + c, empty(x, 16)))
            put(sums, c, drain(stack, int64(0), int64(16), chunks, empty(x, 16)))


@device(inline=False)
def join(kind, x, stats, sizes, strip, partials, chunks, space):
    """Chunks' sums (chunks, room) of a strip, with AT_ONCE (chunks, 2, room) -> its groups' statistics."""
    length, fold, all_groups, room, sums = sizes.length, sizes.fold, sizes.groups, sizes.room, partials
    if chunks > 1:
        sums = space.sums
        join_chunks(x, sums, partials, chunks, int64(2 if kind & AT_ONCE else 1), room, strip.width, space.stack)
    of, both, many, one = kind & BOTH, kind & AT_ONCE and at_once(x), empty(x, 16), empty(x, 1)
    if length == 1 and (fold == 1 or all_groups % 16 == 0):
        for g in range(0, strip.groups, 16):
            u, n, totals = strip.u + g, min(16, strip.groups - g), many
            if of:
                totals = columns_total(sums, g, fold, all_groups, many)
            if both:
                conclude_moments(totals, columns_total(sums, room + g, fold, all_groups, many), stats, u, n)
            else:
                conclude(of, totals, stats, u, n)
        return
    for g in range(strip.groups):
        total, stride = one, all_groups * length
        if of:
            total = group_total(sums, g * length, length, fold, stride, one, space.lanes)
        if both:
            squares = group_total(sums, room + g * length, length, fold, stride, one, space.lanes)
            conclude_moments(total, squares, stats, strip.u + g, int64(1))
        else:
            conclude(of, total, stats, strip.u + g, int64(1))


@device(inline=False)
def expand_means(stats, sizes, strip, out):
    """Mean of each column of a strip, as often as runs are folded -> out, float64 (room,)."""
    for g in range(strip.groups):
        if sizes.length == 1:
            out[g] = stats.mean[strip.u + g]
        else:
            fill(out, g * sizes.length, sizes.length, stats.mean[strip.u + g])
    repeat(out, strip.groups * sizes.length, sizes.fold)


@device(inline=False)
def expand(flags, arrays, sizes, strip, out):
    """Constants of each column of a strip, as often as rows are side by side -> out, see `put_constants`, and its answer."""
    x, w, b, stats = arrays.x, arrays.w, arrays.b, arrays.stats
    u, groups, length, t, room, own = strip.u, strip.groups, sizes.length, sizes.t, sizes.room, boolean(flags & OWN)
    first, like, mixed = u % sizes.groups * (length // t), empty(x, 16), False
    if length == 1:
        for g in range(0, groups, 16):
            n = min(16, groups - g)
            mean, low = get_lanes(stats.mean, u + g, n, like), get_lanes(stats.low, u + g, n, like)
            m2, rstd = get_lanes(stats.m2, u + g, n, like), get_lanes(stats.rstd, u + g, n, like)
            weights, biases = get_lanes(w, first + g, n, like), get_lanes(b, first + g, n, like)
            mixed |= put_constants(x, out, room, g, n, (mean, low, m2, rstd, weights, biases), own, False)
    else:
        for g in range(groups):
            mean, low, m2, rstd = stats.mean[u + g], stats.low[u + g], stats.m2[u + g], stats.rstd[u + g]
            for column in range(g * length, (g + 1) * length, t):
                mixed |= put_constants(x, out, room, column, t, (mean, low, m2, rstd, w[first], b[first]), own, False)
                first += 1
    repeat_constants(x, out, room, groups * length, max(sizes.fold, sizes.beside))
    return mixed


@device(inline=False)
def measure(kind, arrays, sizes, strip, kept, space, out):
    """Column sums of a kind of a strip -> out."""
    if not kind & CENTER:
        expand_means(arrays.stats, sizes, strip, space.table)
    strip_sums(kind, arrays.x, strip, sizes.room, space.table, kept, space.stack, out)


@device(inline=False)
def whole_strip(flags, arrays, sizes, strip, kept, space):
    """Statistics of a strip's groups, all at once."""
    x, stats, sums = arrays.x, arrays.stats, space.sums
    if flags & AT_ONCE and at_once(x):
        measure(int64(BOTH | AT_ONCE), arrays, sizes, strip, kept, space, sums)
        join(int64(BOTH | AT_ONCE), x, stats, sizes, strip, sums, int64(1), space)
        if unknown(stats.rstd, strip.u, strip.groups):
            measure(int64(SQUARES), arrays, sizes, strip, kept, space, sums)
            join(int64(SQUARES), x, stats, sizes, strip, sums, int64(1), space)
        return
    for kind in (int64(CENTER), int64(SQUARES)):
        if flags & kind:
            measure(kind | flags & MERGED, arrays, sizes, strip, kept, space, sums)
            join(kind, x, stats, sizes, strip, sums, int64(1), space)
    if not flags & BOTH:
        join(int64(0), x, stats, sizes, strip, sums, int64(1), space)


@kernel()
def columns(phase, flags, x, y, w, b, stats, work, kept, sizes, count, eps, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN) or chunks lo .. hi - 1 (MEASURE, APPLY).

    x, y: where (size,) elements are; w, b: float64 (G * L / t,); stats: (4, units), see `layout`;
    sizes: `ColumnsSizes`.
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, constants), then the sums of all chunks.
    kept: the moments of blocks, of one strip a slot (FUSED) or of all strips.
    """
    sizes, stats, one = named(sizes, ColumnsSizes), rows_of(stats, divisors(x, count), eps), empty(x, 1)
    arrays, room, chunks, fused = Arrays(x, y, w, b, (w, b), stats), sizes.room, sizes.chunks, phase == FUSED
    stack = advance(work, slot * sizes.scratch)
    sums = advance_by(stack, sizes.stack, one)
    lanes = advance_by(sums, 2 * room, one)
    space = Space(stack, sums, lanes, advance_by(lanes, LANE_ROOM, one))
    partials, step = advance(work, sizes.slots * sizes.scratch), block_rows(sizes.rows)
    each = (sizes.rows + step - 1) // step * 2 * room  # of `kept`
    wide = 2 * room if flags & AT_ONCE else room
    for p in range(lo, hi):
        strip = strip_at(p, phase in (FUSED, JOIN), sizes, sizes.length)
        own = advance_by(kept, (slot if fused else p // chunks) * each, one)
        if flags & AGAIN and not unknown(stats.rstd, strip.u, strip.groups):
            continue
        if fused:
            whole_strip(flags, arrays, sizes, strip, own, space)
        elif phase == MEASURE:
            measure(flags, arrays, sizes, strip, own, space, advance_by(partials, p * wide, one))
        elif phase == JOIN:
            join(flags, x, stats, sizes, strip, advance_by(partials, p * chunks * wide, one), chunks, space)
        if flags & WRITE and phase != JOIN:
            mixed = expand(flags, arrays, sizes, strip, space.table)
            for block in side_by_side(strip, sizes, sizes.length):
                if mixed:
                    mixed_columns(x, y, block, space.table, room)
                else:
                    affine_columns(x, y, block, boolean(flags & STREAM), space.table, room)
