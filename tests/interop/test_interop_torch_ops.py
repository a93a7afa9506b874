"""`numbanorm.interop.torch` as torch's own machinery takes it: autograd, opcheck, torch.compile, export, threads."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_norms import NORMS, SHAPE, Norm, arguments, every_norm, ours, run, same, tensor, torch

ops: Any = importlib.import_module("numbanorm.interop.torch.operators")

# torch's compiler and its forward-mode derivatives are written with what torch itself declares deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl")))),
    reason="no C++ compiler: torch's inductor writes C++",
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("memory_format", ["contiguous_format", "channels_last"])
@every_norm
def test_gradcheck(norm: Norm, memory_format: str, rng: np.random.Generator) -> None:
    t = [tensor(a) for a in arguments(norm, "float64", rng, (2, 6, 2, 3))[1]]
    x = t[0].contiguous(memory_format=getattr(torch, memory_format))
    leaves = [p.requires_grad_() for p in (x, *t[1 : 3 if norm.bias else 2])]
    assert torch.autograd.gradcheck(lambda *p: norm.forward(ours, *p, *(q.clone() for q in t[len(p) :])), leaves)


OPS = [
    ("layer_norm", (4, 6), [6], True),
    ("rms_norm", (4, 6), [6], True),
    ("group_norm", (4, 6, 3), [3], True),
    ("instance_norm", (4, 6, 3), [], True),
    ("batch_norm", (4, 6, 3), [], True),
    ("batch_norm", (4, 6, 3), [], False),
]


@pytest.mark.parametrize(("kind", "shape", "size", "own"), OPS)
def test_opcheck(kind: str, shape: tuple[int, ...], size: list[int], own: bool) -> None:
    x, w = torch.randn(shape), torch.rand(6)
    bias = None if kind == "rms_norm" else w.clone()
    tracked = (
        (torch.zeros(6), torch.ones(6), torch.tensor(3)) if kind in ("instance_norm", "batch_norm") else (None, None, None)
    )
    for grad in (True, False):
        leaves = [None if t is None else t.detach().requires_grad_(grad) for t in (x, w, bias)]
        torch.library.opcheck(ops.normalize, (*leaves, *tracked, kind, size, own, 0.1, 1e-5, *[True] * grad))
    _, mean, rstd, *_ = ops.normalize(x, w, bias, *tracked, kind, size, own, 0.1, 1e-5)
    for needs in ([True, True, bias is not None], [False, True, False], [True, False, False]):
        for grad in (True, False):
            leaves = [t.detach().requires_grad_(grad) for t in (torch.randn(shape), x, w)]
            torch.library.opcheck(ops.differentiate, (*leaves, mean, rstd, kind, size, own, needs, *[True] * grad))


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """torch.compile(fullgraph=True), with a cache and a memory of its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    yield lambda f, backend="aot_eager", **options: torch.compile(f, fullgraph=True, backend=backend, **options)
    torch.compiler.reset()


@every_norm
def test_compiled_has_the_same_bits(norm: Norm, compiled: Any, rng: np.random.Generator) -> None:
    dy, arrays = arguments(norm, "float32", rng)
    t = [tensor(a) for a in arrays]
    compiled_norm = Norm(compiled(lambda f, *p: norm.forward(f, *p)), norm.backward, bias=norm.bias)
    for a, b in zip(run(compiled_norm, ours, tensor(dy), t), run(norm, ours, tensor(dy), t), strict=True):
        assert same(a, b)


@needs_compiler
@pytest.mark.parametrize("memory_format", ["contiguous_format", "channels_last"])
def test_compiled_to_machine_code_has_the_same_bits(memory_format: str, compiled: Any) -> None:
    """All norms in one model, forward, backward and running statistics over three steps, and evaluation."""
    layers = (
        *(ours.BatchNorm2d(6), ours.GroupNorm(3, 6), ours.InstanceNorm2d(6, affine=True, track_running_stats=True)),
        *(ours.LayerNorm((3, 5)), ours.RMSNorm(5)),
    )
    model = torch.nn.Sequential(*layers)
    twin = copy.deepcopy(model)
    fast = compiled(twin, "inductor")
    for step in range(4):
        if step == 3:
            model.eval()
            twin.eval()
        x = torch.randn(SHAPE).contiguous(memory_format=getattr(torch, memory_format))
        pairs = []
        for m in (model, fast):
            leaf = x.clone().requires_grad_()
            y = m(leaf)
            y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))  # no arithmetic that a compiler could change
            pairs.append([y, leaf.grad])
        for a, b in zip(*pairs, strict=True):
            assert same(a, b)
            assert a.stride() == b.stride()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert same(p.grad, q.grad)
        for p, q in zip(model.buffers(), twin.buffers(), strict=True):
            assert same(p, q)


