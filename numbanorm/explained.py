"""`explain`: the kernels that a call would run, and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from . import functional, gradients
from .backends import dispatch, host
from .communicators import gather_of
from .execute import backward, forward, offset
from .execute.moved import moved
from .execute.weighted import weights_of
from .execute.weights import allowed
from .moments import moments
from .spec import checks, plan, spread
from .spec.call import Which
from .spec.norms import NORMS, Norm
from .spec.shown import shown

FUNCTIONS: dict[Callable[..., Any], str] = {getattr(functional, name): name for name in NORMS}
GRADIENTS: dict[Callable[..., Any], str] = {getattr(gradients, f"{name}_backward"): name for name in NORMS}


def explain(function: Any, *args: Any, **kwargs: Any) -> str:
    """Say which kernel a call would run, and why; nothing is computed or changed.

    Parameters
    ----------
    function : one of the norms, or a functools.partial of one
    *args, **kwargs
        The call's arguments.

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError
        What the call would raise.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm
    >>> print(explain(layer_norm, np.zeros((8, 16), np.float32), 16))  # doctest: +ELLIPSIS
    cpu, family runs, 1 of ... threads: runs of 16 contiguous elements, 1 a group, 8 groups; ...
    """
    while isinstance(function, partial):
        function, args, kwargs = function.func, (*function.args, *args), {**function.keywords, **kwargs}
    try:
        name = FUNCTIONS.get(function) or GRADIENTS.get(function)
    except TypeError:  # nothing that can be a key
        name = None
    if name is None:
        got = "moments" if function is moments else shown(function)
        raise TypeError(f"explain wants one of the norms: got {got}; write explain(layer_norm, x, 768)")
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    a = bound.arguments
    weights, comm = a.get("weights"), a.get("comm")
    if weights is not None:
        allowed(a["x"], around_of(a), comm, checks.flag("training", a["training"]), a.get("method"), a["backend"])
    if comm is not None:
        gather_of(comm)  # what is none, is refused as the call refuses it
        raise ValueError(f"comm must be None to explain a call, for what a rank runs depends on nobody else: got "
                         f"{shown(comm)}; leave it out")  # fmt: skip
    if a.get("axis") is not None:
        a |= over_last(a)
    asked = (of_norm if function in FUNCTIONS else of_gradients)(name, a)
    if weights is not None:
        weights_of(weights, asked.x.shape)
    if asked.call.plan.size == 0:
        return "nothing: x is empty"
    if weights is not None:
        return "cpu, weighted sums by NumPy and the kernels of moments; results by those for given statistics, or in NumPy"
    call, read = asked.call, (asked.x, asked.dy) if isinstance(asked, backward.Asked) else (asked.x,)
    if asked.space is host and asked.lead is None:
        call, _ = host.in_rows(call, asked.out, *read)
    text = asked.space.backend().describe(call, asked.x)
    return text if asked.lead is None else text + spread.told(asked.lead, asked.weight, getattr(asked, "bias", None))


def of_norm(name: str, a: dict[str, Any]) -> forward.Asked:
    """A norm's arguments, by name, checked as the call checks them."""
    row, running = NORMS[name], None
    if row.own:
        names = ("running_mean", "running_var", "momentum", "num_batches_tracked", "convention")
        running = *(a[n] for n in names), checks.flag(row.own, a[row.own])
    which, space = which_of(row, a), dispatch.space(a["x"], a["backend"], computes=False)
    x = space.array("x", a["x"])
    checks.flag("return_stats", a["return_stats"])
    affine, how = (weight_of(name, a), a.get("bias"), a["eps"]), (a["method"], a["exact"], a["out"], a["return_stats"], None)
    data = a["x"], x, a["where"], a["fill"]
    around = around_of(a)
    checks.flag("return_residual", around[1])
    if all(a is b for a, b in zip(around, forward.ALONE[1:], strict=True)):
        return forward.check(name, space, data, which, affine, how, running)
    return forward.check_joined(name, space, data, which, affine, how, running, around)


def of_gradients(name: str, a: dict[str, Any]) -> backward.Asked:
    """The arguments of a norm's backward function, likewise."""
    row = NORMS[name]
    own = checks.flag(row.own, a[row.own]) if row.own else True
    which, space = which_of(row, a), dispatch.space(a["x"], a["backend"], computes=False)
    x, needs = space.array("x", a["x"]), checks.needs(a["needs"], 1 + len(row.parameters))
    how = needs, checks.flag("exact", a["exact"]), a["out"], None, a["where"]
    arrays, around, weight = (a["dy"], a["x"], x), around_of(a), weight_of(name, a)
    checks.flag("return_daddend", around[3])
    if around[0] is around[1] is around[2] is None and around[3] is False:
        return backward.check(name, space, arrays, which, a["stats"], weight, how, own)
    return backward.check_joined(name, space, arrays, which, a["stats"], weight, (*how, *around), own)


def around_of(a: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """What stands around a norm, or around its gradients."""
    if "dy" in a:
        return a["y"], a["activation"], a.get("dresidual"), a["return_daddend"]
    return a.get("residual"), a.get("return_residual", False), a["addend"], a["activation"]


def over_last(a: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a norm over axes that are named, with these last, as it is computed."""
    m = moved(a["x"], a["normalized_shape"], a["axis"], a["backend"], around_of(a))
    if m.straight:
        return {}
    out = None if a["out"] is None else m.there(m.target(a["out"]))
    last = {"x": m.there(m.x), "where": m.mask(a["where"]), "out": out}
    return last | ({"dy": m.there(host.like("dy", a["dy"], m.x))} if "dy" in a else {})


def weight_of(name: str, a: dict[str, Any]) -> Any:
    """The weight of a call, with what is added to it."""
    return offset.added(a["weight"], a["weight_offset"], a["x"], a["exact"], not NORMS[name].channels)


def which_of(row: Norm, a: dict[str, Any]) -> Which:
    """Arguments that say which elements share a mean."""
    if row.sized == "normalized_shape":
        return plan.as_shape(row.sized, a[row.sized]), 0
    size = (plan.as_int(row.sized, a[row.sized]),) if row.sized else ()
    return size, *plan.channels_at(a["channel_axis"], a.get("batch_axis", 0))
