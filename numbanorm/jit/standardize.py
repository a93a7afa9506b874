"""Normalization with statistics from anywhere inside compiled functions, as `execute.standardize` does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba.core.errors import TypingError

from ..cpu.arith.vectors import keep
from ..cpu.backend import flags_of
from ..cpu.compile import jitable, types
from ..cpu.entry.addresses import BITS, FLOAT64, status_of
from ..cpu.entry.alone import STALE
from ..cpu.entry.calls import REFUSED
from ..cpu.layout import LOW, MEAN
from ..spec.call import Call
from ..spec.plan import as_axes, four_sizes
from ..spec.standardized import EACH, TOGETHER, differs, how, standardize_call
from ..standardize import standardize
from .arguments import arguments, checked, constant, defined, flag, floats, given, unknown, written
from .forward import UNSTALE, lying, numbers
from .moments import Measured
from .recipes import kept, place, shape_of_primes, sizes_by, words
from .symbols import Entry, Forward, address_of_symbol

for _function in (four_sizes, differs, how):
    jitable(_function)


@jitable
def spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts to another, of as many axes or more."""
    for k in range(len(shape)):  # noqa: SIM110 - Numba knows no all() of a generator
        if shape[k] != 1 and shape[k] != to[len(to) - len(shape) + k]:
            return False
    return True


