"""Reports of several models, each trained under several seeds, brought together.

Three kinds of chance are kept apart. The standard deviation is over training seeds. The bootstrap interval is
over users, of each user's mean over seeds. The test is paired over users, on the same means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.text_table import Format, emphasize, escape, render
from graphrec.evaluation.metrics import metric_names, parse_metric
from graphrec.evaluation.report import Comparison, Comparisons, Report, comparable, compare_all

SEEDS = 5
"""Trainings of each model that a comparison should rest on; with fewer it says so."""
ALPHA = 0.05
TEST = "two-sided permutation test with 10,000 random signs"


@dataclass(frozen=True, eq=False)
class Entry:
    """One training with what evaluating it gave.

    Attributes:
        report: of the evaluation; groups of warm and cold items and scalars are used where there are any.
        seed: of the training; None where none is known.
        history: one dict per epoch, as :attr:`graphrec.Run.history`; empty where there is none.
        seconds: of training, validation included; None where unknown, 0 where nothing is trained.
        n_parameters: how many numbers are learned; None where unknown.
        about: JSON-able facts for the report, named as in ``run.json``: ``model``, ``model_config``,
            ``train_config``, ``dataset``, ``split``, ``features``, ``extractors``, ``select``,
            ``environment``, ``device``; and ``path``. All may be missing.
    """

    report: Report
    seed: int | None = None
    history: Sequence[Mapping[str, float]] = ()
    seconds: float | None = None
    n_parameters: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """One row: a model with all its seeds.

    Attributes:
        label: its name.
        entries: one a seed.
        report: each user's mean over the seeds, with the groups that all seeds have, and mean scalars.
    """

    label: str
    entries: tuple[Entry, ...]
    report: Report

    @property
    def seeds(self) -> list[int | None]:
        """Seed of each entry."""
        return [entry.seed for entry in self.entries]

    @property
    def cold_items(self) -> str | None:
        """How items without train interactions were scored: from content or as trained; None if unknown."""
        return self.entries[0].report.meta.get("cold_items")

    def part(self, group: str = "") -> Report | None:
        """The seed means over one group (``"items/cold"``), or over all users; None if there is no such."""
        return self.report if not group else self.report.groups.get(group)

    def values(self, name: str, group: str = "") -> np.ndarray:
        """The mean over users under each seed ``(n_seeds,) float64``; NaN where it has no such metric."""
        parts = (e.report if not group else e.report.groups.get(group) for e in self.entries)
        return np.array([np.nan if p is None else p.mean().get(name, np.nan) for p in parts])

    def mean(self, name: str, group: str = "") -> float:
        """Mean over seeds; NaN where one of them has no such metric."""
        return float(self.values(name, group).mean())

    def sd(self, name: str, group: str = "") -> float | None:
        """Standard deviation over seeds (divided by n - 1); None of a single seed."""
        return float(self.values(name, group).std(ddof=1)) if len(self.entries) > 1 else None

    def interval(self, name: str, group: str = "") -> tuple[float, float] | None:
        """95 % bootstrap interval over users of the mean over seeds; None for scalars and without users."""
        if (name, group) not in self._intervals:
            part = self.part(group)
            known = part is not None and name in part.metrics and len(part) > 0
            self._intervals[name, group] = part.interval(name) if part is not None and known else None
        return self._intervals[name, group]

    def seconds(self) -> np.ndarray:
        """Training time of each seed ``(n_seeds,)``; NaN where unknown."""
        return np.array([np.nan if e.seconds is None else e.seconds for e in self.entries])

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], tuple[float, float] | None]:
        return {}


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Several models over the same users; made by :func:`graphrec.compare` or :func:`compare_reports`.

    Attributes:
        results: label -> result, in the order of the table.
        metric: what decides which one is best, and what is tested.
        names: metrics of the table.
        baseline: label the others are tested against.
        chosen: whether the baseline is the best model because none was named.
        comparisons: every other model against the baseline, with Holm's correction; empty for one model.
    """

    results: Mapping[str, Result]
    metric: str
    names: tuple[str, ...]
    baseline: str
    chosen: bool
    comparisons: Comparisons

    def __str__(self) -> str:
        parts = [self.answer, self.table(), str(self.comparisons) if self.comparisons else "", *self.notes]
        return "\n\n".join(part for part in parts if part)

    @property
    def ranking(self) -> list[str]:
        """Labels, best first on ``metric``; equal ones in the order of the table."""
        return sorted(self.results, key=lambda label: -self.results[label].mean(self.metric))

    @property
    def answer(self) -> str:
        """What came out, in a sentence or two."""
        from graphrec.runs.comparison.words import answer

        return answer(self)

    @property
    def notes(self) -> list[str]:
        """What the numbers mean and where to be careful, a sentence or two each."""
        from graphrec.runs.comparison.words import notes

        return notes(self)

    def comparison(self, label: str) -> Comparison | None:
        """The comparison of one model with the baseline; None for the baseline itself."""
        return next((c for c in self.comparisons if c.model == label), None)

    def ahead(self, label: str) -> tuple[int, int]:
        """In how many of all pairs of a seed of this model and one of the baseline the model is ahead."""
        own, other = (self.results[x].values(self.metric) for x in (label, self.baseline))
        return int((own[:, None] > other[None, :]).sum()), len(own) * len(other)

    def place(self, label: str, name: str, group: str = "") -> int:
        """0 for the best model on a metric, 1 for the second, and so on; equal ones share a place.

        A mean of 0 has no place among the first two.
        """
        means = {round(r.mean(name, group), 12) for r in self.results.values()}
        own = round(self.results[label].mean(name, group), 12)
        return sum(other > own for other in means) if own > 0 else max(2, len(means))

    def table(self, form: Format = "plain", *, intervals: bool = True) -> str:
        """Models as rows: mean ± standard deviation over seeds of each metric, best bold, second best marked.

        Args:
            form: ``"plain"`` (best ``**``, second ``*``), ``"markdown"`` or ``"latex"`` (needs booktabs).
            intervals: with a column for the interval of ``metric`` over users.
        """
        return render(*self.cells(form, intervals=intervals), form)

    def cells(self, form: Format = "plain", *, intervals: bool = True) -> tuple[list[str], list[list[str]]]:
        """Header and rows of :meth:`table`; the cells of the rows are escaped for the form."""
        heads = ["model", "seeds"]
        rows = [[escape(label, form), str(len(r.entries))] for label, r in self.results.items()]
        for name in self.names:
            heads.append(name)
            for row, (label, result) in zip(rows, self.results.items(), strict=True):
                text = escape(spread(result.mean(name), result.sd(name)), form)
                row.append(emphasize(text, self.place(label, name), form))
            if intervals and name == self.metric:
                heads.append(f"95% interval of {name}")
                for row, result in zip(rows, self.results.values(), strict=True):
                    found = result.interval(name)
                    row.append("-" if found is None else f"[{found[0]:.4f}, {found[1]:.4f}]")
        return heads, rows

    def summary(self) -> dict[str, Any]:
        """Everything but the values of single users, JSON-able; what is undefined is None."""
        from graphrec.runs.comparison.tidy import summary

        return summary(self)

    def to_parquet(self, path: str | Path, per: Literal["seed", "user"] = "seed") -> Path:
        """Writes the numbers as Parquet, one a row, and :meth:`summary` into the schema's metadata.

        Args:
            path: the file.
            per: ``"seed"``: columns ``label``, ``seed``, ``group`` (empty for all users), ``metric``,
                ``kind``, ``value`` and ``n_users``; ``kind`` is ``"value"`` for one seed, and ``"mean"``,
                ``"sd"``, ``"low"`` or ``"high"`` over seeds, with ``seed`` null. ``"user"``: columns
                ``label``, ``group``, ``user`` and one per metric, each user's mean over seeds.

        Raises:
            ConfigError: no such ``per``.
        """
        from graphrec.runs.comparison.tidy import write

        return write(self, Path(path), per)

    def to_html(self, path: str | Path, *, title: str | None = None, command: str | None = None) -> Path:
        """Writes a report as one HTML file that needs nothing else, for somebody who knows none of this.

        Args:
            path: the file.
            title: headline; default: from the dataset.
            command: shown as the way to make the page again.
        """
        from graphrec.core.files import write_text
        from graphrec.runs.comparison.page import page_of

        write_text(path, page_of(self, title, command))
        return Path(path)


