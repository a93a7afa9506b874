"""Calls that pass torch by: which they are, that nothing else differs, and that torch sees what it wants to see."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from torch_norms import SHAPE, Norm, arguments, every_dtype, every_norm, ours, run, same, tensor, torch

norms: Any = importlib.import_module("numbanorm.interop.torch.norms")
ops: Any = importlib.import_module("numbanorm.interop.torch.operators")

X = torch.arange(72.0).reshape(3, 6, 4).sin()
grad = torch.autograd.grad


class Watch(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """A mode that sees every operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The operators that are called, in order."""
    calls: list[Any] = []

    def spy(operator: Any, *args: Any, call: Any = ops.call) -> Any:
        calls.append(operator)
        return call(operator, *args)

    for module in (norms, ops):
        monkeypatch.setattr(module, "call", spy)
    return calls


@every_norm
def test_plain_tensors_meet_no_operator(norm: Norm, called: list[Any], rng: np.random.Generator) -> None:
    """With and without gradients, in inference mode, under autocast, and for what inference mode made."""
    dy, arrays = arguments(norm, "float32", rng)
    t = [tensor(a) for a in arrays]
    expected = run(norm, ours, tensor(dy), t)
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        copies = [a.clone() for a in t]
        with context:
            assert same(norm.forward(ours, *copies), expected[0])
    with torch.inference_mode():
        made = t[0].clone()
    with torch.no_grad():
        assert same(norm.forward(ours, made, *t[1:3], *(a.clone() for a in t[3:])), expected[0])
    assert called == []


def in_mode(f: Callable[[], Any], context: Any) -> None:
    with context:
        f()


def compiled(x: Any, capture: Any) -> Any:
    torch.compiler.reset()
    return torch.compile(lambda x: ours.layer_norm(x, (4,)), fullgraph=True, backend=capture)(x)


def fake(x: Any) -> Any:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        return ours.layer_norm(mode.from_tensor(x), (4,))


def symbolic(x: Any) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: ours.layer_norm(x, (4,)))(x)
    assert "numbanorm.normalize" in graph.code


class Silent(torch.Tensor):  # type: ignore[misc]
    __torch_function__ = torch._C._disabled_torch_function_impl


def batched(x: Any) -> None:
    leaf = x.clone().requires_grad_()
    grad(ours.layer_norm(leaf, (4,)), leaf, torch.ones(2, *x.shape), is_grads_batched=True)


def twice(x: Any) -> None:
    leaf = x.clone().requires_grad_()
    (g,) = grad(ours.layer_norm(leaf, (4,)).pow(3).sum(), leaf, create_graph=True)
    g.sum().backward()


def made_in_inference_mode() -> Any:
    with torch.inference_mode():
        return torch.zeros(6), torch.ones(6)


norm_of = {"layer": lambda x: ours.layer_norm(x, (4,)), "sum": lambda x: ours.layer_norm(x, (4,)).sum()}
ODD: dict[str, Callable[[Any], Any]] = {
    "dispatch mode": lambda x: in_mode(lambda: norm_of["layer"](x), Watch()),
    "profiler": lambda x: in_mode(lambda: norm_of["layer"](x), torch.profiler.profile()),
    "make_fx": symbolic,
    "export": lambda x: torch.export.export(torch.nn.Sequential(ours.LayerNorm(4)), (x,)),
    "compile": lambda x: compiled(x, lambda graph, _: graph),
    "fake": fake,
    "meta": lambda x: norm_of["layer"](x.to("meta")),
    "jit.trace": lambda x: torch.jit.trace(norm_of["layer"], (x,)),
    "vmap": lambda x: torch.func.vmap(norm_of["layer"])(x),
    "vmap beside": lambda x: torch.func.vmap(lambda a: a + norm_of["sum"](X))(x),
    "grad": lambda x: torch.func.grad(norm_of["sum"])(x),
    "subclass": lambda x: norm_of["layer"](x.as_subclass(Silent)),
    "negated view": lambda x: norm_of["layer"](torch._neg_view(x)),
    "buffers of inference mode": lambda x: in_mode(
        lambda: ours.batch_norm(x, *made_in_inference_mode(), training=True), torch.inference_mode()
    ),
}
BACKWARD: dict[str, Callable[[Any], Any]] = {"is_grads_batched": batched, "create_graph": twice}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.parametrize("name", list(ODD))
def test_torch_sees_what_it_wants_to_see(name: str, called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is at work: the operator, with the right numbers."""
    if name in ("export", "compile"):  # which read Python, and would read the spy
        monkeypatch.undo()
        seen: list[str] = []
        if name == "export":
            seen.append(str(ODD[name](X).graph))
        else:
            compiled(X, lambda graph, _: seen.append(graph.code) or graph)
        assert "numbanorm.normalize" in seen[0] or "numbanorm_normalize" in seen[0]
        return
    ODD[name](X)
    assert called
    assert set(called) <= {ops.normalize, ops.differentiate}
    assert called[0] is ops.normalize


