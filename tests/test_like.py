"""A recorded run trained again: equal to the last bit, or refused, or told what it differs in and why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphrec import runs
from graphrec.core import environment
from graphrec.core.bundle import write_sealed
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data import Dataset
from graphrec.features import FeatureTable
from graphrec.runs import repeat
from graphrec.runs.repeat import train_like
from graphrec.testing import communities
from graphrec.training import checkpoint

OPTIONS = {"epochs": 3, "batch_size": 256, "learning_rate": 0.02, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def catalog() -> tuple[Dataset, dict[str, FeatureTable]]:
    data, features = communities(2, 20)
    return data.with_splits(data.train, data.test, data.valid), features


@pytest.fixture
def trained(catalog: tuple[Dataset, Any], tmp_path: Path) -> Path:
    """A finished run of FREEDOM, whose dataset was given as an object."""
    return finish(catalog, tmp_path / "run")


def finish(catalog: tuple[Dataset, Any], out: Path, model: str = "freedom", **more: Any) -> Path:
    data, features = catalog
    options = {"model_options": {"dim": 8}, "train_options": OPTIONS, "seed": 3, **more}
    runs.train(model, data, features, out=out, **options)
    return out


def rewrite(run: Path, **changes: Any) -> None:
    """Changes what ``run.json`` says, properly sealed."""
    facts = json.loads((run / "run.json").read_text())
    del facts["seal"]
    write_sealed(run / "run.json", {**facts, **changes})


def rewrite_history(run: Path, epoch: int, **changes: float) -> None:
    """Changes what the last checkpoint says of an epoch, properly committed."""
    model = torch.nn.Linear(1, 1)
    head = checkpoint.read(run / "last")
    for record in head["training"]["history"]:
        if record["epoch"] == epoch:
            record.update(changes)
    checkpoint.write(run / "last", head["step"], model, training=head["training"])


def weights(run: Path, part: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    name = json.loads((run / part / "state.json").read_text())["files"]["model"]["name"]
    return dict(load_file(run / part / name))


def metrics(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds")} for line in lines]


# -- the same ------------------------------------------------------------------------------------------------


def test_a_repeated_run_is_equal_to_the_last_bit(catalog: tuple[Dataset, Any], trained: Path) -> None:
    again = train_like(trained, features=catalog[1])
    assert again.run.out == trained.with_name("run-again")
    assert again.equal is True
    assert again.changed == {}
    assert (again.epochs, again.unequal, again.weights) == (3, {}, True)
    assert "to the last bit" in str(again)
    assert metrics(again.run.out) == metrics(trained)
    for part in ("best", "last"):
        one, other = weights(trained, part), weights(again.run.out, part)
        assert one.keys() == other.keys()
        assert all(one[k].tobytes() == other[k].tobytes() for k in one)
    facts = [runs.read_record(p) for p in (trained, again.run.out)]
    assert facts[0].config == facts[1].config
    assert facts[0].training == facts[1].training
    assert facts[0].features == facts[1].features


@pytest.mark.parametrize(
    ("model", "select"), [("popularity", "recall@20"), ("mf", "none"), ("mf", "ndcg@10")]
)
def test_what_was_selected_on_is_repeated_too(
    catalog: tuple[Dataset, Any], tmp_path: Path, model: str, select: str
) -> None:
    options = {"model_options": {}, "select": select}
    run = finish(catalog, tmp_path / "r", model, **options)
    again = train_like(run)
    assert again.equal is True, str(again)
    assert again.select == runs.read_meta(again.run.out)["select"] == select


def test_a_run_that_was_interrupted_is_compared_as_far_as_it_went(
    catalog: tuple[Dataset, Any], tmp_path: Path
) -> None:
    def stop(record: dict[str, float]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(catalog, tmp_path / "run", on_epoch=stop)
    again = train_like(tmp_path / "run", data=catalog[0], features=catalog[1])
    assert (again.equal, again.epochs, again.weights) == (True, 2, None)
    assert len(again.run.history) == 3
    assert "2 epochs, all that it has" in str(again)


def test_a_repetition_can_be_interrupted_and_resumed(catalog: tuple[Dataset, Any], trained: Path) -> None:
    def stop(record: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_like(trained, features=catalog[1], on_epoch=stop)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_like(trained, features=catalog[1])
    again = train_like(trained, features=catalog[1], resume=True)
    assert again.equal is True
    assert len(again.run.history) == 3


# -- what is recorded ----------------------------------------------------------------------------------------


def test_a_run_records_what_it_takes_to_repeat_it(trained: Path) -> None:
    meta = runs.read_meta(trained)
    assert {
        "model",
        "model_config",
        "train_config",
        "seed",
        "select",
        "dataset",
        "features",
        "source",
    } <= set(meta)
    assert meta["device"]["device"] == "cpu"
    assert meta["device"]["name"]
    assert meta["device"]["threads"] == meta["environment"]["threads"] == torch.get_num_threads()
    assert meta["device"]["precision"] == "no"
    assert meta["environment"].keys() >= {
        "python",
        "packages",
        "platform",
        "processor",
        "instructions",
        "source",
    }
    assert meta["environment"]["packages"].keys() >= {
        "graphrec",
        "torch",
        "numpy",
        "scipy",
        "torch-geometric",
    }
    assert set(meta["extractors"]) == set(meta["features"]) == {"image", "text"}
    assert "commit" in meta
    assert "dataset_meta" in meta


def test_a_run_gets_as_many_threads_as_it_had(
    catalog: tuple[Dataset, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(trained, environment={**runs.read_record(trained).environment, "threads": 2})
    before = torch.get_num_threads()
    assert before != 2
    again = train_like(trained, features=catalog[1])
    assert runs.read_record(again.run.out).environment["threads"] == 2
    assert torch.get_num_threads() == before


def test_a_run_on_a_cpu_stays_on_the_cpu(catalog: tuple[Dataset, Any], tmp_path: Path) -> None:
    """``auto`` came to a CPU then; where there is a GPU now it would come to that."""
    run = finish(catalog, tmp_path / "run", train_options={**OPTIONS, "device": "cpu"})
    facts = runs.read_record(run)
    rewrite(run, train_config={**facts.training, "device": "auto"})
    again = train_like(run, features=catalog[1])
    assert runs.read_record(again.run.out).training["device"] == "cpu"
    assert (again.changed, again.equal) == ({}, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_run_on_a_gpu_that_is_not_here_is_refused_or_moved(
    catalog: tuple[Dataset, Any], trained: Path
) -> None:
    rewrite(trained, device={"device": "cuda:0", "name": "a large GPU", "threads": 1, "precision": "no"})
    with pytest.raises(ConfigError, match=r"a large GPU.*--device cpu"):
        train_like(trained, features=catalog[1])
    again = train_like(trained, features=catalog[1], train_options={"device": "cpu"})
    assert again.changed == {}
    assert "device cuda:0 there, cpu here" in again.differences
    assert not again.on_cpu


# -- the same but --------------------------------------------------------------------------------------------


def test_another_seed_or_option_is_the_only_change(catalog: tuple[Dataset, Any], trained: Path) -> None:
    seeded = train_like(trained, features=catalog[1], seed=5)
    assert seeded.run.out == trained.with_name("run-seed-5")
    assert seeded.changed == {"model.seed": (3, 5), "train.seed": (3, 5)}
    assert seeded.equal is None
    assert "3 -> 5" in str(seeded)
    assert not np.array_equal(
        weights(trained, "last")["user_embedding.weight"],
        weights(seeded.run.out, "last")["user_embedding.weight"],
    )
    wider = train_like(trained, features=catalog[1], model_options={"dim": 12}, select="ndcg@10")
    assert wider.run.out == trained.with_name("run-changed")
    assert wider.changed == {"model.dim": (8, 12), "select": ("recall@20", "ndcg@10")}
    facts = [runs.read_record(p) for p in (trained, wider.run.out)]
    assert facts[1].config == {**facts[0].config, "dim": 12}
    assert facts[1].training == facts[0].training


def test_an_option_given_its_recorded_value_changes_nothing(
    catalog: tuple[Dataset, Any], trained: Path
) -> None:
    again = train_like(
        trained, features=catalog[1], seed=3, model_options={"dim": 8}, train_options={"progress": False}
    )
    assert (again.changed, again.equal) == ({}, True)
    assert again.run.out == trained.with_name("run-again")


def test_an_unknown_option_names_the_nearest(catalog: tuple[Dataset, Any], trained: Path) -> None:
    with pytest.raises(ConfigError, match="'dim'"):
        train_like(trained, features=catalog[1], model_options={"dmi": 8})
    with pytest.raises(ConfigError, match="'recall'"):
        train_like(trained, features=catalog[1], select="recal@20")
    assert not trained.with_name("run-changed").exists()


# -- not the same --------------------------------------------------------------------------------------------


def test_a_metric_that_differs_in_the_last_bit_is_named(
    catalog: tuple[Dataset, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = runs.read_record(trained)
    rewrite(trained, environment={**was.environment, "source": None})
    monkeypatch.setattr(
        "graphrec.training.run_directory.environment", lambda: {**environment.environment(), "source": None}
    )
    loss = checkpoint.read(trained / "last")["training"]["history"][1]["loss/bpr"]
    rewrite_history(trained, 2, **{"loss/bpr": float(np.nextafter(loss, 1.0))})
    again = train_like(trained, features=catalog[1])
    assert again.equal is False
    assert set(again.unequal) == {2}
    assert again.unequal[2][0] == "loss/bpr"
    assert again.unexplained, again.differences
    assert "nothing that is recorded differs" in str(again)


def test_weights_that_differ_are_seen(catalog: tuple[Dataset, Any], trained: Path) -> None:
    opened = runs.open_run(trained, features=catalog[1])
    step = checkpoint.read(trained / "best")["step"]
    with torch.no_grad():
        opened.model.user_embedding.weight[0, 0] += 1e-6
    checkpoint.write(trained / "best", step, opened.model, value=0.0)
    again = train_like(trained, features=catalog[1])
    assert (again.equal, again.unequal, again.weights) == (False, {}, False)
    assert "not the selected weights" in str(again)


def test_versions_and_processor_are_named_as_what_may_be_to_blame(
    catalog: tuple[Dataset, Any], trained: Path
) -> None:
    was = runs.read_record(trained).environment
    older = {
        **was,
        "packages": {**was["packages"], "torch": "1.0.0", "gone": "2.0"},
        "processor": "an abacus",
    }
    rewrite(trained, environment=older)
    rewrite_history(trained, 1, **{"recall@20": 0.123})
    again = train_like(trained, features=catalog[1])
    assert again.equal is False
    assert not again.unexplained
    for phrase in (
        "torch 1.0.0 there",
        "gone 2.0 there, none here",
        "processor an abacus there",
        "0.123 there",
    ):
        assert phrase in str(again)


def test_a_sitting_under_another_version_is_not_forgotten(
    catalog: tuple[Dataset, Any], tmp_path: Path
) -> None:
    first = {**OPTIONS, "epochs": 1}
    run = finish(catalog, tmp_path / "run", train_options=first)
    was = runs.read_record(run).environment
    rewrite(run, environment={**was, "packages": {**was["packages"], "torch": "1.0.0"}})
    finish(catalog, run, resume=True)
    facts = runs.read_record(run)
    assert facts.environment["packages"]["torch"] != "1.0.0"
    assert [s["environment"]["packages"]["torch"] for s in facts.earlier_environments] == ["1.0.0"]
    finish(catalog, run, resume=True)
    assert runs.read_record(run).earlier_environments == facts.earlier_environments, (
        "the environment is the same"
    )
    again = train_like(run, features=catalog[1])
    assert again.equal is True
    assert any("torch 1.0.0 there" in d and "before it was resumed" in d for d in again.differences)


def test_differences_say_nothing_about_what_one_side_does_not_record() -> None:
    now = environment.environment()
    now["source"] = None
    assert environment.differences(now, now) == []
    assert environment.differences({}, now) == []
    assert environment.differences({**now, "cuda": "x"}, now) == []
    assert environment.differences({**now, "cuda": "x"}, now, cuda=True) != []
    dirty = {**now, "source": "0123abc-dirty"}
    assert "no commit holds" in environment.differences(dirty, dirty)[0]
    assert "there" in environment.differences({**now, "source": "0123abc"}, now)[0]


# -- refused -------------------------------------------------------------------------------------------------


def test_changed_data_and_features_are_refused(catalog: tuple[Dataset, Any], trained: Path) -> None:
    data, features = catalog
    with pytest.raises(CheckpointError, match="trained with the features image"):
        train_like(trained, features={**features, "image": features["text"]})
    replace(data, valid=data.test, test=data.valid).save(trained / "dataset")
    with pytest.raises(CheckpointError, match="fingerprints"):
        train_like(trained, features=features)
    assert not trained.with_name("run-again").exists()


def test_a_broken_record_is_refused(catalog: tuple[Dataset, Any], trained: Path) -> None:
    whole = (trained / "run.json").read_bytes()
    (trained / "run.json").write_bytes(whole.replace(b'"freedom"', b'"freedon"'))
    with pytest.raises(CheckpointError, match="not what was written"):
        train_like(trained, features=catalog[1])
    (trained / "run.json").write_bytes(whole)
    rewrite(trained, model_config={"dmi": 8})
    with pytest.raises(CheckpointError, match="not what training wrote"):
        train_like(trained, features=catalog[1])
    rewrite(trained, model_config=8)
    with pytest.raises(CheckpointError, match="not what training wrote"):
        train_like(trained, features=catalog[1])


def test_a_run_is_not_repeated_over_itself_or_guessed(
    catalog: tuple[Dataset, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="the run to repeat"):
        train_like(trained, features=catalog[1], out=trained, resume=True)
    monkeypatch.chdir(trained)
    with pytest.raises(CheckpointError, match="the run to repeat"):
        train_like(".", features=catalog[1], out=trained)
    with pytest.raises(CheckpointError, match="Did you mean 'run'"):
        train_like(trained.with_name("rnu"))
    rewrite(trained, select=None)
    with pytest.raises(CheckpointError, match="--select"):
        train_like(trained, features=catalog[1])


def test_the_default_directory_lies_beside_the_run_however_it_is_named(
    catalog: tuple[Dataset, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    again = train_like(".", features=catalog[1])
    assert again.run.out == trained.with_name("run-again")
    assert repeat.AGAIN == "-again"
