"""User-item interactions of one split."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from graphrec.core.errors import DataError
from graphrec.core.files import digest
from graphrec.core.random import numpy_rng
from graphrec.data.times import SECONDS_PER_DAY, newest_time, recognize_unit

LOOKUP_BLOCK = 2**22  # pairs per lookup block

SPLIT_NAMES = ("train", "valid", "test")


class Interactions:
    """Unique (user, item) pairs, sorted by user and item, validated on construction and read-only.

    Args:
        users: user indices ``(E,)``.
        items: item indices ``(E,)``.
        n_users: number of users; every index is below it.
        n_items: number of items.
        times: seconds since the epoch ``(E,)``, whole or with fractions, or None.
        name: name of the split for messages, such as ``"train"``.

    Attributes:
        users: ``(E,) int32``.
        items: ``(E,) int32``.
        times: ``(E,)`` int64, float64 if there are fractions of a second, or None.

    Raises:
        DataError: lengths differ, a value is not an integer, an index is out of range or a pair occurs twice.
    """

    def __init__(
        self,
        users: Any,
        items: Any,
        n_users: int,
        n_items: int,
        times: Any = None,
        name: str = "interactions",
    ) -> None:
        self.n_users = int(n_users)
        self.n_items = int(n_items)
        self.name = name
        user_array = _as_integers(users, "users", name)
        item_array = _as_integers(items, "items", name)
        time_array = None if times is None else as_times(times, name)
        if len(user_array) != len(item_array) or (
            time_array is not None and len(time_array) != len(user_array)
        ):
            raise DataError(
                f"{name}: {len(user_array):,} users, {len(item_array):,} items"
                + (f", {len(time_array):,} times" if time_array is not None else "")
                + "; expected columns of equal length"
            )
        _check_range(user_array, self.n_users, "user", name)
        _check_range(item_array, self.n_items, "item", name)
        keys = user_array * self.n_items + item_array
        if len(keys) and not np.all(keys[1:] > keys[:-1]):
            order = np.argsort(keys, kind="stable")
            keys, user_array, item_array = keys[order], user_array[order], item_array[order]
            time_array = None if time_array is None else time_array[order]
            repeated = np.flatnonzero(keys[1:] == keys[:-1])
            if len(repeated):
                first = int(repeated[0])
                raise DataError(
                    f"{name}: {len(repeated):,} repeated pairs, first (user {user_array[first]}, item "
                    f"{item_array[first]}); expected unique pairs: drop the repeats first"
                )
        self.users = _read_only(user_array.astype(np.int32))
        self.items = _read_only(item_array.astype(np.int32))
        self.times = None if time_array is None else _read_only(time_array)
        self.keys = _read_only(keys)
        """``user * n_items + item`` as ``(E,) int64``, ascending."""

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} pairs, {self.n_users:,} users x {self.n_items:,} items)"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Interactions)
            and (self.n_users, self.n_items) == (other.n_users, other.n_items)
            and np.array_equal(self.keys, other.keys)
            and (self.times is None) == (other.times is None)
            and (self.times is None or other.times is None or np.array_equal(self.times, other.times))
        )

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Interactions) -> Interactions:
        """The union of two disjoint splits, such as ``data.train + data.valid``."""
        if (self.n_users, self.n_items) != (other.n_users, other.n_items):
            raise DataError(
                f"cannot add {self!r} and {other!r}: expected two splits of one dataset, with equal "
                "numbers of users and items"
            )
        times = None
        if self.times is not None and other.times is not None:
            times = np.concatenate([self.times, other.times])
        return Interactions(
            np.concatenate([self.users, other.users]),
            np.concatenate([self.items, other.items]),
            self.n_users,
            self.n_items,
            times,
            f"{self.name}+{other.name}",
        )

    def where(self, mask: np.ndarray, name: str | None = None) -> Interactions:
        """The interactions selected by a boolean mask ``(E,)``."""
        times = None if self.times is None else self.times[mask]
        return Interactions(
            self.users[mask], self.items[mask], self.n_users, self.n_items, times, name or self.name
        )

    @property
    def seconds(self) -> np.ndarray:
        """The times ``(E,)``, for uses that count in seconds or days and not only in order.

        Raises:
            DataError: there are no times, or they are larger than any in seconds.
        """
        if self.times is None:
            raise DataError(f"{self.name}: the interactions have no times; set a time column")
        if (unit := recognize_unit(self.times)) != "s":
            largest = self.times[np.abs(self.times).argmax()]
            raise DataError(
                f"{self.name}: the times reach {largest}, the size of {unit}; "
                "expected seconds: divide them (graphrec.data.times.in_seconds)"
            )
        return self.times

    @cached_property
    def user_degree(self) -> np.ndarray:
        """Interactions per user ``(n_users,) int64``."""
        return _read_only(np.bincount(self.users, minlength=self.n_users))

    @cached_property
    def item_degree(self) -> np.ndarray:
        """Interactions per item ``(n_items,) int64``."""
        return _read_only(np.bincount(self.items, minlength=self.n_items))

    def recent_degree(self, half_life: float) -> np.ndarray:
        """Interactions per item ``(n_items,) float64``, each weighted by its age.

        Args:
            half_life: days before the newest interaction in which the weight halves.

        Raises:
            DataError: there are no times, or they are no seconds.
        """
        age = np.maximum(newest_time(self.seconds) - self.seconds, 0) / SECONDS_PER_DAY
        return np.bincount(self.items, 0.5 ** (age / half_life), minlength=self.n_items)

    @cached_property
    def indptr(self) -> np.ndarray:
        """CSR offsets ``(n_users + 1,) int64``: user ``u`` has ``items[indptr[u]:indptr[u + 1]]``."""
        return _read_only(np.concatenate([[0], np.cumsum(self.user_degree)]).astype(np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over the pairs, without times."""
        return digest("interactions", self.n_users, self.n_items, self.keys)

    def items_of(self, user: int) -> np.ndarray:
        """Items of one user, ascending."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def items_of_users(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All interactions of several users.

        Returns:
            For each interaction, the position of its user in ``users`` and its item, two arrays ``(n,)``.
        """
        users = np.asarray(users, dtype=np.int64)
        counts = self.user_degree[users]
        row = np.repeat(np.arange(len(users)), counts)
        return row, self.items[concatenate_ranges(self.indptr[users], counts)]

    def sample_users(self, n: int, seed: int = 0) -> Interactions:
        """All interactions of ``n`` random users with interactions, or of all if there are fewer."""
        active = np.flatnonzero(self.user_degree)
        if n >= len(active):
            return self
        chosen = np.zeros(self.n_users, dtype=bool)
        chosen[numpy_rng(seed, "users").choice(active, n, replace=False)] = True
        return self.where(chosen[self.users])

    def _key(self, users: Any, items: Any) -> np.ndarray:
        """The keys of pairs, in the broadcast shape."""
        return np.asarray(users, dtype=np.int64) * self.n_items + np.asarray(items, dtype=np.int64)

    def positions(self, users: Any, items: Any) -> np.ndarray:
        """Positions ``(n,) int64`` of pairs that are present; vectorized binary search."""
        return np.searchsorted(self.keys, self._key(users, items))

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each pair is present, as ``bool`` of the broadcast shape; binary search."""
        queries = self._key(users, items)
        if not len(self.keys):
            return np.zeros(queries.shape, dtype=bool)
        present = np.empty(queries.shape, dtype=bool)
        flat_present = present.reshape(-1)
        flat_queries = queries.ravel()
        for start in range(0, len(flat_queries), LOOKUP_BLOCK):
            part = flat_queries[start : start + LOOKUP_BLOCK]
            # Searching in ascending order reads from the CPU cache: including the sort, it takes half the
            # time for 100,000 pairs and a tenth for 3 million.
            order = np.argsort(part)
            keys = part[order]
            at = np.searchsorted(self.keys, keys)
            flat_present[start : start + LOOKUP_BLOCK][order] = (
                self.keys[np.minimum(at, len(self.keys) - 1)] == keys
            )
        return present


def concatenate_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The integers ``start, ..., start + length - 1`` of each range, one range after the other ``(n,)``."""
    shift = starts - (np.cumsum(lengths) - lengths)
    integers: np.ndarray = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
    return integers


