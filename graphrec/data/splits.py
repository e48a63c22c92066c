"""Splits interactions into training, validation and test sets; seeded and recorded.

A split is a frozen object with ``assign(pairs, seed) -> labels`` and ``describe() -> dict``; the description
is stored in the dataset's ``meta["split"]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from numbers import Real
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.random import numpy_rng
from graphrec.data.interactions import Interactions
from graphrec.data.times import LIMIT, as_seconds

TRAIN, VALID, TEST = 0, 1, 2


class Split(Protocol):
    """Interface of a split, as used by :meth:`Dataset.from_frame`."""

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """Labels ``(E,) int8``: 0 train, 1 valid, 2 test."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and options of the split, JSON-serializable."""
        ...


@dataclass(frozen=True)
class _NamedSplit:
    name: ClassVar[str] = ""
    one_time_for_all: ClassVar[bool] = False
    """Whether everything before some time is train, for all users. Of repeated pairs the first is then kept:
    to keep the latest would take from train what somebody does again later."""

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class RandomSplit(_NamedSplit):
    """A random share of each user's interactions for validation and for test.

    Shares are rounded to whole interactions per user; every user keeps at least one training interaction.
    """

    name: ClassVar[str] = "random"
    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        _check_shares(self.valid, self.test)

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """See :class:`Split`."""
        # random() draws a 53-bit integer and divides it; this restores the integer.
        drawn = (numpy_rng(seed, "split/random").random(len(pairs)) * 2.0**53).astype(np.uint64)
        return _label_shares(pairs, _order_by_user(pairs, drawn), self.valid, self.test)


@dataclass(frozen=True)
class LeaveOneOut(_NamedSplit):
    """The last interaction of each user by time for test, the one before for validation; ties by item id.

    Users with fewer than three interactions stay in train.
    """

    name: ClassVar[str] = "leave-one-out"

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """See :class:`Split`."""
        one = (pairs.user_degree >= 3).astype(np.int64)
        return _label_last(pairs, _order_by_time(pairs, self.name), one, one)


@dataclass(frozen=True)
class Chronological(_NamedSplit):
    """The newest share of each user's interactions for test, those before for validation; ties by item id.

    Shares are rounded as in :class:`RandomSplit`. Users with fewer than ``least`` interactions stay in train.
    """

    name: ClassVar[str] = "chronological"
    valid: float = 0.1
    test: float = 0.2
    least: int = 3

    def __post_init__(self) -> None:
        _check_shares(self.valid, self.test)
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise ConfigError(
                f"split 'chronological', least={self.least!r}; expected an integer of at least 1"
            )

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """See :class:`Split`."""
        label = _label_shares(pairs, _order_by_time(pairs, self.name), self.valid, self.test)
        label[pairs.user_degree[pairs.users] < self.least] = TRAIN
        return label


@dataclass(frozen=True)
class TimeCut(_NamedSplit):
    """Two fixed times for all users: validation starts at the first, test at the second.

    An interaction at one of these times is after it. With two equal times there is no validation.

    Attributes:
        valid: seconds since the epoch, whole or with fractions, or a date such as ``"2024-05-31"`` (UTC);
            earlier interactions are train.
        test: likewise, at least ``valid``.
    """

    name: ClassVar[str] = "cut"
    one_time_for_all: ClassVar[bool] = True
    valid: float
    test: float

    def __post_init__(self) -> None:
        for option in ("valid", "test"):
            value: object = getattr(self, option)
            if isinstance(value, str) and not value.strip().isdigit():
                seconds = as_seconds(pl.Series(option, [value]), "split 'cut'")
                object.__setattr__(self, option, seconds[0].item())
        in_range = all(_is_number(time) and abs(time) < LIMIT for time in (self.valid, self.test))
        if not in_range or self.valid > self.test:
            raise ConfigError(
                f"split 'cut', valid={self.valid!r}, test={self.test!r}; expected seconds since 1970, "
                "whatever the unit of the file, or dates such as '2024-05-31', and valid <= test"
            )

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """See :class:`Split`."""
        _require_times(pairs, self.name)
        return _label_from(pairs.seconds, self.valid, self.test)


