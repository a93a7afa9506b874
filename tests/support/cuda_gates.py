"""Which CUDA kernels are compiled where there is no GPU, and what the linker makes of each; shared by the tests of both."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
import sass
from sass import Code

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'numbanorm[cuda13]'")
link = pytest.importorskip("cuda.bindings.nvjitlink", reason="nvJitLink is not installed: pip install 'numbanorm[cuda13]'")

import numba  # noqa: E402

if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator makes no machine code", allow_module_level=True)

importlib.import_module("numbanorm.cuda")  # first, for it imports numba.cuda as it must be where NumPy is newer

from launches import Asked  # noqa: E402
from numba import cuda  # noqa: E402
from numba.cuda import dispatcher  # noqa: E402

from numbanorm.cuda import compiler  # noqa: E402
from numbanorm.cuda.arith import intrinsics  # noqa: E402
from numbanorm.cuda.arith.arithmetic import PAIRS, Arithmetic, arithmetic_of  # noqa: E402
from numbanorm.cuda.compiler import Kernel  # noqa: E402
from numbanorm.cuda.schedule import plans as schedule  # noqa: E402
from numbanorm.cuda.schedule.steps import Schedule  # noqa: E402
from numbanorm.spec import plan  # noqa: E402
from numbanorm.spec.plan import Plan  # noqa: E402

Capability = tuple[int, int]
Key = tuple[Kernel, tuple[str, ...], Capability]

TOOL = sass.disassembler()

# --- which kernels ---------------------------------------------------------------------------------------------------

#: one of each family, and of each way that its lengths can be (odd ones allow no 16-byte access)
PLANS = {
    "rows": plan.trailing((4096, 1024), (1024,)),
    "odd rows": plan.trailing((4096, 1023), (1023,)),
    "rows of 4096": plan.trailing((8192, 4096), (4096,)),
    "rows of 8192": plan.trailing((8192, 8192), (8192,)),
    "rows of 768": plan.trailing((8192, 768), (768,)),
    "rows of 5001": plan.trailing((8192, 5001), (5001,)),
    "long rows": plan.trailing((2, 200_000), (200_000,)),
    "runs": plan.batch((32, 64, 28, 28), 1),
    "odd runs": plan.batch((32, 3, 27, 29), 1),
    "columns": plan.batch((50_000, 64), 1),
    "odd columns": plan.batch((50_001, 63), 1),
    "groups": plan.group((32, 64, 28, 28), 8, 1),
    "short groups": plan.group((512, 64, 3), 8, 1),
}


def forward(
    p: Plan,
    x: str,
    center: bool = True,
    given: bool = False,
    one_read: bool = False,
    in_place: bool = False,
    fast: bool = False,
) -> Schedule:
    """The schedule of a forward call; a norm without center has a weight and no bias."""
    bias, stat = x if center else None, "float64" if given else None
    types = {"x": x, "y": x, "w": x, "b": bias, "mean": stat, "var": stat}
    return Asked(types, center, given, True, one_read, in_place, fast=fast).schedule(p)


def backward(
    p: Plan, x: str, center: bool = True, given: bool = False, parameters: bool = True, exact: bool = True
) -> Schedule:
    mean = "float64" if center else None
    types = {"x": x, "dy": x, "dx": x, "w": x, "mean": mean, "rstd": "float64", "grads": x}
    return Asked(types, center, given, True, parameters=parameters, fast=not exact).schedule(p)


CALLS: dict[str, Callable[[Plan, str], Schedule]] = {
    "forward": forward,
    "fast": lambda p, x: forward(p, x, fast=True),
    "fast rms": lambda p, x: forward(p, x, center=False, fast=True),
    "fast given": lambda p, x: forward(p, x, given=True, fast=True),
    "welford": lambda p, x: forward(p, x, one_read=True),
    "in place": lambda p, x: forward(p, x, in_place=True),
    "backward": backward,
    "dx": lambda p, x: backward(p, x, parameters=False),
    "near": lambda p, x: backward(p, x, exact=False),
    "near dx": lambda p, x: backward(p, x, parameters=False, exact=False),
    "near rms": lambda p, x: backward(p, x, center=False, exact=False),
    "rms": lambda p, x: forward(p, x, center=False),
    "rms backward": lambda p, x: backward(p, x, center=False),
    "given": lambda p, x: forward(p, x, given=True),
    "given backward": lambda p, x: backward(p, x, given=True),
}

BOTH = ("forward", "backward")
WIDE = ("rows", "runs", "columns")
WALKED = ("rows of 4096", "rows of 8192", "rows of 768", "rows of 5001")
ALL = tuple(name for name in PLANS if name not in WALKED)
#: for sm_90 float32 in its default mode, and of the rest what differs: narrow kernels where few are like them, exact ones wide,
#: loads and stores of half types, the pairs of float64
SELECTED: dict[Capability, list[tuple[str, Iterable[str], tuple[str, ...]]]] = {
    (9, 0): [
        ("float32", ALL, ("fast", "forward", "backward")),
        ("float32", ("rows", "columns", "odd columns"), ("welford",)),
        ("float32", ("rows", "odd rows"), ("dx", "near")),
        ("float32", ("rows", "long rows"), ("fast rms", "rms")),
        ("float32", ("runs", "odd columns"), ("fast given",)),
        ("float32", ("runs", "columns"), ("given backward",)),
        ("float32", ("rows",), ("near dx", "near rms", "rms backward")),
        ("float32", ("runs",), ("given",)),
        *((x, ("runs", "columns"), ("near",)) for x in ("float32", "bfloat16")),
        ("float32", ("odd runs", "odd columns"), ("near",)),
        *((x, WALKED, ("near",)) for x in ("float32", "bfloat16")),
        ("bfloat16", ("rows", "long rows", "columns", "odd columns"), ("fast",)),
        ("bfloat16", ("rows", "columns"), BOTH),
        ("bfloat16", WALKED[:1], ("backward",)),
        ("float16", WALKED[:1], ("near",)),
        ("float16", ("rows",), ("fast", "welford")),
        ("float64", (*WIDE, "odd rows"), BOTH),
        ("float64", ("rows", "columns"), ("welford",)),
        ("float64", ("rows",), ("in place",)),
    ],
    (8, 0): [
        ("float32", ("rows",), ("fast", "near")),
        ("float32", ("columns",), ("fast",)),
        ("float64", ("rows",), ("forward",)),
    ],
}


def selected() -> Iterator[Key]:
    for capability, wanted in SELECTED.items():
        for x, plans, calls in wanted:
            for steps in (CALLS[call](PLANS[name], x).steps for name in plans for call in calls):
                yield from ((step.kernel, step.kinds, capability) for step in steps)
    for averaging in (False, True):
        tracked = (("mean", "float32"), ("var", "float32"), ("counter", "int64"))
        steps = schedule.tracking(tracked, 1, 64, averaging).steps
        yield from ((step.kernel, step.kinds, (9, 0)) for step in steps)


KEYS = list(dict.fromkeys(selected()))


def short(constant: Any) -> str:
    """A kernel's constant in a test's name."""
    if isinstance(constant, Arithmetic):
        return f"{constant.parts}{'s' * constant.single}{'o' * constant.at_once}"
    return ".".join(map(short, constant)) if isinstance(constant, tuple) else str(int(constant))


def name_of(key: Key) -> str:
    kernel, kinds, capability = key
    constants = ",".join(map(short, kernel.constants))
    return f"sm_{capability[0]}{capability[1]}-{kernel.build.__name__}({constants})-{kinds[0]}"


def flags(kernel: Kernel) -> Mapping[str, Any]:
    """The kernel's constants by name."""
    bound = inspect.signature(kernel.build).bind(*kernel.constants)
    bound.apply_defaults()
    return bound.arguments


