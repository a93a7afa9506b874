"""Elements of runs that a thread holds, and the joining of its tiles' sums.

A run is cut into tiles of 256 elements, each added by 32 lanes in 8 steps. A warp holds four tile *slots*; a thread holds 32
elements, four of each step:

    wide      8 threads a slot; the four are neighbours in memory (one 16-byte access), lanes 4t .. 4t + 3 of the tile
    narrow    32 threads a slot; the four belong to the warp's four slots, lane t of each (for odd lengths and addresses)

So the same code serves both, with the same bits. An *item* is what is summed at once, a run or a part of one, in `per` slots:
1, 2 or a multiple of 4. What is a tuple of four below goes with the four elements.
"""

from __future__ import annotations

from numba import int32

from .accumulators import across, empty, kept, less, multiply, or_nothing, plus, product, ratio, spread, term
from .device import (
    barrier,
    block,
    device,
    fma,
    load1,
    load4,
    mul,
    peek1,
    quotient,
    read1,
    read4,
    store1,
    store4,
    take1,
    take4,
    thread,
    threads,
    widen,
)

STEPS = 8
HELD = 4 * STEPS  # elements of a thread
WARPS = 16  # of an item at most, whose sums are joined in shared memory
ROOM = 2 * WARPS  # float64 that joining them takes


def four(f, kinds):
    """The device function that applies f to the elements of its first `kinds` arguments, and to the others as they are."""

    def one(a, *others):
        return f(a[0], *others), f(a[1], *others), f(a[2], *others), f(a[3], *others)

    def two(a, b, *others):
        return f(a[0], b[0], *others), f(a[1], b[1], *others), f(a[2], b[2], *others), f(a[3], b[3], *others)

    def three(a, b, c, *others):
        return (
            f(a[0], b[0], c[0], *others),
            f(a[1], b[1], c[1], *others),
            f(a[2], b[2], c[2], *others),
            f(a[3], b[3], c[3], *others),
        )

    def every(a, b, c, d, *others):
        return (
            f(a[0], b[0], c[0], d[0], *others),
            f(a[1], b[1], c[1], d[1], *others),
            f(a[2], b[2], c[2], d[2], *others),
            f(a[3], b[3], c[3], d[3], *others),
        )

    return device({1: one, 2: two, 3: three, 4: every}[kinds])


@device
def same(v):
    """A value for each of four elements."""
    return v, v, v, v


def once(f, kinds):
    """Twin of `four` for what belongs to items: a wide thread's four elements are of one, and LLVM would divide four times."""
    all_four = four(f, kinds)

    def one(wide, a, *others):
        if wide:
            return same(f(a[0], *others))
        return all_four(a, *others)

    def two(wide, a, b, *others):
        if wide:
            return same(f(a[0], b[0], *others))
        return all_four(a, b, *others)

    def three(wide, a, b, c, *others):
        if wide:
            return same(f(a[0], b[0], c[0], *others))
        return all_four(a, b, c, *others)

    def every(wide, a, b, c, d, *others):
        if wide:
            return same(f(a[0], b[0], c[0], d[0], *others))
        return all_four(a, b, c, d, *others)

    return device({1: one, 2: two, 3: three, 4: every}[kinds])


@device
def load_at(i, p):
    """p[i], the element first"""
    return load1(p, i)


@device
def read_at(i, p):
    """p[i] where nothing is written, the element first"""
    return read1(p, i)


@device
def take_at(i, p):
    """p[i] as it is held, the element first"""
    return take1(p, i)


@device
def peek_at(i, p):
    """The same where nothing is written"""
    return peek1(p, i)


@device
def distance(acc, v, mean, present):
    """v - mean, of the parts of an accumulator, and 0 for an element that is absent: it must add nothing."""
    return kept(present, less(v, mean, acc))


@device
def number_term(acc, v):
    """acc + a float64"""
    return term(acc, (v,))


@device
def minus(x, y):
    return x - y


@device
def add(x, y):
    return x + y


@device
def only(v):
    """A float64 as a number of one part."""
    return (v,)


four_terms, four_products, four_sums = four(term, 2), four(product, 3), four(number_term, 2)
four_distances, four_minus, four_add = four(distance, 4), four(minus, 2), four(add, 2)
four_lesses, four_multiplied = four(less, 3), four(multiply, 3)
four_only = four(only, 1)
four_mul, four_fma, ratios, spreads = four(mul, 2), four(fma, 3), once(ratio, 1), once(spread, 2)


@device
def first(pairs):
    """First part of each of four."""
    return pairs[0][0], pairs[1][0], pairs[2][0], pairs[3][0]


@device
def second(pairs):
    """Second part of each of four."""
    return pairs[0][1], pairs[1][1], pairs[2][1], pairs[3][1]


@device
def hold(held, j, v):
    """Keep step j; indices are known to the compiler, so `held` lies in registers."""
    held[4 * j], held[4 * j + 1], held[4 * j + 2], held[4 * j + 3] = v


@device
def recall(held, j):
    """Step j that was kept."""
    return held[4 * j], held[4 * j + 1], held[4 * j + 2], held[4 * j + 3]


@device
def slot(wide, e):
    """The slot, in its block, of a thread's element e."""
    t = thread()
    if wide:
        return t >> 3
    return ((t >> 5) << 2) + e


@device
def item(wide, e, per):
    """Item, of all blocks, of a thread's element e."""
    return block() * quotient(threads() >> 3, per) + quotient(slot(wide, e), per)


