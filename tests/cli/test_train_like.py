"""``graphrec train --like``: repeats what a run directory records, from files, and says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphrec import runs
from graphrec.training import checkpoint

Command = Callable[..., Any]
Refused = Callable[..., str]


def test_a_run_is_repeated_from_its_files(copy: Path, graphrec: Command) -> None:
    answer = graphrec("train", "--like", "runs/freedom")
    assert answer.code == 0, answer
    assert "equal to runs/freedom to the last bit" in answer.out
    assert "2 epochs, and the selected weights" in answer.out
    assert "graphrec evaluate runs/freedom-again" in answer.err
    one, other = (graphrec("evaluate", run).out for run in ("runs/freedom", "runs/freedom-again"))
    assert one == other
    facts = [runs.read_record(f"runs/{name}") for name in ("freedom", "freedom-again")]
    assert facts[0].source == facts[1].source, "the dataset is recorded where it is, not copied"
    assert facts[0].keys == facts[1].keys
    assert facts[0].store == facts[1].store


def test_a_run_on_files_of_ones_own_is_repeated_with_the_readers_options(
    copy: Path, graphrec: Command
) -> None:
    own = (
        "interactions=interactions.csv",
        "items=items.csv",
        "text=title,description",
        "split=random",
    )
    sets = [part for option in own for part in ("--set", f"data.{option}")]
    small = ("--set", "train.epochs=2", "--set", "train.device=cpu", "--set", "model.dim=8")
    first = graphrec("train", "mf", "table", "--root", "shop", *sets, *small, "--out", "runs/own")
    assert first.code == 0, first
    answer = graphrec("train", "--like", "runs/own", "--out", "again")
    assert answer.code == 0, answer
    assert "to the last bit" in answer.out
    facts = [runs.read_record(run) for run in ("runs/own", "again")]
    assert facts[0].source == facts[1].source
    assert facts[1].source.options["split"] == "random"
    assert runs.read_meta("again")["dataset_meta"]["options"]["split"] == "random"


def test_moved_data_and_store_are_found_when_named(copy: Path, graphrec: Command, refused: Refused) -> None:
    Path("cache").rename("elsewhere")
    assert "features" in refused("train", "--like", "runs/freedom")
    Path("shop/dataset").rename("moved")
    assert "dataset" in refused("train", "--like", "runs/freedom", "--store", "elsewhere")
    answer = graphrec("train", "--like", "runs/freedom", "--store", "elsewhere", "--root", "moved")
    assert "to the last bit" in answer.out
    assert graphrec("evaluate", "runs/freedom-again").code == 0, "the new run knows where they are now"


def test_the_same_but_for_what_is_set(copy: Path, graphrec: Command) -> None:
    answer = graphrec("train", "--like", "runs/freedom", "--set", "model.dim=12", "--out", "wider")
    assert answer.code == 0
    assert "but for model.dim 8 -> 12" in answer.out
    assert "recall@20" in answer.out.splitlines()[-1]
    again = graphrec("train", "--like", "runs/freedom", "--seed", 7)
    assert again.code == 0
    assert "model.seed 0 -> 7" in again.out
    assert runs.read_meta("runs/freedom-seed-7")["seed"] == 7


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lightgcn --like runs/freedom", "'lightgcn'"),
        ("freedom shop/dataset --like runs/freedom", "'shop/dataset'"),
        ("--like runs/freedom --set data.split=random", "data.split"),
        ("--like runs/freedom --text none", "--text"),
        ("--like runs/fredom", "'freedom'"),
        ("--like runs/freedom --set model.dmi=8", "'dim'"),
        ("--like runs/freedom --set modle.dim=8", "'model'"),
        ("--like runs/freedom --device gpu", "'cpu'"),
        ("--like runs/freedom --select recal@20", "'recall'"),
        ("--like runs/freedom --out runs/popularity", "already holds a run"),
        ("--like runs/freedom --out runs/freedom --resume", "the run to repeat"),
    ],
)
def test_mistakes_are_answered_in_one_line(there: Path, refused: Refused, line: str, expected: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert expected in refused("train", *line.split())
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_other_data_or_features_are_refused(copy: Path, refused: Refused, graphrec: Command) -> None:
    graphrec("data", "generate", "shop", "--items", 60, "--users", 80, "--seed", 1)
    message = refused("train", "--like", "runs/freedom")
    assert "fingerprints" in message
    assert "runs/freedom" in message


def test_a_run_that_ends_otherwise_for_no_reason_is_told_by_the_exit_status(
    copy: Path, graphrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphrec.runs.repeat.differences", lambda *_: [])
    opened = runs.open_run("runs/freedom")
    head = checkpoint.read("runs/freedom/last")
    head["training"]["history"][0]["loss/bpr"] += 1e-9
    checkpoint.write("runs/freedom/last", head["step"], opened.model, training=head["training"])
    answer = graphrec("train", "--like", "runs/freedom")
    assert answer.code == 1
    assert "warning: not equal to runs/freedom" in answer.out
    monkeypatch.setattr("graphrec.runs.repeat.differences", lambda *_: ["torch 1.0.0 there, 2.0.0 here"])
    explained = graphrec("train", "--like", "runs/freedom", "--out", "explained")
    assert explained.code == 0
    assert "torch 1.0.0 there" in explained.out
