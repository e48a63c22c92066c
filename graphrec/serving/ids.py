"""Vocabularies that stay in their file, so that millions of ids are opened at once and read on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.errors import UnknownIdError
from graphrec.core.files import digest
from graphrec.data import Vocabulary

MAX_IN_MEMORY = 100_000
"""Vocabularies of more ids than this stay in their file."""


class MappedVocabulary(Vocabulary):
    """A vocabulary over a memory-mapped column; an id is found by binary search among the sorted ones.

    Args:
        column: the ids ``(n,)`` in order, unique; they were checked when written.
        order: their indices ``(n,) int32``, sorted by id.
        kind: node type, for messages.
    """

    def __init__(self, column: pl.Series, order: np.ndarray, kind: str = "item") -> None:
        self.kind = kind
        self._column = column
        self._order = order

    @cached_property
    def ids(self) -> tuple[str, ...]:  # type: ignore[override]
        """All ids; reads the whole column into memory."""
        return tuple(self._column.to_list())

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        return self.ids[index] if isinstance(index, slice) else self._column[int(index)]

    def __contains__(self, value: object) -> bool:
        return self._find(str(value)) >= 0

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the ids in order, as for any vocabulary."""
        return digest("vocabulary", "\0".join(self._column.to_list()))

    def index(self, value: Any, *_: Any) -> int:
        """Index of one id.

        Raises:
            UnknownIdError: the id is not in the vocabulary.
        """
        position = self._find(str(value))
        if position < 0:
            raise UnknownIdError(
                f"{self.kind} {str(value)!r} is not among the {len(self):,} known {self.kind}s."
            )
        return position

    def find(self, values: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int32`` of several ids, ``-1`` where an id is unknown."""
        return np.fromiter((self._find(str(value)) for value in values), dtype=np.int32)

    def take(self, indices: Iterable[int]) -> list[str]:
        """The ids at the given indices."""
        ids: list[str] = self._column.gather(np.asarray(list(indices), dtype=np.int64)).to_list()
        return ids

    def _find(self, value: str) -> int:
        """Index of one id, -1 if it is unknown."""
        # UTF-8 sorts as Python compares: by code point.
        place = bisect_left(self._order, value, key=lambda index: self._column[int(index)])
        if place == len(self._order):
            return -1
        index = int(self._order[place])
        return index if self._column[index] == value else -1


def sorted_order(vocabulary: Vocabulary) -> np.ndarray:
    """Indices of the ids ``(n,) int32``, sorted by id."""
    return pl.Series("id", list(vocabulary.ids), dtype=pl.String).arg_sort().to_numpy().astype(np.int32)