# --- compiling -------------------------------------------------------------------------------------------------------


class Compiled:
    """A kernel's code, and its machine code linked a second time with `-fma=0`: nothing may be contracted."""

    def __init__(self, kernel: Kernel, kinds: tuple[str, ...], capability: Capability) -> None:
        ltoir = compiler.intermediate(kernel, kinds, capability)
        self.kernel, self.kinds = kernel, kinds
        self.cubin, log = compiler.linked(ltoir, capability)
        ptx, _ = compiler.linked(ltoir, capability, "ptx")
        self.unfused = unfused(ltoir, capability)
        self.code = Code(ptx.decode().rstrip("\0"), log, sass.disassembled(self.cubin, TOOL) if TOOL else None)

    @property
    def double(self) -> bool:
        """Whether sums are pairs of float64."""
        return flags(self.kernel).get("arithmetic", arithmetic_of(self.kinds[0])) == PAIRS

    @property
    def single(self) -> bool:
        """Whether elements are computed in float32."""
        name, arithmetic = self.kernel.build.__name__, flags(self.kernel).get("arithmetic")
        return name == "apply_columns_fast" or "near" in name or getattr(arithmetic, "single", False)

    @property
    def wide(self) -> bool | None:
        """Whether elements are read four at a time; None for kernels that know only one way."""
        return flags(self.kernel).get("wide")


