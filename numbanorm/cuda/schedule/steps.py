"""Steps of a schedule: their arguments, work space, and the cutting and joining that forward and backward share.

A *step* is a launch. Its arguments are names of arrays, parts of them, integers and floats, so that a schedule is made once for
a call and serves every call of it. They go by the names that the kernel gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from ...spec.call import Call
from ...spec.dtypes import DTYPES
from ...spec.plan import Plan
from ...spec.tree import TILE, block_rows, fold_for
from .. import combine, driver
from .. import partial_sums as partials
from ..arith.arithmetic import Arithmetic, arithmetic_of
from ..arith.elementwise import EACH, FOURS, SOME
from ..compiler import Kernel
from ..families import columns, runs

SLOTS = 16  # of a block of 128 threads
ROWS_TOGETHER = 8  # of each thread in an elementwise kernel for columns


OF_GROUPS = (combine.CENTER, combine.SPREAD, combine.SQUARE, combine.MOMENTS)  # what is joined to groups, and not to channels
NUMBERS = ("eps", "n", "old", "new")  # arguments that differ from call to call


@dataclass(frozen=True)
class Part:
    """An array from one of its elements on; of work space, float64, and what type lies there."""

    name: str
    offset: int
    kind: str = "float64"


@dataclass(frozen=True)
class Step:
    """A launch: `template` holds its arguments but for pointers (place, array, element) and numbers (place, name)."""

    kernel: Kernel
    kinds: tuple[str, ...]
    grid: int
    block: int
    template: list[Any]
    pointers: tuple[tuple[int, str, int], ...]
    numbers: tuple[tuple[int, str], ...]


@cache
def parameters_of(build: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments of the kernel that `build` returns, read from its code: nothing is built."""
    code = next(c for c in build.__code__.co_consts if getattr(c, "co_name", "") == "kernel")
    return code.co_varnames[: code.co_argcount]  # type: ignore[no-any-return]


@dataclass
class Schedule:
    """Steps, and float64 elements of work space; made by adding to it."""

    types: dict[str, str | None]  # dtype names of arrays; None for what is not there
    aligned: bool = False  # whether all addresses allow 16-byte accesses
    exact: bool = True  # see `Call`
    at_once: bool = False  # whether statistics are taken in one read
    work: int = 0
    steps: list[Step] = field(default_factory=list)
    reason: str = ""
    prepared: dict[int, list[Any]] = field(default_factory=dict)  # device -> what to launch

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic for elements of x."""
        return arithmetic_of(self.types["x"], self.exact, self.at_once)

    def reserve(self, size: int) -> Part:
        """Work space of so many float64."""
        part = Part("work", self.work)
        self.work += size
        return part

    def room(self, accumulators: int) -> Part:
        """Work space of so many accumulators."""
        return self.reserve(accumulators * self.arithmetic.parts)

    def add(
        self, build: Callable[..., Any], constants: tuple[Any, ...], grid: int, block: int, most: int = 0, /, **named: Any
    ) -> None:
        """Put down a launch of `build(*constants)`; `most` threads bound its registers, if a block may have more than here.

        `named`: every argument of the kernel, and no other.
        """
        if grid >= 1 << 31:
            raise ValueError(f"a launch must have fewer than 2**31 blocks: got {grid} for {build.__name__}; cut x into pieces")
        names = parameters_of(build)
        if named.keys() != set(names):
            raise TypeError(f"a launch of {build.__name__} must name {', '.join(names)}: got {', '.join(named)}")
        arguments = [named[name] for name in names]
        kinds = tuple(self.kind(a) for a in arguments)
        parts = [Part(a, 0) if isinstance(a, str) and a not in NUMBERS else a for a in arguments]
        there = [isinstance(a, Part) and self.types.get(a.name, "") is not None for a in parts]
        pointers = tuple((k, a.name, a.offset) for k, a in enumerate(parts) if there[k])
        numbers = tuple((k, a) for k, a in enumerate(parts) if a in NUMBERS)
        template = [a if isinstance(a, (int, float)) else driver.DRIVER.null for a in parts]
        self.steps.append(Step(Kernel(build, constants, most or block), kinds, grid, block, template, pointers, numbers))

    def add_each(self, build: Callable[..., Any], constants: tuple[Any, ...], size: int, /, **named: Any) -> None:
        """Put down a launch of a thread for each of `size` things."""
        self.add(build, constants, -(-size // partials.BLOCK), partials.BLOCK, **named)

    def elsewhere(self, name: str, size: int) -> None:
        """Let all steps so far write to work space what they write to an array, and one more copy it there."""
        start, kind = self.work + self.work % 2, str(self.types[name])  # of 16 bytes
        self.work = start - -size * DTYPES[kind].itemsize // 8
        for k, step in enumerate(self.steps):
            moved = tuple((at, "work", start + offset) if n == name else (at, n, offset) for at, n, offset in step.pointers)
            self.steps[k] = replace(step, pointers=moved)
        self.add_each(partials.copy, (), size, x=Part("work", start, kind), y=name, n=size)

    def kind(self, argument: Any) -> str:
        """The type of an argument; an array that is not there is never read, so any type does."""
        if isinstance(argument, float) or argument in NUMBERS:
            return "float"
        if isinstance(argument, str):
            return self.types.get(argument) or "float64"
        if isinstance(argument, Part):
            return argument.kind
        return "int" if isinstance(argument, int) else "float64"


def power_of_two_above(n: int) -> int:
    """The least power of two that is no less than n."""
    return 1 << max(0, n - 1).bit_length()


def sharing(wide: bool, t: int) -> int:
    """Layout of weights of which each serves t elements; see `elementwise.parameters`."""
    return EACH if t == 1 else FOURS if wide and t % 4 == 0 else SOME


def slots_for(length: int) -> int:
    """Slots of a row: 1, 2 or a multiple of 4 that holds it."""
    tiles = -(-length // TILE)
    return tiles if tiles <= 2 else -(-tiles // 4) * 4


# --- sums: partial ones, and joining them ----------------------------------------------------------------------------


class Owners(NamedTuple):
    """Units that runs belong to: a sample is `per_sample` runs, of `groups` groups of so many `channels`."""

    per_sample: int
    groups: int
    channels: int


@dataclass(frozen=True)
class Items:
    """Cutting of runs into `spans` items of `span` elements, `per` slots each."""

    runs: int
    length: int
    per: int
    wide: bool

    @property
    def span(self) -> int:
        return self.per * TILE

    @property
    def spans(self) -> int:
        return -(-self.length // self.span)

    @property
    def n(self) -> int:
        return self.runs * self.spans

    @property
    def block(self) -> int:
        """Threads: of as many items as the driver likes, but of whole ones."""
        return max(int(driver.DRIVER.block_threads), 8 * self.per)

    @property
    def grid(self) -> int:
        return -(-self.n // (self.block // 8 // self.per))

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments of kernels."""
        return {"n": self.n, "spans": self.spans, "span": self.span, "length": self.length, "per": self.per}


