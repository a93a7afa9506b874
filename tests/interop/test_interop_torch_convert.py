"""What `convert` does to whole models, what `report` says of them, and what else of torch meets a converted one."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch_norms import ours, same, torch

norms: Any = importlib.import_module("numbanorm.interop.torch.norms")

nn: Any = torch.nn
PAGE = Path(__file__).parents[2] / "docs" / "torch.md"
# torch's older machinery says of itself that it is deprecated
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning"),
]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """The same numbers in every run, and one thread."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(a: Any, b: Any) -> None:
    """Equal to rounding: torch computes in float32."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def calls(run: Callable[[], Any]) -> tuple[Any, int]:
    """What `run` returns, and how often it called a norm of numbanorm."""
    counted: list[str] = []
    original = norms._apply

    def apply(*args: Any, **options: Any) -> Any:
        counted.append(args[0])
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "_apply", apply)
        return run(), len(counted)


def net() -> Any:
    """One norm of each kind, in evaluation, with statistics of its own."""
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True))
    model = nn.Sequential(*layers, nn.LayerNorm((6, 6)), nn.RMSNorm(6))
    model(torch.randn(4, 3, 8, 8))
    return model.eval()


X = (2, 3, 8, 8)

# TransformerEncoder


def encoder(layers: int = 2, **options: Any) -> Any:
    options = {"dim_feedforward": 24, "batch_first": True, "activation": "gelu", **options}
    nested = not options.get("norm_first", False)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 4, **options), layers, nn.LayerNorm(12), nested)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "relu"}], ids=["last", "first", "relu"])
def test_encoder_layers_call_their_norms(options: Any, padding: Any) -> None:
    """Without gradients torch would compute them by one operator, from the norms' parameters. Padded places stay zero."""
    model = encoder(**options)
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)
        y, count = calls(lambda: ours.convert(model)(x, src_key_padding_mask=padding))
    assert count == 5
    close(y, expected)
    if padding is None:
        close(model(x), expected)  # with gradients


def test_encoder_is_reverted() -> None:
    """To the fused operator and its bits, and to no attribute more than before."""
    model = encoder()
    x = torch.randn(2, 5, 12)
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=PADDING)
        ours.convert(ours.convert(model))
        model(x)
        ours.revert(model)
        y, count = calls(lambda: model(x, src_key_padding_mask=PADDING))
    assert count == 0
    assert same(y, expected)
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == before


def test_encoder_that_was_not_fused_stays_so() -> None:
    model = encoder()
    model.layers[0].activation_relu_or_gelu = 0
    ours.revert(ours.convert(model))
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [0, 2]


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
def test_converted_encoder_is_copied(way: str) -> None:
    model = ours.convert(encoder())
    if way == "state_dict":
        twin = encoder()
        assert list(twin.state_dict()) == list(model.state_dict())
        twin.load_state_dict(model.state_dict())
        ours.convert(twin)
    else:
        twin = pickle.loads(pickle.dumps(model)) if way == "pickle" else copy.deepcopy(model)
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        y, count = calls(lambda: twin(x, src_key_padding_mask=PADDING))
        assert same(y, model(x, src_key_padding_mask=PADDING))
    assert count == 5
    ours.revert(twin)
    assert twin.layers[0].activation_relu_or_gelu == 2


class Layer(nn.TransformerEncoderLayer):  # type: ignore[misc,name-defined]
    """A subclass, of which torch's forward asks the same."""


def test_subclass_of_an_encoder_layer() -> None:
    layer = ours.convert(Layer(12, 4, 24, batch_first=True).eval())
    with torch.no_grad():
        assert calls(lambda: layer(torch.randn(2, 5, 12)))[1] == 2


def test_encoder_of_a_converted_layer() -> None:
    """torch asks the layer whether nested tensors are worth while, and says that they are not."""
    layer = ours.convert(nn.TransformerEncoderLayer(12, 4, 24, batch_first=True))
    with pytest.warns(UserWarning, match="activation_relu_or_gelu was not True"):
        model = nn.TransformerEncoder(layer, 2).eval()
    with torch.no_grad():
        assert calls(lambda: model(torch.randn(2, 5, 12), src_key_padding_mask=PADDING))[1] == 4


