"""Ranks as threads of one process, and the function that gathers for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PATIENCE = 120  # s, for kernels that are compiled meanwhile; a rank that waits in vain raises


def together(ranks: int, work: Callable[[int, Callable[[Array], Array]], Any]) -> list[Any]:
    """What work(rank, gather) returned on each rank, or the exception that it raised."""
    slots: list[Any] = [None] * ranks
    barrier = threading.Barrier(ranks, timeout=PATIENCE)

    def run(rank: int) -> Any:
        def gather(row: Array) -> Array:
            slots[rank] = row.copy()
            barrier.wait()
            found = np.stack(slots)
            barrier.wait()
            return found

        try:
            return work(rank, gather)
        except Exception as error:
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, range(ranks)))
