"""Gradients for compiled callers, as `alone`: in one thread, and what is rare without Python, as `cpu.backend` does it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import float32, float64, int32, int64

from ...spec import tree
from ...spec.sources import GIVEN, RSTD
from ...spec.tree import LEAST_RUN
from ..arith.environment import call_by_default
from ..arith.vectors import advance, keep, named, pointer
from ..compile import device, jitable, kernel
from ..layout import PARAMETERS, STREAM, WRITE
from ..schedule.backward import cut_columns, cut_rows, cut_runs
from ..schedule.forward import streaming
from .addresses import BITS, FLOAT64, array_at, code_at, status_of
from .alone import WORDS, Asked, Kernels, Sizes, address_of, exponent_of, memory, run_once, times_power, write_program
from .calls import DONE, IDS, OUT_OF_RANGE, REFUSED, TOO_WIDE
from .parameters import narrow

by_columns = jitable(tree.gradients_by_columns)


class GradientKernels(NamedTuple):
    """As `alone.Kernels`, for gradients: `calls.run_backward`, and families by their places."""

    run: int
    columns: int
    rows: int
    runs: int
    exact_columns: int
    exact_rows: int
    exact_runs: int
    exact: int
    scale_run: int  # `Kernels` of dx = dy * weight * rstd, where statistics are given
    scale_runs: int
    scale_columns: int


class AskedGradients(NamedTuple):
    """A backward call as a compiled caller says it."""

    B: int
    M: int
    G: int
    K: int
    T: int
    flags: int
    source: int
    affine: int  # whether gradients of parameters are wanted
    itemsize: int
    x: int  # addresses
    dy: int
    dx: int
    w: int
    mean: int  # float64
    rstd: int
    grads: int  # (2, places)
    codes: int  # of dtypes: of x, w and grads


@device()
def scales(p, asked):
    """`spec.call.scales`."""
    rows = not by_columns(p) and p.T < LEAST_RUN
    return asked.source == GIVEN and (asked.flags & WRITE) != 0 and (asked.affine == 0 or rows)


@device(inline=False)
def run_backward_once(kernels, p, asked, at, codes, flags, exact, checked):
    """A backward call by `calls.run_backward`. at: addresses of x, dy, dx, weight, mean, rstd and gradients of parameters."""
    words, size = np.empty(WORDS, np.int64), p.B * p.M * p.G * p.K * p.T
    if at[2] == at[0] or at[2] == at[1]:
        flags &= ~STREAM
    flags = streaming(flags, 3 * size * asked.itemsize)
    wide = exact and kernels.exact == 0
    if by_columns(p):
        address = kernels.exact_columns if wide else kernels.columns
        write_program(words, cut_columns(p, asked.itemsize, flags, 1), p, asked, address, exact, True, False, int64(1))
    elif p.T < LEAST_RUN:
        address = kernels.exact_rows if wide else kernels.rows
        write_program(words, cut_rows(p, asked.itemsize, flags, 1), p, asked, address, exact, True, True, p.T)
    else:
        address = kernels.exact_runs if wide else kernels.runs
        write_program(words, cut_runs(p, asked.itemsize, flags, 1), p, asked, address, exact, True, False, int64(1))
    program, of_x, of_w, of_grads = pointer(words), code_at(codes, 0), code_at(codes, 1), code_at(codes, 2)
    ids, parameters, of_stats = advance(program, IDS), advance(program, words[IDS - 1]), advance(program, words[IDS - 1] + 2)
    args = (
        array_at(at[0], of_x, ids, parameters),
        array_at(at[1], of_x, ids, parameters),
        array_at(at[2], of_x if at[2] != 0 else int64(0), ids, parameters),
        array_at(at[3], of_w if at[3] != 0 else int64(0), ids, parameters),
        array_at(at[4], int64(FLOAT64) if at[4] != 0 else int64(0), ids, of_stats),
        array_at(at[5], int64(FLOAT64), ids, of_stats),
        array_at(at[6], of_grads if at[6] != 0 else int64(0), ids, parameters),
    )
    status = status_of(kernels.run, (*args, array_at(program, int64(FLOAT64), ids, of_stats), checked))
    keep(words)
    return status


@device()
def larger(largest, a):
    """The larger absolute value; nan, if one is."""
    return abs(a) if abs(a) > largest or math.isnan(a) else largest


@device(inline=False)
def scaled(kernels, p, asked, at, codes, flags):
    """Gradients of float64 from scaled x and dy, as `rescale.scaled_gradients`; at: as for `run_backward_once`."""
    units, places, runs = p.B * p.G, p.G * p.K, p.B * p.M * p.G * p.K
    x, dy, dx, grads = memory(at[0], float64), memory(at[1], float64), memory(at[2], float64), memory(at[6], float64)
    mean, rstd = memory(at[4], float64), memory(at[5], float64)
    own_x, own_dy, own_dx, own_grads = np.empty(runs * p.T), np.empty(runs * p.T), np.empty(runs * p.T), np.empty(2 * places)
    own_mean, own_rstd, of_x = np.empty(units), np.empty(units), np.empty(units, np.int64)
    for u in range(units):
        of_x[u] = -exponent_of(rstd[u])
        own_rstd[u] = times_power(rstd[u], of_x[u])
        own_mean[u] = times_power(mean[u], -of_x[u]) if at[4] != 0 else 0.0
    own = (
        address_of(own_x), address_of(own_dy), address_of(own_dx if at[2] != 0 else own_x), at[3],
        address_of(own_mean) if at[4] != 0 else int64(0), address_of(own_rstd), address_of(own_grads) if at[6] else int64(0),
    )  # fmt: skip
    for of_weights in range(2):  # of units, for dx, and of weights
        if at[6 if of_weights else 2] == 0:
            continue
        largest = np.zeros(places if of_weights else units)
        for r in range(runs):
            k = r % places if of_weights else r // (p.M * places) * p.G + r % places // p.K
            for i in range(r * p.T, (r + 1) * p.T):
                largest[k] = larger(largest[k], dy[i])
        for r in range(runs):
            u = r // (p.M * places) * p.G + r % places // p.K
            e = exponent_of(largest[r % places if of_weights else u])
            for i in range(r * p.T, (r + 1) * p.T):
                own_x[i], own_dy[i] = times_power(x[i], -of_x[u]), times_power(dy[i], -e)
        run_backward_once(kernels, p, asked, own, codes, flags, True, True)
        if of_weights:
            for k in range(2 * places):
                grads[k] = times_power(own_grads[k], exponent_of(largest[k % places]))
        else:
            for r in range(runs):
                u = r // (p.M * places) * p.G + r % places // p.K
                for i in range(r * p.T, (r + 1) * p.T):
                    dx[i] = times_power(own_dx[i], exponent_of(largest[u]) - of_x[u])
    keep(own_x), keep(own_dy), keep(own_dx), keep(own_grads), keep(own_mean), keep(own_rstd)


@device(inline=False)
def mend_grads(to, source, n):
    """Take gradients of parameters where there are none, as `backend.mend`."""
    for k in range(n):
        if not abs(to[k]) < np.inf:
            to[k] = source[k]


@device(inline=False)
def mend_dx(to, source, p):
    """Take the dx of groups that are nan, as `backend.mend`."""
    length = p.K * p.T
    for u in range(p.B * p.G):
        first, known = (u // p.G * p.M * p.G + u % p.G) * length, False
        for m in range(p.M):
            for i in range(first + m * p.G * length, first + (m * p.G + 1) * length):
                known |= not math.isnan(to[i])
        if known:
            continue
        for m in range(p.M):
            for i in range(first + m * p.G * length, first + (m * p.G + 1) * length):
                to[i] = source[i]


@device(inline=False)
def mended(kernels, p, asked, at, flags):
    """Gradients of float32 for which there was no room, from exact ones."""
    size, places, of_grads = p.B * p.M * p.G * p.K * p.T, p.G * p.K, code_at(asked.codes, 2)
    dx, grads = np.empty(size if at[2] != 0 else 0, np.float32), np.empty(2 * places)
    exact = (
        at[0], at[1], address_of(dx) if at[2] != 0 else int64(0), at[3], at[4], at[5],
        address_of(grads) if at[6] != 0 else int64(0),
    )  # fmt: skip
    run_backward_once(kernels, p, asked, exact, asked.codes, flags, True, True)
    if at[2] != 0:
        mend_dx(memory(at[2], float32), memory(exact[2], float32), p)
    if at[6] != 0 and of_grads == FLOAT64:
        mend_grads(memory(at[6], float64), memory(exact[6], float64), 2 * places)
    elif at[6] != 0:
        mend_grads(memory(at[6], float32), memory(exact[6], float32), 2 * places)
    keep(dx), keep(grads)


@device(inline=False)
def by_sums(kernels, p, asked, flags):
    """The part of a backward call that needs sums over groups, as `backend.differentiate_by_sums`."""
    size, places, exact, wide = p.B * p.M * p.G * p.K * p.T, p.G * p.K, kernels.exact != 0, asked.itemsize == 8
    target = asked.dx if flags & WRITE else int64(0)
    in_place = target != 0 and (target == asked.x or target == asked.dy)
    room = np.empty((size * asked.itemsize + 7) // 8 if in_place else 0)
    sums = np.empty(2 * places if asked.affine and wide else 0)
    dx = address_of(room) if in_place else target
    grads = int64(0) if asked.affine == 0 else address_of(sums) if wide else asked.grads
    codes = with_sums(asked.codes) if wide else asked.codes
    at = (asked.x, asked.dy, dx, asked.w, asked.mean, asked.rstd, grads)
    status = run_backward_once(kernels, p, asked, at, codes, flags, exact, False)
    if status == TOO_WIDE:
        exact = True
        status = run_backward_once(kernels, p, asked, at, codes, flags, True, False)
    if status == REFUSED:
        return status
    if status == OUT_OF_RANGE:
        if exact:
            scaled(kernels, p, asked, at, codes, flags)
        else:
            mended(kernels, p, asked, at, flags)
    if in_place:
        for i in range(size * (asked.itemsize // 4)):
            memory(target, int32)[i] = memory(dx, int32)[i]
    if asked.affine and wide:
        ids = np.arange(1, 8)
        to = array_at(asked.grads, code_at(asked.codes, 2), pointer(ids), pointer(ids))
        narrow(pointer(sums), 2 * places, to, pointer(ids))
        keep(ids)
    keep(room), keep(sums)
    return int64(DONE)


@device()
def with_sums(codes):
    """The numbers of dtypes, with gradients of parameters in float64."""
    return (codes & ((1 << (2 * BITS)) - 1)) + (int64(FLOAT64) << (2 * BITS))


@device(inline=False)
def scale(kernels, p, asked):
    """dx = dy * weight * rstd by the kernel of the forward pass."""
    of_x, of_w = code_at(asked.codes, 0), code_at(asked.codes, 1) if asked.w != 0 else int64(0)
    codes = of_x + (of_x << BITS) + (of_w << (2 * BITS)) + (int64(FLOAT64) << (5 * BITS))
    none = int64(0)
    forward = Asked(
        p.B, p.M, p.G, p.K, p.T, int64(WRITE | STREAM), int64(RSTD), int64(1), asked.itemsize, asked.dy, asked.dx, asked.w,
        none, none, asked.rstd, none, none, none, codes, none,
    )  # fmt: skip
    own = Kernels(kernels.scale_run, kernels.scale_runs, kernels.scale_columns, none, none, kernels.exact)
    at = (asked.dy, asked.dx, asked.w, none, none, asked.rstd, none)
    return run_once(own, p, forward, at, kernels.exact != 0, True, 0.0, 0.0, 0.0, 0.0)


@device(inline=False)
def differentiate(table, words, unused, nor):
    """The backward call that stands at the address `words`, by the kernels that stand at `table`."""
    kernels, asked = named(memory(table, int64), GradientKernels), named(memory(words, int64), AskedGradients)
    p, status = Sizes(asked.B, asked.M, asked.G, asked.K, asked.T), int64(DONE)
    scaling = scales(p, asked)
    flags = asked.flags & ~WRITE if scaling else asked.flags
    if flags & (WRITE | PARAMETERS):
        status = by_sums(kernels, p, asked, flags)
    if scaling and status == DONE:
        status = scale(kernels, p, asked)
    return status


@kernel()
def differentiate_alone(table, words, unused, nor):
    """`differentiate`, in the default floating-point environment."""
    return call_by_default(differentiate, (table, words, unused, nor))
