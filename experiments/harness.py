"""Shared by the experiment scripts: equal tuning budgets, seeds, one evaluation on test, recorded results.

Options are tuned on validation at the first seed, every model with the same number of trials. Then each row
is trained once per seed, and the test split is evaluated once per training. Every training is resumable: a
finished one is read back, an interrupted one continues from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphrec as gr
from experiments.recording import RESULTS, read_result, write_result
from experiments.rendering import compared, details, key_of, table
from graphrec.core.environment import environment
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import read_json, write_json
from graphrec.core.random import numpy_rng
from graphrec.evaluation.ranking import Beyond, activity_groups, warm_cold
from graphrec.evaluation.report import Comparison, Report
from graphrec.features import ATTRIBUTE_PREFIX, FeatureTable
from graphrec.graphs.equal_rows import EqualRows
from graphrec.models import model as model_class
from graphrec.models.base import Features, ModelConfig
from graphrec.runs import read_meta
from graphrec.runs.comparison import Entry, compare_reports, to_html
from graphrec.runs.tuning.tuner import EXTEND, tune
from graphrec.training.run_directory import METRICS as HISTORY

CUTS = (1, 5, 10, 20, 50)
SELECT = "recall@20"
RIVAL_METRICS = (SELECT, "ndcg@20")
QUICK = {"epochs": 1, "trials": 2}
NEWER = {"patience_steps": 0}
"""Options of training that a record may lack -> the value that does what was done before they were there."""


@dataclass(frozen=True)
class Row:
    """One row of a table: a model, its settings and its features.

    Attributes:
        label: its name in the table.
        model: a registered name.
        config: the model's options; those in its search space are replaced by what tuning finds.
        train: options of training, likewise.
        features: which modalities the model gets; None gives it all.
        control: for each replaced field ``"shuffled"`` (the vectors shuffled among items) or ``"noise"``
            (random vectors): the controls that measure the value of the content itself; ``"tied"`` shuffles
            the distinct vectors and keeps which items have the same one.
        like: label of the row whose tuned options are used, changed by ``change``.
        change: model options that differ from that row's.
        group: ``"main"``, or the group of checks.
        sampler: of the tuning.
        trials: tuning budget, if it is not the experiment's.
        extend: most trials beyond an edge of the search space, if not as many as others get.
    """

    label: str
    model: str
    config: ModelConfig
    train: gr.TrainConfig
    features: tuple[str, ...] | None = None
    control: Mapping[str, str] = field(default_factory=dict)
    like: str | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    group: str = "main"
    sampler: str = "tpe"
    trials: int | None = None
    extend: int = EXTEND


@dataclass(frozen=True)
class Experiment:
    """A table of results.

    Attributes:
        name: also of the file under ``results/``.
        command: the command that makes it.
        data: evaluated with train items masked, as the published tables do.
        features: feature tables by field.
        rows: the models, rows that others are ``like`` first.
        seeds: one training each.
        baseline: label that the main rows are compared with.
        trials: tuning budget of every model; 0 takes the settings as they stand.
        pairs: further comparisons (row, other row).
        rivals: further comparisons (row, other row), in recall and NDCG.
        published: label -> metric -> published value, shown in brackets.
        tuned_as: another experiment whose tuned options are used here, for the rows it has.
        shares: another experiment on the same data, whose trainings are used for the rows it has.
        checked: rows of checks take this many of the seeds, the first.
    """

    name: str
    command: str
    data: gr.Dataset
    features: Features
    rows: Sequence[Row]
    seeds: Sequence[int]
    baseline: str
    trials: int = 0
    pairs: Sequence[tuple[str, str]] = ()
    rivals: Sequence[tuple[str, str]] = ()
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tuned_as: Experiment | None = None
    shares: Experiment | None = None
    checked: int = 3

    def row(self, label: str) -> Row:
        """The row of a label."""
        return next(r for r in self.rows if r.label == label)

    def has(self, label: str) -> bool:
        """Whether it has a row of that label."""
        return any(r.label == label for r in self.rows)


def options_of_all(description: str, quick: str) -> argparse.ArgumentParser:
    """The options every experiment has.

    Args:
        description: of the script.
        quick: what ``--quick`` leaves.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", default=None, help="folder with the datasets (default: $GRAPHREC_DATA, else data)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="where runs are kept")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: does it run at all?")
    return parser


