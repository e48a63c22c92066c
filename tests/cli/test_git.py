"""``graphrec data git``: clones in, a dataset out."""

from __future__ import annotations

from pathlib import Path

from histories import History, git

from graphrec.data import Dataset

OWN = ("--set", "split=chronological")


def clone(path: Path) -> Path:
    history = History(path)
    for i in range(6):
        person = (("Ada Lovelace", "ada@engine.test"), ("Bob Babbage", "bob@engine.test"))[i % 2]
        history.commit({f"src/f{i}.py": f"x = {i}", "readme.md": f"{i}"}, who=person)
    return history.write()


def test_clones_become_a_dataset(tmp_path, graphrec) -> None:
    one, two = clone(tmp_path / "one"), clone(tmp_path / "two")
    answer = graphrec("data", "git", one, two, "--out", tmp_path / "saved", *OWN)
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
    assert "Did you mean 'time'" in refused("data", "git", made, "--out", out, "--set", "split=tine")
    typo = 'split={"name": "time", "vaild": 0.2}'
    assert "Did you mean 'valid'" in refused("data", "git", made, "--out", out, "--set", typo)
    none = 'split={"name": "cut", "valid": "1990-01-01", "test": "1990-01-01"}'
    assert "no contribution is left" in refused("data", "git", made, "--out", out, "--set", none)
    (made / "HEAD").write_text("broken")
    assert "git" in refused("data", "git", made, "--out", out)
    assert not out.exists()


def test_in_a_folder_of_a_clone_the_clone_is_read(tmp_path, graphrec, refused, monkeypatch) -> None:
    checkout = tmp_path / "checkout"
    git("clone", "-q", str(clone(tmp_path / "one")), str(checkout))
    monkeypatch.chdir(checkout / "src")
    assert graphrec("data", "git", ".", "--out", tmp_path / "saved").code == 0
    data = Dataset.load(tmp_path / "saved")
    assert data.nodes["repository"].ids == ("checkout",)
    assert "checkout/readme.md" in data.items.ids
    empty, plain = tmp_path / "empty", tmp_path / "plain"
    git("init", "-q", str(empty))
    plain.mkdir()
    for folder, expected in ((empty, "no commits yet"), (plain, "not a git repository")):
        monkeypatch.chdir(folder)
        assert f"{folder}: {expected}" in refused("data", "git", ".", "--out", tmp_path / "none")


def test_files_are_ranked_within_the_projects_of_a_person(tmp_path, graphrec, refused) -> None:
    one, two = clone(tmp_path / "one"), clone(tmp_path / "two")
    made = ("data", "git", one, two, "--out", tmp_path / "saved", "--set", "code=false", *OWN)
    assert graphrec(*made).code == 0
    trained = graphrec("train", "cochange", tmp_path / "saved", "--out", tmp_path / "run", "--select", "none")
    assert trained.code == 0
    shown = {
        which: graphrec("evaluate", tmp_path / "run", "--k", "3", *which)
        for which in ((), ("--projects", "own"), ("--projects", "others"))
    }
    assert all(answer.code == 0 for k, answer in shown.items() if k[-1:] != ("others",))
    assert "users/new" in shown["--projects", "own"].out
    assert "users/new" not in shown[()].out
    assert "no held-out pair" in shown["--projects", "others"].err, "both work in both repositories"
    assert "--projects" in refused("evaluate", tmp_path / "run", "--projects", "mine")


def test_coder_takes_the_features_of_its_extractor(tmp_path, graphrec, refused) -> None:
    saved, store = tmp_path / "saved", ("--store", tmp_path / "cache")
    assert graphrec("data", "git", clone(tmp_path / "one"), "--out", saved, *OWN).code == 0
    train = ("train", "coder", saved, "--out", tmp_path / "run", "--select", "none", *store)
    options = ("--set", "train.epochs=1", "--set", "model.contrast_weight=0", "--set", "model.segments=2")
    build = ("features", "build", saved, *store, "--set", "text.min_texts=1", "--set", "text.size=4")
    assert graphrec(*build).code == 0, "features of another extractor"
    message = refused(*train, *options)
    assert f"graphrec features build {saved} --store {tmp_path / 'cache'} --text code-segments" in message
    built = graphrec(*build, "--text", "code-segments", "--set", "text.segments=2")
    assert built.code == 0, built.err
    assert "code-segments" in refused(*train, *options, "--text", "tfidf-svd")
    answer = graphrec(*train, *options)
    assert answer.code == 0, answer.err
    assert "code: FeatureTable" in answer.err
    assert "path: FeatureTable" not in answer.err, "contents are there"
    assert graphrec("evaluate", tmp_path / "run").code == 0
    (row,) = [line for line in graphrec("models").out.splitlines() if line.startswith("coder ")]
    assert "code-segments" in row


def test_without_contents_no_features_are_asked_for(tmp_path, graphrec, refused) -> None:
    one, two = clone(tmp_path / "one"), clone(tmp_path / "two")
    assert graphrec("data", "git", one, two, "--out", tmp_path / "saved").code == 0
    train = ("train", "coder", tmp_path / "saved", "--out", tmp_path / "run", "--select", "none")
    small = ("--set", "train.epochs=1", "--set", "model.dim=8")
    assert "--text code-segments" in refused(*train, *small)
    answer = graphrec(*train, *small, "--set", "model.semantics=false", "--set", "model.session=7")
    assert answer.code == 0, answer.err
    assert "Warning" not in answer.err
