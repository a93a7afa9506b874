"""The backward pass of every norm; it goes the two ways of `forward`."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ..backends import dispatch, host
from ..backends.protocol import Space
from ..spec import checks
from ..spec.around import AroundGradients, activation_of, refuse_around
from ..spec.call import Call, Which, backward_call, with_around, with_mask
from ..spec.norms import NORMS
from ..spec.plan import Shape
from ..spec.sources import GIVEN, OWN
from ..spec.spread import leading
from . import spread

How = tuple[Any, ...]  # needs, exact, out, backend, where; and around the norm: y, activation, dresidual, return_daddend


def backward(norm: str, dy: Any, x: Any, which: Which, stats: Any, weight: Any, how: How, own: bool = True) -> tuple[Any, ...]:
    """The gradients of a norm in `NORMS`; own: whether x's own statistics normalized it."""
    needs, exact, out, backend, where, *around = how
    if around and not (around[0] is around[1] is around[2] is None and around[3] is False):
        return joined(norm, dy, x, which, stats, weight, how, own)
    space = dispatch.space(x, backend)
    x_ = space.array("x", x)
    wanted = checks.needs(needs, 1 + len(NORMS[norm].parameters))
    exact = exact if exact.__class__ is bool else checks.flag("exact", exact)
    if backend is None and where is None:
        in_place = out is not None and (out is x_ or out is dy)
        call = backward_call(norm, x_.shape, x_.dtype, which, OWN if own else GIVEN, wanted, exact, in_place)
        done = space.try_backward(call, x_, dy, stats, weight, out)
        if done is not None:
            return done
    return run(check(norm, space, (dy, x, x_), which, stats, weight, (wanted, exact, out, backend, where), own))


class Asked(NamedTuple):
    """A backward call whose arguments have all been checked, and nothing else done."""

    space: Space
    call: Call
    x: Any
    dy: Any
    weight: Any
    stats: tuple[Any, Any]
    out: Any
    needs: tuple[bool, ...]
    where: Any
    lead: Shape | None  # as in `forward`
    around: AroundGradients | None = None


def check(
    norm: str, space: Space, arrays: tuple[Any, Any, Any], which: Which, stats: Any, weight: Any, how: How, own: bool
) -> Asked:
    """Check all arguments. arrays: dy, x, and x of a known dtype."""
    (dy, x, x_), (needs, exact, out, _, where) = arrays, how
    call_of = partial(backward_call, norm, x_.shape, x_.dtype, which, OWN if own else GIVEN, needs, exact)
    call = call_of(False)
    dy_ = space.like("dy", dy, x_)
    mean, rstd = space.stats(stats, call.plan.stats_shape, call.center)
    lead = leading(norm, call.plan, x_.shape, which)
    w = spread.parameter(space, "weight", weight, call.plan, lead)
    if weight is None and getattr(stats, "weighted", False):
        raise ValueError("weight must be given, for the forward call had one: got None; pass the same weight")
    if out is not None:
        if not needs[0]:
            raise ValueError(f"out is where dx is written: got needs={needs}; leave out away, or ask for dx")
        others = (("x", x), ("dy", dy), ("weight", weight), ("mean", mean), ("rstd", rstd), ("where", where))
        space.output(out, x_, others, may_be=("x", "dy"))
    kept = space.mask(where, x_.shape)
    target = None if out is None else space.target(out, x_, dy_)
    call = call_of(target is not None and (target is x_ or target is dy_))
    call, spanned = call if kept is None else with_mask(call), lead if spread.differs(call.plan, w) else None
    return Asked(space, call, x_, dy_, w, (mean, rstd), out, needs, kept, spanned)


def joined(norm: str, dy: Any, x: Any, which: Which, stats: Any, weight: Any, how: How, own: bool) -> tuple[Any, ...]:
    """`backward` with what stood around the norm."""
    needs, exact, *others, with_addend = how
    space, with_addend = dispatch.space(x, how[3]), checks.flag("return_daddend", with_addend)
    wanted, exact = checks.needs(needs, 1 + len(NORMS[norm].parameters)), checks.flag("exact", exact)
    arrays = dy, x, space.array("x", x)
    asked = check_joined(norm, space, arrays, which, stats, weight, (wanted, exact, *others, with_addend), own)
    assert asked.around is not None
    if not with_addend:
        return run(asked)
    if asked.around.activation is None:  # what was added had the gradient of the result
        return (*run(asked), dy)
    kept = space.empty_like(asked.x)
    results = run(asked._replace(around=asked.around._replace(kept=kept)))
    return (*results, kept)


def check_joined(
    norm: str,
    space: Space,
    arrays: tuple[Any, Any, Any],
    which: Which,
    stats: Any,
    weight: Any,
    how: How,
    own: bool,
) -> Asked:
    """`check`, and what stood around the norm."""
    (y, activation, dresidual, with_addend), x_, out = how[5:], arrays[2], how[2]
    kind = activation_of(activation)
    if space is not host:
        raise ValueError("activation, dresidual and return_daddend are for NumPy arrays on the CPU: got x on a device; "
                         "multiply dy by the activation's derivative, and add dresidual to dx")  # fmt: skip
    refuse_around("where", [how[4]])
    if (y is None) is not (kind is None):
        raise ValueError(f"y and activation must be given together, for the sign of y says where dy passes: "
                         f"got {'no y' if y is None else 'no activation'}; pass both, or neither")  # fmt: skip
    if dresidual is not None and not how[0][0]:
        raise ValueError(f"dresidual is added to dx: got needs={how[0]}; leave dresidual away, or ask for dx")
    kept = [None if a is None else checks.beside(name, a, x_) for name, a in (("y", y), ("dresidual", dresidual))]
    asked = check(norm, space, arrays, which, stats, weight, how[:5], own)
    refuse_around("a weight that differs by sample or row", [asked.lead])
    if out is not None:
        space.output(out, x_, (("y", y), ("dresidual", dresidual)))
    y_, r = (None if a is None else space.contiguous(a) for a in kept)
    call = with_around(asked.call, r is not None, bool(with_addend and kind), None if kind is None else kind.name)
    return asked._replace(call=call, around=AroundGradients(y_, None, r, kind))


def run(asked: Asked) -> tuple[Any, ...]:
    """The gradients that are wanted, None for the others."""
    space, call, x, dy, weight, (mean, rstd), out, needs, where, lead, around = asked
    dx = None
    if space is host and lead is None:
        call, dx = host.in_rows(call, out, x, dy)
    x_, dy_ = (x, dy) if call.gaps else (space.contiguous(x), space.contiguous(dy))
    weight, mean, rstd = space.ready(weight, mean, rstd)
    if call.write:
        dx = space.target(out, x_, dy_) if dx is None and out is not None else dx
        dx = space.empty_like(x) if dx is None else dx
    extra = () if around is None else (around,)
    if lead is None:
        grads = space.differentiate(call, x_, dy_, dx, weight, (mean, rstd), where, *extra)
    else:
        grads = spread.differentiate(call, (x_, dy_, dx), weight, (mean, rstd), where, lead)
    return (space.written(out, dx) if call.write else None, *grads[: len(needs) - 1])
