"""What a training shows of itself without a terminal and in a notebook."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbclient import NotebookClient

from graphrec import testing
from graphrec.core import progress
from graphrec.evaluation.ranking import RankingTask
from graphrec.models.mf import MF
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_line_every_thirty_seconds_says_how_it_stands(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.epoch_progress(None, 100, 0, "recall@20", 20) as shown:
        for epoch in range(1, 10):
            clock.now += 10
            shown.on_epoch({"epoch": epoch, "loss/bpr": 0.5}, 0.25, 2, epoch - 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 3 of at most 100, 30 s, at most 16 min 10 s left; ")
    assert "best recall@20 0.2500 at epoch 2" in lines[0]
    assert [re.findall(r"\((\d+) of 20 ", line) for line in lines] == [["1"], ["4"], ["7"]]


def test_a_long_epoch_is_not_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.epoch_progress(None, 5, 0) as shown:
        for step in range(1, 8):
            clock.now += 10
            shown.on_step(1, step)
    assert [line.split(",")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["epoch 1 of at most 5", " step 3"], ["epoch 1 of at most 5", " step 6"],
    ]  # fmt: skip


def test_the_trainer_shows_its_epochs_and_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    data, _ = testing.communities(2, 10)
    model = MF.build(data, None, MF.Config(dim=4))
    config = TrainConfig(epochs=2, device="cpu", patience=7)
    run = Trainer(config).fit(model, RankingTask(data.test, seen=data.train), "recall@20")
    told = capsys.readouterr().err
    assert re.search(r"^epoch 1 of at most 2, step 1,", told, re.MULTILINE)
    assert re.search(r"^epoch 2 of at most 2, \d+ s, at most 0 s left; loss ", told, re.MULTILINE)
    assert f"best recall@20 {run.best_value:.4f} at epoch {run.best_epoch} (" in told
    assert "of 7 validations" in told
    Trainer(config.model_copy(update={"progress": False})).fit(model)
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_a_notebook_shows_the_last_epoch_below_the_cell() -> None:
    source = """
from graphrec import testing
from graphrec.models.mf import MF
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer
data, _ = testing.communities(2, 10)
run = Trainer(TrainConfig(epochs=3, device="cpu")).fit(MF.build(data, None, MF.Config(dim=4)))
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=300, startup_timeout=300).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"].startswith("epoch 3 of at most 3; loss ")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (245, "4 min 5 s"), (7_620, "2 h 7 min")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert progress.duration(seconds) == expected
