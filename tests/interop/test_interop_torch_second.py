"""Second and higher derivatives of `numbanorm.interop.torch`: by finite differences, and beside torch's own norms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_norms import DTYPES, EPS, NORMS, SHAPE, Norm, arguments, every_norm, ours, run, same, tensor, theirs, torch

# torch's compiler and its forward-mode derivatives are written with what torch itself declares deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

grad = torch.autograd.grad
SMALL = (2, 6, 2, 3)

# of the namespace, x, running mean and variance; then weight and bias, or not
CALLS: dict[str, Callable[..., Any]] = {
    "layer": lambda f, x, m, v, w=None, b=None, eps=EPS: f.layer_norm(x, x.shape[2:], w, b, eps),
    "rms": lambda f, x, m, v, w=None, eps=EPS: f.rms_norm(x, x.shape[3:], w, eps),
    "group": lambda f, x, m, v, w=None, b=None, eps=EPS: f.group_norm(x, 3, w, b, eps),
    "instance": lambda f, x, m, v, w=None, b=None, eps=EPS: f.instance_norm(x, None, None, w, b, True, 0.3, eps),
    "instance-given": lambda f, x, m, v, w=None, b=None, eps=EPS: f.instance_norm(x, m, v, w, b, False, 0.3, eps),
    "batch": lambda f, x, m, v, w=None, b=None, eps=EPS: f.batch_norm(x, None, None, w, b, True, 0.3, eps),
    "batch-given": lambda f, x, m, v, w=None, b=None, eps=EPS: f.batch_norm(x, m, v, w, b, False, 0.3, eps),
}


class Definition:
    """The norms as their definitions have them, of elementary operations: torch's own third derivatives are wrong."""

    @staticmethod
    def normalize(x: Any, axes: tuple[int, ...], w: Any, b: Any, eps: float, stats: Any = None, center: bool = True) -> Any:
        """Over these axes, or with statistics; weight and bias in the shape of the last axes, or of channels."""
        mean, var = stats or (x.mean(axes, keepdim=True) if center else torch.zeros(()), None)
        var = ((x - mean) ** 2).mean(axes, keepdim=True) if var is None else var
        y = (x - mean) / (var + eps).sqrt()
        return y if w is None else y * w + (0.0 if b is None else b)

    @staticmethod
    def channels(*tensors: Any) -> list[Any]:
        return [None if t is None else t.reshape(-1, 1, 1) for t in tensors]

    @classmethod
    def layer_norm(cls, x: Any, size: Any, w: Any, b: Any, eps: float) -> Any:
        return cls.normalize(x, tuple(range(-len(size), 0)), w, b, eps)

    @classmethod
    def rms_norm(cls, x: Any, size: Any, w: Any, eps: float) -> Any:
        return cls.normalize(x, tuple(range(-len(size), 0)), w, None, eps, center=False)

    @classmethod
    def group_norm(cls, x: Any, groups: int, w: Any, b: Any, eps: float) -> Any:
        y = cls.normalize(x.reshape(len(x), groups, -1), (-1,), None, None, eps).reshape(x.shape)
        w, b = cls.channels(w, b)
        return y * w + b

    @classmethod
    def instance_norm(cls, x: Any, m: Any, v: Any, w: Any, b: Any, own: bool, _: float, eps: float) -> Any:
        return cls.normalize(x, (2, 3), *cls.channels(w, b), eps, None if own else cls.channels(m, v))

    @classmethod
    def batch_norm(cls, x: Any, m: Any, v: Any, w: Any, b: Any, own: bool, _: float, eps: float) -> Any:
        return cls.normalize(x, (0, 2, 3), *cls.channels(w, b), eps, None if own else cls.channels(m, v))