def test_compiled_for_any_size(compiled: Any) -> None:
    f = compiled(lambda x, w: ours.layer_norm(ours.group_norm(x, 2), x.shape[2:], w), dynamic=True)
    for n, size in ((3, 4), (5, 7), (9, 2)):
        x, w = torch.randn(n, 6, size), torch.rand(size)
        assert same(f(x, w), ours.layer_norm(ours.group_norm(x, 2), (size,), w))


def test_compiled_cumulative_average(compiled: Any) -> None:
    """momentum=None computes with the number of batches; in torch's own layer that is no tensor, and no part of a graph."""
    layer = ours.BatchNorm1d(6, momentum=None)
    twin = copy.deepcopy(layer)
    fast = compiled(twin)
    for _ in range(3):
        x = torch.randn(4, 6)
        assert same(fast(x), layer(x))
    assert all(map(same, twin.buffers(), layer.buffers()))
    assert layer.num_batches_tracked == 3


def test_exported() -> None:
    model = ours.convert(torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.GroupNorm(2, 6)).eval())
    sizes = ({0: torch.export.Dim("samples"), 2: torch.export.Dim("length")},)
    program = torch.export.export(model, (torch.randn(3, 6, 4),), dynamic_shapes=sizes)
    x = torch.randn(5, 6, 9)
    assert same(program.module()(x), model(x))


def test_second_derivatives_of_what_was_compiled(compiled: Any) -> None:
    """Where torch's compiler records none, its own error says so: nothing is silently 0."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def second(norm: Any) -> Any:
        (dx,) = torch.autograd.grad(norm(x, (4,)).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(dx[0, 0], x)[0]

    assert same(second(compiled(ours.layer_norm, "eager")), second(ours.layer_norm))
    for f in (ours, torch.nn.functional):
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            second(compiled(lambda *args, f=f: f.layer_norm(*args)))


@pytest.mark.parametrize("way", ["compiled transform", "whole graph", "transform of what is compiled"])
@pytest.mark.parametrize("name", ["grad", "vmap"])
def test_transforms_and_the_compiler(name: str, way: str, compiled: Any) -> None:
    """A transform's inside is left to Python; where a graph without breaks is asked for, a sentence says so."""
    x = torch.randn(3, 6, dtype=torch.float64)

    def cube(x: Any) -> Any:
        return ours.layer_norm(x, (6,)).pow(3).sum()

    transform = getattr(torch.func, name)
    expected = transform(lambda x: ours.layer_norm(x, (6,)).pow(3).sum())(x)
    if way == "whole graph":
        with pytest.raises(Exception, match=r"numbanorm within a transform of torch\.func is no part of a graph"):
            compiled(transform(cube))(x)
    elif way == "compiled transform":
        assert same(torch.compile(transform(cube), backend="aot_eager")(x), expected)
    else:
        assert same(transform(torch.compile(cube, backend="aot_eager"))(x), expected)


def test_other_derivatives_are_refused() -> None:
    """A custom op drops a forward-mode tangent without a word."""
    x = torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda x: ours.layer_norm(x, (4,)), (x,), (x,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="weight must not carry a forward-mode"):
        ours.layer_norm(x, (4,), torch.autograd.forward_ad.make_dual(x[0], x[1]))


def test_from_several_threads(rng: np.random.Generator) -> None:
    """Large enough for numbanorm's own threads, beside those of torch."""
    dy, arrays = arguments(NORMS["batch"], "float32", rng, (8, 6, 32, 32))
    t = [tensor(a) for a in arrays]
    expected = run(NORMS["batch"], ours, tensor(dy), t)

    def one(_: int) -> list[Any]:
        torch.mm(torch.ones(200, 200), torch.ones(200, 200))
        return run(NORMS["batch"], ours, tensor(dy), t)

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(one, range(8)):
            assert all(map(same, got, expected))