def compare_reports(
    entries: Mapping[str, Sequence[Entry]],
    *,
    baseline: str | None = None,
    metric: str = "recall@20",
    k: int | Sequence[int] = (10, 20),
    metrics: Iterable[str] = ("recall", "ndcg"),
) -> ModelComparison:
    """Compares models whose evaluations are there already.

    Args:
        entries: label -> its trainings, one a seed, all evaluated on the same users.
        baseline: label that the others are tested against; default: the best on ``metric``.
        metric: decides which model is best, and is tested.
        k: cut-offs of the table.
        metrics: of the table, with or without a cut-off; ``metric`` joins them if it is not among them.

    Raises:
        ConfigError: an unknown metric or baseline, or one that a report does not hold.
        DataError: nothing to compare, the same seed twice under a label, or reports over other users,
            held-out pairs, masking or candidates; names both.
    """
    parse_metric(metric)
    names = tuple(dict.fromkeys([*metric_names(metrics, k), metric]))
    if not entries or not all(entries.values()):
        empty = [label for label, found in entries.items() if not found]
        raise DataError(f"nothing to compare{f' under {empty[0]!r}' if empty else ''}; expected reports")
    if baseline is not None and baseline not in entries:
        raise ConfigError(f"baseline {baseline!r} is not one of {list(entries)}.{nearest(baseline, entries)}")
    first: Report | None = None
    for label, found in entries.items():
        _distinct(label, [e.seed for e in found])
        for entry in found:
            named = _named(label, entry)
            first = first or named
            comparable(first, named)
            for name in names:
                if name not in named.metrics:
                    known = list(named.metrics)
                    raise ConfigError(f"{named.name} was not evaluated on {name}, but on {known}")
    results = {
        label: Result(label, tuple(found), _over_seeds(label, found)) for label, found in entries.items()
    }
    best = max(results, key=lambda label: results[label].mean(metric))
    reports = {label: r.report for label, r in results.items()}
    against = baseline if baseline is not None else best
    made = compare_all(reports, metric, baseline=against) if len(results) > 1 else Comparisons()
    return ModelComparison(results, metric, names, against, baseline is None, made)


