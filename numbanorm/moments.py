"""Mergeable statistics: count, mean and sum of squared distances to it, of data that comes in pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from .backends import dispatch
from .execute.standardize import Asked, Given, asked, forward, roots
from .execute.weighted import included, weighted
from .pairs import array, fresh, library, product, quick_two_sum, ratio, root, split, two_sum, units, unscaled
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
        """Take in the moments of x over `axis`, in place; see `moments`."""
        return self.merge(moments(x, self.axis, where=where, weights=weights, nan=nan, method=method))

    def merge(self, other: Moments) -> Moments:
        """Take in other moments, in place; an empty one changes nothing."""
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
        return merged(computable(self), computable(other))

    def __radd__(self, other: Any) -> Moments:
        """For `sum`, which begins with 0."""
        return Moments() + self if isinstance(other, int) and other == 0 else NotImplemented

    def var(self, ddof: int = 0) -> Array:
        """Variance m2 / (count - ddof); ddof=1 is the unbiased one. nan where count <= ddof."""
        return array(unscaled(self._squares / self._less(ddof), self._scale, 2))

    def std(self, ddof: int = 0) -> Array:
        """Square root of the variance."""
        return array(unscaled(root(self._squares / self._less(ddof)), self._scale, 1))

    def _less(self, ddof: int) -> Any:
        """Count less ddof, or nan where that is not positive."""
        n = computable(self).count - ddof
        return library(n).where(n > 0, n, math.nan) if hasattr(n, "shape") else n if n > 0 else math.nan

    def sum(self) -> Array:
        """Sum of the elements, count * (mean + mean_low), rounded once but for what the mean itself is off."""
        mean, low, count = computable(self).mean, self._low, self.count * 1.0
        with np.errstate(all="ignore"):  # what is infinite has no parts
            rough, lost = product(array(mean), count)
            fine = rough + (lost + unscaled(low * count, self._scale, 1))
        return array(library(fine).where(library(fine).isfinite(fine), fine, rough))

    def save(self, path: Path) -> None:
        """Write all of it, of arrays in host memory, to a file: an .npz archive without pickle. `load` gives the same bits."""
        write(path, self.axis, self.count, self.mean, *(getattr(self, name) for name in KEPT))

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Read what `save` wrote.

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
        """1 / sqrt(var + eps), what a norm multiplies with."""
        eps = checks.eps(eps)
        var, scale = self.var(), self._scale
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
        >>> m = moments(x, (0, 1))
        >>> m.transform(x)[0].round(3)
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
    method
        As for `layer_norm`, by default "two_pass"; not "welford" with where, weights or nan="omit".
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


def nothing(m: Moments) -> bool:
    """Whether there is no element in any group."""
    return not hasattr(m.count, "shape") and m.count == 0


def made(count: int | Array, axis: Axes, *arrays: Any) -> Moments:
    """Moments of a mean and what is KEPT, copied; where all is in range, the scale is the number 1."""
    if isinstance(arrays[-1], np.ndarray) and (arrays[-1] == 1.0).all():  # to ask a device would mean to wait for it
        arrays = *arrays[:-1], 1.0
    result = Moments(fresh(count) if hasattr(count, "shape") else count, fresh(arrays[0]), axis=axis)
    for name, a in zip(KEPT, arrays[1:], strict=True):
        setattr(result, name, a if name in ("_lost", "_scale") and type(a) is float else fresh(a))
    return result


def computable(m: Moments) -> Moments:
    """The moments themselves, unless their arrays have no arithmetic."""
    if not hasattr(type(m.mean), "__add__"):
        raise TypeError(
            f"moments must be of arrays with arithmetic to be merged, or for a variance: got {type(m.mean).__name__}; "
            f"take those of a CuPy array, cupy.asarray(x)"
        )
    return m


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of both data sets, of which neither is empty, in units of the largest of their deviations and distance."""
    lib, n = library(a.mean), a.count + b.count
    several = hasattr(n, "shape")  # counts
    over = lib.where(n > 0, n, 1) if several else n
    weight = (a.count * 1.0 if several else a.count) * b.count / over
    with np.errstate(all="ignore"):  # nan and inf pass on; what is too small to matter is lost
        scale = units(lib.maximum(lib.maximum(deviation(a), deviation(b)), abs(b.mean - a.mean)))
        (of_a, low_a, *squares_a), (of_b, low_b, *squares_b) = in_units(a, scale), in_units(b, scale)
        d = distance(of_a, low_a, of_b, low_b)
        mean, low = moved(of_a, low_a, d, *ratio(b.count, over))
        m2, lost = total(squares_a, squares_b, (d[0] * d[0] * weight, d[0] * d[1] * (2.0 * weight)))
        good, rounded = lib.isfinite(mean), unscaled(mean, scale, 1)
        if type(scale) is not float:
            low = low + (mean - rounded / scale)  # what denormal numbers have no place for
        rounded = lib.where(good, rounded, a.mean * (a.count / over) + b.mean * (b.count / over))
        found = [rounded, lib.where(good, low, 0.0), m2, lost]
        if several:  # where one is empty, the other one as it is
            for other, own in ((b, (a.mean, low_a, *squares_a)), (a, (b.mean, low_b, *squares_b))):
                found = [lib.where(other.count == 0, value, v) for value, v in zip(own, found, strict=True)]
    return made(n, a.axis, *found, scale)


def deviation(m: Moments) -> Any:
    """The standard deviation, or one that is as small and no denormal number."""
    std = m.std()
    if hasattr(m.count, "shape"):
        std = library(std).where(m.count > 0, std, 0.0)
    if type(m._scale) is float:
        return std
    return library(std).where((std < 2.0**-1000) & (m._squares > 0.0), 2.0**-1000, std)


def in_units(m: Moments, scale: Any) -> tuple[Any, ...]:
    """Mean, its low part, and the two parts of m2, divided by a scale and its square."""
    if type(scale) is float and type(m._scale) is float:
        return m.mean, m._low, m._squares, m._lost
    change = m._scale / scale
    return m.mean / scale, m._low * change, m._squares * change * change, m._lost * change * change


def distance(a: Any, a_low: Any, b: Any, b_low: Any) -> tuple[Any, Any]:
    """b + b_low - (a + a_low) in two parts."""
    d, lost = two_sum(b, -a)
    return quick_two_sum(d, lost + (b_low - a_low))


def moved(a: Any, low: Any, d: tuple[Any, Any], share: float, rest: float) -> tuple[Any, Any]:
    """a + low + d * (share + rest) in two parts; `share` has 26 bits, so that its products with halves of d are exact."""
    half, other = split(d[0])
    s, lost = two_sum(a, half * share)
    return quick_two_sum(s, (lost + low) + (other * share + (d[0] * rest + d[1] * share)))


def total(*terms: Sequence[Any]) -> tuple[Any, Any]:
    """The sum of numbers >= 0 in two parts, in two parts; what is not finite has one."""
    s, low = terms[0]
    for high, lost in terms[1:]:
        s, error = two_sum(s, high)
        low = low + (lost + error)
    better, low = quick_two_sum(s, low)
    lib = library(s)
    good = lib.isfinite(better)
    return lib.where(good, better, s), lib.where(good, low, 0.0)


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
