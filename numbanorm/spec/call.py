"""A call as one value: found by one look-up of what its arguments are like, and carried down to the kernels.

A schedule is made for a call once, and serves every call of the same value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from . import checks
from .checks import Array
from .norms import NORMS
from .plan import Plan, Shape, over_axes
from .sources import GIVEN, OWN, RSTD
from .tree import gradient_family

# what the norm's `sized` argument says, the axis of the channels, and False where there is no batch axis
Which = tuple[Shape, int] | tuple[Shape, int, bool]
Present = tuple[bool, bool, bool]  # whether there is a weight, and a bias, and whether y is x


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Everything about a call but its arrays and numbers. Calls are equal if they are the same object, as plans are."""

    plan: Plan
    dtype: Any  # of x
    backward: bool
    center: bool  # whether a mean is subtracted
    source: int  # of the statistics, see `sources`
    method: str = "two_pass"  # of the statistics: "two_pass", "welford", or "one_read", of sums and squares
    exact: bool = True  # whether results are computed in float64; float32 may do otherwise
    write: bool = True  # whether y, or dx, is wanted
    weight: bool = False  # whether there is one; backward, whether its gradient is wanted
    bias: bool = False
    in_place: bool = False  # whether y is x; dx is x or dy
    where: bool = False  # whether a mask says which elements are measured
    residual: bool = False  # whether x + r is normalized; backward, whether something is added to dx
    addend: bool = False  # whether something is added to the result; backward, whether its gradient is wanted
    activation: str | None = None  # what is done to the result then
    gaps: bool = False  # whether rows of what is read stand apart, see `gaps`
    gaps_out: bool = False  # and those of what is written
    turned: int = 0  # rows whose elements lie side by side, where the elements of a row do not
    eps: float | None = None  # where none is given; only RMS norm has one

    @property
    def given(self) -> bool:
        """Whether the statistics do not depend on x."""
        return self.source in (GIVEN, RSTD)

    @property
    def affine(self) -> bool:
        """Whether there are parameters; backward, whether their gradients are wanted."""
        return self.weight or self.bias

    @property
    def joined(self) -> bool:
        """Whether other arrays, or an activation, stand around the norm."""
        return self.residual or self.addend or self.activation is not None

    def but(self, **changes: Any) -> Call:
        """A call that differs in these fields."""
        return replace(self, **changes)


# statistics that come with a call, given or to be updated: mean, variance, the shares of old and new if they are to be updated,
# and where there is one sample the mean's low part. A NamedTuple would take 0.3 us to make
Known = tuple[Any, Any, tuple[float, float] | None, Any]
NOTHING: Known = (None, None, None, None)


class _Pair(NamedTuple):
    mean: Array | None
    rstd: Array


class Stats(_Pair):
    """Statistics of a norm, in float64: the mean (None for RMS norm) and 1 / sqrt(variance + eps).

    It remembers whether the call had a weight, so that a backward call that was not given one is told.

    Parameters
    ----------
    mean, rstd : float64 array
        Of the shape that the norm's `return_stats` says; a pair, as a tuple of two.

    Attributes
    ----------
    count : int64 array of the statistics' shape, or None
        How many elements a mask let in; None without a mask.
    low : float64 array of the mean's shape, or None
        What the mean lost when it was rounded, of statistics that were merged from several processes.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm
    >>> y, (mean, rstd) = layer_norm(np.array([[1.0, 3.0]]), 2, eps=0.0, return_stats=True)
    >>> mean, rstd
    (array([2.]), array([1.]))
    """

    weighted: bool = False
    count: Array | None = None  # type: ignore[assignment]  # a tuple has a method of this name, of no use here
    low: Array | None = None


def settled(method: Any, exact: bool, dtype: Any, measures: bool) -> tuple[str | None, bool]:
    """Method and exactness, the same for all that mean the same. None: one read; `measures`: whether methods differ at all."""
    named, wide = checks.method(method), dtype.itemsize == 8
    return "two_pass" if not measures or (named is None and wide) else named, exact or wide


