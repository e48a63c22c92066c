"""Vocabulary, Interactions, Content, Dataset and Dataset.from_frame."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from graphrec.core.errors import DataError, UnknownIdError
from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset, Interactions, Vocabulary
from graphrec.models import Popularity
from graphrec.serving import Recommender

pairs_strategy = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=30).map(sorted)


def made(pairs, times=None):
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return Interactions(np.array(users, int), np.array(items, int), 6, 8, times)


def small(**changes):
    rows = {"user": ["a", "a", "b", "b", "b"], "item": ["x", "y", "x", "z", "y"], "s": [0, 1, 0, 0, 2]}
    return Dataset.from_frame({**rows, **changes}, split="s")


# -- vocabulary ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), unique=True))
def test_vocabulary_round_trip(ids):
    vocabulary = Vocabulary(ids)
    assert vocabulary.take(vocabulary.indices(ids)) == ids
    assert [vocabulary.index(i) for i in ids] == list(range(len(ids)))


def test_ids_are_kept_as_they_came():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    vocabulary = Vocabulary(["007", "7", " 7", "A", "a", composed, decomposed])
    assert len(vocabulary) == 7
    assert vocabulary.index(7) == vocabulary.index("7") == 1
    assert vocabulary.index("007") == 0
    assert vocabulary.index(composed) != vocabulary.index(decomposed)
    assert vocabulary.find(["7", "8", 7.0]).tolist() == [1, -1, -1]


def test_unknown_id_names_the_nearest():
    with pytest.raises(UnknownIdError, match=r"'B00X2'.*'B00X1'"):
        Vocabulary(["B00X1", "zzz"]).index("B00X2")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a", "b", "a"], "'a' occurs more than once"),
        (["a", ""], "''"),
        (["a\0b"], "NUL"),
        ([None], "None"),
        ([float("nan")], "nan"),
        ([1.5], "1.5"),
        ([float("inf")], "inf"),
        ([True], "True"),
        (["\ud800"], "ud800"),
        ([1, "1"], "'1'"),
    ],
)
def test_unusable_ids(ids, words):
    with pytest.raises(DataError, match=words):
        Vocabulary(ids)


def test_order_changes_the_fingerprint():
    assert Vocabulary(["a", "b"]).fingerprint != Vocabulary(["b", "a"]).fingerprint
    assert Vocabulary(["a", "b"]).fingerprint == Vocabulary(["a", "b"]).fingerprint


# -- interactions --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(pairs=pairs_strategy, data=st.data())
def test_interactions_do_not_depend_on_order_and_carry_times_along(pairs, data):
    order = data.draw(st.permutations(range(len(pairs))))
    times = [u * 100 + i for u, i in pairs]
    straight = made(pairs, times)
    shuffled = made([pairs[k] for k in order], [times[k] for k in order])
    assert straight == shuffled
    assert list(zip(straight.users.tolist(), straight.items.tolist(), strict=True)) == pairs
    assert straight.times.tolist() == times
    assert straight.user_degree.tolist() == [sum(u == n for u, _ in pairs) for n in range(6)]
    assert straight.item_degree.tolist() == [sum(i == n for _, i in pairs) for n in range(8)]


@settings(max_examples=60, deadline=None)
@given(pairs=pairs_strategy, users=st.lists(st.integers(0, 5), max_size=9))
def test_rows_and_contains_against_brute_force(pairs, users):
    part = made(pairs)
    row, items = part.items_of_users(np.array(users, dtype=np.int64))
    expected = [(r, i) for r, u in enumerate(users) for v, i in pairs if v == u]
    assert list(zip(row.tolist(), items.tolist(), strict=True)) == expected
    everything = part.contains(np.arange(6)[:, None], np.arange(8)[None])
    assert everything.shape == (6, 8)
    assert [tuple(p) for p in np.argwhere(everything).tolist()] == pairs
    for user in range(6):
        assert part.items_of(user).tolist() == [i for u, i in pairs if u == user]


@settings(max_examples=40, deadline=None)
@given(pairs=pairs_strategy, data=st.data())
def test_parts_add_up(pairs, data):
    whole = made(pairs)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))), dtype=bool)
    assert whole.where(mask) + whole.where(~mask) == whole


@pytest.mark.parametrize(
    ("users", "items", "words"),
    [
        ([0, 1], [0], "2 users, 1 items"),
        ([0, -1], [0, 0], "user -1 at row 1"),
        ([0, 6], [0, 0], "user 6 at row 1"),
        ([0, 1], [0, 8], "item 8 at row 1"),
        ([0, 0.5], [0, 0], "0.5 at row 1"),
        ([0, float("nan")], [0, 0], "nan at row 1"),
        ([0, 0], [3, 3], "1 repeated pairs"),
        (["a", "b"], [0, 0], "Vocabulary"),
        ([[0, 1]], [[0, 1]], "(1, 2)"),
    ],
)
def test_unusable_interactions(users, items, words):
    with pytest.raises(DataError, match=re.escape(words)):
        Interactions(users, items, 6, 8)


def test_interactions_are_read_only():
    part = made([(0, 1), (2, 3)])
    for array in (part.users, part.items, part.keys, part.user_degree, part.item_degree, part.indptr):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


# -- content -------------------------------------------------------------------------------------------------


def test_content_counts_blank_texts_as_missing(tmp_path):
    text = Content("text", ["a", " ", "", None])
    assert (text.n_present, text[1], text[2]) == (1, None, None)
    with pytest.raises(DataError, match="text"):
        text.path(0)
    image = Content("image", ["a.png", None], tmp_path)
    assert image.path(0) == tmp_path / "a.png"
    assert image.path(1) is None
    with pytest.raises(DataError, match="5 at row 1"):
        Content("text", ["a", 5])
    with pytest.raises(DataError, match="kind 'a sound'"):
        Content("a sound", [])


# -- dataset -------------------------------------------------------------------------------------------------


def full():
    base = small()
    return Dataset(
        "full",
        base.users,
        base.items,
        base.train,
        base.valid,
        base.test,
        content={
            "text": Content("text", ["red", None, 'blue, "big"\n']),
            "image": Content("image", ["1.png"] * 3, "pics"),
        },
        nodes={"brand": Vocabulary(["p", "q"], "brand")},
        relations={("item", "has", "brand"): np.array([[0, 2], [1, 0]], dtype=np.int32)},
        meta={"note": "n"},
    )


def test_save_and_load(tmp_path):
    data = full()
    again = Dataset.load(data.save(tmp_path / "d"))
    assert again == data
    assert (again.name, dict(again.meta)) == ("full", {"note": "n"})
    assert (again.train, again.valid, again.test) == (data.train, data.valid, data.test)
    assert again.content["text"].values == data.content["text"].values
    assert str(again.content["image"].path(0)) == str(data.content["image"].path(0))
    assert again.nodes["brand"] == data.nodes["brand"]
    assert np.array_equal(again.relations["item", "has", "brand"], [[0, 2], [1, 0]])


def test_times_survive_saving(tmp_path):
    data = Dataset.from_frame(
        {"user": [1, 1, 1], "item": [1, 2, 3], "t": [30, 10, 20]}, time="t", split="leave-one-out"
    )
    again = Dataset.load(data.save(tmp_path))
    assert again.test.times.tolist() == [30]
    assert again.items.take(again.test.items) == ["1"]


def test_damage_is_found_in_every_file(tmp_path):
    head = json.loads((full().save(tmp_path) / "dataset.json").read_text())
    files = [entry["name"] for entry in head["files"].values()]
    assert len(files) == 9
    for file in files:
        path = tmp_path / file
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match=re.escape(file)):
            Dataset.load(tmp_path)
        path.unlink()
        with pytest.raises(DataError, match=re.escape(file)):
            Dataset.load(tmp_path)
        path.write_bytes(whole)
    assert Dataset.load(tmp_path) == full()


def test_every_flipped_bit_of_the_head_is_refused(tmp_path):
    path = full().save(tmp_path) / "dataset.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with suppress(ValueError):
            if json.loads(flipped) == json.loads(whole):  # white space between values
                assert Dataset.load(tmp_path) == full()
                continue
        with pytest.raises(DataError, match=r"dataset\.json"):
            Dataset.load(tmp_path)
    path.write_bytes(whole)
    head = json.loads(whole)
    for part in ("files", "head"):
        for key in head[part]:
            changed = json.loads(whole)
            del changed[part][key]
            path.write_text(json.dumps(changed))
            with pytest.raises(DataError, match=r"dataset\.json"):
                Dataset.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"format": 99}, "99"), ({"files": {"../x": "0"}}, "restore it")],
)
def test_a_changed_head_is_refused(tmp_path, change, words):
    path = full().save(tmp_path) / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        Dataset.load(tmp_path)


class Killed(BaseException):
    """What a process does from the moment it is killed."""


def test_a_dataset_that_is_replaced_is_never_lost(tmp_path, monkeypatch):
    """Killed before any of the file operations of a save, the directory holds the former or the new one."""
    former = full()
    new = small()

    def limited(real):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*arguments, **options)

        return call

    outcomes = []
    for step in range(200):
        folder = tmp_path / f"{step}"
        former.save(folder)
        left = step
        with monkeypatch.context() as patched:
            for name in ("replace", "fsync", "unlink"):
                patched.setattr(os, name, limited(getattr(os, name)))
            with suppress(Killed):
                new.save(folder)
        outcomes.append(Dataset.load(folder) == new)
        assert outcomes[-1] or Dataset.load(folder) == former
        if left >= 0:
            break
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes), "once the new one is there, it stays"
    names = {entry["name"] for entry in json.loads((folder / "dataset.json").read_text())["files"].values()}
    assert {path.name for path in folder.iterdir()} == {*names, "dataset.json"}


def test_a_dataset_and_a_recommender_may_share_a_folder(tmp_path):
    data = full()
    data.save(tmp_path)
    recommender = Recommender.from_model(Popularity.build(data), data)
    recommender.save(tmp_path)
    small().save(tmp_path)
    assert Dataset.load(tmp_path) == small()
    assert Recommender.load(tmp_path).recommend(data.users.ids[0])


def test_overlap_is_refused_with_the_ids():
    data = small()
    with pytest.raises(DataError, match=r"train and test.*'a'.*'x'"):
        data.with_splits(data.train, data.valid, data.train)


def test_wrong_sizes_and_relations_are_refused():
    data = small()
    with pytest.raises(DataError, match=r"valid.* 9 users"):
        data.with_splits(data.train, Interactions([], [], 9, 3), data.test)
    with pytest.raises(DataError, match=r"'text' has 1 .*3 items"):
        data.with_content(text=Content("text", ["a"]))
    for edges, words in (
        ([[0], [2]], "brand 2..2"),
        ([[3], [0]], "item 3..3"),
        ([[0, 1]], r"\(1, 2\)"),
    ):
        with pytest.raises(DataError, match=words):
            Dataset(
                "d", data.users, data.items, data.train, data.valid, data.test,
                nodes={"brand": Vocabulary(["p", "q"])},
                relations={("item", "has", "brand"): np.array(edges)},
            )  # fmt: skip


def test_the_fingerprint_sees_ids_and_splits_but_not_content():
    data = small()
    assert small(item=["x", "y", "x", "w", "y"]).fingerprint != data.fingerprint
    assert small(s=[0, 1, 0, 2, 0]).fingerprint != data.fingerprint
    assert data.with_content(text=Content("text", ["a", "b", "c"])).fingerprint == data.fingerprint


def test_unknown_field_names_the_nearest():
    data = small().with_content(image=Content("image", [None] * 3))
    with pytest.raises(DataError, match="'image'"):
        data.field("imgae")


# -- from_frame ----------------------------------------------------------------------------------------------

ROWS = {"user": ["a", "a", "b", "b"], "item": ["x", "y", "x", "y"]}


@pytest.mark.parametrize(
    "wrap", [dict, pl.DataFrame, lambda d: pl.DataFrame(d).lazy(), lambda d: pl.DataFrame(d).to_arrow()]
)
def test_any_dataframe(wrap):
    data = Dataset.from_frame(wrap(ROWS))
    assert (data.n_users, data.n_items, data.users.ids, data.items.ids) == (2, 2, ("a", "b"), ("x", "y"))


def test_integer_ids_are_ordered_by_value_and_text_ids_keep_zeros():
    assert Dataset.from_frame({"user": [10, 9], "item": [2.0, 10.0]}).items.ids == ("2", "10")
    assert Dataset.from_frame({"user": ["010", "10"], "item": ["1", "2"]}).users.ids == ("010", "10")


def test_repeated_pairs_keep_the_latest():
    data = Dataset.from_frame(
        {"user": [1, 1, 1], "item": [5, 5, 6], "t": [3, 9, 4]},
        time="t",
        split={"name": "random", "valid": 0, "test": 0},
    )
    assert data.train.times.tolist() == [9, 4]
    assert data.meta["repeated pairs dropped"] == 1


def test_filters_come_before_the_core():
    rows = {"user": list("aabbcc"), "item": list("xyxyxz"), "r": [5, 5, 5, 5, 1, 5]}
    data = Dataset.from_frame(
        rows, rating="r", min_rating=4, k_core=2, split={"name": "random", "valid": 0, "test": 0}
    )
    assert (data.users.ids, data.items.ids, len(data.train)) == (("a", "b"), ("x", "y"), 4)


@pytest.mark.parametrize(
    "times",
    [
        [0, 86_400],
        ["0", "86400"],
        ["0.0", "86400.0"],
        [date(1970, 1, 1), date(1970, 1, 2)],
        [datetime(1970, 1, 1), datetime(1970, 1, 2)],
        ["1970-01-01", "1970-01-02"],
        ["1970-01-01 00:00:00", "1970-01-02 00:00:00"],
        ["1970-01-01T01:00:00+01:00", "1970-01-02T01:00:00+01:00"],
    ],
)
def test_times(times):
    data = Dataset.from_frame(
        {"user": [1, 1], "item": [1, 2], "t": times},
        time="t",
        split={"name": "random", "valid": 0, "test": 0},
    )
    assert data.train.times.tolist() == [0, 86_400]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"user": "usr"}, "'usr'"),
        ({"user": ["a", None, "b", "b"]}, {}, "row 2: user id None"),
        ({"user": ["a", "", "b", "b"]}, {}, "row 2: user id ''"),
        ({"user": ["a", "q\0", "b", "b"]}, {}, "row 2"),
        ({"item": [1.0, 2.0, 2.5, 1.0]}, {}, "row 3: item id 2.5"),
        ({"item": [1.0, float("nan"), 2.0, 1.0]}, {}, "row 2: item id nan"),
        ({"item": [[1], [2], [3], [4]]}, {}, "column 'item'"),
        ({"t": ["1", "x", "2", "3"]}, {"time": "t"}, "row 2: time 'x'"),
        ({"t": ["2020-01-01", "2020-01-02", "x", "2020-01-04"]}, {"time": "t"}, "row 3: time 'x'"),
        ({"t": ["1", "", "2", "3"]}, {"time": "t"}, "row 2: time ''"),
        ({"t": [1.0, float("inf"), 2.0, 3.0]}, {"time": "t"}, "row 2: time inf"),
        ({"t": [None, *[date(2020, 1, 1)] * 3]}, {"time": "t"}, "row 1: time None"),
        ({"r": ["5", "good", "4", "4"]}, {"rating": "r", "min_rating": 4}, "row 2: rating 'good'"),
        ({"r": [5, 5, 5, 5]}, {"rating": "r", "min_rating": 6}, "at least 6"),
        ({}, {"min_rating": 4}, "rating="),
        ({}, {"k_core": 9}, "9/9"),
        ({"s": ["train", "train", "tset", "test"]}, {"split": "s"}, "row 3: split 'tset'"),
        ({"s": [2, 2, 1, 2]}, {"split": "s"}, "train"),
        ({"user": ["a", "a", "a", "b"], "item": ["x", "x", "y", "x"], "s": [0, 2, 0, 0]}, {"split": "s"},
         "user 'a' item 'x'"),
        ({}, {"split": "leave-one-out"}, "'leave-one-out'"),
    ],
)  # fmt: skip
def test_bad_frames(change, options, words):
    with pytest.raises(DataError, match=re.escape(words)):
        Dataset.from_frame({**ROWS, **change}, **options)


def test_an_empty_frame_is_refused():
    with pytest.raises(DataError, match="frame"):
        Dataset.from_frame({"user": [], "item": []})


def test_content_follows_the_vocabulary():
    items = {"item": ["y", "zz", "x"], "title": ["Why", "gone", "Ex"]}
    data = Dataset.from_frame(ROWS, items=items, content={"text": ("text", "title")}, cold_items=False)
    assert data.content["text"].values == ("Ex", "Why")
    assert data.meta["item rows without interactions"] == 1
    with pytest.raises(DataError, match="the item table, row 2: item 'x'"):
        Dataset.from_frame(ROWS, items={"item": ["x", "x"], "title": ["", ""]})
    with pytest.raises(DataError, match=r"the item table.*'titel'"):
        Dataset.from_frame(ROWS, items=items, content={"text": ("text", "titel")})


def test_half_a_character_cannot_be_saved(tmp_path):
    data = Dataset.from_frame({"user": [1, 2], "item": [1, 2]})
    with pytest.raises(DataError, match=r"content-text\.arrow: 'a.*ud800b'"):
        data.with_content(text=Content("text", ["a\ud800b", "x"])).save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "dataset.json").exists()


def test_some_users_come_with_all_they_have_and_are_drawn_once() -> None:
    rng = numpy_rng(0, "tests/some users")
    pairs = np.unique(rng.integers(0, [50, 20], (300, 2)), axis=0)
    pairs = pairs[pairs[:, 0] % 5 > 0]  # some have nothing
    whole = Interactions(pairs[:, 0], pairs[:, 1], 50, 20, name="valid")
    some = whole.sample_users(7, seed=3)
    chosen = np.unique(some.users)
    assert len(chosen) == 7
    assert len(some) == int(np.isin(whole.users, chosen).sum())
    assert some == whole.sample_users(7, seed=3)
    assert some != whole.sample_users(7, seed=4)
    assert whole.sample_users(40) is whole
    seen = np.concatenate([np.unique(whole.sample_users(7, seed=s).users) for s in range(40)])
    assert len(np.unique(seen)) == 40, "everybody can be drawn"
