"""Stages of an element: it *enters*, sums and formulas take it, and what they give is *finished* and written.

No other function reads elements of x or dy or writes those of y or dx: what is to be done to an element before or after all
else, as by a mask, a residual or an activation, is an argument of these.
"""

from __future__ import annotations

from .device import device, load1, store1
from .elementwise import four_affine, four_slanted
from .tiles import fetch, fetch_stored, put


@device
def enter(wide, p, at, left, j):
    """Step j of x or dy: four elements, 0 where there is none."""
    return fetch(wide, p, at, left, j)


@device
def take(wide, p, at, left, j):
    """Step j of x or dy as a thread holds it: float32, unless it is float64."""
    return fetch_stored(wide, p, at, left, j)


@device
def finish(wide, y, at, left, j, d, of_group, of_element):
    """Write step j of y, from distances, (rstd, c) of their groups and their (weight, bias)."""
    put(wide, y, at, left, j, four_affine(d, of_group[0], of_group[1], of_element[0], of_element[1]))


@device
def finish_gradient(wide, dx, at, left, j, d, u, of_group):
    """Write step j of dx, from distances, scaled dy and (slope, shift) of their groups."""
    put(wide, dx, at, left, j, four_slanted(d, of_group[0], u, of_group[1]))


@device
def enter_one(p, i):
    """Element i of x or dy, where a thread takes one at a time."""
    return load1(p, i)


@device
def finish_one(p, i, v):
    """Write element i of y or dx."""
    store1(p, i, v)
