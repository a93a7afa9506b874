"""Whole models with torch's norm layers and with numbanorm's: whether they compute the same, and how long they take.

    pip install 'numbanorm[examples]'
    python models.py                      # three minutes on two cores; --rounds says how often each is timed
    python models.py --models bert,unet   # some of them
    python models.py --small              # the smallest sizes: under a minute, most of it imports and compiling
    python models.py --help

BERT, ViT, Llama and Whisper are those of the library transformers, with random weights: nothing is downloaded. The residual
network and the U-Net are written below. Each model is built once and copied, and the copy is converted. Both make a step of
training from the same weights on the same numbers. Outputs, gradients and running statistics are compared, then the outputs in
evaluation. Then both are timed in turn. The exit status is 1 if a difference is beyond its bound.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from numbanorm.cli import INTERRUPTED, USAGE_ERROR, CommandError

# torch and Numba bring an OpenMP each, and threads of the one that wait actively keep the cores from the other: read once, when
# they are loaded
WAITING = os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    import torch
    import transformers
    from torch import Tensor, nn
    from torch.nn import functional as F

    from numbanorm.interop.torch import convert, report
except ImportError as error:
    sys.exit(f"models: error: {error}; run pip install 'numbanorm[examples]'")

SEED, LEARNING_RATE, WARM_UP, VOCABULARY = 0, 1e-4, 2, 1000
# of the difference's Euclidean norm to that of what torch's layers give. Both round to 24 bits at each of some tens of layers;
# a gradient has gone through all of them twice
BOUNDS = {"outputs": 1e-5, "gradients": 1e-4, "running": 1e-5}
# of the residual network's gradients: where ReLU and max pooling choose between numbers that are equal but for rounding, a
# gradient goes another way. torch's own in float32 are 4e-3 from those in float64
CHOOSING = {"resnet": 1e-2}
FAILED = 1

Model = tuple[nn.Module, dict[str, Tensor]]  # with what it is called with


def tokens(batch: int, length: int) -> Tensor:
    """Words, drawn."""
    return torch.randint(VOCABULARY, (batch, length))


def sizes(width: int, layers: int) -> dict[str, int]:
    """What configurations of the library share."""
    heads = {"num_hidden_layers": layers, "num_attention_heads": width // 64}
    return {"hidden_size": width, "intermediate_size": 4 * width, **heads}


def bert(small: bool) -> Model:
    """Encoder with layer norm after each block: BERT-base's width, a third of its depth."""
    width, layers, batch, length = (128, 2, 2, 32) if small else (768, 4, 8, 128)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # which would draw other numbers for each
    config = transformers.BertConfig(vocab_size=VOCABULARY, **sizes(width, layers), **dropout)
    return transformers.BertModel(config, add_pooling_layer=False), {"input_ids": tokens(batch, length)}


def vit(small: bool) -> Model:
    """Encoder of patches with layer norm before each block: ViT-base's width, a third of its depth."""
    width, layers, batch, size = (128, 2, 2, 64) if small else (768, 4, 8, 224)
    config = transformers.ViTConfig(image_size=size, **sizes(width, layers))
    return transformers.ViTModel(config, add_pooling_layer=False), {"pixel_values": torch.randn(batch, 3, size, size)}


def llama(small: bool) -> Model:
    """Decoder with the RMS norms that the library writes itself."""
    width, layers, batch, length = (128, 2, 2, 32) if small else (1024, 4, 4, 256)
    shared = sizes(width, layers)
    heads = shared["num_attention_heads"] // 2  # of keys and values
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=heads, use_cache=False, **shared)
    return transformers.LlamaForCausalLM(config), {"input_ids": tokens(batch, length)}


