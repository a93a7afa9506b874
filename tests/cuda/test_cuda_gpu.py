"""What only a real GPU can show of the CUDA backend: streams, graphs, threads, memory, more than 2**31 elements.

That its results have the CPU's bits, on the table of cases, `test_cuda_table` shows.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import gpu_tools
import numpy as np
import pytest
from cases import FLOAT32, Case
from gpu_tools import BFLOAT16, CASES, CYCLES, both, every_case, every_dtype, need_torch, on_cpu, same, tensor, tensors
from rings import AS_CUDA

import numbanorm

pytestmark = gpu_tools.MARKS


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    yield from gpu_tools.device()


@pytest.fixture
def no_waiting() -> Iterator[Any]:
    """A function that, called, makes torch raise where it waits for the device."""
    torch = need_torch()
    before = torch.cuda.get_sync_debug_mode()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode(before)


@every_case
def test_a_side_stream_of_torch_orders_the_call_and_nothing_waits(case: Case, no_waiting: Any) -> None:
    torch = need_torch()
    a, dy = tensors(case, FLOAT32)
    x, g = torch.full_like(a.x, np.nan), torch.full_like(dy, np.nan)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        both(case, a, dy)  # compiles, and leaves memory with torch's allocator
        stream.synchronize()
        no_waiting()
        torch.cuda._sleep(CYCLES)
        x.copy_(a.x)
        g.copy_(dy)
        found = both(case, replace(a, x=x), g)
        running = not stream.query()
    torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    same(found, on_cpu(case, FLOAT32))
    assert running, "a call waited for its stream"


def test_the_default_stream_is_not_waited_for_either(no_waiting: Any) -> None:
    torch, case = need_torch(), CASES[0]
    a, dy = tensors(case, FLOAT32)
    both(case, a, dy)
    x = torch.full_like(a.x, np.nan)
    torch.cuda.synchronize()
    no_waiting()
    torch.cuda._sleep(CYCLES)
    x.copy_(a.x)
    start = time.perf_counter()
    found = both(case, replace(a, x=x), dy)
    running = not torch.cuda.current_stream().query()
    seconds = time.perf_counter() - start
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    same(found, on_cpu(case, FLOAT32))
    assert running, f"the calls took {seconds:.3f} s, and waited for their stream"


@every_case
def test_a_stream_of_numba_orders_the_call(case: Case) -> None:
    torch = need_torch()  # whose kernel keeps the stream busy
    from numba import cuda

    a = gpu_tools.mapped(cuda.to_device, cases.arguments(case, FLOAT32))
    dy = cuda.to_device(cases.upstream(case, FLOAT32))
    both(case, a, dy)
    stream = cuda.stream()
    nan = np.full(case.shape, np.nan, np.float32)
    x, g = (cuda.to_device(nan, stream=stream) for _ in range(2))
    stream.synchronize()
    with cuda.defer_cleanup():  # which waits for the device
        with torch.cuda.stream(torch.cuda.ExternalStream(int(stream))):
            torch.cuda._sleep(CYCLES)
        x.copy_to_device(a.x, stream=stream)
        g.copy_to_device(dy, stream=stream)
        found = both(case, replace(a, x=x), g)
        stream.synchronize()
        same(found, on_cpu(case, FLOAT32))


def flipped(a: Any) -> Any:
    """The same numbers elsewhere."""
    return np.ascontiguousarray(a[tuple(slice(None, None, -1) for _ in a.shape)])


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=lambda d: d.name)
@every_case
def test_a_graph_replayed_on_new_data_gives_their_bits(case: Case, dtype: np.dtype[Any]) -> None:
    torch = need_torch()
    a, dy = tensors(case, dtype)
    both(case, a, dy)  # compiled and loaded before the capture, which allows neither
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both(case, a, dy)
    plain, up = cases.arguments(case, dtype), cases.upstream(case, dtype)
    for x, g in ((plain.x, up), (flipped(plain.x), up), (plain.x, flipped(up))):
        a.x.copy_(tensor(x))
        dy.copy_(tensor(g))
        for v in found.values():
            v.fill_(np.nan)
        graph.replay()
        torch.cuda.synchronize()
        same(found, both(case, replace(plain, x=x), g))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_graph_of_training_counts_its_batches(momentum: float | None) -> None:
    """momentum None averages: the share of a batch depends on a number that only the device knows."""
    torch = need_torch()
    xs = np.random.default_rng(0).normal(3, 2, (4, 64, 6, 5)).astype(np.float32)
    state: list[Any] = [np.zeros(6, np.float32), np.ones(6, np.float32), np.zeros((), np.int64)]

    def step(x: Any, mean: Any, var: Any, count: Any) -> Any:
        return numbanorm.batch_norm(x, mean, var, training=True, momentum=momentum, num_batches_tracked=count, **AS_CUDA)

    x, held = tensor(xs[0]), [tensor(v) for v in state]
    step(x, *(v.clone() for v in held))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(x, *held)
    for v, fresh in zip(held, state, strict=True):
        v.copy_(tensor(fresh))
    for batch in xs:
        x.copy_(tensor(batch))
        graph.replay()
        want = step(batch, *state)
        same({"y": y, "mean": held[0], "var": held[1]}, {"y": want, "mean": state[0], "var": state[1]})
    assert int(held[2]) == len(xs)


@every_dtype
@every_case
def test_memory_that_is_aligned_for_its_type_only(case: Case, dtype: np.dtype[Any]) -> None:
    """A 16-byte access to it would end the context."""
    torch = need_torch()
    a, dy = tensors(case, dtype)

    def shifted(t: Any) -> Any:
        room = torch.full((t.numel() + 8,), np.nan, dtype=t.dtype, device=t.device)
        view = room[1 : 1 + t.numel()].view(t.shape)
        assert view.data_ptr() % 16
        return view.copy_(t)

    same(both(case, replace(a, x=shifted(a.x)), dy), on_cpu(case, dtype), "x")
    same(both(case, gpu_tools.mapped(shifted, a), shifted(dy)), on_cpu(case, dtype), "all")


def poison() -> None:
    """Fill with nan the memory that torch's allocator hands out next, in blocks of every size."""
    torch = need_torch()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    sizes = [64 << k for k in range(18) for _ in range(8)]  # in elements: 512 bytes to 64 MB
    blocks = [torch.full((n,), np.nan, dtype=torch.float64, device=gpu_tools.DEVICE) for n in sizes]
    del blocks


