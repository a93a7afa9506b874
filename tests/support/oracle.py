"""Each norm and its gradients from their definitions, in long double, and the distance of a result from them.

A group is named by the tuple of axes it is reduced over. Nothing here is shared with the package under test:
an oracle that shares code with what it checks also shares its mistakes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Long = np.longdouble

# digits of the significand (the hidden one counted) and exponent of the smallest normal number
FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}


class Truth(NamedTuple):
    """`weight` is |weight| in a shape that broadcasts against `y`: the scale below which an error does not count. `terms` is
    the sum of the absolute values of what y is the sum of, and no less than that; `largest` is the larger one of the two."""

    y: Array
    mean: Array | None
    var: Array
    weight: Array
    terms: Array
    largest: Array


class Gradient(NamedTuple):
    """`terms` is the sum of the absolute values of what the gradient is a sum of: where those cancel, its rounding does not
    get smaller with it."""

    value: Array
    terms: Array


class Gradients(NamedTuple):
    dx: Gradient
    dweight: Gradient
    dbias: Gradient


def widen(a: Any) -> Array:
    """The same values in long double. bfloat16 is foreign to NumPy and goes through float32, which holds it exactly."""
    a = np.asarray(a)
    return a.astype(np.float32).astype(Long) if a.dtype.kind == "V" else a.astype(Long)


def total(v: Array, axes: tuple[int, ...]) -> Array:
    """Sum over `axes`, which stay with length 1. NumPy adds pairwise only along contiguous memory, hence the copy."""
    kept = [axis for axis in range(v.ndim) if axis not in axes]
    rows = math.prod(v.shape[axis] for axis in kept)
    lined_up = np.ascontiguousarray(v.transpose(kept + list(axes)).reshape(rows, v.size // rows))
    return lined_up.sum(axis=1).reshape([1 if axis in axes else v.shape[axis] for axis in range(v.ndim)])


def where_of(where: Any, shape: tuple[int, ...]) -> Array:
    """The mask of what counts, as large as x; all of it without one."""
    return np.broadcast_to(np.True_ if where is None else where, shape)


def among(where: Array, v: Any) -> Array:
    """v, and 0 in place of what does not count, be it nan."""
    return np.where(where, v, Long(0))


def centred(x: Array, axes: tuple[int, ...], where: Any = None) -> tuple[Array, Array]:
    """Mean and x - mean over `axes`; the mean is that of what counts, 0 of nothing.

    A long double holds 64 bits, so a mean of 1e6 is 5e-14 off: too much for a float64 result with std 1. The mean is
    therefore kept in two parts. x - high is exact where x is near the mean, and the mean of what is left over is as
    accurate as the spread is small.
    """
    where = where_of(where, x.shape)
    n = counted(where, axes)
    high = (total(among(where, x), axes) / n).astype(np.float64).astype(Long)
    low = total(among(where, x - high), axes) / n
    return high + low, (x - high) - low


def counted(where: Array, axes: tuple[int, ...]) -> Array:
    """How many count over `axes`, and 1 for none: what is divided by."""
    return np.maximum(total(where.astype(Long), axes), 1)


def variance(d: Array, axes: tuple[int, ...], where: Array) -> Array:
    """Mean of d * d; infinite for nothing, so that 1 / sqrt(var + eps) is 0."""
    found = total(among(where, d * d), axes) / counted(where, axes)
    return np.where(total(where.astype(Long), axes) == 0, Long(np.inf), found)


def normalize(
    x: Array, axes: tuple[int, ...], eps: float, weight: Array, bias: Array, center: bool = True, where: Any = None
) -> Truth:
    """(x - mean) / sqrt(var + eps) * weight + bias; without `center` the mean is taken to be zero. Where nothing of a group
    counts, its x is taken to be its mean."""
    where = where_of(where, x.shape)
    with np.errstate(invalid="ignore", divide="ignore"):  # nan and inf are asked for in some tests
        mean, d = centred(x, axes, where) if center else (None, x)
        var = variance(d, axes, where)
        d = among(np.broadcast_to(total(where.astype(Long), axes) > 0, x.shape), d)
        return with_terms(d / np.sqrt(var + Long(eps)), mean, var, weight, bias)


def with_terms(normalized: Array, mean: Array | None, var: Array, weight: Array, bias: Array) -> Truth:
    scaled, size = normalized * weight, np.abs(weight)
    terms = np.abs(scaled), np.abs(bias)
    return Truth(scaled + bias, mean, var, size, np.maximum(sum(terms), size), np.maximum(*terms))


def normalize_given(x: Array, mean: Array, var: Array, eps: float, weight: Array, bias: Array) -> Truth:
    """The same with statistics that come from elsewhere (evaluation)."""
    return with_terms((x - mean) / np.sqrt(var + Long(eps)), mean, var, weight, bias)


def differentiate(
    dy: Array,
    x: Array,
    axes: tuple[int, ...],
    eps: float,
    weight: Any,
    shape: tuple[int, ...],
    center: bool = True,
    given: tuple[Array, Array] | None = None,
    where: Any = None,
) -> Gradients:
    """Of sum(dy * y) over what counts. `axes` share a mean; the parameters are of `shape`, and summed over the axes that have
    length 1 there."""
    where = where_of(where, x.shape)
    n = counted(where, axes)
    shared = tuple(axis for axis, length in enumerate(shape) if length == 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # as in normalize
        if given is None:
            d = centred(x, axes, where)[1] if center else x
            var = variance(d, axes, where)
        else:
            d, var = x - given[0], given[1]
        rstd = 1 / np.sqrt(var + Long(eps))
        xh, dy = among(where, d * rstd), among(where, dy)
        u = dy * spread(weight, shape, 1)
        # x - mean is as exact as the mean: xh, like y, has its rounding at the scale of 1 where it is smaller
        size = np.maximum(np.abs(xh), 1) if given is None and center else np.abs(xh)
        dx, terms = u, np.abs(u)
        if given is None:
            dx = dx - xh * (total(u * xh, axes) / n)
            terms = terms + size * (total(np.abs(u) * size, axes) / n)
        if given is None and center:
            dx, terms = dx - total(u, axes) / n, terms + total(np.abs(u), axes) / n
        sums = [Gradient(total(dy * v, shared), total(np.abs(dy) * w, shared)) for v, w in ((xh, size), (1, 1))]
        return Gradients(Gradient(among(where, dx * rstd), terms * rstd), *sums)


def reshaped(g: Gradients, x_shape: tuple[int, ...], parameter_shape: tuple[int, ...]) -> Gradients:
    """As the caller of a norm sees them."""
    shapes = (x_shape, parameter_shape, parameter_shape)
    return Gradients(*(Gradient(v.value.reshape(s), v.terms.reshape(s)) for v, s in zip(g, shapes, strict=True)))


def spread(p: Any, shape: tuple[int, ...], neutral: float) -> Array:
    """A parameter in the shape in which it broadcasts; one that is absent is `neutral`."""
    return np.full((1,) * len(shape), neutral, Long) if p is None else widen(p).reshape(shape)


def trailing(x: Array, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last `dims` axes, and the shape in which their parameters broadcast."""
    return tuple(range(x.ndim - dims, x.ndim)), (1,) * (x.ndim - dims) + x.shape[x.ndim - dims :]


