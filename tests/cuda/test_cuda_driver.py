"""What `driver` asks of CUDA, with cuda.core's calls noted in place of made: there is no device here. What a device then does
is for the tests that need one."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import device_fakes as fakes
import numpy as np
import pytest
from cuda_gates import KEYS  # skips without a compiler

import numbanorm
from numbanorm.backends import dispatch
from numbanorm.cuda import backend as cuda
from numbanorm.cuda import driver

core = pytest.importorskip("cuda.core", reason="cuda.core, of the extras [cuda12] and [cuda13], is not installed")
bindings = pytest.importorskip("cuda.bindings.driver", reason="cuda.bindings, of the same extras, is not installed")


class Stream(str):
    """A stream's name; what it waits for is noted among the launches."""

    devices: Devices

    def __new__(cls, name: str, devices: Devices) -> Stream:
        stream = super().__new__(cls, name)
        stream.devices = devices
        return stream

    def wait(self, other: Stream) -> None:
        self.devices.launches.append((self.devices.current, self, "waits for", other))


class Devices:
    """Three devices, of which one may be current; the first and the last are of one kind."""

    CAPABILITIES = ((9, 0), (8, 0), (9, 0))

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.current: int | None = None
        self.loaded: list[bytes] = []
        self.launches: list[tuple[Any, ...]] = []
        self.made: list[Any] = []
        patch.setattr(core, "Device", self.device)
        patch.setattr(core, "ObjectCode", SimpleNamespace(from_cubin=self.library))
        patch.setattr(core, "Stream", SimpleNamespace(from_handle=self.stream))
        patch.setattr(core, "LEGACY_DEFAULT_STREAM", Stream("default stream", self))
        patch.setattr(core, "LaunchConfig", lambda grid, block: self.note((grid, block)))
        patch.setattr(core, "launch", lambda *what: self.launches.append((self.current, *what)))
        patch.setattr(bindings, "cuCtxGetDevice", lambda: (201, None) if self.current is None else (0, self.current))

    def note(self, what: Any) -> Any:
        self.made.append(what)
        return what

    def stream(self, handle: int) -> Any:
        return self.note(Stream(f"stream {handle:#x}", self))

    def device(self, number: int) -> Any:
        def set_current() -> None:
            self.current = number

        return SimpleNamespace(compute_capability=self.CAPABILITIES[number], set_current=set_current, name=f"device {number}")

    def library(self, code: bytes) -> Any:
        self.loaded.append(code)
        return SimpleNamespace(get_kernel=lambda name: (code, name))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    return Devices(monkeypatch)


@pytest.mark.parametrize("before", [None, 0, 1])
def test_the_current_device_is_given_back(before: int | None, devices: Devices) -> None:
    """A launch goes to the current device; where there was none, that of x stays current."""
    hardware = driver.Hardware()
    devices.current = before
    kept = hardware.enter(1)
    assert devices.current == 1
    hardware.leave(kept)
    assert devices.current == (1 if before is None else before)


def test_a_library_is_loaded_once_for_devices_of_a_kind(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "cubin", lambda kernel, kinds, capability: f"{kernel.name} {kinds} {capability}".encode())
    monkeypatch.setattr(driver, "entry", lambda code: "name in " + code.decode())
    hardware = driver.Hardware()
    (kernel, kinds), (other, others) = [key[:2] for key in KEYS[:2]]
    found = [hardware.ready(kernel, kinds, device) for device in (0, 2, 1, 0)]
    assert found[0] is found[1] is found[3]
    assert found[2] is not found[0]
    code, name = hardware.ready(other, others, 0)
    assert code == f"{other.name} {others} (9, 0)".encode()
    assert name == f"name in {code.decode()}"
    assert len(devices.loaded) == 3


def test_streams_and_configurations_are_made_once(devices: Devices) -> None:
    hardware = driver.Hardware()
    hardware.enter(2)
    for stream in (0, 0x1234, 0x1234, 0):
        hardware.launch("kernel", 7, 128, stream, [1, 2.0])
    streams = ["default stream", "stream 0x1234", "stream 0x1234", "default stream"]
    assert devices.launches == [(2, stream, (7, 128), "kernel", 1, 2.0) for stream in streams]
    assert devices.made == [(7, 128), "stream 0x1234"]


