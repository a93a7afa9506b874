"""Whose arrays a real GPU computes on: torch's, CuPy's, Numba's, anybody's and NumPy's; and torch's layers on it."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cases
import gpu_tools
import numpy as np
import pytest
from cases import FLOAT32, Case
from gpu_tools import (
    BFLOAT16,
    CASES,
    CYCLES,
    DEVICE,
    both,
    every_case,
    every_dtype,
    host,
    mapped,
    need_cupy,
    need_torch,
    on_cpu,
    same,
    tensor,
    tensors,
)
from rings import AS_CUDA

import numbanorm

pytestmark = gpu_tools.MARKS
FEW = (CASES[0], CASES[8], CASES[9], CASES[14], CASES[18])
few_cases = pytest.mark.parametrize("case", FEW, ids=lambda c: c.name)


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    yield from gpu_tools.device()


def module(name: str) -> Any:
    """Of these tests or of the package; skips where it wants torch and torch is missing."""
    need_torch()
    return importlib.import_module(name)


# CuPy


@every_dtype
@every_case
def test_cupy_in_cupy_out(case: Case, dtype: np.dtype[Any]) -> None:
    cupy = need_cupy()
    if dtype == BFLOAT16 and int(cupy.__version__.partition(".")[0]) < 14:
        pytest.skip(f"CuPy {cupy.__version__} has no bfloat16: 14 does")
    a, dy = mapped(cupy.asarray, cases.arguments(case, dtype)), cupy.asarray(cases.upstream(case, dtype))
    found = both(case, a, dy)
    assert {type(v) for v in found.values()} == {cupy.ndarray}
    same(found, on_cpu(case, dtype))
    out = cupy.full(case.shape, np.nan, dtype)
    assert cases.call(case, a, out=out) is out
    same({"y": out}, {"y": on_cpu(case, dtype)["y"]}, "out")


@few_cases
def test_a_stream_of_cupy_orders_the_call_and_is_not_waited_for(case: Case) -> None:
    cupy, torch = need_cupy(), need_torch()  # whose kernel keeps the stream busy
    a, dy = mapped(cupy.asarray, cases.arguments(case, FLOAT32)), cupy.asarray(cases.upstream(case, FLOAT32))
    x, g = cupy.full_like(a.x, np.nan), cupy.full_like(dy, np.nan)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        both(case, a, dy)
        stream.synchronize()
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
            torch.cuda._sleep(CYCLES)
        x[...] = a.x
        g[...] = dy
        found = both(case, replace(a, x=x), g)
        running = not stream.done
        stream.synchronize()
    same(found, on_cpu(case, FLOAT32))
    assert running, "a call waited for its stream"


def test_strided_arrays_of_cupy_are_copied() -> None:
    cupy, case = need_cupy(), CASES[0]
    a = mapped(cupy.asarray, cases.arguments(case, FLOAT32))
    room = cupy.full((3 * case.shape[0], 2 * case.shape[1]), np.nan, np.float32)
    view, out = room[1::3, 1::2], cupy.full(case.shape[::-1], np.nan, np.float32).T
    view[...] = a.x
    assert cases.call(case, replace(a, x=view), out=out) is out
    same({"y": out}, {"y": on_cpu(case, FLOAT32)["y"]})


def test_a_thousand_calls_of_cupy_keep_no_memory() -> None:
    cupy = need_cupy()
    x = cupy.asarray(cases.arguments(CASES[0], FLOAT32).x)
    numbanorm.layer_norm(x, 768)
    before = cupy.get_default_memory_pool().used_bytes()
    for _ in range(1000):
        numbanorm.layer_norm(x, 768)
    assert cupy.get_default_memory_pool().used_bytes() == before


# Numba, and whoever has the interface


@pytest.mark.parametrize("dtype", [d for d in cases.DTYPES if d != BFLOAT16], ids=lambda d: d.name)
@every_case
def test_numba_in_numba_out(case: Case, dtype: np.dtype[Any]) -> None:
    from numba import cuda

    a, dy = mapped(cuda.to_device, cases.arguments(case, dtype)), cuda.to_device(cases.upstream(case, dtype))
    found = both(case, a, dy)
    assert all(cuda.is_cuda_array(v) for v in found.values())
    same(found, on_cpu(case, dtype))


class Foreign:
    """Another library's array: nothing but the interface, and what keeps the memory."""

    def __init__(self, t: Any, **facts: Any) -> None:
        self.kept = t
        self.__cuda_array_interface__ = {
            "shape": tuple(t.shape), "typestr": "<f4", "data": (t.data_ptr(), False), "strides": None, "version": 3,
        } | facts  # fmt: skip


