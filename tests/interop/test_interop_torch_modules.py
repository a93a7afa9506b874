"""The modules of `numbanorm.interop.torch` beside torch's own, alone and in networks that were converted."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch_norms import ours, same, theirs, torch


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """The same numbers in every run; and one thread: to wake others for each small operator takes minutes on a busy machine."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MODULES: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {
    "BatchNorm1d": ((6,), {}, (5, 6)),
    "BatchNorm2d": ((6,), {}, (3, 6, 4, 5)),
    "BatchNorm3d": ((6,), {}, (2, 6, 2, 3, 4)),
    "BatchNorm1d-cumulative": ((6,), {"momentum": None}, (3, 6, 4)),
    "BatchNorm1d-plain": ((6,), {"affine": False}, (3, 6, 4)),
    "BatchNorm1d-untracked": ((6,), {"track_running_stats": False}, (3, 6, 4)),
    "BatchNorm1d-unbiased": ((6,), {"bias": False}, (3, 6, 4)),
    "InstanceNorm1d": ((6,), {}, (3, 6, 4)),
    "InstanceNorm2d": ((6,), {"affine": True}, (3, 6, 4, 5)),
    "InstanceNorm3d": ((6,), {"affine": True, "track_running_stats": True}, (2, 6, 2, 3, 4)),
    "InstanceNorm1d-unbatched": ((6,), {"track_running_stats": True}, (6, 4)),
    "InstanceNorm1d-momentum": ((6,), {"track_running_stats": True, "momentum": None}, (3, 6, 4)),
    "LayerNorm": (((4, 5),), {}, (3, 6, 4, 5)),
    "LayerNorm-unbiased": ((5,), {"bias": False}, (3, 6, 5)),
    "LayerNorm-plain": ((5,), {"elementwise_affine": False}, (3, 6, 5)),
    "GroupNorm": ((3, 6), {}, (3, 6, 4)),
    "GroupNorm-plain": ((3, 6), {"affine": False}, (3, 6, 4)),
    "RMSNorm": ((5,), {}, (3, 6, 5)),
    "RMSNorm-plain": (((6, 5),), {"elementwise_affine": False, "eps": 1e-3}, (3, 6, 5)),
}
every_module = pytest.mark.parametrize("name", list(MODULES))


def modules(name: str) -> tuple[Any, Any]:
    """This package's and torch's, float64, with the same parameters."""
    args, options, _ = MODULES[name]
    a, b = (getattr(f, name.partition("-")[0])(*args, **options, dtype=torch.float64) for f in (ours, torch.nn))
    for p in b.parameters():
        torch.nn.init.uniform_(p, 0.5, 2)
    a.load_state_dict(b.state_dict())
    return a, b


@every_module
def test_module_is_like_that_of_torch(name: str) -> None:
    a, b = modules(name)
    assert isinstance(a, type(b))
    assert repr(a) == repr(b)
    assert list(a.state_dict()) == list(b.state_dict())
    b.load_state_dict(a.state_dict())
    assert [type(m) for m in (pickle.loads(pickle.dumps(a)), copy.deepcopy(a))] == [type(a)] * 2
    (*own, exact), expected = (list(inspect.signature(type(m)).parameters.values()) for m in (a, b))
    assert own == expected
    assert (exact.name, exact.default, exact.kind) == ("exact", False, exact.KEYWORD_ONLY)
    assert (type(a).__doc__ or "").startswith(f"`torch.nn.{type(b).__name__}`")


@every_module
def test_module_after_ten_steps(name: str) -> None:
    """Results, gradients, running statistics and their counter; then evaluation."""
    pair, shape = modules(name), MODULES[name][2]
    for step in range(12):
        if step == 10:
            for m in pair:
                m.eval()
        x = torch.randn(shape, dtype=torch.float64) * (1 + step) + step
        outcomes = []
        for m in pair:
            leaf = x.clone().requires_grad_()
            y = m(leaf)
            m.zero_grad()
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape))
            outcomes.append([y.detach(), leaf.grad, *(p.grad for p in m.parameters()), *m.buffers()])
        for a, b in zip(*outcomes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)  # float64 in both; some roundings more in torch


def test_a_refused_batch_is_not_counted() -> None:
    for momentum in (0.1, None):
        layer = ours.BatchNorm1d(3, momentum=momentum)
        with pytest.raises(ValueError, match="more than one value per channel"):
            layer(torch.ones(1, 3))
        assert layer.num_batches_tracked == 0
        assert layer.running_var.tolist() == [1.0] * 3


def test_an_average_over_batches_that_nobody_counts() -> None:
    """momentum=None without num_batches_tracked: the running statistics stay."""
    outcomes, x = [], torch.randn(5, 3, dtype=torch.float64)
    for norms in (ours, torch.nn):
        layer = norms.BatchNorm1d(3, momentum=None).double()
        layer.num_batches_tracked = None
        outcomes.append([layer(x).detach(), layer.running_mean, layer.running_var, layer.eval()(x).detach()])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert outcomes[0][2].tolist() == [1.0] * 3


