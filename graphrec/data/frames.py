"""From any dataframe to a Dataset: columns checked, ids mapped, rows filtered and split, all counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from graphrec.data.content import Content, Kind
from graphrec.data.dataset import SPLITS, Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.splits import as_split
from graphrec.data.splits import k_core as core_mask
from graphrec.data.vocabulary import Vocabulary
from graphrec.errors import DataError, nearest

LABELS = {"0": 0, "1": 1, "2": 2, "train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}


def as_frame(data: Any, source: str = "the frame") -> pl.DataFrame:
    """A Polars frame from Polars, pandas, Arrow, or a mapping of columns.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pl.DataFrame):
        return data
    try:
        if isinstance(data, Mapping):
            return pl.DataFrame(dict(data))
        if hasattr(data, "__arrow_c_stream__"):
            return pl.DataFrame(data)
        return pl.DataFrame(data)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as cause:
        raise DataError(f"{source}: cannot read {type(data).__name__} as a table ({cause})") from cause


def column(frame: pl.DataFrame, name: str, source: str) -> pl.Series:
    """One column by name; a missing one is an error that lists those there are."""
    if name not in frame.columns:
        raise DataError(
            f"{source}: no column {name!r}; it has {frame.columns}.{nearest(name, frame.columns)}"
        )
    return frame[name]


def ids(series: pl.Series, kind: str, source: str, first_row: int = 1) -> pl.Series:
    """Ids as text, exactly as they came; the first unusable one is named with its row.

    Args:
        series: text or integer column.
        kind: ``"user"`` or ``"item"``.
        source: file, for the message.
        first_row: number of the first row, for the message.
    """
    if series.dtype.is_float():
        bad = (
            series.is_null()
            | ~series.is_finite().fill_null(False)
            | (series != series.floor()).fill_null(True)
        )
        bad |= (series.abs() > 2**53).fill_null(True)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise DataError(
                f"{source}, row {row + first_row}: {kind} id {series[row]!r}; expected text or a whole number"
            )
        series = series.cast(pl.Int64)
    elif not (
        series.dtype == pl.String or series.dtype.is_integer() or isinstance(series.dtype, pl.Categorical)
    ):
        raise DataError(
            f"{source}: {kind} column {series.name!r} has type {series.dtype}; expected text or integers"
        )
    text = series.cast(pl.String)
    bad = (
        text.is_null() | (text == "").fill_null(True) | text.str.contains("\0", literal=True).fill_null(True)
    )
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"{source}, row {row + first_row}: {kind} id {text[row]!r} is missing, empty or holds a NUL"
        )
    return text


