"""Normalization with statistics from anywhere, and its gradients: the definition, and norms that do the same."""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
import oracle
import pytest
from cases import DTYPES, FLOAT32, MODES, needs_long_double
from close import check_mode
from layouts import LAYOUTS, possible
from numpy.typing import NDArray

from numbanorm import (
    Moments,
    batch_norm,
    batch_norm_backward,
    instance_norm,
    layer_norm,
    moments,
    standardize,
    standardize_backward,
    standardize_sums,
)

Array = NDArray[Any]

pytestmark = needs_long_double

# kept and reduced parts long, short or absent in turn; runs shorter and longer than a vector and than 128; five parts
SHAPES = [(4, 3, 50), (3, 4, 5), (2, 3, 4, 5), (50, 7), (6, 300), (3, 200, 3), (2, 1, 300), (2, 3, 2, 4, 3)]
# one thread is not enough, with a weight for each of the first part too: moved there and back
LARGE = [((300, 400), 0), ((300, 400), 1), ((3, 200, 300), (0, 2)), ((30, 700, 3), 1), ((3000, 20), 1), ((20, 9, 300), (0, 2)),
         ((4, 900, 16), 1)]  # fmt: skip
# dx is rounded in three places, at the scale of its terms, as those of norms
DX_ULPS = 4.0
# the constants of a float64 dx, slope and scale, are rounded products of rounded numbers: rstd twice, a sum, the weight
DX_EPS = 4.0
SUMS = 1e-14  # of their absolute terms: the sums are float64, in pairs of float64 for float64 data

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_mode = pytest.mark.parametrize("exact", MODES, ids=lambda e: "exact" if e else "fast")
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def subsets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    axes = range(len(shape))
    return [chosen for n in range(len(shape) + 1) for chosen in itertools.combinations(axes, n)]


def kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for k, n in enumerate(shape) if k not in axes)


def draw(rng: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...], dtype: Any) -> tuple[Array, ...]:
    """x, dy, and mean, rstd, weight and bias that are nothing of x."""
    own = kept(shape, axes)
    x, dy = rng.normal(1.5, 2, shape).astype(dtype), rng.normal(0.5, 1, shape).astype(dtype)
    signs = rng.choice([-1.0, 1.0], own)
    return x, dy, rng.normal(1.5, 1, own), rng.uniform(0.5, 2, own), signs * rng.uniform(0.5, 2, own), rng.normal(size=own)


def narrower(p: Array) -> list[Array]:
    """Shapes that broadcast to that of a parameter."""
    found = [np.asarray(p)]
    for n in range(p.ndim):
        found += [p[(0,) * (n + 1)][...], p[(slice(None),) * n + (slice(0, 1),)]]
    return [np.array(a) for a in found]


