"""Extraction under kills, in a crowd, and on disks that are full, read-only or gone."""

from __future__ import annotations

import builtins
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction import Hashing, files, shop, texts

from graphrec.cli import main as cli
from graphrec.core import files as core_files
from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract.extraction import extract

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What 50 kills, as many of a naive writer, and two crowds came to (see ``killing.main``)."""
    script = Path(__file__).with_name("killing.py")
    place = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(
        [sys.executable, str(script), str(place), "25", "15"], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    shutil.rmtree(place)
    return found


@pytest.mark.parametrize("workers", [1, 4])
def test_kills_lose_one_shard_at_most_and_leave_no_trace(killed: dict[str, Any], workers: int) -> None:
    found = killed["campaigns"][f"ours {workers}"]
    assert found["problems"] == []
    assert found["corrupt"] == 0, "after the last resume every file equals an uninterrupted run's"
    assert found["redone"] == 0, "what was finished must not be made again"
    assert found["lost"] <= 6, "a kill costs at most the shard that was being made"
    assert found["kills"] == 25


@pytest.mark.parametrize("workers", [1, 4])
def test_the_kills_land_in_the_middle_of_writing(killed: dict[str, Any], workers: int) -> None:
    found = killed["campaigns"][f"ours {workers}"]
    assert sum(found["stages"].get(stage, 0) for stage in ("array", "sidecar", "manifest", "rename")) >= 8
    assert found["temporaries"] >= 5
    assert found["unpaired"] >= 2
    assert found["lost"] > 0


@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_kills_corrupt_what_a_naive_writer_leaves(killed: dict[str, Any], workers: int) -> None:
    assert killed["campaigns"][f"naive {workers}"]["corrupt"] > 0


def test_a_kill_at_any_moment_of_the_last_step_costs_nothing(killed: dict[str, Any]) -> None:
    end = killed["end"]
    assert end["problems"] == []
    assert end["code"] == 0
    assert end["encoded"] == 0
    assert end["equal"]
    assert {"check", "manifest", "rename"} == set(end["stages"])


def test_eight_processes_on_one_cache_do_the_work_once(killed: dict[str, Any]) -> None:
    crowd = killed["crowds"]["0"]
    assert crowd["codes"] == [0] * 8
    assert crowd["encoded"] == crowd["rows"] == 46 + 47, "46 pictures and 47 texts, each encoded once"
    assert crowd["equal"]
    assert crowd["verify"] == []


def test_of_eight_processes_four_are_killed_and_four_finish(killed: dict[str, Any]) -> None:
    crowd = killed["crowds"]["4"]
    assert crowd["codes"][4:] == [0] * 4
    assert -9 in crowd["codes"][:4]
    assert crowd["rows"] == 46 + 47
    assert crowd["encoded"] <= 46 + 47 + 4 * 6, "a killed process costs its unfinished shard, no more"
    assert crowd["equal"]
    assert crowd["verify"] == []


# -- disks ------------------------------------------------------------


def build(root: Path, extractor: Hashing | None = None) -> FeatureTable:
    return extract(shop(texts(50)), "text", extractor or Hashing(), FeatureStore(root), shard_size=8)


class Disk:
    """Room for some bytes: files opened for writing share it, and the write that exceeds it is cut short."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open(self, path: Any, mode: str = "r", *more: Any) -> Any:
        file = builtins.open(path, mode, *more)  # noqa: SIM115
        if mode != "wb":
            return file
        disk = self

        class Limited:
            name, flush, fileno = str(path), file.flush, file.fileno

            def __enter__(self) -> Limited:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                fits = data[: disk.room]
                disk.room -= len(fits)
                file.write(fits)
                if len(fits) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return len(data)

        return Limited()


