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
    """Candidates that differ between users: the items of the groups a user belongs to, or all others.

    An example are the files of the repositories that a person works in.

    Attributes:
        item_group: group of each item ``(n_items,) int``.
        user_groups: pairs of users and their groups; the groups are counted as its items.
        inside: False takes the items of all groups that a user does not belong to.

    Raises:
        DataError: ``item_group`` is not an index of a group for each item.
    """

    item_group: np.ndarray
    user_groups: Interactions
    inside: bool = True

    def __post_init__(self) -> None:
        group = np.asarray(self.item_group)
        if group.ndim != 1 or group.dtype.kind not in "iu":
            raise DataError(
                f"candidate groups: item_group is {group.dtype} of shape {group.shape}; expected int "
                "(n_items,)"
            )
        n_groups = self.user_groups.n_items
        if len(group) and not (group.min() >= 0 and group.max() < n_groups):
            raise DataError(
                f"candidate groups: item_group holds {group.min()}..{group.max()}; expected 0 <= group < "
                f"{n_groups}, the number of groups in user_groups"
            )

    @classmethod
    def from_repositories(cls, data: Dataset, inside: bool = True) -> Self:
        """Files of the repositories that a person contributed to in the training split, or of all others.

        Args:
            data: dataset of git histories.
            inside: False takes the others.

        Raises:
            DataError: the dataset has no repositories.
        """
        repository = repository_of(data)
        n = len(data.nodes["repository"])
        keys = np.unique(data.train.users.astype(np.int64) * n + repository[data.train.items])
        name = f"repositories of {data.train.name}"
        return cls(repository, Interactions(keys // n, keys % n, data.n_users, n, name=name), inside)

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether the item at each position may be recommended to the user at that position ``(n,) bool``."""
        member = self.user_groups.contains(users, self.item_group[items])
        return np.asarray(member == self.inside)

    def mask(self, users: np.ndarray) -> np.ndarray:
        """Which items may be recommended to each user ``(B, n_items) bool``."""
        member = np.zeros((len(users), self.user_groups.n_items), dtype=bool)
        row, group = self.user_groups.items_of_users(users)
        member[row, group] = True
        return np.asarray(member[:, self.item_group] == self.inside)

    def check(self, n_users: int, n_items: int) -> None:
        """Checks the numbers of users and items against those of a model.

        Raises:
            DataError: they differ.
        """
        sizes = (self.user_groups.n_users, len(self.item_group))
        if sizes != (n_users, n_items):
            raise DataError(
                f"candidate groups: {sizes[0]:,} users x {sizes[1]:,} items, the model {n_users:,} x "
                f"{n_items:,}; expected those of its dataset"
            )
