"""The reader of any table: formats, damage, options."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from layouts import ALL_TRAIN, texts, write

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import Dataset, RandomSplit
from graphrec.data.readers import load_dataset
from graphrec.data.readers.files import FORMATS, read_table
from graphrec.data.readers.images import match_images

CSV = "user,item,rating,when\nu1,007,5,2024-01-01\nu1,7,4,2024-01-02\nu2,007,1,2024-01-03\n"
ITEMS = 'sku,name,blurb,pic\n007,"Cup, blue","Says ""hi""",a/1.png\n7,Pot,,\n'


def read(folder: Path, **options):
    return load_dataset("table", folder, **{"split": ALL_TRAIN, **options})


def test_table_with_everything(tmp_path):
    write(tmp_path, {"interactions.csv": CSV, "shop/items.csv": ITEMS, "shop/a/1.png": b"x"})
    data = read(
        tmp_path, time="when", rating="rating", min_rating=4, items="shop/items.csv", item_id="sku",
        text=["name", "blurb"], image="pic", name="mine",
    )  # fmt: skip
    assert (data.name, data.items.ids, len(data.train)) == ("mine", ("007", "7"), 2)
    assert texts(data) == {"007": 'Cup, blue. Says "hi".', "7": "Pot."}
    assert data.content["image"].values == ("a/1.png", None)
    assert data.content["image"].path(0).is_file()
    assert data.meta["options"]["text"] == ["name", "blurb"]
    assert data.meta["options"]["split"] == ALL_TRAIN


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_all_formats_give_one_dataset(tmp_path, suffix):
    frame = pl.DataFrame({"user": ["b", "a", "a"], "item": ["01", "1", "é"], "n": [1, 2, 3]})
    path = tmp_path / f"t{suffix}"
    {
        ".csv": frame.write_csv,
        ".tsv": lambda p: frame.write_csv(p, separator="\t"),
        ".inter": lambda p: frame.write_csv(p, separator="\t"),
        ".dat": lambda p: frame.write_csv(p, separator=";"),
        ".txt": lambda p: frame.write_csv(p, separator="|"),
        ".json": frame.write_ndjson,
        ".jsonl": frame.write_ndjson,
        ".ndjson": frame.write_ndjson,
        ".parquet": frame.write_parquet,
        ".arrow": frame.write_ipc,
        ".feather": frame.write_ipc,
    }[suffix](path)
    expected = Dataset.from_frame(frame, time="n", split=ALL_TRAIN)
    assert read(tmp_path, interactions=path.name, time="n") == expected


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_line_ends_and_byte_order_mark(tmp_path, mark, end):
    write(tmp_path, {"interactions.csv": mark + CSV.replace("\n", end).encode()})
    data = read(tmp_path, time="when")
    assert (data.users.ids, data.items.ids, data.train.times is None) == (("u1", "u2"), ("007", "7"), False)


def test_pictures_by_folder_are_listed_not_derived(tmp_path):
    pictures = ("pics/a.png", "pics/b.c.jpg", "pics/notes.txt", "pics/.a.jpg", "pics/z.gif", "secret.png")
    write(
        tmp_path,
        {"interactions.csv": "user,item\nu,a\nu,../secret\nu,b.c\n", **dict.fromkeys(pictures, b"x")},
    )
    data = read(tmp_path, images="pics")
    pictures = dict(zip(data.items.ids, data.content["image"].values, strict=True))
    assert pictures == {"../secret": None, "a": "a.png", "b.c": "b.c.jpg"}
    assert match_images(tmp_path / "pics", data.items.ids)[1] == 1
    write(tmp_path, {"pics/a.jpeg": b"x"})
    with pytest.raises(DataError, match=r"'a\.jpeg'.*'a\.png'.*item 'a'"):
        read(tmp_path, images="pics")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ""),
        (b"user,item\n", ""),
        (b"user,item\nu1,a\nu2\n", "Row #3: Expected 2 columns, got 1"),
        (b"user,item\nu1,a,b\n", "Row #2: Expected 2 columns, got 3"),
        (b"user,item\nu1,caf\xe9\n", "line 2: byte 0xe9"),
        (b"us\xe9r,item\nu1,a\n", "line 1: byte 0xe9"),
        (b"user,item\nu1,a\nu2,\0b\n", "line 3: "),
        (CSV.encode("utf-16"), "line 1: "),
        (b'user,item\nu1,a\nu2,"b\nu3,c\n', "line 3: "),
        (b"user,user\nu1,a\n", "'user'"),
        (b"user;item\nu1;a\n", "'user;item'"),
        (b"user,item\nu1,a\n,b\n", "row 3: user id ''"),
    ],
)
def test_damaged_csv(tmp_path, content, words):
    write(tmp_path, {"interactions.csv": content})
    with pytest.raises(DataError, match=rf"interactions\.csv.*{re.escape(words)}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"user": 1, "item": 2}\n{"user": 1, "ite\n', "line 2: "),
        ("a.jsonl", b'{"user": 1, "item": 2}\n[1]\n', "line 2: "),
        ("a.parquet", b"PAR1 but cut short", "Parquet"),
        ("a.arrow", b"ARROW1 but cut short", "Arrow"),
        ("a.xlsx", b"x", "'.xlsx'"),
    ],
)
def test_damaged_files(tmp_path, name, content, words):
    write(tmp_path, {name: content})
    with pytest.raises(DataError, match=rf"{re.escape(name)}.*{re.escape(words)}"):
        read(tmp_path, interactions=name)


