"""Mergeable statistics: count, mean and sum of squared distances to it, of data that comes in pieces."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from .backends import dispatch
from .execute.standardize import Asked, Given, asked, forward, roots
from .execute.weighted import included, weighted
from .merging import computable, merged, nothing
from .pairs import array, fresh, library, product, root, unscaled
from .saved import Path, read, write
from .spec import checks, plan
from .spec.call import moments_call, with_mask
from .spec.checks import Array
from .spec.standardized import spread

Axes = int | tuple[int, ...] | None


class _Part:
    """A field that is kept divided by a power of the scale: what is read and written is the number itself."""

    def __init__(self, kept: str, power: int) -> None:
        self.kept, self.power = kept, power

    def __get__(self, owner: Any, _: type) -> Array | float:
        return 0.0 if owner is None else unscaled(getattr(owner, self.kept), owner._scale, self.power)

    def __set__(self, owner: Any, value: Array | float) -> None:
        if self.power == 2:  # then nothing needs the scale but the low part
            owner._low, owner._scale, owner._lost = unscaled(owner._low, owner._scale, 1), 1.0, 0.0
        setattr(owner, self.kept, value / owner._scale**self.power if type(owner._scale) is not float else value)


@dataclass(eq=False)  # comparing arrays gives no truth value
class Moments:
    """Count, mean and m2 = sum((x - mean)**2) over some axes, in float64.

    Two of them add up to the moments of both data sets (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances", 1979): so data may be larger than memory, or spread over machines.

    However data is cut, it costs no more than this beside what the pieces themselves are off: for mean + mean_low, in each
    merge 2**-75 of the distance of the two means and 2**-102 of the mean (2**-1074, if that is more); for m2, in all merges
    together, three units of 2**-52, relatively. `var`, `std` and `rstd` are right wherever they are numbers of float64, even
    if m2 is none.

    Parameters
    ----------
    count : int, or int64 array of mean's shape
        Elements that share a mean. Where it is 0, the mean is 0, and var, std and rstd are nan.
    mean, m2 : float64 array
        Of the axes that were kept. m2 is infinite only if it is too large for float64.
    axis : int, tuple of int or None
        What `update` reduces over; None is all axes.
    mean_low : float64 array
        What mean lost when it was rounded: the mean is mean + mean_low.

    Examples
    --------
    >>> m = Moments(axis=0)
    >>> for batch in np.arange(12.0).reshape(3, 2, 2):
    ...     _ = m.update(batch)
    >>> m.count, m.mean
    (6, array([5., 6.]))
    >>> sum([moments(np.array([1.0, 2.0])), moments(np.array([6.0]))]).mean
    array(3.)
    """

    count: int | Array = 0
    mean: Array | float = 0.0
    m2: _Part = _Part("_squares", 2)
    axis: Axes = None
    _: KW_ONLY
    mean_low: _Part = _Part("_low", 1)

    # the low part of the mean, m2 and what it lost in sums, divided by the scale and its square
    _low, _squares, _lost, _scale = 0.0, 0.0, 0.0, 1.0

    def update(
        self, x: Array, *, where: Array | None = None, weights: Array | None = None, nan: str = "propagate",
        method: str | None = "two_pass",
    ) -> Moments:  # fmt: skip
        """Take in the moments of x over `axis`, in place.

        Parameters
        ----------
        x, where, weights, nan, method
            As for `moments`.

        Returns
        -------
        Moments
            Itself.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit; nothing is changed then.
        """
        return self.merge(moments(x, self.axis, where=where, weights=weights, nan=nan, method=method))

    def merge(self, other: Moments) -> Moments:
        """Take in other moments, in place; an empty one changes nothing.

        Parameters
        ----------
        other : Moments
            Of the same shape: over the same axes.

        Returns
        -------
        Moments
            Itself.

        Raises
        ------
        TypeError, ValueError
            For another kind of object, or another shape; nothing is changed then.
        """
        if not isinstance(other, Moments):
            raise TypeError(f"Moments can be merged with Moments only: got {type(other).__name__}; write moments(x, axis)")
        both = self + other
        for name in ("count", "mean", *KEPT):
            setattr(self, name, getattr(both, name))
        return self

    def __add__(self, other: Moments) -> Moments:
        """The moments of both data sets together."""
        if not isinstance(other, Moments):
            return NotImplemented
        if nothing(self) or nothing(other):
            one, axis = other if nothing(self) else self, self.axis if self.axis is not None else other.axis
            return made(one.count, axis, one.mean, *(getattr(one, name) for name in KEPT))
        if np.shape(self.mean) != np.shape(other.mean):
            raise ValueError(
                f"moments must have the same shape to be merged: got {np.shape(self.mean)} and {np.shape(other.mean)}; "
                f"reduce over the same axes"
            )
        count, *parts = merged(computable(self), computable(other))
        return made(count, self.axis, *parts)

    def __radd__(self, other: Any) -> Moments:
        """For `sum`, which begins with 0."""
        return Moments() + self if isinstance(other, int) and other == 0 else NotImplemented

    def var(self, ddof: int = 0) -> Array:
        """Variance m2 / (count - ddof).

        Parameters
        ----------
        ddof : int
            1 for the unbiased variance.

        Returns
        -------
        float64 array
            nan where count <= ddof.
        """
        return array(unscaled(self._squares / self._less(ddof), self._scale, 2))

    def std(self, ddof: int = 0) -> Array:
        """Square root of the variance.

        Parameters
        ----------
        ddof : int
            As for `var`.

        Returns
        -------
        float64 array
        """
        return array(unscaled(root(self._squares / self._less(ddof)), self._scale, 1))

    def _less(self, ddof: int) -> Any:
        """Count less ddof, or nan where that is not positive."""
        n = computable(self).count - ddof
        return library(n).where(n > 0, n, math.nan) if hasattr(n, "shape") else n if n > 0 else math.nan

    def sum(self) -> Array:
        """Sum of the elements.

        Returns
        -------
        float64 array
            count * (mean + mean_low), rounded once but for what the mean itself is off.
        """
        mean, low, count = computable(self).mean, self._low, self.count * 1.0
        with np.errstate(all="ignore"):  # what is infinite has no parts
            rough, lost = product(array(mean), count)
            fine = rough + (lost + unscaled(low * count, self._scale, 1))
        return array(library(fine).where(library(fine).isfinite(fine), fine, rough))

    def save(self, path: Path) -> None:
        """Write all of it, of arrays in host memory, to a file, of which `load` gives the same bits.

        Parameters
        ----------
        path : str or path
            Of an .npz archive without pickle.

        Raises
        ------
        TypeError
            For arrays elsewhere.
        """
        write(path, self.axis, self.count, self.mean, *(getattr(self, name) for name in KEPT))

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        Moments

        Raises
        ------
        ValueError
            For a file of another kind.
        OSError
            For none.
        """
        axis, count, *arrays = read(path)
        return made(count, axis, *arrays)

    def rstd(self, eps: float = 0.0) -> Array:
        """1 / sqrt(var + eps), what a norm multiplies with.

        Parameters
        ----------
        eps : float
            Added to the variance.

        Returns
        -------
        float64 array

        Raises
        ------
        TypeError, ValueError
            For an eps that is no number >= 0.
        """
        eps, var, scale = checks.eps(eps), self.var(), self._scale
        with np.errstate(all="ignore"):  # 0, and what has no scale
            inverse = array(1.0 / root(var + eps))
            if type(scale) is float:
                return inverse
            within = self._squares / self._less(0) + eps / scale / scale
            lib = library(within)
            return array(lib.where(lib.isfinite(within), 1.0 / root(within) / scale, inverse))

    def transform(
        self, x: Array, eps: float = 0.0, weight: Array | None = None, bias: Array | None = None, *, exact: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Normalize x with these statistics: (x - mean) / sqrt(var + eps) * weight + bias; see `standardize`.

        Parameters
        ----------
        x : array of float16, bfloat16, float32 or float64
            All or part of the data, or other data. Where it is all, the result is that of one norm of it, within its bounds.
        eps : float
            Added to the variance.
        weight, bias, exact, out
            As for `standardize`.

        Returns
        -------
        array of x's shape and dtype, C-contiguous

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit, before anything is computed.

        Examples
        --------
        >>> x = np.arange(12.0).reshape(3, 2, 2)
        >>> moments(x, (0, 1)).transform(x)[0].round(3)
        array([[-1.464, -1.464],
               [-0.878, -0.878]])
        """
        one, eps, exact = asked(x, self.axis, None), checks.eps(eps), checks.flag("exact", exact)
        source, given = given_by(self, one, eps, exact)
        affine = one.spread("weight", weight), one.spread("bias", bias)
        if out is not None:
            checks.output(out, one.x, (("x", x), ("weight", weight), ("bias", bias), ("mean", self.mean)))
        return forward(source, given, affine, one.axes, exact, out)


KEPT = ("_low", "_squares", "_lost", "_scale")


def moments(
    x: Array, axis: Axes = None, *, where: Array | None = None, weights: Array | None = None, nan: str = "propagate",
    method: str | None = "two_pass", backend: str | None = None,
) -> Moments:  # fmt: skip
    """Count, mean and sum of squared distances to the mean, over any axes.

    Parameters
    ----------
    x : array of float16, bfloat16, float32 or float64
        Read as it lies if it is C-contiguous and its axes are kept, reduced, kept, reduced in this order (any may be
        absent); otherwise copied first.
    axis : int, tuple of int or None
        Axes to reduce; None is all.
    where : bool array that broadcasts to x's shape, optional
        Which elements count. The others may be anything, nan too. `count` is then an int64 array, of each group; a group
        without any has mean and m2 of 0, and a variance of nan.
    weights : array of numbers >= 0 that broadcasts to x's shape, optional
        How often each element counts; it need not be whole. `count` is then the sum of the weights, and m2 that of their
        products with the squared distances. Takes some 20 bytes of memory for each element of x, and only numbers whose
        squares are in float64's range.
    nan : {"propagate", "omit"}
        "omit": what is nan does not count, as if `where` left it out.
    method : {"two_pass", None, "welford"}
        How the statistics are taken: see `layer_norm`. Not "welford" with where, weights or nan="omit".
    backend : {None, "cpu", "cuda"}
        None: where x lies. "cuda" carries NumPy arrays to the device and the results back; it has no masks and no weights.

    Returns
    -------
    Moments
        With float64 arrays of x's kind, of the shape of the axes that are kept.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> m = moments(np.array([[1.0, 2.0], [3.0, 6.0]]), axis=0)
    >>> m.mean, m.std()
    (array([2., 4.]), array([1., 2.]))
    >>> table = np.array([[1.0, 5.0], [np.nan, 6.0], [3.0, np.nan]])
    >>> m = moments(table, 0, nan="omit")
    >>> m.count, m.mean
    (array([2, 2]), array([2. , 5.5]))
    >>> moments(np.array([1.0, 4.0]), weights=np.array([2.0, 1.0])).mean
    array(2.)
    """
    space = dispatch.space(x, backend)
    x = space.array("x", x)
    method, axes, kept = checks.method(method), plan.as_axes(axis, x.shape), included(space, x, where, nan)
    call, order = moments_call(x.shape, x.dtype, axes, method)
    p = call.plan
    if kept is not None or weights is not None:
        call = with_mask(call)
    if weights is not None:
        size, mean, low, squares = weighted(x, weights, kept, axes)
        return made(size, axis, mean, low, squares, 0.0, 1.0)
    if p.size == 0:
        stats = space.full((4, p.units), 0.0)
        mean, low, squares = (space.row(stats, k, p.stats_shape) for k in range(3))
        return made(0 if kept is None else np.zeros(p.stats_shape, np.int64), axis, mean, low, squares, 0.0, 1.0)
    if kept is not None:
        kept = np.broadcast_to(kept, x.shape).transpose(order)
    mean, low, squares, scale, counts = space.measure(call, space.contiguous(space.transposed(x, order)), kept)
    return made(p.count if counts is None else counts, axis, mean, low, squares, 0.0, scale)


def made(count: int | Array, axis: Axes, *arrays: Any) -> Moments:
    """Moments of a mean and what is KEPT, copied; where all is in range, the scale is the number 1."""
    if isinstance(arrays[-1], np.ndarray) and (arrays[-1] == 1.0).all():  # to ask a device would mean to wait for it
        arrays = *arrays[:-1], 1.0
    result = Moments(fresh(count) if hasattr(count, "shape") else count, fresh(arrays[0]), axis=axis)
    for name, a in zip(KEPT, arrays[1:], strict=True):
        setattr(result, name, a if name in ("_lost", "_scale") and type(a) is float else fresh(a))
    return result


def given_by(m: Moments, asked: Asked, eps: float, exact: bool) -> tuple[Array, Given]:
    """x and the statistics for it: as exact as if x were all of the data, with the mean's low part.

    Where m has a scale, both are divided by it.
    """
    x: Any = asked.x
    mean: Any = spread("mean", array(m.mean), asked.kept)
    low: Any = m._low
    var: Any = m.var()
    scale: Any = m._scale
    if type(scale) is not float:
        with np.errstate(all="ignore"):
            scale = np.where(np.isfinite(eps / m._scale / m._scale), m._scale, 1.0)  # beside such an eps nothing is small
            change = m._scale / scale
            mean, low, var = m.mean / scale, m._low * change, m._squares / m._less(0) * change * change + eps / scale / scale
            x, eps = x / np.expand_dims(np.broadcast_to(scale, asked.kept), asked.axes), 0.0
    given = asked.given(mean, low, var)
    return x, given._replace(rstd=roots(given.rstd, eps, x, exact))
