"""From names and options to a trained run, and from a run directory back to its model, dataset and features.

A run directory holds what the :class:`~graphrec.trainer.Trainer` writes (``run.json``, ``metrics.jsonl``,
``best/``, ``last/``), a ``recommender/``, ``titles.json`` where the items have texts and, for a dataset that
was given as an object, a copy of it in ``dataset/``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from graphrec import checkpoint
from graphrec.atomic import explained, read_json, write_json
from graphrec.commit import read_sealed
from graphrec.config import Config
from graphrec.data import Dataset
from graphrec.data.readers import READERS
from graphrec.errors import CheckpointError, ConfigError, DataError, FeatureError, nearest
from graphrec.evaluate import RankingTask
from graphrec.metrics import parse_metric
from graphrec.model import Features, ModelConfig, Ranker
from graphrec.models import model as model_class
from graphrec.recommender import Recommender
from graphrec.sources import NONE, Source, features_for, load
from graphrec.store import FeatureStore, FeatureTable
from graphrec.trainer import Run, TrainConfig, Trainer

__all__ = [
    "NONE", "SELECT", "OpenedRun", "Source", "configure", "features_for", "load", "open_recommender",
    "open_run", "read_meta", "refuse_another", "train",
]  # fmt: skip

SELECT = "recall@20"
COPY = "dataset"
TITLE = 80  # characters
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class OpenedRun:
    """A run read back.

    Attributes:
        path: its directory.
        model: with the best weights, or the last ones where nothing was validated; in evaluation mode.
        data: the dataset it was trained on.
        features: the tables it was built with; empty for models that need none.
        meta: what ``run.json`` records.
    """

    path: Path
    model: Any
    data: Dataset
    features: dict[str, FeatureTable]
    meta: dict[str, Any]


class _Trained(BaseModel):
    """What a dataset is recognised by."""

    name: str
    fingerprint: str


class _Read(BaseModel):
    """See :class:`Source`."""

    dataset: str
    root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class _Facts(BaseModel):
    """The part of ``run.json`` that opening a run depends on."""

    model: str
    config: dict[str, Any] = Field(alias="model_config")
    dataset: _Trained
    features: dict[str, str] = Field(default_factory=dict)
    keys: dict[str, str] = Field(default_factory=dict)
    store: str | None = None
    source: _Read | None = None


def configure(
    model: str,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[type[Ranker], ModelConfig, TrainConfig]:
    """Model class, model options and training options from names and values.

    Args:
        model: a registered name.
        model_options: of the model's ``Config``.
        train_options: of :class:`~graphrec.trainer.TrainConfig`.
        seed: of both, where they do not set their own.

    Raises:
        ConfigError: an unknown name, an option that is unknown or out of range, or a model that ranks
            nothing.
    """
    cls = model_class(model)
    if not issubclass(cls, Ranker):
        raise ConfigError(
            f"{cls.name} does not rank items, and these runs are validated by ranking; use a Trainer with a "
            "task of its own"
        )
    config = _made(cls.Config, f"model.* options of {cls.name}", {"seed": seed, **(model_options or {})})
    return cls, config, _made(TrainConfig, "train.* options", {"seed": seed, **(train_options or {})})


def train(
    model: str,
    data: Dataset,
    features: Features | None = None,
    *,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    out: str | Path,
    seed: int = 0,
    select: str = SELECT,
    resume: bool = False,
    source: Source | None = None,
    store: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Run:
    """Trains a registered model, validated by ranking, and keeps all that evaluating and serving it needs.

    Args:
        model: a registered name.
        data: trained on ``train``, validated on ``valid`` with ``train`` masked; ``test`` is not looked at,
            except that the saved recommender does not offer users what they already have.
        features: tables by field, for models that need them (see :func:`features_for`).
        model_options: of the model's ``Config``.
        train_options: of :class:`~graphrec.trainer.TrainConfig`.
        out: the run directory.
        seed: of model and training, where their options do not set their own.
        select: metric to select on, or ``"none"``: no validation, the last epoch counts.
        resume: go on from the last checkpoint in ``out``.
        source: where ``data`` came from; None keeps a copy of the dataset in the run directory.
        store: directory of the feature store the tables came from, recorded for :func:`open_run`.
        on_epoch: called with each epoch's record.

    Raises:
        ConfigError: an unknown name, option or metric.
        DataError: ``valid`` is empty.
        CheckpointError: the directory holds a run already and ``resume`` is false, or holds another run.
        TrainingError: training failed.
    """
    cls, model_config, train_config = configure(model, model_options, train_options, seed)
    out = Path(out)
    if select != NONE:
        parse_metric(select)  # before anything that takes time
    refuse_another(out, select, resume)
    task = None
    if select != NONE:
        if not len(data.valid):
            raise DataError(
                f"{data.name}: the valid split is empty, so there is nothing to select {select} on; choose a "
                f"split that holds some out (such as --set data.split=random), or do not validate: "
                f"--select {NONE}"
            )
        task = RankingTask(data.valid, seen=data.train, metrics=("recall", "ndcg", select))
    given = dict(features or {}) if cls.modalities else {}
    made = cls.build(data, given or None, model_config)
    about = {
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "features": {field: table.sha256 for field, table in given.items()},
        "keys": {f: str(t.meta["key"]) for f, t in given.items() if "key" in t.meta},
        "extractors": {f: t.meta.get("extractor") for f, t in given.items()},
        "store": str(Path(store).absolute()) if store is not None else None,
        "source": (source or Source(COPY)).describe(),
        "select": select,
        "seed": seed,
        "split": data.meta.get("split"),
        "commit": _commit(),
    }
    run = Trainer(train_config, out).fit(
        made, task, None if task is None else select, resume=resume, about=about, on_epoch=on_epoch
    )
    titles = _titles(data)
    with explained(out, CheckpointError):
        if source is None:
            data.save(out / COPY)
        if titles:
            write_json(out / "titles.json", titles)
    Recommender.of(run.model, data, given or None).save(out / "recommender")
    return run


def refuse_another(out: Path, select: str, resume: bool) -> None:
    """Refuses, before any work is done, a directory that holds a run which is not to be resumed.

    Raises:
        CheckpointError: it holds one and ``resume`` is false, or one that selects on another metric.
    """
    if not (out / "run.json").exists():
        return
    if not resume:
        raise CheckpointError(
            f"{out} already holds a run; go on with it (--resume), or choose another directory (--out)"
        )
    selected = read_meta(out).get("select", select)
    if selected != select:
        raise CheckpointError(
            f"{out} selects on {selected}, this run would on {select}; resume it with --select {selected}, "
            "or choose another directory (--out)"
        )


def open_run(
    path: str | Path,
    *,
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
) -> OpenedRun:
    """Rebuilds a run's model from its directory, on the CPU.

    Args:
        path: a run directory written by :func:`train`.
        data: the dataset, if it is at hand; default: read again from where it was.
        features: the tables, likewise.
        root: where the dataset is now, if it has been moved.
        store: where the feature store is now, if it has been moved.

    Raises:
        CheckpointError: no run there, a damaged one, or one whose dataset or features have changed since;
            says what differs.
        DataError: the dataset cannot be read.
        FeatureError: the feature tables are gone or damaged.
    """
    path = Path(path)
    meta = read_meta(path)
    try:
        facts = _Facts.model_validate(meta)
    except ValidationError as cause:
        first = cause.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from cause
    if data is None:
        data = _dataset(path, facts, root)
    if data.fingerprint != facts.dataset.fingerprint:
        raise CheckpointError(
            f"{path}: was trained on {facts.dataset.name} {facts.dataset.fingerprint[:12]}…, the dataset as "
            f"read now is {data.name} {data.fingerprint[:12]}… (fingerprints): ids or splits have changed; "
            "restore them or train again"
        )
    found = dict(features) if features is not None else _tables(path, facts, data, store)
    changed = [f for f, sha256 in facts.features.items() if f not in found or found[f].sha256 != sha256]
    if changed:
        now = ", ".join(f"{f} {found[f].sha256[:12]}…" if f in found else f"no {f}" for f in changed)
        was = ", ".join(f"{f} {facts.features[f][:12]}…" for f in changed)
        raise CheckpointError(
            f"{path}: was trained with the features {was} (sha256), and now there are {now}; restore them or "
            "train again"
        )
    try:
        cls, config, _ = configure(facts.model, facts.config)
    except ConfigError as cause:
        raise _damaged(path, str(cause)) from cause
    used = {field: found[field] for field in facts.features}
    weights = next((path / d for d in ("best", "last") if checkpoint.exists(path / d)), None)
    if weights is None:
        raise CheckpointError(f"{path}: holds no checkpoint yet; go on with the training (--resume)")
    model = cls.build(data, used or None, config)
    checkpoint.read(weights, model)
    model.eval()
    return OpenedRun(path, model, data, used, meta)


def read_meta(path: str | Path) -> dict[str, Any]:
    """What ``run.json`` of a run directory records.

    Raises:
        CheckpointError: no run there (the nearest one is named), or its ``run.json`` is damaged.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        beside = sorted(p.parent.name for p in path.parent.glob("*/run.json"))
        there = f"; {path.parent} has {beside}.{nearest(path.name, beside)}" if beside else ""
        raise CheckpointError(
            f"{path}: no run there (no run.json); expected a directory that graphrec train wrote{there}"
        )
    return read_sealed(path / "run.json", "train again")


