"""Where the CUDA backend's kernels run under test: one file of tests for a PTX interpreter, Numba's simulator and a GPU.

Each is a *ring*: a library of arrays in its own memory, and a driver. New memory holds nan everywhere, so what a kernel reads
before anything was written there shows in the result.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from math import prod
from typing import Any

import cases
import ml_dtypes
import numpy as np
import pytest
from numba import config
from numpy.typing import NDArray

from numbanorm.spec.tree import gradient_family

Host = NDArray[Any]
CAPABILITY = (9, 0)  # what the interpreter pretends to be
WHEELS = ("numba_cuda", "cuda.core", "cuda.bindings.nvjitlink")
SIMULATED = bool(config.ENABLE_CUDASIM)


def missing() -> list[str]:
    """What kernels cannot be compiled without."""

    def there(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            return False

    return [name for name in WHEELS if not there(name)]


def reason_to_skip() -> str | None:
    if SIMULATED or not missing():
        return None
    return f"no compiler for CUDA: there is no {', '.join(missing())}; install numbanorm[cuda13], or set NUMBA_ENABLE_CUDASIM=1"


def chosen() -> str:
    """The ring of this process: a GPU where there is one."""
    if SIMULATED:
        return "simulator"
    if reason_to_skip():
        return "none"
    from numbanorm.cuda import driver

    return "interpreter" if driver.why_not() else "gpu"


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


# what most tests here ask of both backends: the other mode has tests of its own
AS_CUDA: dict[str, Any] = {"method": "two_pass", "exact": True}


def twin(case: cases.Case, dtype: Any, exact: bool) -> dict[str, Any]:
    """Options of the CPU's gradients that have the bits of CUDA's; nowhere else is it said which those are.

    By default they are float32. Those of the family of rows only if each element has a weight of its own, there are at most
    8192, and the statistics are x's own.
    """
    plan = case.its.planned(case.shape, case.told, case.channel_axis)
    exact_rows = gradient_family(plan) == "rows" and (plan.T > 1 or plan.K > 8192 or not case.training)
    return {"exact": exact or exact_rows or dtype == np.float64}


def call(case: cases.Case, a: Any, **options: Any) -> Any:
    """`cases.call`, of what both backends compute alike."""
    return cases.call(case, a, **{**options, **AS_CUDA, "method": options.get("method") or AS_CUDA["method"]})


def call_backward(case: cases.Case, a: Any, dy: Any, stats: Any, **options: Any) -> Any:
    """`cases.call_backward`, likewise."""
    return cases.call_backward(case, a, dy, stats, **{**options, "exact": True})


class Array:
    """An array of a ring: what the package knows as "whatever else has a __cuda_array_interface__"."""

    def __init__(
        self, ring: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any, readonly: bool = False
    ) -> None:
        self.ring, self.address, self.shape, self.dtype, self.owner = ring, address, shape, dtype, owner
        self.readonly, self.size = readonly, prod(shape)
        self.nbytes = self.size * dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, self.readonly), "version": 3}

    def host(self) -> Host:
        """A copy of what it holds."""
        return self.ring.read(self).view(self.dtype).reshape(self.shape)  # type: ignore[no-any-return]

    def write(self, a: Host) -> None:
        assert (a.shape, a.dtype) == (self.shape, self.dtype)
        self.ring.fill(self, np.ascontiguousarray(a).reshape(-1).view(np.uint8))


# --- what is compared ------------------------------------------------------------------------------------------------


def host(a: Any) -> Host:
    return a.host() if isinstance(a, Array) else a  # type: ignore[no-any-return]


def check_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Type, shape and every bit, but for which nan it is; None only where None is expected."""
    assert len(found) == len(expected)
    for k, (one, other) in enumerate(zip(found, expected, strict=True)):
        if other is None:
            assert one is None
            continue
        a, b = host(one), host(other)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        wide, wanted = a.astype(np.float64), b.astype(np.float64)
        same = (wide == wanted) & (np.signbit(wide) == np.signbit(wanted)) | (np.isnan(wide) & np.isnan(wanted))
        if not same.all():
            where = tuple(np.argwhere(~same)[0])
            values = f"{float(wide[where])!r} is not {float(wanted[where])!r}"
            raise AssertionError(f"array {k}: {(~same).sum()} of {a.size} differ, at {where} {values}")


