"""Delimited files and JSON Lines of many spellings: read as written, or refused at the first wrong line."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import pytest
from layouts import ALL_TRAIN, texts, write

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.readers import load_dataset
from graphrec.data.readers.delimited import TextFormat
from graphrec.data.readers.files import read_table

ROWS = [("u1", "a"), ("u1", "b"), ("u2", "a")]
LINES = "\n".join(json.dumps({"user": u, "item": i}) for u, i in ROWS)


def pairs(folder, name="interactions.csv", **options):
    data = load_dataset("table", folder, interactions=name, split=ALL_TRAIN, **options)
    return [(data.users[u], data.items[i]) for u, i in zip(data.train.users, data.train.items, strict=True)]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.tsv", 'user\titem\n1\tx\n2\t"Great" cup\n3\ty\n', 3),
        ("a.tsv", 'user\titem\n1\t"12" TV\n2\t"15" TV\n', 2),
        ("a.tsv", 'user\titem\n1\t"Great\n2\tgood"\n3\tx\n', 2),
        ("a.tsv", 'user\titem\n1\tx\n2\t"Great\n3\ty\n4\tgood"\n5\tx\n', 3),
        ("a.csv", 'user,item,n\n1,"a,1\n2,b,2\n3,c",3\n4,d,4\n', None),
        ("a.csv", 'user,item,n\n1,x,1\n2,"a\n3,b,2\n4,c,"\n5,d,4\n', 3),
        ("a.csv", 'user,item\n1,"he said \\"hi\\""\n2,x\n', 2),
        ("a.csv", 'user,item\n1,"2\n3,4\n4,4\n5,"7"\n', 2),
        ("a.csv", '\ufeff"user",item\n1,"a" b\n', 2),
    ],
)
def test_quotes_that_change_text_or_swallow_rows_are_refused_where_they_begin(tmp_path, name, text, line):
    write(tmp_path, {name: text})
    if line is None:  # a text of several lines that do not look like rows
        assert read_table(tmp_path / name).rows()[0] == ("1", "a,1\n2,b,2\n3,c", "3")
        return
    with pytest.raises(DataError, match=rf"{name}, line {line}:"):
        read_table(tmp_path / name)


def test_quotes_as_ordinary_characters(tmp_path):
    text = 'user\titem\n1\t"Great" cup\n2\t12" TV\n3\t"half\n'
    write(tmp_path, {"a.tsv": text, "b.csv": 'user,item\n1,"he said \\"hi\\", twice"\n2,x\n'})
    plain = TextFormat(quote=False)
    assert read_table(tmp_path / "a.tsv", plain)["item"].to_list() == ['"Great" cup', '12" TV', '"half']
    assert [item for _, item in pairs(tmp_path, "a.tsv", quote=False)] == ['"Great" cup', '12" TV', '"half']
    escaped = read_table(tmp_path / "b.csv", TextFormat(escape="\\"))
    assert escaped["item"].to_list() == ['he said "hi", twice', "x"]


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.csv", "user;item\nu1;a\nu1;b\nu2;a\n", {"delimiter": ";"}),
        ("a.csv", "# made today\nuser,item\nu1,a\n# more\nu1,b\nu2,a\n", {"comment": "#"}),
        ("a.csv", "u1,a\nu1,b\nu2,a\n", {"columns": ["user", "item"]}),
        ("a.csv", "user,item\nu1,a\nu1,b\nu2,a\n".encode("utf-16"), {"encoding": "utf-16"}),
        ("a.dat", "u1::a::5\nu1::b::4\nu2::a::3\n", {"columns": ["user", "item", "stars"]}),
        ("a.dat", "user::item\nu1::a\nu1::b\nu2::a\n", {}),
        ("a.txt", "user item\nu1 a\nu1 b\nu2 a\n", {}),
        ("a.txt", "user|item\nu1|a\nu1|b\nu2|a\n", {}),
        ("a.csv.gz", gzip.compress(b"user,item\nu1,a\nu1,b\nu2,a\n", mtime=0), {}),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0), {}),
        ("a.json", LINES, {}),
        ("a.json", json.dumps([{"user": u, "item": i} for u, i in ROWS], indent=1), {}),
    ],
)  # fmt: skip
def test_files_of_many_spellings(tmp_path, name, text, options):
    write(tmp_path, {name: text})
    assert pairs(tmp_path, name, **options) == ROWS


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_a_zip_of_one_file(tmp_path):
    write(tmp_path, {
        "a.csv.zip": zipped({"../../evil.csv": "user,item\nu1,a\nu1,b\nu2,a\n"}),
        "b.csv.zip": zipped({"x.csv": "user,item\n", "y.csv": "user,item\n"}),
        "c.csv.zip": b"PK\x03\x04 cut",
        "d.csv.gz": gzip.compress(b"user,item\nu1,a\n", mtime=0)[:-9],
        "e.csv.gz": gzip.compress(b"", mtime=0),
    })  # fmt: skip
    assert pairs(tmp_path, "a.csv.zip") == ROWS
    assert not list(tmp_path.parent.rglob("evil.csv"))
    for name, fact in (
        ("b.csv.zip", "2 files"),
        ("c.csv.zip", "zip"),
        ("d.csv.gz", "gz"),
        ("e.csv.gz", "empty"),
    ):
        with pytest.raises(DataError, match=rf"{name}.*{fact}"):
            read_table(tmp_path / name)


def test_lists_of_items_as_lightgcn_writes_them(tmp_path):
    write(tmp_path, {"train.txt": "0 5 7 11\n1 5\n10 7 5\n2\n"})
    assert pairs(tmp_path, "train.txt") == [
        ("0", "5"), ("0", "7"), ("0", "11"), ("1", "5"), ("10", "5"), ("10", "7"),
    ]  # fmt: skip


@pytest.mark.parametrize("mark", [";", "\t", " ", "|"])
def test_another_delimiter_is_named(tmp_path, mark):
    write(tmp_path, {"a.csv": f"user{mark}item\nu1{mark}a\n"})
    with pytest.raises(DataError, match=r"a\.csv, line 1") as caught:
        read_table(tmp_path / "a.csv")
    assert f"delimiter={mark!r}" in str(caught.value)


def test_the_line_of_a_byte_in_another_encoding(tmp_path):
    write(tmp_path, {"a.csv": "user,item\nu1,a\nu2,é\n".encode("latin-1")})
    with pytest.raises(DataError, match=r"a\.csv, line 3.*encoding="):
        read_table(tmp_path / "a.csv")
    assert pairs(tmp_path, "a.csv", encoding="latin-1") == [("u1", "a"), ("u2", "é")]
    with pytest.raises(DataError, match=r"a\.csv, line 3.*ascii"):
        read_table(tmp_path / "a.csv", TextFormat(encoding="ascii"))


@pytest.mark.parametrize(
    "options",
    [{"encoding": "klingon"}, {"delimiter": ""}, {"comment": ""}, {"escape": '"'}, {"delimiter": "\n"}],
)
def test_unusable_text_options(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        TextFormat(**options)


ITEMS = [
    {"sku": "a", "name": "Tom &amp; Jerry <b>DVD</b>", "tags": ["x", "y"], "details": {"brand": "Acme"},
     "p": 1},
    {"sku": "b", "name": "2 < 3 &lt;br&gt;", "tags": [], "details": {"brand": None}, "p": {"usd": 1}},
]  # fmt: skip


def test_only_the_named_columns_of_json_lines_are_used(tmp_path):
    lines = "\n".join(map(json.dumps, ITEMS))
    write(tmp_path, {"interactions.csv": "user,sku\nu,a\nu,b\n", "items.jsonl": lines})
    options = {"item": "sku", "items": "items.jsonl", "split": ALL_TRAIN}
    data = load_dataset("table", tmp_path, text=["name", "tags", "details.brand"], clean=True, **options)
    assert texts(data) == {"a": "Tom & Jerry DVD . x, y. Acme.", "b": "2 < 3 <br>."}
    plain = load_dataset("table", tmp_path, text="name", **options)
    assert texts(plain)["a"] == "Tom &amp; Jerry <b>DVD</b>."
    with pytest.raises(DataError, match=r"items\.jsonl, line 2: 'p'.*usd"):
        load_dataset("table", tmp_path, text=["name", "p"], **options)
    with pytest.raises(DataError, match=r"'details' has no key 'brnd'.*'brand'"):
        load_dataset("table", tmp_path, text="details.brnd", **options)
