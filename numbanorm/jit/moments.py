"""Moments inside compiled functions, as a named tuple."""

from __future__ import annotations

from collections.abc import Iterator
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
    """What is computed; order: that of axes of which the reduced ones are last."""
    yield "B, M, G, T, moved = four_sizes(x.shape, reduced)"
    yield f"own = {lying('x', x)}"
    if sum(r is not reduced[k - 1] if k else r for k, r in enumerate(reduced)) > 3:
        yield from moved(order)
    yield "stats, scale = np.zeros((4, B * G)), np.ones(B * G)"
    yield "if x.size:"
    arrays = "place(own), place(own), 0, 0, 0, 0, place(stats), place(scale), 0"
    yield f"    asked = words((B, M, G, 1, T, *facts, {arrays}, codes, 0))"
    yield "    status = status_of(code(), (table(), asked, 0.0, 0.0))"
    yield from ("    " + line for line in ended(["own"]))
    yield "shape = of_stats(x.shape, ())"
    mean, squares, low = (f"stats[{row}]" for row in (MEAN, M2, LOW))
    counts = "M * T if x.size else 0"
    fields = f"{mean}.copy()", f"{squares} * scale * scale", f"{low} * scale"
    yield f"return Measured({counts}, {', '.join(f'({a}).reshape(shape)' for a in fields)})"


def moved(order: tuple[int, ...]) -> Iterator[str]:
    """Lines that copy x with its axes in another order: by loops, for Numba takes seconds to compile a transposition."""
    places, depth = [f"i{k}" for k in range(len(order))], "    "
    yield "if moved:"
    yield f"    room = np.empty(({', '.join(f'x.shape[{k}]' for k in order)}), x.dtype)"
    for k in order:
        yield f"{depth}for i{k} in range(x.shape[{k}]):"
        depth += "    "
    yield f"{depth}room[{', '.join(places[k] for k in order)}] = x[{', '.join(places)}]"
    yield "    own = room"
