"""The experiment on language vectors: controls of every model that reads texts, maps on other datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphrec as gr
from experiments.harness import Row, Study
from experiments.language_models import (
    CATALOGS,
    METRICS,
    Catalog,
    experiments,
    transfer,
    transfer_table,
)
from experiments.rows import NAMES
from graphrec.features import FeatureTable
from graphrec.models import model
from graphrec.testing import communities

TRAIN = gr.TrainConfig(batch_size=256, epochs=3, progress=False)
QUICK = Catalog("toy", TRAIN, 0)


def dataset(seed: int) -> tuple[gr.Dataset, dict[str, FeatureTable]]:
    data, features = communities(3, 20, seed)
    return data.resplit("random"), {"text": features["text"]}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """Two datasets whose texts come from one encoder, as far as is known."""
    out = tmp_path_factory.mktemp("language")
    found = {}
    for seed, name in enumerate(("one", "other")):
        warm, _ = experiments(Catalog(name, TRAIN, 0), *dataset(seed))
        found[name] = Study(warm, out, quick=False)
    return found


def test_every_model_that_reads_texts_has_both_controls() -> None:
    warm, cold = experiments(QUICK, *dataset(0))
    main = [row for row in warm.rows if row.group == "main"]
    readers = [row.label for row in main if model(row.model).modalities]
    assert {"ContentEASE", "AlphaRec", "RLMRec-Con", "RLMRec-Gen", "Zero-shot"} <= set(readers)
    for experiment in (warm, cold):
        labels = {row.label: row for row in experiment.rows}
        for label in readers:
            for control in ("shuffled", "noise"):
                row = labels[f"{label}, {control}"]
                assert row.control["text"] == control
                assert row.like == label
                assert (label, row.label) in experiment.pairs
        for label in ("RLMRec-Con", "RLMRec-Gen"):
            assert labels[f"{label}, no texts"].change == {"language_weight": 0.0}
    assert {row.model for row in main} <= set(NAMES.values())
    assert len({catalog.name for catalog in CATALOGS}) == len(CATALOGS)


def test_a_map_is_evaluated_where_it_is_used(studies: dict[str, Study]) -> None:
    result = transfer(studies, [0, 1])
    found = result["targets"]["other"]
    assert set(found) == {"untrained", "one", "other", "Popularity", "Zero-shot", "EASE"}
    there = studies["other"]
    row = there.experiment.row("AlphaRec")
    source = studies["one"].fitted(row, {}, 1).model
    moved = source.transfer(there.data, dict(there.experiment.features))
    report = gr.evaluate(moved, there.data.test, seen=there.data.train, metrics=("recall", "ndcg"), k=(20,))
    assert found["one"][1] == pytest.approx({m: report.mean()[m] for m in METRICS}, abs=1e-7)
    own, _ = there.one(row, {}, 0)
    assert found["other"][0]["recall@20"] == pytest.approx(own["test"]["recall@20"], abs=1e-7)
    values = [tuple(run["ndcg@20"] for run in found[name]) for name in ("untrained", "one", "other")]
    assert len(set(values)) == 3, "three maps"
    text = transfer_table(result)
    line = next(line for line in text.splitlines() if line.startswith("| AlphaRec, map from one |"))
    assert f"{np.mean([run['recall@20'] for run in found['one']]):.4f} ±" in line


def test_random_vectors_replace_texts(tmp_path: Path) -> None:
    warm, _ = experiments(QUICK, *dataset(0))
    study = Study(warm, tmp_path, quick=False)
    rows: dict[str, Row] = {row.label: row for row in warm.rows}
    given = {
        label: study.given(rows[label], rows[label].config)["text"]
        for label in ("AlphaRec", "AlphaRec, shuffled", "AlphaRec, noise")
    }
    plain = given["AlphaRec"].numpy(np.float32)
    shuffled = given["AlphaRec, shuffled"].numpy(np.float32)
    assert np.array_equal(np.sort(plain, 0), np.sort(shuffled, 0))
    assert not np.array_equal(plain, shuffled)
    cosines = (plain * given["AlphaRec, noise"].numpy(np.float32)).sum(1)
    cosines /= np.linalg.norm(plain, axis=1) ** 2
    assert np.abs(cosines.mean()) < 0.3
