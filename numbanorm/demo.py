"""The demo: two photographs through every norm, as a table and a picture.

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
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from numbanorm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

ROUNDS = 15
PICTURES = ("by day", "at dusk")
DUSK = (0.25, 0.3, 0.5)  # what the evening leaves of red, green and blue
SHOWN = 2.5  # normalized values from -SHOWN to SHOWN fill the range of a screen
NO_MATPLOTLIB = "the demo needs matplotlib, which is not installed: run pip install 'numbanorm[demo]'"


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm as the demo uses it on pictures (2, 3, H, W)."""

    name: str
    shares: str  # who shares one mean and one standard deviation
    axes: tuple[int, ...]
    call: Callable[[Array], Array]
    centred: bool = True
    eps: float = 1e-5


NORMS = (
    Norm("batch", "a channel of both pictures", (0, 2, 3), lambda x: batch_norm(x, training=True)),
    Norm("instance", "a channel of a picture", (2, 3), lambda x: instance_norm(x)),
    Norm("group", "a picture: 1 group of 3 channels", (1, 2, 3), lambda x: group_norm(x, 1)),
    Norm("layer", "a row of pixels of a channel", (3,), lambda x: layer_norm(x, x.shape[3])),
    Norm(
        "rms",
        "a picture; its mean stays",
        (1, 2, 3),
        lambda x: rms_norm(x, x.shape[1:]),
        centred=False,
        eps=float(np.finfo(np.float32).eps),
    ),
)

NOTES = f"""\
Times are the shortest of {ROUNDS} calls, numbanorm and NumPy in turn, so that other work on this machine counts little.
NumPy is (x - x.mean(axes)) / sqrt(x.var(axes) + eps) in float32; for rms, x / sqrt((x * x).mean(axes) + eps).
1 ulp is the spacing of float32 numbers at max(|y|, 1). The true value is the same expression in longdouble."""


@dataclass(frozen=True, slots=True)
class Result:
    """Results of one norm: seconds, and largest distances from the true value in ulp."""

    norm: Norm
    y: Array
    seconds: float
    numpy_seconds: float
    ulp: float
    numpy_ulp: float


def run(out: Path, stream: TextIO | None = None) -> None:
    """Normalize the photographs, print the tables to `stream` (default: stdout) and draw the picture `out`."""
    stream = stream or sys.stdout
    x = photographs()
    count, _, height, width = x.shape
    print(f"{count} photographs of {width} x {height} pixels, float32 {x.shape}, {x.nbytes / 1e6:.1f} MB", file=stream)
    seconds = warm_up(x)
    print(f"warm-up: {seconds:.1f} s (kernels compiled, or loaded from the disk cache)\n", file=stream, flush=True)
    results = [measure(norm, x) for norm in NORMS]
    print(report(x, results), file=stream)
    draw(x, results).savefig(out, format="png")
    print(f"\npicture: {out.resolve()}", file=stream)


def photographs() -> Array:
    """Grace Hopper's portrait, and the same mirrored in an evening's light: float32 (2, 3, H, W) in [0, 1].

    The portrait is in the public domain, and ships with matplotlib.
    """
    try:
        from matplotlib import get_data_path
        from matplotlib.image import imread
    except ImportError:
        raise ImportError(NO_MATPLOTLIB) from None
    pixels = imread(Path(get_data_path(), "sample_data", "grace_hopper.jpg"))
    portrait = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255
    return np.stack([portrait, portrait[:, :, ::-1] * np.array(DUSK, np.float32)[:, None, None]])


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
    off, numpy_off = distance(y, exact), distance(textbook(norm, x), exact)
    # Timed after the longdouble work: freeing arrays that large makes the C library keep memory, and the first norm
    # would otherwise pay page faults that the others do not. In turn, so that both meet the same state of the machine.
    calls: tuple[Callable[[Array], Array], ...] = (norm.call, functools.partial(textbook, norm))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call(x)
            times.append(time.perf_counter() - start)
    return Result(norm, y, min(seconds[0]), min(seconds[1]), off, numpy_off)


def distance(y: Array, exact: Array) -> float:
    """Largest distance of `y` from `exact`, in units of its last place."""
    ulp = np.spacing(np.maximum(np.abs(exact), 1).astype(np.float32))
    return float((np.abs(y - exact) / ulp).max())


