"""``graphrec data git``: clones in, a dataset out."""

from __future__ import annotations

from pathlib import Path

from histories import History

from graphrec.data import Dataset


def clone(path: Path) -> Path:
    history = History(path)
    for i in range(6):
        person = (("Ada Lovelace", "ada@engine.test"), ("Bob Babbage", "bob@engine.test"))[i % 2]
        history.commit({f"src/f{i}.py": f"x = {i}", "readme.md": f"{i}"}, who=person)
    return history.write()


def test_clones_become_a_dataset(tmp_path, graphrec) -> None:
    one, two = clone(tmp_path / "one"), clone(tmp_path / "two")
    answer = graphrec("data", "git", one, two, "--out", tmp_path / "saved", "--set", "max_files=10")
    assert answer.code == 0
    data = Dataset.load(tmp_path / "saved")
    assert data.n_items == 14
    assert data.nodes["repository"].ids == ("one", "two")
    assert answer.out.count("commits 6") == 2
    assert f"graphrec train lightgcn {tmp_path / 'saved'}" in answer.err
    shown = graphrec("data", "show", tmp_path / "saved")
    assert shown.code == 0
    assert "ada" not in shown.out.lower()


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, refused) -> None:
    made, out = clone(tmp_path / "one"), tmp_path / "saved"
    assert "no such folder" in refused("data", "git", tmp_path / "on", "--out", out)
    assert "Did you mean 'max_files'" in refused("data", "git", made, "--out", out, "--set", "max_file=3")
    assert "has no revision 'mian'" in refused("data", "git", made, "--out", out, "--set", "revision=mian")
    (made / "HEAD").write_text("broken")
    assert "git" in refused("data", "git", made, "--out", out)
    assert not out.exists()
