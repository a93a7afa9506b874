"""Arithmetics: how what is computed for the elements of a type is represented, and each operation on it. Nobody else asks.

A number is a list of LLVM values, scalars or vectors, the high part first: one float64, or two whose unevaluated sum it is
(TwoSum: D. Knuth, TAOCP vol. 2, 4.2.2; T. Dekker 1971). An accumulator is a number in some lanes, in one vector: a `Vec`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import models, register_model

from ..compile import types
from .vectors import F64, I32, LANES, constant, fused, load, store, take, vector

Number = list[Any]


def two_sum(b: ir.IRBuilder, x: Any, y: Any) -> Number:
    """x + y as the rounded sum and its exact error."""
    s = b.fadd(x, y)
    z = b.fsub(s, x)
    return [s, b.fadd(b.fsub(x, b.fsub(s, z)), b.fsub(y, z))]


def unless_nan(b: ir.IRBuilder, low: Any) -> Any:
    """A low part, or 0 where it is nan: the error of a sum that is infinite says nothing, and would make it nan."""
    nothing = ir.Constant(low.type, [0.0] * low.type.count) if isinstance(low.type, ir.VectorType) else ir.Constant(F64, 0.0)
    return b.select(b.fcmp_ordered("ord", low, low), low, nothing)


def negative(b: ir.IRBuilder, x: Number) -> Number:
    return [b.fneg(part) for part in x]


class Exact:
    """One float64, for elements of 32 bits or fewer, which are float64 numbers."""

    parts = 1
    load, store = staticmethod(load), staticmethod(store)  # elements <-> float64, widened and rounded once

    def add(self, b: ir.IRBuilder, x: Number, y: Number) -> Number:
        return [b.fadd(x[0], y[0])]

    def subtract(self, b: ir.IRBuilder, x: Number, y: Number) -> Number:
        return [b.fsub(x[0], y[0])]

    def distance(self, b: ir.IRBuilder, x: Any, y: Any) -> Number:
        """x - y of two float64, as exact as a number can be."""
        return [b.fsub(x, y)]

    def multiply(self, b: ir.IRBuilder, x: Number, y: Number) -> Number:
        """x * y; each may have fewer parts than the product, whose low part is not normalized."""
        return [b.fmul(x[0], y[0])]

    def add_term(self, b: ir.IRBuilder, acc: Number, high: Any, low: Any = None) -> Number:
        """One term more; `low` is the term's own error. The low part needs no renormalizing until it is joined."""
        return [b.fadd(acc[0], high)]

    def product_term(self, b: ir.IRBuilder, acc: Number, x: Number, y: Number) -> Number:
        """acc + x * y"""
        return [fused(b, x[0], y[0], acc[0])]

    def divide(self, b: ir.IRBuilder, x: Number, n: Any) -> Number:
        """x / n: truly, so that the mean of equal numbers is that number."""
        return [b.fdiv(x[0], n)]

    def ratio(self, b: ir.IRBuilder, x: Number, n: Any) -> Number:
        """x / n in two parts, high the rounded quotient."""
        q = b.fdiv(x[0], n)
        return [q, b.fdiv(fused(b, b.fneg(q), n, x[0]), n)]

    def less_square(self, b: ir.IRBuilder, ratio: Number, d: Any) -> Number:
        """Two parts that `ratio` gave, less d * d, which is tiny beside them."""
        return [ratio[0], b.fsub(ratio[1], b.fmul(d, d))]

    def rounded(self, b: ir.IRBuilder, x: Number) -> Any:
        """The one float64 next to x."""
        return x[0]

    def affine(self, b: ir.IRBuilder, x: Any, mean: Any, scale: Any, shift: Any) -> Any:
        """(x - mean) * scale + shift, rounded; what the mean's low part changes is in the shift."""
        return fused(b, b.fsub(x, mean), scale, shift)

    def slanted(self, b: ir.IRBuilder, d: Number, slope: Number, u: Number, shift: Number) -> Any:
        """d * slope + (u + shift), rounded: exactly 0 where d and u + shift are."""
        return fused(b, d[0], slope[0], b.fadd(u[0], shift[0]))

    def split(self, b: ir.IRBuilder, v: Any) -> Number:
        """The vector of an accumulator -> its parts."""
        lanes = v.type.count // self.parts
        return [take(b, v, list(range(p * lanes, (p + 1) * lanes))) for p in range(self.parts)]

    def join(self, b: ir.IRBuilder, x: Number) -> Any:
        """The reverse of `split`."""
        return x[0]


