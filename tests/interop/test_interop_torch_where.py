"""Masks in the drop-ins for torch: the functions' numbers, and gradients by autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbanorm

torch = pytest.importorskip("torch", reason="torch is not installed")
from numbanorm.interop import torch as ours  # noqa: E402

MODULES = {
    "layer": (lambda **k: ours.LayerNorm(6, **k), (4, 5, 6), (4, 5, 1)),
    "rms": (lambda **k: ours.RMSNorm(6, **k), (4, 5, 6), (4, 5, 6)),
    "group": (lambda **k: ours.GroupNorm(3, 6, **k), (4, 6, 7), (4, 1, 7)),
    "instance": (lambda **k: ours.InstanceNorm1d(6, affine=True, **k), (4, 6, 7), (4, 1, 7)),
    "sample": (lambda **k: ours.InstanceNorm1d(6, affine=True, **k), (6, 7), (1, 7)),
    "batch": (lambda **k: ours.BatchNorm1d(6, **k), (4, 6, 7), (4, 1, 7)),
    "picture": (lambda **k: ours.BatchNorm2d(6, **k), (4, 6, 7, 8), (4, 1, 7, 8)),
    "last": (lambda **k: ours.BatchNorm2d(6, **k), (4, 6, 7, 8), (7, 8)),
    "average": (lambda **k: ours.BatchNorm1d(6, momentum=None, **k), (4, 6), (4, 1)),
}
CALLS: dict[str, Any] = {
    "layer": lambda x, m, **k: numbanorm.layer_norm(x, 6, **k),
    "rms": lambda x, m, **k: numbanorm.rms_norm(x, 6, **k),
    "group": lambda x, m, **k: numbanorm.group_norm(x, 3, **k),
    "instance": lambda x, m, **k: numbanorm.instance_norm(x, **k),
    "sample": lambda x, m, **k: numbanorm.instance_norm(x[None], **k)[0],
    "batch": lambda x, m, **k: numbanorm.batch_norm(x, training=True, **k),
}
CALLS |= dict.fromkeys(("picture", "last", "average"), CALLS["batch"])


def made(kind: str, dtype: Any = torch.float32) -> tuple[Any, Any, Any]:
    make, shape, mask = MODULES[kind]
    g = torch.Generator().manual_seed(len(kind))
    module = make().to(dtype)
    for p in module.parameters():
        torch.nn.init.uniform_(p, 0.5, 2.0, generator=g)
    x = torch.randn(shape, generator=g).to(dtype)
    if kind == "last":
        x = x.contiguous(memory_format=torch.channels_last)
    return module, x, torch.rand(mask, generator=g) < 0.7


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", MODULES)
def test_the_numbers_of_the_functions(kind: str, exact: bool) -> None:
    module, x, where = made(kind)
    module.exact = exact
    x[~where.expand(x.shape)] = torch.nan
    y = module(x, where=where)
    a = {name: p.detach().numpy() for name, p in module.named_parameters()}
    channels = kind == "last"
    data, mask = (np.moveaxis(v, 1, -1) if channels else v for v in (x.numpy(), np.broadcast_to(where.numpy(), x.shape)))
    wanted = CALLS[kind](
        np.ascontiguousarray(data), None, where=mask, exact=exact, **a, **({"channel_axis": -1} if channels else {})
    )
    np.testing.assert_array_equal(np.moveaxis(y.detach().numpy(), 1, -1) if channels else y.detach().numpy(), wanted)


def formula(module: Any, x: Any, where: Any) -> Any:
    """The norm by operations of torch, of x that is 0 where it does not count."""
    name, full = type(module).__name__, where.expand(x.shape)
    v = x.reshape(*x.shape[:1], 3, -1) if name == "GroupNorm" else x
    w = full.reshape(v.shape)
    dims = {"LayerNorm": (-1,), "RMSNorm": (-1,), "GroupNorm": (2,)}.get(name)
    if dims is None:
        dims = (x.dim() - 1,) if "Instance" in name else tuple(k for k in range(x.dim()) if k != 1)
    n = w.sum(dims, keepdim=True).clamp(min=1)
    mean = 0.0 if name == "RMSNorm" else (v * w).sum(dims, keepdim=True) / n
    var = ((v - mean) ** 2 * w).sum(dims, keepdim=True) / n
    eps = torch.finfo(torch.float64).eps if module.eps is None else module.eps
    normalized = ((v - mean) / torch.sqrt(var + eps)).reshape(x.shape)
    if name in ("LayerNorm", "RMSNorm"):
        y = normalized * module.weight
        return y + module.bias if name == "LayerNorm" else y
    axis = x.dim() - 2 if "Instance" in name else 1
    shape = [-1 if k == axis else 1 for k in range(x.dim())]
    return normalized * module.weight.reshape(shape) + module.bias.reshape(shape)


@pytest.mark.parametrize("kind", MODULES)
def test_gradients(kind: str) -> None:
    """Of what counts, as autograd has them of the formula; those of the rest are 0."""
    module, x, where = made(kind, torch.float64)
    where = where | (torch.arange(where.shape[-1]) == 0)  # no group without anything
    full = where.expand(x.shape)
    x, g = torch.where(full, x, 0.0).requires_grad_(), torch.randn(x.shape, dtype=torch.float64)
    dy = torch.where(full, g, torch.nan)
    y = formula(module, x, where)
    wanted = torch.autograd.grad((y * torch.where(full, g, 0.0)).sum(), [x, *module.parameters()])
    z = torch.where(full, x.detach(), torch.nan).requires_grad_()
    found = torch.autograd.grad(module(z, where), [z, *module.parameters()], dy)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, torch.where(full, two, 0.0) if two.shape == x.shape else two, rtol=1e-10, atol=1e-12)


def test_running_statistics() -> None:
    module, x, where = made("batch")
    expected = {"running_mean": np.zeros(6, np.float32), "running_var": np.ones(6, np.float32)}
    module(x, where)
    numbanorm.batch_norm(x.numpy(), training=True, where=where.numpy(), **expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(module, name).numpy(), values)
    assert module.num_batches_tracked == 1
    module.eval()
    assert torch.equal(module(x, where), module(x))  # nothing is measured


def test_what_is_refused() -> None:
    module, x, where = made("layer")
    with pytest.raises(TypeError, match=r"where must be a tensor of bool: got torch.float32; write where.bool"):
        module(x, where.float())
    with pytest.raises(TypeError, match=r"where must be a tensor of bool: got ndarray"):
        module(x, where.numpy())
    with pytest.raises(ValueError, match=r"where must broadcast to the shape of x"):
        module(x, where[:3])
    with pytest.raises(ValueError, match=r"where wants plain tensors on the CPU.*: got .*; leave where out"):
        torch.func.vmap(lambda v: ours.layer_norm(v, (6,), where=where[0]))(x)
    with pytest.raises(ValueError, match=r"where must be None for a nested tensor"):
        module(torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(3, 6)], layout=torch.jagged), where)
    x.requires_grad_()
    (dx,) = torch.autograd.grad(module(x, where).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        dx.sum().backward()
