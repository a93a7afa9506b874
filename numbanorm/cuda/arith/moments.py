"""Sums and squares in one read, joined side by side; and the statistics that follow from them, if they are accepted."""

from __future__ import annotations

from functools import cache

from numba import int32

from .accumulators import across, empty, kept, moments
from .device import after, barrier, device, exchange, quotient, seen, thread
from .tiles import WARPS, deposit, fold, four, hold, join, once, recall, same, withdraw


@device
def picked(one, other, turned):
    """`one`, or `other` if it is turned."""
    if turned:
        one = other
    return one


four_after = four(after, 1)


@cache
def together(steps, two=False):
    """A function that lets the first of a wide thread's held steps wait for the others, of one array or `two`; n: see `after`.

    What is done with them begins there, so ptxas leaves all loads before that. It would take them apart, to save registers.
    """

    def wait(held, given, n):
        others, own = int32(0), held[0]
        for j in range(1, steps):
            others = seen(others, held[4 * j])
            if two:
                others = seen(others, given[4 * j])
        if two:
            hold(held, 0, four_after(recall(held, 0), seen(others, given[0]), n))
            hold(given, 0, four_after(recall(given, 0), seen(others, own), n))
        else:
            hold(held, 0, four_after(recall(held, 0), others, n))

    return device(wait)


# lanes 16: threads 4 apart give each other two of four lanes; 8: 2 apart, one of two; then each has one lane of eight threads
@device
def fold_one(wide, a):
    """`tiles.fold` of accumulators of one part, with half the exchanges where it is wide."""
    if not wide:
        return fold(wide, a)
    up, odd = thread() & 4 != 0, thread() & 2 != 0
    one = picked(a[0][0], a[2][0], up) + exchange(picked(a[2][0], a[0][0], up), 4)
    two = picked(a[1][0], a[3][0], up) + exchange(picked(a[3][0], a[1][0], up), 4)
    v = picked(one, two, odd) + exchange(picked(two, one, odd), 2)
    v = v + exchange(v, 1)
    v = v + exchange(v, 4)
    return same((v + exchange(v, 2),))


@device
def join_both(wide, a, q, per, room, at):
    """Two sums of tiles -> of items, as `tiles.join`, with one barrier for both. room: two times ROOM numbers from `at` on."""
    few = min(per, 4)
    a, q = join(wide, a, few, room, at), join(wide, q, few, room, at)
    if per > 4:
        one, other = join_warps_both(a[0], q[0], per >> 2, room, at)
        a, q = same(one), same(other)
    return a, q


@device
def share_of_warp(like, i, room, place, warps):
    """The sum of warp i of an item, or nothing."""
    a = empty(like)
    if i < warps:
        a = withdraw(room, place, WARPS, like)
    return a


@device
def join_warps_both(a, q, warps, room, at):
    """`tiles.join_warps` of two sums."""
    lane, warp = thread() & 31, thread() >> 5
    if lane == 0:
        deposit(room, at + warp, WARPS, a)
        deposit(room, at + 2 * WARPS + warp, WARPS, q)
    barrier()
    several = 1
    if warps > 8:
        several = 16
    elif warps > 4:
        several = 8
    elif warps > 2:
        several = 4
    elif warps > 1:
        several = 2
    i = lane & (several - 1)
    place = at + quotient(warp, warps) * warps + i
    one, other = share_of_warp(a, i, room, place, warps), share_of_warp(q, i, room, place + 2 * WARPS, warps)
    if warps > 1:
        one, other = across(one, 1), across(other, 1)
    if warps > 2:
        one, other = across(one, 2), across(other, 2)
    if warps > 4:
        one, other = across(one, 4), across(other, 4)
    if warps > 8:
        one, other = across(one, 8), across(other, 8)
    return one, other


@device
def refused(group):
    """Whether one read was not enough for a group."""
    return group[3] == 0.0


@device
def sum_if_there(acc, left):
    """An accumulator, or nothing."""
    return kept(left > 0, acc)


@device
def by_both(group, again):
    """A group as one read has it, unless that was not enough: then with the (m2, rstd) of two."""
    m2, rstd = group[2], group[3]
    if rstd == 0.0:
        m2, rstd = again
    return group[0], group[1], m2, rstd


four_moments, four_refused, four_by_both = once(moments, 2), once(refused, 1), once(by_both, 2)
four_sums_if_there = four(sum_if_there, 2)


@device
def any_of_four(some):
    return some[0] or some[1] or some[2] or some[3]
