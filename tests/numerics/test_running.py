"""Running statistics: torch's formulas written out, in every type and memory, and what leaves them alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import ALL_METHODS, DTYPES, needs_long_double
from close import check_step, of_batch
from layouts import LAYOUTS, possible
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]

# ten such steps one after the other
TEN_STEPS = 1e-14

NORMS = {"batch": numbanorm.batch_norm, "instance": numbanorm.instance_norm}
OWN = {"batch": {"training": True}, "instance": {"use_input_stats": True}}
every_norm = pytest.mark.parametrize("norm", NORMS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
CHANNELS = 5


def batches(rng: np.random.Generator, count: int = 10, dtype: Any = np.float32) -> list[Array]:
    """(N, C, L), each batch of another size, mean and spread."""
    shapes = [(2 + k % 3, CHANNELS, 4 + k) for k in range(count)]
    return [rng.normal(k - 3.0, 1.0 + k, shape).astype(dtype) for k, shape in enumerate(shapes)]


def step(norm: str, x: Array, mean: Array | None, var: Array | None, **options: Any) -> Array:
    return NORMS[norm](x, mean, var, **OWN[norm], **options)


@needs_long_double
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.25, 0.9, 1.0])
@every_dtype
@every_norm
def test_ten_steps(
    norm: str, dtype: np.dtype[Any], momentum: float, convention: str, method: str | None, rng: np.random.Generator
) -> None:
    mean, var = np.zeros(CHANNELS, dtype), np.ones(CHANNELS, dtype)
    # torch: momentum weighs the batch, the variance is unbiased; keras: momentum weighs the old value, it is biased
    share = np.longdouble(momentum) if convention == "torch" else 1 - np.longdouble(momentum)
    for x in batches(rng):
        of_mean, of_var = of_batch(norm, x, ddof=1 if convention == "torch" else 0)
        old_mean, old_var = mean.copy(), var.copy()
        y = step(norm, x, mean, var, momentum=momentum, convention=convention, method=method)
        check_step(mean, old_mean, of_mean, share)
        check_step(var, old_var, of_var, share, method)
        assert y.tobytes() == step(norm, x, None, None, method=method).tobytes()


@every_norm
def test_ten_steps_from_the_first_formula(norm: str, rng: np.random.Generator) -> None:
    """The weights of ten batches, multiplied out: momentum * (1 - momentum) ** (steps since)."""
    momentum, data = 0.1, batches(rng)
    mean, var = np.full(CHANNELS, 2.0), np.full(CHANNELS, 3.0)
    for x in data:
        step(norm, x, mean, var, momentum=momentum, method="two_pass")
    weights = [momentum * (1 - momentum) ** (len(data) - 1 - k) for k in range(len(data))]
    for running, first, which in ((mean, 2.0, 0), (var, 3.0, 1)):
        terms = [w * of_batch(norm, x, 1)[which].astype(float) for w, x in zip(weights, data, strict=True)]
        expected = (1 - momentum) ** len(data) * first + sum(terms)
        np.testing.assert_allclose(running, expected, rtol=TEN_STEPS, atol=TEN_STEPS * np.abs(terms).max())


@every_norm
def test_buffers_of_two_types(norm: str, rng: np.random.Generator) -> None:
    """Mean and variance are rounded each to its own type, and x's has no part in it."""
    x = batches(rng, 1, np.float16)[0]
    wide_mean, wide_var = np.zeros(CHANNELS), np.ones(CHANNELS)
    step(norm, x, wide_mean, wide_var)
    for of_mean in DTYPES:
        for of_var in DTYPES:
            mean, var = np.zeros(CHANNELS, of_mean), np.ones(CHANNELS, of_var)
            step(norm, x, mean, var)
            assert mean.tobytes() == wide_mean.astype(of_mean).tobytes()
            assert var.tobytes() == wide_var.astype(of_var).tobytes()