def test_layers_converted_within_an_encoder_that_was_not() -> None:
    model = encoder()
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=PADDING)
        for layer in model.layers:
            ours.convert(layer)
        y, count = calls(lambda: model(x, src_key_padding_mask=PADDING))
    assert count == 4
    close(y, expected)


def test_norms_put_into_an_encoder_layer_by_hand() -> None:
    layer = nn.TransformerEncoderLayer(12, 4, 24, batch_first=True).eval()
    layer.norm1 = ours.LayerNorm(12)
    assert [n.why for n in ours.report(layer)] == [
        "bypassed by TransformerEncoderLayer in evaluation without gradients; call convert on the whole model",
        "still torch's; call convert",
    ]
    ours.convert(layer)
    assert all(n.converted for n in ours.report(layer))


def test_decoder_and_whole_transformer() -> None:
    model = nn.Transformer(12, 4, 1, 1, 24, batch_first=True).eval()
    x, y = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    with torch.no_grad():
        expected = model(x, y)
        got, count = calls(lambda: ours.convert(model)(x, y))
    assert count == len(ours.report(model)) == 7
    close(got, expected)


RAGGED = [(3, 6), (5, 6), (1, 6)]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_nested_tensors(norm: Any) -> None:
    """All parts in one call, with the bits and gradients of each alone, which torch's RMSNorm cannot."""
    layer = ours.convert(norm(6))
    nn.init.uniform_(layer.weight, 0.5, 2)
    leaves = [torch.randn(shape, requires_grad=True) for shape in RAGGED]
    y, count = calls(lambda: layer(torch.nested.as_nested_tensor(leaves)))
    assert count == 1
    for a, leaf in zip(y.unbind(), leaves, strict=True):
        assert same(a, layer(leaf))
    got = torch.autograd.grad(sum(part.pow(3).sum() for part in y.unbind()), [*leaves, layer.weight])
    expected = torch.autograd.grad(sum(layer(leaf).pow(3).sum() for leaf in leaves), [*leaves, layer.weight])
    for a, b in zip(got, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_jagged_tensors_are_torch_own(norm: Any) -> None:
    nested = torch.nested.nested_tensor([torch.randn(shape) for shape in RAGGED], layout=torch.jagged)
    layer = norm(6)
    expected = layer(nested)
    y, count = calls(lambda: ours.convert(layer)(nested))
    assert count == 0
    assert same(y.values(), expected.values())
    assert (y + nested).shape == nested.shape  # one ragged size


def test_nested_tensors_that_do_not_fit() -> None:
    """torch's own words."""
    nested = torch.nested.nested_tensor([torch.randn(shape) for shape in RAGGED])
    for layer in (nn.LayerNorm(5), nn.BatchNorm1d(6), nn.GroupNorm(2, 6)):
        for change in (ours.convert, ours.revert):
            with pytest.raises((RuntimeError, ValueError, IndexError)) as told:
                change(layer)(nested)
            layer.told = [*getattr(layer, "told", []), str(told.value)]
        assert layer.told[0] == layer.told[1]


def test_functions_refuse_nested_tensors() -> None:
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.randn(3, 6), torch.randn(5, 6)], layout=layout)
        with pytest.raises(TypeError, match=r"input must not be nested: got torch.*; call torch.nn.functional's, or pad"):
            ours.layer_norm(nested, (6,))


# report


class LlamaRMSNorm(nn.Module):  # type: ignore[misc,name-defined]
    """As in transformers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = 1e-6


class Own(nn.LayerNorm):  # type: ignore[misc,name-defined]
    """A subclass with a forward of its own."""

    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class Heir(nn.LayerNorm):  # type: ignore[misc,name-defined]
    """A subclass without."""


class Mine(ours.LayerNorm):  # type: ignore[misc,name-defined]
    """A subclass of this package's, with a forward of its own."""

    def forward(self, x: Any) -> Any:
        return x


