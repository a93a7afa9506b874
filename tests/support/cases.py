"""One table of cases, and what it takes to run one: parameters, memory layouts, the call and its truth.

The sizes sit on both sides of every number that steers a kernel: a vector of 16, a tile of 256, blocks of 8 rows
(16 from 2048 rows on, 32 from 4096 on), runs shorter and longer than a tile, runs too long for a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import ml_dtypes  # noqa: F401  # which tells NumPy of bfloat16
import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

import numbanorm
from numbanorm.spec import dtypes
from numbanorm.spec.norms import NORMS, Norm

Array = NDArray[Any]

METHODS = ("two_pass", "welford")
ALL_METHODS = (None, *METHODS)
MODES = (False, True)  # of `exact`
DTYPES = tuple(np.dtype(name) for name in dtypes.DTYPES)
FLOAT32 = DTYPES[0]

needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63,
    reason="long double is no wider than float64 on this platform, so there is nothing to measure float64 with",
)


@dataclass(frozen=True)
class Case:
    """`dims` is for layer and rms, `groups` for group, `channel_axis` for all but layer and rms."""

    norm: str
    shape: tuple[int, ...]
    dims: int = 1
    groups: int = 1
    channel_axis: int = 1
    training: bool = True
    affine: bool = True

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.shape))
        extra = f"last{self.dims}" if self.rows else f"axis{self.channel_axis}"
        extra += f"-{self.groups}groups" if self.norm == "group" else ""
        return f"{self.norm}-{size}-{extra}" + ("" if self.training else "-given") + ("" if self.affine else "-plain")

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def its(self) -> Norm:
        return NORMS[f"{self.norm}_norm"]

    @property
    def rows(self) -> bool:
        """Whether the last axes share a mean, and no axis is one of channels."""
        return not self.its.channels

    @property
    def gradients(self) -> int:
        """How many there are."""
        return 1 + len(self.its.parameters)

    @property
    def told(self) -> tuple[int, ...]:
        """What `its.sized` says."""
        return self.parameter_shape if self.rows else (self.groups,)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the norm and of its backward function that are no arrays, by name."""
        return self.its.options(self.told, self.training, self.channel_axis)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        if self.rows:
            return self.shape[len(self.shape) - self.dims :]
        return (self.shape[self.channel_axis],)


ROWS = [
    (1, 1), (5, 1), (3, 2), (2, 7), (13, 13), (4, 15), (4, 16), (4, 17), (3, 31), (3, 33), (2, 49), (5, 64), (3, 255),
    (3, 256), (3, 257), (2, 511), (7, 768), (3, 1000), (2, 4097), (2049, 3), (5000, 7), (1, 16385), (1, 40003),
]  # fmt: skip
# a statistic from M rows of C values: M runs of length 1
COLUMNS = [
    (2, 1), (2, 3), (7, 5), (8, 5), (9, 5), (33, 17), (32, 100), (64, 84), (17, 255), (9, 257), (40, 1000),
    (2047, 3), (2048, 3), (2049, 16), (4095, 2), (4096, 2), (5000, 3), (20000, 1),
]  # fmt: skip
# batch norm, channels first: M runs of the product of the last axes
RUNS = [
    (2, 3, 1), (5, 2, 7), (5, 2, 17), (9, 4, 31), (3, 5, 33), (2, 3, 7, 7), (16, 6, 7, 7), (3, 2, 255), (3, 2, 256),
    (3, 2, 257), (1, 2, 2), (1, 3, 50, 41), (8, 1, 28, 28), (2, 3, 4, 5, 6), (300, 4, 3, 3), (2100, 2, 5), (4100, 1, 3),
    (3, 20, 13), (2, 3, 130, 131), (2, 1, 201, 203), (1, 1, 300, 301), (1, 3, 130, 127),
]  # fmt: skip
PICTURES = [
    (1, 1, 8, 8), (2, 3, 7, 7), (3, 2, 5), (2, 5, 2), (2, 3, 255), (2, 3, 256), (2, 3, 257), (1, 3, 16, 16),
    (1, 3, 129, 131), (1, 3, 200, 201), (1, 1, 40001), (2, 3, 4, 5, 6), (3, 40, 33),
]  # fmt: skip
PICTURES_LAST = [
    (2, 7, 7, 3), (1, 8, 8, 1), (1, 64, 33, 3), (3, 5, 5, 17), (1, 4096, 3), (2, 2047, 5), (1, 2048, 16), (1, 5000, 2),
    (2, 9, 300),
]  # fmt: skip
GROUPED = [
    ((2, 6, 5), 3), ((1, 4, 7, 7), 2), ((2, 8, 3, 3), 1), ((2, 8, 3, 3), 8), ((3, 6), 2), ((5, 257), 1),
    ((2, 12, 2, 3, 2), 4), ((2, 64, 17, 1), 8), ((1, 4, 65, 65), 2), ((1, 6, 80, 90), 1), ((2, 4, 8, 16), 2),
]  # fmt: skip
GROUPED_LAST = [
    ((2, 5, 6), 3), ((2, 7, 7, 8), 2), ((1, 50, 41, 6), 3), ((1, 4100, 4), 2), ((3, 9, 64), 2), ((2, 33, 514), 2),
    ((2, 3, 4), 4),
]  # fmt: skip