def _as_integers(values: Any, what: str, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{name}: {what} has shape {array.shape}; expected one dimension")
    if array.dtype.kind == "f":
        # Not NaN, infinite or beyond int64.
        bad = np.flatnonzero(~((np.abs(array) < 2.0**63) & (array == np.trunc(array))))
        if len(bad):
            raise DataError(f"{name}: {what} holds {array[bad[0]]} at row {bad[0]}; expected integers")
    elif array.dtype.kind not in "iu" and len(array):
        raise DataError(
            f"{name}: {what} has dtype {array.dtype}; expected integers (map ids through a Vocabulary)"
        )
    if array.dtype.kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
        row = int(array.argmax())
        raise DataError(f"{name}: {what} holds {array[row]} at row {row}; expected integers below 2^63")
    return array.astype(np.int64)


def as_times(values: Any, name: str) -> np.ndarray:
    """Times ``(n,)`` as int64, or as float64 if one of them is no whole number.

    Raises:
        DataError: a time is not a finite number; ``name`` says in what.
    """
    array = np.asarray(values)
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array != np.trunc(array)).any():
        return array.astype(np.float64)
    return _as_integers(array, "times", name)


def _check_range(values: np.ndarray, size: int, what: str, name: str) -> None:
    bad = np.flatnonzero((values < 0) | (values >= size))
    if len(bad):
        raise DataError(f"{name}: {what} {values[bad[0]]} at row {bad[0]}; expected 0 <= {what} < {size}")


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
