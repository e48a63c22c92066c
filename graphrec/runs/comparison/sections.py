"""Charts and tables of a comparison's page; None where the evaluations do not hold what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from graphrec.evaluation.metrics import find_metric, parse_metric
from graphrec.runs.comparison.results import ModelComparison, Result, mean_and_sd
from graphrec.runs.html import Bar, Cell, Heading, Table, bar_chart, line_chart, scatter_chart

GROUPS = {
    "items/warm": ("Warm items", "of all items, ranked together; only warm ones count as found"),
    "items/cold": ("Cold items", "of all items, ranked together; only cold ones count as found"),
    "items/cold/within": ("Cold items among themselves", "only cold items are ranked"),
}
"""Group of a report -> its name and what is ranked."""
POINTS = 60
"""Most points of a curve; more cannot be told apart at this size."""
CHARTED = ("popularity", "coverage")
"""Metrics of all lists together that are drawn as bars."""


def results(comparison: ModelComparison) -> Table:
    """Every metric of the table for each model, the one that decides first."""
    names = dict.fromkeys((comparison.metric, *comparison.names))
    rows = [
        [label, *(_cell(comparison, result, name) for name in names), len(result.entries)]
        for label, result in comparison.results.items()
    ]
    caption = (
        "Mean ± standard deviation over training seeds; below, the 95 % bootstrap interval over users. "
        "Best in bold, second best underlined."
    )
    return Table(["model", *names, "seeds"], rows, caption)


def tests(comparison: ModelComparison) -> Table | None:
    """The comparisons with the baseline; None for a single model."""
    if not comparison.comparisons:
        return None
    caption = (
        f"Differences in {comparison.metric}, paired over the same {comparison.comparisons[0].n_users:,} "
        "users; intervals are 95 % bootstrap intervals. p: how often chance alone would make a difference "
        f"this large; Holm's correction allows for all {comparison.n_tests} tests of this page. "
        "Seed pairs: in how many pairs of one training of each the first model is ahead."
    )
    header, rows = comparison.comparisons.cells()
    wins = ["{} of {}".format(*comparison.seed_wins(c.model)) for c in comparison.comparisons]
    rows = [[row[0], *row[3:], won] for row, won in zip(rows, wins, strict=True)]
    return Table(["comparison", *header[3:], "seed pairs ahead"], rows, caption)


def cutoffs(comparison: ModelComparison) -> list[Markup]:
    """A chart of each metric of the table against its cut-off; none with a single cut-off."""
    charts = []
    for base in dict.fromkeys(parse_metric(name)[0] for name in (comparison.metric, *comparison.names)):
        lines = {label: _over_cutoffs(result, base) for label, result in comparison.results.items()}
        if any(len(line) > 1 for line in lines.values()):
            charts.append(line_chart(lines, title=f"{base}@k", x="k", y=f"{base}@k", zero=True))
    return charts


def _over_cutoffs(result: Result, base: str) -> list[tuple[float, float]]:
    names = [name for name in result.report.metrics if name.startswith(f"{base}@")]
    return sorted((float(parse_metric(name)[1]), result.mean(name)) for name in names)


def cold_items(comparison: ModelComparison) -> dict[str, Any] | None:
    """Charts and a table by kind of item; None where no cold items are held out."""
    models = comparison.results
    shown = [group for group in GROUPS if all(r.group_report(group) for r in models.values())]
    if "items/cold" not in shown:
        return None
    metric = comparison.metric
    charts = [
        bar_chart(
            [""],
            {label: [_bar(r, metric, group)] for label, r in models.items()},
            title=f"{metric}, {GROUPS[group][0].lower()}",
            y=metric,
        )
        for group in shown
    ]
    names = dict.fromkeys((metric, *comparison.names))
    rows: list[Sequence[object] | Heading] = []
    for group in shown:
        title, ranked = GROUPS[group]
        rows.append(Heading(title, f"{ranked}; {len(comparison.first.report.groups[group]):,} users"))
        for label, result in models.items():
            unplaced = group != "items/warm" and result.cold_items == "as trained"
            name = Cell(label, "as trained: no content used" if unplaced else "")
            rows.append([name, *(_cell(comparison, result, n, group) for n in names)])
    base, cut = parse_metric(metric)
    within = comparison.first.report.groups.get("items/cold/within")
    n_cold = within.meta.get("n_group", 0) if within is not None and base == "recall" else 0
    return {
        "charts": charts,
        "table": Table(["model", *names], rows, "As in the table of results, by kind of item."),
        "n_cold": n_cold,
        "random": min(1.0, cut / n_cold) if n_cold else None,
        "unplaced": any(r.cold_items == "as trained" for r in models.values()),
    }


def _bar(result: Result, name: str, group: str) -> Bar:
    low, high = result.interval(name, group) or (None, None)
    return Bar(result.mean(name, group), low, high)


def training_curves(comparison: ModelComparison) -> Markup | None:
    """The validated metric against the epoch; None where nothing was validated."""
    validated: dict[str, int] = {comparison.metric: 0}
    for result in comparison.results.values():
        for name in {k for e in result.entries for record in e.history for k in record if "@" in k}:
            validated[name] = validated.get(name, 0) + 1
    name = comparison.metric
    if not validated[name]:
        name = max(sorted(validated), key=validated.__getitem__)
    lines = {label: _curve(result, name) for label, result in comparison.results.items()}
    if not any(lines.values()):
        return None
    return line_chart(lines, title=f"{name} on validation", x="epoch", y=name, zero=True)


def _curve(result: Result, name: str) -> list[tuple[float, float]]:
    """Mean over seeds at the epochs that all of them validated, at most :data:`POINTS`."""
    curves = [{int(r["epoch"]): r[name] for r in e.history if name in r} for e in result.entries]
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if len(epochs) > POINTS:
        epochs = [epochs[i] for i in np.linspace(0, len(epochs) - 1, POINTS).round().astype(int)]
    return [(float(e), float(np.mean([curve[e] for curve in curves]))) for e in epochs]


def training_times(comparison: ModelComparison) -> dict[str, Any] | None:
    """Accuracy against training time; None where no time is known."""
    metric = comparison.metric
    clouds: dict[str, list[tuple[float, float]]] = {}
    levels: dict[str, float] = {}
    for label, result in comparison.results.items():
        seconds = result.seconds()
        values = result.values(metric)
        clouds[label] = [(float(s), float(v)) for s, v in zip(seconds, values, strict=True) if s > 0]
        if np.isfinite(seconds).all() and not clouds[label]:
            levels[label] = float(values.mean())
    if not any(clouds.values()):
        return None
    title = f"{metric} against training time"
    rows = [
        (
            label,
            mean_and_sd(r.mean(metric), r.sd(metric)),
            _seconds(r),
            _mean([len([h for h in e.history if h["epoch"] > 0]) for e in r.entries], 0),
            _mean([e.seconds / max(1, len(e.history)) for e in r.entries if e.seconds and e.history], 3),
            "-" if r.entries[0].n_parameters is None else f"{r.entries[0].n_parameters:,}",
        )
        for label, r in comparison.results.items()
    ]
    caption = (
        "Means over seeds. Training time holds validation and stops with the last epoch; reading data, "
        "building graphs and neighbors before the first epoch are not in it."
    )
    names = machines(comparison)
    if len(names) == 1:
        caption += f" Trained on: {names[0]}."
    elif names:
        caption += f" Trained on different machines ({'; '.join(names)}): compare times with care."
    header = ["model", metric, "seconds of training", "epochs", "seconds an epoch", "parameters"]
    return {
        "chart": scatter_chart(clouds, title=title, x="seconds", y=metric, levels=levels),
        "table": Table(header, rows, caption),
    }


def _seconds(result: Result) -> str:
    seconds = result.seconds()
    if not np.isfinite(seconds).all():
        return "-"
    mean = float(seconds.mean())
    return mean_and_sd(mean, float(seconds.std(ddof=1)) if len(seconds) > 1 else None, 1 if mean >= 10 else 2)


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f}" if any(values) else "-"


def machines(comparison: ModelComparison) -> list[str]:
    """Machines that the trainings recorded, without repeats."""
    devices = (e.about.get("device") for r in comparison.results.values() for e in r.entries)
    names = (
        f"{device['name']}, {device.get('threads', '?')} threads"
        for device in devices
        if isinstance(device, Mapping) and device.get("name")
    )
    return list(dict.fromkeys(names))


def recommended_items(comparison: ModelComparison) -> dict[str, Any] | None:
    """How popular and how varied the recommended items are; None where that was not measured."""
    models = comparison.results
    cut = parse_metric(comparison.metric)[1]
    metrics = {
        name: metric
        for name in comparison.first.report.scalars
        if name.endswith(f"@{cut}")
        and (metric := find_metric(name))
        and all(name in r.report.scalars for r in models.values())
    }
    if not metrics:
        return None
    charts = []
    for name, metric in metrics.items():
        bars = {label: [Bar(r.mean(name))] for label, r in models.items()}
        if metric.name in CHARTED and all(math.isfinite(bar.value) for (bar,) in bars.values()):
            digits = 1 if max(bar.value for (bar,) in bars.values()) >= 10 else 3
            first = [f"first {cut} places"]
            charts.append(bar_chart(first, bars, title=metric.meaning, y=metric.title, digits=digits))
    rows = [
        (label, *(mean_and_sd(r.mean(name), r.sd(name)) for name in metrics)) for label, r in models.items()
    ]
    meanings = "; ".join(f"{metric.title}: {metric.meaning}" for metric in metrics.values())
    caption = f"Of the first {cut} places of all lists; mean ± standard deviation over seeds. {meanings}."
    titles = [name.partition("@")[0].replace("_", " ") for name in metrics]
    return {"charts": charts, "table": Table(["model", *titles], rows, caption)}


def _cell(comparison: ModelComparison, result: Result, name: str, group: str = "") -> Cell:
    """Mean ± standard deviation over seeds, the interval over users below, and the mark of its rank."""
    interval = result.interval(name, group)
    note = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
    text = mean_and_sd(result.mean(name, group), result.sd(name, group))
    return Cell.ranked(text, note, comparison.rank(result.label, name, group))
