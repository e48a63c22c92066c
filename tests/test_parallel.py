"""Several processes that train one model do what one does; what cannot be divided says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import divided
import pytest
from safetensors.torch import load_file

from graphrec.commands.together import without

HERE = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """A command with one thread a process."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, Path]:
    """Everything trained in one process and in two."""
    made = {n: tmp_path_factory.mktemp(f"in-{n}") for n in (1, 2)}
    for name in divided.names():
        divided.trained(name, made[1])
    done = run(*TORCHRUN, 2, HERE / "divided.py", made[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((made[2] / "processes.json").read_text()) == 2
    return made


@pytest.mark.parametrize("name", divided.names())
def test_two_processes_do_what_one_does(folders, name) -> None:
    """Trained, stopped and resumed: losses, metrics and weights; and each writes its files once."""
    lines = {n: (folder / name / "metrics.jsonl").read_text().splitlines() for n, folder in folders.items()}
    assert len(lines[1]) == len(lines[2]) == divided.EPOCHS
    for one, two in zip(*(map(json.loads, lines[n]) for n in (1, 2)), strict=True):
        assert set(one) == set(two)
        for key in (key for key in one if not key.startswith("seconds")):
            assert one[key] == pytest.approx(two[key], rel=1e-6, abs=1e-6), (name, key, one["epoch"])
    one, two = (load_file(folder / f"{name}.safetensors") for folder in folders.values())
    for key, weights in one.items():
        assert (weights - two[key]).abs().max() < 1e-5, key
    record = json.loads((folders[2] / name / "run.json").read_text())
    assert record["device"]["processes"] == 2


def test_the_option_is_not_handed_on() -> None:
    arguments = ["train", "mf", "a", "--processes", "2", "--seed", "2"]
    assert without(arguments, "--processes") == ["train", "mf", "a", "--seed", "2"]
    assert without(["train", "--processes=3", "mf"], "--processes") == ["train", "mf"]
