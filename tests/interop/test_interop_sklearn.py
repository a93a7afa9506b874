"""The scaler: scikit-learn's contract and numbers, merged from pieces, float32 kept."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import oracle
import pytest

WHY = "scikit-learn is not installed: pip install 'numbanorm[sklearn]'"
pytest.importorskip("sklearn", reason=WHY)

from sklearn import preprocessing  # noqa: E402 - where it is
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from numbanorm import moments  # noqa: E402
from numbanorm.interop.sklearn import StandardScaler  # noqa: E402

OPTIONS: list[dict[str, Any]] = [{}, {"with_mean": False}, {"with_std": False}, {"exact": True}]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_contract(options: dict[str, Any]) -> None:
    """Not of copy=False: some checks transform one array twice."""
    found = check_estimator(StandardScaler(**options), on_skip=None, on_fail=None)
    assert len(found) > 30
    assert [(one["check_name"], one["exception"]) for one in found if one["status"] == "failed"] == []


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_same_as_scikit_learn(options: dict[str, Any], dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(10, 3, (200, 5)).astype(dtype)
    x[:, 3] = 7
    mine = StandardScaler(**options).fit(x)
    theirs = preprocessing.StandardScaler(**{k: v for k, v in options.items() if k != "exact"}).fit(x.astype(np.float64))
    for name in ("mean_", "var_", "scale_"):
        a, b = getattr(mine, name), getattr(theirs, name)
        assert (a is None) is (b is None)
        assert a is None or np.allclose(a, b, rtol=1e-13, atol=0)
    assert mine.n_samples_seen_ == theirs.n_samples_seen_
    y = mine.transform(x)
    kept = np.dtype(np.float64 if np.dtype(dtype).kind == "i" else dtype)
    assert y.dtype == kept
    wide = oracle.widen(x)
    expected = (wide - wide.mean(0) * mine.with_mean) / np.where(np.arange(5) == 3, 1, wide.std(0) if mine.with_std else 1)
    # float64: mean, rstd, distance and product are rounded
    assert oracle.ulp_error(y, expected, np.maximum(np.abs(expected), 1)) <= (4 if kept == np.float64 else 3)
    # theirs is off by what its mean, of some 10, is
    assert oracle.relative_error(y, theirs.transform(x.astype(np.float64)), 1.0) <= 40 * float(np.finfo(kept).eps)
    # of numbers up to 20 or so
    assert oracle.relative_error(mine.inverse_transform(y), x, 20.0) <= 4 * float(np.finfo(kept).eps)


def test_pieces_and_merged_scalers(rng: np.random.Generator) -> None:
    """Any cut gives the moments of all; what is merged is as if it were fitted, and the other one stays as it is."""
    x = rng.normal(1e6, 1, (300, 4)).astype(np.float32)
    whole, pieces, parts = StandardScaler().fit(x), StandardScaler(), []
    for part in np.split(x, [1, 50, 51]):
        pieces.partial_fit(part)
        parts.append(StandardScaler().fit(part))
    kept = pickle.dumps(parts[1:])
    for other in parts[1:]:
        assert parts[0].merge(other) is parts[0]
    assert pickle.dumps(parts[1:]) == kept
    for scaler in (pieces, parts[0], pickle.loads(pickle.dumps(pieces)), copy.deepcopy(parts[0])):
        assert scaler.n_samples_seen_ == 300
        assert np.allclose(scaler.var_, whole.var_, rtol=1e-14, atol=0)
        assert oracle.ulp_error(scaler.transform(x), whole.transform(x), 1.0) <= 1
    assert pieces.mean_.tobytes() == parts[0].mean_.tobytes()
    assert whole.fit(x[:7]).n_samples_seen_ == 7


def test_large_numbers(rng: np.random.Generator) -> None:
    """Where scikit-learn takes a small variance for none, and where a variance is no float64."""
    x = 1e9 + rng.integers(0, 2, (100, 1)) * 1e-3
    assert np.allclose(StandardScaler().fit_transform(x).std(0), 1)
    assert not StandardScaler().fit_transform(np.full((10, 1), 1e9 / 3)).any()
    x = rng.normal(size=(50, 2)) * np.array([1e200, 1e-200])
    assert oracle.relative_error(StandardScaler().fit_transform(x), moments(x, 0).transform(x), 1.0) < 1e-14


def test_in_place(rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (20, 4)).astype(np.float32)
    scaler = StandardScaler(copy=False).fit(x)
    expected, own = StandardScaler().fit_transform(x), x.copy()
    assert np.shares_memory(scaler.transform(own), own)
    assert own.tobytes() == expected.tobytes()
    x.flags.writeable = False
    assert scaler.transform(x).tobytes() == expected.tobytes()


def test_set_output(rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    frame = pandas.DataFrame(rng.normal(size=(6, 2)), columns=["a", "b"], index=list("uvwxyz"))
    y = StandardScaler().set_output(transform="pandas").fit(frame).transform(frame)
    assert (list(y.columns), list(y.index)) == (["a", "b"], list("uvwxyz"))
    assert StandardScaler().fit(frame).get_feature_names_out().tolist() == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"must have the same features to be merged: got \['a', 'b'\] and \['b', 'a'\]; fit both"
    ):
        StandardScaler().fit(frame).merge(StandardScaler().fit(frame[["b", "a"]]))


def test_what_cannot_be_merged(rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 2))
    fitted = StandardScaler().fit(x)
    before = pickle.dumps(fitted)
    with pytest.raises(TypeError, match=r"can be merged with another one only: got .*; fit one of these"):
        fitted.merge(preprocessing.StandardScaler().fit(x))
    with pytest.raises(NotFittedError):
        fitted.merge(StandardScaler())
    with pytest.raises(ValueError, match="must have the same features to be merged"):
        fitted.merge(StandardScaler().fit(x[:, :1]))
    assert pickle.dumps(fitted) == before


@pytest.mark.parametrize("weighted", [False, True])
def test_gaps_and_weights(weighted: bool, rng: np.random.Generator) -> None:
    """nan is left out and kept, weights count, in pieces too: scikit-learn's numbers."""
    x, gaps = rng.normal(10, 3, (300, 4)).astype(np.float32), rng.uniform(size=(300, 4)) < 0.2
    x[gaps] = np.nan
    x[:50] = np.nan_to_num(x[:50], nan=9.0)  # a piece without gaps
    weight = rng.uniform(0, 2, 300) * (rng.uniform(size=300) < 0.9) if weighted else None
    mine, theirs = StandardScaler(), preprocessing.StandardScaler().fit(x.astype(np.float64), sample_weight=weight)
    for part in np.split(np.arange(300), [50, 51, 200]):
        mine.partial_fit(x[part], sample_weight=None if weight is None else weight[part])
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        assert np.allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-13, atol=0), name
    y, expected = mine.transform(x), theirs.transform(x.astype(np.float64))
    assert y.dtype == np.float32
    assert (np.isnan(y) == np.isnan(x)).all()
    # of numbers up to 20: theirs is off by what its mean, of some 10, is
    assert oracle.relative_error(y[~np.isnan(x)], expected[~np.isnan(x)], 1.0) <= 40 * 2.0**-23
    one, other = (
        StandardScaler().fit(x[p], sample_weight=None if weight is None else weight[p]) for p in np.split(np.arange(300), 2)
    )
    assert np.allclose(one.merge(other).var_, theirs.var_, rtol=1e-13, atol=0)


def test_whole_numbers_of_samples(rng: np.random.Generator) -> None:
    """Alike in all features: a number, as scikit-learn has it."""
    x = rng.normal(size=(6, 2))
    assert StandardScaler().fit(x).n_samples_seen_ == 6
    x[0] = np.nan
    assert StandardScaler().fit(x).n_samples_seen_ == 5
    x[1, 0] = np.nan
    assert StandardScaler().fit(x).n_samples_seen_.tolist() == [4, 5]
