"""Comparison of several models, each trained under several seeds.

Three kinds of chance are kept apart. The standard deviation is over training seeds. The bootstrap interval is
over users, of each user's mean over seeds. The test is paired over users, on the same means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.text_table import Format, emphasize, escape, render
from graphrec.evaluation.metrics import direction, metric_names, parse_metric
from graphrec.evaluation.report import Comparison, Comparisons, Report, comparable, compare_all, corrected

SEEDS = 5
"""Trainings of each model that a comparison should have; its notes name models with fewer."""
ALPHA = 0.05
"""Corrected p below which a difference is not called chance."""
TEST = "two-sided permutation test with 10,000 random signs"


@dataclass(frozen=True, eq=False)
class Entry:
    """One training and the report of its evaluation.

    Attributes:
        report: of the evaluation; groups of warm and cold items and scalars are shown if it holds them.
        seed: of the training; None if unknown.
        history: one dict per epoch, as :attr:`graphrec.Run.history`; empty where there is none.
        seconds: of training, validation included; None if unknown, 0 if nothing is trained.
        n_parameters: number of trained parameters; None if unknown.
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
    """One row of a comparison: a model with all its seeds.

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

    def group_report(self, group: str = "") -> Report | None:
        """The seed means over one group (``"items/cold"``), or over all users; None without such a group."""
        return self.report if not group else self.report.groups.get(group)

    def values(self, name: str, group: str = "") -> np.ndarray:
        """The mean over users under each seed ``(n_seeds,) float64``; NaN where it has no such metric."""
        reports = (e.report if not group else e.report.groups.get(group) for e in self.entries)
        return np.array([np.nan if r is None else r.mean().get(name, np.nan) for r in reports])

    def mean(self, name: str, group: str = "") -> float:
        """Mean over seeds; NaN where one of them has no such metric."""
        return float(self.values(name, group).mean())

    def sd(self, name: str, group: str = "") -> float | None:
        """Standard deviation over seeds (divided by n - 1); None for a single seed."""
        return float(self.values(name, group).std(ddof=1)) if len(self.entries) > 1 else None

    def interval(self, name: str, group: str = "") -> tuple[float, float] | None:
        """95 % bootstrap interval over users of the mean over seeds; None for scalars and without users."""
        if (name, group) not in self._intervals:
            report = self.group_report(group)
            defined = report is not None and name in report.metrics and len(report)
            self._intervals[name, group] = report.interval(name) if report and defined else None
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
        metric: full name of the metric that decides which model is best, and is tested.
        names: full names of the metrics of the table.
        baseline: label the others are tested against.
        default_baseline: whether the baseline is the best model because none was named.
        comparisons: every other model against the baseline; empty for one model.
        against_best: every other model against the best on ``metric``; the same where that is the baseline.
            Holm's correction is over the tests of both together, :attr:`n_tests`.
    """

    results: Mapping[str, Result]
    metric: str
    names: tuple[str, ...]
    baseline: str
    default_baseline: bool
    comparisons: Comparisons
    against_best: Comparisons

    def __str__(self) -> str:
        tests = [str(self.comparisons)] if self.comparisons else []
        return "\n\n".join([self.table(), *tests])

    def _repr_html_(self) -> str:
        """For notebooks: the table, and the tests where there are several models."""
        tests = [self.comparisons.table("html")] if self.comparisons else []
        return "\n".join([self.table("html"), *tests])

    @property
    def first(self) -> Result:
        """The first row; its report's users and meta are those of all rows."""
        return next(iter(self.results.values()))

    @property
    def ranking(self) -> list[str]:
        """Labels, best first on ``metric``; equal ones in the order of the table."""
        sign = direction(self.metric)
        return sorted(self.results, key=lambda label: -sign * self.results[label].mean(self.metric))

    def best_first(self) -> ModelComparison:
        """The same comparison with its rows in the order of :attr:`ranking`."""
        places = {label: place for place, label in enumerate(self.ranking)}
        tests = Comparisons(sorted(self.comparisons, key=lambda c: places[c.model]))
        return replace(
            self,
            results={label: self.results[label] for label in places},
            comparisons=tests,
            against_best=tests if self.against_best is self.comparisons else self.against_best,
        )

    @property
    def n_tests(self) -> int:
        """Number of tests that p is corrected for: the best model and the baseline are tested once."""
        n = len(self.comparisons)
        return n if self.against_best is self.comparisons else 2 * n - 1

    @property
    def leaders(self) -> list[str]:
        """The best model, and those that its lead over is not significant (corrected p), best first."""
        behind = {c.model for c in self.against_best if c.p_holm is not None and c.p_holm < ALPHA}
        return [label for label in self.ranking if label not in behind]

    def comparison(self, label: str) -> Comparison | None:
        """The comparison of one model with the baseline; None for the baseline itself."""
        return next((c for c in self.comparisons if c.model == label), None)

    def seed_wins(self, label: str) -> tuple[int, int]:
        """In how many pairs of a seed of this model and one of the baseline this model is better, and of how
        many pairs.
        """
        sign = direction(self.metric)
        values, baseline = (sign * self.results[x].values(self.metric) for x in (label, self.baseline))
        return int((values[:, None] > baseline[None, :]).sum()), len(values) * len(baseline)

    def rank(self, label: str, name: str, group: str = "") -> int:
        """0 for the best model on a metric, 1 for the second, and so on; equal models share a rank.

        Where higher is better, a mean of 0 is never among the first two.
        """
        sign = direction(name)
        means = {round(sign * r.mean(name, group), 12) for r in self.results.values()}
        mean = round(sign * self.results[label].mean(name, group), 12)
        return sum(other > mean for other in means) if mean > 0 or sign < 0 else max(2, len(means))

    def table(self, form: Format = "plain", *, intervals: bool = True) -> str:
        """Models as rows: mean ± standard deviation over seeds of each metric, best bold, second best marked.

        Args:
            form: ``"plain"`` (best ``**``, second ``*``), ``"markdown"``, ``"html"`` or ``"latex"`` (needs
                booktabs).
            intervals: add a column with the interval of ``metric`` over users.
        """
        return render(*self.cells(form, intervals=intervals), form)

    def cells(self, form: Format = "plain", *, intervals: bool = True) -> tuple[list[str], list[list[str]]]:
        """Header and rows of :meth:`table`; the cells of the rows are escaped for the form."""
        heads = ["model", "seeds"]
        rows = [[escape(label, form), str(len(r.entries))] for label, r in self.results.items()]
        for name in self.names:
            heads.append(name)
            for row, (label, result) in zip(rows, self.results.items(), strict=True):
                text = escape(mean_and_sd(result.mean(name), result.sd(name)), form)
                row.append(emphasize(text, self.rank(label, name), form))
            if intervals and name == self.metric:
                heads.append(f"95% interval of {name}")
                for row, result in zip(rows, self.results.values(), strict=True):
                    interval = result.interval(name)
                    row.append("-" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]")
        return heads, rows


