"""Item tables and the layouts of published datasets: every file of each, damaged."""

from __future__ import annotations

import os

import numpy as np
import polars as pl

from bad.cases import Case, check_accepted, check_refused, npz, parametrize, parquet, table

OK = "user,item\nu1,a\nu1,b\nu2,a\nu2,b\n"
NAMED = "--set items=items.csv --set item_id=id --set text=name"
PICTURES = "--set items=items.parquet --set item_id=id --set image=pic"


def items(
    name: str, content: str | bytes, *words: str, options: str = NAMED, file: str = "items.csv"
) -> Case:
    options = options.replace("items.csv", file)
    return Case(f"items: {name}", {"a.csv": OK, file: content}, table(options), (file, *words))


def column(name: str, values: list, *words: str, options: str) -> Case:
    """A Parquet item table with an unusable column ``pic``."""
    frame = pl.DataFrame({"id": ["a", "b"], "pic": values})
    return items(name, parquet(frame), *words, options=options, file="items.parquet")


ITEMS = [
    items("empty file", ""),
    items("header alone", "id,name\n"),
    items("item twice", "id,name\na,A\nb,B\na,C\n", "row 4", "'a'"),
    items("no known item", "id,name\nx,A\ny,B\n", "'x'", "'id'"),
    items("ids in another column", "id,name\n1,a\n2,b\n", "'1'"),
    items("no id column", "idd,name\na,A\n", "'id'", "'idd'"),
    items("no text column", "id,nme\na,A\n", "'name'", "'nme'"),
    items("empty id", "id,name\na,A\n,B\n", "row 3", "item id ''"),
    items("ragged", "id,name\na,A\nb\n", "Row #3", "Expected 2 columns, got 1"),
    items("latin-1", b"id,name\na,A\nb,\xe9\n", "line 3", "byte 0xe9"),
    items("quote open in a text", 'id,name\na,"A\nb,B\n', "line 2"),
    items("fractional id", parquet(pl.DataFrame({"id": [1.5], "name": ["A"]})), "row 1", "item id 1.5",
          file="items.parquet"),
    items("missing id", parquet(pl.DataFrame({"id": ["a", None], "name": ["A", "B"]})), "row 2",
          "item id None", file="items.parquet"),
    items("objects as texts", '{"id":"a","name":{"x":1}}\n', "'name'", "Struct", file="items.jsonl"),
    items("lists of lists as texts", '{"id":"a","name":[["x"]]}\n', "type List", file="items.jsonl"),
    column("bytes as texts", [b"\xff", b"\xfe"], "'pic'", "Binary",
           options=NAMED.replace("text=name", "text=pic")),
    column("bytes as picture paths", [b"\xff", b"\xfe"], "'pic'", "Binary", options=PICTURES),
    column("lists as picture paths", [["a"], ["b"]], "'pic'", "List", options=PICTURES),
    column("structs as picture paths", [{"x": "a"}] * 2, "'pic'", options=PICTURES),
    column("a picture path that leads out", ["a.png", "../b.png"], "row 2", "'../b.png'", options=PICTURES),
    column("an absolute picture path", ["a.png", "/b.png"], "row 2", "'/b.png'", options=PICTURES),
    column("a Windows picture path that leads out", ["a.png", "..\\b.png"], "row 2", options=PICTURES),
    items("no text column named", "id,name\na,A\n", "text=",
          options="--set items=items.csv --set item_id=id --set text=[]"),
    Case("items: a pipe", {"a.csv": OK, "items.csv": os.mkfifo}, table(NAMED), ("items.csv",)),
    Case("items: the folder itself", {"a.csv": OK}, table("--set items=."), (".",)),
    Case("items: no picture exists", {"a.csv": OK, "items.parquet": parquet(pl.DataFrame(
        {"id": ["a"], "pic": ["x" * 5_000]}))}, table(PICTURES), ("xxx",)),
    Case("images: a file for the folder", {"a.csv": OK}, table("--set images=a.csv"),
         ("a.csv",)),
    Case("images: two of one item", {"a.csv": OK, "p/a.jpg": "x", "p/a.png": "x"}, table("--set images=p"),
         ("'a.jpg'", "'a.png'", "item 'a'")),
    Case("images: none fits", {"a.csv": OK, "p/z.jpg": "x"}, table("--set images=p"),
         ("2 items", "/p")),
]  # fmt: skip

INTER = "userID\titemID\tx_label\n0\t0\t0\n0\t1\t1\n0\t2\t2\n1\t0\t0\n1\t2\t0\n"


