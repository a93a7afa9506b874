"""The entry for memory that no NumPy array stands for: tensors, which know their addresses.

To see a tensor as a NumPy array costs 1.2 us, its address 0.1. What the compiled call reads of an array is made here, on the
stack, from an address and the number of a dtype; shapes are the program's own, for whoever calls has compared them. So there is
no second call of a norm: that of `calls` runs, by its address, with all its questions of overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float64, int64
from numba.core import cgutils

from ..arith.environment import call_by_default
from ..arith.vectors import I64, advance, integer, keep, named, pointer
from ..compile import device, intrinsic, kernel, types
from ..layout import MEAN, RSTD
from .calls import DONE, IDS, REFUSED, Head
from .objects import DATA, DESCR, FLAGS, NDIM, OBJECT, SHAPE, TYPE, WRITABLE, elements
from .parameters import narrow

BITS = 4  # of the number of a dtype among those of a call: 0 for None, or its place in `objects.identities`
FLOAT64 = 2


@intrinsic
def array_at(tc: Any, address: Any, code: Any, ids: Any, shape: Any) -> Any:
    """What an array of a dtype and a shape (ndim, *sizes) would be; None for code 0. It lives as long as the function does."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        where, code, ids, shape = a
        words = cgutils.alloca_once(b, I64, size=FLAGS // 8 + 1)
        values = {
            TYPE: b.load(ids),
            DATA: where if where.type == I64 else b.ptrtoint(where, I64),
            NDIM: b.load(shape),
            SHAPE: b.ptrtoint(b.gep(shape, [integer(1)]), I64),
            DESCR: b.load(b.gep(ids, [code])),
            FLAGS: integer(WRITABLE),
        }
        for offset, value in values.items():
            b.store(value, b.gep(words, [integer(offset // 8)]))
        none = cgutils.get_null_value(cgutils.voidptr_t)
        return b.select(b.icmp_signed("==", code, integer(0)), none, b.bitcast(words, cgutils.voidptr_t))

    return OBJECT(address, types.int64, ids, shape), codegen


@intrinsic
def status_of(tc: Any, address: Any, args: Any) -> Any:
    """What the compiled call at `address` returns."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        function = b.inttoptr(a[0], ctx.call_conv.get_function_type(types.int64, args.types).as_pointer())
        status, result = ctx.call_conv.call_function(b, function, types.int64, args.types, cgutils.unpack_tuple(b, a[1]))
        with cgutils.if_unlikely(b, status.is_error):
            ctx.call_conv.return_status_propagate(b, status)
        return result

    return types.int64(types.intp, args), codegen


@device()
def code_at(codes, k):
    """The number of the dtype of argument k."""
    return (codes >> (BITS * k)) & ((1 << BITS) - 1)


@device()
def nowhere(addresses, codes):
    """Whether an argument that is not None has no memory, as a tensor may whose storage was given back."""
    lost = 0
    for k in range(len(addresses)):
        lost += addresses[k] == 0 and code_at(codes, k) != 0
    return lost > 0


@kernel()
def run_forward_at(run, x, y, w, b, mean, var, codes, stats, program, eps, n, old, new):
    """`calls.run_forward`, whose machine code is at `run`, of addresses. codes: of the dtypes of x, y, w, b, mean and var."""
    if nowhere((x, y, w, b, mean, var), codes):
        return REFUSED
    words = elements(program, int64)
    ids, shape = advance(words, IDS), advance(words, named(words, Head).shapes)
    args = (
        array_at(x, code_at(codes, 0), ids, shape),
        array_at(y, code_at(codes, 1), ids, shape),
        array_at(w, code_at(codes, 2), ids, shape),
        array_at(b, code_at(codes, 3), ids, shape),
        array_at(mean, code_at(codes, 4), ids, shape),
        array_at(var, code_at(codes, 5), ids, shape),
    )
    return status_of(run, (*args, stats, program, False, eps, n, old, new))


@device(inline=False)
def backward_at(run, x, dy, dx, w, dw, db, codes, stats, center, program):
    """`run_backward_at`, in the floating-point environment that rounds gradients."""
    if nowhere((x, dy, dx, w, dw, db), codes):
        return REFUSED
    words = elements(program, int64)
    h, ids, table = named(words, Head), advance(words, IDS), elements(stats, float64)
    shape, weight_code, bias_code = advance(words, h.shapes), code_at(codes, 4), code_at(codes, 5)
    of_stats, wanted = advance(shape, 1 + shape[0]), weight_code != 0 or bias_code != 0
    sums = np.empty(2 * h.places if wanted else 0)  # the gradients of parameters, which lie side by side nowhere else
    args = (
        array_at(x, code_at(codes, 0), ids, shape),
        array_at(dy, code_at(codes, 1), ids, shape),
        array_at(dx, code_at(codes, 2), ids, shape),
        array_at(w, code_at(codes, 3), ids, shape),
        array_at(advance(table, MEAN * h.units), int64(FLOAT64 if center else 0), ids, of_stats),
        array_at(advance(table, RSTD * h.units), int64(FLOAT64), ids, of_stats),
        array_at(pointer(sums), int64(FLOAT64 if wanted else 0), ids, shape),
    )
    status = status_of(run, (*args, program, False))
    if status == DONE and weight_code != 0:
        narrow(pointer(sums), h.places, array_at(dw, weight_code, ids, shape), ids)
    if status == DONE and bias_code != 0:
        narrow(advance(pointer(sums), h.places), h.places, array_at(db, bias_code, ids, shape), ids)
    keep(sums)
    return status


@kernel()
def run_backward_at(run, x, dy, dx, w, dw, db, codes, stats, center, program):
    """`calls.run_backward`, whose machine code is at `run`, of addresses. codes: of the dtypes of x, dy, dx, w, dw and db.

    stats: float64 (4, units), as the forward call leaves them; center: whether they have a mean.
    """
    return call_by_default(backward_at, (run, x, dy, dx, w, dw, db, codes, stats, center, program))


FORWARD_AT = (*[types.int64] * 8, OBJECT, OBJECT, *[types.float64] * 4)
BACKWARD_AT = (*[types.int64] * 8, OBJECT, types.boolean, OBJECT)
