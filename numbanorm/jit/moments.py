"""Moments inside compiled functions, as a named tuple."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..cpu.backend import flags_of
from ..cpu.compile import jitable
from ..cpu.layout import LOW, M2, MEAN
from ..moments import moments
from ..spec import checks
from ..spec.call import Call, moments_call
from ..spec.plan import as_axes, four_sizes
from .arguments import arguments, checked, constant, defined, ended, floats, known
from .forward import lying, numbers
from .recipes import shape_of_primes, sizes_by
from .symbols import Entry, Forward, address_of_symbol

jitable(four_sizes)


class Measured(NamedTuple):
    """What `moments` gives in a compiled function: fields of `Moments`, by the same names."""

    count: int  # type: ignore[assignment]  # a tuple has a method of this name, of no use here
    mean: Any
    m2: Any
    mean_low: Any


def implementation(args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of `moments` with arguments of these types."""
    a = arguments(moments, args)
    known(moments, a, "x", "axis", "method")
    x, method = floats("x", a["x"]), checked(checks.method, constant("method", a["method"]))
    shape = shape_of_primes(x.ndim, None)
    axes = checked(as_axes, constant("axis", a["axis"]), shape)
    call, _ = moments_call(shape, np.dtype(x.dtype.name), axes, method)
    reduced = tuple(k in axes for k in range(x.ndim))
    of_stats = tuple((k,) for k in range(x.ndim) if k not in axes)
    order = tuple(k for k in range(x.ndim) if k not in axes) + axes
    kernels = Forward(("runs", "columns"), call.dtype.name, True, call.method == "one_read", False)
    space = {
        "four_sizes": four_sizes, "Measured": Measured, "of_stats": sizes_by(of_stats, None), "reduced": reduced,
        "code": address_of_symbol(Entry("normalize")), "table": address_of_symbol(kernels), "codes": numbers(x, x),
        "facts": (flags_of(call), call.source, 0, call.dtype.itemsize),
    }  # fmt: skip
    return defined(moments, lines(x, call, reduced, order), space)


def lines(x: Any, call: Call, reduced: tuple[bool, ...], order: tuple[int, ...]) -> Iterator[str]:
    """What is computed; order: that of axes of which the reduced ones are last.

    By loops: an array's expression, copy or reshape costs its caller's compilation 0.1 s and more each, 0.4 s in all, and a
    transposition of some axes 3 s.
    """
    kept = order[: reduced.count(False)]
    alternating = sum(r is not reduced[k - 1] if k else r for k, r in enumerate(reduced)) > 3
    yield "B, M, G, T, moved = four_sizes(x.shape, reduced)"
    yield f"own = {lying('x', x)}"
    yield "source = place(own)"
    if alternating:
        yield "room, k = np.empty(x.size if moved else 0, x.dtype), 0"
        yield "if moved:"
        yield "    source = place(room)"
        yield from nested("x.shape", order, f"room[k] = x[{index(sorted(order))}]; k += 1", "    ")
    yield "stats, scale = np.empty((4, B * G)), np.empty(B * G)"
    yield "for k in range(B * G):"
    yield "    stats[0, k] = stats[1, k] = stats[2, k] = stats[3, k] = 0.0"
    yield "    scale[k] = 1.0"
    yield "if x.size:"
    arrays = "source, source, 0, 0, 0, 0, place(stats), place(scale), 0"
    yield f"    asked = words((B, M, G, 1, T, *facts, {arrays}, codes, 0))"
    yield "    status = status_of(code(), (table(), asked, 0.0, 0.0))"
    yield from ("    " + line for line in ended(["own", "room"] if alternating else ["own"]))
    yield "shape = of_stats(x.shape, ())"
    yield "mean, m2, mean_low = np.empty(shape), np.empty(shape), np.empty(shape)"
    yield "k = 0"
    at = index(range(len(kept)))
    found = f"stats[{MEAN}, k], stats[{M2}, k] * scale[k] * scale[k], stats[{LOW}, k] * scale[k]"
    yield from nested("shape", range(len(kept)), f"mean[{at}], m2[{at}], mean_low[{at}] = {found}; k += 1", "")
    yield "return Measured(M * T if x.size else 0, mean, m2, mean_low)"


def index(axes: Iterable[int]) -> str:
    """The index of an element, of the loops of `nested`."""
    return "".join(f"i{k}, " for k in axes) or "()"


def nested(shape: str, axes: Iterable[int], line: str, depth: str) -> Iterator[str]:
    """Loops over axes, the first one outermost, around a line."""
    for k in axes:
        yield f"{depth}for i{k} in range({shape}[{k}]):"
        depth += "    "
    yield depth + line
