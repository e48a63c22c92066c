"""Line, bar and scatter charts as inline SVG, colored by the page's style sheet."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from graphrec.core.errors import DataError
from graphrec.runs.html.markup import element, join

WIDTH, HEIGHT = 540, 290
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 46
N_COLORS = 10
"""Series colors of the style sheet, ``--c0`` to ``--c9``; further series start again."""
BREAK = 18
"""Characters in a line of a bar group's label."""
CHARACTER = 6.75
"""Width of a character above a bar; a value that is wider than its bar is shown on hovering alone."""
WIDE = 20
"""Ratio of greatest to least value from which on a scatter chart's horizontal axis is logarithmic."""


class Bar(NamedTuple):
    """A bar.

    Attributes:
        value: its height.
        low: lower end of an interval, or None.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers, about ``n`` steps, the first at or below ``low`` and the last at or above ``high``."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / n
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    zero: bool = False,
) -> Markup:
    """Lines over a common axis, with a legend; hovering over a point shows its values.

    Args:
        series: name -> points (x, y) in order of x; a single point becomes a dashed line across the chart; a
            name without points is not drawn, but its color is not given to another.
        title: heading of the chart, also for screen readers.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        zero: start the vertical axis at 0.

    Raises:
        DataError: no points, or one that is not finite.
    """
    points = [p for line in series.values() for p in line]
    _finite(title, [v for p in points for v in p])
    xs = [p[0] for line in series.values() if len(line) > 1 for p in line] or [p[0] for p in points]
    x_ticks = [t for t in ticks(min(xs), max(xs), 6) if min(xs) <= t <= max(xs)]
    y_ticks = ticks(0.0 if zero else min(p[1] for p in points), max(p[1] for p in points))
    span = (max(xs) - min(xs)) or 1.0

    def position(value: float) -> float:
        return LEFT + (value - min(xs)) / span * (WIDTH - LEFT - RIGHT)

    shapes = _axes(x, y, x_ticks, position, y_ticks)
    for number, (name, line) in enumerate(series.items()):
        if len(line) == 1:
            shapes.append(_level(name, line[0][1], y_ticks, number))
        elif line:
            path = " ".join(f"{_decimal(position(px))},{_decimal(_height(py, y_ticks))}" for px, py in line)
            shapes.append(element("polyline", points=path, class_="line", style=f"stroke:{_color(number)}"))
            for px, py in line:
                hover = f"{name}, {x} {px:g}: {py:.4g}"
                shapes.append(_point(hover, position(px), _height(py, y_ticks), number, radius=3))
    ends = "; ".join(f"{n}: {line[0][1]:.4g} to {line[-1][1]:.4g}" for n, line in series.items() if line)
    return _figure(
        title, f"{y} over {x}. {ends}.", {n: i for i, (n, line) in enumerate(series.items()) if line}, shapes
    )


def bar_chart(
    groups: Sequence[str], series: Mapping[str, Sequence[Bar]], *, title: str, y: str, digits: int = 3
) -> Markup:
    """Grouped bars from zero, with intervals as whiskers and values above.

    Args:
        groups: label of each group of bars.
        series: name -> one bar a group.
        title: heading of the chart, also for screen readers.
        y: label of the vertical axis.
        digits: of the values above the bars.

    Raises:
        DataError: a series has another number of bars than there are groups, or a number is negative or not
            finite.
    """
    for name, bars in series.items():
        if len(bars) != len(groups):
            raise DataError(f"{title}: {name!r} has {len(bars)} bars; expected {len(groups)}, one a group")
    numbers = [v for bars in series.values() for bar in bars for v in bar if v is not None]
    _finite(title, numbers)
    if min(numbers) < 0:
        raise DataError(f"{title}: a bar of {min(numbers):g}; expected numbers from 0")
    y_ticks = ticks(0.0, max(numbers))
    group_width = (WIDTH - LEFT - RIGHT) / len(groups)
    bar_width = min(44.0, group_width * 0.84 / len(series))
    base = _height(0.0, y_ticks)
    shapes = _axes("", y, [], float, y_ticks)
    for index, group in enumerate(groups):
        middle = LEFT + group_width * (index + 0.5)
        for number, (name, bars) in enumerate(series.items()):
            bar = bars[index]
            left = middle + (number - len(series) / 2) * bar_width
            top = _height(bar.value, y_ticks)
            hover = f"{name}, {group}: {bar.value:.4f}"
            at = _decimal(left + bar_width / 2)
            size = {"width": _decimal(bar_width - 3), "height": _decimal(max(base - top, 0.8)), "rx": 2}
            drawn = [
                element(
                    "rect", x=_decimal(left + 1.5), y=_decimal(top), **size, style=f"fill:{_color(number)}"
                )
            ]
            highest = top
            if bar.low is not None and bar.high is not None:
                low = _height(bar.low, y_ticks)
                high = _height(bar.high, y_ticks)
                drawn.append(
                    element("line", x1=at, x2=at, y1=_decimal(low), y2=_decimal(high), class_="whisker")
                )
                hover += f" (95 % interval {bar.low:.4f} to {bar.high:.4f})"
                highest = min(top, high)
            value = f"{bar.value:.{digits}f}"
            value = value.removeprefix("0") if bar.value < 1 else value
            if bar_width >= CHARACTER * len(value):
                drawn.append(_text(value, at, _decimal(highest - 5), class_="value"))
            shapes.append(element("g", element("title", hover), *drawn))
        lines = textwrap.wrap(group, BREAK) or [""]
        spans = (
            element("tspan", line, x=_decimal(middle), dy=15 if n else 0) for n, line in enumerate(lines)
        )
        shapes.append(_text(join(spans), None, HEIGHT - BOTTOM + 18))
    description = "; ".join(
        f"{group}: " + ", ".join(f"{n} {bars[i].value:.{digits}f}" for n, bars in series.items())
        for i, group in enumerate(groups)
    )
    return _figure(title, f"{y}. {description}.", {n: i for i, n in enumerate(series)}, shapes)


def scatter_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    levels: Mapping[str, float] | None = None,
) -> Markup:
    """Points over a common axis, logarithmic where the horizontal values are far apart.

    Args:
        series: name -> points (x, y); a name without points is not drawn, but its color is not given to
            another.
        title: heading of the chart, also for screen readers.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        levels: name -> height of a dashed line, for series without a horizontal value; a name that is also in
            ``series`` has its color.

    Raises:
        DataError: no points, or one that is not finite.
    """
    points = [p for cloud in series.values() for p in cloud]
    levels = dict(levels or {})
    _finite(title, [v for p in points for v in p])
    _finite(title, [*levels.values(), 0.0])
    xs = [p[0] for p in points]
    is_log = min(xs) > 0 and max(xs) / min(xs) >= WIDE
    scale = math.log10 if is_log else float
    x_ticks = _powers(min(xs), max(xs)) if is_log else ticks(min(xs), max(xs), 6)
    start, end = scale(x_ticks[0]), scale(x_ticks[-1])
    heights = [p[1] for p in points] + list(levels.values())
    y_ticks = ticks(min(heights), max(heights))

    def position(value: float) -> float:
        return LEFT + (scale(value) - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    shapes = _axes(f"{x}, logarithmic" if is_log else x, y, x_ticks, position, y_ticks)
    names = {name: number for number, name in enumerate(dict.fromkeys([*series, *levels]))}
    for name, level in levels.items():
        shapes.append(_level(name, level, y_ticks, names[name]))
    for name, cloud in series.items():
        for px, py in cloud:
            hover = f"{name}, {x} {px:.4g}: {py:.4g}"
            shapes.append(_point(hover, position(px), _height(py, y_ticks), names[name], radius=5))
    drawn = {n: i for n, i in names.items() if series.get(n) or n in levels}
    values = [f"{n}: {p[0]:.4g}, {p[1]:.4g}" for n, cloud in series.items() for p in cloud[:1]]
    values += [f"{n}: {level:.4g}" for n, level in levels.items()]
    return _figure(title, f"{y} over {x}. {'; '.join(values)}.", drawn, shapes)


def _powers(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2 and 5 of each power of ten, or only 1 where that is many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    steps = (1.0,) if last - first > 3 else (1.0, 2.0, 5.0)
    fine = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    start = max((i for i, v in enumerate(fine) if v <= low * (1 + 1e-9)), default=0)
    end = next((i for i, v in enumerate(fine) if v >= high * (1 - 1e-9)), len(fine) - 1)
    return fine[start : end + 1]


def _level(name: str, value: float, y_ticks: Sequence[float], number: int) -> Markup:
    """A dashed line across the chart."""
    at = _decimal(_height(value, y_ticks))
    title = element("title", f"{name}: {value:.4g}")
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": at, "y2": at}
    style = f"stroke:{_color(number)}"
    return element("line", title, **ends, class_="line", stroke_dasharray="6 5", style=style)


def _point(hover: str, x: float, y: float, number: int, radius: int) -> Markup:
    """A dot with a wider transparent one, on which hovering shows a text."""
    center = {"cx": _decimal(x), "cy": _decimal(y)}
    dot = element("circle", **center, r=radius, class_="point", style=f"fill:{_color(number)}")
    touch = element("circle", **center, r=radius + 5, class_="touch")
    return element("g", element("title", hover), dot, touch)


def _figure(title: str, description: str, names: Mapping[str, int], shapes: list[Markup]) -> Markup:
    swatches = (
        element("li", element("span", style=f"background:{_color(n)}"), name) for name, n in names.items()
    )
    label = f"{title}. {description}"
    picture = element("svg", *shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    scroll = element("div", picture, class_="scroll", tabindex=0, role="region", aria_label=title)
    return element("figure", element("figcaption", title), element("ul", *swatches, class_="legend"), scroll)


def _axes(
    x: str, y: str, x_ticks: Sequence[float], position: Callable[[float], float], y_ticks: Sequence[float]
) -> list[Markup]:
    """Titles of the axes, horizontal rules at ``y_ticks`` and labels at ``x_ticks``."""
    step = y_ticks[1] - y_ticks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (0 if _round(step) else 1))
    shapes = []
    for number, value in enumerate(y_ticks):
        at = _decimal(_height(value, y_ticks))
        kind = "grid" if number else "axis"
        shapes.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_=kind))
        shapes.append(_text(f"{value:.{digits}f}", LEFT - 8, _decimal(float(at) + 4), anchor="end"))
    shapes += [_text(f"{value:g}", _decimal(position(value)), HEIGHT - BOTTOM + 18) for value in x_ticks]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    if x:
        shapes.append(_text(x, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6))
    shapes.append(_text(y, None, None, transform=f"translate(13 {middle:g}) rotate(-90)"))
    return shapes


def _text(text: str, x: object, y: object, anchor: str = "middle", **attributes: object) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, **attributes)


def _round(step: float) -> bool:
    """Whether one significant digit gives the whole number."""
    unit = 10.0 ** math.floor(math.log10(step) + 1e-9)
    return abs(step / unit - round(step / unit)) < 1e-6


def _height(value: float, y_ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)


def _color(number: int) -> str:
    return f"var(--c{number % N_COLORS})"


def _decimal(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _finite(title: str, values: Sequence[float]) -> None:
    bad = [v for v in values if not math.isfinite(v)]
    if bad or not values:
        raise DataError(
            f"{title}: {f'a value is {bad[0]}' if bad else 'no values'}; expected finite numbers to draw"
        )