def table() -> Iterator[Case]:
    for shape in ROWS:
        yield Case("layer", shape)
        yield Case("rms", shape, affine=shape[1] != 33)
    for dims in (1, 2, 3, 4):
        yield Case("layer", (2, 3, 4, 5), dims)
        yield Case("rms", (2, 3, 4, 5), dims)
    yield Case("layer", (9,))
    yield Case("layer", (3, 257), affine=False)
    for shape in COLUMNS + RUNS:
        yield Case("batch", shape)
    for shape in [(1, 3), (9, 5), (1, 257), (2, 3, 7, 7), (3, 2, 300), (4100, 3)]:
        yield Case("batch", shape, training=False)
    for shape in PICTURES_LAST:
        yield Case("batch", shape, channel_axis=-1)
        yield Case("instance", shape, channel_axis=-1)
    yield Case("batch", (4, 7, 7, 3), channel_axis=-1, training=False)
    yield Case("batch", (2, 3, 7, 7), affine=False)
    yield Case("batch", (4, 7, 7, 3), channel_axis=-1, affine=False)
    for axis in (0, 2, -2):
        yield Case("batch", (5, 3, 4, 7), channel_axis=axis)
    for shape in PICTURES:
        yield Case("instance", shape)
    yield Case("instance", (2, 3, 4, 5), channel_axis=2)
    yield Case("instance", (2, 3, 4, 5), training=False)
    yield Case("instance", (2, 3, 4, 5), channel_axis=-1, training=False)
    for shape, groups in GROUPED:
        yield Case("group", shape, groups=groups)
    for shape, groups in GROUPED_LAST:
        yield Case("group", shape, groups=groups, channel_axis=-1)
    yield Case("group", (2, 3, 6, 4), groups=2, channel_axis=2)
    yield Case("group", (2, 8, 3, 3), groups=2, affine=False)


TABLE = tuple(table())


@dataclass(frozen=True)
class Arguments:
    """The arrays of one call; those that the case does not have are None."""

    x: Array
    weight: Array | None = None
    bias: Array | None = None
    running_mean: Array | None = None
    running_var: Array | None = None
    where: Array | None = None


def seed(case: Case) -> list[int]:
    return [*case.shape, case.dims, case.groups, len(case.norm)]


@lru_cache(maxsize=512)
def arguments(case: Case, dtype: np.dtype[Any]) -> Arguments:
    """Data and parameters of a case: mean away from zero, so that a mean that is left out shows."""
    rng = np.random.default_rng(seed(case))
    x = rng.normal(1.5, 2.0, case.shape).astype(dtype)
    # parameters are seldom kept in 16 bits: float32 beside half types, and the type of x otherwise
    kind = FLOAT32 if dtype.itemsize == 2 else dtype
    affine, shape = case.affine, case.parameter_shape
    weight = (rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2.0, shape)).astype(kind) if affine else None
    bias = rng.uniform(-1.0, 1.0, shape).astype(kind) if affine and case.its.center else None
    if case.training:
        return Arguments(x, weight, bias)
    mean = rng.normal(1.5, 1.0, shape).astype(kind)
    return Arguments(x, weight, bias, mean, rng.uniform(0.5, 4.0, shape).astype(kind))


