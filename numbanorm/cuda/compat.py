"""The import of numba-cuda where NumPy has changed since its last version, 0.30.4, which will not follow.

NumPy 2.5 has no `row_stack`, which numba-cuda registers as it comes to compile the first kernel, and warns of the NaT without
a unit that numba-cuda makes. The name is lent while the module that asks for it is imported, and only where it is missing;
when this is done NumPy is as it was.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numba
import numpy as np

MISSING = "row_stack"


def row_stack(*arrays: Any) -> None:
    """Stand where numba-cuda looks for NumPy's function; a kernel that would call it cannot name it."""


def import_numba_cuda() -> None:
    """Import numba.cuda, and what it would fail to import later."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'generic' unit for NumPy timedelta", DeprecationWarning)
        importlib.import_module("numba.cuda")
    if numba.config.ENABLE_CUDASIM or hasattr(np, MISSING):
        return
    setattr(np, MISSING, row_stack)
    try:
        importlib.import_module("numba.cuda.np.arrayobj")
    finally:
        delattr(np, MISSING)


import_numba_cuda()
