"""The forward pass of every norm.

A call goes down one of two ways. On the fast one compiled code looks at the arrays, and takes those that are as kernels want
them (see `cpu.entry`). What it refuses goes the other way: Python checks all, says what is wrong, or has the copies made that
are wanted.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

from ..backends import dispatch, host
from ..backends.protocol import Space
from ..spec import checks
from ..spec.around import Around, activation_of, refuse_around
from ..spec.call import NOTHING, Call, Known, Stats, Which, forward_call, with_around, with_mask, without_x
from ..spec.norms import NORMS
from ..spec.plan import Shape
from ..spec.sources import GIVEN, OWN, TRACKED
from ..spec.spread import leading
from . import spread
from .running import Running, RunningArguments, plain

Affine = tuple[Any, Any, Any]  # weight, bias, eps
How = tuple[Any, Any, Any, Any, Any]  # method, exact, out, return_stats, backend
ALONE = (None, None, False, None, None)  # fill; and around the norm: residual, return_residual, addend, activation


def forward(
    norm: str,
    x: Any,
    which: Which,
    affine: Affine,
    how: How,
    running: RunningArguments | None = None,
    where: Any = None,
    beside: tuple[Any, ...] = ALONE,
) -> Any:
    """y, or (y, Stats), of a norm in `NORMS`; nothing of the arguments but x's axes was checked."""
    fill, residual, return_residual, addend, activation = beside
    if residual is not None or return_residual is not False or addend is not None or activation is not None:
        return joined(norm, x, which, affine, how, running, (where, *beside))
    (weight, bias, eps), (method, exact, out, return_stats, backend) = affine, how
    space = dispatch.space(x, backend)
    x_ = space.array("x", x)
    with_stats = return_stats if return_stats.__class__ is bool else checks.flag("return_stats", return_stats)
    known = NOTHING if running is None else plain(running)
    quick = backend is None and known is not None and exact.__class__ is bool and (method is None or method.__class__ is str)
    if quick and known is not None and where is None and fill is None:
        source = OWN if known[0] is None else TRACKED if known[2] else GIVEN
        present = weight is not None, bias is not None, out is x_
        call = forward_call(norm, x_.shape, x_.dtype, which, source, method, exact, present)
        number = call.eps if eps is None else eps
        if number.__class__ is not float or not 0.0 <= number < math.inf:
            number = epsilon(call, eps)
        done = space.try_forward(call, x_, out, weight, bias, number, known, with_stats)
        if done is not None:
            y, stats = done
            return (y, stats_of(space, call, stats, weight)) if with_stats else y
    asked = check(norm, space, (x, x_, where, fill), which, affine, how, running)
    y, stats = run(asked, with_stats)
    return (y, stats_of(space, asked.call, stats, weight)) if with_stats else y


def epsilon(call: Call, eps: Any) -> float:
    """eps, checked, or RMS norm's own."""
    if call.center:
        return checks.eps(eps)
    return checks.eps_without_bias(call.eps if eps is None else eps)


class Asked(NamedTuple):
    """A call whose arguments have all been checked, and nothing else done."""

    space: Space
    call: Call
    x: Any
    weight: Any
    bias: Any
    eps: float
    out: Any
    running: Running | None
    where: Any
    fill: float | None
    lead: Shape | None  # of axes along which parameters may differ, if one has not the norm's own shape
    around: Around | None = None


def check(
    norm: str,
    space: Space,
    data: tuple[Any, Any, Any, Any],
    which: Which,
    affine: Affine,
    how: How,
    running: RunningArguments | None,
) -> Asked:
    """Check all arguments. data: x, x of a known dtype, where and fill."""
    (x, x_, where, fill), own = data, running is None or running[-1]
    (weight, bias, eps), (method, exact, out, _, _) = affine, how
    named, exact, present = checks.method(method), checks.flag("exact", exact), (weight is not None, bias is not None)
    call_of = partial(forward_call, norm, x_.shape, x_.dtype, which, OWN if own else GIVEN, named, exact)
    call = call_of((*present, False))
    plan = call.plan
    tracked = None if running is None else Running(space, running, plan.G, NORMS[norm].own)
    number = epsilon(call, eps)
    lead = leading(norm, plan, x_.shape, which)
    w, b = (spread.parameter(space, name, p, plan, lead) for name, p in (("weight", weight), ("bias", bias)))
    kept, value = space.mask(where, x_.shape), checks.fill(fill, where)
    if kept is not None:
        with_mask(call)
    others, updated = (
        (("x", x), ("weight", weight), ("bias", bias), ("where", where)),
        () if tracked is None else tracked.arrays(),
    )
    if out is not None:
        space.output(out, x_, (*others, *updated))
    if tracked is not None and own:
        space.apart(updated, others)
    in_place = out is not None and space.target(out, x_) is x_
    call = call_of((*present, in_place))
    call, spanned = call if kept is None else with_mask(call), lead if spread.differs(plan, w, b) else None
    return Asked(space, call, x_, w, b, number, out, tracked, kept, value, spanned)


