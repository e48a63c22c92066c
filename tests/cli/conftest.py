"""A generated shop with features and runs, made by the commands themselves, and ways to run commands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from graphrec.cli import main as cli
from graphrec.core.bundle import write_sealed

SMALL = "--set train.epochs=2 --set train.device=cpu --set model.dim=8"


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
