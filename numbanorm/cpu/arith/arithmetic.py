"""Arithmetics: how what is computed for the elements of a type is represented, and each operation on it. Nobody else asks.

`Exact` and `ExactPairs` round a result once, `Fast` takes the same sums and finishes in float32. So what kernels point to has a
type that says how it is stored and what is done with it, an `Element`.

A number is a list of LLVM values, scalars or vectors, the high part first: one float64, or two whose unevaluated sum it is
(TwoSum: D. Knuth, TAOCP vol. 2, 4.2.2; T. Dekker 1971). An accumulator is a number in some lanes, in one vector: a `Vec`.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.extending import models, register_model

from ..compile import intrinsic, types
from .conversions import from_single, narrow, single, widen
from .memory import load, load_single, store, store_single
from .vectors import F32, F64, I1, I32, LANES, MEMORY, absolute, broadcast, constant, fused, like, take, vector

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
    single = False  # whether results are computed in float32
    load, store = staticmethod(load), staticmethod(store)  # elements in memory <-> `number`
    opened, closed = staticmethod(widen), staticmethod(narrow)  # the same of vectors that are loaded
    number, constants = F64, 3  # of `affine`, for a column
    aligns, together, asks = False, 1, True  # how a run is written: from an aligned address on, so many vectors a turn, ahead

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once  # whether sums and squares are taken in one read, or one after the other
        self.name = type(self).__name__ + at_once * "AtOnce"

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

    def joined(self, b: ir.IRBuilder, mean: Any, low: Any, rstd: Any, weight: Any, bias: Any) -> list[Any]:
        """Constants for `affine` of what shares a weight; all float64, scalars or vectors."""
        return [mean, b.fmul(rstd, weight), fused(b, b.fneg(b.fmul(low, rstd)), weight, bias)]

    def apart(self, b: ir.IRBuilder, mean: Any, low: Any, rstd: Any) -> list[Any]:
        """Constants for `pointwise`, of a group."""
        return [mean, rstd, b.fneg(b.fmul(low, rstd))]

    def affine(self, b: ir.IRBuilder, x: Any, *known: Any) -> Any:
        """(x - mean) * scale + shift, rounded; what the mean's low part changes is in the shift."""
        mean, scale, shift = known
        return fused(b, b.fsub(x, mean), scale, shift)

    def parameter(self, b: ir.IRBuilder, p: Any, i: Any, n: Any = None) -> Any:
        """16 weights or biases of single elements; see `elementwise.own_parameters`."""
        return load(b, types.float64, p, i, n)

    def pointwise(self, b: ir.IRBuilder, x: Any, known: list[Any], weight: Any, bias: Any) -> Any:
        """The result of an element that has a weight of its own."""
        mean, rstd, c = known
        return self.affine(b, x, mean, b.fmul(rstd, weight), fused(b, c, weight, bias))

    def fits(self, b: ir.IRBuilder, mean: Any, m2: Any, rstd: Any, own: Any) -> Any:
        """Whether a group's constants are as good as any."""
        return ir.Constant(I1, 1)

    def fits_channel(self, b: ir.IRBuilder, mean: Any, low: Any, rstd: Any, weight: Any, bias: Any) -> Any:
        return ir.Constant(I1, 1)

    def lanes(self, b: ir.IRBuilder, x: Any) -> Any:
        """A float64, or a vector of 16, as `number` in 16 lanes."""
        return x if isinstance(x.type, ir.VectorType) else broadcast(b, x)

    def scale(self, b: ir.IRBuilder, rstd: Any, weight: Any) -> Number:
        """rstd * weight in 16 lanes, of two float64."""
        return self.multiply(b, [self.lanes(b, rstd)], [self.lanes(b, weight)])

    def slanted(self, b: ir.IRBuilder, d: Number, slope: Number, u: tuple[Number, Number], shift: Number) -> Any:
        """d * slope + (u + shift), rounded: exactly 0 where d and u + shift are; u: two factors."""
        return fused(b, d[0], slope[0], b.fadd(b.fmul(u[0][0], u[1][0]), shift[0]))

    def fitting(self, b: ir.IRBuilder, group: Any, slant: Any, offset: Any) -> tuple[Any, Any]:
        """Slope and offset, nan where there is no room. group: mean, rstd; slant: slope, shift, size."""
        return slant[0], offset

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

    def slanted(self, b: ir.IRBuilder, d: Number, slope: Number, u: tuple[Number, Number], shift: Number) -> Any:
        product = self.multiply(b, *u)
        total = b.fadd(product[0], shift[0])
        rough = fused(b, d[0], slope[0], total)
        low = fused(b, d[0], slope[1], b.fadd(product[1], shift[1]))
        fine = fused(b, d[0], slope[0], b.fadd(total, fused(b, d[1], slope[0], low)))
        return b.select(b.fcmp_ordered("ord", fine, fine), fine, rough)  # what is infinite has no low part

    def join(self, b: ir.IRBuilder, x: Number) -> Any:
        count = 2 * x[0].type.count
        return b.shuffle_vector(*x, ir.Constant(vector(I32, count), list(range(count))))


