"""Parameters in other shapes than a norm's own, and weights that something is added to: the definition, and what they equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from cases import DTYPES, MODES, needs_long_double
from close import check_mode, identical
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


# norm, shape of x, arguments beside x, axes that share a mean, shapes of weights with as many axes as the oracle's x
SPREAD: list[tuple[str, tuple[int, ...], dict[str, Any], tuple[int, ...], list[tuple[int, ...]]]] = [
    ("layer_norm", (3, 4, 20), {"normalized_shape": 20}, (2,), [(3, 1, 20), (3, 4, 20), (4, 20), (1, 20), (3, 1, 1)]),
    ("rms_norm", (2, 3, 4, 20), {"normalized_shape": 20}, (3,), [(4, 20), (2, 1, 1, 20), (2, 1, 4, 20), (3, 1, 20)]),
    ("layer_norm", (2, 3, 4, 5), {"normalized_shape": (4, 5)}, (2, 3), [(2, 1, 4, 5), (3, 1, 5), (2, 3, 4, 5)]),
    ("layer_norm", (3, 90, 100), {"normalized_shape": 100}, (2,), [(3, 1, 100), (90, 1)]),
    ("batch_norm", (3, 4, 20), {"training": True}, (0, 2), [(3, 4), (3, 1), (1, 4)]),
    ("batch_norm", (3, 5, 4), {"training": True, "channel_axis": -1}, (0, 1), [(3, 4), (3, 1)]),
    ("batch_norm", (6, 4), {"training": True}, (0,), [(6, 4)]),
    ("instance_norm", (3, 4, 20), {}, (2,), [(3, 4), (3, 1)]),
    ("instance_norm", (3, 5, 7, 4), {"channel_axis": -1}, (1, 2), [(3, 4)]),
    ("group_norm", (3, 4, 20), {"num_groups": 2}, (2, 3), [(3, 4), (3, 1)]),
    ("group_norm", (3, 6, 4), {"num_groups": 2, "channel_axis": -1}, (1, 3), [(3, 4)]),
]  # fmt: skip
every_spread = pytest.mark.parametrize(
    "case", [(*row[:4], w) for row in SPREAD for w in row[4]], ids=lambda c: f"{c[0]}-{c[1]}-{c[4]}".replace(" ", "")
)


def in_full(norm: str, p: Array, shape: tuple[int, ...], options: dict[str, Any]) -> Array:
    """A parameter in the shape in which it broadcasts against x, of which group norm has its channels in two axes."""
    if not NORMS[norm].channels:
        return p.reshape((1,) * (len(shape) - p.ndim) + p.shape)
    axis = options.get("channel_axis", 1) % len(shape)
    p = p.reshape((1,) * (2 - p.ndim) + p.shape)
    full = [1] * len(shape)
    full[0], full[axis] = p.shape
    if norm == "group_norm":
        groups = options["num_groups"]
        full[axis : axis + 1] = (groups, p.shape[1] // groups) if p.shape[1] > 1 else (1, 1)
    return p.reshape(full)


def split(norm: str, a: Array, options: dict[str, Any]) -> Array:
    """x as the oracle sees it: group norm's channels have two axes."""
    if norm != "group_norm":
        return a
    axis, groups = options.get("channel_axis", 1) % a.ndim, options["num_groups"]
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


