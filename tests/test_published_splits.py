"""Published splits: what is recorded is what an evaluation says, and all of train is trained on afterward."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrec as gr
from experiments import published_splits
from experiments.published_splits import METRICS, SPLITS, Row
from experiments.recording import read_result
from experiments.retrain import Where, kind_of
from graphrec.models import model
from graphrec.testing import communities

ROWS = {
    "Popularity": Row("popularity", {}),
    "EASE": Row("ease", {"reg_weight": 1.0}, {"recall@20": 0.5}),
    "LightGCN": Row("lightgcn", {"dim": 8}, {"recall@10": 0.25}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a split in Gowalla's form."""
    data, _ = communities(3, 20)
    data = data.resplit("random")
    folder = tmp_path_factory.mktemp("data") / "gowalla"
    folder.mkdir()
    known = data.train + data.valid
    parts = {"train": known, "test": data.test}
    pairs = {name: np.stack([part.users, part.items], 1) for name, part in parts.items()}
    np.savez(folder / "gowalla_lightgcn_split.npz", **pairs)
    return folder.parent


@pytest.fixture
def recorded(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs the script and reads what it recorded."""
    split = SPLITS["gowalla"]
    train = split.train.replace(batch_size=256, epochs=6, progress=False)
    monkeypatch.setitem(SPLITS, "gowalla", split._replace(rows=ROWS, train=train))
    monkeypatch.setattr(published_splits, "RESULTS", tmp_path)

    def run(*arguments: str, at: str = "published_gowalla.json") -> dict[str, Any]:
        given = ["x", "gowalla", "--root", str(root), "--out", str(tmp_path / "runs"), *arguments]
        monkeypatch.setattr(sys, "argv", given)
        published_splits.main()
        return read_result(tmp_path / at)

    return run


def test_rows_are_added_to_the_record_and_shown_in_their_order(recorded: Any, root: Path) -> None:
    result = recorded("--rows", "LightGCN", "--seeds", "0", "1")
    assert result["order"] == ["LightGCN"]
    result = recorded("--rows", "EASE", "Popularity")
    assert result["order"] == list(ROWS)
    assert len(result["rows"]["LightGCN"]["runs"]) == 2
    whole = gr.load_dataset("gowalla", root=root, valid_share=0)
    plain = gr.evaluate(
        gr.models.Popularity.build(whole),
        whole.test,
        seen=whole.train,
        metrics=("recall", "ndcg"),
        k=(10, 20),
    )
    (run,) = result["rows"]["Popularity"]["runs"]
    assert run["whole"] == pytest.approx({m: plain.mean()[m] for m in METRICS}, abs=1e-7)
    assert run["test"] != run["whole"], "a tenth of train is left out"
    text = published_splits.table(result)
    cells = next(line for line in text.splitlines() if line.startswith("| EASE |")).split(" | ")
    assert [cell.endswith("[0.5000]") for cell in cells].index(True) == 5, "published values saw all of train"
    lightgcn = next(line for line in text.splitlines() if line.startswith("| LightGCN |"))
    assert "±" in lightgcn
    assert " | 2 | " in lightgcn


def test_all_of_train_gets_as_many_epochs_as_the_best_one(recorded: Any, root: Path, tmp_path: Path) -> None:
    (run,) = recorded("--rows", "LightGCN")["rows"]["LightGCN"]["runs"]
    assert run["best_epoch"] >= 1
    data = gr.load_dataset("gowalla", root=root, valid_share=0)
    cls = model("lightgcn")
    train = SPLITS["gowalla"].train.replace(epochs=run["best_epoch"], seed=0)
    again = gr.Trainer(train).fit(cls.build(data, None, cls.Config(dim=8, seed=0)))
    assert len(again.history) == run["best_epoch"]
    report = gr.evaluate(again.model, data.test, seen=data.train, metrics=("recall", "ndcg"), k=(10, 20))
    assert run["whole"] == pytest.approx({m: report.mean()[m] for m in METRICS}, abs=1e-7)


def test_a_recorded_row_is_measured_again(recorded: Any, root: Path, tmp_path: Path) -> None:
    result = recorded("--rows", "EASE", "LightGCN")
    kind = kind_of(result)
    assert kind is not None
    rows = kind.rows(result)
    assert rows["LightGCN"].trained
    assert not rows["EASE"].trained
    where = Where(str(root), tmp_path, tmp_path / "again")
    found = kind.measure(result, "LightGCN", 0, where)
    assert found == pytest.approx({m: rows["LightGCN"].values[m][0] for m in METRICS}, abs=1e-7)


def test_an_unknown_row_is_named(recorded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        recorded("--rows", "LightGCM")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "LightGCM" in error
    assert "LightGCN" in error


def test_quick_runs_are_kept_apart_from_the_record(recorded: Any, tmp_path: Path) -> None:
    quick = recorded("--rows", "LightGCN", "--quick", at="runs/quick/published_gowalla.json")
    assert quick["rows"]["LightGCN"]["runs"][0]["best_epoch"] == 1
    assert quick["command"].endswith("--quick")
    assert not (tmp_path / "published_gowalla.json").exists()
