"""Content of items by reference: texts, and paths of images, sounds and other files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from graphrec.core.errors import DataError

TEXT = "text"
TITLE = 80  # characters
TITLE_FIELD = "title"
"""Text field of the items' titles: shown to people, and no modality unless an extractor is chosen for it."""
SENTENCE_END = re.compile(r"\.(?= )")
ABBREVIATION = re.compile(
    r"(?i)(^|[^\w])([^\W\d_]|mr|mrs|ms|dr|st|jr|sr|mt|ft|lt|sgt|capt|prof|rev|gen|col|vol|no|nr|pt|ch|ep|ed|inc|ltd|co|"
    r"corp|vs|etc|feat|approx|ca|incl|max|min|op)$"
)
"""Ends of a text after which a full stop ends no sentence: single letters and common abbreviations."""


class Content(Sequence[str | None]):
    """One field of item content, one value an item.

    Args:
        kind: what the values are. ``"text"``: the texts themselves. Any other name, such as ``"image"`` or
            ``"audio"``: paths of files of this kind, relative to ``root``; the files are opened only when
            features are extracted.
        values: one value per item in vocabulary order, None where an item has none.
        root: directory the paths are relative to.

    Raises:
        DataError: a kind that is no name, or a value that is neither text nor None.
    """

    def __init__(self, kind: str, values: Sequence[str | None], root: str | Path | None = None) -> None:
        if not kind.isidentifier():
            raise DataError(f"content kind {kind!r}; expected a name such as 'text', 'image' or 'audio'")
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise DataError(f"{kind} content holds {value!r} at row {row}; expected text or None")
        self.kind = kind
        # An empty text says nothing: it is missing, not a text of length zero.
        self.values: tuple[str | None, ...] = tuple(
            v if v is not None and v.strip() else None for v in values
        )
        self.root = Path(root) if root is not None else None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __iter__(self) -> Iterator[str | None]:
        return iter(self.values)

    def __repr__(self) -> str:
        return f"Content({self.kind}, {self.n_present:,} of {len(self):,} items)"

    @cached_property
    def n_present(self) -> int:
        """How many items have a value."""
        return sum(value is not None for value in self.values)

    def path(self, index: int) -> Path | None:
        """File of an item, or None where it has none.

        Raises:
            DataError: the content is text.
        """
        if self.kind == TEXT:
            raise DataError("text content has no files; expected content of files, such as images")
        value = self.values[index]
        if value is None:
            return None
        return self.root / value if self.root is not None else Path(value)


def title(text: str) -> str:
    """A title for an item without one: the first sentence of the first line of its text, cut to
    :data:`TITLE` characters.

    A full stop ends the sentence only outside parentheses and after a word that is no abbreviation or
    initial, so that ``Mr. Bean`` and ``Seven (a.k.a. Se7en)`` stay whole.
    """
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split())
    for stop in SENTENCE_END.finditer(line):
        sentence = line[: stop.start()]
        if sentence.count("(") <= sentence.count(")") and not ABBREVIATION.search(sentence):
            line = sentence
            break
    return shorten(line.removesuffix("."))


def shorten(line: str) -> str:
    """A title cut to :data:`TITLE` characters."""
    return line if len(line) <= TITLE else line[: TITLE - 1].rstrip() + "…"


def titles(content: Mapping[str, Content], field: str = "text") -> list[str | None]:
    """A title for each item, None where there is neither a title nor a text.

    Args:
        content: fields of the items: of :data:`TITLE_FIELD` if there is such a field, else of ``field``.
        field: the text that stands for a title an item lacks.
    """
    size = max((len(content[name]) for name in (field, TITLE_FIELD) if name in content), default=0)
    texts, own = (content.get(name, (None,) * size) for name in (field, TITLE_FIELD))
    return [
        shorten(" ".join(name.split())) if name is not None else None if text is None else title(text)
        for name, text in zip(own, texts, strict=True)
    ]