def compare_reports(
    entries: Mapping[str, Sequence[Entry]],
    *,
    baseline: str | None = None,
    metric: str = "recall@20",
    k: int | Sequence[int] = (10, 20),
    metrics: Iterable[str] = ("recall", "ndcg"),
) -> ModelComparison:
    """Compares models by reports of evaluations.

    Args:
        entries: label -> its trainings, one a seed, all evaluated on the same users.
        baseline: label that the others are tested against; default: the best on ``metric``.
        metric: decides which model is best, and is tested.
        k: cut-offs of the table.
        metrics: of the table, with or without a cut-off; ``metric`` is added if it is not among them.

    Raises:
        ConfigError: an unknown metric or baseline, or one that a report does not hold.
        DataError: nothing to compare, the same seed twice under a label, or reports over other users,
            held-out pairs, masking or candidates; names both.
    """
    parse_metric(metric)
    names = tuple(dict.fromkeys([*metric_names(metrics, k), metric]))
    if not entries or not all(entries.values()):
        empty = [label for label, trainings in entries.items() if not trainings]
        raise DataError(
            f"nothing to compare{f' under {empty[0]!r}' if empty else ''};"
            " expected at least one report a label"
        )
    if baseline is not None and baseline not in entries:
        raise ConfigError(f"baseline {baseline!r} is not one of {list(entries)}.{nearest(baseline, entries)}")
    first: Report | None = None
    for label, trainings in entries.items():
        _check_seeds(label, [e.seed for e in trainings])
        for entry in trainings:
            named = _with_name(label, entry)
            first = first or named
            comparable(first, named)
            for name in names:
                if name not in named.metrics:
                    known = list(named.metrics)
                    raise ConfigError(f"{named.name} holds {known}, not {name}; evaluate it on {name} too")
    results = {
        label: Result(label, tuple(trainings), _over_seeds(label, trainings))
        for label, trainings in entries.items()
    }
    sign = direction(metric)
    best = max(results, key=lambda label: sign * results[label].mean(metric))
    reports = {label: r.report for label, r in results.items()}
    against = baseline if baseline is not None else best
    tests = _tests(reports, metric, against, best) if len(results) > 1 else (Comparisons(),) * 2
    return ModelComparison(results, metric, names, against, baseline is None, *tests)


def _tests(
    reports: Mapping[str, Report], metric: str, baseline: str, best: str
) -> tuple[Comparisons, Comparisons]:
    """All models against the baseline and against the best, corrected together.

    The best against the baseline is one test, whichever of the two comes first.
    """
    with_baseline = compare_all(reports, metric, baseline=baseline)
    if best == baseline:
        return with_baseline, with_baseline
    with_best = compare_all(reports, metric, baseline=best)
    family = corrected([*with_baseline, *(c for c in with_best if c.model != baseline)])
    p_holm = {frozenset((c.model, c.baseline)): c.p_holm for c in family}
    first, second = (
        Comparisons(replace(c, p_holm=p_holm[frozenset((c.model, c.baseline))]) for c in several)
        for several in (with_baseline, with_best)
    )
    return first, second


def mean_and_sd(mean: float, sd: float | None, digits: int = 4) -> str:
    """``0.0912 ± 0.0008``, without ± for a single seed; ``-`` if the mean is not finite."""
    if not math.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def _with_name(label: str, entry: Entry) -> Report:
    """The report with label and seed as its name, for messages."""
    name = label if entry.seed is None else f"{label} (seed {entry.seed})"
    return replace(entry.report, meta={**entry.report.meta, "model": name})


def _check_seeds(label: str, seeds: Sequence[int | None]) -> None:
    twice = next((s for i, s in enumerate(seeds) if s is not None and s in seeds[:i]), None)
    if twice is not None:
        raise DataError(
            f"{label}: seed {twice} occurs twice; expected each seed once, leave one of the two out"
        )


def _over_seeds(label: str, entries: Sequence[Entry]) -> Report:
    reports = [_with_name(label, e) for e in entries]
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
