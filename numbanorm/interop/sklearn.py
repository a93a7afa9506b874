"""scikit-learn's StandardScaler on `Moments`: exact over any number of pieces, and scalers of pieces can be merged."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import FLOAT_DTYPES, _check_sample_weight, check_is_fitted, validate_data

from ..moments import Moments
from ..spec.checks import Array
from ..spec.shown import shown
from ..standardize import standardize

__all__ = ["StandardScaler"]


class StandardScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Standardize features: z = (x - mean) / std, as `sklearn.preprocessing.StandardScaler` does.

    float32 stays float32, from float64 statistics. A constant feature, however large, becomes exactly 0. What is nan does not
    count, and stays nan; a feature of nothing but nan has a mean of 0. Other than there, there are no sparse matrices.

    Parameters
    ----------
    copy : bool
        False writes `transform`'s result to X where that is an array of floats.
    with_mean, with_std : bool
        Whether the mean is subtracted, and whether features are divided by their standard deviation.
    exact : bool
        See `numbanorm.layer_norm`.

    Attributes
    ----------
    moments_ : Moments
        Of all that was fitted, for each feature.
    mean_, var_, scale_ : float64 array of shape (n_features,)
        Mean, biased variance, and what is divided by: the standard deviation, or 1 for a constant. var_ and scale_ are None
        without `with_std`.
    n_samples_seen_ : number, or array of shape (n_features,)
        The samples, or the sum of their weights; an array where features differ, for some are nan.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X has names.

    Examples
    --------
    >>> import numpy as np
    >>> one, two = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[4.0, 1.0]])
    >>> scaler = StandardScaler().fit(one).merge(StandardScaler().fit(two))
    >>> scaler.transform(two).round(4)
    array([[1.2247, 0.    ]])
    """

    def __init__(self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True, exact: bool = False) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std
        self.exact = exact

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take the moments of X, and forget those of before.

        Parameters
        ----------
        X, y, sample_weight
            As for `partial_fit`.

        Returns
        -------
        StandardScaler
            Itself.
        """
        self.__dict__.pop("moments_", None)
        return self.partial_fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take in X beside what was fitted before.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y
            Nothing reads it.
        sample_weight : array of shape (n_samples,), optional
            How often each sample counts; it need not be whole.

        Returns
        -------
        StandardScaler
            Itself.
        """
        before = self.__dict__.get("moments_", Moments(axis=0))
        X = validate_data(self, X, dtype=FLOAT_DTYPES, reset="moments_" not in self.__dict__, ensure_all_finite="allow-nan")
        how: dict[str, Any] = {"nan": "omit" if np.isnan(X).any() else "propagate"}
        if sample_weight is not None:
            how["weights"] = _check_sample_weight(sample_weight, X, dtype=np.float64)[:, None]
        return self._seen(before + Moments(axis=0).update(X, **how))

    def merge(self, other: StandardScaler) -> Self:
        """Take in what another one has seen.

        Parameters
        ----------
        other : StandardScaler
            Fitted to other samples of the same features.

        Returns
        -------
        StandardScaler
            Itself.

        Raises
        ------
        TypeError, ValueError
            For another kind of object, one that was not fitted, or other features; nothing is changed then.
        """
        if not isinstance(other, StandardScaler):
            raise TypeError(f"a StandardScaler can be merged with another one only: got {shown(other)}; fit one of these")
        check_is_fitted(self)
        check_is_fitted(other)
        mine, names = (getattr(s, "feature_names_in_", np.arange(s.n_features_in_)) for s in (self, other))
        if not np.array_equal(mine, names):
            raise ValueError(f"scalers must have the same features to be merged: got {shown(list(mine))} and "
                             f"{shown(list(names))}; fit both to these")  # fmt: skip
        return self._seen(self.moments_ + other.moments_)

    def _seen(self, m: Moments) -> Self:
        """Keep moments, and what scikit-learn shows of them."""
        self.moments_, self.mean_, std, count = m, np.array(m.mean), m.std(), np.asarray(m.count)
        self.n_samples_seen_: Any = count[()] if count.ndim == 0 or np.ptp(count) else count[0]
        self.var_: Array | None = m.var() if self.with_std else None
        self.scale_: Array | None = np.where(std > 0, std, 1.0) if self.with_std else None
        return self

    def transform(self, X: Any) -> Array:
        """Standardize X.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_features)
            Of X's float type, or float64; X itself where copy=False and it is an array of floats.
        """
        X = self._taken(X)
        ones = np.ones(X.shape[1])
        rstd = np.where(self.moments_.std() > 0, self.moments_.rstd(), 1.0) if self.with_std else ones
        mean = self.moments_ if self.with_mean else 0.0 * ones
        return standardize(X, mean, rstd, axis=0, exact=self.exact, out=None if self.copy else X)

    def inverse_transform(self, X: Any) -> Array:
        """Undo `transform`, but for rounding.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_features)
            Of X's float type, or float64; X itself where copy=False and it is an array of floats.
        """
        X = self._taken(X)
        ones = np.ones(X.shape[1])
        scale, mean = self.scale_ if self.with_std else ones, self.mean_ if self.with_mean else None
        return standardize(X, 0.0 * ones, scale, None, mean, axis=0, exact=self.exact, out=None if self.copy else X)

    def _taken(self, X: Any) -> Array:
        """X as an array of floats that fits what was fitted; one to write to, if results go there."""
        check_is_fitted(self)
        how = {"force_writeable": not self.copy, "ensure_all_finite": "allow-nan"}
        return validate_data(self, X, dtype=FLOAT_DTYPES, reset=False, **how)  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags
