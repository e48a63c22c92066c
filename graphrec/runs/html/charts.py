"""Line, bar and scatter charts as inline SVG, colored by the page's style sheet.

A drawing is as wide as a phone's screen and grows with the page. Series differ by more than their color:
lines and points by the shape of their markers, levels by their dashes; bars and levels carry their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from graphrec.core.errors import DataError
from graphrec.runs.html.markup import element

WIDTH, HEIGHT = 380, 264
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 26, 44
N_COLORS = 10
"""Series colors of the style sheet, ``--c0`` to ``--c9``; further series start again."""
MARKERS = (
    "M{r} 0A{r} {r} 0 1 1 -{r} 0A{r} {r} 0 1 1 {r} 0Z",  # circle
    "M-{r} -{r}H{r}V{r}H-{r}Z",  # square
    "M0 -{r}L{r} {r}H-{r}Z",  # triangle
    "M0 -{l}L{l} 0L0 {l}L-{l} 0Z",  # diamond
    "M0 {r}L{r} -{r}H-{r}Z",  # triangle that points down
    "M-{s} -{l}H{s}V-{s}H{l}V{s}H{s}V{l}H-{s}V{s}H-{l}V-{s}H-{s}Z",  # plus
    "M-{l} -{s}H{l}V{s}H-{l}Z",  # bar that lies
    "M-{s} -{l}H{s}V{l}H-{s}Z",  # bar that stands
    "M-{r} -{r}L{r} {r}H-{r}Z",  # right-angled triangle
    "M-{r} -{r}L{r} {r}V-{r}Z",  # the other one
)
"""Outline of a marker by series, for a half width ``r``, a larger one ``l`` and a smaller one ``s``."""
DASHES = ("7 5", "2 4", "10 4 2 4", "12 6", "4 2")
"""Pattern of a level by its number."""
MARKED = 8
"""About how many points of a line get a marker."""
LONG = 36
"""Most characters of a name in a drawing; all of them are in the legend or shown on hovering."""
ROW, THICK, HEAD = 38, 11, 26
"""Heights in a bar chart: of a bar with its name above, of the bar, of a group's label."""
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
    keys: dict[str, Markup] = {}
    levels = [name for name, line in series.items() if len(line) == 1]
    for number, (name, line) in enumerate(series.items()):
        if len(line) == 1:
            dash = DASHES[levels.index(name) % len(DASHES)]
            shapes += _level(name, line[0][1], y_ticks, number, dash)
            keys[name] = _key(number, dash)
        elif line:
            path = " ".join(f"{_decimal(position(px))},{_decimal(_height(py, y_ticks))}" for px, py in line)
            shapes.append(element("polyline", points=path, class_="line", style=f"stroke:{_color(number)}"))
            step = math.ceil(len(line) / MARKED)
            for index, (px, py) in enumerate(line):
                hover = f"{name}, {x} {px:g}: {py:.4g}"
                # Lines that lie on one another have their markers at different points.
                is_marked = index % step == number % step
                at = (position(px), _height(py, y_ticks))
                shapes.append(_point(hover, *at, number, radius=3.5, is_marked=is_marked))
            keys[name] = _key(number)
    ends = "; ".join(f"{n}: {line[0][1]:.4g} to {line[-1][1]:.4g}" for n, line in series.items() if line)
    return _figure(title, f"{y} over {x}. {ends}.", keys, shapes)


