"""Phases, flags, array layouts and sizes shared by schedules and the five kernels, and what goes together in kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

# phases: all of a unit's work at once, or one step for all units before the next; REDUCE joins gradients of parameters
FUSED, MEASURE, JOIN, APPLY, REDUCE = 0, 1, 2, 3, 4

# flags: CENTER and SQUARES name what is measured (both, in FUSED); the others say how. MERGED: squares about each tile's mean,
# which are merged (Welford's method); AT_ONCE: sums and squares about 0 in one read; AGAIN: squares of units whose rstd is 0,
# which one read did not give. PARAMETERS: their gradients are wanted; ALONE: one call does all in FUSED, and REDUCE follows in
# it; OWN: the statistics are x's, so that its deviations are in dx, and bounded in y; SINGLE: results are computed in float32
CENTER, SQUARES, WRITE, MERGED, STREAM, PARAMETERS, ALONE, OWN, AT_ONCE, AGAIN, SINGLE = (1 << k for k in range(11))
BOTH = CENTER | SQUARES

# rows of the statistics, float64 (4, units): mean = MEAN + LOW, unevaluated
MEAN, LOW, M2, RSTD = 0, 1, 2, 3
COUNT = 4  # and where there is a mask, elements that it lets in: for Python, kernels have it otherwise

# columns of the backward pass's table, float64 (units, UNIT): the mean and rstd that came, and what `gradient_sums.settle`
# adds; slope and shift have low parts for float64 elements
UNIT = 8
ANCHOR, ROOT, SLOPE, SHIFT, OFFSET, SLOPE_LOW, SHIFT_LOW, SIZE = 0, 1, 2, 3, 4, 5, 6, 7
SINGLES = 5  # where the first five stand as float32, in place of what only float64 elements have

LEVELS = 64  # of a pairs tree: its stack never holds more
STACK = 4 * LEVELS  # numbers that a stack for the sums of a group takes
PIECE = 512  # columns that are worked on together: their sums, or mean, scale and shift, stay in L1
LANE_ROOM = 32  # accumulators that the run tree over columns uses
TALL = 128  # elements between rows up to which a block's rows are added column by column, not eight rows at a time
BATCH = 4096  # elements of short rows that go through the passes together, so that no row waits for another's division


class Step(NamedTuple):
    """A step of a schedule."""

    phase: int
    flags: int
    pieces: int  # to deal out
    threads: int  # of none, it is left out


def rows_together(length: int) -> int:
    """Rows of so many elements that go through the passes together."""
    return max(1, BATCH // length)


# sizes that a schedule hands to a kernel of each family; `scratch` is what a slot has of work space, in float64


class RunsSizes(NamedTuple):
    """For `families.runs`."""

    runs: int  # of a group: M
    groups: int  # of a sample: G
    length: int  # of a run: L = K * T
    t: int  # elements of a run that share a parameter
    ahead: int  # elements ahead of what is written that are asked for
    span: int  # elements that are summed at once
    scratch: int
    slots: int


class ColumnsSizes(NamedTuple):
    """For `families.columns`."""

    rows: int  # M / fold
    groups: int
    length: int
    t: int
    most: int  # groups a strip
    chunks: int  # of a strip's rows
    per_chunk: int  # blocks
    stack: int  # accumulators
    room: int  # numbers for one of each column of a strip
    fold: int  # runs side by side that are summed as one row
    beside: int  # rows side by side when they are written
    together: int  # rows that share loads then
    scratch: int
    slots: int


class RunsGradientSizes(NamedTuple):
    """For `families.runs_backward`."""

    samples: int
    runs: int
    groups: int
    channels: int  # of a group: K
    length: int  # of a channel in a run: T
    ahead: int
    span: int
    scratch: int
    slots: int


class ColumnsGradientSizes(NamedTuple):
    """For `families.columns_backward`; see `ColumnsSizes`."""

    samples: int
    rows: int
    groups: int
    channels: int
    length: int
    most: int
    chunks: int
    per_chunk: int
    stack: int
    room: int
    fold: int
    beside: int
    together: int
    scratch: int
    slots: int


class RowsGradientSizes(NamedTuple):
    """For `families.rows_backward`."""

    rows: int  # samples
    groups: int
    length: int
    t: int
    padded: int  # length rounded up to 16
    span: int
    together: int  # rows between their sums and their dx
    per_chunk: int  # blocks
    chunks: int
    columns: int  # of a strip
    scratch: int
    slots: int


# what travels together inside a kernel; Any: a pointer, whose type is the storage type's or float64


class Masked(NamedTuple):
    """Elements with a mask, as integers in memory: what a pointer to masked elements points to. See `spec.masks.Lines`."""

    elements: Any  # their address
    mask: Any  # and that of its bytes
    counts: Any  # and that of how many each group has, float64 and at least 1
    row: Any  # elements of a row
    line: Any  # and of a line of it
    row_step: Any  # bytes of the mask from a row to the next
    line_step: Any  # from a line
    step: Any  # and from an element, 0 or 1


class Apart(NamedTuple):
    """Elements in rows that stand apart, as integers in memory: see `spec.gaps`. Three times: a reciprocal, and a gap."""

    elements: Any  # their address
    reciprocal_1: Any
    gap_1: Any
    reciprocal_2: Any
    gap_2: Any
    reciprocal_3: Any
    gap_3: Any


class Turned(NamedTuple):
    """Elements of rows, as integers in memory: what `families.turned` reads and writes."""

    elements: Any  # their address
    turned: Any  # whether each element of a row stands in another line; otherwise rows are contiguous


class Turning(NamedTuple):
    """What stands behind the sizes for `families.turned`."""

    kernel: int  # address of the machine code for contiguous rows
    beside: int  # rows whose elements lie side by side
    most: int  # rows that are copied at once
    itemsize: int


class Joined(NamedTuple):
    """Elements that another array's join where they are read or written, as integers in memory: see `arith.stages`."""

    elements: Any  # their address
    other: Any  # that of what is added, or of y, whose sign says where a gradient passes; 0: nothing
    kept: Any  # and that of where the elements go as they are then; 0: nowhere
    slope: Any  # of an activation below 0, the bits of a float64
    top: Any  # and where it ends; nan: nowhere