def whisper(small: bool) -> Model:
    """Encoder of sound and decoder: Whisper-tiny's sizes, and a third of its 30 seconds."""
    width, layers, batch, length = (64, 1, 2, 50) if small else (384, 4, 4, 500)
    shared = {"layers": layers, "attention_heads": width // 64, "ffn_dim": 4 * width}
    both = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in shared.items()}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}
    config = transformers.WhisperConfig(vocab_size=VOCABULARY, d_model=width, max_source_positions=length, **both, **ends)
    sound = torch.randn(batch, config.num_mel_bins, 2 * length)
    return transformers.WhisperModel(config), {"input_features": sound, "decoder_input_ids": tokens(batch, 32)}


def convolution(channels: int, width: int, norm: Callable[[int], nn.Module], size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the resolution, but for its stride, and a norm."""
    return nn.Sequential(nn.Conv2d(channels, width, size, stride, size // 2, bias=False), norm(width))


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside one that changes the size."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        first, second = convolution(channels, width, nn.BatchNorm2d, 3, stride), convolution(width, width, nn.BatchNorm2d)
        self.body = nn.Sequential(first, nn.ReLU(), second)
        same = channels == width and stride == 1
        self.beside = nn.Identity() if same else convolution(channels, width, nn.BatchNorm2d, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.beside(x))


def resnet(small: bool) -> Model:
    """ResNet-18: batch norm after each convolution."""
    width, batch, size = (8, 4, 64) if small else (64, 8, 224)
    layers: list[nn.Module] = [convolution(3, width, nn.BatchNorm2d, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(Residual(channels, width << stage, stride))
            channels = width << stage
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))
    return model, {"input": torch.randn(batch, 3, size, size)}


class Level(nn.Module):
    """A level of a U-Net: convolutions, the levels below at half the resolution, and convolutions of both."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.before = self.double(channels, width)
        self.below = Level(width, 2 * width, depth - 1) if depth else None
        self.after = self.double(3 * width, width) if depth else None

    @staticmethod
    def double(channels: int, width: int) -> nn.Sequential:
        """Two convolutions, each with group norm."""
        pieces = (convolution(n, width, lambda n: nn.GroupNorm(8, n)) for n in (channels, width))
        return nn.Sequential(*(layer for piece in pieces for layer in (piece, nn.SiLU())))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        if self.below is None or self.after is None:
            return x
        return self.after(torch.cat([x, F.interpolate(self.below(F.max_pool2d(x, 2)), scale_factor=2)], 1))


def unet(small: bool) -> Model:
    """U-Net of four levels with group norm, and two channels out."""
    width, batch, size = (8, 2, 32) if small else (32, 4, 128)
    model = nn.Sequential(Level(3, width, 3), nn.Conv2d(width, 2, 1))
    return model, {"input": torch.randn(batch, 3, size, size)}


MODELS = {f.__name__: f for f in (bert, vit, llama, whisper, resnet, unet)}


# what is compared and timed


class Run:
    """A model, and what it takes to call and to train it."""

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.model, self.inputs = model, inputs
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        self.upstream: Tensor | None = None

    def output(self) -> Tensor:
        """The first of its results."""
        y = self.model(**self.inputs)
        return y if isinstance(y, Tensor) else y[0]

    def train(self) -> Tensor:
        """A step of gradient descent; returns the output. The loss weighs each number by one that is drawn."""
        self.model.train()
        self.optimizer.zero_grad()
        y = self.output()
        if self.upstream is None:
            self.upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(SEED)) / y.numel() ** 0.5
        (y * self.upstream).sum().backward()
        self.optimizer.step()
        return y.detach()

    def evaluate(self) -> Tensor:
        """The output, without gradients."""
        self.model.eval()
        with torch.no_grad():
            return self.output()


def apart(own: Iterable[Tensor], got: Iterable[Tensor]) -> float:
    """Euclidean norm of the difference of all these numbers, by that of the first; 0 of none."""
    pairs = [(a.double(), b.double()) for a, b in zip(own, got, strict=True)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / (sum(float(a.square().sum()) for a, _ in pairs) or 1.0)) ** 0.5