def single_of(b: ir.IRBuilder, v: Any) -> Any:
    """float64 -> float32, a scalar or a vector."""
    return b.fptrunc(v, vector(F32, v.type.count) if isinstance(v.type, ir.VectorType) else F32)


def less_single(b: ir.IRBuilder, v: Any, high: Any) -> Any:
    """v - high, of a float64 and the float32 next to it."""
    return b.fsub(v, b.fpext(high, v.type))


def in_two_singles(b: ir.IRBuilder, v: Any) -> tuple[Any, Any]:
    """float64 -> two float32 of one sign whose sum it is, to 2**-40: so no product with an infinity makes a nan of theirs."""
    # high = float32(v), towards 0
    # low = v - high or high * 2**-40
    nearest, integers = single_of(b, v), vector(I32, v.type.count) if isinstance(v.type, ir.VectorType) else I32
    beyond = b.fcmp_ordered(">", absolute(b, b.fpext(nearest, v.type)), absolute(b, v))
    high = b.bitcast(b.sub(b.bitcast(nearest, integers), b.zext(beyond, integers)), nearest.type)
    rest, wide = less_single(b, v, high), b.fpext(high, v.type)
    rest = b.select(b.fcmp_ordered("==", rest, like(rest, 0.0)), b.fmul(wide, like(wide, 2.0**-40)), rest)
    return high, single_of(b, rest)


class Fast(Exact):
    """Results in float32: of a mean and a scale that are split in two, an element takes a difference and two or three fma.

    With the scale's low part left out, a result would be 0.4 ulp worse (1.9 without parameters).
    """

    load, store = staticmethod(load_single), staticmethod(store_single)
    opened, closed = staticmethod(single), staticmethod(from_single)
    number, constants = F32, 4
    single, aligns, together, asks = True, True, 4, False
    # what a float32 holds without loss of bits, with room for the low parts and for products
    SMALLEST, LARGEST, LARGEST_MEAN, LARGEST_M2, LARGEST_SHIFT = 2.0**-100, 2.0**100, 2.0**125, 2.0**248, 2.0**127
    LARGEST_ROOT = 2.0**40  # rstd in gradients, which take its cube
    LARGEST_GIVEN = 2.0**103  # half an ulp of the largest float32: so no x is too far from a mean that is not its own

    def joined(self, b: ir.IRBuilder, mean: Any, low: Any, rstd: Any, weight: Any, bias: Any) -> list[Any]:
        scale = b.fmul(rstd, weight)
        high = single_of(b, mean)
        off = b.fadd(less_single(b, mean, high), low)
        return [high, *in_two_singles(b, scale), single_of(b, fused(b, b.fneg(off), scale, bias))]

    def affine(self, b: ir.IRBuilder, x: Any, *known: Any) -> Any:
        mean, scale, low, shift = known
        d = b.fsub(x, mean)
        return fused(b, d, scale, fused(b, d, low, shift))

    def parameter(self, b: ir.IRBuilder, p: Any, i: Any, n: Any = None) -> Any:
        return load_single(b, types.float32, p, i, n)

    def lanes(self, b: ir.IRBuilder, x: Any) -> Any:
        single = single_of(b, x)
        return single if isinstance(x.type, ir.VectorType) else broadcast(b, single)

    def scale(self, b: ir.IRBuilder, rstd: Any, weight: Any) -> Number:
        return [self.lanes(b, b.fmul(rstd, weight))]

    def slanted(self, b: ir.IRBuilder, d: Number, slope: Number, u: tuple[Number, Number], shift: Number) -> Any:
        return fused(b, d[0], slope[0], fused(b, u[0][0], u[1][0], shift[0]))

    def pointwise(self, b: ir.IRBuilder, x: Any, known: list[Any], weight: Any, bias: Any) -> Any:
        return fused(b, self.affine(b, x, *known), weight, bias)

    def fits(self, b: ir.IRBuilder, mean: Any, m2: Any, rstd: Any, own: Any) -> Any:
        """own: whether the statistics are those of x, whose differences are then bounded by m2."""
        limit = b.select(own, like(mean, self.LARGEST_MEAN), like(mean, self.LARGEST_GIVEN))
        spread = b.select(own, like(mean, self.LARGEST_M2), like(mean, math.inf))
        good = b.and_(b.fcmp_ordered("<", absolute(b, mean), limit), b.fcmp_unordered("ult", m2, spread))
        good = b.and_(good, b.fcmp_ordered(">", rstd, like(rstd, self.SMALLEST)))
        return b.and_(good, b.fcmp_ordered("<", rstd, like(rstd, self.LARGEST)))

    def fits_channel(self, b: ir.IRBuilder, mean: Any, low: Any, rstd: Any, weight: Any, bias: Any) -> Any:
        """Whether scale and shift of a channel are."""
        scale = b.fmul(rstd, weight)
        off = b.fadd(less_single(b, mean, single_of(b, mean)), low)
        shift = absolute(b, fused(b, b.fneg(off), scale, bias))
        return b.and_(
            self.normal(b, scale, like(scale, self.LARGEST)), b.fcmp_ordered("<", shift, like(shift, self.LARGEST_SHIFT))
        )

    def fitting(self, b: ir.IRBuilder, group: Any, slant: Any, offset: Any) -> tuple[Any, Any]:
        nan = ir.Constant(F64, math.nan)
        (mean, rstd), (*slant, size) = (absolute(b, v) for v in group), slant
        limits = [(mean, self.LARGEST_MEAN), (rstd, self.LARGEST_ROOT), (size, self.LARGEST)]
        known = b.fcmp_ordered(">", rstd, like(rstd, 1.0 / self.LARGEST_ROOT))
        for v, limit in limits:
            known = b.and_(known, b.fcmp_ordered("<", v, like(v, limit)))
        # what is summed are products of size and size / rstd: none that matters may lose its bits
        least = b.fmul(like(rstd, self.SMALLEST), b.select(b.fcmp_ordered(">", rstd, like(rstd, 1.0)), rstd, like(rstd, 1.0)))
        enough = b.or_(b.fcmp_ordered("==", size, like(size, 0.0)), b.fcmp_ordered(">", size, least))
        known = good = b.and_(known, enough)
        for v in slant:
            good = b.and_(good, self.normal(b, v, like(v, self.LARGEST)))
        return b.select(good, slant[0], nan), b.select(known, offset, nan)

    def normal(self, b: ir.IRBuilder, v: Any, limit: Any) -> Any:
        """Whether a number is 0, or neither too small nor as large as `limit`."""
        size = absolute(b, v)
        within = b.and_(b.fcmp_ordered(">", size, like(size, self.SMALLEST)), b.fcmp_ordered("<", size, limit))
        return b.or_(b.fcmp_ordered("==", size, like(size, 0.0)), within)


