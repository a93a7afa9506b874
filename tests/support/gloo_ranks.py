"""A program for one rank of torch.distributed: trains a small model, and a copy on the whole batch by itself, and compares.

python tests/support/gloo_ranks.py RANK RANKS FILE
"""

from __future__ import annotations

import copy
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed, nn

from numbanorm.interop.torch import BatchNorm2d, SyncBatchNorm, convert_sync_batchnorm

STEPS, BATCH = 20, 12


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, bias=False)),
        *(BatchNorm2d(4, momentum=None, exact=True), nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
    )


def gradients(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    """The loss, of which the whole batch's is the sum over all ranks."""
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(x), labels, reduction="sum") / BATCH
    loss.backward()
    return loss.item()


def train(cuts: list[int], rank: int, layout: Any) -> None:
    """Losses and states of a model over all ranks are those of a model that sees all of each batch."""
    torch.manual_seed(3)
    one = net()
    all_ranks = convert_sync_batchnorm(copy.deepcopy(one))
    assert [type(m) is SyncBatchNorm for m in all_ranks].count(True) == 3
    steps = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, all_ranks)]
    part = slice(cuts[rank], cuts[rank + 1])
    for _ in range(STEPS):
        x, labels = torch.randn(BATCH, 2, 8, 8).contiguous(memory_format=layout), torch.randint(3, (BATCH,))
        expected, own = gradients(one, x, labels), gradients(all_ranks, x[part], labels[part])
        loss = torch.tensor(own, dtype=torch.float64)
        distributed.all_reduce(loss)
        assert abs(float(loss) - expected) <= 1e-6
        for p in all_ranks.parameters():
            distributed.all_reduce(p.grad)
        for step in steps:
            step.step()
    for (name, a), b in zip(one.state_dict().items(), all_ranks.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6), name


def error(rank: int) -> None:
    """One of rank 1 is one of all: in torch's checks, and in numbanorm's."""
    layer = SyncBatchNorm(3)
    for bad, text in ((torch.zeros(4), "expected at least 2D input"), (torch.randn(4, 2), "must have shape")):
        with pytest.raises(ValueError if rank == 1 else RuntimeError, match=text):
            layer(bad if rank == 1 else torch.randn(4, 3))
    assert int(layer.num_batches_tracked) == 0


if __name__ == "__main__":
    rank, ranks, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{file}", timedelta(seconds=120), ranks, rank)
    train([0, 6, 12], rank, torch.contiguous_format)
    train([0, 9, 12], rank, torch.channels_last)
    error(rank)
    x = torch.randn(4, 3)
    assert torch.allclose(SyncBatchNorm(3).eval()(x), nn.BatchNorm1d(3).eval()(x), atol=1e-6)  # alone, whoever is there
    distributed.destroy_process_group()