every_call = pytest.mark.parametrize("name", list(CALLS))
every_layout = pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leaves(
    name: str, rng: np.random.Generator, dtype: str = "float64", shape: tuple[int, ...] = SMALL
) -> tuple[Any, list[Any]]:
    """`CALLS[name]` of the namespace and leaves; x, weight and (but for RMS norm) bias, which ask for gradients."""
    x, w, b, m, v = (tensor(a) for a in arguments(NORMS[name], dtype, rng, shape)[1])
    if not name.endswith("given"):
        m = v = None
    parameters = [x, w, b] if NORMS[name].bias else [x, w]

    def call(f: Any, x: Any, *p: Any) -> Any:
        given = (t if t is None or x.dtype != torch.float64 else t.double() for t in (m, v))
        return CALLS[name](f, x, *given, *p)

    return call, [p.requires_grad_() for p in parameters]


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    """To a part of the largest value: the small ones are what is left of larger sums."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * max(1.0, float(b.detach().abs().max())))


def test_gradient_of_a_gradient_of_three_numbers() -> None:
    """Gradients reach dx through dy, through x itself, and through x's statistics."""
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (g,) = grad(ours.layer_norm(x, (3,)).pow(3).sum() + x.pow(3).sum(), x, create_graph=True)
    (second,) = grad(g[0, 0], x)
    assert [[round(v, 4) for v in row] for row in second.tolist()] == [[6.1262, 0.4734, -0.5996]]


@every_layout
@every_call
def test_gradgradcheck(name: str, layout: str, rng: np.random.Generator) -> None:
    """Of all leaves together, of each alone, and of dy, without which a gradient has no weight or bias."""
    call, (x, *parameters) = leaves(name, rng)
    x = x.detach().contiguous(memory_format=getattr(torch, layout)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda *t: call(ours, *t), (x, *parameters))
    assert torch.autograd.gradgradcheck(lambda t: call(ours, t), (x,))
    fixed = [t.detach() for t in (x, *parameters)]
    for k, leaf in enumerate((x, *parameters)):
        assert torch.autograd.gradgradcheck(lambda t, k=k: call(ours, *fixed[:k], t, *fixed[k + 1 :]), (leaf,))


@every_call
def test_third_and_fourth_derivatives(name: str, rng: np.random.Generator) -> None:
    call, given = leaves(name, rng, shape=(2, 6, 1, 3))
    outcomes = []
    for f in (ours, Definition):
        results, value = [], call(f, *given).pow(3).sum() + sum(t.pow(3).sum() for t in given)
        for _ in range(4):
            gradients = grad(value, given, create_graph=True)
            results += gradients
            value = sum((g * torch.linspace(-1, 2, g.numel(), dtype=g.dtype).reshape(g.shape)).sum() for g in gradients)
        outcomes.append(results)
    close(*outcomes)


@every_call
def test_hessian_and_products_with_it(name: str, rng: np.random.Generator) -> None:
    call, given = leaves(name, rng, shape=(2, 6, 1, 3))
    given = [t.detach() for t in given]
    weights, autograd = torch.randn(2, 6, 1, 3, dtype=torch.float64), torch.autograd.functional
    directions = tuple(map(torch.randn_like, given))
    outcomes: list[list[Any]] = []
    for f in (ours, theirs):

        def loss(*t: Any, f: Any = f) -> Any:
            return (call(f, *t).pow(3) * weights).sum()

        inputs = tuple(given)
        hessians = [
            autograd.hessian(loss, inputs, vectorize=v and f is ours) for v in (False, True)
        ]  # torch's group norm fails
        products = (autograd.hvp(loss, inputs, directions), autograd.vhp(loss, inputs, directions))
        outcomes.append([*itertools.chain(*hessians[0], *hessians[1]), *products[0][1], *products[1][1]])
    close(*outcomes)


@pytest.mark.parametrize("dtype", list(DTYPES))
@every_call
def test_every_float_type(name: str, dtype: str, rng: np.random.Generator) -> None:
    """Rounded once from float64, in which torch computes beside it: half a unit is eps / 2, and eps below a power of two."""
    call, given = leaves(name, rng, dtype, SHAPE)
    dy = torch.randn(SHAPE).to(given[0].dtype)
    directions = [torch.randn(t.shape).to(t.dtype) for t in given]
    outcomes = []
    for f, wide in ((ours, False), (theirs, True)):
        t = [(a.detach().double() if wide else a.detach()).requires_grad_() for a in (*given, dy)]
        gradients = grad(call(f, *t[:-1]), t[:-1], t[-1], create_graph=True)
        value = sum((g.double() * d.double()).sum() for g, d in zip(gradients, directions, strict=True))
        outcomes.append(grad(value, [*t[:2], t[-1]]))
    for t, a, expected in zip((*given[:2], dy), *outcomes, strict=True):
        eps = torch.finfo(t.dtype).eps
        assert a.dtype == t.dtype
        scale = float(expected.abs().max())  # float64: torch's own roundings
        torch.testing.assert_close(a.double(), expected, rtol=max(eps, 1e-10), atol=max(eps / 64, 1e-12) * scale)


