"""Interactions in every format of a table: refused with file and row, or kept exactly as they are."""

from __future__ import annotations

import os
from datetime import date, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest

from bad.cases import Case, arrow, check_accepted, check_refused, jsonl, parametrize, parquet, table
from graphrec.data.readers import load_dataset

OK = "user,item\nu1,a\nu1,b\nu2,a\nu2,b\n"
ALL_TRAIN = """--set 'split={"name":"random","valid":0,"test":0}'"""
NO_ROWS = pl.DataFrame(schema={"user": pl.String, "item": pl.String})
MANY = pl.DataFrame({"user": [f"u{i}" for i in range(300)], "item": [f"i{i % 7}" for i in range(300)]})


def text(name: str, content: str | bytes, *words: str, options: str = "", file: str = "a.csv") -> Case:
    return Case(name, {file: content}, table(options, file), (file, *words))


def typed(name: str, column: str, values: list, *words: str, options: str = "", **cast: object) -> Case:
    """A Parquet file whose column has an unusable type or value."""
    rows = {"user": ["u1", "u1", "u2"], "item": ["a", "b", "a"], column: values}
    frame = pl.DataFrame(rows, schema_overrides=cast)
    return Case(
        f"parquet: {name}", {"a.parquet": parquet(frame)}, table(options, "a.parquet"), ("a.parquet", *words)
    )


DELIMITED = [
    text("csv: empty file", ""),
    text("csv: header alone", "user,item\n"),
    text("csv: header and blank lines", "user,item\n\n\n"),
    text("csv: blank lines alone", "\n\n\n", "CSV"),
    text("csv: spaces alone", "   ", "','"),
    text("csv: missing column", "user,itm\nu,a\n", "'item'", "'itm'"),
    text("csv: other delimiter", "user;item\nu;a\n", "delimiter=';'"),
    text("csv: a row too short", "user,item\nu1,a\nu2\n", "Row #3", "Expected 2 columns, got 1"),
    text("csv: a row too long", "user,item\nu1,a,b\n", "Row #2", "got 3"),
    text("csv: header too long", "user,item,x\nu1,a\n", "Row #2", "Expected 3 columns"),
    text("csv: carriage returns alone", "user,item\ru1,a\r", "line 1"),
    text("csv: UTF-16 with mark", OK.encode("utf-16"), "line 1", "NUL", "iconv -f utf-16"),
    text("csv: UTF-16 without mark", OK.encode("utf-16-le"), "line 1", "NUL"),
    text("csv: UTF-32", OK.encode("utf-32"), "line 1", "NUL"),
    text("csv: latin-1 value", b"user,item\nu1,a\nu2,\xe9\n", "line 3", "byte 0xe9", "UTF-8"),
    text("csv: latin-1 in an unused column", b"user,item,x\nu1,a,b\nu2,c,\xff\n", "line 3", "byte 0xff"),
    text("csv: latin-1 header", b"us\xe9r,item\nu1,a\n", "line 1", "byte 0xe9"),
    text("csv: surrogate in UTF-8", b"user,item\nu1,\xed\xa0\x80\n", "line 2", "byte 0xed"),
    text("csv: overlong UTF-8", b"user,item\nu1,\xc0\x80\n", "line 2", "byte 0xc0"),
    text("csv: NUL", b"user,item\nu1,a\nu2,\0b\n", "line 3", "NUL"),
    text("csv: two marks", b"\xef\xbb\xbf\xef\xbb\xbf" + OK.encode(), "\\ufeffuser"),
    text("csv: quote open at the end", 'user,item\nu1,a\nu2,"b\n', "line 3"),
    text("csv: quote open, no line end", 'user,item\nu1,a\nu2,"b', "line 3"),
    text("csv: quote swallows rows", 'user,item\nu1,"a\nu2,b\nu3,"c\nu4,d\n', "line 2"),
    text("csv: quote swallows the rest", 'user,item\nu1,"a\nu2,b\nu3,c\n', "line 2"),
    text("csv: quote open in the header", '"user,item\nu1,a\n', "line 1"),
    text("csv: header repeated", "user,item\nu1,a\nuser,item\nu2,b\n", "row 3"),
    text("csv: two columns of one name", "user,item,user\nu1,a,b\n", "'user'"),
    text("csv: nameless columns", ",\nu1,a\n", "''"),
    text("csv: empty id", "user,item\nu1,a\n,b\n", "row 3", "user id ''"),
    text("csv: really a Parquet file", parquet(MANY), "NUL"),
    text(
        "csv: 10,000 columns, none right",
        ",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join("1" * 10_000) + "\n",
        "'user'", "9,980",
    ),
    text("csv: a row of a megabyte", "user,item\nu1,a," + "x" * 1_000_000 + "\n", "Row #2", "got 3"),
    text("tsv: spaces for tabs", "user item\nu1 a\n", "delimiter=' '", file="a.tsv"),
    text("tsv: NUL", "user\titem\nu1\t\0\n", "line 2", "NUL", file="a.tsv"),
    text("tsv: quote open", 'user\titem\nu1\t"a\n', "line 2", file="a.tsv"),
]  # fmt: skip

