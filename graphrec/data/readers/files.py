"""Reads tables from files; any damage raises an error that names the file and, if known, the row."""

from __future__ import annotations

import gzip
import html
import json
import os
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data import frames
from graphrec.data.readers.delimited import (
    BYTE_ORDER_MARK,
    DELIMITERS,
    FREE_SUFFIXES,
    PLAIN,
    TextFormat,
    read_delimited,
)

COMPRESSED = (".gz", ".zip")
JSON = (".jsonl", ".ndjson", ".json")
BINARY = (".parquet", ".arrow", ".feather")
FORMATS = frozenset({*DELIMITERS, *FREE_SUFFIXES, *JSON, *BINARY})
"""Suffixes of tables."""
TAG = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|</?[a-zA-Z][^<>]*>", re.DOTALL | re.IGNORECASE)


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


def first_row(path: Path, text: TextFormat = PLAIN) -> int:
    """Number of the first data row in messages: 2 if line 1 is a header, else 1."""
    delimited = table_suffix(path) in (*DELIMITERS, *FREE_SUFFIXES)
    return 2 if delimited and text.columns is None else 1


def table_suffix(path: Path) -> str:
    """The suffix that says how a table is written: of ``a.csv.gz`` it is ``.csv``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def read_table(
    path: Path, text: TextFormat = PLAIN, only: Collection[str] | None = None, ids: Collection[str] = ()
) -> pl.DataFrame:
    """A CSV, TSV, ``.inter``, ``.dat``, ``.txt``, JSON Lines, Parquet or Arrow file as a frame.

    Delimited files must be UTF-8 with one header line, unless ``text`` says otherwise. All their columns are
    read as text, so that ids keep leading zeros. Every row must have as many fields as the header. ``.inter``
    files are tab-separated without quoting. Text files may be compressed: ``.gz``, or ``.zip`` with one file.

    Args:
        path: the file.
        text: how a delimited file is written.
        only: the columns that are used, such as ``"price"`` or ``"details.price"``. Of JSON Lines with other
            values that differ in type from line to line, these alone are read.
        ids: columns of ids; in JSON Lines, numbers beside text are refused in them: is 7 the same id as "7"?

    Raises:
        DataError: the file is missing, empty, damaged, not UTF-8, ragged, or of an unknown format.
    """
    suffix = table_suffix(path)
    if suffix not in FORMATS or (path.suffix.lower() in COMPRESSED and suffix in BINARY):
        raise DataError(
            f"{path}: unknown file extension {''.join(path.suffixes[-2:])!r}; expected one of "
            f"{sorted(FORMATS)}, those of text also before {' or '.join(COMPRESSED)}"
        )
    if not os.path.isfile(path):
        raise DataError(
            f"{path}: {_not_a_file(path)}; check the path, which is relative to the folder of the dataset"
        )
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; expected a table with at least one row")
    content = _decompressed(path) if path.suffix.lower() in COMPRESSED else None
    if content is not None and not content:
        raise DataError(f"{path}: the file inside is empty; expected a table with at least one row")
    try:
        if suffix in JSON:
            frame = _json_lines(path, content, only, ids)
        elif suffix in BINARY:
            frame = _arrow_or_parquet(path, suffix)
        else:
            frame = read_delimited(path, suffix, content, text)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as cause:
        raise DataError(
            f"{path}: not readable as {suffix[1:].title()} ({cause}); it may be truncated or damaged, create "
            "it again"
        ) from cause
    if not frame.width or not frame.height:
        raise DataError(f"{path}: the table has no rows; expected at least one")
    return frame


def _decompressed(path: Path) -> bytes:
    """The content of a ``.gz`` file, or of the only file in a ``.zip``; nothing is written to disk."""
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                return file.read()
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise DataError(
                    f"{path}: holds {len(names)} files {names[:5]}; expected one, so unpack it first"
                )
            return archive.read(names[0])
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as cause:
        raise DataError(
            f"{path}: not readable as {path.suffix[1:]} ({cause}); it may be damaged, create it again"
        ) from cause


def _json_lines(
    path: Path, content: bytes | None, only: Collection[str] | None, ids: Collection[str]
) -> pl.DataFrame:
    if content is None:
        content = path.read_bytes()
    content = content.removeprefix(BYTE_ORDER_MARK)
    if table_suffix(path) == ".json" and content.lstrip()[:1] == b"[":
        content = _as_lines(path, content)
    try:
        frame = pl.read_ndjson(content, infer_schema_length=None)
        for name in ids:
            digits = rb"%b\s*:\s*-?\d" % re.escape(json.dumps(name).encode())
            if name in frame.columns and frame[name].dtype == pl.String and re.search(digits, content):
                _named_columns(path, content, [name])
        return frame
    except (pl.exceptions.PolarsError, OSError) as cause:
        blank = True
        for number, line in enumerate(content.split(b"\n"), start=1):
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
        if only is not None:
            return _named_columns(path, content, {name.partition(".")[0] for name in only} | set(only))
        raise DataError(
            f"{path}{_first_bad_line(content)}: not readable as JSON Lines ({cause}); expected one object "
            "per line, with values of one type per key"
        ) from cause


def _named_columns(path: Path, content: bytes, names: Collection[str]) -> pl.DataFrame:
    """Some columns of JSON Lines whose other columns hold values of different types."""
    numbered = [(n, line) for n, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    rows = [json.loads(line) for _, line in numbered]
    columns = {}
    for name in sorted(names):
        if not any(name in row for row in rows):
            continue  # the caller says which columns there are
        values = [row.get(name) for row in rows]
        kinds = [type(value).__name__ for value in values]
        number = pl.Float64 if {"int", "float"} <= set(kinds) <= {"int", "float", "NoneType"} else None
        try:
            columns[name] = pl.Series(name, values, number, strict=number is None)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as cause:
            first = next(kind for kind in kinds if kind != "NoneType")
            wrong = next((i for i, kind in enumerate(kinds) if kind not in (first, "NoneType")), 0)
            raise DataError(
                f"{path}, line {numbered[wrong][0]}: {name!r} is {json.dumps(values[wrong])[:80]}, and the "
                f"first value is of type {first}; expected one type"
            ) from cause
    return pl.DataFrame(columns)


def _as_lines(path: Path, content: bytes) -> bytes:
    """An array of objects as one object per line."""
    try:
        rows = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as bad:
        raise DataError(f"{path}: not readable as JSON ({bad}); expected one object per line") from bad
    return "\n".join(json.dumps(row) for row in rows).encode()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _first_bad_line(content: bytes) -> str:
    """``, line n`` for the first unreadable line, found by bisection."""
    lines = content.splitlines(keepends=True)
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


def _arrow_or_parquet(path: Path, suffix: str) -> pl.DataFrame:
    return pl.read_parquet(path, glob=False) if suffix == ".parquet" else pl.read_ipc(path)


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
        values = frames.column(frame, name, str(path))
        dtype = values.dtype
        part = pl.lit(values)
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


def without_html(texts: pl.Series) -> pl.Series:
    """Texts ``(n,)`` without HTML tags, and with the characters that entities such as ``&amp;`` stand for."""

    def clean(text: str) -> str:
        return " ".join(html.unescape(TAG.sub(" ", text)).split())

    return pl.Series(texts.name, [None if text is None else clean(text) for text in texts], pl.String)