@dataclass(frozen=True)
class TimeSplit(_NamedSplit):
    """One time for all users: the newest share of all interactions for test, those before for validation.

    Interactions at the time of a cut are all after it, so the shares are only met as far as times differ.
    """

    name: ClassVar[str] = "time"
    one_time_for_all: ClassVar[bool] = True
    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        _check_shares(self.valid, self.test)

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """See :class:`Split`."""
        times = _require_times(pairs, self.name)
        return _label_from(times, *self.starts(times))

    def starts(self, times: np.ndarray) -> tuple[float, float]:
        """The times at which validation and test of interactions ``(E,)`` start; after all of them for a
        share of 0.
        """
        ordered = np.sort(times)

        def start(share: float) -> float:
            place = min(len(ordered) - 1, round(len(ordered) * (1 - share)))
            return float(ordered[place]) if share else math.floor(ordered[-1]) + 1

        return start(self.test + self.valid), start(self.test)


@dataclass(frozen=True)
class ColdItems(_NamedSplit):
    """Holds out a share of the items from train and applies another split to the remaining items.

    Half of the held-out items go to validation and half to test, with all their interactions.
    """

    name: ClassVar[str] = "cold-items"
    share: float = 0.1
    then: RandomSplit | LeaveOneOut | Chronological | TimeCut | TimeSplit = field(default_factory=RandomSplit)

    def __post_init__(self) -> None:
        if not (_is_number(self.share) and 0 < self.share < 1):
            raise ConfigError(f"split 'cold-items', share={self.share!r}; expected 0 < share < 1")

    @property
    def one_time_for_all(self) -> bool:  # type: ignore[override]
        """That of the other split."""
        return self.then.one_time_for_all

    def describe(self) -> dict[str, Any]:
        """See :class:`Split`."""
        return {"name": self.name, "share": self.share, "then": self.then.describe()}

    def assign(self, pairs: Interactions, seed: int) -> np.ndarray:
        """See :class:`Split`."""
        present = np.flatnonzero(pairs.item_degree)
        n_cold = max(2, round(self.share * len(present)))
        cold_items = numpy_rng(seed, "split/cold-items").permutation(present)[:n_cold]
        item_label = np.full(pairs.n_items, TRAIN, dtype=np.int8)
        item_label[cold_items] = np.where(np.arange(len(cold_items)) % 2, VALID, TEST)
        label: np.ndarray = item_label[pairs.items]
        cold = label != TRAIN
        if not cold.all():
            label[~cold] = self.then.assign(pairs.where(~cold), seed)
        return label


SplitRecipe = RandomSplit | LeaveOneOut | Chronological | TimeCut | TimeSplit | ColdItems
SPLITS: dict[str, type[SplitRecipe]] = {
    c.name: c for c in (RandomSplit, LeaveOneOut, Chronological, TimeCut, TimeSplit, ColdItems)
}


def as_split(split: Any) -> Split:
    """A split object from an object, a name, or a mapping such as ``describe()`` returns.

    Args:
        split: for example ``RandomSplit(valid=0.2)``, ``"random"`` or ``{"name": "random", "valid": 0.2}``.

    Raises:
        ConfigError: unknown name or option; the message lists the known ones.
    """
    if isinstance(split, str):
        split = {"name": split}
    if isinstance(split, Mapping):
        options = {k: v for k, v in split.items() if k != "name"}
        name = str(split.get("name", ""))
        if name not in SPLITS:
            raise ConfigError(f"split {name!r} is not one of {sorted(SPLITS)}.{nearest(name, SPLITS)}")
        known = [f.name for f in fields(SPLITS[name])]
        for option in options:
            if option not in known:
                raise ConfigError(
                    f"split {name!r} has no option {option!r}; it has {known or 'none'}."
                    f"{nearest(option, known)}"
                )
        needed = [f.name for f in fields(SPLITS[name]) if f.default is f.default_factory is MISSING]
        if missing := [option for option in needed if option not in options]:
            raise ConfigError(f"split {name!r} needs {' and '.join(missing)}; it has {known}")
        if "then" in options:
            then = options["then"]
            if (then.get("name") if isinstance(then, Mapping) else then) == ColdItems.name:
                raise ConfigError(f"split {name!r} cannot be nested; expected another split in then=")
            options["then"] = as_split(then)
        return SPLITS[name](**options)
    if not hasattr(split, "assign"):
        raise ConfigError(
            f"split {split!r} has no assign(); expected one of {sorted(SPLITS)} or a Split object"
        )
    result: Split = split
    return result


