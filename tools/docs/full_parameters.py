"""A griffe extension: where a docstring says "As for `layer_norm`", the pages say what is said there.

In the source a fact has one place; who reads the reference should not have to look for it.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(?P<names>[\w*]+(?:, [\w*]+)*)(?P<type> : .*)?\n(?P<body>(?: {4}.*\n?)+)", re.MULTILINE)
AS_FOR = re.compile(r" {4}As for `(?:numbanorm\.)?(\w+)`")


class FullParameters(griffe.Extension):
    """Writes out the parameters that are said to be those of another function."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for name in pkg.exports or ():
            thing = pkg[str(name)]
            for each in (thing, thing.all_members.get("__init__") if thing.is_class else None):
                if each is not None and each.docstring is not None:
                    each.docstring.value = written_out(each.docstring.value, pkg)


def written_out(text: str, package: griffe.Module) -> str:
    """A docstring whose parameters all say what they are."""
    before, heading, rest = text.partition("Parameters\n----------\n")
    body, blank, after = rest.partition("\n\n")
    return before + heading + ENTRY.sub(lambda found: replaced(found, package), body + "\n").rstrip() + blank + after


def replaced(found: re.Match[str], package: griffe.Module) -> str:
    """An entry, or those of the function that it names."""
    pointer = AS_FOR.match(found["body"])
    if pointer is None:
        return found[0]
    source = package[pointer[1]]
    known = {}
    for other in ENTRY.finditer(source.docstring.value):
        known.update(dict.fromkeys(other["names"].split(", "), other))
    parts = []
    for name in found["names"].split(", "):
        same = known[name]
        whole = replaced(same, package) if AS_FOR.match(same["body"]) else same[0]
        part = next(m for m in ENTRY.finditer(whole) if name in m["names"].split(", "))
        parts.append(f"{name}{part['type'] or ''}\n{part['body'].rstrip()}\n")
    return "".join(parts)
