"""The layers against torch's: arguments, attributes, repr, states both ways, and what they compute over a training."""

from __future__ import annotations

import inspect
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import numbanorm

torch: Any = pytest.importorskip("torch", reason="torch is not installed: the layers are compared with its own")

Array = NDArray[Any]

NAMES = (
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "GroupNorm",
    "RMSNorm",
)  # fmt: skip
# torch computes in x's type, in an order of its own: a few hundred terms lose two or three digits of seven (of sixteen)
CLOSE = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}
every_float = pytest.mark.parametrize("dtype", list(CLOSE))
every_name = pytest.mark.parametrize("name", NAMES)


def arguments(name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Constructor arguments, positional and by name, that torch takes as well."""
    if name == "LayerNorm":
        return [
            ((5,), {}), (([4, 5],), {}), (((6, 4, 5), 1e-3, True, False), {}), ((5,), {"elementwise_affine": False}),
            ((5, 1), {"bias": False}), ((5, 1e-3, False, False), {}),
        ]  # fmt: skip
    if name == "RMSNorm":
        return [((5,), {}), (([4, 5], 1e-3), {}), ((5, None, False), {}), ((5,), {"elementwise_affine": True, "eps": 1})]
    if name == "GroupNorm":
        return [((3, 6), {}), ((1, 6, 1e-3, False), {}), ((6, 6), {"bias": False}), ((2, 6), {"affine": False, "bias": False})]
    plain: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((6,), {}),
        ((6, 1e-3), {}),
        ((6,), {"affine": True, "track_running_stats": True}),
        ((6, 1e-5, 0.3, False, True), {}),
        ((6, 1e-5, 0.3, True, False), {}),
        ((6,), {"affine": True, "bias": False}),
        ((6,), {"affine": False, "track_running_stats": False}),
    ]
    # torch's instance norm takes None for 0 and never moves its running statistics
    return [*plain, ((6, 1e-5, None), {})] if name.startswith("Batch") else plain


TABLE = [pytest.param(name, *a, id=f"{name}-{k}") for name in NAMES for k, a in enumerate(arguments(name))]
every_layer = pytest.mark.parametrize(("name", "args", "options"), TABLE)


def pair(name: str, args: Any, options: Any, dtype: str = "float32") -> tuple[Any, Any]:
    """A layer, and torch's, with the same parameters and running statistics."""
    ours = getattr(numbanorm, name)(*args, **options, dtype=dtype)
    theirs = getattr(torch.nn, name)(*args, **options, dtype=getattr(torch, dtype))
    rng = np.random.default_rng(3)
    for key, array in ours.state_dict().items():
        if key != "num_batches_tracked":
            array[...] = rng.uniform(0.5, 2.0, array.shape)
    theirs.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in ours.state_dict().items()})
    return ours, theirs


def as_arrays(module: Any) -> dict[str, Array]:
    return {key: tensor.numpy() for key, tensor in module.state_dict().items()}


def shapes(name: str) -> list[tuple[int, ...]]:
    """(N, 6, ...) that end on (4, 5) or do not matter."""
    spatial = {"1": (7,), "2": (4, 5), "3": (3, 4, 5)}.get(name[-2], (4, 5))
    unbatched = {"BatchNorm1d": [(5, 6)], **{f"InstanceNorm{k}d": [(6, *spatial)] for k in "123"}}
    return [(3, 6, *spatial), *unbatched.get(name, [])]


@every_name
def test_constructors_take_what_those_of_torch_take(name: str) -> None:
    """In the same order, with the same defaults, but for the device; what is beyond goes by name."""
    ours = inspect.signature(getattr(numbanorm, name)).parameters.values()
    theirs = inspect.signature(getattr(torch.nn, name)).parameters.values()
    expected = [(p.name, p.default, p.kind) for p in theirs if p.name != "device"]
    assert [(p.name, p.default, p.kind) for p in ours][: len(expected)] == expected
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(ours)[len(expected) :])


@every_layer
def test_attributes_and_repr(name: str, args: Any, options: Any) -> None:
    ours, theirs = getattr(numbanorm, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    for attribute in (*theirs.__constants__, "training"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    for attribute in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert hasattr(ours, attribute) == hasattr(theirs, attribute), attribute
        if hasattr(theirs, attribute):
            assert (getattr(ours, attribute) is None) == (getattr(theirs, attribute) is None), attribute


@every_float
@every_layer
def test_states(name: str, args: Any, options: Any, dtype: str) -> None:
    """Names, order, types and first values; parameters by name."""
    ours = getattr(numbanorm, name)(*args, **options, dtype=dtype)
    theirs = getattr(torch.nn, name)(*args, **options, dtype=getattr(torch, dtype))
    for mine, expected in (
        (ours.state_dict(), as_arrays(theirs)),
        (dict(ours.named_parameters()), {key: p.detach().numpy() for key, p in theirs.named_parameters()}),
    ):
        assert list(mine) == list(expected)
        for key, array in expected.items():
            assert (mine[key].dtype, mine[key].shape) == (array.dtype, array.shape)
            assert np.array_equal(mine[key], array)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))