JSON_LINES = [
    text(f"jsonl: {name}", content, *words, file="a.jsonl", options=options)
    for name, content, words, options in [
        ("empty file", "", (), ""),
        ("blank lines alone", "\n\n", (), ""),
        ("one array", '[{"user":"a","item":"x"}]\n', ("line 1", "list"), ""),
        ("numbers", "1\n2\n", ("line 1", "int"), ""),
        ("null", "null\n", ("line 1", "NoneType"), ""),
        ("an object over several lines", '{\n"user":"a",\n"item":"x"}\n', ("line 1", "JSON"), ""),
        ("two objects on a line", '{"user":"a"}{"user":"b"}\n', ("line 1", "JSON"), ""),
        ("cut in the last line", '{"user":"a","item":"x"}\n{"user":"b","it', ("line 2", "JSON"), ""),
        ("UTF-16", '{"user":"a"}\n'.encode("utf-16"), ("line 1", "0xff"), ""),
        ("latin-1", b'{"user":"a","item":"x"}\n{"user":"\xe9"}\n', ("line 2", "0xe9"), ""),
        ("a missing key", '{"user":"a","item":"x"}\n{"user":"b"}\n', ("row 2", "item id None"), ""),
        ("NaN", '{"user":"a","item":"x","t":1}\n{"user":"a","item":"y","t":NaN}\n',
         ("line 2", "NaN"), "--set time=t"),
        ("1e400", '{"user":"a","item":"x","t":1}\n{"user":"a","item":"y","t":1e400}\n',
         ("row 2", "time inf"), "--set time=t"),
        ("an integer of 10,000 digits", '{"user":' + "9" * 10_000 + ',"item":"x"}\n', ("line 1",), ""),
        ("100,000 brackets", '{"user":"a","item":' + "[" * 100_000 + "]" * 100_000 + "}\n",
         ("line 1", "JSON"), ""),
        ("a control character", '{"user":"a\x01","item":"x"}\n', ("line 1", "JSON"), ""),
        ("an escaped NUL", '{"user":"a\\u0000","item":"x"}\n', ("row 1", "NUL"), ""),
        ("a lone surrogate", '{"user":"\\ud800","item":"x"}\n', ("row 1", "user id"), ""),
        ("really a CSV", OK, ("line 1", "JSON"), ""),
        ("fractional id", jsonl({"user": 1.5, "item": "x"}), ("row 1", "user id 1.5"), ""),
    ]
]  # fmt: skip

RATED = "--set rating=r --set min_rating=1"
TYPED = [
    typed("fractional id", "item", [1.0, 2.5, 3.0], "row 2", "item id 2.5"),
    typed("NaN id", "item", [1.0, float("nan"), 3.0], "row 2", "item id nan"),
    typed("infinite id", "item", [1.0, float("inf"), 3.0], "row 2", "item id inf"),
    typed("id of 2^53 as a float", "item", [1.0, 2.0**53, 3.0], "row 2", "exact below 9,007,199,254,740,992"),
    typed("id of 2^24 as float32", "item", [1.0, 2.0**24, 3.0], "row 2", "16,777,216", item=pl.Float32),
    typed("missing id", "item", ["a", None, "c"], "row 2", "item id None"),
    typed("ids all missing", "item", [None] * 3, "type Null"),
    typed("truth values as ids", "item", [True, False, True], "type Boolean"),
    typed("lists as ids", "item", [["a"], ["b"], ["c"]], "type List"),
    typed("structs as ids", "item", [{"a": 1}] * 3, "type Struct"),
    typed("dates as ids", "item", [date(2020, 1, 1)] * 3, "type Date"),
    typed("date-times as ids", "item", [datetime(2020, 1, 1)] * 3, "type Datetime"),
    typed("bytes as ids", "item", [b"a", b"b", b"c"], "type Binary"),
    typed("decimals as ids", "item", [1, 2, 3], "type Decimal", item=pl.Decimal(10, 2)),
    typed("a NUL in an id", "item", ["a", "b\0", "c"], "row 2", "NUL"),
    typed("missing time", "t", [1, None, 3], "row 2", "time None", options="--set time=t"),
    typed("NaN time", "t", [1.0, float("nan"), 3.0], "row 2", "time nan", options="--set time=t"),
    typed("infinite time", "t", [1.0, float("inf"), 3.0], "row 2", "time inf", options="--set time=t"),
    typed("time beyond int64", "t", [1.0, 1e300, 3.0], "row 2", "time 1e+300", options="--set time=t"),
    typed("unsigned time beyond int64", "t", [1, 2**64 - 1, 3], "row 2", options="--set time=t", t=pl.UInt64),
    typed("lists as times", "t", [[1], [2], [3]], "time column 't'", "type List", options="--set time=t"),
    typed("structs as times", "t", [{"a": 1}] * 3, "type Struct", options="--set time=t"),
    typed("bytes as times", "t", [b"1"] * 3, "type Binary", options="--set time=t"),
    typed("truth values as times", "t", [True, False, True], "type Boolean", options="--set time=t"),
    typed("times of day", "t", [time(1)] * 3, "type Time", options="--set time=t"),
    typed("durations as times", "t", [timedelta(1)] * 3, "type Duration", options="--set time=t"),
    typed("missing rating", "r", [1, None, 3], "row 2", "rating None", options=RATED),
    typed("lists as ratings", "r", [[1]] * 3, "rating column 'r'", options=RATED),
    typed("dates as ratings", "r", [date(2020, 1, 1)] * 3, "type Date", options=RATED),
    typed("unknown split", "s", [0, 5, 0], "row 2", "split 5", options="--set split=s"),
    typed("fractional split", "s", [0.0, 0.4, 0.0], "row 2", "split 0.4", options="--set split=s"),
    typed("NaN split", "s", [0.0, float("nan"), 0.0], "row 2", "split nan", options="--set split=s"),
    typed("missing split", "s", [0, None, 0], "row 2", "split None", options="--set split=s"),
    typed("truth values as splits", "s", [True, False, True], "row 1", "split True", options="--set split=s"),
    typed("bytes as splits", "s", [b"0"] * 3, "split column 's'", options="--set split=s"),
    typed("lists as splits", "s", [[0]] * 3, "split column 's'", options="--set split=s"),
]  # fmt: skip