class Named(nn.Module):  # type: ignore[misc,name-defined]
    """Named like a norm, but without what norms have."""

    NormOfNothing = 1


class FrozenBatchNorm2d(nn.Module):  # type: ignore[misc,name-defined]
    """As in torchvision."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(size))


def patched() -> Any:
    layer = nn.LayerNorm(4)
    layer.forward = lambda x: x
    return layer


def parametrized() -> Any:
    return nn.utils.parametrizations.weight_norm(nn.LayerNorm(4), dim=None)


REASONS: dict[str, tuple[Callable[[], Any], str]] = {
    "torch's": (lambda: nn.BatchNorm2d(4), ""),
    "RMS": (lambda: nn.RMSNorm(4), ""),
    "patched": (patched, "its forward was replaced on the instance"),
    "own": (lambda: Own(4), "subclass of torch.nn.LayerNorm, with a forward of its own"),
    "heir": (lambda: Heir(4), "subclass of torch.nn.LayerNorm, which may compute something else"),
    "mine": (lambda: Mine(4), "subclass of LayerNorm with a forward of its own"),
    "llama": (lambda: LlamaRMSNorm(4), "not a class of torch.nn's"),
    "lazy": (lambda: nn.LazyBatchNorm1d(), "lazy; call convert after its first call"),
    "sync": (lambda: nn.SyncBatchNorm(4), "its statistics are those of all processes"),
    "frozen": (lambda: FrozenBatchNorm2d(4), "frozen: multiplies and adds, and takes no statistics"),
    "response": (
        lambda: nn.LocalResponseNorm(4),
        "divides by sums over neighbouring channels, which no norm of numbanorm does",
    ),
    "parametrized": (parametrized, "parametrized; call convert before it is"),
    "quantized": (lambda: torch.ao.nn.quantized.BatchNorm2d(4), "quantized"),
    "scripted": (lambda: torch.jit.script(nn.LayerNorm(4)), "compiled by TorchScript"),
}


@pytest.mark.parametrize("case", list(REASONS))
def test_reasons(case: str) -> None:
    make, why = REASONS[case]
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.ModuleList([make()])})
    kind = type(model["b"][0])
    ours.convert(model)
    (layer,) = ours.report(model)
    assert (layer.name, layer.converted, layer.why) == ("b.0", not why, why)
    assert (type(model["b"][0]) is kind) == bool(why)


def test_report_before_convert_and_after_revert() -> None:
    model = net()
    for _ in range(2):
        found = ours.report(model)
        assert [n.kind for n in found] == ["BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm", "RMSNorm"]
        assert {(n.converted, n.why) for n in found} == {(False, "still torch's; call convert")}
        assert all(n.converted for n in ours.report(ours.convert(model)))
        ours.revert(model)


def test_report_is_a_table() -> None:
    model = ours.convert(nn.Sequential(nn.BatchNorm2d(4), Own(4), nn.Linear(4, 4)))
    assert str(ours.report(model)).splitlines() == [
        "0  BatchNorm2d  numbanorm",
        "1  Own          left alone: subclass of torch.nn.LayerNorm, with a forward of its own",
        "1 of 2 norm layers are computed by numbanorm",
    ]
    assert str(ours.report(ours.LayerNorm(4))).startswith("(itself)  LayerNorm  numbanorm\n")
    assert str(ours.report(nn.Linear(4, 4))) == "0 of 0 norm layers are computed by numbanorm"
    assert ours.report(nn.ModuleList([Named()])) == ()


def exacts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The `exact` of every call that computes, forward and backward, from now on."""
    from numbanorm.interop.torch import operators

    seen: list[bool] = []

    def watch(name: str, exact_of: Any) -> None:
        original = getattr(operators, name)

        def spy(*args: Any) -> Any:
            result = original(*args)
            if result is not None:  # else another way is taken
                seen.append(exact_of(*args))
            return result

        monkeypatch.setattr(operators, name, spy)

    watch("forward", lambda norm, x, which, affine, how, running, where: how[1])
    watch("backward", lambda norm, dy, x, which, stats, weight, how, own: how[1])
    watch("normalized_at", lambda x, weight, bias, running, how, with_stats: how[-1])
    watch("differentiated_at", lambda dy, x, weight, stats, how, needs: how[-1])
    return seen


