"""Normalization with statistics from anywhere inside compiled functions, and its gradients: `execute.standardize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numba.core.errors import TypingError

from ..cpu.backend import flags_of
from ..cpu.compile import jitable, types
from ..spec import checks
from ..spec.call import Call
from ..spec.plan import as_axes
from ..spec.standardized import slant_call, standardize_call, sums_call
from ..standardize import Sums, standardize, standardize_backward, standardize_sums
from .arguments import arguments, checked, constant, defined, ended, flag, floats, given, known, written
from .moments import Measured
from .recipes import shape_of_primes, sizes_by, spread_words
from .symbols import Backward, Entry, Forward, Needed, address_of_symbol

# lines with which arrays stand in the order of `cpu.entry.spread`
NAMES = ("x", "y", "mean", "low", "rstd", "weight", "bias", "dy", "of_dy", "of_product", "count")
KNOWN = "x", "dy", "mean", "rstd", "weight", "bias", "axis", "exact", "out", "sums", "needs"


@jitable
def spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts to another, of as many axes or more."""
    for k in range(len(shape)):  # noqa: SIM110 - Numba knows no all() of a generator
        if shape[k] != 1 and shape[k] != to[len(to) - len(shape) + k]:
            return False
    return True


class Along(NamedTuple):
    """x's type, and its axes along which statistics are the same, and not."""

    x: Any
    shape: tuple[int, ...]  # of primes
    axes: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        return np.dtype(self.x.dtype.name)

    def space(self) -> dict[str, Any]:
        """What lines know whatever is called."""
        return {
            "spreads": spreads, "Sums": Sums, "of_stats": sizes_by(tuple((k,) for k in self.others), None),
            "reduced": tuple(int(k in self.axes) for k in range(self.x.ndim)),
            "asked": spread_words(tuple(self.lies(name) for name in NAMES), self.x.ndim),
        }  # fmt: skip

    def lies(self, name: str) -> tuple[int, ...]:
        """The axes that an array has."""
        return tuple(range(self.x.ndim)) if name in ("x", "y", "dy") else self.others


def along(function: Callable[..., Any], a: dict[str, Any]) -> Along:
    """What is said by x and axis."""
    known(function, a, *KNOWN)
    x = floats("x", a["x"])
    if x.ndim == 0:
        raise TypingError("x must have an axis in a compiled function: got a 0-d array; call the function from Python")
    shape = shape_of_primes(x.ndim, None)
    axes = checked(as_axes, constant("axis", a["axis"]), shape)
    return Along(x, shape, axes, tuple(k for k in range(x.ndim) if k not in axes))


def fitting(a: dict[str, Any], p: Along) -> Iterator[str]:
    """Refuse types that do not fit; lines that do so with shapes."""
    if not given(a["rstd"]):
        raise TypingError(f"rstd must be given in a compiled function: got {a['rstd']}; write 1 / np.sqrt(var + eps)")
    yield "shape = of_stats(x.shape, ())"
    if isinstance(a["mean"], types.NamedTuple) and a["mean"].instance_class is Measured:
        yield "mean, low = mean.mean, mean.mean_low"
        fields = dict(zip(Measured._fields, a["mean"].types, strict=True))
        a |= {"mean": fields["mean"], "low": fields["mean_low"]}
    else:
        yield "low = None"
    for name in ("mean", "rstd", "weight", "bias"):
        if given(a.get(name)):
            yield from spreading(name, name, floats(name, a[name]), p)
    for name in ("dy", "out"):
        if given(a.get(name)):
            (written if name == "out" else floats)(name, a[name], p.x.ndim, p.x)
            yield f"if {name}.shape != x.shape:"
            yield f"    raise ValueError('{name} must have the shape of x; write np.empty_like(x)')"


def spreading(name: str, value: str, t: Any, p: Along) -> Iterator[str]:
    """Lines that refuse a shape that does not broadcast to the kept axes."""
    if t.ndim > len(p.others):
        raise TypingError(f"{name} must broadcast to the axes that are not in axis, {len(p.others)}: got {t.ndim} axes; it has "
                          f"an element for what shares it, as the mean of moments has")  # fmt: skip
    yield f"if not spreads({value}.shape, shape):"
    yield f"    raise ValueError('{name} must broadcast to the axes that are not in axis; reshape it')"


def asking(name: str, needed: tuple[Needed, Needed, Needed], call: Call, p: Along) -> tuple[dict[str, Any], str]:
    """What a line knows that asks for something: a compiled call, the one that it makes, and its kernels; and its beginning."""
    own = dict(zip(("_code", "_inner", "_table"), map(address_of_symbol, needed), strict=True))
    first = f"({p.x.ndim}, {name}_inner(), {name}_table(), {flags_of(call)}, {call.dtype.itemsize}, *reduced)"
    return {name + k: v for k, v in own.items()}, first


def asked(name: str, first: str, **arrays: str | None) -> Iterator[str]:
    """Lines that ask; arrays that differ from arguments of the same name, or that there are."""
    own = ", ".join(str(arrays.get(n)) for n in NAMES)
    yield f"status = status_of({name}_code(), (0, asked({first}, ({own})), 0.0, 0.0))"
    yield from ended(filter(None, arrays.values()), "the same")


def present(a: dict[str, Any], *names: str) -> dict[str, str]:
    """The statistics, and of these arguments those that there are."""
    return {"mean": "mean", "low": "low", "rstd": "rstd"} | {n: n for n in names if given(a.get(n))}


