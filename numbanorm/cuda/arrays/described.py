"""Arrays on a CUDA device, whoever made them: an address and a shape for the kernels, and what we ask of their library."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ...spec.dtypes import NATIVE
from ...spec.plan import Shape

DTYPES: dict[str, Any] = {name: np.dtype(name) for name in (*NATIVE, "int64")}


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


@dataclass(slots=True, eq=False)
class DeviceArray:
    """Address, shape, strides and dtype of an array on a device.

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
    stream : int, or None where nobody need wait
        The handle of the stream that writes it, where arrays say so themselves; 0 is the default stream.
    size, itemsize, nbytes : int
    """

    kind: Kind
    owner: Any
    address: int
    shape: Shape
    dtype: Any
    strides: Shape | None = None
    contiguous: bool = True
    readonly: bool = False
    device: int = 0
    start: int | None = None
    memory: Any = None
    stream: int | None = None

    @property
    def itemsize(self) -> int:
        return int(self.dtype.itemsize)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

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
            memory=None if self.memory is None else self.memory[offset : offset + size], stream=self.stream,
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
    """An array library: how its arrays are described, made and copied."""

    library = ""  # its name, as `checks.device_library` gives it
    strided = True  # whether it can copy from and to what is not C-contiguous
    arithmetic = True  # whether its arrays have it
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
        """Row k of an array (rows, n), for the caller."""
        n = a.shape[1]
        return self.result(a.part(k * n, n, shape))

    def halves(self, a: DeviceArray) -> tuple[Any, Any]:
        """The two parts of an array (2, ...), for the caller."""
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

    def beside(self, stream: int, arrays: Iterable[DeviceArray | None]) -> Iterable[int]:
        """The other streams that arrays name; none where a library has one for all that its caller does."""
        return ()

    def result(self, a: DeviceArray) -> Any:
        """The caller's kind of array."""
        if a.start is None:
            return a.owner
        return a.owner.reshape(-1)[a.start : a.start + a.size].reshape(a.shape)