class Block(NamedTuple):
    """Columns i .. i + width - 1 of some rows."""

    i: int  # the first element
    rows: int
    together: int  # rows that share what is loaded for a column
    stride: int  # from a row to the next
    width: int


class Span(NamedTuple):
    """Elements of a run, and how results are written there."""

    i: int  # the first element
    n: int
    ahead: int  # elements ahead that are asked for
    streaming: bool
    runs: int  # that have the same constants
    stride: int  # from one to the next


class Pieces(NamedTuple):
    """Pieces of a span that have constants of their own: the channels of a run or of several, or whole runs."""

    unit: int  # of the first
    group: int  # its place in the sample
    channels: int  # of a unit
    groups: int  # of a sample
    size: int  # elements of a piece, of which there may be fewer in the span
    at: int  # element of its run with which the span begins
    pointwise: int  # whether each element has a parameter of its own


class Strip(NamedTuple):
    """Neighbouring groups of a sample, or a chunk of their rows, as columns are summed: `fold` runs side by side a row."""

    u: int  # the first group's unit
    groups: int
    i: int  # the first element of all rows
    first: int  # block of rows
    last: int  # the block after the last
    rows: int  # of the sample
    stride: int
    width: int


class Space(NamedTuple):
    """Work space of a thread for columns."""

    stack: Any
    sums: Any  # of columns
    lanes: Any  # LANE_ROOM
    table: Any  # constants of columns


class Stats(NamedTuple):
    """Statistics of units, a pointer for each row of their array; and what makes them of sums."""

    mean: Any
    low: Any
    m2: Any
    rstd: Any
    n: Any  # elements of a group, or with a mask the address of how many each has
    eps: float


class Arrays(NamedTuple):
    """Arrays of a forward kernel."""

    x: Any
    y: Any
    w: Any
    b: Any
    own: Any  # weights and biases of single elements, see `elementwise.own_parameters`
    stats: Any  # `Stats`


class GradientArrays(NamedTuple):
    """Arrays of a kernel of gradients."""

    x: Any
    dy: Any
    dx: Any
    w: Any
    table: Any
    n: Any  # see `Stats`
