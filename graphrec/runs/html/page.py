"""Pages and what stands on them, but charts: escaping, tables, numbers, galleries."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from graphrec.core.errors import ConfigError, DataError
from graphrec.runs.html.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load: nothing but pictures and styles that stand in the page itself."""

_VOID = frozenset({"img", "meta", "br"})
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


class Html(str):
    """Markup that goes into a page as it is; any other text is escaped."""

    __slots__ = ()


def escape(value: object) -> Html:
    """``value`` as text that no browser takes for markup; :class:`Html` comes back unchanged.

    Control characters and lone surrogates, which no page may hold, become replacement characters.
    """
    if isinstance(value, Html):
        return value
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return Html(html.escape(_ILLEGAL.sub("\ufffd", text), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Several pieces, each escaped unless it is :class:`Html`."""
    return Html(between.join(escape(part) for part in parts))


def element(tag: str, /, *children: object, **attributes: object) -> Html:
    """``<tag attribute="...">children</tag>``, everything escaped.

    Args:
        tag: its name.
        *children: text or :class:`Html`; None is left out.
        **attributes: ``class_`` is ``class``, other underscores become hyphens; None and False are left out,
            True stands without a value.

    Raises:
        ConfigError: ``src`` is no data URI or ``href`` no place in the page, which is to need nothing else.
    """
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        for what, start in (("src", "data:image/"), ("href", "#")):
            if key == what and not str(value).startswith(start):
                raise ConfigError(
                    f"{what}={str(value)[:60]!r}; expected {start}..., a report loads nothing from elsewhere"
                )
        written.append(f" {key}" if value is True else f' {key}="{escape(value)}"')
    start = f"<{tag}{''.join(written)}>"
    return Html(start if tag in _VOID else f"{start}{join(c for c in children if c is not None)}</{tag}>")


def paragraph(*children: object, class_: str | None = None) -> Html:
    """A paragraph of text and :class:`Html`."""
    return element("p", *children, class_=class_)


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: its heading, also in the page's navigation.
        body: what stands in it.
        about: a sentence below the heading.
    """

    title: str
    body: Html
    about: object = ""

    @property
    def anchor(self) -> str:
        """Its id within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def page(
    title: str, sections: Sequence[Section], *, lead: object = "", pill: str = "", footer: object = ""
) -> str:
    """A whole page in one string.

    Args:
        title: headline and window title.
        sections: in order; their titles must differ.
        lead: a few sentences below the headline.
        pill: a word or two above it.
        footer: below everything.

    Raises:
        ConfigError: two sections would have the same place in the navigation.
    """
    anchors = [s.anchor for s in sections]
    if len(set(anchors)) != len(anchors):
        raise ConfigError(f"sections {[s.title for s in sections]}; expected titles that differ")
    links = (element("a", s.title, href=f"#{s.anchor}") for s in sections)
    header = element(
        "header",
        element("span", pill, class_="pill") if pill else None,
        element("h1", title),
        paragraph(lead, class_="lead") if lead else None,
        element("nav", *links, aria_label="Sections"),
    )
    bodies = (
        element(
            "section",
            element("h2", s.title, id=f"{s.anchor}-title"),
            paragraph(s.about, class_="about") if s.about else None,
            s.body,
            id=s.anchor,
            aria_labelledby=f"{s.anchor}-title",
        )
        for s in sections
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(CSS)),
    )
    end = element("footer", footer) if footer else None
    body = element("body", element("div", header, element("main", *bodies), end, class_="wrap"))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


class Cell(NamedTuple):
    """A table cell.

    Attributes:
        text: what it says.
        note: in small print below, such as an interval.
        mark: ``"best"`` is bold, ``"second"`` underlined.
    """

    text: object
    note: str = ""
    mark: Literal["", "best", "second"] = ""


class Heading(NamedTuple):
    """A table row that names the rows after it."""

    text: object


def table(
    header: Sequence[object],
    rows: Iterable[Sequence[object] | Heading],
    *,
    caption: object,
    left: bool = False,
) -> Html:
    """A table; its first column names the rows.

    Args:
        header: one heading a column.
        rows: cells as text, :class:`Html` or :class:`Cell`; a :class:`Heading` begins a group of rows.
        caption: what the table shows, for everyone and for screen readers.
        left: align all columns to the left, for words instead of numbers.

    Raises:
        DataError: a row has more or fewer cells than the header.
    """
    groups: list[list[Html]] = [[]]
    for number, row in enumerate(rows):
        if isinstance(row, Heading):
            name = element(
                "th", element("span", row.text), scope="rowgroup", colspan=len(header), class_="group"
            )
            groups.append([element("tr", name)])
            continue
        if len(row) != len(header):
            raise DataError(f"table row {number} has {len(row)} cells; expected {len(header)}, one a column")
        groups[-1].append(element("tr", *(_cell(cell, first=n == 0) for n, cell in enumerate(row))))
    head = element("thead", element("tr", *(element("th", h, scope="col") for h in header)))
    bodies = (element("tbody", *group) for group in groups if group)
    whole = element(
        "table", element("caption", element("span", caption)), head, *bodies, class_="left" if left else None
    )
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=_plain(caption))


def _cell(cell: object, first: bool) -> Html:
    made = cell if isinstance(cell, Cell) else Cell(cell)
    note = element("small", made.note) if made.note else None
    if first:
        return element("th", made.text, note, scope="row")
    return element("td", element("span", made.text, class_=made.mark) if made.mark else made.text, note)


def _plain(value: object) -> str:
    """Text without tags, for attributes."""
    return html.unescape(re.sub(r"<[^>]*>", "", value)) if isinstance(value, Html) else str(value)


def facts(values: Mapping[str, object]) -> Html:
    """Numbers with a line each on what they count."""
    pairs = (element("div", element("dd", value), element("dt", name)) for name, value in values.items())
    return element("dl", *pairs, class_="facts")


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


def gallery(title: object, cards: Sequence[Card], *, note: object = "") -> Html:
    """A row of picture cards under a small heading.

    Args:
        title: heading.
        cards: in order.
        note: beside the heading, in small print.
    """
    heading = element("h4", title, element("small", note) if note else None)
    return element("div", heading, element("ol", *(_card(c) for c in cards), class_="cards"), class_="strip")


def _card(card: Card) -> Html:
    if card.image is not None:
        picture = element("img", src=card.image, alt=card.title, loading="lazy", decoding="async")
    else:
        picture = element("div", element("span", "no picture"), class_="none")
    marks = [
        element("span", text, class_=f"mark {kind}")
        for kind, text in (("hit", card.hit), ("new", card.new))
        if text
    ]
    below = element("div", *marks, class_="marks")
    return element(
        "li", picture, element("b", card.title), below, class_="card is-hit" if card.hit else "card"
    )


def thumbnail(path: str | Path, side: int = 128, quality: int = 84) -> str:
    """A picture as a small JPEG data URI, at most ``side`` pixels wide and high.

    Raises:
        DataError: the file cannot be read as a picture; names it.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(f"{path}: not readable as a picture ({cause}); restore it or leave it out") from cause
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