def open_recommender(path: str | Path) -> tuple[Recommender, dict[str, str]]:
    """The recommender of a run, or one saved on its own, and item titles where the run has them.

    Args:
        path: a run directory, or a directory that :meth:`Recommender.save` wrote.

    Raises:
        CheckpointError: there is neither, or it is damaged.
    """
    path = Path(path)
    folder = next((p for p in (path, path / "recommender") if (p / "recommender.json").exists()), None)
    if folder is None:
        read_meta(path)
        raise CheckpointError(f"{path}: holds no recommender yet; finish the training (--resume)")
    # A run's own recommender/ may be named directly, too.
    file = (path if folder != path else path.absolute().parent) / "titles.json"
    titles: Any = {}
    if folder.absolute().name == "recommender" and file.exists():
        titles = read_json(file, CheckpointError)
        if not (isinstance(titles, dict) and all(isinstance(v, str) for v in titles.values())):
            raise CheckpointError(
                f"{file}: expected titles by item id; remove the file, only titles are lost"
            )
    return Recommender.load(folder), titles


def _made(kind: type[C], owner: str, options: Mapping[str, Any]) -> C:
    try:
        return kind(**options)
    except ConfigError as cause:
        raise ConfigError(f"{owner}: {cause}") from None


def _titles(data: Dataset) -> dict[str, str]:
    """The beginning of each item's text: its first sentence, cut to a line."""
    titles = {}
    for item, text in zip(data.items.ids, data.content.get("text", ()), strict=False):
        if text is not None:
            first = " ".join(text.split(". ")[0].split()).removesuffix(".")
            titles[item] = first if len(first) <= TITLE else first[: TITLE - 1].rstrip() + "…"
    return titles


