"""Runs: resumed, not overwritten, opened elsewhere, and refused when what they rest on has changed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrec import runs
from graphrec.core.errors import CheckpointError
from graphrec.data import Dataset
from graphrec.evaluation.ranking import RankingTask
from graphrec.features import FeatureStore

Command = Callable[..., Any]
Refused = Callable[..., str]

SMALL = ("--set", "train.epochs=2", "--set", "train.device=cpu", "--set", "model.dim=8")


def test_a_run_is_not_overwritten_by_accident(there: Path, refused: Refused) -> None:
    before = Path("runs/freedom/run.json").read_bytes()
    message = refused("train", "freedom", "shop/dataset", "--out", "runs/freedom", *SMALL)
    assert "runs/freedom already holds a run" in message
    assert "--resume" in message
    other = refused("train", "lightgcn", "shop/dataset", "--out", "runs/freedom", *SMALL, "--resume")
    assert "holds another run" in other
    selects = refused(
        "train", "freedom", "shop/dataset", "--out", "runs/freedom", *SMALL, "--resume", "--select", "ndcg@10"
    )
    assert "recall@20" in selects
    assert Path("runs/freedom/run.json").read_bytes() == before


def test_a_resumed_run_equals_a_straight_one(
    copy: Path, graphrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("train", "lightgcn", "shop/dataset", *SMALL[2:], "--set", "train.epochs=4")
    assert graphrec(*arguments, "--out", "straight").code == 0
    train = runs.train

    def interrupted(*inputs: Any, **options: Any) -> Any:
        def stop(record: dict[str, float]) -> None:
            if record["epoch"] == 2:
                signal.raise_signal(signal.SIGINT)

        return train(*inputs, **{**options, "on_epoch": stop})

    monkeypatch.setattr(runs, "train", interrupted)
    first = graphrec(*arguments, "--out", "stopped")
    assert first.code == 130
    assert first.err.strip().splitlines()[-1] == "interrupted; resume with --resume"
    monkeypatch.setattr(runs, "train", train)
    assert len(Path("stopped/metrics.jsonl").read_text().splitlines()) == 2
    assert not Path("stopped/recommender").exists()
    assert graphrec(*arguments, "--out", "stopped", "--resume").code == 0
    one, other = (runs.open_run(p).model.state_dict() for p in ("straight", "stopped"))
    assert all(np.array_equal(one[k].numpy(), other[k].numpy()) for k in one)
    done = graphrec(*arguments, "--out", "stopped", "--resume")
    assert "finished already" in done.out


def test_without_validation_the_last_epoch_counts(copy: Path, graphrec: Command) -> None:
    answer = graphrec("train", "mf", "shop/dataset", *SMALL, "--select", "none", "--out", "r")
    assert answer.code == 0
    assert not Path("r/best").exists()
    assert runs.open_run("r").meta["select"] == "none"


def test_some_users_can_stand_for_all_in_validation(copy: Path, graphrec: Command) -> None:
    given = ("--set", "train.validate_users=5", "--seed", "3")
    assert graphrec("train", "mf", "shop/dataset", *SMALL, *given, "--out", "r").code == 0
    data, best = Dataset.load("shop/dataset"), runs.open_run("r").model
    some = data.valid.sample_users(5, seed=3)
    assert len(np.unique(some.users)) == 5
    expected = RankingTask(some, seen=data.train)(best)["recall@20"]
    told = max(json.loads(line)["recall@20"] for line in Path("r/metrics.jsonl").read_text().splitlines())
    assert told == pytest.approx(expected)
    assert told != pytest.approx(RankingTask(data.valid, seen=data.train)(best)["recall@20"])
    wrong = graphrec("train", "mf", "shop/dataset", "--set", "train.validate_users=0")
    assert wrong.code == 2
    assert "validate_users = 0" in wrong.err


def test_moved_data_and_store_are_found_when_named(copy: Path, graphrec: Command, refused: Refused) -> None:
    expected = graphrec("evaluate", "runs/freedom").out
    Path("cache").rename("elsewhere")
    assert "features" in refused("evaluate", "runs/freedom")
    Path("shop/dataset").rename("moved")
    assert "dataset" in refused("evaluate", "runs/freedom", "--store", "elsewhere")
    again = graphrec("evaluate", "runs/freedom", "--store", "elsewhere", "--root", "moved")
    assert again.out == expected


def test_other_data_or_features_are_refused(copy: Path, refused: Refused, graphrec: Command) -> None:
    data = Dataset.load("shop/dataset")
    tables = FeatureStore("cache").load_tables(data)
    other = {**tables, "image": tables["text"]}
    with pytest.raises(CheckpointError, match="trained with the features image"):
        runs.open_run("runs/freedom", data=data, features=other)
    graphrec("data", "generate", "shop", "--items", 60, "--users", 80, "--seed", 1)
    message = refused("evaluate", "runs/freedom")
    assert data.fingerprint[:12] in message
    assert "runs/freedom" in message


def test_a_dataset_given_as_an_object_is_kept_in_the_run(tmp_path: Path) -> None:
    from graphrec.testing import communities

    data, features = communities(2, 20)
    data = data.with_splits(data.train, data.test, data.valid)
    options = {"epochs": 1, "device": "cpu"}
    runs.train("freedom", data, features, train_options=options, out=tmp_path / "r", seed=3)
    with pytest.raises(CheckpointError, match="--store"):
        runs.open_run(tmp_path / "r")
    opened = runs.open_run(tmp_path / "r", features=features)
    assert opened.data == data
    assert (opened.meta["model_config"]["seed"], opened.meta["train_config"]["seed"]) == (3, 3)
    (tmp_path / "r").rename(tmp_path / "moved")
    assert runs.open_run(tmp_path / "moved", features=features).data == data


def test_a_final_run_is_made_served_and_not_evaluated(copy, graphrec, refused) -> None:
    answer = graphrec("fit-final", "runs/freedom", "--out", "runs/final", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert str(copy / "runs/freedom") in answer.out
    assert graphrec("recommend", "runs/final", "--user", "U00001", "-k", "3").code == 0
    assert graphrec("similar", "runs/final", "--item", "P0001", "-k", "3").code == 0
    for command in (("evaluate",), ("evaluate", "--split", "valid"), ("compare",)):
        message = refused(*command, "runs/final")
        assert str(copy / "runs/freedom") in message
    assert "already holds a run" in refused("fit-final", "runs/freedom", "--out", "runs/final")
    assert graphrec("fit-final", "runs/freedom", "--out", "runs/final", "--resume").code == 0