def items_of(runs: int, length: int, wide: bool) -> Items:
    """Cutting of runs into items of as many slots as a block has."""
    return Items(runs, length, min(SLOTS, power_of_two_above(-(-length // TILE))), wide and length % 4 == 0)


def fewer(s: Schedule, sums: Part, planes: int, n: int, columns: int, most: int) -> tuple[Part, int]:
    """Parts (planes, n, columns) joined in pairs until there are at most `most`."""
    while n > most:
        less = -(-n // combine.FACTOR)
        size = planes * less * columns
        out = s.room(size)
        s.add_each(combine.pairs, (s.arithmetic.sums,), size, sums=sums, out=out, size=size, n=n, fewer=less, columns=columns)
        sums, n = out, less
    return sums, n


def join_block(outer: int, inner: int) -> tuple[int, int]:
    """Threads of a block that joins outer x inner sums, and of each inner group."""
    width = power_of_two_above(inner)
    wanted = max(power_of_two_above(outer) * width, 32)
    return min(combine.MOST, wanted), width


class Joined(NamedTuple):
    """Sums that become one: `outer` of each unit, by the row tree or by the run tree, each in pairs from `inner` parts."""

    units: int
    outer: int
    inner: int
    by_rows: bool


def join(s: Schedule, plan: Plan, kind: int, out: Any, sums: Part, n: Joined, strides: combine.Strides) -> None:
    """Partial sums to their units."""
    block, width = join_block(n.outer, n.inner)
    low, eps = (
        "stats" if kind == combine.SPREAD else None,
        "eps" if kind in (combine.SPREAD, combine.SQUARE, combine.MOMENTS) else 0.0,
    )
    s.add(
        combine.join, (kind, s.arithmetic.sums, n.by_rows), n.units, block, combine.MOST,
        sums=sums, out=out, low=low, units=n.units, count=float(plan.count), eps=eps, outer=n.outer, inner=n.inner, width=width,
        rows=block_rows(n.outer), **strides._asdict(),
    )  # fmt: skip


def most_parts(outer: int) -> int:
    """Parts that a join takes: a block of 1024 threads must hold those of all outer sums, or of a block of rows."""
    return combine.MOST // min(32, power_of_two_above(outer))


def join_runs(s: Schedule, plan: Plan, kind: int, out: Any, sums: Part, i: Items, groups: int) -> None:
    """Sums of items of runs, `groups` to a row, to their units."""
    sums, inner = fewer(s, sums, combine.PLANES[kind] * i.runs, i.spans, 1, most_parts(plan.M))
    strides = combine.Strides(
        groups=groups, plane=i.runs * inner, sample=plan.M * groups * inner, group=inner, columns=1, row=groups * inner, part=1
    )
    join(s, plan, kind, out, sums, Joined(plan.B * groups, plan.M, inner, by_rows=True), strides)


def sum_runs(s: Schedule, kind: int, i: Items, arrays: dict[str, Any], owners: Owners, t: int, flags: tuple[int, ...]) -> None:
    """flags: center, sharing, weighted; see `runs.tiles`."""
    s.add(
        runs.tiles,
        (kind, i.wide, s.arithmetic.sums, *flags),
        i.grid,
        i.block,
        128,
        **arrays,
        **i.sizes,
        **owners._asdict(),
        t=t,
    )


@dataclass(frozen=True)
class Grid:
    """Cutting of columns: blocks of threads take `span` columns and `per` blocks of rows. Rows may be folded."""

    samples: int
    rows: int
    width: int
    wide: bool

    @property
    def span(self) -> int:
        return 4 * min(32, power_of_two_above(-(-self.width // 4)))

    @property
    def per(self) -> int:
        return 4 * partials.BLOCK // self.span

    @property
    def tree_rows(self) -> int:
        return block_rows(self.rows)

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.tree_rows)

    @property
    def chunks(self) -> int:
        return -(-self.blocks // self.per)

    @property
    def strips(self) -> int:
        return -(-self.width // self.span)

    def sizes(self, plan: Plan) -> dict[str, int]:
        """Arguments of kernels: rows of `real` columns, folded, are of `groups` groups of `length` columns each."""
        length = plan.K * plan.T
        of_plan = {"real": plan.G * length, "length": length, "groups": plan.G}
        return {"samples": self.samples, "rows": self.rows, "width": self.width, "span": self.span, **of_plan}


def grid_of(samples: int, rows_: int, width: int, wide: bool) -> Grid:
    """Cutting of columns; wide accesses where the width allows them."""
    return Grid(samples, rows_, width, wide and width % 4 == 0)


def folded(plan: Plan, wide: bool) -> Grid:
    """Cutting of a plan's columns, rows folded while they are few."""
    width = plan.G * plan.K * plan.T
    fold = fold_for(plan.M, width)
    return grid_of(plan.B, plan.M // fold, fold * width, wide)


def sum_columns(
    s: Schedule, plan: Plan, kind: int, g: Grid, arrays: dict[str, Any], center: bool, corrected: bool = False
) -> tuple[Part, int]:
    """Partial sums of columns -> where they are, and how many chunks of them."""
    chunks = g.blocks if kind == partials.BOTH else g.chunks
    out = s.room(partials.PLANES[kind] * g.samples * chunks * g.width)
    s.add(
        columns.columns, (kind, g.wide, s.arithmetic.sums, center, corrected), g.samples * g.chunks * g.strips, partials.BLOCK,
        **arrays, out=out, **g.sizes(plan), per_block=g.tree_rows, chunks=g.chunks, per=g.per,
    )  # fmt: skip
    return out, chunks


def join_columns(s: Schedule, plan: Plan, kind: int, out: Any, sums: Part, g: Grid, chunks: int) -> None:
    """Chunks of columns' sums to their units: groups, or for gradients channels (times what is folded)."""
    real, of_unit = plan.G * plan.K * plan.T, plan.K * plan.T if kind in OF_GROUPS else plan.T
    outer, units = g.width // real * of_unit, real // of_unit
    sums, inner = fewer(s, sums, combine.PLANES[kind] * g.samples, chunks, g.width, most_parts(outer))
    strides = combine.Strides(
        groups=units, plane=g.samples * inner * g.width, sample=inner * g.width, group=of_unit, columns=of_unit, row=real,
        part=g.width,
    )  # fmt: skip
    join(s, plan, kind, out, sums, Joined(g.samples * units, outer, inner, by_rows=False), strides)


def reduce(s: Schedule, call: Call, totals: Part, table: Part | None, corrected: bool) -> None:
    """Sums of channels of each sample to dweight and dbias."""
    plan, channels = call.plan, call.plan.G * call.plan.K
    block, width = join_block(plan.B, 1)
    s.add(
        combine.reduce, (s.arithmetic.sums, corrected), channels, block, combine.MOST,
        sums=totals, rstd="rstd", table=table, grads="grads", channels=channels, outer=plan.B, width=width,
        rows=block_rows(plan.B), groups=plan.G,
    )  # fmt: skip


def row_chunks(plan: Plan, aligned: bool) -> tuple[Grid, int, int, int]:
    """Cutting of columns for an elementwise kernel: blocks, rows of each, and how many share a sample's rows."""
    g = folded(plan, aligned)
    chunk = 4 * partials.BLOCK // g.span * ROWS_TOGETHER
    chunks = -(-g.rows // chunk)
    return g, g.samples * chunks * g.strips, chunk, chunks


def element_columns(s: Schedule, call: Call, arrays: dict[str, Any], flags: tuple[bool, ...]) -> None:
    """flags: center, weighted, biased, gradient; see `columns.apply_columns`."""
    plan = call.plan
    g, blocks, chunk, chunks = row_chunks(plan, s.aligned)
    s.add(
        columns.apply_columns, (g.wide, s.arithmetic, *flags), blocks, partials.BLOCK,
        **arrays, **g.sizes(plan), units=plan.units, t=plan.T, chunk=chunk, chunks=chunks,
    )  # fmt: skip
