"""Norms inside compiled functions: what Numba compiles in place of a call."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, nan
from typing import Any

import numpy as np
from numba.core.errors import TypingError

from .. import functional
from ..cpu.backend import flags_of
from ..cpu.compile import types
from ..cpu.entry.addresses import BITS
from ..cpu.layout import MEAN, RSTD
from ..spec import checks
from ..spec.call import Call, Stats, forward_call
from ..spec.norms import NORMS, Norm
from ..spec.plan import channels_at
from ..spec.sources import GIVEN, OWN, TRACKED
from .arguments import arguments, checked, constant, defined, ended, flag, floats, given, known, written
from .recipes import GROUPS, NUMBERS, recipe, shape_of_primes, sizes_by
from .symbols import Entry, Forward, address_of_symbol

# arguments of a norm, beside those that its row in the table names
KNOWN = ("x", "weight", "bias", "eps", "method", "exact", "out", "return_stats", "channel_axis", "batch_axis", "running_mean",
         "running_var", "momentum", "num_batches_tracked", "convention")  # fmt: skip


def numbers(*arrays: Any) -> int:
    """The numbers of dtypes, 0 of None, in one."""
    return sum(NUMBERS[t.dtype] << (BITS * k) for k, t in enumerate(arrays) if given(t))


def planned(norm: str, a: dict[str, Any], x: Any) -> tuple[tuple[int, ...], Any, int | None]:
    """A shape of primes for x, what says which of its axes share a mean, and the axis whose channels are divided."""
    row = NORMS[norm]
    if not row.channels:
        t = a[row.sized]
        k = len(t) if isinstance(t, types.BaseTuple) else 1
        parts = t.types if isinstance(t, types.BaseTuple) else (t,)
        if not all(isinstance(v, types.Integer) for v in parts):
            raise TypingError(f"{row.sized} must be an integer or a tuple of integers: got {t}; write (3,) or (3, 4)")
        shape = shape_of_primes(x.ndim, None)
        if not 0 < k <= x.ndim:
            raise TypingError(f"{row.sized} must be the last axes of x: got {k} for x of {x.ndim} axes; pass x.shape[-1:]")
        return shape, (shape[x.ndim - k :], 0), None
    axis = constant("channel_axis", a["channel_axis"])
    where = checked(channels_at, axis, constant("batch_axis", a.get("batch_axis", 0)))
    if not row.sized:
        return shape_of_primes(x.ndim, None), ((), *where), None
    if not isinstance(a[row.sized], types.Integer):
        raise TypingError(f"{row.sized} must be an integer: got {a[row.sized]}; write int({row.sized})")
    batched = where[1:] == ()
    channels = axis % x.ndim if batched else axis % (x.ndim + 1) - 1
    return shape_of_primes(x.ndim, channels), ((GROUPS,), *where), channels


def call_of(norm: str, a: dict[str, Any], x: Any, shape: Any, which: Any) -> Call:
    """The call, but for the sizes of x."""
    row = NORMS[norm]
    own = flag(a, row.own) if row.own else True
    running = [given(a.get(name)) for name in ("running_mean", "running_var")]
    if running[0] is not running[1] or not (own or running[0]):
        raise TypingError(f"running_mean and running_var must be given together, or {row.own}=True: got one, or none; pass "
                          f"both")  # fmt: skip
    source = OWN if not running[0] else TRACKED if own else GIVEN
    method, exact = checked(checks.method, constant("method", a["method"])), flag(a, "exact")
    present = given(a["weight"]), given(a.get("bias")), False
    return checked(forward_call, norm, shape, np.dtype(x.dtype.name), which, source, method, exact, present)  # type: ignore[no-any-return]


def fitting(a: dict[str, Any], call: Call, x: Any) -> None:
    """Refuse types that do not fit."""
    for name in ("weight", "bias"):
        if given(a.get(name)):
            floats(name, a[name], len(call.plan.weight_shape))
    for name in ("running_mean", "running_var"):
        if given(a.get(name)):
            (written if call.source == TRACKED else floats)(name, a[name], 1)
            if call.source == TRACKED and a[name].layout != "C":
                raise TypingError(f"{name} must be C-contiguous in a compiled function, for it is updated: got {a[name]}; pass "
                                  f"a copy, and copy it back")  # fmt: skip
    if given(a["out"]):
        written("out", a["out"], x.ndim, x)
    for name in ("eps", "momentum"):
        missing = name == "eps" and a[name] is None and call.eps is None
        if missing or (given(a.get(name)) and not isinstance(a[name], (types.Float, types.Integer))):
            raise TypingError(f"{name} must be a number: got {a[name]}; write float({name})")


def kernels_of(call: Call, weight: Any, bias: Any) -> Forward:
    """The kernels that such a call may need, whatever the sizes."""
    at_once = call.method == "one_read" or call.given or not call.center
    wide = not call.exact and any(given(t) and t.dtype == types.float64 for t in (weight, bias))
    families = ("runs",) if call.plan.M == 1 and call.plan.T == 1 else ("runs", "columns")
    return Forward(families, call.dtype.name, call.exact, at_once, wide)


def implementation(norm: str, args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of a norm with arguments of these types."""
    function, row = getattr(functional, norm), NORMS[norm]
    a = arguments(function, args)
    known(function, a, row.sized, row.own, *KNOWN)
    x = floats("x", a["x"])
    shape, which, channels = planned(norm, a, x)
    call = call_of(norm, a, x, shape, which)
    fitting(a, call, x)
    p, with_stats = call.plan, flag(a, "return_stats")
    if with_stats and call.source == GIVEN:
        raise TypingError("return_stats must be False in a compiled function where statistics are given: got True; they are "
                          "running_mean and 1 / np.sqrt(running_var + eps)")  # fmt: skip
    codes = numbers(x, x, *(a.get(name) for name in ("weight", "bias", "running_mean", "running_var")))
    facts = flags_of(call), call.source, int(call.affine), call.dtype.itemsize
    space = {
        "inf": inf, "nan": nan, "Stats": Stats, "sizes": sizes_by(recipe((p.B, p.M, p.G, p.K, p.T), shape), channels),
        "own_shape": sizes_by(recipe(p.weight_shape, shape), channels),
        "of_stats": sizes_by(recipe(p.stats_shape, shape), channels),
        "code": address_of_symbol(Entry("normalize")), "table": address_of_symbol(kernels_of(call, a["weight"], a.get("bias"))),
        "facts": facts, "codes": codes, "biased": int(convention(a) == "keras"),
    }  # fmt: skip
    lines = [*measured(row, a, channels, call.source), *sized(a), *run(a, x, call, with_stats)]
    return defined(function, lines, space)


