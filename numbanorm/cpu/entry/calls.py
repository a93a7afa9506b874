"""A whole call of a norm in compiled code, from Python's objects through the steps of a schedule.

To call a function through Numba's dispatcher costs 0.3 us, 0.1 us more for each array, 0.3 us for each that is made or
converted before. So a norm calls one function, past the dispatcher, which takes arrays as they are, checks them, widens the
parameters from whatever type they have, makes its own work space, and has all integers in one array, the *program*.

It returns a status. What it does not accept is REFUSED, before anything is done: Python then finds out what is wrong, or makes
the copies that are wanted, and calls again with `checked`. Where float64 overflowed, or nearly so on either side, it is
OUT_OF_RANGE: what was written is to be written again, see `rescale`, and running statistics are as they were. Where a parameter
is TOO_WIDE for float32, nothing was done: the call is to be an exact one.

All of it runs in the default floating-point environment, in the caller's thread and in the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, float64, int64, prange, uint8
from numba.core import cgutils

from ...spec.call import Call
from ...spec.plan import Plan
from ...spec.sources import GIVEN, OWN, TRACKED
from ...spec.sources import RSTD as RSTD_ALONE
from ..arith.environment import call_by_default, default_environment
from ..arith.gradient_sums import gradients_in_range, has_room
from ..arith.memory import as_single, fill
from ..arith.statistics import in_range, unknown
from ..arith.vectors import advance, keep, named, pointer
from ..compile import device, intrinsic, jitable, kernel, types
from ..layout import AGAIN, ANCHOR, M2, MEAN, ROOT, RSTD, UNIT, Step
from ..schedule.forward import Schedule
from .objects import (
    DATA,
    FLAGS,
    KINDS,
    OBJECT,
    READABLE,
    WRITABLE,
    apart,
    code_of,
    elements,
    field,
    fits,
    identities,
    like,
    same_or_apart,
    there,
)
from .parameters import is_wide, narrow, narrowed, point_to_singles, read, widen

Program = np.ndarray[Any, np.dtype[np.int64]]
DONE, REFUSED, OUT_OF_RANGE, TOO_WIDE = 0, 1, 2, 3


class Head(NamedTuple):
    """A program's first integers; the ids of `objects.identities`, the steps, the family's sizes and two shapes follow."""

    kernel: int  # address of the family's machine code
    dealer: int  # and of `deal`, which deals its pieces to threads
    steps: int  # four integers each
    work: int  # float64 of work space
    kept: int  # and of blocks' moments
    places: int  # that have a weight and a bias
    units: int
    groups: int  # of a sample
    runs: int  # of a group
    members: int  # elements that share a mean; 1 where the variance is given, 0 where rstd is
    source: int  # see `spec.sources`
    single: int  # whether results are computed in float32; 2 where parameters are wanted as float32, by their address
    times: int  # how often each weight is written down
    nbytes: int  # of x
    masked: int  # whether x has a mask or gaps, or is joined, as dy: who has the arrays has to find out what its numbers are
    shapes: int  # where they stand: (ndim, *sizes) of the parameters and of the statistics


IDS = len(Head._fields)  # where the ids stand, and where the steps begin
STEPS = IDS + 1 + KINDS


@jitable
def places_of(plan: Plan, backward: bool, affine: bool) -> int:
    """Elements of a sample that have a weight of their own, or groups of it where none have."""
    return plan.G * (plan.K if backward or affine else 1)


@jitable
def members_of(plan: Plan, backward: bool, source: int) -> int:
    """What `Head.members` says."""
    count = plan.M * plan.K * plan.T
    return count if backward or source in (OWN, TRACKED) else 1 if source == GIVEN else 0


@jitable
def single_of(exact: bool, own: bool) -> int:
    """What `Head.single` says; own: whether the kernel wants parameters by their address, see `wants_singles`."""
    return 0 if exact else 2 if own else 1


@jitable
def wants_singles(plan: Plan, affine: bool) -> bool:
    """Whether each element that *runs* writes has a parameter of its own."""
    return affine and plan.T == 1 and plan.K > 1


def program(s: Schedule, addresses: tuple[int, int], call: Call, places: int, count: int, times: int) -> Program:
    """Encode a schedule as the int64 array that the compiled entry reads."""
    p, steps = call.plan, [v for step in s.steps for v in step]
    # elements that have a weight of their own
    own = s.family == "rows_backward" if call.backward else s.family == "runs" and wants_singles(p, call.affine)
    head = Head(
        kernel=addresses[0], dealer=addresses[1], steps=len(s.steps), work=s.work, kept=s.kept, places=places, units=p.units,
        groups=p.G, runs=p.M, members=count, source=call.source,
        single=single_of(call.exact, own), times=times, nbytes=p.size * call.dtype.itemsize,
        masked=call.where or call.joined or call.gaps, shapes=STEPS + len(steps) + len(s.sizes),
    )  # fmt: skip
    shapes = (len(p.weight_shape), *p.weight_shape, len(p.stats_shape), *p.stats_shape)
    return np.array([*head, *identities(), *steps, *s.sizes, *shapes])


def invoke_at(ctx: Any, b: Any, args: Any, address: Any, values: Any) -> Any:
    """Emit the call of the compiled kernel at `address` with a tuple of arguments of the types `args`."""
    function = b.inttoptr(address, ctx.call_conv.get_function_type(types.none, args.types).as_pointer())
    ctx.call_conv.call_function(b, function, types.none, args.types, cgutils.unpack_tuple(b, values))
    return ctx.get_dummy_value()


@intrinsic
def invoke(tc: Any, address: Any, args: Any) -> Any:
    """Call the compiled kernel at `address`; linked in, it would be optimized all over again for every caller."""
    return types.void(types.intp, args), lambda ctx, b, sig, a: invoke_at(ctx, b, args, *a)


@intrinsic
def invoke_by_default(tc: Any, address: Any, args: Any) -> Any:
    """`invoke` in a worker, whose environment is that of whoever started it."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        with default_environment(b):
            return invoke_at(ctx, b, args, *a)

    return types.void(types.intp, args), codegen


