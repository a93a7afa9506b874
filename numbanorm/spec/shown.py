"""Values as errors show them."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST, LONGEST = 6, 120  # elements of a list, and characters


def shown(value: Any, level: int = 0) -> str:
    """A value on one line: arrays by dtype and shape, and no more than the beginning of what is long."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and not isinstance(value, (type, np.generic)):
        return f"{dtype} {'array' if type(value) is np.ndarray else type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, (tuple, list)) and level < MOST:
        words = [shown(v, level + 1) for v in value[:MOST]] + ["..."] * (len(value) > MOST)
        text = ", ".join(words)
        return f"[{text}]" if isinstance(value, list) else f"({text}{',' * (len(value) == 1)})"
    text = repr(value)
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