@every_dtype
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "read_only"])
@every_norm
def test_buffers_in_any_memory(norm: str, layout: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    if not possible(layout, np.empty(0, dtype)):
        dtype = np.dtype(np.float16)  # bfloat16 exists in native byte order only
    mean, var = rng.normal(size=CHANNELS).astype(dtype), rng.uniform(1, 2, CHANNELS).astype(dtype)
    placed = LAYOUTS[layout](mean), LAYOUTS[layout](var)
    around = [None if buffer.base is None else np.isnan(buffer.base).sum() for buffer in placed]
    for x in batches(rng, 3):
        step(norm, x, mean, var)
        step(norm, x, *placed)
        for plain, buffer in zip((mean, var), placed, strict=True):
            assert buffer.astype(dtype).tobytes() == plain.tobytes()
    # what lies between the values of a strided buffer is nan, and is still there
    assert around == [None if buffer.base is None else np.isnan(buffer.base).sum() for buffer in placed]
    x = batches(rng, 1)[0]
    evaluated = [numbanorm.batch_norm(x, *buffers).tobytes() for buffers in ((mean, var), placed)]
    assert evaluated[0] == evaluated[1]


def test_buffers_that_are_columns_of_one_array(rng: np.random.Generator) -> None:
    together, apart = np.zeros((CHANNELS, 3)), (np.zeros(CHANNELS), np.zeros(CHANNELS))
    for x in batches(rng, 3):
        step("batch", x, together[:, 0], together[:, 2])
        step("batch", x, *apart)
    assert np.array_equal(together, np.stack([apart[0], np.zeros(CHANNELS), apart[1]], axis=1))


@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("counter", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(), (1,)])
@every_norm
def test_cumulative_average(
    norm: str, shape: tuple[int, ...], counter: type, convention: str, rng: np.random.Generator
) -> None:
    """momentum=None: the plain mean over all batches; what the buffers held at first has no weight."""
    mean, var, tracked = np.full(CHANNELS, 7.0), np.full(CHANNELS, 9.0), np.zeros(shape, counter)
    seen = []
    for k, x in enumerate(batches(rng), 1):
        step(norm, x, mean, var, momentum=None, num_batches_tracked=tracked, convention=convention, method="two_pass")
        seen.append(of_batch(norm, x, ddof=1 if convention == "torch" else 0))
        assert tracked == k
        for running, batch in zip((mean, var), zip(*seen, strict=True), strict=True):
            scale = float(np.abs(batch).max())
            np.testing.assert_allclose(running, np.mean(batch, axis=0).astype(float), rtol=0, atol=TEN_STEPS * scale)


@every_norm
def test_batches_are_counted(norm: str, rng: np.random.Generator) -> None:
    """In training, whatever the momentum, with buffers or without; never in evaluation."""
    x = batches(rng, 1)[0]
    mean, var, tracked = np.zeros(CHANNELS), np.ones(CHANNELS), np.array(5)
    step(norm, x, mean, var, momentum=0.1, num_batches_tracked=tracked)
    step(norm, x, None, None, num_batches_tracked=tracked)
    assert tracked == 7
    evaluate(norm, x, mean, var, num_batches_tracked=tracked)
    assert tracked == 7
    of_mean, of_var = of_batch(norm, x, ddof=1)
    step(norm, x, mean, var, momentum=None, num_batches_tracked=tracked)
    # the same batch twice: 0.1 of it from the first step, then an eighth
    np.testing.assert_allclose(mean, (0.1 * 7 / 8 + 1 / 8) * of_mean.astype(float), rtol=TEN_STEPS)
    np.testing.assert_allclose(var, (0.9 + 0.1 * of_var.astype(float)) * 7 / 8 + of_var.astype(float) / 8, rtol=TEN_STEPS)


def evaluate(norm: str, x: Array, mean: Array, var: Array, **options: Any) -> Array:
    return NORMS[norm](x, mean, var, **dict.fromkeys(OWN[norm], False), **options)


@every_dtype
@every_norm
def test_evaluation_leaves_them_alone(norm: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    mean, var = rng.normal(size=CHANNELS).astype(dtype), rng.uniform(1, 2, CHANNELS).astype(dtype)
    before = mean.tobytes(), var.tobytes()
    mean.flags.writeable = var.flags.writeable = False
    evaluate(norm, batches(rng, 1)[0], mean, var)
    assert (mean.tobytes(), var.tobytes()) == before


def test_instance_norm_averages_the_samples_in_hand(rng: np.random.Generator) -> None:
    x = rng.normal(2.0, 3.0, (4, CHANNELS, 6)).astype(np.float32)
    mean, var = np.zeros(CHANNELS), np.zeros(CHANNELS)
    numbanorm.instance_norm(x, mean, var, momentum=1.0, method="two_pass")
    for channel in range(CHANNELS):
        samples = [x[n, channel].astype(float) for n in range(4)]
        means = [sum(s) / 6 for s in samples]
        variances = [sum((s - m) ** 2) / 5 for s, m in zip(samples, means, strict=True)]
        np.testing.assert_allclose(mean[channel], sum(means) / 4, rtol=TEN_STEPS)
        np.testing.assert_allclose(var[channel], sum(variances) / 4, rtol=TEN_STEPS)


@pytest.mark.parametrize("axis", [1, 2, -1])
@every_norm
def test_channels_on_another_axis(norm: str, axis: int, rng: np.random.Generator) -> None:
    first, moved = (np.zeros(CHANNELS), np.ones(CHANNELS)), (np.zeros(CHANNELS), np.ones(CHANNELS))
    for x in batches(rng, 3):
        step(norm, x, *first, method="two_pass")
        step(norm, np.moveaxis(x, 1, axis), *moved, channel_axis=axis, method="two_pass")
    # the order of the float64 sums follows the memory
    np.testing.assert_allclose(moved, first, rtol=TEN_STEPS)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(0, CHANNELS, 4), (3, CHANNELS, 0), (0, CHANNELS, 0)])
@every_norm
def test_an_empty_batch_leaves_them_alone(norm: str, shape: tuple[int, ...], momentum: float | None) -> None:
    mean, var, tracked = np.full(CHANNELS, 0.5), np.full(CHANNELS, 2.0), np.array(3)
    y = step(norm, np.empty(shape, np.float32), mean, var, momentum=momentum, num_batches_tracked=tracked)
    assert y.shape == shape
    assert (mean == 0.5).all()
    assert (var == 2.0).all()
    assert tracked == 3