@pytest.mark.parametrize("name", list(BACKWARD))
def test_a_backward_pass_that_torch_wants_to_see(name: str, called: list[Any]) -> None:
    """Of a forward pass that it did not."""
    BACKWARD[name](X)
    assert called
    assert set(called) == {ops.differentiate}


def test_a_mode_of_the_backward_pass_alone(called: list[Any]) -> None:
    leaf = X.clone().requires_grad_()
    y = norm_of["layer"](leaf)
    expected = grad(y, leaf, X, retain_graph=True)
    assert called == []
    with Watch():
        assert same(grad(y, leaf, X)[0], expected[0])
    assert called == [ops.differentiate]


def test_a_profile_names_the_operators() -> None:
    with torch.profiler.profile() as profile:
        norm_of["layer"](X)
    assert "numbanorm::normalize" in {event.key for event in profile.key_averages()}


@every_dtype
@every_norm
def test_the_bits_are_the_same_either_way(norm: Norm, dtype: str, called: list[Any], rng: np.random.Generator) -> None:
    """Results, gradients, running statistics, their versions, and strides; of contiguous, channels_last and strided tensors."""
    dy, arrays = arguments(norm, dtype, rng)
    for layout in (torch.contiguous_format, torch.channels_last):
        outcomes: list[list[Any]] = []
        for context in (nullcontext(), Watch()):
            t = [tensor(a) for a in arrays]
            t[0] = t[0].contiguous(memory_format=layout)
            leaves = [p.requires_grad_() for p in t[: 3 if norm.bias else 2]]
            with context:
                y = norm.forward(ours, *t)
                gradients = grad(y, leaves, tensor(dy).transpose(0, 1).contiguous().transpose(0, 1))
            outcomes.append([y, *gradients, *t[3:]])
        for a, b in zip(*outcomes, strict=True):
            assert same(a, b)
            assert a.stride() == b.stride()
            assert a._version == b._version
    assert set(called) == {ops.normalize, ops.differentiate}