def inter(name: str, content: str | bytes, *words: str, options: str = "") -> Case:
    return Case(f"inter: {name}", {"a.inter": content}, f"data show inter --root . {options}", words)


INTERS = [
    inter("user", "itemID\n1\n", "a.inter", "user"),
    inter("commas", "userID,itemID\n1,2\n", "a.inter", "'userID,itemID'"),
    inter("two user columns", "userID\tuser_id\titemID\n1\t2\t3\n", "'userID'", "'user_id'"),
    inter("two spellings", "USERID\tuserID\titemID\n1\t2\t3\n", "'USERID'", "'userID'"),
    inter("unknown label", "userID\titemID\tx_label\n1\t2\t5\n", "a.inter, row 2", "split '5'"),
    inter("fractional label", "userID\titemID\tx_label\n1\t2\t0.5\n", "a.inter, row 2", "split '0.5'"),
    inter("time is a word", "userID\titemID\ttimestamp\n1\t2\tx\n", "a.inter, row 2", "time 'x'"),
    inter("rating is a word", "userID\titemID\trating\n1\t2\tx\n", "a.inter, row 2", "rating 'x'",
          options="--set min_rating=2"),
    inter("pair in two splits", INTER + "1\t2\t1\n", "user '1'", "item '2'"),
    inter("ragged", "userID\titemID\n1\n", "a.inter", "Row #2"),
    inter("header repeated", "userID\titemID\n1\t2\nuserID\titemID\n", "a.inter, row 3"),
    Case("inter: two files", {"a.inter": INTER, "b.inter": INTER}, "data show inter --root .",
         ("['a.inter', 'b.inter']",)),
    Case("inter: no file", {}, "data show inter --root .", (".inter",)),
]  # fmt: skip

ITEM_MAP = "asin\titemID\nB2\t2\n007\t0\nB1\t1\n"
BABY = {
    "baby.inter": INTER,
    "i_id_mapping.csv": ITEM_MAP,
    "u_id_mapping.csv": "user_id\tuserID\nUB\t1\nUA\t0\n",
    "item_text_partial.jsonl": '{"itemID":2,"title":"Mum","description":null}\n',
}


def baby(name: str, file: str, content: str | bytes, *words: str) -> Case:
    """Amazon Baby with one file exchanged."""
    return Case(f"{file}: {name}", {**BABY, file: content}, "data show amazon-baby --root .", (file, *words))


MAP, TEXTS = "i_id_mapping.csv", "item_text_partial.jsonl"
BABIES = [
    baby("empty file", MAP, ""),
    baby("header alone", MAP, "asin\titemID\n"),
    baby("gap", MAP, ITEM_MAP.replace("2\n", "3\n"), "row 2", "'3'", "0 to 2"),
    baby("index twice", MAP, ITEM_MAP.replace("B1\t1", "B1\t0"), "row 4", "'0'"),
    baby("negative index", MAP, ITEM_MAP.replace("B1\t1", "B1\t-1"), "row 4", "'-1'"),
    baby("index is a word", MAP, ITEM_MAP.replace("B1\t1", "B1\tx"), "row 4", "'x'"),
    baby("index of twenty digits", MAP, ITEM_MAP.replace("B1\t1", "B1\t" + "9" * 20), "row 4"),
    baby("id twice", MAP, ITEM_MAP.replace("B1", "B2"), "row 4", "'B2'"),
    baby("empty id", MAP, ITEM_MAP.replace("B1", ""), "row 4", "id ''"),
    baby("ragged", MAP, ITEM_MAP + "B3\n", "Row #5"),
    baby("latin-1", MAP, ITEM_MAP.encode() + b"\xe9\t3\n", "line 5", "byte 0xe9"),
    baby("UTF-16", MAP, ITEM_MAP.encode("utf-16"), "line 1", "NUL"),
    baby("NUL", MAP, ITEM_MAP.replace("B1", "B\0"), "line 4", "NUL"),
    baby("column twice", MAP, "asin\tasin\titemID\nA\tB\t0\n", "'asin'"),
    baby("commas", MAP, ITEM_MAP.replace("\t", ","), "delimiter=','"),
    baby("carriage returns alone", MAP, ITEM_MAP.replace("\n", "\r"), "line 1"),
    baby("fewer users than used", "u_id_mapping.csv", "user_id\tuserID\nUA\t0\n", "id_mapping.csv")
    ._replace(words=("baby.inter, row 5", "user '1'")),
    baby("negative item", "baby.inter", INTER + "1\t-1\t0\n", "row 7", "item '-1'"),
    baby("unknown item", "baby.inter", INTER + "1\t9\t0\n", "row 7", "item '9'"),
    baby("fractional item", "baby.inter", INTER + "1\t1.5\t0\n", "row 7", "item '1.5'"),
    baby("NaN item", "baby.inter", INTER + "1\tnan\t0\n", "row 7", "item 'nan'"),
    baby("item 1e300", "baby.inter", INTER + "1\t1e300\t0\n", "row 7", "item '1e300'"),
    baby("repeated pair", "baby.inter", INTER + "1\t2\t0\n", "user 1, item 2"),
    baby("negative label", "baby.inter", INTER + "1\t1\t-1\n", "row 7", "x_label -1"),
    baby("no label", "baby.inter", "userID\titemID\n0\t0\n", "x_label"),
    baby("pair in two splits", "baby.inter", INTER + "1\t2\t2\n", "")
    ._replace(words=("'UB'", "'B2'", "train", "test")),
    baby("nothing to train on", "baby.inter", "userID\titemID\tx_label\n0\t0\t1\n")
    ._replace(words=("amazon-baby", "train")),
    baby("negative index", TEXTS, '{"itemID":-1,"title":"a","description":""}\n', "line 1", "itemID -1"),
    baby("item twice", TEXTS, '{"itemID":1,"title":"a","description":""}\n' * 2, "line 1"),
    baby("fractional index", TEXTS, '{"itemID":1.5,"title":"a","description":""}\n', "line 1", "itemID 1.5"),
    baby("missing index", TEXTS, '{"itemID":null,"title":"a","description":""}\n', "itemID None"),
    baby("truth value as index", TEXTS, '{"itemID":true,"title":"a","description":""}\n', "type Boolean"),
    baby("object as index", TEXTS, '{"itemID":{"a":1},"title":"a","description":""}\n', "type Struct"),
    baby("object as text", TEXTS, '{"itemID":1,"title":{"a":1},"description":""}\n', "'title'"),
    baby("no description", TEXTS, '{"itemID":1,"title":"a"}\n', "'description'"),
    baby("cut short", TEXTS, '{"itemID":1,"title":"a","descr', "line 1", "JSON"),
    baby("empty file", TEXTS, ""),
]  # fmt: skip