def unfused(ltoir: bytes, capability: Capability) -> bytes:
    """The cubin as the linker makes it when it is told to contract nothing."""
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-lto", "-verbose", "-fma=0"]
    handle = link.create(len(options), options)
    try:
        link.add_data(handle, link.InputType.LTOIR, ltoir, len(ltoir), "numbanorm")
        link.complete(handle)
        result = bytearray(link.get_linked_cubin_size(handle))
        link.get_linked_cubin(handle, result)
    finally:
        link.destroy(handle)
    return bytes(result)


class FakeDevice:
    """Numba asks the current device for its capability when a device function is compiled."""

    compute_capability = (9, 0)


def worker() -> None:
    """What a process does before it compiles."""
    dispatcher.get_current_device = FakeDevice


# --- small kernels: of one operation, or with one fault --------------------------------------------------------------


def one_operation(name: str) -> Callable[[], Any]:
    """A kernel of nothing but a load, an operation and a store."""
    operation = {"div.rn.f64": intrinsics.div, "sqrt.rn.f64": intrinsics.root, "rcp.rn.f64": intrinsics.div}[name]
    load, store = intrinsics.load1, intrinsics.store1

    def quotient() -> Any:
        def kernel(p: Any) -> None:
            store(p, 0, operation(load(p, 1), load(p, 2)))

        return kernel

    def inverse() -> Any:
        def kernel(p: Any) -> None:
            store(p, 0, operation(1.0, load(p, 1)))

        return kernel

    def of_one() -> Any:
        def kernel(p: Any) -> None:
            store(p, 0, operation(load(p, 1)))

        return kernel

    return {"div.rn.f64": quotient, "sqrt.rn.f64": of_one, "rcp.rn.f64": inverse}[name]


def spilling() -> Any:
    """64 float64 at once in blocks of 1024 threads, which have 64 registers each."""
    load, store, each = intrinsics.load1, intrinsics.store1, 64

    def kernel(p: Any, n: Any) -> None:
        held = cuda.local.array(each, numba.float64)
        for j in range(each):
            held[j] = load(p, j)
        for j in range(each):
            store(p, n + j, held[j])

    return kernel


def indexing() -> Any:
    """An array whose index is known when it runs."""
    load, store = intrinsics.load1, intrinsics.store1

    def kernel(p: Any, n: Any) -> None:
        held = cuda.local.array(16, numba.float64)
        for j in range(16):
            held[j] = load(p, j)
        store(p, 0, held[n])

    return kernel


def calling() -> Any:
    def kernel(p: Any) -> None:
        print(1.0)

    return kernel


def approximating() -> Any:
    load, store = intrinsics.load1, intrinsics.store1

    def kernel(p: Any) -> None:
        store(p, 0, cuda.libdevice.rsqrt(load(p, 1)))

    return kernel


def in_single_precision() -> Any:
    load, store = intrinsics.load1, intrinsics.store1

    def kernel(p: Any) -> None:
        store(p, 0, numba.float32(load(p, 1)) * numba.float32(load(p, 2)))

    return kernel


def multiplying() -> Any:
    load, store = intrinsics.load1, intrinsics.store1

    def kernel(p: Any) -> None:
        store(p, 0, load(p, 1) * load(p, 2))

    return kernel


def contracting() -> Any:
    load, store = intrinsics.load1, intrinsics.store1

    def kernel(p: Any) -> None:
        store(p, 0, load(p, 1) * load(p, 2) + load(p, 3))

    return kernel


def rounding() -> Any:
    load, store, mul = intrinsics.load1, intrinsics.store1, intrinsics.mul

    def kernel(p: Any) -> None:
        store(p, 0, mul(load(p, 1), load(p, 2)) + load(p, 3))

    return kernel


def tile_moments(wide: bool) -> Any:
    """By that name a wide kernel, that reads one by one."""
    load, store = intrinsics.load1, intrinsics.store1

    def kernel(x: Any, out: Any) -> None:
        store(out, 0, ((load(x, 0) + load(x, 1)) + load(x, 2)) + load(x, 3))

    return kernel
