"""Extraction: resumed and repaired runs give the same bytes, and nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from extraction import Hashing, files, flip, shop, texts

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.features import FeatureStore, extract as features
from graphrec.features.extract.extraction import extract


def test_nothing_is_made_twice_and_rebuild_makes_it_again(tmp_path: Path) -> None:
    store, first, second = FeatureStore(tmp_path), Hashing(), Hashing()
    table = extract(shop(texts(50)), "text", first, store, shard_size=8)
    before = files(tmp_path)
    extract(shop(texts(50)), "text", second, store, shard_size=8)
    assert second.seen == []
    assert extract(shop(texts(50)), "text", second, store, shard_size=8, rebuild=True).sha256 == table.sha256
    assert len(second.seen) == 50
    assert files(tmp_path) == before


def test_a_changed_text_rebuilds_its_shard_alone(tmp_path: Path) -> None:
    store, again = FeatureStore(tmp_path), Hashing()
    before = extract(shop(texts(50)), "text", Hashing(), store, shard_size=8).numpy()
    changed = shop(texts(50, changed=20))
    table = extract(changed, "text", again, store, shard_size=8)
    assert again.seen == list(changed.content["text"].values[16:24])
    assert np.flatnonzero((table.numpy() != before).any(axis=1)).tolist() == [20]
    assert len(store.tables()) == 1


@pytest.mark.parametrize("name", ["shard-00003.npy", "shard-00003.json", "manifest.json"])
def test_damage_is_repaired_by_extracting_again(tmp_path: Path, name: str) -> None:
    store, again = FeatureStore(tmp_path), Hashing()
    extract(shop(texts(50)), "text", Hashing(), store, shard_size=8)
    before = files(tmp_path)
    flip(next(tmp_path.rglob(name)), 135)
    assert store.verify()
    extract(shop(texts(50)), "text", again, store, shard_size=8)
    assert len(again.seen) == (0 if name == "manifest.json" else 8)
    assert files(tmp_path) == before


def test_a_rebuild_that_breaks_off_is_no_table_until_it_is_done(tmp_path: Path) -> None:
    class Failing(Hashing):
        def encode(self, batch: list[str]) -> np.ndarray:
            if len(self.seen) >= 16:
                raise KeyboardInterrupt
            return super().encode(batch)

    store, rest = FeatureStore(tmp_path), Hashing()
    old = extract(shop(texts(50)), "text", Hashing(), store, shard_size=8)
    other = shop([f"other {i}" for i in range(50)])
    with pytest.raises(KeyboardInterrupt):
        extract(other, "text", Failing(), store, shard_size=8)
    assert store.tables() == [], "two new shards and five old ones are no table"
    new = extract(other, "text", rest, store, shard_size=8)
    assert len(rest.seen) == 50 - 16
    assert new.sha256 != old.sha256
    assert store.verify() == []


def test_another_shard_size_leaves_no_old_shards(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    one = extract(shop(texts(50)), "text", Hashing(), store, shard_size=8)
    two = extract(shop(texts(50)), "text", Hashing(), store, shard_size=30)
    assert one.sha256 == two.sha256
    assert len(list(tmp_path.rglob("shard-*.npy"))) == 2
    assert store.verify() == []


def test_missing_texts_are_neither_bad_nor_silent_zeros(tmp_path: Path) -> None:
    values = [None if i % 2 else text for i, text in enumerate(texts(20))]
    table = extract(shop(values), "text", Hashing(), FeatureStore(tmp_path), shard_size=8, max_bad=0)
    assert table.present.tolist() == [i % 2 == 0 for i in range(20)]
    assert table.meta["unreadable"] == {"count": 0, "reasons": {}}
    with pytest.raises(FeatureError, match="'text'"):
        extract(shop([None, " "]), "text", Hashing(), FeatureStore(tmp_path))


def test_extractors_that_misbehave_are_refused(tmp_path: Path) -> None:
    class Nan(Hashing):
        def encode(self, batch: list[str]) -> np.ndarray:
            return np.where([[t.endswith("n11")] for t in batch], np.nan, super().encode(batch))

    class Wide(Hashing):
        def encode(self, batch: list[str]) -> np.ndarray:
            return np.ones((len(batch), 9))

    class Half(Hashing):
        dtype = "float16"

        def encode(self, batch: list[str]) -> np.ndarray:
            return np.full((len(batch), 8), 1e6)

    class Fixed(Hashing):
        batch_size = 4

    store = FeatureStore(tmp_path)
    with pytest.raises(FeatureError, match=r"'i11' \(row 11\)"):
        extract(shop(texts(20)), "text", Nan(), store)
    with pytest.raises(FeatureError, match=r"\(20, 9\).*\(20, 8\)"):
        extract(shop(texts(20)), "text", Wide(), store)
    with pytest.raises(FeatureError, match="float16"):
        extract(shop(texts(20)), "text", Half(), store)
    with pytest.raises(ConfigError, match="batch_size=8"):
        extract(shop(texts(20)), "text", Fixed(), store, batch_size=8)
    with pytest.raises(FeatureError, match=r"text.*'hog-hsv'.*image"):
        extract(shop(texts(20)), "text", features.extractor("hog-hsv"), store)


def test_a_table_opened_before_never_turns_into_another(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    old = extract(shop(texts(50)), "text", Hashing(), store, shard_size=8)
    first = old.take([0])
    extract(shop([f"other {i}" for i in range(50)]), "text", Hashing(), store, shard_size=8)
    assert np.array_equal(old.take([0]), first), "what is mapped stays mapped"
    with pytest.raises(FeatureError, match=r"shard-\d+\.npy"):
        old.take([49])
