"""Every bad argument of the backward functions is refused: in the words of the forward pass for those that both have, and by
a table of its own for dy, stats, needs and where dx goes."""

from __future__ import annotations

import dataclasses
import inspect
import re

import cases
import pytest
from bad_gradients import FUNCTIONS, IDS, TABLE, arguments, good
from bad_input import Bad, Kwargs, check_refused, memory

import numbanorm


def watched(a: Kwargs) -> Kwargs:
    """All that must stay as it is."""
    stats = a["stats"]
    return a | ({f"stats[{k}]": s for k, s in enumerate(stats)} if isinstance(stats, tuple) else {})


@pytest.mark.parametrize(("name", "row"), TABLE, ids=IDS)
def test_is_refused(name: str, row: Bad) -> None:
    a = arguments(name, row)
    check_refused(lambda: FUNCTIONS[name](**a), watched(a), row)


@pytest.mark.parametrize(("name", "row"), TABLE, ids=IDS)
def test_explain_refuses_what_the_call_refuses(name: str, row: Bad) -> None:
    a = arguments(name, row)
    check_refused(lambda: numbanorm.explain(FUNCTIONS[name], **a), watched(a), row)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_unchanged_arguments_are_taken(name: str) -> None:
    """What the tables change is the only fault; and what they find unchanged would have been written."""
    a = good(name)
    before = memory(a["out"])
    found = FUNCTIONS[name](**a)
    assert found[0] is a["out"]
    assert len(found) == len(a["needs"])
    assert memory(a["out"]) != before


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_arguments_are_named(name: str) -> None:
    """In one order everywhere; needs, exact, out, where, what some have, and backend by keyword only."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    own = {"layer": ["normalized_shape"], "rms": ["normalized_shape"], "group": ["num_groups"]}.get(name, [])
    assert positional == ["dy", "x", *own, "stats", "weight"]
    some = ("axis", "weights", "y", "activation", "dresidual", "return_daddend", "comm")
    named = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in some]
    assert named[-6:] == ["needs", "exact", "out", "where", "weight_offset", "backend"]
    with pytest.raises(TypeError, match=re.escape("positional argument")):
        FUNCTIONS[name](*(good(name)[k] for k in positional), good(name)["needs"])


@pytest.mark.parametrize("case", [c for c in cases.TABLE[::9] if c.affine], ids=lambda c: c.name)
def test_weight_that_the_forward_call_had(case: cases.Case) -> None:
    """Stats know it; a plain pair of arrays is taken at its word."""
    a = cases.arguments(case, cases.FLOAT32)
    stats = cases.call(case, a, return_stats=True)[1]
    without = dataclasses.replace(a, weight=None)
    with pytest.raises(ValueError, match=r"weight must be given, .*: got None; pass the same weight"):
        cases.call_backward(case, without, a.x, stats)
    assert cases.call_backward(case, without, a.x, tuple(stats))[0].shape == a.x.shape
    assert cases.call_backward(case, without, a.x, cases.call(case, without, return_stats=True)[1])[0].shape == a.x.shape