def layer_norm(x: Any, dims: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, where: Any = None) -> Truth:
    """Over the last `dims` axes; statistics of shape x.shape[:-dims]."""
    x = widen(x)
    axes, shape = trailing(x, dims)
    truth = normalize(x, axes, eps, spread(weight, shape, 1), spread(bias, shape, 0), where=where)
    assert truth.mean is not None
    rows = x.shape[: x.ndim - dims]
    return truth._replace(mean=truth.mean.reshape(rows), var=truth.var.reshape(rows))


def rms_norm(x: Any, dims: int, weight: Any = None, eps: float = 1e-5, where: Any = None) -> Truth:
    """As layer norm, about zero."""
    x = widen(x)
    axes, shape = trailing(x, dims)
    truth = normalize(x, axes, eps, spread(weight, shape, 1), spread(None, shape, 0), False, where)
    return truth._replace(var=truth.var.reshape(x.shape[: x.ndim - dims]))


def layer_norm_backward(
    dy: Any, x: Any, dims: int, weight: Any = None, eps: float = 1e-5, center: bool = True, where: Any = None
) -> Gradients:
    """RMS norm's without `center`; there the last of them means nothing."""
    dy, x = widen(dy), widen(x)
    axes, shape = trailing(x, dims)
    g = differentiate(dy, x, axes, eps, weight, shape, center, where=where)
    return reshaped(g, x.shape, x.shape[x.ndim - dims :])


