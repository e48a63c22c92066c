"""Output of the commands: tables and lines, formatted by rich on a terminal and plain otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphrec.cli import launch
from graphrec.core.progress import (
    CONTROL,
    print_note as print_note,
    printable as printable,
    printable_lines as printable_lines,
)


def print_line(*parts: object) -> None:
    """Prints one line to stdout; with several processes, only the first one prints."""
    if launch.is_first_process():
        print(*parts, flush=True)


def print_error(*parts: object) -> None:
    """Prints one line to stderr, in any process."""
    launch.wait_for_first_process()
    print(*(printable_lines(str(part)) for part in parts), file=sys.stderr, flush=True)


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], left: Iterable[str] | None = None
) -> None:
    """Prints a table; None is an empty cell.

    ``left`` names the columns aligned to the left; default: all but those that hold numbers only.
    """
    cells = [["" if cell is None else _format(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_is_numeric(row[i]) for row in cells) for i in range(len(header))]
    aligned = [not n for n in numeric] if left is None else [title in set(left) for title in header]
    if sys.stdout.isatty():
        _print_rich(header, cells, aligned)
        return
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), *cells]:
        padded = (
            c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, aligned, strict=True)
        )
        print_line("  ".join(padded).rstrip())


def print_fields(values: Mapping[str, object]) -> None:
    """Prints one name and value per line."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        print_line(f"{name.ljust(width)}  {_format(value)}")


def print_json(value: Any) -> None:
    """Prints JSON; control characters that JSON allows in strings are escaped, too."""
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
    print_line("\n".join(CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], line) for line in lines))


def print_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints CSV with a header line; a terminal shows control characters escaped, a pipe gets them."""
    import csv

    if sys.stdout.isatty():
        rows = [[printable(str(cell)) for cell in row] for row in rows]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    sys.stdout.flush()


def print_next_steps(*commands: str) -> None:
    """Prints the commands to run next, on stderr."""
    print_note("\nnext:")
    for command in commands:
        print_note(f"  {command}")


def _format(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return printable(" ".join(str(value).split()))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _is_numeric(cell: str) -> bool:
    return not cell.strip("-") or cell.lstrip("-+").replace(",", "").replace(".", "").isdecimal()


def _print_rich(header: Sequence[str], cells: Sequence[Sequence[str]], aligned: Sequence[bool]) -> None:
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