@few_cases
def test_any_object_with_the_interface(case: Case) -> None:
    torch = need_torch()
    a, dy = tensors(case, FLOAT32)
    for facts in ({}, {"stream": 1}, {"stream": None}, {"data": (a.x.data_ptr(), True)}):
        found = both(case, replace(mapped(Foreign, a), x=Foreign(a.x, **facts)), Foreign(dy))
        same(found, on_cpu(case, FLOAT32), str(facts))
    seen = {name: torch.as_tensor(v, device=DEVICE) for name, v in found.items()}  # and back, without a copy
    assert seen["y"].data_ptr() == found["y"].__cuda_array_interface__["data"][0]
    same(seen, on_cpu(case, FLOAT32))


def test_the_stream_of_the_interface_orders_the_call() -> None:
    torch, case = need_torch(), CASES[0]
    a, _ = tensors(case, FLOAT32)
    x, stream = torch.full_like(a.x, np.nan), torch.cuda.Stream()
    cases.call(case, mapped(Foreign, a))
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        x.copy_(a.x)
    y = cases.call(case, replace(mapped(Foreign, a), x=Foreign(x, stream=stream.cuda_stream)))
    stream.synchronize()
    same({"y": y}, {"y": on_cpu(case, FLOAT32)["y"]})


def test_the_streams_of_other_arrays_are_waited_for() -> None:
    """A weight that is written late on a stream of its own, and written again after the call."""
    torch, case = need_torch(), CASES[0]
    a, _ = tensors(case, FLOAT32)
    weight, side, own = torch.full_like(a.weight, np.nan), torch.cuda.Stream(), torch.cuda.Stream()
    cases.call(case, mapped(Foreign, a))
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(CYCLES)
        weight.copy_(a.weight)
    there = replace(mapped(Foreign, a), x=Foreign(a.x, stream=own.cuda_stream), weight=Foreign(weight, stream=side.cuda_stream))
    y = cases.call(case, there)
    with torch.cuda.stream(side):
        weight.fill_(np.nan)
    assert y.__cuda_array_interface__["stream"] == own.cuda_stream
    own.synchronize()
    same({"y": y}, {"y": on_cpu(case, FLOAT32)["y"]})


def test_strided_foreign_arrays_are_refused() -> None:
    t = tensor(np.ones((4, 6), np.float32))
    with pytest.raises(ValueError, match="x must be C-contiguous"):
        numbanorm.layer_norm(Foreign(t, shape=(6, 4), strides=(4, 24)), 4)


def test_results_go_to_others_by_dlpack() -> None:
    torch, cupy, case = need_torch(), need_cupy(), CASES[0]
    a, dy = tensors(case, FLOAT32)
    same({n: cupy.from_dlpack(v) for n, v in both(case, a, dy).items()}, on_cpu(case, FLOAT32), "torch to CuPy")
    b = mapped(cupy.from_dlpack, a)  # no copy: another library's name of the same memory
    found = both(case, b, cupy.from_dlpack(dy))
    same({n: torch.from_dlpack(v) for n, v in found.items()}, on_cpu(case, FLOAT32), "CuPy to torch")


@pytest.mark.parametrize("other", ["cpu", "numpy", "cupy"])
def test_arrays_of_two_libraries_are_refused(other: str) -> None:
    x, w = tensor(np.ones((4, 6), np.float32)), np.ones(6, np.float32)
    weight = {"cpu": lambda: tensor(w).cpu(), "numpy": lambda: w, "cupy": lambda: need_cupy().asarray(w)}[other]()
    with pytest.raises(TypeError, match="weight must be where x is"):
        numbanorm.layer_norm(x, 6, weight)


# NumPy


