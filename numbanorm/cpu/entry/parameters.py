"""Parameters of a call: read from arrays of any of the dtypes, and written to them."""

from __future__ import annotations

from numba import float32, float64, int16, uint16

from ..arith.memory import convert, fill, point
from ..compile import device
from .objects import code_of, elements, there


@device(inline=False)
def widen(a, ids, n, out):
    """n elements of an array of any of the dtypes -> out, float64."""
    code = code_of(a, ids)
    if code == 0:
        convert(elements(a, float32), n, out)
    elif code == 1:
        convert(elements(a, float64), n, out)
    elif code == 2:
        convert(elements(a, uint16), n, out)
    else:
        convert(elements(a, int16), n, out)


@device(inline=False)
def narrow(values, n, a, ids):
    """n float64 -> elements of an array of any of the dtypes, rounded once."""
    code = code_of(a, ids)
    if code == 0:
        convert(values, n, elements(a, float32))
    elif code == 1:
        convert(values, n, elements(a, float64))
    elif code == 2:
        convert(values, n, elements(a, uint16))
    else:
        convert(values, n, elements(a, int16))


@device(inline=False)
def read(a, ids, n, missing, out):
    """n parameters -> out, float64; `missing` stands for those of None."""
    if there(a):
        widen(a, ids, n, out)
    else:
        fill(out, 0, n, missing)


@device(inline=False)
def is_wide(a, ids):
    """Whether a parameter may be no float32: it is float64."""
    return there(a) and code_of(a, ids) == 1


@device(inline=False)
def narrowed(values, n, at, room, wide):
    """Write n float64 as float32 to `room`, and its address to `at`. Whether they are the same; if not `wide` they are."""
    point(at, 0, room)
    convert(values, n, room)
    if wide:
        for k in range(n):
            if float64(room[k]) != values[k] and values[k] == values[k]:
                return False
    return True


@device(inline=False)
def point_to_singles(a, ids, values, n, at, room):
    """Write the address of n parameters as float32 to `at`. Whether they are the same numbers.

    a: the parameters; values: these in float64. What is float32 stays where it lies: a copy is in the
    cache of the core that makes it, and to fetch it took another 6 us of a call that took 15.
    """
    if there(a) and code_of(a, ids) == 0:
        point(at, 0, elements(a, float32))
        return True
    return narrowed(values, n, at, room, is_wide(a, ids))