SCIENTIFIC = {
    "scientific.inter": "userID\titemID\ttimestamp\tx_label\n"
    "0\t0\t0\t0\n0\t1\t1\t1\n1\t2\t0\t0\n1\t1\t1\t2\n",
    "Scientific.user2index": "UA\t0\nUB\t1\n",
    "Scientific.item2index": "I0\t0\nI1\t1\nI2\t2\n",
    "Scientific.text": "item_id:token\ttext:token_seq\nI2\tp\nI0\tglue\n",
}
RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,5\n1,9,4.5,6\n2,10,5,7\n2,9,4.5,8\n"
FILMS = "movieId,title,year,genres,director,overview,plot_keywords\n9,A,1,C|D,R,O,a|b\n10,Heat,1,,,,\n"
MOVIELENS = {"ratings.csv": RATINGS, "items.csv": FILMS}
WINES = "WineID,WineName,Type,Grapes,Harmonize,Body,Acidity,Country,RegionName,WineryName\n"
XWINES = {
    "XWines_Slim_150K_ratings.csv": "RatingID,UserID,WineID,Vintage,Rating,Date\n"
    "1,5,100,1950,4.5,2021-11-02\n",
    "XWines_Slim_1K_wines.csv": WINES + "100,R,Red,[],[],F,H,I,E,C\n",
}


def changed(reader: str, files: dict[str, str], file: str, name: str, content: object, *words: str) -> Case:
    line = f"data show {reader} --root . {'' if reader.startswith('amazon') else '--set k_core=1'}"
    return Case(f"{reader}, {file}: {name}", {**files, file: content}, line, words)


def scientific(file: str, name: str, content: object, *words: str) -> Case:
    return changed("amazon-scientific", SCIENTIFIC, file, name, content, *words)


def wine(name: str, grapes: str) -> Case:
    row = f'100,R,Red,"{grapes}",[],F,H,I,E,C\n'
    return changed("xwines", XWINES, "XWines_Slim_1K_wines.csv", name, WINES + row,
                   "XWines_Slim_1K_wines.csv, row 2")  # fmt: skip