@pytest.mark.parametrize("exact", [False, True])
def test_exact_reaches_every_function(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, of layers that were converted, copied and pickled, and of those that were made so."""
    seen, model = exacts(monkeypatch), ours.convert(net(), exact=exact)
    for m in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        m(torch.randn(X, requires_grad=True)).sum().backward()
        assert seen == [exact] * 10
        seen.clear()
        assert all(n.exact is exact for n in ours.report(m))
    layers = (ours.BatchNorm2d(4, momentum=None, exact=exact), ours.LayerNorm(6, exact=exact), ours.RMSNorm(6, exact=exact))
    for layer in layers:
        layer(torch.randn(2, 4, 6, 6, requires_grad=True)).sum().backward()
        assert repr(layer).endswith(", exact=True)") is exact
    assert seen == [exact] * 6
    assert str(ours.report(layers[1])).startswith(f"(itself)  LayerNorm  numbanorm{', exact' * exact}\n")
    ours.revert(model)
    assert not any(hasattr(m, "exact") for m in model.modules())


def test_exact_of_layers_that_were_converted_before() -> None:
    """True is for all of them; without it those that have it keep it."""
    model = ours.convert(nn.Sequential(ours.LayerNorm(4, exact=True), ours.LayerNorm(4), nn.LayerNorm(4), Own(4)))
    assert [n.exact for n in ours.report(model)] == [True, False, False, False]
    assert [n.exact for n in ours.report(ours.convert(model, exact=True))] == [True, True, True, False]


@pytest.mark.parametrize("exact", [1, None, "yes"])
def test_exact_is_a_bool(exact: Any) -> None:
    model, x = nn.LayerNorm(4), torch.ones(2, 4)
    for call in (lambda: ours.convert(model, exact), lambda: ours.LayerNorm(4, exact=exact),
                 lambda: ours.layer_norm(x, (4,), exact=exact)):  # fmt: skip
        with pytest.raises(TypeError, match="exact must be True or False: got"):
            call()
    assert type(model) is nn.LayerNorm


def test_report_names_devices_that_are_refused() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = ours.convert(nn.Sequential(nn.LayerNorm(4, device="mps"), nn.LayerNorm(4, device="meta")))
        assert [n.why for n in ours.report(model)] == ["on mps:0; move it to the CPU or a CUDA device", ""]


def test_layer_with_a_patched_forward_is_left_alone() -> None:
    layer = patched()
    x = torch.randn(3, 4)
    assert ours.convert(layer)(x) is x
    assert type(layer) is nn.LayerNorm


# what else of torch meets a converted model: docs/torch.md has a row for each


def test_fuse_modules_wants_torch_own() -> None:
    from torch.ao.quantization import fuse_modules

    model, x = ours.convert(net()), torch.randn(X)
    expected = model(x)
    with pytest.raises((AssertionError, NotImplementedError), match=r"fuser method for: .*interop.torch.BatchNorm2d"):
        fuse_modules(model, ["0", "1"])
    fused = fuse_modules(ours.revert(model), ["0", "1"])
    assert type(fused[1]) is nn.Identity
    close(ours.convert(fused)(x), expected)


def test_fx_fuses_torch_own_only() -> None:
    from torch.fx.experimental.optimization import fuse

    model, x = ours.convert(net()), torch.randn(X)
    expected = model(x)
    assert same(fuse(model)(x), expected)
    fused = fuse(ours.revert(model))
    assert [n.kind for n in ours.report(fused)] == [n.kind for n in ours.report(model)][1:]
    close(ours.convert(fused)(x), expected)


def test_fuse_conv_bn_eval() -> None:
    model, x = ours.convert(net()), torch.randn(X)
    fused = nn.utils.fuse_conv_bn_eval(model[0], model[1])
    close(fused(x), model[1](model[0](x)))


def test_initializers_that_compare_classes_come_first() -> None:
    def initialize(m: Any) -> None:
        if type(m) is nn.BatchNorm2d:
            nn.init.constant_(m.weight, 0.5)

    late = ours.convert(nn.Sequential(nn.BatchNorm2d(2))).apply(initialize)
    early = ours.convert(nn.Sequential(nn.BatchNorm2d(2)).apply(initialize))
    assert (late[0].weight.tolist(), early[0].weight.tolist()) == ([1.0, 1.0], [0.5, 0.5])
    assert ours.revert(late).apply(initialize)[0].weight.tolist() == [0.5, 0.5]


def test_script_says_what_to_do() -> None:
    model, x = ours.convert(net()), torch.randn(X)
    modules = list(model)
    with pytest.raises(TypeError, match=r"got numbanorm's BatchNorm2d; write torch.jit.script\(revert\(model\)\)"):
        torch.jit.script(model)
    assert all(a is b for a, b in zip(model, modules, strict=True))
    expected = model(x)
    close(torch.jit.script(ours.revert(model))(x), expected)


def normalized(x: Any) -> Any:
    """A user's function."""
    return ours.layer_norm(x, [6])


def test_script_of_a_function_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"got numbanorm's layer_norm; write torch.nn.functional.layer_norm"):
        torch.jit.script(normalized)


