"""Reads tables from files; any damage raises an error that names the file and, if known, the row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import frames
from graphrec.data.readers.delimited import BYTE_ORDER_MARK, DELIMITERS, read_delimited


def require_file(folder: Path, file: str, holds: str, source: str) -> Path:
    """The path of a required file.

    Args:
        folder: folder of the dataset.
        file: file name inside the folder.
        holds: description of the file's content, for the message.
        source: where to get the data, for the message.

    Raises:
        DataError: there is no such file.
    """
    path = folder / file
    if not os.path.isfile(path):
        raise DataError(f"{path}: {_not_a_file(path)}; expected {holds}. Source: {source}")
    return path


def _not_a_file(path: Path) -> str:
    # Pipes are refused: reading one blocks forever if no process writes to it.
    return "not a regular file" if os.path.exists(path) else "no such file"


def first_row(path: Path) -> int:
    """Number of the first data row in messages: 2 if line 1 is a header, else 1."""
    return 2 if path.suffix.lower() in DELIMITERS else 1


def read_table(path: Path) -> pl.DataFrame:
    """A CSV, TSV, ``.inter``, JSON Lines, Parquet or Arrow file as a frame.

    Delimited files must be UTF-8 with one header line. All their columns are read as text, so that ids keep
    leading zeros. Every row must have as many fields as the header. ``.inter`` files are tab-separated
    without quoting.

    Raises:
        DataError: the file is missing, empty, damaged, not UTF-8, ragged, or of an unknown format.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path}: unknown file extension {path.suffix!r}; expected one of {sorted(FORMATS)}")
    if not os.path.isfile(path):
        raise DataError(
            f"{path}: {_not_a_file(path)}; check the path, which is relative to the folder of the dataset"
        )
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; expected a table with at least one row")
    try:
        frame = FORMATS[suffix](path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as cause:
        raise DataError(
            f"{path}: not readable as {suffix[1:].title()} ({cause}); it may be truncated or damaged, create "
            "it again"
        ) from cause
    if not frame.width or not frame.height:
        raise DataError(f"{path}: the table has no rows; expected at least one")
    return frame


def _json_lines(path: Path) -> pl.DataFrame:
    with open(path, "rb") as file:
        mark = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
    try:
        return pl.read_ndjson(path.read_bytes()[mark:] if mark else path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as cause:
        with open(path, "rb") as file:
            file.seek(mark)
            blank = True
            for number, line in enumerate(file, start=1):
                try:
                    value = json.loads(line.decode(), parse_constant=_refuse_constant) if line.strip() else {}
                    blank &= not line.strip()
                except (ValueError, RecursionError) as bad:
                    raise DataError(
                        f"{path}, line {number}: not readable as JSON ({bad}); expected one object per line"
                    ) from cause
                if not isinstance(value, dict):
                    raise DataError(
                        f"{path}, line {number}: holds {type(value).__name__}; expected one object per line"
                    ) from cause
        if blank:
            raise DataError(f"{path}: the table has no rows; expected at least one") from cause
        raise DataError(
            f"{path}{_first_bad_line(path, mark)}: not readable as JSON Lines ({cause}); expected one object "
            "per line, with values of one type per key"
        ) from cause


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _first_bad_line(path: Path, start: int) -> str:
    """``, line n`` for the first unreadable line, found by bisection."""
    lines = path.read_bytes()[start:].splitlines(keepends=True)
    good = 0
    bad = len(lines)
    while bad - good > 1:
        middle = (good + bad) // 2
        part = b"".join(lines[good:middle])
        try:
            if part.strip():
                pl.read_ndjson(part, infer_schema_length=None)
            good = middle
        except pl.exceptions.PolarsError:
            bad = middle
    return f", line {bad}" if lines else ""


FORMATS: dict[str, Callable[[Path], pl.DataFrame]] = {
    **dict.fromkeys(DELIMITERS, read_delimited),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": partial(pl.read_parquet, glob=False),
    ".arrow": pl.read_ipc,
    ".feather": pl.read_ipc,
}


def ordered_ids(frame: pl.DataFrame, key: str, index: str, path: Path, first_row: int = 1) -> list[str]:
    """The column ``key`` sorted by the column ``index``, which must hold ``0 .. n-1``, each once.

    Args:
        frame: the table.
        key: column of external ids.
        index: column of indices.
        path: its file, for messages.
        first_row: number of the first row, for messages.

    Raises:
        DataError: a column is missing, an id is empty or occurs twice, or the indices are not exactly
            ``0 .. n-1``.
    """
    named, indexed = (frames.column(frame, name, str(path)) for name in (key, index))
    indices = indexed.cast(pl.Int64, strict=False)
    bad = ((indices < 0) | (indices >= len(indices))).fill_null(True) | ~indices.is_first_distinct()
    expected = (
        f"; expected the integers 0 to {len(indices) - 1}, each once, because rows of feature arrays are "
        "matched to them"
    )
    frames.refuse(bad, indexed, f"column {index!r} holds", expected, path, first_row)
    keys = frames.unique_ids(named, key, str(path), first_row)
    ids: list[str] = keys[np.argsort(indices.to_numpy()).tolist()].to_list()
    return ids


def join_columns(frame: pl.DataFrame, columns: list[str], path: Path | str) -> pl.Series:
    """Joins several columns into one text per row ``(n,)``; null where all are empty.

    Every part ends with a full stop. Lists are joined with commas, numbers are converted to text.

    Raises:
        ConfigError: no columns.
        DataError: a column is missing or cannot be converted to text.
    """
    if not columns:
        raise ConfigError(f"{path}: text= is empty; expected one or more columns, or no text=")
    parts = []
    for name in columns:
        dtype = frames.column(frame, name, str(path)).dtype
        part = pl.col(name)
        plain = dtype.inner if isinstance(dtype, pl.List) else dtype
        if plain == pl.Binary or plain.is_nested():
            raise DataError(f"{path}: column {name!r} has type {dtype}; expected text, or lists of texts")
        if isinstance(dtype, pl.List):
            part = part.cast(pl.List(pl.String)).list.drop_nulls().list.join(", ")
        part = part.cast(pl.String).str.strip_chars()
        part = pl.when(part == "").then(None).otherwise(part)
        ended = part.str.contains(r"[.!?]$")
        parts.append(pl.when(ended).then(part).otherwise(part + "."))
    text = frame.select(text=pl.concat_str(parts, separator=" ", ignore_nulls=True))["text"]
    return text.replace("", None)
