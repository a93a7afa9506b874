"""A norm is a plan: which axes of the five-axis view share a mean, and which share a weight.

View a C-contiguous array as (B, M, G, K, T). Statistics are taken over M, K, T and are (B, G); weight and bias are
(G, K). Nothing else tells the norms apart, so this is all a norm needs, and the only place where shapes are checked.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from .shown import shown

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The five sizes, and the shapes that callers see.

    Plans are equal if they are the same object, as are calls (see `call`): to hash their sizes would take 0.2 us.

    Attributes
    ----------
    B, M, G, K, T : int
        Sizes of the five axes.
    stats_shape : tuple of int
        Shape of the caller's statistics; its size is B * G, or that of all samples if they are seen as one.
    weight_shape : tuple of int
        Shape of weight and bias; its size is G * K.
    count, size, units : int
        Elements that share a mean, all elements, and how many means there are.
    """

    B: int
    M: int
    G: int
    K: int
    T: int
    stats_shape: Shape
    weight_shape: Shape
    count: int = field(init=False)
    size: int = field(init=False)
    units: int = field(init=False)

    def as_one_sample(self) -> Plan:
        """The plan for statistics that are given: those of a channel are the same for all samples, so all are one."""
        return Plan(1, self.B * self.M, self.G, self.K, self.T, self.stats_shape, self.weight_shape)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.M * self.K * self.T)
        object.__setattr__(self, "size", self.B * self.G * self.count)
        object.__setattr__(self, "units", self.B * self.G)


def as_int(name: str, value: Any) -> int:
    """An integer, and no bool or float that happens to be whole."""
    if type(value) is int:
        return value
    try:
        if not isinstance(value, (bool, np.bool)):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an integer: got {shown(value)} of type {type(value).__name__}; write int({name})")


def as_shape(name: str, value: Any) -> Shape:
    """An integer or a sequence of integers -> tuple."""
    if type(value) is int:
        return (value,)
    if isinstance(value, (tuple, list)):
        return tuple(as_int(name, v) for v in value)
    try:
        return (as_int(name, value),)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or a tuple of integers: got {shown(value)} of type {type(value).__name__}; "
            f"write (3,) or (3, 4)"
        ) from None


def channel_index(shape: Shape, channel_axis: Any, first: int) -> int:
    """The channel axis, counted from the front; axes below `first` cannot hold channels."""
    axis = as_int("channel_axis", channel_axis)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"channel_axis must be an axis of x: got {axis} for shape {shape}; use 1, or -1 for channels last")
    axis %= len(shape)
    if axis < first:
        raise ValueError(f"channel_axis must not be the batch axis 0: got shape {shape}; move the batch to the front")
    return axis


def channels_at(channel_axis: Any, batch_axis: Any) -> tuple[int] | tuple[int, bool]:
    """The axis of the channels; and False for one sample alone, with channels where they are in a batch."""
    if batch_axis is not None and not (type(batch_axis) is int and batch_axis == 0):
        raise ValueError(f"batch_axis must be 0, or None for one sample alone: got {shown(batch_axis)}; move the batch to the "
                         f"front")  # fmt: skip
    axis = as_int("channel_axis", channel_axis)
    return (axis,) if batch_axis is not None else (axis, False)


def trailing(shape: Shape, normalized_shape: Shape) -> Plan:
    """Layer norm, RMS norm: the last axes share a mean, and each of their elements has a weight."""
    k = len(normalized_shape)
    if k == 0:
        raise ValueError("normalized_shape must name at least one axis: got (); pass x.shape[-1:] for the last axis")
    if shape[len(shape) - k :] != normalized_shape or k > len(shape):
        raise ValueError(
            f"normalized_shape must be the last axes of x: got normalized_shape={normalized_shape} for shape {shape}; "
            f"the last {min(k, len(shape))} axes are {shape[-k:]}"
        )
    rows = shape[: len(shape) - k]
    return Plan(prod(rows), 1, 1, prod(normalized_shape), 1, rows, normalized_shape)


