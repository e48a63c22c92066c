"""An experiment on conversations, run as a whole on a small catalog, and its rows measured again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_scpr import data as data, scorer as scorer

from experiments import conversations
from experiments.conversations import ERROR_RATES, ConversationExperiment, Learned, arguments, repeat, run
from experiments.harness import complete
from experiments.retrain import kind_of
from experiments.verify import checked
from graphrec.conversation.models.scpr import SCPR
from graphrec.core.errors import ConfigError
from graphrec.data import Dataset
from graphrec.models.train_config import TrainConfig

SMALL = {"hidden": 16, "memory": 300, "episodes": 30, "parallel": 4, "target_every": 5}


def test_all_rows_are_recorded_and_measured_again_as_recorded(
    data: Dataset, scorer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "RESULTS", tmp_path)
    learned = [Learned("SCPR", SMALL, {"epochs": 1})]
    experiment = ConversationExperiment(
        "shelf", "python -m shelf", data, Path(scorer), "drawn", learned, range(2)
    )
    result = run(experiment, arguments("").parse_args(["--out", str(tmp_path / "runs")]))
    assert (tmp_path / "shelf.json").exists()
    kept = result["learned"]["SCPR"]
    assert kept["options"] == SMALL
    assert kept["train"] == complete(TrainConfig(**{**SCPR.train_defaults, "epochs": 1}))
    row = result["rows"]["SCPR"]
    low, high = row["interval"]
    assert low <= np.mean([of["mean"]["sr@15"] for of in row["runs"]]) <= high, "of the mean over seeds"
    assert "first seed" not in conversations.table(result)
    assert all(len(line["sr@15"]) == len(ERROR_RATES) for line in result["noise"])
    kind = kind_of(result)
    assert kind is not None
    recorded = kind.rows(result)
    assert recorded["SCPR"].trained
    for label, known in recorded.items():
        for seed in known.seeds:
            again = repeat(experiment, label, seed, tmp_path / "again")
            for metric, of in known.values.items():
                assert again[metric] == pytest.approx(of[seed], rel=1e-7), (label, metric)
                assert checked(metric, known, again[metric]).within
    with pytest.raises(ConfigError, match="guess"):
        repeat(experiment, "guess:3", 0, tmp_path / "again")
