"""A griffe extension: where a docstring says "As for `layer_norm`", the pages say what is said there.

In the source a fact has one place; who reads the reference should not have to look for it.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(?P<names>[\w*]+(?:, [\w*]+)*)(?P<type> : .*)?\n(?P<body>(?: {4}.*\n?)*)", re.MULTILINE)
HEADING = "Parameters\n----------\n"
POWER = re.compile(r"(?<=[\w)])\*\*(?=[-\d(])")  # which Markdown would take for bold
AS_FOR = re.compile(r" {4}As for `(?:numbanorm\.)?(\w+)`")


class FullParameters(griffe.Extension):
    """Writes out the parameters that are said to be those of another function."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for name in pkg.exports or ():
            thing = named(pkg, str(name))
            if thing.docstring is not None:
                if thing.is_class and HEADING not in thing.docstring.value:
                    thing.docstring.value = with_inherited(thing)
                thing.docstring.value = written_out(thing.docstring.value, pkg)
            for each in (thing, *(thing.members.values() if thing.is_class else ())):
                if each.docstring is not None:
                    lines = each.docstring.value.split("\n")
                    each.docstring.value = "\n".join(s if ">>>" in s else POWER.sub(r"\\*\\*", s) for s in lines)


def named(package: griffe.Module, name: str) -> Any:
    """What the package offers under a name; `moments` and `standardize` are modules, too."""
    thing = package[name]
    return thing[name] if thing.is_module else thing


def with_inherited(cls: Any) -> str:
    """A class's docstring with the parameters of the constructor that it inherits, before its examples."""
    told = [base["__init__"].docstring for base in cls.mro() if "__init__" in base.members]
    sections = [text.value[text.value.index(HEADING) :] for text in told if text is not None and HEADING in text.value]
    before, heading, examples = cls.docstring.value.partition("Examples\n--------\n")
    return f"{before}{sections[0]}\n\n{heading}{examples}" if sections else cls.docstring.value


def written_out(text: str, package: griffe.Module) -> str:
    """A docstring whose parameters all say what they are."""
    before, heading, rest = text.partition(HEADING)
    body, blank, after = rest.partition("\n\n")
    return before + heading + ENTRY.sub(lambda found: replaced(found, package), body + "\n").rstrip() + blank + after


def replaced(found: re.Match[str], package: griffe.Module) -> str:
    """An entry, or those of the function that it names."""
    pointer = AS_FOR.match(found["body"])
    if pointer is None:
        return found[0]
    source = named(package, pointer[1])
    known = {}
    for other in ENTRY.finditer(source.docstring.value):
        known.update(dict.fromkeys(other["names"].split(", "), other))
    parts = []
    for name in found["names"].split(", "):
        same = known[name]
        whole = replaced(same, package) if AS_FOR.match(same["body"]) else same[0]
        part = next(m for m in ENTRY.finditer(whole) if name in m["names"].split(", "))
        parts.append(f"{name}{part['type'] or ''}\n{part['body']}".rstrip() + "\n")
    own = found["body"][pointer.end() :].lstrip(" .,:;\n")  # what is said beside
    return "".join(parts) + (f"    Here: {own}" if own else "")
