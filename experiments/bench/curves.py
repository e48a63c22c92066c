"""Curves over the number of train interactions, all axes logarithmic, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COLORS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0")
PANEL, GAP, TOP, HEIGHT = 270, 66, 44, 240
Series = Mapping[str, Sequence[tuple[float, float]]]


def drawn(panels: Mapping[str, Series], names: Sequence[str], label: str) -> str:
    """Panels side by side with a line for each name, and a dashed one for what grows linearly.

    Args:
        panels: title -> name -> interactions and value of each point.
        names: of the lines, in the order of their colors.
        label: what the picture shows, for those who cannot see it.
    """
    width = GAP * 3 + PANEL * len(panels) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + 78}" role="img" '
        f'aria-label="{label}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, series) in enumerate(panels.items()):
        parts += _panel(GAP + number * (PANEL + GAP), title, series)
    for number, name in enumerate(names):
        x, y = GAP + number * 120, TOP + HEIGHT + 62
        color = COLORS[number % len(COLORS)]
        parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="4" fill="{color}"/>')
        parts.append(f'<text x="{x + 20}" y="{y - 2}">{name}</text>')
    x = GAP + len(names) * 120
    parts.append(f'<line x1="{x}" x2="{x + 14}" y1="{TOP + HEIGHT + 55}" y2="{TOP + HEIGHT + 55}" '
                 'stroke="#999" stroke-dasharray="3 3"/>')  # fmt: skip
    parts.append(f'<text x="{x + 20}" y="{TOP + HEIGHT + 60}">linear</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    points = [p for line in series.values() for p in line]
    if not points:
        return []
    low = [math.log10(min(p[i] for p in points)) - 0.1 for i in (0, 1)]
    high = [math.log10(max(p[i] for p in points)) + 0.1 for i in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low[0]) / (high[0] - low[0])
        up = (math.log10(y) - low[1]) / (high[1] - low[1])
        return left + across * PANEL, TOP + HEIGHT - up * HEIGHT

    parts = [f'<text x="{left}" y="{TOP - 16}" font-weight="bold">{title}</text>',
             f'<rect x="{left}" y="{TOP}" width="{PANEL}" height="{HEIGHT}" fill="none" stroke="#ccc"/>',
             f'<text x="{left + PANEL / 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle">train interactions'
             "</text>"]  # fmt: skip
    for power in range(math.ceil(low[1]), math.floor(high[1]) + 1):
        _, y = place(10 ** low[0], 10.0**power)
        parts.append(f'<line x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for x in sorted({p[0] for p in points}):
        at, _ = place(x, 10 ** low[1])
        text = f"{x / 1e6:.1f}M" if x >= 1e6 else f"{x / 1e3:.0f}k"
        parts.append(f'<text x="{at:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{text}</text>')
    start = min(points)
    end = min(10 ** high[0], start[0] * 10 ** high[1] / start[1])
    (x1, y1), (x2, y2) = place(*start), place(end, start[1] * end / start[0])
    parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#999" '
                 'stroke-dasharray="3 3"/>')  # fmt: skip
    for number, (name, line) in enumerate(series.items()):
        color, places = COLORS[number % len(COLORS)], [place(*p) for p in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for (x, y), (pairs, value) in zip(places, line, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"><title>{name}, '
                         f"{pairs:,} interactions: {value:.3g}</title></circle>")  # fmt: skip
    return parts
