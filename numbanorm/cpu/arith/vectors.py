"""Explicit vectors of 16 lanes: how LLVM code for loads, stores and conversions is written.

Numba cannot vectorize a sum whose order is fixed, so the order is written down in vectors. LLVM splits 16 lanes into
whatever the CPU has; no fast-math flag is set and nothing is contracted, so the bits are the same everywhere.

The loops over elements are written with LLVM's builder too, in a handful of intrinsics: as Numba functions they took
four times as long to compile, for each of those is optimized as a module of its own, with all that it calls.

Elements are named by how they are stored, for Numba types neither float16 nor bfloat16 on the CPU: uint16 stands for
the bits of a float16, int16 for those of a bfloat16 (see `STORAGE`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ...spec.dtypes import DTYPES
from ..compile import intrinsic, types

LANES = 16

#: dtype name -> the dtype under which the kernels see the same bytes
STORAGE = {name: dtype.stored for name, dtype in DTYPES.items()}

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
MEMORY = {types.float32: F32, types.float64: F64, types.uint16: I16, types.int16: I16}


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def constant(element: ir.Type, value: Any, lanes: int = LANES) -> ir.Constant:
    return ir.Constant(vector(element, lanes), [value] * lanes)


def call(b: ir.IRBuilder, name: str, result: ir.Type, args: list[Any]) -> Any:
    """Call the LLVM intrinsic `name`."""
    fnty = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, fnty, name), args)


def broadcast(b: ir.IRBuilder, value: Any, lanes: int = LANES) -> Any:
    vt = vector(value.type, lanes)
    v = b.insert_element(ir.Constant(vt, ir.Undefined), value, ir.Constant(I32, 0))
    return b.shuffle_vector(v, v, ir.Constant(vector(I32, lanes), [0] * lanes))


def take(b: ir.IRBuilder, v: Any, lanes: list[int]) -> Any:
    """These lanes of a vector, in this order."""
    return b.shuffle_vector(v, v, ir.Constant(vector(I32, len(lanes)), lanes))


def first_lanes(b: ir.IRBuilder, n: Any) -> Any:
    """Mask of the lanes below `n`."""
    return b.icmp_signed("<", ir.Constant(vector(I64), list(range(LANES))), broadcast(b, n))


def like(v: Any, value: float) -> ir.Constant:
    """A constant of the type of v, in as many lanes."""
    vt = isinstance(v.type, ir.VectorType)
    return ir.Constant(v.type, [value] * v.type.count if vt else value)


def suffix_of(x: Any) -> str:
    """The end of the names of LLVM's functions for such numbers."""
    vt = isinstance(x.type, ir.VectorType)
    number = "f32" if (x.type.element if vt else x.type) == F32 else "f64"
    return f"v{x.type.count}{number}" if vt else number


def fused(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once"""
    return call(b, f"llvm.fma.{suffix_of(x)}", x.type, [x, y, z])


def absolute(b: ir.IRBuilder, x: Any) -> Any:
    return call(b, f"llvm.fabs.{suffix_of(x)}", x.type, [x])


# --- memory and loops --------------------------------------------------------------------------------------------------


def address(b: ir.IRBuilder, p: Any, i: Any, element: Any, lanes: int = LANES) -> Any:
    """Pointer to `lanes` elements from `i` on."""
    return b.bitcast(b.gep(p, [i]), vector(MEMORY[element], lanes).as_pointer())


def prefetch(b: ir.IRBuilder, p: Any, i: Any, near: bool = False) -> None:
    """Ask for the cache line of element `i` (into L2, or `near` into L1; any address is allowed)."""
    where = b.bitcast(b.gep(p, [i]), I8.as_pointer())
    call(b, "llvm.prefetch.p0", ir.VoidType(), [where, *(ir.Constant(I32, k) for k in (0, 3 if near else 2, 1))])


def misaligned(b: ir.IRBuilder, element: Any, p: Any, i: Any) -> Any:
    """Elements between `i` and the next address that is a multiple of 16 elements: 0 to 15."""
    index = b.udiv(b.ptrtoint(b.gep(p, [i]), I64), ir.Constant(I64, element.bitwidth // 8))
    return b.and_(b.neg(index), ir.Constant(I64, LANES - 1))


def integer(n: int) -> Any:
    return ir.Constant(I64, n)


def smaller(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.icmp_signed("<", x, y), x, y)


def sixteens(b: ir.IRBuilder, start: Any, stop: Any, step: Any) -> None:
    """`step(e, None)` for whole vectors from `start` on, then `step(e, n)` for the n < 16 elements that remain."""
    # for e in range(start, stop - 15, 16): step(e, None)
    # if (stop - start) % 16: step(stop - (stop - start) % 16, (stop - start) % 16)
    rest = b.and_(b.sub(stop, start), integer(LANES - 1))
    whole = b.sub(stop, rest)
    with cgutils.for_range_slice(b, start, whole, integer(LANES), intp=I64) as (e, _):
        step(e, None)
    with b.if_then(b.icmp_signed(">", rest, integer(0))):
        step(whole, rest)


@contextmanager
def sixteens_of(b: ir.IRBuilder, n: Any) -> Iterator[Any]:
    """A loop over n elements, 16 at a time: the first of them, and how many there are from it on."""
    with cgutils.for_range_slice(b, integer(0), n, integer(LANES), intp=I64) as (e, _):
        yield e, b.sub(n, e)


def down_rows(b: ir.IRBuilder, block: Any, step: Any) -> None:
    """`step(first, c, n, rows)` for 16 columns at a time, or n, c being the first, and some rows together from `first` on.

    `with rows() as (at, row)` is a loop over these rows, at their elements of column c. block: the fields of a `layout.Block`.
    """
    # for first in range(0, rows, together):
    #     for c in range(0, width, 16): step(first, c, ...)
    i, rows, together, stride, width = block
    with cgutils.for_range_slice(b, integer(0), rows, together, intp=I64) as (first, _):
        start, count = b.add(i, b.mul(first, stride)), smaller(b, together, b.sub(rows, first))

        def at_columns(c: Any, n: Any) -> None:
            @contextmanager
            def loop() -> Iterator[Any]:
                with cgutils.for_range(b, count, intp=I64) as row:
                    yield b.add(b.add(start, c), b.mul(row.index, stride)), b.add(first, row.index)

            step(first, c, n, loop)

        sixteens(b, integer(0), width, at_columns)


@intrinsic
def pointer(tc: Any, array: Any) -> Any:
    """Address of a contiguous array's first element."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_array(sig.args[0])(ctx, b, value=a[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def keep(tc: Any, array: Any) -> Any:
    """Nothing; but Numba frees an array after its last use, and does not see those by its address."""
    return types.void(array), lambda ctx, b, sig, a: ctx.get_dummy_value()


@intrinsic
def advance(tc: Any, p: Any, n: Any) -> Any:
    """The pointer `n` elements further on."""
    return p(p, types.intp), lambda ctx, b, sig, a: b.gep(a[0], [a[1]])


@intrinsic
def named(tc: Any, p: Any, layout: Any) -> Any:
    """Integers from memory as a NamedTuple of this class."""
    fields = layout.instance_class._fields
    result = types.NamedUniTuple(types.intp, len(fields), layout.instance_class)

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        return ctx.make_tuple(b, result, [b.load(b.gep(a[0], [integer(k)])) for k in range(len(fields))])

    return result(p, layout), codegen
