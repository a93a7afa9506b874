"""Backward functions inside compiled functions: what Numba compiles in place of a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba.core.errors import TypingError

from .. import gradients
from ..cpu.backend import flags_of
from ..cpu.compile import types
from ..spec import checks
from ..spec.call import Call, backward_call
from ..spec.norms import NORMS
from ..spec.sources import GIVEN, OWN
from .arguments import arguments, checked, constant, defined, ended, flag, floats, given, known, written
from .forward import lying, measured, numbers, planned
from .recipes import recipe, sizes_by
from .symbols import Backward, Entry, address_of_symbol

# arguments, beside those that the norm's row in the table names
KNOWN = "dy", "x", "stats", "weight", "needs", "exact", "out", "channel_axis", "batch_axis"


def implementation(norm: str, args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of a backward function with arguments of these types."""
    function, row = getattr(gradients, f"{norm}_backward"), NORMS[norm]
    a = arguments(function, args)
    known(function, a, row.sized, row.own, *KNOWN)
    x = floats("x", a["x"])
    shape, which, channels = planned(norm, a, x)
    own = flag(a, row.own) if row.own else True
    needs = checked(checks.needs, constant("needs", a["needs"]), 1 + len(row.parameters))
    source, exact = OWN if own else GIVEN, flag(a, "exact")
    call = checked(backward_call, norm, shape, np.dtype(x.dtype.name), which, source, needs, exact, False)
    weight, of_stats = fitting(a, call, x, needs)
    p = call.plan
    space = {
        "sizes": sizes_by(recipe((p.B, p.M, p.G, p.K, p.T), shape), channels),
        "own_shape": sizes_by(recipe(p.weight_shape, shape), channels),
        "of_stats": sizes_by(recipe(p.stats_shape, shape), channels), "code": address_of_symbol(Entry("differentiate")),
        "table": address_of_symbol(kernels_of(call)), "codes": numbers(x, a["weight"], weight),
        "facts": (flags_of(call), call.source, int(call.affine), call.dtype.itemsize),
    }  # fmt: skip
    lines = [*measured(row, a, channels, GIVEN), *sized(a, of_stats[0]), *run(a, call), f"return {returned(call, needs)}"]
    return defined(function, lines, space)


def kernels_of(call: Call) -> Backward:
    """The kernels that such a call may need, whatever the sizes."""
    rows = call.plan.M == 1 and call.plan.T == 1
    return Backward(("rows",) if rows else ("columns", "rows", "runs"), call.dtype.name, call.exact, call.given)


def fitting(a: dict[str, Any], call: Call, x: Any, needs: tuple[bool, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Refuse types that do not fit: the type whose dtype gradients of parameters have, and those of mean and rstd."""
    floats("dy", a["dy"], x.ndim, x)
    if given(a["weight"]):
        floats("weight", a["weight"], len(call.plan.weight_shape))
    if given(a["out"]):
        written("out", a["out"], x.ndim, x)
        if not needs[0]:
            raise TypingError(f"out is where dx is written: got needs={needs}; leave out away, or ask for dx")
    stats = a["stats"]
    if not isinstance(stats, types.BaseTuple) or len(stats) != 2 or (stats.types[0] == types.none) is call.center:
        raise TypingError(f"stats must be (mean, rstd), in which rms_norm has None: got {stats}; pass what the norm returned")
    for name, t in zip(("mean", "rstd"), stats.types, strict=True):
        if t != types.none and (floats(name, t, len(call.plan.stats_shape)).dtype != types.float64 or t.layout != "C"):
            raise TypingError(f"{name} must be C-contiguous and float64 in a compiled function: got {t}; pass it as it came")
    return a["weight"] if given(a["weight"]) else x, stats.types


def sized(a: dict[str, Any], mean: Any) -> Iterator[str]:
    """Lines that compare shapes, and copy what is not contiguous."""
    yield f"mean, rstd = {'None' if mean == types.none else 'stats[0]'}, stats[1]"
    conditions = {"dy": "x.shape", "weight": "wanted", "out": "x.shape", "rstd": "of_stats(x.shape, told)"}
    conditions |= {} if mean == types.none else {"mean": conditions["rstd"]}
    for name, wanted in conditions.items():
        if name not in a or given(a[name]):
            yield f"if {name}.shape != {wanted}:"
            yield f"    raise ValueError('{name} must have the shape of what it belongs to; pass it as it came')"
    for name in ("x", "dy", "weight"):
        yield f"own_{name} = {lying(name, a[name])}"


def run(a: dict[str, Any], call: Call) -> Iterator[str]:
    """Lines that call the kernels."""
    direct = given(a["out"]) and a["out"].layout == "C"
    yield f"dx = {'out' if direct else 'np.empty(x.shape, x.dtype)' if call.write else None}"
    parameter = "weight" if given(a["weight"]) else "x"
    yield f"grads = {f'np.zeros((2, *wanted), {parameter}.dtype)' if call.affine else None}"
    if not (call.write or call.affine):
        return
    yield "if x.size:"
    names = "own_x", "own_dy", "dx", "own_weight", "mean", "rstd", "grads"
    arrays = ", ".join(f"place({n})" for n in names)
    yield f"    asked = words((B, M, G, K, T, *facts, {arrays}, codes))"
    yield "    status = status_of(code(), (table(), asked, 0.0, 0.0))"
    yield from ("    " + line for line in ended(names, "x or dy itself"))
    if given(a["out"]) and not direct:
        yield "out[...] = dx"
        yield "dx = out"


def returned(call: Call, needs: tuple[bool, ...]) -> str:
    """The gradients that are wanted."""
    names = ("dx", "grads[0]", "grads[1]")
    return "(" + ", ".join(name if wanted else "None" for name, wanted in zip(names, needs, strict=False)) + ")"
