"""Content of any name and number: four modalities from content to new items, and by the command line."""

from __future__ import annotations

import wave
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from graphrec import Content, Dataset, FeatureStore, Recommender, TrainConfig, Trainer, evaluate
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.features.extract import EXTRACTORS, extract, extractor
from graphrec.models import (
    BM3,
    COHESION,
    DAMRS,
    DRAGON,
    FREEDOM,
    LATTICE,
    MENTOR,
    MGCN,
    MICRO,
    MMSSL,
    PGL,
    SMORE,
    VBPR,
    AlphaRec,
    DiffMM,
    DualGNN,
    ItemKNNContent,
    LGMRec,
    LLMRec,
    ZeroShot,
)
from graphrec.runs import features_for
from graphrec.testing import communities

MODELS = {
    "vbpr": VBPR, "freedom": FREEDOM, "bm3": BM3, "lattice": LATTICE, "itemknn-content": ItemKNNContent,
    "alpharec": AlphaRec, "zero-shot": ZeroShot, "pgl": PGL, "mgcn": MGCN, "smore": SMORE,
    "dualgnn": DualGNN, "dragon": DRAGON, "cohesion": COHESION, "mentor": MENTOR, "lgmrec": LGMRec,
    "micro": MICRO, "damrs": DAMRS, "diffmm": DiffMM, "mmssl": MMSSL,
}  # fmt: skip
MODALITIES = ("audio", "image", "prices", "text")


