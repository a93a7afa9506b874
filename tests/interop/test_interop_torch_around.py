"""What stands around a norm in the drop-ins for torch: the functions' numbers, and gradients by autograd."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from numbanorm.interop import torch as ours  # noqa: E402

F = torch.nn.functional
ACTS: dict[Any, Any] = {"relu": F.relu, ("leaky_relu", 0.3): lambda v: F.leaky_relu(v, 0.3), None: lambda v: v}


def numbers(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))) + 0.5


def gradients(results: tuple[Any, ...], of: list[Any]) -> list[Any]:
    """Of a sum of all results, each with weights of its own."""
    total = sum((r * numbers(*r.shape, seed=k)).sum() for k, r in enumerate(results))
    return list(torch.autograd.grad(total, of))


def check(fused: tuple[Any, ...], apart: tuple[Any, ...], fused_of: list[Any], apart_of: list[Any]) -> None:
    for a, b in zip(fused, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert a.stride() == b.stride()
    # autograd adds what comes through the two results in an order of its own: an ulp of the largest term
    for a, b in zip(gradients(fused, fused_of), gradients(apart, apart_of), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_a_sum_in_one_pass(kind: str) -> None:
    plain = getattr(ours, kind)(300)
    torch.nn.init.uniform_(plain.weight, 0.5, 2.0, generator=torch.Generator().manual_seed(1))
    fused = getattr(ours, f"FusedAdd{kind}")(300)
    fused.load_state_dict(plain.state_dict())
    x, r = (numbers(7, 300, seed=k).requires_grad_() for k in (3, 4))
    h = x + r
    check(fused(x, r), (plain(h), h), [x, r, *fused.parameters()], [x, r, *plain.parameters()])
    with torch.no_grad():
        assert not fused(x, r)[0].requires_grad


@pytest.mark.long
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", ACTS, ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_and_activation(activation: Any, last: bool, momentum: float | None) -> None:
    plain, fused = ours.BatchNorm2d(6, momentum=momentum), ours.BatchNormAct2d(6, momentum=momentum, activation=activation)
    x, z = (numbers(4, 6, 7, 8, seed=k) for k in (3, 4))
    if last:
        x, z = (t.contiguous(memory_format=torch.channels_last) for t in (x, z))
    x, z = x.requires_grad_(), z.requires_grad_()
    for training in (True, False):
        plain.train(training)
        fused.train(training)
        y = ACTS[activation](plain(x) + z)
        check((fused(x, z),), (y,), [x, z, *fused.parameters()], [x, z, *plain.parameters()])
        assert torch.equal(fused(x), ACTS[activation](plain(x)))
        for a, b in zip(fused.buffers(), plain.buffers(), strict=True):
            assert torch.equal(a, b)
    assert f"activation={activation!r}" in repr(fused)
    assert repr(pickle.loads(pickle.dumps(fused))) == repr(fused)


def timm_fake() -> types.ModuleType:
    """timm's two classes, as far as they matter: what they inherit, hold and compute."""

    class BatchNormAct2d(torch.nn.BatchNorm2d):
        def __init__(self, num_features: int, act_layer: Any = torch.nn.ReLU) -> None:
            super().__init__(num_features)
            self.drop, self.act = torch.nn.Identity(), act_layer()

        def forward(self, x: Any) -> Any:
            return self.act(self.drop(super().forward(x)))

    class GroupNormAct(torch.nn.GroupNorm):
        def __init__(self, num_channels: int, num_groups: int, act_layer: Any = torch.nn.ReLU) -> None:
            super().__init__(num_groups, num_channels)
            self.drop, self.act = torch.nn.Identity(), act_layer()

        def forward(self, x: Any) -> Any:
            return self.act(self.drop(super().forward(x)))

    module = types.ModuleType("timm.layers.norm_act")
    for cls in (BatchNormAct2d, GroupNormAct):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    return module


@pytest.mark.parametrize("act", [torch.nn.ReLU, torch.nn.SiLU, torch.nn.Identity])
@pytest.mark.parametrize("kind", ["BatchNormAct2d", "GroupNormAct"])
def test_timms_norms_are_converted(kind: str, act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = timm_fake()
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    theirs = getattr(fake, kind)(*((6,) if kind[0] == "B" else (6, 3)), act_layer=act)
    plain = copy.deepcopy(theirs)
    x = numbers(4, 6, 7, 8)
    converted = ours.convert(theirs)
    assert type(converted) is not type(plain)
    assert isinstance(converted, type(plain))
    for training in (True, False):
        # torch takes its own statistics in float32, with as many roundings as it likes
        torch.testing.assert_close(converted.train(training)(x), plain.train(training)(x), rtol=1e-5, atol=1e-5)
    assert type(ours.revert(converted)) is type(plain)


def test_other_tensors_take_torchs_operations() -> None:
    x = numbers(3, 6, 4, 4)
    fused = ours.BatchNormAct2d(6).eval()
    expected = F.relu(F.batch_norm(x, fused.running_mean, fused.running_var, fused.weight, fused.bias) + x)
    found = torch.vmap(lambda v: fused(v, v))(x[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the functions differ in an ulp or two
    with pytest.raises(ValueError, match="activation must be None"):
        ours.BatchNormAct2d(6, activation="mish")


class Block(torch.nn.Module):
    """All three, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.activated, self.rows, self.rms = ours.BatchNormAct2d(6), ours.FusedAddLayerNorm(4), ours.FusedAddRMSNorm(4)

    def forward(self, x: Any, r: Any) -> Any:
        y, h = self.rows(self.activated(x, addend=r), r)
        return self.rms(y, h)


def test_fx_does_not_trace_what_is_inside() -> None:
    """Traced as other norms are, each a call of the module with all that it was given; and `report` knows them."""
    block, (x, r) = Block().eval(), (numbers(2, 6, 4, 4, seed=k) for k in (3, 4))
    traced = torch.fx.symbolic_trace(block)
    assert [str(n.target) for n in traced.graph.nodes if n.op == "call_module"] == ["activated", "rows", "rms"]
    assert not any(n.op == "call_function" and "getitem" not in str(n.target) for n in traced.graph.nodes)
    for a, b in zip(traced(x, r), block(x, r), strict=True):
        assert torch.equal(a, b)
    assert [layer.why for layer in ours.report(block)] == [""] * 3
