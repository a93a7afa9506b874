"""The picture at the top of README, from what `bench` measured.

python -m numbanorm bench --norms layer --direction forward --sizes 1e3,1e4,1e5,1e6,1e7,1e8 --peers torch,onnxruntime --out DIR
python -m tools.docs.overview DIR/bench.json docs/overview.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numbanorm.bench.jobs import COPY, EXACT, FRESH, OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# contender -> its label, colour, width; all but the copy make a new array, as onnxruntime alone does not
LINES = {
    COPY: ("a plain copy", "#9a9a9a", 1.5),
    "torch": ("torch", "#d95f02", 1.8),
    "onnxruntime": ("onnxruntime", "#7570b3", 1.8),
    OURS: ("numbanorm", "#00695c", 2.8),
    EXACT: ("numbanorm, exact=True", "#4db6ac", 2.2),
}
ONCE = 0.5  # ulp: what rounding alone may be off


def main(source: str, target: str) -> None:
    """Draw the figures of a `bench.json`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = json.loads(Path(source).read_text())
    canvas = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(canvas)
    errors, times = canvas.subplots(1, 2)
    error_lines(errors, found["accuracy"])
    time_lines(times, [c for c in found["cases"] if c["norm"] == "layer"])
    canvas.savefig(target, format="png", metadata={"Software": None})


def error_lines(axes: Axes, accuracy: dict[str, dict[str, Any]]) -> None:
    """Errors against mean / deviation; what is not finite is not drawn."""
    draw(axes, lambda name: [(float(m), row[name]) for m, row in accuracy.items() if isinstance(row.get(name), float)], {COPY})
    axes.axhline(ONCE, color="black", linewidth=0.8, linestyle=":")
    axes.text(1.0, ONCE * 0.82, "rounded once", fontsize=8, va="top")
    axes.set(xscale="log", yscale="log", xlabel="mean / standard deviation of the data", ylabel="largest error, ulp")
    axes.set_title("layer norm, float32: how far from the true value", fontsize=11, loc="left")


def time_lines(axes: Axes, cases: list[dict[str, Any]]) -> None:
    """Throughput against size: what is read and written once in the time of a call, of which a copy's is the ceiling."""

    def points(name: str) -> list[tuple[float, float]]:
        found = ((c["bytes"], c["contenders"].get(FRESH if name == OURS else name, {}).get("median")) for c in cases)
        return [(size / 4, 2e-9 * size / seconds) for size, seconds in found if seconds is not None]

    draw(axes, points, {EXACT})
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="GB/s: x read and y written in the time of a call")
    axes.set_title("layer norm, float32: speed", fontsize=11, loc="left")


def draw(axes: Axes, points: Callable[[str], list[tuple[float, float]]], but: set[str]) -> None:
    """A line each, with its name."""
    for name, (label, colour, width) in LINES.items():
        if name not in but and (found := sorted(points(name))):
            axes.plot(*zip(*found, strict=True), color=colour, linewidth=width, marker="o", markersize=3.5, label=label)
    axes.legend(fontsize=8.5, frameon=False)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(*sys.argv[1:])
