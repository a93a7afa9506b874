"""Arrays and a backend of a pretended CUDA device, whose memory is the host's: enough of torch, CuPy and Numba for a call.

What the pretended kernels compute, the CPU backend computes; so all that is not a kernel can be compared to the bit.
"""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

import numbanorm
from numbanorm.backends import dispatch, host
from numbanorm.spec.dtypes import DTYPES

if find_spec("numba_cuda") is None:  # the package imports it; what is tested with these arrays does not
    package = sys.modules["numbanorm.cuda"] = ModuleType("numbanorm.cuda")
    package.__path__ = [str(Path(numbanorm.__file__).parent / "cuda")]
    numbanorm.cuda = package
    package.backend = sys.modules["numbanorm.cuda.backend"] = ModuleType("numbanorm.cuda.backend")

from numbanorm.cuda.arrays.described import DeviceArray
from numbanorm.spec.call import Call, Known

Array = NDArray[Any]
CALLS: list[str] = []  # what the kinds were asked to do beside describing and making arrays


class Arithmetic(NDArrayOperatorsMixin):
    """Operators, among arrays of one library and numbers."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return self.view(np.asarray(getattr(ufunc, method)(*map(self.values, inputs), **options)))

    def values(self, a: Any) -> Any:
        assert type(a) is type(self) or isinstance(a, (int, float)), "libraries refuse each other's arrays"
        return a.a if type(a) is type(self) else a


class Tensor(Arithmetic):
    """torch.Tensor on CUDA device `device`, or on the CPU with None."""

    __module__ = "torch"
    layout = "strided"

    def __init__(self, a: Array, device: int | None = 0, requires_grad: bool = False, negative: bool = False) -> None:
        self.a, self.ordinal, self.requires_grad, self.negative = a, device, requires_grad, negative
        self.is_cuda, self.device = device is not None, f"cuda:{device}"

    @property
    def __cuda_array_interface__(self) -> Any:
        raise RuntimeError("torch raises here for tensors that require a gradient; data_ptr is to be asked")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a.shape

    @property
    def ndim(self) -> int:
        return self.a.ndim

    @property
    def dtype(self) -> str:
        return f"torch.{self.a.dtype.name}"

    def view(self, a: Array) -> Tensor:
        return Tensor(a, self.ordinal)

    def detach(self) -> Tensor:
        return self.view(self.a)

    def is_neg(self) -> bool:
        return self.negative

    def resolve_neg(self) -> Tensor:
        return self.view(-self.a)

    def element_size(self) -> int:
        return self.a.itemsize

    def is_contiguous(self) -> bool:
        return self.a.flags.c_contiguous

    def data_ptr(self) -> int:
        return int(self.a.ctypes.data)

    def stride(self) -> tuple[int, ...]:
        return tuple(s // self.a.itemsize for s in self.a.strides)

    def get_device(self) -> int:
        return -1 if self.ordinal is None else self.ordinal

    def contiguous(self) -> Tensor:
        CALLS.append("contiguous")
        return self.view(np.ascontiguousarray(self.a))

    def permute(self, order: Any) -> Tensor:
        return self.view(self.a.transpose(order))

    def reshape(self, shape: Any) -> Tensor:
        return self.view(self.a.reshape(shape))

    def __getitem__(self, key: Any) -> Tensor:
        return self.view(self.a[key])

    def storage_offset(self) -> int:
        return 0

    def as_strided(self, shape: Any, strides: Any, offset: int) -> Tensor:
        steps = tuple(s * self.a.itemsize for s in strides)
        return self.view(np.lib.stride_tricks.as_strided(self.a.reshape(-1)[offset:], shape, steps))

    def new_empty(self, shape: Any, dtype: str) -> Tensor:
        return Tensor(made(shape, numpy_dtype(dtype)), self.ordinal)

    def unbind(self) -> tuple[Tensor, ...]:
        return tuple(self.view(a) for a in self.a)

    def clone(self) -> Tensor:
        return self.view(self.a.copy())

    def copy_(self, other: Tensor) -> None:
        assert not self.requires_grad, "torch refuses to write to a leaf that requires a gradient"
        assert isinstance(other, Tensor)
        CALLS.append("copy_")
        self.a[...] = other.a


def made(shape: Any, dtype: Any, value: Any = np.nan) -> Array:
    """nan where nothing was written."""
    return np.full(shape, value, dtype)


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def torch() -> Any:
    def empty(shape: Any, dtype: str, device: str) -> Tensor:
        return Tensor(made(shape, numpy_dtype(dtype)), int(device.removeprefix("cuda:")))

    def empty_like(x: Tensor) -> Tensor:
        return Tensor(made(x.a.shape, x.a.dtype), x.ordinal)

    def full(shape: Any, value: float, dtype: str, device: str) -> Tensor:
        return Tensor(made(shape, numpy_dtype(dtype), value), int(device.removeprefix("cuda:")))

    def current_stream(device: int) -> Any:
        return SimpleNamespace(cuda_stream=1000 + device)

    def of_tensors(function: Any) -> Any:
        """The first argument must be a tensor."""
        return lambda first, *rest: first.view(np.asarray(function(*map(first.values, (first, *rest)))))

    names = {name: name for name in (*DTYPES, "int64")}
    return SimpleNamespace(
        Tensor=Tensor,
        strided="strided",
        empty=empty,
        empty_like=empty_like,
        full=full,
        **{f.__name__: of_tensors(f) for f in (np.where, np.maximum, np.isfinite, np.ones_like)},
        cuda=SimpleNamespace(current_stream=current_stream),
        **names,
    )


class CupyArray(Arithmetic):
    """cupy.ndarray, to which NumPy's functions leave what they are asked."""

    __module__ = "cupy"

    def __init__(self, a: Array, device: int = 0) -> None:
        self.a, self.shape, self.strides, self.dtype, self.ndim = a, a.shape, a.strides, a.dtype, a.ndim
        self.flags = SimpleNamespace(c_contiguous=a.flags.c_contiguous)
        self.data = SimpleNamespace(ptr=a.ctypes.data, device_id=device)

    def __array_function__(self, function: Any, _: Any, args: Any, options: Any) -> Any:
        result = function(*map(self.values, args), **options)
        return self.view(result) if isinstance(result, np.ndarray) else result

    def view(self, a: Array) -> CupyArray:
        return CupyArray(a, self.data.device_id)

    def transpose(self, order: Any) -> CupyArray:
        return self.view(self.a.transpose(order))

    def reshape(self, shape: Any) -> CupyArray:
        return self.view(self.a.reshape(shape))

    def __getitem__(self, key: Any) -> CupyArray:
        return self.view(self.a[key])

    def __setitem__(self, key: Any, value: CupyArray) -> None:
        assert isinstance(value, CupyArray)
        CALLS.append("setitem")
        self.a[key] = value.a

    def fill(self, value: float) -> None:
        self.a.fill(value)

    def copy(self) -> CupyArray:
        return self.view(self.a.copy())