@pytest.mark.parametrize("context", [nullcontext, Watch])
def test_running_statistics_that_a_graph_needs(context: Any) -> None:
    """An update in place is one for autograd."""
    m, v, w = torch.zeros(6), torch.ones(6), torch.ones(6, requires_grad=True)
    product = (m * w).sum()
    with context():
        ours.batch_norm(X, m, v, training=False)
        ours.batch_norm(X, m, v, training=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("context", [nullcontext, Watch])
def test_what_a_graph_keeps(context: Any) -> None:
    """Tensors that were changed since are refused, and so is a second pass, but for retain_graph."""
    for changed in (0, 1):
        leaves = [X.clone().requires_grad_(), torch.ones(4, requires_grad=True)]
        inner = [t * 1 for t in leaves]
        with context():
            y = ours.layer_norm(inner[0], (4,), inner[1])
        with torch.no_grad():
            inner[changed].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    leaf = X.clone().requires_grad_()
    with context():
        y = ours.batch_norm(leaf, torch.zeros(6), torch.ones(6))  # of which no tensor of the caller's is kept
    first = grad(y, leaf, X, retain_graph=True)
    assert same(first[0], grad(y, leaf, X)[0])
    with pytest.raises(RuntimeError, match="a second time"):
        grad(y, leaf, X)


ONES, HALVES = torch.ones(6), torch.ones(6, dtype=torch.float16)
WRONG: dict[str, Callable[[Any, Any], Any]] = {
    "one value": lambda m, v: ours.batch_norm(X[:1, :, 0], m, v, training=True),
    "momentum": lambda m, v: ours.batch_norm(X, m, v, training=True, momentum=1.5),
    "momentum is a word": lambda m, v: ours.batch_norm(X, m, v, training=True, momentum="a"),
    "average": lambda m, v: ours.batch_norm(X, m, v, training=True, momentum=None),
    "eps": lambda m, v: ours.batch_norm(X, m, v, training=True, eps=-1.0),
    "exact": lambda m, v: ours.batch_norm(X, m, v, training=True, exact=1),
    "weight": lambda m, v: ours.batch_norm(X, m, v, torch.ones(5), training=True),
    "bias": lambda m, v: ours.batch_norm(X, m, v, ONES, HALVES, training=True),
    "integers": lambda m, v: ours.batch_norm(X.long(), m, v, training=True),
    "statistics": lambda m, v: ours.batch_norm(X[:, :5], m, v, training=True),
    "one of two": lambda m, v: ours.batch_norm(X, m, None, training=True),
    "a leaf": lambda m, v: ours.batch_norm(X, m.requires_grad_(), v, training=True),
    "one number": lambda m, v: ours.batch_norm(X, torch.zeros(1).expand(6), v, training=True),
    "sizes": lambda m, v: ours.layer_norm(X, (4.0,)),
    "groups": lambda m, v: ours.group_norm(X, 4),
    "array": lambda m, v: ours.layer_norm(X.numpy(), (4,)),
    "words": lambda m, v: ours.layer_norm(X, "ab"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_refusals_are_the_same_either_way(wrong: str) -> None:
    """The same words, and neither numbers nor versions of running statistics have changed."""
    ours.layer_norm(X, (4,))  # the call is known: 4.0 must not pass for 4
    words = []
    for context in (nullcontext(), Watch()):
        m, v = torch.zeros(6), torch.ones(6)
        with context, pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
            WRONG[wrong](m, v)
        words.append((type(caught.value), str(caught.value)))
        assert (m.tolist(), v.tolist()) == ([0.0] * 6, [1.0] * 6)
        assert (m._version, v._version) == (0, 0)
    assert words[0] == words[1]


TAKEN: dict[str, Callable[[Any, Any], Any]] = {
    "one tensor for both": lambda m, v: ours.batch_norm(X, m, m, training=True),
    "weights": lambda m, v: ours.batch_norm(X, m, v, v, m, training=True),
    "strided": lambda m, v: ours.batch_norm(X[:, :3], m[::2], v[::2], training=True),
    "other types": lambda m, v: ours.batch_norm(X.double(), m, v, HALVES, HALVES, training=True),
    "numbers": lambda m, v: ours.batch_norm(X, m, v, None, None, 1, 1, 1),
    "nothing": lambda m, v: ours.batch_norm(X[:0], m, v, training=True),
    "bias alone": lambda m, v: ours.batch_norm(X, m, v, None, ONES, True),
    "eps of None": lambda m, v: ours.layer_norm(X, (4,), eps=None),
    "list": lambda m, v: ours.layer_norm(X, [6, 4]),
}


@pytest.mark.parametrize("taken", list(TAKEN))
def test_what_is_taken_is_the_same_either_way(taken: str) -> None:
    outcomes = []
    for context in (nullcontext(), Watch()):
        m, v = torch.zeros(6), torch.ones(6)
        with context:
            outcomes.append([TAKEN[taken](m, v), m, v])
    assert all(map(same, *outcomes))


def test_below_autograd_nothing_is_recorded() -> None:
    """As in the body of an operator of the caller's."""
    leaf = X.clone().requires_grad_()
    with torch._C._AutoDispatchBelowAutograd():
        assert ours.layer_norm(leaf, (4,)).grad_fn is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    model = torch.nn.Sequential(torch.nn.Linear(4, 8), ours.LayerNorm(8), torch.nn.ReLU(), ours.RMSNorm(8))
    outcomes = []
    for call in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        leaf = X.clone().requires_grad_()
        model.zero_grad()
        call(leaf).pow(2).sum().backward()
        outcomes.append([leaf.grad, *(p.grad for p in model.parameters())])
    assert all(map(same, *outcomes))


def test_hooks_and_autocast(called: list[Any]) -> None:
    """Of tensors, modules and the graph; autocast leaves the norm in its input's type."""
    layer, seen = ours.LayerNorm(4), []
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    leaf = X.clone().requires_grad_()
    leaf.register_hook(lambda g: g * 2)
    y = layer(leaf)
    y.register_hook(lambda g: g.transpose(0, 1).contiguous().transpose(0, 1))
    y.grad_fn.register_hook(lambda *_: seen.append("node"))
    assert y.grad_fn.name() == "BackwardHookFunctionBackward"
    y.pow(2).sum().backward()
    assert seen == ["forward", "node", "backward"]
    plain = X.clone().requires_grad_()
    ours.layer_norm(plain, (4,), layer.weight, layer.bias).pow(2).sum().backward()
    assert same(leaf.grad, plain.grad * 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(torch.nn.functional.linear(X, torch.eye(4)))
    assert z.dtype == torch.bfloat16
    assert called == []


def test_whole_models_meet_no_operator(called: list[Any]) -> None:
    """Converted, in training and evaluation, of plain and channels_last images."""
    torch.manual_seed(0)
    model = ours.convert(torch.nn.Sequential(torch.nn.Conv2d(6, 6, 1), torch.nn.BatchNorm2d(6), torch.nn.InstanceNorm2d(6)))
    for layout in (torch.contiguous_format, torch.channels_last):
        model(torch.randn(SHAPE).contiguous(memory_format=layout)).sum().backward()
    model[1].momentum = None
    model(torch.randn(SHAPE))
    model.eval()(torch.randn(SHAPE))
    assert called == []
    assert model[1].num_batches_tracked == 3


def test_gradients_reach_several_processes(called: list[Any]) -> None:
    """DistributedDataParallel in one process, which is enough for its hooks; of no network, where sandboxes let gloo wait."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # adds the backend "fake"

    def finished(mean: Any) -> Any:
        """What an all-reduce returns."""
        future: Any = torch.futures.Future()
        future.set_result(mean)
        return future

    torch.distributed.init_process_group("fake", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), ours.LayerNorm(4), ours.BatchNorm1d(6))
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        parallel.register_comm_hook(None, lambda _, bucket: finished(bucket.buffer()))  # the mean over one process
        outcomes = []
        for m in (model, parallel):
            m.zero_grad()
            m(X).pow(3).sum().backward()
            outcomes.append([p.grad.clone() for p in model.parameters()])
    finally:
        torch.distributed.destroy_process_group()
    assert all(map(same, *outcomes))
    assert called == []
