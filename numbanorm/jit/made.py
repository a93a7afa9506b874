"""Functions that are written at run time: Numba, a traceback and a pickle find of them what they do of any other."""

from __future__ import annotations

import linecache
from typing import Any


def made(name: str, source: str, space: dict[str, Any]) -> Any:
    """The function of this name that a source defines, which knows the names in `space`; of this module, or it had none."""
    file = f"<{__name__} {name} {len(linecache.cache)}>"
    linecache.cache[file] = len(source), None, source.splitlines(True), file
    space["__name__"] = __name__
    exec(compile(source, file, "exec"), space)
    return space[name]
