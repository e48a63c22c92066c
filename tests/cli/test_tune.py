"""``graphrec tune``: what it prints, the commands it names next, and what it answers to mistakes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphrec.models import MODELS
from graphrec.runs import run as runs
from graphrec.runs.tuning import tuner

Command = Callable[..., Any]
Refused = Callable[..., str]

SMALL = shlex.split("--set train.epochs=2 --device cpu --set model.dim=8 --extend 0 --out study")


@pytest.fixture(autouse=True)
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power does not fail here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def test_a_study_is_told_trial_by_trial_and_ends_in_commands_that_work(
    there: Path, graphrec: Command, tmp_path: Path
) -> None:
    out = tmp_path / "a study"
    answer = graphrec(
        "tune", "freedom", "shop/dataset", "--trials", 3, *SMALL[:-1], out, "--image", "none", "--seed", 4,
        "--select", "ndcg@10", "--sampler", "random",
    )  # fmt: skip
    assert answer.code == 0
    told = [line for line in answer.err.splitlines() if line.startswith("trial ")]
    assert [line.split()[1] for line in told] == ["0", "1", "2"]
    assert all("ndcg@10 0." in line and "of 2, " in line for line in told)
    assert "searched: dropout: one of 0.5, 0.8, 0.9" in answer.err
    study = tuner.read_study(out)
    rows = [line for line in answer.out.splitlines() if line.startswith("trial-")]
    assert len(rows) == 3
    assert rows[0].split()[:2] == [study.best.path.name, f"{study.best.value:.4f}"]
    assert f"best: {study.best.path.name}: --set " in answer.out
    evaluate, train = (line.strip() for line in answer.err.splitlines()[-2:])
    assert graphrec(*shlex.split(evaluate)[1:]).code == 0
    assert graphrec(*shlex.split(train)[1:]).code == 0
    again = runs.read_meta(f"{out}-seed-5")
    best = runs.read_meta(study.best.path)
    for config in ("model_config", "train_config"):
        assert {**again[config], "seed": 4} == best[config]
    assert (again["seed"], again["select"], list(again["features"])) == (5, "ndcg@10", ["text"])
    assert again["dataset"] == best["dataset"]


def test_a_finished_study_stays_and_may_have_more_trials(
    copy: Path, graphrec: Command, refused: Refused
) -> None:
    line = ("tune", "mf", "shop/dataset", *SMALL)
    assert graphrec(*line, "--trials", 2).code == 0
    before = {p: p.read_bytes() for p in Path("study").rglob("*") if p.is_file()}
    message = refused(*line, "--trials", 2)
    assert "study already holds a study" in message
    assert "--resume" in message
    assert "--trials" in refused(*line, "--trials", 1, "--resume")
    done = graphrec(*line, "--trials", 2, "--resume")
    assert "finished already" in done.out
    assert {p: p.read_bytes() for p in Path("study").rglob("*") if p.is_file()} == before
    more = graphrec(*line, "--trials", 3, "--resume")
    assert more.code == 0
    assert "finished already" not in more.out
    assert [row.startswith("trial 2") for row in more.err.splitlines()].count(True) == 1


def test_an_interrupted_study_says_how_to_go_on(
    copy: Path, graphrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = runs.train, []

    def stop(*given: Any, **options: Any) -> Any:
        calls.append(options["out"])
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return train(*given, **options)

    monkeypatch.setattr(runs, "train", stop)
    line = ("tune", "mf", "shop/dataset", *SMALL, "--trials", 3)
    first = graphrec(*line)
    assert first.code == 130
    assert first.err.strip().splitlines()[-1] == "interrupted; resume with --resume"
    assert json.loads(Path("study/best.json").read_text())["trial"] == "trial-0000"
    assert graphrec(*line, "--resume").code == 0
    assert [path.name for path in calls] == ["trial-0000", "trial-0001", "trial-0001", "trial-0002"]


def test_a_best_value_at_an_edge_is_said_and_followed(there: Path, graphrec: Command, tmp_path: Path) -> None:
    """Two of two trials are at an edge of one option at least; nothing says that none is."""
    line = ("tune", "mf", "shop/dataset", *SMALL[:-4], "--trials", 4, "--out", tmp_path / "study")
    inside = graphrec(*line, "--extend", 0)
    study = tuner.read_study(tmp_path / "study")
    space = tuner.search_space("mf", None, {"dim": 8}, {"epochs": 2, "device": "cpu"})
    steps = tuner.steps_beyond(study, space, {"dim": 8}, {"epochs": 2})
    assert steps, "the best of four trials of a small grid is at an edge"
    assert f"{steps[0][0]}" in next(line for line in inside.out.splitlines() if "at an edge" in line)
    further = graphrec(*line, "--extend", 1, "--resume")
    assert f", {steps[0][0]} beyond its edge)" in further.err
    assert json.dumps(steps[0][1][steps[0][0]]) in next(
        line for line in further.out.splitlines() if "was tried as well" in line
    )


def test_what_has_nothing_to_choose_has_one_trial(there: Path, graphrec: Command, tmp_path: Path) -> None:
    answer = graphrec("tune", "popularity", "shop/dataset", "--out", tmp_path / "p")
    assert answer.code == 0
    assert "1 trial\n" in answer.out
    assert "20 were asked for" in answer.out
    assert "no options to choose" in answer.out


def test_what_is_searched_is_listed(graphrec: Command) -> None:
    listed = graphrec("tune", "--list")
    assert listed.code == 0
    assert {line.split()[0] for line in listed.out.splitlines()[1:]} == set(MODELS)
    assert "train.learning_rate" in listed.out
    assert "a whole number from 1 to 4" in listed.out
    one = graphrec("models", "lightgcn").out
    assert "searched by graphrec tune:" in one
    assert "n_layers" in one.split("searched by")[1]
    assert "searched by" not in graphrec("models", "popularity").out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tune", "MODEL and a DATASET"),
        ("tune fredom shop/dataset", "'freedom'"),
        ("tune freedom shop/datasett", "no saved dataset"),
        ("tune freedom shop/dataset --set model.dropuot=0.5", "'dropout'"),
        ("tune freedom shop/dataset --set train.epoch=5", "'epochs'"),
        ("tune freedom shop/dataset --set trian.epochs=5", "'train'"),
        ("tune freedom shop/dataset --trails 5", "--trials"),
        ("tune freedom shop/dataset --trials 0", "from 1"),
        ("tune freedom shop/dataset --sampler tpee", "'tpe'"),
        ("tune freedom shop/dataset --keep bset", "'best'"),
        ("tune freedom shop/dataset --select recal@20", "'recall'"),
        ("tune freedom shop/dataset --select none", "recall"),
        ("tune freedom shop/dataset --device gpu", "'cpu'"),
        ("tune freedom shop/dataset --device cpu --set train.device=cpu", "give one of them"),
        ("tune freedom shop/dataset --image none --text none", "left out"),
        ("tune freedom shop/dataset --out runs/freedom", "holds a run"),
        ("tnue freedom shop/dataset", "'tune'"),
    ],
)
def test_typos_are_answered_with_what_was_meant(
    there: Path, refused: Refused, line: str, expected: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert expected in refused(*shlex.split(line))
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [("study.json", "{"), ("study.json", '{"format": 1}'), ("trials.log", "[]\n")],
)
def test_damaged_files_are_named(
    copy: Path, graphrec: Command, refused: Refused, file: str, text: str
) -> None:
    line = ("tune", "mf", "shop/dataset", *SMALL, "--trials", 1)
    assert graphrec(*line).code == 0
    Path("study", file).write_text(text)
    assert f"study/{file}" in refused(*line, "--resume")


def test_without_optuna_the_extra_is_named(
    there: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    message = refused("tune", "mf", "shop/dataset", *SMALL)
    assert "pip install 'graphrec[tune]'" in message
    assert not Path("study").exists()
