"""The recommender on disk: saving, loading, damage, exports."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from cold_catalog import cold_catalog
from kills import killed_after
from tolerances import SCORE

from graphrec.core.errors import CheckpointError, ConfigError, MissingDependencyError, UnknownIdError
from graphrec.core.files import digest
from graphrec.models.mf import MF
from graphrec.serving import Recommender, export
from graphrec.testing import communities


@pytest.fixture(scope="module")
def data():
    return communities(2, 20)[0]


@pytest.fixture(scope="module")
def rec(data) -> Recommender:
    return Recommender.from_model(MF.build(data, None, MF.Config(dim=8)), data)


@pytest.fixture(scope="module")
def cold():
    return cold_catalog()


# -- keeping -------------------------------------------------------------------------------------------------


def test_saves_and_loads(cold, tmp_path) -> None:
    data, tables, model = cold
    rec = Recommender.from_model(model, data, tables).add_items(["ключ"], {"text": tables["text"].take([35])})
    found = Recommender.load(rec.save(tmp_path / "rec"))
    assert isinstance(found.user_vectors, np.memmap)
    assert isinstance(found.content["image"].values, np.memmap)
    assert (found.users, found.items, found.meta) == (rec.users, rec.items, rec.meta)
    assert found.seen == rec.seen
    for users, k in ((list(data.users), 50), ("u7", 3)):
        for one, other in zip(rec.recommend(users, k), found.recommend(users, k), strict=True):
            assert np.array_equal(one, other)
    assert repr(found) == "Recommender(freedom, cold: 40 users, 41 items, dim 8)"


def test_loading_needs_neither_model_nor_dataset_code(rec, tmp_path) -> None:
    rec.save(tmp_path / "rec")
    code = (
        "import sys, graphrec as gr\nfrom graphrec.models import MODELS\n"
        f"ids, scores = gr.Recommender.load({str(tmp_path / 'rec')!r}).recommend('u1', 3)\n"
        "files = {target.split(':')[0] for target in MODELS.values()}\n"
        "loaded = [m for m in sys.modules if m in files or m == 'graphrec.training.trainer']\n"
        "assert not loaded, loaded\nprint(*ids)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(rec.recommend("u1", 3)[0])


def test_saving_again_replaces(data, rec, tmp_path) -> None:
    other = Recommender.from_model(MF.build(data, None, MF.Config(dim=4, seed=1)), data)
    other.save(tmp_path)
    first = {p.name for p in tmp_path.iterdir()}
    rec.save(tmp_path)
    assert Recommender.load(tmp_path).item_vectors.shape[1] == 8
    left = {p.name for p in tmp_path.iterdir()}
    assert len(left) == len(first) == 6
    again = {p.name: p.read_bytes() for p in rec.save(tmp_path).iterdir()}
    assert set(again) == left, "equal content has equal names"


def test_every_damaged_file_is_named(cold, tmp_path) -> None:
    data, tables, model = cold
    rec = Recommender.from_model(model, data, tables)
    names = sorted(p.name for p in rec.save(tmp_path).iterdir())
    assert len(names) == 12
    for name in names:
        path, whole = tmp_path / name, (tmp_path / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damaged in (bytes(flipped), whole[: len(whole) // 2], b"", None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=name):
                Recommender.load(tmp_path)
        path.write_bytes(whole)
    assert len(Recommender.load(tmp_path).items) == data.n_items


def test_a_head_that_names_other_places_or_formats_is_refused(rec, tmp_path) -> None:
    head = json.loads((rec.save(tmp_path) / "recommender.json").read_text())
    del head["seal"]
    outside = {**head, "files": {**head["files"], "users": {**head["files"]["users"], "name": "../x.arrow"}}}
    for changed, message in ((outside, "outside the directory"), ({**head, "format": 99}, "format 99")):
        (tmp_path / "recommender.json").write_text(json.dumps({**changed, "seal": digest("bundle", changed)}))
        with pytest.raises(CheckpointError, match=message):
            Recommender.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        Recommender.load(tmp_path / "elsewhere")


def test_killed_while_saving_leaves_a_whole_recommender(rec, tmp_path, monkeypatch) -> None:
    """Killed before each file operation of a save: the former recommender or the new one."""
    data, _ = communities(2, 20)
    other = Recommender.from_model(MF.build(data, None, MF.Config(dim=4)), data)
    dims = []
    for limit in itertools.count():
        rec.save(tmp_path)
        ended = killed_after(limit, monkeypatch, other.save, tmp_path)
        dims.append(Recommender.load(tmp_path).item_vectors.shape[1])
        if ended:
            break
    assert set(dims) == {4, 8}, "some kills leave the one recommender, some the other"
    assert dims == sorted(dims, reverse=True), "one operation commits"
    killed_after(len(dims) // 2, monkeypatch, rec.save, tmp_path)
    assert Recommender.load(rec.save(tmp_path)).item_vectors.shape[1] == 8
    assert len(list(tmp_path.iterdir())) == 6, "what the killed saver left is swept"


# -- exporting -----------------------------------------------------------------------------------------------


def test_export_equals_recommend(data, rec, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "BLOCK", 7)
    frame = pl.read_parquet(rec.export(tmp_path / "recs.parquet", k=35))
    assert frame.columns == ["user", "rank", "item", "score"]
    ids, scores = rec.recommend(list(data.users), 35)
    at = [(u, r) for u in range(data.n_users) for r in range(35) if ids[u, r] is not None]
    assert len(at) < data.n_users * 35, "some lists are short"
    assert frame["user"].to_list() == [data.users[u] for u, _ in at]
    assert frame["rank"].to_list() == [r + 1 for _, r in at]
    assert frame["item"].to_list() == [ids[a] for a in at]
    assert np.array_equal(frame["score"].to_numpy(), [scores[a] for a in at])
    some = pl.read_parquet(rec.export(tmp_path / "some.parquet", 2, ["u3", "u1"], exclude=[ids[3, 0]]))
    assert some["user"].to_list() == ["u3", "u3", "u1", "u1"]
    assert some["item"][0] == ids[3, 1]


def test_a_failed_export_leaves_what_was_there(rec, tmp_path) -> None:
    path = rec.export(tmp_path / "recs.parquet", k=2)
    before = path.read_bytes()
    with pytest.raises(UnknownIdError, match="'nobody'"):
        rec.export(path, users=["u1", "nobody"])
    with pytest.raises(ConfigError, match="k = 0"):
        rec.export(path, k=0)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["recs.parquet"]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        rec.export(tmp_path / "file" / "recs.parquet")
    with pytest.raises(CheckpointError, match="cannot be written"):
        rec.save(tmp_path / "file" / "rec")


def test_faiss_finds_what_the_recommender_finds(data, rec, tmp_path) -> None:
    faiss = pytest.importorskip("faiss")
    folder = rec.export_faiss(tmp_path / "index")
    index = faiss.read_index(str(folder / "items.faiss"))
    ids = pl.read_ipc(folder / "items.arrow")["id"].to_list()
    scores, rows = index.search(rec.user_vectors[:5], 6)
    found, expected = rec.recommend([f"u{i}" for i in range(5)], 6, exclude_seen=False)
    assert [[ids[i] for i in row] for row in rows] == found.tolist()
    assert np.allclose(scores, expected, rtol=SCORE, atol=SCORE)
    assert set(json.loads((folder / "index.json").read_text())["files"]) == {"items.faiss", "items.arrow"}


def test_faiss_is_asked_for_by_the_name_of_its_extra(rec, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"graphrec\[ann\]"):
        rec.export_faiss(tmp_path / "index")
    assert not (tmp_path / "index").exists()
