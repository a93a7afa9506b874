"""Parameters in other shapes than a norm's own, and weights that something is added to: the definition, and what they equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from cases import DTYPES, MODES, needs_long_double
from close import identical
from numpy.typing import NDArray

import numbanorm
from numbanorm import reference
from numbanorm.spec.norms import NORMS

Array = NDArray[Any]

SHAPE = (4, 6, 5)
GIVEN: dict[str, tuple[Any, ...]] = {"layer_norm": (5,), "rms_norm": (5,), "group_norm": (2,)}
OWN: dict[str, dict[str, Any]] = {"batch_norm": {"training": True}}
every_norm = pytest.mark.parametrize("norm", NORMS)
every_mode = pytest.mark.parametrize("exact", MODES, ids=lambda e: "exact" if e else "fast")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


def both(norm: str, x: Array, dy: Array, weight: Any, bias: Any = None, given: Any = None, **options: Any) -> tuple[Any, ...]:
    """y, statistics and gradients."""
    given, own = GIVEN.get(norm, ()) if given is None else given, OWN.get(norm, {})
    affine = {"weight": weight} if norm == "rms_norm" else {"weight": weight, "bias": bias}
    y, stats = getattr(numbanorm, norm)(x, *given, **affine, return_stats=True, **own, **options)
    return y, stats, getattr(numbanorm, f"{norm}_backward")(dy, x, *given, stats, weight, **own, **options)


@every_dtype
@every_mode
@every_norm
def test_an_offset_is_a_sum_in_float64(norm: str, exact: bool, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    """The weights of Gemma: bfloat16, in which weight + 1 has no room for the weight's own bits."""
    x, dy = (rng.normal(size=SHAPE).astype(dtype) for _ in range(2))
    rows = not NORMS[norm].channels
    weight = (rng.normal(size=5 if rows else 6) * 0.01).astype("bfloat16")
    wide = weight.astype(np.float64) + 1.0
    if rows and not exact and dtype.itemsize < 8:
        wide = wide.astype(np.float32).astype(np.float64)
    y, _, (dx, dweight, *_) = both(norm, x, dy, weight, exact=exact, weight_offset=1.0)
    z, _, (dz, wide_gradient, *_) = both(norm, x, dy, wide, exact=exact)
    identical(y, z, "y")
    identical(dx, dz, "dx")
    assert dweight.dtype == weight.dtype
    assert wide_gradient.dtype == np.float64
    identical(dweight, reference.narrow(wide_gradient, weight.dtype), "dweight")


@needs_long_double
@every_norm
def test_an_offset_is_what_the_definition_says(norm: str, rng: np.random.Generator) -> None:
    x, dy = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    rows, weight = not NORMS[norm].channels, rng.normal(size=5 if not NORMS[norm].channels else 6).astype(np.float32)
    axes = {"batch_norm": (0, 2), "instance_norm": (2,), "group_norm": (2, 3)}.get(norm, (2,))
    grouped = x.reshape(4, 2, 3, 5) if norm == "group_norm" else x
    scale = weight.astype(oracle.Long) + 1
    scale = scale if rows else scale.reshape((2, 3, 1) if norm == "group_norm" else (6, 1))
    eps = 2.0**-23 if norm == "rms_norm" else 1e-5
    true = oracle.normalize(oracle.widen(grouped), axes, eps, scale, oracle.Long(0), norm != "rms_norm")
    for exact, most in ((True, 0.51), (False, 4.0)):
        y, *_ = both(norm, x, dy, weight, exact=exact, weight_offset=1.0)
        largest = np.broadcast_to(true.largest, grouped.shape).reshape(SHAPE)
        assert oracle.ulp_error(y, true.y.reshape(SHAPE), largest if not exact else 0.0) <= most


@pytest.mark.parametrize("layer", [numbanorm.LayerNorm, numbanorm.RMSNorm])
def test_layers_begin_without_a_scale(layer: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=SHAPE).astype(np.float32)
    plain, centered = layer(5), layer(5, weight_offset=1.0)
    assert not centered.weight.any()
    assert "weight_offset=1.0" in repr(centered)
    for one, two in ((plain(x), centered(x)), (plain.backward(x), centered.backward(x))):
        identical(one, two, "no scale")
    identical(plain.grad["weight"], centered.grad["weight"], "dweight")
    centered.weight += 3
    centered.reset_parameters()
    assert not centered.weight.any()


@every_norm
def test_offsets_that_are_refused(norm: str) -> None:
    x = np.ones(SHAPE, np.float32)
    function, given = getattr(numbanorm, norm), GIVEN.get(norm, ())
    for value, error, words in ((np.nan, ValueError, "must be finite"), ("1", TypeError, "must be a number"),
                                (1.0, ValueError, "is added to weight")):  # fmt: skip
        with pytest.raises(error, match=f"weight_offset {words}"):
            function(x, *given, weight_offset=value)
    text = numbanorm.explain(function, x, *given, weight=np.zeros(SHAPE[2 if norm in GIVEN and norm != "group_norm" else 1]),
                             weight_offset=1.0, **OWN.get(norm, {}))  # fmt: skip
    assert text.startswith("cpu")