def test_a_truncated_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": range(500), "item": range(500)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a.parquet|a.arrow"):
        read_table(path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"interactions": "gone.csv"}, DataError, "gone.csv: "),
        ({"user": "usr"}, DataError, "'usr'"),
        ({"time": "user"}, DataError, "row 2: time 'u1'"),
        ({"text": "name"}, ConfigError, "items="),
        ({"items": "items.csv", "item_id": "sku", "text": "nam"}, DataError, "'nam'"),
        ({"items": "items.csv"}, DataError, "'item'"),
        (
            {"items": "twice.csv", "item_id": "sku"},
            DataError,
            "twice.csv, row 4: item '7'",
        ),
        (
            {"items": "out.csv", "item_id": "sku", "image": "pic"},
            DataError,
            "'../x.png'",
        ),
        (
            {"items": "items.csv", "item_id": "sku", "image": "pic"},
            DataError,
            "'a/1.png'",
        ),
        ({"images": "nowhere"}, DataError, "nowhere"),
        ({"images": "empty"}, DataError, "2 items"),
        ({"images": "p", "image": "pic", "items": "items.csv"}, ConfigError, "images="),
    ],
)
def test_wrong_table_options(tmp_path, options, error, words):
    write(tmp_path, {"interactions.csv": CSV, "items.csv": ITEMS, "twice.csv": ITEMS + "7,Pan,,\n",
                     "out.csv": ITEMS.replace("a/1.png", "../x.png"), "empty/readme.txt": "x"})  # fmt: skip
    with pytest.raises(error, match=re.escape(words)):
        read(tmp_path, **options)


@pytest.mark.parametrize("path", ["/etc/x.png", "a/../../x.png", "C:\\x.png", "..\\x.png"])
def test_picture_paths_stay_inside(tmp_path, path):
    write(tmp_path, {"interactions.csv": CSV, "items.csv": ITEMS.replace("a/1.png", path)})
    with pytest.raises(DataError, match="row"):
        read(tmp_path, items="items.csv", item_id="sku", image="pic")


def test_split_objects_and_columns(tmp_path):
    write(tmp_path, {"interactions.csv": "user,item,part\nu,a,train\nu,b,valid\nu,c,test\n"})
    data = read(tmp_path, split="part")
    assert [len(data.train), len(data.valid), len(data.test)] == [1, 1, 1]
    data = read(tmp_path, split=RandomSplit(0.0, 0.34))
    assert data.meta["options"]["split"] == {"name": "random", "valid": 0.0, "test": 0.34}


def test_ids_that_lost_their_leading_zeros_in_one_file(tmp_path, capsys):
    write(tmp_path, {
        "interactions.csv": "user,item\nu,007\nu,017\nu,9\nu,A1\n",
        "none.csv": "item,name\n7,seven\n17,seventeen\n5,five\n",
        "some.csv": "item,name\n7,seven\n9,nine\n10,ten\na1 ,a\n",
        "other.csv": "item,name\n9,nine\n10,ten\n",
    })  # fmt: skip
    with pytest.raises(DataError, match=r"none\.csv: none of its 3 items.*2 would match.*'7'.*'007'"):
        read(tmp_path, items="none.csv", text="name")
    assert texts(read(tmp_path, items="some.csv", text="name"))["9"] == "nine."
    note = capsys.readouterr().err
    assert "some.csv: 3 items have no interactions; 2 would match" in note
    read(tmp_path, items="other.csv", text="name")
    assert capsys.readouterr().err == ""


def test_numbers_beside_text_in_a_column_of_ids(tmp_path):
    lines = '{"user": "u", "item": "8", "item2": 1}\n\n{"user": "u", "item": 7}\n{"user": "u", "item": "7"}\n'
    write(tmp_path, {"a.jsonl": lines, "b.jsonl": lines.replace(": 7}", ': "9"}')})
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: 'item' is 7"):
        read(tmp_path, interactions="a.jsonl")
    assert read(tmp_path, interactions="b.jsonl").items.ids == ("7", "8", "9")
    columns = {"user": ["u"] * 3, "item": [8, None, "7"]}
    frames = [columns]
    if pandas := pytest.importorskip("pandas"):
        frames.append(pandas.DataFrame(columns))
    for frame in frames:
        with pytest.raises(DataError, match=r"orders, row 3: column 'item' holds '7', and before it 8"):
            Dataset.from_frame(frame, source="orders")
