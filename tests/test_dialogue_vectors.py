"""Vectors for conversations: files in the authors' form, runs of the scorer, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kills import killed_after
from planted import planted

from graphrec import runs
from graphrec.conversation.vectors import DialogueVectors, read_vectors, write_vectors
from graphrec.core.errors import CheckpointError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.data.readers import load_dataset
from graphrec.testing import communities


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted()


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fm"
    options = {"epochs": 2, "device": "cpu", "progress": False}
    runs.train("fm", data, model_options={"dim": 8}, train_options=options, out=out)
    return out


def arrays(data: Dataset, dim: int = 5) -> dict[str, np.ndarray]:
    rng = numpy_rng(0, "tests/vectors")
    sizes = {"ui_emb": data.n_users + data.n_items + 1, "feature_emb": len(data.nodes["attribute"]) + 1}
    return {name: rng.normal(size=(n, dim)).astype(np.float32) for name, n in sizes.items()}


def test_files_of_the_authors_form_are_read_without_their_padding(data, tmp_path) -> None:
    given = arrays(data)
    given["ui_emb"][-1] = np.nan  # padding is not read
    np.savez(tmp_path / "v.npz", **given)
    users, items, attributes = read_vectors(tmp_path / "v.npz", data)
    assert np.array_equal(users, given["ui_emb"][: data.n_users])
    assert np.array_equal(items, given["ui_emb"][data.n_users : -1])
    assert np.array_equal(attributes, given["feature_emb"][:-1])
    assert {v.dtype for v in (users, items, attributes)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("ui_emb", None, "has no ui_emb; it has \\['feature_emb'\\]"),
        ("feature_emb", None, "has no feature_emb"),
        ("ui_emb", lambda a: a[:-1], "ui_emb has 320 rows; expected 321"),
        ("feature_emb", lambda a: a[:3], "feature_emb has 3 rows; expected 25"),
        ("ui_emb", lambda a: a[:, :3], "ui_emb is 3 wide and feature_emb 5"),
        ("ui_emb", lambda a: a[:, 0], "expected \\(n, d\\) of floats"),
        ("ui_emb", lambda a: a.astype(int), "expected \\(n, d\\) of floats"),
        ("ui_emb", lambda a: np.where(np.arange(len(a))[:, None] == 7, np.nan, a), "not finite in row 7"),
        ("feature_emb", lambda a: a.astype(np.float64) * 1e300, "not finite in row 0"),
        ("ui_emb", lambda a: a.astype(object), "Python objects"),
    ],
)
def test_files_that_do_not_fit_are_refused(data, tmp_path, name, change, words) -> None:
    given = arrays(data)
    given[name] = None if change is None else change(given[name])
    np.savez(tmp_path / "v.npz", **{k: v for k, v in given.items() if v is not None})
    with pytest.raises(FeatureError, match=words):
        read_vectors(tmp_path / "v.npz", data)


def test_damaged_files_are_refused(data, tmp_path) -> None:
    np.savez(tmp_path / "whole.npz", **arrays(data))
    whole = (tmp_path / "whole.npz").read_bytes()
    broken = bytearray(whole)
    broken[500] ^= 255
    for content in (b"", b"text", whole[:1000], bytes(broken)):
        (tmp_path / "v.npz").write_bytes(content)
        with pytest.raises(FeatureError, match=r"not readable as \.npz"):
            read_vectors(tmp_path / "v.npz", data)
    np.save(tmp_path / "one.npy", np.ones((3, 3)))
    with pytest.raises(FeatureError, match=r"one \.npy array"):
        read_vectors(tmp_path / "one.npy", data)
    with pytest.raises(FeatureError, match="no such file"):
        read_vectors(tmp_path / "none.npz", data)


def test_a_run_gives_the_vectors_of_its_model(data, run) -> None:
    expected = runs.open_run(run).model.vectors()
    for one, other in zip(read_vectors(run, data), expected, strict=True):
        assert np.array_equal(one, other)


def test_the_authors_vectors_fit_lastfm(real_data) -> None:
    data = load_dataset("lastfm", real_data)
    users, items, attributes = read_vectors(real_data / "lastfm" / "fm_embeddings.npz", data)
    assert (users.shape, items.shape, attributes.shape) == ((1801, 64), (7432, 64), (33, 64))
    train, rng = data.train, numpy_rng(0, "tests/uniform")
    fit = (users[train.users] * items[train.items]).sum(1)
    other = (users[train.users] * items[rng.integers(0, data.n_items, len(train))]).sum(1)
    assert (fit > other).mean() > 0.95, "users and items are told apart and in order"


def test_runs_of_another_dataset_or_model_are_refused(data, run, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"was trained on planted .* \(fingerprints\)"):
        read_vectors(run, planted(1))
    with pytest.raises(CheckpointError, match=r"run\.json"):
        read_vectors(tmp_path, data)
    options = {"epochs": 1, "device": "cpu", "progress": False}
    runs.train("mf", communities(2, 20)[0], train_options=options, out=tmp_path / "mf", select="none")
    with pytest.raises(CheckpointError, match="is a run of 'mf'"):
        read_vectors(tmp_path / "mf", data)


def test_a_folder_of_three_arrays_is_read_and_what_is_wrong_with_it_said(data, tmp_path) -> None:
    sizes = (data.n_users, data.n_items, len(data.nodes["attribute"]))
    given = DialogueVectors(*(np.full((n, 3), i, dtype=np.float32) for i, n in enumerate(sizes)))
    path = write_vectors(tmp_path / "vectors", given)
    for one, two in zip(read_vectors(path, data), given, strict=True):
        assert np.array_equal(one, two)
    for change, message in (
        ({"items": given.items[1:]}, "rows; expected"),
        ({"users": given.users[:, 1:]}, "one width"),
        ({"attributes": given.attributes * np.nan}, "not finite in row 0"),
        ({"attributes": given.attributes.astype(int)}, "expected .n, d. of floats"),
    ):
        write_vectors(path, given._replace(**change))
        with pytest.raises(FeatureError, match=message):
            read_vectors(path, data)
    (path / "items.npy").unlink()
    with pytest.raises(FeatureError, match="no such file"):
        read_vectors(path, data)


def test_a_kill_while_vectors_are_replaced_leaves_one_version_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = communities(2, 6)
    rng = numpy_rng(0, "vectors")
    sizes = (data.n_users, data.n_items, 0)
    former = DialogueVectors(*(rng.random((n, 3), dtype=np.float32) for n in sizes))
    new = DialogueVectors(*(2 * array for array in former))
    limit, ended, refused, outcomes = 0, False, 0, set()
    while not ended:
        folder = tmp_path / f"killed-{limit}"
        write_vectors(folder, former)
        ended = killed_after(limit, monkeypatch, write_vectors, folder, new)
        try:
            found = read_vectors(folder, data)
        except CheckpointError:
            assert not (folder / "users.npy").exists()
            refused += 1
        else:
            versions = [all(map(np.array_equal, found, version)) for version in (former, new)]
            assert any(versions)
            outcomes.add(versions.index(True))
        limit += 1
    assert outcomes == {0, 1}
    assert refused