EVERY = [
    *(
        changed(reader, files, file, name, content, file)
        for reader, files in [("amazon-scientific", SCIENTIFIC), ("movielens-small", MOVIELENS),
                              ("xwines", XWINES)]
        for file in files
        for name, content in [("empty file", ""), ("UTF-16", files[file].encode("utf-16")),
                              ("ragged", files[file] + "a,b\tc,d\te\n"), ("a pipe", os.mkfifo)]
    ),
    scientific("scientific.inter", "unknown item", SCIENTIFIC["scientific.inter"] + "0\t9\t3\t0\n",
               "scientific.inter, row 6", "item '9'"),
    scientific("scientific.inter", "no times", "userID\titemID\tx_label\n0\t0\t0\n", "'time'"),
    scientific("Scientific.item2index", "gap", "I0\t0\nI1\t2\n", "Scientific.item2index, row 2", "'2'"),
    scientific("Scientific.item2index", "id twice", "I0\t0\nI0\t1\nI2\t2\n", "Scientific.item2index, row 2"),
    scientific("Scientific.text", "no known item", "a:token\tb:token\nX\tp\n"),
    changed("movielens-small", MOVIELENS, "ratings.csv", "a word", RATINGS + "3,9,good,4\n",
            "ratings.csv, row 6", "'good'"),
    changed("movielens-small", MOVIELENS, "items.csv", "film twice", FILMS + "9,A,1,C|D,R,O,a|b\n",
            "items.csv, row 4", "item '9'"),
    changed("movielens-small", MOVIELENS, "posters", "a file", "x", "posters"),
    wine("a word", "Merlot"), wine("a number", "3"), wine("None", "None"), wine("a mapping", "{1: 2}"),
    wine("a call", "__import__('os').getcwd()"), wine("a list of lists", "[['a']]"),
    wine("100,000 brackets", "[" * 100_000), wine("5,000 digits", "9" * 5_000),
]  # fmt: skip

PAIRS = np.array([(user, item) for user in range(3) for item in range(10)])
HELD = np.array([[0, 11], [2, 10]])
WHOLE = npz(train=PAIRS, test=HELD)


def gowalla(name: str, content: object, *words: str, options: str = "") -> Case:
    file = "gowalla_lightgcn_split.npz"
    return Case(f"gowalla: {name}", {file: content}, f"data show gowalla --root . {options}", (file, *words))


GOWALLA = [
    *(gowalla(f"cut after {n} of 9", WHOLE[: len(WHOLE) * n // 9]) for n in (0, 1, 5, 8)),
    gowalla("a flipped bit", WHOLE[:300] + bytes([WHOLE[300] ^ 1]) + WHOLE[301:], "CRC-32"),
    gowalla("no test array", npz(train=PAIRS), "test"),
    gowalla("one array alone", PAIRS.tobytes()),
    gowalla("pickled objects", npz(train=PAIRS.astype(object), test=HELD), "Python objects"),
    gowalla("one dimension", npz(train=PAIRS[:, 0], test=HELD), "'train'", "(30,)"),
    gowalla("floats", npz(train=PAIRS + 0.5, test=HELD), "float64"),
    gowalla("texts", npz(train=PAIRS.astype(str), test=HELD), "'train'"),
    gowalla("no pairs", npz(train=PAIRS[:0], test=HELD), "'train'", "(0, 2)"),
    gowalla("negative index", npz(train=PAIRS - 5, test=HELD), "'train', row 0", "[-5, -5]"),
    gowalla("an index of 2^40", npz(train=PAIRS, test=[[0, 2**40]]), "'test', row 0", "1099511627776"),
    gowalla("repeated pairs", npz(train=np.r_[PAIRS, PAIRS], test=HELD), "30 "),
    gowalla("a pipe", os.mkfifo),
]  # fmt: skip


@parametrize([*ITEMS, *INTERS, *BABIES, *EVERY, *GOWALLA])
def test_bad_tables_are_refused_with_file_and_row(case, tmp_path, refused):
    check_refused(case, tmp_path, refused)


@parametrize(
    [
        Case("unknown items are counted", {"a.csv": OK, "items.csv": "id,name\na,A\nz,Z\n"}, table(NAMED),
             ("item rows without interactions 1", "cold items kept 1", "items with text 2")),
        Case("empty texts are counted as missing", {"a.csv": OK, "items.csv": "id,name\na,\nb,B\n"},
             table(NAMED), ("items with text 1",)),
        Case("a mapping in any order, with a blank line", {**BABY, MAP: ITEM_MAP.replace("007", "\n007")},
             "data show amazon-baby --root .", ("items 3",)),
        Case("repeats across splits are counted", {**SCIENTIFIC, "scientific.inter":
             SCIENTIFIC["scientific.inter"] + "0\t0\t5\t2\n"}, "data show amazon-scientific --root .",
             ("repeated pairs dropped 1",)),
    ]
)  # fmt: skip
def test_odd_tables_are_read_and_counted(case, tmp_path, graphrec):
    check_accepted(case, tmp_path, graphrec)
