"""Normalization with statistics from anywhere: of a larger data set, of other machines, of `Moments`."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .execute import standardize as execute
from .execute.standardize import Asked, Given
from .moments import Moments, given_by
from .spec import checks
from .spec.checks import Array
from .spec.shown import shown
from .spec.standardized import spread

Axes: TypeAlias = int | tuple[int, ...] | None


class Sums(NamedTuple):
    """What gradients need to know of all elements that share statistics; those of pieces add up, each field by itself.

    dy : float64 array of the axes that are kept, the sum of dy
    product : float64 array of the same shape, the sum of dy * (x - mean) * rstd
    count : int or integer array, how many elements they are
    """

    dy: Array
    product: Array
    count: Any


def standardize(
    x: Array,
    mean: Array | Moments,
    rstd: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: Axes = None,
    exact: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Array:
    """Normalize with statistics that are given: y = (x - mean) * rstd * weight + bias.

    Where `batch_norm` in evaluation makes the same of running statistics, the bits are the same.

    Parameters
    ----------
    x : array of float16, bfloat16, float32 or float64
        Read as it lies if it is C-contiguous and its axes are kept, reduced, kept, reduced in this order (any may be
        absent), and weight and bias are the same along the first ones; otherwise copied first.
    mean : array, or Moments
        Of a shape that broadcasts to the axes that are not in `axis`, as that of `moments(x, axis).mean`, and any float type.
        Of `Moments` the mean's low part counts too.
    rstd : array, optional
        1 / sqrt(variance + eps), likewise; by default that of the Moments, without an eps.
    weight, bias : array, optional
        Of a shape that broadcasts to the axes that are not in `axis`, and any float type.
    axis : int, tuple of int or None
        Axes along which the statistics are the same: those over which they were taken. None is those of the Moments, or all.
    exact, out
        As for `layer_norm`.
    backend : {None, "cpu"}
        x must be in host memory.

    Returns
    -------
    array of x's shape and dtype, C-contiguous

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 30.0], [3.0, 70.0]])
    >>> standardize(x, np.array([2.0, 50.0]), np.array([1.0, 0.05]), axis=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    asked, exact = execute.asked(x, axis_of(axis, mean), backend), checks.flag("exact", exact)
    source, given = statistics(asked, mean, rstd, exact)
    affine = asked.spread("weight", weight), asked.spread("bias", bias)
    if out is not None:
        checks.output(out, asked.x, (("x", x), ("weight", weight), ("bias", bias), *named(mean, rstd)))
    return execute.forward(source, given, affine, asked.axes, exact, out)


def standardize_backward(
    dy: Array,
    x: Array,
    mean: Array | Moments,
    rstd: Array | None = None,
    weight: Array | None = None,
    *,
    axis: Axes = None,
    sums: tuple[Array, Array, Any] | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    exact: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `standardize`.

    With n elements that share statistics, xh = (x - mean) * rstd, and s1 and s2 the sums of dy and of dy * xh over them:

        dx      = rstd * weight * dy                                statistics that do not depend on x
        dx      = rstd * weight * (dy - s1 / n - xh * s2 / n)       sums=(s1, s2, n): those of the n elements, x among them
        dweight = sum of dy * xh, dbias = sum of dy                 over what is here

    The sums need not be those of x alone: a batch norm whose batch is spread over processes takes `standardize_sums` of what is
    here, adds those of all processes, and hands the result to this function. dweight and dbias are of what is here, and are to
    be added likewise, as the gradients of any weight.

    Parameters
    ----------
    dy, x : arrays of one shape and dtype
    mean, rstd, weight, axis
        As for `standardize`.
    sums : (array, array, int or integer array), optional
        Sums of dy and of dy * xh (without the weight), and the count of elements: of shapes that broadcast to the axes that are
        not in `axis`. Where the count is 0, nothing is subtracted.
    needs : (bool, bool, bool)
        Which of dx, dweight, dbias are wanted.
    exact : bool
        As for `standardize`, of dx; dweight and dbias are exact anyway.
    out : array like x, optional
        Where to write dx; may be x or dy. One that is not C-contiguous costs a copy.
    backend : {None, "cpu"}
        x must be in host memory.

    Returns
    -------
    (dx, dweight, dbias)
        dx in x's dtype, within 4 ulp at the scale of its largest term, or with exact=True rounded once; float64 within 4 eps of
        the sum of its absolute terms. dweight and dbias of the weight's shape and dtype; without a weight of the shape of the
        axes that are not in `axis`, in x's dtype. None for what was not wanted.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import moments
    >>> x, dy = np.array([[1.0, 2.0], [3.0, 7.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    >>> m = moments(x, 0)
    >>> sums = standardize_sums(dy, x, m)
    >>> dx, dweight, dbias = standardize_backward(dy, x, m, sums=sums)
    >>> dx, dweight
    (array([[0., 0.],
           [0., 0.]]), array([-1.,  0.]))
    """
    asked, exact = execute.asked(x, axis_of(axis, mean), backend), checks.flag("exact", exact)
    wanted, dy_ = checks.needs(needs, 3), checks.like("dy", dy, asked.x)
    _, given = statistics(asked, mean, rstd, exact)
    w, totals = asked.spread("weight", weight), None if sums is None else of_all(asked, sums)
    if out is not None:
        if not wanted[0]:
            raise ValueError(f"out is where dx is written: got needs={wanted}; leave out away, or ask for dx")
        others = (("x", x), ("dy", dy), ("weight", weight), *named(mean, rstd))
        checks.output(out, asked.x, others, may_be=("x", "dy"))
    grads: list[Array | None] = [None, None]
    if any(wanted[1:]):
        of_dy, of_product = execute.sums(dy_, asked.x, given, asked.axes)
        dtype, shape = (asked.x.dtype, asked.kept) if w is None else (w.dtype, w.shape)
        both = (execute.added(a, shape) for a in (of_product, of_dy))
        grads = [a.astype(dtype) if k else None for a, k in zip(both, wanted[1:], strict=True)]
    if not wanted[0]:
        return None, *grads
    if totals is None:
        return execute.scaled(dy_, given, w, asked.axes, exact, out), *grads
    return execute.slanted((dy_, asked.x), given, w, totals, asked.axes, exact, out), *grads


def standardize_sums(
    dy: Array, x: Array, mean: Array | Moments, rstd: Array | None = None, *, axis: Axes = None, backend: str | None = None
) -> Sums:
    """Sums that the gradients of `standardize` need where the statistics depend on x, of the elements that are here.

    Parameters
    ----------
    dy, x, mean, rstd, axis, backend
        As for `standardize_backward`.

    Returns
    -------
    Sums
        (sum of dy, sum of dy * (x - mean) * rstd, count): float64 arrays of the axes that are not in `axis`, and an int. Those
        of all pieces of the data that share the statistics, each added up, are `sums` of `standardize_backward`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0], [3.0, 7.0]])
    >>> standardize_sums(np.ones((2, 2)), x, np.array([2.0, 4.0]), np.array([1.0, 0.5]), axis=0)
    Sums(dy=array([2., 2.]), product=array([0. , 0.5]), count=2)
    """
    asked = execute.asked(x, axis_of(axis, mean), backend)
    dy_ = checks.like("dy", dy, asked.x)
    _, given = statistics(asked, mean, rstd, True)
    return Sums(*execute.sums(dy_, asked.x, given, asked.axes), prod(asked.x.shape[k] for k in asked.axes))


def axis_of(axis: Axes, mean: Any) -> Axes:
    """The axes along which statistics are the same; those of Moments where none are named."""
    return mean.axis if axis is None and isinstance(mean, Moments) else axis


def statistics(asked: Asked, mean: Any, rstd: Any, exact: bool) -> tuple[Array, Given]:
    """x and the statistics for it, checked; Moments have both divided by a power of two where their numbers need that."""
    if isinstance(mean, Moments) and rstd is None:
        return given_by(mean, asked, 0.0, exact)
    if rstd is None:
        raise TypeError("rstd must be given beside a mean: got None; write 1 / np.sqrt(var + eps), or pass Moments as mean")
    low = None
    if isinstance(mean, Moments):
        mean, low = mean.mean, mean.mean_low
    checked = spread("mean", mean, asked.kept), low, spread("rstd", rstd, asked.kept)
    return asked.x, asked.given(*checked)


def named(mean: Any, rstd: Any) -> tuple[tuple[str, Any], ...]:
    """The arrays of the statistics, and their names."""
    return ("mean", mean.mean if isinstance(mean, Moments) else mean), ("rstd", rstd)


def of_all(asked: Asked, sums: Any) -> tuple[Any, Any, Any]:
    """Sums of all elements, checked."""
    if not isinstance(sums, (tuple, list)) or len(sums) != 3:
        raise TypeError(f"sums must be (sum of dy, sum of dy * normalized x, count): got {shown(sums)}; pass what "
                        f"standardize_sums returned, added up")  # fmt: skip
    count = np.asarray(sums[2])
    if count.dtype.kind not in "iu" or (count < 0).any():
        raise TypeError(
            f"the count of sums must be integers >= 0: got {shown(sums[2])}; pass that of standardize_sums, added up"
        )
    return (
        spread("the sum of dy", sums[0], asked.kept),
        spread("the sum of dy * normalized x", sums[1], asked.kept),
        spread("the count of sums", count.astype(np.float64), asked.kept),
    )
