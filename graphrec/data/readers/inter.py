"""Reader of the ``.inter`` format of RecBole and MMRec, with ``*_feat.npy`` feature files.

A tab-separated table ``userID itemID [rating] [timestamp] [x_label]``, where ``x_label`` is 0, 1, 2 for
train, valid, test. Header names may have a type suffix, as in ``user_id:token``. ``image_feat.npy`` and
``text_feat.npy`` hold one vector per item, row ``i`` for the item with ``itemID`` ``i``.

Layout: https://github.com/enoche/MMRec/tree/master/data
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from graphrec.core.errors import DataError
from graphrec.core.files import read_array
from graphrec.data import frames, from_frame
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import SPLIT_NAMES, Interactions
from graphrec.data.readers import ReadyFeatures
from graphrec.data.readers.files import first_row, read_table, require_file
from graphrec.data.times import as_seconds

ROLES = {
    **dict.fromkeys(("userid", "user_id", "user"), "user"),
    **dict.fromkeys(("itemid", "item_id", "item"), "item"),
    "rating": "rating",
    **dict.fromkeys(("timestamp", "time"), "time"),
    "x_label": "label",
}
"""Role of a column by its name in lower case."""
FEATURE_FILES = {"image": "image_feat.npy", "text": "text_feat.npy"}
SOURCE = "the toolbox that wrote the .inter file, such as MMRec or RecBole"


def read(
    folder: Path,
    *,
    interactions: str | None = None,
    min_rating: float | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    k_core: int | tuple[int, int] = 0,
    split: Any = None,
    seed: int = 0,
    name: str | None = None,
) -> Dataset:
    """Reads a folder with a ``.inter`` file.

    Args:
        folder: holds the ``.inter`` file.
        interactions: name of the file; default: the only ``*.inter`` in the folder.
        min_rating: keep rows with at least this rating.
        time_unit: unit of the times, ``s``, ``ms``, ``us`` or ``ns``; default: recognized from their size.
        k_core: minimum interactions per user and item, or a pair of the two.
        split: the split; default: by ``x_label`` if the file has it, else ``"random"``.
        seed: random seed of the split.
        name: name of the dataset; default: the file name without ``.inter``.

    Raises:
        DataError: the file is missing or damaged, has no user or item column, or an id or value is invalid.
    """
    path = _find_inter_file(folder, interactions)
    frame = read_inter(path)
    if split is None:
        split = "label" if "label" in frame.columns else "random"
    return Dataset(**from_frame.parse(
        frame, user="user", item="item", time="time" if "time" in frame.columns else None,
        time_unit=time_unit if "time" in frame.columns else None,
        rating="rating" if "rating" in frame.columns else None, min_rating=min_rating, k_core=k_core,
        split=split, seed=seed, name=name or path.stem, source=str(path), first_row=first_row(path),
    ))  # fmt: skip


def features(folder: Path) -> list[ReadyFeatures]:
    """The ``*_feat.npy`` files of the folder; row numbers are the item ids.

    Raises:
        DataError: there is no such file, or one is damaged.
    """
    return indexed_features(folder, None)


def read_inter(path: Path) -> pl.DataFrame:
    """Reads a ``.inter`` file; the columns are renamed to ``user item [rating] [time] [label]``, all text.

    Raises:
        DataError: the file is missing or damaged, or has no user or item column.
    """
    frame = read_table(path)
    column_of: dict[str, str] = {}
    for column in frame.columns:
        role = ROLES.get(column.split(":")[0].strip().lower())
        if role in column_of:
            raise DataError(
                f"{path}: columns {column_of[role]!r} and {column!r} both hold the {role}; remove one of them"
            )
        if role is not None:
            column_of[role] = column
    for role, expected in (("user", "userid"), ("item", "itemid")):
        if role not in column_of:
            raise DataError(f"{path}: no {role} column among {frame.columns}; expected {expected}")
    return frame.select(pl.col(column).alias(role) for role, column in column_of.items())


def read_indexed(path: Path, n_users: int, n_items: int) -> pl.DataFrame:
    """The rows of a ``.inter`` file whose ids are indices: ``user``, ``item``, ``label`` and, if the file has
    times, ``time``, all int64 (times with fractions
    of a second float64).

    Args:
        path: the file, with the column ``x_label``.
        n_users: number of users in the mapping.
        n_items: number of items in the mapping.

    Raises:
        DataError: there is no ``x_label``, or an index, label or time is invalid; the message names the row.
    """
    frame = read_inter(path)
    columns = {
        "label": _split_labels(frame, path),
        "user": _parse_indices(frame["user"], "user", n_users, path),
        "item": _parse_indices(frame["item"], "item", n_items, path),
    }
    if "time" in frame.columns:
        columns["time"] = as_seconds(frame["time"], str(path), first_row(path))
    return pl.DataFrame(columns)


def published_splits(
    rows: pl.DataFrame, n_users: int, n_items: int, file: str
) -> tuple[Interactions, Interactions, Interactions]:
    """Train, valid and test of rows as :func:`read_indexed` returns them; ``file`` is for messages."""
    splits = []
    for index, split in enumerate(SPLIT_NAMES):
        part = rows.filter(pl.col("label") == index)
        times = part["time"] if "time" in part.columns else None
        splits.append(Interactions(part["user"], part["item"], n_users, n_items, times, f"{file} ({split})"))
    train, valid, test = splits
    return train, valid, test


def _parse_indices(series: pl.Series, kind: str, size: int, path: Path) -> np.ndarray:
    values = frames.as_numbers(series, kind, str(path), first_row(path))
    bad = (values < 0) | (values >= size) | (values != np.floor(values))
    expected = f"; expected an index from 0 to {size - 1}, as in the mapping of {kind}s"
    frames.refuse(bad, series, kind, expected, path, first_row(path))
    return values.astype(np.int64)


def _split_labels(frame: pl.DataFrame, path: Path) -> np.ndarray:
    """The ``x_label`` column ``(E,) int64``: 0 train, 1 valid, 2 test."""
    if "label" not in frame.columns:
        raise DataError(f"{path}: no x_label column; expected 0, 1, 2 for train, valid, test")
    label = frames.as_numbers(frame["label"], "x_label", str(path), first_row(path))
    bad = ~np.isin(label, (0, 1, 2))
    frames.refuse(bad, pl.Series(label), "x_label", "; expected 0, 1 or 2", path, first_row(path))
    return label.astype(np.int64)


def indexed_features(folder: Path, ids: tuple[str, ...] | None, source: str = SOURCE) -> list[ReadyFeatures]:
    """Published features from the ``*_feat.npy`` files of a folder.

    Args:
        folder: contains ``image_feat.npy``, ``text_feat.npy`` or both.
        ids: item ids of the rows; None uses row numbers as ids.
        source: where to get the files, for the message.

    Raises:
        DataError: both files are missing, or one is damaged or has another number of rows.
    """
    present = {kind: folder / file for kind, file in FEATURE_FILES.items() if (folder / file).is_file()}
    if not present:
        require_file(folder, FEATURE_FILES["image"], "one image vector per item (n_items, d)", source)
    features = []
    for kind, path in present.items():
        values = read_array(path, mmap=True)
        if values.ndim != 2 or values.dtype.kind != "f" or (ids is not None and len(values) != len(ids)):
            n = "n_items" if ids is None else f"{len(ids):,}"
            raise DataError(
                f"{path}: shape {values.shape}, {values.dtype}; expected ({n}, d) of a float type"
            )
        rows = ids if ids is not None else tuple(map(str, range(len(values))))
        features.append(ReadyFeatures(kind, values, rows, "image" if kind == "image" else "text"))
    return features


def _find_inter_file(folder: Path, interactions: str | None) -> Path:
    if interactions is not None:
        return require_file(folder, interactions, "tab-separated interactions", SOURCE)
    paths = sorted(folder.glob("*.inter"))
    if len(paths) != 1:
        names = [path.name for path in paths]
        raise DataError(
            f"{folder}: {names or 'no .inter file'}; expected one .inter file; select one with interactions="
        )
    return paths[0]
