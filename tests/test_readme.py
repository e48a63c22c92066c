"""What the README says is so: its Python example runs, its tables are the recorded results, its links lead
somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphrec.core.files import read_json
from graphrec.data.generated import write_catalog

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert "epochs=100" in code
    write_catalog(tmp_path / "shop", n_items=60, n_users=80, seed=0)
    (tmp_path / "example.py").write_text(code.replace("epochs=100", "epochs=2"))
    result = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/shop/recommender/recommender.json").exists()


def test_the_tables_are_the_recorded_results() -> None:
    command = [sys.executable, "-m", "experiments.tables", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    results = {p.stem: read_json(p) for p in (ROOT / "experiments/results").glob("*.json")}
    recorded = {name for name, result in results.items() if "comparisons" in result}
    shown = re.findall(r"<!-- table: main (\S+) -->\n[^<]*\n\| LightGCN \| ", README)
    assert set(shown) == recorded, "every recorded result has its table in the README"


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
    "page", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
