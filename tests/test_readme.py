"""The README is short, tables are the recorded results, and links lead to files that exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphrec.core.files import read_json

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_for_a_first_visit() -> None:
    assert len(README.splitlines()) <= 150
    assert len(re.findall(r"^```python$", README, flags=re.MULTILINE)) == 1
    assert len(re.findall(r"<!-- table: ", README)) == 1
    assert len(re.findall(r"!\[", README)) == 1


def test_the_extras_and_the_citation_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = README.partition("| extra | for |")[2].partition("\n\n")[0]
    shown = re.findall(r"`([a-z]+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert sorted(shown) == sorted(set(project["optional-dependencies"]) - {"docs", "dev", "all"})
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)


@pytest.mark.slow
def test_the_blocks_run_literally_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphrec: Callable[..., Any]
) -> None:
    """Every block that is not about make, word for word and in order, each in a process of its own."""
    fences = re.findall(
        r"(<!-- not run: .*?-->\n)?^```(bash|python)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("GRAPHREC_DATA", None)
    ran = []
    for skipped, language, text in fences:
        if skipped:
            continue
        program = [sys.executable, "-c", text]
        if language == "bash":
            command = f'graphrec() {{ {shlex.quote(sys.executable)} -m graphrec "$@"; }}\n'
            program = ["bash", "-e", "-c", command + text]
        result = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert result.returncode == 0, text + result.stderr
        ran.append(language)
    assert ran == ["bash", "python", "bash"]
    monkeypatch.chdir(tmp_path)
    for line in ("evaluate runs/shop", "recommend runs/shop --user U00001", "compare runs/shop"):
        answer = graphrec(*line.split())
        assert answer.code == 0, line + answer.err


def test_the_tables_are_the_recorded_results() -> None:
    command = [sys.executable, "-m", "experiments.tables", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    results = {p.stem: read_json(p) for p in (ROOT / "experiments/results").glob("*.json")}
    recorded = {name for name, result in results.items() if "comparisons" in result}
    pages = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/results/*.md"))
    shown = re.findall(r"<!-- table: main (\S+) -->\n[^<]*\n\| LightGCN \| ", pages)
    assert set(shown) == recorded, "every recorded result has its table in docs/results"


def test_the_recorded_results_stay_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "experiments/results").iterdir()}
    assert sum(sizes.values()) < 1_000_000, sizes


def test_every_bench_script_has_a_block_of_its_own_output() -> None:
    page = (ROOT / "docs" / "results" / "performance.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- bench: (.+?) -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    for command, body in blocks:
        assert body.startswith(f"```\n$ python -m experiments.bench.{command}\n"), f"{command}: never run"
    scripts = {
        p.stem for p in (ROOT / "experiments" / "bench").glob("*.py") if "\ndef main(" in p.read_text()
    }
    assert {command.split()[0] for command, _ in blocks} == scripts - {"__main__"}
    imported = "import " + ", ".join(f"experiments.bench.{name}" for name in sorted(scripts))
    result = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_tests_that_pages_name_exist() -> None:
    """Written as ``tests/test_x.py`` or ``test_x.py::test_name``."""
    for page in ROOT.glob("docs/**/*.md"):
        text = page.read_text(encoding="utf-8")
        for file in re.findall(r"`tests/([\w/]+\.py)", text):
            assert (ROOT / "tests" / file).exists(), f"{page.name}: no tests/{file}"
        for file, name in re.findall(r"(test_\w+\.py)::(test_\w+)", text):
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert f"def {name}(" in source, f"{page.name}: no {name} in {file}"


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        generated = page.parent.name == "reference" and target.startswith(("api/", "cli.md"))
        assert generated or (page.parent / target).exists(), f"{page.name}: {target} does not exist"
