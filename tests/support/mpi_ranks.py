"""A program for `mpiexec`: what each rank finds of a batch norm over all of them, and of one in a single process.

    mpiexec -n 3 python -m mpi4py tests/support/mpi_ranks.py

Ends with an assertion unless all holds; mpi4py then ends the other ranks, which wait for this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from numbanorm import BatchNorm2d, batch_norm, batch_norm_backward

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.Get_rank(), COMM.Get_size()
ROWS, C = 32, 300  # channels that take two messages


def agree(*arrays: Any) -> None:
    """All ranks have the same bits."""
    found = COMM.allgather([np.asarray(a).tobytes() for a in arrays])
    assert all(one == found[0] for one in found)


def few_differ(found: Any, expected: Any) -> None:
    """At most one in 10,000 elements is another, and that by one rounding."""
    off = found != expected
    assert np.count_nonzero(off) <= max(1, expected.size // 10_000)
    assert (np.abs(found - expected)[off] <= np.spacing(np.abs(expected))[off]).all()


def one_process(x: Any, dy: Any, cuts: list[int]) -> None:
    """Parts of x, unequal or empty, give the results of all of it; gradients, those of one process within their bound."""
    part = slice(*cuts[RANK : RANK + 2])
    running = np.zeros(C), np.ones(C)
    y, stats = batch_norm(x[part], *running, training=True, return_stats=True, comm=COMM)
    agree(*stats, *running)
    dx, dweight, _ = batch_norm_backward(dy[part], x[part], stats, comm=COMM)
    everything, whole = batch_norm(x, training=True, return_stats=True)
    few_differ(y, everything[part])
    expected, of_weight, _ = batch_norm_backward(dy, x, whole)
    assert np.allclose(dx, expected[part], rtol=0, atol=8 * 2.0**-24 * np.abs(dy).max() * whole.rstd.max())
    assert np.allclose(COMM.allreduce(dweight), of_weight, rtol=0, atol=1e-4)


def errors(x: Any) -> None:
    """One of the last rank is one of all; afterwards they are in step."""
    bad = x.astype(int) if RANK == RANKS - 1 else x
    with pytest.raises(TypeError if RANK == RANKS - 1 else RuntimeError, match="x must hold float16"):
        batch_norm(bad, training=True, comm=COMM)
    agree(BatchNorm2d(C, comm=COMM)(x))


if __name__ == "__main__":
    rng = np.random.default_rng(1)
    data = (rng.normal(3, 2, (ROWS, C, 4, 4)).astype(np.float32), rng.normal(size=(ROWS, C, 4, 4)).astype(np.float32))
    one_process(*data, [0, *[5] * (RANKS - 1), ROWS])
    one_process(*data, [ROWS * k // RANKS for k in range(RANKS + 1)])
    errors(data[0])
    if RANK == 0:
        print(f"{RANKS} ranks agree")