def implementation(args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of `standardize` with arguments of these types."""
    a = arguments(standardize, args)
    unknown(a, "backend")
    x, exact = floats("x", a["x"]), flag(a, "exact")
    if x.ndim == 0:
        raise TypingError("x must have an axis in a compiled function: got a 0-d array; call the function from Python")
    shape = shape_of_primes(x.ndim, None)
    axes = checked(as_axes, constant("axis", a["axis"]), shape)
    present = given(a["weight"]), given(a["bias"])
    call, _ = standardize_call(shape, np.dtype(x.dtype.name), axes, False, exact, (*present, False))
    reduced = tuple(k in axes for k in range(x.ndim))
    order = tuple(k for k in range(x.ndim) if k not in axes) + axes
    spread = fitting(a, x, x.ndim - len(axes))
    codes = numbers(x, x) + sum(FLOAT64 << (BITS * k) for k, there in ((2, present[0]), (3, present[1]), (5, True)) if there)
    space = {
        "np": np, "words": words, "place": place, "status_of": status_of, "keep": keep, "four_sizes": four_sizes,
        "differs": differs, "how": how, "spreads": spreads, "STALE": STALE, "REFUSED": REFUSED, "EACH": EACH,
        "TOGETHER": TOGETHER, "reduced": reduced, "order": order, "back": tuple(int(k) for k in np.argsort(order)),
        "of_stats": sizes_by(tuple((k,) for k in range(x.ndim) if k not in axes), None),
        "turned": sizes_by(tuple((k,) for k in order), None), "codes": codes, "code": address_of_symbol(Entry("normalize")),
        "table": address_of_symbol(Forward(("runs", "columns"), call.dtype.name, call.exact, True, False)),
        "facts": (flags_of(call), call.source, int(call.affine), call.dtype.itemsize),
    }  # fmt: skip
    may_move = sum(r is not reduced[k - 1] if k else r for k, r in enumerate(reduced)) > 3
    return defined(standardize, [*spread, *sized(a, may_move), *run(a, call), *finished(a, may_move)], space)


def fitting(a: dict[str, Any], x: Any, kept_axes: int) -> list[str]:
    """Refuse types that do not fit; lines that spread statistics and parameters over the kept axes, as own_mean and so on."""
    if given(a["out"]):
        written("out", a["out"], x.ndim, x)
    if not given(a["rstd"]):
        raise TypingError(f"rstd must be given in a compiled function: got {a['rstd']}; write 1 / np.sqrt(var + eps)")
    sources = {name: (name, a[name]) for name in ("rstd", "weight", "bias")}
    if of_moments(a["mean"]):
        fields = dict(zip(Measured._fields, a["mean"].types, strict=True))
        sources |= {"mean": ("mean.mean", fields["mean"]), "low": ("mean.mean_low", fields["mean_low"])}
    else:
        sources |= {"mean": ("mean", a["mean"])}
    lines = ["shape = of_stats(x.shape, ())"]
    for name, (value, t) in sources.items():
        if given(t) and floats(name, t).ndim > kept_axes:
            raise TypingError(f"{name} must broadcast to the axes that are not in axis, {kept_axes}: got {t.ndim} axes; it has "
                              f"an element for what shares it, as the mean of moments has")  # fmt: skip
        lines += spread_out(name, value, t, kept_axes)
    return lines


def of_moments(t: Any) -> bool:
    """Whether a mean is what `moments` gave in a compiled function."""
    return isinstance(t, types.NamedTuple) and t.instance_class is Measured


def spread_out(name: str, value: str, t: Any, kept_axes: int) -> Iterator[str]:
    """Lines that spread an array over the kept axes."""
    if not given(t):
        yield f"own_{name} = None"
    elif t.ndim == 0:
        yield f"own_{name} = np.full({'shape' if kept_axes else 1}, np.float64({value}[()])).reshape(-1)"
    else:
        yield f"if not spreads({value}.shape, shape):"
        yield f"    raise ValueError('{name} must broadcast to the axes that are not in axis; reshape it')"
        yield f"own_{name} = np.broadcast_to({value}, shape).astype(np.float64).reshape(-1)"


def sized(a: dict[str, Any], may_move: bool) -> Iterator[str]:
    """Lines that find sizes, and have x as kernels take it: as it lies, with kept axes first, or with a reduced block first."""
    yield "B, M, G, T, moved = four_sizes(x.shape, reduced)"
    several = [name for name in ("weight", "bias") if given(a[name]) and a[name].ndim]
    yield f"way = how(B, M, G, T, {' or '.join(f'differs(x.shape, reduced, {n}.shape)' for n in several) or False})"
    yield "first = way == TOGETHER and M > 1 and B > 1"
    yield f"own = {lying('x', a['x'])}.reshape(-1)"
    yield "if first:"
    yield "    own = np.ascontiguousarray(own.reshape((B, M, G, T)).transpose((1, 0, 2, 3))).reshape(-1)"
    if may_move:
        yield "if moved:"
        yield "    own = np.ascontiguousarray(x.transpose(order)).reshape(-1)"
    yield "parts, groups, samples = B if way == EACH else 1, B * G if way == TOGETHER else G, B if way == 0 else 1"
    yield "units, n = samples * groups, x.size // max(1, parts)"


def target(a: dict[str, Any]) -> Iterator[str]:
    """Lines that find memory for what the kernels write."""
    yield "y = np.empty(x.size, x.dtype)"
    if not given(a["out"]):
        return
    yield "if out.shape != x.shape:"
    yield "    raise ValueError('out must have the shape of x; write np.empty_like(x)')"
    if a["out"].layout == "C":
        yield "if not (first or moved):"
        yield "    y = out.reshape(-1)"
        yield "    if place(y) != place(own) and abs(place(y) - place(own)) < x.nbytes:"
        yield "        raise ValueError('out must not overlap what is read, unless it is x itself; pass a copy')"


def run(a: dict[str, Any], call: Call) -> Iterator[str]:
    """Lines that call the kernels, for each part of x."""
    yield from target(a)
    yield "stats = np.zeros((4, units))"
    yield "for k in range(parts if x.size else 0):"
    yield f"    stats[{MEAN}] = own_mean[k * units:(k + 1) * units]"
    if of_moments(a["mean"]):
        yield f"    stats[{LOW}] = own_low[k * units:(k + 1) * units]"
    size = call.dtype.itemsize
    parameters = [f"place(own_{p}) + 8 * k * groups" if given(a[p]) else "0" for p in ("weight", "bias")]
    arrays = f"place(own) + {size} * k * n, place(y) + {size} * k * n, {', '.join(parameters)}"
    known = "0, place(own_rstd) + 8 * k * units, place(stats), 0, 0, codes, 0"
    yield f"    asked = words((samples, M, groups, 1, T, *facts, {arrays}, {known}))"
    yield "    status = status_of(code(), (table(), asked, 0.0, 0.0))"
    yield "    if status == REFUSED:"
    yield "        raise ValueError('out must not overlap what is read, unless it is x itself; pass a copy')"
    yield from UNSTALE
    yield kept(("own", "y", "own_weight", "own_bias", "own_rstd", "stats")).strip()


def finished(a: dict[str, Any], may_move: bool) -> Iterator[str]:
    """Lines that give y x's axes."""
    yield "if first:"
    yield "    y = np.ascontiguousarray(y.reshape((M, B, G, T)).transpose((1, 0, 2, 3))).reshape(-1)"
    if may_move:
        yield "if moved:"
        yield "    y = np.ascontiguousarray(y.reshape(turned(x.shape, ())).transpose(back)).reshape(-1)"
    if not given(a["out"]):
        yield "return y.reshape(x.shape)"
        return
    yield "if place(y) != place(out):"
    yield "    out[...] = y.reshape(x.shape)"
    yield "return out"
