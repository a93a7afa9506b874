"""SyncBatchNorm on the CPU: over two ranks of gloo, and in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'numbanorm[torch]'")

from numbanorm.interop import torch as ours  # noqa: E402 - where it is

nn = torch.nn
PROGRAM = Path(__file__).parents[1] / "support" / "gloo_ranks.py"


def test_two_ranks_train_as_one_process(tmp_path: Path) -> None:
    """20 steps to 1e-6, with halves of a batch and with unequal parts, channels_last too; an error is one of all."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), "2", str(tmp_path / "meet")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)


class Own(nn.BatchNorm1d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_what_is_converted() -> None:
    """Layers stay the objects that they are; what has a forward of its own, and other norms, are left alone."""
    model = nn.Sequential(nn.BatchNorm1d(4), ours.BatchNorm2d(4, exact=True), nn.SyncBatchNorm(4), nn.LayerNorm(4), Own(4),
                          nn.LazyBatchNorm1d(), nn.InstanceNorm1d(4))  # fmt: skip
    kinds, weight = [type(m) for m in model], model[0].weight
    assert ours.convert_sync_batchnorm(model) is model
    assert [type(m) is ours.SyncBatchNorm for m in model] == [True] * 3 + [False] * 4
    assert [type(m) for m in model][3:] == kinds[3:]
    assert model[0].weight is weight
    assert model[1].exact
    assert [n.converted for n in ours.report(model)][:3] == [True] * 3
    assert ours.SyncBatchNorm(4, exact=True).exact


def test_alone_it_is_batch_norm() -> None:
    """Without processes, in training and in evaluation."""
    x = torch.randn(8, 4, 5)
    layers = ours.SyncBatchNorm(4), ours.BatchNorm1d(4)
    for training in (True, False):
        one, other = (layer.train(training)(x) for layer in layers)
        assert torch.equal(one, other)
    assert torch.equal(layers[0].running_var, layers[1].running_var)


def test_another_communicator() -> None:
    """As `comm` of the functions: here of one rank, which is asked in each pass."""
    asked = []

    def comm(row: Any) -> Any:
        asked.append(row.size)
        return row[None]

    x = torch.randn(8, 4, 5, requires_grad=True)
    layer, plain = ours.SyncBatchNorm(4, process_group=comm), ours.BatchNorm1d(4)
    assert torch.allclose(layer(x), plain(x), atol=1e-6)
    layer(x).sum().backward()
    assert asked == [1024] * 3
    layer.eval()(x)
    assert len(asked) == 3