def test_parametrized_after_convert() -> None:
    """numbanorm computes it; `revert` reaches it when it is what it was."""
    model = ours.convert(nn.Sequential(nn.LayerNorm(6)))
    nn.utils.parametrizations.weight_norm(model[0], dim=None)
    assert ours.report(ours.revert(model))[0].converted
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(ours.revert(model)[0]) is nn.LayerNorm


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # deprecated
def test_quantized_models_want_torch_own() -> None:
    quantized = torch.quantize_per_tensor(torch.randn(2, 6), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"input must not be quantized: got torch.quint8; quantize revert\(model\), or"):
        ours.LayerNorm(6)(quantized)


def test_synchronized_layers_are_reported() -> None:
    """torch makes them of any batch norm, converted ones too."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(ours.convert(net()))
    assert [(n.name, n.why) for n in ours.report(model) if not n.converted] == [("1", REASONS["sync"][1])]


traced_branches = pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning")


@traced_branches  # of torch's InstanceNorm, converted or not
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_trace_and_load(training: bool) -> None:
    model, x = ours.convert(net()).train(training), torch.randn(X)
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(copy.deepcopy(model), x, check_trace=False), stream)
    stream.seek(0)
    traced, y = torch.jit.load(stream), torch.randn(X)
    model(x)  # as the tracer did
    assert same(traced(y), model(y))
    assert all(map(same, traced.buffers(), model.buffers()))


def test_symbolic_trace_takes_the_modules_for_leaves() -> None:
    for training in (False, True):
        model, x = ours.convert(net()).train(training), torch.randn(X)
        traced = torch.fx.symbolic_trace(model)
        twin = copy.deepcopy(model)
        assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == [str(k) for k in range(7)]
        assert same(traced(x), twin(x))
        assert all(map(same, traced.buffers(), twin.buffers()))
    assert all(n.converted for n in ours.report(traced))


def test_convert_after_symbolic_trace_and_after_compile() -> None:
    model, x = net(), torch.randn(X)
    expected = ours.convert(copy.deepcopy(model))(x)
    assert same(ours.convert(torch.fx.symbolic_trace(copy.deepcopy(model)))(x), expected)
    torch.compiler.reset()
    fast = torch.compile(model, backend="eager")
    fast(x)
    assert same(ours.convert(fast)(x), expected)
    ours.revert(fast)
    assert same(fast(x), model(x))
    torch.compiler.reset()


def test_per_sample_gradients_are_torch_own() -> None:
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    layers = (nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm(6))
    model = nn.Sequential(*layers)
    twin, x = ours.convert(copy.deepcopy(model)), torch.randn(3, 2, 8)
    for m in (model, twin):
        call_for_per_sample_grads(m)(x).pow(3).sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.grad_sample.shape == (3, *p.shape)
        close(q.grad_sample, p.grad_sample)


def test_functional_call() -> None:
    model, x = ours.convert(net()), torch.randn(X)
    doubled = {name: 2 * p for name, p in model.named_parameters()}
    y = torch.func.functional_call(model, doubled, (x,))
    twin = copy.deepcopy(model)
    twin.load_state_dict(doubled, strict=False)
    assert same(y, twin(x))


def test_export_and_compile_of_an_encoder() -> None:
    model, x = ours.convert(encoder()), torch.randn(2, 5, 12)
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=PADDING)
        program = torch.export.export(model, (x,), {"src_key_padding_mask": PADDING})
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        for f in (
            compiled,
            program.module(),
        ):  # for these, torch makes no nested tensors: padded places differ, as they do there
            close(f(x, src_key_padding_mask=PADDING)[~PADDING], expected[~PADDING])
    targets = [str(n.target) for n in program.graph.nodes]
    assert targets.count("numbanorm.normalize.default") == 5
    torch.compiler.reset()


@traced_branches
def test_models_for_onnx_are_torch_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the exporter captures holds operators of torch only. Its flag is set by hand, for onnx need not be installed."""
    model, x = ours.convert(net()), torch.randn(X)
    expected = ours.revert(copy.deepcopy(model))(x)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    program = torch.export.export(model, (x,), strict=False)
    assert not any("numbanorm" in str(n.target) for n in program.graph.nodes)
    assert same(program.module()(x), expected)
    assert "numbanorm::" not in str(torch.jit.trace(model, x).inlined_graph)
    assert calls(lambda: model(x))[1] == 5  # the flag alone, without a capture, changes nothing


