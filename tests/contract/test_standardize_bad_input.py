"""Every bad argument of `standardize` and its gradients is refused, before anything is computed or changed."""

from __future__ import annotations

import pytest
from bad_input import Bad
from bad_standardize import FUNCTIONS, IDS, TABLE, arguments, good, watched


@pytest.mark.parametrize(("name", "row"), TABLE, ids=IDS)
def test_is_refused(name: str, row: Bad) -> None:
    a = arguments(name, row)
    before = watched(a)
    with pytest.raises(row.error, match=row.message) as caught:
        FUNCTIONS[name](**a)
    assert type(caught.value) is row.error
    assert watched(a) == before


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_unchanged_arguments_are_taken(name: str) -> None:
    """What the table changes is the only fault."""
    a = good(name)
    before = watched(a)
    assert FUNCTIONS[name](**a) is not None
    changed = {k for k, v in watched(a).items() if v != before[k]}
    assert changed == ({"out"} & set(a))
