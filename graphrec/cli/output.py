"""What commands share on the way out: tables and lines, rich on a terminal and plain everywhere else."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphrec.cli import launch
from graphrec.core.progress import note as note


def say(*parts: object) -> None:
    """One line of text; of several processes, the first one's."""
    if launch.speaks():
        print(*parts, flush=True)


def complain(*parts: object) -> None:
    """One line about what went wrong; whichever process it is."""
    launch.let_the_first_speak()
    print(*parts, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: Iterable[str] | None = None) -> None:
    """Prints a table.

    Args:
        header: column titles.
        rows: cells; None and empty texts stay empty.
        left: titles of the columns aligned to the left; default: all but those that hold numbers only.
    """
    cells = [["" if cell is None else _text(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(header))]
    aligned = [not n for n in numeric] if left is None else [title in set(left) for title in header]
    if sys.stdout.isatty():
        _rich(header, cells, aligned)
        return
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), *cells]:
        padded = (
            c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, aligned, strict=True)
        )
        say("  ".join(padded).rstrip())


def facts(values: Mapping[str, object]) -> None:
    """Prints names with their values, one a line."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        say(f"{name.ljust(width)}  {_text(value)}")


def as_json(value: Any) -> None:
    """Prints JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints CSV with a header line."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    sys.stdout.flush()


def following(*commands: str) -> None:
    """Names what to try next."""
    note("\nnext:")
    for command in commands:
        note(f"  {command}")


def printable(text: str) -> str:
    """The text with control characters, which a terminal would obey, and lone surrogates as escapes."""
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """The text with its line breaks, and all else that a terminal would obey as escapes."""
    return "\n".join(map(printable, text.split("\n")))


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return printable(" ".join(str(value).split()))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _numeric(cell: str) -> bool:
    return not cell.strip("-") or cell.lstrip("-+").replace(",", "").replace(".", "").isdecimal()


def _rich(header: Sequence[str], cells: Sequence[Sequence[str]], aligned: Sequence[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for title, is_left in zip(header, aligned, strict=True):
        shown.add_column(Text(title), justify="left" if is_left else "right")
    for row in cells:  # as Text: titles are data and may hold what looks like markup
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)