def spread(mean: float, sd: float | None, digits: int = 4) -> str:
    """``0.0912 ± 0.0008``, without ± for a single seed; ``-`` where it is undefined."""
    if not math.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def _named(label: str, entry: Entry) -> Report:
    """The report under a name that tells which one it is."""
    name = label if entry.seed is None else f"{label} (seed {entry.seed})"
    return replace(entry.report, meta={**entry.report.meta, "model": name})


def _distinct(label: str, seeds: Sequence[int | None]) -> None:
    twice = next((s for i, s in enumerate(seeds) if s is not None and s in seeds[:i]), None)
    if twice is not None:
        raise DataError(f"{label}: seed {twice} stands there twice; expected each seed once, leave one out")


def _over_seeds(label: str, entries: Sequence[Entry]) -> Report:
    reports = [_named(label, e) for e in entries]
    shared = [g for g in reports[0].groups if all(g in r.groups for r in reports)]
    for group in shared:
        for other in reports[1:]:
            comparable(reports[0].groups[group], other.groups[group])
    groups = {g: _average(label, [r.groups[g] for r in reports]) for g in shared}
    return replace(_average(label, reports), groups=groups)


def _average(label: str, reports: Sequence[Report]) -> Report:
    first = reports[0]
    names = [n for n in first.metrics if all(n in r.metrics for r in reports)]
    metrics = {n: np.mean([r[n] for r in reports], axis=0) for n in names}
    means = {n: float(np.mean([r.scalars.get(n, np.nan) for r in reports])) for n in first.scalars}
    return Report(first.users, metrics, means, meta={**first.meta, "model": label})
