"""Moments of any axes against their definition, and pieces that add up to the whole."""

from __future__ import annotations

import itertools
import pickle
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import oracle
import pytest
from cases import ALL_METHODS, DTYPES, needs_long_double
from close import STATISTICS, definition, same
from layouts import LAYOUTS, possible
from numpy.typing import NDArray

from numbanorm import Moments, moments

Array = NDArray[Any]

pytestmark = needs_long_double

# a merge rounds delta, its share and three sums: about 4 half units of 2**-53 for each of some ten merges
MERGED = 1e-14

SHAPES = [(3, 4, 5), (2, 1, 300), (33, 2, 17), (2, 5, 3, 4), (1, 3, 20, 21), (2, 3, 2, 4, 3), (3, 1, 2, 1, 70)]
# one thread is not enough, or a group is cut: all kept and reduced parts are long, short or absent in turn
LARGE = [
    ((40000,), None),
    ((300, 400), 0),
    ((300, 400), 1),
    ((3, 200, 300), 1),
    ((3, 200, 300), (0, 2)),
    ((50, 7, 300), (0, 2)),
]

every_method = pytest.mark.parametrize("method", ALL_METHODS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


def subsets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    axes = range(len(shape))
    return [chosen for n in range(len(shape) + 1) for chosen in itertools.combinations(axes, n)]


def check(m: Moments, x: Array, axes: tuple[int, ...], tolerance: float = STATISTICS) -> None:
    count, mean, m2 = definition(x, axes)
    assert m.count == count
    assert isinstance(m.mean, np.ndarray)
    assert isinstance(m.m2, np.ndarray)
    assert m.mean.dtype == m.m2.dtype == np.float64
    assert oracle.relative_error(m.mean, mean, np.sqrt(m2 / count)) <= tolerance
    assert oracle.relative_error(m.m2, m2) <= tolerance


@every_method
@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_every_choice_of_axes(
    shape: tuple[int, ...], dtype: np.dtype[Any], method: str | None, rng: np.random.Generator
) -> None:
    x = rng.normal(1.5, 2, shape).astype(dtype)
    before = x.tobytes()
    for axes in subsets(shape):
        m = moments(x, axes, method=method)
        check(m, x, axes)
        # counted from the end, and in another order, they are the same axes
        assert same(m, moments(x, tuple(a - x.ndim for a in axes[::-1]), method=method))
        if len(axes) == 1:
            assert same(m, moments(x, axes[0], method=method))
        if len(axes) == x.ndim:
            assert same(m, moments(x, method=method))
    assert x.tobytes() == before


@every_method
@every_dtype
@pytest.mark.parametrize(("shape", "axis"), LARGE)
def test_large(shape: tuple[int, ...], axis: Any, dtype: np.dtype[Any], method: str | None, rng: np.random.Generator) -> None:
    x = rng.normal(1.5, 2, shape).astype(dtype)
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    check(moments(x, axis, method=method), x, axes)


READABLE = [(layout, dtype) for dtype in DTYPES for layout in LAYOUTS if possible(layout, np.empty(0, dtype))]


@pytest.mark.parametrize(("layout", "dtype"), READABLE)
def test_layouts(layout: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    x = rng.normal(1.5, 2, (4, 6, 50)).astype(dtype)
    for axes in subsets(x.shape):
        assert same(moments(LAYOUTS[layout](x), axes), moments(x, axes))


@every_method
@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_far_from_zero(offset: float, method: str | None, rng: np.random.Generator) -> None:
    """E[x**2] - E[x]**2 would have 4 digits of the variance left."""
    x = offset + rng.normal(size=(50, 400))
    for axes in subsets(x.shape):
        check(moments(x, axes, method=method), x, axes)


@every_method
@every_dtype
def test_constants_and_single_values(dtype: np.dtype[Any], method: str | None) -> None:
    """All distances are 0, and the true division makes the mean the value."""
    for value in (0.0, 3.0, 0.1, -1e4):
        for shape, axes in (
            ((3, 49), (1,)),
            ((49, 3), (0,)),
            ((7, 7, 5), (0, 1)),
            ((40, 3000), (1,)),
            ((4, 1), (1,)),
            ((4, 5), ()),
        ):
            x = np.full(shape, value, dtype)
            m = moments(x, axes, method=method)
            assert np.array_equal(m.mean, np.full(np.shape(m.mean), x.flat[0], np.float64))
            assert not np.any(m.m2)
            assert np.array_equal(m.rstd(0.25), np.full(np.shape(m.mean), 2.0))
            assert np.array_equal(m.rstd(), np.full(np.shape(m.mean), np.inf))


@every_method
def test_an_array_without_axes_is_one_value(method: str | None) -> None:
    m = moments(np.array(3.5, np.float32), method=method)
    assert (m.count, float(m.mean), float(m.m2), np.shape(m.mean)) == (1, 3.5, 0.0, ())


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_nothing_is_neutral(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    whole = moments(rng.normal(size=(5, 3)), 0)
    for axes in subsets(shape):
        empty = moments(np.empty(shape), axes)
        assert empty.count == 0
        assert empty.mean.shape == empty.m2.shape == tuple(n for k, n in enumerate(shape) if k not in axes)
        assert same(whole + empty, whole)
        assert same(empty + whole, whole)
        assert np.isnan(empty.var()).all()


def test_an_empty_one_is_neutral(rng: np.random.Generator) -> None:
    whole = moments(rng.normal(size=(5, 3)), 0)
    kept = pickle.dumps(whole)
    assert same(Moments() + whole, whole)
    assert same(whole + Moments(), whole)
    assert same(Moments().merge(whole), whole)
    assert (Moments() + Moments()).count == 0
    # what comes out is a copy: to go on with it must not reach back
    for total in (Moments() + whole, whole + Moments(), Moments().merge(whole)):
        total.mean += 1
        total.m2 += 1
        assert pickle.dumps(whole) == kept


def pieces(rng: np.random.Generator, offset: float = 1.0) -> tuple[Array, list[Array]]:
    """40 channels in batches of many sizes, one value and none among them, whose means differ."""
    sizes = [1, 7, 0, 300, 2, 1000, 33, 1, 128]
    parts = [offset + rng.normal(k % 3, 1 + k % 2, (n, 40, 3)) for k, n in enumerate(sizes)]
    return np.concatenate(parts), parts


@every_method
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_a_stream_equals_the_whole(dtype: np.dtype[Any], method: str | None, rng: np.random.Generator) -> None:
    whole, parts = pieces(rng)
    whole, parts = whole.astype(dtype), [part.astype(dtype) for part in parts]
    stream = Moments(axis=(0, 2))
    for part in parts:
        assert stream.update(part, method=method) is stream
    check(stream, whole, (0, 2))
    total = reduce(add, (moments(part, (0, 2), method=method) for part in parts), Moments())
    assert same(total, stream)


def test_a_stream_far_from_zero(rng: np.random.Generator) -> None:
    """A mean of 1e6 is known to 1e-10 between batches, and so is the difference of two such means."""
    whole, parts = pieces(rng, 1e6)
    stream = reduce(Moments.update, parts, Moments(axis=(0, 2)))
    check(stream, whole, (0, 2), tolerance=1e-10)


def near(a: Moments, b: Moments) -> bool:
    scale = np.sqrt(np.asarray(b.m2) / b.count)
    means = oracle.relative_error(a.mean, b.mean, scale) <= MERGED
    return a.count == b.count and means and oracle.relative_error(a.m2, b.m2) <= MERGED


def test_order_changes_only_the_rounding(rng: np.random.Generator) -> None:
    _, parts = pieces(rng)
    each = [moments(part, (0, 2)) for part in parts]
    before = pickle.dumps(each)
    forward, backward = reduce(add, each), reduce(add, each[::-1])
    assert near(forward, backward)
    tree = each
    while len(tree) > 1:
        tree = [a + b for a, b in itertools.zip_longest(tree[::2], tree[1::2], fillvalue=Moments())]
    assert near(forward, tree[0])
    for _ in range(10):
        assert near(forward, reduce(add, [each[k] for k in rng.permutation(len(each))]))
    assert pickle.dumps(each) == before, "a sum changed what was added"


def test_merge_changes_the_left_one_only(rng: np.random.Generator) -> None:
    a, b = (moments(rng.normal(size=(9, 4)), 0) for _ in range(2))
    total, kept = a + b, pickle.dumps(b)
    assert a.merge(b) is a
    assert same(a, total)
    assert pickle.dumps(b) == kept
    assert same(pickle.loads(pickle.dumps(a)), a), "moments travel between machines"


@pytest.mark.parametrize("ddof", [0, 1, 2])
def test_variance_and_its_roots(ddof: int, rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (7, 5))
    m = moments(x, 0)
    _, _, m2 = definition(x, (0,))
    var = m2 / (7 - ddof)
    assert oracle.relative_error(m.var(ddof), var) <= STATISTICS
    assert oracle.relative_error(m.std(ddof), np.sqrt(var)) <= STATISTICS
    assert m.var(ddof).dtype == m.std(ddof).dtype == np.float64
    for eps in (0.0, 1e-5, 1.0):
        assert oracle.relative_error(m.rstd(eps), 1 / np.sqrt(m2 / 7 + np.longdouble(eps))) <= STATISTICS


def test_variance_of_too_few_is_nan() -> None:
    one = moments(np.ones((1, 3)), 0)
    assert np.array_equal(one.var(), np.zeros(3))
    assert np.isnan(one.var(ddof=1)).all()
    assert np.isnan(one.std(ddof=2)).all()
    assert np.isnan(Moments().var())


@every_method
@every_dtype
def test_nan_and_inf_stay_in_their_group(dtype: np.dtype[Any], method: str | None, rng: np.random.Generator) -> None:
    """Without a warning (warnings are errors here), and through a merge."""
    x = rng.normal(size=(4, 6, 30)).astype(dtype)
    spoilt = x.copy()
    spoilt[1, 0, 2], spoilt[2, 1, 3], spoilt[0, 2, 0], spoilt[3, 2, 1] = np.nan, np.inf, np.inf, -np.inf
    clean, m = moments(x, (0, 2), method=method), moments(spoilt, (0, 2), method=method)
    assert np.array_equal(m.mean[:3], [np.nan, np.inf, np.nan], equal_nan=True)
    assert np.isnan(m.m2[:3]).all()
    assert m.mean[3:].tobytes() == clean.mean[3:].tobytes()
    assert m.m2[3:].tobytes() == clean.m2[3:].tobytes()
    both, of_clean = m + m, clean + clean
    assert np.isnan(both.m2[:3]).all()
    assert both.m2[3:].tobytes() == of_clean.m2[3:].tobytes()
