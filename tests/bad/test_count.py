"""There are at least as many cases as were asked for."""

from __future__ import annotations

import pytest

from bad.conftest import COLLECTED, FOLDER

LEAST = 150


def test_there_are_enough_cases(request: pytest.FixtureRequest) -> None:
    counts = request.config.stash[COLLECTED]
    missing = {path.name for path in FOLDER.glob("test_*.py")} - set(counts) - {"test_count.py"}
    if missing:
        pytest.skip(f"counts only when the whole folder is run; {sorted(missing)} were not")
    assert sum(counts.values()) >= LEAST, counts
