"""Comparison of run directories; runs that differ in the seed alone form a row.

Each run is evaluated once. Its report is stored in ``RUN/reports/`` under a key of everything it depends on:
checkpoint, dataset, features, split, masking, metrics and the code itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GraphrecError,
    MissingDependencyError,
    nearest,
)
from graphrec.core.files import digest
from graphrec.data import Dataset, Interactions
from graphrec.evaluation.metrics import METRICS, metric_names, parse_metric
from graphrec.evaluation.ranking import Beyond, evaluate, warm_cold
from graphrec.evaluation.report import Report
from graphrec.models import model as model_class
from graphrec.models.base import Features, Ranker
from graphrec.models.train_config import TrainConfig
from graphrec.runs.comparison.common import Common
from graphrec.runs.comparison.results import Entry, ModelComparison, compare_reports
from graphrec.runs.record import RunRecord, inputs_of, read_meta, read_record, refuse_final
from graphrec.runs.run import open_run
from graphrec.runs.tuning.study import STUDY, best_trial
from graphrec.training import checkpoint

logger = logging.getLogger("graphrec")
SPLITS = ("test", "valid")
MASKED = ("train", "train+valid", "none")
CUTOFFS = (1, 5, 10, 20, 50)
"""Cut-offs that are measured besides those of the table, for the chart of a metric against k."""
REPORTS = "reports"
"""Folder of a run in which reports are stored."""
PRESENTATION = ("runs/html", "cli")
"""Folders of the package that no number depends on."""
ABOUT = (
    "model", "model_config", "train_config", "dataset", "split", "features", "extractors", "select",
    "environment", "device", "commit",
)  # fmt: skip
"""Keys of a run's record that a comparison shows."""


@dataclass(frozen=True)
class _Run:
    """A finished run; ``weights`` is the checkpoint that is evaluated."""

    path: Path
    meta: Mapping[str, Any]
    facts: RunRecord
    options: Mapping[str, Any]
    """Those that affect results; runs with the same options form a row."""
    seed: int
    weights: Path
    history: Sequence[Mapping[str, float]]


