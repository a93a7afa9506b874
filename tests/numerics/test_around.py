"""What stands around a norm, in its passes: the bits of NumPy's operations and the norm, one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import oracle
import pytest
from cases import DTYPES, FLOAT32, Case, needs_long_double
from close import FLOAT64_EPS, ROUNDED_ONCE, WITH_PARAMETERS, identical
from numpy.typing import NDArray

import numbanorm as nn
from numbanorm import reference

Array = NDArray[Any]

FLOAT64, FLOAT16, BFLOAT16 = (next(d for d in DTYPES if d.name == name) for name in ("float64", "float16", "bfloat16"))
# kernels are compiled for each dtype, arithmetic and family, 5 s each: the plain run has those of one, for all shapes
OTHERS = [
    ("layer", (7, 300), FLOAT32, True),
    ("layer", (7, 300), FLOAT64, False),
    ("layer", (7, 300), FLOAT16, False),
    ("layer", (7, 300), BFLOAT16, False),
    ("rms", (5, 40), FLOAT32, False),
    ("group", (2, 4, 5, 5), FLOAT32, False),
    ("batch", (9, 3, 200), FLOAT32, False),
    ("batch", (40, 5), FLOAT32, False),
]
ACTIVATIONS: list[Any] = ["relu", "relu6", "leaky_relu", ("leaky_relu", 0.3)]


ALONE = [{"residual": 1}, {"addend": 1}, {"activation": "relu"}, {"residual": 1, "activation": "relu"}]


def drawn(shape: tuple[int, ...], dtype: Any, n: int) -> list[Array]:
    """n arrays, of which the first has a mean."""
    rng = np.random.default_rng([*shape, n])
    return [(rng.normal(1.5 * (k == 0), 2.0, shape)).astype(dtype) for k in range(n)]


def activated(v: Array, activation: Any) -> Array:
    """From the definitions: NumPy's own maximum, minimum and product."""
    zero = v.dtype.type(0)
    if activation is None:
        return v
    if activation == "relu":
        return np.maximum(v, zero)
    if activation == "relu6":
        return np.minimum(np.maximum(v, zero), v.dtype.type(6))
    slope = 0.01 if isinstance(activation, str) else activation[1]
    return np.where(v > 0, v, v * v.dtype.type(slope))


def passed(dy: Array, y: Array, activation: Any) -> Array:
    """The gradient before the activation, from the definitions; where y is nan it passes, as in torch."""
    zero = dy.dtype.type(0)
    if activation is None:
        return dy
    if activation == "relu":
        return np.where(y <= 0, zero, dy)
    if activation == "relu6":
        return np.where((y <= 0) | (y >= 6), zero, dy)
    slope = 0.01 if isinstance(activation, str) else activation[1]
    return np.where(y <= 0, dy * dy.dtype.type(slope), dy)


