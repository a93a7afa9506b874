"""Any shape, type, memory, parameters and numbers: the oracle's values, and the laws, to the bit where they hold so.

The tables of the other tests name what is known to be hard; here hypothesis draws what nobody thought of. The same examples
come in every run. NUMBANORM_EXAMPLES=2000 asks for so many of each test, and for other ones each time:

    NUMBANORM_EXAMPLES=2000 python -m pytest tests/numerics/test_properties.py

A failure prints the smallest example that fails; no database of examples is kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import cases
import close
import numba
import numpy as np
import oracle
from cases import ALL_METHODS, DTYPES, METHODS, MODES, Arguments, Case, call, call_backward, needs_long_double
from close import check_mode, check_statistics
from hostile import KINDS
from hostile import numbers as hostile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, possible
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]

ASKED = os.environ.get("NUMBANORM_EXAMPLES")


def examples(count: int) -> Callable[[Any], Any]:
    """So many in every run, always the same; or as many as the environment asks for, always others."""
    return settings(
        max_examples=int(ASKED or count),
        derandomize=ASKED is None,
        deadline=None,  # the first call of a kernel compiles it
        database=None,
        print_blob=ASKED is not None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


dtypes = st.sampled_from(DTYPES)
methods = st.sampled_from(ALL_METHODS)
layouts = st.sampled_from(sorted(LAYOUTS))
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["normal", "constant", *KINDS])
NORMS = ("layer", "rms", "group", "instance", "batch")


def lengths(most: int) -> st.SearchStrategy[int]:
    """Small ones, those beside a vector, a tile, a block of rows and other powers of two, and any."""
    beside = st.builds(lambda k, d: max(1, 2**k + d), st.integers(1, 16), st.integers(-1, 1))
    return st.one_of(st.integers(1, 9), beside, st.integers(1, 3000)).map(lambda n: min(n, most))


@st.composite
def shapes(draw: st.DrawFn, axes: int, largest: int) -> list[int]:
    """Axes of no more elements than `largest`, the long one anywhere."""
    found, left = [], largest
    for _ in range(draw(st.integers(axes, 5))):
        found.append(draw(lengths(left)))
        left //= found[-1]
    return draw(st.permutations(found))


@st.composite
def problems(draw: st.DrawFn, norms: tuple[str, ...] = NORMS, largest: int = 6000, training: bool | None = None) -> Case:
    """A norm and a shape of which it has a variance."""
    norm = draw(st.sampled_from(norms))
    shape = draw(shapes(1 if norm in ("layer", "rms") else 2, largest))
    if norm in ("layer", "rms"):
        return Case(norm, tuple(shape), dims=draw(st.integers(1, len(shape))))
    axis, groups = draw(st.integers(0 if norm == "batch" else 1, len(shape) - 1)), 1
    if norm == "group":
        groups = draw(st.sampled_from([g for g in range(1, shape[axis] + 1) if shape[axis] % g == 0]))
    own = norm == "group" or (draw(st.booleans()) if training is None else training)
    case = Case(norm, tuple(shape), groups=groups, channel_axis=draw(st.sampled_from([axis, axis - len(shape)])), training=own)
    apart = {"group": groups, "instance": shape[0] * shape[axis], "batch": shape[axis]}[norm]
    assume(not own or case.size > apart)
    return case


@dataclass(frozen=True)
class Given:
    """What a call is given; `places` says in what memory each array lies."""

    case: Case
    a: Arguments
    dy: Array
    method: str | None
    exact: bool
    eps: float
    places: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        return {"method": self.method, "exact": self.exact, "eps": self.eps}


def numbers(kind: str, dtype: np.dtype[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    if kind == "constant":
        return np.full(shape, rng.normal(0, 1000)).astype(dtype)
    return rng.normal(1.5, 2.0, shape).astype(dtype) if kind == "normal" else hostile(kind, dtype, rng, shape)


@st.composite
def givens(draw: st.DrawFn, cases_: st.SearchStrategy[Case], mild: bool = False) -> Given:
    """Numbers of any kind, parameters of any type or none, in any memory; `mild`: numbers that hide no bit of the others."""
    case, dtype = draw(cases_), draw(dtypes)
    rng = np.random.default_rng(draw(seeds))
    kind, of_dy = ("normal", "normal") if mild else (draw(kinds), draw(kinds))
    made: dict[str, Array] = {}
    for name in case.its.parameters:
        own = draw(st.sampled_from([None, *DTYPES]))
        if own is not None:
            made[name] = np.round(rng.uniform(-2, 2, case.parameter_shape), draw(st.sampled_from([0, 9]))).astype(own)
    if not case.training:
        assume(kind not in ("cancelling", "constant"))  # of which there may be no variance
        other = numbers(kind, dtype, rng, (100, *case.parameter_shape)).astype(np.float64)
        made |= {"running_mean": other.mean(axis=0), "running_var": other.var(axis=0)}
    a = Arguments(numbers(kind, dtype, rng, case.shape), **made)
    eps = draw(st.sampled_from([1e-5, 0.0, 1e-12, 0.1, 2.0]))
    assume(case.training or (made["running_var"] + eps > 0).all())
    how = draw(methods), draw(st.sampled_from(MODES))
    return Given(case, a, numbers(of_dy, dtype, rng, case.shape), *how, eps, tuple(draw(layouts) for _ in range(6)))


def moved(a: Array | None, layout: str) -> Array | None:
    return LAYOUTS[layout](a) if a is not None and possible(layout, a) else a


def elsewhere(g: Given) -> tuple[Arguments, Array]:
    """The same values in other memory."""
    arrays = {f.name: moved(getattr(g.a, f.name), p) for f, p in zip(fields(g.a), g.places, strict=False)}
    return Arguments(**arrays), LAYOUTS[g.places[5]](g.dy) if possible(g.places[5], g.dy) else g.dy


def bits(*values: Any) -> list[Any]:
    return [None if v is None else (v.dtype, v.shape, v.tobytes()) for v in values]


def equal(found: Any, expected: Any) -> None:
    assert bits(*found) == bits(*expected)


@needs_long_double
@examples(450)
@given(givens(problems()))
def test_norm(g: Given) -> None:
    """Near the true value, or that rounded once; the same bits from any memory, and into any."""
    y, stats = call(g.case, g.a, **g.options, return_stats=True)
    truth = cases.expected(g.case, g.a, g.eps)
    check_mode(y, truth, g.exact, plain=g.a.weight is None and g.a.bias is None)
    if g.case.training:
        check_statistics(stats, truth, g.eps)
    a, _ = elsewhere(g)
    equal(call(g.case, a, **g.options, return_stats=True)[1], stats)
    equal([call(g.case, a, **g.options)], [y])
    for out in (g.a.x.copy(), LAYOUTS["strided"](g.a.x), np.asfortranarray(g.a.x)):
        assert call(g.case, replace(a, x=out), **g.options, out=out) is out
        equal([out], [y])


@needs_long_double
@examples(400)
@given(givens(problems()), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_gradients(g: Given, needs: tuple[bool, bool, bool]) -> None:
    """As the norm; and each of them whatever others are asked for."""
    _, stats = call(g.case, g.a, **g.options, return_stats=True)
    assume(np.isfinite(stats.rstd).all())  # else they are nan and infinities, of which only the place is known
    found = call_backward(g.case, g.a, g.dy, stats, exact=True)
    truth = cases.expected_gradients(g.case, g.a, g.dy, g.eps)
    # where the type has all its digits
    assume(g.dy.dtype != np.float64 or all(((t.terms == 0) | (t.terms > 2.0**-960)).all() for t in truth))
    cases.check_gradients(found, truth)
    a, dy = elsewhere(g)
    equal(call_backward(g.case, a, dy, stats, exact=True), found)
    some = call_backward(g.case, g.a, g.dy, stats, needs=needs, exact=True)
    for v, expected, wanted in zip(some, found, needs, strict=False):
        assert v is None if not wanted else np.array_equal(v, expected)  # 0 has either sign
    for name in ("x", "dy"):
        own = {"x": g.a.x.copy(), "dy": g.dy.copy()}
        dx, *sums = call_backward(g.case, replace(g.a, x=own["x"]), own["dy"], stats, out=own[name], exact=True)
        assert dx is own[name]
        equal([dx, *sums], found)


@needs_long_double
@examples(150)
@given(
    givens(problems(("instance", "batch"), training=True), mild=True),
    st.tuples(dtypes, dtypes),
    st.sampled_from([0.0, 0.1, 0.25, 1.0, None]),
    st.sampled_from(["torch", "keras"]),
)
def test_running_statistics(g: Given, own: Any, momentum: float | None, convention: str) -> None:
    """One step, in buffers of any type and memory, where momentum=None is after three others; and y is as without."""
    case, axis = g.case, g.case.channel_axis % len(g.case.shape)
    rng = np.random.default_rng(case.size)
    old = [rng.uniform(0.5, 2.0, case.parameter_shape).astype(d) for d in own]
    buffers = [v.copy() if p == "read_only" else moved(v.copy(), p) for v, p in zip(old, g.places, strict=False)]
    count = np.array(3)
    tracked = {"momentum": momentum, "convention": convention, "num_batches_tracked": count}
    y = call(case, replace(g.a, running_mean=buffers[0], running_var=buffers[1]), **tracked, **g.options)
    equal([y], [call(case, g.a, **g.options)])
    assert count == 4
    by_channel = np.moveaxis(g.a.x, axis, 1)
    three = by_channel.reshape(by_channel.shape[0], case.shape[axis], -1)
    share = np.longdouble(0.25 if momentum is None else momentum)
    share = 1 - share if convention == "keras" and momentum is not None else share
    batch = close.of_batch(case.norm, three, ddof=1 if convention == "torch" else 0)
    for new, before, of_batch in zip(buffers, old, batch, strict=True):
        assert new is not None
        if case.norm == "instance" and new.dtype == np.float64:  # of many samples, whose mean is a sum too
            true = (1 - share) * before + share * of_batch
            assert oracle.relative_error(new, true, np.abs(before) + np.abs(of_batch)) <= close.STATISTICS
        else:
            close.check_step(new.astype(before.dtype), before, of_batch, share, g.method)


@needs_long_double
@examples(200)
@given(st.data(), shapes(1, 6000), dtypes, methods, layouts, kinds, seeds)
def test_moments_of_any_axes(
    data: st.DataObject, shape: list[int], dtype: np.dtype[Any], method: str | None, layout: str, kind: str, seed: int
) -> None:
    """Near the definition, the same bits from any memory; and two parts together are near the whole."""
    axes = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True), label="axes"))
    x = numbers(kind, dtype, np.random.default_rng(seed), tuple(shape))
    found = numbanorm.moments(x, axes, method=method)
    count, mean, m2 = close.definition(x, axes)
    assert found.count == count
    assert oracle.relative_error(found.mean, mean, np.sqrt(m2 / count)) <= close.STATISTICS
    assert oracle.relative_error(found.m2, m2) <= close.STATISTICS
    assert close.same(numbanorm.moments(moved(x, layout), axes, method=method), found)
    if axes and kind == "normal":
        cut = x.shape[axes[0]] // 3
        parts = (numbanorm.moments(v, axes, method=method) for v in np.split(x, [cut], axis=axes[0]))
        together = sum(parts, numbanorm.Moments())
        assert together.count == count
        assert oracle.relative_error(together.mean, mean, np.sqrt(m2 / count)) <= close.STATISTICS
        assert oracle.relative_error(together.m2, m2, mean * mean) <= close.STATISTICS


# --- laws, of norms and gradients alike: (y, mean, rstd, dx, dweight, dbias) -------------------------------------------------


def all_of(g: Given, case: Case | None = None, **changed: Array) -> list[Array]:
    """What a case gives, with other arrays or not."""
    dy, case = changed.pop("dy", g.dy), g.case if case is None else case
    a = replace(g.a, **changed)
    y, stats = call(case, a, **g.options, return_stats=True)
    return [y, *stats, *call_backward(case, a, dy, stats)]


def flat(found: list[Array]) -> list[Any]:
    """In whatever shape."""
    return [v.reshape(-1) for v in found]


@examples(80)
@given(givens(problems(("instance",), training=True)))
def test_groups_of_one_channel_are_instance_norm(g: Given) -> None:
    group = replace(g.case, norm="group", groups=g.case.shape[g.case.channel_axis])
    equal(all_of(g, group), all_of(g))


@examples(80)
@given(givens(problems(("instance",), training=True)))
def test_batch_of_one_is_instance_norm(g: Given) -> None:
    case = replace(g.case, shape=(1, *g.case.shape[1:]))
    found = [all_of(g, replace(case, norm=norm), x=g.a.x[:1], dy=g.dy[:1]) for norm in ("batch", "instance")]
    equal(*map(flat, found))


@examples(80)
@given(givens(problems(("group",))))
def test_one_group_is_layer_norm_of_the_sample(g: Given) -> None:
    """Of exact y and statistics, where the channels come first; layer norm has a weight for each element, whose gradients are
    other sums."""
    assume(g.case.channel_axis in (1, 1 - len(g.case.shape)))
    shape = [-1, *[1] * (len(g.case.shape) - 2)]
    each = {
        name: np.broadcast_to(p.reshape(shape), g.case.shape[1:])
        for name, p in (("weight", g.a.weight), ("bias", g.a.bias))
        if p is not None
    }
    g, group, layer = replace(g, exact=True), replace(g.case, groups=1), Case("layer", g.case.shape, dims=len(shape))
    equal(flat(all_of(g, group)[:3]), flat(all_of(g, layer, **each)[:3]))


@examples(80)
@given(givens(problems(("group", "instance", "batch"))), st.data())
def test_channels_may_be_moved(g: Given, data: st.DataObject) -> None:
    """A view with the channels elsewhere has the bits of its copy."""
    first = 0 if g.case.norm == "batch" else 1
    axis = data.draw(st.integers(first, len(g.case.shape) - 1), label="axis")
    views = [np.moveaxis(v, g.case.channel_axis, axis) for v in (g.a.x, g.dy)]
    case = replace(g.case, shape=views[0].shape, channel_axis=axis)
    equal(all_of(g, case, x=views[0], dy=views[1]), all_of(g, case, x=views[0].copy(), dy=views[1].copy()))


@examples(100)
@given(givens(problems(), mild=True))
def test_negated(g: Given) -> None:
    """Rounding is symmetric: with x and bias (and the mean that is given) y changes its sign, and so does dweight."""
    turned = {k: -getattr(g.a, k) for k in ("x", "bias", "running_mean") if getattr(g.a, k) is not None}
    y, mean, rstd, dx, dweight, *dbias = all_of(g)
    assume(np.isfinite(y.astype(np.float64)).all())
    expected = [-y, None if mean is None else -mean, rstd, dx, -dweight, *dbias]
    for found, value in zip(all_of(g, **turned), expected, strict=True):
        assert found is value is None or np.array_equal(found, value)  # 0 has either sign


@examples(100)
@given(givens(problems(("layer", "rms", "group", "instance"), training=True)), st.data())
def test_a_sample_alone_is_the_sample_in_the_batch(g: Given, data: st.DataObject) -> None:
    n = g.case.shape[0]
    assume(not g.case.rows or g.case.dims < len(g.case.shape))
    start = data.draw(st.integers(0, n - 1), label="start")
    part = slice(start, data.draw(st.integers(start + 1, n), label="stop"))
    case = replace(g.case, shape=(part.stop - start, *g.case.shape[1:]))
    assume(case.norm != "group" or case.size > case.groups)
    alone, together = all_of(g, case, x=g.a.x[part], dy=g.dy[part]), all_of(g)
    equal(alone[:4], [None if v is None else v[part] for v in together[:4]])


@examples(60)
@given(givens(problems(largest=150_000), mild=True))
def test_threads(g: Given) -> None:
    everyone = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone = all_of(g)
    finally:
        numba.set_num_threads(everyone)
    equal(all_of(g), alone)


@examples(60)
@given(st.integers(1, 12), st.integers(1, 5), dtypes, st.sampled_from(METHODS), seeds)
def test_adding_a_constant_changes_nothing(power: int, rows: int, dtype: np.dtype[Any], method: str, seed: int) -> None:
    """Where x + c is exact, and so is the mean: of small integers, whose number is a power of two. One read of x has other
    squares, and the float32 of the mean another low part."""
    constant = 2.0 ** {"bfloat16": 7, "float16": 10, "float32": 20, "float64": 20}[dtype.name]
    x = np.random.default_rng(seed).integers(0, 100, (rows, 2**power)).astype(dtype)
    moved = (x.astype(float) + constant).astype(dtype)
    y, again = (numbanorm.layer_norm(v, 2**power, method=method, exact=True) for v in (x, moved))
    equal([again], [y])


@examples(80)
@given(givens(problems(training=True), mild=True), st.integers(-8, 8), seeds)
def test_scaling_by_a_power_of_two_changes_no_bit(g: Given, power: int, seed: int) -> None:
    """Of y without eps, where x has bits to spare."""
    x = np.random.default_rng(seed).integers(-120, 120, g.case.shape).astype(g.a.x.dtype)
    y, scaled = (
        call(g.case, replace(g.a, x=v), eps=0.0, method=g.method, exact=g.exact) for v in (x, x * x.dtype.type(2.0**power))
    )
    assert np.array_equal(np.isnan(y), np.isnan(scaled))  # of a constant group
    equal([np.nan_to_num(scaled.astype(np.float64))], [np.nan_to_num(y.astype(np.float64))])


@examples(100)
@given(givens(problems(training=True)), st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_nan_and_inf_stay_in_their_group(g: Given, value: float, data: st.DataObject) -> None:
    """Where y, dx and the statistics of another group were, they are still, to the bit."""
    place = np.unravel_index(data.draw(st.integers(0, g.case.size - 1), label="place"), g.case.shape)
    x = g.a.x.copy()
    x[place] = value
    groups = np.empty(g.case.shape, int)
    for k, group in enumerate(cases.groups_of(g.case, groups)):
        group[...] = k
    others = groups != groups[place]
    clean, spoilt = all_of(g), all_of(g, x=x)
    for k in (0, 3):
        equal([spoilt[k][others]], [clean[k][others]])
    assert not np.isfinite(spoilt[0][place].astype(np.float64))
