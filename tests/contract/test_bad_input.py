"""Every bad argument is refused, with the rule, what came and a remedy, before anything is computed or changed.

One table: which functions, what is wrong, the exception, and what its message must say.
"""

from __future__ import annotations

import numpy as np
import pytest
from bad_input import FUNCTIONS, IDS, NORMS, TABLE, Bad, arguments, check_refused, good, memory

import numbanorm


@pytest.mark.parametrize(("name", "row"), TABLE, ids=IDS)
def test_is_refused(name: str, row: Bad) -> None:
    a = arguments(name, row)
    check_refused(lambda: FUNCTIONS[name](**a), a, row)


OF_NORMS = [(name, row) for name, row in TABLE if name in NORMS.split()]


@pytest.mark.parametrize(("name", "row"), OF_NORMS, ids=[f"{name}: {row.what}" for name, row in OF_NORMS])
def test_explain_refuses_what_the_call_refuses(name: str, row: Bad) -> None:
    a = arguments(name, row)
    check_refused(lambda: numbanorm.explain(FUNCTIONS[name], **a), a, row)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_unchanged_arguments_are_taken(name: str) -> None:
    """What the table changes is the only fault; and what it finds unchanged would have been written."""
    a = good(name)
    written = [k for k in ("out", "running_mean", "running_var", "num_batches_tracked") if k in a]
    before = {k: memory(a[k]) for k in written}
    assert FUNCTIONS[name](**a) is not None
    assert all(memory(a[k]) != before[k] for k in written)


def test_explain_refuses_moments() -> None:
    with pytest.raises(TypeError, match=r"explain wants one of the norms: got moments; write"):
        numbanorm.explain(numbanorm.moments, np.ones((2, 3)), 0)
