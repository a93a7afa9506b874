"""One picture: how fast memory is read and written, and how far results are from the truth."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .jobs import COPY, OURS, STREAMED
from .measure import Figure, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f")


def draw(path: Path, results: Sequence[Result], errors: dict[float, dict[str, float | None]]) -> None:
    """Write the PNG; ImportError where matplotlib is not there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(13, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subplots(1, 2)
    _bandwidth(left, _first_kind(results))
    _errors(right, errors)
    canvas.savefig(path, format="png")


def _first_kind(results: Sequence[Result]) -> list[Result]:
    """Of several dtypes, directions and layouts one is drawn: the first of each."""
    if not results:
        return []
    case = results[0].case
    kept = [r for r in results if (r.case.dtype, r.case.backward) == (case.dtype, case.backward)]
    return [r for r in kept if not r.case.last] or kept


def _bandwidth(axes: Axes, results: Sequence[Result]) -> None:
    """x read once and a result written once, for the copies as for the norms; dashed is the best peer."""
    for colour, norm in zip(COLOURS, dict.fromkeys(r.case.kind for r in results), strict=False):
        some = [r for r in results if r.case.kind == norm]
        _line(axes, some, operator.methodcaller("figure", OURS), color=colour, marker="o", label=norm)
        _line(axes, some, Result.best_peer, color=colour, linestyle="--", alpha=0.6)
    if results:  # rows and pictures differ a little in size: one of them has all sizes
        some = [r for r in results if r.case.kind == results[0].case.kind]
        for name, style in ((COPY, "-"), (STREAMED, ":")):
            _line(axes, some, operator.methodcaller("figure", name), color="black", linestyle=style, label=name)
        axes.legend(fontsize=8, title="dashed: the best peer", title_fontsize=8)
    direction = "gradients" if results and results[0].case.backward else "forward"
    axes.set(xscale="log", yscale="log", xlabel="MB of one tensor", ylabel="GB/s, two tensors in the time of a call")
    axes.set_title(f"numbanorm, {direction}: bandwidth", fontsize=11)
    axes.grid(alpha=0.3)


def _line(axes: Axes, results: Sequence[Result], figure: Callable[[Result], Figure | None], **style: Any) -> None:
    found = [(r.case.nbytes, f) for r in results if (f := figure(r)) is not None and f.times]
    points = sorted((size / 1e6, 2e-9 * size / f.seconds) for size, f in found)
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _errors(axes: Axes, errors: dict[float, dict[str, float | None]]) -> None:
    names = list(next(iter(errors.values()), {}))
    for colour, name in zip(COLOURS * 2, names, strict=False):
        points = [(mean, max(e, 1e-3)) for mean, row in errors.items() if (e := row[name]) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=name, linewidth=2.5 if name == OURS else 1.2)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="mean / standard deviation", ylabel="largest error, ulp")
    axes.set_title("layer norm: distance from the true value (dotted: rounded once)", fontsize=11)
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize=8)
