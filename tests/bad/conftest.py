"""Runs command lines in this process, and counts the table-driven cases of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from graphrec import cli

FOLDER = Path(__file__).parent
COLLECTED = pytest.StashKey[dict[str, int]]()


class Answer(NamedTuple):
    """What a command line left behind: exit status, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Notes how many cases each file of this folder has, before any is deselected."""
    counts: dict[str, int] = {}
    for item in items:
        if item.path.parent == FOLDER and hasattr(item, "callspec"):
            counts[item.path.name] = counts.get(item.path.name, 0) + 1
    config.stash[COLLECTED] = counts


@pytest.fixture
def graphrec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs one command line in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(graphrec: Callable[..., Answer]) -> Callable[..., str]:
    """Runs a command line that must fail as a user's mistake; the one line it prints about it."""

    def run(*arguments: object) -> str:
        answer = graphrec(*arguments)
        assert answer.code == 2, answer
        assert "Traceback" not in answer.err
        errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, answer.err
        assert answer.err.rstrip("\n").endswith(errors[0]), "the error is the last line, and one line"
        return errors[0]

    return run