@needs_long_double
@every_mode
@every_spread
def test_spread_parameters_are_the_definition(case: Any, exact: bool, rng: np.random.Generator) -> None:
    norm, shape, options, axes, own = case
    for dtype in DTYPES[:1] if shape[1] > 50 else DTYPES:
        x, dy = (rng.normal(0.5, 2, shape).astype(dtype) for _ in range(2))
        weight, bias = (rng.uniform(0.5, 2, own).astype(np.float32) for _ in range(2))
        affine = {"weight": weight} if norm == "rms_norm" else {"weight": weight, "bias": bias}
        y, stats = getattr(numbanorm, norm)(x, **options, **affine, return_stats=True, exact=exact)
        eps = (2.0**-52 if dtype == np.float64 else 2.0**-23) if norm == "rms_norm" else 1e-5
        wide, w = oracle.widen(split(norm, x, options)), oracle.widen(in_full(norm, weight, shape, options))
        b = oracle.widen(in_full(norm, bias, shape, options)) if "bias" in affine else oracle.Long(0)
        true = oracle.normalize(wide, axes, eps, w, b, norm != "rms_norm")
        fields = {f: np.broadcast_to(getattr(true, f), wide.shape).reshape(shape) for f in ("y", "weight", "terms", "largest")}
        check_mode(y, true._replace(**fields), exact)
        function = getattr(numbanorm, f"{norm}_backward")
        found = function(dy, x, **options, stats=stats, weight=weight, exact=exact)
        dys = oracle.widen(split(norm, dy, options))
        g = oracle.differentiate(dys, wide, axes, eps, w, w.shape, norm != "rms_norm")
        # of float64 dx the constants are rounded where samples share statistics, as those of `standardize_backward`
        most = {"float64": 6.0 if norm == "batch_norm" else 2.5, "float32": 4.0}.get(dtype.name, 1.01)
        scale = g.dx.terms.reshape(shape)
        measure = oracle.eps_error if dtype == np.float64 else oracle.ulp_error
        assert measure(found[0], g.dx.value.reshape(shape), scale) <= most
        for name, got, t in zip(("dweight", "dbias"), found[1:], (g.dweight, g.dbias), strict=False):
            assert got.shape == weight.shape, name
            assert got.dtype == weight.dtype, name
            # rounded to float32 at the end, and in float32 eight terms at a time before
            assert (np.abs(got - t.value.reshape(own)) <= (5 * 2.0**-24) * t.terms.reshape(own)).all(), name


def blocks(shape: tuple[int, ...], own: tuple[int, ...], n: int) -> list[Any]:
    """Where the parameters of each place of the leading axes are, and the rows that have them."""
    full = np.broadcast_to(np.arange(np.prod(own[:n], dtype=int)).reshape(own[:n]), shape[:n])
    return [(np.unravel_index(k, own[:n]), full == k) for k in range(full.max() + 1)]


@every_mode
@pytest.mark.parametrize("masked", [False, True], ids=["all", "where"])
@pytest.mark.parametrize(("shape", "own"), [((3, 4, 20), (3, 1, 20)), ((3, 4, 20), (3, 4, 20)), ((3, 90, 100), (3, 1, 100))])
def test_rows_have_the_bits_of_the_norm_of_those_alone(shape: Any, own: Any, masked: bool, exact: bool, rng: Any) -> None:
    x, dy, weight = (rng.normal(size=s).astype(np.float32) for s in (shape, shape, own))
    where = rng.random(shape) < 0.8 if masked else None
    y, stats, (dx, dweight, _) = both("layer_norm", x, dy, weight, weight, (shape[-1],), exact=exact, where=where)
    z, *_ = both("layer_norm", x.copy(), dy, weight, weight, (shape[-1],), exact=exact, where=where)
    identical(y, z, "again")
    for place, rows in blocks(shape, own, 2):
        w, kept = np.ascontiguousarray(weight[place]), None if where is None else where[rows]
        alone, s, (d, of_weight, _) = both("layer_norm", x[rows], dy[rows], w, w, (shape[-1],), exact=exact, where=kept)
        identical(y[rows], alone, "y")
        identical(dx[rows], d, "dx")
        identical(stats.rstd[rows], s.rstd, "rstd")
        if rows.sum() == 1 or shape[1] > 50:  # of the others sums are taken in another order
            identical(dweight[place], of_weight, "dweight")
        if kept is not None:
            np.testing.assert_array_equal(stats.count[rows], s.count)


