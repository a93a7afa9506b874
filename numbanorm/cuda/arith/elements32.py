"""Results in float32: constants of a group, or of what shares a weight in it, in two float32 each, and what is done with them.

The twin of `Fast` in `numbanorm.cpu.arith.arithmetic`, which says why; `numbanorm.reference.elements` has the formulae.
A group is (mean, low, m2, rstd), float64; its constants are (mean, scale, scale's low part, shift), float32.
"""

from __future__ import annotations

import math

from .device import device, fma, mul, single, towards_zero, widen
from .tiles import four

# what a float32 holds without loss of bits, with room for the low parts and for products
SMALLEST, LARGEST, LARGEST_MEAN, LARGEST_M2, LARGEST_SHIFT = 2.0**-100, 2.0**100, 2.0**125, 2.0**248, 2.0**127
LARGEST_GIVEN = 2.0**103  # half an ulp of the largest float32: so no x is too far from a mean that is not its own
TINY = 2.0**-40


@device
def in_two_singles(v):
    """float64 -> two float32 of one sign whose sum it is, to 2**-40: so no product with an infinity makes a nan of theirs."""
    high = towards_zero(v)
    rest = v - widen(high)
    if rest == 0.0:
        rest = mul(widen(high), TINY)
    return high, single(rest)


@device
def mean_in_single(group):
    """The mean as float32, and what is left of it."""
    high = single(group[0])
    return high, (group[0] - widen(high)) + group[1]


@device
def apart(group):
    """Constants of a group whose elements have weights of their own."""
    high, off = mean_in_single(group)
    scale, rest = in_two_singles(group[3])
    return high, scale, rest, single(-mul(off, group[3]))


@device
def joined(group, w, b):
    """Constants of what shares a weight and a bias in a group."""
    high, off = mean_in_single(group)
    product = mul(group[3], w)
    scale, rest = in_two_singles(product)
    return high, scale, rest, single(fma(-off, product, b))


def fits(own: bool):
    """A function that says whether float32 has room for a group's constants; own: whether the statistics are those of x."""
    most_mean, most_m2 = (LARGEST_MEAN, LARGEST_M2) if own else (LARGEST_GIVEN, math.inf)

    def room(group):
        mean, m2, rstd = abs(group[0]), group[2], group[3]
        return mean < most_mean and (not m2 >= most_m2) and rstd > SMALLEST and rstd < LARGEST

    return device(room)


@device
def fits_joined(group, w, b):
    """Whether it has for the scale and shift of what shares a weight in a group that fits."""
    product = mul(group[3], w)
    shift, size = abs(fma(-mean_in_single(group)[1], product, b)), abs(product)
    return (size == 0.0 or (size > SMALLEST and size < LARGEST)) and shift < LARGEST_SHIFT


@device
def affine(x, known):
    """(x - mean) * scale + shift"""
    d = x - known[0]
    return fma(d, known[1], fma(d, known[2], known[3]))


@device
def weighted(v, w, b):
    """A normalized element with a weight and a bias of its own."""
    return fma(v, single(w), single(b))


@device
def near_or(good, near, exact):
    """The float32 result, or the float64 one of what float32 has no room for."""
    v = exact
    if good:
        v = widen(near)
    return v


four_affines, four_weighted, four_near = four(affine, 2), four(weighted, 3), four(near_or, 3)
