"""The four libraries of arrays, and how each describes, makes and copies them.

Nothing here imports a library that is not there already: who passes a tensor has imported torch. Nothing waits for the
device but what copies to and from the host, which only arrays of NumPy need.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from ...spec.plan import Shape
from .described import DeviceArray, Kind, c_order, c_strides, dtype_of

TORCH_DTYPES: dict[Any, Any] = {}
STORAGE = {"bfloat16": np.dtype(np.uint16)}  # what NumPy and Numba have no type of their own for


def dtype_of_torch(dtype: Any, itemsize: int) -> Any:
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        found = dtype_of(str(dtype).removeprefix("torch."), itemsize)
        if isinstance(found, np.dtype):
            TORCH_DTYPES[dtype] = found
    return found


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

    library, strided, arithmetic = "numba", False, False
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
            readonly=bool(readonly), device=ordinal(address or 0), stream=handle_of(facts.get("stream")),
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
            return self.describe(cuda.device_array(shape, dtype_of(dtype), stream=stream_of(like)))

    def full(self, shape: Shape, value: float, dtype: str, like: DeviceArray) -> DeviceArray:
        from numba import cuda

        with on_device(like.device):
            return self.describe(cuda.to_device(np.full(shape, value, dtype_of(dtype)), stream=stream_of(like)))

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
        return a.stream or 0

    def beside(self, stream: int, arrays: Iterable[DeviceArray | None]) -> Iterable[int]:
        return {a.stream for a in arrays if a is not None and a.stream is not None} - {stream}

    def result(self, a: DeviceArray) -> Any:
        if a.start is None:
            return a.owner
        if a.memory is not None:
            return type(a.owner)(a.memory.reshape(a.shape), a.owner.stream)
        if a.size == 0:
            return self.empty(a.shape, a.dtype.name, a).owner
        begin = a.start * a.itemsize
        steps = c_strides(a.shape, a.itemsize)
        data = a.owner.gpu_data.view(begin, begin + a.nbytes)
        return type(a.owner)(shape=a.shape, strides=steps, dtype=a.dtype, gpu_data=data, stream=a.owner.stream)


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


def handle_of(said: Any) -> int | None:
    """The handle of the stream that an interface names: None where nobody need wait, 1 is its name of the default one."""
    return None if said is None else 0 if said == 1 else int(said)


def stream_of(a: DeviceArray) -> Any:
    """The stream of an array as Numba's arrays keep it: what is computed on it says so to the next reader."""
    if a.memory is not None or hasattr(a.owner, "gpu_data"):
        return a.owner.stream
    if a.stream is None:
        return 0
    from numba import cuda

    return cuda.external_stream(a.stream or 1)


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