@every_dtype
@every_case
def test_everything_is_written_whatever_was_in_the_memory(case: Case, dtype: np.dtype[Any]) -> None:
    torch = need_torch()
    a, dy = tensors(case, dtype)
    poison()
    found = both(case, a, dy)
    same(found, on_cpu(case, dtype))
    out = torch.full_like(a.x, np.nan)
    cases.call(case, a, out=out)
    same({"y": out}, {"y": on_cpu(case, dtype)["y"]}, "out")
    del found
    torch.cuda.empty_cache()


def test_a_thousand_calls_keep_no_memory() -> None:
    torch = need_torch()
    chosen = [(case, *tensors(case, FLOAT32)) for case in (CASES[0], CASES[2], CASES[9], CASES[13])]
    for case, a, dy in chosen:
        both(case, a, dy)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(250):
        for case, a, dy in chosen:
            both(case, a, dy)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_a_thousand_calls_of_numpy_keep_no_memory() -> None:
    from numba import cuda

    x = np.random.default_rng(0).normal(size=(256, 1024)).astype(np.float32)
    numbanorm.layer_norm(x, 1024, backend="cuda")
    before = cuda.current_context().get_memory_info().free
    for _ in range(1000):
        numbanorm.layer_norm(x, 1024, backend="cuda")
    lost = before - cuda.current_context().get_memory_info().free
    assert lost < 2**28, f"{lost} bytes are gone"  # a leak of one array is 1 GB; other memory comes and goes


def test_threads_with_a_stream_each() -> None:
    """All load their kernels at once, and mix their launches."""
    torch = need_torch()
    prepared = [(case, *tensors(case, FLOAT32), on_cpu(case, FLOAT32)) for case in CASES]
    torch.cuda.synchronize()
    gpu_tools.forget()

    def work(first: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for turn in range(20):
                case, a, dy, truth = prepared[(first + turn) % len(prepared)]
                found = both(case, a, dy)
                stream.synchronize()
                same(found, truth, f"thread {first}, turn {turn}")

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, k) for k in range(8)]:
            done.result()


def test_the_first_thing_that_a_thread_does() -> None:
    """No library has made a context current there."""
    torch, case = need_torch(), CASES[0]
    a, _ = tensors(case, FLOAT32)
    out = torch.full_like(a.x, np.nan)
    torch.cuda.synchronize()
    for renewed in (False, True):  # with the kernels that this thread has loaded, and with none
        if renewed:
            gpu_tools.forget()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(cases.call, case, a, out=out.fill_(np.nan)).result()
        torch.cuda.synchronize()
        same({"y": out}, {"y": on_cpu(case, FLOAT32)["y"]}, f"renewed {renewed}")


@every_case
def test_fifty_times_under_load_the_same_bits(case: Case) -> None:
    torch = need_torch()
    a, dy = tensors(case, FLOAT32)
    side, m = torch.cuda.Stream(), torch.randn(2048, 2048, dtype=torch.float16, device=gpu_tools.DEVICE)
    first = both(case, a, dy)
    same(first, on_cpu(case, FLOAT32))
    torch.cuda.synchronize()
    for turn in range(50):
        with torch.cuda.stream(side):  # multiprocessors and memory are shared with something else each time
            for _ in range(turn % 4):
                torch.mm(m, m)
        found = both(case, a, dy)
        different = [n for n in first if not torch.equal(found[n].view(torch.uint8), first[n].view(torch.uint8))]
        assert not different, f"turn {turn}: {different}"
    torch.cuda.synchronize()


