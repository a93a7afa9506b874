"""RMS norms of the library transformers that `convert` recognizes: its own, and as it writes them in a module of such a name.

Results are compared with the module's own before it is converted, for every place where its formula rounds.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import pickle
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch_norms import ours, same, torch

recognized: Any = importlib.import_module("numbanorm.interop.torch.recognized")
converted: Any = importlib.import_module("numbanorm.interop.torch.convert")

NAME = "transformers.models.fake.modeling_fake"
SHAPE, SIZE = (4, 32, 96), 96
HALVES = (torch.float16, torch.bfloat16)
TYPES = (torch.float32, *HALVES)


def loaded() -> Any:
    """tests/support/modeling_fake.py under a name of the library's."""
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).parents[1] / "support" / "modeling_fake.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = loaded()
every_formula = pytest.mark.parametrize("cls", fake.KNOWN, ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names by which pickle finds the classes."""
    for name in {"transformers", "transformers.models", "transformers.models.fake"} - sys.modules.keys():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, NAME, fake)


def norm(cls: Any, kind: Any = torch.float32) -> Any:
    """A norm with a weight of this type that is not 1."""
    layer = cls(SIZE, eps=1e-5)
    for p in layer.parameters():
        torch.nn.init.normal_(p, 0.7, 0.4)
    return layer.to(kind)


def computed(layer: Any, x: Any) -> list[Any]:
    """y, dx, and dweight if it has one."""
    x, weight = x.clone().requires_grad_(), getattr(layer, "weight", None)
    leaves = [x] if weight is None else [x, weight]
    y = layer(x)
    upstream = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    return [y.detach(), *(g for g in torch.autograd.grad(y, leaves, upstream, allow_unused=True) if g is not None)]


def close(own: list[Any], got: list[Any], types: Any = ()) -> None:
    """y and gradients; types: those of x and weight.

    y of float32 alone is within a few units of its last place. Where a half type is rounded to, results are equal, but for
    those, fewer than one in 1000, where the last bits of float32 decide: there is a step of that type before the weight, or two
    after. A gradient of weight is a sum of 128 terms, which the module adds in its own order, and of a half type rounds first.
    """
    step = max((torch.finfo(t).eps for t in types if t in HALVES), default=0.0)
    for a, b in zip(own, got, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    y, our_y = own[0].double(), got[0].double()
    apart = (y - our_y).abs() / y.abs()
    assert apart.max() <= 2 * step + 1e-6
    assert (apart > 1e-6).sum() <= apart.numel() / 1000
    for a, b in zip(own[1:], got[1:], strict=True):
        rtol = max(4 * step, 2e-6)
        torch.testing.assert_close(b, a, rtol=rtol, atol=rtol * a.abs().max().item())


@pytest.mark.parametrize("weight", TYPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@every_formula
def test_results_are_the_modules_own(cls: Any, dtype: Any, weight: Any) -> None:
    """Every place of rounding, and the type of the result, with any two types."""
    layer, x = norm(cls, weight), torch.randn(SHAPE).mul(3).to(dtype)
    own = computed(layer, x)
    close(own, computed(ours.convert(layer), x), (dtype, weight))
    assert ours.report(layer)[0].converted


@every_formula
def test_float64(cls: Any) -> None:
    """The module computes in float32, where x keeps its digits here. A weight of float64 makes the same types."""
    x = torch.randn(SHAPE, dtype=torch.float64)
    for kind, dtype in ((torch.float64, torch.float64), (torch.float64, torch.float32), (torch.float32, torch.float64)):
        layer = norm(cls, kind)
        own = computed(layer, x.to(dtype))
        close(own, computed(ours.convert(layer), x.to(dtype)))


def test_weight_of_halves_is_rounded_where_the_module_does() -> None:
    """The table of types would pass if both formulas were the same: they are not."""
    x = torch.randn(SHAPE).bfloat16()
    first, once = (norm(cls, torch.bfloat16) for cls in (fake.LlamaRMSNorm, fake.MoshiRMSNorm))
    once.load_state_dict(first.state_dict())
    ours.convert(torch.nn.ModuleList([first, once]))
    assert (first(x) != once(x)).float().mean() > 0.1


def test_converted_is_the_same_object() -> None:
    layer = norm(fake.LlamaRMSNorm)
    seen: list[Any] = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    before, shown, state = dict(vars(layer)), repr(layer), layer.state_dict()
    assert ours.convert(layer) is layer
    assert type(layer) is not fake.LlamaRMSNorm
    assert isinstance(layer, fake.LlamaRMSNorm)
    assert vars(layer) == before
    assert repr(layer) == shown == f"LlamaRMSNorm(({SIZE},), eps=1e-05)"
    assert list(layer.state_dict()) == list(state) == ["weight"]
    layer.load_state_dict(state)
    layer(hidden_states=torch.randn(SHAPE))
    assert seen == [1]
    assert ours.revert(layer) is layer
    assert type(layer) is fake.LlamaRMSNorm
    assert vars(layer) == before
    twin = norm(fake.LlamaRMSNorm)
    assert type(ours.convert(twin)) is type(ours.convert(layer))


@pytest.mark.usefixtures("_importable")
@every_formula
@pytest.mark.parametrize("exact", [False, True])
def test_copies(cls: Any, exact: bool) -> None:
    """By pickle, of any protocol, and deepcopy: converted as the first, and reverted as it is."""
    layer, x = ours.convert(torch.nn.Sequential(norm(cls)), exact=exact), torch.randn(SHAPE)
    pickles = [pickle.dumps(layer, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (copy.deepcopy(layer), *map(pickle.loads, pickles)):
        assert same(twin(x), layer(x))
        assert type(twin[0]) is type(layer[0])
        assert (twin[0].exact, vars(twin[0]).keys()) == (exact, vars(layer[0]).keys())
        assert type(ours.revert(twin)[0]) is cls
        assert "exact" not in vars(twin[0])


@pytest.mark.usefixtures("_importable")
def test_pickle_meets_another_version_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose class computes what is not known: the module is then the library's own."""
    data = pickle.dumps(ours.convert(norm(fake.LlamaRMSNorm)))
    monkeypatch.delitem(converted.OURS, fake.LlamaRMSNorm)
    monkeypatch.setattr(fake.LlamaRMSNorm, "forward", fake.OtherRMSNorm.forward)
    twin = pickle.loads(data)
    assert type(twin) is fake.LlamaRMSNorm
    assert ours.report(twin)[0].why == "its forward is none that convert knows"


@every_formula
def test_exact(cls: Any) -> None:
    """Rounded once where the formula has one rounding; said by repr and report."""
    layer = ours.convert(norm(cls), exact=True)
    assert repr(layer).endswith("exact=True)")
    assert "(," not in repr(layer)
    assert str(ours.report(layer)).startswith(f"(itself)  {cls.__name__}  numbanorm, exact\n")
    x = torch.randn(SHAPE)
    weight = {"GemmaRMSNorm": lambda: 1 + layer.weight.double(), "Llama4TextL2Norm": lambda: None}.get(
        cls.__name__, lambda: layer.weight
    )()
    assert same(layer(x), ours.rms_norm(x, (SIZE,), weight, 1e-5, exact=True))


STILL = "still transformers'; call convert"


def test_report() -> None:
    model = torch.nn.ModuleList(cls(SIZE) for cls in fake.KNOWN)
    for _ in range(2):
        assert {(n.converted, n.why) for n in ours.report(model)} == {(False, STILL)}
        assert [n.kind for n in ours.report(ours.convert(model))] == [cls.__name__ for cls in fake.KNOWN]
        assert all(n.converted for n in ours.report(model))
        ours.revert(model)
    bare = fake.Gemma4RMSNorm(SIZE, with_scale=False)
    assert [n.converted for n in ours.report(ours.convert(bare))] == [True]
    x = torch.randn(SHAPE)
    assert same(bare(x), ours.rms_norm(x, (SIZE,), None, 1e-6))


class Own(fake.LlamaRMSNorm):  # type: ignore[misc,name-defined]
    """A user's subclass with a forward of its own."""

    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class Heir(fake.LlamaRMSNorm):  # type: ignore[misc,name-defined]
    """A user's subclass without."""


class LlamaRMSNorm(fake.Weighted):  # type: ignore[misc,name-defined]
    """A user's class with the library's text: its next version may have another."""

    forward = fake.LlamaRMSNorm.forward


def patched() -> Any:
    layer = fake.LlamaRMSNorm(SIZE)
    layer.forward = lambda x: x
    return layer


def parametrized() -> Any:
    return torch.nn.utils.parametrizations.weight_norm(fake.LlamaRMSNorm(SIZE), dim=None)


def elsewhere(name: str, forward: Any) -> Any:
    """A layer of a class of the library's with this forward."""
    return type(name, (fake.Weighted,), {"forward": forward, "__module__": NAME})(SIZE)


def wrapped() -> Any:
    """What stands around a forward that is known may do anything."""
    forward = fake.LlamaRMSNorm.forward
    return elsewhere("WrappedRMSNorm", functools.wraps(forward)(lambda self, x: 2 * forward(self, x)))


def sourceless() -> Any:
    scope: dict[str, Any] = {}
    exec("def forward(self, x): return x", scope)
    return elsewhere("SourcelessRMSNorm", scope["forward"])


UNKNOWN = "its forward is none that convert knows"
LEFT = {
    "own": (lambda: Own(SIZE), "subclass of transformers.LlamaRMSNorm, with a forward of its own"),
    "heir": (lambda: Heir(SIZE), "subclass of transformers.LlamaRMSNorm, which may compute something else"),
    "copied": (lambda: LlamaRMSNorm(SIZE), "not a class of torch.nn's"),
    "patched": (patched, "its forward was replaced on the instance"),
    "parametrized": (parametrized, "parametrized; call convert before it is"),
    "other": (lambda: fake.OtherRMSNorm(SIZE), UNKNOWN),
    "sum": (lambda: fake.SumRMSNorm(SIZE), "subclass of transformers.MoshiRMSNorm, which may compute something else"),
    "wrapped": (wrapped, UNKNOWN),
    "sourceless": (sourceless, UNKNOWN),
    "lambda": (lambda: elsewhere("LambdaRMSNorm", lambda self, x: x), UNKNOWN),
    "callable": (lambda: elsewhere("CalledRMSNorm", functools.partial(torch.neg)), UNKNOWN),
    "frozen": (lambda: fake.DetrFrozenBatchNorm2d(SIZE), "frozen: multiplies and adds, and takes no statistics"),
}


@pytest.mark.parametrize("case", list(LEFT))
def test_left_alone(case: str) -> None:
    make, why = LEFT[case]
    model = torch.nn.Sequential(make())
    kind = type(model[0])
    (layer,) = ours.report(ours.convert(model))
    assert (layer.converted, layer.why) == (False, why)
    assert type(model[0]) is kind


def test_reasons_are_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "torch.md").read_text(encoding="utf-8")
    assert {f"| {why} |" in page for why in (UNKNOWN, LEFT["own"][1], LEFT["frozen"][1], STILL)} == {True}
    assert all(f"`{cls.__name__}`" in page for cls in fake.KNOWN)