def told(norm: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a norm takes beside its arrays, in both directions."""
    if norm in ("layer", "rms"):
        return {"normalized_shape": shape[-1]}
    return {"num_groups": 2} if norm == "group" else {"training": True} if norm == "batch" else {}


def check(norm: str, shape: tuple[int, ...], dtype: Any, exact: bool, activation: Any, given: Array | None = None) -> None:
    """y, h, dx, daddend and the gradients of parameters, to the bit."""
    x, r, z, dy, dr = drawn(shape, dtype, 5)
    x = x if given is None else given
    places = shape[-1] if norm in ("layer", "rms") else shape[1]
    affine = dict(zip(("weight", "bias")[: 1 if norm == "rms" else 2], drawn((places,), np.float32, 2), strict=False))
    forward, backward = getattr(nn, f"{norm}_norm"), getattr(nn, f"{norm}_norm_backward")
    has_sum, own = norm in ("layer", "rms", "group"), told(norm, shape)
    with np.errstate(all="ignore"):
        h = x + r if has_sum else x
        plain, stats = forward(h, **own, **affine, exact=exact, return_stats=True)
        y = activated(plain + z, activation)
    before = {"residual": r, "return_residual": True} if has_sum else {}
    found, *sums, found_stats = forward(
        x, **own, **affine, exact=exact, return_stats=True, addend=z, activation=activation, **before
    )
    identical(found, y, "y")
    for s in sums:
        identical(s, h, "h")
    identical(found_stats.rstd, stats.rstd, "rstd")
    with np.errstate(all="ignore"):
        dz = passed(dy, y, activation)
        dx, *rest = backward(dz, h, stats=stats, weight=affine["weight"], exact=exact, **own)
        dx = dx + dr if has_sum else dx
    around = {} if activation is None else {"y": y, "activation": activation}
    around |= {"dresidual": dr} if has_sum else {}
    found_dx, *others, daddend = backward(
        dy, h, stats=stats, weight=affine["weight"], exact=exact, return_daddend=True, **around, **own
    )
    identical(found_dx, dx, "dx")
    identical(daddend, dz, "daddend")
    for a, b in zip(others, rest, strict=True):
        identical(a, b, "parameters")


@pytest.mark.parametrize("activation", ["relu6", ("leaky_relu", 0.3)])
@pytest.mark.parametrize("shape", [(7, 300), (1, 1), (300, 5), (3, 5000), (60, 1000)], ids=str)
def test_layer_norm_has_the_bits_of_separate_calls(shape: tuple[int, ...], activation: Any) -> None:
    """Of shapes that go through the kernels in every way: rows together, spans, two threads."""
    check("layer", shape, FLOAT32, False, activation)


# dx has four roundings, each an ulp of the largest of its group's terms; the sums of eight lose 4 * 2**-24 of their terms, see
# test_gradients32
DX_ULPS, SUMS = 4.0, 4.0
# forward the sum with an addend rounds, and a slope's product, half an ulp each; backward a slope's product does, by half an
# ulp of dy, which is one of a term of twice its size at most, and the sum with dresidual by half a one
ULPS_AROUND, DX_ULPS_AROUND = 1.0, 1.5


def check_definition(case: Case, dtype: Any, exact: bool, activation: Any) -> None:
    """y, h, dx, daddend and the gradients of parameters, against long double."""
    a, dy, has_sum = cases.arguments(case, dtype), cases.upstream(case, dtype), case.norm in ("layer", "rms", "group")
    r, z, dr = drawn(case.shape, dtype, 3)
    before = {"residual": r, "return_residual": True} if has_sum else {}
    y, *h, stats = cases.call(case, a, exact=exact, return_stats=True, addend=z, activation=activation, **before)
    total = oracle.rounded(oracle.widen(a.x) + oracle.widen(r), dtype) if has_sum else oracle.widen(a.x)
    summed = replace(a, x=h[0] if has_sum else a.x)
    # float64's own sum may be the other one of two, where long double has rounded before
    assert oracle.ulp_error(summed.x, total) <= (0 if dtype.itemsize < 8 else 1)
    truth = oracle.around(cases.expected(case, summed), z, activation, dtype)
    single = dtype == FLOAT32 and not exact
    if dtype.itemsize == 8:
        assert oracle.eps_error(y, truth.y, truth.terms) <= FLOAT64_EPS + ULPS_AROUND
    else:
        assert oracle.ulp_error(y, truth.y, truth.largest) <= (WITH_PARAMETERS if single else ROUNDED_ONCE) + ULPS_AROUND
    around = {"y": y, "activation": activation, "return_daddend": True} | ({"dresidual": dr} if has_sum else {})
    dx, *sums, daddend = cases.call_backward(case, summed, dy, stats, exact=exact, **around)
    dz = oracle.passed(dy, y, activation)
    assert oracle.ulp_error(daddend, dz, 0) <= ROUNDED_ONCE
    gradients = cases.expected_gradients(case, summed, dz)
    true, scale = oracle.beside(gradients.dx, dr if has_sum else 0), np.empty(case.shape, np.longdouble)
    scale[...] = true.terms
    for group in cases.groups_of(case, scale):
        group[...] = group.max()
    error = oracle.eps_error if dtype.itemsize == 8 else oracle.ulp_error
    own = cases.FLOAT64_EPS["dx"] if dtype.itemsize == 8 else DX_ULPS if single else ROUNDED_ONCE
    assert error(dx, true.value, scale) <= own + DX_ULPS_AROUND
    digits = 2.0 ** -oracle.FORMATS[dtype.name][0]  # half an ulp of dy, which a product with a slope loses
    lost = 4 * digits if dtype.itemsize == 8 else SUMS * 2.0**-24
    for found, one in zip(sums, gradients[1:], strict=False):  # RMS norm has no bias
        assert (np.abs(oracle.widen(found) - one.value) <= (lost + digits) * one.terms).all()


@needs_long_double
@pytest.mark.parametrize("activation", ["relu6", ("leaky_relu", 0.3)])
def test_layer_norm_is_its_definition(activation: Any) -> None:
    check_definition(Case("layer", (7, 300)), FLOAT32, False, activation)


@needs_long_double
@pytest.mark.long
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_each_norm_is_its_definition(case: Any, activation: Any) -> None:
    """With the kernels of the next test."""
    norm, shape, dtype, exact = case
    check_definition(Case(norm, shape, groups=2), dtype, exact, activation)


@pytest.mark.long
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_each_norm_has_the_bits_of_separate_calls(case: Any, activation: Any) -> None:
    check(*case, activation)


def test_where_float32_has_no_room() -> None:
    """Rows of huge, equal, infinite and undefined numbers, between others, which float64 computes, or nothing does."""
    x = drawn((7, 300), FLOAT32, 1)[0]
    x[1] *= 1e30
    x[2] = 3.0
    x[3, 5], x[4, 7] = np.inf, np.nan
    x[5] = 2.0**-140
    check("layer", (7, 300), FLOAT32, False, "relu", x)


@pytest.mark.long
def test_float64_out_of_range() -> None:
    """What is computed again, scaled, is done one after the other."""
    x = drawn((7, 300), FLOAT64, 1)[0]
    x[1], x[2] = x[1] * 1e200, x[2] * 1e-200
    check("layer", (7, 300), FLOAT64, False, "relu", x)


@pytest.mark.long
@pytest.mark.parametrize("options", ALONE, ids=str)
def test_each_alone(options: dict[str, Any]) -> None:
    x, r = drawn((7, 300), FLOAT32, 2)
    arrays = {name: r if value == 1 else value for name, value in options.items()}
    y = nn.layer_norm(x + r if "residual" in options else x, 300)
    y = activated(y + r if "addend" in options else y, options.get("activation"))
    identical(nn.layer_norm(x, 300, **arrays), y, "y")


def test_layouts_and_out() -> None:
    """Strided, in place, and into memory that begins elsewhere than h; past the caches or not."""
    n = 300
    x, r, z = drawn((7, n), FLOAT32, 3)
    h = x + r
    y = activated(nn.layer_norm(h, n) + z, "relu")
    options = {"residual": r, "return_residual": True, "addend": z, "activation": "relu"}
    strided = {name: np.asfortranarray(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}
    for found in (
        nn.layer_norm(np.asfortranarray(x), n, **strided),
        nn.layer_norm(x, n, out=np.empty((7, n), np.float32), **options),
    ):
        identical(found[0], y, "y")
        identical(found[1], h, "h")
    apart = np.empty(7 * n + 3, np.float32)[3:].reshape(7, n)
    assert nn.layer_norm(x, n, out=apart, **options)[0] is apart
    identical(apart, y, "y")
    own = x.copy()
    assert nn.layer_norm(own, n, out=own, **options)[0] is own
    identical(own, y, "y in place")
    assert nn.layer_norm(x[:0], n, residual=r[:0], return_residual=True)[1].shape == (0, n)


def test_gradients_that_are_not_all_wanted() -> None:
    n = 300
    x, dy = drawn((7, n), FLOAT32, 2)
    y, stats = nn.layer_norm(x, n, return_stats=True)
    y = activated(y, "relu")
    dz = passed(dy, y, "relu")
    for needs in ((False, True, True), (True, False, False), (False, False, False)):
        *found, daddend = nn.layer_norm_backward(dy, x, n, stats, needs=needs, y=y, activation="relu", return_daddend=True)
        identical(daddend, dz, "daddend")
        for a, b in zip(found, nn.layer_norm_backward(dz, x, n, stats, needs=needs), strict=True):
            assert (a is None) is (b is None)
            if a is not None:
                identical(a, b, str(needs))
    out = dy.copy()
    dx = nn.layer_norm_backward(out, x, n, stats, needs=(True, False, False), y=y, activation="relu", out=out)[0]
    assert dx is out
    identical(dx, nn.layer_norm_backward(dz, x, n, stats, needs=(True, False, False))[0], "dx over dy")


@pytest.mark.long
def test_running_statistics() -> None:
    """Updated as without, and where they normalize there is nothing to sum."""
    x, z, dy = drawn((9, 3, 200), FLOAT32, 3)
    told = {"weight": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    states = [(np.zeros(3), np.ones(3)) for _ in range(2)]
    for training in (True, False):
        y, stats = nn.batch_norm(x, *states[0], training=training, **told, return_stats=True)
        y = np.maximum(y + z, np.float32(0))
        identical(nn.batch_norm(x, *states[1], training=training, **told, addend=z, activation="relu"), y, "y")
        np.testing.assert_array_equal(states[0], states[1])
        found = nn.batch_norm_backward(dy, x, stats, told["weight"], training=training, y=y, activation="relu")
        expected = nn.batch_norm_backward(passed(dy, y, "relu"), x, stats, told["weight"], training=training)
        for a, b in zip(found, expected, strict=True):
            identical(a, b, f"training={training}")


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32, FLOAT64], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu"])
def test_the_reference_is_the_definition(name: str, dtype: Any) -> None:
    v, dy = drawn((40, 50), dtype, 2)
    v = (v.astype(np.float64) * 3).astype(dtype)
    y = reference.activate(v, name)
    identical(y, activated(v, name), "y")
    identical(reference.gate(dy, y, name), passed(dy, y, name), "dy")
    assert np.isnan(reference.activate(np.full(1, np.nan, dtype), name).astype(np.float64)).all()


def test_explain_says_so() -> None:
    x = np.zeros((4, 8), np.float32)
    assert "stands around" in nn.explain(nn.layer_norm, x, 8, residual=x)
    stats = nn.layer_norm(x, 8, return_stats=True)[1]
    assert "stands around" in nn.explain(nn.layer_norm_backward, x, x, 8, stats, y=x, activation="relu")
    assert "stands around" not in nn.explain(nn.layer_norm, x, 8)


def test_layers() -> None:
    """A layer's calls are those of the functions, and `backward` knows what stood around."""
    x, r, z, dy, dr = drawn((7, 300), FLOAT32, 5)
    layer = nn.LayerNorm(300, activation="relu")
    affine = {"weight": layer.weight, "bias": layer.bias}
    y, h = layer(x, residual=r, return_residual=True, addend=z)
    options = {"residual": r, "addend": z, "activation": "relu", "return_residual": True, "return_stats": True}
    expected, _, stats = nn.layer_norm(x, 300, **affine, **options)
    identical(y, expected, "y")
    identical(h, x + r, "h")
    dx, dz = layer.backward(dy, dresidual=dr)
    around = {"y": y, "activation": "relu", "dresidual": dr, "return_daddend": True}
    true_dx, dweight, dbias, true_dz = nn.layer_norm_backward(dy, h, 300, stats, layer.weight, **around)
    for name, found, true in (("dx", dx, true_dx), ("dz", dz, true_dz), ("weight", layer.grad["weight"], dweight)):
        identical(found, true, name)
    identical(layer.grad["bias"], dbias, "bias")
    assert "activation='relu'" in repr(layer)
    with pytest.raises(ValueError, match="residual is for layer"):
        nn.BatchNorm1d(300)(x, residual=r)
    with pytest.raises(ValueError, match="return_residual returns"):
        layer(x, return_residual=True)
    with pytest.raises(ValueError, match="activation must be None"):
        nn.BatchNorm2d(3, activation="swish")


X = np.ones((4, 8), np.float32)
WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "return_residual returns", {"return_residual": True}),
    (TypeError, "return_residual must be", {"return_residual": 1}),
    (ValueError, "residual must have the shape of x", {"residual": X[:1]}),
    (TypeError, "addend must have the dtype of x", {"addend": X.astype(float)}),
    (ValueError, "activation must be None, one of 'relu'", {"activation": "gelu"}),
    (ValueError, "activation must be None", {"activation": ("relu", 0.5)}),
    (ValueError, "activation must have a slope", {"activation": ("leaky_relu", -0.5)}),
    (TypeError, "activation must be a number", {"activation": ("leaky_relu", "steep")}),
    (ValueError, "where and fill must be left out", {"activation": "relu", "where": X > 0}),
    (ValueError, "a weight or bias that differs", {"activation": "relu", "weight": np.ones((4, 8))}),
]


