"""Arguments as a compiler has them: types, and values where a call has literals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any

import numpy as np
from numba.core.errors import TypingError

from ..cpu.arith.vectors import keep
from ..cpu.compile import types
from ..cpu.entry.addresses import status_of
from ..cpu.entry.alone import STALE
from ..cpu.entry.calls import REFUSED
from ..spec import checks
from .made import made
from .recipes import integers, place, words

FLOATS = (types.float32, types.float64)
REMEDY = "write it out in the call"
# what lines know, whatever is called
SPACE = {
    "np": np, "words": words, "place": place, "integers": integers, "status_of": status_of, "keep": keep, "REFUSED": REFUSED,
    "STALE": STALE,
}  # fmt: skip


def arguments(function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    """Types by the names of a function's parameters; of what was left out, the value."""
    return {name: plain(t) for name, t in zip(signature(function).parameters, args, strict=True)}


def plain(t: Any) -> Any:
    """None, or the value of what was left out, or a type."""
    if isinstance(t, types.Omitted):
        return t.value
    return None if t is types.none else t


def given(t: Any) -> bool:
    """Whether there is an argument, whose type this is."""
    return isinstance(t, types.Type)


def constant(name: str, t: Any) -> Any:
    """The value of an argument that must be known when the function is compiled."""
    if not given(t):
        return t
    if isinstance(t, types.Literal):
        return t.literal_value
    if isinstance(t, types.BaseTuple):
        return tuple(constant(name, v) for v in t.types)
    raise TypingError(f"{name} must be a constant in a compiled function: got {t}; {REMEDY}")


def known(function: Callable[..., Any], a: dict[str, Any], *names: str) -> None:
    """Refuse all arguments but these, unless they are what they are when left out: no option is ignored, nor one to come."""
    for name, parameter in signature(function).parameters.items():
        t = a[name]
        value = t.literal_value if isinstance(t, types.Literal) else t
        if name not in names and not (type(value) is type(parameter.default) and value == parameter.default):
            raise TypingError(f"{name} must be left out in a compiled function: got {t}; call the function from Python")


def floats(name: str, t: Any, ndim: int | None = None, like: Any = None) -> Any:
    """An array of float32 or float64; ndim: the axes that it must have; like: the type whose dtype."""
    if not isinstance(t, types.Array) or t.dtype not in FLOATS or not t.aligned:
        remedy = f"write {name}.astype(np.float32)" if isinstance(t, types.Array) else "pass an array of NumPy's"
        raise TypingError(f"{name} must be an array of float32 or float64 in a compiled function: got {t}; "
                          f"{remedy}, or call the function from Python")  # fmt: skip
    if ndim is not None and t.ndim != ndim:
        raise TypingError(f"{name} must have {ndim} axes: got {t.ndim}; its shape is that of what it belongs to")
    if like is not None and t.dtype != like.dtype:
        raise TypingError(f"{name} must have the dtype of x, {like.dtype}: got {t.dtype}; write {name}.astype(x.dtype)")
    return t


def written(name: str, t: Any, ndim: int, like: Any = None) -> Any:
    """An array that is written to."""
    floats(name, t, ndim, like)
    if not t.mutable:
        raise TypingError(f"{name} must be writable: got {t}; pass a copy")
    return t


def checked(check: Callable[..., Any], *args: Any) -> Any:
    """What a check of Python's arguments gives, its errors as Numba's."""
    try:
        return check(*args)
    except (TypeError, ValueError) as error:
        raise TypingError(str(error)) from None


def flag(a: dict[str, Any], name: str) -> bool:
    """A bool that must be known."""
    return bool(checked(checks.flag, name, constant(name, a[name])))


def ended(names: Iterable[str], itself: str | None = None) -> Iterator[str]:
    """Lines behind a call: arrays are kept until here, and what it refuses is told; itself: what out may be.

    Numba frees an array after its last use, and does not see those by their address.
    """
    yield "; ".join(f"keep({name})" for name in names)
    if itself:
        yield "if status == REFUSED:"
        yield f"    raise ValueError('out must not overlap what is read, unless it is {itself}; pass a copy')"
    yield "if status == STALE:"
    yield "    raise RuntimeError('this function was compiled with another version of numbanorm; empty its folder __pycache__')"


def defined(function: Callable[..., Any], lines: Iterable[str], space: dict[str, Any]) -> Any:
    """A function with another's parameters, of these lines, which know the names in `space` and SPACE."""
    parameters = ", ".join(
        n if p.default is p.empty else f"{n}={p.default!r}" for n, p in signature(function).parameters.items()
    )
    name = function.__name__
    return made(name, "\n    ".join([f"def {name}({parameters}):", *lines]), SPACE | space)
