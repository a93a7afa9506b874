"""Batch norm in LeNet: the batch-normalization chapter of the book "Dive into Deep Learning", computed by numbanorm.

    pip install 'numbanorm[examples]'
    python lenet_batchnorm.py                # the digits that ship with scikit-learn; one minute on two cores
    python lenet_batchnorm.py --data FOLDER  # Fashion-MNIST: its four IDX files, gzipped or not
    python lenet_batchnorm.py --help

The same LeNet is trained four times, from the same weights and on the same batches: without batch norm (plain), with torch's
layers (torch), with the same layers converted to numbanorm's drop-ins (numbanorm), and with a layer written here by hand on top
of numbanorm's functions for NumPy arrays (scratch). A summary says what held, and a picture shows the curves.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gzip
import math
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import numbanorm
from numbanorm.cli import INTERRUPTED, USAGE_ERROR, CommandError

# torch and Numba bring an OpenMP each, and threads of the one that wait actively keep the cores from the other: a little faster
# on idle cores, many times slower on busy ones. Read once, when they are loaded; the environment may say active.
WAITING = os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
    from torch import Tensor, nn
    from torch.autograd.function import once_differentiable
    from torch.nn import functional as F
    from tqdm import tqdm

    from numbanorm.interop.torch import convert
except ImportError as error:
    sys.exit(f"lenet_batchnorm: error: {error}; run pip install 'numbanorm[examples]'")

BATCH, LEARNING_RATE, SEED = 256, 1.0, 0  # the book's, but for the seed
EPS, MOMENTUM = 1e-5, 0.9  # the book's momentum weighs the old value
TRAINING_DIGITS = 1280  # of 1797, the first; the others are held out
SHIFTS = ((0, 0), (0, 2), (0, -2), (2, 0), (-2, 0))  # copies of each training digit, moved by so many of 28 pixels
THREE_DIGITS = 5e-4  # relative: half a unit of the third digit of 9.99, the strictest case
FASHION_MNIST = {
    "x": ("train-images-idx3-ubyte", 3),
    "y": ("train-labels-idx1-ubyte", 1),
    "test_x": ("t10k-images-idx3-ubyte", 3),
    "test_y": ("t10k-labels-idx1-ubyte", 1),
}


# Batch norm from scratch, the book's way: arrays in, arrays out, and torch learns how to differentiate it.


class Normalize(torch.autograd.Function):
    """`numbanorm.batch_norm`, which autograd cannot look into, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, moving_mean: Tensor, moving_var: Tensor, training: bool
    ) -> Tensor:
        y = torch.empty_like(x)
        arrays = (t.detach().numpy() for t in (x, moving_mean, moving_var, gamma, beta))  # the tensors' memory, not a copy
        _, ctx.stats = numbanorm.batch_norm(
            *arrays, training, MOMENTUM, EPS, convention="keras", out=y.numpy(), return_stats=True
        )
        ctx.save_for_backward(x, gamma)
        ctx.training = training
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma = (t.detach().numpy() for t in ctx.saved_tensors)
        dx, dgamma, dbeta = numbanorm.batch_norm_backward(dy.numpy(), x, ctx.stats, gamma, training=ctx.training)
        return torch.from_numpy(dx), torch.from_numpy(dgamma), torch.from_numpy(dbeta), None, None, None


class BatchNorm(nn.Module):
    """The book's layer, for (N, C) and (N, C, H, W) alike. Its moving variance averages biased variances, unlike torch's: the
    training is the same, accuracies may differ a little."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(num_features))
        self.beta = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("moving_mean", torch.zeros(num_features))
        self.register_buffer("moving_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return Normalize.apply(x, self.gamma, self.beta, self.moving_mean, self.moving_var, self.training)


def lenet(norm2d: Callable[[int], nn.Module], norm1d: Callable[[int], nn.Module]) -> nn.Module:
    """The book's LeNet with a norm after each layer but the last, and Xavier's weights; images are 28 x 28."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, kernel_size=5), norm2d(6), nn.Sigmoid(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, kernel_size=5), norm2d(16), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * 4 * 4, 120), norm1d(120), nn.Sigmoid()),
        *(nn.Linear(120, 84), norm1d(84), nn.Sigmoid()),
        nn.Linear(84, 10),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return net


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: lenet(nn.Identity, nn.Identity),
    "torch": lambda: lenet(nn.BatchNorm2d, nn.BatchNorm1d),
    "numbanorm": lambda: convert(lenet(nn.BatchNorm2d, nn.BatchNorm1d)),
    "scratch": lambda: lenet(BatchNorm, BatchNorm),
}
LINES = {  # of the picture; those with batch norm lie on each other
    "plain": {"color": "#d62728"},
    "torch": {"color": "#aec7e8", "linewidth": 9, "markersize": 9},
    "numbanorm": {"color": "#1f77b4", "linewidth": 4, "markersize": 4},
    "scratch": {"color": "black", "linewidth": 1, "markersize": 1, "linestyle": ":"},
}