def printed(folder: Path, **environment: str) -> dict[str, Any]:
    done = gpu_tools.child("import gpu_tools; gpu_tools.first_call()", NUMBA_CACHE_DIR=str(folder), **environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    x = np.arange(40, dtype=np.float32).reshape(4, 10) ** 2
    assert told["y"] == numbanorm.layer_norm(x, 10, **AS_CUDA).tobytes().hex()
    return told


def test_a_new_process_finds_its_kernels_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = printed(tmp_path), printed(tmp_path)
    with capsys.disabled():
        for name, told in (("compiled", first), ("from disk", second)):
            print(f"\nfirst call, {name}: {told['seconds'][0]:.3f} s; second call: {told['seconds'][1] * 1e6:.0f} us")
    files = list(tmp_path.rglob("*.cubin"))
    assert len(first["compiled"]) == len(files) >= 1
    assert second["compiled"] == []
    files[0].write_bytes(files[0].read_bytes()[:-1])  # cut short
    assert len(printed(tmp_path)["compiled"]) == 1
    empty = tmp_path / "off"
    assert printed(empty, NUMBANORM_CACHE="0")["compiled"] == first["compiled"]
    assert not list(empty.rglob("*.cubin"))


def need_memory(gigabytes: int) -> Any:
    torch = need_torch()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of free device memory: {free:.1f} are")
    return torch


def sliced(found: dict[str, Any], cut: dict[str, Any], want: dict[str, Any], where: str) -> None:
    same({name: found[name][at] for name, at in cut.items()}, {name: want[name] for name in cut}, where)


HUGE = 2**31 + 2**20


def huge(shape: tuple[int, ...]) -> tuple[Any, Any]:
    torch = need_memory(24)
    assert int(np.prod(shape)) == HUGE
    torch.manual_seed(0)
    x, dy = (torch.randn(shape, dtype=torch.float16, device=gpu_tools.DEVICE) for _ in range(2))
    return x.add_(3), dy


def test_rows_beyond_two_to_the_31() -> None:
    rows, c = HUGE // 1024, 1024
    x, dy = huge((rows, c))
    case = Case("layer", (rows, c))
    w, b = np.random.default_rng(1).uniform(0.5, 2, (2, c)).astype(np.float32)
    found = both(case, cases.Arguments(x, tensor(w), tensor(b)), dy)
    for at in (slice(0, 8), slice(2**21 - 4, 2**21 + 4), slice(rows - 8, rows)):
        want = both(case, cases.Arguments(gpu_tools.host(x[at]), w, b), gpu_tools.host(dy[at]))
        sliced(found, dict.fromkeys(("y", "mean", "rstd", "dx"), at), want, str(at))


def test_runs_beyond_two_to_the_31() -> None:
    shape = (2049, 8, 2**17)
    x, dy = huge(shape)
    w, b = np.random.default_rng(1).uniform(0.5, 2, (2, 8)).astype(np.float32)
    found = both(Case("batch", shape), cases.Arguments(x, tensor(w), tensor(b)), dy)
    for at in (slice(0, 1), slice(7, 8)):
        part = cases.Arguments(gpu_tools.host(x[:, at].contiguous()), w[at], b[at])
        want = both(Case("batch", part.x.shape), part, gpu_tools.host(dy[:, at].contiguous()))
        cut: dict[str, Any] = {"y": (slice(None), at), "dx": (slice(None), at)}
        sliced(found, cut | dict.fromkeys(("mean", "rstd", "dweight", "dbias"), at), want, str(at))


def test_columns_beyond_two_to_the_31() -> None:
    shape = (HUGE // 1024, 1024)
    x, dy = huge(shape)
    w, b = np.random.default_rng(1).uniform(0.5, 2, (2, 1024)).astype(np.float32)
    found = both(Case("batch", shape), cases.Arguments(x, tensor(w), tensor(b)), dy)
    at = slice(960, 1024)  # as many columns as are not folded, so that their tree is the same
    part = cases.Arguments(gpu_tools.host(x[:, at].contiguous()), w[at], b[at])
    want = both(Case("batch", part.x.shape), part, gpu_tools.host(dy[:, at].contiguous()))
    cut: dict[str, Any] = {"y": (slice(None), at), "dx": (slice(None), at)}
    sliced(found, cut | dict.fromkeys(("mean", "rstd", "dweight", "dbias"), at), want, str(at))


def sanitized(tool: str, code: str) -> Any:
    """What compute-sanitizer says of a program."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer is not installed: it comes with CUDA's toolkit")
    done = gpu_tools.child(code, program, "--tool", tool, "--error-exitcode", "1", seconds=170)
    said = done.stdout + done.stderr
    if re.search("Device not supported|Unable to find injection|does not support", said):
        pytest.skip(f"compute-sanitizer refuses this machine: {said.strip().splitlines()[0]}")
    return done.returncode, said


def test_the_sanitizer_finds_a_planted_error() -> None:
    code, said = sanitized("memcheck", "import gpu_tools; gpu_tools.out_of_bounds()")
    assert code != 0, said
    assert "Invalid __global__ write" in said


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    code, said = sanitized(tool, "import gpu_tools; gpu_tools.every_family()")
    assert "families are right" in said, said[-4000:]
    assert code == 0, said[-4000:]