def in_groups(full: tuple[int, ...], groups: int, axis: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shape with the channels in (groups, channels of one), its axes that share a mean, and the parameters' shape in it."""
    split = (*full[:axis], groups, full[axis] // groups, *full[axis + 1 :])
    axes = tuple(i for i in range(1, len(split)) if i != axis)
    return split, axes, tuple(n if i in (axis, axis + 1) else 1 for i, n in enumerate(split))


def group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, channel_axis: int = 1, where: Any = None
) -> Truth:
    """The channels of a sample in `groups` equal parts, each over its channels and all other axes but the first."""
    x = widen(x)
    full = x.shape
    split, axes, shape = in_groups(full, groups, channel_axis % x.ndim)
    kept = where_of(where, full).reshape(split)
    truth = normalize(x.reshape(split), axes, eps, spread(weight, shape, 1), spread(bias, shape, 0), where=kept)
    assert truth.mean is not None
    y, *scales = (np.broadcast_to(a, split).reshape(full) for a in (truth.y, truth.weight, truth.terms, truth.largest))
    stats = (full[0], groups)
    return Truth(y, truth.mean.reshape(stats), truth.var.reshape(stats), *scales)


def group_norm_backward(
    dy: Any, x: Any, groups: int, weight: Any = None, eps: float = 1e-5, channel_axis: int = 1, where: Any = None
) -> Gradients:
    dy, x = widen(dy), widen(x)
    split, axes, shape = in_groups(x.shape, groups, channel_axis % x.ndim)
    kept = where_of(where, x.shape).reshape(split)
    g = differentiate(dy.reshape(split), x.reshape(split), axes, eps, weight, shape, where=kept)
    return reshaped(g, x.shape, (x.shape[channel_axis],))


def by_channel(x: Array, channel_axis: int) -> tuple[int, tuple[int, ...]]:
    """The channel axis counted from the front, and the shape in which one value per channel broadcasts."""
    axis = channel_axis % x.ndim
    return axis, tuple(n if i == axis else 1 for i, n in enumerate(x.shape))


def instance_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    given: Any = None,
    where: Any = None,
) -> Truth:
    """Over all axes but the first and the channels; `given` = (mean, var) per channel takes their place."""
    x = widen(x)
    axis, shape = by_channel(x, channel_axis)
    w, b = spread(weight, shape, 1), spread(bias, shape, 0)
    if given is not None:
        return normalize_given(x, spread(given[0], shape, 0), spread(given[1], shape, 1), eps, w, b)
    truth = normalize(x, tuple(i for i in range(1, x.ndim) if i != axis), eps, w, b, where=where)
    assert truth.mean is not None
    stats = (x.shape[0], x.shape[axis])
    return truth._replace(mean=truth.mean.reshape(stats), var=truth.var.reshape(stats))


def batch_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    given: Any = None,
    where: Any = None,
) -> Truth:
    """Over all axes but the channels; `given` = (mean, var) per channel takes their place."""
    x = widen(x)
    axis, shape = by_channel(x, channel_axis)
    w, b = spread(weight, shape, 1), spread(bias, shape, 0)
    if given is not None:
        return normalize_given(x, spread(given[0], shape, 0), spread(given[1], shape, 1), eps, w, b)
    truth = normalize(x, tuple(i for i in range(x.ndim) if i != axis), eps, w, b, where=where)
    assert truth.mean is not None
    return truth._replace(mean=truth.mean.reshape(-1), var=truth.var.reshape(-1))


