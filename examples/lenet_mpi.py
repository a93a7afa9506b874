"""The LeNet of lenet_batchnorm.py, trained by several processes as one: each sees its part of each batch, and batch norm the
statistics of all of it.

    pip install 'numbanorm[mpi,examples]'
    mpiexec -n 3 python -m mpi4py examples/lenet_mpi.py

Then rank 0 trains alone, on whole batches, and the losses are compared. Without synchronized statistics they would differ.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from lenet_batchnorm import BATCH, LEARNING_RATE, SEED, THREE_DIGITS, Data, digits, lenet
from mpi4py import MPI
from torch import nn

from numbanorm.interop.torch import convert, convert_sync_batchnorm

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.Get_rank(), COMM.Get_size()


def model() -> nn.Module:
    """The same weights on all ranks."""
    torch.manual_seed(SEED)
    return lenet(nn.BatchNorm2d, nn.BatchNorm1d)


def added(net: nn.Module) -> None:
    """Add the gradients of all ranks, in the order of the ranks."""
    own = np.concatenate([p.grad.numpy().reshape(-1) for p in net.parameters()])
    rows = np.empty((RANKS, own.size), own.dtype)
    COMM.Allgather(own, rows)
    total, start = torch.from_numpy(rows.sum(axis=0, dtype=np.float64).astype(own.dtype)), 0
    for p in net.parameters():
        p.grad.copy_(total[start : start + p.numel()].view_as(p))
        start += p.numel()


def train(net: nn.Module, data: Data, epochs: int, together: bool) -> np.ndarray:
    """The loss of each batch: of all ranks together, or of this one alone."""
    optimizer, shuffle = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE), torch.Generator().manual_seed(SEED)
    whole, part = len(data.x) // BATCH * BATCH, slice(BATCH * RANK // RANKS, BATCH * (RANK + 1) // RANKS)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(len(data.x), generator=shuffle)[:whole].view(-1, BATCH):
            own = batch[part] if together else batch
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(data.x[own]), data.y[own], reduction="sum") / BATCH
            loss.backward()
            if together:
                added(net)
            optimizer.step()
            losses.append(COMM.allreduce(loss.item()) if together else loss.item())
    return np.array(losses)


def main() -> int:
    """Train, and on rank 0 compare; the exit status is 1 if the losses are not one process's."""
    parser = argparse.ArgumentParser(description="LeNet on MPI ranks, with the statistics of whole batches.")
    parser.add_argument("--epochs", type=int, default=4, help="how often each image is seen (default: %(default)s)")
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)  # a core may be all that a rank has
    data = digits()
    together = train(convert_sync_batchnorm(model(), COMM), data, epochs, True)
    if RANK:
        return 0
    alone, batches = train(convert(model()), data, epochs, False), len(together) // epochs
    off = float((np.abs(together - alone) / alone).max())
    print(f"{RANKS} ranks, batches of {BATCH}, {len(alone)} steps")
    for k in range(epochs):
        means = [losses[k * batches : (k + 1) * batches].mean() for losses in (together, alone)]
        print(f"epoch {k + 1}: loss {means[0]:.6f}, of one process {means[1]:.6f}")
    print(f"largest relative difference of a step's loss: {off:.1e}")
    return int(off > THREE_DIGITS)


if __name__ == "__main__":
    sys.exit(main())
