"""Runs fitted on all interactions: what they learn from and for how long, what is recorded and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graphrec import runs
from graphrec.core.errors import CheckpointError, ConfigError, FeatureError
from graphrec.features import TRAIN_FINGERPRINT, FeatureTable
from graphrec.models.base import Model
from graphrec.runs.comparison import compare
from graphrec.testing import communities
from graphrec.training import checkpoint

OPTIONS = {"epochs": 6, "batch_size": 64, "learning_rate": 0.05, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def shop():
    data, features = communities(2, 20)
    first = np.arange(len(data.test)) % 2 == 0
    return data.with_splits(data.train, data.test.where(first), data.test.where(~first)), features


def weights(run: Path, name: str = "last"):
    return load_file(checkpoint.open_committed(run / name).file("model"))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_stopped_at_the_best_epoch_has_its_weights(shop, tmp_path, schedule) -> None:
    """Also with a schedule, which spans the epochs of the run and not those until the best."""
    options = {**OPTIONS, "schedule": schedule, "learning_rate": 0.2}
    whole = runs.train("mf", shop[0], train_options=options, out=tmp_path / "whole")
    assert 0 < whole.best_epoch < 6, "otherwise nothing is tested"
    stopped = runs.train(
        "mf",
        shop[0],
        train_options={**options, "stop_after": whole.best_epoch},
        out=tmp_path / "stopped",
        select=runs.NONE,
    )
    assert len(stopped.history) == whole.best_epoch
    best = weights(tmp_path / "whole", "best")
    found = weights(tmp_path / "stopped")
    assert all(torch.equal(best[name], found[name]) for name in best)


@pytest.mark.parametrize("model", ["lightgcn", "vbpr", "itemknn", "popularity"])
def test_a_final_run_knows_all_interactions(shop, tmp_path, model) -> None:
    data, features = shop
    features = features if model == "vbpr" else None
    run = runs.train(model, data, features, train_options=OPTIONS, out=tmp_path / "run", seed=3)
    fitted = runs.fit_final(tmp_path / "run", out=tmp_path / "final", features=features)
    meta = runs.read_meta(tmp_path / "final")
    assert meta["origin"] == {
        "run": str(tmp_path / "run"),
        "epochs": run.best_epoch,
        "select": "recall@20",
        "value": run.best_value,
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "interactions": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
    }
    assert len([h for h in fitted.history if h["epoch"]]) == run.best_epoch
    opened = runs.open_run(tmp_path / "final", features=features)
    assert len(opened.data.train) == len(data.train) + len(data.valid) + len(data.test)
    assert not len(opened.data.valid) + len(opened.data.test)
    before = runs.read_meta(tmp_path / "run")
    assert meta["model_config"] == before["model_config"]
    changed = {k: v for k, v in meta["train_config"].items() if before["train_config"][k] != v}
    assert changed == ({"stop_after": run.best_epoch} if run.best_epoch else {})
    # The same model, trained on everything without this function.
    by_hand = runs.train(
        model,
        runs.everything(data),
        features,
        train_options={**OPTIONS, "epochs": max(1, run.best_epoch)},
        out=tmp_path / "by-hand",
        seed=3,
        select=runs.NONE,
    )
    assert len(by_hand.history) == len(fitted.history)
    expected = weights(tmp_path / "by-hand")
    found = weights(tmp_path / "final")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(
        not torch.equal(expected[name], value)
        for name, value in weights(checkpoint.selected(tmp_path / "run").parent).items()
        if value.shape == expected[name].shape
    ) or model in ("itemknn", "popularity")
    recommender, _ = runs.open_recommender(tmp_path / "final")
    user = data.users[int(data.test.users[0])]
    items, _ = recommender.recommend(user, 5)
    known = {data.items[int(i)] for part in (data.train, data.valid, data.test)
             for i in part.items_of(int(data.test.users[0]))}  # fmt: skip
    assert not known & set(items)


def test_a_final_run_is_not_evaluated_compared_or_fitted_again(shop, tmp_path, monkeypatch) -> None:
    runs.train("popularity", shop[0], out=tmp_path / "run")
    runs.fit_final(tmp_path / "run", out=tmp_path / "final")
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'final'}.*{tmp_path / 'run'}"):
        compare([tmp_path / "final"])
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'final'}.*{tmp_path / 'run'}"):
        runs.fit_final(tmp_path / "final", out=tmp_path / "again")
    with pytest.raises(CheckpointError, match="already holds a run"):
        runs.fit_final(tmp_path / "run", out=tmp_path / "final")
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_fitted_on_everything_is_refused(shop, tmp_path, monkeypatch) -> None:
    data, features = shop
    runs.train("vbpr", data, features, train_options=OPTIONS, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"epochs.*run"):
        runs.fit_final(tmp_path / "run", out=tmp_path / "x", features=features, train_options={"epochs": 9})
    of_train = {}
    for field, table in features.items():
        meta = {**table.meta, "extractor": {"name": "llm", TRAIN_FINGERPRINT: data.train.fingerprint}}
        of_train[field] = FeatureTable(table.values, table.present, meta)
    with pytest.raises(FeatureError, match=r"run: its (image|text) features"):
        runs.fit_final(tmp_path / "run", out=tmp_path / "x", features=of_train)
    monkeypatch.setattr(Model, "reads_valid", True)
    with pytest.raises(ConfigError, match="vbpr"):
        runs.fit_final(tmp_path / "run", out=tmp_path / "x", features=features)
    monkeypatch.undo()
    state = checkpoint.read(tmp_path / "run" / "last")
    model = runs.open_run(tmp_path / "run", features=features).model
    checkpoint.write(tmp_path / "run/last", 6, model, training={**state["training"], "done": False})
    with pytest.raises(CheckpointError, match=r"run: .*epoch 6"):
        runs.fit_final(tmp_path / "run", out=tmp_path / "x", features=features)
    assert not (tmp_path / "x").exists()


def test_models_that_read_the_validation_split_say_so() -> None:
    """A model whose build or batches read ``data.valid`` cannot be fitted where it is empty."""
    from graphrec.models import MODELS, model

    assert [name for name in MODELS if model(name).reads_valid] == ["scpr"]
