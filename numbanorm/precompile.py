"""Compiling ahead: what a program will call is compiled, or taken from disk, before its first call.

A kernel is compiled for the types of what it is called with, at that call. So nothing here lists kernels or types: the
functions are called with small arrays of zeros, of shapes on either side of every limit by which a kernel is chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import functional, gradients
from .moments import moments
from .spec import checks
from .spec.norms import NORMS, Norm
from .spec.shown import shown
from .spec.tree import LEAST_RUN, SHORT

# a kernel is chosen by whether one run makes a group, elements share a weight in a long run, and a run is short: these shapes
# (1, runs, channels, length), of two groups of channels, are every case of the three, and small enough for one thread
SHAPES = [(1, runs, 2 * k, t) for runs in (1, 2) for k, t in ((1, 2), (SHORT, 2), (1, LEAST_RUN), (1, SHORT))]
FUNCTIONS = (
    *(getattr(functional, name) for name in NORMS),
    *(getattr(gradients, f"{name}_backward") for name in NORMS),
    moments,
)


def warmup(
    *functions: Callable[..., Any],
    dtypes: DTypeLike | Iterable[DTypeLike] = ("float32",),
    exact: bool = False,
    backend: str | None = None,
) -> None:
    """Compile what calls of some functions will need, or load it from disk, so that no later call does.

    Weights and running statistics may then be of any dtype. docs/start.md says how long it takes, and which calls are excepted,
    those that name a method among them. Layers and torch modules call these same functions. It starts Numba's threading layer,
    so call it after a fork, not before: children that are forked later stay in one thread.

    Parameters
    ----------
    *functions : norms, their backward functions, `moments`
        By default all.
    dtypes : dtype or sequence of dtypes
        Those of x: "float16", "bfloat16", "float32", "float64" or NumPy's dtypes of these names.
    exact : bool
        Which of the two modes of norms and backward functions is compiled: that of calls with this `exact`. `moments` has
        only one.
    backend : {None, "cpu"}
        Kernels for a GPU are compiled for their device at the first call, and kept on disk too.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is compiled.

    Examples
    --------
    >>> import numbanorm as nb
    >>> nb.warmup(nb.layer_norm, nb.layer_norm_backward)
    >>> nb.warmup(nb.rms_norm, dtypes=("float16", "float32"))
    """
    if not (backend is None or (isinstance(backend, str) and backend == "cpu")):
        raise ValueError(f"backend must be 'cpu' or None, for kernels of a GPU are compiled at their first call and kept on "
                         f"disk: got {shown(backend)}; leave backend out")  # fmt: skip
    for function in functions:
        if not any(function is known for known in FUNCTIONS):
            raise TypeError(f"warmup wants norms, their backward functions or moments: got {shown(function)}; "
                            f"write warmup(layer_norm, layer_norm_backward)")  # fmt: skip
    exact = checks.flag("exact", exact)
    for dtype in [_float(d) for d in _several(dtypes)]:
        for function in functions or FUNCTIONS:
            _call(function, dtype, exact)
    _compile_parallel()


def _several(dtypes: Any) -> list[Any]:
    """Dtypes, of which one may come alone."""
    return list(dtypes) if isinstance(dtypes, Iterable) and not isinstance(dtypes, (str, type)) else [dtypes]


def _float(value: Any) -> np.dtype[Any]:
    """A dtype that x may have, in native byte order."""
    try:
        dtype = np.dtype("void" if value is None else value)  # NumPy takes None for float64
    except TypeError:
        if isinstance(value, str) and value == "bfloat16":
            raise TypeError("bfloat16 must be known to NumPy, which ml_dtypes sees to: got 'bfloat16' before it was imported; "
                            "write import ml_dtypes (pip install 'numbanorm[bfloat16]')") from None  # fmt: skip
        dtype = None
    native = dtype if dtype is None or dtype.isnative else dtype.newbyteorder("=")
    if native is None or not checks.is_float(native):
        raise TypeError(checks.not_float("arrays of dtypes", shown(value), "dtypes=('float32',)"))
    return native


def _call(function: Callable[..., Any], dtype: np.dtype[Any], exact: bool) -> None:
    """Call a function in every way that makes a difference to the kernels."""
    name = function.__name__.removesuffix("_backward")
    for shape in SHAPES:
        x = np.zeros(shape, dtype)
        # backend="cpu" keeps a call from the shorter way that Python takes with arguments of the usual kind
        for backend in (None, "cpu"):
            if name not in NORMS:
                function(x, axis=(1, 3), backend=backend)
            else:
                options = {"exact": exact, "backend": backend}
                _call_norm(NORMS[name], function, x, options, gradient=name != function.__name__)


def _call_norm(norm: Norm, function: Callable[..., Any], x: Any, common: dict[str, Any], gradient: bool) -> None:
    """Call a norm or its backward function, with x's own statistics and others."""
    size = (2,) if norm.sized == "num_groups" else x.shape[2:]
    shape, some = norm.planned(x.shape, size, 2).stats_shape, 1 + len(norm.parameters)
    stats = np.zeros(shape) if norm.center else None, np.ones(shape)
    running = (np.zeros(x.shape[2]), np.ones(x.shape[2])) if norm.own else ()
    for own in (True, False) if norm.own else (True,):
        options = {**common, **norm.options(size, own, 2)}
        if gradient:
            for needs in [True] * some, [True] + [False] * (some - 1):
                function(x, x, stats=stats, needs=needs, **options)
        else:
            function(x, *running, **options)


def _compile_parallel() -> None:
    """Compile what deals to threads the pieces of the kernels that there are, and with torch the entries for tensors."""
    from .cpu.launch import FAMILIES, dealer, entry_at

    for family, kernel in FAMILIES.items():
        if kernel.overloads:
            dealer(family.endswith("backward"))
            if "torch" in sys.modules:  # others do without, for they take 0.8 s each
                entry_at(family.endswith("backward"))
