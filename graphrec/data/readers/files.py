"""Tables from files, whole or refused: every damage is an error that names the file and, if any, the row."""

from __future__ import annotations

import csv
import json
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from graphrec.atomic import read_array
from graphrec.errors import DataError


def find(folder: Path, file: str, holds: str, source: str) -> Path:
    """The path of a file that a reader needs.

    Args:
        folder: the dataset's folder.
        file: name inside it.
        holds: what the file holds, for the message.
        source: where the data can be had, for the message.

    Raises:
        DataError: there is no such file.
    """
    path = folder / file
    if not path.is_file():
        raise DataError(f"{path}: no such file; it should hold {holds}. Source: {source}")
    return path


def first_row(path: Path) -> int:
    """Number of the first row of data in messages: 2 where line 1 is a header, else 1."""
    return 2 if path.suffix.lower() in _DELIMITERS else 1


def read_table(path: Path) -> pl.DataFrame:
    """A CSV, TSV, ``.inter``, JSON Lines, Parquet or Arrow file as a frame.

    Delimited files must be UTF-8 with one header line, and all their columns come as text, so that ids keep
    their leading zeros. Every row must have as many fields as the header. ``.inter`` files are tab-separated
    and know no quoting.

    Raises:
        DataError: the file is missing, empty, damaged, not UTF-8, ragged, or of an unknown kind.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {sorted(FORMATS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path, which is relative to the dataset's folder")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; expected a table with at least one row")
    frame = FORMATS[suffix](path)
    if not frame.width or not frame.height:
        raise DataError(f"{path}: the table has no rows; expected at least one")
    return frame


def _delimited(path: Path) -> pl.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header = _checked_header(path)
    delimiter = _DELIMITERS[path.suffix.lower()]
    quote = False if path.suffix.lower() == ".inter" else '"'
    try:
        table = arrow_csv.read_csv(
            path,
            # One thread, because only then do messages carry row numbers.
            read_options=arrow_csv.ReadOptions(use_threads=False),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, quote_char=quote, newlines_in_values=bool(quote)
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as cause:
        _utf8(path)
        raise DataError(
            f"{path}: {str(cause).removeprefix('CSV parse error: ')}; expected one "
            f"{delimiter!r}-separated row a "
            "line, each with as many fields as the header"
        ) from cause
    if len(set(table.column_names)) != table.num_columns:
        twice = next(n for n in table.column_names if table.column_names.count(n) > 1)
        raise DataError(f"{path}: two columns are called {twice!r}; rename one of them")
    frame = pl.DataFrame(table)
    if quote and frame.height and "\n" in (frame[-1, -1] or "") and not _ends_quoted(path):
        start = frame.height + 1
        raise DataError(
            f"{path}, row {start}: a quoted field is never closed and runs to the end of the file; close the "
            'quote, or write a quote inside a quoted field as ""'
        )
    return frame


def _checked_header(path: Path) -> list[str]:
    """Names in the header line; the whole file is searched for NUL bytes first."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(b"\0")
        if at >= 0:
            line = data[:at].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line}: holds a NUL byte; expected UTF-8 text (UTF-16 files must be "
                f"converted: "
                "iconv -f utf-16 -t utf-8)"
            )
        end = data.find(b"\n")
        raw = data[: end if end >= 0 else len(data)].rstrip(b"\r").removeprefix(b"\xef\xbb\xbf")
    try:
        line_text = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise _not_utf8(path, 1, raw[cause.start]) from cause
    if path.suffix.lower() == ".inter":
        return line_text.split("\t")
    names: list[str] = next(csv.reader([line_text], delimiter=_DELIMITERS[path.suffix.lower()]), [])
    return names


