"""Checks of arguments. Every error states the rule, what came, and the remedy; nothing is changed before all hold."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

import numpy as np

from .dtypes import DTYPES, FLOATS, NATIVE
from .shown import shown

Array = np.ndarray[Any, Any]

WORK: Any = 10000  # steps to spend on whether two strided views overlap
KNOWN = {np.dtype(name) for name in NATIVE}  # the others join when the first one is seen


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a native dtype is one of `DTYPES`; ml_dtypes need not be installed to ask."""
    if dtype in KNOWN:
        return True
    if dtype.name in DTYPES and dtype.isnative:
        KNOWN.add(dtype)
        return True
    return False


def array(name: str, x: Any) -> Array:
    """A floating-point NumPy array in native byte order."""
    if type(x) is not np.ndarray:
        x = plain(name, x)
    if x.dtype in KNOWN:
        return x  # type: ignore[no-any-return]
    native = x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
    if not is_float(native):
        raise TypeError(not_float(name, x.dtype, f"{name}.astype(np.float32)"))
    return x if x.dtype.isnative else x.astype(native)  # type: ignore[no-any-return]


def not_float(name: str, dtype: Any, remedy: str) -> str:
    return f"{name} must hold {', '.join(FLOATS[:-1])} or {FLOATS[-1]}: got {dtype}; write {remedy}"


def device_library(x: Any) -> str | None:
    """Library that an array is of, if its memory is that of a CUDA device; no library is imported to ask."""
    if isinstance(x, np.ndarray):
        return None
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(x, torch.Tensor):  # whose __cuda_array_interface__ may raise
        return "torch" if x.is_cuda else None
    if cupy is not None and isinstance(x, cupy.ndarray):
        return "cupy"
    return "numba" if hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__") else None


def plain(name: str, x: Any) -> Array:
    """The base-class view of an array subclass (np.memmap, ...), or a TypeError."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: the mask would be lost; pass {name}.filled(value)")
    if isinstance(x, np.ndarray):
        return x.view(np.ndarray)
    if device_library(x):
        raise TypeError(
            f"{name} must be in host memory, as x is: got {type(x).__name__} on a CUDA device; copy it to the host, "
            f"or all arrays to the device"
        )
    remedy = f"write np.asarray({name}, dtype=np.float32)"
    if hasattr(x, "is_cuda"):  # a tensor of torch on the CPU
        remedy = f"write np.asarray({name}) or {name}.numpy(), or {name}.cuda() to compute on the GPU"
    raise TypeError(f"{name} must be a NumPy array: got {type(x).__name__}; {remedy}")


def packed(x: Array) -> bool:
    """Whether x is C-contiguous and aligned, writeable or not."""
    flags = x.flags
    return bool(flags.carray or (flags.c_contiguous and flags.aligned))


def contiguous(x: Array) -> Array:
    """x itself if it is C-contiguous and aligned, else a copy that is."""
    return x if packed(x) else np.array(x, order="C", copy=True, subok=False)


def parameter(name: str, w: Any, shape: tuple[int, ...]) -> Array | None:
    """Weight or bias, or None."""
    if w is None:
        return None
    w = array(name, w)
    if w.shape != shape:
        fits_parameter(name, w, shape)
    return w  # type: ignore[no-any-return]


def fits_parameter(name: str, w: Any, shape: tuple[int, ...], lead: tuple[int, ...] = ()) -> None:
    """A weight or bias, wherever it lies, has an element for each place; lead: axes of samples that it may have, too."""
    if w.shape != shape:
        remedy = f"{name} needs one element for each of the {math.prod(shape)} places that share a parameter"
        if w.size == math.prod(shape):
            remedy = f"write {name}.reshape({shape})"
        also = f", or a shape that broadcasts to {(*lead, *shape)}" if lead else ""
        raise ValueError(f"{name} must have shape {shape}: got {w.shape}; {remedy}{also}")


def eps(value: Any) -> float:
    """A finite number >= 0."""
    if type(value) is not float:
        value = real("eps", value)
    if not 0.0 <= value < math.inf:
        raise ValueError(f"eps must be finite and not negative: got {value}; the usual eps is 1e-5")
    return value  # type: ignore[no-any-return]


def eps_without_bias(value: Any) -> float:
    """eps of a norm that has no bias, whose place in the call it takes."""
    if getattr(value, "shape", ()):
        raise TypeError(f"rms_norm has no bias: got an array of shape {tuple(value.shape)} for eps; add the bias to the result")
    return eps(value)


def real(name: str, value: Any) -> float:
    """A real number, which may come as an array without axes."""
    if type(value) is float:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf":
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating)):
        raise TypeError(f"{name} must be a number: got {shown(value)} of type {type(value).__name__}; write float({name})")
    try:
        return float(value)
    except OverflowError:  # an int beyond the range of float64
        beyond: Any = value
        return math.inf if beyond > 0 else -math.inf


def momentum(value: Any) -> float | None:
    """A number from 0 to 1, or None for the cumulative average."""
    if value is None:
        return None
    share = real("momentum", value)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"momentum must lie in [0, 1]: got {share}; torch's default is 0.1, None averages over all batches")
    return share


def flag(name: str, value: Any) -> bool:
    if value is True or value is False or isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False: got {shown(value)}; write bool({name})")


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}: got {shown(value)}; {choices[0]!r} is the default")


def method(value: Any) -> str | None:
    """The name of a way to take statistics, or None for one read of x where that is as good."""
    if value is None or (isinstance(value, str) and value in ("two_pass", "welford")):
        return value
    raise ValueError(f"method must be 'two_pass', 'welford' or None: got {shown(value)}; leave it out")


def running(name: str, value: Any, channels: int, update: bool) -> Array | None:
    """A running statistic of shape (channels,); writable if it is to be updated."""
    if value is None:
        return None
    if not isinstance(value, np.ndarray):
        plain(name, value)
    if value.dtype.newbyteorder("=") not in KNOWN and not is_float(value.dtype.newbyteorder("=")):
        raise TypeError(f"{name} must hold floating-point numbers: got {value.dtype}; write {name}.astype(np.float32)")
    fits_running(name, value, channels, update, not value.flags.writeable)
    return plain(name, value) if type(value) is not np.ndarray else value


def fits_running(name: str, value: Any, channels: int, update: bool, read_only: bool, copy: str = "{}.copy()") -> None:
    """A running statistic, wherever it lies, has a number a channel, and memory for it."""
    if value.shape != (channels,):
        raise ValueError(f"{name} must have shape {(channels,)}: got {value.shape}; it holds one number a channel")
    if update and read_only:
        raise ValueError(f"{name} must be writable, for training updates it: got a read-only array; pass {copy.format(name)}")
    if update and channels > 1 and value.strides and abs(value.strides[0]) < value.dtype.itemsize:
        got = "a broadcast view" if value.strides == (0,) else "a view whose elements overlap"
        raise ValueError(f"{name} must have memory for every channel: got {got}; pass {copy.format(name)}")


def broadcasts(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array of the shape `own` broadcasts to `shape`, and to no other."""
    return len(own) <= len(shape) and all(n in (1, k) for n, k in zip(own[::-1], shape[::-1], strict=False))


