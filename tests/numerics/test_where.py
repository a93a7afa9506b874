"""Norms of what a mask lets in: against the definition, the plain NumPy twin, and the same call without what is left out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import cases
import numba
import numpy as np
import pytest
from cases import DTYPES, MODES, Arguments, Case, call, call_backward
from close import check_mode, check_statistics, identical
from hostile import KINDS, groups_of, numbers
from numpy.typing import NDArray

import numbanorm
from numbanorm import reference

Array = NDArray[Any]

MASKS = [name for name, _ in cases.masks(Case("batch", (2, 3, 4)))]
# the reference makes an array for each operation
TABLE = [case for case in cases.TABLE if case.size <= 1 << 14 and case.training]
# one case goes with a quarter of the masks, its neighbours of the same family with the others: all of them take 15 minutes
TWINS = [(case, mask) for k, case in enumerate(TABLE) for mask in MASKS[k % 4 :: 4]]
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
    options = {"center": center, "method": method, "exact": exact}
    expected, measured = reference.forward(p, (a.x, where), (a.weight, a.bias), eps, **options)
    identical(y, expected, f"{dtype}: y")
    identical(stats.rstd, measured.rstd, f"{dtype}: rstd")
    if center:
        identical(stats.mean, measured.mean, f"{dtype}: mean")
    counts = where.reshape(p.B, p.M, p.G, -1).sum((1, 3)).reshape(p.stats_shape)
    assert stats.count.dtype == np.int64
    np.testing.assert_array_equal(stats.count, counts)
    found = call_backward(case, a, dy, stats, exact=exact)
    backward = reference.backward if exact or dtype.itemsize == 8 else reference.backward32
    dx, *of_parameters = backward(p, (a.x, where), dy, stats.mean, stats.rstd, a.weight, center=center)
    identical(found[0], dx, f"{dtype}: dx")
    kind = dtype if a.weight is None else a.weight.dtype
    for name, got, true in zip(("dweight", "dbias"), found[1:], of_parameters, strict=False):
        identical(got, reference.narrow(true, kind), f"{dtype}: {name}")


@every_mode
@pytest.mark.parametrize(("case", "mask"), TWINS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_twin(case: Case, mask: str, exact: bool) -> None:
    where = dict(cases.masks(case)).get(mask)
    if where is None:
        return
    for dtype in DTYPES:
        a, dy = masked(case, dtype, where)
        for method in (None, "two_pass"):
            check_twin(case, a, dy, method, exact)


def check_truth(case: Case, a: Arguments, dy: Array, exact: bool, eps: float | None = None) -> None:
    """y of what counts, statistics and gradients, within the bounds that hold without a mask."""
    options = {} if eps is None else {"eps": eps}
    y, stats = call(case, a, exact=exact, return_stats=True, **options)
    true, where = cases.expected(case, a, eps), np.broadcast_to(a.where, case.shape)
    fields = ("y", "terms", "largest")
    whole = true._replace(weight=np.broadcast_to(true.weight, case.shape))
    check_mode(y[where], whole._replace(**{f: getattr(whole, f)[where] for f in (*fields, "weight")}), exact, not case.affine)
    if a.x.dtype != np.float64 or eps is None:
        check_statistics(stats, true, cases.rms_eps(a.x.dtype) if eps is None and not case.its.center else eps or 1e-5)
    found = call_backward(case, a, dy, stats, exact=True)
    cases.check_gradients(found, cases.expected_gradients(case, a, dy, eps))
    assert (found[0][~where] == 0).all()
    assert not np.signbit(found[0][~where].astype(float)).any()


@cases.needs_long_double
@every_mode
@pytest.mark.parametrize("mask", MASKS)
@some_cases
def test_truth(case: Case, mask: str, exact: bool) -> None:
    where = dict(cases.masks(case)).get(mask)
    if where is not None:
        for dtype in DTYPES:
            check_truth(case, *masked(case, dtype, where), exact)


@every_mode
@every_case
def test_a_mask_of_all_changes_no_bit(case: Case, exact: bool) -> None:
    for dtype in DTYPES:
        a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
        for where in (np.ones(case.shape, bool), np.ones((1,) * len(case.shape), bool)):
            b = replace(a, where=where)
            for method in (None, "two_pass"):
                (y, stats), (z, same) = (call(case, v, method=method, exact=exact, return_stats=True) for v in (a, b))
                assert (same.count == case.size // same.rstd.size).all()
                for one, two in zip((y, *stats), (z, *same), strict=True):
                    assert (one is None and two is None) or one.tobytes() == two.tobytes()
            for one, two in zip(
                call_backward(case, a, dy, stats, exact=exact), call_backward(case, b, dy, same, exact=exact), strict=True
            ):
                assert one.tobytes() == two.tobytes()


@every_mode
@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("length", [1, 2, 15, 31, 100, 256, 257, 700, 5000])
def test_a_padded_row_has_the_bits_of_the_row(length: int, center: bool, exact: bool, rng: np.random.Generator) -> None:
    """At any amount of padding, whatever is in it."""
    norm, backward = (getattr(numbanorm, f"{'layer' if center else 'rms'}_norm{end}") for end in ("", "_backward"))
    for dtype in DTYPES:
        for padding in (1, 15, 16, 200, 256, 1111, 9000):
            x, dy = (rng.normal(100, 1, (3, length + padding)).astype(dtype) for _ in range(2))
            x[:, length:], dy[:, length:] = np.nan, np.inf
            weight = rng.normal(size=length + padding).astype(np.float32)
            where = np.arange(length + padding) < length
            for method in (None, "two_pass"):
                how = {"method": method, "exact": exact, "return_stats": True}
                y, stats = norm(x, length + padding, weight, where=where, **how)
                alone, own = norm(x[:, :length], length, weight[:length], **how)
                if length > 1:
                    assert y[:, :length].tobytes() == alone.tobytes()
                else:  # no bias: a weight is then no longer that of the group, and a zero has another sign
                    np.testing.assert_array_equal(y[:, :1], alone)
                assert stats.rstd.tobytes() == own.rstd.tobytes()
                assert (stats.count == length).all()
            found = backward(dy, x, length + padding, stats, weight, where=where, exact=exact)
            of_row = backward(dy[:, :length], x[:, :length], length, own, weight[:length], exact=exact)
            for padded, short in zip(found, of_row, strict=True):
                assert padded[..., :length].tobytes() == short.tobytes()
                assert not padded[..., length:].any()


@every_mode
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [case for n in (2, 49, 258, 1000) for case in groups_of(n)], ids=lambda c: c.name)
def test_hostile_numbers(case: Case, kind: str, exact: bool, rng: np.random.Generator) -> None:
    where = rng.random(case.shape) < 0.8
    for dtype in DTYPES:
        a, dy = masked(case, dtype, where, rubbish=False)
        a = replace(a, x=numbers(kind, dtype, rng, case.shape))
        check_twin(case, a, dy, None, exact)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
@pytest.mark.parametrize("case", [case for n in (2, 50, 300) for case in groups_of(n)], ids=lambda c: c.name)
def test_float64_beyond_its_range(case: Case, scale: float, rng: np.random.Generator) -> None:
    """Every other group is scaled, and has nan and infinities beside what counts: as the call from x / scale."""
    dtype = np.dtype(np.float64)
    where = rng.random(case.shape) < 0.8
    near, dy = masked(case, dtype, where, rubbish=False)
    power = 2.0 ** np.round(np.log2(scale))
    far = masked(case, dtype, where)[0]
    for group in cases.groups_of(case, far.x)[::2]:
        group *= power
    y, stats = call(case, near, eps=0.0, return_stats=True)
    z, of_far = call(case, far, eps=0.0, return_stats=True)
    np.testing.assert_array_equal(y[where], z[where])
    np.testing.assert_array_equal(stats.count, of_far.count)
    dx, *of_near = call_backward(case, near, dy, stats)
    of_x, *rest = call_backward(case, far, np.where(where, dy, np.nan), of_far)
    for group in cases.groups_of(case, of_x)[::2]:
        group *= power
    found, wanted = (v[np.isfinite(v)] for v in (of_x, dx))
    assert found.size == wanted.size
    for one, two in zip(rest, of_near, strict=True):  # a group of one element has rstd inf, and a weight of it nan
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(two))
    np.testing.assert_allclose(of_x, dx, rtol=1e-9, atol=1e-12)  # denormals of 1e-300 * dx lose digits


@every_mode
def test_bits_depend_on_no_thread(exact: bool, rng: np.random.Generator) -> None:
    before = numba.get_num_threads()
    try:
        for case in (Case("layer", (40, 2222)), Case("batch", (1031, 167)), Case("batch", (5, 3, 165, 67)),
                     Case("instance", (1, 3, 200, 201)), Case("group", (2, 3000, 12), groups=3, channel_axis=-1)):  # fmt: skip
            where = np.arange(case.shape[-1]) < rng.integers(0, case.shape[-1], (*case.shape[:-1], 1))
            for dtype in DTYPES:
                a, dy = masked(case, dtype, where)
                found = []
                for threads in (1, before):
                    numba.set_num_threads(threads)
                    y, stats = call(case, a, exact=exact, return_stats=True)
                    dx, dweight, dbias = call_backward(case, a, dy, stats, exact=exact)
                    found.append([v.tobytes() for v in (y, stats.mean, stats.rstd, dx, dweight, dbias)])
                assert found[0] == found[-1]
    finally:
        numba.set_num_threads(before)


@every_mode
@some_cases
def test_fill(case: Case, exact: bool, rng: np.random.Generator) -> None:
    for dtype in DTYPES:
        for _, where in cases.masks(case):
            a, _ = masked(case, dtype, where)
            y, z = call(case, a, exact=exact), call(case, a, exact=exact, fill=-0.3)
            kept = np.broadcast_to(where, case.shape)
            np.testing.assert_array_equal(z, np.where(kept, y, np.array(-0.3).astype(dtype)))
            out = np.empty((*case.shape, 2), dtype)[..., 0]
            assert call(case, a, exact=exact, fill=-0.3, out=out) is out
            np.testing.assert_array_equal(out, z)


RUNNING = {"instance": (4, 5, 6), "batch": (4, 5, 6)}


@every_mode
@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("norm", RUNNING)
def test_running_statistics(norm: str, convention: str, exact: bool, rng: np.random.Generator) -> None:
    """Those of the samples that have any; a channel of one element keeps its unbiased variance, of none both."""
    shape = RUNNING[norm]
    x, where = rng.normal(3, 2, shape), rng.random(shape) < 0.6
    where[:, 1] = where[1:, 2] = False  # none; and for instance norm those of one sample
    where[:, 3] = False
    where[2, 3, 4] = True  # one
    where[:, 4] = True  # all
    x[~where] = np.nan
    for dtype in (np.float64, np.float32):
        data, mean, var = x.astype(dtype), np.full(5, 0.5), np.full(5, 2.0)
        function = getattr(numbanorm, f"{norm}_norm")
        own = {"training": True} if norm == "batch" else {}
        _, stats = function(data, mean, var, where=where, exact=exact, convention=convention, return_stats=True, **own)
        ddof = convention == "torch"
        axes = (0, 2) if norm == "batch" else 2
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            count, wide = where.sum(axes), np.where(where, data.astype(float), np.nan)
            means, variances = np.nanmean(wide, axes), np.where(count > ddof, np.nanvar(wide, axes, ddof=ddof), np.nan)
            if norm == "instance":
                means, variances = np.nanmean(means, 0), np.nanmean(variances, 0)
        new = 0.1 if convention == "torch" else 0.9
        for found, batch, old in ((mean, means, 0.5), (var, variances, 2.0)):
            np.testing.assert_allclose(found, np.where(np.isnan(batch), old, (1 - new) * old + new * batch), rtol=1e-12)
        np.testing.assert_array_equal(stats.count, count)
        assert mean[1] == 0.5
        assert var[1] == 2.0
        assert (var[3] == 2.0) == (convention == "torch")


@every_mode
def test_running_statistics_of_all(exact: bool, rng: np.random.Generator) -> None:
    """A mask that leaves nothing out changes no bit, in its channel."""
    for norm, shape in RUNNING.items():
        x, where = rng.normal(3, 2, shape).astype(np.float32), rng.random(shape) < 0.6
        where[:, ::2] = True
        one, two = ([np.full(5, 0.5), np.full(5, 2.0)] for _ in range(2))
        function, own = getattr(numbanorm, f"{norm}_norm"), {"training": True} if norm == "batch" else {}
        function(x, *one, exact=exact, **own)
        function(x, *two, exact=exact, where=where, **own)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a[::2], b[::2])
            assert (a[1::2] != b[1::2]).all()


@every_mode
def test_given_statistics(exact: bool, rng: np.random.Generator) -> None:
    """Nothing is measured: y is that without a mask, but for what is filled; gradients leave out what it leaves out."""
    for case in cases.TABLE:
        if case.training:
            continue
        for dtype in DTYPES:
            for _, where in cases.masks(case):
                a, dy = masked(case, dtype, where)
                kept = np.broadcast_to(where, case.shape)
                y, stats = call(case, replace(a, where=None), exact=exact, return_stats=True)
                z, same = call(case, a, exact=exact, return_stats=True, fill=2.5)
                np.testing.assert_array_equal(z, np.where(kept, y, np.array(2.5).astype(dtype)))
                np.testing.assert_array_equal(call(case, a, exact=exact), y)
                assert same.count is None
                found = call_backward(case, a, dy, stats, exact=exact)
                p = case.its.planned(case.shape, case.told, case.channel_axis)
                backward = reference.backward if exact or dtype.itemsize == 8 else reference.backward32
                wanted = backward(p, (a.x, kept), dy, stats.mean, stats.rstd, a.weight, given=True)
                identical(found[0], wanted[0], f"{dtype}: dx")
                for got, true in zip(found[1:], wanted[1:], strict=True):
                    np.testing.assert_array_equal(got.ravel(), reference.narrow(true, got.dtype).ravel())


def test_an_empty_array() -> None:
    """Of groups of nothing: count 0, mean 0, rstd 0."""
    y, stats = numbanorm.layer_norm(np.ones((3, 0)), 0, where=np.ones((3, 1), bool), return_stats=True)
    assert y.shape == (3, 0)
    assert stats.count.tolist() == stats.mean.tolist() == stats.rstd.tolist() == [0, 0, 0]
    dx, dweight, _ = numbanorm.layer_norm_backward(y, y, 0, stats, where=np.ones((3, 1), bool))
    assert dx.shape == (3, 0)
    assert dweight.shape == (0,)


@pytest.mark.parametrize(
    "where", [np.array(True), np.broadcast_to(np.array([[True], [False]]), (2, 8)), np.ones((2, 8), bool).T.copy().T]
)
def test_masks_of_any_layout(where: Array, rng: np.random.Generator) -> None:
    """Read-only, broadcast, of no axes, transposed, and bytes that are not 1."""
    x = rng.normal(size=(2, 8)).astype(np.float32)
    where.setflags(write=False)
    y = numbanorm.layer_norm(x, 8, where=where)
    np.testing.assert_array_equal(y, numbanorm.layer_norm(x, 8, where=np.array(np.broadcast_to(where, x.shape))))
    twos = (np.broadcast_to(where, x.shape) * np.uint8(2)).view(bool)
    np.testing.assert_array_equal(y, numbanorm.layer_norm(x, 8, where=twos))
