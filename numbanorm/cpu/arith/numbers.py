"""Numbers as one float64, or as two whose unevaluated sum they are: lists of LLVM values, the high part first.

What is computed for elements of 32 bits or fewer has one part, what is for float64 two (TwoSum: D. Knuth, TAOCP vol. 2, 4.2.2;
T. Dekker 1971). Each function takes scalars or vectors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .vectors import F64, fused


def two_sum(b: ir.IRBuilder, x: Any, y: Any) -> tuple[Any, Any]:
    """x + y as the rounded sum and its exact error."""
    s = b.fadd(x, y)
    z = b.fsub(s, x)
    return s, b.fadd(b.fsub(x, b.fsub(s, z)), b.fsub(y, z))


def number(b: ir.IRBuilder, low: Any) -> Any:
    """A low part, or 0 where it is nan: the error of a sum that is infinite says nothing, and would make it nan."""
    nothing = ir.Constant(low.type, [0.0] * low.type.count) if isinstance(low.type, ir.VectorType) else ir.Constant(F64, 0.0)
    return b.select(b.fcmp_ordered("ord", low, low), low, nothing)


def add_parts(b: ir.IRBuilder, x: list[Any], y: list[Any]) -> list[Any]:
    """x + y, of as many parts."""
    if len(x) == 1:
        return [b.fadd(x[0], y[0])]
    s, e = two_sum(b, x[0], y[0])
    return list(two_sum(b, s, number(b, b.fadd(e, b.fadd(x[1], y[1])))))


def negative(b: ir.IRBuilder, x: list[Any]) -> list[Any]:
    return [b.fneg(part) for part in x]


def subtract_parts(b: ir.IRBuilder, x: list[Any], y: list[Any]) -> list[Any]:
    """x - y, of as many parts."""
    return [b.fsub(x[0], y[0])] if len(x) == 1 else add_parts(b, x, negative(b, y))


def distance(b: ir.IRBuilder, x: Any, y: Any, parts: int) -> list[Any]:
    """x - y of two float64, exactly if it has two parts."""
    if parts == 1:
        return [b.fsub(x, y)]
    return list(two_sum(b, x, b.fneg(y)))


def multiply(b: ir.IRBuilder, x: list[Any], y: list[Any], parts: int) -> list[Any]:
    """x * y; each may have fewer parts than the product, whose low part is not normalized."""
    high = b.fmul(x[0], y[0])
    if parts == 1:
        return [high]
    low = fused(b, x[0], y[0], b.fneg(high))
    for part in y[1:]:
        low = fused(b, x[0], part, low)
    for part in x[1:]:
        low = fused(b, part, y[0], low)
    return [high, low]


def rounded(b: ir.IRBuilder, x: list[Any]) -> Any:
    """The one float64 next to x."""
    return x[0] if len(x) == 1 else b.fadd(x[0], number(b, x[1]))


def divide(b: ir.IRBuilder, x: list[Any], n: Any) -> list[Any]:
    """x / n, of as many parts: truly, so that the mean of equal numbers is that number."""
    q = b.fdiv(x[0], n)
    if len(x) == 1:
        return [q]
    low = number(b, b.fdiv(b.fadd(fused(b, b.fneg(q), n, x[0]), x[1]), n))
    high = b.fadd(q, low)
    return [high, b.fsub(low, b.fsub(high, q))]
