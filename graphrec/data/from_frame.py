"""Builds a dataset from any dataframe: checks columns, maps ids, filters and splits rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.data.content import TEXT, Content
from graphrec.data.interactions import SPLIT_NAMES, Interactions
from graphrec.data.splits import as_split, k_core as core_mask
from graphrec.data.vocabulary import Vocabulary

TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)
LABELS = {"0": 0, "1": 1, "2": 2, "train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}


def as_frame(data: Any, source: str = "the frame") -> pl.DataFrame:
    """A Polars frame from Polars, pandas, Arrow, or a mapping of columns.

    Raises:
        DataError: the data are none of these.
    """
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pl.DataFrame):
        return data
    try:
        return pl.DataFrame(dict(data) if isinstance(data, Mapping) else data)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as cause:
        raise DataError(f"{source}: cannot read {type(data).__name__} as a table ({cause})") from cause


def column(frame: pl.DataFrame, name: str, source: str) -> pl.Series:
    """One column by name.

    Raises:
        DataError: there is no such column; the message lists the columns.
    """
    if name not in frame.columns:
        names = frame.columns
        more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
        raise DataError(f"{source}: no column {name!r}; it has {names[:20]}{more}.{nearest(name, names)}")
    return frame[name]


def refuse(
    bad: Any, values: pl.Series, what: str, problem: str, source: str | Path, first_row: int = 1
) -> None:
    """Refuses a column with bad values; the message shows the first one and its row.

    Args:
        bad: mask of the bad values ``(n,)``.
        values: the column.
        what: what the values are, such as ``"user id"``.
        problem: end of the message, such as ``"; expected a finite number"``.
        source: file, for messages.
        first_row: number of the first row, for messages.
    """
    mask = pl.Series(bad)
    if mask.any():
        row = int(mask.arg_max() or 0)
        value = values[row]
        shown = quoted(value) if isinstance(value, str) else repr(value)
        raise DataError(f"{source}, row {row + first_row}: {what} {shown}{problem}")


def as_ids(series: pl.Series, kind: str, source: str, first_row: int = 1) -> pl.Series:
    """Ids as text, unchanged.

    Args:
        series: text or integer column.
        kind: ``"user"`` or ``"item"``, for messages.
        source: file, for messages.
        first_row: number of the first row, for messages.

    Raises:
        DataError: an id is missing or invalid; the message names the first one and its row.
    """
    if series.dtype.is_float():
        whole = (series.is_finite() & (series == series.floor())).fill_null(False)
        refuse(~whole, series, f"{kind} id", "; expected text or a whole number", source, first_row)
        # Beyond this value neighboring integers have the same float, so two ids could become one.
        exact = {"Float16": 2**11, "Float32": 2**24}.get(str(series.dtype), 2**53)
        expected = f"; expected text or a whole number (as {series.dtype}, exact below {exact:,})"
        refuse(series.abs() >= exact, series, f"{kind} id", expected, source, first_row)
        series = series.cast(pl.Int64)
    elif not (isinstance(series.dtype, TEXT_TYPES) or series.dtype.is_integer()):
        raise DataError(
            f"{source}: {kind} column {series.name!r} has type {series.dtype}; expected text or integers"
        )
    text = series.cast(pl.String)
    bad = (
        text.is_null() | (text == "").fill_null(True) | text.str.contains("\0", literal=True).fill_null(True)
    )
    refuse(bad, text, f"{kind} id", " is missing, empty or contains NUL", source, first_row)
    return text


def unique_ids(series: pl.Series, kind: str, source: str, first_row: int = 1) -> pl.Series:
    """:func:`as_ids` of a column in which every id must occur once.

    Raises:
        DataError: an id is missing, invalid or repeated; the message names it and its row.
    """
    keys = as_ids(series, kind, source, first_row)
    repeated = ~keys.is_first_distinct()
    refuse(repeated, keys, kind, f" occurs a second time; expected one row per {kind}", source, first_row)
    return keys


def item_indices(
    frame: pl.DataFrame, items: Vocabulary, item_id: str, source: str, first_row: int
) -> np.ndarray:
    """Item index of each row of an item table ``(n,) int32``, -1 for unknown items.

    Raises:
        DataError: an id is missing, invalid or repeated, or no item is known.
    """
    keys = unique_ids(column(frame, item_id, source), "item", source, first_row)
    indices = items.find(keys.to_list())
    if not (indices >= 0).any():
        raise DataError(
            f"{source}: none of its {len(keys):,} items, first {quoted(keys[0]) if len(keys) else None}, is "
            f"among the {len(items):,} items of the dataset, first {quoted(items[0])}; check that "
            f"{item_id!r} is the column of item ids"
        )
    return indices


def as_numbers(series: pl.Series, what: str, source: str, first_row: int = 1) -> np.ndarray:
    """A numeric column ``(E,) float64``; text is parsed.

    Raises:
        DataError: a value is not a finite number; the message names the first one and its row.
    """
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise DataError(
            f"{source}: {what} column {series.name!r} has type {series.dtype}; expected numbers, or numbers "
            "as text"
        )
    parsed = series.cast(pl.Float64, strict=False)
    bad = parsed.is_null() | ~parsed.is_finite().fill_null(False)
    refuse(bad, series, what, "; expected a finite number", source, first_row)
    return parsed.to_numpy()


def as_seconds(series: pl.Series, source: str, first_row: int = 1) -> np.ndarray:
    """Times ``(E,) int64`` in seconds from numbers, dates, datetimes or ISO text.

    Integers are kept exactly. Splits use only the order of times, so milliseconds work as well.

    Raises:
        DataError: a value is not a time; the message names the first one and its row.
    """
    if series.dtype in (pl.Boolean, pl.Time, pl.Duration):
        raise DataError(
            f"{source}: time column {series.name!r} has type {series.dtype}; expected seconds, dates or "
            "datetimes"
        )
    if series.dtype.is_integer() or series.dtype == pl.String:
        integers = series.cast(pl.Int64, strict=False)
        if not integers.null_count():
            return integers.to_numpy()
    expected = "; expected seconds, or a date such as 2024-05-31 or 2024-05-31 18:00:00"
    times = series
    not_numbers = series.cast(pl.Float64, strict=False).is_null() if series.dtype == pl.String else None
    if not_numbers is not None and not_numbers.any():
        try:
            times = series.str.to_datetime(strict=False)
        except pl.exceptions.ComputeError:  # no value looks like a date
            refuse(not_numbers, series, "time", expected, source, first_row)
    if times.dtype.is_temporal():
        refuse(times.is_null(), series, "time", expected, source, first_row)
        return times.cast(pl.Datetime("us")).dt.epoch("s").to_numpy().astype(np.int64)
    values = as_numbers(series, "time", source, first_row)
    refuse(np.abs(values) >= 2.0**63, series, "time", expected, source, first_row)
    return values.astype(np.int64)


def parse(
    interactions: Any,
    *,
    user: str,
    item: str,
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None,
    k_core: int | tuple[int, int],
    split: Any,
    items: Any = None,
    item_id: str | None = None,
    content: Mapping[str, tuple[str, str]] | None = None,
    root: str | Path | None = None,
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
        table = table.with_columns(
            pl.Series("time", as_seconds(column(frame, time, source), source, first_row))
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
    table, meta["repeated pairs dropped"] = _drop_repeats(table, users_of, items_of, source)

    cores = (k_core, k_core) if isinstance(k_core, int) else tuple(k_core)
    if max(cores) > 1:
        table = table.filter(core_mask(table["user"].to_numpy(), table["item"].to_numpy(), *cores))
        meta["k_core"] = list(cores)
        _require_rows(table, source, f"no interaction is left by the {cores[0]}/{cores[1]}-core filter")
    # Sorting ids (numbers by value, else as text) makes the dataset independent of the order of the rows.
    user_ids, user_codes = _sort_ids(table["user"], users_of)
    item_ids, item_codes = _sort_ids(table["item"], items_of)
    users = Vocabulary(user_ids, "user")
    vocabulary = Vocabulary(item_ids, "item")
    times = table["time"].to_numpy() if time is not None else None
    pairs = Interactions(user_codes, item_codes, len(users), len(vocabulary), times, source)
    if label_column is not None:
        order = np.argsort(user_codes.astype(np.int64) * len(vocabulary) + item_codes, kind="stable")
        labels = table["label"].to_numpy()[order]
        meta["split"] = {"name": "column", "column": label_column}
    else:
        splitter = as_split(split)
        labels = splitter.assign(pairs, seed)
        meta["split"] = {**splitter.describe(), "seed": seed}
    train, valid, test = (pairs.where(labels == i, s) for i, s in enumerate(SPLIT_NAMES))
    fields: dict[str, Content] = {}
    if items is not None:
        fields, meta["item rows without interactions"] = _read_content(
            items, vocabulary, item_id or item, content, root, items_source, items_first_row
        )
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
    table: pl.DataFrame, users: pl.Series, items: pl.Series, source: str
) -> tuple[pl.DataFrame, int]:
    """Keeps the latest of repeated pairs, or the first without times; returns the number of dropped rows."""
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
            ["user", "item"], keep="last", maintain_order=True
        )
    else:
        unique = table.unique(["user", "item"], keep="first", maintain_order=True)
    return unique, table.height - unique.height


def _read_content(
    items: Any,
    vocabulary: Vocabulary,
    item_id: str,
    content: Mapping[str, tuple[str, str]] | None,
    root: str | Path | None,
    source: str,
    first_row: int,
) -> tuple[dict[str, Content], int]:
    frame = as_frame(items, source)
    at = item_indices(frame, vocabulary, item_id, source, first_row)
    known = at >= 0
    fields: dict[str, Content] = {}
    for name, (kind, column_name) in (content or {}).items():
        values: list[str | None] = [None] * len(vocabulary)
        texts = column(frame, column_name, source).cast(pl.String).to_list()
        for row in np.flatnonzero(known):
            values[at[row]] = texts[row]
        fields[name] = Content(kind, values, None if kind == TEXT else root)
    return fields, int((~known).sum())


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


def _sort_ids(codes: pl.Series, known: pl.Series) -> tuple[list[str], np.ndarray]:
    """The ids in use, sorted (numbers by value, else as text), and the codes ``(E,) int32`` in that order."""
    at = np.flatnonzero(np.bincount(codes.to_numpy(), minlength=len(known)))
    frame = pl.DataFrame({"id": known.gather(at), "at": at})
    plain = frame["id"].str.contains(r"^(0|[1-9][0-9]{0,17})$").all()
    frame = frame.sort(pl.col("id").cast(pl.Int64) if plain else "id")
    place = np.zeros(len(known), dtype=np.int32)
    place[frame["at"].to_numpy()] = np.arange(len(frame))
    return frame["id"].to_list(), place[codes.to_numpy()]


def quoted(value: str) -> str:
    """A value in quotes, cut to 80 characters, for messages."""
    return repr(value if len(value) <= 80 else value[:79] + "…")


def _require_rows(table: pl.DataFrame, source: str, why: str) -> None:
    if not table.height:
        raise DataError(f"{source}: {why}; relax the filter")