class ExactPairs(Exact):
    """Two float64, for float64 elements: so a mean keeps its low part, and a gradient has no error but that of rstd."""

    parts = 2

    def add(self, b: ir.IRBuilder, x: Number, y: Number) -> Number:
        s, e = two_sum(b, x[0], y[0])
        return two_sum(b, s, unless_nan(b, b.fadd(e, b.fadd(x[1], y[1]))))

    def subtract(self, b: ir.IRBuilder, x: Number, y: Number) -> Number:
        return self.add(b, x, negative(b, y))

    def distance(self, b: ir.IRBuilder, x: Any, y: Any) -> Number:
        return two_sum(b, x, b.fneg(y))

    def multiply(self, b: ir.IRBuilder, x: Number, y: Number) -> Number:
        high = b.fmul(x[0], y[0])
        low = fused(b, x[0], y[0], b.fneg(high))
        for part in y[1:]:
            low = fused(b, x[0], part, low)
        for part in x[1:]:
            low = fused(b, part, y[0], low)
        return [high, low]

    def add_term(self, b: ir.IRBuilder, acc: Number, high: Any, low: Any = None) -> Number:
        s, e = two_sum(b, acc[0], high)
        return [s, b.fadd(acc[1], e if low is None else b.fadd(e, low))]

    def product_term(self, b: ir.IRBuilder, acc: Number, x: Number, y: Number) -> Number:
        return self.add_term(b, acc, *self.multiply(b, x, y))

    def divide(self, b: ir.IRBuilder, x: Number, n: Any) -> Number:
        q = b.fdiv(x[0], n)
        low = unless_nan(b, b.fdiv(b.fadd(fused(b, b.fneg(q), n, x[0]), x[1]), n))
        high = b.fadd(q, low)
        return [high, b.fsub(low, b.fsub(high, q))]

    ratio = divide

    def less_square(self, b: ir.IRBuilder, ratio: Number, d: Any) -> Number:
        return self.subtract(b, ratio, self.multiply(b, [d], [d]))

    def rounded(self, b: ir.IRBuilder, x: Number) -> Any:
        return b.fadd(x[0], unless_nan(b, x[1]))

    def slanted(self, b: ir.IRBuilder, d: Number, slope: Number, u: Number, shift: Number) -> Any:
        total = b.fadd(u[0], shift[0])
        rough = fused(b, d[0], slope[0], total)
        low = fused(b, d[0], slope[1], b.fadd(u[1], shift[1]))
        fine = fused(b, d[0], slope[0], b.fadd(total, fused(b, d[1], slope[0], low)))
        return b.select(b.fcmp_ordered("ord", fine, fine), fine, rough)  # what is infinite has no low part

    def join(self, b: ir.IRBuilder, x: Number) -> Any:
        count = 2 * x[0].type.count
        return b.shuffle_vector(*x, ir.Constant(vector(I32, count), list(range(count))))


EXACT, PAIRS = Exact(), ExactPairs()


def arithmetic_of(element: Any) -> Exact:
    """The arithmetic for elements that are stored so."""
    return PAIRS if element == types.float64 else EXACT


class Vec(types.Type):
    """A number in each of `lanes` lanes: all the high parts first, then the low. By default plain float64."""

    def __init__(self, lanes: int = LANES, arithmetic: Exact = EXACT) -> None:
        self.lanes, self.arithmetic, self.count = lanes, arithmetic, lanes * arithmetic.parts
        super().__init__(name=f"Vec({lanes} {type(arithmetic).__name__})")

    def zero(self) -> ir.Constant:
        return constant(F64, 0.0, self.count)


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, vector(F64, fe_type.count))
