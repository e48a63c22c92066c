"""New items from their texts and pictures: the recommender keeps the extractors of the model's features."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction import WORDS, Hashing, catalog, flip, texts
from PIL import Image

from graphrec.core.errors import CheckpointError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset
from graphrec.features import FeatureStore, FeatureTable, fitted, shards
from graphrec.features.extract import extract, extraction
from graphrec.features.extract.offline import HogHsv, TfidfSvd
from graphrec.models.itemknn_content import ItemKNNContent
from graphrec.serving import Recommender

SAME = {"rtol": 0, "atol": 1e-6}
N = 60


def picture(seed: int) -> bytes:
    """A PNG of random blocks of color."""
    blocks = numpy_rng(seed, "test/picture").integers(0, 256, (6, 6, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((48, 48), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, FeatureStore, dict[str, FeatureTable]]:
    root = tmp_path_factory.mktemp("shop")
    for i in range(N):
        (root / f"{i}.png").write_bytes(picture(i))
    pictures = Content("image", [f"{i}.png" for i in range(N)], root)
    data = catalog([f"i{i}" for i in range(N)], text=Content("text", texts(N)), image=pictures)
    store = FeatureStore(root / "store")
    extract(data, "text", TfidfSvd(16, characters=(2, 3)), store)
    extract(data, "image", HogHsv(48), store)
    return data, store, store.load_tables(data)


@pytest.fixture(scope="module")
def saved(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, _, tables = shop
    model = ItemKNNContent.build(data, tables)
    return Recommender.from_model(model, data, tables).save(tmp_path_factory.mktemp("saved"))


def test_new_vectors_are_those_of_the_table(shop: Any, saved: Path, tmp_path: Path) -> None:
    data, _, tables = shop
    rec = Recommender.load(saved)
    rows = [3, 0, 41]
    file = tmp_path / "own.png"
    file.write_bytes(picture(41))
    content = {
        "text": [data.content["text"][3], None, data.content["text"][41]],
        "image": [picture(3), picture(0), file],
    }
    found = rec.encode_content(["a", "b", "c"], content)
    np.testing.assert_allclose(found["image"], tables["image"].take(rows), **SAME)
    np.testing.assert_allclose(found["text"][[0, 2]], tables["text"].take([3, 41]), **SAME)
    assert np.isnan(found["text"][1]).all()
    rec.add_items(["a", "b", "c"], content=content)
    assert rec.similar_items("a", 1)[0].tolist() == ["i3"]
    given = Recommender.load(saved).add_items(["a"], {m: t.take([3]) for m, t in tables.items()})
    np.testing.assert_allclose(rec.item_vectors[[N]].toarray(), given.item_vectors[[N]].toarray(), **SAME)
    again = Recommender.load(rec.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.encode_content(["d"], {"text": ["red lamp"]})["text"].shape, (1, 16))


def test_one_new_item_encodes_one_item(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def counting(self: TfidfSvd, batch: list[str], encode: Any = TfidfSvd.encode) -> np.ndarray:
        encoded.extend(batch)
        return np.asarray(encode(self, batch))

    monkeypatch.setattr(TfidfSvd, "encode", counting)
    monkeypatch.setattr(TfidfSvd, "fit", lambda *_: pytest.fail("fitted again"))
    Recommender.load(saved).add_items(["new"], content={"text": ["a red garden chair"]})
    assert encoded == ["a red garden chair"]


def test_mistakes_name_modality_and_item(saved: Path, tmp_path: Path) -> None:
    rec = Recommender.load(saved)
    known = len(rec.items)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"text": ["red"] * 2}, ["'text'", "2", "1"]),
        ({"text": "red"}, ["'text'", "one value"]),
        ({"text": [b"red"]}, ["'text'", "'new'", "bytes"]),
        ({"text": ["zzz qqq"]}, ["'text'", "'new'", "vocabulary"]),
        ({"image": [b"no picture"]}, ["'image'", "'new'", "not a picture"]),
        ({"image": [b""]}, ["'image'", "'new'", "empty"]),
        ({"image": [tmp_path / "gone.png"]}, ["'image'", "'new'", "gone.png"]),
        ({"image": [tmp_path]}, ["'image'", "'new'", "directory"]),
        ({"image": [7]}, ["'image'", "'new'", "int"]),
        ({"imgae": [picture(0)]}, ["'imgae'", "'image'"]),
        ({"text": [None], "image": None}, ["'new'", "no content"]),
    ]
    for content, facts in cases:
        with pytest.raises(FeatureError) as refused:
            rec.add_items(["new"], content=content)
        assert all(fact in str(refused.value) for fact in facts), (content, refused.value)
    with pytest.raises(FeatureError, match="'text'"):
        rec.add_items(["new"], {"text": np.ones((1, 16))}, content={"text": ["red"]})
    with pytest.raises(FeatureError, match=r"48 x 48 .* 1,000"):
        rec.encode_content(["new"], {"image": [picture(0)]}, max_pixels=1000)
    assert len(rec.items) == known


def test_a_recommender_without_extractors_says_so(shop: Any, saved: Path, tmp_path: Path) -> None:
    data, _, tables = shop
    rec = Recommender.load(saved)
    rec.extractors = {}
    old = Recommender.load(rec.save(tmp_path / "old"))
    assert "extractors" not in json.loads((tmp_path / "old/recommender.json").read_text())["head"]
    imported = {m: FeatureTable.from_array(t.numpy(), data, m) for m, t in tables.items()}
    for without in (old, Recommender.from_model(ItemKNNContent.build(data, imported), data, imported)):
        with pytest.raises(FeatureError, match="no extractor of 'text'"):
            without.add_items(["new"], content={"text": ["red"]})
        without.add_items(["new"], {"text": tables["text"].take([0])})


def test_another_extractor_than_the_recorded_one_is_refused(saved: Path) -> None:
    for change, fact in (({"side": 60}, "resize"), ({"side": 7}, "side 7"), ({"name": "openai"}, "server")):
        rec = Recommender.load(saved)
        kept = rec.extractors["image"]
        described = {**kept.describe, "resize": "otherwise", **change}
        rec.extractors["image"] = type(kept)(described, kept.kind, kept.fitted)
        with pytest.raises(FeatureError, match=fact):
            rec.add_items(["new"], content={"image": [picture(0)]})


def test_damage_to_what_the_extractor_learned_is_found(shop: Any, saved: Path, tmp_path: Path) -> None:
    rec = Recommender.load(saved)
    place = rec.save(tmp_path / "copy")
    flip(next(place.glob("extractor_text_axes-*.npy")), 200)
    with pytest.raises(CheckpointError, match="extractor_text_axes"):
        Recommender.load(place)


def test_what_was_learned_is_kept_with_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path)
    data = catalog([f"i{i}" for i in range(N)], text=Content("text", texts(N)))
    made = TfidfSvd(8)
    table = extract(data, "text", made, store)
    assert table.folder is not None
    assert store.verify() == []
    extra = {p.name for p in table.folder.iterdir()} - {shards.MANIFEST, shards.LOCK, *shards.shard_names(0)}
    assert {name.partition("-")[0] for name in extra} == {"fitted.json", "axes", "terms_0", "weights_0"}
    axes = next(table.folder.glob("axes-*.npy"))
    flip(axes, 200)
    assert [line.split(":")[0] for line in store.verify()] == [str(axes)]
    with pytest.raises(FeatureError, match="axes-"):
        Recommender.from_model(ItemKNNContent.build(data, {"text": table}), data, {"text": table})

    # A table of before has none; building again adds it and encodes nothing.
    (table.folder / "fitted.json").unlink()
    axes.unlink()
    old = store.load_tables(data)
    rec = Recommender.from_model(ItemKNNContent.build(data, old), data, old)
    with pytest.raises(FeatureError, match="features build"):
        rec.add_items(["new"], content={"text": ["red lamp"]})
    monkeypatch.setattr(extraction, "encode_shard", lambda *_: pytest.fail("encoded again"))
    again = extract(data, "text", TfidfSvd(8), store)
    assert again.sha256 == table.sha256
    rec = Recommender.from_model(ItemKNNContent.build(data, {"text": again}), data, {"text": again})
    row = rec.encode_content(["new"], {"text": [data.content["text"][5]]})["text"]
    np.testing.assert_allclose(row, table.take([5]), **SAME)


def test_what_was_learned_from_other_texts_is_not_used(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    before = catalog([f"i{i}" for i in range(N)], text=Content("text", texts(N)))
    after = catalog([f"i{i}" for i in range(N)], text=Content("text", texts(N, changed=3)))
    old = extract(before, "text", TfidfSvd(8), store)
    table = extract(after, "text", TfidfSvd(8), store)
    rec = Recommender.from_model(ItemKNNContent.build(after, {"text": table}), after, {"text": table})
    row = rec.encode_content(["new"], {"text": [after.content["text"][5]]})["text"]
    np.testing.assert_allclose(row, table.take([5]), **SAME)
    assert old.folder == table.folder is not None
    assert fitted.read_fitted(table.folder, table.meta["content"])
    assert fitted.read_fitted(table.folder, old.meta["content"]) is None


def test_an_extractor_of_ones_own_is_not_kept(tmp_path: Path) -> None:
    data = catalog([f"i{i}" for i in range(N)], text=Content("text", texts(N)))
    table = extract(data, "text", Hashing(), FeatureStore(tmp_path))
    rec = Recommender.from_model(ItemKNNContent.build(data, {"text": table}), data, {"text": table})
    with pytest.raises(FeatureError, match="no extractor of 'text'"):
        rec.add_items(["new"], content={"text": [WORDS[0]]})
