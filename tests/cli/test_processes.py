"""``graphrec train --processes``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from graphrec.models import MODELS, model

CPU = ("--set", "train.device=cpu")


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``graphrec train`` in a process of its own, of one thread."""
    return subprocess.run(
        [sys.executable, "-m", "graphrec", "train", *arguments, *CPU], capture_output=True, text=True,
        timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_command_line_starts_them(copy) -> None:
    of_shop = ("lightgcn", "shop/dataset", "--out", "two", "--processes", "2")
    two = train(*of_shop, "--set", "train.epochs=2")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("best on recall@20") == 1, "only the first one speaks"
    assert two.stderr.count("next:") == 1
    assert Path("two/recommender").is_dir()
    again = train(*of_shop, "--resume", "--set", "train.epochs=3")
    assert again.returncode == 0, again.stderr
    assert len(Path("two/metrics.jsonl").read_text().splitlines()) == 3
    wrong = train("lightgcn", "shop/datase", "--processes=2")
    assert wrong.returncode == 2
    assert wrong.stderr.count("error:") == 1
    assert len(wrong.stderr.splitlines()) == 1


def test_what_cannot_be_divided_says_so(copy) -> None:
    assert not all(model(name).data_parallel for name in MODELS)
    told = train("fm", "shop/dataset", "--processes", "2", "--select", "none")
    assert told.returncode == 2
    assert "trains in one process" in told.stderr
