"""The rows of recorded results, and how each is measured again, for :mod:`experiments.verify`.

A record says what is needed: dataset and split, features with their extractors and sha256, model, options and
defaults, controls. What records of earlier versions lack is taken from the script that their command names.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import graphrec as gr
from experiments import (
    beyond_edges,
    bm3_collapse,
    cold_items,
    content_priors,
    contribution_cuts,
    contributions,
    conversations,
    fold_in,
    llm_augmentation,
    neighbors,
    published_splits,
    time_splits,
)
from experiments.content import PACKAGED, ready_features
from experiments.harness import (
    NEWER,
    SELECT,
    Experiment,
    Row,
    Study,
    completed,
    defaults_of,
    divided,
    fields_of,
)
from experiments.recording import TEST
from experiments.rendering import GROUPS
from experiments.rows import QUICKLY_FITTED
from graphrec.core.errors import ConfigError, DataError, FeatureError
from graphrec.data.readers import dataset_folder, reader_options
from graphrec.features import ATTRIBUTE_PREFIX, PREFERENCES, PROFILE, FeatureStore, FeatureTable
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract
from graphrec.features.extract.registry import EXTRACTORS
from graphrec.models import model as model_class

SCRIPTS = ("amazon_baby", "amazon_scientific", "amazon_sports", "movielens_small", "xwines", "lastfm",
           "xwines_conversations")  # fmt: skip
"""Scripts that a record's command may name for what the record lacks; nothing else is imported."""
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""Recorded name of the packaged sentence encoder."""


@dataclass(frozen=True)
class Where:
    """Where things are.

    Attributes:
        root: folder with the datasets; None takes ``$GRAPHREC_DATA``, else ``data``.
        store: the feature store.
        out: where runs are kept.
        clones: local clones, of results on repositories.
        other_features: go on with features that differ from the recorded ones.
    """

    root: str | None
    store: Path
    out: Path
    clones: Sequence[Path] = ()
    other_features: bool = False


@dataclass(frozen=True)
class RecordedRow:
    """What is recorded of a row.

    Attributes:
        values: metric -> seed -> value.
        trained: whether it was trained in epochs, or differs between seeds; otherwise it depends on none.
        seconds: of one training, as recorded; None if it is not.
    """

    values: Mapping[str, Mapping[int, float]]
    trained: bool
    seconds: float | None

    @property
    def seeds(self) -> list[int]:
        """The recorded seeds."""
        return list(next(iter(self.values.values())))


class Kind(ABC):
    """A kind of recorded result."""

    @abstractmethod
    def matches(self, result: Mapping[str, Any]) -> bool:
        """Whether a result is of this kind."""

    @abstractmethod
    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """Label -> row."""

    @abstractmethod
    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """A row measured again: metric -> value.

        Raises:
            DataError: the dataset is missing, or not the recorded one.
            FeatureError: the features are not the recorded ones.
        """

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """Label -> name of the dataset the row needs."""
        return dict.fromkeys(self.rows(result), _reader(result)[0])

    def obstacle(self, result: Mapping[str, Any], label: str, where: Where) -> str | None:
        """Why a row cannot be measured here, as far as that shows without reading the data."""
        folder = dataset_folder(self.datasets(result)[label], where.root)
        return None if folder.is_dir() else f"no dataset at {folder} (--root, $GRAPHREC_DATA)"


class Rankings(Kind):
    """Results of :mod:`experiments.harness`."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return "rows" in result and "masked" in result

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The test metrics and, with cold items, recall by group of items."""
        return {label: self._row(result, result["rows"][label]) for label in result["order"]}

    def _row(self, result: Mapping[str, Any], row: Mapping[str, Any]) -> RecordedRow:
        runs = {run["seed"]: run for run in row["runs"]}
        seconds = sum(run["seconds"] for run in row["runs"]) / len(runs)
        by_seed = {seed: _shown(result, run) for seed, run in runs.items()}
        values = {m: {seed: by_seed[seed][m] for seed in runs} for m in by_seed[row["runs"][0]["seed"]]}
        in_epochs = any(run["best_epoch"] for run in row["runs"])
        # Closed forms take no epochs, and some begin from values drawn by the seed.
        varies = any(len(set(of_metric.values())) > 1 for of_metric in values.values())
        return RecordedRow(values, in_epochs or varies, seconds)

    def _settings(self, result: Mapping[str, Any], label: str) -> tuple[Row, dict[str, Any]]:
        """A row as the harness takes it, and all options it is trained with."""
        recorded = result["rows"][label]
        defaults = _defaults(result, recorded["model"])
        chosen = {**defaults[recorded["model"]], **recorded["options"]}
        own, _ = divided(chosen)
        control = recorded.get("control")
        if control is None:  # earlier records say whether everything was shuffled
            control = dict.fromkeys(("image", "text"), "shuffled") if recorded.get("shuffled") else {}
        features = None if recorded["features"] is None else tuple(recorded["features"])
        row = Row(
            label, recorded["model"], model_class(recorded["model"]).Config(**own),
            gr.TrainConfig(**completed(defaults["train"]), checkpoint_every=10), features, control,
        )  # fmt: skip
        return row, chosen

    def obstacle(self, result: Mapping[str, Any], label: str, where: Where) -> str | None:
        """Also names packages that the extractors of the row's features need."""
        row, _ = self._settings(result, label)
        known = {f: t.get("entity", "item") for f, t in result["features"].items()}
        for field in fields_of(row, row.config, known):
            recorded = result["features"][field]["extractor"]
            missing = [p for p in recorded.get("versions", {}) if _version(p) is None]
            if recorded.get("model") == ENCODER and importlib.util.find_spec(PACKAGED) is None:
                missing.append(f"{PACKAGED} (extra minilm)")
            if missing:
                return f"features {field} need {', '.join(missing)}, not installed"
        return super().obstacle(result, label, where)

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; everything is done by the functions of the harness."""
        row, chosen = self._settings(result, label)
        data = dataset_of(result, where)
        tables = features_of(result, row, data, where)
        experiment = Experiment(result["experiment"], result["command"], data, tables, [row], [seed], label)
        facts, _ = Study(experiment, where.out, quick=False).one(row, chosen, seed)
        return _shown(result, facts)


def _shown(result: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, float]:
    """The values of a run that its table shows."""
    cold = (result["split"] or {}).get("name") == "cold-items"
    groups = {f"{group} {SELECT}": run["groups"][group][SELECT] for group in GROUPS} if cold else {}
    return {metric: run["test"][metric] for metric in TEST} | groups


def _defaults(result: Mapping[str, Any], model: str) -> Mapping[str, Mapping[str, Any]]:
    """The options that the row does not set, of training and of its model."""
    recorded: Mapping[str, Mapping[str, Any]] | None = result.get("defaults")
    if recorded is None:
        rows = [row for row in _script(result).ROWS if row.model == model] or _script(result).ROWS
        recorded = {model: {}, **defaults_of(rows)}
        recorded["train"] = {k: v for k, v in recorded["train"].items() if k not in NEWER}
    return recorded


def _script(result: Mapping[str, Any]) -> Any:
    """The script that a result's command names.

    Raises:
        ConfigError: none of :data:`SCRIPTS`.
    """
    named = re.search(r"-m experiments\.(\w+)", result["command"])
    if named is None or named[1] not in SCRIPTS:
        raise ConfigError(
            f"{result['experiment']}: the record lacks what its script would know, and its command "
            f"{result['command']!r} names none of {list(SCRIPTS)}; record it again"
        )
    return importlib.import_module(f"experiments.{named[1]}")


def dataset_of(result: Mapping[str, Any], where: Where, **more: Any) -> gr.Dataset:
    """The dataset of a result, split as recorded.

    Args:
        result: recorded.
        where: where the datasets are.
        more: options of the reader that the record does not have; then nothing is compared.

    Raises:
        DataError: it is missing, or its fingerprint is not the recorded one.
    """
    name, recorded = _reader(result)
    options = {**recorded, **more}
    split = result.get("split")
    data = gr.load_dataset(name, root=where.root, **options)
    if split is not None and data.meta.get("split") != split:
        if "read" not in result and "split" in reader_options(name):
            data = gr.load_dataset(name, root=where.root, **options, split=split["name"])
        else:
            data = data.resplit({k: v for k, v in split.items() if k != "seed"}, split.get("seed", 0))
    if not more:
        check_fingerprint(result, data)
    return data


def _reader(result: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The reader of a result's dataset and its options; earlier records have the name alone."""
    read = result.get("read") or {}
    return str(read.get("reader") or result["dataset"]["name"]), read.get("options") or {}


