"""Parameters that differ along axes of samples or rows: which units share them, and the calls whose groups have one each.

Where runs of neighbouring units are whole groups (M = 1), units with parameters of their own are groups of one sample. So a
weight for each head, or for each sample of channels first, takes one call; one for each sample of many rows takes a call each.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from .call import Call, Which
from .norms import NORMS
from .plan import Plan, Shape
from .sources import GIVEN, OWN, RSTD

LEAST_BLOCK = 8192  # elements from which on a block is worth a call of its own: less takes copies of parameters instead
TOGETHER = 1 << 15  # elements of a call for such blocks


class Cut(NamedTuple):
    """Rows in blocks, each with a call of its own: `rows` of it, `samples` times so many that have parameters each."""

    shape: Shape  # of the leading axes, as parameters are laid out for it: 1 where all samples of a block share them
    total: int
    rows: int
    samples: int


def leading(norm: str, plan: Plan, shape: Shape, which: Which) -> Shape:
    """Sizes of the axes before a norm's own along which a parameter may differ: all rows, or the samples."""
    if not NORMS[norm].channels:
        return plan.stats_shape
    alone = which[2:] == (False,) or which[1] % len(shape) == 0
    return () if alone else shape[:1]


def spans(lead: Shape, own: Shape, parameter: Shape | None) -> Shape:
    """The shape of a parameter along the leading axes, a number for each."""
    whole = () if parameter is None else parameter[: len(parameter) - len(own)]
    return (1,) * (len(lead) - len(whole)) + whole


@lru_cache(maxsize=4096)
def cut(lead: Shape, varies: tuple[bool, ...], each: int, beside: bool) -> Cut:
    """Blocks of rows of `each` elements; varies: along which axes parameters differ; beside: whether they may be groups."""
    axes, inner, samples = list(range(len(lead))), 1, 1
    while axes and beside and (varies[axes[-1]] or lead[axes[-1]] == 1):
        inner *= lead[axes.pop()]
    while axes and not (varies[axes[-1]] and lead[axes[-1]] > 1):
        samples *= lead[axes.pop()]
    outer, rows = prod(lead[k] for k in axes), samples * inner
    if beside and outer > 1 and rows * each < LEAST_BLOCK:
        return Cut(lead, prod(lead), max(1, TOGETHER // (rows * each)) * rows, 1)
    shape = tuple(n if k in axes or varies[k] else 1 for k, n in enumerate(lead))
    return Cut(shape, prod(lead), rows, samples)


@lru_cache(maxsize=4096)
def block_call(call: Call, samples: int, beside: int) -> Call:
    """The call of so many samples of so many sets of groups side by side."""
    p = call.plan
    groups = beside * p.G
    return call.but(plan=Plan(samples, p.M, groups, p.K, p.T, (samples * groups,), (groups * p.K,)))


@lru_cache(maxsize=4096)
def channel_call(call: Call, samples: int, kind: str) -> tuple[Call, int]:
    """Of a call whose statistics are shared by samples: that of a block of them with weights of their own, and how many blocks.

    kind: "apply" writes y by given statistics, "scale" dx of such, "sums" the sums of dy and of dy * normalized x of each
    sample, and "slant" dx from sums.
    """
    p = call.plan
    runs = p.B * p.M // samples
    blocks, groups = (1, samples * p.G) if runs == 1 else (samples, p.G)
    plan = Plan(1, runs, groups, 1, p.T, (groups,), (groups,))
    made = {
        "apply": Call(plan, call.dtype, False, True, RSTD, exact=call.exact, weight=call.weight, bias=call.bias,
                      in_place=call.in_place),
        "scale": Call(plan, call.dtype, False, True, RSTD, exact=call.exact, weight=True, in_place=call.in_place),
        "sums": Call(plan, call.dtype, True, True, GIVEN, write=False, weight=True, bias=True),
        "slant": Call(plan, call.dtype, True, True, OWN, exact=call.exact, in_place=call.in_place),
    }  # fmt: skip
    return made[kind], blocks


def told(lead: Shape, *parameters: Any) -> str:
    """What `explain` says of parameters of other shapes than the norm's own."""
    shapes = " and ".join(str(p.shape) for p in parameters if p is not None)
    return f"; parameters of shape {shapes} spread over rows or samples {lead}, in blocks that share them"
