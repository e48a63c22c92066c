"""Files with one changed bit: they are refused by an error that names them, or it has no effect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import killed_after

from graphrec import runs
from graphrec.core.errors import CheckpointError, GraphrecError
from graphrec.core.files import digest
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureStore
from graphrec.graphs.knn import knn
from graphrec.models.search_space import Choice
from graphrec.runs.tuning import study, tuner
from graphrec.serving import Recommender
from graphrec.serving.export import read_faiss, write_faiss
from graphrec.testing import communities
from graphrec.training.run_directory import check_metrics, read_state

FLIPS = 15
"""Flipped bits of each file; the first and the last byte are among them."""
TRAINING = {"epochs": 2, "batch_size": 64, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a study, a feature store, a graph cache and an export."""
    folder = tmp_path_factory.mktemp("written")
    data, features = communities(2, 20)
    train = data.train
    n = len(train)
    chosen = numpy_rng(0, "test/flipped").permutation(n)
    held_out = np.sort(chosen[: n // 5])
    kept = np.sort(chosen[n // 5 :])
    parts = [
        Interactions(train.users[rows], train.items[rows], train.n_users, train.n_items, name=name)
        for name, rows in (("train", kept), ("valid", held_out))
    ]
    data = data.with_splits(parts[0], parts[1], data.test)
    data.save(folder / "data")
    data = Dataset.load(folder / "data")
    run = runs.train("mf", data, train_options=TRAINING, out=folder / "run")
    assert run.history
    recommender = Recommender.load(folder / "run" / "recommender")
    recommender.save(folder / "recommender")
    pytest.importorskip("faiss")
    recommender.export_faiss(folder / "export")
    store = FeatureStore(folder / "features")
    for field, table in features.items():
        store.save(data, field, table)
    pytest.importorskip("optuna")
    tuner.tune(
        "mf", data, {}, space={"train.learning_rate": Choice(0.01, 0.05)}, train_options=TRAINING, trials=2,
        out=folder / "study",
    )  # fmt: skip
    table = next(iter(features.values()))
    knn(table, 3, cache=folder / "graphs")
    return folder


def _run(folder: Path) -> Any:
    opened = runs.open_run(folder / "run", root=folder / "data")
    state = read_state(folder / "run")
    return (
        opened.data.fingerprint,
        {name: value.numpy().tobytes() for name, value in opened.model.state_dict().items()},
        state,
        _recommender(folder / "run"),
    )


def _recommender(folder: Path) -> Any:
    recommender = Recommender.load(folder / "recommender")
    items, scores = recommender.recommend(list(recommender.users.ids)[:5], 5)
    return items.tolist(), scores.tobytes()


def _study(folder: Path) -> Any:
    found = study.read_study(folder / "study")
    return found, study.best_trial(folder / "study")


def _features(folder: Path) -> Any:
    tables = FeatureStore(folder / "features").load_tables(Dataset.load(folder / "data"))
    return {name: (table.sha256, digest(np.asarray(table.values[:]))) for name, table in tables.items()}


def _graphs(folder: Path) -> Any:
    _, features = communities(2, 20)
    graph = knn(next(iter(features.values())), 3, cache=folder / "graphs")
    return [part.numpy().tobytes() for part in (graph.rowptr, graph.col, graph.weight)]


def _export(folder: Path) -> Any:
    index, ids, facts = read_faiss(folder / "export")
    return index.reconstruct_n(0, index.ntotal).tobytes(), list(ids), facts


READERS: dict[str, Callable[[Path], Any]] = {
    "data": lambda folder: Dataset.load(folder / "data").fingerprint,
    "run": _run,
    "recommender": _recommender,
    "study": _study,
    "features": _features,
    "graphs": _graphs,
    "export": _export,
}


@pytest.mark.parametrize("part", READERS)
def test_a_flipped_bit_is_refused_or_has_no_effect(place: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(place, folder)
    read = READERS[part]
    expected = read(folder)
    rng = numpy_rng(0, f"test/flipped/{part}")
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file() and path.name != ".lock")
    assert files
    silent = []
    refused = 0
    for file in files:
        whole = file.read_bytes()
        places = {
            0,
            8 * len(whole) - 1,
            *rng.integers(0, 8 * len(whole), FLIPS * (5 if file.name == "trials.log" else 1)).tolist(),
        }
        for bit in sorted(places):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            try:
                if read(folder) != expected:
                    silent.append(f"{file.relative_to(folder)}, bit {bit}: other content is read")
            except GraphrecError as error:
                refused += 1
                if file.name not in str(error):
                    silent.append(f"{file.relative_to(folder)}, bit {bit}: not named: {error}")
            except Exception as error:
                silent.append(f"{file.relative_to(folder)}, bit {bit}: {type(error).__name__}: {error}")
            file.write_bytes(whole)
    assert not silent, "\n".join(silent[:30])
    assert refused or part == "graphs", "the cache of neighbors is computed again"


def test_a_line_of_the_metrics_that_is_changed_or_missing_is_named(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    file = run / "metrics.jsonl"
    first, second, _ = file.read_bytes().split(b"\n")
    changed = json.loads(first)
    changed["loss/bpr"] = 0.5
    for content, line in (
        (json.dumps(changed).encode() + b"\n" + second + b"\n", 1),
        (second + b"\n", 1),
        (first + b"\n", 2),
        (first + b"\n" + second[:-4], 2),
        (b"", 1),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{file}, line {line}:"):
            read_state(run)
    file.write_bytes(first + b"\n" + second + b"\n" + b'{"epoch": 3')  # killed after its last checkpoint
    assert len(read_state(run).history) == 2
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file}"):
        read_state(run)


def test_runs_of_before_may_lack_the_line_of_the_last_checkpoint(tmp_path: Path) -> None:
    history = [{"epoch": 1, "loss/bpr": 0.7}, {"epoch": 2, "loss/bpr": 0.6}]
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(history[0]) + "\n")
    check_metrics(file, history, complete=False)
    file.write_text("")
    with pytest.raises(CheckpointError, match="line 1"):
        check_metrics(file, history, complete=False)


def test_an_export_that_is_killed_is_the_old_one_the_new_one_or_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    recommender = Recommender.load(place / "recommender")
    vectors = np.asarray(recommender.item_vectors)
    export = partial(write_faiss, items=recommender.items, meta=recommender.meta)
    ids = list(recommender.items.ids)
    answers = [vectors.tobytes(), (vectors * 2).tobytes()]
    ended, limit, refused = False, 0, 0
    while not ended:
        folder = tmp_path / f"killed-{limit}"
        export(folder, vectors=vectors)
        ended = killed_after(limit, monkeypatch, export, folder, vectors=vectors * 2)
        try:
            index, names, _ = read_faiss(folder)
            found = index.reconstruct_n(0, len(ids)).tobytes()
            assert names == ids
        except CheckpointError:
            refused += 1
            assert not (folder / "index.json").exists()
        else:
            assert found in answers
            assert not ended or found == answers[1]
        limit += 1
    assert refused
