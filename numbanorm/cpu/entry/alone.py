"""Calls from compiled code, in the caller's thread alone: programs are made, and what is rare is done, without Python.

Whoever calls has looked at types and shapes, and says the rest in integers (`Asked`). What float64 has no range for is computed
again here as `cpu.rescale` does it in NumPy: the same groups by the same powers of two, so the same numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, int32, int64

from ...spec.sources import OWN, TRACKED
from ...spec.tree import FLOOR, LEAST_COLUMNS, STEP, UNITS
from ..arith.environment import call_by_default
from ..arith.statistics import group_in_range
from ..arith.vectors import I64, advance, keep, named, pointer
from ..compile import device, intrinsic, kernel, types
from ..layout import LOW, M2, MEAN, RSTD, STREAM, WRITE
from ..schedule.forward import cut_columns, cut_runs, in_columns, streaming
from .addresses import BITS, FLOAT64, array_at, code_at, status_of
from .calls import DONE, IDS, OUT_OF_RANGE, STEPS, TOO_WIDE, Head, members_of, places_of, single_of, track, wants_singles
from .objects import KINDS

STALE = 4  # a status: the caller was compiled with another version of the package
WORDS = 80  # of a program for one thread, at most


class Kernels(NamedTuple):
    """Machine code that a call may need, 0 for what it does not; compiled code finds it by a symbol, see `jit.symbols`."""

    run: int  # `calls.run_forward`
    runs: int
    columns: int
    exact_runs: int  # for parameters that float32 does not have
    exact_columns: int
    exact: int  # whether the first ones are exact


class Asked(NamedTuple):
    """A forward call as a compiled caller says it."""

    B: int
    M: int
    G: int
    K: int
    T: int
    flags: int  # of `layout`, STREAM allowed
    source: int
    affine: int
    itemsize: int
    x: int  # addresses, 0 of what there is not
    y: int
    w: int
    b: int
    mean: int
    var: int
    stats: int  # float64 (4, units)
    scale: int  # float64 (units,) of ones, see `rescale.keep_scaled`
    counter: int  # int64, how many batches there were
    codes: int  # of dtypes: of x, y, w, b, mean and var
    biased: int  # whether the running variance is that of the biased variances, and momentum weighs the old ones


class Sizes(NamedTuple):
    """The sizes of a plan."""

    B: int
    M: int
    G: int
    K: int
    T: int


@intrinsic
def memory(tc: Any, address: Any, element: Any) -> Any:
    """A pointer to elements that lie at an address."""
    result = types.CPointer(element.dtype)
    return result(types.int64, element), lambda ctx, b, sig, a: b.inttoptr(a[0], ctx.get_value_type(result))


@intrinsic
def address_of(tc: Any, array: Any) -> Any:
    """Where the elements of a contiguous array lie."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return b.ptrtoint(ctx.make_array(sig.args[0])(ctx, b, value=a[0]).data, I64)

    return types.int64(array), codegen


@device(inline=False)
def write_program(words, c, p, asked, address, exact, backward, own, times):
    """Encode a cut as `calls.program` does, but for threads, with numbers of its own for dtypes."""
    n, size = 0, p.B * p.M * p.G * p.K * p.T
    for step in c.steps:
        if step.threads > 0:
            for k in range(4):
                words[STEPS + 4 * n + k] = step[k]
            n += 1
    at = STEPS + 4 * n
    for k in range(len(c.sizes)):
        words[at + k] = c.sizes[k]
    places, units, shapes = places_of(p, backward, asked.affine != 0), p.B * p.G, at + len(c.sizes)
    head = Head(
        kernel=address, dealer=0, steps=n, work=c.work, kept=c.kept, places=places, units=units, groups=p.G, runs=p.M,
        members=members_of(p, backward, asked.source), source=asked.source, single=single_of(exact, own), times=times,
        nbytes=size * asked.itemsize, masked=0, shapes=shapes,
    )  # fmt: skip
    for k in range(IDS):
        words[k] = head[k]
    for k in range(1 + KINDS):
        words[IDS + k] = 1 + k
    words[shapes], words[shapes + 1], words[shapes + 2], words[shapes + 3] = 1, places, 1, units