def cupy() -> Any:
    current = [0]

    @contextlib.contextmanager
    def device(ordinal: int) -> Any:
        before, current[0] = current[0], ordinal
        yield
        current[0] = before

    def ascontiguousarray(x: CupyArray) -> CupyArray:
        CALLS.append("contiguous")
        assert current[0] == x.data.device_id
        return x.view(np.ascontiguousarray(x.a))

    return SimpleNamespace(
        ndarray=CupyArray, empty=lambda shape, dtype: CupyArray(made(shape, dtype), current[0]),
        ascontiguousarray=ascontiguousarray,
        cuda=SimpleNamespace(Device=device, get_current_stream=lambda: SimpleNamespace(ptr=2000 + current[0])),
    )  # fmt: skip


class Simulated:
    """The device array of Numba's simulator."""

    __cuda_ndarray__ = True

    def __init__(self, a: Array, stream: Any = 0) -> None:
        self._ary, self.stream = a, stream

    @property
    def size(self) -> int:
        return self._ary.size

    def __getitem__(self, key: Any) -> Simulated:
        return Simulated(self._ary[key])

    def copy_to_host(self) -> Array:
        return self._ary.copy()


def numba_cuda() -> Any:
    def to_device(a: Array, stream: Any = 0) -> Simulated:
        CALLS.append("to_device")
        return Simulated(a.copy(), stream)

    def device_array(shape: Any, dtype: Any, stream: Any = 0) -> Simulated:
        return Simulated(made(shape, dtype, 0 if np.dtype(dtype).kind in "iu" else np.nan), stream)

    one = contextlib.nullcontext()
    return SimpleNamespace(device_array=device_array, to_device=to_device, gpus=[one, one], external_stream=Stream)