def numbers(series: pl.Series, what: str, source: str, first_row: int = 1) -> np.ndarray:
    """A numeric column ``(E,) float64``; text is parsed, and the first value that is not finite is named."""
    parsed = series.cast(pl.Float64, strict=False)
    bad = parsed.is_null() | ~parsed.is_finite().fill_null(False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(f"{source}, row {row + first_row}: {what} {series[row]!r}; expected a finite number")
    return parsed.to_numpy()


def seconds(series: pl.Series, source: str, first_row: int = 1) -> np.ndarray:
    """Times ``(E,) int64`` in seconds from numbers, dates, date-times or ISO text."""
    if series.dtype == pl.String and series.cast(pl.Float64, strict=False).null_count():
        try:
            as_time = series.str.to_datetime(strict=False)
        except pl.exceptions.ComputeError as cause:  # no value looks like a date
            row = int(series.cast(pl.Float64, strict=False).is_null().arg_max() or 0)
            raise _no_time(series, row, source, first_row) from cause
        if as_time.null_count():
            raise _no_time(series, int(as_time.is_null().arg_max() or 0), source, first_row)
        series = as_time
    if series.dtype.is_temporal():
        if series.null_count():
            raise _no_time(series, int(series.is_null().arg_max() or 0), source, first_row)
        return series.cast(pl.Datetime("us")).dt.epoch("s").to_numpy().astype(np.int64)
    return numbers(series, "time", source, first_row).astype(np.int64)


def _no_time(series: pl.Series, row: int, source: str, first_row: int) -> DataError:
    return DataError(
        f"{source}, row {row + first_row}: time {series[row]!r}; expected seconds, or a date such as "
        "2024-05-31 or 2024-05-31 18:00:00"
    )


def build(
    interactions: Any,
    *,
    user: str,
    item: str,
    time: str | None,
    rating: str | None,
    min_rating: float | None,
    k_core: int | tuple[int, int],
    split: Any,
    items: Any,
    item_id: str | None,
    content: Mapping[str, tuple[str, str]] | None,
    root: str | Path | None,
    seed: int,
    name: str,
    source: str | None,
    first_row: int = 1,
    items_source: str = "the item table",
    items_first_row: int = 1,
) -> Dataset:
    """See :meth:`graphrec.Dataset.from_frame` for everything up to ``source``.

    The rest is for messages: ``first_row`` is the number of the first interaction (2 where the file has a
    header line), ``items_source`` what to call the item table, and ``items_first_row`` the number of its
    first row.
    """
    source = source or name
    frame = as_frame(interactions, source)
    if not frame.height:
        raise DataError(f"{source}: no rows; expected at least one interaction")
    table = pl.DataFrame(
        {
            "user": ids(column(frame, user, source), "user", source, first_row),
            "item": ids(column(frame, item, source), "item", source, first_row),
        }
    )
    if time is not None:
        table = table.with_columns(pl.Series("time", seconds(column(frame, time, source), source, first_row)))
    label_column = split if isinstance(split, str) and split in frame.columns else None
    if label_column is not None:
        table = table.with_columns(pl.Series("label", _labels(frame[label_column], source, first_row)))
    meta: dict[str, Any] = {"source": Path(source).name, "rows": frame.height}
    if min_rating is not None:
        if rating is None:
            raise DataError(
                f"{source}: min_rating={min_rating} needs the rating column; name it with rating="
            )
        table = table.filter(
            numbers(column(frame, rating, source), "rating", source, first_row) >= min_rating
        )
        meta["min_rating"] = min_rating
        _not_empty(table, source, f"no row has a rating of at least {min_rating}")
    table, meta["repeated pairs dropped"] = _unique(table, source)

    users_of, items_of = table["user"].unique(maintain_order=True), table["item"].unique(maintain_order=True)
    user_codes = _codes(table["user"], users_of)
    item_codes = _codes(table["item"], items_of)
    cores = (k_core, k_core) if isinstance(k_core, int) else tuple(k_core)
    if max(cores) > 1:
        table = table.filter(core_mask(user_codes, item_codes, *cores))
        meta["k_core"] = list(cores)
        _not_empty(table, source, f"no interaction is left by the {cores[0]}/{cores[1]}-core filter")
    # Ids in a fixed order (numbers by value, else text) make the dataset independent of the order of the
    # rows.
    users = Vocabulary(_ordered(table["user"]), "user")
    vocabulary = Vocabulary(_ordered(table["item"]), "item")
    pairs = Interactions(
        _codes(table["user"], pl.Series(users.ids)),
        _codes(table["item"], pl.Series(vocabulary.ids)),
        len(users),
        len(vocabulary),
        table["time"].to_numpy() if time is not None else None,
        source,
    )
    if label_column is not None:
        order = np.argsort(
            _codes(table["user"], pl.Series(users.ids)).astype(np.int64) * len(vocabulary)
            + _codes(table["item"], pl.Series(vocabulary.ids)),
            kind="stable",
        )
        labels, meta["split"] = table["label"].to_numpy()[order], {"name": "column", "column": label_column}
    else:
        recipe = as_split(split)
        labels, meta["split"] = recipe.assign(pairs, seed), {**recipe.describe(), "seed": seed}
    train, valid, test = (pairs.where(labels == i, s) for i, s in enumerate(SPLITS))
    fields, unknown = (
        ({}, 0)
        if items is None
        else _content(items, vocabulary, item_id or item, content, root, items_source, items_first_row)
    )
    if items is not None:
        meta["item rows without interactions"] = unknown
    return Dataset(name, users, vocabulary, train, valid, test, content=fields, meta=meta)


def _unique(table: pl.DataFrame, source: str) -> tuple[pl.DataFrame, int]:
    """Keeps the latest of repeated pairs (the first where there is no time)."""
    if "label" in table.columns:
        mixed = (
            table.group_by("user", "item", maintain_order=True)
            .agg(pl.col("label").n_unique())
            .filter(pl.col("label") > 1)
        )
        if mixed.height:
            raise DataError(
                f"{source}: user {mixed['user'][0]!r} item {mixed['item'][0]!r} stands in more than one "
                f"split "
                f"({mixed.height:,} such pairs); splits must be disjoint"
            )
    if "time" in table.columns:
        unique = table.sort("time", maintain_order=True).unique(
            ["user", "item"], keep="last", maintain_order=True
        )
    else:
        unique = table.unique(["user", "item"], keep="first", maintain_order=True)
    return unique, table.height - unique.height


def _content(
    items: Any,
    vocabulary: Vocabulary,
    item_id: str,
    content: Mapping[str, tuple[str, str]] | None,
    root: str | Path | None,
    source: str,
    first_row: int,
) -> tuple[dict[str, Content], int]:
    frame = as_frame(items, source)
    keys = ids(column(frame, item_id, source), "item", source, first_row)
    if keys.n_unique() != len(keys):
        second = int((~keys.is_first_distinct()).arg_max() or 0)
        raise DataError(
            f"{source}, row {second + first_row}: item {keys[second]!r} occurs a second time; expected "
            f"one row "
            "an item"
        )
    at = vocabulary.find(keys.to_list())
    known = at >= 0
    fields: dict[str, Content] = {}
    for name, (kind, wanted) in (content or {}).items():
        values: list[str | None] = [None] * len(vocabulary)
        texts = column(frame, wanted, source).cast(pl.String).to_list()
        for row in np.flatnonzero(known):
            values[at[row]] = texts[row]
        fields[name] = Content(cast(Kind, kind), values, root if kind == "image" else None)
    return fields, int((~known).sum())


def _labels(series: pl.Series, source: str, first_row: int) -> np.ndarray:
    if series.dtype.is_float():
        series = series.cast(pl.Int64, strict=False)
    text = series.cast(pl.String).str.strip_chars().str.to_lowercase()
    labels = text.replace_strict(LABELS, default=None, return_dtype=pl.Int8)
    if labels.null_count():
        row = int(labels.is_null().arg_max() or 0)
        raise DataError(
            f"{source}, row {row + first_row}: split {series[row]!r}; expected train, valid, test or 0, 1, 2"
        )
    return labels.to_numpy()


def _codes(values: pl.Series, vocabulary: pl.Series) -> np.ndarray:
    codes = values.replace_strict(
        vocabulary, pl.Series(np.arange(len(vocabulary), dtype=np.int32)), return_dtype=pl.Int32
    )
    return codes.to_numpy()


def _ordered(values: pl.Series) -> list[str]:
    unique = values.unique()
    plain = unique.str.contains(r"^(0|[1-9][0-9]{0,17})$").all()
    frame = pl.DataFrame({"id": unique})
    return (frame.sort(pl.col("id").cast(pl.Int64)) if plain else frame.sort("id"))["id"].to_list()


def _not_empty(table: pl.DataFrame, source: str, why: str) -> None:
    if not table.height:
        raise DataError(f"{source}: {why}; loosen the filter")
