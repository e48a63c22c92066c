"""A generated shop with features and runs, made by the commands themselves, and ways to run commands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from graphrec import cli
from graphrec.commit import write_sealed

SMALL = "--set train.epochs=2 --set train.device=cpu --set model.dim=8"


class Answer(NamedTuple):
    """What a command line left behind: exit status, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def graphrec(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs one command line in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(graphrec: Callable[..., Answer]) -> Callable[..., str]:
    """Runs a command line that must fail as a user's mistake; the one line it prints."""

    def run(*arguments: object) -> str:
        answer = graphrec(*arguments)
        assert answer.code == 2, answer
        last = answer.err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert "Traceback" not in answer.err
        return last

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated shop, its features and two runs, made by the commands themselves; not to be written to."""
    folder = tmp_path_factory.mktemp("cli")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in (
            "data generate shop --items 60 --users 80",
            "features build shop/dataset",
            f"train freedom shop/dataset --out runs/freedom {SMALL}",
            "train popularity shop/dataset --out runs/popularity",
        ):
            with pytest.raises(SystemExit) as ended:
                cli.main(shlex.split(line))
            assert not ended.value.code, line
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be damaged, as the working directory; its dataset and store are the copied ones."""
    target = tmp_path / "copy"
    shutil.copytree(made, target)
    for record in target.glob("runs/*/run.json"):
        moved = json.loads(record.read_text().replace(str(made), str(target)))
        del moved["seal"]
        write_sealed(record, moved)
    monkeypatch.chdir(target)
    return target