def joined(
    norm: str,
    x: Any,
    which: Which,
    affine: Affine,
    how: How,
    running: RunningArguments | None,
    beside: tuple[Any, ...],
) -> Any:
    """`forward` with what stands around the norm; beside: where, fill, residual, return_residual, addend and activation."""
    space, with_stats = dispatch.space(x, how[4]), checks.flag("return_stats", how[3])
    with_sum = checks.flag("return_residual", beside[3])
    asked = check_joined(norm, space, (x, space.array("x", x), *beside[:2]), which, affine, how, running, beside[2:])
    assert asked.around is not None
    h = space.empty_like(asked.x) if with_sum else None
    y, stats = run(asked._replace(around=asked.around._replace(kept=h)), with_stats)
    results = (y, *([h] if with_sum else []), *([stats_of(space, asked.call, stats, affine[0])] if with_stats else []))
    return results if len(results) > 1 else y


def check_joined(
    norm: str,
    space: Space,
    data: tuple[Any, Any, Any, Any],
    which: Which,
    affine: Affine,
    how: How,
    running: RunningArguments | None,
    around: tuple[Any, ...],
) -> Asked:
    """`check`, and what stands around the norm."""
    residual, with_sum, addend, activation = around
    kind, x_, out = activation_of(activation), data[1], how[2]
    if space is not host:
        raise ValueError(f"residual, addend and activation are for NumPy arrays on the CPU: got x on a device; write "
                         f"{norm}(x + residual, ...) and apply the others to the result")  # fmt: skip
    refuse_around("where and fill", data[2:])
    if with_sum and residual is None:
        raise ValueError("return_residual returns x + residual: got residual=None; pass one, or leave return_residual out")
    arrays = [None if a is None else checks.beside(name, a, x_) for name, a in (("residual", residual), ("addend", addend))]
    asked = check(norm, space, data, which, affine, how, running)
    refuse_around("a weight or bias that differs by sample or row", [asked.lead])
    if out is not None:
        space.output(out, x_, (("residual", residual), ("addend", addend)))
    r, z = (None if a is None else space.contiguous(a) for a in arrays)
    call = with_around(asked.call, r is not None, z is not None, None if kind is None else kind.name)
    return asked._replace(call=call, around=Around(r, None, z, kind))


def run(asked: Asked, with_stats: bool) -> tuple[Any, Any]:
    """y and the statistics (4, B * G), of each sample if they are wanted; running statistics are updated."""
    space, call, x, weight, bias, eps, out, running, where, fill, lead, around = asked
    backend: Any = space.backend()
    (call, y), (weight, bias) = in_rows(asked), space.ready(weight, bias)
    source = x if call.gaps else space.contiguous(x)
    known = NOTHING if running is None or running.own else (*space.ready(running.mean, running.var), None, None)
    if y is None and out is not None:
        y = space.target(out, source)
    y = space.empty_like(x) if y is None else y
    if call.plan.size:
        mask = None if where is None else backend.mask_of(call, where, x.shape)
        if lead is not None:
            stats = spread.normalize(call, (source, y), (weight, bias), eps, known, where, lead)
        else:
            beside = [mask] if call.where else [around] if around else []
            stats = backend.normalize(call, source, y, weight, bias, eps, known, *beside)
        if mask is not None and fill is not None:
            backend.fill(y, mask, fill)
    if not call.plan.size or (with_stats and call.plan.units < math.prod(call.plan.stats_shape)):
        stats = given(space, call, source, eps, known)
    result = space.written(out, y)
    if running is not None and running.own:
        running.update(stats, call.plan)
    return result, stats


def in_rows(asked: Asked) -> tuple[Call, Any]:
    """The call that reads rows of x where they lie, if they may stand apart; and where y goes then, if it is as `out` is."""
    if asked.space is not host or asked.lead is not None:
        return asked.call, None
    return host.in_rows(asked.call, asked.out, asked.x)


def given(space: Space, call: Call, x: Any, eps: float, known: Known) -> Any:
    """Statistics of each sample that owe nothing to x: those that were given, or nan of an empty x, or 0 with a mask."""
    units = math.prod(call.plan.stats_shape)
    if known[0] is None or units == 0:
        return space.full((5, units), 0.0) if call.where else space.full((4, units), math.nan)
    return space.backend().normalize(without_x(call), x, x, None, None, eps, known)


def stats_of(space: Space, call: Call, stats: Any, weight: Any) -> Stats:
    """The caller's statistics, from those of the kernels, float64 (4, B * G), or (5, B * G) with a mask."""
    shape = call.plan.stats_shape
    measured = Stats(space.row(stats, 0, shape) if call.center else None, space.row(stats, 3, shape))
    measured.weighted = weight is not None
    if call.where:
        measured.count = space.row(stats, 4, shape).astype("int64")
    return measured