def channels_backward(
    dy: Any,
    x: Any,
    kept: int,
    weight: Any = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    given: Any = None,
    where: Any = None,
) -> Gradients:
    """Of instance norm, where the first `kept` = 1 axes have means of their own; of batch norm with `kept` = 0."""
    dy, x = widen(dy), widen(x)
    axis, shape = by_channel(x, channel_axis)
    axes = tuple(i for i in range(kept, x.ndim) if i != axis)
    known = None if given is None else (spread(given[0], shape, 0), spread(given[1], shape, 1))
    return reshaped(differentiate(dy, x, axes, eps, weight, shape, given=known, where=where), x.shape, (x.shape[axis],))


def standardize(x: Any, mean: Any, rstd: Any, axes: tuple[int, ...], weight: Any = None, bias: Any = None) -> Truth:
    """(x - mean) * rstd * weight + bias; all but x of a shape that broadcasts to that of the axes not in `axes`."""
    x = widen(x)
    normalized = (x - over_kept(mean, x.shape, axes, 0)) * over_kept(rstd, x.shape, axes, 1)
    return with_terms(normalized, None, x, over_kept(weight, x.shape, axes, 1), over_kept(bias, x.shape, axes, 0))


def over_kept(p: Any, shape: tuple[int, ...], axes: tuple[int, ...], neutral: float) -> Array:
    """What broadcasts to the axes not in `axes`, in a shape that broadcasts against x; `neutral` where it is None."""
    kept = tuple(n for k, n in enumerate(shape) if k not in axes)
    return np.broadcast_to(widen(neutral if p is None else p), kept).reshape(
        [1 if k in axes else n for k, n in enumerate(shape)]
    )


def standardize_backward(
    dy: Any, x: Any, mean: Any, rstd: Any, axes: tuple[int, ...], weight: Any = None, sums: Any = None
) -> Gradients:
    """Of sum(dy * y). The statistics are constants, or those of all of `sums`: (sum of dy, sum of dy * normalized x, count).

    dweight and dbias are not yet summed over the axes along which the weight is the same.
    """
    dy, x = widen(dy), widen(x)
    mean, rstd, w = (over_kept(p, x.shape, axes, n) for p, n in ((mean, 0), (rstd, 1), (weight, 1)))
    xh = (x - mean) * rstd
    dx, terms = dy * w, np.abs(dy * w)
    if sums is not None:
        s1, s2 = (w * over_kept(s, x.shape, axes, 0) / over_kept(sums[2], x.shape, axes, 1) for s in sums[:2])
        dx, terms = dx - s1 - xh * s2, terms + np.abs(s1) + np.abs(xh * s2)
    of_weight, of_bias = (Gradient(total(dy * v, axes), total(np.abs(dy * v), axes)) for v in (xh, 1))
    return Gradients(Gradient(dx * rstd, terms * np.abs(rstd)), of_weight, of_bias)


def rounded(v: Array, dtype: Any) -> Array:
    """The nearest number of `dtype`, of two the even one. What is half an ulp off to 11 digits may go the other way, as a sum
    of two float64 can be; no sum of two smaller floats is."""
    unit = spacing(np.abs(v), dtype)
    return np.rint(v / unit) * unit


def activated(v: Array, activation: Any, dtype: Any) -> Array:
    """relu, relu6 or leaky_relu of v; the last may have a slope, which is a number of `dtype`."""
    name, slope = activation if isinstance(activation, tuple) else (activation, 0.01)
    below = v * rounded(Long(slope), dtype) if name == "leaky_relu" else Long(0)
    return v if name is None else np.minimum(np.where(v > 0, v, below), 6 if name == "relu6" else np.inf)