@kernel(parallel=True)
def deal(address, n, threads, phase, flags, args):
    """Pieces 0 .. n - 1 of the kernel at `address`, which takes `args` and (lo, hi, slot), dealt to `threads` threads."""
    for i in prange(threads):
        slot = int64(i)  # prange counts in unsigned integers
        invoke_by_default(address, (phase, flags, *args, n * slot // threads, n * (slot + 1) // threads, slot))


@device()
def run_steps(words, h, args, rstd):
    """All steps; `deal` is called by its address too, for to load it starts the threading layer. rstd: of all units."""
    for s in range(STEPS, STEPS + 4 * h.steps, 4):
        step = named(advance(words, s), Step)
        if step.flags & AGAIN and not unknown(rstd, 0, h.units):
            continue
        if step.threads == 1:
            invoke(h.kernel, (step.phase, step.flags, *args, int64(0), step.pieces, int64(0)))
        else:
            invoke(h.dealer, (h.kernel, step.pieces, step.threads, step.phase, step.flags, args))


@device()
def work_space(n):
    """n float64 that nobody has written."""
    return np.empty(n)


@device(inline=False)
def bytes_of(p, n, ids):
    """Memory of n parameters, none if they are None."""
    if not there(p):
        return 0
    code = code_of(p, ids)
    return n << (2 if code == 0 else 3 if code == 1 else 1)


@device(inline=False)
def clear_of(a, nbytes, p, n, ids):
    """Whether an array of so many bytes shares none with a parameter of n elements, or one of them is None."""
    return apart(a, nbytes, p, bytes_of(p, n, ids))


@device()
def in_place(x, y):
    """Whether y, if it is not None, is where x is."""
    return there(y) and field(x, DATA) == field(y, DATA)


@device(inline=False)
def acceptable(x, y, w, b, mean, var, words, h):
    """Whether the arguments of a forward call fit, and what is written shares memory with nothing else but x with y."""
    ids, shape, nbytes, n = advance(words, IDS), advance(words, h.shapes), h.nbytes, h.places
    tracked = h.source == TRACKED
    flags = WRITABLE if tracked else READABLE
    if field(x, FLAGS) & READABLE != READABLE or not like(y, x, WRITABLE, ids) or not same_or_apart(x, y, nbytes):
        return False
    for p, wanted in ((w, READABLE), (b, READABLE), (mean, flags), (var, flags)):
        if not (fits(p, wanted, shape, ids) and clear_of(y, nbytes, p, n, ids)):
            return False
    if not tracked:
        return True
    for p in (mean, var):
        of_p = bytes_of(p, n, ids)
        if not (clear_of(x, nbytes, p, n, ids) and clear_of(p, of_p, w, n, ids) and clear_of(p, of_p, b, n, ids)):
            return False
    return clear_of(mean, bytes_of(mean, n, ids), var, n, ids)


@device(inline=False)
def acceptable_gradients(x, dy, dx, w, mean, rstd, grads, words, h):
    """Whether the arguments of a backward call fit, and dx shares memory with nothing else, or is x or dy."""
    ids, shape, nbytes = advance(words, IDS), advance(words, h.shapes), h.nbytes
    if field(x, FLAGS) & READABLE != READABLE or not like(dy, x, READABLE, ids) or not fits(w, READABLE, shape, ids):
        return False
    shape = advance(shape, 1 + shape[0])
    for a in (mean, rstd):
        if not fits(a, READABLE, shape, ids) or (there(a) and code_of(a, ids) != 1):
            return False
    if there(grads) and code_of(grads, ids) < 0:
        return False
    if not there(dx):
        return True
    if not (like(dx, x, WRITABLE, ids) and same_or_apart(dx, x, nbytes) and same_or_apart(dx, dy, nbytes)):
        return False
    apart_from_stats = clear_of(dx, nbytes, mean, h.units, ids) and clear_of(dx, nbytes, rstd, h.units, ids)
    return apart_from_stats and clear_of(dx, nbytes, w, h.places, ids)


@device(inline=False)
def track(batch, running, ids, channels, samples, n, old, new, own):
    """running (C,) = old * running + new * batch / n; batch: (samples * C,), averaged over the samples in their order."""
    if there(running):
        widen(running, ids, channels, own)
        for c in range(channels):
            total = batch[c]
            for u in range(channels + c, samples * channels, channels):
                total += batch[u]
            if samples > 1:
                total /= samples
            own[c] = own[c] * old + total / n * new
        narrow(own, channels, running, ids)


@device(inline=False)
def forward(x, y, w, b, mean, var, stats, program, checked, eps, n, old, new):
    """x, y: (size,); w, b: weight_shape; mean, var: (G,), or (units,) for rstd; stats: float64 (4, units) of zeros; a program.

    What is None of w is 1, of b -0, which changes not even the sign of a zero; stats are None where nobody asks for them.
    n, old, new: for `track`.
    """
    words = elements(program, int64)
    h = named(words, Head)
    ids, places, units, groups = advance(words, IDS), h.places, h.units, h.groups
    guarded = h.source in (OWN, TRACKED) and h.nbytes == 8 * units * h.members  # float64, and not given
    if not checked and (not acceptable(x, y, w, b, mean, var, words, h) or (guarded and in_place(x, y))):
        return REFUSED
    space = work_space(3 * places + 2 + h.work + h.kept + 4 * units)
    weights = pointer(space)
    biases, own, table = advance(weights, places), advance(weights, 2 * places), elements(stats, float64)
    rest = advance(own, places + 2)
    if not there(stats):
        table = advance(rest, h.work + h.kept)
        fill(table, 0, 4 * units, 0.0)
    if h.source == GIVEN:
        for u in range(0, units, groups):  # the same for all samples
            widen(mean, ids, groups, advance(table, MEAN * units + u))
            widen(var, ids, groups, advance(table, M2 * units + u))
    elif h.source == RSTD_ALONE:
        widen(var, ids, units, advance(table, RSTD * units))
    read(w, ids, places, 1.0, weights)
    read(b, ids, places, -0.0, biases)
    if h.single == 2:
        room = as_single(advance(own, 2))
        fine = point_to_singles(w, ids, weights, places, own, room)
        if not (fine and point_to_singles(b, ids, biases, places, advance(own, 1), advance(room, places))):
            keep(space)
            return TOO_WIDE
    args = (weights, biases, carray(table, (4, units)), rest, advance(rest, h.work), advance(words, STEPS + 4 * h.steps))
    run_steps(words, h, (elements(x, uint8), elements(y, uint8), *args, float64(h.members), eps), advance(table, RSTD * units))
    if guarded:
        squares, roots = advance(table, M2 * units), advance(table, RSTD * units)
        runs = 0 if h.masked else h.runs  # whoever has the mask looks for what no scale would mend
        if not in_range(squares, roots, units, elements(x, float64), groups, runs, h.members // h.runs):
            return OUT_OF_RANGE
    if h.source == TRACKED:
        track(table, mean, ids, groups, units // groups, 1.0, old, new, weights)
        track(advance(table, M2 * units), var, ids, groups, units // groups, n, old, new, weights)
    keep(space)
    return DONE


@device(inline=False)
def backward(x, dy, dx, w, mean, rstd, grads, program, checked):
    """x, dy, dx: (size,); w: weight_shape, None for 1; mean, rstd: float64, stats_shape, a mean of None for 0; a program.

    grads: (2, places), or None.
    """
    words = elements(program, int64)
    h = named(words, Head)
    ids, places, units = advance(words, IDS), h.places, h.units
    guarded = h.nbytes == 8 * units * h.members
    if not checked and not acceptable_gradients(x, dy, dx, w, mean, rstd, grads, words, h):
        return REFUSED
    if not checked and (guarded or h.single) and (in_place(x, dx) or in_place(dy, dx)):
        return REFUSED
    space = work_space(2 * (h.times + 1) * places + 1 + UNIT * units + h.work + h.kept)
    weights, anchors, roots = pointer(space), elements(mean, float64), elements(rstd, float64)
    own = advance(weights, h.times * places)
    total = advance(own, h.times * places + 1)
    table = advance(total, 2 * places)
    read(w, ids, places, 1.0, weights if h.times == 1 else total)
    if h.times > 1:
        for k in range(places):
            fill(weights, k * h.times, h.times, total[k])
    if h.single == 2:
        room, n = as_single(advance(own, 1)), h.times * places
        if h.times == 1:
            fine = point_to_singles(w, ids, weights, n, own, room)
        else:
            fine = narrowed(weights, n, own, room, is_wide(w, ids))
        if not fine:
            keep(space)
            return TOO_WIDE
    for u in range(units):
        table[UNIT * u + ANCHOR] = anchors[u] if there(mean) else 0.0
        table[UNIT * u + ROOT] = roots[u]
    rest, family_sizes = advance(table, UNIT * units), advance(words, STEPS + 4 * h.steps)
    args = (weights, table, advance(rest, h.work), total, rest, family_sizes, float64(h.members))
    run_steps(words, h, (elements(x, uint8), elements(dy, uint8), elements(dx, uint8), *args), table)
    if there(grads):
        narrow(total, 2 * places, grads, ids)
    status = DONE
    if h.single and not has_room(table, units, total, places if there(grads) else 0):
        status = OUT_OF_RANGE
    if guarded:
        n, each, runs = places if there(grads) else 0, h.members // h.runs, 0 if h.masked else h.runs
        if not gradients_in_range(table, units, total, n, elements(x, float64), elements(dy, float64), h.groups, runs, each):
            status = OUT_OF_RANGE
    keep(space)
    return status


@device(inline=False)
def tracking(stats, mean, var, program, samples, n, old, new):
    """`track` for those of mean and var (C,) that are not None. stats: float64 (4, samples * C); program: identities, C."""
    ids, batch = elements(program, int64), elements(stats, float64)
    channels = ids[STEPS - IDS]
    own = np.empty(channels)
    track(batch, mean, ids, channels, samples, 1.0, old, new, pointer(own))
    track(advance(batch, M2 * samples * channels), var, ids, channels, samples, n, old, new, pointer(own))
    keep(own)


@kernel()
def run_forward(x, y, w, b, mean, var, stats, program, checked, eps, n, old, new):
    """`forward`, in the default floating-point environment."""
    return call_by_default(forward, (x, y, w, b, mean, var, stats, program, checked, eps, n, old, new))


@kernel()
def run_backward(x, dy, dx, w, mean, rstd, grads, program, checked):
    """`backward`, in the default floating-point environment."""
    return call_by_default(backward, (x, dy, dx, w, mean, rstd, grads, program, checked))


@kernel()
def run_tracking(stats, mean, var, program, samples, n, old, new):
    """`tracking`, in the default floating-point environment."""
    call_by_default(tracking, (stats, mean, var, program, samples, n, old, new))


FORWARD = (*[OBJECT] * 8, types.boolean, *[types.float64] * 4)
BACKWARD = (*[OBJECT] * 8, types.boolean)
TRACKING = (*[OBJECT] * 4, types.int64, *[types.float64] * 3)
