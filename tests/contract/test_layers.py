"""The layers against the functions, to the bit, and what a layer adds to them: state, checks, names."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, METHODS
from layer_cases import CASES, FULL, MESSAGES, WRONG_ARGUMENTS, WRONG_CALLS, WRONG_STATES, made, randomized
from numpy.typing import NDArray

import numbanorm as nn

Array = NDArray[Any]


every_case = pytest.mark.parametrize("name", list(CASES))
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
train_and_eval = pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
TRACKING = {name: case for name, case in CASES.items() if name.startswith(("Batch", "Instance"))}
every_tracking = pytest.mark.parametrize("name", list(TRACKING))


def contents(layer: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in layer.state_dict().items()}


def as_bytes(arrays: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


@every_dtype
@train_and_eval
@every_case
def test_a_layer_is_its_functions(name: str, train: bool, dtype: Any, rng: np.random.Generator) -> None:
    """y, dx, the gradients and the running statistics, to the bit; twice, for the state that the first call leaves."""
    layer, x, dy = made(name, rng, dtype)
    layer.train(train)
    state = copy.deepcopy(layer.state_dict())
    for _ in range(2):
        y, stats = CASES[name].forward(x, state, train, return_stats=True)
        expected = CASES[name].backward(dy, x, stats, state, train)
        assert layer(x).tobytes() == y.tobytes()
        assert contents(layer) == as_bytes(state)
        dx = layer.backward(dy)
        assert dx.dtype == x.dtype
        assert dx.tobytes() == expected[0].tobytes()
        assert as_bytes(layer.grad) == as_bytes(dict(zip(("weight", "bias"), expected[1:], strict=False)))
        assert {g.dtype for g in layer.grad.values()} == {np.dtype(np.float32)}


@train_and_eval
@every_case
def test_a_mask_is_kept_for_backward(name: str, train: bool, rng: np.random.Generator) -> None:
    layer, x, dy = made(name, rng)
    layer.train(train)
    where = rng.random((*x.shape[:-1], 1)) < 0.7
    state = copy.deepcopy(layer.state_dict())
    y, stats = CASES[name].forward(x, state, train, return_stats=True, where=where)
    expected = CASES[name].backward(dy, x, stats, state, train, where=where)
    assert layer(x, where=where).tobytes() == y.tobytes()
    assert contents(layer) == as_bytes(state)
    assert layer.backward(dy).tobytes() == expected[0].tobytes()
    assert as_bytes(layer.grad) == as_bytes(dict(zip(("weight", "bias"), expected[1:], strict=False)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [1, 0.25])
@every_case
def test_options_are_handed_on(name: str, eps: float, method: str, rng: np.random.Generator) -> None:
    layer, x, _ = made(name, rng, eps=eps, method=method, backend="cpu")
    state = copy.deepcopy(layer.state_dict())
    assert layer(x).tobytes() == CASES[name].forward(x, state, True, eps=eps, method=method).tobytes()


@every_case
def test_attributes_may_change_and_are_checked_at_the_call(name: str, rng: np.random.Generator) -> None:
    layer, x, _ = made(name, rng)
    for attribute in ("eps", "momentum", "convention", "method", "backend", "channel_axis"):
        if hasattr(layer, attribute):
            changed = copy.copy(layer)
            setattr(changed, attribute, "no such")
            with pytest.raises((TypeError, ValueError), match=attribute):
                changed(x)
    state = layer.state_dict()
    layer.eps = 0.5
    assert layer.eval()(x).tobytes() == CASES[name].forward(x, state, False, eps=0.5).tobytes()


@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("momentum", [0.0, 0.25, 1])
@every_tracking
def test_options_of_running_statistics(name: str, momentum: float, convention: str, rng: np.random.Generator) -> None:
    layer, x, _ = made(name, rng, momentum=momentum, convention=convention)
    state = copy.deepcopy(layer.state_dict())
    layer(x)
    CASES[name].forward(x, state, True, momentum=momentum, convention=convention)
    assert contents(layer) == as_bytes(state)


@every_tracking
def test_cumulative_average(name: str, rng: np.random.Generator) -> None:
    """momentum=None counts the batches, those of instance norm too."""
    layer, x, _ = made(name, rng, momentum=None)
    batches = [x * k for k in range(1, 5)]
    for b in batches:
        layer(b)
    assert layer.num_batches_tracked == 4
    axes = tuple(k for k in range(x.ndim) if k != layer.channel_axis % x.ndim)
    # float32 buffers, rounded once a batch
    np.testing.assert_allclose(layer.running_mean, np.mean([b.mean(axes, float) for b in batches], axis=0), rtol=1e-6)


@train_and_eval
@every_case
def test_out(name: str, train: bool, rng: np.random.Generator) -> None:
    layer, x, dy = made(name, rng)
    layer.train(train)
    twin = copy.deepcopy(layer)
    y, y_out = layer(x), np.empty_like(x)
    dx, dx_out = layer.backward(dy), np.empty_like(x)
    assert twin(x, y_out) is y_out
    assert twin.backward(dy, dx_out) is dx_out
    assert (y.tobytes(), dx.tobytes()) == (y_out.tobytes(), dx_out.tobytes())
    assert twin.backward(dy, out=dy) is dy
    assert dy.tobytes() == dx.tobytes()


@every_case
def test_evaluation_changes_nothing(name: str, rng: np.random.Generator) -> None:
    layer, x, dy = made(name, rng)
    layer(x)
    layer.backward(dy)
    before, grad, layer = contents(layer), as_bytes(layer.grad), layer.eval()
    for array in layer.state_dict().values():
        array.flags.writeable = False
    layer(x)
    layer(x, out=np.empty_like(x))
    assert contents(layer) == before
    assert as_bytes(layer.grad) == grad
    assert layer.training is False


@every_tracking
def test_without_running_statistics_evaluation_takes_those_of_x(name: str, rng: np.random.Generator) -> None:
    layer, x, dy = made(name, rng)
    layer = type(layer)(6, affine=True, track_running_stats=False, channel_axis=layer.channel_axis)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    trained, dx = layer(x), layer.backward(dy)
    assert layer.eval()(x).tobytes() == trained.tobytes()
    assert layer.backward(dy).tobytes() == dx.tobytes()


@every_tracking
def test_tracking_that_is_switched_off_later(name: str, rng: np.random.Generator) -> None:
    """Training then leaves the running statistics alone."""
    layer, x, _ = made(name, rng)
    trained, before = copy.deepcopy(layer)(x), contents(layer)
    layer.track_running_stats = False
    assert layer(x).tobytes() == trained.tobytes()
    layer.eval()(x)
    assert contents(layer) == before


@pytest.mark.parametrize(("names", "options"), [((), {"affine": False}), (("weight",), {"bias": False})])
@pytest.mark.parametrize("make", [nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm])
def test_gradients_of_the_parameters_that_are_there(make: Any, names: Any, options: Any, rng: np.random.Generator) -> None:
    args = {nn.GroupNorm: (3, 6), nn.LayerNorm: (5,), nn.RMSNorm: (5,)}.get(make, (6,))
    if make in (nn.LayerNorm, nn.RMSNorm):
        options = {"elementwise_affine" if k == "affine" else k: v for k, v in options.items()}
    if make is nn.RMSNorm:
        options.pop("bias", None)
    if make is nn.InstanceNorm2d:
        options = {"affine": True, **options}
    layer = make(*args, **options)
    assert [name for name, _ in layer.named_parameters()] == list(names)
    assert [id(p) for p in layer.parameters()] == [id(getattr(layer, name)) for name in names]
    x = rng.normal(size=(2, 6, 4, 5)).astype(np.float32)
    layer(x)
    layer.backward(x)
    assert list(layer.grad) == list(names)


@every_case
def test_grad_is_that_of_the_last_backward(name: str, rng: np.random.Generator) -> None:
    layer, x, dy = made(name, rng)
    assert layer.grad == {}
    layer(x)
    first = layer.backward(dy), layer.grad
    kept = as_bytes(layer.grad)
    again = layer.backward(dy), layer.grad
    assert first[0].tobytes() == again[0].tobytes()
    assert as_bytes(first[1]) == as_bytes(again[1]) == kept
    layer.backward(dy * 2)
    assert as_bytes(first[1]) == kept
    for parameter in layer.grad:
        assert np.array_equal(layer.grad[parameter], first[1][parameter] * 2)


def test_a_step_down_the_gradient(rng: np.random.Generator) -> None:
    """The line of the documentation, on a loss that weight and bias can bring to 0."""
    layer = nn.BatchNorm1d(3)
    x = rng.normal(5.0, 2.0, (64, 3)).astype(np.float32)
    goal = nn.batch_norm(x, weight=np.array([2.0, -1.0, 0.5]), bias=np.array([1.0, 0.0, -3.0]), training=True)
    weight = layer.weight
    for _ in range(60):
        layer.backward((layer(x) - goal) / len(x))
        layer.weight -= 0.5 * layer.grad["weight"]
        layer.bias -= 0.5 * layer.grad["bias"]
    assert layer.weight is weight
    # each step halves the distance; float32 stops it after 24
    np.testing.assert_allclose(layer(x), goal, atol=1e-5)


def test_backward_takes_the_weight_of_the_call(rng: np.random.Generator) -> None:
    layer, x, dy = made("LayerNorm", rng)
    layer(x)
    dx = layer.backward(dy)
    layer.weight = layer.weight * 3
    assert layer.backward(dy).tobytes() == dx.tobytes()


@train_and_eval
@every_case
def test_backward_without_x(name: str, train: bool, rng: np.random.Generator) -> None:
    layer, x, dy = made(name, rng)
    layer.train(train)
    with pytest.raises(ValueError, match=f"{type(layer).__name__}.backward wants the x of the last call: .* not called"):
        layer.backward(dy)
    layer(x)
    for twin in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(ValueError, match="call it first"):
            twin.backward(dy)
    layer.backward(dy, out=x)
    for _ in range(2):
        with pytest.raises(ValueError, match="written over"):
            layer.backward(dy)
        layer(x, out=x)
    layer(x)
    assert layer.backward(dy).shape == x.shape


@pytest.mark.parametrize("wrong", list(WRONG_CALLS))
@every_case
def test_an_error_leaves_the_layer_as_it_was(name: str, wrong: str, rng: np.random.Generator) -> None:
    """The arrays, the gradients, and what backward is of."""
    layer, x, dy = made(name, rng)
    layer(x)
    dx = layer.backward(dy)
    before, grad = contents(layer), as_bytes(layer.grad)
    with pytest.raises((TypeError, ValueError)):
        WRONG_CALLS[wrong](layer, x + 1)
    assert contents(layer) == before
    assert as_bytes(layer.grad) == grad
    assert layer.backward(dy).tobytes() == dx.tobytes()


def test_one_value_for_each_channel_is_not_counted() -> None:
    layer = nn.BatchNorm1d(3)
    before = contents(layer)
    with pytest.raises(ValueError, match="more than one value per channel"):
        layer(np.ones((1, 3), np.float32))
    assert contents(layer) == before


@pytest.mark.parametrize(("layer", "shape", "message"), MESSAGES)
def test_shapes_that_do_not_fit(layer: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(np.ones(shape, np.float32))


@pytest.mark.parametrize(("make", "args", "options", "kind", "message"), WRONG_ARGUMENTS)
def test_constructor_arguments_that_do_not_fit(make: Any, args: Any, options: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        make(*args, **options)


def test_no_such_backend() -> None:
    """Asked at the first call, for to look imports the compiler."""
    with pytest.raises(ValueError, match="backend must be one of"):
        nn.LayerNorm(3, backend="abacus")(np.ones((2, 3)))


@every_dtype
@every_case
def test_state_at_first(name: str, dtype: Any) -> None:
    state = CASES[name].make(dtype=dtype).state_dict()
    first = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    assert list(state) == [key for key in first if key in state]
    for key, array in state.items():
        assert array.dtype == (np.int64 if key == "num_batches_tracked" else dtype)
        assert (array == first[key]).all()
    assert state.get("num_batches_tracked", np.array(0)).shape == ()


@every_case
def test_reset(name: str, rng: np.random.Generator) -> None:
    layer, x, _ = made(name, rng)
    layer(x)
    arrays, weight = layer.state_dict(), layer.weight.copy()
    if hasattr(layer, "reset_running_stats"):
        layer.reset_running_stats()
        assert layer.num_batches_tracked == 0
        assert np.array_equal(layer.running_var, np.ones(6))
        assert np.array_equal(layer.running_mean, np.zeros(6))
        assert np.array_equal(layer.weight, weight)
    layer.reset_parameters()
    assert contents(layer) == contents(CASES[name].make())
    assert [id(a) for a in layer.state_dict().values()] == [id(a) for a in arrays.values()]


@every_case
def test_train_and_eval(name: str) -> None:
    layer = CASES[name].make()
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert layer.train(False).training is False
    with pytest.raises(TypeError, match="mode must be True or False"):
        layer.train(1)
    assert layer.training is False


@every_case
def test_state_dict_is_the_arrays_themselves(name: str, rng: np.random.Generator) -> None:
    layer, x, _ = made(name, rng)
    state = layer.state_dict()
    assert type(state) is dict
    assert all(getattr(layer, key) is array for key, array in state.items())
    layer(x)
    assert as_bytes(state) == contents(layer)


@every_dtype
@every_case
def test_load_in_place(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """From any type to any other, rounded; what was in use stays in use."""
    saved, layer = made(name, rng, dtype=dtype)[0], CASES[name].make(dtype=np.float16)
    if "num_batches_tracked" in saved.state_dict():
        saved.num_batches_tracked[...] = 17
    before = layer.state_dict()
    assert layer.load_state_dict(saved.state_dict()) == ([], [])
    assert [id(a) for a in layer.state_dict().values()] == [id(a) for a in before.values()]
    for key, array in saved.state_dict().items():
        assert np.array_equal(layer.state_dict()[key], array.astype(before[key].dtype))


def test_load_what_does_not_fit_the_type() -> None:
    layer = nn.RMSNorm(2, dtype=np.float16)
    layer.load_state_dict({"weight": np.array([1e6, np.nan])})
    assert layer.weight[0] == np.inf
    assert np.isnan(layer.weight[1])


def test_load_from_the_layer_itself() -> None:
    layer = nn.LayerNorm(2)
    layer.load_state_dict({"weight": layer.bias, "bias": layer.weight})
    assert layer.weight.tolist() == [0.0, 0.0]
    assert layer.bias.tolist() == [1.0, 1.0]


@every_tracking
def test_load_without_a_count(name: str, rng: np.random.Generator) -> None:
    layer = made(name, rng)[0]
    layer.num_batches_tracked[...] = 5
    saved = made(name, rng)[0].state_dict()
    del saved["num_batches_tracked"]
    assert layer.load_state_dict(saved) == ([], [])
    assert layer.num_batches_tracked == 5
    assert np.array_equal(layer.running_mean, saved["running_mean"])


@pytest.mark.parametrize("count", [7, np.int32(7), np.array(7, np.uint8), np.array([7])])
def test_load_a_count_of_any_integer_type(count: Any) -> None:
    layer = nn.BatchNorm1d(2, affine=False)
    layer.load_state_dict({**layer.state_dict(), "num_batches_tracked": count})
    assert layer.num_batches_tracked.tolist() == 7
    assert layer.num_batches_tracked.shape == ()


@pytest.mark.parametrize(("state", "kind", "message"), WRONG_STATES)
def test_a_state_that_does_not_fit_changes_nothing(state: Any, kind: Any, message: str, rng: np.random.Generator) -> None:
    layer = randomized(nn.BatchNorm1d(3), rng)
    before = contents(layer)
    with pytest.raises(kind, match=message):
        layer.load_state_dict(state)
    assert contents(layer) == before


KERAS = ("gamma", "beta", "moving_mean", "moving_variance")
FLAX = ("scale", "bias", "mean", "var")


@pytest.mark.parametrize("names", [KERAS, FLAX], ids=["keras", "flax"])
def test_load_names_of_keras_and_flax(names: tuple[str, ...], rng: np.random.Generator) -> None:
    """Into a layer of their convention, whose results are then those of the formula."""
    weight, bias, mean = rng.normal(1, 0.5, (3, 6)).astype(np.float32)
    var = rng.uniform(0.5, 2, 6).astype(np.float32)
    layer = nn.BatchNorm2d(6, eps=1e-3, channel_axis=-1, convention="keras").eval()
    given = dict(zip(names, (weight, bias, mean, var), strict=True))
    assert layer.load_state_dict(given) == ([], [])
    x = rng.normal(0, 1, (2, 3, 4, 6))
    expected = (x - mean) / np.sqrt(var + np.longdouble(1e-3)) * weight + bias
    np.testing.assert_allclose(layer(x), expected.astype(float), rtol=1e-12, atol=1e-14)  # float64 of float32 parameters
    assert layer.load_state_dict({k: given[k] for k in names[:1]}, strict=False).missing_keys == [
        "bias", "running_mean", "running_var"
    ]  # fmt: skip


def test_two_names_for_one_array_are_refused() -> None:
    layer = nn.BatchNorm1d(3, convention="keras")
    with pytest.raises(ValueError, match="unexpected gamma; make the layer as the one that was saved"):
        layer.load_state_dict({**FULL, "gamma": np.ones(3)})


def test_load_without_strict(rng: np.random.Generator) -> None:
    layer = randomized(nn.BatchNorm1d(3), rng)
    before = contents(layer)
    loaded = layer.load_state_dict({"bias": np.full(3, 2.0), "running_var": np.full(3, 3.0), "scale": np.ones(9)}, strict=False)
    assert loaded.missing_keys == ["weight", "running_mean"]
    assert loaded.unexpected_keys == ["scale"]
    assert layer.bias.tolist() == [2.0] * 3
    assert layer.running_var.tolist() == [3.0] * 3
    assert contents(layer)["weight"] == before["weight"]
    with pytest.raises(ValueError, match=r"bias of shape \(2,\), not \(3,\); make the layer as the one that was saved$"):
        layer.load_state_dict({"bias": np.ones(2)}, strict=False)
    with pytest.raises(TypeError, match="strict must be True or False"):
        layer.load_state_dict(FULL, strict=None)


def test_load_into_a_read_only_array() -> None:
    layer = nn.LayerNorm(3)
    layer.bias.flags.writeable = False
    with pytest.raises(ValueError, match="got a read-only bias in the layer"):
        layer.load_state_dict({"weight": np.full(3, 2.0), "bias": np.ones(3)})
    assert layer.weight.tolist() == [1.0] * 3


@pytest.mark.parametrize("strict", [True, False])
def test_instance_norm_without_running_statistics_refuses_them(strict: bool) -> None:
    layer = nn.InstanceNorm1d(3, affine=True)
    for state in (FULL, {**FULL, "num_batches_tracked": np.array(3)}, {"running_mean": np.ones(3)}):
        with pytest.raises(ValueError, match=r"must have no running statistics for InstanceNorm1d.*track_running_stats=True"):
            layer.load_state_dict(state, strict)
    assert layer.weight.tolist() == [1.0] * 3


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("make", [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d])
def test_a_sample_alone(make: Any, axis: int, rng: np.random.Generator) -> None:
    """(C, ...) is (1, C, ...), to the bit: y, dx, gradients, running statistics, and what comes in out."""
    spatial = (4, 3, 2)[: int(make.__name__[-2])]
    shape = (6, *spatial) if axis == 1 else (*spatial, 6)
    x, dy = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    layer = randomized(make(6, affine=True, track_running_stats=True, channel_axis=axis), rng)
    twin = copy.deepcopy(layer)
    for train in (True, False):
        layer.train(train), twin.train(train)
        y, y_out, dx_out = layer(x), np.empty_like(x), np.empty_like(x)
        assert y.shape == x.shape
        assert y.tobytes() == twin(x[None]).tobytes()
        dx = layer.backward(dy)
        assert dx.shape == x.shape
        assert dx.tobytes() == twin.backward(dy[None]).tobytes()
        assert as_bytes(layer.grad) == as_bytes(twin.grad)
        assert contents(layer) == contents(twin)
        assert layer.eval()(x, y_out) is y_out
        assert layer.backward(dy, out=dx_out) is dx_out
        assert layer.backward(dy, out=dy) is dy
        layer.train(train)
        dy = rng.normal(size=shape).astype(np.float32)
    with pytest.raises(ValueError, match=rf"dy must have the shape of x, \({shape[0]}, .*: got \({shape[0] + 1}, "):
        layer.backward(np.ones((shape[0] + 1, *shape[1:]), np.float32))
    for call in (layer, layer.backward):
        with pytest.raises(ValueError, match=rf"out must have the shape of x, \({shape[0]}, .*: got \(1, "):
            call(x, out=np.empty((1, *shape), np.float32))
    layer(x, out=x)
    with pytest.raises(ValueError, match="written over"):
        layer.backward(dy)


@every_case
def test_copies(name: str, rng: np.random.Generator) -> None:
    """Pickles and deep copies go on alike, apart from each other."""
    layer, x, dy = made(name, rng)
    layer(x)
    layer.backward(dy)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert contents(twin) == contents(layer)
        assert as_bytes(twin.grad) == as_bytes(layer.grad)
        before = contents(layer)
        expected = copy.deepcopy(layer)
        assert twin(x).tobytes() == expected(x).tobytes()
        assert contents(twin) == contents(expected)
        assert contents(layer) == before
        twin.weight += 1
        assert contents(layer) == before


def test_a_pickle_is_without_x() -> None:
    layer = nn.LayerNorm(4)
    small = len(pickle.dumps(layer))
    layer(np.ones((1000, 4), np.float32))
    assert len(pickle.dumps(layer)) == small


@every_case
def test_many_threads_in_evaluation(name: str, rng: np.random.Generator) -> None:
    layer, x, _ = made(name, rng)
    layer.eval()
    inputs = [x * np.float32(k) for k in range(1, 17)]
    expected, before = [layer(i).tobytes() for i in inputs], contents(layer)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert [y.tobytes() for y in pool.map(layer, inputs)] == expected
    assert contents(layer) == before


REPRS = [
    (nn.BatchNorm2d(6), "6, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True"),
    (
        nn.BatchNorm1d(6, 1, None, False, convention="keras", channel_axis=-1, method="welford", backend="cpu"),
        "6, eps=1, momentum=None, affine=False, bias=False, track_running_stats=True, channel_axis=-1, convention='keras', "
        "method='welford', backend='cpu'",
    ),
    (nn.LayerNorm([3, 4], bias=False), "(3, 4), eps=1e-05, elementwise_affine=True, bias=False"),
    (nn.RMSNorm(3, method="welford"), "(3,), eps=None, elementwise_affine=True, method='welford'"),
    (nn.GroupNorm(2, 4, channel_axis=-1), "2, 4, eps=1e-05, affine=True, bias=True, channel_axis=-1"),
]


@pytest.mark.parametrize(("layer", "text"), REPRS)
def test_repr(layer: Any, text: str) -> None:
    assert layer.extra_repr() == text
    assert repr(layer) == str(layer) == f"{type(layer).__name__}({text})"


def test_parameters_of_every_type_for_x_of_every_type(rng: np.random.Generator) -> None:
    for kind in DTYPES:
        layer = randomized(nn.BatchNorm1d(3, dtype=kind), rng)
        for dtype in DTYPES:
            x = rng.normal(size=(8, 3)).astype(dtype)
            assert layer(x).dtype == dtype
            assert layer.backward(x).dtype == dtype
            assert {g.dtype for g in layer.grad.values()} == {kind}


def test_layers_of_no_channels() -> None:
    layer = nn.BatchNorm1d(0)
    assert layer(np.ones((4, 0), np.float32)).shape == (4, 0)
    assert layer.backward(np.ones((4, 0), np.float32)).shape == (4, 0)
    assert layer.grad["weight"].shape == (0,)
