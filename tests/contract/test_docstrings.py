"""Docstrings of what users call: the parameters of the signature, in its order, what comes back, what is raised, an example."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

HEADING = re.compile(r"^(Parameters|Attributes|Returns|Raises|Examples)\n-+$", re.MULTILINE)
OURS = ("numbanorm", "numbanorm.layers")
LIBRARIES = ("dask", "sklearn", "torch", "xarray")
STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
CHECKS = {"checks", "plan"}  # what raises for a function


def sections(thing: Any) -> dict[str, str]:
    """The sections of a docstring, by heading; a class may keep that of its parameters with what makes it."""
    parts = HEADING.split(inspect.getdoc(thing) or "")
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if inspect.isclass(thing) and "Parameters" not in found:
        return sections(thing.__init__) | found
    return found


def names(section: str) -> list[str]:
    """Names of the entries of a section."""
    heads = [line.partition(" : ")[0] for line in section.splitlines() if line and not line.startswith(" ")]
    return [name.strip() for head in heads for name in head.split(",")]


def raises(function: Any) -> bool:
    """Whether a function raises, itself or by a check."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    calls = [ast.unparse(node.func).split(".")[0] for node in nodes if isinstance(node, ast.Call)]
    return not CHECKS.isdisjoint(calls) or any(isinstance(node, ast.Raise) for node in nodes)


def faults(function: Callable[..., Any], arguments: list[str], found: dict[str, str]) -> list[str]:
    """What the sections lack."""
    wrong = [] if names(found.get("Parameters", "")) == arguments else [f"parameters {names(found.get('Parameters', ''))}"]
    returns = inspect.signature(function).return_annotation
    wrong += ["no Returns"] if returns not in ("None", "Self", None) and "Returns" not in found else []
    return wrong + (["no Raises"] if raises(function) and "Raises" not in found else [])


def arguments(thing: Any, skipped: int = 0) -> list[str]:
    """Names of a signature's parameters, with their stars."""
    parameters = list(inspect.signature(thing).parameters.values())[skipped:]
    return [STARS.get(p.kind, "") + p.name for p in parameters]


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods of a class that are of this package; torch documents those that modules of its own have, too."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), cls)
        method = vars(owner).get(name)
        method = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
        of_torch = any(name in vars(base) for base in cls.__mro__ if base.__module__.startswith("torch."))
        ours = owner.__module__.startswith("numbanorm") and not of_torch
        if not name.startswith("_") and ours and inspect.isfunction(method):
            yield name, method


def check(module: str) -> None:
    public = importlib.import_module(module)
    wrong = []
    for name in public.__all__:
        thing, label = getattr(public, name), f"{module}.{name}"
        told = sections(thing)
        lacks = [] if "Examples" in told else ["no Examples"]
        if inspect.isclass(thing):
            if names(told.get("Parameters", "")) != arguments(thing):
                lacks.append(f"parameters {names(told.get('Parameters', ''))} for {arguments(thing)}")
            for each, method in methods(thing):
                wrong += [f"{label}.{each}: {fault}" for fault in faults(method, arguments(method, 1), sections(method))]
        else:
            lacks += faults(thing, arguments(thing), told)
        wrong += [f"{label}: {fault}" for fault in lacks]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", OURS)
def test_docstrings_are_complete(module: str) -> None:
    check(module)


@pytest.mark.parametrize("library", LIBRARIES)
def test_docstrings_are_complete_over(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'numbanorm[{library}]'")
    check(f"numbanorm.interop.{library}")


def test_what_a_docstring_lacks_is_found() -> None:
    def function(x: Any, *rest: Any) -> int:
        """Do.

        Parameters
        ----------
        rest, x : arrays
        """
        if x is None:
            raise ValueError
        return len(rest)

    assert faults(function, arguments(function), sections(function)) == ["parameters ['rest', 'x']", "no Returns", "no Raises"]