def bar_chart(
    groups: Sequence[str], series: Mapping[str, Sequence[Bar]], *, title: str, y: str, digits: int = 3
) -> Markup:
    """Lying bars from zero, each under its name and value, with intervals as whiskers.

    Args:
        groups: label of each group of bars; empty for none.
        series: name -> one bar a group.
        title: heading of the chart, also for screen readers.
        y: what the bars measure.
        digits: of the values.

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
    steps = ticks(0.0, max(numbers), 4)
    end = WIDTH - RIGHT

    def along(value: float) -> float:
        return value / steps[-1] * end

    rows: list[Markup] = []
    top = 0.0
    for index, group in enumerate(groups):
        if group:
            rows.append(_text(group, 0, _decimal(top + HEAD - 10), "start", class_="group"))
            top += HEAD
        for number, (name, bars) in enumerate(series.items()):
            said = f"{name}, {group}" if group else name
            rows.append(_row(said, name, bars[index], digits, top, number, along))
            top += ROW
    shapes = []
    for number, value in enumerate(steps):
        at = _decimal(along(value))
        kind = "grid" if number else "axis"
        shapes.append(element("line", x1=at, x2=at, y1=0, y2=_decimal(top), class_=kind))
        anchor = "middle" if number else "start"
        shapes.append(_text(_tick(value, steps), at, _decimal(top + 16), anchor))
    shapes += [_text(y, _decimal(end / 2), _decimal(top + 33)), *rows]
    description = "; ".join(
        f"{group}: " + ", ".join(f"{n} {bars[i].value:.{digits}f}" for n, bars in series.items())
        for i, group in enumerate(groups)
    )
    return _figure(title, f"{y}. {description}.", {}, shapes, top + 38)


def _row(
    said: str, name: str, bar: Bar, digits: int, top: float, number: int, along: Callable[[float], float]
) -> Markup:
    """A bar, its name and value above it, and its interval."""
    hover = f"{said}: {bar.value:.4f}"
    middle = top + 16 + THICK / 2
    size = {"width": _decimal(max(along(bar.value), 0.8)), "height": THICK, "rx": 2}
    drawn = [
        _text(_short(name), 0, _decimal(top + 11), "start", class_="name"),
        _text(f"{bar.value:.{digits}f}", WIDTH - RIGHT, _decimal(top + 11), "end", class_="value"),
        element("rect", x=0, y=_decimal(top + 16), **size, style=f"fill:{_color(number)}"),
    ]
    if bar.low is not None and bar.high is not None:
        low, high = (_decimal(along(value)) for value in (bar.low, bar.high))
        drawn.append(
            element("line", x1=low, x2=high, y1=_decimal(middle), y2=_decimal(middle), class_="whisker")
        )
        caps = "".join(f"M{at} {_decimal(middle - 4)}v8" for at in (low, high))
        drawn.append(element("path", d=caps, class_="whisker"))
        hover += f" (95 % interval {bar.low:.4f} to {bar.high:.4f})"
    return element("g", element("title", hover), *drawn)


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
    dashes = {name: DASHES[number % len(DASHES)] for number, name in enumerate(levels)}
    for name, level in levels.items():
        shapes += _level(name, level, y_ticks, names[name], dashes[name])
    for name, cloud in series.items():
        for px, py in cloud:
            hover = f"{name}, {x} {px:.4g}: {py:.4g}"
            shapes.append(_point(hover, position(px), _height(py, y_ticks), names[name], radius=5))
    drawn = {name: i for name, i in names.items() if series.get(name) or name in levels}
    keys = {name: _key(i, dashes.get(name), has_line=name in levels) for name, i in drawn.items()}
    values = [f"{n}: {p[0]:.4g}, {p[1]:.4g}" for n, cloud in series.items() for p in cloud[:1]]
    values += [f"{n}: {level:.4g}" for n, level in levels.items()]
    return _figure(title, f"{y} over {x}. {'; '.join(values)}.", keys, shapes)


def _powers(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2 and 5 of each power of ten, or only 1 where that is many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    steps = (1.0,) if last - first > 3 else (1.0, 2.0, 5.0)
    fine = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    start = max((i for i, v in enumerate(fine) if v <= low * (1 + 1e-9)), default=0)
    end = next((i for i, v in enumerate(fine) if v >= high * (1 - 1e-9)), len(fine) - 1)
    return fine[start : end + 1]


def _level(name: str, value: float, y_ticks: Sequence[float], number: int, dash: str) -> list[Markup]:
    """A dashed line across the chart, with its name at an end; neighbors have theirs at different ends."""
    at = _height(value, y_ticks)
    title = element("title", f"{name}: {value:.4g}")
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": _decimal(at), "y2": _decimal(at)}
    style = f"stroke:{_color(number)}"
    is_right = DASHES.index(dash) % 2 == 0
    place = {"x": WIDTH - RIGHT if is_right else LEFT + 4, "y": _decimal(at - 5)}
    return [
        element("line", title, **ends, class_="line level", stroke_dasharray=dash, style=style),
        _text(_short(name), **place, anchor="end" if is_right else "start", class_="name"),
    ]


def _point(hover: str, x: float, y: float, number: int, radius: float, is_marked: bool = True) -> Markup:
    """A marker, and a wider transparent circle on which hovering shows a text."""
    marker = [_marker(number, x, y, radius)] if is_marked else []
    touch = element("circle", cx=_decimal(x), cy=_decimal(y), r=_decimal(radius + 5), class_="touch")
    return element("g", element("title", hover), *marker, touch)


def _marker(number: int, x: float, y: float, radius: float) -> Markup:
    outline = MARKERS[number % len(MARKERS)].format(
        r=_decimal(radius), l=_decimal(radius * 1.35), s=_decimal(radius * 0.5)
    )
    place = f"translate({_decimal(x)} {_decimal(y)})"
    style = f"fill:{_color(number)}"
    return element("path", d=outline, transform=place, class_="point", style=style)


def _key(number: int, dash: str | None = None, has_line: bool = True) -> Markup:
    """The sample of a series in the legend: its line and marker, or its dashed line."""
    shapes = []
    if has_line:
        kind = "line" if dash is None else "line level"
        style = f"stroke:{_color(number)}"
        shapes.append(element("path", d="M1 7H27", class_=kind, stroke_dasharray=dash, style=style))
    if dash is None or not has_line:
        shapes.append(_marker(number, 14, 7, 4))
    return element("svg", *shapes, viewBox="0 0 28 14", class_="key", aria_hidden="true")


def _figure(
    title: str, description: str, keys: Mapping[str, Markup], shapes: list[Markup], height: float = HEIGHT
) -> Markup:
    label = f"{title}. {description}"
    view = f"0 0 {WIDTH} {_decimal(height)}"
    parts = [element("figcaption", title)]
    if keys:
        entries = (element("li", key, name) for name, key in keys.items())
        parts.append(element("ul", *entries, class_="legend"))
    return element("figure", *parts, element("svg", *shapes, viewBox=view, role="img", aria_label=label))


def _axes(
    x: str, y: str, x_ticks: Sequence[float], position: Callable[[float], float], y_ticks: Sequence[float]
) -> list[Markup]:
    """Titles of the axes, horizontal rules at ``y_ticks`` and labels at ``x_ticks``."""
    shapes = []
    for number, value in enumerate(y_ticks):
        at = _decimal(_height(value, y_ticks))
        kind = "grid" if number else "axis"
        shapes.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_=kind))
        shapes.append(_text(_tick(value, y_ticks), LEFT - 7, _decimal(float(at) + 4), "end"))
    shapes += [_text(f"{value:g}", _decimal(position(value)), HEIGHT - BOTTOM + 18) for value in x_ticks]
    shapes.append(_text(x, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8))
    shapes.append(_text(y, 0, 12, "start"))
    return shapes


def _tick(value: float, steps: Sequence[float]) -> str:
    """A tick's label, with as many digits as tell the steps apart."""
    step = steps[1] - steps[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (0 if _round(step) else 1))
    return f"{value:.{digits}f}"


def _text(text: str, x: object, y: object, anchor: str = "middle", **attributes: object) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, **attributes)


def _short(name: str) -> str:
    return name if len(name) <= LONG else f"{name[: LONG - 1]}…"


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
