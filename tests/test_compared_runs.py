"""Comparing run directories: which form a row, what is evaluated when, refusals, the page of it all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_html import Parsed

import graphrec as gr
from graphrec import runs
from graphrec.core.bundle import write_sealed
from graphrec.core.errors import CheckpointError, ConfigError, DataError
from graphrec.core.files import read_json
from graphrec.data import Dataset
from graphrec.evaluation import metrics
from graphrec.evaluation.report import Report
from graphrec.runs.comparison import ModelComparison, answer, from_runs, notes, to_html
from graphrec.testing import communities

NAMES = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
OPTIONS = {"epochs": 2, "batch_size": 64, "learning_rate": 0.01, "device": "cpu", "progress": False}
Shop = tuple[Dataset, Mapping[str, Any]]


@pytest.fixture(scope="module")
def shop() -> Shop:
    """Data with a validation split and cold items in test, and features."""
    data, features = communities(2, 20)
    test = data.test
    cold = np.arange(data.n_items) < 4
    train = data.train.where(~cold[data.train.items])
    first = (np.arange(len(test)) % 2 == 0) & ~cold[test.items]
    return data.with_splits(train, test.where(first), test.where(~first)), features


@pytest.fixture(scope="module")
def trained(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of MF, of FREEDOM and of FREEDOM without pruning, one of Popularity; not to be written to."""
    folder = tmp_path_factory.mktemp("comparison")
    rows = [("mf", {}, s) for s in (0, 1)] + [
        ("freedom", {"dropout": d}, s) for d in (0.8, 0.0) for s in (0, 1)
    ]
    for model, options, seed in [*rows, ("popularity", {}, 0)]:
        name = "-".join(map(str, [model, *options.values(), seed]))
        given = {} if model == "popularity" else {"dim": 8}
        runs.train(
            model, *shop, model_options={**given, **options}, train_options=OPTIONS, seed=seed,
            out=folder / name,
        )  # fmt: skip
    return folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of the runs that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture(scope="module")
def made(shop: Shop, trained: Path) -> ModelComparison:
    return gr.compare(trained, features=shop[1])


def rewrite(run: Path, **facts: Any) -> None:
    """Changes what a run's record says."""
    meta = read_json(run / "run.json")
    del meta["seal"]
    write_sealed(run / "run.json", {**meta, **facts})


def test_runs_that_differ_in_the_seed_alone_form_a_row(made: ModelComparison) -> None:
    assert {label: r.seeds for label, r in made.results.items()} == {
        "freedom dropout=0.0": [0, 1], "freedom dropout=0.8": [0, 1], "mf": [0, 1], "popularity": [0],
    }  # fmt: skip
    assert {"items/warm", "items/cold", "items/cold/within"} <= set(made.results["mf"].report.groups)
    assert {"recall@1", "recall@50", "ndcg@5"} <= set(made.results["mf"].report.metrics)
    assert made.results["freedom dropout=0.0"].entries[0].history[-1]["epoch"] == 2


def test_a_run_is_evaluated_as_evaluating_it_does(made: ModelComparison, shop: Shop, trained: Path) -> None:
    data, features = shop
    model = runs.open_run(trained / "freedom-0.8-1", features=features).model
    expected = gr.evaluate(
        model, data.test, seen=data.train + data.valid, k=(10, 20), metrics=("recall", "ndcg")
    )
    found = made.results["freedom dropout=0.8"].entries[1]
    for name in NAMES:
        assert np.array_equal(found.report[name], expected[name])
    assert found.n_parameters == sum(p.numel() for p in model.parameters())