def test_module_on_the_meta_device() -> None:
    """Shapes without memory, and shape errors."""
    layer = ours.BatchNorm2d(6, device="meta")
    y = layer(torch.empty(3, 6, 4, 5, device="meta"))
    assert (y.shape, y.device.type) == ((3, 6, 4, 5), "meta")
    with pytest.raises(ValueError, match="normalized_shape must be the last axes"):
        ours.layer_norm(y, (4,))


# convert


class Block(torch.nn.Module):  # type: ignore[misc]
    """A residual block, with a norm that both paths share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(channels)
        relu = torch.nn.ReLU(inplace=True)  # overwrites what the norm returned, which its backward pass must not need
        self.second = torch.nn.Sequential(relu, torch.nn.Conv2d(channels, channels, 1), self.norm)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.second(self.norm(self.first(x))))


class Own(torch.nn.LayerNorm):  # type: ignore[misc]
    """A subclass of a user's: what it computes is not known."""


def network() -> Any:
    torch.manual_seed(0)
    head = (
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.LayerNorm(8),
        torch.nn.RMSNorm(8),
        torch.nn.Linear(8, 3),
    )
    stem = (torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.InstanceNorm2d(8, affine=True))
    return torch.nn.Sequential(*stem, Block(8), torch.nn.ModuleDict({"tail": Block(8)})["tail"], *head)


def test_convert_changes_the_class_and_nothing_else() -> None:
    model = network()
    called: list[str] = []
    model[3].norm.register_forward_hook(lambda m, args, y: called.append(type(m).__module__))
    model[4].norm.eval()
    before = [(m, m.training, list(m.parameters(recurse=False)), list(m.buffers(recurse=False))) for m in model.modules()]
    kinds, text, keys = [type(m) for m in model.modules()], repr(model), list(model.state_dict())
    assert ours.convert(model) is model
    for (m, training, parameters, buffers), new in zip(before, model.modules(), strict=True):
        assert m is new
        assert m.training == training
        tensors = (*m.parameters(recurse=False), *m.buffers(recurse=False))
        assert all(p is q for p, q in zip((*parameters, *buffers), tensors, strict=True))
    converted = [m for m in model.modules() if type(m).__module__ == ours.__name__]
    assert len(converted) == 6
    assert model[3].norm is model[3].second[2]
    assert (repr(model), list(model.state_dict())) == (text, keys)
    model(torch.randn(2, 3, 8, 8))
    assert called == [ours.__name__] * 2
    assert ours.revert(model) is model
    assert [type(m) for m in model.modules()] == kinds


def test_convert_of_a_norm_layer_itself() -> None:
    layer = torch.nn.BatchNorm1d(6)
    assert ours.convert(layer) is layer
    assert type(layer) is ours.BatchNorm1d
    assert type(ours.convert(layer)) is ours.BatchNorm1d
    assert type(ours.revert(layer)) is torch.nn.BatchNorm1d


def test_convert_leaves_alone_what_it_does_not_know() -> None:
    scaled = torch.nn.utils.parametrizations.weight_norm(torch.nn.LayerNorm(4), dim=None)
    model = torch.nn.ModuleList([Own(4), torch.nn.SyncBatchNorm(4), torch.nn.LazyBatchNorm1d(), torch.nn.Linear(4, 4), scaled])
    kinds = [type(m) for m in model]
    ours.convert(model)
    assert [type(m) for m in model] == kinds
    model[2](torch.randn(3, 4))
    assert type(ours.convert(model)[2]) is ours.BatchNorm1d


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
def test_converted_model_is_copied(way: str) -> None:
    model = ours.convert(network())
    x = torch.randn(2, 3, 8, 8)
    model(x)
    if way == "state_dict":
        twin = network()
        twin.load_state_dict(model.state_dict())
        ours.convert(twin)
    else:
        twin = pickle.loads(pickle.dumps(model)) if way == "pickle" else copy.deepcopy(model)
    assert same(twin(x), model(x))
    assert twin[3].norm is twin[3].second[2]


@pytest.mark.parametrize("memory_format", ["contiguous_format", "channels_last"])
def test_training_loses_as_with_torch(memory_format: str) -> None:
    """To five digits, over twenty steps: float32 has seven, and each step passes on the last one's rounding."""
    losses: list[list[float]] = []
    for change in (ours.convert, lambda model: model):
        model = change(network()).to(memory_format=getattr(torch, memory_format))
        torch.manual_seed(1)
        x, target = torch.randn(16, 3, 8, 8), torch.randint(3, (16,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = theirs.cross_entropy(model(x.contiguous(memory_format=getattr(torch, memory_format))), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        model.eval()
        losses[-1].append(theirs.cross_entropy(model(x), target).item())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-2] < 0.8 * losses[0][0]
