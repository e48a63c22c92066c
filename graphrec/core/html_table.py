"""Small HTML tables for the ``_repr_html_`` of notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def html_table(caption: str, rows: Mapping[str, object], header: Sequence[str] = ()) -> str:
    """A table with one name and its value, or values, per row; all text is escaped.

    Args:
        caption: text above the table.
        rows: name -> value; a list or tuple fills several columns. Integers get thousands separators.
        header: column titles, the first one above the names; empty for none.
    """
    lines = [f"<table><caption>{escape(caption)}</caption>"]
    if header:
        titles = "".join(f"<th>{escape(title)}</th>" for title in header)
        lines.append(f"<thead><tr>{titles}</tr></thead>")
    lines.append("<tbody>")
    for name, value in rows.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        cells = "".join(f"<td>{escape(_text(cell))}</td>" for cell in values)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    lines.append("</tbody></table>")
    return "\n".join(lines)


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