def _ends_quoted(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return file.read().rstrip(b"\r\n").endswith(b'"')


def _utf8(path: Path) -> None:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as cause:
                raise _not_utf8(path, number, line[cause.start]) from cause


def _not_utf8(path: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"{path}, line {line}: byte 0x{byte:02x} is not valid UTF-8; convert the file, for example: "
        "iconv -f latin1 -t utf-8"
    )


def _json_lines(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ndjson(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as cause:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    value = json.loads(line) if line.strip() else {}
                except ValueError as bad:
                    raise DataError(
                        f"{path}, line {number}: not readable as JSON ({bad}); expected one object a line"
                    ) from cause
                if not isinstance(value, dict):
                    raise DataError(
                        f"{path}, line {number}: holds {type(value).__name__}; expected one object a line"
                    ) from cause
        raise DataError(
            f"{path}: not readable as JSON Lines ({cause}); expected one object a line"
        ) from cause


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise DataError(
            f"{path}: not readable as Parquet ({cause}); it may be truncated, write it again"
        ) from cause


def _arrow(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ipc(path)
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise DataError(
            f"{path}: not readable as an Arrow file ({cause}); it may be truncated, write it again"
        ) from cause


_DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
FORMATS: dict[str, Callable[[Path], pl.DataFrame]] = {
    **dict.fromkeys(_DELIMITERS, _delimited),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}


def read_mapping(path: Path, key: str, index: str) -> list[str]:
    """External ids in index order from a two-column table that numbers them ``0 .. n-1``.

    Args:
        path: the table; tab-separated whatever its suffix, as the published mappings are.
        key: column of external ids.
        index: column of indices.

    Raises:
        DataError: a column is missing, or the indices are not exactly ``0 .. n-1``.
    """
    try:
        frame = pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise DataError(f"{path}: not readable as a tab-separated table ({cause})") from cause
    return ordered_ids(frame, key, index, path)


def ordered_ids(frame: pl.DataFrame, key: str, index: str, path: Path) -> list[str]:
    """The column ``key`` in the order of the column ``index``, which must number the rows ``0 .. n-1``.

    Raises:
        DataError: a column is missing, or the indices are not exactly ``0 .. n-1``.
    """
    for name in (key, index):
        if name not in frame.columns:
            raise DataError(f"{path}: no column {name!r}; it has {frame.columns}")
    indices = frame[index].cast(pl.Int64, strict=False)
    if indices.null_count() or not np.array_equal(np.sort(indices.to_numpy()), np.arange(len(indices))):
        raise DataError(
            f"{path}: column {index!r} is not the numbers 0 to {len(indices) - 1}, each once; expected "
            f"an index "
            "without gaps, because rows of feature arrays are matched to it"
        )
    ids: list[str] = frame[np.argsort(indices.to_numpy()).tolist()][key].to_list()
    return ids


def read_features(path: Path, n_rows: int | None) -> np.ndarray:
    """Ready-made item vectors ``(n_items, d)``, memory-mapped.

    Args:
        path: a ``.npy`` file.
        n_rows: rows it must have; None accepts any number.

    Raises:
        DataError: missing, damaged, not two-dimensional, not floating point, or with another number of rows.
    """
    array = read_array(path, mmap=True)
    if array.ndim != 2 or array.dtype.kind != "f" or (n_rows is not None and len(array) != n_rows):
        rows = "n_items" if n_rows is None else f"{n_rows:,}"
        raise DataError(f"{path}: shape {array.shape}, {array.dtype}; expected ({rows}, d) of a float type")
    return array


def sentences(frame: pl.DataFrame, columns: list[str], path: Path | str) -> pl.Series:
    """Several columns joined into one text a row ``(n,)``; null where all are empty.

    Each part ends with a full stop. Lists are joined with commas; numbers are written out.

    Raises:
        DataError: a column is missing; lists those there are.
    """
    parts = []
    for name in columns:
        if name not in frame.columns:
            raise DataError(f"{path}: no column {name!r}; it has {frame.columns}")
        dtype = frame.schema[name]
        part = pl.col(name)
        if isinstance(dtype, pl.List):
            part = part.cast(pl.List(pl.String)).list.drop_nulls().list.join(", ")
        part = part.cast(pl.String).str.strip_chars()
        part = pl.when(part == "").then(None).otherwise(part)
        ended = part.str.contains(r"[.!?]$")
        parts.append(pl.when(ended).then(part).otherwise(part + "."))
    text = frame.select(text=pl.concat_str(parts, separator=" ", ignore_nulls=True))["text"]
    return text.replace("", None)
