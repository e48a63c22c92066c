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
WEIGHTS = (1e-30, 1e6)
"""Smallest and largest weight of an item; sums and roots of weights within are exact enough in float32."""


class Histories:
    """The items that several users took, oldest first, as compressed sparse rows.

    Args:
        items: item indices of all rows, one row after the other ``(n,)``.
        indptr: offsets ``(B + 1,)``: row ``b`` holds ``items[indptr[b]:indptr[b + 1]]``.
        times: seconds since the epoch ``(n,)``, or None.
        weights: how much each item counts ``(n,)``, within :data:`WEIGHTS`; None: each counts 1.

    Attributes:
        items: ``(n,) int64``.
        indptr: ``(B + 1,) int64``.
        times: ``(n,)`` int64, float64 if there are fractions of a second, or None.
        weights: ``(n,) float64``, or None.

    Raises:
        DataError: the arrays do not fit together, an item index is negative, a time is not a finite number,
            or a weight is not one within :data:`WEIGHTS`.
    """

    def __init__(self, items: Any, indptr: Any, times: Any = None, weights: Any = None) -> None:
        self.items = np.asarray(items, dtype=np.int64).reshape(-1)
        self.indptr = np.asarray(indptr, dtype=np.int64)
        ascending = bool(len(self.indptr)) and bool((np.diff(self.indptr) >= 0).all())
        if not ascending or self.indptr[0] != 0 or self.indptr[-1] != len(self.items):
            raise DataError(
                f"histories: offsets {self.indptr[:3].tolist()}... for {len(self.items):,} items; expected "
                "ascending offsets from 0 to the number of items"
            )
        self._refuse(self.items < 0, self.items, "item", "indices from 0")
        self.times = self.weights = None
        if times is not None:
            self.times = as_times(self._numbers(times, "time"), "histories")
        if weights is not None:
            self.weights = self._numbers(weights, "weight").astype(np.float64)
            least, most = WEIGHTS
            outside = (self.weights < least) | (self.weights > most)
            self._refuse(outside, self.weights, "weight", f"numbers from {least:g} to {most:g}")

    def _numbers(self, values: Any, what: str) -> np.ndarray:
        """Finite numbers, one an item ``(n,)``."""
        array = np.asarray(values).reshape(-1)
        if len(array) != len(self.items):
            raise DataError(
                f"histories: {len(self.items):,} items, {len(array):,} {what}s; expected one {what} an item"
            )
        if array.dtype.kind not in "iuf":
            plain = [isinstance(one, int | float) and not isinstance(one, bool) for one in array.tolist()]
            self._refuse(~np.array(plain), array, what, "numbers")
            array = array.astype(np.float64)
        self._refuse(~np.isfinite(array), array, what, "finite numbers")
        return array

    def _refuse(self, bad: Any, values: np.ndarray, what: str, expected: str) -> None:
        """Raises a DataError about the first bad value, with its row and its place there, both from 0."""
        places = np.flatnonzero(bad)
        if len(places):
            row = int(np.searchsorted(self.indptr, places[0], side="right")) - 1
            raise DataError(
                f"histories: {what} {values[places[0]]} in row {row}, position "
                f"{places[0] - self.indptr[row]}; expected {expected}"
            )

    @classmethod
    def from_lists(
        cls, lists: Sequence[Any], times: Sequence[Any] | None = None, weights: Sequence[Any] | None = None
    ) -> Self:
        """Builds histories from one sequence of item indices a user, oldest first.

        Args:
            lists: ``B`` sequences.
            times: their times, sequences of the same lengths.
            weights: their weights, likewise.
        """
        lengths = [len(one) for one in lists]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        for what, given in (("time", times), ("weight", weights)):
            found = lengths if given is None else [len(one) for one in given]
            if len(found) != len(lengths):
                raise DataError(
                    f"histories: {len(lengths)} rows of items, {len(found)} of {what}s; expected one {what} "
                    "an item"
                )
            for row, (n_items, n_found) in enumerate(zip(lengths, found, strict=True)):
                if n_items != n_found:
                    raise DataError(
                        f"histories: {n_items} items and {n_found} {what}s in row {row}; expected one {what} "
                        "an item"
                    )
        parallel = [None if given is None else _joined(given) for given in (times, weights)]
        return cls(_joined(lists, np.int64), indptr, *parallel)

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

    @property
    def weight_sums(self) -> np.ndarray:
        """Sum of the weights in each row ``(B,)``; without weights, the number of items."""
        if self.weights is None:
            return self.lengths
        return np.bincount(self.row_indices, weights=self.weights, minlength=len(self))

    def check(self, n_items: int) -> Self:
        """These histories, if every item is one of ``n_items``.

        Raises:
            DataError: an item index is too large.
        """
        self._refuse(self.items >= n_items, self.items, "item", f"indices below {n_items}")
        return self

    def take(self, rows: Any) -> Self:
        """Some rows, in the given order ``(b,)``; repeats are allowed."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        return self._at(concatenate_ranges(self.indptr[rows], lengths), lengths)

    def where(self, kept: np.ndarray) -> Self:
        """The items that a mask ``(n,) bool`` keeps; all rows stay, and may be empty."""
        lengths = np.bincount(self.row_indices[kept], minlength=len(self))
        return self._at(np.flatnonzero(kept), lengths)

    def by_time(self) -> Self:
        """Each row ordered by time, oldest first, among equal times as it was; without times, as it is."""
        if self.times is None:
            return self
        return self._at(np.lexsort((self.times, self.row_indices)), self.lengths)

    def distinct(self) -> Self:
        """Each item once in its row, ascending and without times; the weights of repeated items add up."""
        wide = int(self.items.max(initial=0)) + 1
        keys, at = np.unique(self.row_indices * wide + self.items, return_inverse=True)
        indptr = np.searchsorted(keys, np.arange(len(self) + 1) * wide)
        weights = None if self.weights is None else np.bincount(at, weights=self.weights)
        return type(self)(keys % wide, indptr, weights=weights)

    def _at(self, position: np.ndarray, lengths: np.ndarray) -> Self:
        """The entries at some positions, of which each row has this many."""
        parallel = [None if values is None else values[position] for values in (self.times, self.weights)]
        return type(self)(self.items[position], np.concatenate([[0], np.cumsum(lengths)]), *parallel)

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