def mask(value: Any, shape: tuple[int, ...]) -> Array | None:
    """`where`: a bool array that broadcasts to x's shape, or None."""
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype != np.bool or isinstance(value, np.ma.MaskedArray):
        got = f"an array of {value.dtype}" if type(value) is np.ndarray else type(value).__name__
        raise TypeError(f"where must be a NumPy array of bool: got {got}; write np.asarray(where, dtype=bool), or where != 0")
    if not broadcasts(value.shape, shape):
        raise ValueError(
            f"where must broadcast to the shape of x, {shape}: got {value.shape}; give it an axis of length 1 or of x's own "
            f"for each axis of x, as where[:, :, None] for (N, L, D)"
        )
    return value.view(np.ndarray)


def fill(value: Any, where: Any) -> float | None:
    """`fill`: what y is where a mask is not set; None for what it would be."""
    if value is not None and where is None:
        raise ValueError(f"fill is for what where leaves out: got fill={shown(value)} and where=None; pass where, or no fill")
    return None if value is None else real("fill", value)


def counter(value: Any) -> Array | None:
    """num_batches_tracked: a writable integer array of one element."""
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.size != 1:
        raise TypeError(f"num_batches_tracked must be an integer array of one element: got {shown(value)}; write np.array(0)")
    if not value.flags.writeable:
        raise ValueError("num_batches_tracked must be writable, for training counts in it: got a read-only array; pass a copy")
    if value.reshape(-1)[0] < 0:
        raise ValueError(f"num_batches_tracked must not be negative: got {value}; write np.array(0)")
    if value.itemsize < 8 and value.reshape(-1)[0] == np.iinfo(value.dtype).max:
        raise ValueError(f"num_batches_tracked must have room for one more: got {value} in {value.dtype}; make it int64")
    return value


def like(name: str, value: Any, x: Array) -> Array:
    """An array of x's shape and dtype."""
    a = array(name, value)
    fits_like(name, a, x)
    return a


def beside(name: str, value: Any, x: Array) -> Array:
    """An array of x's shape and dtype that is added to x or to a result, or that is one."""
    a = array(name, value)
    if a.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {x.shape}: got {a.shape}; write np.broadcast_to({name}, x.shape)")
    fits_like(name, a, x)
    return a


