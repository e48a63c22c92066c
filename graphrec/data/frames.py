"""Checks and converts columns of a dataframe: ids, numbers, and errors that name the row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.errors import DataError, nearest, plain_spelling
from graphrec.core.progress import print_note
from graphrec.data.vocabulary import Vocabulary

TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)


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
        raise DataError(
            _mixed_column(data, source) or f"{source}: cannot read {type(data).__name__} as a table ({cause})"
        ) from cause


def _mixed_column(data: Any, source: str) -> str:
    """The message for the first column that holds text and numbers, or nothing."""
    for name in list(data) if isinstance(data, Mapping) or hasattr(data, "columns") else ():
        first: Any = None
        for row, value in enumerate(data[name], start=1):
            if not isinstance(value, (str, int, float)) or value != value:  # missing
                continue
            first = value if first is None else first
            if isinstance(value, str) != isinstance(first, str):
                return (
                    f"{source}, row {row}: column {name!r} holds {value!r}, and before it {first!r}; "
                    "expected text or numbers, because 7 and '7' could be one id or two: convert the column "
                    "to text"
                )
    return ""


def column(frame: pl.DataFrame, name: str, source: str) -> pl.Series:
    """One column by name; ``column.key`` is the value of a key where the column holds objects.

    Raises:
        DataError: there is no such column; the message lists the columns.
    """
    parent, dot, key = name.partition(".")
    if name not in frame.columns and dot and parent in frame.columns:
        whole = frame[parent]
        keys = [field.name for field in whole.dtype.fields] if isinstance(whole.dtype, pl.Struct) else []
        if key in keys:
            return whole.struct.field(key).alias(name)
        raise DataError(
            f"{source}: column {parent!r} has no key {key!r}; it has {keys[:20] or 'none'}."
            f"{nearest(key, keys)}"
        )
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
    unknown = [key for key, index in zip(keys, indices, strict=True) if index < 0]
    similar = _similar_ids(unknown, items, keys)
    hint = ""
    if similar:
        key, item = similar[0]
        hint = (
            f"{len(similar):,} would match without case, spaces or leading zeros, such as {quoted(key)} and "
            f"{quoted(item)}: write both files alike (read ids as text, so that 007 does not become 7)"
        )
    if len(unknown) == len(keys):
        raise DataError(
            f"{source}: none of its {len(keys):,} items, first {quoted(keys[0]) if len(keys) else None}, is "
            f"among the {len(items):,} items of the dataset, first {quoted(items[0])}; "
            + (hint or f"check that {item_id!r} is the column of item ids")
        )
    if hint:
        print_note(f"{source}: {len(unknown):,} items have no interactions; {hint}")
    return indices


def _similar_ids(unknown: list[str], items: Vocabulary, keys: pl.Series) -> list[tuple[str, str]]:
    """Unknown ids, each with an item that has no row of its own and is spelled nearly like it."""
    if not unknown:
        return []
    present = set(keys)
    spelled = {plain_spelling(item): item for item in items.ids if item not in present}
    plain = ((key, spelled.get(plain_spelling(key))) for key in unknown)
    return [(key, item) for key, item in plain if item is not None]


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


def quoted(value: str) -> str:
    """A value in quotes, cut to 80 characters, for messages."""
    return repr(value if len(value) <= 80 else value[:79] + "…")
