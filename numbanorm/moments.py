"""Mergeable statistics: count, mean and sum of squared distances to it, of data that comes in pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends import dispatch
from .spec import checks, plan
from .spec.checks import Array

Axes = int | tuple[int, ...] | None


@dataclass(slots=True, eq=False)  # comparing arrays gives no truth value
class Moments:
    """Count, mean and m2 = sum((x - mean)**2) over some axes, in float64.

    Two of them add up to the moments of both data sets (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances", 1979): so data may be larger than memory, or spread over machines.

    Parameters
    ----------
    count : int
        Elements that share a mean.
    mean, m2 : float64 array
        Of the axes that were kept.
    axis : int, tuple of int or None
        What `update` reduces over; None is all axes.

    Examples
    --------
    >>> m = Moments(axis=0)
    >>> for batch in np.arange(12.0).reshape(3, 2, 2):
    ...     _ = m.update(batch)
    >>> m.count, m.mean
    (6, array([5., 6.]))
    """

    count: int = 0
    mean: Array | float = 0.0
    m2: Array | float = 0.0
    axis: Axes = None

    def update(self, x: Array, *, method: str = "two_pass") -> Moments:
        """Take in the moments of x over `axis`, in place."""
        return self.merge(moments(x, self.axis, method=method))

    def merge(self, other: Moments) -> Moments:
        """Take in other moments, in place; an empty one changes nothing."""
        if not isinstance(other, Moments):
            raise TypeError(f"Moments can be merged with Moments only: got {type(other).__name__}; write moments(x, axis)")
        both = self + other
        self.count, self.mean, self.m2 = both.count, both.mean, both.m2
        return self

    def __add__(self, other: Moments) -> Moments:
        """The moments of both data sets together."""
        if not isinstance(other, Moments):
            return NotImplemented
        if self.count == 0 or other.count == 0:
            one = other if self.count == 0 else self
            return Moments(one.count, fresh(one.mean), fresh(one.m2), self.axis if self.axis is not None else other.axis)
        if np.shape(self.mean) != np.shape(other.mean):
            raise ValueError(
                f"moments must have the same shape to be merged: got {np.shape(self.mean)} and {np.shape(other.mean)}; "
                f"reduce over the same axes"
            )
        count = self.count + other.count
        share = other.count / count
        with np.errstate(invalid="ignore", over="ignore"):  # nan and inf pass on
            delta = other.mean - self.mean
            mean = self.mean + delta * share
            m2 = self.m2 + other.m2 + delta * delta * (self.count * share)
        return Moments(count, mean, m2, self.axis)

    def var(self, ddof: int = 0) -> Array:
        """Variance m2 / (count - ddof); ddof=1 is the unbiased one. nan where count <= ddof."""
        if self.count <= ddof:
            return array(self.m2 * math.nan)
        return array(self.m2 / (self.count - ddof))

    def std(self, ddof: int = 0) -> Array:
        """Square root of the variance."""
        return root(self.var(ddof))

    def rstd(self, eps: float = 0.0) -> Array:
        """1 / sqrt(var + eps), what a norm multiplies with."""
        with np.errstate(divide="ignore"):
            return array(1.0 / root(self.var() + checks.eps(eps)))


def moments(x: Array, axis: Axes = None, *, method: str = "two_pass", backend: str | None = None) -> Moments:
    """Count, mean and sum of squared distances to the mean, over any axes.

    Parameters
    ----------
    x : array of float16, bfloat16, float32 or float64
        Read as it lies if it is C-contiguous and its axes are kept, reduced, kept, reduced in this order (any may be
        absent); otherwise copied first.
    axis : int, tuple of int or None
        Axes to reduce; None is all.
    method : {"two_pass", "welford"}
        See `layer_norm`.
    backend : {None, "cpu", "cuda"}
        None: where x lies. "cuda" carries NumPy arrays to the device and the results back.

    Returns
    -------
    Moments
        With float64 arrays of x's kind, of the shape of the axes that are kept.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    """
    home = dispatch.home(x, backend)
    x = home.array("x", x)
    one_read = checks.one_read(method)
    axes = tuple(range(x.ndim)) if axis is None else plan.as_shape("axis", axis)
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            raise ValueError(f"axis must name axes of x: got {axis} for shape {x.shape}; use -1 for the last")
    axes = tuple(a % x.ndim for a in axes)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must name each axis once: got {axis} for shape {x.shape}; leave out the second one")
    p, order = plan.over_axes(x.shape, tuple(sorted(axes)))
    if isinstance(backend, dispatch.Explaining):
        raise TypeError("explain wants one of the norms: got moments; write explain(layer_norm, x, 768)")
    if p.size == 0:
        stats = home.full((4, math.prod(p.stats_shape)), 0.0)
    else:
        stats = home.module().measure(p, home.contiguous(home.transposed(x, order)), one_read)
    mean, m2 = (fresh(home.row(stats, k, p.stats_shape)) for k in (0, 2))  # not views that keep all statistics
    return Moments(p.count if p.size else 0, mean, m2, axis)


def fresh(a: Any) -> Any:
    """A copy of a number or an array; one of Numba's device arrays, which have no arithmetic either, as it is."""
    if isinstance(a, (float, np.ndarray, np.generic)):
        return np.copy(a)
    return getattr(a, "clone", getattr(a, "copy", lambda: a))()


def array(a: Any) -> Array:
    """A number as an array; arrays as they are."""
    whole: Array = np.asarray(a) if isinstance(a, (float, np.generic)) else a
    return whole


def root(a: Any) -> Array:
    """Square root, by the library whose array it is."""
    roots: Array = a.sqrt() if hasattr(a, "sqrt") else np.sqrt(a)
    return roots
