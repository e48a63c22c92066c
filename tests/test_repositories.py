"""Repositories as models see them, and contributions that were mined beforehand."""

from __future__ import annotations

import gzip
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from histories import START, History

from graphrec.core.errors import DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.data.git import read_histories
from graphrec.data.readers import load_dataset
from graphrec.data.repositories import OF, Repositories, path_words
from graphrec.evaluation.candidates import CandidateGroups
from graphrec.models.batches import EpochContext, InGroupNegatives, local_negatives, triplets
from graphrec.testing import communities

ADA, BOB = ("Ada Lovelace", "ada@engine.test"), ("Bob Babbage", "bob@engine.test")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two repositories of one owner and one of another."""
    made = []
    for number, name in enumerate(("one", "two", "three")):
        history = History(tmp_path / name)
        for i in range(4):
            files = {f"fileReader/io_utils/f{i}.py": "1", f"top{i}.md": "1"}
            history.commit(files, who=(ADA, BOB)[i % 2], time=START + number * 1000 + i)
        made.append(history.write())
    names = ["org/one", "org/two", "else/three"]
    return read_histories(made, names=names, split={"name": "chronological", "valid": 0.1, "test": 0.1})


def test_files_directories_and_repositories_are_one_tree(data) -> None:
    repositories = Repositories.from_dataset(data)
    n, n_directories = data.n_items, len(data.nodes["directory"])
    assert n_directories == 6
    edges = set(map(tuple, repositories.edges.T.tolist()))
    assert {(b, a) for a, b in edges} == edges
    assert len(edges) == 2 * (n + n_directories), "everything but a repository stands in one other"
    for item in range(n):
        above = [b for a, b in edges if a == item]
        assert len(above) == 1
        top = str(data.items[item]).endswith(".md")
        assert (
            above[0] == n + n_directories + repositories.repository[item]
            if top
            else n <= above[0] < n + n_directories
        )
    assert [data.nodes["repository"].ids[r] for r in repositories.repository[:1]] == ["else/three"]


def test_directories_are_described_by_their_words_and_repositories_by_what_is_known(data) -> None:
    repositories = Repositories.from_dataset(data)
    assert repositories.n_words == 4  # file, reader, io, utils
    assert np.diff(repositories.offsets).tolist() == [2] * 6
    lengths = np.add.reduceat(repositories.weights**2, repositories.offsets[:-1])
    assert np.allclose(lengths, 1)
    owned, begun, languages = (
        repositories.features[:, 0],
        repositories.features[:, 1],
        repositories.features[:, 2:],
    )
    assert owned.tolist() == [1, 1, 0], "an owner of one repository tells nothing"
    assert (np.diff(begun) > 0).all()
    assert begun.mean() == pytest.approx(0, abs=1e-6)
    assert (languages == 1).all()
    assert set(repositories.behaviors) == {"authored", "documented"}


def test_negatives_of_the_same_repository(data) -> None:
    repositories, train = Repositories.from_dataset(data), data.train
    users, items = train.users.repeat(20), train.items.repeat(20)
    found = local_negatives(train, users, items, repositories.repository, numpy_rng(0, "tests/local"))
    assert (found >= 0).mean() > 0.9
    some = found >= 0
    assert np.array_equal(repositories.repository[found[some]], repositories.repository[items[some]])
    assert not train.contains(users[some], found[some]).any()
    assert train.item_degree[found[some]].min() > 0
    touched = CandidateGroups.from_repositories(data).user_groups
    assert touched.contains(train.users, repositories.repository[train.items]).all()
    assert len(touched) == len(
        {(u, repositories.repository[i]) for u, i in zip(train.users, train.items, strict=True)}
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_negatives_is_local(share) -> None:
    data, _ = communities(4, 60)
    group = np.arange(data.n_items) % 20
    local = InGroupNegatives(group, share) if share else None
    batches = list(triplets(data.train, EpochContext(1, 256, 0), local))
    positives, negatives = (torch.cat([getattr(b, n) for b in batches]) for n in ("positives", "negatives"))
    same = (group[positives] == group[negatives]).mean()
    assert same == pytest.approx(share + (1 - share) / 20, abs=0.04)
    users = torch.cat([b.users for b in batches]).numpy()
    assert not data.train.contains(users, negatives.numpy()).any()


def test_what_has_no_repositories_is_said(data) -> None:
    with pytest.raises(DataError, match="graphrec data git"):
        Repositories.from_dataset(replace(data, relations={}))
    partial = {**data.relations, OF: data.relations[OF][:, 1:]}
    with pytest.raises(DataError, match="one repository for each"):
        Repositories.from_dataset(replace(data, relations=partial))


def test_words_of_paths() -> None:
    assert path_words("src/HTTPServer_v2/readFile.py") == "src HTTP Server v 2 read File py"
    assert path_words("__/--") == "__/--"


# -- contributions mined beforehand --------------------------------------------------------------------------


def mined(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "FS_contrib.tsv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_mined_contributions_are_read(tmp_path) -> None:
    rows = [f"{u}\torg/{r}\tsrc/f{i}.py\t{100 + i}\t1" for u in range(4) for r in "ab" for i in range(u + 1)]
    rows += ["0\torg/a\ttests/test_x.py\t5\t2", "0\torg/a\tREADME.md\t6\t1"]
    folder = mined(tmp_path / "oss-contrib", "\n".join(["user\trepo\tpath\tfirst_ts\tn_commits", *rows]))
    read = partial(load_dataset, "oss-contrib", root=tmp_path, split="chronological")
    data = read(min_files=3)
    assert data.n_users == 4
    assert data.nodes["repository"].ids == ("org/a", "org/b")
    assert data.nodes["directory"].ids == ("org/a/src/", "org/a/tests/", "org/b/src/")
    assert data.content["path"][data.items.index("org/a/tests/test_x.py")] == "tests test x py"
    repositories = Repositories.from_dataset(data)
    assert set(repositories.behaviors) == {"contributed", "tested", "documented"}
    zero = data.users.index("0")
    assert repositories.behaviors["tested"].items_of(zero).tolist() == [0]
    assert read(min_files=5).n_users == 2
    (folder / "FS_contrib.tsv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"FS_contrib.tsv.gz: not a gzipped table"):
        load_dataset("oss-contrib", root=tmp_path)
    mined(folder, "a\tb\n1\t2\n")
    with pytest.raises(DataError, match="expected"):
        load_dataset("oss-contrib", root=tmp_path)
    with pytest.raises(DataError, match=r"DB_contrib.tsv.gz"):
        load_dataset("oss-contrib", root=tmp_path, topic="DB")


def test_contributions_after_the_cut_change_nothing_that_is_learned_from(tmp_path) -> None:
    """The split by default: one time for all, and people who had worked on three files by then."""
    early = [f"{u}\torg/{u % 2}\tsrc/f{i}.py\t{100 * u + i}\t1" for u in range(4) for i in range(u + 1)]
    found = []
    for change in (0, 1):
        rows = [
            *early,
            *(f"{u - change}\torg/0\tsrc/f{9 - i + change}.py\t900\t1" for u in (1, 3) for i in range(9)),
        ]
        mined(tmp_path / "oss-contrib", "\n".join(["user\trepo\tpath\tfirst_ts\tn_commits", *rows]))
        found.append(
            load_dataset("oss-contrib", root=tmp_path, split={"name": "time", "valid": 0.3, "test": 0.3})
        )
    one, other = found
    assert one.users.ids == other.users.ids == ("2", "3")
    assert one.items.ids == other.items.ids
    assert one.nodes["directory"].ids == other.nodes["directory"].ids
    assert one.train.fingerprint == other.train.fingerprint
    assert one.train.times.tobytes() == other.train.times.tobytes()
    assert all((edges == other.relations[key]).all() for key, edges in one.relations.items())
    assert one.test.keys.tolist() != other.test.keys.tolist()
    assert len(one.test) + one.meta["of people or files new after the cut"] == 18
    assert not len(one.valid), "all at 900 are on one side"


def test_the_real_contributions_have_the_counts_of_their_page(real_data) -> None:
    data = load_dataset(
        "oss-contrib", root=real_data, split={"name": "chronological", "valid": 0, "test": 0.2}
    )
    assert (data.n_users, data.n_items) == (3150, 6404)
    assert (len(data.train), len(data.test)) == (33_437, 8_940)
    assert len(data.nodes["repository"]) == 16
    data = load_dataset("oss-contrib", root=real_data)
    assert (data.n_users, data.n_items) == (2582, 5219)
    assert data.train.times.max() < data.meta["split"]["valid"] <= data.valid.times.min()
    assert data.valid.times.max() < data.meta["split"]["test"] <= data.test.times.min()
