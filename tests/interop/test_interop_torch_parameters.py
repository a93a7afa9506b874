"""Tensors as parameters of samples, rows and heads, and weights that something is added to: gradients by autograd."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import numbanorm.interop.torch as ours  # noqa: E402

EVAL = torch.zeros(4).double(), torch.ones(4).double()
NORMS: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "layer": (lambda x, w, b: ours.layer_norm(x, (5,), w, b), [(3, 1, 5), (4, 5)]),
    "offset": (lambda x, w, b: ours.layer_norm(x, (5,), w, b, weight_offset=1.0), [(5,), (4, 5)]),
    "rms": (lambda x, w, b: ours.rms_norm(x, (5,), w, weight_offset=1.0) + b, [(5,), (3, 1, 5)]),
    "group": (lambda x, w, b: ours.group_norm(x, 2, w, b), [(3, 4), (3, 1)]),
    "instance": (lambda x, w, b: ours.instance_norm(x, None, None, w, b), [(3, 4)]),
    "given": (lambda x, w, b: ours.instance_norm(x, *EVAL, w, b, False), [(3, 4)]),
    "batch": (lambda x, w, b: ours.batch_norm(x, None, None, w, b, True), [(3, 4), (3, 1)]),
    "eval": (lambda x, w, b: ours.batch_norm(x, *EVAL, w, b, False), [(3, 4)]),
}


@pytest.mark.parametrize(("norm", "shape"), [(norm, shape) for norm, (_, shapes) in NORMS.items() for shape in shapes])
def test_gradients(norm: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4, 5), shape, shape))
    assert torch.autograd.gradcheck(NORMS[norm][0], (x, w, b))


def test_channels_last_and_parameters_of_two_shapes() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3).double().contiguous(memory_format=torch.channels_last).requires_grad_()
    w, b = torch.randn(2, 4).double().requires_grad_(), torch.randn(4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: ours.batch_norm(x, None, None, w, b, True), (x, w, b))
    y = ours.group_norm(x, 2, w, b)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_what_is_refused() -> None:
    x = torch.randn(3, 4, 5)
    with pytest.raises(ValueError, match="wants plain tensors on the CPU, as parameters of samples do"):
        torch.func.vmap(lambda v: ours.layer_norm(v, (5,), torch.ones(4, 5)))(torch.randn(2, 3, 4, 5))
    with pytest.raises(ValueError, match="a shape that broadcasts to"):
        ours.layer_norm(x, (5,), torch.ones(2, 4, 5))
    with pytest.raises(ValueError, match="weight_offset is added to weight"):
        ours.layer_norm(x, (5,), weight_offset=1.0)