def test_each_run_is_evaluated_once_and_again_when_anything_has_changed(shop: Shop, own: Path) -> None:
    shutil.rmtree(own / "popularity-0" / "reports", ignore_errors=True)
    log: list[str] = []
    ask: Callable[..., Any] = lambda **more: gr.compare(  # noqa: E731
        [own / "mf-0", own / "popularity-0"], features=shop[1], log=log.append, **more
    )
    first = ask()
    log.clear()
    again = ask(k=(5, 20), baseline="mf")  # other columns and tests rest on the same evaluation
    assert not log
    assert np.array_equal(first.results["mf"].report["recall@20"], again.results["mf"].report["recall@20"])
    ask(masked="train")
    assert len(log) == 2
    log.clear()
    # Other weights in the same place
    shutil.rmtree(own / "mf-0" / "best")
    shutil.copytree(own / "mf-1" / "best", own / "mf-0" / "best")
    changed = ask()
    assert log == [f"evaluating {own / 'mf-0'}"]
    assert not np.array_equal(
        first.results["mf"].report["recall@20"], changed.results["mf"].report["recall@20"]
    )
    log.clear()
    for file in (own / "mf-0" / "reports").iterdir():
        kept = Report.from_parquet(file)
        forged = Report(
            kept.users, {n: v + 1 for n, v in kept.metrics.items()}, kept.scalars, kept.groups, kept.meta
        )
        forged.to_parquet(file)
    (file,) = (own / "popularity-0" / "reports").glob("test-train-valid-*")
    file.write_bytes(b"damaged")
    assert np.array_equal(ask().results["mf"].report["recall@20"], changed.results["mf"].report["recall@20"])
    assert len(log) == 2


