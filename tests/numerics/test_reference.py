"""The kernels against `numbanorm.reference`, plain NumPy with the same tree and formulas: with `==`."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from cases import DTYPES, METHODS, Case, call, call_backward
from numpy.typing import NDArray

from numbanorm import reference

Array = NDArray[Any]

# the reference makes an array for each operation: the largest cases take it seconds
TABLE = [case for case in cases.TABLE if np.prod(case.shape) <= 1 << 17]


def same(found: Any, expected: Array, what: str) -> None:
    """Bit for bit; a nan is a nan."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.ravel(), expected.ravel(), err_msg=what)
    assert (np.signbit(found) == np.signbit(expected.reshape(found.shape)))[~np.isnan(found)].all(), f"{what}: a zero's sign"


@pytest.mark.parametrize("case", TABLE, ids=lambda c: c.name)
def test_forward_and_backward(case: Case) -> None:
    p, center = case.its.planned(case.shape, case.told, case.channel_axis), case.its.center
    for dtype in DTYPES:
        a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
        eps = 1e-5 if center else cases.rms_eps(dtype)
        given = None if case.training else (a.running_mean, a.running_var)
        for method in METHODS:
            y, stats = call(case, a, method=method, return_stats=True)
            expected, measured = reference.forward(p, a.x, a.weight, a.bias, eps, center=center, given=given, method=method)
            same(y, expected, f"{dtype}, {method}: y")
            same(stats.rstd, measured.rstd, f"{dtype}, {method}: rstd")
            if center:
                same(stats.mean, measured.mean, f"{dtype}, {method}: mean")
        found = call_backward(case, a, dy, stats)
        dx, *of_parameters = reference.backward(
            p, a.x, dy, stats.mean, stats.rstd, a.weight, center=center, given=given is not None
        )
        same(found[0], dx, f"{dtype}: dx")
        kind = dtype if a.weight is None else a.weight.dtype
        for name, got, true in zip(("dweight", "dbias"), found[1:], of_parameters, strict=False):
            same(got, reference.narrow(true, kind), f"{dtype}: {name}")
