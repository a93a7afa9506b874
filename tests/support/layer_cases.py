"""Layers of every class, the functions they stand for, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import numbanorm as nn

Array = NDArray[Any]

State = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A layer, a shape that it takes, and the functions that it stands for, given its arrays and whether it trains."""

    make: Callable[..., Any]
    shape: tuple[int, ...]
    forward: Callable[..., Any]
    backward: Callable[..., Any]


def running(s: State) -> dict[str, Any]:
    return {name: s[name] for name in ("running_mean", "running_var", "num_batches_tracked")}


def batch(make: Callable[..., Any], shape: tuple[int, ...], axis: int = 1) -> Case:
    return Case(
        lambda **k: make(shape[axis], channel_axis=axis, **k),
        shape,
        lambda x, s, train, **k: nn.batch_norm(
            x, weight=s["weight"], bias=s["bias"], training=train, channel_axis=axis, **running(s), **k
        ),
        lambda dy, x, stats, s, train, **k: nn.batch_norm_backward(
            dy, x, stats, s["weight"], channel_axis=axis, training=train, **k
        ),
    )  # fmt: skip


def instance(make: Callable[..., Any], shape: tuple[int, ...], axis: int = 1) -> Case:
    """With parameters and running statistics, but no count of batches."""
    return Case(
        lambda **k: make(shape[axis], affine=True, track_running_stats=True, channel_axis=axis, **k),
        shape,
        lambda x, s, train, **k: nn.instance_norm(
            x, s["running_mean"], s["running_var"], s["weight"], s["bias"], train, channel_axis=axis, **k
        ),
        lambda dy, x, stats, s, train, **k: nn.instance_norm_backward(
            dy, x, stats, s["weight"], channel_axis=axis, use_input_stats=train, **k
        ),
    )  # fmt: skip


CASES = {
    "BatchNorm1d of (N, C)": batch(nn.BatchNorm1d, (7, 6)),
    "BatchNorm1d": batch(nn.BatchNorm1d, (5, 6, 4)),
    "BatchNorm2d": batch(nn.BatchNorm2d, (3, 6, 5, 4)),
    "BatchNorm2d, channels last": batch(nn.BatchNorm2d, (3, 5, 4, 6), -1),
    "BatchNorm3d": batch(nn.BatchNorm3d, (2, 6, 3, 4, 2)),
    "InstanceNorm1d": instance(nn.InstanceNorm1d, (5, 6, 4)),
    "InstanceNorm2d": instance(nn.InstanceNorm2d, (3, 6, 5, 4)),
    "InstanceNorm3d, channels last": instance(nn.InstanceNorm3d, (2, 3, 4, 2, 6), -1),
    "LayerNorm": Case(
        lambda **k: nn.LayerNorm((5, 4), **k),
        (3, 6, 5, 4),
        lambda x, s, train, **k: nn.layer_norm(x, (5, 4), s["weight"], s["bias"], **k),
        lambda dy, x, stats, s, train, **k: nn.layer_norm_backward(dy, x, (5, 4), stats, s["weight"], **k),
    ),
    "RMSNorm": Case(
        lambda **k: nn.RMSNorm(6, **k),
        (3, 4, 6),
        lambda x, s, train, **k: nn.rms_norm(x, 6, s["weight"], **k),
        lambda dy, x, stats, s, train, **k: nn.rms_norm_backward(dy, x, 6, stats, s["weight"], **k),
    ),
    "GroupNorm": Case(
        lambda **k: nn.GroupNorm(3, 6, **k),
        (3, 6, 5),
        lambda x, s, train, **k: nn.group_norm(x, 3, s["weight"], s["bias"], **k),
        lambda dy, x, stats, s, train, **k: nn.group_norm_backward(dy, x, 3, stats, s["weight"], **k),
    ),
    "GroupNorm, channels last": Case(
        lambda **k: nn.GroupNorm(3, 6, channel_axis=-1, **k),
        (3, 5, 6),
        lambda x, s, train, **k: nn.group_norm(x, 3, s["weight"], s["bias"], channel_axis=-1, **k),
        lambda dy, x, stats, s, train, **k: nn.group_norm_backward(dy, x, 3, stats, s["weight"], channel_axis=-1, **k),
    ),
}  # fmt: skip


def randomized(layer: Any, rng: np.random.Generator) -> Any:
    """The layer with parameters and running statistics that show when they are left out."""
    for name, array in layer.state_dict().items():
        if name != "num_batches_tracked":
            array[...] = rng.uniform(0.5, 2.0, array.shape)
    return layer


def made(name: str, rng: np.random.Generator, dtype: Any = np.float32, **options: Any) -> tuple[Any, Array, Array]:
    """A layer, x and dy."""
    case = CASES[name]
    x, dy = rng.normal(1.5, 2.0, case.shape), rng.normal(size=case.shape)
    return randomized(case.make(**options), rng), x.astype(dtype), dy.astype(dtype)


