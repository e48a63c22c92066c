"""Reads delimited text files: UTF-8, one header line, rows of equal length, all columns as text."""

from __future__ import annotations

import csv
import mmap
import re
from pathlib import Path

import polars as pl

from graphrec.core.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8."""


def read_delimited(path: Path) -> pl.DataFrame:
    """A CSV, TSV or ``.inter`` file; see :func:`graphrec.data.readers.files.read_table`."""
    suffix = path.suffix.lower()
    return _read_separated(path, DELIMITERS[suffix], quote=suffix != ".inter")


def read_tab_separated(path: Path, names: list[str] | None = None, header: bool = True) -> pl.DataFrame:
    """Reads a tab-separated table without quoting, whatever its extension; all columns are text.

    Args:
        path: the file.
        names: column names; None uses the header line.
        header: whether the file has a header line.

    Raises:
        DataError: the file is empty, damaged, not UTF-8 or ragged, or has another number of columns.
    """
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; expected a tab-separated table with at least one row")
    frame = _read_separated(path, "\t", quote=False, names=names, header=header)
    if not frame.height:
        raise DataError(f"{path}: the table has no rows; expected at least one")
    return frame


def _read_separated(
    path: Path, delimiter: str, quote: bool, names: list[str] | None = None, header: bool = True
) -> pl.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    first = _read_header(path, delimiter, quote)
    if names is not None and len(first) != len(names):
        raise DataError(
            f"{path}, line 1: {len(first)} columns; expected {len(names)}, tab-separated: {names}"
        )
    columns = first if names is None else names
    try:
        table = arrow_csv.read_csv(
            path,
            # Only single-threaded, PyArrow reports row numbers in errors.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=names, skip_rows=int(names is not None and header)
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quote else False, newlines_in_values=quote
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as cause:
        _check_utf8(path)
        reason = str(cause).removeprefix("CSV parse error: ")
        raise DataError(
            f"{path}: {reason if len(reason) <= 300 else reason[:300] + '…'}; expected one "
            f"{delimiter!r}-separated row per line, with as many fields as the header"
        ) from cause
    if len(set(table.column_names)) != table.num_columns:
        repeated = next(n for n in table.column_names if table.column_names.count(n) > 1)
        raise DataError(f"{path}: two columns have the name {repeated!r}; rename one of them")
    # A column whose parsed name differs from the header was not read as text.
    if table.column_names != columns:
        raise DataError(
            f"{path}, line 1: the column names {columns[:20]} are parsed differently as a row; write a "
            "quote in a "
            'name as "" inside quotes'
        )
    frame = pl.DataFrame(table)
    if quote:
        _check_quotes(path, delimiter, frame.height)
    _check_repeated_header(frame, path)
    return frame


def _read_header(path: Path, delimiter: str, quote: bool) -> list[str]:
    """The fields of the header line; also checks the whole file for NUL bytes."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(b"\0")
        if at >= 0:
            line = data[:at].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line}: contains a NUL byte; expected UTF-8 text (convert UTF-16 "
                "files: iconv -f utf-16 -t utf-8)"
            )
        start = 3 if data[:3] == BYTE_ORDER_MARK else 0
        while start < len(data) and data[start] in b"\r\n":  # PyArrow skips these too
            start += 1
        end = data.find(b"\n", start)
        raw = data[start : end if end >= 0 else len(data)].rstrip(b"\r")
    try:
        line_text = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise _utf8_error(path, 1, raw[cause.start]) from cause
    if "\r" in line_text:
        raise DataError(
            f"{path}, line 1: contains a carriage return without a line feed; expected lines that end in "
            "\\n or \\r\\n (convert old Mac files: tr '\\r' '\\n')"
        )
    if not quote:
        return line_text.split(delimiter)
    try:
        return next(csv.reader([line_text], delimiter=delimiter, strict=True), [])
    except csv.Error as cause:
        raise DataError(
            f"{path}, line 1: not a header line ({cause}); expected all column names on this line"
        ) from cause


def _check_quotes(path: Path, delimiter: str, n_rows: int) -> None:
    """Refuses unclosed quotes and quotes closed inside a field, which would silently merge rows.

    The whole file is scanned only if the number of lines differs from the number of rows, otherwise only the
    last line.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b'"') < 0:
            return
        count = sum(block.count(b"\n") for block in iter(lambda: data.read(1 << 24), b""))
        one_a_row = count + (data[-1] != ord("\n")) == n_rows + 1
        start = data.rfind(b"\n", 0, len(data) - 1) + 1 if one_a_row else 0
        mark = re.escape(delimiter.encode())
        field = re.compile(rb'(?:\A|[%b\r\n])"(?:[^"]|"")*+("(?=[%b\r\n]|\Z))?' % (mark, mark))
        wrong = next((m for m in field.finditer(data[start:] if start else data) if m[1] is None), None)
        if wrong is None:
            return
        at = start + wrong.start() + (wrong[0][:1] != b'"')
        line = data[:at].count(b"\n") + 1
        ends = start + wrong.end() == len(data)
        what = (
            "is never closed and runs to the end of the file" if ends else "continues after its closing quote"
        )
        raise DataError(
            f"{path}, line {line}: a quoted field {what}; close the quote, or write a quote inside a quoted "
            'field as ""'
        )


def _check_repeated_header(frame: pl.DataFrame, path: Path) -> None:
    names = frame.columns
    if len(names) < 2:
        return
    for row in (frame[:, 0] == names[0]).arg_true().to_list():
        if list(frame.row(row)) == names:
            raise DataError(
                f"{path}, row {row + 2}: repeats the header, as in concatenated files; remove that line"
            )


def _check_utf8(path: Path) -> None:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as cause:
                raise _utf8_error(path, number, line[cause.start]) from cause


def _utf8_error(path: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"{path}, line {line}: byte 0x{byte:02x} is not valid UTF-8; convert the file, for example: "
        "iconv -f latin1 -t utf-8"
    )
