"""What DESIGN asks of the shape of the code: who imports whom, file sizes, banned calls, docstrings, one
entry per list."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("graphrec/**/*.py"), *ROOT.glob("features/**/*.py")])
EVERYTHING = sorted([*SOURCES, *ROOT.glob("experiments/**/*.py"), *ROOT.glob("tests/*.py")])

BASE = {"errors", "seeds", "atomic", "config"}
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "seeds": set(),
    "atomic": {"errors"},
    "config": {"errors"},
    "commit": BASE,
    "topk": set(),
    "optim": set(),
    "parallel": set(),
    "__main__": {"cli"},
    "data": BASE,
    "store": {*BASE, "data"},
    "graph": {*BASE, "data"},
    "candidates": {*BASE, "data"},
    "cluster": BASE,
    "neighbors": {*BASE, "topk", "cluster"},
    "knn": {*BASE, "store", "graph", "neighbors", "cluster"},
    "sparse": {"graph"},
    "interop": {*BASE, "data", "store", "graph"},
    "losses": {*BASE, "data", "parallel"},
    "neighborhood": {*BASE, "data", "graph"},
    "sampling": {*BASE, "data", "store", "parallel"},
    "search": {"errors"},
    "cochange": {*BASE, "data", "graph", "sampling", "sparse"},
    "sessions": {*BASE, "data", "graph", "sparse", "cochange"},
    "suggestions": {*BASE, "search"},
    "study": {*BASE, "commit"},
    "model": {*BASE, "data", "store", "graph", "sparse", "sampling", "search", "optim", "trainer"},  # a type
    "modalities": {*BASE, "data", "store", "graph", "knn", "neighbors", "model"},
    "disk": {*BASE, "store"},
    "nn": {*BASE, "data", "store", "graph", "modalities", "disk"},
    "models": {
        *BASE,
        "data",
        "store",
        "graph",
        "knn",
        "neighbors",
        "losses",
        "sampling",
        "search",
        "sparse",
        "modalities",
        "nn",
        "model",
        "conversation",
        "cochange",
        "sessions",
        "parallel",
        "neighborhood",
        "optim",
        "disk",
    },
    "conversation": {*BASE, "commit", "data", "sampling", "checkpoint", "metrics", "parallel"},
    "checkpoint": {*BASE, "commit"},
    "progress": BASE,
    "environment": set(),
    "rundir": {*BASE, "commit", "checkpoint", "environment", "parallel"},
    "trainer": {*BASE, "environment", "model", "parallel", "rundir", "progress", "sampling"},
    "metrics": {*BASE, "data", "topk"},
    "tables": {"errors"},
    "report": {*BASE, "metrics", "tables"},
    "evaluate": {*BASE, "candidates", "data", "metrics", "report", "topk", "store"},
    "recommender": {*BASE, "commit", "data", "store", "graph", "sparse", "neighbors", "model", "topk"},
    "testing": {*BASE, "conversation", "data", "store", "sampling", "model", "checkpoint", "trainer"},
    "html": BASE,
}
# They may import everything.
COMPOSITION = {
    "cli",
    "code",
    "commands",
    "runs",
    "recorded",
    "repeat",
    "tuning",
    "sources",
    "comparison",
    "doctor",
    "demo",
    "web",
    "__init__",
}


def imports(path: Path) -> set[str]:
    """Modules a file imports, as dotted names, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "graphrec")], ids=relative)
def test_graphrec_imports_downwards_only(path: Path) -> None:
    part = path.relative_to(ROOT / "graphrec").parts[0].removesuffix(".py")
    if part in COMPOSITION:
        return
    assert part in LAYERS, f"{path.name} stands in no layer; add it to LAYERS with what it may import"
    modules = {p.name.removesuffix(".py") for p in (ROOT / "graphrec").iterdir()}
    used = {
        m.split(".")[1] for m in imports(path) if m.startswith("graphrec.") and m.split(".")[1] in modules
    }
    assert used - {part} <= LAYERS[part]
    assert not any(m.split(".")[0] == "features" for m in imports(path)), "graphrec never imports features"