def fits_like(name: str, a: Any, x: Any, cast: str = "{}.astype(x.dtype)") -> None:
    """An array, wherever it lies, has x's shape and dtype."""
    if a.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {x.shape}: got {a.shape}; it is the gradient of the norm's result")
    if a.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of x, {x.dtype}: got {a.dtype}; write {cast.format(name)}")


def stats(value: Any, shape: tuple[int, ...], center: bool) -> tuple[Array | None, Array]:
    """(mean, rstd) as a norm returned them -> flat; the mean is None unless `center`."""
    mean, rstd = pair(value, center)
    return (statistic("mean", mean, shape) if center else None), statistic("rstd", rstd, shape)


def pair(value: Any, center: bool) -> tuple[Any, Any]:
    """(mean, rstd), of whatever they are."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        came = f"{len(value)} elements" if isinstance(value, (tuple, list)) else type(value).__name__
        raise TypeError(f"stats must be (mean, rstd): got {came}; pass what the norm returned with return_stats=True")
    if not center and value[0] is not None:
        raise ValueError("stats of rms_norm have no mean: got one; pass what rms_norm returned, or write (None, rstd)")
    return value[0], value[1]


def statistic(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    a = array(name, value)
    fits_statistic(name, a, shape)
    return a.reshape(-1)


def fits_statistic(name: str, a: Any, shape: tuple[int, ...]) -> None:
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {shape}: got {a.shape}; pass the stats of the forward call as they came")


def needs(value: Any, n: int) -> tuple[bool, ...]:
    """Flags of the n gradients that are wanted."""
    if not isinstance(value, (tuple, list)) or len(value) != n:
        names = ("dx", "dweight", "dbias")[:n]
        raise ValueError(f"needs must be {n} of True or False, for {', '.join(names)}: got {shown(value)}; write {(True,) * n}")
    return tuple([v if v is True or v is False else flag("needs", v) for v in value])


def output(out: Any, x: Array, others: tuple[tuple[str, Any], ...], may_be: tuple[str, ...] = ("x",)) -> None:
    """`out` fits x, and shares memory with nothing that is read, unless it is one of `may_be` itself."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array: got {type(out).__name__}; write np.empty_like(x)")
    fits_output(out, x, not out.flags.writeable)
    unshared(out, others, may_be)


def fits_output(out: Any, x: Any, read_only: bool, make: str = "np.empty_like(x)") -> None:
    """`out`, wherever it lies, can hold what x can."""
    if out.shape != x.shape:
        raise ValueError(f"out must have the shape of x, {x.shape}: got {out.shape}; write {make}")
    if out.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}: got {out.dtype}; write {make}")
    if read_only:
        raise ValueError(f"out must be writable: got a read-only array; write {make}")


def unshared(out: Array, others: tuple[tuple[str, Any], ...], may_be: tuple[str, ...], make: str = "np.empty_like(x)") -> None:
    """`out` shares memory with nothing that is read, unless it is one of `may_be` itself."""
    if overlaps_itself(out):
        raise ValueError(f"out must have memory of its own for every element: got a broadcast view; write {make}")
    for name, other in others:
        if other is None or (other is out and name in may_be) or not np.may_share_memory(out, other):
            continue
        if shares_memory(out, other) and not (name in may_be and same_memory(out, other)):
            allowed = " or ".join(may_be)
            raise ValueError(
                f"out must not overlap {name}, unless it is {allowed} itself: got arrays that share memory; pass a copy"
            )


def overlaps_itself(a: Array) -> bool:
    """Whether two elements may share memory: a step must go past all that the smaller steps reach."""
    if a.flags.c_contiguous or a.size == 0:
        return False
    reach = a.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if step < reach:
            return True
        reach += (n - 1) * step
    return False


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same places."""
    if a is b:
        return True
    steps = ([s for n, s in zip(x.shape, x.strides, strict=True) if n > 1] for x in (a, b))
    return a.__array_interface__["data"][0] == b.__array_interface__["data"][0] and next(steps) == next(steps)


def shares_memory(a: Array, b: Any) -> bool:
    """Whether two arrays overlap; where that is too hard to find out, yes."""
    if not isinstance(b, np.ndarray) or not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=WORK))
    except np.exceptions.TooHardError:
        return True


def apart(updated: tuple[tuple[str, Any], ...], others: tuple[tuple[str, Any], ...], copy: str = "{}.copy()") -> None:
    """Raise if what is updated in place shares memory with anything else."""
    for k, (name, a) in enumerate(updated):
        if a is not None:
            for other_name, other in (*updated[k + 1 :], *others):
                if other is not None and np.may_share_memory(a, other) and shares_memory(a, other):
                    raise ValueError(
                        f"{name} must not share memory with {other_name}, for it is updated: got arrays that do; "
                        f"pass {copy.format(name)}"
                    )