def check_fingerprint(result: Mapping[str, Any], data: gr.Dataset) -> None:
    """Refuses a dataset that is not the recorded one.

    Raises:
        DataError: the fingerprints differ; names both, and the counts that differ.
    """
    recorded, now = result["dataset"], data.summary()
    if recorded["fingerprint"] == now["fingerprint"]:
        return
    counts = [
        f"{key} {recorded[key]:,} there, {now[key]:,} here"
        for key in ("users", "items", "train", "valid", "test")
        if recorded[key] != now[key]
    ]
    raise DataError(
        f"{result['experiment']} was recorded on {recorded['name']} {recorded['fingerprint']}, and here is "
        f"{now['name']} {now['fingerprint']} ({'; '.join(counts) or 'the same counts'}); expected the same "
        "interactions and split"
    )


def features_of(
    result: Mapping[str, Any], row: Row, data: gr.Dataset, where: Where
) -> dict[str, FeatureTable]:
    """The feature tables that a row needs, made as recorded.

    Raises:
        FeatureError: a table differs from the recorded one.
    """
    recorded = result["features"]
    fields = fields_of(row, row.config, {f: t.get("entity", "item") for f, t in recorded.items()})
    written = [f for f in fields if f in (PROFILE, PREFERENCES) or f.startswith(ATTRIBUTE_PREFIX)]
    tables = {f: _table(result, f, data, where) for f in fields if f not in written}
    if written:
        rich = dataset_of(result, where, attributes=True)
        made = llm_augmentation.augmentation(rich, where.store)
        tables |= {f: table for f, table in made.items() if f in written}
    for field, table in tables.items():
        if table.sha256 != recorded[field]["sha256"] and not where.other_features:
            raise FeatureError(
                f"{result['experiment']}: features {field} have sha256 {table.sha256[:12]}, recorded is "
                f"{recorded[field]['sha256'][:12]} ({_versions(recorded[field]['extractor'], table)}); "
                "--other-features compares nevertheless"
            )
    return tables


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions(recorded: Mapping[str, Any], table: FeatureTable) -> str:
    """What differs between a recorded extractor and that of a table."""
    now = table.meta.get("extractor") or {}
    keys = [key for key in recorded if key != "versions" and recorded[key] != now.get(key)]
    before, after = (e.get("versions", {}) for e in (recorded, now))
    changed = [f"{p} {v} there, {after.get(p)} here" for p, v in before.items() if after.get(p) != v]
    changed += [f"{key} {recorded[key]} there, {now.get(key)} here" for key in keys]
    return "; ".join(changed) or "the extractor is the same: its texts or pictures may have changed"


