"""Amazon Baby and Sports & Outdoors, in the indices and with the 8:1:1 splits that published tables use.

Source: the pre-processing of MMRec (https://github.com/enoche/MMRec/tree/master/data) of the 5-core subsets
of McAuley's Amazon Product Data 2014 (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html).
License: published for research use; no license to redistribute is stated.
Counts: Baby 19,445 users x 7,050 items, 118,551 / 20,559 / 21,682; Sports 35,598 x 18,357, 218,409 / 37,899 /
40,029.

Index order is the order of ``itemID`` and ``userID`` in the files, so that third-party ``image_feat.npy`` and
``text_feat.npy`` line up row by row. External ids are ASINs and reviewer ids.
"""

from __future__ import annotations

import html
from pathlib import Path

import polars as pl

from graphrec.core.errors import DataError
from graphrec.data import frames
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset
from graphrec.data.readers import ReadyFeatures
from graphrec.data.readers.delimited import read_tab_separated
from graphrec.data.readers.files import join_columns, ordered_ids, read_table, require_file
from graphrec.data.readers.inter import indexed_features, published_splits, read_indexed
from graphrec.data.vocabulary import Vocabulary

SOURCE = "https://github.com/enoche/MMRec/tree/master/data"


def read_baby(folder: Path) -> Dataset:
    """Amazon Baby: 19,445 users, 7,050 items, 160,792 interactions.

    Reads ``baby.inter``, ``i_id_mapping.csv``, ``u_id_mapping.csv`` and, if present,
    ``item_text_partial.jsonl`` (``itemID``, ``title``, ``description``; HTML entities are resolved).

    Args:
        folder: holds the files.

    Raises:
        DataError: a file is missing or damaged, or the indices do not agree.
    """
    return _read(folder, "baby", "item_text_partial.jsonl", ["title", "description"])


def read_sports(folder: Path) -> Dataset:
    """Amazon Sports & Outdoors: 35,598 users, 18,357 items, 296,337 interactions.

    Reads ``sports.inter``, ``i_id_mapping.csv``, ``u_id_mapping.csv`` and, if present,
    ``item_attributes.jsonl`` (``itemID``, ``brand_and_categories``, which are joined into one text).

    Args:
        folder: holds the files.

    Raises:
        DataError: a file is missing or damaged, or the indices do not agree.
    """
    return _read(folder, "sports", "item_attributes.jsonl", ["brand_and_categories"])


def features_baby(folder: Path) -> list[ReadyFeatures]:
    """``image_feat.npy`` and ``text_feat.npy`` beside ``baby.inter``, one row per ``itemID``.

    Raises:
        DataError: both files are missing, or one is damaged or has another number of rows.
    """
    return indexed_features(folder, tuple(_ids(folder, "item")), SOURCE)


features_sports = features_baby


def _read(folder: Path, name: str, text_file: str, columns: list[str]) -> Dataset:
    users = Vocabulary(_ids(folder, "user"), "user")
    items = Vocabulary(_ids(folder, "item"), "item")
    inter = require_file(folder, f"{name}.inter", "userID, itemID and x_label, tab-separated", SOURCE)
    rows = read_indexed(inter, len(users), len(items))
    content = {}
    if (folder / text_file).is_file():
        content["text"] = Content("text", _texts(folder / text_file, columns, len(items)))
    return Dataset(
        f"amazon-{name}",
        users,
        items,
        *published_splits(rows, len(users), len(items), inter.name),
        content=content,
        meta={"source": inter.name, "split": {"name": "published", "column": "x_label"}},
    )


def _ids(folder: Path, kind: str) -> list[str]:
    column = {"item": "asin", "user": "user_id"}[kind]
    path = require_file(folder, f"{kind[0]}_id_mapping.csv", f"{column} and {kind}ID, tab-separated", SOURCE)
    return ordered_ids(read_tab_separated(path), column, f"{kind}ID", path, first_row=2)


def _texts(path: Path, columns: list[str], n_items: int) -> list[str | None]:
    frame = read_table(path)
    column = frames.column(frame, "itemID", str(path))
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
        raise DataError(f"{path}: column 'itemID' has type {column.dtype}; expected whole numbers")
    index = column.cast(pl.Int64, strict=False)
    if column.dtype.is_float():
        index = index.set(column != column.floor(), None)
    bad = ((index < 0) | (index >= n_items)).fill_null(True) | index.is_duplicated()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"{path}, line {row + 1}: itemID {column[row]!r}; expected each integer from 0 to {n_items - 1} "
            "at most once"
        )
    texts: list[str | None] = [None] * n_items
    for item, text in zip(index.to_list(), join_columns(frame, columns, path).to_list(), strict=True):
        texts[item] = None if text is None else html.unescape(text)
    return texts
