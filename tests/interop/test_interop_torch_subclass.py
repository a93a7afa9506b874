"""Subclasses of torch.Tensor in `numbanorm.interop.torch`: what comes out is what torch's own modules give."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from torch_norms import Norm, arguments, every_norm, ours, run, same, tensor, theirs, torch


class Located(torch.Tensor):  # type: ignore[misc]
    """As MONAI's MetaTensor: it carries `meta` from tensor to tensor, and replaces some of torch's methods by its own."""

    meta: str

    @staticmethod
    def __new__(cls, x: Any, meta: str = "", **_: Any) -> Any:
        t = torch.as_tensor(x).as_subclass(cls)
        t.meta = meta
        return t

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        for t in result if isinstance(result, tuple) else (result,):
            if isinstance(t, Located) and not hasattr(t, "meta"):
                t.meta = next((a.meta for a in args if isinstance(a, Located)), "")
        return result

    def new_empty(self, size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        """Takes sizes as one argument, by name."""
        return type(self)(self.as_subclass(torch.Tensor).new_empty(size=size, dtype=dtype, device=device))

    def clone(self) -> Any:  # without memory_format
        return type(self)(self.as_subclass(torch.Tensor).clone(), self.meta)

    def double(self) -> Any:
        raise NotImplementedError

    detach = contiguous = numpy = double


class Silent(torch.Tensor):  # type: ignore[misc]
    """A subclass that wants no say: torch's functions give plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Picky(torch.Tensor):  # type: ignore[misc]
    """A subclass that knows its functions."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


def bare(t: Any) -> Any:
    """The tensor without its subclass."""
    return torch.Tensor.as_subclass(t, torch.Tensor).detach()


MODULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "BatchNorm1d": (lambda f: f.BatchNorm1d(6), (5, 6)),
    "BatchNorm2d": (lambda f: f.BatchNorm2d(6, momentum=None), (3, 6, 4, 5)),
    "BatchNorm3d": (lambda f: f.BatchNorm3d(6, affine=False), (2, 6, 2, 3, 4)),
    "InstanceNorm1d": (lambda f: f.InstanceNorm1d(6), (6, 4)),
    "InstanceNorm2d": (lambda f: f.InstanceNorm2d(6, affine=True, track_running_stats=True), (3, 6, 4, 5)),
    "InstanceNorm3d": (lambda f: f.InstanceNorm3d(6, affine=True), (2, 6, 2, 3, 4)),
    "LayerNorm": (lambda f: f.LayerNorm((4, 5)), (3, 6, 4, 5)),
    "GroupNorm": (lambda f: f.GroupNorm(3, 6), (3, 6, 4)),
    "RMSNorm": (lambda f: f.RMSNorm(5), (3, 6, 5)),
}


@pytest.mark.parametrize("kind", [Located, Silent])
@pytest.mark.parametrize("name", list(MODULES))
def test_modules_give_the_class_that_torch_gives(name: str, kind: Any) -> None:
    """Results, what they carry, gradients, and running statistics; in training and in evaluation."""
    torch.manual_seed(0)
    make, shape = MODULES[name]
    outcomes, plain = [], make(ours).double()
    x = torch.randn(shape, dtype=torch.float64)
    for model in (make(ours).double(), make(torch.nn).double()):
        found: list[Any] = []
        for training in (True, False):
            leaf = (Located(x.clone(), "here") if kind is Located else x.clone().as_subclass(kind)).requires_grad_()
            y = model.train(training)(leaf)
            (dx,) = torch.autograd.grad(
                y, leaf, torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(shape), retain_graph=True
            )
            y.pow(2).sum().backward()
            found += [y, dx, leaf.grad, *(p.grad for p in model.parameters()), *model.buffers()]
        outcomes.append(found)
    for a, b in zip(*outcomes, strict=True):
        assert type(a) is type(b)
        assert getattr(a, "meta", None) == getattr(b, "meta", None)
        torch.testing.assert_close(bare(a), bare(b), rtol=1e-10, atol=1e-10)
    assert isinstance(outcomes[0][0], kind) == (kind is Located)
    assert same(bare(outcomes[0][0]), plain(x))


@every_norm
def test_functions_have_the_same_bits(norm: Norm, rng: np.random.Generator) -> None:
    """Of a subclass as input, as parameters, and as gradient."""
    dy, arrays = arguments(norm, "float32", rng)
    t = [tensor(a) for a in arrays]
    expected = run(norm, ours, tensor(dy), t)
    for k in range(len(t)):
        mixed = [Located(a.clone(), "there") if i == k else a.clone() for i, a in enumerate(t)]
        wanted = [a.requires_grad_() for a in mixed[: 3 if norm.bias else 2]]
        y = norm.forward(ours, *mixed)
        gradients = torch.autograd.grad(y, wanted, Located(tensor(dy), "dy"))
        for a, b in zip([y, *gradients, *mixed[3:]], expected, strict=True):
            assert same(bare(a), b)


def test_second_derivatives_of_a_subclass() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    outcomes = []
    for f, given in ((ours, x.clone()), (ours, Located(x.clone(), "here")), (theirs, Located(x.clone(), "here"))):
        leaf = given.requires_grad_()
        (g,) = torch.autograd.grad(f.layer_norm(leaf, (4,)).pow(3).sum(), leaf, create_graph=True)
        outcomes.append([g, *torch.autograd.grad(g[0, 0], leaf)])
    assert all(torch.equal(bare(a), b) for a, b in zip(outcomes[1], outcomes[0], strict=True))
    assert [type(t) for t in outcomes[1]] == [type(t) for t in outcomes[2]]


def test_what_a_subclass_is_asked() -> None:
    """The public function with its arguments; one that knows nothing of it makes an error, as torch's functions do."""
    asked: list[Any] = []

    class Asking(torch.Tensor):  # type: ignore[misc]
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append((func, args[0]))
            return super().__torch_function__(func, types, args, kwargs or {})

    x, m, v = torch.ones(2, 6, 4).cumsum(2).as_subclass(Asking), torch.zeros(6), torch.ones(6)
    calls = {
        "layer_norm": lambda f, x: f.layer_norm(x, (4,)),
        "rms_norm": lambda f, x: f.rms_norm(x, (4,)),
        "group_norm": lambda f, x: f.group_norm(x, 3),
        "instance_norm": lambda f, x: f.instance_norm(x),
        "batch_norm": lambda f, x: f.batch_norm(x, m, v),
    }
    for name, call in calls.items():
        asked.clear()
        assert type(call(ours, x)) is Asking
        assert [(f, a is x) for f, a in asked] == [(getattr(ours, name), True)]
        for f in (ours, theirs):
            with pytest.raises(TypeError, match=f"(?s)no implementation found.*{name}|{name}.*no implementation found"):
                call(f, torch.ones(2, 6, 4).as_subclass(Picky))


