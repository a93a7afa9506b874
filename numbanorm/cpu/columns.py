"""Kernel family *columns*: groups of many short runs (channels last, (N, C), small pictures channels first).

x is M rows of W = G*L contiguous elements for each sample; a group is L < 256 neighbouring columns. Its sums are the row
tree for each column, then the run tree over the L column sums:

    row tree    blocks of R rows in order, starting from +0.0; block sums in adjacent pairs
    run tree    one tile: 32 lanes in order, lanes by halves

A unit is a *strip*: some neighbouring groups of one sample, at best so few that their columns stay in the cache between
the passes (phase FUSED). A strip's rows may also be shared out in *chunks*, aligned subtrees of the row tree (MEASURE,
JOIN, APPLY): the bits are the same.
"""

from __future__ import annotations

from numba import boolean

from .elementwise import affine_columns
from .jobs import CENTER, FUSED, JOIN, LANE_ROOM, LOW, MEAN, MEASURE, ONE_READ, ROWS, RSTD, SQUARES, STREAM, WRITE
from .kernel import device, kernel
from .simd import advance, pointer
from .sums import (
    advance_by,
    block_rows,
    block_squares,
    block_sums,
    conclude,
    distance,
    drain,
    get,
    lanes,
    plus,
    push,
    put,
    ratio,
    scaled_square,
    zero,
    zeros,
)


@device(inline=False)
def strip_sums(kind, one_read, x, i, first, last, rows, stride, width, room, means, kept, stack, out):
    """Row trees of `width` columns over their blocks first .. last - 1 -> out[0 : width].

    x[i] is the strip's first element; means: float64 (width,), wanted for the squares. With `one_read` the moments of
    each block, about its own mean, are kept when the sum is taken: (blocks, 2, room).
    """
    step = block_rows(rows)
    for k in range(first, last):
        n = min(step, rows - k * step)
        at, place = i + k * step * stride, 2 * k * room
        for c in range(0, width, 16):
            if kind == CENTER:
                s = block_sums(x, at + c, n, stride, width - c)
                if one_read:
                    put(kept, place + c, s)
                    mean = ratio(s, float(n))[0]
                    put(kept, place + room + c, block_squares(x, at + c, n, stride, width - c, mean))
            elif one_read:
                high, low = ratio(get(kept, place + c, zeros(x)), float(n))
                d = distance(high, lanes(means, c), low)
                s = scaled_square(get(kept, place + room + c, zeros(x)), float(n), d)
            else:
                s = block_squares(x, at + c, n, stride, width - c, lanes(means, c))
            push(stack, c, room, k - first, s)
    for c in range(0, width, 16):
        put(out, c, drain(stack, c, room, last - first, zeros(x)))


@device()
def run_of_columns(sums, at, length, like, scratch):
    """Run tree over sums[at : at + length], length < 256; an absent lane adds nothing."""
    if length == 1:
        return get(sums, at, like)
    n = min(32, length)
    for lane in range(n):
        a = like
        for k in range(lane, length, 32):
            a = plus(a, get(sums, at + k, like))
        put(scratch, lane, a)
    half = 16
    while half:
        for lane in range(min(half, n - half)):
            put(scratch, lane, plus(get(scratch, lane, like), get(scratch, lane + half, like)))
        n = min(n, half)
        half >>= 1
    return get(scratch, 0, like)


