"""The path from a generated shop to exported recommendations, command by command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from graphrec import runs
from graphrec.data import Dataset
from graphrec.features import FeatureStore
from graphrec.serving import Recommender

Command = Callable[..., Any]
Refused = Callable[..., str]


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_generated_files_say_so_and_show_tells_what_is_in_them(there: Path, graphrec: Command) -> None:
    shown = graphrec("data", "show", "shop/dataset")
    data = Dataset.load("shop/dataset")
    assert shown.code == 0
    assert data.fingerprint[:12] in shown.out
    for count in (data.n_users, data.n_items, len(data.train), data.content["image"].n_present):
        assert f"{count:,}" in shown.out
    assert "cold-items" in shown.out
    assert "GENERATED" in Path("shop/README.txt").read_text()


def test_the_printed_options_read_the_same_dataset(there: Path, graphrec: Command, tmp_path: Path) -> None:
    again = graphrec("data", "generate", tmp_path / "s", "--items", 30, "--users", 30)
    line = next(s for s in again.out.splitlines() if "data show" in s)
    shown = graphrec(*shlex.split(line.partition("graphrec ")[2]))
    assert Dataset.load(tmp_path / "s" / "dataset").fingerprint[:12] in shown.out


def test_own_files_and_lists_of_columns(there: Path, graphrec: Command, tmp_path: Path) -> None:
    own = (
        "table --root shop --set interactions=interactions.csv --set items=items.csv "
        "--set text=title,description --set image=image --set time=time --set split=leave-one-out"
    )
    answer = graphrec("data", "convert", *own.split(), "--out", tmp_path / "saved")
    assert answer.code == 0
    data = Dataset.load(tmp_path / "saved")
    assert dict(data.meta["options"])["text"] == ["title", "description"]
    assert data.meta["split"]["name"] == "leave-one-out"
    assert len(data.test) == data.n_users


def test_training_records_what_is_needed_to_come_back(there: Path) -> None:
    meta = json.loads(Path("runs/freedom/run.json").read_text())
    data = Dataset.load("shop/dataset")
    tables = FeatureStore("cache").load_tables(data)
    assert meta["dataset"] == {"name": "generated", "fingerprint": data.fingerprint}
    assert meta["features"] == {f: t.sha256 for f, t in tables.items()}
    assert meta["source"]["dataset"] == str(there / "shop" / "dataset")
    assert meta["model_config"]["dim"] == 8
    assert meta["train_config"]["epochs"] == 2
    assert len(Path("runs/freedom/metrics.jsonl").read_text().splitlines()) == 2


def test_an_opened_run_scores_as_its_recommender_does(there: Path) -> None:
    opened = runs.open_run("runs/freedom")
    assert not opened.model.training
    served = Recommender.load("runs/freedom/recommender")
    user = opened.data.users[3]
    scores = opened.model.score(np.array([3])).numpy()[0]
    ids, values = served.recommend(user, 5)
    np.testing.assert_allclose(values, scores[opened.data.items.indices(ids)], rtol=1e-5, atol=1e-6)


def test_evaluate_prints_what_the_library_computes(there: Path, graphrec: Command, tmp_path: Path) -> None:
    from graphrec.evaluation.ranking import evaluate
    from graphrec.evaluation.report import Report

    opened = runs.open_run("runs/freedom")
    data = opened.data
    expected = evaluate(opened.model, data.test, seen=data.train + data.valid).mean()
    answer = graphrec("evaluate", "runs/freedom", "--k", "10,20", "--out", tmp_path / "r.parquet")
    assert answer.code == 0
    assert f"{expected['recall@20']:.4f} [" in answer.out
    for group in ("items/warm", "items/cold"):
        assert group in answer.out
    assert Report.from_parquet(tmp_path / "r.parquet").mean()["ndcg@10"] == expected["ndcg@10"]
    lenient = evaluate(opened.model, data.test, seen=data.train).mean()
    assert lenient["recall@20"] != expected["recall@20"]
    answer = graphrec("evaluate", "runs/freedom", "--masked", "train", "--format", "markdown")
    assert f"{lenient['recall@20']:.4f} [" in answer.out
    assert answer.out.startswith("| group")
    valid = graphrec(
        "evaluate", "runs/freedom", "--split", "valid", "--format", "latex", "--cold", "--beyond"
    )
    assert r"\begin{tabular}" in valid.out
    assert "items/cold/within" in valid.out
    assert "coverage" in valid.out


def test_recommend_in_all_forms(there: Path, graphrec: Command, tmp_path: Path) -> None:
    data = Dataset.load("shop/dataset")
    ids, scores = Recommender.load("runs/freedom/recommender").recommend("U00002", 3)
    answer = graphrec("recommend", "runs/freedom", "--user", "U00002", "-k", 3, "--format", "json")
    rows = json.loads(answer.out)
    assert [row["item"] for row in rows] == list(ids)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows[0]["score"] == pytest.approx(float(scores[0]))
    text = data.content["text"][data.items.index(rows[0]["item"])]
    assert text is None or text.startswith(rows[0]["title"])
    plain = graphrec("recommend", "runs/freedom/recommender", "--user", "U00002", "-k", 3)
    assert [line.split()[2] for line in plain.out.splitlines()[1:]] == list(ids)
    stock = tmp_path / "stock.txt"
    stock.write_text("P0001\n\nP0002\nP0003\n")
    some = graphrec(
        "recommend", "runs/freedom", "--user", "U00001", "--user", "U00002", "--only", stock,
        "--include-seen", "--format", "csv",
    )  # fmt: skip
    lines = [line.split(",") for line in some.out.splitlines()]
    assert lines[0][:4] == ["user", "rank", "item", "score"]
    assert sorted(line[2] for line in lines[1:]) == sorted(["P0001", "P0002", "P0003"] * 2)
    barred = graphrec(
        "recommend", "runs/freedom", "--user", "U00001", "--exclude", stock, "-k", 60, "--format", "csv"
    )
    assert not {"P0001", "P0002", "P0003"} & {line.split(",")[2] for line in barred.out.splitlines()}
    unknown = graphrec("recommend", "runs/freedom", "--user", "nobody", "--unknown", "popularity", "-k", 1)
    popular = graphrec("recommend", "runs/popularity", "--user", "nobody", "--unknown", "popularity", "-k", 1)
    assert unknown.code == 0
    assert unknown.out == popular.out


def test_recommend_to_somebody_with_a_history(there: Path, graphrec: Command) -> None:
    served = Recommender.load("runs/freedom/recommender")
    history = ("--history", "P0001", "--history", "P0007")
    answer = graphrec("recommend", "runs/freedom", *history, "-k", 3, "--format", "json")
    ids, _ = served.recommend(history=["P0001", "P0007"], k=3)
    rows = json.loads(answer.out)
    assert [row["item"] for row in rows] == list(ids)
    assert {row["user"] for row in rows} == {"(history)"}
    known = graphrec("recommend", "runs/freedom", "--user", "U00002", *history, "-k", 3, "--format", "json")
    ids, _ = served.recommend("U00002", 3, history=["P0001", "P0007"])
    assert [row["item"] for row in json.loads(known.out)] == list(ids)
    partly = graphrec("recommend", "runs/freedom", *history, "--history", "lost", "-k", 3, "--format", "json")
    assert json.loads(partly.out) == rows
    assert "1 of 3 ids" in partly.err
    assert "lost" in partly.err
    strict = graphrec("recommend", "runs/freedom", *history, "--history", "lost", "--strict")
    assert strict.code != 0
    assert "lost" in strict.err
    nothing = graphrec("recommend", "runs/freedom", "--history", "lost", "-k", 1, "--format", "json")
    popular = graphrec(
        "recommend", "runs/popularity", "--user", "nobody", "--unknown", "popularity", "-k", 1,
        "--format", "json",
    )  # fmt: skip
    assert [row["item"] for row in json.loads(nothing.out)] == [
        row["item"] for row in json.loads(popular.out)
    ]
    assert "popular" in nothing.err
    for given, fact in (((), "--history"), (("--user", "U00001", "--user", "U00002", *history), "2")):
        refused = graphrec("recommend", "runs/freedom", *given)
        assert refused.code != 0
        assert fact in refused.err


def test_recommend_by_a_file_of_items(there: Path, graphrec: Command, tmp_path: Path) -> None:
    served = Recommender.load("runs/freedom/recommender")
    file = tmp_path / "basket.csv"

    def told(text: str, *options: str) -> Any:
        file.write_text(text)
        return graphrec("recommend", "runs/freedom", "--history-file", file, "-k", 3, *options)

    text = "item,weight,time\nP0007,2.5,2024-05-31\nlost,9,2024-05-30\nP0001,0.5,2023-01-01\n"
    answer = told(text, "--format", "json")
    ids, scores = served.recommend(history=["P0007", "P0001"], weights=[2.5, 0.5], k=3)
    rows = json.loads(answer.out)
    assert [row["item"] for row in rows] == list(ids)
    assert [row["score"] for row in rows] == pytest.approx(scores.tolist())
    for fact in ("--history-file", "1 of 3 ids", "lost"):
        assert fact in answer.err
    plain = told("item\nP0001\nP0007\n")
    listed = graphrec("recommend", "runs/freedom", "--history", "P0001", "--history", "P0007", "-k", 3)
    assert plain.out == listed.out
    assert told("item,weight\nP0001,1\nP0007,1\n").out == listed.out
    assert "popular" in told("item,weight\nlost,1\n").err
    assert "P0001=2" in told("item\nP0001=2\nP0007\n").err, "an id may hold any character"
    for text, facts in (
        ("item,weigth\nP0001,2\n", ("line 1", "'weigth'", "'weight'")),
        ("weight\n2\n", ("'item'",)),
        ("item,weight\nP0001,2\nP0007,-1\n", ("row 3", "weight", "'-1'")),
        ("item,weight\nP0001,0\n", ("row 2", "weight", "'0'")),
        ("item,weight\nP0001,1\nP0007,nan\n", ("row 3", "weight", "'nan'")),
        ("item,weight\nP0001,\n", ("row 2", "weight")),
        ("item,time\nP0001,soon\n", ("row 2", "time", "'soon'")),
        ("item,weight\nP0001,1\nP0007\n", ("expected",)),
        ("item\n", ("no rows",)),
        ("item\nP000I\n", ("P000I", "60 known items")),
    ):
        refused = told(text, "--strict")
        assert refused.code != 0
        named = facts if "P000I" in text else (str(file), *facts)
        assert not [fact for fact in named if fact not in refused.err], refused.err
    for given, fact in (
        (("--history-file", tmp_path / "gone.csv"), "gone.csv"),
        (("--history-file", tmp_path / "basket.txt"), ".csv"),
        (("--history-file", file, "--history", "P0001"), "--history"),
    ):
        refused = graphrec("recommend", "runs/freedom", *given)
        assert refused.code != 0
        assert fact in refused.err


def test_similar_and_export(there: Path, graphrec: Command, tmp_path: Path) -> None:
    served = Recommender.load("runs/freedom/recommender")
    answer = graphrec("similar", "runs/freedom", "--item", "P0001", "-k", 4, "--format", "csv")
    assert [line.split(",")[2] for line in answer.out.splitlines()[1:]] == list(
        served.similar_items("P0001", 4)[0]
    )
    target = tmp_path / "recs.parquet"
    assert graphrec("export", "runs/freedom", "--out", target, "-k", 5).code == 0
    frame = pl.read_parquet(target)
    assert frame["user"].n_unique() == 80
    assert frame.filter(pl.col("user") == "U00002")["item"].to_list() == list(
        served.recommend("U00002", 5)[0]
    )


def test_export_writes_a_faiss_index(there: Path, graphrec: Command, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs the extra ann")
    assert graphrec("export", "runs/freedom", "--faiss", tmp_path / "index").code == 0
    assert (tmp_path / "index" / "items.faiss").exists()


def test_features_status_verify_gc_and_import(copy: Path, graphrec: Command) -> None:
    status = graphrec("features", "status", "shop/dataset")
    assert "hog-hsv" in status.out
    assert "tfidf-svd" in status.out
    assert graphrec("features", "verify").code == 0
    np.save("vectors.npy", np.eye(60, 7, dtype=np.float32) + 1)
    Path("ids.txt").write_text("\n".join(reversed(Dataset.load("shop/dataset").items.ids)))
    brought = graphrec("features", "import", "shop/dataset", "text", "vectors.npy", "--ids", "ids.txt")
    assert brought.code == 0
    table = FeatureStore("cache").load_tables(Dataset.load("shop/dataset"))["text"]
    assert table.numpy()[-1].tolist() == [2, 1, 1, 1, 1, 1, 1]
    keys = [t.folder.name for t in FeatureStore("cache").tables("image")]
    planned = graphrec("features", "gc", "--keep", keys[0][:8], "--dry-run")
    assert planned.out.count("would remove") == 2
    assert len(FeatureStore("cache").tables()) == 3
    graphrec("features", "gc", "--keep", keys[0][:8])
    assert [t.folder.name for t in FeatureStore("cache").tables()] == keys
    shard = next(Path("cache").glob("image/*/*.npy"))
    flip(shard, -5)
    found = graphrec("features", "verify")
    assert found.code == 1
    assert shard.name in found.out