class Loudness:
    """Loudness of a wave file in eight parts."""

    name, kind, dim = "loudness", "audio", 8

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def describe(self):
        return {"name": self.name, "scale": self.scale}

    def encode(self, batch):
        samples = [np.frombuffer(sound[44:], "<i2").astype(np.float32) for sound in batch]
        return np.stack([self.scale * np.abs(x.reshape(8, -1)).mean(1) / 1000 for x in samples])


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Dataset:
    """Communities whose items have pictures, texts and sounds; the last three nobody has taken."""
    monkeypatch.setitem(EXTRACTORS, "loudness", "test_modalities:Loudness")
    made, _ = communities(3, 12)
    n, rng = made.n_items, numpy_rng(0, "test/modalities")
    cold = np.arange(n) >= n - 3
    kept = ~cold[made.train.items]
    groups = np.arange(n) % 3
    words = ["red wool warm", "steel blade sharp", "green leaf fresh"]
    pictures, sounds = tmp_path / "pictures", tmp_path / "sounds"
    pictures.mkdir()
    sounds.mkdir()
    for i in range(n):
        color = tuple(int(v) for v in np.eye(3)[groups[i]] * 200 + rng.integers(0, 50, 3))
        Image.new("RGB", (24, 24), color).save(pictures / f"{i}.png")
        with wave.open(str(sounds / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            loud = np.where(np.arange(800) // 100 % 3 == groups[i], 9000, 500) * rng.normal(size=800)
            file.writeframes(loud.clip(-32000, 32000).astype("<i2").tobytes())
    content = {
        "image": Content("image", [f"{i}.png" for i in range(n)], pictures),
        "text": Content("text", [f"{words[groups[i]]} number {i}" for i in range(n)]),
        "audio": Content("audio", [None if i == 4 else f"{i}.wav" for i in range(n)], sounds),
    }
    held = np.flatnonzero(kept)[::9]
    mask = np.zeros(len(made.train), dtype=bool)
    mask[held] = True
    train, valid = made.train.where(kept & ~mask, "train"), made.train.where(mask & kept, "valid")
    test = made.test.where(~cold[made.test.items])
    return replace(made, train=train, valid=valid, test=test).with_content(**content)


@pytest.fixture
def store(shop, tmp_path) -> FeatureStore:
    """Features of the four modalities, one of them imported vectors."""
    store = FeatureStore(tmp_path / "cache")
    extract(shop, "image", extractor("hog-hsv"), store)
    extract(shop, "text", extractor("tfidf-svd", size=4), store)
    extract(shop, "audio", extractor("loudness"), store)
    prices = (
        numpy_rng(0, "test/prices").normal(size=(shop.n_items, 2))
        + np.eye(3)[:, :2][np.arange(shop.n_items) % 3]
    )
    store.save(shop, "prices", FeatureTable.from_array(prices, shop, "prices"))
    return store


def trained(model_class, shop, tables, **options):
    config = model_class.Config(**options)
    training = TrainConfig(epochs=4, batch_size=64, learning_rate=0.01, device="cpu", progress=False)
    return Trainer(training).fit(model_class.build(shop, tables, config)).model


@pytest.mark.parametrize("name", MODELS)
def test_four_modalities_from_content_to_new_items(shop, store, tmp_path, name: str) -> None:
    tables = features_for(name, shop, store)
    assert tuple(sorted(tables)) == MODALITIES
    assert not tables["audio"].present[4]
    model = trained(MODELS[name], shop, tables)
    report = evaluate(model, shop.test, seen=shop.train + shop.valid)
    assert np.isfinite(list(report.mean().values())).all()
    Recommender.from_model(model, shop, tables).save(tmp_path / "rec")
    recommender = Recommender.load(tmp_path / "rec")
    widths = {m: tables[m].dim for m in MODALITIES}
    assert recommender.modalities == widths
    # A new item with the content of a cold one is placed where the cold one is; one without sound, too.
    vectors = {m: tables[m].numpy()[[-1, -1]] for m in MODALITIES}
    vectors["audio"] = vectors["audio"].copy()
    vectors["audio"][1] = np.nan
    recommender.add_items(["new", "mute"], vectors)
    placed = recommender.item_vectors[[shop.n_items - 1, shop.n_items, shop.n_items + 1]]
    placed = placed if isinstance(placed, np.ndarray) else placed.toarray()
    assert np.allclose(placed[0], placed[1], atol=1e-4)
    assert not np.allclose(placed[0], placed[2], atol=1e-4)
    assert "new" in recommender.recommend(shop.users[2], recommender.n_items)[0]


def test_llmrec_takes_channels_of_any_name(shop, store) -> None:
    tables = features_for("llmrec", shop, store)
    assert tuple(sorted(tables)) == MODALITIES
    model = LLMRec.build(shop, tables)
    assert sorted(model.content) == list(MODALITIES)
    report = evaluate(model, shop.test, seen=shop.train + shop.valid)
    assert np.isfinite(list(report.mean().values())).all()


@pytest.mark.parametrize("model_class", [FREEDOM, ItemKNNContent])
def test_weights_by_name(shop, store, model_class) -> None:
    tables = features_for("freedom", shop, store)
    weights = {"audio": 1, "image": 1, "prices": 2, "text": 4}
    model = model_class.build(shop, tables, model_class.Config(modality_weights=weights))
    assert model.cold_start_rule.weights == {m: w / 8 for m, w in weights.items()}
    default = model_class.build(shop, tables, model_class.Config(image_weight=0.1))
    assert default.cold_start_rule.weights == {
        "image": 0.1,
        **dict.fromkeys(("audio", "prices", "text"), 0.3),
    }
    two = {m: tables[m] for m in ("image", "text")}
    short = model_class.build(shop, two, model_class.Config(image_weight=0.25))
    long = model_class.build(shop, two, model_class.Config(modality_weights={"image": 0.25, "text": 0.75}))
    users = np.arange(shop.n_users)
    assert np.array_equal(short.score(users).detach(), long.score(users).detach())
    for wrong in ({"image": 1.0}, {**weights, "smell": 1.0}, dict.fromkeys(weights, 0.0)):
        with pytest.raises(ConfigError, match="modality_weights"):
            model_class.build(shop, tables, model_class.Config(modality_weights=wrong))
    with pytest.raises(ConfigError, match="modality_weights"):
        model_class.Config(modality_weights={"image": -1.0})


def test_which_features_a_model_gets(shop, store) -> None:
    assert set(features_for("freedom", shop, store, {"audio": "none", "prices": "none"})) == {"image", "text"}
    assert set(features_for("freedom", shop, store, {"image": "none", "text": "none"})) == {"audio", "prices"}
    assert set(features_for("freedom", shop, store, {"audio": "loudness"}, image="none")) == {
        "audio", "prices", "text",
    }  # fmt: skip
    with pytest.raises(Exception, match="smell"):
        features_for("freedom", shop, store, {"smell": "nose"})


def test_content_of_files_of_any_kind(shop, tmp_path) -> None:
    assert shop.content["audio"].path(0).name == "0.wav"
    assert shop.content["audio"].path(4) is None
    shop.save(tmp_path / "saved")
    again = Dataset.load(tmp_path / "saved")
    assert again.content["audio"].kind == "audio"
    assert again.content["audio"].path(0) == shop.content["audio"].path(0)
    with pytest.raises(DataError, match="'a b'"):
        Content("a b", ["x"])
    with pytest.raises(DataError, match="text"):
        shop.content["text"].path(0)


def test_by_the_command_line(shop, tmp_path, graphrec) -> None:
    scents = Content("scent", ["rose.bin"] * shop.n_items, tmp_path)
    shop.with_content(scent=scents).save(tmp_path / "scented")
    store = ("--store", tmp_path / "cache")
    text = ("--image", "none", "--modality", "audio=none")
    first = graphrec("features", "build", tmp_path / "scented", "--store", tmp_path / "scents", *text)
    assert first.code == 0, first.err
    assert "--modality scent=" in first.err, "there is no default extractor for scents"
    shop.save(tmp_path / "shop")
    built = graphrec(
        "features",
        "build",
        tmp_path / "shop",
        *store,
        "--modality",
        "audio=loudness",
        "--set",
        "audio.scale=2.0",
    )
    assert built.code == 0, built.err
    assert "loudness" in graphrec("features", "status", tmp_path / "shop", *store).out
    np.save(tmp_path / "prices.npy", np.arange(2.0 * shop.n_items).reshape(-1, 2))
    graphrec("features", "import", tmp_path / "shop", "prices", tmp_path / "prices.npy", *store)
    options = ("--set", "train.epochs=2", "--select", "none", "--set", "model.dim=8")
    weights = '{"audio": 2, "image": 1, "text": 1}'
    out = tmp_path / "run"
    answer = graphrec(
        "train", "freedom", tmp_path / "shop", *store, *options, "--out", out, "--modality", "prices=none",
        "--modality", "audio=loudness", "--set", f"model.modality_weights={weights}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert Recommender.load(out / "recommender").modalities.keys() == {"audio", "image", "text"}
    evaluated = graphrec("evaluate", out)
    assert evaluated.code == 0, evaluated.err
    for wrong, fact in (
        (["--modality", "audio"], "FIELD=CHOICE"),
        (["--image", "none", "--modality", "image=none"], "twice"),
    ):
        refused = graphrec("train", "freedom", tmp_path / "shop", *store, *wrong)
        assert refused.code == 2
        assert fact in refused.err


def test_fields_that_no_model_takes_are_named(shop, store, tmp_path, capsys, graphrec) -> None:
    assert set(features_for("lightgcn", shop, store, {"audio": "loudness"})) == set()
    assert "lightgcn takes no features of 'audio'" in capsys.readouterr().err
    features_for("freedom", shop, store)
    assert "'audio'" not in capsys.readouterr().err, "a content field of the dataset"
    saved = shop.save(tmp_path / "saved")
    np.save(tmp_path / "vectors.npy", np.ones((shop.n_items, 4), dtype=np.float32))
    for field, named in (("vidoe", True), ("video", False)):
        answer = graphrec(
            "features",
            "import",
            str(saved),
            field,
            str(tmp_path / "vectors.npy"),
            "--store",
            str(tmp_path / "c"),
        )
        assert answer.code == 0, answer.err
        assert ("'vidoe'" in answer.err and "'video'" in answer.err) is named
    store.save(shop, "vidoe", FeatureTable.from_array(np.ones((shop.n_items, 4)), shop, "vidoe"))
    assert "vidoe" in features_for("freedom", shop, store)
    assert "Did you mean 'video'" in capsys.readouterr().err
    features_for("freedom", shop, store, {"vidoe": "none"})
    assert "vidoe" not in capsys.readouterr().err
