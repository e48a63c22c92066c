"""Queries: whom to rank items for, as known users, as histories, or as both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from graphrec.core.errors import DataError
from graphrec.data.interactions import Interactions, as_times, concatenate_ranges

PADDING = -1
"""Item index that fills up the rows of a padded history."""


class Histories:
    """The items that several users took, oldest first, as compressed sparse rows.

    Args:
        items: item indices of all rows, one row after the other ``(n,)``.
        indptr: offsets ``(B + 1,)``: row ``b`` holds ``items[indptr[b]:indptr[b + 1]]``.
        times: seconds since the epoch ``(n,)``, or None.

    Attributes:
        items: ``(n,) int64``.
        indptr: ``(B + 1,) int64``.
        times: ``(n,)`` int64, float64 if there are fractions of a second, or None.

    Raises:
        DataError: the arrays do not fit together, or an item index is negative.
    """

    def __init__(self, items: Any, indptr: Any, times: Any = None) -> None:
        self.items = np.asarray(items, dtype=np.int64).reshape(-1)
        self.indptr = np.asarray(indptr, dtype=np.int64)
        self.times = None if times is None else as_times(np.asarray(times).reshape(-1), "histories")
        ascending = bool(len(self.indptr)) and bool((np.diff(self.indptr) >= 0).all())
        if not ascending or self.indptr[0] != 0 or self.indptr[-1] != len(self.items):
            raise DataError(
                f"histories: offsets {self.indptr[:3].tolist()}... for {len(self.items):,} items; expected "
                "ascending offsets from 0 to the number of items"
            )
        if self.times is not None and len(self.times) != len(self.items):
            raise DataError(
                f"histories: {len(self.items):,} items and {len(self.times):,} times; expected one time "
                "an item"
            )
        negative = np.flatnonzero(self.items < 0)
        if len(negative):
            raise DataError(
                f"histories: item {self.items[negative[0]]} at position {negative[0]}; expected indices "
                "from 0"
            )

    @classmethod
    def from_lists(cls, lists: Sequence[Any], times: Sequence[Any] | None = None) -> Self:
        """Builds histories from one sequence of item indices a user, oldest first.

        Args:
            lists: ``B`` sequences.
            times: their times, sequences of the same lengths.
        """
        lengths = [len(one) for one in lists]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        if times is not None and [len(one) for one in times] != lengths:
            raise DataError("histories: times have other lengths than the items; expected one time an item")
        return cls(_joined(lists, np.int64), indptr, None if times is None else _joined(times))

    @classmethod
    def from_padded(cls, items: Any, times: Any = None) -> Self:
        """Builds histories from a padded array, in which entries of -1 are left out.

        Args:
            items: item indices ``(B, L)``, oldest first, filled up with -1 on either side.
            times: ``(B, L)`` or None.
        """
        array = np.asarray(items, dtype=np.int64)
        is_item = array != PADDING
        indptr = np.concatenate([[0], np.cumsum(is_item.sum(1))])
        return cls(array[is_item], indptr, None if times is None else np.asarray(times)[is_item])

    @classmethod
    def from_interactions(cls, known: Interactions) -> Self:
        """The history of every user ``(n_users rows)``: ordered by time, among equal times and without times
        by item index.
        """
        if known.times is None:
            return cls(known.items, known.indptr)
        order = np.lexsort((known.items, known.times, known.users))  # the rows stay where they are
        return cls(known.items[order], known.indptr, known.times[order])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """Items of one row, oldest first."""
        return self.items[self.indptr[row] : self.indptr[row + 1]]

    def __repr__(self) -> str:
        return f"Histories({len(self):,} rows, {len(self.items):,} items)"

    @property
    def lengths(self) -> np.ndarray:
        """Number of items in each row ``(B,) int64``."""
        return np.diff(self.indptr)

    @property
    def row_indices(self) -> np.ndarray:
        """Row of each item ``(n,) int64``."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def check(self, n_items: int) -> Self:
        """These histories, if every item is one of ``n_items``.

        Raises:
            DataError: an item index is too large.
        """
        wrong = np.flatnonzero(self.items >= n_items)
        if len(wrong):
            row = int(np.searchsorted(self.indptr, wrong[0], side="right")) - 1
            raise DataError(
                f"histories: item {self.items[wrong[0]]} in row {row}; expected indices below {n_items}"
            )
        return self

    def take(self, rows: Any) -> Self:
        """Some rows, in the given order ``(b,)``; repeats are allowed."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        position = concatenate_ranges(self.indptr[rows], lengths)
        times = None if self.times is None else self.times[position]
        return type(self)(self.items[position], np.concatenate([[0], np.cumsum(lengths)]), times)

    def padded(self, length: int | None = None) -> np.ndarray:
        """Items as an array ``(B, L) int64``, oldest first, filled up with -1 at the end.

        Args:
            length: keep this many of the latest items of each row; default: all. ``L`` is the largest number
                of items that a row keeps.
        """
        lengths = self.lengths if length is None else np.minimum(self.lengths, length)
        wide = int(lengths.max(initial=0))
        column = np.arange(wide)
        inside = column < lengths[:, None]  # (B, L)
        position = (self.indptr[1:] - lengths)[:, None] + column
        result = np.full((len(self), wide), PADDING, dtype=np.int64)
        result[inside] = self.items[position[inside]]
        return result


@dataclass(frozen=True)
class Query:
    """Whom to rank items for.

    Attributes:
        users: indices of known users ``(B,) int64``, -1 for one the model was not trained with; or None.
        histories: what each of them took, ``B`` rows; or None. A model that looks users up may leave them
            unread, and one that encodes histories may leave ``users`` unread.

    Raises:
        DataError: both are None, or they have different lengths.
    """

    users: np.ndarray | None = None
    histories: Histories | None = None

    def __post_init__(self) -> None:
        if self.users is None and self.histories is None:
            raise DataError("a query needs users, histories, or both")
        if self.users is not None:
            object.__setattr__(self, "users", np.asarray(self.users, dtype=np.int64).reshape(-1))
        if self.users is not None and self.histories is not None and len(self.users) != len(self.histories):
            raise DataError(
                f"a query of {len(self.users)} users and {len(self.histories)} histories; expected one "
                "history a user"
            )

    def __len__(self) -> int:
        if self.users is not None:
            return len(self.users)
        assert self.histories is not None
        return len(self.histories)


def _joined(lists: Sequence[Any], dtype: Any = None) -> np.ndarray:
    """One array of all values ``(n,)``."""
    parts = [np.asarray(one, dtype=dtype).reshape(-1) for one in lists if len(one)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