def test_a_full_disk_is_named_and_resuming_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "whole")
    whole = files(tmp_path / "whole")
    n_bytes = sum(map(len, whole.values()))
    for k, room in enumerate([0, n_bytes - 1, *numpy_rng(0, "test/room").integers(1, n_bytes, 30)]):
        root, rest = tmp_path / f"store-{k}", Hashing()
        monkeypatch.setattr(core_files, "open", Disk(int(room)).open, raising=False)
        with pytest.raises(FeatureError, match=r"shard-\d+|manifest") as raised:
            build(root)
        monkeypatch.undo()
        assert "No space left on device" in str(raised.value)
        assert str(root) in str(raised.value)
        assert ".tmp" not in str(raised.value), "a temporary file's name tells the reader nothing"
        assert not list(root.rglob("*.tmp")), "what did not fit must not go on filling the disk"
        assert FeatureStore(root).tables() == []
        assert len(FeatureStore(root).verify()) == 1
        kept = len(list(root.rglob("shard-*.json")))
        build(root, rest)
        assert len(rest.seen) == max(0, 50 - 8 * kept)
        assert files(root) == whole


@contextmanager
def file_limit(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond ``n_bytes``; the system cuts the write short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_of_the_system_is_named_and_resuming_finishes(tmp_path: Path) -> None:
    build(tmp_path / "whole")
    sizes = {name[-9:]: len(data) for name, data in files(tmp_path / "whole").items()}
    for limit in (100, sizes["00000.npy"] - 1, sizes["0000.json"] - 1, sizes["fest.json"] - 1):
        with file_limit(limit), pytest.raises(FeatureError, match=r"File too large.*ulimit -f") as raised:
            build(tmp_path / f"{limit}")
        assert str(tmp_path / f"{limit}") in str(raised.value)
        build(tmp_path / f"{limit}")
        assert files(tmp_path / f"{limit}") == files(tmp_path / "whole")


@contextmanager
def nobody() -> Iterator[Path]:
    """A directory that this process, which loses root's rights where it has them, may read but not write."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65534)
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_store_is_named(tmp_path: Path) -> None:
    with (
        nobody() as folder,
        pytest.raises(FeatureError, match="Permission denied") as raised,
    ):
        build(folder / "store")
    assert str(folder) in str(raised.value)


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureError, match="file"):
        build(tmp_path / "file")
    with pytest.raises(FeatureError, match=r"file: "):
        FeatureStore(tmp_path / "file").load_tables(shop(texts(50)))
    assert FeatureStore(tmp_path / "file").verify()
    with pytest.raises(FeatureError, match="file"):
        FeatureStore(tmp_path / "file").save(
            shop(texts(3)), "text", FeatureTable.from_array(np.ones((3, 2)), shop(texts(3)), "text")
        )


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    lock = next(tmp_path.rglob(".lock"))
    lock.unlink()
    lock.mkdir()
    with pytest.raises(FeatureError, match=r"\.lock: "):
        build(tmp_path)


@pytest.mark.parametrize("anew", [False, True])
def test_a_store_that_is_removed_meanwhile_is_named_and_not_made_anew(tmp_path: Path, anew: bool) -> None:
    """Nor is one that another process made in its place, and perhaps writes to."""

    class Removing(Hashing):
        def encode(self, batch: list[str]) -> np.ndarray:
            if len(self.seen) == 16:
                folder = next((tmp_path / "store").glob("*/*/"))
                shutil.rmtree(tmp_path / "store")
                if anew:
                    folder.mkdir(parents=True)
                    (folder / ".lock").touch()
            return super().encode(batch)

    with pytest.raises(FeatureError, match=r"store.*removed"):
        build(tmp_path / "store", Removing())
    assert files(tmp_path / "store") == {}
    assert build(tmp_path / "store").sha256 == build(tmp_path / "whole").sha256


def test_an_extractors_own_error_is_not_taken_for_the_stores(tmp_path: Path) -> None:
    class Failing(Hashing):
        def encode(self, batch: list[str]) -> np.ndarray:
            raise ConnectionError("the hub is out of reach")

    with pytest.raises(ConnectionError):
        build(tmp_path, Failing())


def full(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_files, "open", Disk(3000).open, raising=False)


def a_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_text("")


def lockless(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [(full, "No space left"), (a_file, "store"), (lockless, "Read-only file system")],
)
def test_the_command_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    expected: str,
) -> None:
    shop(texts(50)).save(tmp_path / "data")
    spoil(tmp_path / "store", monkeypatch)
    with pytest.raises(SystemExit) as ended:
        cli.main(["features", "build", str(tmp_path / "data"), "--store", str(tmp_path / "store")])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.strip().splitlines()[-1].startswith("error: ")
    assert expected in error
    assert str(tmp_path / "store") in error
    assert "Traceback" not in error