def check(ours: Any, theirs: Any, x: Array, dy: Array) -> None:
    """One call and its gradients."""
    close: dict[str, Any] = CLOSE[x.dtype.name]
    t = torch.from_numpy(x.copy()).requires_grad_()
    theirs.zero_grad()
    expected = theirs(t)
    expected.backward(torch.from_numpy(dy.copy()))
    y = ours(x)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y, expected.detach().numpy(), **close)
    np.testing.assert_allclose(ours.backward(dy), t.grad.numpy(), **close)
    grads = {key: p.grad.numpy() for key, p in theirs.named_parameters()}
    assert list(ours.grad) == list(grads)
    for key, grad in grads.items():
        assert ours.grad[key].dtype == grad.dtype
        # sums over all samples, of terms up to 10
        np.testing.assert_allclose(ours.grad[key], grad, rtol=close["rtol"], atol=10 * close["atol"])


def check_states(ours: Any, theirs: Any, close: dict[str, Any]) -> None:
    expected, state = as_arrays(theirs), ours.state_dict()
    assert list(state) == list(expected)
    for key, array in expected.items():
        np.testing.assert_allclose(state[key], array, **close)


@every_float
@every_layer
def test_ten_steps_and_evaluation(name: str, args: Any, options: Any, dtype: str, rng: np.random.Generator) -> None:
    """y, dx and the gradients at every step, of batches of other means and spreads; the state, the count too; then
    evaluation, which changes no state."""
    for shape in shapes(name):
        ours, theirs = pair(name, args, options, dtype)
        for k in range(10):
            x = rng.normal(k / 3 - 1.0, 1.0 + k / 3, shape).astype(dtype)
            check(ours, theirs, x, rng.normal(size=shape).astype(dtype))
            check_states(ours, theirs, CLOSE[dtype])
        assert ours.eval().training == theirs.eval().training
        state = {key: array.tobytes() for key, array in ours.state_dict().items()}
        for _ in range(2):
            check(ours, theirs, rng.normal(1.0, 2.0, shape).astype(dtype), rng.normal(size=shape).astype(dtype))
        assert {key: array.tobytes() for key, array in ours.state_dict().items()} == state


@every_layer
def test_states_both_ways(name: str, args: Any, options: Any, rng: np.random.Generator) -> None:
    """After a step: from torch as it is, to the bit, to go on with; and back."""
    shape = shapes(name)[0]
    x = rng.normal(size=shape).astype(np.float32)
    theirs = pair(name, args, options)[1]
    theirs(torch.from_numpy(x))
    ours = getattr(numbanorm, name)(*args, **options)
    ours.load_state_dict(as_arrays(theirs))
    assert {k: v.tobytes() for k, v in ours.state_dict().items()} == {k: v.tobytes() for k, v in as_arrays(theirs).items()}
    check(ours, theirs, x, x)
    check_states(ours, theirs, CLOSE["float32"])

    ours(x)
    theirs = getattr(torch.nn, name)(*args, **options)
    theirs.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in ours.state_dict().items()})
    check_states(ours, theirs, {"rtol": 0, "atol": 0})
    check(ours.eval(), theirs.eval(), x, x)


