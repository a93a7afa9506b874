"""How the sizes of a norm's plan are made of x's axes, learned from the plan itself.

When a function is compiled, x's axes are known but not their sizes. So a plan is made of a shape of prime numbers, by the table
of norms as ever, and its sizes say which axes each is the product of.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from ..cpu.arith.vectors import I64, integer
from ..cpu.compile import intrinsic, types
from ..cpu.entry.spread import INT64
from ..spec.dtypes import DTYPES

# primes for axes, and for the groups and the channels of a group that the axis of the channels is made of
PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
GROUPS, PER_GROUP = 61, 67
NUMBERS = {**{getattr(types, name): 1 + k for k, name in enumerate(DTYPES) if name in ("float32", "float64")},
           types.int64: INT64}  # fmt: skip
Recipe = tuple[tuple[int, ...], ...]  # factors of each of some sizes: an axis, or of GROUPS and PER_GROUP the negative


def shape_of_primes(ndim: int, channels: int | None) -> tuple[int, ...]:
    """A shape that can be told from its products; channels: the axis that is divided into groups."""
    shape = list(PRIMES[:ndim])
    if channels is not None:
        shape[channels] = GROUPS * PER_GROUP
    return tuple(shape)


def recipe(sizes: tuple[int, ...], shape: tuple[int, ...]) -> Recipe:
    """How sizes are made of a shape of primes."""
    found = []
    for size in sizes:
        factors = []
        for axis, n in enumerate(shape):
            if size % n == 0:
                factors.append(axis)
                size //= n
        for n in (GROUPS, PER_GROUP):
            if size % n == 0:
                factors.append(-n)
                size //= n
        assert size == 1, (sizes, shape)  # a norm whose plan is no product of axes
        found.append(tuple(factors))
    return tuple(found)


def sizes_by(recipe: Recipe, channels: int | None) -> Any:
    """An intrinsic: sizes, of x's shape and (num_groups,) or whatever else was said of axes."""
    result = types.UniTuple(types.int64, len(recipe))

    @intrinsic
    def sizes(tc: Any, shape: Any, size: Any) -> Any:
        def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
            axes = cgutils.unpack_tuple(b, a[0])
            found = []
            for factors in recipe:
                value = integer(1)
                for k in factors:
                    groups = cgutils.unpack_tuple(b, a[1])[0] if k < 0 else None
                    factor = axes[k] if k >= 0 else groups if k == -GROUPS else b.sdiv(axes[channels], groups)
                    value = b.mul(value, factor)
                found.append(value)
            return ctx.make_tuple(b, result, found)

        return result(shape, size), codegen

    return sizes


@intrinsic
def integers(tc: Any, value: Any) -> Any:
    """An integer or a tuple of integers -> a tuple of int64; None: an empty one."""
    several = value.types if isinstance(value, types.BaseTuple) else () if value == types.none else (value,)
    result = types.UniTuple(types.int64, len(several))

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        own = cgutils.unpack_tuple(b, a[0]) if isinstance(value, types.BaseTuple) else [] if value == types.none else [a[0]]
        return ctx.make_tuple(b, result, [ctx.cast(b, v, t, types.int64) for v, t in zip(own, several, strict=True)])

    return result(value), codegen


@intrinsic
def place(tc: Any, array: Any) -> Any:
    """The address of a contiguous array's elements, 0 for None."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        if not isinstance(array, types.Array):
            return integer(0)
        return b.ptrtoint(ctx.make_array(array)(ctx, b, value=a[0]).data, I64)

    return types.int64(array), codegen


def spread_words(axes: tuple[tuple[int, ...], ...], ndim: int) -> Any:
    """An intrinsic: `words`, and what `cpu.entry.spread` wants to know of arrays, each along the last ones of these axes of x.

    A None is no array. An integer is one of a single element.
    """

    @intrinsic
    def asked(tc: Any, values: Any, arrays: Any) -> Any:
        def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
            own = [ctx.cast(b, v, t, types.int64) for v, t in zip(cgutils.unpack_tuple(b, a[0]), values.types, strict=True)]
            for array, t, places in zip(cgutils.unpack_tuple(b, a[1]), arrays.types, axes, strict=True):
                own += described(ctx, b, array, t, places, ndim)
            memory = cgutils.alloca_once(b, I64, size=len(own))
            for k, value in enumerate(own):
                b.store(value, b.gep(memory, [integer(k)]))
            return b.ptrtoint(memory, I64)

        return types.int64(values, arrays), codegen

    return asked


def described(ctx: Any, b: Any, array: Any, t: Any, places: tuple[int, ...], ndim: int) -> list[Any]:
    """Address, number of the dtype, sizes and strides along x's axes of an array of type t; 1 and 0 of another axis."""
    sizes, steps = [integer(1)] * ndim, [integer(0)] * ndim
    if isinstance(t, types.Integer):
        number = cgutils.alloca_once_value(b, ctx.cast(b, array, t, types.int64))
        return [b.ptrtoint(number, I64), integer(INT64), *sizes, *steps]
    if not isinstance(t, types.Array):
        return [integer(0), integer(0), *sizes, *steps]
    seen, itemsize = ctx.make_array(t)(ctx, b, value=array), integer(t.dtype.bitwidth // 8)
    own = zip(cgutils.unpack_tuple(b, seen.shape), cgutils.unpack_tuple(b, seen.strides), strict=True)
    for k, (size, stride) in zip(places[len(places) - t.ndim :], own, strict=True):
        sizes[k] = size
        steps[k] = b.select(b.icmp_signed("==", size, integer(1)), integer(0), b.sdiv(stride, itemsize))
    return [b.ptrtoint(seen.data, I64), integer(NUMBERS[t.dtype]), *sizes, *steps]


@intrinsic
def words(tc: Any, values: Any) -> Any:
    """The address of integers that are written down, for as long as the function runs."""

    def codegen(ctx: Any, b: Any, sig: Any, a: Any) -> Any:
        memory = cgutils.alloca_once(b, I64, size=len(values))
        for k, (value, t) in enumerate(zip(cgutils.unpack_tuple(b, a[0]), values.types, strict=True)):
            b.store(ctx.cast(b, value, t, types.int64), b.gep(memory, [integer(k)]))
        return b.ptrtoint(memory, I64)

    return types.int64(values), codegen