def scaling(a: dict[str, Any], p: Along, exact: bool, weight: Any, bias: Any) -> tuple[dict[str, Any], str]:
    """`asking`, for what is scaled and shifted."""
    call, _ = standardize_call(p.shape, p.dtype, p.axes, False, exact, (given(weight), given(bias), False))
    kernels = Forward(("runs", "columns"), call.dtype.name, call.exact, True, False)
    return asking("scale", (Entry("standardize"), Entry("normalize"), kernels), call, p)


def summing(p: Along) -> tuple[dict[str, Any], str]:
    """`asking`, for sums."""
    call, _ = sums_call(p.shape, p.dtype, p.axes)
    kernels = Backward(("columns", "rows", "runs"), call.dtype.name, True, False)
    return asking("sum", (Entry("sums"), Entry("differentiate"), kernels), call, p)


def forward(args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of `standardize` with arguments of these types."""
    a = arguments(standardize, args)
    p, exact = along(standardize, a), flag(a, "exact")
    lines = list(fitting(a, p))
    space, first = scaling(a, p, exact, a["weight"], a["bias"])
    lines += [f"y = {'out' if given(a['out']) else 'np.empty(x.shape, x.dtype)'}"]
    lines += [*asked("scale", first, x="x", y="y", **present(a, "weight", "bias")), "return y"]
    return defined(standardize, lines, p.space() | space)


def sums(args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of `standardize_sums` with arguments of these types."""
    a = arguments(standardize_sums, args)
    p = along(standardize_sums, a)
    lines, (space, first) = list(fitting(a, p)), summing(p)
    counts = " * ".join(["1", *(f"x.shape[{k}]" for k in p.axes)])
    lines += ["of_dy, of_product = np.empty(shape), np.empty(shape)"]
    lines += [*asked("sum", first, x="x", dy="dy", of_dy="of_dy", of_product="of_product", **present(a))]
    return defined(standardize_sums, [*lines, f"return Sums(of_dy, of_product, {counts})"], p.space() | space)


def backward(args: tuple[Any, ...]) -> Any:
    """What is compiled for a call of `standardize_backward` with arguments of these types."""
    a = arguments(standardize_backward, args)
    p, exact = along(standardize_backward, a), flag(a, "exact")
    needs = checked(checks.needs, constant("needs", a["needs"]), 3)
    if given(a["out"]) and not needs[0]:
        raise TypingError(f"out is where dx is written: got needs={needs}; leave out away, or ask for dx")
    lines, space = [*fitting(a, p), *of_all(a, p)], p.space()
    parameter = "weight" if given(a["weight"]) else None
    for name, wanted in (("dweight", needs[1]), ("dbias", needs[2])):
        size, dtype = ("weight.shape", "weight.dtype") if parameter else ("shape", "x.dtype")
        lines += [f"{name} = {f'np.empty({size}, {dtype})' if wanted else None}"]
    if any(needs[1:]):
        own, first = summing(p)
        space |= own
        targets = {k: v for k, v, wanted in (("of_product", "dweight", needs[1]), ("of_dy", "dbias", needs[2])) if wanted}
        lines += asked("sum", first, x="x", dy="dy", **targets, **present(a))
    lines += ["dx = " + ("out" if given(a["out"]) else "np.empty(x.shape, x.dtype)" if needs[0] else "None")]
    if needs[0] and a["sums"] is None:
        own, first = scaling(a, p, exact, a["weight"], None)
        space |= own
        lines += asked("scale", first, x="dy", y="dx", rstd="rstd", weight=parameter)
    elif needs[0]:
        call, _ = slant_call(p.shape, p.dtype, p.axes, exact)
        kernels = Backward(("columns", "runs"), call.dtype.name, call.exact, False)
        own, first = asking("slant", (Entry("slant"), Entry("slants"), kernels), call, p)
        space |= own
        totals = {n: n for n in ("of_dy", "of_product", "count")}
        lines += asked("slant", first, x="x", y="dx", dy="dy", **totals, **present(a, "weight"))
    return defined(standardize_backward, [*lines, "return dx, dweight, dbias"], space)


def of_all(a: dict[str, Any], p: Along) -> Iterator[str]:
    """Refuse types of sums that do not fit; lines that do so with values."""
    t = a["sums"]
    if t is None:
        return
    if not isinstance(t, types.BaseTuple) or len(t) != 3:
        raise TypingError(f"sums must be (sum of dy, sum of dy * normalized x, count): got {t}; pass what standardize_sums "
                          f"returned, added up")  # fmt: skip
    for k, (name, words) in enumerate((("of_dy", "the sum of dy"), ("of_product", "the sum of dy * normalized x"))):
        yield f"{name} = sums[{k}]"
        yield from spreading(words, name, floats(words, t.types[k]), p)
    count = t.types[2]
    array = isinstance(count, types.Array)
    if not isinstance(count.dtype if array else count, types.Integer):
        raise TypingError(f"the count of sums must be integers: got {count}; pass that of standardize_sums, added up")
    yield f"count = {'sums[2].astype(np.int64)' if array else 'sums[2]'}"
    yield f"if {'(count < 0).any()' if array else 'count < 0'}:"
    yield "    raise ValueError('the count of sums must not be negative; pass that of standardize_sums, added up')"
    if array:
        yield from spreading("the count of sums", "count", count, p)


IMPLEMENTATIONS = {"standardize": forward, "standardize_backward": backward, "standardize_sums": sums}
