"""What follows the first training: runs of a Trainer of one's own, runs of several datasets, tuned trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import graphrec as gr
from graphrec import runs
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.training.trainer import Run

Command = Callable[..., Any]
Refused = Callable[..., str]

SMALL = ("--set", "train.epochs=2", "--set", "train.device=cpu", "--set", "model.dim=8")


def trained(out: Path | None, epochs: int = 2, resume: bool = False) -> tuple[Run, gr.Dataset, Any]:
    """A run as the README makes it; the working directory has shop/dataset and cache."""
    data = gr.Dataset.load("shop/dataset")
    features = gr.FeatureStore("cache").load_tables(data)
    model = gr.models.FREEDOM.build(data, features, gr.models.FREEDOM.Config(dim=8))
    trainer = gr.Trainer(gr.TrainConfig(epochs=epochs, device="cpu", progress=False), out=out)
    task = gr.RankingTask(data.valid, seen=data.train)
    return trainer.fit(model, validate=task, select="recall@20", resume=resume), data, features


def test_a_run_of_a_trainer_is_explained_and_can_be_completed(
    copy: Path, graphrec: Command, refused: Refused
) -> None:
    run, data, features = trained(Path("runs/own"))
    for line in (
        ["evaluate", "runs/own"],
        ["recommend", "runs/own", "--user", data.users[0]],
        ["compare", "runs/own"],
        ["train", "--like", "runs/own"],
    ):
        assert "graphrec.save_run('runs/own', data, features" in refused(*line), line
    listed = graphrec("compare", "runs")
    assert listed.code == 0
    assert "runs/own" in listed.err
    assert gr.save_run(run, data, features, store=gr.FeatureStore("cache")) == Path("runs/own")
    seen = data.train + data.valid
    expected = gr.evaluate(run.model, data.test, seen=seen).mean()["recall@20"]
    told = graphrec("evaluate", "runs/own", "--k", "20", "--metrics", "recall").out
    assert f"{expected:.4f} [" in told
    compared = graphrec("compare", "runs/own", "runs/popularity")
    assert f"{expected:.4f}" in compared.out
    answer = graphrec("recommend", "runs/own", "--user", data.users[0], "-k", "3", "--format", "json")
    ids, _ = gr.Recommender.from_model(run.model, data, features).recommend(data.users[:1], k=3)
    assert [row["item"] for row in json.loads(answer.out)] == list(ids[0])
    assert "to the last bit" in graphrec("train", "--like", "runs/own", "--device", "cpu").out


def test_a_completed_run_goes_on_and_keeps_its_record(copy: Path) -> None:
    run, data, features = trained(Path("runs/own"))
    gr.save_run("runs/own", data, features, store="cache")
    before = runs.read_record("runs/own")
    longer, *_ = trained(Path("runs/own"), epochs=3, resume=True)
    assert [h["epoch"] for h in longer.history] == [1, 2, 3]
    after = runs.read_record("runs/own")
    assert (after.dataset, after.source, after.features) == (before.dataset, before.source, before.features)
    other = data.with_splits(data.train, data.test, data.valid)
    with pytest.raises(CheckpointError, match=f"{data.fingerprint[:12]}.*{other.fingerprint[:12]}"):
        gr.save_run(run, other, features)
    with pytest.raises(ConfigError, match="out="):
        gr.save_run(trained(None)[0], data, features)


def test_a_model_of_ones_own_is_said_to_have_no_registered_name(copy: Path) -> None:
    run, data, features = trained(Path("runs/own"))

    class Mine(type(run.model)):  # type: ignore[misc]
        name = "mine"

    model = Mine.build(data, features, Mine.Config(dim=8))
    assert isinstance(model, nn.Module)
    config = gr.TrainConfig(epochs=1, device="cpu", progress=False)
    mine = gr.Trainer(config, out="runs/mine").fit(model, gr.RankingTask(data.valid, seen=data.train))
    with pytest.raises(CheckpointError, match=r"'mine'.*graphrec\.models"):
        gr.save_run(mine, data, features)


def test_options_that_differ_on_resuming_have_a_line_each(copy: Path, graphrec: Command) -> None:
    line = ("train", "freedom", "shop/dataset", "--out", "runs/freedom", *SMALL, "--resume")
    answer = graphrec(*line, "--set", "model.knn_k=7", "--set", "train.learning_rate=0.5")
    assert answer.code == 2
    listed = [text.strip() for text in answer.err.splitlines() if text.startswith("  ")]
    assert listed == ["model.knn_k: 10 there, 7 here", "train.learning_rate: 0.001 there, 0.5 here"]


def test_runs_of_several_datasets_have_a_table_each(copy: Path, graphrec: Command, refused: Refused) -> None:
    for line in (
        ["data", "generate", "other", "--items", 40, "--users", 50, "--seed", 3],
        ["train", "mf", "other/dataset", *SMALL, "--out", "runs/mf"],
        ["tune", "mf", "shop/dataset", *SMALL, "--trials", 2, "--out", "runs/tuned"],
    ):
        assert graphrec(*line).code == 0, line
    answer = graphrec("compare", "runs", "--baseline", "popularity", "--out", "both")
    assert answer.code == 0, answer.err
    names = [text.removeprefix("on ").rstrip(":") for text in answer.out.splitlines() if text[:3] == "on "]
    assert len(names) == 2
    assert all(name.startswith("generated ") for name in names)
    assert "freedom vs popularity" in answer.out
    best = json.loads(Path("runs/tuned/best.json").read_text())["trial"]
    assert f"runs/tuned/{best}" in answer.err
    folders = sorted(path.name for path in Path("both").iterdir())
    assert folders == sorted(name.replace(" ", "-") for name in names)
    assert all((Path("both") / folder / "report.html").is_file() for folder in folders)
    assert "2 datasets" in refused("compare", "runs", "--html", "r.html")
    assert not Path("r.html").exists()
    assert "'popularity'" in refused("compare", "runs", "--baseline", "popularty")
    assert f"runs/tuned/{best}" in refused("compare", "runs/tuned")
    assert graphrec("compare", "runs/freedom", f"runs/tuned/{best}").code == 0


def test_an_unfinished_run_of_a_folder_is_left_out_and_named(
    copy: Path, graphrec: Command, refused: Refused
) -> None:
    shutil.copytree("runs/freedom", "runs/half")
    shutil.rmtree("runs/half/last")
    answer = graphrec("compare", "runs")
    assert answer.code == 0
    assert [line for line in answer.err.splitlines() if "runs/half" in line and "--resume" in line]
    assert "runs/half" in refused("compare", "runs", "runs/half")


def test_conversations_without_attributes_say_how_to_get_them(copy: Path, refused: Refused) -> None:
    message = refused("train", "fm", "shop/dataset", "--out", "runs/fm")
    assert "data.attributes=" in message
    assert "--select recall@20" in message