def compare(
    runs: str | Path | Iterable[str | Path] = (),
    *,
    baseline: str | None = None,
    metric: str = "recall@20",
    k: int | Sequence[int] = (10, 20),
    metrics: Iterable[str] = ("recall", "ndcg"),
    split: str = "test",
    masked: str | None = None,
    labels: Mapping[str, Iterable[str | Path]] | None = None,
    common: bool = False,
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> ModelComparison:
    """Evaluates finished runs on the same split and compares the models they trained.

    Runs in which everything but the seed is equal form one row, named after the model and, where that is not
    enough, the options in which the rows differ. Each run is evaluated once; a second call reads that back.

    Args:
        runs: run directories, or directories with run directories one or two levels below (trials of
            ``graphrec tune`` are skipped; name a trial's directory itself).
        baseline: label that the others are tested against; default: the best on ``metric``.
        metric: metric that decides which model is best, and is tested.
        k: cut-offs of the table.
        metrics: of the table, with or without a cut-off.
        split: ``"test"`` or ``"valid"``.
        masked: items that are not recommended to their users again: those of ``"train"``,
            ``"train+valid"`` or ``"none"``; default: ``"train+valid"`` for test, ``"train"`` for valid.
        labels: label -> its runs, for labels of your own; the runs need not be among ``runs``.
        common: compare runs of several versions of a dataset on the users, items and held-out pairs that all
            versions have, paired by external id; without the rows of warm and cold items and the metrics of
            all lists together.
        data: the dataset; default: read from the recorded place.
        features: the feature tables, likewise.
        root: folder of the dataset, if it has been moved.
        store: folder of the feature store, if it has been moved.
        log: called with a line before each evaluation.

    Raises:
        ConfigError: an unknown metric, split, masking or baseline.
        DataError: nothing to compare, or the same seed twice in a row.
        CheckpointError: no run in a directory (names the nearest one), a run that is not finished, runs of
            different datasets or splits without ``common``, or different options under one of ``labels``.
    """
    parse_metric(metric)
    metrics = _as_list(metrics)
    table = metric_names([*metrics, metric], k)
    masked = check_masking(split, masked)
    curves = {f"{parse_metric(name)[0]}@{cut}" for name in table for cut in CUTOFFS}
    names = tuple(sorted({*curves, *table}, key=parse_metric))
    rows = _group_runs(_run_directories(_as_list(runs)), labels or {}, common)
    if baseline is not None and baseline not in rows:
        raise ConfigError(f"baseline {baseline!r} is not one of {list(rows)}.{nearest(baseline, rows)}")
    evaluator = _Evaluator(split, masked, names, data, features, root, store)
    if common:
        evaluator.find_common([run for group in rows.values() for run in group])
    entries: dict[str, list[Entry]] = {}
    for label, group in rows.items():
        for run in group:
            report = evaluator.stored(run)
            if report is None:
                if log is not None:
                    log(f"evaluating {run.path}")
                report = evaluator.evaluate(run)
            entries.setdefault(label, []).append(_entry(run, report))
    return compare_reports(entries, baseline=baseline, metric=metric, k=k, metrics=metrics)


class RunsOfDataset(NamedTuple):
    """The runs of one dataset; both are arguments of :func:`compare`."""

    runs: list[Path]
    labels: dict[str, list[Path]]


def split_by_dataset(
    runs: str | Path | Iterable[str | Path] = (),
    labels: Mapping[str, Iterable[str | Path]] | None = None,
    common: bool = False,
    log: Callable[[str], None] | None = None,
) -> dict[str, RunsOfDataset]:
    """Runs of any datasets, by dataset; runs found in a directory that cannot be compared are left out.

    Args:
        runs: as in :func:`compare`.
        labels: as in :func:`compare`.
        common: all datasets are versions of one, so that the runs stay together.
        log: called with a line for each run that is left out.

    Returns:
        Name of a dataset -> its runs, in the order of the runs; of datasets with one name, the names have the
        beginning of the fingerprints.

    Raises:
        CheckpointError: no run in a directory, or only runs that cannot be compared, or one that was named.
        ConfigError: a run that was named does not rank items.
    """
    parts: dict[tuple[str, str], RunsOfDataset] = {}
    left_out: list[GraphrecError] = []

    def add(given: Iterable[str | Path], label: str | None) -> None:
        given = _as_list(given)
        named = {Path(path).resolve() for path in given}
        for path in _run_directories(given):
            try:
                run = _read(path, common)
                _check_ranks(run)
            except (CheckpointError, ConfigError) as cause:
                if path.resolve() in named:
                    raise
                left_out.append(cause)
                continue
            key = ("versions", "") if common else (run.facts.dataset.name, run.facts.dataset.fingerprint)
            part = parts.setdefault(key, RunsOfDataset([], {}))
            (part.runs if label is None else part.labels.setdefault(label, [])).append(path)

    add(_as_list(runs), None)
    for label, paths in (labels or {}).items():
        add(paths, label)
    if left_out and not parts:
        raise left_out[0]
    if log is not None:
        for cause in left_out:
            log(f"left out: {cause}")
    names = [name for name, _ in parts]
    return {
        name if names.count(name) == 1 else f"{name} {fingerprint[:8]}": part
        for (name, fingerprint), part in parts.items()
    }


def compare_by_dataset(
    parts: Mapping[str, RunsOfDataset],
    *,
    baseline: str | None = None,
    common: bool = False,
    **options: Any,
) -> dict[str, ModelComparison]:
    """A comparison for each dataset.

    Args:
        parts: from :func:`split_by_dataset`.
        baseline: as in :func:`compare`; a dataset without this row has its best one as the baseline.
        common: as in :func:`compare`.
        options: the other arguments of :func:`compare`.

    Raises:
        ConfigError: no dataset has the baseline; and as :func:`compare`.
        DataError: as :func:`compare`.
        CheckpointError: as :func:`compare`.
    """
    rows = {name: list(_group_runs(part.runs, part.labels, common)) for name, part in parts.items()}
    known = list(dict.fromkeys(row for labels in rows.values() for row in labels))
    if baseline is not None and baseline not in known:
        raise ConfigError(f"baseline {baseline!r} is not one of {known}.{nearest(baseline, known)}")
    return {
        name: compare(
            part.runs,
            labels=part.labels,
            baseline=baseline if baseline in rows[name] else None,
            common=common,
            **options,
        )
        for name, part in parts.items()
    }


def studies(runs: str | Path | Iterable[str | Path]) -> dict[Path, Path | None]:
    """The studies of ``graphrec tune`` in directories of runs, whose trials :func:`compare` skips.

    Returns:
        Directory of a study -> the run directory of its best trial; None if no trial is finished.

    Raises:
        CheckpointError: a ``best.json`` is damaged, or names no trial.
    """
    found: dict[Path, Path | None] = {}
    for path in map(Path, _as_list(runs)):
        if not (path / "run.json").exists():
            for file in sorted(
                f for pattern in (STUDY, f"*/{STUDY}", f"*/*/{STUDY}") for f in path.glob(pattern)
            ):
                found[file.parent] = best_trial(file.parent)
    return found


@dataclass
class _Evaluator:
    """Evaluates runs of one dataset, which is read at most once, or on the common part of several, and stores
    their reports.
    """

    split: str
    masked: str
    names: tuple[str, ...]
    data: Dataset | None
    features: Features | None
    root: str | Path | None
    store: str | Path | None
    common: Common | None = None

    def find_common(self, runs: Sequence[_Run]) -> None:
        """Reads the datasets of the runs, and finds what they have in common."""
        datasets: dict[str, Dataset] = {}
        for run in runs:
            if run.facts.dataset.fingerprint not in datasets:
                features = {} if not run.facts.features else self.features
                data, _ = inputs_of(
                    run.path, data=self.data, features=features, root=self.root, store=self.store
                )
                datasets[data.fingerprint] = data
        self.common = Common.create(
            list(datasets.values()), lambda data: held_out_and_masked(data, self.split, self.masked)
        )

    @property
    def has_foreign_metrics(self) -> bool:
        """Whether a metric is of another package, whose code is not in the key."""
        bases = {parse_metric(name)[0] for name in self.names}
        used = [m for m in METRICS.values() if m.name in bases or m.per == "lists"]
        return not all(m.function.__module__.startswith("graphrec.") for m in used)

    def key(self, run: _Run) -> str:
        """Digest of everything the numbers depend on."""
        facts = run.facts
        state = (run.weights / checkpoint.STATE).read_bytes()  # holds the sha256 of the weights
        return digest(
            "comparison", self.split, self.masked, list(self.names), state, facts.model, facts.config,
            facts.dataset.fingerprint, facts.features, _code(),
            *([] if self.common is None else [self.common.fingerprint]),
        )  # fmt: skip

    def file(self, run: _Run) -> Path:
        """File of the stored report."""
        masked = self.masked.replace("+", "-")
        return run.path / REPORTS / f"{self.split}-{masked}-{self.key(run)[:16]}.parquet"

    def stored(self, run: _Run) -> Report | None:
        """The undamaged report of an earlier evaluation under the same key, or None."""
        file = self.file(run)
        if self.has_foreign_metrics or not file.exists():
            return None
        try:
            report = Report.from_parquet(file)
        except (DataError, ValueError) as cause:
            logger.info("%s cannot be used, the run is evaluated again: %s", file, cause)
            return None
        valid = report.meta.get("key") == self.key(run) and report.meta.get("values") == _values(report)
        return report if valid else None

    def evaluate(self, run: _Run) -> Report:
        """Evaluates the run, and stores the report if its directory can be written."""
        _check_ranks(run)
        opened = open_run(run.path, data=self.data, features=self.features, root=self.root, store=self.store)
        data = opened.data
        held_out, seen = held_out_and_masked(data, self.split, self.masked)
        if self.common is not None:
            report = self.common.evaluate(opened.model, data, seen, metrics=self.names, name=run.facts.model)
            return self._store(run, opened.model, report)
        self.data = data
        groups = warm_cold(data.train)
        cold = bool(groups["cold"][held_out.items].any())
        report = evaluate(
            opened.model, held_out, seen=seen, metrics=self.names, item_groups=groups if cold else None,
            within=cold, beyond=Beyond(data.train), name=run.facts.model,
        )  # fmt: skip
        return self._store(run, opened.model, report)

    def _store(self, run: _Run, model: Ranker, report: Report) -> Report:
        """The report with what a comparison shows; stored if the run's directory can be written."""
        facts = {
            "cold_items": getattr(model, "cold_scores", None),
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "masked": self.masked,
            "key": self.key(run),
            "values": _values(report),
        }
        report = replace(report, meta={**facts, **report.meta})
        try:
            report.to_parquet(self.file(run))
        except OSError as cause:
            logger.info("%s: the report cannot be stored: %s", run.path, cause)
        return report


def _as_list(values: str | Path | Iterable[Any]) -> list[Any]:
    return [values] if isinstance(values, (str, Path)) else list(values)


def check_masking(split: str, masked: str | None) -> str:
    """The interactions to mask: those given, or the default of the split.

    Raises:
        ConfigError: an unknown split or masking, or one that masks what is evaluated.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is not one of {list(SPLITS)}.{nearest(split, SPLITS)}")
    masked = masked or ("train+valid" if split == "test" else "train")
    if masked not in MASKED:
        raise ConfigError(f"masked {masked!r} is not one of {list(MASKED)}.{nearest(masked, MASKED)}")
    if split == "valid" and masked == "train+valid":
        raise ConfigError("split valid with train+valid masked leaves nothing to find; mask train")
    return masked


def held_out_and_masked(data: Dataset, split: str, masked: str) -> tuple[Interactions, Interactions | None]:
    """The interactions of a split, and those whose items are not recommended to their users again."""
    seen = {"train": data.train, "train+valid": data.train + data.valid, "none": None}[masked]
    return (data.test if split == "test" else data.valid), seen


def _run_directories(paths: Sequence[str | Path]) -> list[Path]:
    """The run directories in and below some paths, without repeats."""
    runs: list[Path] = []
    for path in map(Path, paths):
        below = [path]
        if not (path / "run.json").exists() and path.is_dir():
            below = [
                file.parent
                for pattern in ("*/run.json", "*/*/run.json")
                for file in sorted(path.glob(pattern))
                if not (file.parent.parent / STUDY).exists()
            ]
            best = [str(trial) for trial in studies(path).values() if trial is not None]
            if not below and best:
                raise DataError(
                    f"{path}: holds only trials of graphrec tune, which stand for no run; name the best: "
                    f"{' '.join(best)}"
                )
            below = below or [path]
        runs += below
    return list({run.resolve(): run for run in runs}.values())


def _group_runs(
    paths: Sequence[Path], labels: Mapping[str, Iterable[str | Path]], common: bool
) -> dict[str, list[_Run]]:
    """Label -> runs by seed; rows of ``labels`` first, then the others in the order of ``paths``."""
    rows = {
        label: [_read(p, common) for p in _run_directories(_as_list(named))]
        for label, named in labels.items()
    }
    labeled = {run.path.resolve() for runs in rows.values() for run in runs}
    if sum(len(runs) for runs in rows.values()) > len(labeled):
        raise DataError(f"a run is under two of the labels {list(rows)}; expected each run once")
    for label, runs in rows.items():
        if not runs:
            raise DataError(f"label {label!r} names no run; expected at least one")
        for other in runs[1:]:
            differs = _differing([runs[0].options, other.options])
            if differs:
                raise CheckpointError(
                    f"label {label!r} puts {runs[0].path} and {other.path} together, which differ in "
                    f"{', '.join(differs)}; expected runs that differ in the seed alone, give them two labels"
                )
    groups: dict[str, list[_Run]] = {}
    for path in paths:
        if path.resolve() not in labeled:
            run = _read(path, common)
            groups.setdefault(json.dumps(run.options, sort_keys=True), []).append(run)
    names = _labels([group[0].options for group in groups.values()])
    for label, runs in zip(names, groups.values(), strict=True):
        if label in rows:
            raise DataError(f"{label!r} is also the name of {runs[0].path}; choose another label")
        rows[label] = runs
    if not rows:
        raise DataError("no runs to compare; expected run directories, or a directory with some")
    if not common:
        _check_same_data([run for group in rows.values() for run in group])
    return {label: _by_seed(label, runs) for label, runs in rows.items()}


def _by_seed(label: str, runs: Sequence[_Run]) -> list[_Run]:
    by_seed: dict[int, _Run] = {}
    for run in runs:
        if run.seed in by_seed:
            raise DataError(
                f"{label}: {by_seed[run.seed].path} and {run.path} are the same training with the same seed, "
                f"{run.seed}; leave one of them out"
            )
        by_seed[run.seed] = run
    return [by_seed[seed] for seed in sorted(by_seed)]


def _labels(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of groups of runs: the model's name, and the options in which groups of that name differ."""
    names = []
    for options in groups:
        alike = [other for other in groups if other["model"] == options["model"]]
        differs = _differing(alike)
        names.append(
            " ".join([options["model"], *(f"{key}={_format_option(options.get(key))}" for key in differs)])
        )
    return names


def _differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for options in groups for key in options)
    return [key for key in keys if any(o.get(key) != groups[0].get(key) for o in groups[1:])]