# Of two stages, each as large as another model; of several channels with a short and a long way.
LONGER = {"coder.py": 480, "llmrec.py": 425}


@pytest.mark.parametrize("path", sorted(ROOT.glob("graphrec/models/*.py")), ids=relative)
def test_models_do_not_import_one_another(path: Path) -> None:
    if path.name != "__init__.py":
        others = {f"graphrec.models.{p.stem}" for p in path.parent.glob("*.py")} - {
            f"graphrec.models.{path.stem}"
        }
        assert not imports(path) & others
        longest = LONGER.get(path.name, 220)
        assert len(path.read_text().splitlines()) <= longest, "a model file is read beside its paper"
        assert (
            re.search(r"https?://", ast.get_docstring(ast.parse(path.read_text())) or "")
            or path.stem == "popularity"
        )


@pytest.mark.parametrize("path", sorted(ROOT.glob("features/**/*.py")), ids=relative)
def test_features_import_only_what_they_may(path: Path) -> None:
    layers = ("data", "store", "errors", "atomic", "seeds", "cluster")
    allowed = tuple(f"graphrec.{layer}" for layer in layers)
    used = {m for m in imports(path) if m.split(".")[0] == "graphrec"}
    assert not [m for m in used if not m.startswith(allowed)]


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_nothing_imports_experiments(path: Path) -> None:
    if not path.is_relative_to(ROOT / "experiments") and path.name != "test_experiments.py":
        assert not any(m.split(".")[0] == "experiments" for m in imports(path))


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_file_is_too_long_to_hold_in_the_head(path: Path) -> None:
    limit = 450 if path.is_relative_to(ROOT / "tests") else LONGER.get(path.name, 420)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize("path", [p for p in EVERYTHING if p.name != "test_architecture.py"], ids=relative)
def test_banned_calls(path: Path) -> None:
    """No global random state; pickles and archives are the matter of test_no_pickle.py."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            where = f"{path.name}:{node.lineno}: {call}"
            assert call not in {"np.random.seed", "torch.manual_seed", "random.seed", "np.random.rand"}, where


def test_import_is_light() -> None:
    """``import graphrec`` brings neither torch nor any frame library."""
    heavy = ("torch", "polars", "sklearn", "pydantic", "rich")
    code = f"import sys, graphrec; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_environment_yml_is_in_step_with_pyproject() -> None:
    """Every dependency of the package and of ``dev`` stands in environment.yml with the same lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(
            d
            for e in ("features", "llm", "ann", "dgl", "track", "tune", "serve", "ray", "dev")
            for d in extras[e]
        ),
    ]
    wanted = [d for d in wanted if not d.startswith("graphrec")]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    named = {"torch": "pytorch", "torch-geometric": "pytorch_geometric", "pre-commit": "pre-commit"}
    given = {re.split(r"[\[<>=!;\s]", d)[0].lower().replace("_", "-"): d for d in [*conda, *pip]}
    for dependency in wanted:
        name, bound = re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*((?:[<>=!]=?[^;]*)?)", dependency).groups()
        found = given.get(named.get(name, name).lower().replace("_", "-"))
        assert found is not None, f"{name} is missing from environment.yml"
        assert bound.strip() in found.replace(" ", ""), (
            f"environment.yml has {found!r}, pyproject {dependency!r}"
        )


def test_the_repository_holds_no_machine_paths() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    for name in listed:
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".cfg"}
            and path.exists()
            and name != relative(Path(__file__))
        ):
            hit = re.search(r"(?<![\w.])/(work|root|home)/\w", path.read_text(encoding="utf-8"))
            assert hit is None, f"{name} names a path of one machine: {hit.group() if hit else ''}"
