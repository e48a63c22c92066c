"""What graphrec of 2026-11 saved still opens: runs, features, recommenders, an index, agents, a study.

``fixtures/saved_2026_11.zip`` was written by commit 46af124, on a generated catalog; ``expected.json`` in it
holds what that version answered. Paths recorded in the files lead nowhere: each place is given here.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrec as gr
from graphrec import runs
from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.session import Session
from graphrec.core.errors import CheckpointError
from graphrec.data import Dataset
from graphrec.features import FeatureStore
from graphrec.runs.tuning.tuner import read_study
from graphrec.serving import Recommender

ARCHIVE = Path(__file__).with_name("fixtures") / "saved_2026_11.zip"
RANKERS = ("lightgcn", "freedom", "itemknn")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked."""
    folder = tmp_path_factory.mktemp("saved").resolve()
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            place = (folder / name).resolve()
            assert place.is_relative_to(folder), f"{name} leads outside"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(name))
    return folder


@pytest.fixture(scope="module")
def expected(saved: Path) -> dict[str, Any]:
    return json.loads((saved / "expected.json").read_text())


@pytest.fixture(scope="module")
def data(saved: Path) -> Dataset:
    return Dataset.load(saved / "shop" / "dataset")


def test_datasets_and_features_are_the_same(saved: Path, data: Dataset, expected: dict[str, Any]) -> None:
    assert data.fingerprint == expected["fingerprint"]
    tables = FeatureStore(saved / "cache").load_tables(data)
    assert {field: table.sha256 for field, table in tables.items()} == expected["features"]
    assert {rel[1] for rel in Dataset.load(saved / "shop" / "with-attributes").relations} == {
        "has",
        "in",
    }


@pytest.mark.parametrize("name", RANKERS)
def test_runs_open_and_evaluate_to_the_recorded_metrics(
    saved: Path, data: Dataset, expected: dict[str, Any], name: str
) -> None:
    opened = runs.open_run(saved / "runs" / name, data=data, store=saved / "cache")
    report = gr.evaluate(opened.model, data.test, seen=data.train + data.valid, k=5)
    recorded = expected["evaluate"][name]
    found = report.mean()
    assert {metric: found[metric] for metric in recorded} == pytest.approx(recorded, abs=1e-6)


def test_a_run_is_found_where_its_dataset_is_now(saved: Path, expected: dict[str, Any]) -> None:
    opened = runs.open_run(saved / "runs" / "freedom", root=saved / "shop" / "dataset", store=saved / "cache")
    assert opened.data.fingerprint == expected["fingerprint"]
    assert opened.model.config.cold_items == "neighbors"
    fm = runs.open_run(saved / "runs" / "fm", root=saved / "shop" / "with-attributes")
    assert fm.meta["model"] == "fm"


@pytest.mark.parametrize("name", ["mf", "lightgcn", "itemknn"])
def test_a_run_goes_on(saved: Path, data: Dataset, name: str) -> None:
    """Resumed with what it was trained with, it is the same run, though options are spelled otherwise now."""
    run = saved / "runs" / (name if name != "mf" else "tune/trial-0000")
    record = runs.read_record(run)
    before = (run / "run.json").read_bytes()
    again = runs.train(
        name, data, model_options=record.config, train_options=record.training,
        select=record.select, out=run, resume=True,
    )  # fmt: skip
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert again.history == history
    assert (run / "run.json").read_bytes() != before, "recorded under present names"


@pytest.mark.parametrize("name", RANKERS)
def test_recommenders_answer_as_they_did(saved: Path, expected: dict[str, Any], name: str) -> None:
    recommender = Recommender.load(saved / "runs" / name / "recommender")
    recorded = expected["recommend"][name]
    items, scores = recommender.recommend(recorded["users"], k=5, search="exact")
    assert [list(row) for row in items] == recorded["items"]
    np.testing.assert_allclose(scores, recorded["scores"], rtol=1e-5)


def test_the_index_opens_or_is_refused_with_advice(saved: Path, expected: dict[str, Any]) -> None:
    pytest.importorskip("faiss")
    recorded = expected["recommend"]["lightgcn"]
    folder = saved / "runs" / "lightgcn" / "recommender"
    refusal = ""
    items = []
    try:
        items, _ = Recommender.load(folder).recommend(recorded["users"], k=5, search="approximate")
    except CheckpointError as error:
        refusal = str(error)
    shared = sum(len(set(a) & set(b)) for a, b in zip(items, recorded["items"], strict=False))
    assert shared >= 9 or ("index" in refusal and "build" in refusal)


@pytest.mark.parametrize("name", ["fm", "scpr"])
def test_agents_lead_conversations(saved: Path, name: str) -> None:
    agent = ConversationalRecommender.load(saved / "runs" / name / "conversation")
    session = Session.start(agent)
    turn = session.next()
    assert turn.kind in ("question", "recommendation")
    assert Session.resume(agent, session.state()).next() == turn
    assert Session.resume(agent, {**session.state(), "format": 1}).next() == turn, (
        "as the earlier version kept it"
    )


def test_a_journal_is_replayed(saved: Path, expected: dict[str, Any]) -> None:
    from graphrec.serving.http.journal import Journal
    from graphrec.serving.http.live import LiveRecommender

    recommender = Recommender.load(saved / "runs" / "freedom" / "recommender")
    with Journal(saved / "added.journal") as journal:
        served = LiveRecommender(recommender, journal=journal)
        assert (served.replayed, served.known) == (1, 0)
        items, _ = served.recommender.similar_items(["new-1"], k=3)
    assert [list(row) for row in items] == expected["similar_new"]


def test_a_report_opens(saved: Path, expected: dict[str, Any]) -> None:
    report = gr.Report.from_parquet(saved / "report.parquet")
    assert len(report) > 0
    assert all(np.isfinite(value) for value in report.mean().values())


def test_a_study_is_read(saved: Path) -> None:
    study = read_study(saved / "runs" / "tune")
    assert (study.model, study.select, len(study.trials)) == ("mf", "recall@20", 2)
    assert study.best.number == 0
    assert study.trials[1].options == {"reg_weight": 0.01, "train.learning_rate": 0.001}
    assert study.trials[1].value == 1.0
