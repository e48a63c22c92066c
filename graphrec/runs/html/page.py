"""Pages from Jinja templates, and the data that the macros of ``macros.html`` show."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
from markupsafe import Markup

from graphrec.core.errors import ConfigError, DataError
from graphrec.runs.html.markup import clean

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: a browser loads nothing but pictures and styles in the page itself."""
PICTURE = "data:image/"
"""Beginning of every picture's address."""


class Cell(NamedTuple):
    """A table cell.

    Attributes:
        text: its text.
        note: small print below, such as an interval.
        mark: ``"best"`` is bold, ``"second"`` underlined.
    """

    text: object
    note: str = ""
    mark: Literal["", "best", "second"] = ""

    @classmethod
    def ranked(cls, text: object, note: str, rank: int) -> Cell:
        """A cell with the mark of its rank: 0 is the best, 1 the second."""
        return cls(text, note, "best" if rank == 0 else "second" if rank == 1 else "")


class Heading(NamedTuple):
    """A table row that names the rows after it, with small print beside the name."""

    text: object
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        header: one heading a column.
        rows: cells as text or :class:`Cell`; a :class:`Heading` begins a group of rows.
        caption: what the table shows.
        left: align all columns to the left, for words instead of numbers.

    Raises:
        DataError: a row has more or fewer cells than the header.
    """

    header: Sequence[object]
    rows: Sequence[Sequence[object] | Heading]
    caption: str
    left: bool = False

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if not isinstance(row, Heading) and len(row) != len(self.header):
                raise DataError(
                    f"table row {number} has {len(row)} cells; expected {len(self.header)}, one a column"
                )

    @property
    def stacked(self) -> bool:
        """Whether rows are stacked on a narrow screen: a name, and below it a text that may be long."""
        return self.left and len(self.header) == 2

    @property
    def groups(self) -> list[tuple[Heading | None, list[list[Cell]]]]:
        """Headings and the rows under them; None stands for the heading of rows before the first one."""
        groups: list[tuple[Heading | None, list[list[Cell]]]] = [(None, [])]
        for row in self.rows:
            if isinstance(row, Heading):
                groups.append((row, []))
            else:
                groups[-1][1].append([cell if isinstance(cell, Cell) else Cell(cell) for cell in row])
        return [group for group in groups if group[0] or group[1]]


class Card(NamedTuple):
    """One item of a gallery.

    Attributes:
        title: its name.
        image: a data URI (see :func:`thumbnail`), or None for a placeholder that shows the title.
        hit: text of the mark that says it was found, or empty.
        new: text of the mark that says it is new, or empty.
    """

    title: str
    image: str | None = None
    hit: str = ""
    new: str = ""


def options(values: Mapping[str, object]) -> str:
    """Options with their values on one line, without those that are None."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def render(template: Path, **values: object) -> str:
    """A page from a template that extends ``base.html``.

    Every value is escaped unless it is :class:`markupsafe.Markup`. In the template, ``html`` holds the macros
    of ``macros.html``, and ``{% call section(title, about) %}`` makes a section, also in the navigation.

    Args:
        template: file of the template; others in its folder can be included.
        **values: variables of the template; ``title`` is the headline.

    Raises:
        ConfigError: two sections would have the same place in the navigation, or a picture is no data URI.
    """
    environment = _environment(template.parent)
    macros: Any = environment.get_template("macros.html").module
    titles: dict[str, str] = {}

    def section(title: str, about: object = "", *, caller: Callable[[], Markup]) -> Markup:
        anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        if anchor in titles:
            raise ConfigError(f"sections {titles[anchor]!r} and {title!r}; expected titles that differ")
        titles[anchor] = title
        return Markup(macros.section(anchor, title, about, caller()))

    page = environment.get_template(template.name)
    return page.render(values, html=macros, section=section, contents=titles, policy=POLICY)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        finalize=clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    return environment


def _picture(address: str) -> str:
    """The address of a picture.

    Raises:
        ConfigError: it would be loaded from elsewhere.
    """
    if not address.startswith(PICTURE):
        raise ConfigError(
            f"picture {address[:60]!r}; expected {PICTURE}..., a page loads nothing from elsewhere"
        )
    return address


def thumbnail(path: str | Path, side: int = 128, quality: int = 84) -> str:
    """A picture as a small JPEG data URI, at most ``side`` pixels wide and high.

    Raises:
        DataError: the file cannot be read as a picture; names it.
    """
    from PIL import Image

    try:
        with Image.open(path) as original:
            picture = original.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(f"{path}: not readable as a picture ({cause}); restore it or leave it out") from cause
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
