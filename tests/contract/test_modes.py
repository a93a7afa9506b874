"""`method` and `exact`: where they stand in every signature, and which calls are one call."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import numbanorm as nn
from numbanorm import gradients, precompile
from numbanorm.spec.call import Call, backward_call, forward_call, moments_call, scaling_of, sums_of, without_x
from numbanorm.spec.norms import NORMS
from numbanorm.spec.sources import GIVEN, OWN, TRACKED

LAYERS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm",
          "GroupNorm", "RMSNorm")  # fmt: skip
FLOAT64, NARROW = np.dtype("f8"), [np.dtype("f4"), np.dtype("f2")]
METHODS = (None, "two_pass", "welford")


@pytest.mark.parametrize("name", [*NORMS, *LAYERS])
def test_exact_comes_after_method(name: str) -> None:
    parameters = list(inspect.signature(getattr(nn, name)).parameters.values())
    at = [p.name for p in parameters].index("method")
    method, exact = parameters[at : at + 2]
    assert (method.kind, method.default) == (method.KEYWORD_ONLY, None)
    assert (exact.name, exact.kind, exact.default) == ("exact", exact.KEYWORD_ONLY, False)


@pytest.mark.parametrize("name", list(NORMS))
def test_exact_comes_after_needs(name: str) -> None:
    parameters = list(inspect.signature(getattr(gradients, f"{name}_backward")).parameters.values())
    exact = parameters[[p.name for p in parameters].index("needs") + 1]
    assert (exact.name, exact.kind, exact.default) == ("exact", exact.KEYWORD_ONLY, False)


def asked(norm: str, dtype: Any, source: int, method: Any, exact: bool) -> Call:
    which = ((16,), 0) if NORMS[norm].sized == "normalized_shape" else ((2,) if NORMS[norm].sized else (), 1)
    return forward_call(norm, (8, 16), dtype, which, source, method, exact, (True, False, False))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("norm", ["layer_norm", "group_norm", "batch_norm"])
def test_methods_of_what_is_measured(norm: str, dtype: Any) -> None:
    for source in (OWN, TRACKED):
        for method in METHODS:
            for exact in (False, True):
                call = asked(norm, dtype, source, method, exact)
                assert (call.method, call.exact) == (method or "one_read", exact)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exact", [False, True])
def test_equal_calls_are_one(method: Any, exact: bool) -> None:
    """float64 is exact and takes two passes; where no mean is measured there is one method."""
    for norm in ("layer_norm", "batch_norm"):
        assert asked(norm, FLOAT64, OWN, method, exact) is asked(norm, FLOAT64, OWN, method or "two_pass", True)
    for dtype in NARROW:
        assert asked("rms_norm", dtype, OWN, method, exact) is asked("rms_norm", dtype, OWN, "two_pass", exact)
        assert asked("batch_norm", dtype, GIVEN, method, exact) is asked("batch_norm", dtype, GIVEN, "two_pass", exact)
    for dtype in (*NARROW, FLOAT64):
        found = moments_call((8, 16), dtype, (0,), method)[0]
        assert found is moments_call((8, 16), dtype, (0,), found.method if found.method != "one_read" else None)[0]
        assert (found.method, found.exact) == (method or ("two_pass" if dtype == FLOAT64 else "one_read"), True)


@pytest.mark.parametrize("exact", [False, True])
def test_backward_calls_keep_it(exact: bool) -> None:
    def made(dtype: Any, exact: bool, source: int = OWN) -> Call:
        return backward_call("layer_norm", (8, 16), dtype, ((16,), 0), source, (True, True, True), exact, False)

    for dtype in NARROW:
        call, given = made(dtype, exact), made(dtype, exact, GIVEN)
        assert {(c.method, c.exact) for c in (call, sums_of(call), given, scaling_of(given))} == {("two_pass", exact)}
    assert made(FLOAT64, exact) is made(FLOAT64, True)
    assert without_x(asked("batch_norm", NARROW[0], GIVEN, None, exact)).exact is exact


def test_one_read_is_no_name_of_a_method() -> None:
    """It is what None means, for a call within the package."""
    with pytest.raises(ValueError, match="method must be 'two_pass', 'welford' or None: got 'one_read'; leave it out"):
        nn.layer_norm(np.ones((8, 16), np.float32), 16, method="one_read")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("function", [nn.layer_norm, nn.layer_norm_backward])
def test_warmup_calls_with_it(function: Any, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(*args: Any, **options: Any) -> None:
        seen.append(options["exact"])

    noted.__name__ = function.__name__
    precompile._call(noted, np.dtype("f4"), exact)
    assert set(seen) == {exact}


@pytest.mark.parametrize("exact", [1, None, "yes"])
def test_warmup_wants_a_bool(exact: Any) -> None:
    with pytest.raises(TypeError, match="exact must be True or False: got"):
        nn.warmup(nn.rms_norm, exact=exact)


@pytest.mark.parametrize("exact", [1, None, "yes"])
def test_explain_says_what_the_call_would(exact: Any) -> None:
    x = np.ones((8, 16), np.float32)
    stats = nn.layer_norm(x, 16, return_stats=True)[1]
    for asked_of in ((nn.layer_norm, x, 16), (nn.layer_norm_backward, x, x, 16, stats)):
        assert nn.explain(*asked_of, exact=True) == nn.explain(*asked_of, exact=np.True_)
        with pytest.raises(TypeError, match="exact must be True or False: got"):
            nn.explain(*asked_of, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_layers_keep_it_and_hand_it_on(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To both functions, pickled or not; repr shows what is not the default."""
    from numbanorm import functional

    x, seen = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), []

    def noted(function: Any) -> Any:
        return lambda *args, **options: (seen.append(options["exact"]), function(*args, **options))[1]

    for module, name in ((functional, "batch_norm"), (gradients, "batch_norm_backward")):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    layer = nn.BatchNorm1d(6, exact=exact)
    for one in (layer, pickle.loads(pickle.dumps(layer))):
        one(x)
        one.backward(x)
        assert one.exact is exact
        assert repr(one).endswith(", exact=True)") is exact
    assert seen == [exact] * 4


def test_layers_that_were_pickled_before_there_was_a_choice() -> None:
    layer = nn.LayerNorm(6)
    del layer.exact
    layer = pickle.loads(pickle.dumps(layer))
    assert "exact" not in repr(layer)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    assert layer(x).tobytes() == nn.LayerNorm(6)(x).tobytes()
    assert layer.backward(x).shape == x.shape
