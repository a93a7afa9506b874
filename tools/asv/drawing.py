"""Small pictures for the summary page: points or lines over a logarithmic axis, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 300, 52, 470, 12, 262

Points = Sequence[tuple[float, float]]


def figure(series: Mapping[str, Points], words: str, axis: tuple[str, str], *, decades: bool, lines: bool) -> str:
    """A picture with its legend and caption; x in decades, or even; y always in decades, with a line at 1."""
    points = [point for some in series.values() for point in some]
    if not points:
        return ""
    low, high = (f(math.log2(max(y, 1e-9)) for _, y in points) for f in (min, max))
    bottom, top = min(-1.0, math.floor(low)), max(1.0, math.ceil(high))
    left, right = (f((math.log10(x) if decades else x) for x, _ in points) for f in (min, max))
    if decades:
        left, right = math.floor(left), math.ceil(right)

    def place(x: float, y: float) -> tuple[float, float]:
        across = ((math.log10(x) if decades else x) - left) / ((right - left) or 1)
        up = (math.log2(max(y, 1e-9)) - bottom) / (top - bottom)
        return round(LEFT + across * (RIGHT - LEFT), 1), round(BOTTOM - up * (BOTTOM - TOP), 1)

    parts = []
    for power in range(int(bottom), int(top) + 1):
        y = place(10**left if decades else left, 2.0**power)[1]
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{RIGHT}" y2="{y}" class="{"one" if power == 0 else "grid"}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{2.0**power:g}</text>')
    for power in range(int(left), int(right) + 1) if decades else ():
        anchor = "end" if power == right else "middle"
        parts.append(f'<text x="{place(10.0**power, 1)[0]}" y="{BOTTOM + 16}" text-anchor="{anchor}">{thousands(power)}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axis[0])}</text>')
    turned = f"rotate(-90 12 {(TOP + BOTTOM) / 2})"
    parts.append(f'<text x="12" y="{(TOP + BOTTOM) / 2}" text-anchor="middle" transform="{turned}">{escape(axis[1])}</text>')
    keys = []
    for (name, some), colour in zip(series.items(), COLOURS, strict=False):
        parts += drawn([place(x, y) for x, y in some], colour, lines)
        keys.append(f'<li><span style="background: {colour}"></span>{escape(name)}</li>')
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">{"".join(parts)}</svg>'
    return f'<figure>{picture}<ul class="keys">{"".join(keys)}</ul><figcaption>{escape(words)}</figcaption></figure>'


def drawn(places: Points, colour: str, lines: bool) -> list[str]:
    """A line through the places, or a dot at each."""
    if lines:
        return [
            f'<polyline points="{" ".join(f"{x},{y}" for x, y in places)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        ]
    return [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}" fill-opacity="0.75"/>' for x, y in places]


def thousands(power: int) -> str:
    """10**power in words that fit under an axis."""
    return f"{10 ** (power % 3)}{('', ' thousand', ' million', ' billion')[power // 3]}" if 0 <= power < 12 else f"1e{power}"