@pytest.mark.parametrize(("kind", "words", "options"), WRONG, ids=[words for _, words, _ in WRONG])
def test_wrong_arguments(kind: type[Exception], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(kind, match=words):
        nn.layer_norm(X, 8, **options)


def test_out_may_not_be_what_is_added() -> None:
    x, r = drawn((7, 300), FLOAT32, 2)
    kept = r.copy()
    with pytest.raises(ValueError, match="out must not overlap residual"):
        nn.layer_norm(x, 300, residual=r, out=r)
    with pytest.raises(ValueError, match="out must not overlap addend"):
        nn.layer_norm(x, 300, addend=r, out=r)
    np.testing.assert_array_equal(r, kept)


WRONG_GRADIENTS: list[tuple[str, dict[str, Any]]] = [
    ("y and activation must be given together", {"activation": "relu"}),
    ("y and activation must be given together", {"y": X}),
    ("dresidual is added to dx", {"dresidual": X, "needs": (False, True, True)}),
    ("y must have the shape of x", {"y": X[:1], "activation": "relu"}),
    ("where must be left out", {"dresidual": X, "where": X > 0}),
    ("a weight that differs", {"dresidual": X, "weight": np.ones((4, 8))}),
]


@pytest.mark.parametrize(("words", "options"), WRONG_GRADIENTS)
def test_wrong_arguments_of_gradients(words: str, options: dict[str, Any]) -> None:
    stats = nn.Stats(np.zeros(4), np.ones(4))
    with pytest.raises(ValueError, match=words):
        nn.layer_norm_backward(X, X, 8, stats, **options)