def test_subclass_within_the_library() -> None:
    """It computes the same by the same text."""
    layer, x = norm(fake.HeirRMSNorm), torch.randn(SHAPE)
    own = computed(layer, x)
    close(own, computed(ours.convert(layer), x))
    assert type(ours.revert(layer)) is fake.HeirRMSNorm


def test_parametrized_after_convert() -> None:
    layer, x = ours.convert(norm(fake.LlamaRMSNorm)), torch.randn(SHAPE)
    expected = layer(x)
    torch.nn.utils.parametrizations.weight_norm(layer, dim=None)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
    with pytest.raises(RuntimeError, match="parametrized modules is only supported through state_dict"):
        pickle.dumps(layer)


def test_weight_that_is_spread_out_is_the_modules_own() -> None:
    """One of more axes than the last: torch multiplies by it as it always did."""
    layer = fake.LlamaRMSNorm((2, SIZE))
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(5, 2, SIZE)
    expected = layer(x)
    assert same(ours.convert(layer)(x), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_compiled_exported_and_traced() -> None:
    model, x = ours.convert(torch.nn.Sequential(norm(fake.LlamaRMSNorm), norm(fake.GemmaRMSNorm))), torch.randn(SHAPE)
    expected = model(x)
    torch.compiler.reset()
    assert same(torch.compile(model, backend="eager", fullgraph=True)(x), expected)
    program = torch.export.export(model, (x,))
    assert [str(n.target) for n in program.graph.nodes].count("numbanorm.normalize.default") == 2
    assert same(program.module()(x), expected)
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["0", "1"]
    assert same(traced(x), expected)
    with pytest.raises(TypeError, match="got numbanorm's LlamaRMSNorm; write"):
        torch.jit.script(model)
    torch.compiler.reset()


# the library itself


@pytest.fixture
def library() -> Iterator[Any]:
    """It, imported: what it warns of itself is its own matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("transformers", reason="transformers is not installed: its text is in modeling_fake.py")


REAL = {
    "llama": "LlamaRMSNorm", "mistral": "MistralRMSNorm", "qwen2": "Qwen2RMSNorm", "qwen3": "Qwen3RMSNorm",
    "phi3": "Phi3RMSNorm", "olmo2": "Olmo2RMSNorm", "t5": "T5LayerNorm", "gemma": "GemmaRMSNorm", "gemma2": "Gemma2RMSNorm",
    "gemma3": "Gemma3RMSNorm", "gpt_oss": "GptOssRMSNorm", "helium": "HeliumRMSNorm", "moshi": "MoshiRMSNorm",
    "llama4": "Llama4TextRMSNorm", "gemma3n": "Gemma3nRMSNorm",
}  # fmt: skip


@pytest.mark.parametrize("model", list(REAL))
def test_classes_of_the_library(model: str, library: Any) -> None:
    cls = getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), REAL[model])
    for kind in TYPES:
        layer, x = norm(cls, kind), torch.randn(SHAPE).to(kind)
        own = computed(layer, x)
        close(own, computed(pickle.loads(pickle.dumps(ours.convert(layer))), x), (kind,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_whole_llama(dtype: Any, library: Any) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = library.LlamaForCausalLM(library.LlamaConfig(**sizes)).to(dtype).eval()
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        got = ours.convert(model)(input_ids=tokens).logits
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2e-2, 2e-3)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    assert len(ours.report(model)) == 5
    assert all(n.converted for n in ours.report(model))
