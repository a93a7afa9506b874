"""What the CUDA backend's schedules tell its kernels, for any plan: no kernel runs, so plans may be larger than any memory.

A launch must be possible; its threads must cover what is to be done, once; and every part of the work space that a kernel is
told to read or write must lie within it. How many elements those are, is written down here for each kernel by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
import rings
from cases import DTYPES
from hypothesis import assume, given, settings
from hypothesis import strategies as st

if rings.chosen() == "none":
    pytest.skip(rings.reason_to_skip() or "", allow_module_level=True)


from launches import Asked

from numbanorm.cuda import combine, partial_sums
from numbanorm.cuda.arith import tiles
from numbanorm.cuda.arith.arithmetic import PAIRS
from numbanorm.cuda.families.walked import LEVELS
from numbanorm.cuda.schedule import plans as schedule
from numbanorm.cuda.schedule.steps import Part, Schedule, Step, parameters_of
from numbanorm.spec.call import forward_call
from numbanorm.spec.plan import Plan, batch, trailing
from numbanorm.spec.sources import OWN
from numbanorm.spec.tree import block_rows

BYTES = {dtype.name: dtype.itemsize for dtype in DTYPES}
TYPES = tuple(dtype.name for dtype in DTYPES)
LARGEST = 2**33  # elements: of 2 bytes they are 16 GB
# a launch has at most 2**31 - 1 blocks, and some kernels take one for each group, or for each weight
MOST_UNITS = 2**30


def sizes(most: int) -> st.SearchStrategy[int]:
    """Small ones, those beside a power of two, and any."""
    beside = st.builds(lambda k, d: max(1, 2**k + d), st.integers(0, most.bit_length() - 1), st.integers(-1, 1))
    return st.one_of(st.integers(1, 9), beside, st.integers(1, most)).map(lambda n: min(n, most))


@st.composite
def plans(draw: st.DrawFn, largest: int = LARGEST) -> Plan:
    left, found = largest, []
    for _ in range(5):
        found.append(draw(sizes(left)))
        left //= found[-1]
    b, m, g, k, t = draw(st.permutations(found))
    assume(b * g <= MOST_UNITS)
    assume(b * g * k <= MOST_UNITS)
    return Plan(b, m, g, k, t, (b, g), (g, k))


@st.composite
def calls(draw: st.DrawFn, backward: bool) -> Asked:
    x = draw(st.sampled_from(TYPES))
    weight, bias = (draw(st.sampled_from((None, *TYPES))) for _ in range(2))
    given_, center = draw(st.booleans()), draw(st.booleans())
    if backward:
        write, parameters = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        types = {"x": x, "dy": x, "dx": x if write else None, "w": weight, "mean": "float64" if center else None,
                 "rstd": "float64", "grads": (weight or x) if parameters else None}  # fmt: skip
        aligned, in_place = draw(st.booleans()), write and draw(st.booleans())
        return Asked(
            types, center, given_, aligned, in_place=in_place, write=write, parameters=parameters, fast=draw(st.booleans())
        )
    write = given_ or draw(st.booleans())
    if not write:
        weight = bias = None
    types = {
        "x": x,
        "y": x if write else None,
        "w": weight,
        "b": bias,
        **dict.fromkeys(("mean", "var"), TYPES[0] if given_ else None),
    }
    aligned, one_read, in_place = draw(st.booleans()), draw(st.booleans()), write and draw(st.booleans())
    return Asked(types, center or given_, given_, aligned, one_read, in_place, write, fast=draw(st.booleans()))


# --- what each kernel reads and writes beside x, dy, y and dx: (argument, elements) ------------------------------------


def arguments(step: Step) -> list[Any]:
    """Integers and floats, names of numbers, parts of arrays, and None for arrays that are not there."""
    told = [v if kind in ("int", "float") else None for v, kind in zip(step.template, step.kinds, strict=True)]
    for at, name, offset in step.pointers:
        told[at] = Part(name, offset)
    for at, name in step.numbers:
        told[at] = name
    return told


class Told:
    """A step's arguments by name, and its kernel's constants."""

    def __init__(self, step: Step) -> None:
        self.step = step
        names = parameters_of(step.kernel.build)
        constants = inspect.signature(step.kernel.build).bind(*step.kernel.constants)
        constants.apply_defaults()
        self.values = dict(constants.arguments) | dict(zip(names, arguments(step), strict=True))

    def __getattr__(self, name: str) -> Any:
        return self.values[name]


def of_tiles(a: Told) -> dict[str, int]:
    return {"out": partial_sums.PLANES[a.kind] * a.n * a.arithmetic.parts}


def of_columns(a: Told) -> dict[str, int]:
    chunks = -(-a.rows // a.per_block) if a.kind == partial_sums.BOTH else a.chunks
    return {"out": partial_sums.PLANES[a.kind] * a.samples * chunks * a.width * a.arithmetic.parts}


def of_join(a: Told) -> dict[str, int]:
    planes = combine.PLANES[a.kind]
    rows = -(-a.outer // a.columns)
    last = (a.units // a.groups - 1) * a.sample + (a.groups - 1) * a.group + (rows - 1) * a.row + (a.inner - 1) * a.part
    last += min(a.columns, a.outer) - 1
    kept = planes * a.units * (1 if a.kind == combine.GRADIENTS else a.arithmetic.parts)
    out = kept if a.kind in (combine.CHANNEL, combine.NEAR_CHANNEL, combine.GRADIENTS) else 4 * a.units
    return {"sums": ((planes - 1) * a.plane + last + 1) * a.arithmetic.parts, "out": out}


def of_apply(a: Told) -> dict[str, int]:
    units = a.n // a.spans // a.per_sample * a.groups
    return {"trust": 1, **dict.fromkeys(("mean", "low", "m2", "rstd"), units)}


def of_walk(a: Told) -> int:
    """float64 that the sums of blocks of rows take, which may be float32."""
    size = 2 * -(-a.rows // a.block_rows) * a.groups * a.length
    return -(-size // 2) if a.arithmetic.single else size


USED: dict[str, Callable[[Told], dict[str, int]]] = {
    "tiles": of_tiles,
    "columns": of_columns,
    "join": of_join,
    "tile_moments": lambda a: {"out": 2 * a.n * a.arithmetic.parts},
    "merge": lambda a: {"moments": 2 * a.n * a.arithmetic.parts},
    "pairs": lambda a: {"sums": a.size // a.fewer * a.n * a.arithmetic.parts, "out": a.size * a.arithmetic.parts},
    "settle": lambda a: {"sums": 3 * a.units * a.outer * a.arithmetic.parts, "table": a.arithmetic.table(a.units)},
    "reduce": lambda a: {
        "sums": 2 * a.outer * a.channels * a.arithmetic.parts,
        "table": a.arithmetic.rows * a.outer * a.groups,
    },
    "rows_backward": lambda a: {"table": a.arithmetic.table(a.units)},
    "copy": lambda a: {"x": -(-a.n * BYTES[a.step.kinds[0]] // 8), "y": a.n},
    "normalize_again": lambda a: {"stats": 4 * a.units},
    "gradients_again": lambda a: {"table": PAIRS.table(a.units)},
    "parameters_again": lambda a: {"table": PAIRS.table(a.samples * a.groups), "grads": 2 * a.groups * a.channels},
    "rows_gradients": lambda a: {"out": of_walk(a), "table": a.rows * a.groups},
    "join_rows": lambda a: {"sums": of_walk(a), "table": a.rows * a.groups},
    "run_moments": lambda a: {"out": 2 * a.n},
    "column_moments": lambda a: {"out": 2 * a.samples * a.chunks * a.width},
    "measure_again": lambda a: {"stats": 4 * a.units},
    "near_runs": lambda a: {"out": 2 * a.n},
    "near_columns": lambda a: {"out": 2 * a.samples * a.chunks * a.width},
    "settle_near": lambda a: {"sums": 2 * a.units * a.outer, "table": 3 * a.units},
    "near_gradient_runs": lambda a: {"table": 3 * a.units},
    "near_gradient_columns": lambda a: {"table": 3 * a.units},
    "mend_channels": lambda a: {"table": 3 * a.samples * a.groups, "grads": 2 * a.groups * a.channels},
    "distrust": lambda a: {"trust": 1},
    "apply_runs": of_apply,
    "rows_forward": lambda a: {"stats": 4 * a.units, "trust": 1},
}


# kernels that take items of runs, and those that take strips of columns
RUNS = (
    "tiles", "tile_moments", "run_moments", "apply_runs", "apply_gradient_runs", "rows_forward", "rows_backward", "near_runs",
    "near_gradient_runs",
)  # fmt: skip
COLUMNS = ("columns", "column_moments", "apply_columns", "apply_columns_fast", "near_columns", "near_gradient_columns")


def check_launch(step: Step) -> None:
    assert 1 <= step.grid < 2**31, step
    assert step.block % 32 == 0, step
    assert 32 <= step.block <= min(1024, step.kernel.threads), step
    for kind, value in zip(step.kinds, arguments(step), strict=True):
        if type(value) is int:
            assert kind == "int"
            assert 0 <= value < 2**63, step
        else:
            assert (kind == "float") is isinstance(value, (float, str)), step
            assert kind in ("float", "int64", *TYPES), step


def check_parts(s: Schedule, step: Step, room: dict[str, int]) -> None:
    """Parts begin within their array, and what the kernel is known to use of them ends there."""
    told = Told(step)
    used = USED.get(step.kernel.build.__name__, lambda a: {})(told)
    for name, value in told.values.items():
        if isinstance(value, Part) and value.name in room:
            assert 0 <= value.offset < room[value.name], (step, name)
            assert value.offset + used.get(name, 0) <= room[value.name], (step, name)
    work = [(n, told.values[n]) for n in used if getattr(told.values.get(n), "name", "") == "work"]
    spaces = [(part.offset, part.offset + used[n]) for n, part in work]
    spaces.sort()
    for (_, end), (start, _) in pairwise(spaces):
        assert end <= start, f"{step} reads what it writes"


def check_geometry(step: Step) -> None:
    """What the kernels take for granted."""
    name, a = step.kernel.build.__name__, Told(step)
    if name in ("join", "settle", "settle_near", "reduce"):
        inner = a.inner if name == "join" else 1
        assert inner <= a.width <= step.block
        assert a.width & (a.width - 1) == 0
        assert step.block & (step.block - 1) == 0
        together = step.block // a.width
        assert step.grid == (a.channels if name == "reduce" else a.units)
        assert a.rows == block_rows(a.outer)
        if name != "join" or a.by_rows:
            assert together >= a.outer or together % a.rows == 0, step
        else:
            assert a.outer <= 256
    if name in RUNS:
        per, n = a.row.per if name == "rows_forward" else a.values.get("per", 1), a.values.get("n", a.values.get("units"))
        together = step.block // 8 // per
        assert (step.block // 8) % per == 0, step
        assert (step.grid - 1) * together < n <= step.grid * together
        assert per in (1, 2) or per % 4 == 0
        assert per // 4 <= tiles.WARPS
        if "spans" in a.values:
            span = a.values.get("span", 256)
            assert (a.spans - 1) * span < a.length <= a.spans * span
            assert a.n % a.spans == 0
        if a.wide:
            assert a.length % 4 == 0
    if name in ("normalize_again", "gradients_again", "parameters_again"):
        n = a.groups * a.channels if name == "parameters_again" else a.units
        assert step.block == 32
        assert (step.grid - 1) * 32 < n <= step.grid * 32
        assert a.tree_rows == block_rows(a.rows)
    if name == "rows_gradients":
        cut = a.cut
        threads = cut.per * 32 // cut.lanes
        together = cut.block // threads
        items = -(-a.rows // a.block_rows) * a.groups
        assert step.block == cut.block == together * threads
        assert (step.grid - 1) * together < items <= step.grid * together
        assert cut.per * 32 * cut.steps >= a.length
        assert cut.even is (a.length == cut.per * 32 * cut.steps)
        assert not a.wide or (a.length % 4 == 0 and cut.lanes == 4)
        assert cut.per <= cut.lanes * tiles.WARPS
    if name == "join_rows":
        leaves = -(-a.rows // (a.apart * a.block_rows))
        assert a.chunk & (a.chunk - 1) == 0
        assert a.chunk < 1 << LEVELS
        assert step.block // 32 * a.chunk >= leaves
        assert a.strips == -(-a.length // 32)
        assert a.apart * a.block_rows == block_rows(a.rows)
        assert a.length <= 32 * 256 or not a.arithmetic.single
    if name == "mend_channels":
        assert step.block == 32
        assert (step.grid - 1) * 32 < max(a.samples * a.groups, a.groups * a.channels) <= step.grid * 32
        assert (a.tree_rows, a.channel_rows) == (block_rows(a.rows), block_rows(a.channels))
    if name in COLUMNS:
        strips = -(-a.width // a.span)
        assert a.span in (4, 8, 16, 32, 64, 128)
        assert step.grid == a.samples * a.chunks * strips
        assert not a.wide or a.width % 4 == 0
        rows = a.chunk if "chunk" in a.values else a.per * a.per_block
        assert (a.chunks - 1) * rows < a.rows <= a.chunks * rows


def check(s: Schedule, plan: Plan, call: Asked, backward: bool) -> None:
    units, channels = plan.B * plan.G, plan.G * plan.K
    room = {"work": s.work, "stats": 4 * units, "grads": 2 * channels}
    assert 0 <= s.work < 2**60
    for step in s.steps:
        check_launch(step)
        check_parts(s, step, room)
        check_geometry(step)
        told = Told(step).values
        assert not told.get("wide") or call.aligned, step
    touched = {name for step in s.steps for _, name, _ in step.pointers}
    assert ("dx" in touched) == (backward and call.write)
    assert ("y" in touched) == (not backward and call.write)
    assert ("grads" in touched) == (backward and call.parameters)
    assert backward or "stats" in touched


@settings(max_examples=400, deadline=None)
@given(plan=plans(), call=calls(backward=False))
def test_forward(plan: Plan, call: Asked) -> None:
    check(call.schedule(plan), plan, call, False)


@settings(max_examples=400, deadline=None)
@given(plan=plans(), call=calls(backward=True))
def test_backward(plan: Plan, call: Asked) -> None:
    check(call.schedule(plan), plan, call, True)


@settings(max_examples=200, deadline=None)
@given(plan=plans(largest=2**14), call=calls(backward=False))
def test_small_forward(plan: Plan, call: Asked) -> None:
    check(call.schedule(plan), plan, call, False)


@settings(max_examples=200, deadline=None)
@given(plan=plans(largest=2**14), call=calls(backward=True))
def test_small_backward(plan: Plan, call: Asked) -> None:
    check(call.schedule(plan), plan, call, True)


@pytest.mark.parametrize(("plan", "told"), [(trailing((4, 9000), (9000,)), True), (trailing((4, 900), (900,)), False),
                                            (batch((8, 4, 30), 1), False)])  # fmt: skip
def test_what_has_no_kernels_in_float32_is_told(plan: Plan, told: bool) -> None:
    types = {"x": "float32", "dy": "float32", "dx": "float32", "w": None, "mean": "float64", "rstd": "float64", "grads": None}
    for fast in (True, False):
        reason = Asked(types, True, False, True, parameters=False, fast=fast).schedule(plan).reason
        assert ("no kernels in float32" in reason) is (told and fast)


LARGE = {
    "one row": Plan(1, 1, 1, 2**33, 1, (1,), (2**33,)),
    "rows": Plan(2**23, 1, 1, 2**10, 1, (2**23,), (2**10,)),
    "channels first": Plan(1, 2**10, 2**7, 1, 2**16, (2**7,), (2**7,)),
    "channels last": Plan(1, 2**26, 2**7, 1, 1, (2**7,), (2**7,)),
    "one channel": Plan(1, 2**33, 1, 1, 1, (1,), (1,)),
    "instances": Plan(2**10, 2**13, 2**10, 1, 1, (2**10, 2**10), (2**10,)),
    "a prime": Plan(1, 1, 1, 8589934609, 1, (1,), (8589934609,)),
}


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("name", LARGE)
def test_larger_than_any_index_of_32_bits(name: str, aligned: bool, x: str) -> None:
    plan = LARGE[name]
    assert prod((plan.B, plan.M, plan.G, plan.K, plan.T)) == plan.size >= 2**33
    forward_types = {"x": x, "y": x, "w": "float32", "b": "float32", "mean": None, "var": None}
    backward_types: dict[str, str | None] = {"x": x, "dy": x, "dx": x, "w": "float32", "mean": "float64", "rstd": "float64"}
    for one_read in (False, True):
        call = Asked(forward_types, True, False, aligned, one_read)
        check(call.schedule(plan), plan, call, False)
    few = plan.G * plan.K <= MOST_UNITS
    backward_types["grads"] = "float32" if few else None
    call = Asked(backward_types, True, False, aligned, write=True, parameters=few)
    check(call.schedule(plan), plan, call, True)


def test_launches_name_the_arguments_of_their_kernel() -> None:
    """Each once, in any order: a name too few, too many or misspelt is an error where the schedule is made."""
    s = Schedule({"y": "float16"})
    s.add(partial_sums.copy, (), 1, 128, n=7, y="y", x=Part("work", 3))
    assert Told(s.steps[0]).values == {"x": Part("work", 3), "y": Part("y", 0), "n": 7}
    assert s.steps[0].kinds == ("float64", "float16", "int")
    for wrong in ({"x": "x", "y": "y"}, {"x": "x", "y": "y", "n": 7, "m": 7}, {"x": "x", "z": "y", "n": 7}):
        with pytest.raises(TypeError, match=r"^a launch of copy must name x, y, n: got x, "):
            s.add(partial_sums.copy, (), 1, 128, **wrong)
    assert len(s.steps) == 1


def test_every_kernel_has_names() -> None:
    """Read from the code of its builder, and those that it has once it is built."""
    assert parameters_of(partial_sums.copy) == tuple(inspect.signature(partial_sums.copy()).parameters)
    for build in rings.kernels():
        assert parameters_of(build), build.__name__


def test_a_schedule_is_made_once() -> None:
    """For all calls that are alike: it is looked up by what it depends on, and by nothing else."""
    x, which, dtypes = np.dtype("float32"), ((20,), 0), (*[np.dtype("float32")] * 2, None, None, None, None)
    first, second = (forward_call("layer_norm", (4, 20), x, which, OWN, "two_pass", True, (False,) * 3) for _ in range(2))
    assert first is second
    first, second = (schedule.scheduled(call, dtypes, True) for call in (first, second))
    assert first is second
    assert first.steps


@given(
    types=st.tuples(st.sampled_from((None, *TYPES)), st.sampled_from((None, *TYPES)), st.sampled_from((None, "int64"))),
    samples=sizes(2**20),
    channels=sizes(2**37),
)
def test_running_statistics(types: tuple[str | None, ...], samples: int, channels: int) -> None:
    mean, var, counter = types
    named = (("mean", mean), ("var", var), ("counter", counter))
    steps = schedule.tracking(named, samples, channels, counter is not None).steps
    for step in steps:
        check_launch(step)
        covered = step.grid * step.block
        assert covered >= channels or step.kernel.build.__name__ == "count"
    found = {name for step in steps for _, name, _ in step.pointers} - {"stats"}
    assert found == {name for name, dtype in named if dtype is not None}