@every_dtype
@few_cases
def test_numpy_arrays_are_carried_there_and_back(case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    found = both(case, a, dy, backend="cuda")
    assert {type(v) for v in found.values()} == {np.ndarray}
    same(found, on_cpu(case, dtype))
    out = np.full(case.shape[::-1], np.nan, dtype).T
    assert cases.call(case, a, out=out, backend="cuda") is out
    same({"y": out}, {"y": on_cpu(case, dtype)["y"]}, "out")


def test_running_statistics_of_numpy_arrays() -> None:
    x = np.random.default_rng(0).normal(3, 2, (64, 6, 5)).astype(np.float32)
    states = []
    for backend in (None, "cuda"):
        mean, var, count = np.zeros(6, np.float32), np.ones(6, np.float32), np.zeros((), np.int64)
        for scale in (1, 2):
            numbanorm.batch_norm(scale * x, mean, var, training=True, num_batches_tracked=count, backend=backend, **AS_CUDA)
        states.append({"mean": mean, "var": var, "count": count.reshape(1)})
    same(states[1], states[0])


# torch


@every_dtype
@few_cases
def test_leaves_that_require_a_gradient(case: Case, dtype: np.dtype[Any]) -> None:
    torch = need_torch()
    a, dy = tensors(case, dtype)
    leaves = mapped(lambda t: t.requires_grad_(), a)
    found = both(case, leaves, dy)
    assert not any(v.requires_grad for v in found.values())
    assert leaves.x.requires_grad
    same(found, on_cpu(case, dtype))
    y = a.x.detach().clone()
    assert cases.call(case, replace(a, x=y), out=y) is y  # in place
    same({"y": y}, {"y": on_cpu(case, dtype)["y"]}, "in place")
    assert torch.equal(leaves.x.detach(), tensors(case, dtype)[0].x)


@pytest.mark.parametrize("norm", ["batch", "group"])
@every_dtype
def test_channels_last_tensors(norm: str, dtype: np.dtype[Any]) -> None:
    torch = need_torch()
    first, last = Case(norm, (2, 6, 9, 7), groups=2), Case(norm, (2, 9, 7, 6), groups=2, channel_axis=-1)
    a, dy = cases.arguments(last, dtype), cases.upstream(last, dtype)
    b, g = mapped(tensor, a), tensor(dy)
    seen, up = (t.permute(0, 3, 1, 2) for t in (b.x, g))
    assert seen.is_contiguous(memory_format=torch.channels_last)
    same(both(last, b, g), on_cpu(last, dtype), "as it lies")
    plain = both(
        first, replace(a, x=np.ascontiguousarray(np.moveaxis(a.x, -1, 1))), np.ascontiguousarray(np.moveaxis(dy, -1, 1))
    )
    same(both(first, replace(b, x=seen), up), plain, "copied")


def test_the_second_device() -> None:
    torch, case = need_torch(), CASES[0]
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device: this wants two")
    a, dy = tensors(case, FLOAT32)
    b, g = mapped(lambda t: t.to("cuda:1"), a), dy.to("cuda:1")
    found = both(case, b, g)  # while cuda:0 is the current device
    assert {v.device.index for v in found.values()} == {1}
    same(found, on_cpu(case, FLOAT32))
    with pytest.raises(TypeError, match="weight must be where x is"):
        cases.call(case, replace(b, weight=a.weight))


# torch's layers


def test_functions_have_the_bits_of_the_cpu(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """y, gradients and running statistics."""
    norms = module("torch_norms")
    gpu_tools.as_cuda(monkeypatch)
    for dtype in norms.DTYPES:
        for name, norm in norms.NORMS.items():
            dy, arrays = norms.arguments(norm, dtype, rng)
            t = [norms.tensor(a) for a in arrays]
            found = norms.run(norm, norms.ours, norms.tensor(dy).to(DEVICE), [v.to(DEVICE) for v in t])
            want = norms.run(norm, norms.ours, norms.tensor(dy), t)
            for k, (v, expected) in enumerate(zip(found, want, strict=True)):
                same({"v": v}, {"v": expected}, f"{name} {dtype} {k}")


def test_modules_train_as_those_of_torch() -> None:
    """Ten steps each, results, gradients, running statistics and their counter; then evaluation."""
    torch, theirs = need_torch(), module("test_interop_torch_modules")
    torch.manual_seed(0)
    for name, (_, _, shape) in theirs.MODULES.items():
        pair = [m.to(DEVICE) for m in theirs.modules(name)]
        for step in range(12):
            if step == 10:
                for m in pair:
                    m.eval()
            x = torch.randn(shape, dtype=torch.float64, device=DEVICE) * (1 + step) + step
            outcomes = []
            for m in pair:
                leaf = x.clone().requires_grad_()
                m.zero_grad()
                y = m(leaf)
                y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=DEVICE).reshape(y.shape))
                outcomes.append([y.detach(), leaf.grad, *(p.grad for p in m.parameters()), *m.buffers()])
            for p, q in zip(*outcomes, strict=True):
                torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10, msg=lambda text: f"{name}, step {step}: {text}")  # noqa: B023


