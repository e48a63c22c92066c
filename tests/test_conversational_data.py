"""Readers of conversational datasets: SCPR's layout in all its variants, and raw HetRec 2011 Last.fm."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import texts, write

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Dataset
from graphrec.data.attributes import HAS, IN, KNOWS, LIKES
from graphrec.data.readers import load_dataset, scpr

DATA = os.environ.get("GRAPHREC_DATA")
real = pytest.mark.skipif(not DATA, reason="needs the published datasets; set GRAPHREC_DATA to their folder")

GRAPH, PAIRS, NAMES = "Graph_generate_data/", "UI_Interaction_data/review_dict_", "ID_map_info/"
USERS, ITEMS, TRAIN = GRAPH + "user_dict.json", GRAPH + "item_dict.json", GRAPH + "user_item_train.json"
MERGED, ORIGINAL = GRAPH + "merged_tag_map.json", GRAPH + "original_tag_map.json"
TAG_NAMES, ITEM_NAMES = NAMES + "tag_reverse_map.json", NAMES + "item_reverse_map.json"
FINE, COARSE = GRAPH + "second-layer_oringinal_tag_map.json", GRAPH + "first-layer_merged_tag_map.json"
TAXONOMY, YELP_ITEMS = GRAPH + "2-layer taxonomy.json", GRAPH + "item_dict-original_tag.json"
Files = dict[str, Any]


def named(*names: str) -> Files:
    return {str(i): {"real_id": [90 + i], "real_name": [name]} for i, name in enumerate(names)}


def splits() -> Files:
    return {
        PAIRS + "train.json": {"0": [1, 0], "1": [2], "3": [0]},
        PAIRS + "valid.json": {"0": [2]},
        PAIRS + "test.json": {"0": [3], "1": [0, 5]},
    }


def lastfm(**changes: Any) -> Files:
    """Users 0, 1, 3 have a key and 4 is somebody's friend; items 0 to 3 have attributes and 5 is a pair's."""
    return {
        **splits(),
        USERS: {
            "0": {"friends": [1, 4], "like": [2, 0, 2]},
            "1": {"friends": [0, 1], "like": []},
            "3": {"friends": [], "like": [1]},
        },
        ITEMS: {
            "0": {"feature_index": [2, 0], "categories": [90]},
            "1": {"feature_index": [1]},
            "2": {"feature_index": []},
            "3": {"feature_index": [0, 0]},
        },
        MERGED: {"90": 0, "73": 1, "12": 2},
        TRAIN: {"0": [0, 1], "1": [2], "3": [0]},
        TAG_NAMES: named("rock", " pop ", "jazz"),
        ITEM_NAMES: named("Ä", "B", "C", "D"),
        # What is never opened may be anything.
        GRAPH + "user_item.json": "not even JSON",
        "FM_sample_data/sample_fm_data_train-0.pkl": "cos\nsystem\n(S'false'\ntR.",
        **changes,
    }


def yelp() -> Files:
    return {
        **splits(),
        USERS: {"0": {"friends": [3]}, "1": {"friends": []}, "3": {"friends": [0]}},
        YELP_ITEMS: {
            "0": {"feature_index": [0, 3]},
            "1": {"feature_index": [1]},
            "2": {"feature_index": [2, 1]},
        },
        GRAPH + "item_dict-merged_tag.json": {"0": [1, 0], "1": [1], "2": [1]},
        FINE: {"sushi": 0, "pizza": 1, "late": 2, "bar": 3},
        COARSE: {"drinks": "0", "food": "1"},
        TAXONOMY: {"food": [1, 0], "drinks": [3]},
    }


def put(folder: Path, files: Files) -> Path:
    return write(folder, {k: v if isinstance(v, str) else json.dumps(v) for k, v in files.items()})


def pairs(edges: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(*edges.tolist(), strict=True))


# -- SCPR's layout -------------------------------------------------------------------------------------------


def test_lastfm_keeps_numbers_splits_names_and_relations(tmp_path):
    put(tmp_path / "lastfm", lastfm())
    data = load_dataset("lastfm", tmp_path)
    assert data.users.ids == ("0", "1", "2", "3", "4")
    assert data.items.ids == ("0", "1", "2", "3", "4", "5")
    found = {s: list(zip(getattr(data, s).users, getattr(data, s).items, strict=True)) for s in
             ("train", "valid", "test")}  # fmt: skip
    assert found == {"train": [(0, 0), (0, 1), (1, 2), (3, 0)], "valid": [(0, 2)],
                     "test": [(0, 3), (1, 0), (1, 5)]}  # fmt: skip
    assert data.nodes["attribute"].ids == ("rock", "pop", "jazz")
    assert set(data.nodes) == {"attribute"}
    assert pairs(data.relations[HAS]) == [(0, 0), (0, 2), (1, 1), (3, 0)]
    assert pairs(data.relations[LIKES]) == [(0, 0), (0, 2), (3, 1)]
    assert pairs(data.relations[KNOWS]) == [(0, 1), (0, 4), (1, 0), (4, 0)]
    assert all(edges.dtype == np.int32 for edges in data.relations.values())
    assert texts(data) == {"0": "Ä", "1": "B", "2": "C", "3": "D", "4": None, "5": None}
    assert data.meta["attributes"]["items without attributes"] == 3
    assert data.meta["repeated entries dropped"] == 2


def test_the_format_reads_any_folder_in_the_layout(tmp_path):
    folder = put(tmp_path / "mine", lastfm())
    data = load_dataset("scpr", folder)
    assert data.name == "mine"
    assert data == load_dataset("lastfm", folder)
    assert load_dataset("scpr", folder, name="other").name == "other"
    with pytest.raises(ConfigError, match="cannot name a dataset"):
        load_dataset("scpr", folder, name="../other")


def test_original_tags_load_and_both_kinds_must_be_chosen_from(tmp_path):
    tags = {str(number): number for number in range(4)}
    files = lastfm(**{ORIGINAL: tags, TAG_NAMES: named("rock", "rock", "jazz", "folk")})
    star = load_dataset("scpr", put(tmp_path / "star", {k: v for k, v in files.items() if k != MERGED}))
    assert star.nodes["attribute"].ids == ("0", "1", "2", "3")
    assert star.meta["attributes"]["names"] == "numbers, because some attributes share a name"
    both = put(tmp_path / "both", files)
    with pytest.raises(ConfigError, match="choose with attributes='merged' or attributes='original'"):
        load_dataset("scpr", both)
    sizes = {
        kind: len(load_dataset("scpr", both, attributes=kind).nodes["attribute"])
        for kind in ("merged", "original")
    }
    assert sizes == {"merged": 3, "original": 4}
    with pytest.raises(DataError, match=r"merged_tag_map\.json: no such file"):
        load_dataset("scpr", tmp_path / "star", attributes="merged")
    with pytest.raises(ConfigError, match="option attributes='all'"):
        load_dataset("scpr", both, attributes="all")


def test_yelp_loads_for_enumerated_and_for_binary_questions(tmp_path):
    folder = put(tmp_path / "yelp", yelp())
    data = load_dataset("scpr", folder)
    assert data.nodes["attribute"].ids == ("sushi", "pizza", "late", "bar")
    assert data.nodes["group"].ids == ("drinks", "food")
    assert pairs(data.relations[IN]) == [(0, 1), (1, 1), (3, 0)]
    assert pairs(data.relations[HAS]) == [(0, 0), (0, 3), (1, 1), (2, 1), (2, 2)]
    assert set(data.relations) == {HAS, IN, KNOWS}
    assert data.meta["attributes"]["without a group"] == 1
    binary = load_dataset("scpr", folder, groups=False)
    assert (set(binary.nodes), set(binary.relations)) == ({"attribute"}, {HAS, KNOWS})
    (folder / TAXONOMY).unlink()
    assert load_dataset("scpr", folder) == binary
    with pytest.raises(DataError, match=r"2-layer taxonomy\.json: no such file"):
        load_dataset("scpr", folder, groups=True)


def test_attributes_without_names_are_called_by_their_numbers(tmp_path):
    files = lastfm(**{TAG_NAMES: named("rock", "pop")})
    data = load_dataset("lastfm", put(tmp_path, files))
    assert data.nodes["attribute"].ids == ("0", "1", "2")
    assert "not every attribute has a name" in data.meta["attributes"]["names"]
    bare = {k: v for k, v in files.items() if not k.startswith(NAMES)}
    data = load_dataset("lastfm", put(tmp_path / "bare", bare))
    assert (data.nodes["attribute"].ids, dict(data.content)) == (("0", "1", "2"), {})


def test_user_item_is_refused_for_training(tmp_path):
    files = lastfm(**{GRAPH + "user_item.json": {"0": [0, 1, 2, 3], "1": [2, 0, 5], "3": [0]}})
    folder = put(tmp_path, {k: v for k, v in files.items() if k != PAIRS + "train.json"})
    words = r"review_dict_train\.json: no such file.*user_item\.json .* holds all validation and test pairs"
    with pytest.raises(DataError, match=words):
        load_dataset("lastfm", folder)


@pytest.mark.parametrize(
    ("published", "words"),
    [
        (
            {"0": [0, 1], "1": [2]},
            "key '3': item 0 is in review_dict_train.json and not in user_item_train.json (1 pairs",
        ),
        (
            {"0": [0, 1, 2], "1": [2], "3": [0]},
            "key '0': item 2 is in user_item_train.json and not in review_dict_train.json",
        ),
    ],
)
def test_the_two_published_train_lists_must_agree(tmp_path, published, words):
    with pytest.raises(DataError, match=rf"user_item_train\.json, {re.escape(words)}"):
        load_dataset("lastfm", put(tmp_path, lastfm(**{TRAIN: published})))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (PAIRS + "train.json", '{"0": [1, 0], ', "not readable as JSON"),
        (PAIRS + "train.json", '{"0": [1], "0": [0]}', "the key '0' occurs twice"),
        (PAIRS + "train.json", "[" * 100_000, "not readable as JSON"),
        (PAIRS + "train.json", [[0, 1]], "holds list; expected a JSON object"),
        (PAIRS + "train.json", {}, "holds nothing"),
        (PAIRS + "train.json", {"u": [1]}, "key 'u': expected a whole number from 0 as key"),
        (PAIRS + "train.json", {"-1": [1]}, "key '-1': expected a whole number"),
        (PAIRS + "train.json", {"00": [1]}, "key '00': expected a whole number"),
        (PAIRS + "train.json", {"0": 1}, "key '0': holds int; expected a list of items"),
        (PAIRS + "train.json", {"0": [1.0]}, "key '0': item '1.0'; expected a whole number"),
        (PAIRS + "train.json", {"0": [True]}, "key '0': item 'True'; expected a whole number"),
        (PAIRS + "train.json", {"0": ["1"]}, "key '0': item '1'; expected a whole number"),
        (PAIRS + "train.json", {"0": [-1]}, "key '0': item '-1'; expected a whole number from 0"),
        (PAIRS + "train.json", '{"0": [NaN]}', "key '0': item 'nan'"),
        (PAIRS + "train.json", {"0": [10**30]}, "expected a whole number from 0"),
        (PAIRS + "train.json", {"0": [900_000_000]}, "item 900000000, where the files name 6 items"),
        (PAIRS + "train.json", {"0": [1, 0, 1]}, "key '0': item 1 occurs twice"),
        (PAIRS + "valid.json", {"3": [0]}, "key '3': item 0 is in review_dict_train.json too (1 such"),
        (PAIRS + "test.json", {"0": [2]}, "key '0': item 2 is in review_dict_valid.json too"),
        (TRAIN, {"0": [10**12]}, "key '0': item '1000000000000'"),
        (USERS, {"0": [1]}, "key '0': '[1]'; expected an object"),
        (USERS, {"0": {"friends": 1}}, "key '0', friends: holds int; expected a list of users"),
        (USERS, {"0": {"friends": [], "like": [3]}}, "key '0', like: attribute 3 is not among the 3"),
        (USERS, {"0": {"friends": [70_000]}}, "key '0', friends: user 70000, where the files name 4"),
        (ITEMS, {"0": {"categories": [1]}}, "key '0': \"{'categories': [1]}\"; expected an object"),
        (ITEMS, {"0": {"feature_index": [0, 9]}}, "key '0', feature_index: attribute 9 is not among the 3"),
        (ITEMS, {"0": {"feature_index": []}}, "no item has an attribute"),
        (MERGED, {"90": 0, "73": -1}, "key '73': number '-1'"),
        (MERGED, {"90": 0, "73": "x"}, "key '73': expected a whole number"),
        (MERGED, {"90": 0, "73": 5_000_000}, "key '73': number 5000000, where the files name 2"),
        (TAG_NAMES, {"0": {"real_name": "rock"}}, "key '0': \"{'real_name': 'rock'}\"; expected an object"),
        (ITEM_NAMES, {"0": {"real_name": [1]}}, "expected an object"),
        (ITEM_NAMES, {"x": {"real_name": ["a"]}}, "key 'x': expected a whole number"),
    ],
)
def test_damaged_files_name_file_and_key(tmp_path, file, content, words):
    put(tmp_path, lastfm(**{file: content}))
    with pytest.raises(DataError, match=rf"{re.escape(file)}.*{re.escape(words)}") as error:
        load_dataset("lastfm", tmp_path)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (TAXONOMY, {"food": [0], "wine": [3]}, "key 'wine': no such group"),
        (TAXONOMY, {"food": [0, 1], "drinks": [1]}, "attribute 1 is in the group 'food' too"),
        (TAXONOMY, {"food": [7]}, "attribute 7 is not among the 4"),
        (TAXONOMY, {"food": 1}, "holds int; expected a list of attributes"),
        (COARSE, {"food": 0, "drinks": 0}, "two groups have the number 0"),
        (YELP_ITEMS, {"0": [1]}, "expected an object"),
    ],
)
def test_damaged_groups_name_file_and_key(tmp_path, file, content, words):
    put(tmp_path, {**yelp(), file: content})
    with pytest.raises(DataError, match=rf"{re.escape(file)}.*{re.escape(words)}"):
        load_dataset("scpr", tmp_path)


def test_a_file_that_cannot_be_one_of_these_is_not_read(tmp_path, monkeypatch):
    put(tmp_path, lastfm())
    monkeypatch.setattr(scpr, "MAX_BYTES", 10)
    with pytest.raises(DataError, match=r"review_dict_train\.json: \d+ bytes; expected at most 10"):
        load_dataset("lastfm", tmp_path)


@real
def test_published_lastfm_counts():
    data = load_dataset("lastfm", DATA)
    assert (data.n_users, data.n_items, len(data.nodes["attribute"])) == (1_801, 7_432, 33)
    assert (len(data.train), len(data.valid), len(data.test)) == (52_910, 11_891, 11_892)
    edges = {key: data.relations[key].shape[1] for key in data.relations}
    assert edges == {HAS: 30_290, LIKES: 7_276, KNOWS: 23_958}
    assert data.meta["repeated entries dropped"] == data.meta["attributes"]["items without attributes"] == 0
    assert data.content["text"].n_present == 7_432
    forth = set(pairs(data.relations[KNOWS]))
    assert forth == {(b, a) for a, b in forth}


# -- HetRec 2011 ---------------------------------------------------------------------------------------------

HETREC = {
    # Users 2 to 5 listen to all of artists 10, 20, 30; 40 has one listener.
    "user_artists.dat": "//userID\tartistID\tweight\n"
    + "".join(f"{user}\t{artist}\t{user * artist}\n" for user in (2, 3, 4, 5) for artist in (10, 20, 30))
    + "2\t40\t1\n",
    "artists.dat": "".join(f"{i}\tÀrtist {i}\thttp://x\thttp://y\n" for i in (10, 20, 30, 40)),
    "tags.dat": "tagID\ttagValue\n7\tfrançais\n1\tmetal\n3\tlive\n5\tseen\n".encode("latin-1"),
    "user_taggedartists.dat": "userID\tartistID\ttagID\tday\tmonth\tyear\n"
    + "".join(f"{u}\t{a}\t{t}\t1\t4\t2009\n" for u, a, t in [
        (2, 10, 1), (3, 10, 1), (2, 20, 1), (3, 20, 1), (4, 30, 7), (5, 30, 7), (4, 20, 7), (5, 20, 7),
        (2, 30, 3), (2, 99, 7), (9, 10, 7), (2, 10, 1),
    ]),
    "user_friends.dat": "userID\tfriendID\n2\t3\n3\t2\n4\t2\n2\t9\n5\t5\n",
}  # fmt: skip
SMALL = {"k_core": 2, "min_items": 2, "split": {"name": "random", "valid": 0, "test": 0}}


def hetrec(folder: Path, options: Files | None = None, **files: str) -> Dataset:
    changed = {name.replace("_dat", ".dat"): text for name, text in files.items()}
    write(folder / "hetrec-lastfm", {**HETREC, **changed})
    return load_dataset("hetrec-lastfm", folder, **{**SMALL, **(options or {})})


def test_hetrec_makes_attributes_of_tags_that_several_users_gave(tmp_path):
    data = hetrec(tmp_path)
    assert (data.users.ids, data.items.ids) == (("2", "3", "4", "5"), ("10", "20", "30"))
    # Tag 3 was given once; tag 7 on artist 10 by one user, who is not even in the dataset.
    assert data.nodes["attribute"].ids == ("metal", "français")
    assert pairs(data.relations[HAS]) == [(0, 0), (1, 0), (1, 1), (2, 1)]
    # User 2 gave tag 7 to an artist that is not in the dataset.
    assert pairs(data.relations[LIKES]) == [(0, 0), (0, 1), (1, 0), (2, 1), (3, 1)]
    assert pairs(data.relations[KNOWS]) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    assert texts(data) == {"10": "Àrtist 10", "20": "Àrtist 20", "30": "Àrtist 30"}
    assert data.meta["min_listens"] == 1
    assert hetrec(tmp_path, {"top_tags": 1}).nodes["attribute"].ids == ("metal",)
    loose = hetrec(tmp_path, {"min_taggers": 1, "min_items": 1})
    assert loose.nodes["attribute"].ids == ("metal", "live", "français")
    assert hetrec(tmp_path, {"min_listens": 40}).meta["k_core"] == [2, 2]
    assert len(hetrec(tmp_path, {"min_listens": 40}).train) < len(data.train)


def test_a_header_line_is_one_in_every_release(tmp_path):
    header = "id\tname\turl\tpictureURL\n"
    bare = HETREC["user_artists.dat"].split("\n", 1)[1]
    mark = "\ufeff" + HETREC["user_artists.dat"]
    there = hetrec(tmp_path / "there", artists_dat=header + HETREC["artists.dat"], user_artists_dat=mark)
    assert there == hetrec(tmp_path / "not", user_artists_dat=bare) == hetrec(tmp_path / "plain")
    assert texts(there)["10"] == "Àrtist 10"


@pytest.mark.parametrize("seed", range(5))
def test_tags_on_held_out_artists_are_not_liked(tmp_path, seed):
    """Everybody gives every artist a tag of its own; liking it would name the held-out artist."""
    users, artists = range(1, 9), range(10, 16)
    data = hetrec(
        tmp_path,
        {"split": {"name": "random", "valid": 0.2, "test": 0.2}, "seed": seed, "min_items": 1},
        user_artists_dat="u\ta\tw\n" + "".join(f"{u}\t{a}\t9\n" for u in users for a in artists),
        artists_dat="".join(f"{a}\tA{a}\t-\t-\n" for a in artists),
        tags_dat="".join(f"{a}\ttag {a}\n" for a in artists),
        user_taggedartists_dat="".join(f"{u}\t{a}\t{a}\t1\t1\t2009\n" for u in users for a in artists),
    )
    assert len(data.valid) == len(data.test) == 8
    liked = {
        (u, int(data.items.index(data.nodes["attribute"][a][4:]))) for u, a in pairs(data.relations[LIKES])
    }
    train = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    assert liked == train
    withheld = data.meta["attributes"]["likes withheld, from tags on held-out items"]
    assert withheld == len(data.valid) + len(data.test)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("user_artists", "u\ta\tw\n2\tx\t1\n", "user_artists.dat, row 2: item 'x'; expected a whole number"),
        ("user_artists", "u\ta\n2\t1\n", "2 columns; expected 3"),
        ("artists", "10\tA\n", "artists.dat, line 1: 2 fields; expected 4"),
        ("artists", "", "the table has no rows"),
        ("tags", "1\tmetal\n1\trock\n", "tags.dat, row 2: tag '1'; expected a whole number that no other"),
        ("tags", "1\tmetal\n", "user_taggedartists.dat, row 6: tag '7' is not in tags.dat"),
        ("user_friends", "u\tf\n2\t\n", "user_friends.dat, row 2: friend id ''"),
        ("user_taggedartists", "2\t10\t1\t1\t1\t2009\n", "no tag is given by 2 users to each of 2 artists"),
    ],
)
def test_damaged_hetrec_files(tmp_path, file, text, words):
    with pytest.raises(DataError, match=re.escape(words)):
        hetrec(tmp_path, **{f"{file}_dat": text})


@pytest.mark.parametrize("option", ["min_taggers", "min_items", "top_tags"])
def test_hetrec_limits_start_at_one(tmp_path, option):
    with pytest.raises(ConfigError, match=f"{option}=0; expected a whole number from 1"):
        hetrec(tmp_path, {option: 0})


@real
def test_published_hetrec_counts():
    data = load_dataset("hetrec-lastfm", DATA)
    assert (data.n_users, data.n_items, len(data.nodes["attribute"])) == (1_797, 1_507, 181)
    whole = load_dataset("hetrec-lastfm", DATA, k_core=0)
    assert (whole.n_users, whole.n_items, whole.relations[KNOWS].shape[1]) == (1_892, 17_632, 25_434)
    assert len(whole.train) + len(whole.valid) + len(whole.test) == 92_834
    for part in (data.valid, data.test):
        assert abs(len(part) / 62_376 - 0.15) < 0.002
