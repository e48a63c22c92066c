"""Amazon Industrial & Scientific in the pre-processing of UniSRec and MISSRec, with CLIP vectors.

Source: https://github.com/gimpong/MM23-MISSRec (data) and https://github.com/RUCAIBox/UniSRec
(pre-processing), from the Amazon Review Data 2018. License: none stated; research use.
Counts: 2,928 users, 1,585 items, 19,712 interactions, of which 144 repeat an earlier (user, item) pair;
19,568 remain.

Each user's last interaction is test, the one before it validation. A repeated pair is kept only in the
earliest split it occurs in (train before valid before test), with its latest time there, because splits must
be disjoint: evaluation masks training items.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphrec.core.errors import DataError
from graphrec.data import frames
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import SPLIT_NAMES
from graphrec.data.readers import ReadyFeatures
from graphrec.data.readers.delimited import read_tab_separated
from graphrec.data.readers.files import ordered_ids, require_file
from graphrec.data.readers.inter import indexed_features, published_splits, read_indexed
from graphrec.data.vocabulary import Vocabulary

SOURCE = "https://github.com/gimpong/MM23-MISSRec"


def read(folder: Path) -> Dataset:
    """Amazon Industrial & Scientific: 2,928 users, 1,585 items, leave-one-out.

    Reads ``scientific.inter`` (``userID itemID timestamp x_label``; the timestamp is the position in the
    user's history), ``Scientific.user2index``, ``Scientific.item2index`` and ``Scientific.text``.

    Args:
        folder: holds the files.

    Raises:
        DataError: a file is missing or damaged, or the indices do not agree.
    """
    users = Vocabulary(_ids(folder, "user"), "user")
    items = Vocabulary(_ids(folder, "item"), "item")
    path = require_file(folder, "scientific.inter", "userID, itemID, timestamp and x_label", SOURCE)
    rows = read_indexed(path, len(users), len(items))
    frames.column(rows, "time", str(path))  # which of two repeated pairs is the latest
    unique = rows.sort("label", "time", descending=[False, True], maintain_order=True).unique(
        ["user", "item"], keep="first", maintain_order=True
    )
    splits = published_splits(unique, len(users), len(items), path.name)
    dropped = {
        split: int((rows["label"] == index).sum()) - len(splits[index])
        for index, split in enumerate(SPLIT_NAMES)
    }
    return Dataset(
        "amazon-scientific",
        users,
        items,
        *splits,
        content={"text": Content("text", _texts(folder, items))},
        meta={
            "source": path.name,
            "rows": rows.height,
            "repeated pairs dropped": rows.height - unique.height,
            "repeated pairs dropped by split": dropped,
            "split": {"name": "published", "column": "x_label"},
        },
    )


def features(folder: Path) -> list[ReadyFeatures]:
    """CLIP vectors ``(1585, 512)`` of texts and pictures, one row per index in ``Scientific.item2index``.

    Raises:
        DataError: both files are missing, or one is damaged.
    """
    return indexed_features(folder, tuple(_ids(folder, "item")), SOURCE)


def _ids(folder: Path, kind: str) -> list[str]:
    path = require_file(
        folder, f"Scientific.{kind}2index", f"{kind} id and index, tab-separated, no header", SOURCE
    )
    return ordered_ids(read_tab_separated(path, [kind, "index"], header=False), kind, "index", path)


def _texts(folder: Path, items: Vocabulary) -> list[str | None]:
    path = require_file(folder, "Scientific.text", "item_id:token and text:token_seq, tab-separated", SOURCE)
    frame = read_tab_separated(path, ["item", "text"])
    at = items.find(frame["item"].to_list())
    if not (at >= 0).any():
        raise DataError(
            f"{path}: none of its {frame.height:,} items, first {frame['item'][0]!r}, is in "
            "Scientific.item2index; fetch both files again"
        )
    texts = np.full(len(items), None, dtype=object)
    texts[at[at >= 0]] = np.array(frame["text"].to_list(), dtype=object)[at >= 0]
    result: list[str | None] = texts.tolist()
    return result