BINARY = [
    Case(f"{suffix}: {name}", {f"a.{suffix}": content}, table(file=f"a.{suffix}"), (f"a.{suffix}",))
    for suffix, whole, no_rows in [
        ("parquet", parquet(MANY), parquet(NO_ROWS)),
        ("arrow", arrow(MANY), arrow(NO_ROWS)),
    ]
    for name, content in [
        *((f"cut after {n} of 100", whole[: len(whole) * n // 100]) for n in (1, 30, 60, 95)),
        ("without the last byte", whole[:-1]),
        ("zeros", bytes(len(whole))),
        ("really a CSV", OK),
        ("empty file", b""),
        ("no rows", no_rows),
    ]
]

TIMES = [
    text(
        f"times: {name}",
        "user,item,t\n" + "".join(f"u,i{i},{value}\n" for i, value in enumerate(values)),
        f"row {row}", f"time '{values[row - 2]}'",
        options="--set time=t",
    )
    for name, values, row in [
        ("year 10000", ["2020-01-01", "10000-01-01", "2020-01-03"], 3),
        ("30 February", ["2020-02-30", "2020-01-01"], 2),
        ("month first", ["12/11/2020", "01/02/2020"], 2),
        ("of day alone", ["12:00", "13:00"], 2),
        ("numbers and dates mixed", ["1700000000", "2020-01-01"], 3),
        ("with and without a zone", ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00"], 3),
        ("an empty one", ["1", ""], 3),
        ("words", ["x", "y"], 2),
        ("hexadecimal", ["0x10", "1"], 2),
        ("beyond int64", ["1", "1e19"], 3),
    ]
]  # fmt: skip

EMPTY = [
    text("filter: rating too high", "user,item,r\nu,a,5\n", "6",
         options="--set rating=r --set min_rating=6"),
    text("filter: ratings are words", "user,item,r\nu,a,good\n", "row 2", "rating 'good'",
         options="--set rating=r --set min_rating=6"),
    text("filter: rating column missing", OK, "'stars'", options="--set rating=stars"),
    text("filter: no rating column named", OK, "rating=", options="--set min_rating=3"),
    text("filter: core too high", OK, "50/50", options="--set k_core=50"),
    text("split: no times", OK, "'time'", options="--set split=time"),
    text("split: leave-one-out without times", OK, "'leave-one-out'", options="--set split=leave-one-out"),
    text("split: contradicting labels", "user,item,s\nu,a,train\nu,b,train\nu,a,test\n",
         "user 'u'", "item 'a'", options="--set split=s"),
    text("split: unknown label", "user,item,s\nu,a,train\nu,b,tset\n", "row 3", "'tset'",
         options="--set split=s"),
    Case("split: no label says train", {"a.csv": "user,item,s\nu,a,test\nu,b,valid\n"},
         table("--set split=s"), ("the train split is empty",)),
    Case("split: all equal times", {"a.csv": "user,item,t\nu,a,5\nu,b,5\n"},
         table("--set time=t --set split=time"), ("the train split is empty",)),
    Case("split: no validation to select on", {"a.csv": OK},
         f"train popularity table --set data.interactions=a.csv {ALL_TRAIN.replace('split', 'data.split')} "
         "--out run --select ndcg@10", ("valid split is empty", "ndcg@10", "--select none")),
    Case("a file that is a folder", {"a.csv/x": ""}, table(), ("a.csv",)),
    Case("no file", {}, table(), ("a.csv",)),
    Case("a pattern for a file", {"a.csv": OK}, table(file="*.csv"), ("*.csv",)),
    Case("a pipe", {"a.csv": os.mkfifo}, table(), ("a.csv",)),
    Case("a link to itself", {"a.csv": lambda path: path.symlink_to(path)}, table(), ("a.csv",)),
    Case("a link to nothing", {"a.csv": lambda path: path.symlink_to("b")}, table(), ("a.csv",)),
    Case("a spreadsheet", {"a.xlsx": "x"}, table(file="a.xlsx"), ("a.xlsx", ".csv")),
]  # fmt: skip


@parametrize([*DELIMITED, *JSON_LINES, *TYPED, *BINARY, *TIMES, *EMPTY])
def test_bad_interactions_are_refused_with_file_and_row(case, tmp_path, refused):
    check_refused(case, tmp_path, refused)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path, refused):
    (tmp_path / "a.csv").write_text(OK)
    (tmp_path / "a.csv").chmod(0)
    assert "a.csv" in refused("data", "show", "table", "--set", "interactions=a.csv")


@parametrize(
    [
        Case("repeated pairs are kept once", {"a.csv": OK + "u1,a\nu1,a\n"}, table(ALL_TRAIN),
             ("interactions 4", "repeated pairs dropped 2")),
        Case("blank lines are no rows", {"a.csv": "user,item\nu1,a\n\nu2,b\n"}, table(ALL_TRAIN),
             ("rows 2",)),
        Case("milliseconds order as well", {"a.csv": "user,item,t\nu,a,1700000000001\nu,b,1700000000000\n"},
             table("--set time=t " + ALL_TRAIN), ("interactions 2",)),
        Case("users with one interaction stay in train", {"a.csv": "user,item,t\nu,a,1\nv,b,2\n"},
             table("--set time=t --set split=leave-one-out"), ("train 2", "test 0")),
        Case("a byte order mark before JSON", {"a.jsonl": "\ufeff" + jsonl({"user": "u", "item": "a"})},
             table(ALL_TRAIN, "a.jsonl"), ("interactions 1",)),
        Case("10,000 columns", {"a.csv": "user,item," + ",".join(f"c{i}" for i in range(10_000)) + "\nu,a,"
             + ",".join("1" * 10_000) + "\n"}, table(ALL_TRAIN), ("interactions 1",)),
    ]
)  # fmt: skip
def test_odd_interactions_are_read_and_counted(case, tmp_path, graphrec):
    check_accepted(case, tmp_path, graphrec)


ODD = ["007", "7", " 7", "  ", "../x", "..\\x", "/etc/passwd", "caf\u00e9", "cafe\u0301", "NA", "null", "nan",
       "None", "1e5", "-0", "\u200b", "\u202ex", "\ufeffx", "\x1b[31m", "-rf", "x" * 1_000_000]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "arrow"])
def test_odd_ids_are_kept_apart_exactly_as_they_came(tmp_path: Path, suffix: str):
    frame = pl.DataFrame({"user": ODD, "item": ODD[::-1]})
    path = tmp_path / f"a.{suffix}"
    if suffix in ("csv", "tsv"):
        frame.write_csv(path, separator="," if suffix == "csv" else "\t")
    elif suffix == "jsonl":
        frame.write_ndjson(path)
    else:
        path.write_bytes(parquet(frame) if suffix == "parquet" else arrow(frame))
    data = load_dataset(
        "table", tmp_path, interactions=path.name, split={"name": "random", "valid": 0, "test": 0}
    )
    assert set(data.users.ids) == set(data.items.ids) == set(ODD)
    pairs = zip(data.users.take(data.train.users), data.items.take(data.train.items), strict=True)
    assert set(pairs) == set(zip(ODD, ODD[::-1], strict=True))


def test_neighboring_times_beyond_float_precision_stay_apart(tmp_path: Path):
    (tmp_path / "a.csv").write_text("user,item,t\nu,a,9007199254740993\nu,b,9007199254740992\nu,c,1\n")
    data = load_dataset("table", tmp_path, interactions="a.csv", time="t", split="leave-one-out")
    assert data.items.take(data.test.items) == ["a"]