@every_dtype
@every_mode
@every_shape
def test_definition(shape: tuple[int, ...], exact: bool, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    for axes in subsets(shape):
        x, _, mean, rstd, weight, bias = draw(rng, shape, axes, dtype)
        y = standardize(x, mean, rstd, axis=axes, exact=exact)
        check_mode(y, oracle.standardize(x, mean, rstd, axes), exact, plain=True)
        assert y.flags.c_contiguous
        for w, b in itertools.zip_longest(narrower(weight), narrower(bias)[::-1]):
            y = standardize(x, mean, rstd, w, b, axis=axes, exact=exact)
            check_mode(y, oracle.standardize(x, mean, rstd, axes, w, b), exact)


@every_dtype
@every_mode
@every_shape
def test_gradients(shape: tuple[int, ...], exact: bool, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    for axes in subsets(shape):
        x, dy, mean, rstd, weight, _ = draw(rng, shape, axes, dtype)
        local = standardize_sums(dy, x, mean, rstd, axis=axes)
        true = oracle.standardize_backward(dy, x, mean, rstd, axes)
        for found, term in ((local.dy, true.dbias), (local.product, true.dweight)):
            assert oracle.relative_error(found, term.value.reshape(found.shape), term.terms.reshape(found.shape)) <= SUMS
        assert local.count == x.size // max(1, local.dy.size)
        others = tuple(rng.normal(size=local.dy.shape) for _ in range(2))
        for w in (None, *narrower(weight)):
            for sums in (None, local, (*others, 7), (*others, np.full(local.dy.shape, 3))):
                dx, *grads = standardize_backward(dy, x, mean, rstd, w, axis=axes, sums=sums, exact=exact)
                check_dx(dx, oracle.standardize_backward(dy, x, mean, rstd, axes, w, sums).dx, exact or sums is None)
                for grad, term in zip(grads, (true.dweight, true.dbias), strict=True):
                    check_parameter(grad, term, local.dy.shape, w, dtype)


def check_dx(dx: Array, true: oracle.Gradient, exact: bool) -> None:
    if dx.dtype == np.float64:
        assert oracle.eps_error(dx, true.value, true.terms) <= DX_EPS
    else:
        assert oracle.ulp_error(dx, true.value, true.terms) <= (0.51 if exact else DX_ULPS)


def check_parameter(grad: Array, term: oracle.Gradient, own: tuple[int, ...], w: Array | None, dtype: np.dtype[Any]) -> None:
    """dweight or dbias: rounded to the weight's type, and summed over the axes along which that is the same."""
    value, terms, like = term.value.reshape(own), term.terms.reshape(own), np.empty(own, dtype) if w is None else w
    padded = (1,) * (len(own) - like.ndim) + like.shape
    shared = tuple(k for k, n in enumerate(own) if padded[k] != n)
    value, terms = (a.sum(axis=shared, keepdims=True).reshape(like.shape) for a in (value, terms))
    assert (grad.dtype, grad.shape) == (like.dtype, like.shape)
    if grad.dtype == np.float64:
        assert oracle.relative_error(grad, value, terms) <= SUMS
    else:
        assert oracle.ulp_error(grad, value, terms * SUMS * 2.0 ** oracle.FORMATS[grad.dtype.name][0]) <= 0.51


@every_mode
@pytest.mark.parametrize(("shape", "axis"), LARGE)
def test_any_number_of_threads(shape: tuple[int, ...], axis: Any, exact: bool, rng: np.random.Generator) -> None:
    axes = (axis,) if isinstance(axis, int) else axis
    x, dy, mean, rstd, weight, bias = draw(rng, shape, axes, FLOAT32)
    sums = standardize_sums(dy, x, mean, rstd, axis=axis)

    def results() -> list[Array]:
        y = standardize(x, mean, rstd, weight, bias, axis=axis, exact=exact)
        own = standardize_sums(dy, x, mean, rstd, axis=axis)
        return [y, own.dy, own.product, *standardize_backward(dy, x, mean, rstd, weight, axis=axis, sums=sums, exact=exact)]

    check_mode(results()[0], oracle.standardize(x, mean, rstd, axes, weight, bias), exact)
    check_dx(results()[3], oracle.standardize_backward(dy, x, mean, rstd, axes, weight, sums).dx, exact)
    every, everyone = [a.tobytes() for a in results()], numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert [a.tobytes() for a in results()] == every
    finally:
        numba.set_num_threads(everyone)


@every_dtype
@every_mode
@pytest.mark.parametrize(("shape", "channel"), [((8, 5, 14, 14), 1), ((9, 35), 1), ((4, 7, 5, 3), -1), ((2, 5, 300), 1)])
def test_bits_of_batch_norm(
    shape: tuple[int, ...], channel: int, exact: bool, dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    """In evaluation, with its gradients; in training it is the same of its statistics, but for what their rounding lost."""
    axes = tuple(k for k in range(len(shape)) if k != channel % len(shape))
    x, dy, mean, _, weight, bias = draw(rng, shape, axes, dtype)
    var, options = rng.uniform(1, 2, mean.shape), {"channel_axis": channel, "exact": exact}
    y, stats = batch_norm(x, mean, var, weight, bias, return_stats=True, **options)
    assert standardize(x, *stats, weight, bias, axis=axes, exact=exact).tobytes() == y.tobytes()
    dx, *_ = batch_norm_backward(dy, x, stats, weight, training=False, **options)
    _, *exactly = batch_norm_backward(dy, x, stats, weight, training=False, channel_axis=channel, exact=True)
    for found, wanted in zip(standardize_backward(dy, x, *stats, weight, axis=axes, exact=exact), (dx, *exactly), strict=True):
        assert found.tobytes() == wanted.tobytes()


@every_mode
def test_a_batch_in_pieces_is_batch_norm(exact: bool, rng: np.random.Generator) -> None:
    """What a batch norm over processes does: moments are merged, sums are added, and each normalizes what it has."""
    x, dy, _, _, weight, bias = draw(rng, (12, 5, 14, 14), (0, 2, 3), FLOAT32)
    parts = [slice(0, 3), slice(3, 3), slice(3, 4), slice(4, 12)]
    m = sum(moments(x[p], (0, 2, 3)) for p in parts)
    rstd = m.rstd(1e-5)
    whole = oracle.batch_norm(x, weight, bias)
    y = np.concatenate([m.transform(x[p], 1e-5, weight, bias, exact=exact) for p in parts])
    check_mode(y, whole, exact)
    local = [standardize_sums(dy[p], x[p], m, rstd) for p in parts]
    sums = tuple(sum(s) for s in zip(*local, strict=True))
    found = [standardize_backward(dy[p], x[p], m, rstd, weight, sums=sums, exact=exact) for p in parts]
    true = oracle.channels_backward(dy, x, 0, weight)
    dx = np.concatenate([f[0] for f in found])
    check_dx(dx, true.dx, exact)
    for k, term in ((1, true.dweight), (2, true.dbias)):
        assert oracle.relative_error(sum(f[k] for f in found), term.value, term.terms) <= SUMS


@every_dtype
def test_moments_as_the_mean(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """Their low part and rstd come along, and their axes unless others are named."""
    x = (1e3 + rng.normal(size=(6, 4, 50))).astype(dtype)
    for axes in subsets(x.shape)[1:]:
        m = moments(x, axes)
        y = m.transform(x)
        assert standardize(x, m).tobytes() == standardize(x, m, axis=axes).tobytes() == y.tobytes()
        if axes in ((2,), (1, 2), (0, 1, 2)):
            norm = layer_norm(x, x.shape[axes[0] :], eps=0.0)
            assert oracle.ulp_error(y, norm, np.maximum(np.abs(norm), 1)) <= 3
        if axes == (2,) and dtype != np.dtype(np.float64):  # whose m2 has two parts, of which Moments keep one
            assert instance_norm(x, eps=0.0).tobytes() == y.tobytes()
    with pytest.raises(ValueError, match=r"mean must broadcast to .* \(4,\): got \(6, 4\); "):
        standardize(x, moments(x, 2), axis=(0, 2))


@pytest.mark.parametrize("factor", [1e200, 1e-200, 1e308 / 4])
def test_moments_out_of_range(factor: float, rng: np.random.Generator) -> None:
    """A variance that float64 does not hold; and beside an eps nothing is small."""
    x = rng.normal(size=(40, 3))
    m = moments(x * factor, 0)
    expected = oracle.standardize(x, x.mean(0), 1 / x.std(0), (0,)).y
    assert oracle.relative_error(m.transform(x * factor), expected, 1.0) < 1e-14
    if factor < 1:
        assert not m.transform(x * factor, 1e-5).astype(np.float32).any()


@pytest.mark.parametrize("shape", [(5, 20, 3), (5, 900, 16)])
def test_a_weight_for_each_sample(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Small samples are moved, large ones computed one by one: the bits of each alone."""
    x, _, mean, rstd, weight, bias = draw(rng, shape, (1,), FLOAT32)
    y = standardize(x, mean, rstd, weight, bias, axis=1)
    for k in range(5):
        alone = standardize(x[k], mean[k], rstd[k], weight[k], bias[k], axis=0)
        assert y[k].tobytes() == alone.tobytes()


def test_memory_of_the_result(rng: np.random.Generator) -> None:
    """In place, in memory with steps, where x is moved, and in that of dy."""
    for shape, axes in (((4, 3, 50), (0, 2)), ((4, 30, 5), (1,)), ((6, 300), (1,))):
        x, dy, mean, rstd, weight, bias = draw(rng, shape, axes, FLOAT32)
        y = standardize(x, mean, rstd, weight, bias, axis=axes)
        sums = standardize_sums(dy, x, mean, rstd, axis=axes)
        dx = standardize_backward(dy, x, mean, rstd, weight, axis=axes, sums=sums)[0]
        given = standardize_backward(dy, x, mean, rstd, weight, axis=axes)[0]
        for make in (np.copy, np.asfortranarray, lambda a: np.repeat(a, 2, 0)[::2]):
            out = make(np.empty_like(x))
            assert standardize(x, mean, rstd, weight, bias, axis=axes, out=out) is out
            assert out.tobytes() == y.tobytes()
            own = make(x)
            assert standardize(own, mean, rstd, weight, bias, axis=axes, out=own) is own
            assert own.tobytes() == y.tobytes()
            for s, expected in ((sums, dx), (None, given)):
                for k in range(2):
                    both = [make(a) for a in (dy, x)]
                    found = standardize_backward(*both, mean, rstd, weight, axis=axes, sums=s, out=both[k])[0]
                    assert found is both[k]
                    assert found.tobytes() == expected.tobytes()


READABLE = [(layout, dtype) for dtype in DTYPES for layout in LAYOUTS if possible(layout, np.empty(0, dtype))]


@pytest.mark.parametrize(("layout", "dtype"), READABLE)
def test_layouts(layout: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    for axes in ((0, 2), (1,), (2,)):
        x, dy, mean, rstd, weight, _ = draw(rng, (4, 6, 50), axes, dtype)
        placed, upstream = LAYOUTS[layout](x), LAYOUTS[layout](dy)
        y = standardize(placed, mean, rstd, weight, axis=axes)
        assert y.tobytes() == standardize(x, mean, rstd, weight, axis=axes).tobytes()
        sums = standardize_sums(upstream, placed, mean, rstd, axis=axes)
        assert [a.tobytes() for a in sums[:2]] == [a.tobytes() for a in standardize_sums(dy, x, mean, rstd, axis=axes)[:2]]
        found = standardize_backward(upstream, placed, mean, rstd, weight, axis=axes, sums=sums)
        for a, b in zip(found, standardize_backward(dy, x, mean, rstd, weight, axis=axes, sums=sums), strict=True):
            assert a.tobytes() == b.tobytes()


def test_needs(rng: np.random.Generator) -> None:
    x, dy, mean, rstd, weight, _ = draw(rng, (4, 6, 50), (0, 2), FLOAT32)
    for sums in (None, standardize_sums(dy, x, mean, rstd, axis=(0, 2))):
        every = standardize_backward(dy, x, mean, rstd, weight, axis=(0, 2), sums=sums)
        for needs in itertools.product((True, False), repeat=3):
            found = standardize_backward(dy, x, mean, rstd, weight, axis=(0, 2), sums=sums, needs=needs)
            for want, a, b in zip(needs, found, every, strict=True):
                assert (a is None) is not want
                assert a is None or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)])
def test_nothing(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    for axes in subsets(shape):
        mean = np.ones(kept(shape, axes))
        assert standardize(x, mean, mean, mean, mean, axis=axes).shape == shape
        sums = standardize_sums(x, x, mean, mean, axis=axes)
        assert not sums.dy.any()
        assert not sums.product.any()
        dx, dweight, dbias = standardize_backward(x, x, mean, mean, mean, axis=axes, sums=sums)
        assert dx.shape == shape
        assert dweight.shape == dbias.shape == mean.shape


@every_mode
def test_where_nothing_was_counted_nothing_is_subtracted(exact: bool, rng: np.random.Generator) -> None:
    x, dy, mean, rstd, weight, _ = draw(rng, (4, 6, 50), (0, 2), FLOAT32)
    sums = np.ones(6), np.ones(6), np.arange(6) % 2 * 100
    dx = standardize_backward(dy, x, mean, rstd, weight, axis=(0, 2), sums=sums, exact=exact)[0]
    check_dx(dx, oracle.standardize_backward(dy, x, mean, rstd, (0, 2), weight, (*sums[:2] * (sums[2] > 0), 100)).dx, exact)


@every_dtype
def test_numbers_without_room_in_float32(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """One unit's rstd is beyond what float32 arithmetic takes: it is computed in float64, and the others as ever."""
    x, dy, mean, rstd, weight, _ = draw(rng, (4, 6, 50), (0, 2), dtype)
    sums = standardize_sums(dy, x, mean, rstd, axis=(0, 2))
    usual = standardize_backward(dy, x, mean, rstd, weight, axis=(0, 2), sums=sums)[0]
    for unit, root in ((2, 2.0**-110), (4, 2.0**60)):
        rstd[unit] = root
        options = {"axis": (0, 2), "sums": sums}
        exact = standardize_backward(dy, x, mean, rstd, weight, exact=True, **options)[0]
        own = dy.copy()
        for dx in (
            standardize_backward(dy, x, mean, rstd, weight, **options)[0],
            standardize_backward(own, x, mean, rstd, weight, **options, out=own)[0],
        ):
            others = [k for k in range(6) if rstd[k] < 2.0**50 and rstd[k] > 2.0**-50]
            assert dx[:, unit].tobytes() == exact[:, unit].tobytes()
            assert dx[:, others].tobytes() == usual[:, others].tobytes()


def test_nan_and_inf_stay_in_their_unit(rng: np.random.Generator) -> None:
    x, dy, mean, rstd, weight, bias = draw(rng, (4, 6, 50), (0, 2), FLOAT32)
    spoilt, upstream = x.copy(), dy.copy()
    spoilt[1, 0, 2], spoilt[2, 1, 3], upstream[0, 2, 1] = np.nan, np.inf, np.nan
    y = standardize(spoilt, mean, rstd, weight, bias, axis=(0, 2))
    assert np.array_equal(np.isfinite(y), np.isfinite(spoilt))
    sums = standardize_sums(upstream, spoilt, mean, rstd, axis=(0, 2))
    dx = standardize_backward(upstream, spoilt, mean, rstd, weight, axis=(0, 2), sums=sums)[0]
    sums = standardize_sums(dy, x, mean, rstd, axis=(0, 2))
    good = standardize_backward(dy, x, mean, rstd, weight, axis=(0, 2), sums=sums)[0]
    assert np.isnan(dx[:, :3]).any(axis=(0, 2)).all()
    assert dx[:, 3:].tobytes() == good[:, 3:].tobytes()


def test_an_empty_moments_has_no_rstd() -> None:
    assert np.isnan(standardize(np.ones((2, 3), np.float32), Moments(axis=(0, 1)))).all()


def test_gradients_of_a_weight_that_nothing_has() -> None:
    """A kept axis without elements, along which a weight is the same: it took forever."""
    x = np.zeros((3, 0), np.float32)
    _, dweight, dbias = standardize_backward(x, x, np.zeros(0), np.zeros(0), np.ones(1, np.float32), axis=0)
    assert [dweight.tolist(), dbias.tolist()] == [[0.0], [0.0]]