@every_norm
def test_a_recorded_gradient_has_the_same_bits(norm: Norm, rng: np.random.Generator) -> None:
    """create_graph changes no first derivative."""
    dy, arrays = arguments(norm, "float32", rng)
    expected = run(norm, ours, tensor(dy), [tensor(a) for a in arrays])
    t = [tensor(a) for a in arrays]
    wanted = [p.requires_grad_() for p in t[: 3 if norm.bias else 2]]
    recorded = grad(norm.forward(ours, *t), wanted, tensor(dy).requires_grad_(), create_graph=True)
    assert all(g.requires_grad for g in recorded)
    assert all(map(same, recorded, expected[1:]))


@pytest.mark.parametrize("shape", [(0, 6, 2, 3), (2, 6, 0, 3)], ids=str)
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("layer", "rms")])
def test_empty_tensors(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Nothing in, nothing out; parameters have second derivatives of 0."""
    call, given = leaves(name, rng, shape=shape)
    first = grad(call(ours, *given).pow(3).sum(), given, create_graph=True)
    second = grad(sum(g.pow(2).sum() for g in first), given)
    assert [g.shape for g in second] == [t.shape for t in given]
    assert [float(g.abs().sum()) for g in second] == [0.0] * 3


@pytest.mark.parametrize("name", [name for name in CALLS if not name.endswith("given")])
def test_at_the_ends_of_the_range(name: str, rng: np.random.Generator) -> None:
    """Data scaled by 2**400, whose squares no float64 holds, without eps: derivatives are those of the data, scaled back."""
    x, w = (t.detach() for t in leaves(name, rng)[1][:2])
    dy, direction = (torch.randn(SMALL, dtype=torch.float64) for _ in range(2))
    found = []
    for scale in (1.0, 2.0**400, 2.0**-400):
        t = (x * scale).requires_grad_()
        (dx,) = grad(CALLS[name](ours, t, None, None, w, eps=0.0), t, dy, create_graph=True)
        found.append([dx * scale, grad((dx * direction).sum() * scale, t)[0] * scale])
    assert all(torch.equal(a, b) for scaled in found[1:] for a, b in zip(scaled, found[0], strict=True))


# models


def critic(norms: Any) -> Any:
    """A network with a norm of each kind."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        *(torch.nn.Conv2d(2, 6, 3), norms.BatchNorm2d(6), torch.nn.SiLU(), torch.nn.Conv2d(6, 6, 2), norms.GroupNorm(3, 6)),
        *(torch.nn.SiLU(), norms.InstanceNorm2d(6, affine=True), torch.nn.Flatten(), torch.nn.Linear(24, 8), torch.nn.Tanh()),
        *(norms.LayerNorm(8), torch.nn.Linear(8, 8), torch.nn.Tanh(), norms.RMSNorm(8), torch.nn.Linear(8, 1)),
    ).double()


@pytest.mark.parametrize("training", [True, False])
def test_gradient_penalty(training: bool) -> None:
    """The gradients of a critic's parameters, of its loss and of how far the norm of its gradient is from 1."""
    outcomes = []
    for norms in (ours, torch.nn):
        model = critic(norms).train(training)
        x = torch.randn(4, 2, 5, 5, dtype=torch.float64, requires_grad=True)
        score = model(x)
        (g,) = grad(score.sum(), x, create_graph=True)
        (score.mean() + 10 * (g.flatten(1).norm(dim=1) - 1).square().mean()).backward()
        outcomes.append([score, x.grad, *(p.grad for p in model.parameters())])
    close(*outcomes)