WRONG_CALLS: dict[str, Callable[[Any, Array], Any]] = {
    "a list": lambda layer, x: layer(x.tolist()),
    "integers": lambda layer, x: layer(x.astype(int)),
    "no axes": lambda layer, x: layer(x[(0,) * x.ndim + (...,)]),
    "another number of channels": lambda layer, x: layer(x.repeat(2, getattr(layer, "channel_axis", -1))),
    "out of another shape": lambda layer, x: layer(x, np.empty((*x.shape, 1), x.dtype)),
    "out of another type": lambda layer, x: layer(x, np.empty(x.shape, np.float16)),
    "out over the weight": lambda layer, x: layer(x, np.lib.stride_tricks.as_strided(layer.weight, x.shape, (0,) * x.ndim)),
    "gradient of another shape": lambda layer, x: layer.backward(x[..., :1]),
    "gradient of another type": lambda layer, x: layer.backward(x.astype(np.float64)),
    "no gradient": lambda layer, x: layer.backward(None),
    "out of backward of another shape": lambda layer, x: layer.backward(x, np.empty((*x.shape, 1), x.dtype)),
}

MESSAGES = [
    (nn.BatchNorm1d(4), (4,), r"BatchNorm1d wants x of 2 or 3 axes, \(N, C\) or \(N, C, L\): got shape \(4,\); reshape x"),
    (nn.BatchNorm2d(4), (3, 4), r"BatchNorm2d wants x of 4 axes, \(N, C, H, W\): got shape \(3, 4\)"),
    (nn.BatchNorm2d(4, channel_axis=-1), (3, 4), r"BatchNorm2d wants x of 4 axes, \(N, H, W, C\): got"),
    (nn.BatchNorm3d(4, channel_axis=2), (3, 4), r"BatchNorm3d wants x of 5 axes, \(N, D, C, H, W\): got"),
    (nn.InstanceNorm1d(4), (4,), r"InstanceNorm1d wants x of 2 or 3 axes, \(C, L\) or \(N, C, L\): got"),
    (nn.InstanceNorm2d(4, channel_axis=-1), (4,), r"3 or 4 axes, \(H, W, C\) or \(N, H, W, C\): got"),
    (nn.InstanceNorm3d(4), (2, 4, 5), r"InstanceNorm3d wants x of 4 or 5 axes, \(C, D, H, W\) or \(N, C, D, H, W\): got"),
    (nn.GroupNorm(2, 4), (4,), r"GroupNorm wants x of at least 2 axes, \(N, C, ...\): got shape \(4,\)"),
    (nn.GroupNorm(2, 4, batch_axis=None), (), r"GroupNorm wants x of at least 1 axis, \(C, ...\): got shape \(\)"),
    (nn.GroupNorm(2, 4, batch_axis=None), (6, 4), r"GroupNorm was made for 4 channels: got 6 on axis 0 of shape \(6, 4\)"),
    (nn.BatchNorm1d(4), (2, 5), r"BatchNorm1d was made for 4 channels: got 5 on axis 1 of shape \(2, 5\); make one for 5"),
    (nn.BatchNorm2d(4, channel_axis=-1), (2, 4, 3, 3), r"made for 4 channels: got 3 on axis 3 of shape \(2, 4, 3, 3\)"),
    (nn.InstanceNorm1d(4), (2, 5, 6), r"InstanceNorm1d was made for 4 channels: got 5 on axis 1"),
    (nn.InstanceNorm1d(4), (5, 6), r"InstanceNorm1d was made for 4 channels: got 5 on axis 0 of shape \(5, 6\)"),
    (nn.InstanceNorm2d(4, channel_axis=-1), (4, 4, 6), r"made for 4 channels: got 6 on axis 2 of shape \(4, 4, 6\)"),
    (nn.GroupNorm(2, 4), (2, 6), r"GroupNorm was made for 4 channels: got 6"),
    (nn.InstanceNorm1d(4, channel_axis=0), (4, 2, 6), "channel_axis must not be the batch axis"),
    (nn.BatchNorm2d(4, channel_axis=4), (4, 4, 4, 4), "channel_axis must be an axis of x: got 4"),
    (nn.LayerNorm((4, 5)), (5, 4), "normalized_shape must be the last axes of x"),
    (nn.RMSNorm(4), (4, 5), "normalized_shape must be the last axes of x"),
]