def statistics(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `normalize` of each backend will have returned last: all four rows of the statistics."""
    import numbanorm.backends.host
    import numbanorm.cpu.backend
    import numbanorm.cuda.backend

    seen: dict[str, Any] = {}
    monkeypatch.setattr(numbanorm.backends.host, "try_forward", lambda *_: None)  # which keeps them to itself
    for name, module in (("cpu", numbanorm.cpu.backend), ("cuda", numbanorm.cuda.backend)):

        def noted(*arguments: Any, name: str = name, run: Any = module.normalize) -> Any:
            stats = run(*arguments)
            seen[name] = getattr(stats, "owner", stats)
            return stats

        monkeypatch.setattr(module, "normalize", noted)
    return seen


def kernels() -> list[Any]:
    """Every function of the backend that builds a kernel."""
    import numbanorm.cuda.backend

    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(numbanorm.cuda.__path__, "numbanorm.cuda.")
               if not m.name.endswith((".intrinsics", ".simulated"))]  # fmt: skip
    functions = [f for m in modules for f in vars(m).values() if inspect.isfunction(f) and f.__module__ == m.__name__]
    return [f for f in functions if any(getattr(c, "co_name", "") == "kernel" for c in f.__code__.co_consts)]


# --- the rings -------------------------------------------------------------------------------------------------------


def kind_of_rings() -> Any:
    """The base of the rings; made late, for the package's module may not be importable."""
    from numbanorm.cuda.arrays import described as arrays
    from numbanorm.cuda.arrays import libraries as kinds

    class Ring(kinds.Numba):
        """Arrays of a ring, as the package sees a library's."""

        def new(self, shape: tuple[int, ...], dtype: np.dtype[Any], shift: int = 0) -> Array:
            """An array of nan, its address `shift` elements past one that is aligned."""
            before = shift * dtype.itemsize
            address, owner = self.allocate(before + max(1, prod(shape)) * dtype.itemsize)
            return Array(self, address + before, tuple(shape), dtype, owner)

        def upload(self, a: Any, shift: int = 0, readonly: bool = False) -> Any:
            """A copy of an array of the host's, or None."""
            if a is None:
                return None
            made = self.new(a.shape, a.dtype, shift)
            made.write(a)
            made.readonly = readonly
            return made

        def describe(self, x: Array) -> Any:
            memory = self.memory(x)
            return arrays.DeviceArray(self, x, x.address, x.shape, x.dtype, readonly=x.readonly, memory=memory)

        def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
            return self.describe(self.new(shape, dtype_of(dtype)))

        def full(self, shape: tuple[int, ...], value: float, dtype: str, like: Any) -> Any:
            return self.describe(self.upload(np.full(shape, value, dtype_of(dtype))))

        def stream(self, a: Any) -> int:
            return 0

        def result(self, a: Any) -> Array:
            return a.owner if a.start is None else Array(self, a.address, a.shape, a.dtype, a.owner.owner)  # type: ignore[no-any-return]

        def memory(self, x: Array) -> Any:
            return None

        def reset(self) -> None:
            """Forget all arrays."""

    return Ring


def interpreter() -> tuple[Any, Any]:
    """(arrays, driver) of the PTX interpreter. Programs are kept: each is compiled once in a process."""
    from ptx import Memory, Program

    from numbanorm.cuda import compiler, driver

    class Interpreted(kind_of_rings()):  # type: ignore[misc]
        def reset(self) -> None:
            self.arena = Memory()

        def allocate(self, nbytes: int) -> tuple[int, Any]:
            return self.arena.allocate(nbytes), None

        def read(self, x: Array) -> Host:
            return self.arena.view(x.address, x.nbytes, np.uint8).copy()  # type: ignore[no-any-return]

        def fill(self, x: Array, values: Host) -> None:
            self.arena.view(x.address, x.nbytes, np.uint8)[...] = values

    kind = Interpreted()

    class Interpreter(driver.Hardware):
        def enter(self, device: int) -> None:
            """There is one device."""

        def ready(self, kernel: Any, kinds: tuple[str, ...], device: int) -> Any:
            if (kernel, kinds) not in self.kernels:
                text, _ = compiler.linked(compiler.intermediate(kernel, kinds, CAPABILITY), CAPABILITY, "ptx")
                self.kernels[kernel, kinds] = Program(text.decode().rstrip("\0"))
            return self.kernels[kernel, kinds]

        def launch(self, ready: Any, grid: int, block: int, stream: int, arguments: Any) -> None:
            ready.launch(kind.arena, (grid, 1, 1), block, arguments)

    return kind, Interpreter()


def simulator() -> tuple[Any, Any]:
    from numbanorm.cuda import driver

    class Simulated(kind_of_rings()):  # type: ignore[misc]
        def allocate(self, nbytes: int) -> tuple[int, Any]:
            room = np.full(nbytes + 256, 0xFF, np.uint8)
            start = -room.ctypes.data % 256
            return room.ctypes.data + start, room

        def at(self, x: Array) -> Host:
            start = x.address - x.owner.ctypes.data
            return x.owner[start : start + x.nbytes]  # type: ignore[no-any-return]

        def memory(self, x: Array) -> Host:
            return self.at(x).view(x.dtype)

        def read(self, x: Array) -> Host:
            return self.at(x).copy()

        def fill(self, x: Array, values: Host) -> None:
            self.at(x)[...] = values

    return Simulated(), driver.Simulator()


def gpu() -> tuple[Any, Any]:
    from numba import cuda

    from numbanorm.cuda import driver

    class OnDevice(kind_of_rings()):  # type: ignore[misc]
        def allocate(self, nbytes: int) -> tuple[int, Any]:
            room = cuda.to_device(np.full(nbytes, 0xFF, np.uint8))
            return int(room.__cuda_array_interface__["data"][0]), room

        def at(self, x: Array) -> Any:
            start = x.address - x.owner.__cuda_array_interface__["data"][0]
            return x.owner[start : start + x.nbytes]

        def read(self, x: Array) -> Host:
            return self.at(x).copy_to_host() if x.nbytes else np.empty(0, np.uint8)

        def fill(self, x: Array, values: Host) -> None:
            if x.nbytes:
                self.at(x).copy_to_device(values)

    return OnDevice(), driver.Hardware()


class Noting:
    """A driver that remembers which kernels it launched, and that they can be launched so."""

    def __init__(self, driver: Any) -> None:
        self.driver, self.launched = driver, set[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    def ready(self, kernel: Any, kinds: tuple[str, ...], device: int) -> Any:
        return kernel, self.driver.ready(kernel, kinds, device)

    def launch(self, ready: Any, grid: int, block: int, stream: int, arguments: Any) -> None:
        kernel, code = ready
        assert block <= kernel.threads, f"{kernel.name} was compiled for {kernel.threads} threads: got {block}"
        self.launched.add(kernel)
        self.driver.launch(code, grid, block, stream, arguments)


MADE: dict[str, tuple[Any, Any]] = {}  # ring -> its arrays and its driver, which keeps what it compiled


class Ring:
    """What a test has: arrays, and the kernels that were launched."""

    def __init__(self, name: str, arrays: Any, driver: Any) -> None:
        self.name, self.arrays, self.driver = name, arrays, Noting(driver)
        self.new, self.upload = arrays.new, arrays.upload

    def arguments(self, a: Any, shift: int = 0, readonly: bool = False) -> Any:
        """`cases.Arguments` on the ring."""
        return type(a)(*[self.upload(getattr(a, f.name), shift, readonly) for f in fields(a)])

    @contextlib.contextmanager
    def launches(self) -> Iterator[set[Any]]:
        """The kernels that are launched within."""
        before, within = self.driver.launched, set[Any]()
        self.driver.launched = within
        try:
            yield within
        finally:
            self.driver.launched = before | within

    def stats(self, stats: Any) -> Any:
        """A forward call's `Stats` of NumPy arrays on the ring."""
        on_ring = type(stats)(*map(self.upload, stats))
        on_ring.weighted = stats.weighted
        return on_ring


@contextlib.contextmanager
def installed(made: tuple[Any, Any] | None = None) -> Iterator[Ring]:
    """From now on the public functions take arrays of the ring, of the process's own or one of these arrays and driver."""
    from numbanorm.backends import dispatch
    from numbanorm.cuda import backend, driver
    from numbanorm.cuda.arrays import libraries as kinds

    name = "given" if made else chosen()
    if made is None and name not in MADE:
        MADE[name] = {"interpreter": interpreter, "simulator": simulator, "gpu": gpu}[name]()
    ring = Ring(name, *(made or MADE[name]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "DRIVER", ring.driver)
        patch.setattr(dispatch, "cuda_backend", lambda compute: backend)
        patch.setitem(kinds.KINDS, "numba", ring.arrays)
        if name == "interpreter":
            import numba.cuda.dispatcher as dispatcher

            device = type("Device", (), {"compute_capability": CAPABILITY})
            patch.setattr(dispatcher, "get_current_device", lambda: device)
        forget()
        yield ring
    forget()


def forget() -> None:
    """Schedules hold the kernels that a driver made ready, and depend on its blocks; dispatch holds kinds of arrays."""
    from numbanorm.backends import dispatch
    from numbanorm.cuda.schedule import plans as schedule

    for made in (*vars(schedule).values(), dispatch._device):
        if hasattr(made, "cache_clear"):
            made.cache_clear()
