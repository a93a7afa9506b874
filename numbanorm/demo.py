"""The demo: a real photograph through every norm, as a table and a picture.

It checks the library against two outsiders: the plain NumPy expression in float32 (what one would write
without the library) and the same expression in longdouble (what both should have given).
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from numbanorm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

CALLS = 15
COLOURS = ("red", "green", "blue")
SHOWN = 2.5  # normalized values from -SHOWN to SHOWN fill the range of a screen
NO_MATPLOTLIB = "the demo needs matplotlib, which is not installed: run pip install 'numbanorm[demo]'"


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm as the demo uses it on a (1, 3, H, W) picture."""

    name: str
    shares: str  # who shares one mean and one standard deviation
    axes: tuple[int, ...]
    call: Callable[[Array], Array]
    centred: bool = True
    eps: float = 1e-5


NORMS = (
    Norm("batch", "each channel, over the batch", (0, 2, 3), lambda x: batch_norm(x, training=True)),
    Norm("layer", "the whole picture", (1, 2, 3), lambda x: layer_norm(x, x.shape[1:])),
    Norm("instance", "each channel of the picture", (2, 3), lambda x: instance_norm(x)),
    Norm("group", "3 channels as 1 group", (1, 2, 3), lambda x: group_norm(x, 1)),
    Norm(
        "rms",
        "the whole picture, mean kept",
        (1, 2, 3),
        lambda x: rms_norm(x, x.shape[1:]),
        centred=False,
        eps=float(np.finfo(np.float32).eps),
    ),
)

NOTES = f"""\
group norm takes num_groups=1 here: 3 channels allow 1 or 3 groups, and 3 would be instance norm again.
With one picture in the batch, batch norm equals instance norm; with one group, group norm equals layer norm.
Times are medians of {CALLS} calls, taken in turn; each call makes a new array.
NumPy is (x - x.mean(axes)) / sqrt(x.var(axes) + eps) in float32; for rms, x / sqrt((x * x).mean(axes) + eps).
1 ulp is the spacing of float32 numbers at max(|y|, 1); numbanorm is within 3, with exact=True within 0.51."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest distance from the longdouble result."""

    ulp: float
    absolute: float


@dataclass(frozen=True, slots=True)
class Result:
    """Results of one norm."""

    norm: Norm
    y: Array
    seconds: float
    numpy_seconds: float
    difference: Difference
    numpy_difference: Difference


def run(out: Path, stream: TextIO | None = None) -> None:
    """Normalize the photograph, print the tables to `stream` (default: stdout) and draw the picture `out`."""
    stream = stream or sys.stdout
    name, x = load_photograph()
    height, width = x.shape[2:]
    print(f"photograph: {name}, {width} x {height} pixels, float32 {x.shape}, {x.nbytes / 1e6:.1f} MB", file=stream)
    seconds = warm_up(x)
    print(f"warm-up: {seconds:.1f} s (kernels compiled, or loaded from the disk cache)\n", file=stream, flush=True)
    results = [measure(norm, x) for norm in NORMS]
    print(report(x, results), file=stream)
    draw(x, results).savefig(out, format="png")
    print(f"picture: {out.resolve()}", file=stream)


def load_photograph() -> tuple[str, Array]:
    """Grace Hopper's portrait (public domain), which ships with matplotlib: float32 (1, 3, H, W) in [0, 1]."""
    try:
        from matplotlib import get_data_path
        from matplotlib.image import imread
    except ImportError:
        raise ImportError(NO_MATPLOTLIB) from None
    path = Path(get_data_path(), "sample_data", "grace_hopper.jpg")
    pixels = imread(path)
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis], np.float32)
    x /= 255
    return path.name, x


def warm_up(x: Array) -> float:
    """Call every norm once; returns the seconds it took."""
    start = time.perf_counter()
    for norm in NORMS:
        norm.call(x)
    return time.perf_counter() - start


def textbook(norm: Norm, x: Array) -> Array:
    """The plain NumPy expression, computed in the type of `x`."""
    if not norm.centred:
        return np.asarray(x / np.sqrt((x * x).mean(axis=norm.axes, keepdims=True) + norm.eps))
    mean = x.mean(axis=norm.axes, keepdims=True)
    var = x.var(axis=norm.axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(var + norm.eps))