@every_mode
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("norm", ["batch_norm", "instance_norm", "group_norm"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "given"])
def test_samples_with_the_same_parameters(norm: str, axis: int, own: bool, exact: bool, rng: np.random.Generator) -> None:
    """y has the bits of the norm with that one weight, in place too, and running statistics are updated as ever."""
    shape = (3, 4, 30) if axis == 1 else (3, 30, 4)
    x, dy = rng.normal(3, 2, shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    weight, bias = rng.normal(size=(2, 4)).astype(np.float32)
    given: dict[str, Any] = {"num_groups": 2} if norm == "group_norm" else {NORMS[norm].own: own}
    if norm == "group_norm" and not own:
        return
    results = []
    for w, b in ((weight, bias), (np.tile(weight, (3, 1)), np.tile(bias, (3, 1)))):
        running = {"running_mean": np.ones(4), "running_var": np.full(4, 2.0)} if NORMS[norm].own else {}
        out = x.copy()
        kind = {"channel_axis": axis, "exact": exact} | given
        y, stats = getattr(numbanorm, norm)(out, weight=w, bias=b, return_stats=True, out=out, **running, **kind)
        assert y is out
        found = getattr(numbanorm, f"{norm}_backward")(dy, x, stats=stats, weight=w, **kind)
        results.append((y, *stats, *running.values(), *found))
    (*plain, dx, dweight, dbias), (*spread, dz, of_weight, of_bias) = results
    for one, two in zip(plain, spread, strict=True):
        identical(one, two, "y, statistics, running statistics")
    np.testing.assert_allclose(dz, dx, rtol=1e-5, atol=1e-5)  # the constants come from sums in another order
    np.testing.assert_allclose(of_weight.sum(0), dweight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_bias.sum(0), dbias, rtol=1e-5, atol=1e-5)


def test_samples_of_what_a_mask_lets_in(rng: np.random.Generator) -> None:
    """nan where nothing counts reaches nobody, and a channel of which nothing counts is the bias."""
    x, dy = rng.normal(size=(2, 3, 4, 8))[:, :, :, :7].copy().reshape(2, 3, 28), rng.normal(size=(3, 28))
    x, dy = x.reshape(2, 3, 28), np.broadcast_to(dy, (2, 3, 28)).copy()
    where = rng.random((2, 3, 28)) < 0.7
    where[:, 1] = False
    weight, bias = rng.normal(size=(2, 2, 3))
    out = []
    for hole in (np.nan, 7.0):
        a, d = (np.where(where, v, hole) for v in (x, dy))
        y, stats = numbanorm.batch_norm(a, weight=weight, bias=bias, training=True, where=where, return_stats=True)
        found = numbanorm.batch_norm_backward(d, a, stats, weight, where=where)
        assert (found[0][~where] == 0).all()
        identical(y[:, 1], np.repeat(bias[:, 1], 28).reshape(2, 28), "bias")
        out.append((y[where], *found))
    for one, two in zip(*out, strict=True):
        identical(one, two, "nan")
    plain, _ = numbanorm.batch_norm(np.where(where, x, 0), training=True, where=where, return_stats=True)
    np.testing.assert_allclose(out[0][0], (plain * weight[..., None] + bias[..., None])[where], rtol=1e-13, atol=1e-13)


def test_spread_parameters_that_are_refused_and_explained() -> None:
    x = np.ones(SHAPE, np.float32)
    for shape in ((4, 5), (3, 1, 5), (4, 6, 4)):
        with pytest.raises(ValueError, match=r"weight must have shape \(5,\): .* a shape that broadcasts to \(4, 6, 5\)"):
            numbanorm.layer_norm(x, 5, np.ones(shape))
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\): .* a shape that broadcasts to \(4, 6\)"):
        numbanorm.group_norm(x, 2, None, np.ones((4, 5)))
    text = numbanorm.explain(numbanorm.layer_norm, x, 5, np.ones((4, 1, 5)))
    assert "parameters of shape (4, 1, 5) spread over rows or samples (4, 6)" in text
    empty = np.ones((0, 6, 5), np.float32)
    y, stats = numbanorm.layer_norm(empty, 5, np.ones((6, 5)), return_stats=True)
    dx, dweight, _ = numbanorm.layer_norm_backward(y, empty, 5, stats, np.ones((6, 5)))
    assert dx.shape == (0, 6, 5)
    identical(dweight, np.zeros((6, 5)), "nothing")
