"""Arrays on a CUDA device, whoever made them: an address and a shape for the kernels, and what their library does for us.

Nothing here imports a library of arrays that is not there already: who passes a tensor has imported torch. Nothing waits
for the device but what copies to and from the host, which only arrays of NumPy need.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]

DTYPES: dict[str, Any] = {name: np.dtype(name) for name in ("float16", "float32", "float64", "int64")}
TORCH_DTYPES: dict[Any, Any] = {}
STORAGE = {"bfloat16": np.dtype(np.uint16)}  # what NumPy and Numba have no type of their own for


class Named:
    """A dtype that NumPy does not have: bfloat16 without ml_dtypes, and what is refused."""

    __slots__ = ("itemsize", "name")

    def __init__(self, name: str, itemsize: int) -> None:
        self.name, self.itemsize = name, itemsize

    def __eq__(self, other: object) -> bool:
        return getattr(other, "name", None) == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name


def dtype_of(name: str, itemsize: int = 2) -> Any:
    """The dtype of this name: NumPy's if there is one now."""
    found = DTYPES.get(name)
    if found is None and name == "bfloat16" and "ml_dtypes" in sys.modules:
        found = DTYPES[name] = np.dtype(sys.modules["ml_dtypes"].bfloat16)
    return Named(name, itemsize) if found is None else found


@lru_cache(maxsize=64)
def name_of(dtype: Any) -> str:
    """A dtype's name, which NumPy makes anew each time it is asked for (2 us)."""
    return str(dtype.name)


def dtype_of_torch(dtype: Any, itemsize: int) -> Any:
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        found = dtype_of(str(dtype).removeprefix("torch."), itemsize)
        if isinstance(found, np.dtype):
            TORCH_DTYPES[dtype] = found
    return found