EXACT, PAIRS, FAST = Exact(), ExactPairs(), Fast()
WAYS = {(of.single, of.at_once): of for of in (EXACT, Exact(at_once=True), FAST, Fast(at_once=True))}


class Element(types.Type):
    """Elements of 32 bits or fewer: the type that they are stored as, and the arithmetic for them.

    Masked ones, of which there are float64 too, have a mask: a pointer to them is one to a `layout.Masked`. Those that another
    array's join have a stage, some of "plus", "act" and "gate": a pointer to them is one to a `layout.Joined`. Those of rows
    that stand apart have the stage "gaps": a pointer to them is one to a `layout.Apart`.
    """

    def __init__(self, stored: Any, single: bool, at_once: bool, masked: bool = False, stage: str = "") -> None:
        self.stored, self.bitwidth, self.masked, self.stage = stored, stored.bitwidth, masked, stage
        self.arithmetic = PAIRS if stored == types.float64 else WAYS[single, at_once]
        super().__init__(name=f"Element({stored} {self.arithmetic.name}{' masked' * masked}{stage and ' ' + stage})")


@register_model(Element)
class ElementModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Element) -> None:
        super().__init__(dmm, fe_type, MEMORY[fe_type.stored])


def arithmetic_of(element: Any) -> Exact:
    """The arithmetic for elements of a kernel's pointers."""
    if isinstance(element, Element):
        return element.arithmetic
    return PAIRS if element == types.float64 else EXACT


def is_masked(element: Any) -> bool:
    """Whether such elements have a mask."""
    return isinstance(element, Element) and element.masked


def stage_of(element: Any) -> str:
    """What is done to such elements beside."""
    return element.stage if isinstance(element, Element) else ""


def stored_as(element: Any) -> Any:
    """The type that such elements have in memory."""
    return element.stored if isinstance(element, Element) else element


@intrinsic
def at_once(tc: Any, x: Any) -> Any:
    """Whether sums and squares of x are taken in one read: a constant, so that no code is made for the other way."""
    of = arithmetic_of(x.dtype)
    return types.boolean(x), lambda ctx, b, sig, a: ir.Constant(I1, of.at_once)


class Vec(types.Type):
    """A number in each of `lanes` lanes: all the high parts first, then the low. By default plain float64."""

    def __init__(self, lanes: int = LANES, arithmetic: Exact = EXACT) -> None:
        self.lanes, self.arithmetic, self.count = lanes, arithmetic, lanes * arithmetic.parts
        super().__init__(name=f"Vec({lanes} {arithmetic.name})")

    def zero(self) -> ir.Constant:
        return constant(F64, 0.0, self.count)


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, vector(F64, fe_type.count))
