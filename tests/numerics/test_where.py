"""Norms of what a mask lets in: against the definition, the plain NumPy twin, and the same call without what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import DTYPES, MODES, Arguments, Case, call, call_backward
from close import identical
from hostile import KINDS, groups_of, numbers
from numpy.typing import NDArray

import numbanorm
from numbanorm import reference

Array = NDArray[Any]

MASKS = [name for name, _ in cases.masks(Case("batch", (2, 3, 4)))]
# the reference makes an array for each operation, and every case goes with eleven masks
TABLE = [case for case in cases.TABLE if case.size <= 1 << 14 and case.training]
SOME = TABLE[::5]

every_mode = pytest.mark.parametrize("exact", MODES, ids=["float32", "exact"])
every_case = pytest.mark.parametrize("case", TABLE, ids=lambda c: c.name)
some_cases = pytest.mark.parametrize("case", SOME, ids=lambda c: c.name)


def masked(case: Case, dtype: np.dtype[Any], where: Array, rubbish: bool = True) -> tuple[Arguments, Array]:
    """Arguments and dy with a mask, and nan and infinities in both where it is not set."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    if rubbish:
        out = np.broadcast_to(~where, case.shape)
        x, dy = a.x.copy(), dy.copy()
        x[out], dy[out] = (np.resize(np.array(v), out.sum()).astype(dtype) for v in ([np.nan, np.inf, 3.0], [np.inf, np.nan]))
        a = replace(a, x=x)
    return replace(a, where=where), dy


def check_twin(case: Case, a: Arguments, dy: Array, method: str | None, exact: bool) -> None:
    """y, statistics and gradients, with the bits of the reference."""
    p, center, dtype = case.its.planned(case.shape, case.told, case.channel_axis), case.its.center, a.x.dtype
    where = np.broadcast_to(a.where, case.shape)
    eps = 1e-5 if center else cases.rms_eps(dtype)
    y, stats = call(case, a, method=method, exact=exact, return_stats=True)
    options = {"center": center, "method": method, "exact": exact, "where": where}
    expected, measured = reference.forward(p, a.x, (a.weight, a.bias), eps, **options)
    identical(y, expected, f"{dtype}: y")
    identical(stats.rstd, measured.rstd, f"{dtype}: rstd")
    if center:
        identical(stats.mean, measured.mean, f"{dtype}: mean")
    counts = where.reshape(p.B, p.M, p.G, -1).sum((1, 3)).reshape(p.stats_shape)
    assert stats.count.dtype == np.int64
    np.testing.assert_array_equal(stats.count, counts)
    found = call_backward(case, a, dy, stats, exact=exact)
    backward = reference.backward if exact or dtype.itemsize == 8 else reference.backward32
    dx, *of_parameters = backward(p, a.x, dy, stats.mean, stats.rstd, a.weight, center=center, where=where)
    identical(found[0], dx, f"{dtype}: dx")
    kind = dtype if a.weight is None else a.weight.dtype
    for name, got, true in zip(("dweight", "dbias"), found[1:], of_parameters, strict=False):
        identical(got, reference.narrow(true, kind), f"{dtype}: {name}")


@every_mode
@pytest.mark.parametrize("mask", MASKS)
@every_case
def test_twin(case: Case, mask: str, exact: bool) -> None:
    where = dict(cases.masks(case)).get(mask)
    if where is None:
        return
    for dtype in DTYPES:
        a, dy = masked(case, dtype, where)
        for method in (None, "two_pass"):
            check_twin(case, a, dy, method, exact)
