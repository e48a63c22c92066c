"""Maps external ids to consecutive indices and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from graphrec.core.errors import DataError, UnknownIdError, nearest
from graphrec.core.files import digest


class Vocabulary(Sequence[str]):
    """The external ids of one node type; the id at position ``i`` has index ``i``.

    Ids are strings and are never changed: leading zeros, case and Unicode form are significant. An integer is
    accepted in place of an id and means its decimal form.

    Args:
        ids: unique, non-empty external ids.
        kind: node type, for messages: ``"user"``, ``"item"``, ...

    Raises:
        DataError: an id is empty, missing, contains NUL, or occurs twice; the message names it.
    """

    def __init__(self, ids: Iterable[Any], kind: str = "item") -> None:
        self.kind = kind
        self.ids: tuple[str, ...] = tuple(as_id(value, kind) for value in ids)
        if len(self._index) != len(self.ids):
            seen: set[str] = set()
            repeated = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"{kind} id {repeated!r} occurs more than once; expected unique ids")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {value: index for index, value in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        return self.ids[index]

    def __contains__(self, value: object) -> bool:
        return str(value) in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids == other.ids

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} {self.kind}s)"

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the ids in order."""
        return digest("vocabulary", "\0".join(self.ids))

    def index(self, value: Any, *_: Any) -> int:
        """Index of one id.

        Raises:
            UnknownIdError: the id is not in the vocabulary; the message names the closest one.
        """
        position = self._index.get(str(value))
        if position is None:
            error = UnknownIdError(
                f"{self.kind} {str(value)!r} is not among the {len(self):,} known {self.kind}s."
            )
            error.suggestion = nearest(str(value), self.ids) if len(self) <= 100_000 else ""
            raise error
        return position

    def indices(self, values: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int32`` of several ids.

        Raises:
            UnknownIdError: an id is not in the vocabulary; the message names the first one.
        """
        return np.fromiter((self.index(value) for value in values), dtype=np.int32)

    def find(self, values: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int32`` of several ids, ``-1`` where an id is unknown."""
        get = self._index.get
        return np.fromiter((get(str(value), -1) for value in values), dtype=np.int32)

    def take(self, indices: Iterable[int]) -> list[str]:
        """The ids at the given indices."""
        return [self.ids[int(i)] for i in indices]


def as_id(value: Any, kind: str = "item") -> str:
    """Converts one external id to text.

    Raises:
        DataError: the id is missing, NaN, empty, fractional, or contains a NUL character.
    """
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if not number.is_integer() or abs(number) >= 2**53:
            raise DataError(f"{kind} id {number!r} is not an id; expected text or an integer")
        value = int(number)
    if value is None or isinstance(value, bool):
        raise DataError(f"{kind} id {value!r} is not an id; expected text or an integer")
    text = str(value)
    if not text or "\0" in text:
        raise DataError(f"{kind} id {text!r} is empty or contains NUL; expected non-empty text without NUL")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as cause:
        raise DataError(
            f"{kind} id {text!r} is not valid Unicode (lone surrogate); repair the source file"
        ) from cause
    return text