def _commit() -> str | None:
    """Commit of the working directory, ``-dirty`` where files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (result.stdout.strip() or None) if result.returncode == 0 else None


def _dataset(path: Path, facts: _Facts, root: str | Path | None) -> Dataset:
    """The dataset, read where it was, or where ``root`` says it is now."""
    if facts.source is None:
        raise CheckpointError(
            f"{path}: does not record where its dataset was read, as graphrec train does; open it in Python "
            "with open_run(path, data=..., features=...)"
        )
    source = Source(**facts.source.model_dump())
    if root is not None:
        return Source.of(source.dataset if source.dataset in READERS else root, root, source.options).read()
    if source == Source(COPY):
        return Dataset.load(path / COPY)
    return source.read()


def _tables(path: Path, facts: _Facts, data: Dataset, store: str | Path | None) -> dict[str, FeatureTable]:
    """The recorded tables, from the feature store they came from."""
    if not facts.features:
        return {}
    where = store if store is not None else facts.store
    if where is None or set(facts.keys) != set(facts.features):
        raise CheckpointError(
            f"{path}: was trained with {' and '.join(facts.features)} features and does not record where all "
            "of them are; name their store (--store), or open it in Python with open_run(path, features=...)"
        )
    known = FeatureStore(where)
    others = {str(row["field"]) for row in known.status(data)} | set(data.content)
    choose: dict[str, str | None] = {f: facts.keys.get(f) for f in others | set(facts.keys)}
    try:
        return known.of(data, **choose)
    except FeatureError as cause:
        raise FeatureError(f"{path}: its features cannot be opened again: {cause}") from cause


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path / 'run.json'}: not what training wrote ({what}); restore the file or train again"
    )