@device
def begin(wide, e, per):
    """Place of a thread's element e of step 0 in its item."""
    s, t = slot(wide, e), thread()
    lane = t & 31
    if wide:
        lane = (t & 7) << 2
    return int32(((s - quotient(s, per) * per) << 8) + lane)


@device
def items(wide, per):
    """Items of a thread's four elements."""
    if wide:
        return same(item(wide, 0, per))
    return item(wide, 0, per), item(wide, 1, per), item(wide, 2, per), item(wide, 3, per)


@device
def begins(wide, per):
    """Of step 0; a wide access begins at the first and goes on for three elements more."""
    if wide:
        return same(begin(wide, 0, per))
    return begin(wide, 0, per), begin(wide, 1, per), begin(wide, 2, per), begin(wide, 3, per)


@device
def present(left, j):
    """Presence of the four elements of step j."""
    k = 32 * j
    return left[0] > k, left[1] > k, left[2] > k, left[3] > k


@device
def place_of(at, left, k):
    """Place of the element k after `at`, or 0 if there is none."""
    place = 0
    if left > k:
        place = at + k
    return place


four_places, four_or_nothing, four_loads, four_reads = (
    four(place_of, 2),
    four(or_nothing, 2),
    four(load_at, 1),
    four(read_at, 1),
)
four_takes, four_peeks, four_widen = four(take_at, 1), four(peek_at, 1), four(widen, 1)


@device
def fetch(wide, p, at, left, j):
    """Step j of p, from the four places `at`; 0 where `left`, the elements from there to the end, says there is none.

    What is absent is read from p's first element: without a branch the loads of several steps stay together.
    """
    places = four_places(at, left, 32 * j)
    return four_or_nothing(load4(p, places[0]) if wide else four_loads(places, p), present(left, j))


@device
def fetch_constant(wide, p, at, left, j):
    """Twin of `fetch` where nothing is written while the kernel runs."""
    places = four_places(at, left, 32 * j)
    return four_or_nothing(read4(p, places[0]) if wide else four_reads(places, p), present(left, j))


@device
def fetch_stored(wide, p, at, left, j):
    """Twin of `fetch` that gives elements as they are held: float32, unless they are float64."""
    places = four_places(at, left, 32 * j)
    return four_or_nothing(take4(p, places[0]) if wide else four_takes(places, p), present(left, j))


@device
def put(wide, p, at, left, j, v):
    """Write step j."""
    k = 32 * j
    if wide:
        if left[0] > k:
            store4(p, at[0] + k, v)
    else:
        if left[0] > k:
            store1(p, at[0] + k, v[0])
        if left[1] > k:
            store1(p, at[1] + k, v[1])
        if left[2] > k:
            store1(p, at[2] + k, v[2])
        if left[3] > k:
            store1(p, at[3] + k, v[3])


four_across = four(across, 1)


# a[0:16] + a[16:32], then [0:8] + [8:16], ... of the 32 lanes of a tile
@device
def fold(wide, a):
    """Four lane sums -> the sums of their tiles: lanes by halves 16, 8, 4, 2, 1."""
    if wide:
        a = four_across(four_across(four_across(a, 4), 2), 1)
        s = plus(plus(a[0], a[2]), plus(a[1], a[3]))
        return s, s, s, s
    return four_across(four_across(four_across(four_across(four_across(a, 16), 8), 4), 2), 1)


@device
def join(wide, s, per, room, at):
    """Sums of tiles -> sums of items, in adjacent pairs. room: shared memory, ROOM numbers from `at` on."""
    if per > 1:
        if wide:
            v = across(s[0], 8)
            s = v, v, v, v
        else:
            low, high = plus(s[0], s[1]), plus(s[2], s[3])
            s = low, low, high, high
    if per > 2:
        v = across(s[0], 16) if wide else plus(s[0], s[2])
        s = v, v, v, v
    if per > 4:
        v = join_warps(s[0], per >> 2, room, at)
        s = v, v, v, v
    return s


@device
def deposit(room, at, stride, a):
    """An accumulator to shared memory: its parts, `stride` apart."""
    if len(a) == 1:
        room[at] = a[0]
    else:
        room[at], room[at + stride] = a[0], a[1]


@device
def withdraw(room, at, stride, like):
    """Read an accumulator that was deposited."""
    if len(like) == 1:
        return (room[at],)
    return room[at], room[at + stride]


# pairs of leaves as they come, by a binary counter: leaf 3 meets leaf 2, which waits in level 0, and both what waits in 1
@device
def push(stack, at, step, low, k, s):
    """Leaf k of a pairs tree; its level j waits in stack[at + j * step], with its low part `low` further on."""
    while k & 1:
        s = plus(withdraw(stack, at, low, s), s)
        at += step
        k >>= 1
    deposit(stack, at, low, s)


@device
def drain(stack, at, step, low, leaves, like):
    """Sum of the leaves >= 1 that were pushed."""
    while leaves & 1 == 0:
        at += step
        leaves >>= 1
    s = withdraw(stack, at, low, like)
    leaves >>= 1
    while leaves:
        at += step
        if leaves & 1:
            s = plus(withdraw(stack, at, low, like), s)
        leaves >>= 1
    return s


@device
def join_warps(a, warps, room, at):
    """The sums of `warps` neighbouring warps in adjacent pairs; what is absent counts as 0."""
    t = thread()
    lane, warp = t & 31, t >> 5
    if lane == 0:
        deposit(room, at + warp, WARPS, a)
    barrier()
    i = lane & (WARPS - 1)
    one = empty(a)
    if i < warps:
        one = withdraw(room, at + quotient(warp, warps) * warps + i, WARPS, a)
    return across(across(across(across(one, 1), 2), 4), 8)
