"""The README is short, tables are the recorded results, and links lead to files that exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

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


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        generated = page.parent.name == "reference" and target.startswith(("api/", "cli.md"))
        assert generated or (page.parent / target).exists(), f"{page.name}: {target} does not exist"
