"""Feature tables and their store: alignment, what is missing, and refusal of what is damaged."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from extraction import catalog, flip, sharded
from hypothesis import given, settings, strategies as st

from graphrec.core.errors import FeatureError
from graphrec.data import Content, Interactions
from graphrec.features import TRAIN_FINGERPRINT, FeatureStore, FeatureTable
from graphrec.features.shard_rows import MAX_OPEN_SHARDS, ShardedRows
from graphrec.features.store import table_lock

IDS = [f"item-{i}" for i in range(7)]
SHOP = catalog(IDS)
VALUES = np.arange(1, 22, dtype=np.float32).reshape(7, 3)


# -- ready-made vectors ------------------------------------------------------------


def test_rows_are_aligned_by_id() -> None:
    order = [4, 0, 6, 2]
    table = FeatureTable.from_array(VALUES[order], SHOP, "image", ids=[IDS[i] for i in order])
    assert table.present.tolist() == [True, False, True, False, True, False, True]
    assert np.array_equal(table.values[sorted(order)], VALUES[sorted(order)])
    assert not np.asarray(table.values)[~table.present].any()


def test_unknown_ids_are_counted_and_too_few_known_are_refused() -> None:
    table = FeatureTable.from_array(VALUES[:3], SHOP, "image", ids=["item-1", "other", "item-5"])
    assert table.meta["unknown_ids"] == 1
    assert np.array_equal(table.take([5, 1]), VALUES[[2, 0]])
    with pytest.raises(FeatureError, match=r"0 of 3 ids"):
        FeatureTable.from_array(VALUES[:3], SHOP, "image", ids=[0, 1, 2])


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(FeatureError, match="'item-1'"):
        FeatureTable.from_array(VALUES[:2], SHOP, "image", ids=["item-1", "item-1"])


def test_a_wrong_number_of_rows_is_refused_and_ids_are_suggested() -> None:
    with pytest.raises(FeatureError, match=r"6 rows.*7 items.*ids="):
        FeatureTable.from_array(VALUES[:6], SHOP, "image")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_row_and_item(bad: float) -> None:
    values = VALUES.copy()
    values[[2, 4], 1] = bad
    with pytest.raises(FeatureError, match=r"row 2 \(item 'item-2'\).* 2 rows"):
        FeatureTable.from_array(values, SHOP, "image")
    with pytest.raises(FeatureError, match=r"row 0 \(item 'item-4'\)"):
        FeatureTable.from_array(values[[4, 3]], SHOP, "image", ids=["item-4", "item-3"])
    mask = np.isfinite(values).all(axis=1)
    assert np.array_equal(FeatureTable.from_array(values, SHOP, "image", present=mask).present, mask)


def test_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(FeatureError, match="NaN or Inf"):
        FeatureTable.from_array(np.full((7, 2), 1e300), SHOP, "image")


def test_types() -> None:
    assert FeatureTable.from_array(VALUES.astype(np.float64), SHOP, "t").values.dtype == np.float32
    assert FeatureTable.from_array(VALUES.astype(np.float16), SHOP, "t").values.dtype == np.float16
    with pytest.raises(FeatureError, match="int64"):
        FeatureTable.from_array(np.ones((7, 2), np.int64), SHOP, "t")


def test_rows_of_zeros_are_missing_and_counted() -> None:
    values = VALUES.copy()
    values[3] = 0
    table = FeatureTable.from_array(values, SHOP, "image")
    assert not table.present[3]
    assert table.present.sum() == 6
    assert table.meta["zero_rows"] == 1


def test_tables_are_read_only_and_what_they_hand_out_is_not_them() -> None:
    source = VALUES.copy()
    table = FeatureTable.from_array(source, SHOP, "image")
    before = table.sha256
    source[:] = 9
    table.numpy()[:] = 9
    table.take([0])[:] = 9
    with pytest.raises(ValueError, match="read-only"):
        table.values[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        table.present[0] = False
    assert table.compute_sha256() == before


def test_from_npy_reads_no_pickle(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", VALUES)
    assert np.array_equal(FeatureTable.from_npy(tmp_path / "good.npy", SHOP, "image").values, VALUES)
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureError, match=r"bad\.npy"):
        FeatureTable.from_npy(tmp_path / "bad.npy", SHOP, "image")


def test_a_table_for_other_items_is_refused() -> None:
    table = FeatureTable.from_array(VALUES, SHOP, "image")
    other = catalog(list(reversed(IDS)))
    with pytest.raises(FeatureError, match=r"'image'.*shop.*features build"):
        table.check(other)
    assert table.check(SHOP) is table


def test_the_digest_sees_values_mask_shape_and_type() -> None:
    base = FeatureTable(VALUES)
    mask = np.ones(7, dtype=bool)
    mask[0] = False
    other = VALUES.copy()
    other[6, 2] += 1
    tables = [FeatureTable(VALUES, mask), FeatureTable(other), FeatureTable(VALUES.astype(np.float16)),
              FeatureTable(VALUES.reshape(3, 7))]  # fmt: skip
    assert len({t.sha256 for t in [base, *tables]}) == 5
    assert FeatureTable(VALUES.copy()).sha256 == base.sha256


# -- shards ------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(1, 9))
def test_sharded_rows_index_like_the_array(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    n = 23
    values = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    starts = [*range(0, n, size), n]
    paths = []
    for k, (a, b) in enumerate(itertools.pairwise(starts)):
        paths.append(folder / f"{k}.npy")
        np.save(paths[-1], values[a:b])
    rows = ShardedRows(paths, starts, 2, values.dtype)
    some = data.draw(st.lists(st.integers(-n, n - 1), max_size=30))
    cut = data.draw(st.slices(n))
    mask = np.asarray(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    for index in (np.asarray(some, dtype=np.int64), cut, mask, 5, -1, np.array([[1, 22], [0, 1]]),
                  (slice(None), 1), (np.array([3, 3]), slice(0, 1))):  # fmt: skip
        assert np.array_equal(rows[index], values[index])
    assert np.array_equal(np.asarray(rows), values)
    with pytest.raises(IndexError):
        rows[n]


def test_a_table_opens_more_shards_than_may_be_mapped_at_once(tmp_path: Path) -> None:
    n = MAX_OPEN_SHARDS * 2 + 1
    data = catalog([str(i) for i in range(n)])
    values = np.arange(1, n + 1, dtype=np.float32)[:, None]
    table = sharded(tmp_path, values, 1, data)
    assert isinstance(table.values, ShardedRows)
    assert np.array_equal(table.take(np.arange(n)[::-1]), values[::-1])
    assert len(table.values._open) <= MAX_OPEN_SHARDS
    assert table.sha256 == FeatureTable(values).sha256, "the digest must not depend on the sharding"


# -- the store ------------------------------------------------------------


def test_imported_vectors_are_found_again_and_mapped(tmp_path: Path) -> None:
    table = FeatureTable.from_array(VALUES, SHOP, "image", name="mine.npy")
    FeatureStore(tmp_path).save(SHOP, "image", table)
    found = FeatureStore(tmp_path).load_tables(SHOP)
    assert list(found) == ["image"]
    assert isinstance(found["image"].values, ShardedRows)
    assert isinstance(found["image"].values.shard(0), np.memmap)
    assert found["image"].sha256 == table.sha256 == found["image"].compute_sha256()
    assert found["image"].meta["extractor"]["source"] == "mine.npy"
    found["image"].values[:][:] = 1
    found["image"].numpy()[:] = 1
    assert found["image"].compute_sha256() == table.sha256
    assert FeatureStore(tmp_path).verify() == []


def test_another_split_finds_the_features_and_other_items_do_not(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.save(SHOP, "image", FeatureTable.from_array(VALUES, SHOP, "image"))
    pairs = Interactions(np.arange(6), np.arange(1, 7), 7, 7)
    again = SHOP.with_splits(pairs, SHOP.valid, SHOP.test)
    assert again.fingerprint != SHOP.fingerprint
    assert list(store.load_tables(again)) == ["image"]
    texts = Content("text", ["a"] * 7)
    with pytest.raises(FeatureError, match=r"'image'.*shop"):
        store.load_tables(catalog(list(reversed(IDS)), image=texts))
    with pytest.raises(FeatureError, match="no items"):
        store.load_tables(SHOP.with_content(text=texts))
    assert list(store.load_tables(SHOP.with_content(text=texts), text=None)) == ["image"]


def test_what_tells_of_a_train_split_is_served_for_that_one_alone(tmp_path: Path) -> None:
    """What was counted in one train split may be held out in another."""
    store = FeatureStore(tmp_path)
    again = SHOP.with_splits(Interactions(np.arange(6), np.arange(1, 7), 7, 7), SHOP.valid, SHOP.test)
    for data, value in ((SHOP, 1), (again, 2)):
        meta = {"field": "profile", "of": "user", "items": data.users.fingerprint,
                "extractor": {"name": "counted", TRAIN_FINGERPRINT: data.train.fingerprint}}  # fmt: skip
        table = FeatureTable(np.full((7, 2), value, np.float32), None, meta)
        other = again if data is SHOP else SHOP
        with pytest.raises(FeatureError, match="'profile'"):
            table.check(other)
        store.save(data, "profile", table)
    assert len(store.tables()) == 2
    assert store.load_tables(SHOP)["profile"].numpy()[0, 0] == 1
    assert store.load_tables(again)["profile"].numpy()[0, 0] == 2
    third = SHOP.with_splits(Interactions(np.arange(5), np.arange(1, 6), 7, 7), SHOP.valid, SHOP.test)
    assert store.load_tables(third) == {}
    assert store.gc() == [], "one does not supersede the other"


def test_the_last_built_wins_and_others_can_be_chosen(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    first = sharded(tmp_path, VALUES, 3, SHOP, "one")
    second = sharded(tmp_path, VALUES * 2, 3, SHOP, "two")
    assert store.load_tables(SHOP)["text"].sha256 == second.sha256
    assert store.load_tables(SHOP, text="one")["text"].sha256 == first.sha256
    assert store.load_tables(SHOP, text=first.meta["key"][:8])["text"].sha256 == first.sha256
    sharded(tmp_path, VALUES, 3, SHOP, "one")  # finished already, but asked for last
    assert store.load_tables(SHOP)["text"].sha256 == first.sha256
    with pytest.raises(FeatureError, match="'two'"):
        store.load_tables(SHOP, text="tow")
    assert [row["extractor"] for row in store.status(SHOP)] == ["one", "two"]


def test_features_of_other_content_are_not_served(tmp_path: Path) -> None:
    data = SHOP.with_content(text=Content("text", list("abcdefg")))
    sharded(tmp_path, VALUES, 3, data)
    assert list(FeatureStore(tmp_path).load_tables(data)) == ["text"]
    changed = SHOP.with_content(text=Content("text", list("abcdefX")))
    with pytest.raises(FeatureError, match="shop"):
        FeatureStore(tmp_path).load_tables(changed)


@pytest.mark.parametrize("file", ["shard-00001.npy", "manifest.json"])
@pytest.mark.parametrize("at", [-3, 140, 20])
def test_a_flipped_bit_is_found_and_never_served(tmp_path: Path, file: str, at: int) -> None:
    table = sharded(tmp_path, VALUES, 3, SHOP)
    folder = tmp_path / "text" / table.meta["key"]
    flip(folder / file, at)
    store = FeatureStore(tmp_path)
    assert any(file in problem for problem in store.verify())
    with pytest.raises(FeatureError, match=file):
        store.load_tables(SHOP)


def test_verify_finds_what_is_truncated_missing_foreign_or_unfinished(tmp_path: Path) -> None:
    def problems(root: str, spoil: str) -> str:
        folder = tmp_path / root / "text" / sharded(tmp_path / root, VALUES, 3, SHOP).meta["key"]
        match spoil:
            case "truncated":
                path = folder / "shard-00002.npy"
                path.write_bytes(path.read_bytes()[:-1])
            case "missing":
                (folder / "shard-00000.npy").unlink()
            case "sidecar":
                flip(folder / "shard-00000.json", 60)
            case "foreign":
                (folder / "notes.txt").write_text("x")
            case "temporary":
                (folder / ".shard-00000.npy.999999999-ab.tmp").write_bytes(b"x")
            case "manifest":
                (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:100])
            case "unfinished":
                (folder / "manifest.json").unlink()
            case "moved":
                folder.rename(folder.with_name("0" * 32))
        found = FeatureStore(tmp_path / root).verify()
        assert len(found) == (0 if spoil == "none" else 1), found
        if spoil in ("truncated", "missing", "manifest", "unfinished"):
            with pytest.raises(FeatureError):
                FeatureStore(tmp_path / root).load_tables(SHOP, text="own")
        return " ".join(found)

    assert problems("a", "none") == ""
    assert "shard-00002.npy: 139 bytes; expected 140" in problems("b", "truncated")
    assert "shard-00000.npy: " in problems("c", "missing")
    assert "shard-00000.json" in problems("d", "sidecar")
    assert "notes.txt: " in problems("e", "foreign")
    assert ".tmp" in problems("f", "temporary")
    assert "manifest.json: " in problems("g", "manifest")
    assert "manifest.json" in problems("h", "unfinished")
    assert f"{'0' * 32}/manifest.json" in problems("i", "moved")


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "text" / sharded(tmp_path, VALUES, 3, SHOP).meta["key"]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["extractor"]["name"] = "better"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FeatureError, match="json"):
        FeatureStore(tmp_path).load_tables(SHOP)


def test_gc_takes_the_unfinished_and_the_superseded_alone(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    old = store.save(SHOP, "image", FeatureTable.from_array(VALUES, SHOP, "image", name="a.npy")).folder
    new = store.save(SHOP, "image", FeatureTable.from_array(VALUES * 2, SHOP, "image", name="a.npy")).folder
    other = store.save(SHOP, "image", FeatureTable.from_array(VALUES, SHOP, "image", name="b.npy")).folder
    folder = tmp_path / "text" / sharded(tmp_path, VALUES, 3, SHOP).meta["key"]
    (folder / "manifest.json").unlink()
    left = folder / ".x.npy.999999999-ab.tmp"
    left.write_bytes(b"x")
    stray = new / ".x.npy.999999999-ab.tmp"
    stray.write_bytes(b"x")
    assert set(store.gc(dry_run=True)) == {old, folder, stray}
    assert old.exists()
    assert left.exists()
    with table_lock(folder):
        assert set(store.gc()) == {old, stray}, "a table being written is left alone"
        assert left.exists()
    assert store.gc() == [folder]
    assert {t.folder for t in store.tables()} == {new, other}
    assert store.gc(keep={new.name}) == [other]
    assert store.verify() == []


def test_a_field_cannot_leave_the_store(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"'.*'"):
        FeatureStore(tmp_path).folder("../x", "k")