def report(x: Array, results: Sequence[Result]) -> str:
    """Both tables, what they say in a sentence, and notes."""
    head = ["", *(f"{what} {name}" for name in PICTURES for what in ("mean", "std")), "", "one mean for"]
    pictures = [head, ["before", *_pictures(x), "", ""]]
    pictures += [[r.norm.name, *_pictures(r.y), "", r.norm.shares] for r in results]
    costs = [["", "numbanorm", "NumPy", "speed-up", "numbanorm error", "NumPy error"]]
    for r in results:
        costs.append([r.norm.name, f"{r.seconds * 1e3:.3f} ms", f"{r.numpy_seconds * 1e3:.3f} ms"])
        costs[-1] += [f"{r.numpy_seconds / r.seconds:.1f}x", f"{r.ulp:.2f} ulp", f"{r.numpy_ulp:.2f} ulp"]
    return "\n".join(
        [
            "The two pictures before, and after each norm",
            _aligned(pictures, last="<"),
            "",
            "Time of a call, and its largest error",
            _aligned(costs),
            "",
            sentence(results),
            "",
            NOTES,
        ]
    )


def sentence(results: Sequence[Result]) -> str:
    """The tables in plain words."""
    ratios = [r.numpy_seconds / r.seconds for r in results]
    return (
        f"In short: numbanorm took {min(1 / q for q in ratios):.2f} to {max(1 / q for q in ratios):.2f} of NumPy's time here. "
        f"Its largest error is {max(r.ulp for r in results):.2f} ulp, NumPy's {max(r.numpy_ulp for r in results):.1f}."
    )


def _pictures(x: Array) -> list[str]:
    """Mean and standard deviation of each picture; in float64, so that the table adds no error of its own."""
    return [
        f"{round(value, 3) + 0.0:{sign}.3f}" for y in x.astype(np.float64) for value, sign in ((y.mean(), "+"), (y.std(), ""))
    ]


def _aligned(rows: Sequence[Sequence[str]], last: str = ">") -> str:
    """Columns of text: names to the left, numbers to the right; `last` is where the last column stands."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        numbers = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        numbers[-1] = f"{cells[-1]:{last}{widths[-1]}}"
        lines.append("  ".join([f"  {name:<{widths[0]}}", *numbers]).rstrip())
    return "\n".join(lines)


def draw(x: Array, results: Sequence[Result]) -> Figure:
    """The photographs and every result on one scale, above the histogram of both pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Two photographs, five norms", fontsize=18, fontweight="bold")
    figure.supxlabel(f"After a norm -{SHOWN} is black and +{SHOWN} is white. Below: how many pixels have a value.", fontsize=10)
    axes = figure.subplots(3, 1 + len(results), height_ratios=(5, 5, 1))
    after = [(f"{r.norm.name} norm", f"one mean for\n{r.norm.shares}", r.y, (-SHOWN, SHOWN)) for r in results]
    panels = [("before", "as loaded\n", x, (0.0, 1.0)), *after]
    for column, (title, subtitle, y, limits) in zip(axes.T, panels, strict=True):
        _draw_panel(column, title, subtitle, y, limits)
    axes[2, 0].legend(PICTURES, fontsize=7, frameon=False)
    return figure


def _draw_panel(axes: Sequence[Axes], title: str, subtitle: str, y: Array, limits: tuple[float, float]) -> None:
    """One column: both pictures and their histograms."""
    (low, high), histogram = limits, axes[2]
    axes[0].set_title(f"{title}\n\n", fontsize=14, fontweight="bold", pad=4)
    axes[0].text(0.5, 1.02, subtitle, transform=axes[0].transAxes, ha="center", va="bottom", fontsize=9, color="0.35")
    for picture, pixels, colour in zip(axes, y, ("#e08a1e", "#2b4f9e"), strict=False):
        picture.imshow(np.clip((pixels.transpose(1, 2, 0) - low) / (high - low), 0, 1))
        picture.set_axis_off()
        counts, edges = np.histogram(pixels, bins=64, range=limits)
        histogram.stairs(counts, edges, color=colour, linewidth=1.2)
    histogram.set_xlim(limits)
    histogram.set_yticks([])
    histogram.tick_params(labelsize=8, colors="0.35")
    histogram.spines[["left", "top", "right"]].set_visible(False)
