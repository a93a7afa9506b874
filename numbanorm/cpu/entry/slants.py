"""The last step of the kernels of gradients alone, in compiled code: its constants come in a table."""

from __future__ import annotations

from numba import float64, int64, uint8

from ..arith.environment import call_by_default
from ..arith.memory import fill
from ..arith.vectors import advance, keep, named, pointer
from ..compile import device, kernel
from .calls import STEPS, Head, run_steps, work_space
from .objects import OBJECT, elements


@device(inline=False)
def slants(x, dy, dx, table, program):
    """x, dy, dx: (size,); table: float64 (units, UNIT), see `layout`; a program. All of it checked."""
    words = elements(program, int64)
    h = named(words, Head)
    space = work_space(3 * h.places + h.work + h.kept)
    weights = pointer(space)
    fill(weights, 0, h.places, 1.0)
    units, grads = elements(table, float64), advance(weights, h.places)
    rest = advance(grads, 2 * h.places)
    args = (weights, units, advance(rest, h.work), grads, rest, advance(words, STEPS + 4 * h.steps), float64(h.members))
    run_steps(words, h, (elements(x, uint8), elements(dy, uint8), elements(dx, uint8), *args), units)
    keep(space)


@kernel()
def run_slants(x, dy, dx, table, program):
    """`slants`, in the default floating-point environment."""
    call_by_default(slants, (x, dy, dx, table, program))


SLANTS = (*[OBJECT] * 5,)
