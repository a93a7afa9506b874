"""Gradients in float32 on CUDA, of rows and channels: the bits of the CPU's default mode, where float32 has room and not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import cases
import numpy as np
import pytest
import rings
from cases import DTYPES, FLOAT32, Arguments, Case
from rings import Host, Ring, check_same

RING = rings.chosen()
pytestmark = [pytest.mark.gpu] if RING == "gpu" else []
if RING == "none":
    pytest.skip(rings.reason_to_skip() or "", allow_module_level=True)
if RING == "simulator":
    pytestmark = [pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]

SIMULATED = RING == "simulator"
#: wide and narrow, one tile and more, in one warp and in several, and groups that share a row
ROWS = [Case("layer", (3, 4)), Case("rms", (2, 5))] if SIMULATED else [
    Case("layer", (19, 300)), Case("layer", (9, 301)), Case("rms", (17, 64)), Case("layer", (9, 1028)), Case("rms", (8, 4095)),
    Case("layer", (3, 8192)), Case("layer", (2, 5001)),
    Case("group", (9, 40), groups=4),
]  # fmt: skip
#: runs of one part and of more, columns wide and narrow, folded and in blocks of rows, channels of groups, samples apart
CHANNELS = [Case("batch", (3, 2, 17)), Case("batch", (9, 4))] if SIMULATED else [
    Case("batch", (3, 4, 40)), Case("group", (2, 6, 19), groups=2), Case("group", (3, 4, 24), groups=2, channel_axis=-1),
    Case("batch", (40, 3)), Case("batch", (33, 64)), Case("instance", (3, 2, 300)), Case("batch", (2, 2, 4200)),
    Case("instance", (3, 70, 5), channel_axis=-1), Case("batch", (5, 3, 130), training=False),
    Case("batch", (9, 4), training=False),
]  # fmt: skip
every_case = pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)


@pytest.fixture(scope="module")
def installed() -> Iterator[Ring]:
    with rings.installed() as ring:
        yield ring


@pytest.fixture
def ring(installed: Ring) -> Ring:
    installed.arrays.reset()
    return installed


def agree(ring: Ring, case: Case, a: Arguments, dy: Host, out: str | None = None, shift: int = 0, **options: Any) -> None:
    """Hold the gradients to those of the CPU; those of rows take two launches, and one more where dx is x or dy."""
    with np.errstate(all="ignore"):
        stats = cases.call(case, a, return_stats=True, exact=True, method="two_pass")[1]
        expected = cases.call_backward(case, a, dy, stats, **options)
        on_ring, up = ring.arguments(a, shift=shift), ring.upload(dy, shift)
        where = {} if out is None else {"out": on_ring.x if out == "x" else up}
        with ring.launches() as launched:
            found = cases.call_backward(case, on_ring, up, ring.stats(stats), **where, **options)
    check_same([g for g in found if g is not None], [g for g in expected if g is not None])
    names = {kernel.build.__name__ for kernel in launched}
    if case in ROWS or case.norm in ("layer", "rms"):
        assert names == {"rows_gradients", "join_rows"} | ({"copy"} if out else set())
    else:
        assert "settle_near" in names or (not case.training and options.get("needs", (True,))[1:] == (False, False))
        assert "settle" not in names


def times(scale: float, row: slice = slice(None)) -> Callable[[Host], Host]:
    """A function that multiplies a row, or all."""

    def changed(v: Host) -> Host:
        found = v.astype(np.float64)
        found[row] *= scale
        return found.astype(v.dtype)

    return changed


def put(value: float, *at: int) -> Callable[[Host], Host]:
    """A function that puts a value in a place."""

    def changed(v: Host) -> Host:
        found = v.copy()
        found[at] = value
        return found

    return changed


def same(v: Host) -> Host:
    return v


ONE = slice(1, 2)
#: what becomes of x and of dy: sums that lose bits or overflow, in all rows or in one beside others; constants of a row that
#: have no room; and what no scale would mend
HOSTILE: dict[str, tuple[Callable[[Host], Host], Callable[[Host], Host]]] = {
    "tiny dy": (same, times(1e-40)), "huge dy": (same, times(1e30)), "a row of tiny dy": (same, times(1e-33, ONE)),
    "a row of huge dy": (same, times(1e37, ONE)), "a row of huge x": (times(1e30, ONE), same), "tiny x": (times(1e-42), same),
    "a constant row": (lambda v: put(0.1, 1)(v), same), "nan in x": (put(np.nan, 1, 0), same),
    "inf in dy": (same, put(np.inf, 1, 0)), "no dy": (same, times(0.0)), "offset": (lambda v: v + np.float32(1e6), same),
}  # fmt: skip
if SIMULATED:
    HOSTILE = {name: HOSTILE[name] for name in ("a row of huge dy", "nan in x")}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("case", ROWS[:2] + ROWS[-1:] + CHANNELS[: 10 if SIMULATED else 5], ids=lambda c: c.name)
def test_what_float32_has_no_room_for(ring: Ring, case: Case, hostile: str) -> None:
    of_x, of_dy = HOSTILE[hostile]
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    agree(ring, case, replace(a, x=of_x(a.x)), of_dy(dy))


@every_case
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.itemsize < 8], ids=lambda d: d.name)
def test_any_type_and_length(ring: Ring, case: Case, dtype: np.dtype[Any]) -> None:
    agree(ring, case, cases.arguments(case, dtype), cases.upstream(case, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_weights_of_any_type(ring: Ring, dtype: np.dtype[Any]) -> None:
    """One that float32 does not have makes the whole call exact."""
    a, dy = cases.arguments(ROWS[0], FLOAT32), cases.upstream(ROWS[0], FLOAT32)
    assert a.weight is not None
    for weight in (a.weight.astype(dtype), (a.weight.astype(np.float64) + 1e-12).astype(dtype)):
        agree(ring, ROWS[0], replace(a, weight=weight), dy)
    agree(ring, ROWS[0], replace(a, weight=None), dy)


@pytest.mark.parametrize("out", ["x", "dy"])
@every_case
def test_in_place(ring: Ring, case: Case, out: str) -> None:
    """Rows that are computed again have their x and dy yet."""
    agree(ring, case, cases.arguments(case, FLOAT32), times(1e37, ONE)(cases.upstream(case, FLOAT32)), out)


@pytest.mark.parametrize("shift", [1, 2])
@every_case
def test_unaligned(ring: Ring, case: Case, shift: int) -> None:
    agree(ring, case, cases.arguments(case, DTYPES[3]), cases.upstream(case, DTYPES[3]), shift=shift)


@pytest.mark.parametrize("case", ROWS[: 2 - SIMULATED], ids=lambda c: c.name)
def test_each_gradient_for_itself(ring: Ring, case: Case) -> None:
    a, dy = cases.arguments(case, FLOAT32), times(1e37, ONE)(cases.upstream(case, FLOAT32))
    for needs in product((False, True), repeat=case.gradients):
        if any(needs):
            agree(ring, case, a, dy, needs=needs)


@pytest.mark.skipif(SIMULATED, reason="many rows take minutes")
@pytest.mark.parametrize("rows", [2047, 2048, 4100])
def test_many_rows(ring: Ring, rows: int) -> None:
    """A leaf of the tree is 8, 16 or 32 rows, of which each block of threads has 8."""
    case = Case("layer", (rows, 12))
    agree(ring, case, cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32))
    agree(ring, case, cases.arguments(case, FLOAT32), times(1e37, ONE)(cases.upstream(case, FLOAT32)))


#: half types differ in what loads and stores them: a case of runs and one of columns
HALVES = CHANNELS if SIMULATED else [CHANNELS[0], CHANNELS[4]]
OF_TYPES = [(case, d) for d in DTYPES if d.itemsize < 8 for case in (CHANNELS if d == FLOAT32 else HALVES)]


@pytest.mark.parametrize(("case", "dtype"), OF_TYPES, ids=lambda v: v.name)
def test_channels(ring: Ring, case: Case, dtype: np.dtype[Any]) -> None:
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    agree(ring, case, a, dy)
    if dtype == FLOAT32:
        agree(ring, case, replace(a, weight=None), dy)


@pytest.mark.parametrize("case", CHANNELS[:: 9 if SIMULATED else 1], ids=lambda c: c.name)
@pytest.mark.parametrize("out", ["x", "dy"])
def test_channels_in_place(ring: Ring, case: Case, out: str) -> None:
    """A group that is computed again has its x and dy yet."""
    agree(ring, case, cases.arguments(case, FLOAT32), times(1e37, ONE)(cases.upstream(case, FLOAT32)), out)


@pytest.mark.parametrize("case", CHANNELS[:4] + CHANNELS[8:], ids=lambda c: c.name)
def test_each_gradient_of_channels(ring: Ring, case: Case) -> None:
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    for needs in product((False, True), repeat=case.gradients):
        if any(needs):
            agree(ring, case, a, dy, needs=needs)


@pytest.mark.parametrize("scale", [1e-35, 1e35, np.inf, np.nan])
@pytest.mark.parametrize("case", CHANNELS[:3], ids=lambda c: c.name)
def test_a_weight_that_float32_has_no_room_for(ring: Ring, case: Case, scale: float) -> None:
    """One channel's, which makes the whole group exact."""
    a = cases.arguments(case, FLOAT32)
    assert a.weight is not None
    weight = a.weight.astype(np.float64)
    weight[1] = scale
    agree(ring, case, replace(a, weight=weight), cases.upstream(case, FLOAT32))


@pytest.mark.skipif(SIMULATED, reason="many rows take minutes")
@pytest.mark.parametrize("rows", [2049, 4100])
def test_many_rows_of_columns(ring: Ring, rows: int) -> None:
    """A leaf of the tree is 16 or 32 rows, of which eight are added in float32."""
    case = Case("batch", (rows, 33))
    agree(ring, case, cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32))


@pytest.mark.parametrize("threads", [32, 64])
@pytest.mark.skipif(SIMULATED, reason="the simulator has blocks of its own size")
def test_any_size_of_blocks(ring: Ring, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring.driver.driver, "block_threads", threads)
    rings.forget()
    agree(ring, ROWS[0], cases.arguments(ROWS[0], FLOAT32), cases.upstream(ROWS[0], FLOAT32))
    rings.forget()