@device(inline=False)
def run_once(kernels, p, asked, at, exact, checked, eps, n, old, new):
    """A forward call by `calls.run_forward`. at: addresses of x, y, weight, bias, mean, variance and statistics."""
    flags, words, size = asked.flags, np.empty(WORDS, np.int64), p.B * p.M * p.G * p.K * p.T
    if at[0] == at[1]:
        flags &= ~STREAM
    flags, affine = streaming(flags, 2 * size * asked.itemsize), asked.affine != 0
    wide = exact and kernels.exact == 0
    if in_columns(p, flags):
        address = kernels.exact_columns if wide else kernels.columns
        write_program(words, cut_columns(p, asked.itemsize, flags, affine, 1), p, asked, address, exact, False, False, 1)
    else:
        address, own = kernels.exact_runs if wide else kernels.runs, wants_singles(p, affine)
        write_program(words, cut_runs(p, asked.itemsize, flags, affine, 1), p, asked, address, exact, False, own, 1)
    program, codes = pointer(words), asked.codes
    ids, parameters, of_stats = advance(program, IDS), advance(program, words[IDS - 1]), advance(program, words[IDS - 1] + 2)
    args = (
        array_at(at[0], code_at(codes, 0), ids, parameters),
        array_at(at[1], code_at(codes, 1), ids, parameters),
        array_at(at[2], code_at(codes, 2), ids, parameters),
        array_at(at[3], code_at(codes, 3), ids, parameters),
        array_at(at[4], code_at(codes, 4), ids, parameters),
        array_at(at[5], code_at(codes, 5), ids, parameters),
        array_at(at[6], int64(FLOAT64) if at[6] != 0 else int64(0), ids, of_stats),
        array_at(program, int64(FLOAT64), ids, of_stats),
    )
    status = status_of(kernels.run, (*args, checked, eps, n, old, new))
    keep(words)
    return status