@device(inline=False)
def join(kind, x, partials, chunks, room, width, length, u, stats, count, eps, stack, sums, scratch):
    """Chunks' sums (chunks, room) of a strip -> statistics of its groups, u being the first."""
    if chunks > 1:
        for c in range(0, width, 16):
            for q in range(chunks):
                push(stack, c, room, q, get(partials, q * room + c, zeros(x)))
            put(sums, c, drain(stack, c, room, chunks, zeros(x)))
    for g in range(width // length):
        total = zero(x)
        if kind & (CENTER | SQUARES):
            total = run_of_columns(sums, g * length, length, total, scratch)
        conclude(kind, total, stats, u + g, count, eps)


@device(inline=False)
def expand(stats, u, w, b, first, groups, length, t, room, out):
    """Statistics of `groups` groups from u on and their parameters from `first` on -> one of each per column (5, room)."""
    column = 0
    for g in range(u, u + groups):
        mean, rstd = stats[MEAN, g], stats[RSTD, g]
        c = -(stats[LOW, g] * rstd)
        for _ in range(length // t):
            weight, bias = w[first], b[first]
            first += 1
            for _ in range(t):
                out[column] = mean
                out[column + room] = rstd
                out[column + 2 * room] = c
                out[column + 3 * room] = weight
                out[column + 4 * room] = bias
                column += 1


@device(inline=False)
def apply_rows(streaming, x, y, i, rows, stride, width, parameters, room):
    """Normalize `rows` rows of a strip whose first element is x[i], a few at a time: so long parameters stay loaded."""
    for r in range(0, rows, ROWS):
        affine_columns(streaming, x, y, i + r * stride, min(ROWS, rows - r), stride, width, parameters, room)


@kernel()
def columns(phase, todo, x, y, w, b, stats, work, kept, dims, count, eps, scratch, slots, lo, hi, slot):
    """Strips lo .. hi - 1 (phases FUSED, JOIN) or chunks lo .. hi - 1 (MEASURE, APPLY).

    x, y: (size,) as stored; w, b: float64 (G * L / t,); stats: (4, units), see `jobs`;
    dims: (M, G, L, t, groups a strip, chunks a strip, blocks a chunk, levels of the stack, room of a strip).
    work: `slots` scratch areas of `scratch` float64 (stack, column sums, lanes, parameters), then the sums of all chunks.
    kept: the moments of blocks, of one strip a slot (FUSED) or of all strips.
    """
    xp, yp = pointer(x), pointer(y)
    rows, all_groups, length, t, most, chunks, per_chunk, levels, room = dims
    strips, stride, step = (all_groups + most - 1) // most, all_groups * length, block_rows(rows)
    blocks = (rows + step - 1) // step
    one_read, streaming = boolean(todo & ONE_READ), boolean(todo & STREAM)
    stack = advance(pointer(work), slot * scratch)
    sums = advance_by(stack, levels * room, zero(xp))
    lane_sums = advance_by(sums, room, zero(xp))
    parameters = advance_by(lane_sums, LANE_ROOM, zero(xp))
    partials = advance(pointer(work), slots * scratch)
    whole = phase == FUSED or phase == JOIN
    for p in range(lo, hi):
        unit, chunk = (p, 0) if whole else (p // chunks, p % chunks)
        sample, g = unit // strips, unit % strips * most
        groups = min(most, all_groups - g)
        u, i, width, first = sample * all_groups + g, sample * rows * stride + g * length, groups * length, g * (length // t)
        k0, k1 = (0, blocks) if whole else (chunk * per_chunk, min(blocks, (chunk + 1) * per_chunk))
        keep = advance_by(pointer(kept), (slot if phase == FUSED else unit) * 2 * blocks * room, zero(xp))
        out = sums if phase == FUSED else advance_by(partials, (unit * chunks + chunk) * room, zero(xp))
        for kind in (CENTER, SQUARES):
            if todo & kind:
                if phase == FUSED or phase == MEASURE:
                    if kind == SQUARES:
                        expand(stats, u, w, b, first, groups, length, t, room, parameters)
                    strip_sums(kind, one_read, xp, i, k0, k1, rows, stride, width, room, parameters, keep, stack, out)
                if whole:
                    n = 1 if phase == FUSED else chunks
                    join(kind, xp, out, n, room, width, length, u, stats, count, eps, stack, sums, lane_sums)
        if whole and not todo & (CENTER | SQUARES):
            join(0, xp, out, 1, room, width, length, u, stats, count, eps, stack, sums, lane_sums)
        if todo & WRITE:
            expand(stats, u, w, b, first, groups, length, t, room, parameters)
            n = min(rows, k1 * step) - k0 * step
            apply_rows(streaming, xp, yp, i + k0 * step * stride, n, stride, width, parameters, room)
