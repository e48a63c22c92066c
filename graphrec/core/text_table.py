"""Tables as plain text, Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from graphrec.core.errors import ConfigError, nearest

Format = Literal["markdown", "latex", "plain", "html"]
LEFT = ("group", "metric", "model")
"""Titles of the columns that hold names."""

_LATEX_WORDS = ("backslash", "asciitilde", "asciicircum", "less", "greater")
_SPECIAL: dict[str, dict[str, str]] = {
    "plain": {},
    "markdown": {c: f"\\{c}" for c in "\\|*_`"} | {"<": "&lt;"},
    "html": {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"},
    "latex": {c: f"\\{c}" for c in "&%$#_{}"}
    | dict(zip("\\~^<>", (f"\\text{w}{{}}" for w in _LATEX_WORDS), strict=True))
    | {"±": r"$\pm$"},
}

_MARKS: dict[str, tuple[str, str]] = {
    "latex": (r"\textbf{%s}", r"\underline{%s}"),
    "html": ("<b>%s</b>", "<u>%s</u>"),
}


def escape(text: str, form: Format) -> str:
    """Text on one line, with the characters escaped that are markup in the form.

    Raises:
        ConfigError: no such form.
    """
    if form not in _SPECIAL:
        raise ConfigError(f"table form {form!r} is not one of {list(_SPECIAL)}.{nearest(form, _SPECIAL)}")
    return "".join(_SPECIAL[form].get(c, c) for c in text.replace("\n", " "))


def emphasize(text: str, place: int, form: Format) -> str:
    """Escaped text with the mark of its place: 0 is the best, 1 the second, later places have no mark.

    The best is bold, the second underlined (LaTeX, HTML) or italic; plain text has ``**`` and ``*``.
    """
    marks = _MARKS.get(form, ("**%s**", "*%s*"))
    return marks[place] % text if place < 2 and text != "-" else text


def render(header: Sequence[str], rows: Iterable[Sequence[str]], form: Format) -> str:
    """Lays out escaped cells; columns of names are left-aligned, numbers right-aligned.

    Args:
        header: titles, not escaped; those in :data:`LEFT` are columns of names.
        rows: one escaped cell a column.
        form: ``"plain"``, ``"markdown"``, ``"html"`` or ``"latex"`` (a ``tabular``, needs booktabs).
    """
    header = [escape(c, form) for c in header]
    rows = [list(row) for row in rows]
    align = ["l" if c in LEFT else "r" for c in header]
    if form == "latex":
        head, *body = (" & ".join(row) + r" \\" for row in [header, *rows])
        start = r"\begin{tabular}{" + "".join(align) + "}"
        return "\n".join([start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])
    if form == "markdown":
        rule = ["---" if a == "l" else "---:" for a in align]
        return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
    if form == "html":
        sides = ["left" if a == "l" else "right" for a in align]
        head, *body = (_html_row(row, sides, "td" if n else "th") for n, row in enumerate([header, *rows]))
        return "\n".join(["<table>", f"<thead>{head}</thead>", "<tbody>", *body, "</tbody>", "</table>"])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    pads = [str.ljust if a == "l" else str.rjust for a in align]
    lines = [[p(c, w) for p, c, w in zip(pads, row, widths, strict=True)] for row in [header, *rows]]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _html_row(cells: Sequence[str], sides: Sequence[str], tag: str) -> str:
    parts = (f'<{tag} style="text-align:{s}">{c}</{tag}>' for c, s in zip(cells, sides, strict=True))
    return f"<tr>{''.join(parts)}</tr>"