def around(truth: Truth, addend: Any, activation: Any, dtype: Any) -> Truth:
    """activation(y + addend) of any norm. y, which is rounded by itself, and the addend are terms, too."""
    z = widen(0 if addend is None else addend)
    terms, largest = truth.terms + np.abs(z), np.maximum(np.maximum(truth.largest, np.abs(truth.y)), np.abs(z))
    return truth._replace(y=activated(truth.y + z, activation, dtype), terms=terms, largest=largest)


def passed(dy: Any, y: Any, activation: Any) -> Array:
    """dy times the activation's derivative where it gave y, which is 1, 0 or the slope, and tells which by itself."""
    value = activated(Long(-1), activation, np.asarray(dy).dtype)  # where v < 0: minus the derivative
    y = widen(y)
    inside = (y > 0) & ((y < 6) | (activation != "relu6"))
    return widen(dy) * (1 if activation is None else np.where(inside, 1, np.where(y > 0, 0, -value)))


def beside(g: Gradient, dresidual: Any) -> Gradient:
    """The gradient of x + residual, of which a part comes by another way."""
    return Gradient(g.value + widen(dresidual), g.terms + np.abs(widen(dresidual)))


def spacing(scale: Array, dtype: Any) -> Array:
    """Distance of neighbouring numbers of `dtype` at each magnitude in `scale`."""
    digits, lowest = FORMATS[np.dtype(dtype).name]
    exponent = np.where(scale == 0, lowest, np.maximum(np.frexp(scale)[1] - 1, lowest))
    return np.ldexp(Long(1), exponent - (digits - 1))


def same_class(y: Array, truth: Array, dtype: Any) -> bool:
    """Whether nan, +inf and -inf stand at the same places; a truth too large for `dtype` rounds to an infinity."""
    digits, lowest = FORMATS[np.dtype(dtype).name]
    beyond = np.ldexp(Long(2) - np.ldexp(Long(1), -digits), 1 - lowest)  # halfway past the largest finite number
    return bool(
        np.array_equal(np.isnan(y), np.isnan(truth))
        and np.array_equal(y == np.inf, truth >= beyond)
        and np.array_equal(y == -np.inf, truth <= -beyond)
    )


def ulp_error(y: Any, truth: Any, weight: Any = 1.0) -> float:
    """Largest |y - truth| in units of the last place of y's type, at the scale max(|y|, |weight|)."""
    wide, truth = widen(y), widen(truth)
    if wide.shape != truth.shape or not same_class(wide, truth, np.asarray(y).dtype):
        return math.inf
    with np.errstate(invalid="ignore"):  # inf - inf; left out below
        units = np.abs(wide - truth) / spacing(np.maximum(np.abs(wide), widen(weight)), np.asarray(y).dtype)
    return float(np.max(units, where=np.isfinite(wide), initial=0))


def eps_error(y: Any, truth: Any, weight: Any = 1.0) -> float:
    """Largest |y - truth| relative to max(|y|, |weight|), in units of the distance from 1 to the next number."""
    wide, truth = widen(y), widen(truth)
    dtype = np.asarray(y).dtype
    if wide.shape != truth.shape or not same_class(wide, truth, dtype):
        return math.inf
    scale = np.maximum(np.abs(wide), widen(weight))
    with np.errstate(invalid="ignore"):
        off = np.where(wide == truth, Long(0), np.abs(wide - truth)) / np.where(scale == 0, Long(1), scale)
    return float(np.max(off, where=np.isfinite(wide), initial=0)) / 2.0 ** (1 - FORMATS[dtype.name][0])


def relative_error(value: Any, truth: Any, scale: Any = None) -> float:
    """Largest |value - truth| relative to max(|truth|, scale); 0 where both are zero."""
    value, truth = widen(value), widen(truth)
    size = np.abs(truth) if scale is None else np.maximum(np.abs(truth), widen(scale))
    if value.shape != truth.shape or np.isnan(value).any():
        return math.inf
    off = np.where(value == truth, Long(0), np.abs(value - truth))
    return float(np.max(off / np.where(size == 0, Long(1), size), initial=0))
