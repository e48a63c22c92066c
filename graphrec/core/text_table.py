"""Tables as plain text, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from graphrec.core.errors import ConfigError, nearest

Format = Literal["markdown", "latex", "plain"]
LEFT = ("group", "metric", "model")
"""Titles of the columns that hold names."""

_LATEX_WORDS = ("backslash", "asciitilde", "asciicircum", "less", "greater")
_SPECIAL: dict[str, dict[str, str]] = {
    "plain": {},
    "markdown": {c: f"\\{c}" for c in "\\|*_`"} | {"<": "&lt;"},
    "latex": {c: f"\\{c}" for c in "&%$#_{}"}
    | dict(zip("\\~^<>", (f"\\text{w}{{}}" for w in _LATEX_WORDS), strict=True))
    | {"±": r"$\pm$"},
}


def escape(text: str, form: Format) -> str:
    """Text on one line, with what the form would take for markup escaped.

    Raises:
        ConfigError: no such form.
    """
    if form not in _SPECIAL:
        raise ConfigError(f"table form {form!r} is not one of {list(_SPECIAL)}.{nearest(form, _SPECIAL)}")
    return "".join(_SPECIAL[form].get(c, c) for c in text.replace("\n", " "))


def emphasize(text: str, place: int, form: Format) -> str:
    """Escaped text with the mark of its place: 0 is the best, 1 the second, later ones stay as they are.

    Best is bold, second underlined (LaTeX) or italic; in plain text they stand in ``**`` and ``*``.
    """
    marks = (r"\textbf{%s}", r"\underline{%s}") if form == "latex" else ("**%s**", "*%s*")
    return marks[place] % text if place < 2 and text != "-" else text


def render(header: Sequence[str], rows: Iterable[Sequence[str]], form: Format) -> str:
    """Lays out cells that are escaped already; columns of names are left-aligned, numbers right-aligned.

    Args:
        header: titles, not escaped yet; those in :data:`LEFT` are columns of names.
        rows: one cell a column.
        form: ``"plain"``, ``"markdown"`` or ``"latex"`` (a ``tabular``, needs booktabs).
    """
    header, rows = [escape(c, form) for c in header], [list(row) for row in rows]
    align = ["l" if c in LEFT else "r" for c in header]
    if form == "latex":
        head, *body = (" & ".join(row) + r" \\" for row in [header, *rows])
        start = r"\begin{tabular}{" + "".join(align) + "}"
        return "\n".join([start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])
    if form == "markdown":
        rule = ["---" if a == "l" else "---:" for a in align]
        return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    pads = [str.ljust if a == "l" else str.rjust for a in align]
    lines = [[p(c, w) for p, c, w in zip(pads, row, widths, strict=True)] for row in [header, *rows]]
    return "\n".join("  ".join(line).rstrip() for line in lines)
