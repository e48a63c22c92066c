"""The index of a recommender: what it finds, what it costs, what it survives."""

from __future__ import annotations

import itertools
import shutil
import sys
from functools import partial

import numpy as np
import pytest
from kills import killed_after
from tolerances import SCORE

from graphrec.core.bundle import Committed, commit, write_sealed
from graphrec.core.errors import CheckpointError, ConfigError, MissingDependencyError, UnknownIdError
from graphrec.core.files import digest, write_array
from graphrec.data import Interactions, Vocabulary
from graphrec.models.base import ContentProjection
from graphrec.serving import Recommender, catalog as serving_catalog, ids, ivf, query

faiss = pytest.importorskip("faiss", reason="faiss is not installed; pip install 'graphrec[ann]'")

USERS, ITEMS, DIM = 300, 3000, 16


def clustered(n: int, seed: int, groups: int = 40) -> np.ndarray:
    """Vectors in groups, of different lengths, as embeddings are."""
    means = np.random.default_rng(5).standard_normal((groups, DIM))
    rng = np.random.default_rng(seed)
    rows = means[rng.integers(0, groups, n)] + 0.5 * rng.standard_normal((n, DIM))
    return (rows * rng.uniform(0.5, 1.5, (n, 1))).astype(np.float32)


def catalog(
    user_vectors: np.ndarray | None = None, item_vectors: np.ndarray | None = None, seen_each: int = 30
) -> Recommender:
    """A recommender that places new items by a projection of their content: as it is."""
    users = clustered(USERS, 1) if user_vectors is None else user_vectors
    table = clustered(ITEMS, 2) if item_vectors is None else item_vectors
    rng = np.random.default_rng(3)
    keys = np.unique(
        np.repeat(np.arange(len(users)), seen_each) * len(table) + _liked(users, table, seen_each, rng)
    )
    return Recommender(
        Vocabulary([f"u{i}" for i in range(len(users))], "user"),
        Vocabulary([f"i{i}" for i in range(len(table))]),
        users,
        table,
        Interactions(keys // len(table), keys % len(table), len(users), len(table), name="seen"),
        ContentProjection({"text": np.eye(table.shape[1], dtype=np.float32)}, {}),
        meta={"model": "made", "dataset": "up"},
    )


def _liked(users: np.ndarray, table: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Items that users have: mostly from the top of their lists, which is what hiding them must withstand."""
    if not n:
        return np.empty(0, np.int64)
    best = np.argsort(-(users @ table.T), axis=1)[:, : 3 * n]
    return np.concatenate([rng.choice(row, n, replace=False) for row in best])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("indexed") / "rec"
    rec = Recommender.load(catalog().save(place))
    rec.build_index(place, recall=0.9, lists=50)
    return place


@pytest.fixture
def rec(folder) -> Recommender:
    return Recommender.load(folder)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Recommender:
    """All lists are searched, so nothing can be missed."""
    place = tmp_path_factory.mktemp("full")
    rec = catalog()
    rec.save(place)
    rec.build_index(place, recall=1.0, lists=3)
    assert {f.probes for f in rec.index.values()} == {3}
    return rec


def same(one, other) -> None:
    """The same items with the same scores."""
    assert np.array_equal(one[0], other[0])
    assert np.allclose(one[1], other[1], rtol=SCORE, atol=SCORE)


def found(rec: Recommender, k: int = 20, **options) -> float:
    """Share of the exact answers that an approximate search finds, for all users."""
    names = list(rec.users)
    exact, near = (
        rec.recommend(names, k, search=search, **options)[0] for search in ("exact", "approximate")
    )
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(exact, near, strict=True)]))


# -- finding -------------------------------------------------------------------------------------------------


def test_the_wanted_recall_is_reached_and_told_truly(rec) -> None:
    for facts in rec.index.values():
        assert facts.recall > 0.88
        assert facts.probes < facts.lists == 50
        assert facts.scanned < 0.7
        assert facts.items == ITEMS
    assert found(rec, exclude_seen=False) == pytest.approx(rec.index["recommend"].recall, abs=0.02)
    assert found(rec) > 0.85
    exact, near = (
        rec.similar_items(list(rec.items)[:500], 20, search=s)[0] for s in ("exact", "approximate")
    )
    share = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact, near, strict=True)])
    assert share == pytest.approx(rec.index["similar"].recall, abs=0.03)
    assert share < 1, "these lists are searched in part"


def test_more_recall_takes_more_probes(tmp_path) -> None:
    rec = catalog()
    rec.save(tmp_path)
    probes = [
        rec.build_index(tmp_path, recall=r, lists=50, similar=False)["recommend"].probes
        for r in (0.3, 0.8, 1.0)
    ]
    assert probes[0] <= probes[1] < probes[2]
    assert rec.index["recommend"].wanted == 1.0
    assert found(rec, exclude_seen=False) == 1.0


def test_all_lists_are_an_exact_search(full) -> None:
    names = list(full.users)
    for options in ({}, {"exclude_seen": False}, {"exclude": ["i7", "i1999"]}):
        same(full.recommend(names, **options), full.recommend(names, search="exact", **options))
    one, other = (full.recommend("u3", 2 * ITEMS, search=s) for s in ("exact", "approximate"))
    assert set(one[0]) == set(other[0])
    assert np.allclose(one[1], other[1], rtol=SCORE, atol=SCORE)
    same(full.similar_items(list(full.items)[:99]), full.similar_items(list(full.items)[:99], search="exact"))
    same(full.similar_items("i5", 5000), full.similar_items("i5", 5000, search="exact"))


def test_one_answer_for_one_as_for_many(rec) -> None:
    names = list(rec.users)
    many = rec.recommend(names, 7, exclude=["i3"])
    for row in range(0, USERS, 7):
        one = rec.recommend(names[row], 7, exclude=["i3"])
        assert one[0].shape == (7,)
        assert list(one[0]) == list(many[0][row])
        assert np.array_equal(one[1], many[1][row])
    kinds = rec.similar_items(["i1", "i2", "i1"], 4)
    assert list(kinds[0][0]) == list(kinds[0][2]) == list(rec.similar_items("i1", 4)[0])
    assert rec.recommend([], 2)[0].shape == (0, 2)


def test_what_must_not_be_shown_is_not(rec) -> None:
    names = list(rec.users)
    everything = rec.recommend(names, 20, exclude_seen=False)[0]
    unseen = rec.recommend(names, 20)[0]
    assert (everything != unseen).mean() > 0.5, "seen items stand at the top"
    for row in range(USERS):
        seen = set(rec.items.take(rec.seen.items_of(row)))
        assert not seen & set(unseen[row])
        assert None not in unseen[row]
    excluded = set(everything[:, :3].ravel())
    left = rec.recommend(names, 20, exclude=excluded, exclude_seen=False)[0]
    assert not excluded & set(left.ravel())
    assert None not in left
    assert all("i5" not in row for row in rec.similar_items(["i5"], 50)[0])


def test_short_lists_are_searched_further_until_the_answer_is_whole(rec) -> None:
    probed = rec.index["recommend"].probes
    ids, scores = rec.recommend(["u1", "u2"], ITEMS - 40)
    assert probed < 50
    assert (scores > -np.inf).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == ITEMS - 40 for row in ids)
    ids, scores = rec.recommend("u1", ITEMS + 5)
    n_seen = len(rec.seen.items_of(1))
    assert [i is None for i in ids] == [rank >= ITEMS - n_seen for rank in range(ITEMS + 5)]
    assert np.array_equal(np.isneginf(scores), [i is None for i in ids])


def test_only_and_unknown_users_are_answered_exactly(rec) -> None:
    some = [f"i{i}" for i in range(0, ITEMS, 9)]
    same(rec.recommend(["u1", "u2"], 9, only=some), rec.recommend(["u1", "u2"], 9, only=some, search="exact"))
    mixed = {"unknown": "popularity", "exclude": ["i11"]}
    ids, scores = rec.recommend(["u1", "nobody", "u2"], 9, **mixed)
    same((ids[1], scores[1]), rec.recommend("nobody", 9, search="exact", **mixed))
    same((ids[[0, 2]], scores[[0, 2]]), rec.recommend(["u1", "u2"], 9, exclude=["i11"]))
    assert list(scores[1]) == sorted(np.delete(rec.seen.item_degree, 11), reverse=True)[:9]
    only = rec.recommend("nobody", 3, unknown="popularity", only=["i4", "i1", "i9"], exclude="i1")
    expected = sorted([4, 9], key=lambda i: (-rec.seen.item_degree[i], i))
    assert list(only[0]) == [*(f"i{i}" for i in expected), None]
    with pytest.raises(UnknownIdError, match="nobody"):
        rec.recommend(["u1", "nobody"])


@pytest.mark.parametrize("widest", [query.WIDEST, 130])
def test_equal_scores_come_in_the_order_of_the_items(tmp_path, monkeypatch, widest: int) -> None:
    """Thousands of items share few vectors; whole numbers tie exactly."""
    monkeypatch.setattr(query, "WIDEST", widest)
    rng = np.random.default_rng(0)
    table = rng.integers(-1, 2, (2000, 3)).astype(np.float32)
    rec = catalog(rng.integers(-2, 3, (50, 3)).astype(np.float32), table, seen_each=5)
    rec.save(tmp_path)
    rec.build_index(tmp_path, recall=1.0, lists=9)
    names = list(rec.users)
    for k in (1, 7, 100):
        one, other = (rec.recommend(names, k, search=s) for s in ("approximate", "exact"))
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


def test_added_items_are_found(rec, full, tmp_path) -> None:
    star = 10 * rec.user_vectors[4] / np.linalg.norm(rec.user_vectors[4])
    for one in (rec, full):
        grown = one.copy().add_items(["new"], {"text": star[None]})
        grown.add_items(["two", "three"], {"text": np.stack([rec.user_vectors[9], 0.5 * star])})
        ids, _ = grown.recommend("u4", 5)
        assert ids[0] == "new"
        assert len(grown.items) == ITEMS + 3
        assert len(one.items) == ITEMS, "the one it was copied from does not grow"
        assert "new" not in grown.recommend("u4", 5, exclude=["new"])[0]
        assert list(grown.recommend("u4", 2, only=["new", "i1", "three"])[0]) == ["new", "three"]
        assert grown.similar_items("new", 1)[0][0] == "three"
        assert grown.similar_items("three", 3)[0][0] == "new"
        with pytest.raises(ConfigError, match="no index"):  # the saved one was never given an index
            Recommender.load(grown.save(tmp_path / "other")).recommend("u4", search="approximate")
    names = list(full.users)
    same(grown.recommend(names), grown.recommend(names, search="exact"))
    same(
        grown.similar_items(list(grown.items)[-9:]),
        grown.similar_items(list(grown.items)[-9:], search="exact"),
    )
    saved = Recommender.load(tmp_path / "other")
    same(grown.recommend(names), saved.recommend(names))


def test_large_tables_are_searched_beside_what_was_added(full, monkeypatch) -> None:
    names = list(full.users)[:40]
    new, options = {"text": clustered(5, 11)}, {"exclude": ["i1", "c"]}
    expected = (
        full.copy().add_items(list("abcde"), new).recommend(names, 30, search="exact", exclude=["i1", "c"])
    )
    monkeypatch.setattr(serving_catalog, "COPIED", 0)
    grown = full.copy().add_items(list("abcde"), new)
    same(grown.recommend(names, 30, search="exact", **options), expected)
    same(grown.recommend(names, 30, **options), expected)
    some = {"only": ["i1", "a", "i2999", "e"], "exclude": ["e"], "search": "exact"}
    assert set(grown.recommend("u1", 4, **some)[0]) <= {"i1", "a", "i2999", None}


# -- choosing ------------------------------------------------------------------------------------------------


def test_search_is_chosen(rec, tmp_path) -> None:
    same(rec.recommend("u1"), rec.recommend("u1", search="approximate"))
    plain = Recommender.load(catalog().save(tmp_path))
    assert plain.index is None
    same(plain.recommend("u1"), rec.recommend("u1", search="exact"))
    with pytest.raises(ConfigError, match=r"no index for 'recommend'.*graphrec index"):
        plain.recommend("u1", search="approximate")
    with pytest.raises(ConfigError, match="no index for 'similar'"):
        plain.similar_items("i1", search="approximate")
    for ask in (rec.recommend, rec.similar_items):
        with pytest.raises(ConfigError, match="search='fast'"):
            ask("u1", search="fast")
    plain.build_index(tmp_path, similar=False, lists=20)
    assert set(Recommender.load(tmp_path).index) == {"recommend"}
    with pytest.raises(ConfigError, match="no index"):
        plain.similar_items("i1", search="approximate")
    same(plain.similar_items("i1"), plain.similar_items("i1", search="exact"))


def test_options_out_of_range(tmp_path) -> None:
    rec = catalog()
    with pytest.raises(CheckpointError, match="no such file"):
        rec.build_index(tmp_path)
    rec.save(tmp_path)
    for options in (
        {"recall": 0},
        {"recall": 1.01},
        {"recall": True},
        {"lists": 0},
        {"lists": ITEMS + 1},
        {"k": 0},
    ):
        (name,) = options
        with pytest.raises(ConfigError, match=f"{name} = "):
            rec.build_index(tmp_path, **options)
    assert not (tmp_path / "index").exists()


def test_an_index_is_built_beside_its_own_recommender_alone(tmp_path) -> None:
    rec, other = catalog(), catalog(item_vectors=clustered(ITEMS, 8))
    rec.save(tmp_path)
    for wrong in (other, rec.copy().add_items(["new"], {"text": np.ones((1, DIM))})):
        with pytest.raises(CheckpointError, match="save it there first"):
            wrong.build_index(tmp_path)
    rec.build_index(tmp_path, lists=20)
    other.save(tmp_path)
    found = Recommender.load(tmp_path)
    assert found.index is None, "an index for other vectors is not used"
    same(found.recommend("u1"), other.recommend("u1", search="exact"))
    other.build_index(tmp_path, lists=10)
    assert Recommender.load(tmp_path).index["similar"].lists == 10
    assert len(list((tmp_path / "index").iterdir())) == 5


def test_few_items_and_users(tmp_path) -> None:
    rec = catalog(clustered(1, 1), clustered(3, 2), seen_each=1)
    rec.save(tmp_path)
    rec.build_index(tmp_path, k=3)
    same(rec.recommend("u0", 4), rec.recommend("u0", 4, search="exact"))
    same(rec.similar_items("i0", 4), rec.similar_items("i0", 4, search="exact"))


def test_faiss_is_needed(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"faiss-cpu is not installed.*graphrec\[ann\]"):
        Recommender.load(folder)


# -- files ---------------------------------------------------------------------------------------------------


def test_what_is_large_stays_in_its_files(folder, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(ids, "MAX_IN_MEMORY", 100)
    saved = catalog()
    rec = Recommender.load(saved.save(tmp_path))
    for table in (rec.user_vectors, rec.item_vectors):
        assert isinstance(table, np.memmap)
    assert all(isinstance(v, ids.MappedVocabulary) for v in (rec.users, rec.items))
    for ask in (lambda r: r.recommend(["u299", "u0", "u10"], 9), lambda r: r.similar_items(["i5", "i2999"])):
        same(ask(rec), ask(saved))
    assert "ids" not in vars(rec.items), "not all ids became Python's"
    assert rec.items == saved.items
    assert rec.items.fingerprint == saved.items.fingerprint
    assert [rec.items[0], rec.items[-1], *rec.items[2:4]] == ["i0", "i2999", "i2", "i3"]
    assert "i7" in rec.items
    assert "i7x" not in rec.items
    assert list(rec.items.find(["i2999", "zz", "", "i12", "\ud800"])) == [2999, -1, -1, 12, -1]
    with pytest.raises(UnknownIdError, match=r"user 'me' is not among the 300 known users"):
        rec.recommend("me")
    again = Recommender.load(rec.save(tmp_path / "again"))
    same(again.recommend("u7"), saved.recommend("u7"))
    rec.add_items(["new"], {"text": np.ones((1, DIM))})
    assert len(rec.items) == ITEMS + 1


def test_building_holds_a_block_at_a_time(folder, monkeypatch, tmp_path) -> None:
    """Blocks of any size give the same lists."""
    monkeypatch.setattr(ivf, "BLOCK", 77)
    rec = Recommender.load(catalog().save(tmp_path))
    rec.build_index(tmp_path, recall=0.9, lists=50)
    names = {p.name: p.read_bytes() for p in (folder / "index").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()} == names


def test_every_damaged_file_is_named(folder) -> None:
    for path in sorted((folder / "index").iterdir()):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damaged in (bytes(flipped), whole[: len(whole) // 2], b""):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=rf"{path.name}.*(again|restore)"):
                Recommender.load(folder)
        path.write_bytes(whole)
    assert Recommender.load(folder).index is not None


def test_an_index_of_format_1_is_written_anew(folder, rec, tmp_path) -> None:
    """As graphrec wrote it up to November 2026: centroids, sizes and lists, each an ``.npy``."""
    shutil.copytree(folder, tmp_path / "rec")
    index = tmp_path / "rec" / "index"
    saved = Committed(index / "index.json", ivf.FORMAT, "")
    arrays = {}
    for part in ("recommend", "similar"):
        stored = faiss.read_index(str(saved.file(f"{part}_index")), faiss.IO_FLAG_SKIP_IVF_DATA)
        arrays[f"{part}_centroids"] = faiss.downcast_index(stored.quantizer).reconstruct_n(0, 50)
        arrays[f"{part}_sizes"] = np.array([stored.invlists.list_size(i) for i in range(50)])
        arrays[f"{part}_lists"] = np.fromfile(saved.file(f"{part}_lists"), np.uint8)
    files = {name: (digest(a), "npy", partial(write_array, array=a)) for name, a in arrays.items()}
    entries = commit(index / "index.json", ivf.FORMAT, saved.head, files, "")
    write_sealed(index / "index.json", {"format": 1, "files": entries, "head": saved.head})
    assert len(list(index.iterdir())) == 7
    names = list(rec.users)
    for _ in range(2):  # migrated, then opened as any other
        opened = Recommender.load(tmp_path / "rec")
        assert opened.index == rec.index
        same(opened.recommend(names, search="approximate"), rec.recommend(names, search="approximate"))
        same(opened.similar_items("i5"), rec.similar_items("i5"))
        assert {p.name: p.read_bytes() for p in index.iterdir()} == {
            p.name: p.read_bytes() for p in (folder / "index").iterdir()
        }


@pytest.mark.parametrize("before", [None, 40])
def test_a_kill_while_building_leaves_an_index_or_none(tmp_path, monkeypatch, before) -> None:
    """Killed before each file operation of a build: the former index, if there was one, or the new one."""
    monkeypatch.setattr(ivf, "BLOCK", 1000)
    rec = catalog(clustered(50, 1), clustered(1500, 2))
    expected = rec.recommend(list(rec.users), search="exact")
    rec.save(tmp_path / "before")
    if before:
        rec.build_index(tmp_path / "before", lists=before)
    found = []
    for limit in itertools.count():
        place = tmp_path / str(limit)
        shutil.copytree(tmp_path / "before", place)
        ended = killed_after(limit, monkeypatch, rec.build_index, place, lists=30, seed=1)
        left = Recommender.load(place)
        same(left.recommend(list(left.users), search="exact"), expected)
        found.append(None if left.index is None else left.index["recommend"].lists)
        if left.index is not None:
            left.recommend("u1", search="approximate")
        if ended:
            break
        if limit % 4 == 0:
            rec.build_index(place, lists=20)
            assert len(list((place / "index").iterdir())) == 5, "what the killed one left is swept"
        shutil.rmtree(place)
    assert set(found) == {before, 30}
    assert found == sorted(found, key=lambda lists: lists == 30), "one operation commits"
