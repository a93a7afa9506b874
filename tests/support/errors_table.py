"""docs/errors.md: every bad argument in the tables of the tests, and the words it is refused with, as a call gives them now.

    python tests/support/errors_table.py --write

A test compares the file with what this would write.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import bad_gradients
import bad_input
import bad_standardize
import layer_cases
import numpy as np

import numbanorm

FILE = Path(__file__).parents[2] / "docs" / "errors.md"
REMEDY = "python tests/support/errors_table.py --write"

HEAD = f"""# Errors: every bad argument, and what is said of it

<!-- Written from the tables of the tests by `{REMEDY}`; a test fails where the two differ. -->

A bad argument is a `ValueError`, or a `TypeError` where it is of the wrong kind; no other exception is raised for one. The
message states the rule, what was received and a remedy. Nothing is computed or changed before all arguments have been checked,
so `out`, running statistics and layers are as they were.

In the tables `x` is float32 of shape (4, 6, 5) where nothing else is said, `float64[4, 6]` is an array of that type and shape,
and what is not named in a call is in order. `f` stands for any of the functions above a table. A heading names the layer, or
the argument that the errors below it are about. `explain` refuses what the call that it is asked about refuses.
Arrays on a GPU have further rules, of where they lie: [CUDA](cuda.md).

