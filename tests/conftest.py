"""Shared fixtures: where real data is, ways to run commands, and one thread, with which small tests are
fastest.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import settings

# The same examples in every run, so that nobody's change fails on another's; HYPOTHESIS_PROFILE=explore looks
# for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it, and for the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Files are not forced to the disk: here processes are killed, which loses nothing that was written; the
    power does not fail. What tests count or fail are calls of ``os.fsync``, which remain.
    """
    with patch.object(os, "fsync", lambda handle: None):
        yield


LONGEST = (
    "test_ray",
    "test_contract",
    "test_training_faults",
    "test_readme",
    "test_distributed",
    "test_processes",
)
"""Files whose tests take minutes. They come first: one that a worker begins last leaves the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, and leaves out what takes long, unless it is asked for."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if not os.environ.get("GRAPHREC_SLOW"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: set GRAPHREC_SLOW=1"))


@pytest.fixture
def metric_registry() -> Iterator[None]:
    """A registry of metrics that is restored after the test."""
    from graphrec.evaluation.metrics import METRICS

    with patch.dict(METRICS):
        yield


class Answer(NamedTuple):
    """What a command line left behind: exit status, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; tests that need it are skipped where there is none."""
    root = os.environ.get("GRAPHREC_DATA")
    if not root:
        pytest.skip("real data: set GRAPHREC_DATA to the folder that holds amazon-baby/ and the others")
    if not Path(root).is_dir():
        pytest.fail(f"GRAPHREC_DATA={root} is not a folder")
    return Path(root).resolve()


@pytest.fixture
def graphrec(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs one command line in this process."""
    from graphrec.cli import main as cli

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(graphrec: Callable[..., Answer]) -> Callable[..., str]:
    """Runs a command line that must fail as a user's mistake; its error, with the indented details."""

    def run(*arguments: object) -> str:
        answer = graphrec(*arguments)
        assert answer.code == 2, answer
        assert "Traceback" not in answer.err
        errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, answer.err
        after = answer.err.partition(errors[0])[2].splitlines()[1:]
        assert all(line.startswith("  ") for line in after), "only the details of the error follow it"
        return "\n".join([errors[0], *after])

    return run
