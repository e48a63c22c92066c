"""Trains a recorded run again on all interactions, held-out ones included, before it is served.

Options and number of epochs are those that were selected on validation; nothing is selected anew, so there is
nothing left to evaluate the result on. What the recorded run measures on test stays the estimate of its
quality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import CheckpointError, ConfigError, FeatureError
from graphrec.data import Dataset
from graphrec.data.interactions import SPLIT_NAMES
from graphrec.features.table import TRAIN_FINGERPRINT
from graphrec.models.base import Features
from graphrec.runs.record import inputs_of, read_meta, read_record, refuse_final
from graphrec.runs.run import configure, train
from graphrec.runs.source import NONE
from graphrec.training import run_directory
from graphrec.training.trainer import Run


def fit_final(
    path: str | Path,
    *,
    out: str | Path,
    train_options: Mapping[str, Any] | None = None,
    data: Dataset | None = None,
    features: Features | None = None,
    root: str | Path | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Run:
    """Trains on train, valid and test with the options and the best epoch of a finished run.

    The new run directory holds a copy of the dataset and records the run it comes from (``origin``). It is
    served and recommends as any other, and is refused by evaluations.

    Args:
        path: the recorded run, or a study of ``graphrec tune``, whose best trial is taken.
        out: the new run directory.
        train_options: options of training that do not affect results, such as ``device``.
        data: the dataset of the recorded run; default: read from where it was.
        features: its tables by field; default: read from the store they came from.
        root: where the dataset is now, if it has moved.
        store: where the feature store is now, if it has moved.
        resume: resume from the last checkpoint in ``out``.
        on_epoch: called with each epoch's record.

    Raises:
        CheckpointError: no run, one that is not finished, damaged or a final one itself; or ``out`` holds
            another run.
        ConfigError: the model learns from validation interactions, or an option affects results.
        FeatureError: a feature table was computed from the training split alone.
    """
    path = _run_of(Path(path))
    meta = read_meta(path)
    record = read_record(path)
    refuse_final(path, meta, "fitted again")
    cls, _, recorded = configure(record.model, record.config, record.training)
    if cls.reads_valid:
        raise ConfigError(
            f"{path}: {record.model} takes what it learns from out of the validation split, so there is none "
            "left to add; serve the run as it is"
        )
    changed = [name for name in train_options or {} if type(recorded).affects_result(name)]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)}: options that affect results are those of {path}; train with others first"
        )
    state = run_directory.read_state(path)
    if not state.done:
        raise CheckpointError(
            f"{path}: its training is not finished (epoch {len(state.history)}), so the best epoch is not "
            "known; finish it (--resume)"
        )
    data, tables = inputs_of(path, data=data, features=features, root=root, store=store)
    for field, table in tables.items():
        if dict(table.meta.get("extractor") or {}).get(TRAIN_FINGERPRINT) is not None:
            raise FeatureError(
                f"{path}: its {field} features were computed from the training split alone, so they differ "
                "from those of all interactions; build them for a dataset without held-out interactions and "
                f"train on it with: --select {NONE} --set train.epochs={max(1, state.best_epoch)}"
            )
    origin = {
        "run": str(path.absolute()),
        "epochs": state.best_epoch,
        "select": record.select,
        "value": state.best_value,
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "interactions": {name: len(getattr(data, name)) for name in SPLIT_NAMES},
    }
    # The schedule spans the recorded number of epochs, and stops where the best one was.
    options = {**recorded.model_dump(), **(train_options or {})}
    if state.best_epoch:  # closed-form models train for none
        options["stop_after"] = state.best_epoch
    return train(
        record.model,
        everything(data),
        tables or None,
        model_options=record.config,
        train_options=options,
        out=out,
        seed=int(meta.get("seed", recorded.seed)),
        select=NONE,
        resume=resume,
        store=store if store is not None else record.store,
        origin=origin,
        on_epoch=on_epoch,
    )


def everything(data: Dataset) -> Dataset:
    """The dataset with all interactions in train, and empty valid and test splits."""
    interactions = data.train + data.valid + data.test
    none = np.zeros(len(interactions), dtype=bool)
    return data.with_splits(
        interactions.where(~none, "train"),
        interactions.where(none, "valid"),
        interactions.where(none, "test"),
        split={"name": "everything", "before": data.meta.get("split")},
    )


def _run_of(path: Path) -> Path:
    """The run itself, or the best trial of a study."""
    from graphrec.runs.tuning.study import STUDY, read_study

    if not (path / STUDY).exists():
        return path
    return read_study(path).best.path
