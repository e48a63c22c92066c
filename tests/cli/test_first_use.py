"""What follows the first training: runs of a Trainer of one's own, runs of several datasets, tuned trials."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from torch import nn

import graphrec as gr
from graphrec import runs
from graphrec.cli import doctor, main as cli
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data.readers import reader_options
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


READ = {
    ".parquet": pl.read_parquet,
    ".csv": lambda path: pl.read_csv(path, schema_overrides={"user": pl.String, "score": pl.Float32}),
    ".jsonl": pl.read_ndjson,
    ".arrow": pl.read_ipc,
}


def test_the_suffix_of_an_export_is_its_format(copy: Path, graphrec: Command, refused: Refused) -> None:
    frames = {}
    for suffix, read in READ.items():
        assert graphrec("export", "runs/freedom", "--out", f"recs{suffix}", "-k", 3).code == 0
        frames[suffix] = read(f"recs{suffix}")
    first = frames.pop(".parquet")
    assert first.columns == ["user", "rank", "item", "score"]
    for suffix, frame in frames.items():
        assert frame.drop("score").rows() == first.drop("score").rows(), suffix
        assert frame["score"].to_list() == pytest.approx(first["score"].to_list(), abs=1e-6), suffix
    for line in (
        "export runs/freedom --out recs.xlsx",
        "export runs/nothing --out recs",  # before the run is looked for
        "evaluate runs/nothing --out values.csv",
        "compare runs/nothing --html report.parquet",
        "compare runs/nothing --parquet report.html",
        "converse runs/nothing --save talk.txt",
    ):
        assert line.split()[-1] in refused(*line.split())
        assert "suffix" in refused(*line.split())
        assert not Path(line.split()[-1]).exists()
    recommender = gr.Recommender.load("runs/freedom/recommender")
    with pytest.raises(ConfigError, match=r"\.xlsx.*\.parquet"):
        recommender.export("recs.xlsx")


def test_unknown_ids_are_named_and_the_rest_is_answered(
    copy: Path, graphrec: Command, refused: Refused
) -> None:
    recommender = gr.Recommender.load("runs/freedom/recommender")
    users = recommender.users.ids[:2]
    items = recommender.items.ids[:30]
    Path("stock.txt").write_text("\n".join([*items, "gone-1", "gone-2"]))
    Path("users.txt").write_text("\n".join([*users, "nobody"]))
    Path("gone.txt").write_text("gone-1")
    asked = [
        "recommend",
        "runs/freedom",
        "--user",
        users[0],
        "--user",
        "nobody",
        "--user",
        users[1],
        "--json",
    ]
    answer = graphrec(*asked, "--only", "stock.txt", "--exclude", "gone.txt", "-k", 4)
    assert answer.code == 0
    assert "--user: 1 of 3 ids are unknown and left out: nobody" in answer.err
    assert "--only: 2 of 32 ids are unknown and left out: gone-1, gone-2" in answer.err
    assert "--exclude: 1 of 1 ids" in answer.err
    rows = json.loads(answer.out)
    assert list(dict.fromkeys(row["user"] for row in rows)) == list(users)
    expected, _ = recommender.recommend(users, 4, only=items)
    assert [row["item"] for row in rows] == [item for row in expected for item in row]
    assert "nobody" in refused(*asked, "--strict")
    assert "gone-1" in refused("recommend", "runs/freedom", "--user", users[0], "--only", "gone.txt")
    assert "nobody" in refused("recommend", "runs/freedom", "--user", "nobody")
    similar = graphrec("similar", "runs/freedom", "--item", items[0], "--item", "gone-1", "--format", "json")
    assert {row["item"] for row in json.loads(similar.out)} == {items[0]}
    assert "gone-1" in similar.err
    export = ("export", "runs/freedom", "--users", "users.txt", "--out", "recs.jsonl")
    assert "--users: 1 of 3 ids" in graphrec(*export).err
    assert set(pl.read_ndjson("recs.jsonl")["user"]) == set(users)
    assert "nobody" in refused(*export, "--strict")


def test_json_is_one_option_in_two_spellings(copy: Path, graphrec: Command, refused: Refused) -> None:
    for line in (["evaluate", "runs/freedom"], ["compare", "runs/freedom", "runs/popularity"]):
        told = graphrec(*line, "--json").out
        assert told == graphrec(*line, "--format", "json").out
        assert json.loads(told)
        assert "--json" in refused(*line, "--json", "--format", "latex")
    told = json.loads(graphrec("evaluate", "runs/freedom", "--json").out)
    opened = runs.open_run("runs/freedom")
    data = opened.data
    report = gr.evaluate(opened.model, data.test, seen=data.train + data.valid)
    assert told["groups"]["all"]["mean"]["recall@20"] == pytest.approx(report.mean()["recall@20"])
    assert told["groups"]["all"]["interval"]["recall@20"] == pytest.approx(report.interval("recall@20"))
    assert told["groups"]["all"]["users"] == told["n_users"] == len(report)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_summaries_of_commands_are_whole(
    width: int, graphrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = " ".join(graphrec("--help").out.split())
    for name, (_, text) in cli.COMMANDS.items():
        assert f"{name} {text}" in shown
    assert "..." not in graphrec("data", "--help").out.split("Commands:")[1].split("Examples:")[0]


def test_help_lists_the_options_of_the_reader(graphrec: Command) -> None:
    for line in (("data", "convert", "table"), ("data", "show", "--root", "x", "movielens-small")):
        options = reader_options("table" if "table" in line else "movielens-small")
        shown = graphrec(*line, "--help")
        assert shown.code == 0
        listed = re.findall(r"^  --set (\w+)=\.\.\.  (.*)", shown.out, re.MULTILINE)
        assert [name for name, _ in listed] == list(options)
        assert all(meaning.strip() for _, meaning in listed)
    assert "Options of this reader" not in graphrec("data", "convert", "--help").out


def test_a_dataset_is_named_after_its_folder_or_as_asked(
    copy: Path, graphrec: Command, refused: Refused
) -> None:
    assert graphrec("data", "convert", "table", "--root", "shop", "--out", "a").code == 0
    assert gr.Dataset.load("a").name == "shop"
    assert graphrec("data", "convert", "table", "--root", "shop", "--out", "a", "--name", "mine").code == 0
    assert gr.Dataset.load("a").name == "mine"
    assert "--set interactions=" in refused("data", "show", "table", "--root", "runs")


def test_the_tables_of_one_dataset_are_verified_alone(copy: Path, graphrec: Command) -> None:
    assert graphrec("data", "generate", "other", "--items", 40, "--users", 50).code == 0
    assert graphrec("features", "build", "other/dataset", "--image", "none").code == 0
    assert "cache, generated: 1 tables" in graphrec("features", "verify", "other/dataset").out
    (mine,) = gr.FeatureStore("cache").tables_for(gr.Dataset.load("other/dataset"))
    next(mine.folder.glob("*.npy")).write_bytes(b"")
    assert str(mine.folder) in graphrec("features", "verify", "other/dataset").out
    assert graphrec("features", "verify", "other/dataset").code == 1
    assert graphrec("features", "verify", "shop/dataset").code == 0
    assert graphrec("features", "verify").code == 1


def test_doctor_does_not_list_itself_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [("minilm", "graphrec", "", "extra == 'minilm'"), ("minilm", "no-such-thing", "", "")]
    monkeypatch.setattr(doctor, "requirements", lambda: iter(wanted))
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda n: None if n == "graphrec" else find(n))
    (check,) = doctor.extras()
    assert check.found == "missing: no-such-thing"