@pytest.fixture
def steps(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a call of Numba's arrays gives the streams to do, in order; kernels by the name of what builds them."""
    fakes.install(monkeypatch)
    fakes.on_numba_hardware(monkeypatch)
    monkeypatch.setattr(dispatch, "cuda_backend", lambda compute: cuda)
    monkeypatch.setattr(driver, "DRIVER", driver.Hardware())
    monkeypatch.setattr(driver.Hardware, "ready", lambda self, kernel, kinds, device: kernel.build.__name__)

    def given(function: Any, *arguments: Any, **options: Any) -> list[str]:
        devices.launches.clear()
        function(*arguments, **options)
        return [f"{stream} {' '.join(map(str, rest[:2])) if rest[0] == 'waits for' else rest[1]}"
                for _, stream, *rest in devices.launches]  # fmt: skip

    return given


def of_stream(handle: int, *shape: int) -> fakes.NumbaArray:
    return fakes.NumbaArray.of(np.ones(shape, np.float32), fakes.Stream(handle) if handle else 0)


def test_streams_of_other_arguments_are_waited_for(steps: Any) -> None:
    """By x's, before it reads what they write; and they wait for it, before they write what it reads or read what it wrote."""
    x, weight, out = of_stream(0xA, 4, 6), of_stream(0xB, 6), of_stream(1, 4, 6)
    found = steps(numbanorm.layer_norm, x, 6, weight, out=out)
    assert sorted(found[:2]) == ["stream 0xa waits for default stream", "stream 0xa waits for stream 0xb"]
    assert found[2:-2] == ["stream 0xa rows_forward"]
    assert sorted(found[-2:]) == ["default stream waits for stream 0xa", "stream 0xb waits for stream 0xa"]


def test_each_other_argument_is_waited_for(steps: Any) -> None:
    x, rest = of_stream(0xA, 4, 6), of_stream(0xA, 6)
    stats = tuple(fakes.NumbaArray.of(np.ones(4), fakes.Stream(handle)) for handle in (0xC, 0xD))
    found = steps(numbanorm.layer_norm_backward, of_stream(0xB, 4, 6), x, 6, stats, rest)
    waits = {step for step in found if step.startswith("stream 0xa waits")}
    assert waits == {f"stream 0xa waits for stream 0x{k}" for k in "bcd"}
    assert all(step.startswith("stream 0xa ") for step in found[:-3])
    assert sorted(found[-3:]) == [f"stream 0x{k} waits for stream 0xa" for k in "bcd"]
    buffers = [fakes.NumbaArray.of(np.ones(6), fakes.Stream(0xE)), of_stream(0xE, 6)]
    found = steps(numbanorm.batch_norm, x, *buffers, training=True)
    update = found.index("stream 0xa update")
    assert found[update - 1 : update + 2] == [
        "stream 0xa waits for stream 0xe", "stream 0xa update", "stream 0xe waits for stream 0xa",
    ]  # fmt: skip
    assert all(step.startswith("stream 0xa ") for step in found[:-1])


@pytest.mark.parametrize(("of_x", "of_weight"), [(0, 0), (0xA, 0xA), (0xA, 0), (0, 1), (1, 0), (1, 1)])
def test_one_stream_waits_for_nothing(of_x: int, of_weight: int, steps: Any) -> None:
    """Nor does any for an array that names none; 1 is the interface's name of the default stream."""
    stream = "stream 0xa" if of_x == 0xA else "default stream"
    assert steps(numbanorm.layer_norm, of_stream(of_x, 4, 6), 6, of_stream(of_weight, 6)) == [f"{stream} rows_forward"]


def test_a_default_stream_waits_for_others(steps: Any) -> None:
    found = steps(numbanorm.layer_norm, of_stream(0, 4, 6), 6, of_stream(0xB, 6))
    before, after = "default stream waits for stream 0xb", "stream 0xb waits for default stream"
    assert found == [before, "default stream rows_forward", after]


def test_numba_frees_a_few_arrays_at_once_and_puts_it_off_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/cuda.md says of its arrays: cuMemFree, which waits for the device, comes with the eleventh that is dropped."""
    from numba.cuda.cudadrv import driver as numbas

    monkeypatch.setattr(numbas, "_logger", logging.getLogger(__name__), raising=False)  # which comes with a device
    freed: list[int] = []
    pending = numbas._PendingDeallocs(10**9)
    with pending.disable():  # by cuda.defer_cleanup
        for k in range(11):
            pending.add_item(freed.append, k, 8)
        assert freed == []
    pending.add_item(freed.append, 11, 8)
    assert freed == list(range(12))
    for k in range(10):
        pending.add_item(freed.append, k, 8)
    assert len(freed) == 12
    pending.add_item(freed.append, 10, 8)
    assert len(freed) == 23


def test_a_pointer_is_an_address() -> None:
    assert driver.Hardware().pointer(SimpleNamespace(address=4096, itemsize=2), 3) == 4102


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What cuInit and cuDeviceGetCount answer."""

    def give(error: Any, count: Any) -> str | None:
        def init(flags: int) -> tuple[Any]:
            if isinstance(error, Exception):
                raise error
            return (error,)

        monkeypatch.setattr(bindings, "cuInit", init)
        monkeypatch.setattr(bindings, "cuDeviceGetCount", lambda: (bindings.CUresult.CUDA_SUCCESS, count))
        return driver.why_not.__wrapped__()

    return give


def test_why_kernels_cannot_run(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    success, none = bindings.CUresult.CUDA_SUCCESS, bindings.CUresult.CUDA_ERROR_NO_DEVICE
    assert answers(success, 1) is None
    assert "with 0 devices; leave backend out" in answers(success, 0)
    assert "CUDA_ERROR_NO_DEVICE" in answers(none, 0)
    assert "CUDA must have a driver: no libcuda; install NVIDIA's" in answers(RuntimeError("no\nlibcuda"), 0)
    monkeypatch.setattr(driver, "installed", lambda name: name != "cuda.core")
    assert answers(success, 1).startswith("CUDA must be installed: cuda.core cannot be imported; write pip install")


def test_the_device_is_named(devices: Devices) -> None:
    assert driver.device_name() == "device 0, compute capability 9.0"