def k_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """Mask ``(E,)`` of the k-core: interactions left when all users and items have the required minimum.

    Args:
        users: user indices ``(E,)``.
        items: item indices ``(E,)``.
        user_core: minimum interactions per user; 0 or 1 drops none.
        item_core: minimum interactions per item.
    """
    remaining = np.arange(len(users))
    while len(remaining):
        few_users = np.bincount(users[remaining])[users[remaining]] < user_core
        few_items = np.bincount(items[remaining])[items[remaining]] < item_core
        drop = few_users | few_items
        if not drop.any():
            break
        remaining = remaining[~drop]
    mask = np.zeros(len(users), dtype=bool)
    mask[remaining] = True
    return mask


def _check_shares(valid: float, test: float) -> None:
    numbers = _is_number(valid) and _is_number(test)
    if not (numbers and 0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise ConfigError(
            f"split shares valid={valid!r}, test={test!r}; expected shares of at least 0 with a sum below 1"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_times(pairs: Interactions, name: str) -> np.ndarray:
    if pairs.times is None:
        raise DataError(
            f"{pairs.name}: the {name!r} split needs times, but the interactions have none; set a time column"
        )
    return pairs.times


def _label_from(times: np.ndarray, valid: float, test: float) -> np.ndarray:
    """Labels ``(E,) int8`` by two times: validation starts at the first, test at the second."""
    return np.where(times >= test, TEST, np.where(times >= valid, VALID, TRAIN)).astype(np.int8)


def _order_by_time(pairs: Interactions, name: str) -> np.ndarray:
    """The order of the pairs ``(E,)`` by user, then by time, then by item."""
    times = _require_times(pairs, name)
    if times.dtype.kind == "f":
        times = np.unique(times, return_inverse=True)[1].reshape(-1)  # their ranks, which are integers
    return _order_by_user(pairs, times.astype(np.uint64) - times.min(initial=0).astype(np.uint64))


def _order_by_user(pairs: Interactions, values: np.ndarray) -> np.ndarray:
    """The order of the pairs ``(E,)`` by user, then by ``values (E,) uint64``, then by item.

    User and value are packed into one 64-bit key where they fit, or nearly fit: one sort instead of two.
    """
    free = 64 - pairs.n_users.bit_length()
    excess = max(0, int(values.max(initial=0)).bit_length() - free)
    keys = (pairs.users.astype(np.uint64) << np.uint64(free)) | (values >> np.uint64(excess))
    if not excess:
        return np.argsort(keys, kind="stable")  # pairs of a user are already sorted by item
    order = np.argsort(keys)
    ordered = keys[order]
    if np.any(ordered[1:] == ordered[:-1]):  # keys that may differ in the dropped bits
        return np.lexsort((values, pairs.users))
    return order


def _label_shares(pairs: Interactions, order: np.ndarray, valid: float, test: float) -> np.ndarray:
    """:func:`_label_last` for shares of each user's interactions; one stays in train."""
    counts = pairs.user_degree
    n_test = np.floor(counts * test + 0.5).astype(np.int64)
    n_valid = np.floor(counts * valid + 0.5).astype(np.int64)
    n_test = np.minimum(n_test, np.maximum(counts - 1, 0))
    n_valid = np.minimum(n_valid, np.maximum(counts - 1 - n_test, 0))
    return _label_last(pairs, order, n_valid, n_test)


def _label_last(
    pairs: Interactions, order: np.ndarray, n_valid: np.ndarray, n_test: np.ndarray
) -> np.ndarray:
    """Labels each user's last pairs in ``order`` as test and those before as valid, ``(n_users,)`` each."""
    counts = pairs.user_degree
    from_end = np.repeat(pairs.indptr[1:], counts) - 1 - np.arange(len(pairs))
    per_pair_test, per_pair_valid = np.repeat(n_test, counts), np.repeat(n_valid, counts)
    label = np.empty(len(order), dtype=np.int8)
    label[order] = np.where(
        from_end < per_pair_test, TEST, np.where(from_end < per_pair_test + per_pair_valid, VALID, TRAIN)
    )
    return label