def compare(own: Run, got: Run) -> dict[str, float]:
    """How far two runs are apart in a step of training and in evaluation after it."""
    trained = apart([own.train()], [got.train()])
    gradients = ([p.grad for p in run.model.parameters() if p.grad is not None] for run in (own, got))
    running = ([b for b in run.model.buffers() if b.is_floating_point()] for run in (own, got))
    return {
        "outputs": max(trained, apart([own.evaluate()], [got.evaluate()])),
        "gradients": apart(*gradients),
        "running": apart(*running),
    }


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def measure(own: Run, got: Run, rounds: int) -> dict[str, Any]:
    """Milliseconds of both in turn, for evaluation and for training: (rounds, 2)."""
    times: dict[str, Any] = {}
    for mode in ("evaluate", "train"):
        rows = []
        for k in range(-WARM_UP, rounds):
            pair = (own, got) if k % 2 else (got, own)  # so that nobody is always second
            taken = {run: timed(getattr(run, mode)) for run in pair}
            rows.append((taken[own], taken[got]))
        times[mode] = np.array(rows[WARM_UP:])
    return times


def row(name: str, build: Callable[[bool], Model], options: argparse.Namespace) -> bool:
    """Compare, time and print one model; returns whether all differences are within their bounds."""
    torch.manual_seed(SEED)
    model, inputs = build(options.small)
    own, got = Run(model, inputs), Run(convert(copy.deepcopy(model)), inputs)
    layers = report(got.model)
    differences = compare(own, got)
    bounds = BOUNDS | ({"gradients": CHOOSING[name]} if name in CHOOSING else {})
    held = all(differences[what] <= bound for what, bound in bounds.items())
    line = f"{name:8} {sum(n.converted for n in layers):3} of {len(layers):<3}"
    line += "".join(f"{differences[what]:11.1e}" for what in BOUNDS)
    for times in measure(own, got, options.rounds).values():
        theirs, ours = np.median(times, axis=0)
        low, middle, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
        line += f"{theirs:14,.1f}{ours:11,.1f}  {middle:.2f} ({low:.2f} to {high:.2f})"
    print(line + ("" if held else "  beyond its bound"), flush=True)
    return held


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see --help)")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python models.py", description="Models with torch's norm layers and with numbanorm's, compared and timed."
    )
    parser.add_argument("--small", action="store_true", help="the smallest sizes, 3 rounds")
    parser.add_argument("--models", default=",".join(MODELS), metavar="NAMES", help="some of %(default)s (default: all)")
    parser.add_argument("--rounds", type=int, help="how often each is timed (default: 11, or 3 with --small)")
    options = parser.parse_args(argv)
    options.models = options.models.split(",")
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        raise CommandError(f"--models must be of {', '.join(MODELS)}: got {', '.join(unknown)}; write them with commas between")
    if options.rounds is None:
        options.rounds = 3 if options.small else 11
    if options.rounds < 1:
        raise CommandError(f"--rounds must be at least 1: got {options.rounds}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, time, print; returns the exit status."""
    try:
        options = _options(argv)
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, OMP_WAIT_POLICY={WAITING}; {options.rounds} rounds"
        )
        bounds = ", ".join(f"{what} {bound:.0e}" for what, bound in BOUNDS.items())
        bounds += "".join(f" ({bound:.0e} of {name}'s gradients)" for name, bound in CHOOSING.items())
        print(f"differences: Euclidean norms, relative; at most {bounds}. Milliseconds: medians; ratio: median (quartiles)\n")
        ends = "".join(f"{mode + ': torch':>14}{'numbanorm':>11}  {'ratio':19}" for mode in ("eval", "train"))
        print(f"{'model':8} {'converted':10}" + "".join(f"{what:>11}" for what in BOUNDS) + ends)
        held = [row(name, MODELS[name], options) for name in options.models]
    except CommandError as error:
        print(f"models: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("models: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0 if all(held) else FAILED


if __name__ == "__main__":
    sys.exit(main())