@dataclass(frozen=True, slots=True)
class Data:
    """Images (N, 1, 28, 28) in [0, 1] and their classes, to train with and held out."""

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(slots=True)
class Run:
    """One variant, and what came of each epoch."""

    model: nn.Module
    losses: list[list[float]] = field(default_factory=list)  # of each batch
    accuracies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # samples a second while training

    def curve(self) -> np.ndarray:
        """The training loss as the book takes it: the mean over an epoch's batches, while the net learns."""
        return np.array(self.losses).mean(axis=1)


def digits() -> Data:
    """scikit-learn's digits, enlarged from 8 x 8; each to train with also moved, which makes an epoch of 25 batches."""
    bunch = load_digits()
    small = torch.from_numpy(bunch.images.astype(np.float32) / 16)[:, None]
    x, y = F.interpolate(small, size=(28, 28), mode="bilinear"), torch.from_numpy(bunch.target)
    padded = F.pad(x[:TRAINING_DIGITS], (2, 2, 2, 2))
    moved = torch.cat([padded[:, :, 2 + i : 30 + i, 2 + j : 30 + j] for i, j in SHIFTS])
    labels = y[:TRAINING_DIGITS].repeat(len(SHIFTS))
    return Data("scikit-learn's digits", moved, labels, x[TRAINING_DIGITS:], y[TRAINING_DIGITS:])


def fashion_mnist(folder: Path) -> Data:
    """Fashion-MNIST, or whatever else comes as its four files."""
    arrays = {}
    for name, (stem, axes) in FASHION_MNIST.items():
        path = next((path for path in (folder / stem, folder / f"{stem}.gz") if path.exists()), None)
        if path is None:
            raise CommandError(f"--data must be a folder with Fashion-MNIST's files: got {folder} without {stem}[.gz]; "
                               "fetch the four files first")  # fmt: skip
        arrays[name] = read_idx(path, axes)
    for x, y, least in (("x", "y", BATCH), ("test_x", "test_y", 1)):
        images, labels = arrays[x], arrays[y]
        if images.shape[1:] != (28, 28) or len(images) < least:
            raise CommandError(f"{FASHION_MNIST[x][0]} must hold images of 28 x 28, at least {least}: got {images.shape}")
        if len(images) != len(labels) or labels.max() > 9:
            raise CommandError(f"{FASHION_MNIST[y][0]} must hold a class from 0 to 9 for each image: got {len(labels)} of "
                               f"{len(images)}, up to {labels.max(initial=0)}; take both from one data set")  # fmt: skip
        arrays[x], arrays[y] = images[:, np.newaxis].astype(np.float32) / 255, labels.astype(np.int64)
    return Data("Fashion-MNIST", **{name: torch.from_numpy(a) for name, a in arrays.items()})


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The bytes in an IDX file, gzipped if it is named so; every reason why it holds none is told in one line."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CommandError(f"{path} must be a gzip file: got one that does not unpack ({error}); fetch it again") from None
    kind, header = bytes((0, 0, 8, axes)), 4 + 4 * axes  # 8: unsigned bytes
    if content[:4] != kind or len(content) < header:
        got = content[:header].hex(" ", -4) or "nothing"
        raise CommandError(f"{path} must begin as IDX, with {kind.hex()} and {axes} sizes: got {got}; fetch it again")
    shape = struct.unpack(f">{axes}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise CommandError(f"{path} must hold the {math.prod(shape)} bytes of its shape {shape}: got {len(content) - header}; "
                           "fetch it again")  # fmt: skip
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def train(data: Data, epochs: int) -> dict[str, Run]:
    """Train every variant, an epoch of each in turn, and print a line for each epoch."""
    runs = {}
    for name, build in VARIANTS.items():
        torch.manual_seed(SEED)  # the same weights for each: norms draw no random numbers
        runs[name] = Run(build())
    warm_up(data, runs)
    print("       " + "".join(f"{name:>20}" for name in runs))
    print("epoch  " + "      loss  accuracy" * len(runs), flush=True)
    shuffle = torch.Generator().manual_seed(SEED)
    whole = len(data.x) // BATCH * BATCH
    bar_of = functools.partial(tqdm, total=whole * len(runs), unit=" samples", unit_scale=True, leave=False, disable=None)
    for epoch in range(1, epochs + 1):
        batches = torch.randperm(len(data.x), generator=shuffle)[:whole].view(-1, BATCH)
        with bar_of(desc=f"epoch {epoch}/{epochs}") as bar:
            for name in list(runs)[:: 1 if epoch % 2 else -1]:  # there and back, so that nobody is always second
                bar.set_postfix_str(name)
                train_epoch(runs[name], data, batches, bar)
                runs[name].accuracies.append(accuracy(runs[name].model, data))
        cells = (f"{run.curve()[-1]:10.5f}{run.accuracies[-1]:10.2%}" for run in runs.values())
        print(f"{epoch:5}  " + "".join(cells), flush=True)
    return runs


