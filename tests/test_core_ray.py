"""Which clusters are refused, and how soon: no Ray cluster is started here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from extraction import shop, texts

from graphrec.core import ray as cluster_module
from graphrec.core.errors import ClusterError, ConfigError, MissingDependencyError
from graphrec.core.ray import Cluster

ROOT = Path(__file__).parent.parent
PATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("address", ["", "somewhere", "http://a:1", "a:b", "ray://a:10001", None])
def test_no_address_at_all_is_refused(address: Any) -> None:
    with pytest.raises(ConfigError, match="cluster address"):
        Cluster(address)


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": 1.5}, {"cpus": 0}, {"cpus": "2"}, {"gpus": -1}]
)
def test_sizes_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"workers .*cpus .*gpus"):
        Cluster("local", **options)


def test_what_is_no_cluster_is_found_out_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"127.0.0.1:{port}: .*refused"):
            Cluster(f"127.0.0.1:{port}")._check_address()
        free.listen()
        with pytest.raises(ClusterError, match=r"timed out"):
            Cluster(f"127.0.0.1:{port}")._check_address()

        def answer() -> None:
            for _ in range(2):  # the one that gave up stands before it
                connection = free.accept()[0]
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT", 120)
        threading.Thread(target=answer).start()
        with pytest.raises(ClusterError, match=rf"127.0.0.1:{port}"):
            Cluster(f"127.0.0.1:{port}")._check_address()


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = pytest.raises(MissingDependencyError, match=r"graphrec\[ray\]")
    with said, Cluster().connect():
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ray", "nowhere"), "'nowhere'"),
        (("--ray", "127.0.0.1:1"), "127.0.0.1:1: "),
        (("--set", "ray.workers=2"), "ray.workers"),
        (("--ray", "auto", "--set", "ray.worker=2"), "--ray has no option 'worker'; it has ['cpus', "),
    ],
)  # fmt: skip
def test_the_command_line_says_what_is_wrong_in_one_line(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'graphrec[ray]'")
    shop(texts(9)).save(tmp_path / "shop")
    command = [sys.executable, "-m", "graphrec", "features", "build", tmp_path / "shop", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": PATH}
    )
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
