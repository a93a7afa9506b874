"""Results, running statistics and refusals against torch's own functions: argument by argument in float64, and on random
shapes in float32 too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import METHODS, Arguments, Case
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_eps_of_rms_norm_is_that_of_torch(dtype: torch.dtype) -> None:
    """On data so small that eps rules the root."""
    x = torch.full((1, 4), 1e-4, dtype=dtype)
    y = functional.rms_norm(x, (4,))
    bfloat16 = dtype == torch.bfloat16  # which torch gives NumPy no array of
    array = x.view(torch.int16).numpy().view("bfloat16") if bfloat16 else x.numpy()
    ours = numbanorm.rms_norm(array, 4)
    # torch rounds the root, its reciprocal and the product
    np.testing.assert_allclose(ours.astype(np.float64), y.double().numpy(), rtol=4 * torch.finfo(dtype).eps)


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


# torch adds float32 in float32: a few hundred terms with a mean near their spread lose two or three digits of seven
CLOSE_IN = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}
every_float = pytest.mark.parametrize("dtype", list(CLOSE_IN))


def random_shape(rng: np.random.Generator) -> tuple[int, ...]:
    """(N, C, ...) with at least two values in every group of every norm."""
    return (int(rng.integers(2, 9)), int(rng.integers(1, 13)), *map(int, rng.integers(2, 12, rng.integers(1, 4))))


@every_float
@pytest.mark.parametrize("draw", range(15))
def test_random_shapes(dtype: str, draw: int) -> None:
    rng = np.random.default_rng(draw)
    shape = random_shape(rng)
    channels, dims = shape[1], int(rng.integers(1, len(shape)))
    groups = int(rng.choice([d for d in range(1, channels + 1) if channels % d == 0]))
    eps = float(rng.choice([1e-5, 1e-3]))
    x, w, b, mean, var = (a.astype(dtype) for a in given(shape, (channels,), rng))
    lw, lb = (a.astype(dtype) for a in given((2,), shape[-dims:], rng)[1:3])
    t, tw, tb, t_mean, t_var, tlw, tlb = tensors([x, w, b, mean, var, lw, lb])
    pairs = [
        (numbanorm.layer_norm(x, lw.shape, lw, lb, eps), functional.layer_norm(t, lw.shape, tlw, tlb, eps)),
        (numbanorm.rms_norm(x, lw.shape, lw, eps), functional.rms_norm(t, lw.shape, tlw, eps)),
        (numbanorm.group_norm(x, groups, w, b, eps), functional.group_norm(t, groups, tw, tb, eps)),
        (numbanorm.instance_norm(x, None, None, w, b, eps=eps), functional.instance_norm(t, None, None, tw, tb, eps=eps)),
        (numbanorm.batch_norm(x, mean, var, w, b, eps=eps), functional.batch_norm(t, t_mean, t_var, tw, tb, eps=eps)),
        (numbanorm.batch_norm(x, None, None, w, b, True), functional.batch_norm(t, None, None, tw, tb, True)),
    ]
    for y, expected in pairs:
        assert str(y.dtype) == dtype
        np.testing.assert_allclose(y, expected.numpy(), **CLOSE_IN[dtype])


@every_float
@pytest.mark.parametrize("momentum", [0.1, 0.9])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_running_statistics_after_ten_batches(norm: str, momentum: float, dtype: str, rng: np.random.Generator) -> None:
    """Of batches that differ in size, mean and spread; and what they normalize then."""
    ours, theirs = getattr(numbanorm, f"{norm}_norm"), getattr(functional, f"{norm}_norm")
    mean, var = np.zeros(5, dtype), np.ones(5, dtype)
    t_mean, t_var = tensors([mean, var])
    for k in range(10):
        x = rng.normal(k - 3.0, 1.0 + k, (2 + k % 3, 5, 4 + k)).astype(dtype)
        t = torch.from_numpy(x.copy())
        y, expected = ours(x, mean, var, None, None, True, momentum), theirs(t, t_mean, t_var, None, None, True, momentum)
        np.testing.assert_allclose(y, expected.numpy(), **CLOSE_IN[dtype])
    np.testing.assert_allclose(mean, t_mean.numpy(), **CLOSE_IN[dtype])
    np.testing.assert_allclose(var, t_var.numpy(), **CLOSE_IN[dtype])
    y, expected = ours(x, mean, var, None, None, False), theirs(t, t_mean, t_var, None, None, False)
    np.testing.assert_allclose(y, expected.numpy(), **CLOSE_IN[dtype])


def in_torch(case: Case, a: Arguments, eps: float) -> Any:
    """torch's function of x, weight and bias for the case."""
    mean, var = (None, None) if case.training else tensors([a.running_mean, a.running_var])
    return {
        "layer": lambda x, *p: functional.layer_norm(x, case.parameter_shape, *p, eps=eps),
        "rms": lambda x, *p: functional.rms_norm(x, case.parameter_shape, *p, eps=eps),
        "group": lambda x, *p: functional.group_norm(x, case.groups, *p, eps=eps),
        "instance": lambda x, *p: functional.instance_norm(x, mean, var, *p, use_input_stats=case.training, eps=eps),
        "batch": lambda x, *p: functional.batch_norm(x, mean, var, *p, training=case.training, eps=eps),
    }[case.norm]


