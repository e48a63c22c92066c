"""The documentation runs: every command and Python block of the README and the docs, and every notebook; the
site builds without a warning.

The blocks of a page run in order in an empty folder and in one process, with one namespace per page.
Markers in HTML comments say what a block needs:

- ``<!-- not run: reason -->`` before a block: it needs something that is not at hand, or never ends.
- ``<!-- slow: reason -->`` before a block: it runs where GRAPHREC_SLOW is set.
- ``<!-- starts with: shop, saved/shop -->`` before a block: these folders of :func:`prepared` are there.
- ``<!-- file: PATH -->`` before a block: its text is written to that file.

The generated shop is made smaller and trainings shorter (:data:`SMALLER`); nothing else is changed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from graphrec import testing
from graphrec.cli import main as cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
LANGUAGES = {"bash", "python", "text", "console", "csv"}
"""What a block may be: the first two run; ``text`` and ``console`` show output; ``csv`` is a file."""
FENCE = re.compile(
    r"(?P<markers>(?:^<!-- (?:not run|slow|starts with|file): [^\n]*-->\n)*)"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SMALLER = (
    ("graphrec data generate shop", "graphrec data generate shop --items 60 --users 80"),
    ("train.epochs=100", "train.epochs=2"),
    ("epochs=100", "epochs=2"),
    ('"epochs": 100', '"epochs": 2'),
    ("--trials 20", "--trials 2"),
    ("--trials 30", "--trials 3"),
    ("trials=20", "trials=2"),
    ("graphrec train fm lastfm", "graphrec train fm ./lastfm --set train.epochs=1"),
    ("graphrec train scpr lastfm", "graphrec train scpr ./lastfm"),
    ("model.scorer=runs/fm", "model.scorer=runs/fm --set train.epochs=1 --set model.episodes=32"),
)
"""What a block says -> what is run, so that the examples take seconds."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    markers: dict[str, str]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        markers = dict(re.findall(r"<!-- ([a-z ]+): (.*?) -->", match["markers"]))
        found.append(Block(match["language"], match["text"], markers))
    return found


def smaller(text: str) -> str:
    """A block with the small shop and short trainings."""
    for before, after in SMALLER:
        text = text.replace(before, after)
    return text


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a bash block as lists of words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_command(words: list[str]) -> None:
    """Runs one command in this process; only ``graphrec`` is known."""
    assert words[0] == "graphrec", f"{shlex.join(words)}: mark the block as not run, and say why"
    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:])
    assert not ended.value.code, f"{shlex.join(words)}: exit status {ended.value.code}"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop, the same saved with its features in ``cache``, and a small dataset in place of LastFM.

    It is shared, so tests copy from it and never write into it.
    """
    folder = tmp_path_factory.mktemp("docs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in (
            "graphrec data generate shop --items 60 --users 80",
            "graphrec data convert table --root shop --set time=time --set items=items.csv "
            "--set text=title,description --set image=image --out saved/shop",
            "graphrec features build saved/shop",
        ):
            run_command(shlex.split(line))
        data, _ = testing.conversations(folder)
        half = np.arange(len(data.valid)) % 2 == 0  # the fixture has no test split
        data.with_splits(data.train, data.valid.where(half), data.valid.where(~half)).save(folder / "lastfm")
    finally:
        os.chdir(before)
    return folder


def lay(names: str, prepared: Path) -> None:
    """Puts the folders that a block starts with into the working directory."""
    for name in names.split(", "):
        for part in (name, "cache"):
            if not Path(part).exists():
                shutil.copytree(prepared / part, part)


def runnable(page: Path) -> bool:
    """Whether there is a block that runs."""
    return any(b.language in ("bash", "python") and "not run" not in b.markers for b in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_has_a_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    recorded = re.sub(
        r"<!-- bench: .+?<!-- end -->", "", text, flags=re.DOTALL
    )  # output of the bench scripts
    fences = re.findall(r"^```(\w*)$", recorded, flags=re.MULTILINE)
    assert len(fences) % 2 == 0, "a block is not closed"
    assert set(fences[::2]) <= LANGUAGES
    assert not re.search(r"^ {4}graphrec", text, flags=re.MULTILINE), "commands stand in bash blocks"


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: str(p.relative_to(ROOT)))
@pytest.mark.usefixtures("metric_registry")
def test_blocks_run(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # for the modules that a page writes
    monkeypatch.delenv("GRAPHREC_DATA", raising=False)
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        starts = block.markers.get("starts with", "")
        if starts:
            lay(starts, prepared)
        if "file" in block.markers:
            path = Path(block.markers["file"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif "not run" in block.markers or ("slow" in block.markers and not os.environ.get("GRAPHREC_SLOW")):
            continue
        elif block.language == "bash":
            for words in commands(smaller(block.text)):
                run_command(words)
        elif block.language == "python":
            exec(compile(smaller(block.text), f"{page.name}", "exec"), space)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.slow
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_kept_without_output(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert cells
    assert not any(c.outputs or c.execution_count for c in cells)


def test_there_are_four_notebooks() -> None:
    assert {p.stem for p in NOTEBOOKS} == {
        "first-recommendation", "own-catalog", "add-a-model", "compare-models",
    }  # fmt: skip


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    site = Path(os.environ.get("GRAPHREC_SITE", tmp_path))  # .ci/run has built it already
    if site == tmp_path:
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert result.returncode == 0, result.stdout + result.stderr
    models = (site / "models/freedom/index.html").read_text(encoding="utf-8")
    assert "<code>dropout</code>" in models, "the options of a model are generated"
    commands_page = (site / "reference/cli/index.html").read_text(encoding="utf-8")
    assert "--processes" in commands_page
    api = (site / "reference/api/training/index.html").read_text(encoding="utf-8")
    assert "graphrec.training.trainer.Trainer" in api
    loaded = re.compile(r'(?:<script[^>]*src|<link[^>]*rel="stylesheet"[^>]*href)="(https?://[^"]+)')
    external = [
        f"{page.relative_to(site)}: {url}"
        for page in site.rglob("*.html")
        for url in loaded.findall(page.read_text(encoding="utf-8"))
    ]
    assert not external, "pages load nothing from other servers"
