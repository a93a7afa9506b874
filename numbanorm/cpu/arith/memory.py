"""Elements and numbers in memory: loads, stores, and loops that copy."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from ..compile import intrinsic, types
from .conversions import from_single, narrow, single, widen
from .vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    MEMORY,
    address,
    broadcast,
    call,
    first_lanes,
    integer,
    sixteens,
    take,
    vector,
)


def masked(operation: str, element: Any) -> str:
    e = MEMORY[element]
    return f"llvm.masked.{operation}.v{LANES}{'i16' if e == I16 else 'f' + str(element.bitwidth)}.p0"


def stored(b: ir.IRBuilder, element: Any, p: Any, i: Any, n: Any = None) -> Any:
    """16 elements from `i` on as they are; with `n` only that many are read, and +0.0 stands behind them."""
    where, align = address(b, p, i, element), element.bitwidth // 8
    if n is None:
        return b.load(where, align=align)
    vt = vector(MEMORY[element])
    nothing = ir.Constant(vt, [0 if MEMORY[element] == I16 else 0.0] * LANES)
    args = [where, ir.Constant(I32, align), first_lanes(b, n), nothing]
    return call(b, masked("load", element), vt, args)


def load_bytes(b: ir.IRBuilder, where: Any, n: Any = None) -> Any:
    """16 bytes; with `n` only that many are read, and 0 stands behind them."""
    vt = vector(I8)
    where = b.bitcast(where, vt.as_pointer())
    if n is None:
        return b.load(where, align=1)
    args = [where, ir.Constant(I32, 1), first_lanes(b, n), ir.Constant(vt, [0] * LANES)]
    return call(b, f"llvm.masked.load.v{LANES}i8.p0", vt, args)


def load(b: ir.IRBuilder, element: Any, p: Any, i: Any, n: Any = None) -> Any:
    """16 elements from `i` on as float64; with `n` only that many are read, and +0.0 stands behind them."""
    return widen(b, stored(b, element, p, i, n), element)


def load_single(b: ir.IRBuilder, element: Any, p: Any, i: Any, n: Any = None) -> Any:
    """`load` as float32, of elements that are not wider."""
    return single(b, stored(b, element, p, i, n), element)


def put_first(b: ir.IRBuilder, element: Any, p: Any, i: Any, values: Any, n: Any) -> None:
    """The first n of 16 elements, as they are to be stored, to `i` on."""
    args = [values, address(b, p, i, element), ir.Constant(I32, element.bitwidth // 8), first_lanes(b, n)]
    call(b, masked("store", element), ir.VoidType(), args)


class Past(NamedTuple):
    """Whether stores go past the caches."""

    flag: Any  # at run time
    align: int | None = None  # bytes of which every address is a multiple then; None: those of a vector


def put_whole(b: ir.IRBuilder, element: Any, places: list[Any], values: list[Any], streaming: Past | None) -> None:
    """Vectors as they are to be stored."""
    align = element.bitwidth // 8
    if streaming is None:
        store_all(b, values, places, align)
        return
    with b.if_else(streaming.flag) as (past, through):
        with past:
            store_all(b, values, places, streaming.align or values[0].type.count * align, past_caches=True)
        with through:
            store_all(b, values, places, align)


def store(b: ir.IRBuilder, element: Any, p: Any, i: Any, v: Any, n: Any = None, streaming: Past | None = None) -> None:
    """16 float64 to `i` on, rounded once; with `n` only that many. `streaming`: see `put_whole`."""
    if n is not None:
        put_first(b, element, p, i, narrow(b, v, element), n)
        return
    lanes = LANES // 2 if element == types.float32 else LANES  # to join what 16 float64 became takes an operation more
    pieces = [take(b, v, list(range(k, k + lanes))) for k in range(0, LANES, lanes)]
    places = [address(b, p, b.add(i, integer(k * lanes)), element, lanes) for k in range(len(pieces))]
    put_whole(b, element, places, [narrow(b, piece, element) for piece in pieces], streaming)


def store_single(b: ir.IRBuilder, element: Any, p: Any, i: Any, v: Any, n: Any = None, streaming: Past | None = None) -> None:
    """`store` of float32."""
    rounded = from_single(b, v, element)
    if n is not None:
        put_first(b, element, p, i, rounded, n)
    else:
        put_whole(b, element, [address(b, p, i, element)], [rounded], streaming)


def store_all(b: ir.IRBuilder, values: list[Any], places: list[Any], align: int, past_caches: bool = False) -> None:
    for value, place in zip(values, places, strict=True):
        instruction = b.store(value, place, align=align)
        if past_caches:
            instruction.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))


@intrinsic
def convert(tc: Any, source: Any, n: Any, target: Any) -> Any:
    """target[:n] = source[:n] by way of float64: exact when it widens, rounded once when it narrows."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        stored, n, made = a
        with cgutils.for_range_slice(b, integer(0), n, integer(LANES), intp=I64) as (i, _):
            left = b.sub(n, i)
            store(b, target.dtype, made, i, load(b, source.dtype, stored, i, left), left)
        return ctx.get_dummy_value()

    return types.void(source, types.intp, target), codegen


@intrinsic
def fill(tc: Any, p: Any, i: Any, n: Any, value: Any) -> Any:
    """p[i : i + n] = value, float64"""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        p, i, n, value = a
        v = broadcast(b, value)
        sixteens(b, integer(0), n, lambda k, m: store(b, types.float64, p, b.add(i, k), v, m))
        return ctx.get_dummy_value()

    return types.void(p, types.intp, types.intp, types.float64), codegen


def repeat_row(b: ir.IRBuilder, element: Any, p: Any, n: Any, copies: Any) -> None:
    """Write n elements so many times side by side, of which the first is there."""
    # for k in range(n):
    #     for at in range(n, n * copies, n): p[at + k] = p[k]
    with cgutils.for_range_slice(b, integer(0), n, integer(LANES), intp=I64) as (k, _):
        left = b.sub(n, k)
        v = stored(b, element, p, k, left)
        with cgutils.for_range_slice(b, n, b.mul(n, copies), n, intp=I64) as (at, _):
            put_first(b, element, p, b.add(at, k), v, left)


@intrinsic
def repeat(tc: Any, p: Any, n: Any, copies: Any) -> Any:
    """`repeat_row` of float64."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        repeat_row(b, types.float64, *a)
        return ctx.get_dummy_value()

    return types.void(p, types.intp, types.intp), codegen


@intrinsic
def as_single(tc: Any, p: Any) -> Any:
    """The same memory as float32."""
    return types.CPointer(types.float32)(p), lambda ctx, b, sig, a: b.bitcast(a[0], F32.as_pointer())


@intrinsic
def point(tc: Any, p: Any, i: Any, single: Any) -> Any:
    """Write the address of float32 numbers in place of the float64 p[i]."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        p, i, single = a
        b.store(single, b.bitcast(b.gep(p, [i]), single.type.as_pointer()))
        return ctx.get_dummy_value()

    return types.void(p, types.intp, single), codegen


def pointed(b: ir.IRBuilder, p: Any, i: Any) -> Any:
    """What `point` wrote."""
    return b.load(b.bitcast(b.gep(p, [i]), F32.as_pointer().as_pointer()))
