"""What processes tell one another: rows of numbers, gathered in the order of the ranks by whatever connects them.

Nothing is imported to know a communicator: whoever has one has imported its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .spec.shown import shown

Array = np.ndarray[Any, Any]

CALLS = ("batch_norm", "batch_norm_backward")
# Numbers of the first message. It has this size whatever is sent, so that a rank whose arguments are wrong, and who therefore
# does not know how much the others send, can say so: an Allgather of different sizes would be an error of MPI's, or hang.
PLACES = 1024
HEAD = 3  # of them: whether the rank failed, the call, and how many channels it has
ROOM = PLACES - HEAD


def gather_of(comm: Any) -> Callable[[Array], Any]:
    """The function that takes float64 (n,) of each rank to (ranks, n)."""
    if hasattr(comm, "Allgather") and hasattr(comm, "Get_size"):
        return partial(by_mpi, comm)
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and isinstance(comm, distributed.ProcessGroup):
        return partial(by_torch, distributed, comm)
    if callable(comm):
        return comm  # type: ignore[no-any-return]
    raise TypeError(f"comm must be a communicator of mpi4py, a process group of torch.distributed or a function: got "
                    f"{shown(comm)}; write mpi4py.MPI.COMM_WORLD, torch.distributed.group.WORLD, or a function that takes "
                    f"an array to (ranks, ...)")  # fmt: skip


def by_mpi(comm: Any, row: Array) -> Array:
    """Rows of all ranks, by mpi4py."""
    found = np.empty((comm.Get_size(), row.size))
    comm.Allgather(row, found)
    return found


def by_torch(distributed: Any, group: Any, row: Array) -> Array:
    """Rows of all ranks, by torch.distributed, of a backend for tensors in host memory, as gloo."""
    torch = sys.modules["torch"]
    found = np.empty((distributed.get_world_size(group), row.size))
    distributed.all_gather([torch.from_numpy(one) for one in found], torch.from_numpy(row), group=group)
    return found


def rows_of(gather: Callable[[Array], Any], row: Array) -> Array:
    """What a communicator gathered, checked."""
    found = np.asarray(gather(row), np.float64)
    if found.ndim != 2 or found.shape[0] < 1 or found.shape[1] != row.size:
        raise ValueError(f"comm must take an array of each rank to (ranks, ...): got shape {found.shape} for {row.shape}; "
                         f"return np.stack of the arrays of all ranks, in the order of the ranks")  # fmt: skip
    return found


def exchanged(comm: Any, call: str, work: Callable[[], Array]) -> Array:
    """What `work` returned on each rank: float64 (rows, channels) -> (ranks, rows, channels).

    An error of one rank is an error on all of them. Two messages only where there are more than ROOM numbers.
    """
    gather, first, own = gather_of(comm), np.zeros(PLACES), np.zeros((0, 0))
    failure: Exception | None = None
    try:
        own = np.ascontiguousarray(work(), np.float64)
        sent = own.reshape(-1)[:ROOM]
        first[HEAD : HEAD + sent.size] = sent
    except Exception as error:  # whatever it is, the others wait
        failure = error
        text = np.frombuffer(f"{type(error).__name__}: {error}".encode()[: 8 * ROOM], np.uint8)
        first[HEAD:].view(np.uint8)[: text.size] = text
    first[:HEAD] = failure is not None, CALLS.index(call), own.shape[1]
    found = rows_of(gather, first)
    if failure is not None:
        raise failure
    agreed(found)
    sent = found[:, HEAD : HEAD + own.size]
    if own.size > ROOM:
        sent = np.concatenate([sent, rows_of(gather, own.reshape(-1)[ROOM:])], axis=1)
    return sent.reshape(-1, *own.shape)


def agreed(found: Array) -> None:
    """Raise, on every rank, unless all is well on all of them."""
    for rank, row in enumerate(found):
        if row[0]:
            text = row[HEAD:].tobytes().rstrip(b"\0").decode(errors="replace")
            raise RuntimeError(f"no rank of comm may fail: got on rank {rank} {text}; mend it there")
    calls, channels = [CALLS[int(k)] for k in found[:, 1]], [int(n) for n in found[:, 2]]
    if len(set(calls)) > 1:
        raise ValueError(f"all ranks of comm must make the same call: got {calls} in their order; call one after the other")
    if len(set(channels)) > 1:
        raise ValueError(f"all ranks of comm must have the same number of channels: got {channels} in their order; say with "
                         f"channel_axis where they are")  # fmt: skip


def refused(comm: Any, call: str, error: Exception) -> None:
    """Raise an error, and have it raised on all ranks, which wait for this one in the call."""

    def work() -> Array:
        raise error

    exchanged(comm, call, work)
