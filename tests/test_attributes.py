"""Attributes from columns of an item table: the function, the readers that call it, and where edges go."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from layouts import ALL_TRAIN, write

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Dataset, Vocabulary
from graphrec.data.attributes import HAS, IN, KNOWS, LIKES, sorted_edges, with_attributes
from graphrec.data.readers import load_dataset
from graphrec.graphs.interop import from_hetero_data, to_hetero_data

DATA = os.environ.get("GRAPHREC_DATA")
real = pytest.mark.skipif(not DATA, reason="needs the published datasets; set GRAPHREC_DATA to their folder")


def shop(n: int = 4) -> Dataset:
    """One user who has all of the items a, b, c, ..."""
    return Dataset.from_frame(
        {"user": ["u"] * n, "item": [chr(ord("a") + i) for i in range(n)]}, split=ALL_TRAIN, name="shop"
    )


def attributes(data: Dataset) -> dict[str, set[str]]:
    """Items by attribute."""
    found: dict[str, set[str]] = {name: set() for name in data.nodes["attribute"]}
    for item, attribute in data.relations[HAS].T:
        found[data.nodes["attribute"][attribute]].add(data.items[item])
    return found


def groups(data: Dataset) -> dict[str, str]:
    return {data.nodes["attribute"][a]: data.nodes["group"][g] for a, g in data.relations[IN].T}


# -- the function --------------------------------------------------------------------------------------------


def test_columns_become_attributes_in_groups():
    table = {
        "sku": ["a", "b", "c", "z"],
        "style": ["rock| pop ", "pop|pop||rock", " jazz |", "jazz"],
        "country": ["France", " France", "", "Chile"],
    }
    data = with_attributes(shop(), table, "sku", ["country", "style"])
    assert attributes(data) == {
        "country: France": {"a", "b"},
        "style: pop": {"a", "b"},
        "style: rock": {"a", "b"},
    }
    assert groups(data) == {
        "country: France": "country",
        "style: pop": "style",
        "style: rock": "style",
    }
    assert data.nodes["group"].ids == ("country", "style")
    assert (data.relations[HAS].dtype, data.relations[IN].dtype) == (np.int32, np.int32)
    assert data.meta["attributes"] == {
        "columns": ["country", "style"], "separator": "|", "min_items": 2, "max_share": None, "kept": 3,
        "of too few items": 1, "of too many items": 0, "rows of other items": 1, "items without a row": 1,
        "items without attributes": 2,
    }  # fmt: skip
    json.dumps(data.meta)
    assert data.fingerprint != shop().fingerprint


def test_rare_and_common_values_are_left_out():
    table = {"sku": list("abcd"), "v": ["x|y|w", "x|y", "x|y", "x|z"]}
    all_of_it = attributes(with_attributes(shop(), table, "sku", "v", min_items=1))
    assert {name: len(items) for name, items in all_of_it.items()} == {
        "v: w": 1, "v: x": 4, "v: y": 3, "v: z": 1,
    }  # fmt: skip
    assert set(attributes(with_attributes(shop(), table, "sku", "v"))) == {"v: x", "v: y"}
    data = with_attributes(shop(), table, "sku", "v", max_share=0.75)
    assert set(attributes(data)) == {"v: y"}
    assert data.meta["attributes"]["of too few items"] == 2
    assert data.meta["attributes"]["of too many items"] == 1


def test_values_that_differ_in_case_are_one_attribute_and_a_note_says_so(capsys):
    table = {
        "sku": list("abcd"),
        "color": ["red|Blue", " Red |red|BLUE", "red ", "STRASSE"],
        "kind": ["A|straße", "a", "Straße", "straße"],
    }
    data = with_attributes(shop(), table, "sku", ["color", "kind"], source="items.csv")
    assert attributes(data) == {
        "color: BLUE": {"a", "b"},  # a tie: the first in sorted order
        "color: red": {"a", "b", "c"},
        "kind: A": {"a", "b"},
        "kind: straße": {"a", "c", "d"},
    }
    assert data.meta["attributes"]["spellings folded"] == 4
    assert data.meta["attributes"]["of too few items"] == 1  # STRASSE, of another column than straße
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert all(fact in notes[0] for fact in ("items.csv", "'color'", "2 ", "'Red'", "'red'", "'Blue'"))
    assert all(fact in notes[1] for fact in ("items.csv", "'kind'", "2 ", "'a'", "'A'", "'Straße'"))
    reordered = with_attributes(shop(), pl.DataFrame(table).reverse(), "sku", ["color", "kind"])
    assert reordered.nodes["attribute"] == data.nodes["attribute"]
    assert np.array_equal(reordered.relations[HAS], data.relations[HAS])


def test_values_of_one_spelling_each_leave_no_note_and_no_count(capsys):
    data = with_attributes(shop(), {"sku": list("abcd"), "v": ["x|X-1", "x", "X-1", "é"]}, "sku", "v")
    assert set(attributes(data)) == {"v: X-1", "v: x"}
    assert "spellings folded" not in data.meta["attributes"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "separator", "expected"),
    [
        (pl.Series([["x", " y"], ["y", "y", None, ""], [], None]), "|", {"v: y": {"a", "b"}}),
        (pl.Series(["x, y", "y", None, "x"]), ",", {"v: x": {"a", "d"}, "v: y": {"a", "b"}}),
        (pl.Series(["x|y", "x|y", "x", "y"]), None, {"v: x|y": {"a", "b"}}),
        (pl.Series(["x", "y", "x", None], dtype=pl.Categorical), "|", {"v: x": {"a", "c"}}),
        (pl.Series(["x", "y", "x", None], dtype=pl.Enum(["y", "x"])), None, {"v: x": {"a", "c"}}),
        (pl.Series([True, False, True, None]), "|", {"v: true": {"a", "c"}}),
        (pl.Series([["x", "y"], ["x", "z"], ["q", "r"], ["s", "t"]], dtype=pl.Array(pl.String, 2)), "|",
         {"v: x": {"a", "b"}}),
        (pl.Series(["38", "39", "38", "7"]), "|", {"v: 38": {"a", "c"}}),
    ],
    ids=["lists", "comma", "as they are", "categories", "enum", "booleans", "arrays", "sizes as text"],
)  # fmt: skip
def test_columns_of_every_kind(values, separator, expected):
    frame = pl.DataFrame({"sku": list("abcd"), "v": values})
    assert attributes(with_attributes(shop(), frame, "sku", "v", separator=separator)) == expected


def test_any_frame_will_do_and_the_order_of_rows_does_not_matter():
    frame = pl.DataFrame({"sku": list("abcd"), "v": ["x|y", "y", "z|x", "z"]})
    expected = with_attributes(shop(), frame, "sku", "v")
    assert expected.nodes["attribute"].ids == ("v: x", "v: y", "v: z")
    assert with_attributes(shop(), frame.to_arrow(), "sku", "v") == expected
    assert with_attributes(shop(), frame.to_dict(as_series=False), "sku", "v") == expected
    assert with_attributes(shop(), frame.lazy(), "sku", "v") == expected
    assert with_attributes(shop(), frame.reverse(), "sku", "v") == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["x", " x", "y", "z", "", " "]), max_size=4), min_size=6, max_size=6),
    st.integers(1, 3),
)
def test_edges_equal_a_count_by_hand(rows, min_items):
    carried = [{v.strip() for v in row if v.strip()} for row in rows]
    counts = Counter(v for values in carried for v in values)
    expected = {
        f"v: {v}": {"abcdef"[i] for i, values in enumerate(carried) if v in values}
        for v, n in sorted(counts.items())
        if n >= min_items
    }
    table = {"sku": list("abcdef"), "v": ["|".join(row) for row in rows]}
    if not expected:
        with pytest.raises(DataError):
            with_attributes(shop(6), table, "sku", "v", min_items=min_items)
        return
    data = with_attributes(shop(6), table, "sku", "v", min_items=min_items)
    assert attributes(data) == expected
    assert list(attributes(data)) == list(expected)
    edges = data.relations[HAS].astype(int)
    assert (np.diff(edges[0] * 100 + edges[1]) > 0).all()


def test_sorted_edges_are_sorted_and_unique():
    edges = sorted_edges([[2, 0, 2, 0], [1, 5, 1, 3]])
    assert edges.tolist() == [[0, 0, 2], [3, 5, 1]]
    assert edges.dtype == np.int32
    assert sorted_edges(np.zeros((2, 0))).shape == (2, 0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"columns": ["colr"]}, DataError, "'colr'"),
        ({"columns": ["colr"]}, DataError, "'color'"),
        ({"columns": []}, ConfigError, "columns="),
        ({"columns": ["color", "color"]}, ConfigError, "'color'"),
        ({"columns": "year"}, DataError, "column 'year' has type Int64"),
        ({"columns": "price"}, DataError, "column 'price' has type Float64"),
        ({"columns": "scores"}, DataError, "column 'scores' has type List(Int64)"),
        ({"columns": "day"}, DataError, "column 'day' has type Date"),
        ({"columns": "blob"}, DataError, "column 'blob' has type Binary"),
        (
            {"columns": "title"},
            DataError,
            "column 'title' has 4 values, first 'A'",
        ),
        ({"columns": "nothing"}, DataError, "column 'nothing'"),
        ({"columns": "color", "max_share": 0.1}, DataError, "0.1"),
        ({"separator": ""}, ConfigError, "separator=''"),
        ({"min_items": 0}, ConfigError, "min_items=0"),
        ({"max_share": 0}, ConfigError, "max_share=0"),
        ({"max_share": 1.5}, ConfigError, "max_share=1.5"),
        ({"max_share": float("nan")}, ConfigError, "max_share=nan"),
        ({"item_id": "id"}, DataError, "'id'"),
        ({"item_id": "title"}, DataError, "'A'"),
        ({"item_id": "color"}, DataError, "row 4: item 'red'"),
        ({"item_id": "nothing"}, DataError, "column 'nothing' has type Null"),
        ({"table": 3}, DataError, "shop.csv"),
    ],
)
def test_what_cannot_become_attributes_is_named(changes, error, words):
    frame = pl.DataFrame({
        "sku": list("abcd"), "color": ["red", "blue", "red", "blue"], "year": [1, 2, 1, 2],
        "price": [1.5, 2, 1.5, 2], "scores": [[1], [1], [2], [2]], "title": list("ABCD"),
        "day": ["2024-01-01"] * 4, "blob": [b"a"] * 4, "nothing": [None] * 4,
    }).with_columns(pl.col("day").str.to_date())  # fmt: skip
    given = {"table": frame, "item_id": "sku", "columns": "color", "source": "shop.csv", "first_row": 2}
    with pytest.raises(error, match=re.escape(words)):
        with_attributes(shop(), **{**given, **changes})


def test_attributes_are_added_once():
    data = with_attributes(shop(), {"sku": ["a", "b"], "v": ["x", "x"]}, "sku", "v")
    with pytest.raises(ConfigError, match=r"shop.*'attribute'"):
        with_attributes(data, {"sku": ["a", "b"], "v": ["x", "x"]}, "sku", "v")


# -- readers that take attributes ----------------------------------------------------------------------------

CLICKS = "user,item\nu,1\nu,2\nu,3\nv,1\nv,2\n"
ITEMS = "sku,tags,country\n1,rock;pop,France\n2,pop,France\n3,rock;new,\n"


def test_the_table_reader_takes_attributes(tmp_path):
    write(tmp_path, {"interactions.csv": CLICKS, "items.csv": ITEMS, "items.jsonl":
                     '{"item": 1, "tags": ["rock", "pop"]}\n{"item": 2, "tags": ["pop"]}\n'
                     '{"item": 3, "tags": ["rock"]}\n'})  # fmt: skip
    read = {"items": "items.csv", "item_id": "sku", "split": ALL_TRAIN}
    data = load_dataset("table", tmp_path, **read, attributes=["tags", "country"], separator=";")
    assert attributes(data) == {
        "tags: pop": {"1", "2"}, "tags: rock": {"1", "3"}, "country: France": {"1", "2"},
    }  # fmt: skip
    assert data.meta["options"]["attributes"] == ["tags", "country"]
    common = load_dataset(
        "table", tmp_path, **read, attributes="tags", separator=";", min_items=1, max_share=0.5
    )
    assert attributes(common) == {"tags: new": {"3"}}
    listed = load_dataset("table", tmp_path, items="items.jsonl", split=ALL_TRAIN, attributes="tags")
    assert set(attributes(listed)) == {"tags: pop", "tags: rock"}
    plain = load_dataset("table", tmp_path, **read)
    assert (dict(plain.nodes), dict(plain.relations)) == ({}, {})
    with pytest.raises(ConfigError, match=r"attributes=.*items="):
        load_dataset("table", tmp_path, attributes="tags")
    with pytest.raises(DataError, match=r"items\.csv.*'tag'.*'tags'"):
        load_dataset("table", tmp_path, **read, attributes="tag")


def test_the_command_line_takes_attributes(tmp_path, graphrec):
    write(tmp_path, {"interactions.csv": CLICKS, "items.csv": ITEMS})
    sets = ["items=items.csv", "item_id=sku", "attributes=tags,country", "separator=;"]
    options = [word for pair in sets for word in ("--set", pair)]
    answer = graphrec("data", "convert", "table", "--root", tmp_path, "--out", tmp_path / "saved", *options)
    assert answer.code == 0, answer
    assert Dataset.load(tmp_path / "saved").nodes["group"].ids == ("tags", "country")
    shown = graphrec("data", "show", tmp_path / "saved")
    assert "kept 3" in shown.out


WINES = {
    "XWines_Slim_150K_ratings.csv": "RatingID,UserID,WineID,Vintage,Rating,Date\n"
    + "".join(f"{w},{u},{w},1950,4.5,2021-11-02 20:52:59\n" for u in (1, 2) for w in (7, 8, 9)),
    "XWines_Slim_1K_wines.csv": "WineID,WineName,Type,Grapes,Harmonize,"
    "Body,Acidity,Country,RegionName,WineryName\n"
    "7,A,Red,['Merlot'],\"['Beef', 'Game Meat']\",Full,High,New Chile,Maule,X\n"
    "8,B,Red,\"['Merlot', 'Syrah']\",['Beef'],Full,High,New Chile,Maule,Y\n"
    "9,C,White,['Syrah'],['Fish'],Full,High,Peru,Ica,Z\n",
}  # fmt: skip


def test_xwines_takes_attributes_and_is_the_same_without(tmp_path):
    folder = write(tmp_path / "xwines", WINES)
    options = {"k_core": 0, "split": ALL_TRAIN}
    plain = load_dataset("xwines", folder, **options)
    assert (dict(plain.nodes), dict(plain.relations)) == ({}, {})
    assert load_dataset("xwines", folder, **options, attributes=False) == plain
    data = load_dataset("xwines", folder, **options, attributes=True)
    assert attributes(data) == {
        "Type: Red": {"7", "8"}, "Grapes: Merlot": {"7", "8"}, "Grapes: Syrah": {"8", "9"},
        "Body: Full": {"7", "8", "9"}, "Acidity: High": {"7", "8", "9"}, "Country: New Chile": {"7", "8"},
        "RegionName: Maule": {"7", "8"}, "Harmonize: Beef": {"7", "8"},
    }  # fmt: skip
    assert data.field("text").values == plain.field("text").values
    assert plain.field("text").values[0] == (
        "A. Red wine. Grapes: Merlot. Goes with Beef, Game Meat. Full. Acidity: High. New Chile. Maule. "
        "Winery: X."
    )
    bare = Dataset(data.name, data.users, data.items, data.train, data.valid, data.test)
    assert bare.fingerprint == plain.fingerprint
    some = load_dataset("xwines", folder, **options, attributes=["Harmonize", "Type"], min_items=1)
    assert some.nodes["group"].ids == ("Harmonize", "Type")
    assert "Harmonize: Game Meat" in some.nodes["attribute"]
    with pytest.raises(ConfigError, match=r"'Color'.*'Type', 'Grapes'"):
        load_dataset("xwines", folder, attributes=["Color"])


def test_movielens_takes_attributes_of_either_item_table(tmp_path):
    items = (
        "movieId,title,year,genres,director,country,language\n"
        '1,A,1994,Comedy|Drama,X,"USA, UK","English, French"\n'
        '2,B,1999,Comedy|Drama,"X, Y",United States of America|France,Français|English\n'
        "3,C,2001,(no genres listed),Y,UK,\n4,D,,(no genres listed),Z,France,\n"
    )
    ratings = "userId,movieId,rating,timestamp\n" + "".join(f"1,{i},5,{i}\n" for i in (1, 2, 3, 4))
    folder = write(tmp_path / "full", {"ratings.csv": ratings, "items.csv": items})
    options = {"k_core": 0, "split": ALL_TRAIN, "text": ["title"]}
    data = load_dataset("movielens-small", folder, **options, attributes=True)
    assert attributes(data) == {
        "genres: Comedy": {"1", "2"}, "genres: Drama": {"1", "2"}, "director: X": {"1", "2"},
        "director: Y": {"2", "3"}, "country: France": {"2", "4"}, "country: UK": {"1", "3"},
        "country: USA": {"1", "2"}, "language: English": {"1", "2"}, "language: French": {"1", "2"},
        "decade: 1990s": {"1", "2"},
    }  # fmt: skip
    plain = load_dataset("movielens-small", folder, **options)
    assert (dict(plain.nodes), dict(plain.relations)) == ({}, {})
    assert plain.field("text").values == data.field("text").values
    movies = "movieId,title,genres\n1,A,Comedy|Drama\n2,B,Drama\n3,C,(no genres listed)\n4,D,Drama\n"
    folder = write(tmp_path / "titles", {"ratings.csv": ratings, "movies.csv": movies})
    data = load_dataset("movielens-small", folder, **options, attributes=True)
    assert attributes(data) == {"genres: Drama": {"1", "2", "4"}}
    with pytest.raises(DataError, match=r"movies\.csv.*'year'"):
        load_dataset("movielens-small", folder, **options, attributes="decade")
    with pytest.raises(ConfigError, match=r"'genre'.*'genres'"):
        load_dataset("movielens-small", folder, **options, attributes=["genre"])
    write(tmp_path / "full", {"items.csv": items.replace("1999", "99")})
    with pytest.raises(DataError, match=r"items\.csv, row 3: year '99'"):
        load_dataset("movielens-small", tmp_path / "full", **options, attributes=True)


@real
@pytest.mark.parametrize(
    ("name", "fingerprint", "sizes"),
    [("xwines", "071babc4ed82", (290, 7)), ("movielens-small", "d129ca64b23d", (568, 5))],
)
def test_published_datasets_keep_their_fingerprints_without_attributes(name, fingerprint, sizes):
    assert load_dataset(name, DATA).fingerprint.startswith(fingerprint)
    data = load_dataset(name, DATA, attributes=True)
    assert (len(data.nodes["attribute"]), len(data.nodes["group"])) == sizes
    assert data.meta["attributes"]["items without attributes"] == 0


# -- where the edges go --------------------------------------------------------------------------------------


def conversational() -> Dataset:
    """Eight users, nine items, three splits, all five relations."""
    rows = [(u, i) for u in range(8) for i in range(9) if (u + i) % 3]
    data = Dataset.from_frame(
        {"user": [u for u, _ in rows], "item": [i for _, i in rows]},
        split={"name": "random", "valid": 0.2, "test": 0.2}, name="talk",
    )  # fmt: skip
    data = with_attributes(
        data, {"item": range(9), "style": ["x|y", "y", "x"] * 3, "size": ["S", "M", "S"] * 3}, "item",
        ["style", "size"],
    )  # fmt: skip
    further = {LIKES: sorted_edges([[0, 3, 3], [1, 0, 2]]), KNOWS: sorted_edges([[0, 1], [1, 0]])}
    return replace(data, relations={**data.relations, **further})


def test_a_conversational_dataset_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    data = conversational()
    data.save(tmp_path / "talk")
    found = Dataset.load(tmp_path / "talk")
    assert found == data
    assert found.meta == data.meta
    assert list(found.nodes) == ["attribute", "group"]
    assert found.nodes["attribute"] == data.nodes["attribute"]
    assert {HAS, IN, LIKES, KNOWS} == set(found.relations)
    for key, edges in data.relations.items():
        assert np.array_equal(found.relations[key], edges)
        assert found.relations[key].dtype == np.int32


def test_hetero_data_carries_all_relations_both_ways_and_no_held_out_pair() -> None:
    data = conversational()
    assert len(data.valid)
    assert len(data.test)
    hetero = to_hetero_data(data)
    assert hetero.validate(raise_on_error=True)
    for (source, name, target), edges in data.relations.items():
        assert hetero[source, name, target].edge_index.tolist() == edges.tolist()
        assert hetero[target, f"rev_{name}", source].edge_index.flip(0).tolist() == edges.tolist()
    held_out = {
        (u, i) for part in (data.valid, data.test) for u, i in zip(part.users, part.items, strict=True)
    }
    checked = 0
    for source, name, target in hetero.edge_types:
        index = hetero[source, name, target].edge_index
        if {source, target} == {"user", "item"}:
            users, items = index if source == "user" else index.flip(0)
            assert not held_out & set(zip(users.tolist(), items.tolist(), strict=True))
            checked += index.shape[1]
    assert checked == 2 * len(data.train)
    assert from_hetero_data(hetero, name="talk") == data


def test_attribute_names_that_collide_are_refused() -> None:
    table = {"sku": ["a", "b"], "x": ["y: z", "y: z"], "x: y": ["z", "z"]}
    with pytest.raises(DataError, match="'x: y: z'"):
        with_attributes(shop(), table, "sku", ["x", "x: y"])
    assert Vocabulary(["x: y: z"], "attribute").ids == ("x: y: z",)


# -- what the documentation says -----------------------------------------------------------------------------


def test_the_documented_example_prints_what_it_says(tmp_path, monkeypatch, capsys, graphrec):
    page = (Path(__file__).parent.parent / "docs" / "guides" / "data.md").read_text(encoding="utf-8")
    section = page.split("## Attributes, for conversations")[1].split("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)
    assert [language for language, _ in blocks] == ["csv", "csv", "bash", "python", "text"]
    products, orders, commands, code, printed = (text for _, text in blocks)
    write(tmp_path, {"shop/products.csv": products, "shop/orders.csv": orders})
    monkeypatch.chdir(tmp_path)
    for line in commands.replace("\\\n", " ").splitlines():
        answer = graphrec(*line.split()[1:])
        assert answer.code == 0, answer
    assert "kept 4, max_share None, min_items 2, of too few items 1," in answer.out
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == printed, done.stderr