@device(inline=False)
def exponent_of(a):
    """`rescale.exponents` of a number."""
    if a == 0.0 or not abs(a) < np.inf:
        return 0
    return (int64(math.frexp(a)[1]) + STEP // 2) // STEP * STEP


@device(inline=False)
def times_power(a, exponent):
    """a * 2**exponent, rounded once."""
    return math.ldexp(a, int32(exponent))


@device(inline=False)
def parameter(address, code, i, missing):
    """Number i of a weight or bias of float32 or float64, or what stands for one that there is not."""
    if address == 0:
        return missing
    return memory(address, float64)[i] if code == FLOAT64 else float64(memory(address, float32)[i])


@device(inline=False)
def keep_scaled(scale, found, at, e, table, u, units):
    """`rescale.keep_scaled` of unit u: found[at:] has (4, room) of what was scaled by 2**-e."""
    room = len(found) // 4
    squares, low = found[M2 * room + at], found[LOW * room + at]
    power = 0 if squares <= 0.0 or e == 0 else UNITS if e > 0 else -UNITS
    scale[u] = math.ldexp(1.0, int32(power))
    low += found[MEAN * room + at] - times_power(table[MEAN * units + u], -e)
    table[LOW * units + u] = times_power(low, e - power)
    table[M2 * units + u] = times_power(squares, 2 * (e - power))


@device(inline=False)
def rescue(kernels, p, asked, x, eps, table):
    """Compute groups again that left float64's range, as `rescale.scaled_groups` does: one at a time."""
    length, units, y = p.K * p.T, p.B * p.G, memory(asked.y, float64)
    room = max(1, -(-LEAST_COLUMNS // length))
    scaled, out = np.zeros(p.M * room * length), np.empty(p.M * room * length)
    weights, biases, found = np.empty(room * p.K), np.empty(room * p.K), np.empty(4 * room)
    own = of_scaled(asked)
    for u in range(units):
        if group_in_range(table[M2 * units + u], table[RSTD * units + u]):
            continue
        first, largest = (u // p.G * p.M * p.G + u % p.G) * length, 0.0
        for m in range(p.M):
            for i in range(length):
                size = abs(x[first + m * p.G * length + i])
                largest = size if size > largest or not size < np.inf else largest
                if not largest < np.inf:
                    break
        if not largest < np.inf:
            continue
        e = exponent_of(largest)
        if eps > 0.0:
            e = max(e, exponent_of(math.sqrt(eps)))
        for m in range(p.M):
            for i in range(length):
                scaled[m * room * length + i] = times_power(x[first + m * p.G * length + i], -e)
        for k in range(room * p.K):
            place = u % p.G * p.K + k % p.K
            weights[k] = parameter(asked.w, code_at(asked.codes, 2), place, 1.0)
            biases[k] = parameter(asked.b, code_at(asked.codes, 3), place, -0.0)
        found[:] = 0.0
        scaled_eps = max(times_power(eps, -2 * e), FLOOR) if eps > 0.0 else 0.0
        at = (
            address_of(scaled), address_of(out), address_of(weights) if asked.w else int64(0),
            address_of(biases) if asked.b else int64(0), int64(0), int64(0), address_of(found),
        )  # fmt: skip
        run_once(kernels, Sizes(int64(1), p.M, room, p.K, p.T), own, at, True, True, scaled_eps, 0.0, 0.0, 0.0)
        table[MEAN * units + u] = times_power(found[MEAN * room], e)
        table[LOW * units + u] = times_power(found[LOW * room], e)
        table[M2 * units + u] = times_power(found[M2 * room], 2 * e)
        table[RSTD * units + u] = times_power(found[RSTD * room], -e)
        if eps > 0.0 and found[M2 * room] == 0.0:
            table[RSTD * units + u] = 1.0 / math.sqrt(eps)
        if asked.scale != 0:
            keep_scaled(memory(asked.scale, float64), found, 0, e, table, u, units)
        if asked.flags & WRITE:
            for m in range(p.M):
                for i in range(length):
                    y[first + m * p.G * length + i] = out[m * room * length + i]


@device()
def of_scaled(asked):
    """What is asked of groups that are scaled: float64 throughout, and x's own statistics."""
    w, b = int64(FLOAT64 if asked.w != 0 else 0), int64(FLOAT64 if asked.b != 0 else 0)
    codes = FLOAT64 + (FLOAT64 << BITS) + (w << (2 * BITS)) + (b << (3 * BITS))
    return Asked(
        asked.B, asked.M, asked.G, asked.K, asked.T, asked.flags, int64(OWN), asked.affine, asked.itemsize, asked.x, asked.y,
        asked.w, asked.b, int64(0), int64(0), asked.stats, asked.scale, int64(0), codes, int64(0),
    )  # fmt: skip


@device(inline=False)
def normalize(table, words, eps, momentum):
    """The forward call that stands at the address `words`, by the kernels that stand at `table`. Momentum nan: an average."""
    kernels, asked = named(memory(table, int64), Kernels), named(memory(words, int64), Asked)
    p, own = Sizes(asked.B, asked.M, asked.G, asked.K, asked.T), asked.source == OWN or asked.source == TRACKED
    size, units, x = p.B * p.M * p.G * p.K * p.T, p.B * p.G, asked.x
    copied = size if asked.itemsize == 8 and own and asked.x == asked.y and asked.flags & WRITE else 0
    copy, counter = np.empty(copied), memory(asked.counter, int64)
    if copied:
        for i in range(size):
            copy[i] = memory(x, float64)[i]
        x = address_of(copy)
    average = math.isnan(momentum)
    new = abs(momentum) if not average else 1.0 / (counter[0] + 1) if asked.counter != 0 else 0.0
    old, n = 1.0 - new, float64(p.M * p.K * p.T - (0 if asked.biased else 1))
    if asked.biased and not average:
        old, new = new, old
    room = np.zeros(0 if asked.stats != 0 else 4 * units)
    stats = asked.stats if asked.stats != 0 else address_of(room)
    at = (x, asked.y, asked.w, asked.b, asked.mean, asked.var, stats)
    exact = kernels.exact != 0
    measures = (asked.flags & WRITE) == 0  # then there is no y, for which x stands
    status = run_once(kernels, p, asked, at, exact, measures, eps, n, old, new)
    if status == TOO_WIDE:
        status = run_once(kernels, p, asked, at, True, True, eps, n, old, new)
    if status == OUT_OF_RANGE:
        found = memory(stats, float64)
        rescue(kernels, p, asked, memory(x, float64), eps, found)
        if asked.source == TRACKED:
            ids, shape, running = np.arange(1, 2 + KINDS), np.empty(2, np.int64), np.empty(p.G)
            shape[0], shape[1] = 1, p.G
            for row, to, code, by in ((MEAN, asked.mean, 4, 1.0), (M2, asked.var, 5, n)):
                of_batch = array_at(to, code_at(asked.codes, code), pointer(ids), pointer(shape))
                track(advance(found, row * units), of_batch, pointer(ids), p.G, p.B, by, old, new, pointer(running))
            keep(ids), keep(shape), keep(running)
        status = DONE
    if status == DONE and asked.counter != 0:
        counter[0] += 1
    keep(room)
    keep(copy)
    return status


@kernel()
def refuse(table, words, eps, momentum):
    """Stands for what another version of the package had here."""
    return STALE


@kernel()
def normalize_alone(table, words, eps, momentum):
    """`normalize`, in the default floating-point environment."""
    return call_by_default(normalize, (table, words, eps, momentum))


NORMALIZE = (types.int64, types.int64, types.float64, types.float64)