def batch(shape: Shape, channel_axis: int) -> Plan:
    """Batch norm: all axes but the channels share a mean."""
    if len(shape) < 2:
        raise ValueError(f"batch_norm wants x of at least 2 axes, (N, C, ...): got shape {shape}; write x[None] or x[:, None]")
    axis = channel_index(shape, channel_axis, 0)
    channels = shape[axis]
    return Plan(1, prod(shape[:axis]), channels, 1, prod(shape[axis + 1 :]), (channels,), (channels,))


def group(shape: Shape, num_groups: int, channel_axis: int) -> Plan:
    """Group norm: in each sample, neighbouring channels share a mean."""
    if len(shape) < 2:
        raise ValueError(f"group_norm wants x of at least 2 axes, (N, C, ...): got shape {shape}; write x[None]")
    axis = channel_index(shape, channel_axis, 1)
    channels = shape[axis]
    if num_groups < 1:
        raise ValueError(f"num_groups must be at least 1: got {num_groups}; 1 normalizes all {channels} channels together")
    if channels % num_groups:
        divisors = ", ".join(str(d) for d in range(1, min(channels, 4096) + 1) if channels % d == 0)
        raise ValueError(
            f"num_groups must divide the channels: got {channels} channels and num_groups={num_groups}; "
            f"the divisors are {divisors}"
        )
    per_group = channels // num_groups
    sizes = (shape[0], prod(shape[1:axis]), num_groups, per_group, prod(shape[axis + 1 :]))
    return Plan(*sizes, (shape[0], num_groups), (channels,))


def instance(shape: Shape, channel_axis: int) -> Plan:
    """Instance norm: in each sample, each channel has its mean."""
    if len(shape) < 2:
        raise ValueError(f"instance_norm wants x of at least 2 axes, (N, C, ...): got shape {shape}; write x[None]")
    axis = channel_index(shape, channel_axis, 1)
    samples, channels = shape[0], shape[axis]
    return Plan(samples, prod(shape[1:axis]), channels, 1, prod(shape[axis + 1 :]), (samples, channels), (channels,))


def as_axes(axis: Any, shape: Shape) -> Shape:
    """Axes of x by their places from the front, sorted; None is all of them."""
    if axis is None:
        return tuple(range(len(shape)))
    axes = as_shape("axis", axis)
    for a in axes:
        if not -len(shape) <= a < len(shape):
            raise ValueError(f"axis must name axes of x: got {axis} for shape {shape}; use -1 for the last")
    axes = tuple(sorted([a % len(shape) for a in axes]))
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must name each axis once: got {axis} for shape {shape}; leave out the second one")
    return axes


def four_sizes(shape: Shape, reduced: tuple[bool, ...]) -> tuple[int, int, int, int, bool]:
    """B, M, G and T of axes of which some are reduced, and whether they must be moved for it; compiled code has it too.

    Neighbouring axes of the same kind are one. (kept, reduced, kept, reduced) is (B, M, G, T) as it lies in memory; what
    alternates more often is moved to (kept, reduced).
    """
    kept, taken, place, first, second, third, fourth = 1, 1, 0, 1, 1, 1, 1
    for n, is_reduced in zip(shape, reduced):  # noqa: B905 - Numba knows no strict=
        kept, taken = (kept, taken * n) if is_reduced else (kept * n, taken)
        if n != 1 and (place % 2 == 1) != is_reduced:
            place += 1
        if place == 0:
            first *= n
        elif place == 1:
            second *= n
        elif place == 2:
            third *= n
        else:
            fourth *= n
    if place > 3:
        return kept, 1, 1, taken, True
    if place < 2:
        return first, 1, 1, second, False  # one run each
    return first, second, third, fourth, False


def over_axes(shape: Shape, axes: Shape) -> tuple[Plan, Shape]:
    """Moments over any axes: a plan, see `four_sizes`, and the order to which the axes must be moved (often as they are)."""
    reduced = tuple(k in axes for k in range(len(shape)))
    b, m, g, t, moved = four_sizes(shape, reduced)
    kept = tuple(n for n, r in zip(shape, reduced, strict=True) if not r)
    order = tuple(range(len(shape)))
    if moved:
        order = tuple(k for k in order if not reduced[k]) + tuple(k for k in order if reduced[k])
    return Plan(b, m, g, 1, t, kept, ()), order
