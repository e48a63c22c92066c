"""A folder for every test, and the count of the table-driven cases here."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
COLLECTED = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Notes how many cases each file of this folder has, before any is deselected."""
    counts: dict[str, int] = {}
    for item in items:
        if item.path.parent == FOLDER and hasattr(item, "callspec"):
            counts[item.path.name] = counts.get(item.path.name, 0) + 1
    config.stash[COLLECTED] = counts


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