class DeviceArray:
    """What kernels need to know of an array.

    Attributes
    ----------
    address : int
        Of the first element; in the simulator, in host memory.
    shape : tuple of int
    dtype : np.dtype, or Named for bfloat16 without ml_dtypes
    strides : tuple of int, or None where contiguous
    contiguous : bool
        Whether kernels can take it as it lies: C order, on the device.
    readonly : bool
    device : int
        The ordinal.
    owner : the library's array, kept alive
    start : int, or None for all of the owner
        Where this part of the owner begins, in elements.
    kind : Kind
    memory : flat NumPy array, or None
        The same memory in the simulator.
    size, itemsize, nbytes : int
    """

    __slots__ = (
        *("address", "contiguous", "device", "dtype", "itemsize", "kind", "memory"),
        *("owner", "readonly", "shape", "start", "strides"),
    )

    def __init__(
        self, kind: Kind, owner: Any, address: int, shape: Shape, dtype: Any, strides: Shape | None = None,
        contiguous: bool = True, readonly: bool = False, device: int = 0, start: int | None = None, memory: Any = None,
    ) -> None:  # fmt: skip
        self.kind, self.owner, self.address, self.shape, self.dtype = kind, owner, address, shape, dtype
        self.strides, self.contiguous, self.readonly, self.device = strides, contiguous, readonly, device
        self.start, self.memory, self.itemsize = start, memory, dtype.itemsize

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.itemsize)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def part(self, offset: int, size: int, shape: Shape | None = None) -> DeviceArray:
        """`size` elements of a contiguous array from `offset` on."""
        if not self.contiguous or not 0 <= offset <= offset + size <= self.size:
            raise ValueError(f"a part must lie within a contiguous array: got {offset} + {size} of {self.size} elements")
        return DeviceArray(
            self.kind, self.owner, self.address + offset * self.itemsize, (size,) if shape is None else shape, self.dtype,
            readonly=self.readonly, device=self.device, start=(self.start or 0) + offset,
            memory=None if self.memory is None else self.memory[offset : offset + size],
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"DeviceArray({self.kind.library}, {self.shape}, {self.dtype}, {self.address:#x} on device {self.device})"


def c_order(shape: Shape, strides: Shape | None, itemsize: int) -> bool:
    """Whether strides are those of C order; where an axis has one element, or the array none, any are."""
    if strides is None or 0 in shape:
        return True
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and step != itemsize:
            return False
        itemsize *= n
    return True


def c_strides(shape: Shape, step: int) -> Shape:
    """Those of C order, where neighbours are `step` apart."""
    return tuple([prod(shape[k + 1 :]) * step for k in range(len(shape))])


class _Placed:
    def __init__(self, a: DeviceArray) -> None:
        self.__array_interface__ = {
            "shape": a.shape, "strides": a.strides, "data": (a.address, False), "typestr": f"|V{a.itemsize}", "version": 3,
        }  # fmt: skip


def placed(a: DeviceArray) -> Any:
    """A NumPy array of the same addresses, for NumPy's questions about overlap. Reading its elements is a crash."""
    return np.asarray(_Placed(a))


class Kind:
    """Whose arrays they are: how they are described, made and copied by their own library."""

    library = ""  # its name, as `checks.device_library` gives it
    strided = True  # whether it can copy from and to what is not C-contiguous
    make, copy, cast, to_float, move = "", "", "", "", ""  # what errors tell to write; {} is the name of an argument

    def describe(self, x: Any) -> DeviceArray:
        """An array of this library."""
        raise NotImplementedError

    def empty(self, shape: Shape, dtype: str, like: DeviceArray) -> DeviceArray:
        """A new one, C-contiguous, on the device of `like`."""
        raise NotImplementedError

    def empty_like(self, x: DeviceArray) -> DeviceArray:
        """A new one like x, C-contiguous."""
        return self.empty(x.shape, name_of(x.dtype), x)

    def full(self, shape: Shape, value: float, dtype: str, like: DeviceArray) -> DeviceArray:
        """The same, filled."""
        raise NotImplementedError

    def row(self, a: DeviceArray, k: int, shape: Shape) -> Any:
        """What the caller gets of row k of an array (rows, n)."""
        n = a.shape[1]
        return self.result(a.part(k * n, n, shape))

    def halves(self, a: DeviceArray) -> tuple[Any, Any]:
        """What the caller gets of the two parts of an array (2, ...)."""
        n = a.size // 2
        return self.result(a.part(0, n, a.shape[1:])), self.result(a.part(n, n, a.shape[1:]))

    def contiguous(self, a: DeviceArray) -> DeviceArray:
        """The array itself if kernels can take it as it lies, else a copy that they can."""
        raise NotImplementedError

    def transposed(self, a: DeviceArray, order: Shape) -> DeviceArray:
        """A view with its axes in this order."""
        return self.describe(a.owner.transpose(order))

    def assign(self, out: DeviceArray, y: DeviceArray) -> None:
        """Copy y into `out`, of the same shape."""
        raise NotImplementedError

    def stream(self, a: DeviceArray) -> int:
        """The handle of the stream on which the caller works."""
        raise NotImplementedError

    def result(self, a: DeviceArray) -> Any:
        """What the caller gets."""
        if a.start is None:
            return a.owner
        return a.owner.reshape(-1)[a.start : a.start + a.size].reshape(a.shape)


class Torch(Kind):
    library = "torch"
    make, copy, cast, to_float = "torch.empty_like(x)", "{}.clone()", "{}.to(x.dtype)", "{}.float()"
    move = "torch.as_tensor({}, device=x.device)"

    def describe(self, x: Any) -> DeviceArray:
        torch = sys.modules["torch"]
        if x.layout is not torch.strided:
            raise TypeError(f"tensors must be dense: got {x.layout}; write x.to_dense()")
        x = x.detach() if x.requires_grad else x
        negative = x.is_neg()  # of a conjugate's imaginary part: the sign is not in memory
        x = x.resolve_neg() if negative else x
        size, contiguous = x.element_size(), x.is_contiguous()
        strides = None if contiguous else tuple(step * size for step in x.stride())
        dtype = dtype_of_torch(x.dtype, size)  # arguments by place: names cost 0.2 us a call
        return DeviceArray(self, x, x.data_ptr(), tuple(x.shape), dtype, strides, contiguous, negative, x.get_device())

    def empty(self, shape: Shape, dtype: str, like: DeviceArray) -> DeviceArray:
        owner = like.owner.new_empty(shape, dtype=getattr(sys.modules["torch"], dtype))
        return DeviceArray(self, owner, owner.data_ptr(), shape, dtype_of(dtype), None, True, False, like.device)

    def empty_like(self, x: DeviceArray) -> DeviceArray:
        if not x.contiguous:
            return super().empty_like(x)
        owner = sys.modules["torch"].empty_like(x.owner)
        return DeviceArray(self, owner, owner.data_ptr(), x.shape, x.dtype, None, True, False, x.device)

    def row(self, a: DeviceArray, k: int, shape: Shape) -> Any:
        return a.owner.as_strided(shape, c_strides(shape, 1), k * a.shape[1])  # one operation, not three

    def halves(self, a: DeviceArray) -> tuple[Any, Any]:
        return a.owner.unbind()  # type: ignore[no-any-return]

    def full(self, shape: Shape, value: float, dtype: str, like: DeviceArray) -> DeviceArray:
        torch = sys.modules["torch"]
        return self.describe(torch.full(shape, value, dtype=getattr(torch, dtype), device=like.owner.device))

    def contiguous(self, a: DeviceArray) -> DeviceArray:
        return a if a.contiguous else self.describe(a.owner.contiguous())

    def transposed(self, a: DeviceArray, order: Shape) -> DeviceArray:
        return self.describe(a.owner.permute(order))

    def assign(self, out: DeviceArray, y: DeviceArray) -> None:
        out.owner.copy_(self.result(y))

    def result(self, a: DeviceArray) -> Any:
        if a.start is None:
            return a.owner
        return a.owner.as_strided(
            a.shape, c_strides(a.shape, 1), a.owner.storage_offset() + a.start
        )  # one operation, not three

    def stream(self, a: DeviceArray) -> int:
        return int(sys.modules["torch"].cuda.current_stream(a.device).cuda_stream)


class Cupy(Kind):
    library = "cupy"
    make, copy, cast, to_float = "cupy.empty_like(x)", "{}.copy()", "{}.astype(x.dtype)", "{}.astype(np.float32)"
    move = "cupy.asarray({})"

    def describe(self, x: Any) -> DeviceArray:
        contiguous = x.flags.c_contiguous
        return DeviceArray(
            self, x, x.data.ptr, x.shape, x.dtype, strides=None if contiguous else x.strides, contiguous=contiguous,
            device=x.data.device_id,
        )  # fmt: skip

    def empty(self, shape: Shape, dtype: str, like: DeviceArray) -> DeviceArray:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(like.device):
            return self.describe(cupy.empty(shape, dtype_of(dtype)))

    def full(self, shape: Shape, value: float, dtype: str, like: DeviceArray) -> DeviceArray:
        a = self.empty(shape, dtype, like)
        with sys.modules["cupy"].cuda.Device(a.device):
            a.owner.fill(value)
        return a

    def contiguous(self, a: DeviceArray) -> DeviceArray:
        if a.contiguous:
            return a
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(a.device):
            return self.describe(cupy.ascontiguousarray(a.owner))

    def assign(self, out: DeviceArray, y: DeviceArray) -> None:
        with sys.modules["cupy"].cuda.Device(out.device):
            out.owner[...] = self.result(y)

    def stream(self, a: DeviceArray) -> int:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(a.device):
            return int(cupy.cuda.get_current_stream().ptr)


class Numba(Kind):
    """Numba's device arrays, those of its simulator, and whatever else has a __cuda_array_interface__."""

    library, strided = "numba", False
    make, copy, move = "numba.cuda.device_array_like(x)", "a copy of {}", "numba.cuda.to_device({})"
    cast, to_float = "{} with the dtype of x", "{} as float32"

    def describe(self, x: Any) -> DeviceArray:
        simulated = getattr(x, "_ary", None)
        if isinstance(simulated, np.ndarray):
            return self._simulated(x, simulated)
        facts = x.__cuda_array_interface__
        if facts.get("mask") is not None:
            raise TypeError("arrays must not be masked: the mask would be lost; pass one without")
        address, readonly = facts["data"]
        dtype = x.dtype if isinstance(getattr(x, "dtype", None), np.dtype) else np.dtype(facts["typestr"])
        # Numba says of a broadcast array that it has no strides
        strides = x.strides if hasattr(x, "gpu_data") else facts.get("strides")
        shape = tuple(facts["shape"])
        contiguous = c_order(shape, strides, dtype.itemsize)
        return DeviceArray(
            self, x, address or 0, shape, dtype, strides=None if contiguous else tuple(strides), contiguous=contiguous,
            readonly=bool(readonly), device=ordinal(address or 0),
        )  # fmt: skip

    def _simulated(self, x: Any, a: Any) -> DeviceArray:
        contiguous = a.flags.c_contiguous
        return DeviceArray(
            self, x, a.__array_interface__["data"][0], tuple(a.shape), a.dtype, strides=None if contiguous else a.strides,
            contiguous=contiguous, readonly=not a.flags.writeable, memory=a.reshape(-1) if contiguous else None,
        )  # fmt: skip

    def empty(self, shape: Shape, dtype: str, like: DeviceArray) -> DeviceArray:
        from numba import cuda

        with on_device(like.device):
            return self.describe(cuda.device_array(shape, dtype_of(dtype)))

    def full(self, shape: Shape, value: float, dtype: str, like: DeviceArray) -> DeviceArray:
        from numba import cuda

        with on_device(like.device):
            return self.describe(cuda.to_device(np.full(shape, value, dtype_of(dtype))))

    def contiguous(self, a: DeviceArray) -> DeviceArray:
        if not a.contiguous:
            raise ValueError(not_contiguous("x", a))
        return a

    def transposed(self, a: DeviceArray, order: Shape) -> DeviceArray:
        raise ValueError(
            f"axes of a Numba device array cannot be moved to {order}: got shape {a.shape}; take the moments of a CuPy array, "
            f"cupy.asarray(x)"
        )

    def stream(self, a: DeviceArray) -> int:
        handle = getattr(a.owner, "stream", 0) if hasattr(a.owner, "gpu_data") else None
        if handle is None:
            handle = getattr(a.owner, "__cuda_array_interface__", {}).get("stream")
        return 0 if handle in (None, 0, 1) else int(handle)  # 1 is the interface's name of the default stream

    def result(self, a: DeviceArray) -> Any:
        if a.start is None:
            return a.owner
        if a.memory is not None:
            return type(a.owner)(a.memory.reshape(a.shape))
        if a.size == 0:
            return self.empty(a.shape, a.dtype.name, a).owner
        begin = a.start * a.itemsize
        steps = c_strides(a.shape, a.itemsize)
        data = a.owner.gpu_data.view(begin, begin + a.nbytes)
        return type(a.owner)(shape=a.shape, strides=steps, dtype=a.dtype, gpu_data=data)


class Numpy(Kind):
    """Arrays in host memory that backend="cuda" carries to the device and back. What is described is the host's memory,
    which is never contiguous in the sense of `DeviceArray`; what is made lies in flat arrays of Numba's.
    """

    library = "numpy"
    make, copy, cast, to_float = "np.empty_like(x)", "{}.copy()", "{}.astype(x.dtype)", "{}.astype(np.float32)"

    def describe(self, x: Any) -> DeviceArray:
        readonly = not x.flags.writeable
        return DeviceArray(self, x, x.ctypes.data, x.shape, x.dtype, strides=x.strides, contiguous=False, readonly=readonly)

    def _made(self, flat: Any, shape: Shape, dtype: Any) -> DeviceArray:
        a = NUMBA.describe(flat)
        memory = None if a.memory is None else a.memory.view(dtype)
        return DeviceArray(self, flat, a.address, shape, dtype, device=a.device, memory=memory)

    def empty(self, shape: Shape, dtype: str, like: DeviceArray) -> DeviceArray:
        from numba import cuda

        kind = dtype_of(dtype)
        return self._made(cuda.device_array(prod(shape), STORAGE.get(dtype, kind)), shape, kind)

    def full(self, shape: Shape, value: float, dtype: str, like: DeviceArray) -> DeviceArray:
        return self.contiguous(self.describe(np.full(shape, value, dtype_of(dtype))))

    def contiguous(self, a: DeviceArray) -> DeviceArray:
        if a.contiguous:
            return a
        from numba import cuda

        host = np.ascontiguousarray(a.owner, np.int64 if a.dtype.kind in "iu" else a.dtype.newbyteorder("=")).reshape(-1)
        return self._made(cuda.to_device(host.view(STORAGE.get(a.dtype.name, host.dtype))), a.shape, host.dtype)

    def assign(self, out: DeviceArray, y: DeviceArray) -> None:
        out.owner[...] = self.result(y)

    def stream(self, a: DeviceArray) -> int:
        return 0

    def result(self, a: DeviceArray) -> Any:
        if not a.contiguous:
            return a.owner
        start = a.start or 0
        flat = a.owner if a.size == a.owner.size else a.owner[start : start + a.size]
        return flat.copy_to_host().view(a.dtype).reshape(a.shape)


TORCH, CUPY, NUMBA, NUMPY = Torch(), Cupy(), Numba(), Numpy()
KINDS: dict[str, Kind] = {kind.library: kind for kind in (TORCH, CUPY, NUMBA)}


def not_contiguous(name: str, a: DeviceArray) -> str:
    return (
        f"{name} must be C-contiguous, for Numba does not copy strided device arrays: got shape {a.shape} with strides "
        f"{a.strides}; pass a contiguous one, or a CuPy array, cupy.asarray({name})"
    )


def ordinal(address: int) -> int:
    """The device in whose memory an address lies."""
    from numba import cuda
    from numba.cuda.cudadrv.driver import binding, driver

    here = cuda.current_context().device.id
    if not address:
        return int(here)
    attribute = binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.cuPointerGetAttribute(attribute, binding.CUdeviceptr(address)))


def on_device(device: int) -> Any:
    """A context manager: Numba allocates on this device."""
    from numba import cuda

    return cuda.gpus[device]
