"""Readers: small files written here in every layout, and the published datasets where they are at hand."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from layouts import ALL_TRAIN, texts, write

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Dataset
from graphrec.data.readers import FEATURES, FORMATS, READERS, load_dataset, load_features, reader_options

DATA = os.environ.get("GRAPHREC_DATA")
real = pytest.mark.skipif(not DATA, reason="needs the published datasets; set GRAPHREC_DATA to their folder")

INTER = "userID\titemID\tx_label\n0\t0\t0\n0\t1\t1\n0\t2\t2\n1\t0\t0\n1\t2\t0\n"


# -- registry ------------------------------------------------------------------------------------------------


def test_every_registered_reader_imports_and_lists_its_options():
    for name in READERS:
        assert isinstance(reader_options(name), dict)
    assert set(FEATURES) <= set(READERS)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("amazon-bby", {}, "Did you mean 'amazon-baby'"),
        ("gowalla", {"valid_shar": 0}, "Did you mean 'valid_share'"),
        ("amazon-baby", {"seed": 0}, "'seed'"),
        ("movielens-small", {"min_rating": "much"}, "option min_rating='much'"),
        ("movielens-small", {"k_core": [5, 5, 5]}, "option k_core="),
    ],
)
def test_wrong_names_and_options(tmp_path, name, options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_dataset(name, tmp_path, **options)


@pytest.mark.parametrize("name", sorted(set(READERS) - FORMATS))
def test_a_missing_file_is_named_with_its_source(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}.*https://"):
        load_dataset(name, tmp_path)


def test_the_root_may_hold_the_dataset_or_be_it(tmp_path, monkeypatch):
    np.savez(tmp_path / "g.npz", train=[[0, 0], [1, 1]], test=[[0, 1]])
    (tmp_path / "gowalla").mkdir()
    (tmp_path / "g.npz").rename(tmp_path / "gowalla" / "gowalla_lightgcn_split.npz")
    above = load_dataset("gowalla", tmp_path)
    assert above == load_dataset("gowalla", tmp_path / "gowalla")
    (tmp_path / "gowalla").rename(tmp_path / "elsewhere")
    assert above == load_dataset("gowalla", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "gowalla")
    monkeypatch.setenv("GRAPHREC_DATA", str(tmp_path))
    assert above == load_dataset("gowalla")


def test_a_saved_dataset_is_loaded_by_its_path(tmp_path):
    data = Dataset.from_frame({"user": [1, 2], "item": [1, 2]}, split=ALL_TRAIN)
    data.save(tmp_path / "mine")
    assert load_dataset(tmp_path / "mine") == data
    assert load_dataset("mine", tmp_path) == data
    with pytest.raises(ConfigError, match="takes no options"):
        load_dataset(tmp_path / "mine", seed=1)


# -- .inter layouts ------------------------------------------------------------------------------------------

BABY = {
    "baby.inter": INTER,
    # Rows out of order: the index column decides, not the row.
    "i_id_mapping.csv": "asin\titemID\nB2\t2\n007\t0\nB1\t1\n",
    "u_id_mapping.csv": "user_id\tuserID\nUB\t1\nUA\t0\n",
    "item_text_partial.jsonl": '{"itemID": 2, "title": "Mum &amp; Co", "description": null}\n'
    '{"itemID": 0, "title": "Cup", "description": "Holds 0.2 l!"}\n',
}


def test_amazon_keeps_index_order_splits_and_text(tmp_path):
    folder = write(tmp_path / "amazon-baby", BABY)
    data = load_dataset("amazon-baby", tmp_path)
    assert (data.users.ids, data.items.ids) == (("UA", "UB"), ("007", "B1", "B2"))
    for split, pairs in (("train", [(0, 0), (1, 0), (1, 2)]), ("valid", [(0, 1)]), ("test", [(0, 2)])):
        part = getattr(data, split)
        assert list(zip(part.users.tolist(), part.items.tolist(), strict=True)) == pairs
    assert data.content["text"].values == ("Cup. Holds 0.2 l!", None, "Mum & Co.")
    assert data.meta["reader"] == "amazon-baby"
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(folder / "image_feat.npy", vectors)
    ready = load_features("amazon-baby", tmp_path)
    assert list(ready) == ["image"]
    assert ready["image"].ids == data.items.ids
    assert np.array_equal(ready["image"].values, vectors)
    np.save(folder / "image_feat.npy", vectors[:2])
    with pytest.raises(DataError, match=r"\(2, 2\).*\(3, d\)"):
        load_features("amazon-baby", tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("i_id_mapping.csv", "asin\titemID\nA\t0\nB\t2\nC\t3\n", "row 4"),
        ("i_id_mapping.csv", "asin\titemID\nA\t0\nB\t1\n", "row 4: item '2'"),
        ("i_id_mapping.csv", "id\titemID\nA\t0\n", "'asin'"),
        ("i_id_mapping.csv", "asin\titemID\nA\t0\nA\t1\nB\t2\n", "row 3: asin 'A'"),
        ("baby.inter", INTER + "1\t1\t3\n", "row 7: x_label 3"),
        ("baby.inter", INTER + "1\tx\t0\n", "row 7: item 'x'"),
        ("baby.inter", INTER + "0\t0\t2\n", "train and test"),
        ("baby.inter", "userID\titemID\n0\t0\n", "x_label"),
        ("item_text_partial.jsonl", '{"itemID": 9, "title": "a", "description": ""}', "itemID 9"),
    ],
)
def test_damaged_amazon_files(tmp_path, file, text, words):
    write(tmp_path / "amazon-baby", {**BABY, file: text})
    with pytest.raises(DataError, match=re.escape(words)):
        load_dataset("amazon-baby", tmp_path)


def test_sports_joins_brand_and_categories(tmp_path):
    files = {
        "sports.inter": INTER,
        "i_id_mapping.csv": BABY["i_id_mapping.csv"],
        "u_id_mapping.csv": BABY["u_id_mapping.csv"],
        "item_attributes.jsonl": '{"itemID": 1, "brand_and_categories": ["Ghost", "Hunting & Fishing"]}',
    }
    write(tmp_path / "amazon-sports", files)
    assert texts(load_dataset("amazon-sports", tmp_path)) == {
        "007": None, "B1": "Ghost, Hunting & Fishing.", "B2": None,
    }  # fmt: skip


def test_scientific_keeps_repeats_in_the_earliest_split(tmp_path):
    rows = ["0 0 0 0", "0 1 1 0", "0 0 2 0", "0 2 3 1", "0 1 4 2", "1 2 0 0", "1 1 1 1", "1 1 2 2"]
    lines = "".join(row.replace(" ", "\t") + "\n" for row in rows)
    folder = write(
        tmp_path / "amazon-scientific",
        {
            "scientific.inter": "userID\titemID\ttimestamp\tx_label\n" + lines,
            "Scientific.user2index": "UA\t0\nUB\t1\n",
            "Scientific.item2index": "I0\t0\nI1\t1\nI2\t2\n",
            "Scientific.text": 'item_id:token\ttext:token_seq\nI2\t3" pipe, red. \nXX\tgone\nI0\tglue\n',
        },
    )
    data = load_dataset("amazon-scientific", tmp_path)
    assert [len(data.train), len(data.valid), len(data.test)] == [3, 2, 0]
    assert data.train.times.tolist() == [2, 1, 0]
    assert data.meta["repeated pairs dropped by split"] == {"train": 1, "valid": 0, "test": 2}
    assert texts(data) == {"I0": "glue", "I1": None, "I2": '3" pipe, red. '}
    np.save(folder / "text_feat.npy", np.ones((3, 4), np.float32))
    assert load_features("amazon-scientific", tmp_path)["text"].ids == ("I0", "I1", "I2")


def test_inter_with_typed_header_ratings_and_features(tmp_path):
    text = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t0\t5\t10\n7\t1\t1\t20\n8\t1\t4\t30\n"
    )
    write(tmp_path, {"shop.inter": text})
    data = load_dataset("inter", tmp_path, min_rating=4, split=ALL_TRAIN)
    assert (data.name, data.users.ids, data.items.ids) == ("shop", ("7", "8"), ("0", "1"))
    assert data.train.times.tolist() == [10, 30]
    with pytest.raises(DataError, match=r"image_feat\.npy"):
        load_features("inter", tmp_path)
    np.save(tmp_path / "text_feat.npy", np.eye(2))
    ready = load_features("inter", tmp_path)["text"]
    assert (ready.ids, ready.kind, ready.values.shape) == (("0", "1"), "text", (2, 2))
    write(tmp_path, {"other.inter": text})
    with pytest.raises(DataError, match=r"\.inter"):
        load_dataset("inter", tmp_path)
    assert load_dataset("inter", tmp_path, interactions="other.inter").name == "other"


def test_inter_splits_by_label_where_there_is_one(tmp_path):
    write(tmp_path, {"a.inter": INTER})
    data = load_dataset("inter", tmp_path)
    assert [len(data.train), len(data.valid), len(data.test)] == [3, 1, 1]
    write(tmp_path, {"a.inter": "userID\trating\n1\t2\n"})
    with pytest.raises(DataError, match="item"):
        load_dataset("inter", tmp_path)


# -- ratings with side tables --------------------------------------------------------------------------------


def test_movielens(tmp_path):
    header = "movieId,title,year,genres,director,overview,plot_keywords\n"
    write(
        tmp_path / "movielens-small",
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.0,5\n1,9,4.5,6\n2,10,5,7\n"
            "2,9,3.5,8\n3,8,2,9\n",
            "items.csv": header
            + '9,"American President, The (1995)",1995,Comedy|Drama,R. R.,"He said ""no"", twice.",a|b\n'
            + "10,Heat,1995,(no genres listed),,,\n"
            + "8,Unseen,1990,Drama,,,\n",
            "posters/9.JPG": b"x",
            "posters/99.jpg": b"x",
        },
    )
    data = load_dataset("movielens-small", tmp_path, k_core=1, split=ALL_TRAIN)
    assert (data.users.ids, data.items.ids, len(data.train)) == (("1", "2"), ("9", "10"), 3)
    assert texts(data) == {
        "9": 'American President, The (1995). Comedy, Drama. R. R. He said "no", twice. a, b.',
        "10": "Heat.",
    }
    assert data.content["image"].values == ("9.JPG", None)
    assert data.content["image"].path(0).is_file()
    short = load_dataset("movielens-small", tmp_path, k_core=1, split=ALL_TRAIN, text=["title", "year"])
    assert texts(short)["10"] == "Heat. 1995."
    with pytest.raises(DataError, match=r"items\.csv.*'plott'"):
        load_dataset("movielens-small", tmp_path, k_core=1, text=["plott"])


def test_xwines(tmp_path):
    columns = "WineID,WineName,Type,Grapes,Harmonize,Body,Acidity,Country,RegionName,WineryName\n"
    write(
        tmp_path / "xwines",
        {
            "XWines_Slim_150K_ratings.csv": "RatingID,UserID,WineID,Vintage,Rating,Date\n"
            "1,5,100,1950,4.5,2021-11-02 20:52:59\n2,5,101,N.V.,5.0,2021-11-03 00:00:00\n"
            "3,6,100,2000,1,2020-01-01 00:00:00\n",
            "XWines_Slim_1K_wines.csv": columns
            + '100,Rosso,Red,"[""Nero d\'Avola"", \'Merlot\']","[\'Beef\', \'Rich Fish\']",'
            "Full-bodied,High,Italy,Etna,Casa\n" + "101,Blanc,White,[],,,,,,\n",
            "images/100.jpeg": b"x",
        },
    )
    data = load_dataset("xwines", tmp_path, k_core=1, split=ALL_TRAIN)
    assert texts(data) == {
        "100": "Rosso. Red wine. Grapes: Nero d'Avola, Merlot. Goes with Beef, Rich Fish. Full-bodied. "
        "Acidity: High. Italy. Etna. Winery: Casa.",
        "101": "Blanc. White wine.",
    }
    assert data.content["image"].values == ("100.jpeg", None)
    assert data.train.times.tolist() == [1635886379, 1635897600]


def test_gowalla_carves_validation_out_of_train(tmp_path):
    train = np.array([(u, i) for u in range(3) for i in range(10)])
    np.savez(tmp_path / "gowalla_lightgcn_split.npz", train=train, test=np.array([[0, 11], [2, 10]]))
    data = load_dataset("gowalla", tmp_path, valid_share=0.2)
    assert [len(data.train), len(data.valid), len(data.test)] == [24, 6, 2]
    assert data.items.ids[11] == "11"
    assert data != load_dataset("gowalla", tmp_path, valid_share=0.2, seed=1)
    whole = load_dataset("gowalla", tmp_path, valid_share=0)
    assert [len(whole.train), len(whole.valid)] == [30, 0]
    write(tmp_path, {"gowalla_lightgcn_split.npz": b"PK\x03\x04 cut short"})
    with pytest.raises(DataError, match="train and test"):
        load_dataset("gowalla", tmp_path)


def published_arrays(**changes):
    """Arrays as in the files of SSLRec and RLMRec: 3 users, 4 items."""
    parts = {"train": [[0, 0], [0, 1], [1, 1], [2, 3]], "valid": [[1, 0]], "test": [[2, 0], [0, 2]]}
    arrays = {name: np.array(pairs, dtype=np.int32) for name, pairs in parts.items()}
    return {**arrays, "shape": np.array([3, 4]), "item_ids": np.array(["B1", "B0", "B2", "B9"]), **changes}


def test_published_splits_as_arrays(tmp_path):
    arrays = published_arrays()
    for name in ("sparse_yelp", "amazon_book", "yelp"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    data = load_dataset("sslrec-yelp", tmp_path)
    assert (data.n_users, data.n_items) == (3, 4)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [4, 1, 2]
    assert data.items.ids == ("0", "1", "2", "3")
    found = {name: load_dataset("rlmrec", tmp_path, catalog=name) for name in ("amazon-book", "yelp")}
    assert {name: data.name for name, data in found.items()} == {n: f"rlmrec-{n}" for n in found}
    assert found["yelp"].items.ids == ("B1", "B0", "B2", "B9")
    with pytest.raises(ConfigError) as refused:
        load_dataset("rlmrec", tmp_path, catalog="yelpp")
    assert "catalog" in str(refused.value)
    assert "amazon-book" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"test": np.array([[0, 1], [1, 4]])}, ["'test'", "row 1", "[1, 4]", "3 and 4"]),
        ({"valid": np.array([[0.5, 1]])}, ["'valid'", "(1, 2)", "float64"]),
        ({"shape": np.array([3])}, ["shape", "[3]"]),
        ({"shape": np.array([3, 0])}, ["shape", "[3, 0]"]),
        ({"item_ids": np.array(["B1", "B0"])}, ["item_ids", "(2,)", "4"]),
        ({"valid": np.array([[0, 0]])}, ["train", "valid"]),
    ],
)
def test_damaged_arrays_are_refused(tmp_path, changes, facts):
    np.savez(tmp_path / "yelp.npz", **published_arrays(**changes))
    with pytest.raises(DataError) as refused:
        load_dataset("rlmrec", tmp_path, catalog="yelp")
    for fact in facts:
        assert fact in str(refused.value)
    (tmp_path / "yelp.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError) as refused:
        load_dataset("rlmrec", tmp_path, catalog="yelp")
    assert "yelp.npz" in str(refused.value)


# -- the published datasets ----------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(
    ("name", "options", "shape", "splits", "content"),
    [
        ("amazon-baby", {}, (19_445, 7_050), (118_551, 20_559, 21_682), {"text": 3_416}),
        ("amazon-sports", {}, (35_598, 18_357), (218_409, 37_899, 40_029), {"text": 18_357}),
        ("amazon-scientific", {}, (2_928, 1_585), (13_763, 2_902, 2_903), {"text": 1_585}),
        ("movielens-small", {}, (601, 1_955), (32_891, 4_168, 4_168), {"text": 1_955, "image": 1_942}),
        ("gowalla", {"valid_share": 0}, (29_858, 40_981), (810_128, 0, 217_242), {}),
        ("sslrec-yelp", {}, (42_712, 26_822), (182_357, 13_025, 65_128), {}),
        ("rlmrec", {}, (11_000, 9_332), (120_464, 40_290, 40_106), {}),
        ("rlmrec", {"catalog": "yelp"}, (11_091, 11_010), (166_620, 55_479, 55_436), {}),
        ("xwines", {"min_rating": 1, "k_core": 0, "split": ALL_TRAIN}, (10_561, 1_007), (150_000, 0, 0),
         {"text": 1_007, "image": 100}),
    ],
)  # fmt: skip
def test_published_counts(name, options, shape, splits, content):
    data = load_dataset(name, DATA, **options)
    assert (data.n_users, data.n_items) == shape
    assert (len(data.train), len(data.valid), len(data.test)) == splits
    assert {field: c.n_present for field, c in data.content.items()} == content


@real
def test_scientific_vectors_match_their_items():
    data = load_dataset("amazon-scientific", DATA)
    ready = load_features("amazon-scientific", DATA)
    assert {f: r.values.shape for f, r in ready.items()} == {"image": (1585, 512), "text": (1585, 512)}
    assert ready["text"].ids == data.items.ids
    image, text = (np.asarray(ready[f].values) for f in ("image", "text"))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    matched, shifted = (image * text).sum(1).mean(), (image * np.roll(text, 1, axis=0)).sum(1).mean()
    assert matched > shifted + 0.05
    # Similar texts have similar vectors only if texts and vectors are in one order.
    first = np.array([t.split()[0] for t in data.content["text"]])
    same = first[:, None] == first[None]
    np.fill_diagonal(same, False)
    similarity = text @ text.T
    assert similarity[same].mean() > similarity[~same].mean() + 0.05