class Stream:
    """A stream of Numba's."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __int__(self) -> int:
        return self.handle


class Bytes:
    """Device memory, as Numba keeps it."""

    def __init__(self, a: Array) -> None:
        self.a = a

    def view(self, begin: int, end: int) -> Bytes:
        return Bytes(self.a[begin:end])


class NumbaArray:
    """The device array of Numba on a GPU: C-contiguous, and it names its stream."""

    __cuda_ndarray__ = True

    def __init__(self, shape: Any, strides: Any, dtype: Any, stream: Any = 0, gpu_data: Any = None) -> None:
        self.shape, self.strides, self.dtype, self.stream = tuple(shape), strides, np.dtype(dtype), stream
        self.size = int(np.prod(self.shape))
        self.gpu_data = Bytes(np.full(self.size * self.dtype.itemsize, 255, np.uint8)) if gpu_data is None else gpu_data

    @property
    def a(self) -> Array:
        return self.gpu_data.a.view(self.dtype).reshape(self.shape)  # type: ignore[no-any-return]

    @property
    def __cuda_array_interface__(self) -> Any:
        return {
            "shape": self.shape, "strides": None, "data": (self.gpu_data.a.ctypes.data, False), "typestr": self.dtype.str,
            "stream": int(self.stream) if self.stream != 0 else None, "version": 3,
        }  # fmt: skip

    @staticmethod
    def of(a: Array, stream: Any = 0) -> NumbaArray:
        return NumbaArray(a.shape, a.strides, a.dtype, stream, Bytes(a.reshape(-1).view(np.uint8).copy()))

    @staticmethod
    def made(shape: Any, dtype: Any, stream: Any = 0) -> NumbaArray:
        return NumbaArray((shape,) if isinstance(shape, int) else shape, None, dtype, stream)


class Foreign:
    """Any object with a __cuda_array_interface__."""

    def __init__(self, a: Array, **facts: Any) -> None:
        self.a = a
        self.__cuda_array_interface__ = {
            "shape": a.shape, "typestr": a.dtype.str, "data": (a.ctypes.data, not a.flags.writeable), "version": 3,
            "strides": None if a.flags.c_contiguous else a.strides,
        } | facts  # fmt: skip


class _Memory:
    def __init__(self, address: int, nbytes: int) -> None:
        self.__array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "data": (address, False), "version": 3}


def memory(a: DeviceArray | None) -> Array | None:
    """What the pretended device holds there."""
    if a is None:
        return None
    assert a.contiguous, "kernels take contiguous arrays only"
    dtype = numpy_dtype(a.dtype.name)
    if a.size == 0:
        return np.empty(a.shape, dtype)
    return np.asarray(_Memory(a.address, a.nbytes)).view(dtype).reshape(a.shape)


def wide(a: DeviceArray | None) -> Array | None:
    values = memory(a)
    return None if values is None else values.astype(np.float64).reshape(-1)


def whole(x: DeviceArray, *others: DeviceArray | None) -> None:
    """All of one kind, on one device."""
    assert all(a.kind is x.kind and a.device == x.device for a in others if a is not None)


def kept(x: DeviceArray, values: Array) -> DeviceArray:
    """Statistics, made by the library of x."""
    assert x.kind.stream(x) >= 0
    a = x.kind.empty(values.shape, "float64", x)
    memory(a)[...] = values  # type: ignore[index]
    return a


def normalize(call: Call, x: Any, y: Any, w: Any, b: Any, eps: Any, known: Known) -> DeviceArray:
    whole(x, y, w, b, *known[:2])
    x_ = memory(x)
    y_ = x_ if y is x else memory(y)
    assert y is x or x.size == 0 or not np.shares_memory(x_, y_), "in place is when y is x"
    assert call.in_place is (y is x)
    given = (wide(known[0]), wide(known[1]), None, None)
    return kept(x, host.backend().normalize(call, x_, y_, wide(w), wide(b), eps, given))


def measure(call: Call, x: Any) -> DeviceArray:
    return kept(x, host.backend().measure(call, memory(x)))


def differentiate(call: Call, x: Any, dy: Any, dx: Any, w: Any, stats: Any, grads: Any) -> None:
    whole(x, dy, dx, w, *stats, grads)
    x_, dy_ = memory(x), memory(dy)
    dx_ = x_ if dx is x else dy_ if dx is dy else memory(dx)
    assert (grads is None) is (not call.affine)
    assert call.in_place is (dx is not None and (dx is x or dx is dy))
    mean, rstd = stats
    host.backend().differentiate(call, x_, dy_, dx_, wide(w), (wide(mean), wide(rstd)), memory(grads))


def update_running(stats: Any, samples: Any, channels: Any, n: Any, mean: Any, var: Any, counter: Any, shares: Any) -> None:
    whole(stats, mean, var, counter)
    assert stats.shape == (4, samples * channels)
    assert counter is None or counter.dtype.name == "int64"
    tracked = SimpleNamespace(mean=memory(mean), var=memory(var), counter=memory(counter), shares=shares, unbiased=False)
    host.update(memory(stats), SimpleNamespace(B=samples, count=n), tracked)  # type: ignore[arg-type]


def describe(call: Call, x: Any) -> str:
    return f"cuda{' backward' * call.backward}, {x.kind.library}, aligned {x.address % 16 == 0 or not x.contiguous}"


BACKEND = SimpleNamespace(
    normalize=normalize, measure=measure, differentiate=differentiate, update_running=update_running, describe=describe
)
ONTO = {"torch": Tensor, "cupy": CupyArray, "numba": Simulated, "numpy": lambda a: a}


def back(a: Any) -> Array:
    """The values of any of these arrays."""
    return a if isinstance(a, np.ndarray) else a._ary if isinstance(a, Simulated) else a.a  # type: ignore[no-any-return]


def on_numba_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `install`: Numba has a GPU, where it had its simulator."""
    monkeypatch.setattr(numba.cuda, "device_array", NumbaArray.made)
    monkeypatch.setattr(numba.cuda, "to_device", NumbaArray.of)
    monkeypatch.setattr("numbanorm.cuda.arrays.libraries.ordinal", lambda address: 0)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on there are torch, CuPy, Numba's CUDA and a GPU."""
    monkeypatch.setitem(sys.modules, "torch", torch())
    monkeypatch.setitem(sys.modules, "cupy", cupy())
    monkeypatch.setattr(numba, "cuda", numba_cuda(), raising=False)
    monkeypatch.setattr(dispatch, "cuda_backend", lambda compute: BACKEND)
    CALLS.clear()