@lru_cache(maxsize=512)
def truth(case: Case, dtype: np.dtype[Any]) -> oracle.Truth:
    return expected(case, arguments(case, dtype))


def expected(case: Case, a: Arguments, eps: float | None = None) -> oracle.Truth:
    e = 1e-5 if eps is None else eps
    if case.norm == "layer":
        return oracle.layer_norm(a.x, case.dims, a.weight, a.bias, e, a.where)
    if case.norm == "rms":
        return oracle.rms_norm(a.x, case.dims, a.weight, rms_eps(a.x.dtype) if eps is None else eps, a.where)
    if case.norm == "group":
        return oracle.group_norm(a.x, case.groups, a.weight, a.bias, e, case.channel_axis, a.where)
    given = None if case.training else (a.running_mean, a.running_var)
    norm = oracle.instance_norm if case.norm == "instance" else oracle.batch_norm
    return norm(a.x, a.weight, a.bias, e, case.channel_axis, given, a.where)


@lru_cache(maxsize=512)
def upstream(case: Case, dtype: np.dtype[Any]) -> Array:
    """dy: with a mean and with a share of x, so that a sum that is left out of dx shows."""
    rng = np.random.default_rng([*seed(case), 1])
    share = 0.25 * (arguments(case, dtype).x.astype(np.float64) - 1.5)
    return (rng.normal(0.5, 1.0, case.shape) + share).astype(dtype)


@lru_cache(maxsize=512)
def true_gradients(case: Case, dtype: np.dtype[Any]) -> oracle.Gradients:
    return expected_gradients(case, arguments(case, dtype), upstream(case, dtype))


def with_zeros(case: Case, dtype: np.dtype[Any]) -> tuple[Arguments, Array]:
    """Arguments and dy with zeros of either sign among the weights and the elements of dy."""
    rng = np.random.default_rng([*seed(case), 2])
    a, dy = arguments(case, dtype), upstream(case, dtype).copy()
    dy[rng.random(dy.shape) < 0.3] = 0.0
    dy = np.copysign(dy, rng.choice([-1.0, 1.0], dy.shape)).astype(dtype)
    weight = None if a.weight is None else a.weight.copy()
    if weight is not None:
        weight.reshape(-1)[::3] *= 0.0  # of the sign that they have
    return replace(a, weight=weight), dy