@pytest.mark.parametrize("way", ["autograd", "torch.func"])
def test_one_step_of_learning_to_learn(way: str) -> None:
    """MAML: gradients of a loss after a step, with respect to the parameters before it."""
    outcomes = []
    x, later, target = (torch.randn(4, n, *s, dtype=torch.float64) for n, *s in ((2, 5, 5), (2, 5, 5), (1,)))
    for norms in (ours, torch.nn):
        model = critic(norms).eval()  # torch.func takes no buffers that a call changes, torch's own neither
        parameters = dict(model.named_parameters())

        def loss(p: Any, x: Any, model: Any = model) -> Any:
            return theirs.mse_loss(torch.func.functional_call(model, p, (x,)), target)

        def after_a_step(p: Any, loss: Any = loss) -> Any:
            if way == "torch.func":
                step = torch.func.grad(loss)(p, x)
            else:
                step = dict(zip(p, grad(loss(p, x), list(p.values()), create_graph=True), strict=True))
            return loss({k: v - 0.1 * step[k] for k, v in p.items()}, later)

        if way == "torch.func":
            outcomes.append(list(torch.func.grad(after_a_step)(parameters).values()))
        else:
            outcomes.append(list(grad(after_a_step(parameters), list(parameters.values()))))
    close(*outcomes)


# torch.func


@every_call
def test_transforms(name: str, rng: np.random.Generator) -> None:
    """grad, vjp, jacrev, vmap, and one in another, are those of torch's functions; so is autograd around them."""
    call, given = leaves(name, rng, shape=(2, 6, 1, 3))
    given, func = [t.detach() for t in given], torch.func
    many = torch.randn(3, 2, 6, 1, 3, dtype=torch.float64)
    outcomes = []
    for f in (ours, theirs):

        def loss(*t: Any, f: Any = f) -> Any:
            return call(f, *t).pow(3).sum()

        everything = tuple(range(len(given)))
        along = many[0].clone().requires_grad_()
        _, pull = func.vjp(lambda x, f=f: call(f, x, *given[1:]), given[0])
        found = [
            *func.grad(loss, everything)(*given),
            pull(many[0])[0],
            func.jacrev(loss)(*given),
            func.jacrev(func.jacrev(loss))(*given),
            func.grad(lambda x, f=f, loss=loss: func.grad(loss)(x, *given[1:]).pow(2).sum())(given[0]),
            func.vmap(lambda x, f=f: call(f, x, *given[1:]))(many),
            func.vmap(func.grad(loss), in_dims=(0, *[None] * len(given[1:])))(many, *given[1:]),
            func.grad(lambda x, f=f: func.vmap(lambda a: call(f, a, *given[1:]))(x).pow(3).sum())(many),
            grad(func.vmap(lambda a, f=f, along=along: call(f, a * along, *given[1:]))(many).pow(3).sum(), along)[0],
        ]
        outcomes.append(found)
    close(*outcomes)


def test_transforms_of_batch_norm_in_training() -> None:
    """Buffers that a call changes are arguments, or torch's error says that they must be."""
    outcomes, x, many = [], torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    for norms in (ours, torch.nn):
        model = norms.BatchNorm1d(4).double()
        parameters, buffers = (dict(t) for t in (model.named_parameters(), model.named_buffers()))
        for transform in (torch.func.grad, torch.func.vmap):
            with pytest.raises(RuntimeError, match=r"in-place|inplace|updated in place"):
                transform(lambda x, model=model: model(x).sum())(x if transform is torch.func.grad else many)
        buffers = {k: torch.zeros_like(v) + 1 for k, v in buffers.items()}

        def call(p: Any, x: Any, b: Any, model: Any = model) -> Any:
            return torch.func.functional_call(model, (p, b), (x,)).pow(3).sum(), b

        gradients, updated = torch.func.grad(call, has_aux=True)(parameters, x, buffers)
        rows = {k: torch.stack([v] * 3) for k, v in buffers.items()}
        losses, rows = torch.func.vmap(call, in_dims=(None, 0, 0))(parameters, many, rows)
        outcomes.append([*gradients.values(), *updated.values(), losses, *rows.values()])
    close(*outcomes)


def test_forward_mode_is_refused_wherever_it_would_be_lost() -> None:
    """Over a forward pass, over a backward pass, and over torch.func.grad."""
    x = torch.randn(3, 4, requires_grad=True)
    y = ours.layer_norm(x, (4,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.randn(3, 4), torch.ones(3, 4))
        with pytest.raises(RuntimeError, match="must not carry a forward-mode tangent"):
            grad(y, x, dual)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(torch.func.grad(lambda x: ours.layer_norm(x, (4,)).sum()), (x,), (x,))
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.hessian(lambda x: ours.layer_norm(x, (4,)).sum())(x)
