"""From run directories to a comparison; runs that differ in the seed alone form a row.

The test split is looked at once a run. What came out is kept in ``RUN/reports/`` under a key of everything it
rests on: checkpoint, dataset, features, split, masking, metrics and the code itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import CheckpointError, ConfigError, DataError, MissingDependencyError, nearest
from graphrec.core.files import digest
from graphrec.data import Dataset
from graphrec.evaluation.metrics import metric_names, parse_metric
from graphrec.evaluation.ranking import Beyond, evaluate, warm_cold
from graphrec.evaluation.report import Report
from graphrec.models import model as model_class
from graphrec.models.base import Features, Ranker
from graphrec.models.train_config import TrainConfig
from graphrec.runs.comparison.results import Entry, ModelComparison, compare_reports
from graphrec.runs.record import RunRecord, read_meta, read_record
from graphrec.runs.run import open_run
from graphrec.training import checkpoint

logger = logging.getLogger("graphrec")
SPLITS = ("test", "valid")
MASKED = ("train", "train+valid", "none")
CURVE = (1, 5, 10, 20, 50)
"""Cut-offs that are measured besides those of the table, for the chart of a metric against k."""
REPORTS = "reports"
STUDY = "study.json"  # in a directory of trials
_QUIET = ("html", "commands", "demo")  # parts of the package that no number comes from


@dataclass(frozen=True)
class _Run:
    """A run that is finished.

    Attributes:
        path: its directory.
        meta: what ``run.json`` records.
        facts: the part of it that is relied on.
        options: what tells it apart from other runs: option -> value, without the seed.
        seed: of the training.
        weights: the checkpoint that is evaluated.
        history: one dict per epoch.
    """

    path: Path
    meta: Mapping[str, Any]
    facts: RunRecord
    options: Mapping[str, Any]
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
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> ModelComparison:
    """Evaluates finished runs on the same split and compares the models they trained.

    Runs in which everything but the seed is equal form one row, named after the model and, where that is not
    enough, the options in which the rows differ. Each run is evaluated once; a second call reads that back.

    Args:
        runs: run directories, or directories that hold some (one or two levels deep; studies of
            ``graphrec tune`` are passed over, name a trial's directory itself).
        baseline: label that the others are tested against; default: the best on ``metric``.
        metric: decides which model is best, and is tested.
        k: cut-offs of the table.
        metrics: of the table, with or without a cut-off.
        split: ``"test"`` or ``"valid"``.
        masked: what is not recommended again: ``"train"``, ``"train+valid"`` or ``"none"``; default:
            ``"train+valid"`` for test, ``"train"`` for valid.
        labels: label -> its runs, for names of one's own; they need not be among ``runs``.
        data: the dataset, if it is at hand; default: read again from where it was.
        features: the tables, likewise.
        root: where the dataset is now, if it has been moved.
        store: where the feature store is now, if it has been moved.
        say: called with a line before each evaluation.

    Raises:
        ConfigError: an unknown metric, split, masking or baseline.
        DataError: nothing to compare, or the same seed twice in a row.
        CheckpointError: no run there (the nearest one is named), one that is not finished, runs of different
            datasets or splits, or different options under one of ``labels``.
    """
    parse_metric(metric)
    metrics = _listed(metrics)
    table = metric_names([*metrics, metric], k)
    masked = _choose(split, masked)
    measured = {f"{parse_metric(name)[0]}@{cut}" for name in table for cut in CURVE}
    names = tuple(sorted({*measured, *table}, key=parse_metric))
    rows = _rows(_found(_listed(runs)), labels or {})
    if baseline is not None and baseline not in rows:
        raise ConfigError(f"baseline {baseline!r} is not one of {list(rows)}.{nearest(baseline, rows)}")
    opened = _Opened(split, masked, names, data, features, root, store)
    entries: dict[str, list[Entry]] = {}
    for label, found in rows.items():
        for run in found:
            report = opened.kept(run)
            if report is None:
                if say is not None:
                    say(f"evaluating {run.path}")
                report = opened.measured(run)
            entries.setdefault(label, []).append(_entry(run, report))
    return compare_reports(entries, baseline=baseline, metric=metric, k=k, metrics=metrics)


class _Opened:
    """Evaluates runs of one dataset, which is read at most once, and keeps what came out."""

    def __init__(
        self,
        split: str,
        masked: str,
        names: tuple[str, ...],
        data: Dataset | None,
        features: Features | None,
        root: str | Path | None,
        store: str | Path | None,
    ) -> None:
        self.split, self.masked, self.names = split, masked, names
        self.data, self.features, self.root, self.store = data, features, root, store

    def key(self, run: _Run) -> str:
        """Digest of everything the numbers rest on."""
        facts = run.facts
        state = (run.weights / checkpoint.STATE).read_bytes()  # holds the sha256 of the weights
        return digest(
            "comparison", self.split, self.masked, list(self.names), state, facts.model, facts.config,
            facts.dataset.fingerprint, facts.features, _code(),
        )  # fmt: skip

    def file(self, run: _Run) -> Path:
        """Where the report is kept."""
        masked = self.masked.replace("+", "-")
        return run.path / REPORTS / f"{self.split}-{masked}-{self.key(run)[:16]}.parquet"

    def kept(self, run: _Run) -> Report | None:
        """The report of an earlier evaluation of exactly this, if it is there and whole."""
        file = self.file(run)
        if not file.exists():
            return None
        try:
            report = Report.from_parquet(file)
        except (DataError, ValueError) as cause:
            logger.info("%s cannot be used and is made again: %s", file, cause)
            return None
        whole = report.meta.get("key") == self.key(run) and report.meta.get("values") == _values(report)
        return report if whole else None

    def measured(self, run: _Run) -> Report:
        """Evaluates the run, and keeps the report where its directory can be written."""
        opened = open_run(run.path, data=self.data, features=self.features, root=self.root, store=self.store)
        if not isinstance(opened.model, Ranker):
            raise ConfigError(
                f"{run.path}: {run.facts.model} does not rank items, and rankings are what is compared; "
                f"graphrec evaluate {run.path} shows it beside the rules it has to beat"
            )
        self.data = data = opened.data
        held_out = data.test if self.split == "test" else data.valid
        seen = {"train": data.train, "train+valid": data.train + data.valid, "none": None}[self.masked]
        groups = warm_cold(data.train)
        cold = bool(groups["cold"][held_out.items].any())
        report = evaluate(
            opened.model, held_out, seen=seen, metrics=self.names, item_groups=groups if cold else None,
            within=cold, beyond=Beyond(data.train), name=run.facts.model,
        )  # fmt: skip
        facts = {
            "cold_items": getattr(opened.model, "cold_scores", None),
            "n_parameters": sum(p.numel() for p in opened.model.parameters()),
            "masked": self.masked,
            "key": self.key(run),
            "values": _values(report),
        }
        report = replace(report, meta={**facts, **report.meta})
        try:
            report.to_parquet(self.file(run))
        except OSError as cause:
            logger.info("%s: the evaluation is not kept: %s", run.path, cause)
        return report


def _listed(values: str | Path | Iterable[Any]) -> list[Any]:
    return [values] if isinstance(values, (str, Path)) else list(values)


def _choose(split: str, masked: str | None) -> str:
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is not one of {list(SPLITS)}.{nearest(split, SPLITS)}")
    masked = masked or ("train+valid" if split == "test" else "train")
    if masked not in MASKED:
        raise ConfigError(f"masked {masked!r} is not one of {list(MASKED)}.{nearest(masked, MASKED)}")
    if split == "valid" and masked == "train+valid":
        raise ConfigError("split valid with train+valid masked would hide what is looked for; mask train")
    return masked


def _found(paths: Sequence[str | Path]) -> list[Path]:
    """The run directories among or below some paths, without repeats."""
    runs: list[Path] = []
    for path in map(Path, paths):
        below = [path]
        if not (path / "run.json").exists() and path.is_dir():
            below = [
                file.parent
                for pattern in ("*/run.json", "*/*/run.json")
                for file in sorted(path.glob(pattern))
                if not (file.parent.parent / STUDY).exists()
            ] or below
        runs += below
    return list({run.resolve(): run for run in runs}.values())


def _rows(paths: Sequence[Path], labels: Mapping[str, Iterable[str | Path]]) -> dict[str, list[_Run]]:
    """Label -> runs by seed; labels of one's own where they are, then the order in which runs are named."""
    own = {label: [_read(path) for path in _found(_listed(found))] for label, found in labels.items()}
    taken = {run.path.resolve(): label for label, found in own.items() for run in found}
    if sum(len(found) for found in own.values()) > len(taken):
        raise DataError(f"a run stands under two of the labels {list(own)}; expected each run once")
    for label, found in own.items():
        if not found:
            raise DataError(f"label {label!r} names no run; expected at least one")
        for other in found[1:]:
            differs = _differing([found[0].options, other.options])
            if differs:
                raise CheckpointError(
                    f"label {label!r} puts {found[0].path} and {other.path} together, which differ in "
                    f"{', '.join(differs)}; expected runs that differ in the seed alone, give them two labels"
                )
    groups: dict[str, list[_Run]] = {}
    for path in paths:
        if path.resolve() not in taken:
            run = _read(path)
            groups.setdefault(json.dumps(run.options, sort_keys=True), []).append(run)
    rows = {**own}
    for label, found in zip(_named([g[0].options for g in groups.values()]), groups.values(), strict=True):
        if label in rows:
            raise DataError(f"{label!r} is also what {found[0].path} is called; choose another label")
        rows[label] = found
    if not rows:
        raise DataError("no runs to compare; expected run directories, or a directory that holds some")
    _same_data([run for found in rows.values() for run in found])
    return {label: _by_seed(label, found) for label, found in rows.items()}


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


def _named(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The model's name, and the options in which it differs from others of that name."""
    names = []
    for options in groups:
        alike = [other for other in groups if other["model"] == options["model"]]
        differs = _differing(alike)
        names.append(" ".join([options["model"], *(f"{key}={_shown(options.get(key))}" for key in differs)]))
    return names


def _differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for options in groups for key in options)
    return [key for key in keys if any(o.get(key) != groups[0].get(key) for o in groups[1:])]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _read(path: Path) -> _Run:
    """A run's record and state.

    Raises:
        CheckpointError: no run there, a damaged one, or one that is not finished.
    """
    meta, facts = read_meta(path), read_record(path)
    again = f"graphrec train {facts.model} ... --out {path} --resume"
    if not checkpoint.exists(path / "last"):
        raise CheckpointError(f"{path}: holds no checkpoint yet; finish it ({again}) or leave it out")
    last = checkpoint.read(path / "last")
    state = last.get("training", {})
    if not state.get("done"):
        raise CheckpointError(
            f"{path}: its training is not finished, {last['step']} of at most "
            f"{facts.training.get('epochs', '?')} epochs are done; finish it ({again}) or leave it out"
        )
    weights = next(path / part for part in ("best", "last") if checkpoint.exists(path / part))
    seed = int(facts.training.get("seed", facts.config.get("seed", 0)))
    history = state.get("history", [])
    return _Run(path, meta, facts, _options(facts, meta, seed), seed, weights, history)


def _options(facts: RunRecord, meta: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that two runs of a row have in common. An option that was unknown then had its default."""
    try:
        model = model_class(facts.model).Config.result_options(facts.config)
    except (ConfigError, MissingDependencyError):
        model = dict(facts.config)
    training = TrainConfig.result_options(facts.training)
    model.pop("seed", None)
    training.pop("seed")
    extractors = meta.get("extractors") or {}
    options: dict[str, Any] = {"model": facts.model, **model}
    if facts.config.get("seed", seed) != seed:
        options["model seed"] = facts.config["seed"]
    options |= {f"train.{k}": v for k, v in training.items()}
    options["select"] = facts.select
    for field, sha256 in facts.features.items():
        named = extractors.get(field)
        name = named.get("name") if isinstance(named, Mapping) else named
        options[field] = f"{name or 'vectors'} {sha256[:8]}"
    return options


def _same_data(runs: Sequence[_Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.facts.dataset.fingerprint != first.facts.dataset.fingerprint:
            told = [
                f"{r.path} was trained on {r.facts.dataset.name} {r.facts.dataset.fingerprint[:12]}… "
                f"(split {json.dumps(r.meta.get('split'))})"
                for r in (first, run)
            ]
            raise CheckpointError(
                f"{told[0]}, {told[1]}: other ids or another split; compare runs of one dataset and split"
            )


def _entry(run: _Run, report: Report) -> Entry:
    told = (
        "model", "model_config", "train_config", "dataset", "split", "features", "extractors", "select",
        "environment", "device", "commit",
    )  # fmt: skip
    about = {key: run.meta[key] for key in told if key in run.meta}
    return Entry(
        report,
        run.seed,
        run.history,
        float(sum(h.get("seconds", 0.0) for h in run.history)),
        report.meta.get("n_parameters"),
        {**about, "path": str(run.path)},
    )


def _values(report: Report) -> str:
    """Digest of every number of a report, by which a damaged file is noticed."""
    parts: list[Any] = []
    for label, part in {"": report, **report.groups}.items():
        scalars = np.array([float(v) if v == v else np.nan for _, v in sorted(part.scalars.items())])
        parts += [label, part.users, sorted(part.scalars), scalars]
        for name in sorted(part.metrics):
            parts += [name, part.metrics[name]]
    return digest("report", *parts)


@cache
def _code() -> str:
    """Digest of the package's sources, but for what only shows numbers."""
    folder = Path(__file__).parent.parent
    files = sorted(folder.rglob("*.py"))
    counted = [f for f in files if f.relative_to(folder).parts[0] not in _QUIET]
    return digest("code", *(part for f in counted for part in (str(f.relative_to(folder)), f.read_bytes())))
