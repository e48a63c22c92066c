"""Reads ``run.json``, and opens the dataset and features that it records, if they are unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from graphrec.core.bundle import read_sealed
from graphrec.core.errors import CheckpointError, FeatureError, nearest
from graphrec.data import Dataset
from graphrec.data.readers import READERS
from graphrec.features import FeatureStore, FeatureTable
from graphrec.models.base import Features
from graphrec.runs.source import Source

ORIGIN = "origin"
"""Entry of ``run.json`` by which a run that was fitted on all interactions is known."""
COPY = "dataset"
"""Folder in a run directory for a dataset that was given as an object."""


class _TrainedDataset(BaseModel):
    """Identifies the dataset of a run."""

    name: str
    fingerprint: str


class RunRecord(BaseModel):
    """The part of ``run.json`` that is needed to open a run and to train it again."""

    model: str
    config: dict[str, Any] = Field(alias="model_config")
    """Options of the model, all of them."""
    training: dict[str, Any] = Field(default_factory=dict, alias="train_config")
    """Options of the training, all of them."""
    dataset: _TrainedDataset
    features: dict[str, str] = Field(default_factory=dict)
    """sha256 by field."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Key in the feature store by field."""
    store: str | None = None
    source: Source | None = None
    select: str | None = None
    """Metric selected on, or ``"none"``; None where a Trainer of its own trained it."""
    device: dict[str, Any] = Field(default_factory=dict)
    """What it was trained on, see :func:`graphrec.core.environment.device_facts`."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Versions and hardware it was trained with, last if it was resumed."""
    earlier_environments: list[dict[str, Any]] = Field(
        default_factory=list, validation_alias=AliasChoices("earlier_environments", "sittings")
    )
    """Device and environment before each resumption under others; ``sittings`` in records of 2026-11."""


def read_meta(path: str | Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        CheckpointError: no run there (the nearest one is named), or its ``run.json`` is damaged.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        siblings = sorted(p.parent.name for p in path.parent.glob("*/run.json"))
        hint = f"; {path.parent} has {siblings}.{nearest(path.name, siblings)}" if siblings else ""
        raise CheckpointError(
            f"{path}: no run there (no run.json); expected a directory that graphrec train wrote{hint}"
        )
    return read_sealed(path / "run.json", "train again")


def read_record(path: str | Path) -> RunRecord:
    """The validated record of a run.

    Raises:
        CheckpointError: no run there (the nearest one is named), its ``run.json`` is damaged, or it is of a
            Trainer of its own and does not record its dataset (see :func:`graphrec.runs.save_run`).
    """
    path = Path(path)
    meta = read_meta(path)
    if "model" in meta and "dataset" not in meta:
        raise CheckpointError(
            f"{path}: a run of {meta['model']!r} by a Trainer of its own, which does not record its dataset; "
            f"complete it in Python: graphrec.save_run({str(path)!r}, data, features, store=store), with the "
            "dataset and the tables that the model was built with"
        )
    try:
        return RunRecord.model_validate(meta)
    except ValidationError as cause:
        first = cause.errors()[0]
        raise damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from cause


def refuse_final(path: Path, meta: Mapping[str, Any], action: str) -> None:
    """Refuses a run that was fitted on all interactions.

    Args:
        path: the run directory.
        meta: the content of its ``run.json``.
        action: what it is refused for, such as ``"evaluated"``.

    Raises:
        CheckpointError: it is such a run; names the run it comes from.
    """
    if meta.get(ORIGIN):
        origin = dict(meta[ORIGIN]).get("run")
        raise CheckpointError(
            f"{path}: cannot be {action}, as it was fitted on all interactions and none is held out; use the "
            f"run it comes from, {origin}"
        )


def extractor_name(recorded: Any) -> str:
    """Name of an extractor from what a run or a feature table records of it."""
    return str(recorded.get("name", "unknown")) if isinstance(recorded, Mapping) else str(recorded)


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a ``run.json`` with invalid values."""
    return CheckpointError(
        f"{path / 'run.json'}: not what training wrote ({what}); restore the file or train again"
    )


def inputs_of(
    path: str | Path,
    *,
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
) -> tuple[Dataset, dict[str, FeatureTable]]:
    """The dataset a run was trained on and the tables it was built with, refused if they have changed since.

    Arguments and errors are those of :func:`open_run`; there need be no checkpoint.
    """
    path = Path(path)
    facts = read_record(path)
    if data is None:
        source = source_of(path, facts, root)
        data = Dataset.load(path / COPY) if source == Source(COPY) else source.read()
    if data.fingerprint != facts.dataset.fingerprint:
        raise CheckpointError(
            f"{path}: was trained on {facts.dataset.name} {facts.dataset.fingerprint[:12]}…, the dataset as "
            f"read now is {data.name} {data.fingerprint[:12]}… (fingerprints): ids or splits have changed; "
            "restore them or train again"
        )
    tables = dict(features) if features is not None else _tables(path, facts, data, store)
    changed = [f for f, sha256 in facts.features.items() if f not in tables or tables[f].sha256 != sha256]
    if changed:
        now = ", ".join(f"{f} {tables[f].sha256[:12]}…" if f in tables else f"no {f}" for f in changed)
        was = ", ".join(f"{f} {facts.features[f][:12]}…" for f in changed)
        raise CheckpointError(
            f"{path}: was trained with the features {was} (sha256), and now there are {now}; restore them or "
            "train again"
        )
    return data, {field: tables[field] for field in facts.features}


def source_of(path: Path, facts: RunRecord, root: str | Path | None = None) -> Source:
    """The recorded source of a run's dataset, with ``root`` if the dataset has been moved.

    Raises:
        CheckpointError: no source is recorded.
    """
    if facts.source is None:
        raise CheckpointError(
            f"{path}: does not record where its dataset was read, as graphrec train does; open it in Python "
            "with open_run(path, data=..., features=...)"
        )
    source = facts.source
    if root is None:
        return source
    return Source.create(source.dataset if source.dataset in READERS else root, root, source.options)


def _tables(path: Path, facts: RunRecord, data: Dataset, store: str | Path | None) -> dict[str, FeatureTable]:
    """The recorded tables, from the feature store they came from."""
    if not facts.features:
        return {}
    where = store if store is not None else facts.store
    if where is None or set(facts.keys) != set(facts.features):
        raise CheckpointError(
            f"{path}: was trained with {' and '.join(facts.features)} features and does not record where all "
            "of them are; name their store (--store), or open it in Python with open_run(path, features=...)"
        )
    feature_store = FeatureStore(where)
    fields = {str(row["field"]) for row in feature_store.status(data)} | set(data.content) | set(facts.keys)
    try:
        return feature_store.load_tables(data, **{field: facts.keys.get(field) for field in fields})
    except FeatureError as cause:
        raise FeatureError(f"{path}: its features cannot be opened again: {cause}") from cause
