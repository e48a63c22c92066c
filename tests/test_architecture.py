"""The shape of the repository: which folder may import which, no import circles, banned calls, one list of
dependencies."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "graphrec"
SOURCES = sorted(p for p in PACKAGE.rglob("*.py*") if p.suffix in (".py", ".pyi"))
SOURCES += sorted(p for p in (ROOT / "features").rglob("*.py*") if p.suffix in (".py", ".pyi"))

BELOW_RUNS = {"core", "data", "features", "graphs", "evaluation", "models", "training", "serving"}
APPLICATIONS = {"conversation", "code"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "data": {"core"},
    "features": {"core", "data"},
    "graphs": {"core", "data", "features"},
    "evaluation": {"core", "data"},
    "models": {"core", "data", "features", "graphs"},
    "training": {"core", "data", "features", "models"},
    "serving": {"core", "data", "features", "graphs", "models"},
    "runs": BELOW_RUNS,
    "conversation": {*BELOW_RUNS, "runs"},
    "code": {*BELOW_RUNS, "runs"},
    "cli": {*BELOW_RUNS, "runs", *APPLICATIONS},
    "testing": {*BELOW_RUNS, "runs", *APPLICATIONS},
}
"""Folder of graphrec/ -> folders its files may import, for types as well."""


def module_name(path: Path) -> str:
    """Dotted name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "features":
        parts = ("graphrec", "features", "extract", *parts[1:])
    return ".".join(parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import; of ``from a import b``, both ``a`` and ``a.b``."""
    name = module_name(path)
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                start = ".".join([*parent, *filter(None, [node.module])])
            yield node.lineno, start
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def test_the_package_has_these_folders_and_nothing_loose() -> None:
    found = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert found == {*MAY_IMPORT, "__init__.py", "__init__.pyi", "__main__.py", "py.typed"}


def test_every_folder_imports_only_what_its_row_allows() -> None:
    wrong = []
    for path in SOURCES:
        folder = module_name(path).split(".")[1] if "." in module_name(path) else ""
        if folder in ("", "__main__"):
            continue
        for line, name in imported(path):
            parts = name.split(".")
            if parts[0] == "graphrec" and len(parts) > 1 and parts[1] in MAY_IMPORT:
                if parts[1] not in {folder, *MAY_IMPORT[folder]}:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            elif parts[0] in ("experiments", "tests", "features"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_models_do_not_import_one_another() -> None:
    from graphrec.models import MODELS

    files = {target.partition(":")[0] for target in MODELS.values()}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in SOURCES
        if module_name(path) in files
        for line, name in imported(path)
        if name in files - {module_name(path)}
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_circle_between_files() -> None:
    modules = {module_name(p): p for p in SOURCES if p.suffix == ".py"}
    graph = {
        name: {target for _, target in imported(path) if target in modules and target != name}
        for name, path in modules.items()
    }
    state: dict[str, int] = {}
    circles: list[str] = []

    def visit(name: str, trail: list[str]) -> None:
        state[name] = 1
        for target in sorted(graph[name]):
            # Importing a module runs the packages above it; a package that re-exports is no circle.
            if state.get(target) == 1 and not name.startswith(f"{target}."):
                circles.append(" -> ".join([*trail[trail.index(target) :], target]))
            elif target not in state:
                visit(target, [*trail, target])
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, [name])
    assert not circles, "\n".join(circles)


def test_banned_calls() -> None:
    """No global random state; pickle and archives are the subject of test_no_pickle.py."""
    banned = {"np.random.seed", "torch.manual_seed", "random.seed", "np.random.rand"}
    files = [*SOURCES, *sorted((ROOT / "experiments").rglob("*.py")), *sorted((ROOT / "tests").glob("*.py"))]
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"
        for path in files
        if path != Path(__file__).absolute()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in banned
    ]
    assert not wrong, "\n".join(wrong)


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
            for e in (
                "features",
                "audio",
                "llm",
                "ann",
                "dgl",
                "track",
                "tune",
                "serve",
                "ray",
                "docs",
                "dev",
            )
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
            and name != str(Path(__file__).relative_to(ROOT))
        ):
            hit = re.search(r"(?<![\w.])/(work|root|home)/\w", path.read_text(encoding="utf-8"))
            assert hit is None, f"{name} names a path of one machine: {hit.group() if hit else ''}"
