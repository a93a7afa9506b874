"""Choice of the backend: the one where the arrays live. No fallback, no global state.

Every call has an array space (see `protocol`), chosen once, from x and `backend`: the module `host` for NumPy arrays, a
`cuda.arrays.space.Device` for arrays on a device and for those that backend="cuda" carries there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from ..spec import checks
from ..spec.shown import shown
from . import host
from .protocol import Backend, Space

INSTALL = "pip install 'numbanorm[cuda13]' (or 'numbanorm[cuda12]' where the driver is of CUDA 12)"


class NoCuda(Exception):
    """Carries why the CUDA backend cannot be used."""


@cache
def cuda_backend(compute: bool) -> Backend:
    """The module, imported at the first call that wants it, as all of numba.cuda; to `compute`, there must be a GPU."""
    if importlib.util.find_spec("numba_cuda") is None and not numba.config.ENABLE_CUDASIM:
        raise NoCuda(f"numba-cuda is not installed; {INSTALL}")
    from ..cuda import backend as cuda

    if compute:
        from ..cuda import driver

        reason = driver.why_not()
        if reason is not None:
            raise NoCuda(reason)
    return cuda


def why_no_cuda() -> str | None:
    """Why the CUDA backend cannot compute on this machine, and what helps; None where it can."""
    try:
        cuda_backend(True)
    except NoCuda as why:
        return str(why)
    return None


def space(x: Any, wanted: Any, computes: bool = True) -> Space:
    """The array space where x lives, or to which `wanted` carries it; to explain a call, no GPU must be there."""
    if wanted is None and type(x) is np.ndarray:
        return host
    if wanted is not None and not (isinstance(wanted, str) and wanted in ("cpu", "cuda")):
        raise ValueError(f"backend must be one of 'cpu' or None, or 'cuda' for a GPU: got {shown(wanted)}; leave it out")
    library = checks.device_library(x)
    if library is None and wanted != "cuda":
        return host
    if wanted == "cpu":
        raise TypeError(f"x must be in host memory for backend='cpu': got {type(x).__name__} on a CUDA device; "
                        f"copy it to the host, or leave backend out")  # fmt: skip
    try:
        module = cuda_backend(computes or library is not None)
    except NoCuda as why:
        if library is None:
            raise ValueError(f"backend must be 'cpu' or None here: got 'cuda', and no CUDA backend that can compute; "
                             f"leave backend out, or mend this: {why}") from None  # fmt: skip
        raise TypeError(f"x must be in host memory here: got {type(x).__name__} on a CUDA device, and no CUDA backend that "
                        f"can compute; copy it to the host, or mend this: {why}") from None  # fmt: skip
    device, kind = _device(library)
    return device(kind, module)


@cache
def _device(library: str | None) -> tuple[Callable[[Any, Any], Space], Any]:
    """Class and library for device arrays; None stands for NumPy arrays to be carried over."""
    from ..cuda.arrays import libraries
    from ..cuda.arrays.space import Device

    return Device, libraries.NUMPY if library is None else libraries.KINDS[library]
