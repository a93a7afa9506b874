"""Results and running statistics against torch's own functions, in float64, argument by argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import METHODS
from numpy.typing import NDArray

import numbanorm

torch: Any = pytest.importorskip("torch", reason="torch is not installed: results are compared with it")
functional: Any = torch.nn.functional

Array = NDArray[Any]

# torch computes in float64 as well, with roundings of its own: a few units at values up to 8
CLOSE = {"rtol": 1e-13, "atol": 1e-14}

every_method = pytest.mark.parametrize("method", METHODS)
SHAPES = [(4, 6), (5, 6, 7), (3, 6, 5, 4), (2, 6, 3, 4, 5), (2, 6, 40, 50)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
affine = pytest.mark.parametrize("with_affine", [True, False], ids=["affine", "plain"])


def given(shape: tuple[int, ...], parameter: tuple[int, ...], rng: np.random.Generator) -> list[Array]:
    """x, weight, bias, running mean, running variance."""
    x, weight, bias = rng.normal(1.5, 2.0, shape), rng.uniform(0.5, 2, parameter), rng.normal(size=parameter)
    return [x, weight, bias, rng.normal(size=parameter), rng.uniform(0.5, 2, parameter)]


def tensors(arrays: list[Array]) -> list[Any]:
    return [torch.from_numpy(a.copy()) for a in arrays]


@every_method
@affine
@every_shape
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm(shape: tuple[int, ...], with_affine: bool, eps: float, method: str, rng: np.random.Generator) -> None:
    for dims in range(1, len(shape)):
        last = shape[-dims:]
        x, w, b, *_ = given(shape, last, rng)
        parameters = [w, b] if with_affine else []
        t, *of_torch = tensors([x, *parameters])
        y = numbanorm.layer_norm(x, last, *parameters, eps=eps, method=method)
        np.testing.assert_allclose(y, functional.layer_norm(t, last, *of_torch, eps=eps).numpy(), **CLOSE)


@affine
@every_shape
@pytest.mark.parametrize("eps", [None, 1e-5, 0.1])
def test_rms_norm(shape: tuple[int, ...], with_affine: bool, eps: float | None, rng: np.random.Generator) -> None:
    for dims in range(1, len(shape)):
        last = shape[-dims:]
        x, w, *_ = given(shape, last, rng)
        parameters = [w] if with_affine else []
        t, *of_torch = tensors([x, *parameters])
        y = numbanorm.rms_norm(x, last, *parameters, eps=eps)
        np.testing.assert_allclose(y, functional.rms_norm(t, last, *of_torch, eps=eps).numpy(), **CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eps_of_rms_norm_is_that_of_the_type(dtype: type) -> None:
    """On data so small that eps rules the root. Not for half types: torch documents their own eps and takes float32's."""
    x = np.full((1, 4), np.finfo(dtype).eps, dtype)
    y = functional.rms_norm(torch.from_numpy(x), (4,)).numpy()
    # torch rounds the root, its reciprocal and the product
    np.testing.assert_allclose(numbanorm.rms_norm(x, 4), y, rtol=4 * np.finfo(dtype).eps)


# not (4, 6) in 6 groups: one value each, of which torch makes bias with an error of 1e-12, and this exactly bias
GROUPED = [(shape, groups) for shape in SHAPES for groups in (1, 2, 3, 6) if (len(shape), groups) != (2, 6)]


@every_method
@affine
@pytest.mark.parametrize(("shape", "groups"), GROUPED)
def test_group_norm(shape: tuple[int, ...], groups: int, with_affine: bool, method: str, rng: np.random.Generator) -> None:
    x, w, b, *_ = given(shape, (6,), rng)
    parameters = [w, b] if with_affine else []
    t, *of_torch = tensors([x, *parameters])
    y = numbanorm.group_norm(x, groups, *parameters, method=method)
    np.testing.assert_allclose(y, functional.group_norm(t, groups, *of_torch).numpy(), **CLOSE)


