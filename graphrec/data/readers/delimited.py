"""Reads delimited text files: one row a line, rows of equal length, all columns as text."""

from __future__ import annotations

import csv
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from graphrec.core.errors import ConfigError, DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
FREE_SUFFIXES = (".dat", ".txt")
"""Suffixes that say nothing about the delimiter."""
CANDIDATES = ("::", "\t", ";", "|", ",", " ")
"""Delimiters that are looked for, in this order."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8."""
SUBSTITUTE = "\x1f"
"""Takes the place of a delimiter of several characters; a control character that no text has."""
SAMPLE = 1 << 16  # bytes in which a delimiter is looked for


@dataclass(frozen=True)
class TextFormat:
    """How a delimited file is written.

    Attributes:
        delimiter: between fields, of one or more characters; None: by the suffix, and in ``.dat`` and
            ``.txt`` files recognized from the first lines.
        quote: whether fields may be in double quotes; None: in ``.csv`` and ``.tsv`` files.
        escape: character that takes the meaning from the next one inside quotes, such as a backslash.
        encoding: of the file, such as ``"latin-1"`` or ``"utf-16"``.
        comment: lines that begin with it are left out.
        columns: column names of a file without a header line.

    Raises:
        ConfigError: an unknown encoding, or an empty or overlong option.
    """

    delimiter: str | None = None
    quote: bool | None = None
    escape: str | None = None
    encoding: str = "utf-8"
    comment: str | None = None
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError) as cause:
            raise ConfigError(
                f"encoding={self.encoding!r} is unknown; expected one such as 'utf-8', 'latin-1' or 'utf-16'"
            ) from cause
        if self.delimiter == "" or self.comment == "" or any(c in (self.delimiter or "") for c in '"\r\n'):
            raise ConfigError(
                f"delimiter={self.delimiter!r}, comment={self.comment!r}; expected text without quotes and "
                "line ends"
            )
        if self.escape is not None and (len(self.escape) != 1 or self.escape in '"\r\n'):
            raise ConfigError(f"escape={self.escape!r}; expected one character, such as a backslash")


PLAIN = TextFormat()


def read_delimited(path: Path, suffix: str, content: bytes | None, text: TextFormat) -> pl.DataFrame:
    """A delimited file; see :func:`graphrec.data.readers.files.read_table`.

    Args:
        path: the file.
        suffix: that says how it is written; not that of a compressed file.
        content: its bytes if they were decompressed, else None.
        text: how it is written.
    """
    content = _as_utf8(path, content, text)
    if suffix == ".txt" and text.delimiter is None and text.columns is None:
        lists = _read_lists(path, content)
        if lists is not None:
            return lists
    delimiter = text.delimiter or DELIMITERS.get(suffix) or _recognize(path, content, text)
    quote = text.quote if text.quote is not None else suffix in (".csv", ".tsv") and len(delimiter) == 1
    if len(delimiter) > 1:
        content = _bytes(path, content)
        if SUBSTITUTE.encode() in content or quote:
            raise DataError(f"{path}: delimiter {delimiter!r}; expected no quotes and no control characters")
        content = content.replace(delimiter.encode(), SUBSTITUTE.encode())
    names = None if text.columns is None else list(text.columns)
    return _read_separated(path, delimiter, quote, names, names is None, content, text.escape)


def _read_lists(path: Path, content: bytes | None) -> pl.DataFrame | None:
    """``user`` and ``item`` of a file in the layout of LightGCN: a line ``user item item ...`` for each user.

    None if the lines are no whole numbers, or a user has two lines.
    """
    lines = [line.split() for line in _bytes(path, content).splitlines()]
    lines = [line for line in lines if line]
    if not all(part.isdigit() for line in lines for part in line) or len({u[0] for u in lines}) < len(lines):
        return None
    users = [line[0].decode() for line in lines for _ in line[1:]]
    return pl.DataFrame({"user": users, "item": [part.decode() for line in lines for part in line[1:]]})


def _as_utf8(path: Path, content: bytes | None, text: TextFormat) -> bytes | None:
    """The content in UTF-8 and without comments; None if it is the file as it is."""
    if text.encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        raw = _bytes(path, content)
        try:
            content = raw.decode(text.encoding).encode("utf-8")
        except UnicodeDecodeError as cause:
            line = raw[: cause.start].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line}: byte 0x{raw[cause.start]:02x} is not valid {text.encoding}; "
                "set another encoding="
            ) from cause
    if text.comment is not None:
        content = _bytes(path, content)
        mark = text.comment.encode()
        content = b"".join(line for line in content.splitlines(keepends=True) if not line.startswith(mark))
    return content


def _recognize(path: Path, content: bytes | None, text: TextFormat) -> str:
    """The delimiter that occurs equally often in the first lines."""
    found = _guess(path, content)
    if found is None:
        raise DataError(
            f"{path}: none of {list(CANDIDATES)} occurs equally often in the first lines; set delimiter="
        )
    return found


