"""The parts of a report that are drawn; None where the evaluations do not hold what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from graphrec.evaluation.metrics import parse_metric
from graphrec.runs.comparison.results import ModelComparison, Result, spread
from graphrec.runs.html import (
    Bar,
    Cell,
    Heading,
    Html,
    bar_chart,
    element,
    join,
    line_chart,
    paragraph,
    scatter_chart,
    table,
)

VIEWS = {
    "items/warm": ("Warm items", "of all items, ranked together; only warm ones count as found"),
    "items/cold": ("Cold items", "of all items, ranked together; only cold ones count as found"),
    "items/cold/within": ("Cold items among themselves", "only cold items are ranked"),
}
POINTS = 60  # of a curve; more cannot be told apart at this size
BEYOND = {
    "popularity": ("popularity", "mean number of training interactions of the recommended items"),
    "popularity_lift": ("popularity lift", "that mean over the mean of what the users had chosen, minus 1"),
    "coverage": ("coverage", "share of the items that are recommended to anybody"),
    "gini": ("Gini", "how unevenly items are shown: 0 all alike, near 1 only a few"),
    "novelty": ("novelty", "how rarely users have the recommended items, in bits"),
}


def cuts(made: ModelComparison) -> Html | None:
    """Each metric of the table against the cut-off; None with a single cut-off."""
    charts = []
    for base in dict.fromkeys(parse_metric(name)[0] for name in (made.metric, *made.names)):
        lines = {label: _over_k(result, base) for label, result in made.results.items()}
        if any(len(line) > 1 for line in lines.values()):
            charts.append(line_chart(lines, title=f"{base}@k", x="k", y=f"{base}@k", zero=True))
    return element("div", *charts, class_="charts") if charts else None


def _over_k(result: Result, base: str) -> list[tuple[float, float]]:
    found = [(parse_metric(n)[1], n) for n in result.report.metrics if n.startswith(f"{base}@")]
    return [(float(cut), result.mean(name)) for cut, name in sorted(found)]


def warm_cold(made: ModelComparison) -> Html | None:
    """Bars and a table by kind of item; None where no cold items are held out."""
    results = made.results
    views = [
        view
        for view in VIEWS
        if all((part := r.part(view)) is not None and len(part) for r in results.values())
    ]
    if "items/cold" not in views:
        return None
    charts = [
        bar_chart(
            [VIEWS[view][0]],
            {label: [_bar(r, made.metric, view)] for label, r in results.items()},
            title=f"{made.metric}, {VIEWS[view][0].lower()}",
            y=made.metric,
        )
        for view in views
    ]
    rows: list[Sequence[object] | Heading] = []
    for view in views:
        part = next(iter(results.values())).report.groups[view]
        rows.append(
            Heading(join((VIEWS[view][0], element("small", f"{VIEWS[view][1]}; {len(part):,} users"))))
        )
        for label, result in results.items():
            unplaced = view != "items/warm" and result.cold_items == "as trained"
            name = Cell(label, "as trained: no content used" if unplaced else "")
            rows.append([name, *(cell(made, result, n, view) for n in made.names)])
    parts: list[Html] = [
        element("div", *charts, class_="charts"),
        element(
            "div",
            table(["model", *made.names], rows, caption="As in the table of results, by kind of item."),
            style="margin-top:30px",
        ),
    ]
    base, cut = parse_metric(made.metric)
    if base == "recall" and "items/cold/within" in views:
        n_cold = next(iter(results.values())).report.groups["items/cold/within"].meta.get("n_group")
        if n_cold:
            parts.append(
                paragraph(
                    f"CandidateGroups the {n_cold:,} cold items alone, a random order would reach a {made.metric} of "
                    f"about {min(1.0, cut / n_cold):.2f}."
                )
            )
    if any(r.cold_items == "as trained" for r in results.values()):
        parts.append(
            paragraph(
                "Models marked “as trained” have no way to place an item that nobody has interacted with. "
                "Their scores of cold items are what initialization left behind, good or bad by chance."
            )
        )
    return join(parts)


def _bar(result: Result, name: str, view: str) -> Bar:
    low, high = result.interval(name, view) or (None, None)
    return Bar(result.mean(name, view), low, high)


def curves(made: ModelComparison) -> Html | None:
    """The validated metric against the epoch; None where nothing was validated."""
    validated: dict[str, int] = {made.metric: 0}
    for result in made.results.values():
        for name in {k for e in result.entries for h in e.history for k in h if _is_metric(k)}:
            validated[name] = validated.get(name, 0) + 1
    chosen = made.metric if validated[made.metric] else max(sorted(validated), key=validated.__getitem__)
    if not validated[chosen]:
        return None
    lines = {label: _curve(result, chosen) for label, result in made.results.items()}
    if not any(lines.values()):
        return None
    chart = line_chart(lines, title=f"{chosen} on validation", x="epoch", y=chosen, zero=True)
    text = (
        "Mean over seeds, as far as all seeds of a model were trained. A dashed line is a model that counts "
        "instead of training, or was validated once."
    )
    return join((chart, paragraph(text, class_="about")))


def _is_metric(key: str) -> bool:
    return "@" in key


def _curve(result: Result, name: str) -> list[tuple[float, float]]:
    found = [{int(h["epoch"]): h[name] for h in e.history if name in h} for e in result.entries]
    epochs = sorted(set.intersection(*map(set, found))) if found else []
    if len(epochs) > POINTS:
        epochs = [epochs[i] for i in np.linspace(0, len(epochs) - 1, POINTS).round().astype(int)]
    return [(float(e), float(np.mean([line[e] for line in found]))) for e in epochs]


def times(made: ModelComparison) -> Html | None:
    """Accuracy against training time; None where no time is known."""
    clouds: dict[str, list[tuple[float, float]]] = {}
    levels: dict[str, float] = {}
    for label, result in made.results.items():
        seconds, values = result.seconds(), result.values(made.metric)
        clouds[label] = [(float(s), float(v)) for s, v in zip(seconds, values, strict=True) if s > 0]
        if np.isfinite(seconds).all() and not clouds[label]:
            levels[label] = float(values.mean())
    if not any(clouds.values()):
        return None
    chart = scatter_chart(
        clouds, title=f"{made.metric} against training time", x="seconds", y=made.metric, levels=levels
    )
    rows = [
        (
            label,
            spread(r.mean(made.metric), r.sd(made.metric)),
            _time(r),
            _mean_of([len([h for h in e.history if h["epoch"] > 0]) for e in r.entries], 0),
            _mean_of([e.seconds / max(1, len(e.history)) for e in r.entries if e.seconds and e.history], 3),
            "-" if r.entries[0].n_parameters is None else f"{r.entries[0].n_parameters:,}",
        )
        for label, r in made.results.items()
    ]
    header = [
        "model",
        made.metric,
        "seconds of training",
        "epochs",
        "seconds an epoch",
        "parameters",
    ]
    trained_on = machines(made)
    caption = (
        "Means over seeds. Training time holds validation and stops with the last epoch; reading data, "
        "building graphs and neighbors before the first epoch are not in it."
    )
    if len(trained_on) == 1:
        caption += f" Trained on: {trained_on[0]}."
    elif trained_on:
        caption += f" Trained on different machines ({'; '.join(trained_on)}): compare times with care."
    text = "One point a training. A dashed line is a model that is not trained in epochs."
    return join((chart, paragraph(text, class_="about"), table(header, rows, caption=caption)))


def _time(result: Result) -> str:
    seconds = result.seconds()
    if not np.isfinite(seconds).all():
        return "-"
    mean, sd = float(seconds.mean()), float(seconds.std(ddof=1)) if len(seconds) > 1 else None
    return spread(mean, sd, 1 if mean >= 10 else 2)


def _mean_of(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f}" if values and any(values) else "-"


def machines(made: ModelComparison) -> list[str]:
    """What the trainings ran on, as recorded, without repeats."""
    found: dict[str, None] = {}
    for result in made.results.values():
        for entry in result.entries:
            device = entry.about.get("device") or {}
            if isinstance(device, Mapping) and device.get("name"):
                found[f"{device['name']}, {device.get('threads', '?')} threads"] = None
    return list(found)


def recommended(made: ModelComparison) -> Html | None:
    """How popular and how varied the recommended items are; None where that was not measured."""
    cut = parse_metric(made.metric)[1]
    names = {
        b: f"{b}@{cut}"
        for b in BEYOND
        if all(f"{b}@{cut}" in r.report.scalars for r in made.results.values())
    }
    if not names:
        return None
    charts = []
    for base, name in names.items():
        bars = {label: [Bar(r.mean(name))] for label, r in made.results.items()}
        if base in ("popularity", "coverage") and all(math.isfinite(bar.value) for (bar,) in bars.values()):
            title, what = BEYOND[base]
            digits = 1 if max(bar[0].value for bar in bars.values()) >= 10 else 3
            charts.append(bar_chart([f"first {cut} places"], bars, title=what, y=title, digits=digits))
    rows = [
        (label, *(spread(r.mean(name), r.sd(name)) for name in names.values()))
        for label, r in made.results.items()
    ]
    caption = f"Of the first {cut} places of all lists; mean ± standard deviation over seeds. " + "; ".join(
        f"{BEYOND[b][0]}: {BEYOND[b][1]}" for b in names
    )
    parts = [element("div", *charts, class_="charts")] if charts else []
    parts.append(table(["model", *(BEYOND[b][0] for b in names)], rows, caption=f"{caption}."))
    return join(parts)


def cell(made: ModelComparison, result: Result, name: str, group: str = "") -> Cell:
    """Mean ± standard deviation over seeds, the interval over users below, and the mark of its place."""
    interval = result.interval(name, group)
    note = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
    place = made.place(result.label, name, group)
    text = spread(result.mean(name, group), result.sd(name, group))
    return Cell(text, note, "best" if place == 0 else "second" if place == 1 else "")