@every_method
@affine
@every_shape
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, 0.37])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batch_norm(
    shape: tuple[int, ...], training: bool, momentum: float, with_affine: bool, method: str, rng: np.random.Generator
) -> None:
    x, w, b, mean, var = given(shape, (6,), rng)
    parameters = [w, b] if with_affine else [None, None]
    t, t_mean, t_var = tensors([x, mean, var])
    of_torch = tensors([w, b]) if with_affine else [None, None]
    expected = functional.batch_norm(t, t_mean, t_var, *of_torch, training, momentum)
    y = numbanorm.batch_norm(x, mean, var, *parameters, training, momentum, method=method)
    np.testing.assert_allclose(y, expected.numpy(), **CLOSE)
    np.testing.assert_allclose(mean, t_mean.numpy(), **CLOSE)
    np.testing.assert_allclose(var, t_var.numpy(), **CLOSE)


@every_method
@affine
@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("own", [True, False], ids=["own", "given"])
def test_instance_norm(shape: tuple[int, ...], own: bool, with_affine: bool, method: str, rng: np.random.Generator) -> None:
    x, w, b, mean, var = given(shape, (6,), rng)
    parameters = [w, b] if with_affine else [None, None]
    t, t_mean, t_var = tensors([x, mean, var])
    of_torch = tensors([w, b]) if with_affine else [None, None]
    expected = functional.instance_norm(t, t_mean, t_var, *of_torch, own, 0.3)
    y = numbanorm.instance_norm(x, mean, var, *parameters, own, 0.3, method=method)
    np.testing.assert_allclose(y, expected.numpy(), **CLOSE)
    np.testing.assert_allclose(mean, t_mean.numpy(), **CLOSE)
    np.testing.assert_allclose(var, t_var.numpy(), **CLOSE)


@pytest.mark.parametrize("momentum", [0.1, None], ids=["momentum", "cumulative"])
def test_layer_over_several_batches(momentum: float | None, rng: np.random.Generator) -> None:
    """Four batches, then evaluation: the buffers of a torch layer, its counter included."""
    layer = torch.nn.BatchNorm2d(6, momentum=momentum, dtype=torch.float64)
    mean, var, count = np.zeros(6), np.ones(6), np.array(0)
    for _ in range(4):
        x = rng.normal(1.5, 2.0, (3, 6, 5, 4))
        y = numbanorm.batch_norm(x, mean, var, None, None, True, momentum, num_batches_tracked=count)
        np.testing.assert_allclose(y, layer(torch.from_numpy(x)).detach().numpy(), **CLOSE)
        np.testing.assert_allclose(mean, layer.running_mean.numpy(), **CLOSE)
        np.testing.assert_allclose(var, layer.running_var.numpy(), **CLOSE)
        assert count == layer.num_batches_tracked.item()
    layer.eval()
    x = rng.normal(1.5, 2.0, (3, 6, 5, 4))
    expected = layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(numbanorm.batch_norm(x, mean, var), expected, **CLOSE)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_nan_and_inf_fall_on_the_same_elements(fill: float, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 6, 5))
    x[1, 2, 3] = fill
    t = torch.from_numpy(x)
    pairs = [
        (numbanorm.layer_norm(x, 5), functional.layer_norm(t, (5,))),
        (numbanorm.group_norm(x, 3), functional.group_norm(t, 3)),
        (numbanorm.instance_norm(x), functional.instance_norm(t)),
        (numbanorm.batch_norm(x, training=True), functional.batch_norm(t, None, None, training=True)),
        (numbanorm.rms_norm(x, 5), functional.rms_norm(t, (5,))),
    ]
    for y, expected in pairs:
        np.testing.assert_allclose(y, expected.numpy(), **CLOSE)  # nan equals nan here


def test_refuses_what_torch_refuses() -> None:
    one, t = np.ones((1, 6, 1)), torch.ones((1, 6, 1))
    with pytest.raises(ValueError, match="more than 1 value"):
        functional.batch_norm(t, None, None, training=True)
    with pytest.raises(ValueError, match="more than one value"):
        numbanorm.batch_norm(one, training=True)
    with pytest.raises(ValueError, match="more than 1 spatial"):
        functional.instance_norm(t)
    with pytest.raises(ValueError, match="more than one value"):
        numbanorm.instance_norm(one)
    with pytest.raises(ValueError, match="more than 1 value"):
        functional.group_norm(t, 6)
    # torch counts all values of the batch that a group has: with N * C / groups > 1 it computes, and so does this
    with pytest.raises(ValueError, match="more than one value"):
        numbanorm.group_norm(one, 6)
    np.testing.assert_array_equal(numbanorm.group_norm(np.ones((2, 6, 1)), 6), functional.group_norm(torch.ones((2, 6, 1)), 6))
