"""Several processes that train one model do what one does; what cannot be divided says so."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import divided
import pytest
import torch
from safetensors.torch import load_file

from graphrec.cli.launch import without_option
from graphrec.core import distributed
from graphrec.testing.scale import differing_weights

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


def same(one: Path, two: Path, name: str) -> None:
    """Two runs that ended with the same losses, metrics and weights."""
    lines = [(folder / name / "metrics.jsonl").read_text().splitlines() for folder in (one, two)]
    assert len(lines[0]) == len(lines[1]) == divided.EPOCHS
    for a, b in zip(*(map(json.loads, part) for part in lines), strict=True):
        assert set(a) == set(b)
        for key in (key for key in a if not key.startswith("seconds")):
            # Weights that differ by rounding are trained on.
            assert a[key] == pytest.approx(b[key], rel=1e-5, abs=1e-6), (name, key, a["epoch"])
    weights = [load_file(folder / f"{name}.safetensors") for folder in (one, two)]
    for key, values in weights[0].items():
        differing = differing_weights(values, weights[1][key], most=1e-3)
        assert differing is None, f"{key} {differing}"


@pytest.mark.parametrize("name", divided.names())
def test_two_processes_do_what_one_does(folders, name) -> None:
    """Trained, stopped and resumed: losses, metrics and weights; and each writes its files once."""
    same(folders[1], folders[2], name)
    record = json.loads((folders[2] / name / "run.json").read_text())
    assert record["device"]["processes"] == 2


def test_weights_may_differ_as_far_as_rounding_explains() -> None:
    weights = torch.zeros(4000)
    few, many, far = (weights.clone() for _ in range(3))
    few[:40] = 5e-5
    many[:41] = 5e-5
    far[0] = 2e-4
    assert differing_weights(weights, weights) is None
    assert differing_weights(weights, few) is None
    assert "41 of 4000" in str(differing_weights(weights, many))
    assert "2.0e-04" in str(differing_weights(weights, far))


def hosts(folder: Path) -> list[subprocess.Popen[bytes]]:
    """The launchers of two hosts, each of which has one process, as docs/scale.md says."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for rank in (0, 1):
        line = ["--nnodes", 2, "--node-rank", rank, "--nproc-per-node", 1]
        line += ["--master-addr", "127.0.0.1", "--master-port", port, HERE / "divided.py", folder, "lightgcn"]
        command = [sys.executable, "-m", "torch.distributed.run", *map(str, line)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with (folder / f"host-{rank}.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))
    return started


def worker(launcher: int) -> int:
    """The process that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(c) for c in children if "divided.py" in Path(f"/proc/{c}/cmdline").read_text())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes by /proc")
@pytest.mark.slow
def test_a_process_that_is_killed_costs_an_epoch_at_most(folders, tmp_path) -> None:
    """Two hosts, one of which loses its process midway; started again, they end where one process did."""
    logged = tmp_path / "lightgcn" / "metrics.jsonl"
    (tmp_path / "hold").touch()
    both = hosts(tmp_path)
    deadline = time.monotonic() + 300
    while not logged.exists() or len(logged.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline, (tmp_path / "host-0.log").read_text()[-3000:]
        time.sleep(0.05)
    os.kill(worker(both[1].pid), signal.SIGKILL)
    assert all(host.wait(timeout=300) != 0 for host in both), "nobody noticed"
    done = len(logged.read_text().splitlines())
    assert 2 <= done < divided.EPOCHS
    assert not (tmp_path / "lightgcn.safetensors").exists()
    (tmp_path / "hold").unlink()
    for host in hosts(tmp_path):
        assert host.wait(timeout=300) == 0, (tmp_path / "host-0.log").read_text()[-3000:]
    same(folders[1], tmp_path, "lightgcn")
    assert json.loads((tmp_path / "processes.json").read_text()) == 2


def test_the_option_is_not_handed_on() -> None:
    arguments = ["train", "mf", "a", "--processes", "2", "--seed", "2"]
    assert without_option(arguments, "--processes") == ["train", "mf", "a", "--seed", "2"]
    assert without_option(["train", "--processes=3", "mf"], "--processes") == ["train", "mf"]


def test_a_process_leaves_its_group_before_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Callable[[], None]] = []
    left: list[bool] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(distributed.atexit, "register", registered.append)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: left.append(True))
    distributed.set_up("cpu")
    (leave,) = registered
    leave()
    assert not left, "it has left already"
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    leave()
    assert left == [True]