def check_gradients(found: Any, expected: Any, dtype: str) -> None:
    """At the scale of the largest: the small ones are what is left of sums over all of dy."""
    for got, of_torch in zip(found, expected, strict=False):
        exact = of_torch.numpy()
        scale = max(1.0, float(np.abs(exact).max()))
        assert str(got.dtype) == dtype
        np.testing.assert_allclose(got / scale, exact / scale, **CLOSE_IN[dtype])


@every_float
@affine
@pytest.mark.parametrize("draw", range(15))
def test_gradients_of_random_shapes(dtype: str, draw: int, with_affine: bool) -> None:
    """Against autograd."""
    rng = np.random.default_rng(100 + draw)
    shape = random_shape(rng)
    groups = int(rng.choice([d for d in range(1, shape[1] + 1) if shape[1] % d == 0]))
    families = [Case(norm, shape, dims=int(rng.integers(1, len(shape)))) for norm in ("layer", "rms")]
    families += [Case(norm, shape, training=own) for norm in ("batch", "instance") for own in (True, False)]
    eps = float(rng.choice([1e-5, 1e-3]))
    for case in (*families, Case("group", shape, groups=groups)):
        case = replace(case, affine=with_affine)
        a, dy = cases.arguments(case, np.dtype(dtype)), cases.upstream(case, np.dtype(dtype))
        leaves = [t.requires_grad_() for t in tensors([p for p in (a.x, a.weight, a.bias) if p is not None])]
        in_torch(case, a, eps)(*leaves).backward(*tensors([dy]))
        check_gradients(cases.gradients(case, a, dy, eps=eps), [leaf.grad for leaf in leaves], dtype)


MASKS = [(True, True, True), (False, True, True), (True, False, False), (False, False, True)]


@pytest.mark.parametrize("needs", MASKS)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda s: "x".join(map(str, s)))
def test_native_operators(shape: tuple[int, ...], needs: tuple[bool, bool, bool], rng: np.random.Generator) -> None:
    """They take the statistics that torch measured, and so do these functions. That of RMS norm has no CPU code."""
    x, w, b, mean, var = given(shape, (6,), rng)
    dy, last = rng.normal(0.5, 1, shape), shape[1:]
    lw = rng.uniform(0.5, 2, last)
    t, tdy, tw, tb, t_mean, t_var, tlw = tensors([x, dy, w, b, mean, var, lw])
    aten, nn, size = torch.ops.aten, numbanorm, (shape[0], 6, int(np.prod(shape[2:])))

    def known(*stats: Any, of: tuple[int, ...]) -> numbanorm.Stats:
        return nn.Stats(*(s.numpy().reshape(of) for s in stats))

    _, m, r = aten.native_layer_norm(t, last, tlw, None, 1e-5)
    theirs = aten.native_layer_norm_backward(tdy, t, last, m, r, tlw, torch.zeros_like(tlw), needs)
    pairs = [(nn.layer_norm_backward(dy, x, last, known(m, r, of=shape[:1]), lw, needs=needs), theirs)]
    _, m, r = aten.native_group_norm(t, tw, tb, *size, 3, 1e-5)
    theirs = aten.native_group_norm_backward(tdy, t, m, r, tw, *size, 3, needs)
    pairs += [(nn.group_norm_backward(dy, x, 3, known(m, r, of=(shape[0], 3)), w, needs=needs), theirs)]
    _, m, r = aten.native_batch_norm(t, tw, tb, None, None, True, 0.1, 1e-5)
    theirs = aten.native_batch_norm_backward(tdy, t, tw, None, None, m, r, True, 1e-5, needs)
    pairs += [(nn.batch_norm_backward(dy, x, known(m, r, of=(6,)), w, needs=needs), theirs)]
    theirs = aten.native_batch_norm_backward(tdy, t, tw, t_mean, t_var, None, None, False, 1e-5, needs)
    stats = nn.Stats(mean, 1 / np.sqrt(var + 1e-5))
    pairs += [(nn.batch_norm_backward(dy, x, stats, w, training=False, needs=needs), theirs)]
    for found, expected in pairs:
        assert [g is not None for g in found] == list(needs)
        asked = [(g, e) for g, e in zip(found, expected, strict=True) if g is not None]
        check_gradients(*zip(*asked, strict=True), "float64")