X = np.ones((3, CHANNELS, 4), np.float32)
ERRORS: dict[str, dict[str, Any]] = {
    "weight too long": {"weight": np.ones(CHANNELS + 1)},
    "bias of integers": {"bias": np.ones(CHANNELS, int)},
    "negative eps": {"eps": -1.0},
    "momentum above 1": {"momentum": 1.5},
    "no such convention": {"convention": "caffe"},
    "no such method": {"method": "one_pass"},
    "no such backend": {"backend": "abacus"},
    "out of another shape": {"out": np.empty((3, CHANNELS, 5), np.float32)},
    "out of another type": {"out": np.empty((3, CHANNELS, 4))},
    "counter that is a float": {"num_batches_tracked": np.array(0.0)},
    "running_var too short": {"running_var": np.ones(CHANNELS - 1)},
    "running_var read-only": {"running_var": np.broadcast_to(1.0, (CHANNELS,))},
    "channel_axis beyond x": {"channel_axis": 3},
    "return_stats that is no flag": {"return_stats": 1},
}


@pytest.mark.parametrize("error", ERRORS)
@every_norm
def test_an_error_leaves_them_alone(norm: str, error: str) -> None:
    mean, tracked = np.full(CHANNELS, 0.5), np.array(3)
    arguments = {"running_var": np.full(CHANNELS, 2.0), "num_batches_tracked": tracked, **ERRORS[error]}
    var = arguments["running_var"].copy()
    with pytest.raises((TypeError, ValueError)):
        NORMS[norm](X, mean, **OWN[norm], **arguments)
    assert (mean == 0.5).all()
    assert arguments["running_var"].tobytes() == var.tobytes()
    assert tracked == 3


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@every_norm
def test_nan_and_inf_stay_in_their_channel(norm: str, value: float, momentum: float, rng: np.random.Generator) -> None:
    """Without warnings, which would be errors."""
    x = batches(rng, 1)[0]
    clean = np.zeros(CHANNELS), np.ones(CHANNELS)
    step(norm, x, *clean, momentum=momentum)
    x[1, 2, 3] = value
    mean, var = np.zeros(CHANNELS), np.ones(CHANNELS)
    step(norm, x, mean, var, momentum=momentum)
    others = np.arange(CHANNELS) != 2
    assert np.array_equal(mean[others], clean[0][others])
    assert np.array_equal(var[others], clean[1][others])
    # 0 times nan or inf is nan too, as in torch
    assert np.isnan(var[2])
    assert not np.isfinite(mean[2])


@every_norm
def test_a_value_too_large_for_the_buffer_is_inf(norm: str) -> None:
    """As a cast in torch; a warning would come when one buffer is updated and the other is not."""
    x = np.array([[[1e6], [1.0]], [[-1e6], [2.0]]], np.float32).repeat(2, axis=2)
    x[..., 1] *= 2
    mean, var = np.zeros(2, np.float16), np.ones(2, np.float16)
    step(norm, x, mean, var)
    assert np.isposinf(var[0])
    assert np.isfinite(var[1])


def test_a_batch_without_channels_counts(rng: np.random.Generator) -> None:
    """There is nothing to average, but there was a batch; of no samples, there was none."""
    count, none = np.array(3), np.zeros(0)
    numbanorm.batch_norm(np.zeros((4, 0, 5)), none, none.copy(), training=True, num_batches_tracked=count)
    assert count == 4
    numbanorm.batch_norm(np.zeros((0, 2, 5)), np.zeros(2), np.ones(2), training=True, num_batches_tracked=count)
    assert count == 4


@pytest.mark.parametrize(("shape", "axis"), [((64, 5), 1), ((9, 5, 7), 1), ((9, 7, 5), -1), ((3, 5, 200), 1)])
def test_given_statistics_are_those_of_all_samples(shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    """Instance norm is then batch norm, by the same kernels; whether statistics are returned, a row for each sample, or not."""
    x, mean, var = rng.normal(size=shape), rng.normal(size=5), rng.uniform(0.5, 2.0, 5)
    own = {"use_input_stats": False, "channel_axis": axis}
    y, stats = numbanorm.batch_norm(x, mean, var, channel_axis=axis, return_stats=True)
    for backend in (None, "cpu"):  # both ways through Python
        assert numbanorm.instance_norm(x, mean, var, **own, backend=backend).tobytes() == y.tobytes()
        found, rows = numbanorm.instance_norm(x, mean, var, **own, backend=backend, return_stats=True)
        assert found.tobytes() == y.tobytes()
        for row, one in zip(rows, stats, strict=True):
            assert row.flags.writeable
            assert np.array_equal(row, np.tile(one, (shape[0], 1)))
    told = numbanorm.explain(numbanorm.instance_norm, x, mean, var, **own)
    assert told == numbanorm.explain(numbanorm.batch_norm, x, mean, var, channel_axis=axis)
