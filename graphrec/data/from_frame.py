"""Builds a dataset from any dataframe: checks columns, maps ids, filters and splits rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.content import TEXT, Content
from graphrec.data.frames import TEXT_TYPES, as_frame, as_ids, as_numbers, column, item_indices, refuse
from graphrec.data.interactions import SPLIT_NAMES, Interactions
from graphrec.data.splits import as_split, k_core as core_mask
from graphrec.data.times import as_seconds
from graphrec.data.vocabulary import Vocabulary

LABELS = {"0": 0, "1": 1, "2": 2, "train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}


def parse(
    interactions: Any,
    *,
    user: str,
    item: str,
    time: str | None = None,
    time_unit: str | None = None,
    time_format: str | None = None,
    rating: str | None = None,
    min_rating: float | None,
    k_core: int | tuple[int, int],
    split: Any,
    items: Any = None,
    item_id: str | None = None,
    content: Mapping[str, tuple[str, str]] | None = None,
    cold_items: bool | None = None,
    root: str | Path | Mapping[str, str | Path] | None = None,
    seed: int,
    name: str,
    source: str | None,
    first_row: int = 1,
    items_source: str = "the item table",
    items_first_row: int = 1,
) -> dict[str, Any]:
    """The fields of a :class:`graphrec.Dataset`; see :meth:`graphrec.Dataset.from_frame` for the arguments.

    The last three arguments are for messages: ``first_row`` is the number of the first interaction (2 if the
    file has a header line), ``items_source`` the name of the item table, and ``items_first_row`` the number
    of its first row.
    """
    source = source or name
    frame = as_frame(interactions, source)
    if not frame.height:
        raise DataError(f"{source}: no rows; expected at least one interaction")
    _check_options(source, name, user, item, k_core, min_rating)
    if rating is not None:
        column(frame, rating, source)
    # Ids are encoded as integers once, so that millions of strings are not sorted again.
    user_codes, users_of = _encode_ids(as_ids(column(frame, user, source), "user", source, first_row))
    item_codes, items_of = _encode_ids(as_ids(column(frame, item, source), "item", source, first_row))
    table = pl.DataFrame({"user": user_codes, "item": item_codes})
    if time is not None:
        times = as_seconds(column(frame, time, source), source, first_row, unit=time_unit, format=time_format)
        table = table.with_columns(pl.Series("time", times))
    elif time_unit is not None or time_format is not None:
        raise ConfigError(
            f"{source}: time_unit= and time_format= describe a column of times; set it with time="
        )
    # A column with another role is not a split column: time="time", split="time" means the time split.
    taken = (user, item, time, rating)
    label_column = split if isinstance(split, str) and split in frame.columns and split not in taken else None
    if label_column is not None:
        table = table.with_columns(pl.Series("label", _read_labels(frame[label_column], source, first_row)))
    meta: dict[str, Any] = {"source": Path(source).name, "rows": frame.height}
    if min_rating is not None:
        if rating is None:
            raise DataError(f"{source}: min_rating={min_rating} needs a rating column; set it with rating=")
        table = table.filter(
            as_numbers(column(frame, rating, source), "rating", source, first_row) >= min_rating
        )
        meta["min_rating"] = min_rating
        _require_rows(table, source, f"no row has a rating of at least {min_rating}")
    splitter = None if label_column is not None else as_split(split)
    keep_first = getattr(splitter, "one_time_for_all", False)
    table, meta["repeated pairs dropped"] = _drop_repeats(table, users_of, items_of, source, keep_first)

    cores = (k_core, k_core) if isinstance(k_core, int) else tuple(k_core)
    items_before_core: pl.Series | None = None
    if max(cores) > 1:
        items_before_core = items_of.gather(table["item"].unique())
        table = table.filter(core_mask(table["user"].to_numpy(), table["item"].to_numpy(), *cores))
        meta["k_core"] = list(cores)
        _require_rows(table, source, f"no interaction is left by the {cores[0]}/{cores[1]}-core filter")
    # Sorting ids (numbers by value, else as text) makes the dataset independent of the order of the rows.
    user_ids, user_codes = _sort_ids(table["user"], users_of)
    item_ids, item_codes = _sort_ids(table["item"], items_of)
    item_frame = None
    if items is not None:
        item_frame = as_frame(items, items_source)
        at = item_indices(
            item_frame, Vocabulary(item_ids, "item"), item_id or item, items_source, items_first_row
        )
        row_ids = as_ids(column(item_frame, item_id or item, items_source), "item", items_source)
        untaken = row_ids.filter(pl.Series(at < 0))
        meta["item rows without interactions"] = len(untaken)
        if cores[1] < 2 if cold_items is None else cold_items:
            cold = untaken
            if items_before_core is not None:
                cold = untaken.filter(~untaken.is_in(items_before_core.implode()))
            item_ids, item_codes = _sort_ids(table["item"], items_of, cold)
            meta["cold items kept"] = len(cold)
    users = Vocabulary(user_ids, "user")
    vocabulary = Vocabulary(item_ids, "item")
    kept_times = table["time"].to_numpy() if time is not None else None
    pairs = Interactions(user_codes, item_codes, len(users), len(vocabulary), kept_times, source)
    if splitter is None:
        order = np.argsort(user_codes.astype(np.int64) * len(vocabulary) + item_codes, kind="stable")
        labels = table["label"].to_numpy()[order]
        meta["split"] = {"name": "column", "column": label_column}
    else:
        labels = splitter.assign(pairs, seed)
        meta["split"] = {**splitter.describe(), "seed": seed}
    train, valid, test = (pairs.where(labels == i, s) for i, s in enumerate(SPLIT_NAMES))
    fields: dict[str, Content] = {}
    if item_frame is not None:
        rows = vocabulary.find(row_ids)
        fields = _read_content(item_frame, rows, len(vocabulary), content, root, items_source)
    return {
        "name": name,
        "users": users,
        "items": vocabulary,
        "train": train,
        "valid": valid,
        "test": test,
        "content": fields,
        "meta": meta,
    }


def _check_options(
    source: str, name: str, user: str, item: str, k_core: int | tuple[int, int], min_rating: float | None
) -> None:
    if user == item:
        raise ConfigError(f"{source}: user and item are both column {user!r}; expected two columns")
    if not name or any(mark in name for mark in "/\\\0"):
        raise ConfigError(
            f"{source}: {name!r} is not a dataset name, because directories are named after it; expected a "
            "name without slashes, set with name="
        )
    for least in (k_core, k_core) if isinstance(k_core, int) else k_core:
        if isinstance(least, bool) or least < 0:
            raise ConfigError(f"{source}: k_core={k_core!r}; expected a number of interactions, from 0")
    if min_rating is not None and not math.isfinite(min_rating):
        raise ConfigError(f"{source}: min_rating={min_rating}; expected a finite number")


def _drop_repeats(
    table: pl.DataFrame, users: pl.Series, items: pl.Series, source: str, keep_first: bool
) -> tuple[pl.DataFrame, int]:
    """Keeps the latest of repeated pairs, or the first (with ``keep_first``, by time); returns the number of
    dropped rows.
    """
    if "label" in table.columns:
        mixed = (
            table.group_by("user", "item", maintain_order=True)
            .agg(pl.col("label").n_unique())
            .filter(pl.col("label") > 1)
        )
        if mixed.height:
            raise DataError(
                f"{source}: user {users[mixed['user'][0]]!r} item {items[mixed['item'][0]]!r} occurs in more "
                f"than one split ({mixed.height:,} such pairs); splits must be disjoint"
            )
    if "time" in table.columns:
        unique = table.sort("time", maintain_order=True).unique(
            ["user", "item"], keep="first" if keep_first else "last", maintain_order=True
        )
    else:
        unique = table.unique(["user", "item"], keep="first", maintain_order=True)
    return unique, table.height - unique.height


def _read_content(
    frame: pl.DataFrame,
    item_of: np.ndarray,
    n_items: int,
    content: Mapping[str, tuple[str, str]] | None,
    root: str | Path | Mapping[str, str | Path] | None,
    source: str,
) -> dict[str, Content]:
    """Fields of an item table; ``item_of`` is the item of each row ``(n,)``, -1 for none; ``root`` may be one
    a field.
    """
    fields: dict[str, Content] = {}
    for name, (kind, column_name) in (content or {}).items():
        values: list[str | None] = [None] * n_items
        texts = column(frame, column_name, source).cast(pl.String).to_list()
        for row in np.flatnonzero(item_of >= 0):
            values[item_of[row]] = texts[row]
        folder = root.get(name) if isinstance(root, Mapping) else root
        fields[name] = Content(kind, values, None if kind == TEXT else folder)
    return fields


def _read_labels(series: pl.Series, source: str, first_row: int) -> np.ndarray:
    if not (series.dtype.is_numeric() or isinstance(series.dtype, (*TEXT_TYPES, pl.Boolean, pl.Null))):
        raise DataError(
            f"{source}: split column {series.name!r} has type {series.dtype}; expected train, valid, test or "
            "0, 1, 2"
        )
    integers = series
    if series.dtype.is_float():
        integers = series.set(~series.is_in([0.0, 1.0, 2.0]), None).cast(pl.Int64, strict=False)
    text = integers.cast(pl.String).str.strip_chars().str.to_lowercase()
    labels = text.replace_strict(LABELS, default=None, return_dtype=pl.Int8)
    refuse(labels.is_null(), series, "split", "; expected train, valid, test or 0, 1, 2", source, first_row)
    return labels.to_numpy()


def _encode_ids(values: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """An integer for each text ``(E,) int32``, and the distinct texts in order of appearance."""
    distinct = values.unique(maintain_order=True)
    numbers = pl.Series(np.arange(len(distinct), dtype=np.int32))
    return values.replace_strict(distinct, numbers, return_dtype=pl.Int32).to_numpy(), distinct


def _sort_ids(
    codes: pl.Series, known: pl.Series, unused: pl.Series | None = None
) -> tuple[list[str], np.ndarray]:
    """The ids in use and the ``unused`` ones, sorted (numbers by value, else as text), and the codes
    ``(E,) int32`` in that order.
    """
    at = np.flatnonzero(np.bincount(codes.to_numpy(), minlength=len(known)))
    frame = pl.DataFrame({"id": known.gather(at), "at": at})
    if unused is not None:
        frame = frame.vstack(pl.DataFrame({"id": unused, "at": np.full(len(unused), -1)}))
    plain = frame["id"].str.contains(r"^(0|[1-9][0-9]{0,17})$").all()
    frame = frame.sort(pl.col("id").cast(pl.Int64) if plain else "id")
    place = np.zeros(len(known), dtype=np.int32)
    used = frame["at"].to_numpy() >= 0
    place[frame["at"].to_numpy()[used]] = np.flatnonzero(used)
    return frame["id"].to_list(), place[codes.to_numpy()]


def _require_rows(table: pl.DataFrame, source: str, why: str) -> None:
    if not table.height:
        raise DataError(f"{source}: {why}; relax the filter")