def arguments(description: str) -> argparse.ArgumentParser:
    """The options every experiment on rankings has."""
    parser = options_of_all(description, "1 epoch, 2 trials, 1 seed, some users")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds to run (default: the script's)")
    parser.add_argument("--tables", nargs="+", help="of the script's tables, these only")
    parser.add_argument("--rows", nargs="+", help="train these rows only, and record nothing")
    parser.add_argument(
        "--update",
        action="store_true",
        help="with --rows: put them into the recorded result, with the options recorded there; where nothing "
        "is recorded, record them",
    )
    return parser


def run(experiment: Experiment, options: argparse.Namespace) -> dict[str, Any] | None:
    """Runs all rows over all seeds, writes ``results/<name>.json`` and a report, and prints the tables.

    Args:
        experiment: what to run.
        options: parsed :func:`arguments`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.tables and experiment.name not in options.tables:
        print(f"{experiment.name}: not in --tables", flush=True)
        return None
    if options.rows and not any(experiment.has(label) for label in options.rows):
        print(f"{experiment.name}: has none of the rows {', '.join(options.rows)}", flush=True)
        return None
    seeds = options.seeds or list(experiment.seeds)[: 1 if options.quick else None]
    path = (options.out / "quick" if options.quick else RESULTS) / f"{experiment.name}.json"

    def recorded(name: str) -> dict[str, Any]:
        place = path.with_name(f"{name}.json")
        return read_result(place) if options.update and place.exists() else {}

    before = recorded(experiment.name)
    if before:
        train = gr.TrainConfig(**completed(before["defaults"]["train"]))
        experiment = replace(experiment, rows=[replace(row, train=train) for row in experiment.rows])
    first = experiment.tuned_as
    options_of = recorded(first.name).get("rows", {}) if first else {}
    study = Study(experiment, options.out, options.quick, before.get("rows", {}), options_of)
    rows: dict[str, Any] = {}
    entries: dict[str, list[Entry]] = {}
    for row in experiment.rows:
        if options.rows and row.label not in options.rows:
            continue
        chosen, trials = study.chosen(row)
        own_seeds = seeds if row.group == "main" else seeds[: experiment.checked]
        done = [study.one(row, chosen, seed) for seed in own_seeds]
        entries[row.label] = [study.entry(row, facts, report) for facts, report in done]
        rows[row.label] = {
            "model": row.model,
            "group": row.group,
            "like": row.like,
            "features": row.features,
            "control": dict(row.control),
            "supports_cold_items": done[0][0]["supports_cold_items"],
            "options": chosen,
            "trials": trials,
            "published": dict(experiment.published.get(row.label, {})),
            "runs": [facts for facts, _ in done],
            "activity": _by_activity(study.data, [report for _, report in done]),
        }
        print(f"{row.label}: {[round(f['test'][SELECT], 4) for f, _ in done]} {chosen}", flush=True)
    if options.rows and not options.update:
        return None
    if before:
        result = _updated(before, experiment, rows, entries)
        write_result(path, result)
        print(f"{table(result)}\n\n{details(result)}\n\nwritten: {path}")
        return result
    trained = [row for row in experiment.rows if row.label in rows]
    main = {row.label: entries[row.label] for row in trained if row.group == "main"}
    tested = compare_reports(main, baseline=experiment.baseline, metric=SELECT)
    tuned = experiment if experiment.trials else experiment.tuned_as or experiment
    result = {
        "experiment": experiment.name,
        "command": experiment.command + (" --quick" if options.quick else ""),
        "dataset": study.data.summary(),
        "split": dict(experiment.data.meta).get("split"),
        "read": {key: experiment.data.meta.get(key) for key in ("reader", "options")},
        "features": {
            f: {"extractor": t.meta.get("extractor"), "sha256": t.sha256, "items": int(t.present.sum()),
                **({} if t.entity == "item" else {"entity": t.entity})}
            for f, t in experiment.features.items()
        },
        "seeds": list(seeds),
        "trials": tuned.trials,
        "tuned_on": tuned.name,
        "masked": "train",
        "defaults": defaults_of(trained),
        "environment": environment(),
        "order": list(rows),
        "rows": rows,
        "baseline": experiment.baseline,
        "comparisons": [_recorded(c) for c in tested.comparisons],
        "pairs": _pairs(entries, _trained(experiment.pairs, rows)),
        "rivals": _rivals(entries, _trained(experiment.rivals, rows), tested.comparisons),
    }  # fmt: skip
    write_result(path, result)
    result = read_result(path)
    page = to_html(tested, study.folder / "report.html")
    print(f"{table(result)}\n\n{details(result)}\n\nwritten: {path}, {page}")
    return result


@dataclass(frozen=True, eq=False)
class Study:
    """The state shared by the trainings of one experiment."""

    experiment: Experiment
    out: Path
    quick: bool
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """Rows whose options are taken as they were recorded instead of tuning again."""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    """Likewise of the experiment that the options come from."""

    @cached_property
    def data(self) -> gr.Dataset:
        """The dataset; where it is to be quick, every eighth user is validated and tested."""
        data = self.experiment.data
        if not self.quick:
            return data
        some = [part.where(part.users % 8 == 0) for part in (data.valid, data.test)]
        return data.with_splits(data.train, *some)

    @property
    def folder(self) -> Path:
        """Where the runs are."""
        return self.out / ("quick" if self.quick else "") / self.experiment.name

    def chosen(self, row: Row) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The options of a row, ``train.`` before those of training, and the trials they come from."""
        if row.like is not None:
            chosen, _ = self.chosen(self.experiment.row(row.like))
            return {**chosen, **row.change}, []
        if row.label in self.recorded:
            return dict(self.recorded[row.label]["options"]), self.recorded[row.label]["trials"]
        first = self.experiment.tuned_as
        if first is not None and first.has(row.label):
            chosen, _ = Study(first, self.out, self.quick, self.tuned).chosen(first.row(row.label))
            return chosen, []  # the trials are recorded there
        cls = model_class(row.model)
        fixed = _given(row.config)
        trials = row.trials or self.experiment.trials
        if not trials:
            return fixed, []
        train = _given(self.limited(row.train))
        tuned = tune(
            row.model, self.data, self.given(row, row.config),
            trials=QUICK["trials"] if self.quick else trials,
            sampler=row.sampler,
            out=self.folder / "tuning" / folder_of(row.label), seed=self.experiment.seeds[0],
            select=SELECT, resume=True, extend=0 if self.quick else row.extend,
            model_options={k: v for k, v in fixed.items() if k not in cls.search_space},
            train_options={k: v for k, v in train.items() if f"train.{k}" not in cls.search_space},
        )  # fmt: skip
        tried = [
            {
                "options": t.options,
                "value": t.value,
                "epochs": t.epochs,
                **({"beyond": t.beyond} if t.beyond else {}),
            }
            for t in tuned.trials
        ]
        return {**fixed, **tuned.best.options}, tried

    def limited(self, train: gr.TrainConfig) -> gr.TrainConfig:
        """The training options; a few epochs where it is to be quick."""
        return train.replace(epochs=QUICK["epochs"]) if self.quick else train

    def given(self, row: Row, config: ModelConfig) -> dict[str, FeatureTable]:
        """The feature tables of one row: content where the model needs it, and what its options ask for."""
        known = self.experiment.features
        fields = fields_of(row, config, {f: t.entity for f, t in known.items()})
        return {f: CONTROLS[row.control[f]](known[f], f) if f in row.control else known[f] for f in fields}

    def path(self, row: Row, seed: int) -> Path:
        """Where a training is kept."""
        other, study = self.experiment.shares, self
        if other is not None and row in other.rows:
            study = Study(other, self.out, self.quick)
        return study.folder / folder_of(row.label) / f"seed-{seed}"

    def entry(self, row: Row, facts: Mapping[str, Any], report: Report) -> Entry:
        """A training as the report page takes it."""
        out = self.path(row, facts["seed"])
        lines = (out / HISTORY).read_text(encoding="utf-8").splitlines()
        return Entry(
            report,
            facts["seed"],
            [json.loads(line) for line in lines] if facts["best_epoch"] else [],
            facts["seconds"],
            facts["parameters"],
            {**read_meta(out), "path": str(out)},
        )

    def recognized(self, row: Row, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """What a training depends on: dataset, features and options."""
        tables = self.given(row, model_class(row.model).Config(**divided(chosen)[0]))
        return {
            "dataset": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "features": {f: t.sha256 for f, t in tables.items()},
            "options": dict(chosen),
        }

    def fitted(self, row: Row, chosen: Mapping[str, Any], seed: int) -> gr.Run:
        """One training; a finished one is read back, an interrupted one goes on."""
        cls = model_class(row.model)
        own, train = divided(chosen)
        cached = {"graph_cache": self.out / "graphs"} if "graph_cache" in cls.Config.model_fields else {}
        tables = self.given(row, cls.Config(**own))
        model = cls.build(self.data, tables or None, cls.Config(**{**own, **cached, "seed": seed}))
        settings = self.limited(row.train).replace(**{**train, "seed": seed})
        return gr.Trainer(settings, out=self.path(row, seed)).fit(
            model,
            validate=gr.RankingTask(self.data.valid, seen=self.data.train, k=20, metrics=("recall", "ndcg")),
            select=SELECT,
            resume=True,
            about=self.recognized(row, chosen),
        )

    def one(self, row: Row, chosen: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], Report]:
        """One training with its test report, read back if it is finished."""
        cls = model_class(row.model)
        data, out = self.data, self.path(row, seed)
        recognized = self.recognized(row, chosen)
        if (out / "facts.json").exists() and (out / "report.parquet").exists():
            facts = read_json(out / "facts.json")
            if facts["recognized"] != recognized:
                raise CheckpointError(
                    f"{out}: was run on other data, features or options; remove it, or choose another --out"
                )
            return facts, Report.from_parquet(out / "report.parquet")
        began = time.perf_counter()
        run = self.fitted(row, chosen, seed)
        wall = time.perf_counter() - began
        groups = warm_cold(data.train)
        cold = bool(groups["cold"][data.test.items].any())
        report = gr.evaluate(
            run.model, data.test, seen=data.train, metrics=("recall", "ndcg"), k=CUTS,
            item_groups=groups if cold else None, within=cold,
            beyond=Beyond(data.train), name=row.label,
        )  # fmt: skip
        report.to_parquet(out / "report.parquet")
        facts = {
            "seed": seed,
            "recognized": recognized,
            "best_epoch": run.best_epoch,
            "epochs": len(run.history),
            "seconds": run.seconds,
            "seconds_to_99": seconds_to_share(run, wall),
            "wall": time.perf_counter() - began,
            "supports_cold_items": cls.supports_cold_items,
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "valid": {SELECT: run.best_value},
            "test": report.mean(),
            "groups": {n: g.mean() for n, g in report.groups.items()},
        }
        write_json(out / "facts.json", facts)
        return read_json(out / "facts.json"), report


def seconds_to_share(run: gr.Run, wall: float, share: float = 0.99) -> float | None:
    """Seconds from the start to the first epoch whose validation reaches a share of the best; a model without
    epochs is there when it is fitted.

    Args:
        run: with its history.
        wall: seconds of building, training and validating it, in one go.
        share: of the best validation metric.

    Returns:
        None for a training that was resumed, whose building and loading cannot be told from waiting.
    """
    values = np.array([epoch.get(SELECT, -np.inf) for epoch in run.history])
    if not run.best_epoch or run.best_value is None:
        return wall
    seconds = np.array([epoch["seconds"] for epoch in run.history])
    opening = wall - seconds.sum()
    if opening < 0:
        return None
    first = int(np.argmax(values >= share * run.best_value))
    return float(opening + seconds[: first + 1].sum())


def fields_of(row: Row, config: ModelConfig, entities: Mapping[str, str]) -> list[str]:
    """The fields that a row's model is given.

    Args:
        row: of the table.
        config: the options it is trained with.
        entities: of all fields there are: what each has a vector of, ``"item"`` or ``"user"``.
    """
    cls = model_class(row.model)
    content = {f for f, of in entities.items() if of == "item" and not f.startswith(ATTRIBUTE_PREFIX)}
    return [
        f
        for f in row.features or entities
        if (cls.needs_features(config) and f in content)
        or any(fnmatchcase(f, pattern) for pattern in cls.optional_fields(config))
    ]


def divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's options of a row, and those of training without their ``train.``."""
    own = {k: v for k, v in options.items() if not k.startswith("train.")}
    train = {k.removeprefix("train."): v for k, v in options.items() if k.startswith("train.")}
    return own, train


def defaults_of(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What rows do not set themselves, as of now: ``train`` and registered name -> option -> value."""
    found = {"train": complete(rows[0].train)}
    for row in rows:
        if complete(row.train) != found["train"]:
            raise ConfigError(
                f"{row.label} has other options of training than {rows[0].label}; expected the same for all"
            )
        found[row.model] = complete(model_class(row.model).Config())
    return found


def completed(train: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded options of training, with those that came later as training was before."""
    return {k: v for k, v in NEWER.items() if k in gr.TrainConfig.model_fields} | dict(train)


def complete(config: Any) -> dict[str, Any]:
    """All options that results depend on, JSON-able, but for the seed."""
    options = config.result_options(config.model_dump(mode="json"))
    return {name: value for name, value in options.items() if name != "seed"}


def _given(config: Any) -> dict[str, Any]:
    """The options that were set, JSON-able."""
    found: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    return found


def _shuffled(table: FeatureTable, field: str) -> FeatureTable:
    """The same vectors shuffled among the items, missing ones included."""
    order = numpy_rng(0, f"experiments/shuffled/{field}").permutation(len(table))
    return FeatureTable(table.numpy(table.values.dtype)[order], table.present[order], _about(table, field))


def _noise(table: FeatureTable, field: str) -> FeatureTable:
    """Normal random vectors of the same shape and lengths, for the rows that are present."""
    values = numpy_rng(0, f"experiments/noise/{field}").normal(size=table.shape).astype(np.float32)
    length = np.linalg.norm(table.numpy(np.float32), axis=1, keepdims=True)
    values *= length / np.linalg.norm(values, axis=1, keepdims=True)
    return FeatureTable(values, table.present, _about(table, field))


def _about(table: FeatureTable, field: str) -> dict[str, Any]:
    """The metadata of a table that does not depend on its values."""
    return {"field": field} | (
        {} if table.entity == "item" else {"of": table.entity, "items": table.meta["items"]}
    )


def _tied(table: FeatureTable, field: str) -> FeatureTable:
    """The distinct vectors shuffled among the groups of items that have the same one: which items are equal
    stays, and what their vector says about other groups is lost.
    """
    values = table.numpy(np.float32)
    present = np.flatnonzero(table.present)
    equal = EqualRows.of([values[present]])
    order = numpy_rng(0, f"experiments/tied/{field}").permutation(len(equal))
    values[present] = values[present][equal.first[order]][equal.group]
    return FeatureTable(values, table.present, _about(table, field))


CONTROLS = {"shuffled": _shuffled, "noise": _noise, "tied": _tied}


def _by_activity(data: gr.Dataset, reports: Sequence[Report]) -> dict[str, Any]:
    """Users in three groups by their train interactions: how many are tested, and their mean in each seed."""
    groups = activity_groups(data.train, (1 / 3, 2 / 3))
    return {
        name: {"users": int(mask[reports[0].users].sum()),
               SELECT: [r.where(mask[r.users]).mean()[SELECT] for r in reports]}
        for name, mask in groups.items()
    }  # fmt: skip


def folder_of(label: str) -> str:
    """The name of the folder of a row's runs."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in label)


def _trained(pairs: Sequence[tuple[str, str]], rows: Collection[str]) -> list[tuple[str, str]]:
    """The pairs both of whose rows were trained."""
    return [pair for pair in pairs if set(pair) <= set(rows)]


def _pairs(
    entries: Mapping[str, list[Entry]], pairs: Sequence[tuple[str, str]], metrics: Sequence[str] = (SELECT,)
) -> list[dict[str, Any]]:
    """Each row against its other on the seeds that both have; p-values are corrected where they are shown."""
    made = []
    for a, b in pairs:
        both = {e.seed for e in entries[a]} & {e.seed for e in entries[b]}
        found = {label: [e for e in entries[label] if e.seed in both] for label in (a, b)}
        for metric in metrics:
            made.append(_recorded(compare_reports(found, baseline=b, metric=metric).comparisons[0]))
    return made


def _rivals(
    entries: Mapping[str, list[Entry]],
    pairs: Sequence[tuple[str, str]],
    tested: Sequence[Comparison],
) -> list[dict[str, Any]]:
    """As :func:`_pairs` in both metrics, but for what is among the comparisons with the baseline."""
    known = {key_of(vars(c)) for c in tested}
    return [c for c in _pairs(entries, pairs, RIVAL_METRICS) if key_of(c) not in known]


def _updated(
    before: Mapping[str, Any],
    experiment: Experiment,
    rows: Mapping[str, Any],
    entries: Mapping[str, list[Entry]],
) -> dict[str, Any]:
    """A recorded result with some rows trained anew, and the comparisons between them.

    Raises:
        ConfigError: a row is compared with one that was not trained, so that their comparison would be lost.
    """
    same = {label for label in rows if _values(rows, label) == _values(before["rows"], label)}
    for c in compared(before):
        sides = {c["model"], c["baseline"]}
        if len(sides - set(rows)) == 1 and not sides & same:
            raise ConfigError(
                f"{experiment.name}: {(sides & set(rows)).pop()!r} came out otherwise than recorded, and is "
                f"compared with {(sides - set(rows)).pop()!r}; name both in --rows"
            )
    main = {label: found for label, found in entries.items() if rows[label]["group"] == "main"}
    added = [label for label in main if label not in before["rows"]]
    if added and before["baseline"] not in rows:
        raise ConfigError(
            f"{experiment.name}: {added[0]!r} is new and is compared with {before['baseline']!r}; name both "
            "in --rows"
        )
    tested = compare_reports(main, baseline=before["baseline"], metric=SELECT) if len(main) > 1 else None
    new = [_recorded(c) for c in tested.comparisons] if tested else []
    found = {(c["model"], c["baseline"]): c for c in new}
    pairs = _pairs(entries, _trained(experiment.pairs, rows))
    rivals_now = _rivals(entries, _trained(experiment.rivals, rows), tested.comparisons if tested else [])
    renewed = {key_of(c) for c in (*pairs, *rivals_now)}
    return {
        **before,
        "rows": {**before["rows"], **{label: row for label, row in rows.items() if label not in same}},
        "order": _order(before["order"], [row.label for row in experiment.rows], rows),
        "defaults": {**defaults_of([r for r in experiment.rows if r.label in rows]), **before["defaults"]},
        "comparisons": [
            *(found.get((c["model"], c["baseline"]), c) for c in before["comparisons"]),
            *(c for c in new if c["model"] in added),
        ],
        "pairs": [c for c in before["pairs"] if key_of(c) not in renewed] + pairs,
        "rivals": [c for c in before.get("rivals", []) if key_of(c) not in renewed] + rivals_now,
    }


def _order(before: Sequence[str], labels: Sequence[str], new: Collection[str]) -> list[str]:
    """Recorded labels and new ones, each of these after the one that it follows among all ``labels``."""
    order = list(before)
    for n, label in enumerate(labels):
        if label in new and label not in order:
            place = max((order.index(other) + 1 for other in labels[:n] if other in order), default=0)
            order.insert(place, label)
    return order


def _values(rows: Mapping[str, Any], label: str) -> list[tuple[float, ...]]:
    """Seed and test metrics of each run, as recorded."""
    if label not in rows:
        return []
    return [(r["seed"], *(round(r["test"][m], 6) for m in RIVAL_METRICS)) for r in rows[label]["runs"]]


def _recorded(comparison: Comparison) -> dict[str, Any]:
    """A comparison without its corrected p, which depends on what else a table shows."""
    return {key: value for key, value in vars(comparison).items() if key != "p_holm"}