def measure(norm: Norm, x: Array) -> Result:
    """Compare one norm and the NumPy expression: how far off, then how fast."""
    exact = textbook(norm, x.astype(np.longdouble))
    y = norm.call(x)
    off, numpy_off = difference(y, exact), difference(textbook(norm, x), exact)
    # Timed after the longdouble work: freeing arrays that large makes the C library keep memory, and the first norm
    # would otherwise pay page faults that the others do not. In turn, so that both meet the same state of the machine.
    calls: tuple[Callable[[Array], Array], ...] = (norm.call, functools.partial(textbook, norm))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(CALLS):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call(x)
            times.append(time.perf_counter() - start)
    return Result(norm, y, median(seconds[0]), median(seconds[1]), off, numpy_off)


def difference(y: Array, exact: Array) -> Difference:
    """Distance of `y` from `exact`: in units of its last place, and absolutely."""
    error = np.abs(y - exact)
    ulp = np.spacing(np.maximum(np.abs(exact), 1).astype(np.float32))
    return Difference(float((error / ulp).max()), float(error.max()))


def report(x: Array, results: Sequence[Result]) -> str:
    """Both tables and their notes."""
    head = ["", *(f"mean {colour}" for colour in COLOURS), *(f"std {colour}" for colour in COLOURS)]
    channels = [head, ["before", *_channels(x)], *([result.norm.name, *_channels(result.y)] for result in results)]
    costs = [["", "numbanorm", "NumPy", "speed-up", "numbanorm", "absolute", "NumPy", "absolute"]]
    for result in results:
        ratio = result.numpy_seconds / result.seconds
        costs.append([result.norm.name, f"{result.seconds * 1e3:.3f} ms", f"{result.numpy_seconds * 1e3:.3f} ms"])
        costs[-1].append(f"{ratio:.1f}x")
        for off in (result.difference, result.numpy_difference):
            costs[-1] += [f"{off.ulp:.3f} ulp", f"{off.absolute:.1e}"]
    return "\n".join(
        [
            "Each channel before, and after each norm",
            _aligned(channels),
            "",
            "Time of a call, and largest difference from the longdouble result",
            _aligned(costs),
            "",
            NOTES,
        ]
    )


def _channels(x: Array) -> list[str]:
    """Mean, then standard deviation of each channel; in float64, so that the table adds no error of its own."""
    pixels = x.astype(np.float64)
    means = pixels.mean(axis=(0, 2, 3))
    tiny = 5e-5  # would be printed as zero
    shown = [f"{mean:+.4f}" if abs(mean) >= tiny else f"{mean:+.0e}" for mean in means]
    return shown + [f"{std:.4f}" for std in pixels.std(axis=(0, 2, 3))]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([f"  {name:<{widths[0]}}", *numbers]).rstrip())
    return "\n".join(lines)


def draw(x: Array, results: Sequence[Result]) -> Figure:
    """The photograph and every result on one scale, each above the histogram of its channels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 11), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("One photograph, five norms", fontsize=18, fontweight="bold")
    figure.supxlabel(f"Pictures after a norm show -{SHOWN} as black and +{SHOWN} as white.", fontsize=10, color="0.35")
    axes = figure.subplots(4, 3, height_ratios=(5, 1, 5, 1))
    after = [(f"{r.norm.name} norm", r.norm.shares, r.y, (-SHOWN, SHOWN)) for r in results]
    panels = [("original", "as loaded", x, (0.0, 1.0)), *after]
    for index, (title, subtitle, y, limits) in enumerate(panels):
        row, column = divmod(index, 3)
        _draw_panel(axes[2 * row, column], axes[2 * row + 1, column], title, subtitle, y[0], limits)
    return figure


def _draw_panel(picture: Axes, histogram: Axes, title: str, subtitle: str, y: Array, limits: tuple[float, float]) -> None:
    low, high = limits
    picture.imshow(np.clip((y.transpose(1, 2, 0) - low) / (high - low), 0, 1))
    picture.set_axis_off()
    picture.set_title(f"{title}\n", fontsize=14, fontweight="bold", pad=2)
    picture.text(0.5, 1.02, subtitle, transform=picture.transAxes, ha="center", va="bottom", fontsize=10, color="0.35")
    for channel, colour in zip(y, ("#d62728", "#2ca02c", "#1f77b4"), strict=True):
        counts, edges = np.histogram(channel, bins=64, range=limits)
        histogram.stairs(counts, edges, color=colour, linewidth=1.2)
    histogram.set_xlim(limits)
    histogram.set_yticks([])
    histogram.tick_params(labelsize=8, colors="0.35")
    histogram.spines[["left", "top", "right"]].set_visible(False)