STATES: dict[str, tuple[str, ...]] = {
    "all": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    "old": ("weight", "bias", "running_mean", "running_var"),
    "parameters": ("weight", "bias"),
    "statistics": ("running_mean", "running_var", "num_batches_tracked"),
    "one statistic": ("running_var",),
    "nothing": (),
    "more": ("weight", "bias", "scale"),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("state", list(STATES))
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_states_are_refused_where_torch_refuses_them(name: str, track: bool, affine: bool, state: str, strict: bool) -> None:
    """And where not, both find the same names missing or not known."""
    ours, theirs = pair(name, (6,), {"affine": affine, "track_running_stats": track})
    values = {key: np.full(() if key[0] == "n" else 6, 3, np.int64 if key[0] == "n" else np.float32) for key in STATES[state]}
    try:
        expected = theirs.load_state_dict({key: torch.from_numpy(v.copy()) for key, v in values.items()}, strict)
    except RuntimeError:
        before = {k: v.tobytes() for k, v in ours.state_dict().items()}
        with pytest.raises(ValueError, match="state_dict must"):
            ours.load_state_dict(values, strict)
        assert {k: v.tobytes() for k, v in ours.state_dict().items()} == before
    else:
        assert ours.load_state_dict(values, strict) == tuple(expected)
        check_states(ours, theirs, {"rtol": 0, "atol": 0})


@pytest.mark.parametrize("name", NAMES[:6])
def test_axes_are_refused_where_torch_refuses_them(name: str) -> None:
    for ndim in range(1, 7):
        ours, theirs = pair(name, (3,), {})
        shape = (3,) * ndim
        try:
            theirs(torch.ones(shape))
        except ValueError:
            with pytest.raises(ValueError, match=f"{name} wants x of"):
                ours(np.ones(shape, np.float32))
        else:
            assert ours(np.ones(shape, np.float32)).shape == shape


@pytest.mark.parametrize("removed", [False, True], ids=["switched off", "removed"])
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_running_statistics_given_up_later(train: bool, removed: bool, rng: np.random.Generator) -> None:
    """As users do to freeze them, or to normalize by the batch in evaluation."""
    ours, theirs = pair("BatchNorm2d", (6,), {})
    for layer in (ours, theirs):
        layer.train(train)
        layer.track_running_stats = False
        if removed:
            layer.running_mean = layer.running_var = None
    x = rng.normal(size=(3, 6, 4, 5)).astype(np.float32)
    check(ours, theirs, x, x[::-1].copy())
    check_states(ours, theirs, {"rtol": 0, "atol": 0})


def test_an_average_over_no_number_of_batches(rng: np.random.Generator) -> None:
    """momentum=None without a counter leaves the running statistics alone, as torch's layer does."""
    ours, theirs = pair("BatchNorm2d", (6,), {"momentum": None})
    for layer in (ours, theirs):
        layer.num_batches_tracked = None
    x, before = rng.normal(size=(3, 6, 4, 5)).astype(np.float32), ours.running_var.copy()
    check(ours, theirs, x, x[::-1].copy())
    check_states(ours, theirs, {"rtol": 0, "atol": 0})
    np.testing.assert_array_equal(ours.running_var, before)


def test_channels_last(rng: np.random.Generator) -> None:
    """channel_axis=-1 is torch's layer on the axes moved."""
    theirs = pair("BatchNorm2d", (6,), {})[1]
    ours = numbanorm.BatchNorm2d(6, channel_axis=-1)
    ours.load_state_dict(as_arrays(theirs))
    x = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours(x), expected.detach().numpy(), **CLOSE["float32"])
    check_states(ours, theirs, CLOSE["float32"])


def test_a_model_in_evaluation(rng: np.random.Generator) -> None:
    """Layers of a torch model, trained there, take its state by prefix and give its results."""
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(6), torch.nn.GroupNorm(3, 6), torch.nn.LayerNorm(5))
    for _ in range(3):
        model(torch.from_numpy(rng.normal(2.0, 3.0, (4, 6, 4, 5)).astype(np.float32)))
    model.eval()
    layers = [numbanorm.BatchNorm2d(6), numbanorm.GroupNorm(3, 6), numbanorm.LayerNorm(5)]
    x = rng.normal(2.0, 3.0, (4, 6, 4, 5)).astype(np.float32)
    y = x
    for k, layer in enumerate(layers):
        prefix = f"{k}."
        layer.load_state_dict({key.removeprefix(prefix): v for key, v in as_arrays(model).items() if key.startswith(prefix)})
        y = layer.eval()(y)
    np.testing.assert_allclose(y, model(torch.from_numpy(x)).detach().numpy(), **CLOSE["float32"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_float32_parameters_for_half_inputs(dtype: Any, rng: np.random.Generator) -> None:
    """The usual mixture."""
    ours, theirs = pair("BatchNorm2d", (6,), {})
    x = rng.normal(size=(3, 6, 4, 5)).astype(dtype)
    t = torch.from_numpy(x.astype(np.float32)).to(getattr(torch, x.dtype.name))
    # both are rounded to the type at the end, perhaps to neighbours
    close = 2 * float(torch.finfo(t.dtype).eps)
    for train in (True, False):
        y, expected = ours.train(train)(x), theirs.train(train)(t)
        assert y.dtype == dtype
        np.testing.assert_allclose(y.astype(np.float32), expected.detach().float().numpy(), rtol=close, atol=close)
    check_states(ours, theirs, CLOSE["float32"])