def refuses(call: Any, kind: type[Exception] | tuple[type[Exception], ...]) -> bool:
    """Whether it raises `kind`; anything else that it raises is an error of this test."""
    try:
        call()
    except kind:
        return True
    return False


ONE_VALUE = [
    (1, 6),
    (2, 6),
    (1, 6, 1),
    (2, 6, 1),
    (1, 6, 2),
    (1, 6, 1, 1),
    (3, 6, 1, 1),
    (1, 6, 1, 2),
    (1, 1),
    (1, 1, 1),
    (0, 6),
    (1, 6, 0),
]


@pytest.mark.parametrize("shape", ONE_VALUE, ids=lambda s: "x".join(map(str, s)))
def test_refuses_one_value_where_torch_does(shape: tuple[int, ...]) -> None:
    """In training; and with given statistics neither does."""
    x, t, channels = np.ones(shape), torch.ones(shape), np.ones(shape[1])
    t_channels = torch.ones(shape[1])
    pairs: list[tuple[Any, Any]] = [
        (lambda: numbanorm.batch_norm(x, training=True), lambda: functional.batch_norm(t, None, None, training=True)),
        (lambda: numbanorm.batch_norm(x, channels, channels), lambda: functional.batch_norm(t, t_channels, t_channels)),
    ]
    if 0 not in shape:  # group and instance norm of nothing: torch has no rule of its own
        pairs += [(lambda: numbanorm.instance_norm(x), lambda: functional.instance_norm(t))]
        for g in {1, shape[1]}:
            pairs += [(lambda g=g: numbanorm.group_norm(x, g), lambda g=g: functional.group_norm(t, g))]
    for ours, theirs in pairs:
        assert refuses(ours, ValueError) == refuses(theirs, ValueError)


WRONG = {
    "weight too long": lambda f, a: f.layer_norm(a(3, 6), (6,), a(7)),
    "normalized_shape": lambda f, a: f.layer_norm(a(3, 6), (5,)),
    "normalized_shape of rms": lambda f, a: f.rms_norm(a(3, 6), (3,)),
    "groups": lambda f, a: f.group_norm(a(3, 6), 4),
    "weight of groups": lambda f, a: f.group_norm(a(3, 6), 2, a(2)),
    "no statistics": lambda f, a: f.batch_norm(a(3, 6), None, None),
    "no statistics of instances": lambda f, a: f.instance_norm(a(3, 6, 4), None, None, use_input_stats=False),
    "statistics too short": lambda f, a: f.batch_norm(a(3, 6), a(5), a(6)),
    "bias too short": lambda f, a: f.batch_norm(a(3, 6), a(6), a(6), a(6), a(5)),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_refuses_wrong_shapes_as_torch_does(wrong: str) -> None:
    """torch raises RuntimeError where the check is in C++."""
    assert refuses(lambda: WRONG[wrong](functional, lambda *shape: torch.ones(shape)), (RuntimeError, ValueError))
    assert refuses(lambda: WRONG[wrong](numbanorm, lambda *shape: np.ones(shape)), ValueError)


def test_one_value_in_each_of_several_samples() -> None:
    """torch counts the values that a group has in the whole batch: two samples of one value each are not refused."""
    y = numbanorm.group_norm(np.ones((2, 6, 1)), 6)
    np.testing.assert_array_equal(y, functional.group_norm(torch.ones((2, 6, 1)), 6).numpy())