def _table(result: Mapping[str, Any], field: str, data: gr.Dataset, where: Where) -> FeatureTable:
    """A table that comes with the dataset, or is extracted with the recorded options."""
    recorded = result["features"][field]["extractor"]
    if recorded["name"] == "imported":
        return ready_features(data, result["dataset"]["name"], where.root)[field]
    known = inspect.signature(EXTRACTORS.load(recorded["name"])).parameters
    options = {key: value for key, value in recorded.items() if key in known and key != "weights"}
    if options.get("model") == ENCODER:
        options["model"] = "minilm"
    return extract(data, field, extractor(recorded["name"], **options), FeatureStore(where.store))


class Contributions(Kind):
    """Results of :mod:`experiments.contributions`, split per person."""

    metrics: ClassVar = ("ndcg@5", "ndcg@10", "hit@10", "mrr@10", "ndcg@20")
    split: ClassVar = {"name": "chronological", "valid": 0.1, "test": 0.2}

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return "contributions" in result

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The intra-project metrics of the table."""
        found = {}
        for label in result["order"]:
            runs = result["rows"][label]["runs"]
            values = {m: {run["seed"]: run["intra"][m] for run in runs} for m in self.metrics}
            seconds = sum(run["seconds"] for run in runs) / len(runs)
            found[label] = RecordedRow(values, any(run["best_epoch"] for run in runs), seconds)
        return found

    def obstacle(self, result: Mapping[str, Any], label: str, where: Where) -> str | None:
        """Clones have to be named."""
        if not result["repositories"]:
            folder = dataset_folder("oss-contrib", where.root)
            return None if folder.is_dir() else f"no dataset at {folder} (--root, $GRAPHREC_DATA)"
        if where.clones:
            return None
        heads = ", ".join(f"{name} at {facts['head'][:12]}" for name, facts in result["repositories"].items())
        return f"needs local clones (--clones): {heads}"

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`."""
        recorded = result["rows"][label]
        if result["repositories"]:
            paths = [str(path.absolute()) for path in where.clones]
            data = gr.load_dataset("git", root=".", repositories=paths, split=self.split)
        else:
            topic = result["dataset"]["name"].rpartition("-")[2]
            data = gr.load_dataset("oss-contrib", root=where.root, topic=topic, split=self.split)
        check_fingerprint(result, data)
        known = {row.label: row for row in contributions.ROWS}
        if label not in known:
            raise ConfigError(
                f"{label}: the record lacks its options of training, and the script has no such row"
            )
        train = known[label].train.replace(**completed({}))
        row = contributions.Row(label, recorded["model"], recorded["options"], train)
        options = argparse.Namespace(out=where.out, store=where.store, quick=False)
        facts, _ = contributions.Study(result["experiment"], data, result["text"], options).one(row, seed)
        return {m: facts["intra"][m] for m in self.metrics}


