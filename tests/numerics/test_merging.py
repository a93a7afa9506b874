"""Moments of data in pieces against exact fractions: any cut, any order, the whole range of float64."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import operator
import pickle
from fractions import Fraction
from typing import Any

import device_fakes as fakes
import numpy as np
import pytest
from cases import DTYPES, METHODS
from numpy.typing import NDArray

from numbanorm import Moments, moments

Array = NDArray[Any]
EPS = 2.0**-52

every_method = pytest.mark.parametrize("method", METHODS)


def exact(values: Any) -> tuple[Fraction, Fraction]:
    """Mean and sum of squares about it."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return mean, sum(((v - mean) ** 2 for v in numbers), Fraction(0))


def near(found: Any, true: Fraction, units: float) -> bool:
    """Whether a float64 is off by so many units of EPS at most, or of the smallest number; what is too large is inf."""
    if true > Fraction(np.finfo(float).max):
        return bool(np.isposinf(found))
    return abs(Fraction(float(found)) - true) <= Fraction(units * EPS) * true + Fraction(2) ** -1074


def root(true: Fraction) -> Fraction:
    """Square root to more digits than are asked for."""
    shift = 2300  # of the smallest square of all, 2**-2148, 200 bits are left
    return Fraction(math.isqrt(true.numerator * 4**shift // true.denominator), 2**shift)


def check(m: Moments, columns: list[list[float]], units: float = 4.0, eps: float = 0.0) -> None:
    """m has one group a column. Units of EPS: of m2; var adds one, its roots have half of its error and one of their own."""
    var, std, rstd = m.var(), m.std(), m.rstd(eps)
    for k, column in enumerate(columns):
        mean, m2 = exact(column)
        true, distance = m2 / len(column), max(column) / 2 - min(column) / 2
        assert m.count == len(column)
        own = Fraction(float(m.mean[k])) + Fraction(float(m.mean_low[k]))
        limit = Fraction(2.0**-75) * Fraction(distance) + Fraction(2.0**-102) * Fraction(max(map(abs, column)))
        assert abs(own - mean) <= len(column) * limit + Fraction(2) ** -1074  # where both parts are denormal numbers
        assert near(m.m2[k], m2, units)
        assert near(var[k], true, units + 1)
        assert near(std[k], root(true), units / 2 + 2)
        if true + Fraction(eps):
            assert near(rstd[k], 1 / root(true + Fraction(eps)), units / 2 + 2)
        else:
            assert np.isposinf(rstd[k])


def cuts(n: int, rng: np.random.Generator) -> list[list[int]]:
    """Where to cut: nowhere, everywhere, in halves, near an end, at random."""
    some = [sorted(rng.choice(np.arange(1, n), size, replace=False).tolist()) for size in (2, 5, n // 3)]
    return [[], [n // 2], [1], [n - 1], list(range(1, n)), *some]


def merged(parts: list[Moments]) -> list[Moments]:
    """In some orders, and as a tree."""
    tree = parts
    while len(tree) > 1:
        tree = [a + b for a, b in itertools.zip_longest(tree[::2], tree[1::2], fillvalue=Moments())]
    return [functools.reduce(operator.add, parts), functools.reduce(operator.add, parts[::-1]), tree[0]]


# what a column holds, of which float64 has the squares or not
DATA = {
    "usual": lambda rng, n: rng.standard_normal(n),
    "far": lambda rng, n: 1e8 + 1e-3 * rng.choice([-1.0, 1.0], n),
    "very far": lambda rng, n: 1e15 + rng.integers(-4, 5, n) / 8,
    "outlier": lambda rng, n: np.where(np.arange(n) == n // 3, 1e9, rng.standard_normal(n)),
    "constant": lambda rng, n: np.full(n, 0.1),
    "squares overflow": lambda rng, n: 1e200 * rng.standard_normal(n),
    "sums overflow": lambda rng, n: 1.7e308 * rng.choice([-1.0, 1.0], n),
    "m2 overflows": lambda rng, n: 1.3e154 * rng.choice([-1.0, 1.0], n),
    "squares underflow": lambda rng, n: 1e-200 * rng.standard_normal(n),
    "denormal": lambda rng, n: rng.integers(-(2**20), 2**20, n) * 5e-324,
    "smallest": lambda rng, n: 5e-324 * rng.integers(0, 3, n),
    "all sizes": lambda rng, n: rng.choice([-1.0, 1.0], n) * 10.0 ** rng.integers(-300, 300, n),
    "two sizes": lambda rng, n: np.where(np.arange(n) < n // 2, 1e-250, 1e250) * rng.standard_normal(n),
    "near the limit": lambda rng, n: 2.0**400 * rng.standard_normal(n),
    "near the other": lambda rng, n: 2.0**-400 * rng.standard_normal(n),
}


@every_method
def test_any_cut_in_any_order(method: str, rng: np.random.Generator) -> None:
    n = 37
    x = np.stack([make(rng, n) for make in DATA.values()], axis=1)
    columns = x.T.tolist()
    for cut in cuts(n, rng):
        parts = [moments(part, 0, method=method) for part in np.split(x, cut)]
        for found in merged(parts):
            check(found, columns)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_narrow_types_in_pieces(dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (40, 3)).astype(dtype)
    columns = x.T.astype(np.float64).tolist()
    for cut in cuts(40, rng):
        for found in merged([moments(part, 0, method="two_pass") for part in np.split(x, cut)]):
            check(found, columns, units=10)  # their sums are in one part


def test_thousands_of_pieces_are_no_worse(rng: np.random.Generator) -> None:
    """Neither where each is added to the last sum, nor where all have one element."""
    x = 1e8 + 1e-3 * rng.choice([-1.0, 1.0], (3000, 2))
    check(functools.reduce(Moments.update, x[:, None], Moments(axis=0)), x.T.tolist())


@pytest.mark.parametrize("name", list(DATA))
def test_rstd_beside_eps(name: str, rng: np.random.Generator) -> None:
    x = DATA[name](rng, 20)[:, None]
    whole, halves = moments(x, 0), moments(x[:7], 0) + moments(x[7:], 0)
    for eps in (5e-324, 1e-300, 1e-150, 1e-5, 1.0, 1e150, 1e300):
        for m in (whole, halves):
            check(m, x.T.tolist(), eps=eps)


def test_the_mean_of_the_largest_numbers() -> None:
    largest = np.finfo(float).max
    total = moments(np.array([1.7e308])) + moments(np.array([-1.7e308]))
    assert (total.mean, total.std(), total.var(), total.m2) == (0.0, 1.7e308, np.inf, np.inf)
    assert total.rstd() == 1 / 1.7e308
    for n in (1, 9):  # the share of one is no excuse for an infinity
        uneven = moments(np.full(n, largest)) + moments(np.array([-largest]))
        assert uneven.mean == float(Fraction(largest) * (n - 1) / (n + 1))
    assert (moments(np.full(3, largest)) + moments(np.full(5, largest))).mean == largest


def test_the_low_part_of_the_mean() -> None:
    """2**53 + 1 / 3 is no float64."""
    x = np.array([2.0**53, 2.0**53, 2.0**53 + 2])
    for m in (moments(x), moments(x[:1]) + moments(x[1:]), moments(x[:2]) + moments(x[2:])):
        both = Fraction(float(m.mean)) + Fraction(float(m.mean_low))
        assert abs(both - 2**53 - Fraction(2, 3)) < 1e-16
        assert m.mean_low != 0
    assert Moments(3, 1.0, 2.0, mean_low=1e-20).mean_low == 1e-20


def test_sums(rng: np.random.Generator) -> None:
    parts = [moments(rng.normal(size=(n, 3)), 0) for n in (4, 1, 7)]
    expected = parts[0] + parts[1] + parts[2]
    reduced = [functools.reduce(operator.add, parts), functools.reduce(operator.add, parts, 0)]
    for found in (sum(parts), sum(parts, Moments()), *reduced):
        assert pickle.dumps(found) == pickle.dumps(expected)
    alone = sum(parts[:1])
    alone.mean += 1
    assert not np.array_equal(alone.mean, parts[0].mean), "what came out is no copy"
    for other in (1, 1.5, "a", None):
        with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate"):
            other + parts[0]


def test_what_is_kept_is_seen_as_numbers(rng: np.random.Generator) -> None:
    """m2 and mean_low can be read, written, replaced and copied, whatever they are divided by."""
    m = moments(np.array([[1e-200, 1.0], [3e-200, 2.0], [1e-200, 4.0]]), 0) + moments(np.array([[2e-200, 1e200]]), 0)
    again = pickle.loads(pickle.dumps(m))
    assert np.array_equal(again.std(), m.std())
    assert np.array_equal(again.mean_low, m.mean_low)
    values = dataclasses.asdict(m)
    assert list(values) == ["count", "mean", "m2", "axis", "mean_low"]
    assert np.array_equal(values["m2"], [0.0, np.inf])
    m.m2 = np.array([2.0, 4.0])
    assert np.array_equal(m.var(), [0.5, 1.0])
    assert np.array_equal(m.mean_low, again.mean_low)
    usual = moments(rng.normal(size=(9, 2)), 0)
    usual.m2[0], usual.mean[1] = 9.0, 7.0  # in place
    assert usual.var()[0] == 1.0
    assert usual.mean[1] == 7.0
    usual.mean_low = np.array([1e-30, 0.0])
    assert usual.mean_low[0] == 1e-30
    assert repr(Moments(3, 1.0, 2.0)) == "Moments(count=3, mean=1.0, m2=2.0, axis=None, mean_low=0.0)"


def test_sums_of_squares_that_are_given() -> None:
    """Of a caller's own moments too the largest can be added."""
    both = Moments(2, 0.0, 1.7e308) + Moments(2, 0.0, 1.7e308)
    assert both.var() == 1.7e308 / 2
    assert np.isposinf(both.m2)
    small = Moments(2, 0.0, 1e-300) + Moments(2, 0.0, 1e-320)
    assert small.m2 == 1e-300 + 1e-320


def test_infinities_pass_on() -> None:
    one, spoilt = moments(np.array([[1.0, 2.0, 3.0]]), 0), moments(np.array([[np.inf, -np.inf, np.nan]]), 0)
    for both in (one + spoilt, spoilt + one, spoilt + spoilt):
        assert np.array_equal(both.mean, [np.inf, -np.inf, np.nan], equal_nan=True)
        assert not both.mean_low.any()
        assert np.isnan(both.m2).all()
    assert np.isnan((spoilt + moments(np.array([[-np.inf, np.inf, 0.0]]), 0)).mean).all()


# --- arrays on a device ---


def extremes(rng: np.random.Generator) -> Array:
    """Groups in a row's columns: what kernels on a device can tell by rstd."""
    return rng.standard_normal((12, 8)) * [1.0, 1e200, 1e-200, 1e153, 1e-160, 1e300, 1e-290, 0.0]


@pytest.mark.parametrize("library", ["torch", "cupy", "numpy"])
def test_on_a_device(library: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Where nothing left float64's range, to the bit; elsewhere rstd, of which the sum of squares is made, came rounded."""
    fakes.install(monkeypatch)
    onto, options = fakes.ONTO[library], {"backend": "cuda"} if library == "numpy" else {}
    x = extremes(rng)
    here = [moments(part, 0) for part in np.split(x, [5, 7])]
    there = [moments(onto(part), 0, **options) for part in np.split(x, [5, 7])]
    for one, other in ((a, b) for pair in zip(merged(here), merged(there), strict=True) for a, b in [pair]):
        check(one, x.T.tolist())
        for name in ("mean", "mean_low", "m2"):
            found = getattr(other, name)
            assert type(found) is type(onto(x))
            np.testing.assert_allclose(fakes.back(found), getattr(one, name), rtol=1e-15)
        for name, value in (("var", other.var()), ("std", other.std()), ("rstd", other.rstd(1e-5))):
            true = getattr(one, name)(*([1e-5] if name == "rstd" else []))
            np.testing.assert_allclose(fakes.back(value), true, rtol=2e-15)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_narrow_types_on_a_device(library: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    fakes.install(monkeypatch)
    x = rng.normal(size=(12, 3)).astype(np.float32)
    parts = np.split(x, [5])
    here, there = ([moments(make(v), 0, method="two_pass") for v in parts] for make in (lambda v: v, fakes.ONTO[library]))
    one, other = here[0] + here[1], sum(there)
    for name in ("mean", "mean_low", "m2"):
        assert fakes.back(getattr(other, name)).tobytes() == getattr(one, name).tobytes()


def test_arrays_without_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's."""
    fakes.install(monkeypatch)
    m = moments(fakes.Simulated(np.arange(6.0).reshape(3, 2)), 0)
    assert np.array_equal(fakes.back(m.m2), [8.0, 8.0])
    assert np.array_equal(fakes.back((m + Moments()).mean), [2.0, 3.0])
    for call in (lambda: m + m, m.var, m.std, m.rstd, lambda: sum([m, m])):
        with pytest.raises(TypeError, match=r"must be of arrays with arithmetic .*: got Simulated; take those of a CuPy array"):
            call()


def columns_of(rng: np.random.Generator, factor: Any) -> list[list[Array]]:
    """Of each of some groups, its pieces: of many lengths, and none among them."""
    lengths = [[5, 0, 700, 1, 3], [0, 0, 4, 0, 2], [1, 1, 1, 1, 1], [0] * 5, [90, 3, 0, 2, 800], [7, 11, 13, 17, 19]]
    return [[(rng.normal(3, 2, n) + k) * factor[g] for k, n in enumerate(own)] for g, own in enumerate(lengths)]


def beside(groups: list[Moments]) -> Moments:
    """Moments of groups that have counts of their own, of those of each."""
    counts = np.array([m.count for m in groups])
    parts = [np.array([float(getattr(m, name)) for m in groups]) for name in ("mean", "m2", "mean_low")]
    return Moments(counts, parts[0], parts[1], 0, mean_low=parts[2])


FACTORS = {"in range": [1.0] * 6, "out of range": [1.0, 1e150, 1e-150, 1.0, 1e120, 1e-3]}


@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_counts_of_their_own(factor: list[float], rng: np.random.Generator) -> None:
    """Each group has the bits that it has alone; where nothing came the mean is 0, and the variance nan."""
    groups = columns_of(rng, factor)
    each = [functools.reduce(operator.add, (moments(x) for x in own), Moments()) for own in groups]
    pieces = [beside([moments(own[k]) for own in groups]) for k in range(5)]
    both = functools.reduce(operator.add, pieces)
    assert both.count.tolist() == [m.count for m in each]
    for call in (lambda m: m.mean, lambda m: m.mean_low, Moments.var, Moments.std, Moments.rstd, Moments.sum,
                 lambda m: m.var(1), lambda m: m.rstd(1e-5)):  # fmt: skip
        assert np.array_equal(call(both), [float(call(m)) for m in each], equal_nan=True)
    assert both.mean[3] == 0.0
    assert np.isnan([both.var()[3], both.std()[3], both.rstd(1.0)[3], both.var(1)[3]]).all()
    assert (Moments() + both).count.tolist() == both.count.tolist()


def test_counts_of_their_own_beside_one_count(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(5, 4))
    whole, one, two = moments(x, 0) + moments(y, 0), moments(x, 0), moments(y, 0)
    one.count = np.full(4, 9)
    for both in (one + two, two + one):
        assert both.count.tolist() == [14] * 4
    assert (one + two).m2.tobytes() == whole.m2.tobytes()


@pytest.mark.parametrize("factor", [1.0, 1e-300, 1e300])
def test_sum_is_rounded_once(factor: float, rng: np.random.Generator) -> None:
    """Half a unit, and what mean and low part are off: 2**-75 of the distances of the pieces' means."""
    parts = [rng.normal(1e6 * k, 1.0, (n, 3)) * factor for k, n in enumerate((5, 300, 1))]
    m = functools.reduce(operator.add, (moments(x, 0) for x in parts))
    for k, found in enumerate(m.sum()):
        true = sum(Fraction(float(v)) for v in np.concatenate(parts)[:, k])
        assert near(found, true, 0.51)
    assert Moments().sum() == 0.0
    assert moments(np.array([np.inf, 1.0])).sum() == np.inf


def alike(a: Moments, b: Moments) -> bool:
    """Every field has the same bits."""
    arrays = ("mean", "_low", "_squares", "_lost", "_scale")
    same = all(np.asarray(getattr(a, n)).tobytes() == np.asarray(getattr(b, n)).tobytes() for n in arrays)
    return same and a.axis == b.axis and np.array_equal(a.count, b.count) and type(a.count) is type(b.count)


def kept_moments(rng: np.random.Generator) -> dict[str, Moments]:
    x = rng.normal(1e8, 1.0, (7, 4, 5))
    far, own = moments(x * np.array([1e200, 1e-200, 1.0, 1.0])[:, None], (0, 2)), moments(x, 0)
    own.count = np.full((4, 5), 7)
    return {"none": Moments(), "all": moments(x), "one axis": moments(x, 1), "axes": moments(x, (0, -1)),
            "out of range": far + far, "merged": moments(x, 0) + moments(-x, 0), "counts": own + own}  # fmt: skip


def test_saved_and_loaded(tmp_path: Any, rng: np.random.Generator) -> None:
    """To the bit, by path or name, without pickle; what comes back can be merged."""
    for name, m in kept_moments(rng).items():
        path = tmp_path / name
        m.save(path)
        for back in (Moments.load(path), Moments.load(str(path))):
            assert alike(back, m)
            assert alike(back + back, m + m)
        with np.load(path, allow_pickle=False) as file:
            assert all(file[key].dtype.kind in "if" for key in file)


def test_only_what_was_saved_is_loaded(tmp_path: Any) -> None:
    np.savez(tmp_path / "other.npz", mean=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "text").write_text("mean 3")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "pickle").write_bytes(pickle.dumps(moments(np.ones(3))))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"must be a file that Moments.save wrote: got .*; save moments again"):
            Moments.load(path)
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "none")


def test_copies(rng: np.random.Generator) -> None:
    for m in kept_moments(rng).values():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert alike(pickle.loads(pickle.dumps(m, protocol)), m)
        before = pickle.dumps(m)
        for other in (copy.copy(m), copy.deepcopy(m)):
            assert alike(other, m)
            other.merge(other)
            assert pickle.dumps(m) == before