def test_what_a_subclass_is_asked_by_modules() -> None:
    """The same functions, in every mode."""
    asked: list[str] = []

    class Asking(torch.Tensor):  # type: ignore[misc]
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    x = torch.ones(2, 6, 4).cumsum(2).as_subclass(Asking)
    for training in (True, False):
        for name, function in (("BatchNorm1d", "batch_norm"), ("InstanceNorm1d", "instance_norm")):
            layer = getattr(ours, name)(6, track_running_stats=True).train(training)
            layer(x)
            assert getattr(ours, function) in asked
            asked.clear()


def test_a_mode_sees_the_functions() -> None:
    """torch.overrides.TorchFunctionMode, as torch.set_default_device is one."""
    seen: list[Any] = []

    class Watch(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(3, 6)
    with Watch():
        y = ours.BatchNorm1d(6)(x)
        z = ours.layer_norm(x, (6,))
    assert same(y, ours.BatchNorm1d(6)(x))
    assert same(z, ours.layer_norm(x, (6,)))
    assert ours.layer_norm in seen


def test_a_converted_model_of_a_subclass() -> None:
    """Copied, trained a step and evaluated; the class goes through the model."""
    torch.manual_seed(0)
    model = ours.convert(torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.InstanceNorm2d(6), torch.nn.BatchNorm2d(6)))
    twin = copy.deepcopy(model)
    x = torch.randn(2, 1, 6, 6)
    for m, given in ((model, Located(x, "here")), (twin, x)):
        m(given).square().sum().backward()
    assert type(model(Located(x, "here"))) is Located
    assert all(same(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
