"""From sums to statistics: mean, its low part, sum of squares and rstd of a group, or of sixteen at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ...spec.tree import LARGE_STAT, TOO_FAR
from ..compile import device, intrinsic, types
from ..layout import CENTER, LOW, M2, MEAN, RSTD, SQUARES, Stats
from .accumulators import in_lanes, of_lanes, ratio, value, whole
from .arithmetic import Vec, is_masked, two_sum, unless_nan
from .memory import load, store
from .stages import seen
from .vectors import F64, I1, advance, broadcast, call, constant, fused, pointer, suffix_of


@intrinsic
def inverse_root(tc: Any, high: Any, low: Any, eps: Any) -> Any:
    """1 / sqrt(high + low + eps), rounded once: a Newton step takes in what the sum, the root and the quotient lost.

    With the three roundings left in, rstd is up to 1.3 eps off, and a float64 gradient, which takes its cube, 4 eps.
    """

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # v, error = high + low + eps and what it lost
        # r = 1 / sqrt(v)
        # return r + r / 2 * (1 - (v + error) * r * r)
        v, error = two_sum(b, a[0], unless_nan(b, a[1]))
        v, more = two_sum(b, v, whole(b, a[2], high))
        error = b.fadd(error, more)
        one, half = (whole(b, ir.Constant(F64, x), high) for x in (1.0, 0.5))
        r = b.fdiv(one, call(b, f"llvm.sqrt.{suffix_of(v)}", v.type, [v]))
        p = b.fmul(v, r)
        rest = fused(b, v, r, b.fneg(p))  # v * r is p + rest
        e = b.fsub(fused(b, b.fneg(p), r, one), b.fmul(r, b.fadd(rest, b.fmul(error, r))))
        better = fused(b, b.fmul(half, r), e, r)
        return b.select(b.fcmp_ordered("ord", better, better), better, r)  # an infinite r has no error

    return high(high, low, types.float64), codegen


@intrinsic
def less_square(tc: Any, x: Any, d: Any, n: Any) -> Any:
    """x - n * d * d"""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.fsub(a[0], b.fmul(b.fmul(a[2] if n == x else whole(b, a[2], x), a[1]), a[1]))

    return x(x, d, n if n == x else types.float64), codegen


@intrinsic
def about_mean(tc: Any, squares: Any, sums: Any, mean: Any) -> Any:
    """Squares about 0 and sums -> squares about the mean, whose high part is `mean`, as accumulators."""
    of = squares.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        # squares - sums * mean
        m = a[2] if sums.lanes > 1 else broadcast(b, a[2], 1)
        high = fused(b, b.fneg(of.split(b, a[1])[0]), m, of.split(b, a[0])[0])
        return of.join(b, [high] + [constant(F64, 0.0, sums.lanes)] * (of.parts - 1))

    return squares(squares, sums, mean), codegen


@intrinsic
def if_accepted(tc: Any, squares: Any, m2: Any, rstd: Any) -> Any:
    """rstd, or 0 where one read is not enough: squares about 0 that are too many times m2, those about the mean."""
    of = squares.arithmetic

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        q, m2, rstd = of_lanes(b, of.split(b, a[0])[0]), a[1], a[2]
        limit = b.fmul(whole(b, ir.Constant(F64, TOO_FAR), rstd_type), m2)
        return b.select(b.fcmp_ordered("<=", q, limit), rstd, whole(b, ir.Constant(F64, 0.0), rstd_type))

    rstd_type = rstd
    return rstd(squares, m2, rstd), codegen


@intrinsic
def if_unknown(tc: Any, rstd: Any, old: Any, new: Any) -> Any:
    """`new` where rstd is 0, which stands for what is not yet known; else `old`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.select(b.fcmp_ordered("==", a[0], whole(b, ir.Constant(F64, 0.0), rstd)), a[2], a[1])

    return new(rstd, old, new), codegen


@intrinsic
def variance(tc: Any, s: Any, high: Any, low: Any, d: Any) -> Any:
    """high + low - d * d as (high, low), of what an accumulator like `s` gave."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        _, high, low, d = a
        return ctx.make_tuple(b, sig.return_type, s.arithmetic.less_square(b, [high, low], d))

    return types.UniTuple(high, 2)(s, high, high, high), codegen


@intrinsic
def nought(tc: Any, like: Any) -> Any:
    """0 in as many lanes."""
    return like(like), lambda ctx, b, sig, a: whole(b, ir.Constant(F64, 0.0), like)


def lanes_at(b: ir.IRBuilder, a: Any, like: Any) -> Any:
    """`get_lanes`, of its arguments."""
    return b.load(b.gep(a[0], [a[1]])) if like.lanes == 1 else load(b, types.float64, a[0], a[1], a[2])


@intrinsic
def get_lanes(tc: Any, p: Any, i: Any, n: Any, like: Any) -> Any:
    """p[i], float64, or with an accumulator `like` one of sixteen lanes p[i : i + n], n <= 16."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return lanes_at(b, a, like)

    return in_lanes(like)(p, types.intp, types.intp, like), codegen