class Conversations(Kind):
    """Results of :mod:`experiments.conversations`."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return "noise" in result

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The columns of the table; rules have one run."""
        found = {}
        for label in result["order"]:
            row = result["rows"][label]
            runs = dict(zip(result["seeds"], row["runs"], strict=False))
            values = {
                m: {seed: run["mean"][m] for seed, run in runs.items()}
                for m in conversations.COLUMNS.values()
            }
            seconds = [facts["seconds"] for facts in row["training"]]
            found[label] = RecordedRow(
                values, bool(seconds), sum(seconds) / len(seconds) if seconds else None
            )
        return found

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; where the vectors are of an FM trained here, it is trained first."""
        more = {"attributes": True} if "read" not in result and result["dataset"]["name"] == "xwines" else {}
        data = dataset_of(result, where, **more)
        check_fingerprint(result, data)
        if result["vectors"] == "the authors'":
            scorer = Path(dataset_folder(data.name, where.root)) / "fm_embeddings.npz"
        else:
            scorer = conversations.scorer(data, where.out, quick=False)
        if "learned" in result:
            learned = [conversations.Learned(x, **known) for x, known in result["learned"].items()]
        else:
            learned = list(_script(result).LEARNED)
        learned = [replace(x, train=completed(x.train)) for x in learned]
        experiment = conversations.ConversationExperiment(
            result["experiment"], result["command"], data, scorer, result["vectors"], learned, [seed],
            rules=result["rules"],
        )  # fmt: skip
        means = conversations.repeat(experiment, label, seed, where.out / result["experiment"])
        return {m: means[m] for m in conversations.COLUMNS.values()}


class ColdItems(Kind):
    """The result of :mod:`experiments.cold_items`, a row a dataset."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return "powers" in result

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """Validation recall by power and group of items."""
        found = {}
        for name, runs in result["datasets"].items():
            by_seed = dict(zip(result["seeds"], map(self._flat, runs), strict=True))
            values = {m: {seed: of[m] for seed, of in by_seed.items()} for m in self._flat(runs[0])}
            found[name] = RecordedRow(values, True, None)
        return found

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return {name: name for name in result["datasets"]}

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; the record lacks the settings, which are the script's."""
        data, tables = cold_items.opened(label, where.root, where.store)
        return self._flat(cold_items.measured(data, tables, cold_items.BATCH[label], seed))

    def _flat(self, measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        return {
            f"scaled {power}, {column}": of[column]
            for power, of in measured.items()
            for column in cold_items.COLUMNS
        }


class Neighbors(Kind):
    """The result of :mod:`experiments.neighbors`, a row a dataset and modality."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return bool(result) and all(isinstance(row, Mapping) and "lift" in row for row in result.values())

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """Edges and lifts; nothing is trained."""
        return {
            label: RecordedRow({name: {0: value} for name, value in row.items()}, False, None)
            for label, row in result.items()
        }

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return {label: label.partition(" ")[0] for label in result}

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`."""
        name, _, modality = label.partition(" ")
        data, tables = neighbors.opened(name, where.root, where.store)
        return neighbors.row(data, tables[modality])


class TimeSplits(Kind):
    """The result of :mod:`experiments.time_splits`, a row a dataset, split and model."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        datasets = result.get("datasets", {})
        return any("one time for all" in splits for splits in datasets.values())

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The metrics by seed; a cut stands for each seed of one time for all."""
        found = {}
        for name, splits in result["datasets"].items():
            for split, measured in splits.items():
                for model, runs in measured["models"].items():
                    by_seed = dict(zip(result["seeds"], runs, strict=True))
                    values = {m: {seed: run[m] for seed, run in by_seed.items()} for m in time_splits.METRICS}
                    varies = any(run != runs[0] for run in runs)
                    found[f"{name}: {split}: {model}"] = RecordedRow(values, varies, None)
        return found

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return {label: time_splits.DATASETS[label.split(": ")[0]][0] for label in self.rows(result)}

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; the record lacks the settings, which are the script's."""
        name, split, model = label.split(": ")
        data = time_splits.read(name, split, seed, where.root)
        return time_splits.one(data, model, seed, quick=False)


class ContributionCuts(Kind):
    """Results of :mod:`experiments.contribution_cuts`, a row a model and cut."""

    metrics: ClassVar = ("ndcg@10", "hit@10", "mrr@10")

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return "cuts" in result

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The metrics of the table at each cut, which has one training."""
        return {
            f"{label}: cut {run['cut'] + 1}": RecordedRow(
                {m: {0: run["after"][m]} for m in self.metrics}, bool(run["best_epoch"]), run["seconds"]
            )
            for label in result["order"]
            for run in result["rows"][label]["runs"]
        }

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return dict.fromkeys(self.rows(result), "oss-contrib")

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; options of training are the script's, and there is one seed.

        Raises:
            ConfigError: the script has no such row, or another seed is asked for.
        """
        name, _, cut = label.rpartition(": cut ")
        known = {row.label: row for row in contributions.CUT_ROWS}
        if name not in known:
            raise ConfigError(f"{name}: the script has no such row; it has {list(known)}")
        if seed != 0:
            raise ConfigError(f"seed {seed}; results at cuts have one training, with seed 0")
        topic = result["experiment"].rpartition("_")[2].upper()

        def load(split: Mapping[str, Any]) -> gr.Dataset:
            return gr.load_dataset("oss-contrib", root=where.root, topic=topic, split=split)

        options = argparse.Namespace(store=where.store, quick=False)
        study = contribution_cuts.Study(load, result["text"], options, where.out / result["experiment"])
        number = int(cut) - 1
        at = contribution_cuts.cuts_of(load(contribution_cuts.ALL).train.seconds)[number]
        facts = study.facts_of(at)
        recorded = result["cuts"][number]
        if facts != recorded:
            raise DataError(
                f"{result['experiment']}, cut {cut}: recorded {recorded}, and here {facts}; expected the same"
            )
        grid = tuple(result["rows"][name]["grid"])
        after = study.one(replace(known[name], grid=grid), at)["after"]
        return {m: after[m] for m in self.metrics}


class FoldIn(Kind):
    """The result of :mod:`experiments.fold_in`, a row a model."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return any("spearman" in row for row in result.get("models", {}).values())

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """Rank correlation, error, and the metrics known and folded in."""
        seed = result["seed"]
        found = {}
        for label in result["order"]:
            values = {m: {seed: value} for m, value in self._flat(result["models"][label]).items()}
            found[label] = RecordedRow(values, label not in QUICKLY_FITTED, None)
        return found

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return dict.fromkeys(result["order"], "movielens-small")

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`."""
        options = argparse.Namespace(root=where.root, store=where.store, out=where.out, quick=False)
        return self._flat(fold_in.measured(label, seed, options))

    def _flat(self, measured: Mapping[str, Any]) -> dict[str, float]:
        flat = {"spearman": measured["spearman"], "error": measured["error"]}
        for metric in fold_in.METRICS:
            known, folded = measured[metric]
            flat |= {f"{metric} known": known, f"{metric} folded in": folded}
        return flat


class BeyondEdges(Kind):
    """The result of :mod:`experiments.beyond_edges`, a row a model on a dataset."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return bool(result.get("command", "").startswith(beyond_edges.COMMAND))

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The validation metric of each trial beyond an edge, by its option and value."""
        return {
            label: RecordedRow({m: {0: value} for m, value in self._flat(row["steps"]).items()}, True, None)
            for label, row in self._named(result).items()
        }

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return {label: beyond_edges.DATASETS[row["table"]] for label, row in self._named(result).items()}

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`."""
        row = self._named(result)[label]
        options = argparse.Namespace(root=where.root, store=where.store, out=where.out, quick=False)
        return self._flat(list(beyond_edges.steps(row["table"], row["model"], options)))

    def _named(self, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        return {f"{row['table']}: {row['model']}": row for row in result["trials"]}

    def _flat(self, steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {f"{step['option']} {step['to']:g}": step["value"] for step in steps}


class Collapse(Kind):
    """The result of :mod:`experiments.bm3_collapse`, a row a case."""

    metrics: ClassVar = ("valid", "recall", "rank", "cosine")

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return result.get("experiment") == "bm3_collapse"

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The columns of the table."""
        found = {}
        for label in result["order"]:
            runs = result["rows"][label]["runs"]
            values = {m: {run["seed"]: run[m] for run in runs} for m in self.metrics}
            seconds = sum(run["seconds"] for run in runs) / len(runs)
            found[label] = RecordedRow(values, True, seconds)
        return found

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return {label: result["rows"][label]["data"] for label in result["order"]}

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; the options are the recorded ones, other settings are the script's."""
        recorded = result["rows"][label]
        case = next((case for case in bm3_collapse.CASES if case.label == label), None)
        if case is None:
            raise ConfigError(f"{label}: the script has no such case")
        options, train = divided(recorded["options"])
        case = replace(case, options=options, train=train, keep=recorded["keep"])
        given = argparse.Namespace(root=where.root, store=where.store, out=where.out, quick=False)
        data, features = bm3_collapse.read(case.data, given)
        if data.fingerprint != result["datasets"][data.name]["fingerprint"]:
            raise DataError(f"{data.name} is {data.fingerprint}, not the recorded dataset")
        facts = bm3_collapse.one(case, data, features, seed, given)
        return {m: facts[m] for m in self.metrics}


class ContentPriors(Kind):
    """The result of :mod:`experiments.content_priors`, a row a dataset and variant, sum or share."""

    factors = "factors_weight "

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return bool(result) and all(isinstance(r, Mapping) and "variants" in r for r in result.values())

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """Validation metrics of the variants, test metrics of the sums, their means of the shares."""
        return {
            f"{name}: {label}": RecordedRow({m: {0: value} for m, value in values.items()}, True, None)
            for name, found in result.items()
            for label, values in self._flat(found).items()
        }

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return {label: label.partition(": ")[0] for label in self.rows(result)}

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; everything of the row's part is measured, at the seeds recorded."""
        name, _, row = label.partition(": ")
        if seed != 0:
            raise ConfigError(f"seed {seed}; content priors are measured with seed 0")
        part = "factors" if row.startswith(self.factors) else content_priors.part_of(row)
        return self._flat(content_priors.measured_part(part, name, where.root, where.store))[row]

    def _flat(self, found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        metrics = content_priors.METRICS
        flat = {label: {m: of[m] for m in metrics} for label, of in found.get("variants", {}).items()}
        flat |= {f"sum of {label}": dict(of["test"]) for label, of in found.get("sums", {}).items()}
        for label, of in found.get("factors", {}).items():
            flat[self.factors + label] = {m: sum(of["test"][m]) / len(of["test"][m]) for m in metrics}
        return flat


class PublishedSplits(Kind):
    """Results of :mod:`experiments.published_splits`, a row a model."""

    def matches(self, result: Mapping[str, Any]) -> bool:
        """See :meth:`Kind.matches`."""
        return str(result.get("experiment", "")).startswith(published_splits.PREFIX)

    def rows(self, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
        """The test metrics of the trainings that chose their epoch on validation."""
        found = {}
        for label in result["order"]:
            runs = result["rows"][label]["runs"]
            values = {m: {run["seed"]: run["test"][m] for run in runs} for m in published_splits.METRICS}
            in_epochs = any(run["best_epoch"] for run in runs)
            seconds = sum(run["seconds"] for run in runs) / len(runs)
            found[label] = RecordedRow(values, in_epochs, seconds)
        return found

    def datasets(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`Kind.datasets`."""
        return dict.fromkeys(self.rows(result), published_splits.split_of(result).reader)

    def measure(self, result: Mapping[str, Any], label: str, seed: int, where: Where) -> dict[str, float]:
        """See :meth:`Kind.measure`; options of training are the script's."""
        split = published_splits.split_of(result)
        data = gr.load_dataset(split.reader, root=where.root, **split.options)
        check_fingerprint(result, data)
        recorded = result["rows"][label]
        row = published_splits.Row(recorded["model"], recorded["options"])
        found = published_splits.one({"split": data}, row, split.train, seed, where.out)
        return {metric: found["test"][metric] for metric in published_splits.METRICS}


KINDS: tuple[Kind, ...] = (
    Rankings(), Contributions(), Conversations(), ColdItems(), Neighbors(), TimeSplits(), ContributionCuts(),
    FoldIn(), BeyondEdges(), Collapse(), ContentPriors(), PublishedSplits(),
)  # fmt: skip


def kind_of(result: Mapping[str, Any]) -> Kind | None:
    """The kind of a recorded result; None if it is of none that can be measured again."""
    return next((kind for kind in KINDS if kind.matches(result)), None)
