"""Outputs that the user names: links are followed, and devices, pipes and sockets are never replaced."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from graphrec.core.files import atomic_write, write_text


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # /dev/full
    except PermissionError:
        pytest.skip("only root makes device nodes")


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device])
@pytest.mark.parametrize("linked", [False, True])
def test_special_files_stay(tmp_path, monkeypatch, make, linked) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("special")
    make(path)
    named = path
    if linked:
        named = Path("link")
        named.symlink_to(path)
    before = path.lstat()
    with pytest.raises(OSError, match="expected a regular file") as error:
        write_text(named, "text")
    assert error.value.filename == str(named)
    assert path.lstat() == before
    assert sorted(p.name for p in Path().iterdir()) == sorted({path.name, named.name})


def test_links_are_followed(tmp_path) -> None:
    target = tmp_path / "there" / "report.html"
    link = tmp_path / "report.html"
    link.symlink_to(target)
    write_text(link, "first")  # a dangling link, whose folder is created
    write_text(link, "second")
    assert link.is_symlink()
    assert target.read_text() == "second"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="points to itself"):
        write_text(loop, "text")
    assert loop.is_symlink()


def test_a_failed_write_names_the_path_as_given(tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="room") as error, atomic_write(link):
        raise OSError(28, "no room")
    assert error.value.filename == str(link)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link"]


def test_commands_refuse_a_device(graphrec, tmp_path, monkeypatch) -> None:
    """Every option of the command line that names an output file."""
    monkeypatch.chdir(tmp_path)
    assert graphrec("data", "generate", "shop", "--items", "40", "--users", "60").code == 0
    for model in ("popularity", "itemknn"):
        trained = graphrec("train", model, "shop/dataset", "--out", model)
        assert trained.code == 0, trained.err
    lines = (
        "evaluate itemknn --out full.parquet",
        "compare itemknn popularity --html full.html",
        "compare itemknn popularity --parquet full.parquet",
        "export itemknn --out full.parquet",
        "export itemknn --out full.csv",
    )
    for line in lines:
        device = tmp_path / line.split()[-1]
        if not device.exists():
            make_device(device)
        before = device.lstat()
        answer = graphrec(*line.split())
        assert answer.code == 2, (line, answer)
        assert "full" in answer.err
        assert "device" in answer.err
        assert device.lstat() == before
