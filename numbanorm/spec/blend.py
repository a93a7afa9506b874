"""Weights of the old running statistics and of a batch's, to nearest however the calling thread rounds.

Python divides two integers by integer arithmetic, unless both have 53 bits or fewer: those the CPU divides.
"""

from __future__ import annotations

from functools import lru_cache

BITS = 64  # by which integers are made too long for the CPU


def quotient(n: int, d: int) -> float:
    return (n << BITS) / (d << BITS)


def rest(share: float) -> float:
    """1 - share"""
    n, d = share.as_integer_ratio()
    return quotient(d - n, d)


@lru_cache(maxsize=256)
def of_momentum(momentum: float | None, batch: bool = True) -> tuple[float, float] | None:
    """(old, new), of which the momentum is the new one's if `batch`; None averages over all batches."""
    if momentum is None:
        return None
    share = abs(momentum)  # -0 finds what is kept for 0
    return (rest(share), share) if batch else (share, rest(share))


def of_average(count: int) -> tuple[float, float]:
    """(old, new) for the last of so many batches."""
    new = quotient(1, count)
    return rest(new), new
