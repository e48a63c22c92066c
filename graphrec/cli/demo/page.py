"""The demo's report: numbers, curves, and what each model recommends to a few users, as pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphrec.cli.demo.pictures import describe_choice, people
from graphrec.cli.demo.protocol import EPOCHS, GROUPS, METRICS, MODELS, SELECT, TRAINING, group_report
from graphrec.core.files import write_text
from graphrec.runs.html import Bar, Cell, Heading, Table, bar_chart, line_chart, options, render
from graphrec.runs.record import extractor_name

if TYPE_CHECKING:
    from markupsafe import Markup

    from graphrec.data import Dataset
    from graphrec.evaluation.report import Comparisons, Report

CHARTED = "recall@20"
"""Metric of the chart by kind of item, and of the order of rows."""


def write_page(
    out: Path,
    data: Dataset,
    features: Mapping[str, Any],
    runs: Mapping[str, Any],
    reports: Mapping[str, Report],
    comparisons: Comparisons,
    settings: Mapping[str, Any],
    steps: Mapping[str, float],
) -> Path:
    """Writes ``report.html`` from the runs and test reports by model name, and returns its path."""
    reports = _best_first(reports)
    runs = {name: runs[name] for name in reports}
    n_cold = next((r.groups["items/cold/within"].meta["n_group"] for r in reports.values()), 0)
    text = render(
        Path(__file__).with_name("page.html"),
        title="Three recommenders in a generated shop",
        models=[title for title, _ in MODELS.values()],
        counts=_counts(data),
        results=_results(reports),
        comparisons=_comparisons(comparisons),
        by_group=_by_group(reports),
        n_cold=f"{n_cold:,}",
        random=f"{min(1.0, 20 / max(1, n_cold)):.0%}",
        curves=_curves(runs),
        best=_best_epochs(runs),
        patience=TRAINING["patience"] + 1,
        people=people(data, {name: run.model for name, run in runs.items()}, out, settings["seed"]),
        choice=describe_choice(settings["seed"]),
        command=_command(out, settings),
        settings=_settings(data, features, runs, settings, steps),
    )
    write_text(out / "report.html", text)
    return out / "report.html"


def _counts(data: Dataset) -> dict[str, str]:
    n = len(data.train) + len(data.valid) + len(data.test)
    return {
        "users": f"{data.n_users:,}",
        "items": f"{data.n_items:,}",
        "purchases": f"{n:,}",
        "purchases to train on": f"{len(data.train):,}",
        "to validate on": f"{len(data.valid):,}",
        "to test on": f"{len(data.test):,}",
        "of all user-item pairs": f"{n / (data.n_users * data.n_items):.1%}",
        "items nobody bought in train": f"{len(data.cold_items):,}",
        "items without a picture": f"{data.n_items - data.content['image'].n_present:,}",
        "items without a text": f"{data.n_items - data.content['text'].n_present:,}",
    }


def _results(reports: Mapping[str, Report]) -> Table:
    rows: list[Sequence[object] | Heading] = []
    for group, (title, measured) in GROUPS.items():
        parts = {name: p for name, r in reports.items() if (p := group_report(r, group)) is not None}
        if not parts:
            continue
        n_users = len(next(iter(parts.values())))
        rows.append(Heading(title, f"{measured}; {n_users:,} users"))
        ranked = {m: sorted({float(p[m].mean()) for p in parts.values()}, reverse=True) for m in METRICS}
        for name, report in _best_first(parts).items():
            rows.append([MODELS[name][0], *(_cell(report, m, ranked[m]) for m in METRICS)])
    caption = (
        "Means over users on the test split, with 95 % bootstrap intervals. Best in bold, second best "
        "underlined. Every item a user has not bought in train or validation is ranked."
    )
    return Table(["model", *METRICS], rows, caption)


def _best_first(reports: Mapping[str, Report]) -> dict[str, Report]:
    return dict(sorted(reports.items(), key=lambda named: -float(named[1][CHARTED].mean())))


def _cell(report: Report, metric: str, ranked: Sequence[float]) -> Cell:
    mean = float(report[metric].mean())
    low, high = report.interval(metric)
    return Cell.ranked(f"{mean:.4f}", f"{low:.4f} to {high:.4f}", ranked.index(mean) if mean > 0 else 2)


def _comparisons(comparisons: Comparisons) -> Table:
    caption = (
        f"Paired comparisons over the same {comparisons[0].n_users:,} users: 95 % bootstrap intervals, "
        "two-sided permutation test with 10,000 random signs, p-values as computed and after Holm's "
        f"correction for {len(comparisons)} comparisons. They say how much a difference would vary with "
        "other users, not with another training seed."
    )
    return Table(*comparisons.cells(), caption)


def _by_group(reports: Mapping[str, Report]) -> Markup:
    """A chart of one metric by kind of item."""
    parts = {group: [group_report(r, group) for r in reports.values()] for group in GROUPS}
    bars: dict[str, list[Bar]] = {MODELS[name][0]: [] for name in reports}
    titles = []
    for group, several in parts.items():
        if any(part is None for part in several):
            continue
        titles.append(GROUPS[group][0])
        for row, part in zip(bars.values(), several, strict=True):
            assert part is not None
            row.append(Bar(float(part[CHARTED].mean()), *part.interval(CHARTED)))
    return bar_chart(titles, bars, title=f"{CHARTED} by kind of item, 95 % intervals", y=CHARTED)


def _curves(runs: Mapping[str, Any]) -> list[Markup]:
    """Validation and loss by epoch; a model without a loss keeps its color in both charts."""
    metric, loss = (
        {MODELS[n][0]: [(h["epoch"], h[key]) for h in run.history if key in h] for n, run in runs.items()}
        for key in (SELECT, "loss/bpr")
    )
    return [
        line_chart(metric, title=f"{SELECT} on validation", x="epoch", y=SELECT, zero=True),
        line_chart(loss, title="BPR loss on training batches", x="epoch", y="loss", zero=True),
    ]


def _best_epochs(runs: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{MODELS[n][0]} epoch {r.best_epoch} of {len(r.history)} in {r.seconds:.1f} s"
        for n, r in runs.items()
        if r.best_epoch
    )


def _settings(
    data: Dataset,
    features: Mapping[str, Any],
    runs: Mapping[str, Any],
    settings: Mapping[str, Any],
    steps: Mapping[str, float],
) -> Table:
    from graphrec.core.environment import environment

    machine = environment()
    rows = [
        (
            "catalog",
            f"{settings['n_items']:,} items, {settings['n_users']:,} users, seed {settings['seed']}",
        ),
        ("split", f"{data.meta.get('split')}"),
        ("dataset fingerprint", data.fingerprint[:16]),
        *(
            (
                f"{f} features",
                f"{extractor_name(t.meta.get('extractor', {}))}, {t.values.shape[1]} numbers an item",
            )
            for f, t in features.items()
        ),
        *((MODELS[n][0], options(r.model.config.model_dump(mode="json"))) for n, r in runs.items()),
        ("training", options({**TRAINING, "epochs": settings["epochs"], "select": SELECT})),
        ("time", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items())),
        ("software", options({"Python": machine["python"], **machine["packages"]})),
        (
            "machine",
            f"{machine['cpus']} cores, {machine['threads']} threads, GPU: {machine['cuda'] or 'none'}",
        ),
    ]
    return Table(["setting", "value"], rows, "What made this page", left=True)


def _command(out: Path, settings: Mapping[str, Any]) -> str:
    where = shlex.quote(out.name if out.is_absolute() else str(out))
    parts = ["graphrec demo", f"--out {where}", *(f"--{k[2:]} {settings[k]}" for k in ("n_items", "n_users"))]
    parts.append(f"--seed {settings['seed']}")
    if settings["epochs"] != EPOCHS:
        parts.append(f"--epochs {settings['epochs']}")
    return " ".join(parts)