def losses(model: Any, steps: int) -> list[float]:
    torch = need_torch()
    generator = torch.Generator().manual_seed(1)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.05), []
    for _ in range(steps):
        x = torch.randn(16, 3, 12, 12, dtype=torch.float64, generator=generator).to(DEVICE)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), torch.arange(16, device=DEVICE) % 3)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_a_converted_network_trains_as_before_and_can_be_reverted() -> None:
    torch, interop, theirs = need_torch(), module("numbanorm.interop.torch"), module("test_interop_torch_modules")
    model = theirs.network().double().to(DEVICE)
    twin = interop.convert(copy.deepcopy(model))
    assert any(type(m).__module__ == "numbanorm.interop.torch" for m in twin.modules())
    np.testing.assert_allclose(losses(twin, 8), losses(model, 8), rtol=1e-8)
    interop.revert(twin)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    for (name, p), q in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9, msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.mark.parametrize("memory_format", ["contiguous_format", "channels_last"])
def test_gradcheck(memory_format: str, rng: np.random.Generator) -> None:
    torch, norms = need_torch(), module("torch_norms")
    for norm in norms.NORMS.values():
        t = [norms.tensor(v).to(DEVICE) for v in norms.arguments(norm, "float64", rng, (2, 6, 2, 3))[1]]
        x = t[0].contiguous(memory_format=getattr(torch, memory_format))
        leaves = [p.requires_grad_() for p in (x, *t[1 : 3 if norm.bias else 2])]

        def forward(*p: Any, f: Callable[..., Any] = norm.forward, rest: Any = t) -> Any:
            return f(norms.ours, *p, *(q.clone() for q in rest[len(p) :]))

        assert torch.autograd.gradcheck(forward, leaves)
        assert torch.autograd.gradgradcheck(forward, leaves)


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.filterwarnings("default::FutureWarning")
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_has_the_same_bits(mode: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All norms in one model, forward, backward and running statistics; reduce-overhead replays CUDA graphs where it can."""
    torch, ours = need_torch(), module("numbanorm.interop.torch")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    layers = (
        *(ours.BatchNorm2d(6), ours.GroupNorm(3, 6), ours.InstanceNorm2d(6, affine=True, track_running_stats=True)),
        *(ours.LayerNorm((3, 5)), ours.RMSNorm(5)),
    )
    model = torch.nn.Sequential(*layers).to(DEVICE)
    twin = copy.deepcopy(model)
    fast = torch.compile(twin, fullgraph=True, mode=mode)
    for _ in range(5):  # the first ones are not replayed
        x = torch.randn(4, 6, 3, 5, device=DEVICE)
        pairs: list[dict[str, Any]] = []
        for m, inner in ((model, model), (fast, twin)):
            leaf = x.clone().requires_grad_()
            inner.zero_grad()
            y = m(leaf)
            y.backward(torch.linspace(-1, 1, y.numel(), device=DEVICE).reshape(y.shape))
            named = {n: p.grad for n, p in inner.named_parameters()} | dict(inner.named_buffers())
            pairs.append({n: host(v) for n, v in {"y": y, "dx": leaf.grad, **named}.items()})
        same(pairs[1], pairs[0])
    torch.compiler.reset()