def convention(a: dict[str, Any]) -> str:
    """The convention of running statistics."""
    return str(checked(checks.choice, "convention", constant("convention", a.get("convention", "torch")), ("torch", "keras")))


def measured(row: Norm, a: dict[str, Any], channels: int | None, source: int) -> Iterator[str]:
    """Lines that find sizes, and refuse those that do not fit."""
    yield f"told = integers({row.sized or None})"
    if channels is not None:
        yield f"if told[0] < 1 or x.shape[{channels}] % told[0] != 0:"
        yield "    raise ValueError('num_groups must divide the channels, and be at least 1; pass one of the divisors')"
    yield "wanted = own_shape(x.shape, told)"
    if row.sized and channels is None:
        yield "if told != wanted:"
        yield "    raise ValueError('normalized_shape must be the last axes of x; pass x.shape[-1:] for the last one')"
    yield "B, M, G, K, T = sizes(x.shape, told)"
    if row.several and source != GIVEN:
        yield f"if {'B * ' if row.several == 'group' else ''}M * K * T == 1:"
        yield "    raise ValueError('a variance needs more than one value; use a larger batch, or given statistics')"


def sized(a: dict[str, Any]) -> Iterator[str]:
    """Lines that compare shapes and numbers, and copy what is not contiguous."""
    for name, wanted in (("weight", "wanted"), ("bias", "wanted"), ("running_mean", "(G,)"), ("running_var", "(G,)")):
        if given(a.get(name)):
            yield f"if {name}.shape != {wanted}:"
            yield f"    raise ValueError('{name} must have an element for each place that shares one; reshape it')"
    if given(a["out"]):
        yield "if out.shape != x.shape:"
        yield "    raise ValueError('out must have the shape of x; write np.empty_like(x)')"
    for name in ("x", "weight", "bias", "running_mean", "running_var"):
        yield f"own_{name} = {lying(name, a.get(name))}"


def lying(name: str, t: Any) -> str:
    """An argument as kernels take it."""
    return "None" if not given(t) else name if t.layout == "C" else f"np.ascontiguousarray({name})"


def run(a: dict[str, Any], x: Any, call: Call, with_stats: bool) -> Iterator[str]:
    """Lines that call the kernels."""
    yield f"number = {'float(eps)' if given(a['eps']) else repr(call.eps if a['eps'] is None else float(a['eps']))}"
    yield "if not 0.0 <= number < inf:"
    yield "    raise ValueError('eps must be finite and not negative; the usual eps is 1e-5')"
    momentum = a.get("momentum")
    yield f"share = {'float(momentum)' if given(momentum) else 'nan' if momentum is None else repr(float(momentum))}"
    if given(momentum):
        yield "if not 0.0 <= share <= 1.0:"
        yield "    raise ValueError('momentum must lie in [0, 1]; the default of torch is 0.1')"
    direct = given(a["out"]) and a["out"].layout == "C"
    yield "y = out" if direct else "y = np.empty(x.shape, x.dtype)"
    yield "stats = np.full((4, B * G), 0.0 if y.size else nan)" if with_stats else "stats = None"
    yield "if y.size:"
    counter = "num_batches_tracked" if given(a.get("num_batches_tracked")) else None
    names = "own_x", "y", "own_weight", "own_bias", "own_running_mean", "own_running_var", "stats"
    arrays = ", ".join(f"place({name})" for name in names)
    yield f"    asked = words((B, M, G, K, T, *facts, {arrays}, 0, place({counter}), codes, biased))"
    yield "    status = status_of(code(), (table(), asked, number, share))"
    yield from ("    " + line for line in ended(names, "x itself"))
    if given(a["out"]) and not direct:
        yield "out[...] = y"
        yield "y = out"
    if not with_stats:
        yield "return y"
        return
    mean, rstd = (f"stats[{row}].copy().reshape(of_stats(x.shape, told))" for row in (MEAN, RSTD))
    yield f"return y, Stats({mean if call.center else None}, {rstd})"