def _guess(path: Path, content: bytes | None) -> str | None:
    if content is None:
        with open(path, "rb") as file:
            content = file.read(SAMPLE)
    lines = [line for line in content[:SAMPLE].decode("utf-8", "replace").splitlines()[:6] if line]
    if len(lines) == 6:
        lines.pop()  # may be cut
    counts = {mark: {line.strip(" ").count(mark) for line in lines} for mark in CANDIDATES}
    return next((mark for mark, n in counts.items() if len(n) == 1 and n != {0}), None)


def _bytes(path: Path, content: bytes | None) -> bytes:
    """The content, read if it is the file as it is."""
    return path.read_bytes() if content is None else content


@contextmanager
def _opened(path: Path, content: bytes | None) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file, mapped if they are those on disk."""
    if content is not None:
        yield content
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


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
    frame = _read_separated(path, "\t", False, names, header)
    if not frame.height:
        raise DataError(f"{path}: the table has no rows; expected at least one")
    return frame


def _read_separated(
    path: Path,
    delimiter: str,
    quote: bool,
    names: list[str] | None = None,
    header: bool = True,
    content: bytes | None = None,
    escape: str | None = None,
) -> pl.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    mark = delimiter if len(delimiter) == 1 else SUBSTITUTE
    first = _read_header(path, content, mark, quote, escape)
    other = _guess(path, content) if len(first) == 1 else None
    if other is not None and other not in (mark, delimiter):
        raise DataError(
            f"{path}, line 1: one column {first[0]!r}; expected columns separated by {delimiter!r}, and "
            f"these seem to be separated by {other!r}: set delimiter={other!r}, or write the "
            "file again"
        )
    if names is not None and len(first) != len(names):
        raise DataError(
            f"{path}, line 1: {len(first)} columns; expected {len(names)}, separated by {delimiter!r}: "
            f"{names}"
        )
    columns = first if names is None else names
    if quote:
        _check_quotes(path, content, mark, len(columns), escape)
    try:
        table = arrow_csv.read_csv(
            path if content is None else pa.BufferReader(content),
            # Only single-threaded, PyArrow reports row numbers in errors.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=names, skip_rows=int(names is not None and header)
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=mark,
                quote_char='"' if quote else False,
                escape_char=escape or False,
                newlines_in_values=quote,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as cause:
        _check_utf8(path, content)
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
    _check_repeated_header(frame, path)
    return frame


def _read_header(
    path: Path, content: bytes | None, delimiter: str, quote: bool, escape: str | None
) -> list[str]:
    """The fields of the first line; also checks the whole file for NUL bytes."""
    with _opened(path, content) as data:
        at = data.find(b"\0")
        if at >= 0:
            line = data[:at].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line}: contains a NUL byte; expected UTF-8 text (convert UTF-16 "
                "files: encoding=utf-16, or iconv -f utf-16 -t utf-8)"
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
        return next(csv.reader([line_text], delimiter=delimiter, escapechar=escape, strict=True), [])
    except csv.Error as cause:
        raise DataError(
            f"{path}, line 1: not a header line ({cause}); expected all column names on this line"
        ) from cause


def _check_quotes(
    path: Path, content: bytes | None, delimiter: str, n_columns: int, escape: str | None
) -> None:
    """Refuses quotes that would silently change a text or merge rows; the message names the first of them.

    These are quotes that are never closed, quotes closed inside a field, and quotes around line ends where
    the lines inside them look like rows.
    """
    with _opened(path, content) as data:
        if data.find(b'"') < 0:
            return
        mark = re.escape(delimiter.encode())
        inside = b'[^"]|""'
        if escape is not None:
            inside = rb'[^"%b]|""|%b.' % ((re.escape(escape.encode()),) * 2)
        begin = rb'(?:\A|(?<=\A\xef\xbb\xbf)|(?<=[%b\r\n]))"' % mark
        end = rb'(?P<closed>"(?=[%b\r\n]|\Z))?' % mark
        field = re.compile(begin + b"(?P<text>(?:%b)*+)" % inside + end, re.DOTALL)
        for match in field.finditer(data):
            rows = match["text"].split(b"\n")[1:] if b"\n" in match["text"] else []
            swallowed = rows and (n_columns > 2 or delimiter == "\t") and n_columns > 1
            swallowed = swallowed and all(row.count(delimiter.encode()) == n_columns - 1 for row in rows)
            if match["closed"] is not None and not swallowed:
                continue
            line = data[: match.start()].count(b"\n") + 1
            if match["closed"] is not None:
                what = f"runs over {len(rows)} line ends, and what follows them looks like rows"
            elif match.end() == len(data):
                what = "is never closed and runs to the end of the file"
            else:
                what = "continues after its closing quote"
            raise DataError(
                f"{path}, line {line}: a quoted field {what}; close the quote, write a quote inside it "
                'as "", or set quote=false if quotes are ordinary characters (escape=\\ if they are written '
                '\\")'
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


def _check_utf8(path: Path, content: bytes | None) -> None:
    with open(path, "rb") as file:
        for number, line in enumerate(file if content is None else content.splitlines(), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as cause:
                raise _utf8_error(path, number, line[cause.start]) from cause


def _utf8_error(path: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"{path}, line {line}: byte 0x{byte:02x} is not valid UTF-8; set its encoding "
        "(encoding=latin-1), or convert it: iconv -f latin1 -t utf-8"
    )