<div class="stacked" markdown>
"""

# the first words of messages that do not begin with an argument, and the argument that they are about
ABOUT = {"a": "x", "the": "sums", "moments": "Moments", "rms_norm": "bias"}
ABOUT |= {f"{n}_norm": "x" for n in ("batch", "group", "instance")}
MOMENTS = {"moments": "moments", "explain": "explain"} | {k: f"Moments.{k}" for k in ("update", "merge", "rstd")}


class Row(NamedTuple):
    function: str
    what: str
    call: str
    error: str
    message: str


class Tensor:
    """A tensor of torch in host memory, as far as it is looked at: torch need not be installed."""

    is_cuda = False


@contextmanager
def without_torch() -> Iterator[None]:
    with mock.patch.object(bad_input, "torch_tensor", return_value=Tensor()):
        yield


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Type and message of the error that a call raises."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return type(error).__name__, " ".join(str(error).split())
    raise AssertionError("a bad argument was taken")


def written(value: Any) -> str:
    """An argument in few words."""
    if isinstance(value, np.ndarray) and not (0 < value.size <= 2 and value.dtype.kind in "if" and value.flags.writeable):
        words = "masked " * np.ma.isMaskedArray(value) + "read-only " * (not value.flags.writeable)
        return f"{words}{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (tuple, list)) and any(isinstance(v, np.ndarray) for v in value):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {written(v)}' for k, v in value.items())}}}"
    if callable(value):
        return str(getattr(value, "__name__", f"<{type(value).__name__}>"))
    text = " ".join(repr(value).split())
    drawn = isinstance(value, np.floating)  # at random, and not for what it is
    return f"<{type(value).__name__}>" if drawn or " at 0x" in text or len(text) > 30 else text


def of_functions() -> Iterator[Row]:
    """Of norms, gradients, moments and `standardize`."""
    for module, ending in ((bad_input, "_norm"), (bad_gradients, "_norm_backward"), (bad_standardize, "")):
        for name, row in module.TABLE:
            if np.dtype(np.longdouble).name in row.what:  # another type on another platform
                continue
            a, good = module.arguments(name, row), module.good(name)
            change = row.change(good) if callable(row.change) else row.change
            given, function = ", ".join(f"{k}={written(a[k])}" for k in change), module.FUNCTIONS[name]
            what = given.replace("=", " ", 1) if isinstance(row.change, dict) and len(change) == 1 else row.what
            yield Row(MOMENTS.get(name, name + ending), what, f"f(..., {given})", *refusal(lambda f=function, a=a: f(**a)))


def of_limits() -> Iterator[Row]:
    for words, call in bad_input.NO_GROUPS:
        yield Row("group_norm", "no groups", words, *refusal(call))
    x = np.ones((3, bad_input.C), np.float32)
    for dtype, step in bad_input.STEPS:
        _, mean = bad_input.overlapping_itself(dtype, step)
        call = f"batch_norm(..., running_mean=<{mean.dtype} view with a step of {step} bytes>, training=True)"
        made = refusal(lambda m=mean: numbanorm.batch_norm(x, m, np.ones(bad_input.C), training=True))
        yield Row("batch_norm", "statistics that overlap themselves", call, *made)


def of_layers() -> Iterator[Row]:
    """Constructors, calls and states."""
    for make, args, options, *_ in layer_cases.WRONG_ARGUMENTS:
        given = ", ".join([*map(written, args), *(f"{k}={written(v)}" for k, v in options.items())])
        made = refusal(lambda m=make, a=args, o=options: m(*a, **o))
        yield Row(make.__name__, "argument of the layer", f"{make.__name__}({given})", *made)
    for layer, shape, _ in layer_cases.MESSAGES:
        name = type(layer).__name__
        made = refusal(lambda f=layer, s=shape: f(np.ones(s, np.float32)))
        yield Row(name, "shape of x", f"{short(layer)}(<x of shape {shape}>)", *made)
    for state, *_ in layer_cases.WRONG_STATES:
        made = refusal(lambda s=state: numbanorm.BatchNorm1d(3).load_state_dict(s))
        yield Row("BatchNorm1d", "state", f"BatchNorm1d(3).load_state_dict({written(state)})", *made)
    yield from of_calls_of_layers()


def short(layer: Any) -> str:
    """A layer without what it has by default."""
    shown = re.sub(r", (eps|momentum|affine|bias|track_running_stats|elementwise_affine)=[^,)]+", "", repr(layer))
    return shown


def of_calls_of_layers() -> Iterator[Row]:
    """One layer of each class."""
    seen = set()
    for name in layer_cases.CASES:
        kind = re.match(r"\w+", name)[0]
        if kind in seen:
            continue
        seen.add(kind)
        layer, x, _ = layer_cases.made(name, np.random.default_rng(0))
        layer(x)
        for what, call in layer_cases.WRONG_CALLS.items():
            words = re.search(r"lambda layer, x: (.*),\n", inspect.getsource(call))
            assert words is not None
            yield Row(kind, what, f"x = {written(x)}; {words[1]}", *refusal(lambda c=call, f=layer, v=x: c(f, v)))


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def code(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def subject(functions: tuple[str, ...], message: str) -> str:
    """What an error is about, which the table is headed with: an argument, or a layer."""
    if functions[0] in dir(numbanorm) and functions[0][0].isupper():
        return functions[0] if len(functions) == 1 else "All layers"
    first = re.split(r"\W", message)[0]
    about = ABOUT.get(first, first)
    return code(about) if hasattr(numbanorm, about) else f"Argument {code(about)}"


def sections(rows: list[Row]) -> dict[str, dict[tuple[str, ...], list[Row]]]:
    """What is refused in the same words, by subject and by the functions that do so; what many functions refuse first."""
    same: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        same.setdefault((row.what, row.error, row.message), []).append(row)
    found: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for alike in sorted(same.values(), key=lambda some: -len({row.function for row in some})):
        functions = tuple(dict.fromkeys(row.function for row in alike))
        found.setdefault(subject(functions, alike[0].message), {}).setdefault(functions, []).append(alike[0])
    return dict(sorted(found.items(), key=lambda item: (item[0] != "All layers", item[0].strip("`").lower())))


def lines(functions: tuple[str, ...], rows: list[Row]) -> Iterator[str]:
    """One table."""
    yield from (f"Refused by {', '.join(map(code, functions))}:", "")
    yield from ("| what is wrong | call | error | message |", "|---|---|---|---|")
    for row in rows:
        call = re.sub(r"^f\(", f"{functions[0]}(", row.call) if len(functions) == 1 else row.call
        yield f"| {cell(row.what)} | {code(call)} | {row.error} | {code(row.message)} |"
    yield ""


def table() -> str:
    """The whole file."""
    with without_torch():
        found = sections([*of_functions(), *of_limits(), *of_layers()])
    text = [HEAD]
    for heading, tables in found.items():
        text += [f"## {heading}", ""]
        for functions, rows in tables.items():
            text += lines(functions, rows)
    return "\n".join([*text, "</div>", ""])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(table(), encoding="utf-8")
    else:
        sys.exit(f"usage: {REMEDY}")