def _format_option(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _read(path: Path, common: bool) -> _Run:
    """Reads the record and state of a finished run; others are refused. With ``common``, the version of the
    dataset is one of its options, so that runs of two versions are never one row.
    """
    meta, facts = read_meta(path), read_record(path)
    refuse_final(path, meta, "compared")
    again = f"graphrec train {facts.model} ... --out {path} --resume"
    if not checkpoint.exists(path / "last"):
        raise CheckpointError(f"{path}: the run has no checkpoint yet; finish it ({again}) or leave it out")
    last = checkpoint.read(path / "last")
    state = last.get("training", {})
    if not state.get("done"):
        raise CheckpointError(
            f"{path}: its training is not finished, {last['step']} of at most "
            f"{facts.training.get('epochs', '?')} epochs are done; finish it ({again}) or leave it out"
        )
    weights = checkpoint.selected(path) or path / "last"
    seed = int(facts.training.get("seed", facts.config.get("seed", 0)))
    history = state.get("history", [])
    options = _options(facts, meta, seed)
    if common:
        options["dataset"] = f"{facts.dataset.name} {facts.dataset.fingerprint[:8]}"
    return _Run(path, meta, facts, options, seed, weights, history)


def _check_ranks(run: _Run) -> None:
    if not issubclass(model_class(run.facts.model), Ranker):
        raise ConfigError(
            f"{run.path}: {run.facts.model} does not rank items; expected models whose rankings can be "
            f"compared. graphrec evaluate {run.path} compares it with its own baselines"
        )


def _options(facts: RunRecord, meta: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that the runs of a row have in common; an option that is not recorded had its default."""
    try:
        model = model_class(facts.model).Config.result_options(facts.config)
    except (ConfigError, MissingDependencyError):
        model = dict(facts.config)
    training = TrainConfig.result_options(facts.training)
    extractors = meta.get("extractors") or {}
    options: dict[str, Any] = {"model": facts.model, **{k: v for k, v in model.items() if k != "seed"}}
    if facts.config.get("seed", seed) != seed:
        options["model seed"] = facts.config["seed"]
    options |= {f"train.{k}": v for k, v in training.items() if k != "seed"}
    options["select"] = facts.select
    for field, sha256 in facts.features.items():
        named = extractors.get(field)
        name = named.get("name") if isinstance(named, Mapping) else named
        options[field] = f"{name or 'vectors'} {sha256[:8]}"
    return options


def _check_same_data(runs: Sequence[_Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.facts.dataset.fingerprint != first.facts.dataset.fingerprint:
            trainings = [
                f"{r.path} was trained on {r.facts.dataset.name} {r.facts.dataset.fingerprint[:12]}… "
                f"(split {json.dumps(r.meta.get('split'))})"
                for r in (first, run)
            ]
            raise CheckpointError(
                f"{trainings[0]}, {trainings[1]}; expected runs of one dataset and split; two "
                "versions of a dataset are compared on what they have in common with common=True (--common)"
            )


def _entry(run: _Run, report: Report) -> Entry:
    about = {key: run.meta[key] for key in ABOUT if key in run.meta}
    return Entry(
        report,
        run.seed,
        run.history,
        float(sum(h.get("seconds", 0.0) for h in run.history)),
        report.meta.get("n_parameters"),
        {**about, "path": str(run.path)},
    )


def _values(report: Report) -> str:
    """Digest of every number of a report, to detect a damaged file."""
    parts: list[Any] = []
    for label, part in {"": report, **report.groups}.items():
        scalars = np.array([float(v) if v == v else np.nan for _, v in sorted(part.scalars.items())])
        parts += [label, part.users, sorted(part.scalars), scalars]
        for name in sorted(part.metrics):
            parts += [name, part.metrics[name]]
    return digest("report", *parts)


@cache
def _code() -> str:
    """Digest of the package's sources that numbers may depend on."""
    package = Path(__file__).parents[2]
    sources = {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    relevant = sorted(n for n in sources if not n.startswith(tuple(f"{f}/" for f in PRESENTATION)))
    return digest("code", *(part for name in relevant for part in (name, sources[name].read_bytes())))