def warm_up(data: Data, runs: dict[str, Run]) -> None:
    """A batch for a copy of each net, so that no epoch is timed while kernels compile."""
    start = time.perf_counter()
    for run in runs.values():
        trial = Run(copy.deepcopy(run.model))
        train_epoch(trial, data, torch.arange(BATCH).view(1, BATCH), tqdm(disable=True))
        accuracy(trial.model, data)
    print(f"warm-up: {time.perf_counter() - start:.1f} s (kernels compiled, or loaded from the disk cache)\n", flush=True)


def train_epoch(run: Run, data: Data, batches: Tensor, bar: tqdm) -> None:
    """Gradient descent over the batches, timed."""
    optimizer = torch.optim.SGD(run.model.parameters(), lr=LEARNING_RATE)  # keeps nothing between epochs
    run.model.train()
    losses = []
    start = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(run.model(data.x[batch]), data.y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        bar.update(BATCH)
    run.rates.append(batches.numel() / (time.perf_counter() - start))
    run.losses.append(losses)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Share of the held-out images that are recognized."""
    model.eval()
    pieces = zip(data.test_x.split(2048), data.test_y.split(2048), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in pieces) / len(data.test_y)


def summary(runs: dict[str, Run]) -> str:
    """What was claimed, and whether it held."""
    curves = {name: run.curve() for name, run in runs.items()}
    lines = ["Summary"]
    for when, epoch in (("first", 0), ("last", -1)):
        losses = {name: curve[epoch] for name, curve in curves.items()}
        lower = all(losses[name] < losses["plain"] for name in losses if name != "plain")
        shown = ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
        lines += [f"- training loss of the {when} epoch is lower with batch norm: {_yes(lower)}", f"  ({shown})"]
    ours, theirs = (np.array(runs[name].losses) for name in ("numbanorm", "torch"))
    step = (np.abs(ours - theirs) / theirs).max()
    off = (np.abs(curves["numbanorm"] - curves["torch"]) / curves["torch"]).max()
    lines.append(f"- numbanorm's and torch's loss curves agree to 3 digits: {_yes(off < THREE_DIGITS)}")
    lines.append(f"  (largest relative difference: {off:.1e} of an epoch, {step:.1e} of one of the {ours.size} batches)")
    equal = np.array_equal(runs["scratch"].losses, runs["numbanorm"].losses)
    lines.append(f"- the layer from scratch gives the drop-ins' losses, to the bit: {_yes(equal)}")
    lines += ["", f"Samples/s of training, an epoch of each in turn (OMP_WAIT_POLICY={WAITING}): median, quartiles, of torch's"]
    rates = {name: np.quantile(run.rates, (0.25, 0.5, 0.75)) for name, run in runs.items()}
    for name, (low, middle, high) in rates.items():
        lines.append(f"  {name:<10}{middle:9,.0f}  ({low:,.0f} to {high:,.0f})  {middle / rates['torch'][1]:.2f}")
    return "\n".join(lines)


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def draw(data: Data, runs: dict[str, Run], out: Path) -> None:
    """The curves of all variants: training loss, and accuracy on what was held out."""
    figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"LeNet on {data.name}: batch {BATCH}, learning rate {LEARNING_RATE}")
    left, right = figure.subplots(1, 2)
    for name, run in runs.items():
        epochs = np.arange(1, len(run.losses) + 1)
        left.plot(epochs, run.curve(), label=name, marker=".", **LINES[name])
        right.plot(epochs, run.accuracies, label=name, marker=".", **LINES[name])
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="accuracy, held out", ylim=(0, 1))
    left.legend()
    figure.savefig(out, format="png")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see --help)")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python lenet_batchnorm.py", description="LeNet with and without batch norm, by torch and numbanorm.")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="Fashion-MNIST's IDX files (default: scikit-learn's digits)"
    )
    parser.add_argument("--epochs", type=int, default=40, help="how often each image is seen (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("lenet_batchnorm.png"), help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.epochs < 1:
        raise CommandError(f"--epochs must be at least 1: got {options.epochs}")
    if options.out.is_dir() or not options.out.resolve().parent.is_dir():
        raise CommandError(f"--out must be a file in a folder that exists: got {options.out}; make the folder first")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print, draw; returns the exit status."""
    try:
        options = _options(argv)
        data = digits() if options.data is None else fashion_mnist(options.data)
        sizes = f"{len(data.x)} images to train with, {len(data.test_x)} held out"
        print(f"data: {data.name}, {sizes}; {len(data.x) // BATCH} batches of {BATCH} an epoch")
        runs = train(data, options.epochs)
        print(f"\n{summary(runs)}\n")
        draw(data, runs, options.out)
        print(f"picture: {options.out.resolve()}")
    except CommandError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        print("lenet_batchnorm: interrupted", file=sys.stderr)
        return INTERRUPTED
    else:
        return 0
    print(f"lenet_batchnorm: error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