def masks(case: Case) -> Iterator[tuple[str, Array]]:
    """Masks of the case's x by name: of every element, of some axes alone, padding at an end, of all and of nothing."""
    rng, shape = np.random.default_rng([*seed(case), 3]), case.shape

    def drawn(*axes: int) -> Array:
        return rng.random([n if k in axes or k - len(shape) in axes else 1 for k, n in enumerate(shape)]) < 0.7

    yield "each", drawn(*range(len(shape)))
    yield "transposed", np.asfortranarray(drawn(*range(len(shape))))
    yield "last", drawn(-1)
    if len(shape) > 1:
        yield "first", drawn(0)
        yield "all but the last", drawn(*range(len(shape) - 1))
        yield "first and last", drawn(0, -1)
        yield "second", drawn(1)
        yield "broadcast", np.broadcast_to(drawn(0), shape)
    lengths = rng.integers(0, shape[-1] + 1, (*shape[:-1], 1))
    yield "padding", np.arange(shape[-1]) < lengths
    yield "nothing", np.zeros(1, bool)
    one = np.zeros(shape, bool)
    one.flat[case.size // 2] = True
    yield "one", one


def groups_of(case: Case, x: Array) -> list[Array]:
    """Views of what shares a mean."""
    if case.rows:
        return list(x.reshape(-1, int(np.prod(case.parameter_shape))))
    channels = np.moveaxis(x, case.channel_axis, 0)
    if case.norm == "batch":
        return list(channels)
    samples = np.moveaxis(channels, 1, 0)
    if case.norm == "instance":
        return [c for s in samples for c in s]
    return [g for s in samples for g in np.split(s, case.groups)]


def expected_gradients(case: Case, a: Arguments, dy: Array, eps: float | None = None) -> oracle.Gradients:
    e = 1e-5 if eps is None else eps
    if case.norm == "layer":
        return oracle.layer_norm_backward(dy, a.x, case.dims, a.weight, e, where=a.where)
    if case.norm == "rms":
        e = rms_eps(a.x.dtype) if eps is None else eps
        return oracle.layer_norm_backward(dy, a.x, case.dims, a.weight, e, False, a.where)
    if case.norm == "group":
        return oracle.group_norm_backward(dy, a.x, case.groups, a.weight, e, case.channel_axis, a.where)
    given = None if case.training else (a.running_mean, a.running_var)
    return oracle.channels_backward(dy, a.x, case.norm == "instance", a.weight, e, case.channel_axis, given, a.where)


# a gradient is evaluated in float64, off by a few roundings of its terms, and rounded once. Where it is not tiny against
# them it is within 0.51 ulp, as y is; 2**-44 of the terms, in ulps, is where those few roundings (2 eps of float64) are
# 0.01 ulp
ROUNDED_ONCE = 0.51
CANCELLED = 2.0**-44
# float64 has no finer type to be evaluated in. rstd, rounded once (0.5 eps), is a factor of dweight and enters the last term of
# dx three times; the result is rounded (0.5). dweight's factor of each dy may be rounded too, and what it is corrected by
FLOAT64_EPS = {"dx": 2.0, "dweight": 2.0, "dbias": 1.0}


def check_gradients(found: tuple[Array | None, ...], truth: oracle.Gradients) -> None:
    """Those that were asked for; RMS norm has two."""
    for name, got, true in zip(truth._fields, found, truth, strict=False):
        if got is None:
            continue
        if got.dtype == np.float64:
            error, allowed = oracle.eps_error(got, true.value, true.terms), FLOAT64_EPS[name]
        else:
            floor = true.terms * (CANCELLED * 2.0 ** oracle.FORMATS[got.dtype.name][0])
            error, allowed = oracle.ulp_error(got, true.value, floor), ROUNDED_ONCE
        assert error <= allowed, f"{name} is {error:.3g} ulp off"


def epsilon(dtype: np.dtype[Any]) -> float:
    """Distance from 1 to the next number."""
    return float(2.0 ** (1 - oracle.FORMATS[dtype.name][0]))


def rms_eps(dtype: np.dtype[Any]) -> float:
    """What rms norm adds when it is not told, as torch does: the epsilon of the type that torch computes in."""
    return epsilon(np.dtype(np.float64 if dtype == np.float64 else np.float32))


def norm_of(case: Case, a: Arguments, **options: Any) -> partial[Any]:
    """The package's function for the case, and its arguments; `options` are eps, method, out, return_stats ..."""
    names = (*(("running_mean", "running_var") if case.its.own else ()), *case.its.parameters)
    arrays = {name: getattr(a, name) for name in names} | ({} if a.where is None else {"where": a.where})
    return partial(getattr(numbanorm, f"{case.norm}_norm"), a.x, **case.options, **arrays, **options)


def gradient_of(case: Case, a: Arguments, dy: Array, stats: Any, **options: Any) -> partial[Any]:
    """The backward function of `norm_of`, likewise; `options` are needs (of three; RMS norm is told two), out, backend."""
    if "needs" in options:
        options["needs"] = options["needs"][: case.gradients]
    function = getattr(numbanorm, f"{case.norm}_norm_backward")
    options |= {} if a.where is None else {"where": a.where}
    return partial(function, dy, a.x, stats=stats, weight=a.weight, **case.options, **options)


def call(case: Case, a: Arguments, **options: Any) -> Any:
    """The result of `norm_of`."""
    return norm_of(case, a, **options)()


def call_backward(case: Case, a: Arguments, dy: Array, stats: Any, **options: Any) -> Any:
    """The result of `gradient_of`."""
    return gradient_of(case, a, dy, stats, **options)()


def gradients(case: Case, a: Arguments, dy: Array, method: str | None = METHODS[0], eps: float | None = None) -> Any:
    """The exact gradients from the statistics of the forward call."""
    _, stats = call(case, a, method=method, return_stats=True, **({} if eps is None else {"eps": eps}))
    return call_backward(case, a, dy, stats, exact=True)