@intrinsic
def put_lanes(tc: Any, p: Any, i: Any, n: Any, values: Any) -> Any:
    """The reverse of `get_lanes`."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if isinstance(values, Vec):
            store(b, types.float64, a[0], a[1], a[3], a[2])
        else:
            b.store(a[3], b.gep(a[0], [a[1]]))
        return ctx.get_dummy_value()

    return types.void(p, types.intp, types.intp, values), codegen


@intrinsic
def divisors(tc: Any, x: Any, n: Any) -> Any:
    """How many elements of x a group has, n; or with a mask the address of how many each has."""
    if not is_masked(x.dtype):
        return types.float64(x, types.float64), lambda ctx, b, sig, a: a[1]

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.inttoptr(seen(b, [x], a)[0].mask.counts, F64.as_pointer())  # type: ignore[union-attr]

    return types.CPointer(types.float64)(x, types.float64), codegen


@intrinsic
def divisor(tc: Any, n: Any, u: Any, some: Any, like: Any) -> Any:
    """What `divisors` says of groups u .. u + some - 1: a number, or a number for each lane of an accumulator."""
    if n == types.float64:
        return n(n, types.intp, types.intp, like), lambda ctx, b, sig, a: a[0]

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return lanes_at(b, a, like)

    return in_lanes(like)(n, types.intp, types.intp, like), codegen


@intrinsic
def is_given(tc: Any, n: Any) -> Any:
    """Whether a variance was given, of what `divisors` says: 0 is for rstd itself."""
    zero = ir.Constant(F64, 0.0)
    return types.boolean(
        n
    ), lambda ctx, b, sig, a: b.fcmp_unordered("une", a[0], zero) if n == types.float64 else ir.Constant(I1, 0)


@device()
def rows_of(stats, count, eps):
    """An array of statistics (4, units) as `Stats`; count: see `divisors`."""
    p, units = pointer(stats), stats.shape[1]
    mean, low, m2, rstd = (advance(p, MEAN * units), advance(p, LOW * units), advance(p, M2 * units), advance(p, RSTD * units))
    return Stats(mean, low, m2, rstd, count, eps)


@device()
def conclude(kind, total, stats, u, n):
    """The sums (kind CENTER) or the squares about the mean's high part (SQUARES) of groups u .. u + n - 1 -> their statistics.

    total: an accumulator with a lane for each, n <= 16, or for one. A group whose rstd is known keeps what it has.
    Kind 0 is for statistics that are given: the variance in place of the squares, and a count of 1; or rstd, and 0.
    """
    if kind & CENTER:
        high, low = ratio(total, divisor(stats.n, u, n, total))
        put_lanes(stats.mean, u, n, high)
        put_lanes(stats.low, u, n, low)
    elif kind & SQUARES:
        off, known = get_lanes(stats.low, u, n, total), get_lanes(stats.rstd, u, n, total)
        count = divisor(stats.n, u, n, total)
        m2 = less_square(value(total), off, count)
        put_lanes(stats.m2, u, n, if_unknown(known, get_lanes(stats.m2, u, n, total), m2))
        high, low = ratio(total, count)
        high, low = variance(total, high, low, off)
        put_lanes(stats.rstd, u, n, if_unknown(known, known, inverse_root(high, low, stats.eps)))
    elif is_given(stats.n):
        var = get_lanes(stats.m2, u, n, total)
        put_lanes(stats.rstd, u, n, inverse_root(var, nought(var), stats.eps))


@device()
def conclude_moments(sums, squares, stats, u, n):
    """The sums and squares of groups u .. u + n - 1, accumulators as in `conclude` -> statistics; rstd 0 if not accepted."""
    count = divisor(stats.n, u, n, sums)
    high, low = ratio(sums, count)
    put_lanes(stats.mean, u, n, high)
    put_lanes(stats.low, u, n, low)
    about = about_mean(squares, sums, high)
    m2 = value(about)
    put_lanes(stats.m2, u, n, m2)
    high, low = ratio(about, count)
    put_lanes(stats.rstd, u, n, if_accepted(squares, m2, inverse_root(high, low, stats.eps)))


@device()
def unknown(rstd, u, n):
    """Whether one of the units u .. u + n - 1 has no rstd yet."""
    found = False
    for k in range(u, u + n):
        found |= rstd[k] == 0.0
    return found


@device()
def group_in_range(squares, rstd):
    """Whether a group's sum of squares and rstd are what they would be without limits; nan is not."""
    return (squares < np.inf) & (rstd < LARGE_STAT)


@device(inline=False)
def finite(x, at, stride, runs, length):
    """Whether all elements are, of runs of float64 that are a stride apart, the first at x[at]."""
    for first in range(at, at + runs * stride, stride):
        good = True
        for i in range(first, first + length):
            good &= abs(x[i]) < np.inf
        if not good:
            return False
    return True


@device()
def finite_group(x, u, groups, runs, length):
    """Whether all elements of group u are, in float64 x (samples, runs, groups, length)."""
    return finite(x, (u // groups * runs * groups + u % groups) * length, groups * length, runs, length)


@device(inline=False)
def in_range(squares, rstd, units, x, groups, runs, length):
    """Whether all groups are, squares and rstd being (units,), or have a nan or an infinity in x, that no scale would mend."""
    good = True
    for u in range(units):
        good &= group_in_range(squares[u], rstd[u])
    if not good:
        good = True
        for u in range(units):
            if not group_in_range(squares[u], rstd[u]):
                good &= not finite_group(x, u, groups, runs, length)
    return good