@lru_cache(maxsize=4096)
def forward_call(
    norm: str, shape: Shape, dtype: Any, which: Which, source: int, method: Any, exact: bool, present: Present
) -> Call:
    """The call of a norm in `NORMS`, whose x has this shape and dtype."""
    row = NORMS[norm]
    how = settled(method, exact, dtype, row.center and source not in (GIVEN, RSTD))
    if how != (method, exact):
        return forward_call(norm, shape, dtype, which, source, *how, present)
    plan = row.plan_of(shape, *which)
    if row.several and source != GIVEN and (plan.B if row.several == "group" else 1) * plan.count == 1:
        raise ValueError(f"a variance needs more than one value per {row.several}: got shape {shape}; use a larger batch, or "
                         f"given statistics")  # fmt: skip
    if source == GIVEN and plan.B > 1:
        plan = plan.as_one_sample()
    # epsilon of the type that torch computes in; float16's own would be as large as the mean square of data of deviation 0.03
    eps = None if row.center else 2.0**-52 if dtype.itemsize == 8 else 2.0**-23
    return Call(plan, dtype, False, row.center, source, method or "one_read", exact, True, *present, eps=eps)


@lru_cache(maxsize=4096)
def backward_call(
    norm: str, shape: Shape, dtype: Any, which: Which, source: int, needs: tuple[bool, ...], exact: bool, in_place: bool
) -> Call:
    """The call of a norm's backward function; needs: whether dx, and the gradient of each parameter, is wanted."""
    if not exact and dtype.itemsize == 8:
        return backward_call(norm, shape, dtype, which, source, needs, True, in_place)
    row = NORMS[norm]
    write, weight, bias = (*needs, False)[:3]
    plan = row.plan_of(shape, *which)
    return Call(plan, dtype, True, row.center, source, "two_pass", exact, write, weight, bias, in_place)


@lru_cache(maxsize=4096)
def with_mask(call: Call) -> Call:
    """The call with a mask; one that is given its statistics measures nothing."""
    if call.method == "welford":
        raise ValueError("method must be None or 'two_pass' with where, for tiles have as many elements as they are long in "
                         "Welford's method: got 'welford'; leave it out")  # fmt: skip
    return call if call.given and not call.backward else call.but(where=True)


@lru_cache(maxsize=4096)
def with_around(call: Call, residual: bool, addend: bool, activation: str | None) -> Call:
    """The call with what stands around the norm."""
    return call.but(residual=residual, addend=addend, activation=activation)


@lru_cache(maxsize=4096)
def exactly(call: Call) -> Call:
    """The call whose results are rounded once."""
    return call.but(exact=True)


@lru_cache(maxsize=4096)
def plain_of(call: Call) -> Call:
    """The norm alone."""
    return call.but(residual=False, addend=False, activation=None)


@lru_cache(maxsize=4096)
def moments_call(shape: Shape, dtype: Any, axes: Shape, method: Any) -> tuple[Call, Shape]:
    """The call of `moments` over these axes, and the order to which x's axes are moved for it."""
    how, _ = settled(method, True, dtype, True)
    if how != method:
        return moments_call(shape, dtype, axes, how)
    plan, order = over_axes(shape, axes)
    return Call(plan, dtype, False, True, OWN, method or "one_read", write=False), order


@lru_cache(maxsize=4096)
def sums_of(call: Call) -> Call:
    """The part of a backward call that needs sums: dx is left out where `scaling_of` writes it."""
    return call.but(write=False) if scales(call) else call


@lru_cache(maxsize=4096)
def scaling_of(call: Call) -> Call:
    """The call of the forward kernel that writes dx = dy * weight * rstd."""
    return call.but(backward=False, center=False, source=RSTD, weight=True, bias=False, where=False)


@lru_cache(maxsize=4096)
def without_x(call: Call) -> Call:
    """The call that takes given statistics to those of each sample, and neither reads x nor writes y."""
    p, units = call.plan, prod(call.plan.stats_shape)
    plan = Plan(units // p.G, 1, p.G, 1, 1, p.stats_shape, p.weight_shape)
    return call.but(plan=plan, write=False, weight=False, bias=False, in_place=True, residual=False, addend=False,
                    activation=None)  # fmt: skip


def scales(call: Call) -> bool:
    """Whether dx is dy * weight * rstd by the kernel of the forward pass: no sums are wanted, or they go with other rows."""
    return call.write and call.given and (not call.affine or gradient_family(call.plan) == "rows")