def onnx_model(dynamo: bool, path: Path) -> tuple[Any, Any, Any]:
    """A converted model, its input, and what onnxruntime computes of what torch exported."""
    for package in ("onnx", "onnxruntime", *(["onnxscript"] if dynamo else [])):
        pytest.importorskip(package, reason=f"{package} is not installed: nothing else writes or runs ONNX files")
    import onnxruntime

    model, x = ours.convert(net()[:6]).eval(), torch.randn(X)  # the older exporter has no RMSNorm
    torch.onnx.export(model, (x,), str(path), dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return model, x, session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@traced_branches
@pytest.mark.filterwarnings("ignore:ONNX export mode is set to:UserWarning")  # for torch's InstanceNorm as well
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporters
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_onnx_file(dynamo: bool, tmp_path: Path) -> None:
    model, x, y = onnx_model(dynamo, tmp_path / "model.onnx")
    close(torch.from_numpy(y), model(x).detach())
    assert all(n.converted for n in ours.report(model))


def cells() -> list[str]:
    """What docs/torch.md has in its tables."""
    return [cell.strip().strip("`") for line in PAGE.read_text().splitlines() if line[:1] == "|" for cell in line.split("|")]


def test_reasons_are_in_the_docs() -> None:
    assert {why for _, why in REASONS.values() if why} <= set(cells())


def test_messages_are_in_the_docs() -> None:
    jagged = torch.nested.nested_tensor([torch.randn(3, 6)], layout=torch.jagged)
    failing = [
        lambda: ours.layer_norm(jagged, (6,)),
        lambda: torch.jit.script(ours.BatchNorm2d(4)),
        lambda: torch.jit.script(normalized),
    ]
    for call in failing:
        with pytest.raises(TypeError) as told:
            call()
        assert str(told.value) in cells()
