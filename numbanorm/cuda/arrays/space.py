"""Arrays of a call on a device, of any library: checked, made and copied, as `host` does for NumPy's.

Arrays are checked by the rules of `checks`, in its words. All of a call's arrays must be of x's library and on x's device:
so they are ordered by one stream, on which the kernels are launched, and the host waits for nothing. Arrays of Numba can each
name a stream; what is launched waits for those, and they for it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ...pairs import rescued
from ...spec import checks
from ...spec.call import NOTHING, Call, Known
from ...spec.dtypes import DTYPES
from ...spec.plan import Plan, Shape
from .described import DeviceArray, Kind, name_of, placed
from .libraries import NUMPY, not_contiguous

Named = tuple[tuple[str, Any], ...]


def apart(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether it is plain that two arrays share no memory."""
    if not (a.contiguous and b.contiguous):
        return False
    return a.address + a.nbytes <= b.address or b.address + b.nbytes <= a.address


class Device:
    """The arrays of one call; it remembers those that it has described, by name."""

    __slots__ = ("device", "kernels", "kind", "seen", "type")

    def __init__(self, kind: Kind, kernels: ModuleType) -> None:
        self.kind, self.kernels = kind, kernels
        self.device: int | None = None
        self.type: type | None = None
        self.seen: dict[str, DeviceArray] = {}

    def backend(self) -> ModuleType:
        return self.kernels

    def take(self, name: str, value: Any) -> DeviceArray:
        """Describe an argument; the first one says on which device all must be."""
        if self.kind is NUMPY:
            if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
                checks.plain(name, value)
            a = self.kind.describe(value)
        elif type(value) is not self.type and checks.device_library(value) != self.kind.library:
            raise TypeError(self._elsewhere(name, value))
        else:
            a = self.kind.describe(value)
            if self.device is None:  # what has x's type is of its library, and if it is not on a device, that device is not x's
                self.device, self.type = a.device, type(value)
            if a.device != self.device:
                raise TypeError(self._elsewhere(name, value, a.device))
            if not a.contiguous and not self.kind.strided:
                raise ValueError(not_contiguous(name, a))
            if a.address & 7 and a.address % a.itemsize:  # no element has more than 8 bytes
                raise ValueError(f"{name} must be aligned to its elements: got {a.dtype} at {a.address:#x}; "
                                 f"pass {self.kind.copy.format(name)}")  # fmt: skip
        self.seen[name] = a
        return a

    def _elsewhere(self, name: str, value: Any, device: int | None = None) -> str:
        library = checks.device_library(value)
        if library:
            found = f"{type(value).__name__} of {library}" + (f" on CUDA device {device}" if device is not None else "")
        elif isinstance(value, np.ndarray) or hasattr(value, "is_cuda"):
            found = f"{type(value).__name__} in host memory"
        else:
            found = type(value).__name__
        return (
            f"{name} must be where x is, an array of {self.kind.library} on CUDA device {self.device}: got {found}; "
            f"write {self.kind.move.format(name)}, or bring x to it"
        )

    def array(self, name: str, value: Any) -> DeviceArray:
        """An array of floating-point numbers."""
        if self.kind is NUMPY:
            value = checks.array(name, value)
        a = self.take(name, value)
        if name_of(a.dtype) not in DTYPES or not getattr(a.dtype, "isnative", True):
            raise TypeError(checks.not_float(name, a.dtype, self.kind.to_float.format(name)))
        return a

    def parameter(self, name: str, value: Any, shape: Shape) -> DeviceArray | None:
        if value is None:
            return None
        w = self.array(name, value)
        if len(w.shape) > len(shape):
            raise ValueError(f"{name} must have shape {shape} on a CUDA device, where all samples have the same: got "
                             f"{w.shape}; copy the arrays to the host, or multiply and add after the norm")  # fmt: skip
        checks.fits_parameter(name, w, shape)
        return w

    def running(self, name: str, value: Any, channels: int, update: bool) -> DeviceArray | None:
        if value is None:
            return None
        host = self.kind is NUMPY
        a = self.take(name, checks.running(name, value, channels, update)) if host else self.array(name, value)
        checks.fits_running(name, a, channels, update, a.readonly, self.kind.copy)
        return a

    def mask(self, value: Any, shape: tuple[int, ...]) -> None:
        """No mask: kernels for it are the CPU's alone."""
        if value is not None:
            raise ValueError(
                f"where must be None on a CUDA device, for masks are computed on the CPU alone: got a mask of type "
                f"{type(value).__name__}; copy the arrays to the host, or leave where out"
            )

    def counter(self, value: Any) -> DeviceArray | None:
        """num_batches_tracked; what it holds is known on the device alone."""
        if value is None:
            return None
        name = "num_batches_tracked"
        if self.kind is NUMPY:
            return self.take(name, checks.counter(value))
        a = self.take(name, value)
        if a.dtype.name != "int64" or a.size != 1:
            raise TypeError(f"{name} must be an int64 array of one element: got {a.dtype} of shape {a.shape}; make it int64")
        if a.readonly:
            raise ValueError(f"{name} must be writable, for training counts in it: got a read-only array; pass a copy")
        return a

    def like(self, name: str, value: Any, x: DeviceArray) -> DeviceArray:
        a = self.array(name, value)
        checks.fits_like(name, a, x, self.kind.cast)
        return a

    def stats(self, value: Any, shape: Shape, center: bool) -> tuple[DeviceArray | None, DeviceArray]:
        mean, rstd = checks.pair(value, center)
        return (self._statistic("mean", mean, shape) if center else None), self._statistic("rstd", rstd, shape)

    def _statistic(self, name: str, value: Any, shape: Shape) -> DeviceArray:
        if self.kind is NUMPY:
            value = checks.array(name, value).astype(np.float64, copy=False)
        a = self.array(name, value)
        checks.fits_statistic(name, a, shape)
        if name_of(a.dtype) != "float64":
            raise TypeError(f"{name} must hold float64: got {a.dtype}; pass the stats of the forward call as they came")
        return a

    def output(self, out: Any, x: DeviceArray, others: Named, may_be: tuple[str, ...] = ("x",)) -> None:
        if self.kind is NUMPY:
            checks.output(out, x.owner, tuple((n, v.owner if isinstance(v, DeviceArray) else v) for n, v in others), may_be)
        a = self.take("out", out)
        checks.fits_output(a, x, a.readonly, self.kind.make)
        if not all(value is None or apart(a, self.seen[name]) for name, value in others):
            checks.unshared(placed(a), self._placed(others), may_be, self.kind.make)
        elif not a.contiguous:
            checks.unshared(placed(a), (), may_be, self.kind.make)

    def _placed(self, named: Named) -> Named:
        return tuple((name, placed(self.seen[name])) for name, value in named if value is not None)

    def apart(self, updated: Named, others: Named) -> None:
        checks.apart(self._placed(updated), self._placed(others), self.kind.copy)

    def shares(self, a: Any, x: Any) -> bool:
        """Whether two arrays overlap, as the caller has them or described."""
        both = (v if isinstance(v, DeviceArray) else self.kind.describe(v) for v in (a, x))
        return checks.shares_memory(*map(placed, both))

    def contiguous(self, a: DeviceArray) -> DeviceArray:
        return self.kind.contiguous(a)

    def callers(self, x: DeviceArray) -> Any:
        return x.owner

    def transposed(self, x: DeviceArray, order: Shape) -> DeviceArray:
        return x if order == tuple(range(x.ndim)) else self.kind.transposed(x, order)

    def ready(self, *arrays: DeviceArray | None) -> tuple[DeviceArray | None, ...]:
        """Small arrays as kernels can take them."""
        return tuple([None if a is None else self.kind.contiguous(a) for a in arrays])

    def target(self, out: Any, *sources: DeviceArray) -> DeviceArray | None:
        """Memory for what goes to `out`: the source that it is, `out`, or None if kernels cannot write there."""
        a = self.seen["out"]
        if not a.contiguous:
            return None
        return next((source for source in sources if source.address == a.address and source.contiguous), a)

    def empty_like(self, x: DeviceArray) -> DeviceArray:
        return self.kind.empty_like(x)

    def written(self, out: Any, y: DeviceArray) -> Any:
        if out is None:
            return self.kind.result(y)
        if not self.seen["out"].contiguous:
            self.kind.assign(self.seen["out"], y)
        return out

    def full(self, shape: Shape, value: float, dtype: str = "float64") -> DeviceArray:
        return self.kind.full(shape, value, dtype, self.seen["x"])

    def row(self, stats: DeviceArray, k: int, shape: Shape) -> Any:
        return self.kind.row(stats, k, shape)

    def measure(self, call: Call, x: DeviceArray, where: None = None) -> tuple[Any, Any, Any, Any, None]:
        """(mean, its low part, m2, scale) for the caller, see `host.measure`, and None."""
        stats = self.kernels.measure(call, x)
        mean, low, m2, rstd = (self.row(stats, k, call.plan.stats_shape) for k in range(4))
        if name_of(x.dtype) != "float64" or not self.kind.arithmetic:
            return mean, low, m2, 1.0, None
        m2, scale = rescued(m2, rstd, call.plan.count)
        return mean, low / scale, m2, scale, None

    def try_forward(
        self, call: Call, x: DeviceArray, out: Any, weight: Any, bias: Any, eps: float, known: Known, with_stats: bool
    ) -> tuple[Any, Any] | None:
        """What most calls are: a new y, from x's own statistics, of arrays that kernels can take as they lie."""
        plan = call.plan
        if known is not NOTHING or out is not None or not x.contiguous or plan.size == 0:
            return None
        w = self.parameter("weight", weight, plan.weight_shape)
        b = self.parameter("bias", bias, plan.weight_shape)
        if not ((w is None or w.contiguous) and (b is None or b.contiguous)):
            return None
        y = self.kind.empty_like(x)
        stats = self.kernels.normalize(call, x, y, w, b, eps, known)
        return self.kind.result(y), stats

    def try_backward(self, call: Call, x: DeviceArray, dy: Any, stats: Any, weight: Any, out: Any) -> tuple[Any, ...] | None:
        """Likewise: a new dx, of arrays that kernels can take as they lie."""
        plan = call.plan
        if out is not None or not x.contiguous or plan.size == 0 or (weight is None and getattr(stats, "weighted", False)):
            return None
        dy_ = self.like("dy", dy, x)
        mean, rstd = self.stats(stats, plan.stats_shape, call.center)
        w = self.parameter("weight", weight, plan.weight_shape)
        if not (dy_.contiguous and rstd.contiguous and (mean is None or mean.contiguous) and (w is None or w.contiguous)):
            return None
        dx = self.kind.empty_like(x) if call.write else None
        grads = self.differentiate(call, x, dy_, dx, w, (mean, rstd))
        return (None if dx is None else self.kind.result(dx), *grads[: 2 if call.center else 1])

    def differentiate(
        self, call: Call, x: DeviceArray, dy: DeviceArray, dx: DeviceArray | None, weight: DeviceArray | None,
        stats: tuple[DeviceArray | None, DeviceArray], where: None = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        p, grads = call.plan, None
        shape = (2, *p.weight_shape)
        if call.affine:
            dtype = name_of((x if weight is None else weight).dtype)
            grads = self.kind.empty(shape, dtype, x) if p.size else self.full(shape, 0.0, dtype)
        if p.size:
            self.kernels.differentiate(call, x, dy, dx, weight, stats, grads)
        if grads is None:
            return None, None
        dweight, dbias = self.kind.halves(grads)
        return dweight if call.weight else None, dbias if call.bias else None

    def update(self, stats: DeviceArray, p: Plan, tracked: Any) -> None:
        targets = tracked.mean, tracked.var, tracked.counter
        copies = self.ready(*targets)
        self.kernels.update_running(stats, p.B, p.G, p.count - tracked.unbiased, *copies, tracked.shares)
        for target, updated in zip(targets, copies, strict=True):
            if target is not None and updated is not None and updated is not target:
                self.kind.assign(target, updated)
