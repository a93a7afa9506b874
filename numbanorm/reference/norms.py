"""Every formula of the norms in plain NumPy, with the bits of the kernels on both backends.

Arrays have the axes of a plan: (B, M, G, K, T), samples, runs, groups, channels of a group, elements of a channel in a run.
docs/numerics.md says why the formulas are what they are. Only what leaves float64's range is missing, which the kernels compute
again, scaled by a power of two.
"""

from __future__ import annotations

import numpy as np

from ..spec.plan import Plan
from .elements import in_float32, narrow, of_group, parameter, rounded_once
from .numbers import Array, Masked, split
from .statistics import Statistics, measure, of_given


def forward(
    plan: Plan, x: Masked, affine: tuple[Array | None, Array | None] = (None, None), eps: float = 1e-5, *, center: bool = True,
    given: tuple[Array, Array] | None = None, method: str | None = None, exact: bool = False,
) -> tuple[Array, Statistics]:  # fmt: skip
    """Normalize.

    Parameters
    ----------
    plan : Plan
    x : array of the plan's size, float16, bfloat16, float32 or float64; or (x, mask)
        With a mask, of bool, elements are measured where it is set. A group without any has mean and rstd 0, and its y is the
        bias.
    affine : (weight, bias)
        Of G * K elements each, or None.
    eps : float
    center : bool
        False for a mean of 0 (RMS norm).
    given : (mean, variance) of G elements each, optional
        To normalize with, in place of x's own.
    method : {None, "two_pass", "welford"}
        None reads x once, and a group again where one read is not enough; "two_pass" for float64 and without `center`.
    exact : bool
        Whether the elements of float32 and narrower types, too, are float64 values rounded once; else most are computed in
        float32, and off by 1.5 ulp, or 3 with a weight or bias.

    Returns
    -------
    (array of x's shape and dtype, Statistics)
    """
    x, where = split(x)
    shape = plan.B, plan.M, plan.G, plan.K, plan.T
    with np.errstate(all="ignore"):
        if given is None:
            wide = x.astype(np.float64).reshape(plan.B, plan.M, plan.G, plan.K * plan.T)
            kept = None if where is None else where.reshape(wide.shape)
            s = measure(plan, wide, eps, (center, method), 2 if x.itemsize == 8 else 1, kept)
        else:
            s = of_given(plan, *given, eps)
        w, b = parameter(plan, affine[0], 1.0), parameter(plan, affine[1], -0.0)
        y = narrow(rounded_once(plan, x.reshape(shape), s, w, b), x.dtype)
        if x.itemsize < 8 and not exact:
            near, good = in_float32(plan, x.reshape(shape), s, w, b, given is None)
            y = np.where(good, near.astype(x.dtype), y)
        if where is not None and given is None:
            some = where.reshape(shape).any((1, 3, 4))
            y = np.where(of_group(np.asarray(some)), y, narrow(b + 0.0, x.dtype))
    return y.reshape(x.shape), s