WRONG_ARGUMENTS: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (nn.BatchNorm2d, (6.0,), {}, TypeError, "num_features must be an integer"),
    (nn.BatchNorm2d, (-1,), {}, ValueError, "BatchNorm2d wants sizes >= 0"),
    (nn.BatchNorm2d, (6,), {"eps": None}, TypeError, "eps must be a number"),
    (nn.BatchNorm2d, (6,), {"eps": -1.0}, ValueError, "eps must be finite and not negative"),
    (nn.BatchNorm2d, (6,), {"momentum": 1.5}, ValueError, "momentum must lie in"),
    (nn.BatchNorm2d, (6,), {"affine": 1}, TypeError, "affine must be True or False"),
    (nn.BatchNorm2d, (6,), {"affine": False, "bias": 1}, TypeError, "bias must be True or False"),
    (nn.BatchNorm2d, (6,), {"track_running_stats": "yes"}, TypeError, "track_running_stats must be True or False"),
    (nn.BatchNorm2d, (6,), {"dtype": int}, TypeError, "dtype must be one of float16, bfloat16, float32, float64: got"),
    (nn.BatchNorm2d, (6,), {"dtype": "no such"}, TypeError, "dtype must be one of"),
    (nn.BatchNorm2d, (6,), {"dtype": np.dtype(np.float32).newbyteorder()}, TypeError, "dtype must be one of"),
    (nn.BatchNorm2d, (6,), {"channel_axis": 1.0}, TypeError, "channel_axis must be an integer"),
    (nn.InstanceNorm2d, (6,), {"convention": "caffe"}, ValueError, "convention must be 'torch' or 'keras'"),
    (nn.InstanceNorm2d, (6,), {"method": "one_pass"}, ValueError, "method must be"),
    (nn.InstanceNorm2d, (6,), {"exact": "yes"}, TypeError, "exact must be True or False"),
    (nn.LayerNorm, (5,), {"exact": 1}, TypeError, "exact must be True or False"),
    (nn.GroupNorm, (4, 6), {}, ValueError, "num_groups must divide the channels: got 6 channels and num_groups=4; the div"),
    (nn.GroupNorm, (0, 6), {}, ValueError, "num_groups must be at least 1"),
    (nn.GroupNorm, (2, 6), {"batch_axis": 1}, ValueError, "batch_axis must be 0, or None for one sample alone: got 1; move"),
    (nn.GroupNorm, (2, 6), {"affine": None}, TypeError, "affine must be True or False"),
    (nn.LayerNorm, ((),), {}, ValueError, "normalized_shape must name at least one axis"),
    (nn.LayerNorm, (5.0,), {}, TypeError, "normalized_shape must be an integer or a tuple"),
    (nn.LayerNorm, ((3, -1),), {}, ValueError, "LayerNorm wants sizes >= 0"),
    (nn.LayerNorm, (5,), {"eps": None}, TypeError, "eps must be a number"),
    (nn.RMSNorm, (5,), {"eps": np.inf}, ValueError, "eps must be finite"),
    (nn.RMSNorm, (5,), {"elementwise_affine": 0}, TypeError, "elementwise_affine must be True or False"),
]  # fmt: skip

FULL = {name: np.full(3, 2.0) for name in ("weight", "bias", "running_mean", "running_var")}

WRONG_STATES: list[tuple[Any, type[Exception], str]] = [
    ([("weight", np.ones(3))], TypeError, "state_dict must map names to arrays: got list"),
    ({}, ValueError, "missing weight, bias, running_mean, running_var; .*strict=False"),
    (
        {**FULL, "scale": np.ones(3), 7: 1},
        ValueError,
        "unexpected scale, 7; make the layer with convention='keras'.*strict=False",
    ),
    ({"gamma": np.ones(3), "beta": np.ones(3)}, ValueError, "unexpected gamma, beta; make the layer with convention='keras'"),
    ({**FULL, "running_var": np.ones(4)}, ValueError, r"got running_var of shape \(4,\), not \(3,\); make the layer"),
    ({**FULL, "running_var": np.ones((3, 1))}, ValueError, r"running_var of shape \(3, 1\), not \(3,\)"),
    (
        {"bias": np.ones(1), "weight": np.ones(2), "running_var": np.ones(3), "x": 0},
        ValueError,
        r"weight of shape \(2,\), not \(3,\); bias of shape \(1,\), not \(3,\); missing running_mean; unexpected x",
    ),
    ({**FULL, "weight": [2.0, 2.0, 2.0]}, TypeError, "weight must be a NumPy array: got list"),
    ({**FULL, "weight": np.full(3, 2)}, TypeError, "weight must hold float16"),
    ({**FULL, "num_batches_tracked": np.array(1.0)}, TypeError, "num_batches_tracked must be an integer"),
    ({**FULL, "num_batches_tracked": np.array([1, 2])}, TypeError, "num_batches_tracked must be an integer"),
    ({**FULL, "num_batches_tracked": np.array(-1)}, ValueError, "num_batches_tracked must not be negative"),
]
