"""What batch norm over MPI ranks costs: `mpiexec -n 3 python -m mpi4py tools/scale.py`. docs/scale.md has what it printed.

Every figure is the least of many, of the slowest rank: what disturbs a machine makes a call slower, and none faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

import numbanorm
from numbanorm.communicators import HEAD, PLACES, ROOM

COMM = MPI.COMM_WORLD
ROUNDS = 300
CHANNELS = (64, 204, 1024, 4096)
ELEMENTS = 1 << 20  # of a rank


def least(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Least time of a call in microseconds, on the slowest rank."""
    best = float("inf")
    for _ in range(rounds):
        COMM.Barrier()
        start = time.perf_counter()
        call()
        best = min(best, float(COMM.allreduce(time.perf_counter() - start, MPI.MAX)))
    return 1e6 * best


def row(channels: int) -> tuple[float, ...]:
    """Times of the messages alone, and of the forward and the backward call without and with them."""
    first, rest = np.zeros(PLACES), np.zeros(max(0, 5 * channels - ROOM))
    found, more = np.empty((COMM.Get_size(), PLACES)), np.empty((COMM.Get_size(), rest.size))

    def messages() -> None:
        COMM.Allgather(first, found)
        if rest.size:
            COMM.Allgather(rest, more)

    x = np.random.default_rng(COMM.Get_rank()).normal(size=(ELEMENTS // channels, channels)).astype(np.float32)
    alone: dict[str, Any] = {"training": True, "channel_axis": -1}
    _, stats = numbanorm.batch_norm(x, **alone, return_stats=True)
    together, grads = alone | {"comm": COMM}, dict[str, Any](channel_axis=-1)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: numbanorm.batch_norm(x, **alone),
        lambda: numbanorm.batch_norm(x, **together),
        lambda: numbanorm.batch_norm_backward(x, x, stats, **grads),
        lambda: numbanorm.batch_norm_backward(x, x, stats, comm=COMM, **grads),
    )
    return (least(messages), *(least(call, 100) for call in calls))


if __name__ == "__main__":
    if COMM.Get_rank() == 0:
        print(f"{COMM.Get_size()} ranks, {ELEMENTS} float32 elements each, head of {HEAD} numbers; microseconds")
        print("channels  messages   forward   with comm  backward   with comm")
    for channels in CHANNELS:
        times = row(channels)
        if COMM.Get_rank() == 0:
            print(f"{channels:8}" + "".join(f"{t:11.0f}" for t in times), flush=True)
