"""Which items may be recommended to whom, where that differs between users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from graphrec.core.errors import DataError
from graphrec.data import Dataset, Interactions
from graphrec.data.repositories import repository_of


@dataclass(frozen=True)
class CandidateGroups:
    """Candidates that differ between users: items of the groups a user belongs to, such as the files of the
    repositories somebody works in; or all others.

    Attributes:
        group: that of each item ``(n_items,) int``.
        groups: users and their groups.
        inside: False takes the items of all other groups.
    """

    group: np.ndarray
    groups: Interactions
    inside: bool = True

    def __post_init__(self) -> None:
        group = np.asarray(self.group)
        if group.ndim != 1 or group.dtype.kind not in "iu":
            raise DataError(f"among: group is {group.dtype} of shape {group.shape}; expected int (n_items,)")
        if len(group) and not (group.min() >= 0 and group.max() < self.groups.n_items):
            raise DataError(
                f"among: groups {group.min()}..{group.max()}; expected 0 <= group < {self.groups.n_items}, as "
                "``of`` counts them"
            )

    @classmethod
    def projects(cls, data: Dataset, inside: bool = True) -> Self:
        """Files of the repositories that a person worked in, by train; or of all others.

        Args:
            data: of git histories.
            inside: False takes the others.

        Raises:
            DataError: the dataset has no repositories.
        """
        repository, n = repository_of(data), len(data.nodes["repository"])
        keys = np.unique(data.train.users.astype(np.int64) * n + repository[data.train.items])
        own = Interactions(keys // n, keys % n, data.n_users, n, name=f"repositories of {data.train.name}")
        return cls(repository, own, inside)

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each item may be recommended to the user beside it ``(n,) bool``."""
        found: np.ndarray = self.groups.contains(users, self.group[items]) == self.inside
        return found

    def rows(self, users: np.ndarray) -> np.ndarray:
        """What may be recommended to each user ``(B, n_items) bool``."""
        member = np.zeros((len(users), self.groups.n_items), dtype=bool)
        row, group = self.groups.items_of_users(users)
        member[row, group] = True
        found: np.ndarray = member[:, self.group] == self.inside
        return found

    def check(self, n_users: int, n_items: int) -> None:
        """Makes sure that users and items are counted alike.

        Raises:
            DataError: they are not.
        """
        if (self.groups.n_users, len(self.group)) != (n_users, n_items):
            raise DataError(
                f"among: counts {self.groups.n_users:,} users x {len(self.group):,} items, the model "
                f"{n_users:,} x {n_items:,}; expected those of its dataset"
            )
