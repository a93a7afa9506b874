"""The CUDA backend against the CPU backend, to the bit, and against the norms' definitions: what every norm is and computes.

The same tests in three rings, see `rings`: the compiled PTX in an interpreter, Numba's simulator, a GPU. A GPU runs the whole
table, and every combination. The interpreter, where each kernel takes a second to compile, runs all of float32 in the default
mode, a part of it in each other (`TURNS`), of the other types every NTH case, and not what launches the same kernels again.
The simulator, where each thread is one of the operating system, runs a few small cases. `test_every_kernel_was_launched` holds
all rings to every kernel, with wide and narrow accesses, for all types of accumulators.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import cases
import numpy as np
import power_norm
import pytest
import rings
from cases import DTYPES, FLOAT32, METHODS, Arguments, Case, check_gradients
from close import check_close
from rings import AS_CUDA, Array, Host, Ring, call, call_backward, check_same

import numbanorm
from numbanorm import Stats

RING = rings.chosen()
pytestmark = [pytest.mark.gpu] if RING == "gpu" else []
if RING == "simulator":  # whose numbers are NumPy's, and its threads have error states of their own
    pytestmark = [pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]
if RING == "none":
    pytest.skip(rings.reason_to_skip() or "", allow_module_level=True)

NTH = {"float64": 10, "float16": 20, "bfloat16": 20}  # half types differ from float32 in what loads and stores them
TURNS = 3  # the interpreter's share of float32 in modes that are not the default one
FLOAT64 = DTYPES[1]

# rows enough for the table's shortest to be walked, see schedule.walked
MANY_ROWS = (Case("layer", (2047, 5)), Case("rms", (2047, 4)))
# sums that welford joins in pairs before they are joined by units: more than 32 parts of each of 32 columns
PAIRS = [(Case("group", (1, 265, 32), groups=1, channel_axis=-1), dtype) for dtype in DTYPES[:2]]
# for the simulator: every family, in blocks of few threads, and few groups and weights, for some kernels have a block for each
SMALL = [
    Case("layer", (3, 4)), Case("rms", (2, 5), affine=False), Case("batch", (9, 3)), Case("batch", (9, 4)),
    Case("batch", (3, 1, 17)), Case("batch", (3, 1, 20)), Case("batch", (2, 1, 136)), Case("batch", (2, 1, 130)),
    Case("batch", (5, 3), training=False), Case("batch", (2, 1, 20), training=False), Case("batch", (2, 2, 2), channel_axis=-1),
    Case("instance", (2, 3, 2), channel_axis=-1), Case("instance", (2, 1, 18)), Case("instance", (2, 2, 3), training=False),
    Case("group", (2, 4, 3), groups=2),
]  # fmt: skip
SMALL_FLOAT64 = [Case("layer", (2, 5)), Case("layer", (2, 4)), Case("rms", (1, 4)), Case("batch", (9, 4)),
                 Case("batch", (3, 1, 17)), Case("batch", (2, 1, 132)), Case("group", (1, 2, 16), groups=1)]  # fmt: skip
SMALL_HALF = [Case("layer", (2, 4)), Case("batch", (3, 1, 17))]


def selected() -> list[tuple[Case, np.dtype[Any]]]:
    if RING == "simulator":
        few = {FLOAT32: SMALL, FLOAT64: SMALL_FLOAT64}
        return [*PAIRS, *((case, dtype) for dtype in DTYPES for case in few.get(dtype, SMALL_HALF))]
    every = [
        (case, dtype, RING == "gpu" or dtype == FLOAT32 or (i + 2 * d) % NTH[dtype.name] == 0)
        for i, case in enumerate(cases.TABLE + MANY_ROWS)
        for d, dtype in enumerate(DTYPES)
    ]
    return [*PAIRS, *((case, dtype) for case, dtype, taken in every if taken)]


SELECTED = selected()
every_selected = pytest.mark.parametrize(("case", "dtype"), SELECTED, ids=[f"{c.name}-{d.name}" for c, d in SELECTED])
RAN: set[tuple[str, Case, np.dtype[Any]]] = set()


def in_turn(turn: int) -> list[tuple[Case, np.dtype[Any]]]:
    """The cases for one of TURNS modes, shifted as it goes on, for the table's rows come in twos."""
    if RING != "interpreter":
        return SELECTED
    return [(c, d) for i, (c, d) in enumerate(SELECTED) if d != FLOAT32 or (c, d) in PAIRS or (i + i // TURNS) % TURNS == turn]


IN_TURN = [(method, *one) for turn, method in enumerate(METHODS) for one in in_turn(turn)]
EXACT_GRADIENTS = in_turn(2)


@pytest.fixture(scope="module")
def installed() -> Iterator[Ring]:
    with rings.installed() as ring:
        yield ring


@pytest.fixture
def ring(installed: Ring) -> Ring:
    installed.arrays.reset()
    return installed


@pytest.mark.parametrize(("method", "case", "dtype"), IN_TURN, ids=[f"{m}-{c.name}-{d.name}" for m, c, d in IN_TURN])
def test_forward(ring: Ring, case: Case, dtype: np.dtype[Any], method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """y and all statistics, the mean's low part and the sum of squares too, by a named method and exactly."""
    a = cases.arguments(case, dtype)
    rows = rings.statistics(monkeypatch)
    expected, stats = call(case, a, method=method, return_stats=True)
    found, found_stats = call(case, ring.arguments(a), method=method, return_stats=True)
    check_same((found, *found_stats), (expected, *stats))
    if case.training:
        check_same((rows["cuda"],), (rows["cpu"],))
    check_close(found.host(), cases.truth(case, dtype))
    RAN.add((method, case, dtype))


@every_selected
def test_backward(ring: Ring, case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    stats = call(case, a, return_stats=True)[1]
    twin = rings.twin(case, dtype, exact=False)
    found = near_gradients(ring, case, a, dy, stats)
    if not twin["exact"] and (case, dtype) in EXACT_GRADIENTS:
        found = call_backward(case, ring.arguments(a), ring.upload(dy), ring.stats(stats))
        check_same(found, call_backward(case, a, dy, stats))
        twin = {"exact": True}
    if twin["exact"]:
        check_gradients(tuple(g.host() for g in found), cases.true_gradients(case, dtype))
    RAN.add(("backward", case, dtype))


def near_gradients(ring: Ring, case: Case, a: Arguments, dy: Host, stats: Any) -> Any:
    """Run the default mode, and hold it to what the CPU does alike, which says whether it is float32."""
    twin = rings.twin(case, a.x.dtype, exact=False)
    with ring.launches() as launched:
        found = cases.call_backward(case, ring.arguments(a), ring.upload(dy), ring.stats(stats))
    check_same(found, cases.call_backward(case, a, dy, stats, **twin))
    near = any(k.build.__name__ == "settle_near" or any(getattr(c, "single", False) for c in k.constants) for k in launched)
    assert near is not twin["exact"]
    return found


# --- one case of each family; the simulator is content with one family of each schedule -------------------------------

FAMILIES = [
    Case("layer", (5, 49)), Case("layer", (3, 256)), Case("rms", (4, 20)), Case("batch", (9, 35)), Case("batch", (4, 3, 40)),
    Case("batch", (9, 35), training=False), Case("batch", (2, 5, 300)), Case("instance", (2, 5, 49)),
    Case("group", (3, 6, 20), groups=2), Case("group", (3, 49, 6), groups=2, channel_axis=-1),
    Case("instance", (3, 49, 5), channel_axis=-1),
]  # fmt: skip
if RING == "simulator":
    FAMILIES = [Case("layer", (3, 4)), Case("batch", (3, 1, 17)), Case("rms", (2, 4))]
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)


def agree(ring: Ring, case: Case, a: Arguments, dy: Host, method: str = METHODS[0], eps: float = 1e-5) -> list[Any]:
    """Run both backends forward and backward; y and the gradients, once they are the same."""
    with np.errstate(all="ignore"):
        y, stats = call(case, a, method=method, return_stats=True, eps=eps)
        on_ring = ring.arguments(a)
        found, found_stats = call(case, on_ring, method=method, return_stats=True, eps=eps)
        check_same((found, *found_stats), (y, *stats))
        gradients = call_backward(case, on_ring, ring.upload(dy), found_stats)
        check_same(gradients, call_backward(case, a, dy, stats))
    return [found.host(), *(g.host() for g in gradients)]


@every_selected
def test_forward_as_it_comes(ring: Ring, case: Case, dtype: np.dtype[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options: one read, and results in float32."""
    a = cases.arguments(case, dtype)
    rows = rings.statistics(monkeypatch)
    expected, stats = cases.call(case, a, return_stats=True)
    found, found_stats = cases.call(case, ring.arguments(a), return_stats=True)
    check_same((found, *found_stats), (expected, *stats))
    if case.training:
        check_same((rows["cuda"],), (rows["cpu"],))
    RAN.add(("default", case, dtype))


MODES: list[dict[str, Any]] = [{"exact": True}, {"method": "two_pass"}, {"method": "welford"}]
OF_FAMILIES = [
    (mode, case) for i, case in enumerate(FAMILIES) for k, mode in enumerate(MODES) if RING == "gpu" or k in (0, 1 + i % 2)
]  # the two methods are not told apart once statistics are there


@pytest.mark.parametrize(
    ("mode", "case"), OF_FAMILIES if RING != "simulator" else OF_FAMILIES[::2], ids=lambda v: getattr(v, "name", str(v))
)
def test_modes(ring: Ring, case: Case, mode: dict[str, Any]) -> None:
    """One read with exact results, and results in float32 of statistics by a named method: the CPU's bits."""
    a = cases.arguments(case, FLOAT32)
    expected, stats = cases.call(case, a, return_stats=True, **mode)
    found, found_stats = cases.call(case, ring.arguments(a), return_stats=True, **mode)
    check_same((found, *found_stats), (expected, *stats))


POWERS = [
    (*s, d) for i, s in enumerate(power_norm.SHAPES) for d in (FLOAT32, FLOAT64) if RING == "gpu" or d == FLOAT32 or i % 2
]


@pytest.mark.parametrize(("shape", "axis", "dtype"), POWERS, ids=str)
def test_a_norm_without_a_mean(
    ring: Ring, shape: tuple[int, ...], axis: int, dtype: np.dtype[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In runs and columns, where no norm of the package is: see `power_norm`."""
    power_norm.in_table(monkeypatch)
    if RING == "simulator" and prod(shape) > 1000:
        pytest.skip("the simulator takes minutes for so many elements")
    x, weight, dy = power_norm.arguments(shape, axis, dtype)
    y, stats = power_norm.power_norm(x, weight, axis)
    on_ring = [ring.upload(v) for v in (x, weight, dy)]
    found, found_stats = power_norm.power_norm(on_ring[0], on_ring[1], axis)
    check_same((found, found_stats.rstd), (y, stats.rstd))
    near, _ = power_norm.power_norm(x, weight, axis, exact=False)
    check_same((power_norm.power_norm(on_ring[0], on_ring[1], axis, exact=False)[0],), (near,))
    for exact in (True, False):
        gradients = power_norm.power_norm_backward(on_ring[2], on_ring[0], found_stats, on_ring[1], axis, exact)
        check_same(gradients, power_norm.power_norm_backward(dy, x, stats, weight, axis, exact))


HARD = {
    "large offset": lambda x: x + 1e8, "tiny": lambda x: x * 1e-42, "denormal float64": lambda x: x * 1e-310,
    "huge": lambda x: x * 1e38, "huge float64": lambda x: x * 1e150, "constant": lambda x: np.full_like(x, 0.1),
    "negative zero": lambda x: np.full_like(x, -0.0), "one of many": lambda x: np.eye(1, x.size, 3).reshape(x.shape),
}  # fmt: skip
# what one read or float32 has no room for, in the groups that k says
HOSTILE = {
    "far from zero": lambda x, k: x + 1e5 * k, "farther": lambda x, k: x * 1e-3 + 3e7 * k,
    "huge": lambda x, k: x * 10.0 ** (37 * k), "tiny": lambda x, k: x * 10.0 ** (-40 * k),
    "constant": lambda x, k: np.where(k, 0.1, x), "infinite": lambda x, k: np.where(k & (x > 1), np.inf, x),
    "nan": lambda x, k: np.where(k & (x > 1), np.nan, x),
}  # fmt: skip
HARD_TYPES = DTYPES if RING == "gpu" else (FLOAT32, FLOAT64)
if RING == "simulator":
    HARD, HARD_TYPES = {name: HARD[name] for name in ("large offset", "constant")}, HARD_TYPES[:1]
HARD_FAMILIES = FAMILIES[::3] if RING == "interpreter" else FAMILIES
BY = [(hard, m) for i, hard in enumerate(HARD) for k, m in enumerate(METHODS) if RING != "interpreter" or (i + k) % 2]


@pytest.mark.parametrize(("hard", "method"), BY if RING != "simulator" else BY[1::2])
@pytest.mark.parametrize("dtype", HARD_TYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("case", HARD_FAMILIES, ids=lambda c: c.name)
def test_hard_data(ring: Ring, case: Case, dtype: np.dtype[Any], hard: str, method: str) -> None:
    a = cases.arguments(case, dtype)
    with np.errstate(all="ignore"):
        a = replace(a, x=HARD[hard](a.x.astype(np.float64)).astype(dtype))
    y, *_ = agree(ring, case, a, cases.upstream(case, dtype), method)
    if hard in ("constant", "negative zero") and case.training and case.norm != "rms":
        assert case.dims == 1
        axis = -1 if case.norm == "layer" else case.channel_axis % len(case.shape)
        assert a.bias is not None
        shape = [n if k == axis % len(case.shape) else 1 for k, n in enumerate(case.shape)]
        assert np.array_equal(y, np.broadcast_to(a.bias.reshape(shape), y.shape)), "a constant is its bias"


OF_EPS = ("farther", "tiny", "constant")  # whose rstd depends on it
WITH_EPS = [(h, e) for h in HOSTILE for e in (1e-5, 0.0, 1e-42) if RING == "gpu" or h in OF_EPS or e == 1e-5]
WITH_EPS = WITH_EPS if RING != "simulator" else [pair for pair in WITH_EPS if pair[0] == "farther"]


@pytest.mark.parametrize(("hostile", "eps"), WITH_EPS)
@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES if d.itemsize < 8] if RING == "gpu" else [FLOAT32, DTYPES[3]], ids=lambda d: d.name
)
@pytest.mark.parametrize("case", HARD_FAMILIES, ids=lambda c: c.name)
def test_hostile_groups(ring: Ring, case: Case, dtype: np.dtype[Any], hostile: str, eps: float) -> None:
    """Every other row, or channel, of what is called without options; weights too large for float32's products."""
    a = cases.arguments(case, dtype)
    x = a.x.astype(np.float64)
    axis = 0 if case.norm in ("layer", "rms", "group") else case.channel_axis % x.ndim
    turn = (np.arange(x.shape[axis]) % 2).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
    with np.errstate(all="ignore"):
        a = replace(a, x=HOSTILE[hostile](x, turn).astype(dtype))
        for scale in (1.0, 1e37) if dtype == FLOAT32 and a.weight is not None else (1.0,):
            b = replace(a, weight=None if a.weight is None else (a.weight * dtype.type(scale)).astype(dtype))
            expected, stats = cases.call(case, b, return_stats=True, eps=eps)
            on_ring = ring.arguments(b)
            found, found_stats = cases.call(case, on_ring, return_stats=True, eps=eps, out=on_ring.x)
            check_same((found, *found_stats), (expected, *stats))


# every third case of float64, but that rows are no narrower than 64, or one row a group: the CPU folds no rows when it computes
# a group again
BEYOND = [
    (Case("layer", (5, 33)), 600), (Case("rms", (5, 260)), -1000), (Case("batch", (9, 70)), 600),
    (Case("batch", (3, 5, 40)), -600), (Case("group", (2, 6, 20), groups=3), 1000),
    (Case("group", (2, 9, 64), groups=8, channel_axis=-1), -1000), (Case("layer", (40, 3, 2), dims=2, affine=False), 600),
]  # fmt: skip
if RING == "simulator":
    BEYOND = [
        (Case("layer", (2, 2)), 600),
        (Case("batch", (2, 1, 17)), -1000),
        (Case("instance", (1, 2, 2), channel_axis=-1), 600),
    ]


@pytest.mark.parametrize(("case", "exponent"), BEYOND, ids=lambda c: getattr(c, "name", str(c)))
def test_float64_beyond_its_range(ring: Ring, case: Case, exponent: int) -> None:
    """Groups that are computed again, scaled, beside others, and beside an infinity; dy may be out of range too."""
    a, dy = cases.arguments(case, FLOAT64), cases.upstream(case, FLOAT64)
    for k, group in enumerate(cases.groups_of(case, x := a.x.copy())):
        group[...] = np.ldexp(group, exponent if k % 4 == 1 else 0)
        if k % 4 == 2:
            group[(0,) * group.ndim] = np.inf
    a = replace(a, x=x)
    with np.errstate(all="ignore"):
        for eps, method in ((0.0, METHODS[0]), (1e-5, METHODS[1]))[RING == "simulator" :]:
            y, stats = call(case, a, method=method, return_stats=True, eps=eps)
            on_ring = ring.arguments(a)
            found = call(case, on_ring, method=method, return_stats=True, eps=eps, out=on_ring.x)
            check_same((found[0], *found[1]), (y, *stats))
        for scale in (0, 900)[RING == "simulator" :]:
            on_ring, upstream = ring.arguments(a), ring.upload(np.ldexp(dy, scale))
            gradients = call_backward(case, a, np.ldexp(dy, scale), stats)
            out = upstream if scale else None
            check_same(call_backward(case, on_ring, upstream, ring.stats(stats), out=out), gradients)


OUTSIDE = [(v, m) for v in (np.nan, np.inf, -np.inf) for m in METHODS]
OUTSIDE = {"gpu": OUTSIDE, "interpreter": [OUTSIDE[0], OUTSIDE[5]], "simulator": OUTSIDE[3:4]}[RING]


@pytest.mark.parametrize(("value", "method"), OUTSIDE)
@every_family
def test_nan_and_inf_stay_in_their_group(ring: Ring, case: Case, value: float, method: str) -> None:
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    clean, stats = call(case, a, method=method, return_stats=True, eps=1e-5)
    x = a.x.copy()
    x[(1,) + (0,) * (x.ndim - 1)] = value
    y, dx, *_ = agree(ring, case, replace(a, x=x), dy, method)
    touched = y != clean
    assert touched.sum() == (y.size // stats.rstd.size if case.training else 1)
    assert np.array_equal(dx[~touched], call_backward(case, a, dy, stats)[0][~touched])


@every_family
def test_in_place(ring: Ring, case: Case) -> None:
    """y into x, dx into x or into dy, and into memory of the caller's."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    y, stats = call(case, a, return_stats=True)
    gradients = call_backward(case, a, dy, stats)
    for method in METHODS if case.training else METHODS[:1]:
        expected = call(case, a, method=method)
        for out in (lambda x: x, lambda x: ring.new(x.shape, x.dtype)):
            on_ring = ring.arguments(a)
            where = out(on_ring.x)
            assert call(case, on_ring, method=method, out=where) is where
            check_same((where,), (expected,))
    for which in ("x", "dy", "other"):
        on_ring, up = ring.arguments(a), ring.upload(dy)
        where = {"x": on_ring.x, "dy": up, "other": ring.new(dy.shape, dy.dtype)}[which]
        found = call_backward(case, on_ring, up, ring.stats(stats), out=where)
        assert found[0] is where
        check_same(found, gradients)
    assert y.shape == case.shape


@pytest.mark.parametrize("dtype", DTYPES if RING == "gpu" else (FLOAT32, DTYPES[2]), ids=lambda d: d.name)
@every_family
def test_unaligned(ring: Ring, case: Case, dtype: np.dtype[Any]) -> None:
    """Arrays that begin at an odd element: narrow accesses, the same bits."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    y, stats = call(case, a, return_stats=True)
    gradients = call_backward(case, a, dy, stats)
    for shifts in ((1, 1), (0, 1), (1, 0)) if RING != "simulator" and (dtype == FLOAT32 or RING == "gpu") else ((1, 1),):
        on_ring = ring.arguments(a, shift=shifts[0])
        out = ring.new(case.shape, dtype, shifts[1])
        with ring.launches() as launched:
            check_same((call(case, on_ring, out=out),), (y,))
            check_same(call_backward(case, on_ring, ring.upload(dy, shifts[1]), ring.stats(stats)), gradients)
        for kernel in launched:
            names = list(inspect.signature(kernel.build).parameters)
            # a kernel that meets none of the shifted arrays may be wide
            assert shifts != (1, 1) or "wide" not in names or not kernel.constants[names.index("wide")], kernel.name


@every_family
def test_arguments_are_only_read(ring: Ring, case: Case) -> None:
    """Arrays that call themselves read-only are taken, stay as they are, and are refused as out."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    on_ring, up = ring.arguments(a, readonly=True), ring.upload(dy, readonly=True)
    y, stats = call(case, on_ring, return_stats=True)
    call_backward(case, on_ring, up, stats)
    check_same((on_ring.x, up), (a.x, dy))
    check_same([v for v in (on_ring.weight, on_ring.bias, on_ring.running_mean) if v is not None],
               [v for v in (a.weight, a.bias, a.running_mean) if v is not None])  # fmt: skip
    with pytest.raises(ValueError, match="read-only"):
        call(case, on_ring, out=on_ring.x)
    assert y.shape == case.shape


OTHERS = [(w, b) for w, b in product(DTYPES, DTYPES) if w != b]
OTHERS = OTHERS if RING == "gpu" else OTHERS[::4] if RING == "interpreter" else OTHERS[4:5]  # float64 among them


@pytest.mark.parametrize(("of_weight", "of_bias"), OTHERS, ids=lambda d: d.name)
@pytest.mark.parametrize("case", FAMILIES[::4], ids=lambda c: c.name)
def test_parameters_of_another_type(ring: Ring, case: Case, of_weight: np.dtype[Any], of_bias: np.dtype[Any]) -> None:
    a = cases.arguments(case, FLOAT32)
    assert a.weight is not None
    assert a.bias is not None
    a = replace(a, weight=a.weight.astype(of_weight), bias=a.bias.astype(of_bias))
    _, _, dweight, dbias = agree(ring, case, a, cases.upstream(case, FLOAT32))
    assert dweight.dtype == dbias.dtype == of_weight
    for b in (a, replace(a, weight=a.weight + a.weight.dtype.type(1e-12))):  # which float32 does not have, if float64 does
        check_same((cases.call(case, ring.arguments(b)),), (cases.call(case, b),))


SOME = [
    (o, c) for i, c in enumerate(FAMILIES) for k, o in enumerate(("weight", "bias", "none")) if RING == "gpu" or (i + k) % 3
]


@pytest.mark.parametrize(("only", "case"), SOME, ids=lambda v: getattr(v, "name", v))
def test_some_of_weight_and_bias(ring: Ring, case: Case, only: str) -> None:
    a = cases.arguments(case, FLOAT32)
    a = replace(a, weight=a.weight if only == "weight" else None, bias=a.bias if only == "bias" else None)
    agree(ring, case, a, cases.upstream(case, FLOAT32))


@every_family
def test_each_gradient_for_itself(ring: Ring, case: Case) -> None:
    """The same bits, whichever others are asked for; and x is not read where dbias alone is wanted."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    stats = call(case, a, return_stats=True)[1]
    everything = call_backward(case, a, dy, stats)
    on_ring, up, of_ring = ring.arguments(a), ring.upload(dy), ring.stats(stats)
    for needs in product((False, True), repeat=len(everything)):
        if RING == "simulator" and sum(needs) != 1:
            continue
        found = call_backward(case, on_ring, up, of_ring, needs=needs)
        assert [g is not None for g in found] == list(needs)
        check_same([g for g in found if g is not None], [g for g, n in zip(everything, needs, strict=True) if n])
    if len(everything) == 3:
        nowhere = replace(on_ring, x=Array(ring.arrays, 1 << 20, case.shape, FLOAT32, None))
        if RING == "interpreter":  # which raises at the first access outside of an array
            check_same(call_backward(case, nowhere, up, of_ring, needs=(False, False, True))[2:], everything[2:])


@every_family
def test_signs_of_zeros(ring: Ring, case: Case) -> None:
    """In y and dx, whatever else is asked for."""
    a, dy = cases.with_zeros(case, FLOAT32)
    agree(ring, case, a, dy)
    stats = call(case, a, return_stats=True)[1]
    found = call_backward(case, ring.arguments(a), ring.upload(dy), ring.stats(stats), needs=(True, False, False))
    check_same(found[:1], call_backward(case, a, dy, stats)[:1])


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3, 0)])
def test_empty(ring: Ring, shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    families = [Case("layer", shape), Case("rms", shape)]
    if len(shape) > 1 and shape[1]:
        families += [Case("batch", shape), Case("batch", shape, training=False), Case("group", shape, groups=shape[1])]
    for case in families:
        channels = np.ones(case.parameter_shape, np.float32)
        given = {} if case.training else {"running_mean": channels, "running_var": channels}
        agree(ring, case, Arguments(x, channels, **given), x)


# --- running statistics ----------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "torch": {"momentum": 0.1}, "keras": {"momentum": 0.9, "convention": "keras"}, "average": {"momentum": None},
    "none of it": {"momentum": 0.0}, "all of it": {"momentum": 1.0},
}  # fmt: skip


TRACKED = DTYPES if RING == "gpu" else (FLOAT32, FLOAT64)
if RING == "simulator":
    OPTIONS, TRACKED = {name: OPTIONS[name] for name in ("keras", "average")}, TRACKED[:1]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", TRACKED, ids=lambda d: d.name)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_running_statistics(ring: Ring, norm: str, dtype: np.dtype[Any], options: str, rng: np.random.Generator) -> None:
    """The CPU's bits, for a few channels; of one channel NumPy adds the samples' statistics in another order."""
    function, own = {"batch": (numbanorm.batch_norm, "training"), "instance": (numbanorm.instance_norm, "use_input_stats")}[
        norm
    ]
    buffers = [rng.normal(size=3).astype(dtype), rng.uniform(1, 2, 3).astype(dtype), np.array(3)]
    on_ring = [ring.upload(v) for v in buffers]
    for k, shape in enumerate([(2, 3, 5), (11, 3, 4)] if RING != "simulator" else [(3, 3, 2)]):
        x = rng.normal(k + 2.0, 1.0, shape).astype(np.float32)
        before = [v.copy() for v in buffers]
        for a, (mean, var, counter) in ((x, buffers), (ring.upload(x), on_ring)):
            function(a, mean, var, **{own: True}, num_batches_tracked=counter, **OPTIONS[options], **AS_CUDA)
        check_same(on_ring, buffers)
        assert buffers[2] == 4 + k
        assert options == "none of it" or not any(np.array_equal(v, old) for v, old in zip(buffers, before, strict=True))


def test_only_one_of_the_buffers(ring: Ring, rng: np.random.Generator) -> None:
    """Is refused, and left as it was."""
    x = rng.normal(2.0, 1.0, (4, 3)).astype(np.float32)
    for which, start in ((0, np.zeros(3)), (1, np.ones(3))):
        buffers = [None, None]
        buffers[which] = ring.upload(start)
        with pytest.raises(ValueError, match="running_mean and running_var must be given together"):
            numbanorm.batch_norm(ring.upload(x), *buffers, training=True)
        check_same((buffers[which],), (start,))


# --- reproducibility -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [32, 64] if RING != "simulator" else [64])  # and 128, in all other tests
@every_family
def test_any_size_of_blocks(ring: Ring, case: Case, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    monkeypatch.setattr(ring.driver.driver, "block_threads", threads)
    rings.forget()
    for method in METHODS:
        agree(ring, case, a, dy, method)
    rings.forget()


@pytest.mark.parametrize("case", [c for c in FAMILIES if c.norm != "batch"], ids=lambda c: c.name)
def test_a_sample_alone(ring: Ring, case: Case) -> None:
    """Has the bits that it has in company."""
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    together = ring.arguments(a)
    y, stats = call(case, together, return_stats=True)
    dx = call_backward(case, together, ring.upload(dy), stats)[0]
    for k in range(case.shape[0]):
        alone = replace(together, x=ring.upload(a.x[k : k + 1]))
        one = replace(case, shape=(1, *case.shape[1:]))
        y_, stats_ = call(one, alone, return_stats=True)
        dx_ = call_backward(one, alone, ring.upload(dy[k : k + 1]), stats_)[0]
        check_same((y_, dx_), (y.host()[k : k + 1], dx.host()[k : k + 1]))


@pytest.mark.skipif(RING == "interpreter", reason="Numba's own device arrays need its simulator or a GPU")
@pytest.mark.parametrize("backend", [None, "cuda"])
def test_arrays_of_numba_and_of_the_host(ring: Ring, backend: str | None) -> None:
    """backend="cuda" carries NumPy arrays to the device and back."""
    from numba import cuda

    from numbanorm.cuda.arrays import libraries

    case = Case("layer", (3, 4))
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    y, stats = call(case, a, return_stats=True)
    expected = (y, *stats, *call_backward(case, a, dy, stats))
    put = cuda.to_device if backend is None else np.copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(libraries.KINDS, "numba", libraries.NUMBA)
        rings.forget()
        b = Arguments(*[put(v) for v in (a.x, a.weight, a.bias)])
        y, stats = call(case, b, return_stats=True, backend=backend)
        found = (y, *stats, *call_backward(case, b, put(dy), stats, backend=backend))
    rings.forget()
    assert isinstance(stats, Stats)
    assert all(isinstance(v, np.ndarray) is (backend == "cuda") for v in found)
    check_same([v if backend else v.copy_to_host() for v in found], expected)


ROWS = [c for c in FAMILIES if c.norm in ("layer", "rms", "group")]
CUTS = [("FEW", 0), ("FEW", 1 << 40), ("MOST_HELD", 0)]


@pytest.mark.parametrize(("name", "value"), CUTS)
@pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)
def test_however_rows_are_cut(ring: Ring, case: Case, name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are walked where there are enough of them, and held where they are short; of what is enough no bit depends."""
    from numbanorm.cuda.families import held, walk
    from numbanorm.cuda.schedule import rows as cut

    monkeypatch.setattr(cut, name, value)
    rings.forget()
    with ring.launches() as launched:
        agree(ring, case, cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32))
    rings.forget()
    seen = {kernel.build for kernel in launched}
    assert (walk.rows_gradients in seen) == (value == 0 and name == "FEW" and case.norm != "group")
    assert (held.rows_forward in seen) == (name != "MOST_HELD" and case.channel_axis == 1)
    RAN.add((name + str(value), case, FLOAT32))


def test_every_kernel_was_launched(ring: Ring) -> None:
    """Each that there is, and in each variant of its accesses (wide), numbers (arithmetic) and norms (center)."""
    from numbanorm.cuda.families import held, walk, walked, write

    if len(RAN) < len(IN_TURN) + 2 * len(SELECTED) + len(CUTS) * len(ROWS):
        pytest.skip("only some of the table's tests were selected, or passed")
    launched = ring.driver.launched
    for build in rings.kernels():
        variants = [k.constants for k in launched if k.build is build]
        assert variants, f"{build.__name__} was never launched"
        names = list(inspect.signature(build).parameters)
        for name, values in (("wide", {False, True}), ("center", {False, True})):
            if name in names:
                assert {v[names.index(name)] for v in variants} == values, f"{name} of {build.__name__}"
        if "arithmetic" in names:
            kinds = {(v[names.index("arithmetic")].parts, v[names.index("arithmetic")].single) for v in variants}
            walks = build in (walk.rows_gradients, walked.join_rows)
            expected = {(1, False)} if walks else {(1, False), (2, False)}
            expected |= {(1, True)} if walks or build in (held.rows_forward, write.apply_runs) else set()
            assert kinds == expected, build.__name__
