"""graphrec as users get it: beside files of their own, as a wheel and as a source distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRACTORS = "graphrec/features/extract"
DATA_SUFFIXES = {".css", ".html", ".j2", ".js", ".json", ".pyi", ".svg", ".typed"}


def run(arguments: list[str], folder: Path, path: Path) -> str:
    """Runs Python in ``folder`` with ``path`` as the only further import path; returns its stdout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GRAPHREC_DATA")}
    completed = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**environment, "PYTHONPATH": str(path)},
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.fixture
def foreign_folder(tmp_path: Path) -> Path:
    """A folder with a ``features.py`` and a ``graphrec_demo.csv`` that do not belong to graphrec."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "features.py").write_text("raise RuntimeError('the features.py of the user was imported')\n")
    (folder / "graphrec_demo.csv").write_text("not,a,table,of,graphrec\n")
    return folder


EXTRACT = """
import graphrec as gr
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract

data = gr.load_dataset("table", "shop", time="time", items="items.csv", text="title", image="image")
store = gr.FeatureStore("cache")
for field, name in {"image": "hog-hsv", "text": "tfidf-svd"}.items():
    table = extract(data, field, extractor(name), store)
    print(field, *table.shape)
print(sorted(store.load_tables(data)), gr.__file__)
"""


def list_extractors(folder: Path, path: Path) -> None:
    """``graphrec features list`` in ``folder`` with the graphrec in ``path``."""
    listed = run(["-m", "graphrec", "features", "list"], folder, path)
    assert {"hog-hsv", "tfidf-svd", "open_clip"} <= {line.split(" ")[0] for line in listed.splitlines()}
    shown = run(["-c", "import graphrec.features.extract as e; print(e.__file__)"], folder, path).strip()
    assert Path(shown).parent == path / EXTRACTORS


def test_quick_start_beside_a_features_module_of_the_user(foreign_folder: Path) -> None:
    folder, path = foreign_folder, ROOT
    list_extractors(folder, path)
    shop = ["data", "generate", "shop", "--items", "24", "--users", "30"]
    run(["-m", "graphrec", *shop], folder, path)
    printed = run(["-c", EXTRACT], folder, path).splitlines()
    assert [line.split(" ")[0] for line in printed[:2]] == ["image", "text"]
    assert printed[2].startswith("['image', 'text']")
    assert printed[2].endswith(str(path / "graphrec" / "__init__.py"))
    assert (folder / "graphrec_demo.csv").read_text() == "not,a,table,of,graphrec\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and a source distribution, built from a copy of the working tree."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in ("graphrec", "features"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    wheel = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*wheel, "--wheel-dir", str(folder), "."], source, source)
    sdist = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(["-c", sdist], source, source)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def package_files() -> set[str]:
    """Every file of the package, by its path when installed."""
    found = set()
    for top, installed in ((ROOT / "graphrec", "graphrec"), (ROOT / "features", EXTRACTORS)):
        for path in top.rglob("*"):
            within = path.relative_to(top)
            linked = top.name == "graphrec" and within.parts[:2] == ("features", "extract")
            if path.is_file() and not linked and path.suffix in {".py", *DATA_SUFFIXES}:
                found.add(f"{installed}/{within.as_posix()}")
    return found


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_file_once(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    expected = package_files()
    assert {f"{EXTRACTORS}/registry.py", f"{EXTRACTORS}/llm/client.py", "graphrec/py.typed"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        counts = Counter(archive.namelist())
    installed = {name for name in counts if name.startswith("graphrec/")}
    assert installed == expected, installed ^ expected
    assert set(counts.values()) == {1}
    assert not [name for name in counts if name.startswith("features/")], "no top-level module features"
    with tarfile.open(sdist) as tar:
        members = {m.name.partition("/")[2]: m for m in tar.getmembers()}
        names = Counter(tar.getnames())
    assert expected <= set(members), expected - set(members)
    assert set(names.values()) == {1}
    assert all(members[name].isfile() for name in expected), "real files, no links"
    assert not any(member.issym() or member.islnk() for member in members.values())


@pytest.mark.slow
def test_installed_wheel_runs(built: tuple[Path, Path], tmp_path: Path, foreign_folder: Path) -> None:
    target = tmp_path / "site"
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run([*pip, str(built[0])], tmp_path, tmp_path)
    list_extractors(foreign_folder, target)


@pytest.mark.slow
def test_unpacked_sdist_runs(built: tuple[Path, Path], tmp_path: Path, foreign_folder: Path) -> None:
    with tarfile.open(built[1]) as tar:
        tar.extractall(tmp_path, filter="data")
    list_extractors(foreign_folder, next(tmp_path.glob("graphrec-*")))
