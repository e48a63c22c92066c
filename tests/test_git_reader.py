"""The reader of git clones: options, tables of stars, folders of clones."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from histories import ADA, BOB, START, History, who

from graphrec.core.errors import DataError
from graphrec.data.readers import load_dataset


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "work" / "proj.git")


def test_stars_and_the_like_come_from_tables(history, tmp_path) -> None:
    history.commit({"a.py": "1"}, who=("Ada Lovelace", "adal@users.noreply.github.com"), time=START)
    history.commit({"b.py": "1"}, who=BOB, time=START)
    for i in range(4):
        history.commit({f"c{i}.py": "1"}, who=BOB, time=START + 100 + i)
    path = history.write()
    stars = "user,repository,time\nADAL,proj.git,5\nbob@engine.test,proj.git,%d\nx,proj.git,5\nadal,other,5\n"
    (path.parent / "stars.csv").write_text(stars % (START + 102))
    options = {"split": {"name": "chronological", "valid": 0.2, "test": 0.2}, "starred": "stars.csv"}
    data = load_dataset("git", root=path.parent, **options)
    ada, bob = (data.users.index(who(data, e)) for e in ("adal@users.noreply.github.com", BOB[1]))
    assert data.relations["user", "starred", "repository"].T.tolist() == [[ada, 0]]
    assert data.meta["rows of others, or too late"] == {"starred": 3}
    assert bob in data.relations["user", "authored", "repository"][0]
    (path.parent / "stars.csv").write_text("user,repository,time\nadal,proj.git,soon\n")
    with pytest.raises(DataError, match=r"starred, row 1: time 'soon'"):
        load_dataset("git", root=path.parent, **options)
    (path.parent / "stars.csv").write_text("who,repository\nadal,proj.git\n")
    with pytest.raises(DataError, match="no column 'user'"):
        load_dataset("git", root=path.parent, **options)


def test_a_folder_of_clones_and_a_clone_are_read_alike(history, tmp_path, monkeypatch) -> None:
    read = partial(load_dataset, "git", split="chronological")
    history.commit({"a.py": "1", "b.txt": "2"})
    path = history.write()
    other = History(path.parent / "other.git")
    other.commit({"c.py": "1"}, who=BOB)
    other.write()
    both = read(root=path.parent)
    assert both.nodes["repository"].ids == ("other.git", "proj.git")
    assert read(root=path).nodes["repository"].ids == ("proj.git",)
    assert read(root=path.parent, repositories=["other.git"]).n_items == 1
    assert read(root=path, extensions=["txt"]).items.ids == ("proj.git/b.txt",)
    for folder, what in ((tmp_path / "none", "no such folder"), (tmp_path, "neither a git clone")):
        with pytest.raises(DataError, match=what):
            read(root=folder)
    monkeypatch.setenv("GRAPHREC_SALT", "pepper")
    salted = read(root=path)
    assert salted.meta["salted"]
    assert who(salted, ADA[1], "pepper")
    assert "pepper" not in str(salted.meta)