def test_other_code_evaluates_anew(shop: Shop, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    gr.compare(own / "mf-0", features=shop[1])
    monkeypatch.setattr(from_runs, "_code", lambda: "another version")
    gr.compare(own / "mf-0", features=shop[1], log=log.append)
    assert len(log) == 1


def test_a_metric_from_elsewhere_is_measured_each_time(shop: Shop, own: Path, metric_registry: None) -> None:
    log: list[str] = []
    for factor in (1.0, 0.5):

        @metrics.metric("scaled", "a multiple of recall")
        def scaled(hits: np.ndarray, n_relevant: np.ndarray, k: int, factor: float = factor) -> np.ndarray:
            return np.asarray(factor * metrics.recall(hits, n_relevant, k))

        found = gr.compare(own / "mf-0", metric="scaled@20", features=shop[1], log=log.append)
        result = found.results["mf"]
        assert result.mean("scaled@20") == pytest.approx(factor * result.mean("recall@20"))
    assert len(log) == 2


def test_labels_of_ones_own_take_runs_out_of_their_rows(shop: Shop, trained: Path) -> None:
    labels = {"pruned": [trained / "freedom-0.8-0", trained / "freedom-0.8-1"]}
    found = gr.compare(trained, labels=labels, features=shop[1])
    assert list(found.results) == ["pruned", "freedom", "mf", "popularity"]
    with pytest.raises(CheckpointError, match="differ in dropout"):
        gr.compare(labels={"x": [trained / "freedom-0.8-0", trained / "freedom-0.0-1"]}, features=shop[1])
    with pytest.raises(DataError, match=r"\['x', 'y'\]"):
        gr.compare(labels={"x": [trained / "mf-0"], "y": [trained / "mf-0"]})
    with pytest.raises(DataError, match=r"'mf'.*mf-0"):
        gr.compare(trained / "mf-0", labels={"mf": [trained / "popularity-0"]})


def test_runs_that_do_not_belong_together_are_refused(shop: Shop, own: Path) -> None:
    shutil.copytree(own / "mf-0", own / "copied")
    with pytest.raises(
        DataError, match=r"mf: .*copied and .*mf-0 are the same training with the same seed, 0"
    ):
        gr.compare(own)
    rewrite(own / "copied", dataset={"name": "elsewhere", "fingerprint": "f" * 64}, split={"name": "random"})
    with pytest.raises(CheckpointError, match=r"copied was trained on elsewhere f+….*random.*on communities"):
        gr.compare([own / "copied", own / "mf-0"])
    with pytest.raises(CheckpointError, match=r"Did you mean 'mf-0'"):
        gr.compare(own / "mf-00")
    with pytest.raises(ConfigError, match=r"Did you mean 'mf'"):
        gr.compare([own / "mf-0", own / "popularity-0"], baseline="fm")
    with pytest.raises(ConfigError, match="Did you mean 'valid'"):
        gr.compare(own / "mf-0", split="vali")
    with pytest.raises(ConfigError, match=r"train\+valid"):
        gr.compare(own / "mf-0", split="valid", masked="train+valid")
    with pytest.raises(DataError, match="expected run directories"):
        gr.compare()


def test_a_run_that_is_not_finished_is_refused_with_what_to_do(shop: Shop, tmp_path: Path) -> None:
    def stop(record: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train("mf", *shop, train_options=OPTIONS, out=tmp_path / "r", on_epoch=stop)
    with pytest.raises(CheckpointError, match=r"1 of at most 2 epochs are done; finish it .*--resume"):
        gr.compare(tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "last")
    with pytest.raises(CheckpointError, match=r"no checkpoint.*--resume"):
        gr.compare(tmp_path / "r")


def test_trials_of_a_study_are_not_among_the_runs_of_a_directory(shop: Shop, own: Path) -> None:
    study = own / "study"
    shutil.copytree(own / "mf-0", study / "trial-0000")
    (study / "study.json").write_text("{}")
    assert "mf" in gr.compare(own, features=shop[1]).results
    with pytest.raises(DataError, match="same training with the same seed"):
        gr.compare([own, study / "trial-0000"], features=shop[1])


def test_the_page_holds_everything_and_loads_nothing(made: ModelComparison, tmp_path: Path) -> None:
    text = to_html(made, tmp_path / "r.html", command="graphrec compare runs").read_text()
    parsed = Parsed(text)
    for label, result in made.results.items():
        assert label in parsed.text
        assert f"{result.mean('recall@20'):.4f}" in parsed.text
    assert answer(made) in parsed.text
    for note in notes(made):
        assert " ".join(note.split()) in parsed.text
    assert not re.search(r"https?:|src=|@import|url\(", text)
    assert "script" not in parsed.tags
    assert {t.removeprefix("#") for t in parsed.values("a", "href")} == set(parsed.values("section", "id"))
    assert parsed.values("section", "id") == [
        "the-answer", "results", "who-is-better-and-how-sure-it-is", "metric-against-k",
        "warm-and-cold-items", "training-curves", "accuracy-against-training-time", "what-is-recommended",
        "how-to-read-this", "how-it-was-run",
    ]  # fmt: skip
    assert "graphrec compare runs" in parsed.text
    assert "as trained: no content used" in parsed.text


def test_the_key_of_a_report_depends_on_the_code_that_evaluates() -> None:
    package = Path(from_runs.__file__).parents[2]
    from_runs._code.cache_clear()
    before = from_runs._code()
    with pytest.MonkeyPatch.context() as patch:
        read = Path.read_bytes
        for file, changes in (("evaluation/metrics.py", True), ("runs/html/page.py", False)):
            patch.setattr(Path, "read_bytes", lambda p, f=file: read(p) + (b"#" if p == package / f else b""))
            from_runs._code.cache_clear()
            assert (from_runs._code() != before) == changes
    from_runs._code.cache_clear()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Dataset]:
    """Runs of a dataset and of a later version: other order of ids, fewer old items and train pairs, new
    users and items, and pairs in train that the former holds out."""
    rng = np.random.default_rng(5)
    pairs = {(f"u{u}", f"i{i}") for u in range(30) for i in rng.choice(25, 8, replace=False)}
    rows = [(u, i, int(rng.integers(0, 10))) for u, i in sorted(pairs)]
    names = ("train", "train", "train", "train", "train", "train", "train", "valid", "test", "test")

    def frame(rows: list[tuple[str, str, int]]) -> Dataset:
        columns = zip(*[(u, i, names[label]) for u, i, label in rows], strict=True)
        users, items, split = map(list, columns)
        return Dataset.from_frame({"user": users, "item": items, "split": split}, split="split", name="shop")

    old = frame(rows)
    tests = [row for row in rows if names[row[2]] == "test"]
    changed = [(u, i, 0 if (u, i, label) in tests[::3] else label) for u, i, label in rows if i != "i3"]
    changed = [row for n, row in enumerate(changed) if n % 3 or names[row[2]] != "train"]  # masked in one
    added = [(f"v{u}", f"j{n}", n % 10) for u in range(12) for n in range(10)]
    new = frame([*reversed(added), *reversed(changed)])
    folder = tmp_path_factory.mktemp("versions")
    for name, data in (("old", old), ("new", new)):
        for model in ("mf", "itemknn"):
            runs.train(model, data, train_options=OPTIONS, out=folder / f"{name}-{model}")
    return folder, old, new


def ids(data: Dataset, *parts: Any) -> set[tuple[str, str]]:
    return {
        (data.users[int(u)], data.items[int(i)])
        for part in parts
        for u, i in zip(part.users, part.items, strict=True)
    }


def test_versions_of_a_dataset_are_compared_on_what_they_have_in_common(
    versions: tuple[Path, Dataset, Dataset],
) -> None:
    """Expected values from each model's scores, with sets of external ids and a loop over users."""
    folder, old, new = versions
    with pytest.raises(CheckpointError, match="common"):
        gr.compare(folder)
    comparison = gr.compare(folder, common=True, k=(5,), metric="recall@5", metrics=("recall",))
    assert len(comparison.results) == 4
    items = set(old.items.ids) & set(new.items.ids)
    users = set(old.users.ids) & set(new.users.ids)
    held_out = ids(old, old.test) & ids(new, new.test)
    seen = ids(old, old.train, old.valid) | ids(new, new.train, new.valid)
    asked = [u for u in old.users.ids if u in users and any((u, i) in held_out for i in items)]
    assert 0 < len(asked) < old.n_users
    for result in comparison.results.values():
        (entry,) = result.entries
        opened = runs.open_run(entry.about["path"])
        data = opened.data
        expected = []
        for user in asked:
            scores = opened.model.scorer()(torch.tensor([data.users.index(user)]))[0].tolist()
            allowed = [n for n, i in enumerate(data.items.ids) if i in items and (user, i) not in seen]
            best = sorted(allowed, key=lambda n: (-scores[n], n))[:5]
            relevant = {i for i in items if (user, i) in held_out}
            expected.append(len({data.items[n] for n in best} & relevant) / len(relevant))
        assert entry.report["recall@5"] == pytest.approx(expected, abs=1e-12)
        assert len(entry.report.users) == len(asked)
    said = [line for line in notes(comparison) if "left out" in line]
    assert len(said) == 2
    (of_new,) = [line for line in said if new.fingerprint[:8] in line]
    assert f"{new.n_users - len(users)} of {new.n_users} users" in of_new
    assert f"{new.n_items - len(items)} of {new.n_items} items" in of_new
    assert f"{len(new.test) - len(held_out)} of {len(new.test)} held-out pairs" in of_new
    log: list[str] = []
    again = gr.compare(folder, common=True, k=(5,), metric="recall@5", metrics=("recall",), log=log.append)
    assert not log, "the reports are stored"
    assert again.table() == comparison.table()


def test_versions_without_anything_in_common_are_refused(
    versions: tuple[Path, Dataset, Dataset], tmp_path: Path
) -> None:
    folder, old, _ = versions
    other = Dataset.from_frame(
        {"user": ["x", "x", "y"], "item": ["a", "b", "a"], "split": ["train", "test", "train"]},
        split="split",
        name="other",
    )
    runs.train("popularity", other, out=tmp_path / "run", select="none")
    with pytest.raises(DataError, match=f"0 users, 0 items.*shop {old.fingerprint[:12]}.*other"):
        gr.compare([folder / "old-mf", tmp_path / "run"], common=True)
