"""What several versions of a dataset have in common, so that runs trained on them can be compared.

Users and items are paired by external id. Only common users are evaluated, only common items are
recommended, only pairs that every version holds out are to be found, and a pair that one version masks is
masked in all. So all runs answer the same questions, each with the model that was trained on its own version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from graphrec.core.errors import DataError
from graphrec.core.files import digest
from graphrec.data import Dataset, Interactions
from graphrec.evaluation.ranking import evaluate
from graphrec.evaluation.report import Report

Splits = Callable[[Dataset], tuple[Interactions, Interactions | None]]
"""The held-out and the masked interactions of a dataset."""


@dataclass(frozen=True)
class Common:
    """The common part of several datasets, in the order of the first.

    Attributes:
        users: external ids of the users that all have.
        items: external ids of the items that all have.
        held_out: pairs that all hold out, as indices of ``users`` and ``items``.
        seen: pairs that at least one masks, likewise; None if nothing is masked.
        left_out: what was left out, one sentence a dataset.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    held_out: Interactions
    seen: Interactions | None
    left_out: tuple[str, ...]

    @classmethod
    def create(cls, datasets: Sequence[Dataset], splits: Splits) -> Common:
        """The common part.

        Args:
            datasets: at least one.
            splits: what each holds out and masks.

        Raises:
            DataError: they have no users, no items or no held-out pairs in common; names the counts.
        """
        users = _shared([data.users.ids for data in datasets])
        items = _shared([data.items.ids for data in datasets])
        parts = [splits(data) for data in datasets]
        held_out = [_keys(data, held, users, items) for data, (held, _) in zip(datasets, parts, strict=True)]
        common = reduce(np.intersect1d, held_out)
        if not len(common):
            counts = "; ".join(
                f"{data.name} {data.fingerprint[:12]}… has {data.n_users:,} users, {data.n_items:,} items "
                f"and {len(held):,} pairs in {held.name}"
                for data, (held, _) in zip(datasets, parts, strict=True)
            )
            raise DataError(
                f"the datasets have {len(users):,} users, {len(items):,} items and no held-out pair in "
                f"common ({counts}); expected versions of one dataset with the same ids, split alike"
            )
        masked = [
            _keys(data, seen, users, items)
            for data, (_, seen) in zip(datasets, parts, strict=True)
            if seen is not None
        ]
        size = (len(users), len(items))
        left_out = tuple(
            f"{data.name} {data.fingerprint[:8]}: {data.n_users - len(users):,} of {data.n_users:,} users, "
            f"{data.n_items - len(items):,} of {data.n_items:,} items and {len(held) - len(common):,} of "
            f"{len(held):,} held-out pairs are not in all versions and were left out"
            for data, (held, _) in zip(datasets, parts, strict=True)
        )
        return cls(
            users,
            items,
            _pairs(common, size, parts[0][0].name),
            _pairs(reduce(np.union1d, masked), size, "seen in any version") if masked else None,
            left_out,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that the numbers of an evaluation depend on."""
        seen = "nothing" if self.seen is None else self.seen.keys
        return digest("common", list(self.users), list(self.items), self.held_out.keys, seen)

    def evaluate(self, model: Any, data: Dataset, seen: Interactions | None, **options: Any) -> Report:
        """Evaluates a model of one dataset on the common part.

        Args:
            model: trained on ``data``.
            data: one of the datasets.
            seen: what the model is given as histories, where it reads them.
            options: of :func:`graphrec.evaluation.evaluate`.

        Returns:
            A report whose users are indices of :attr:`users`.
        """
        users = data.users.indices(self.users)
        items = data.items.indices(self.items)

        def of_dataset(pairs: Interactions) -> Interactions:
            return Interactions(
                users[pairs.users], items[pairs.items], data.n_users, data.n_items, name=pairs.name
            )

        report = evaluate(
            model,
            of_dataset(self.held_out),
            seen=None if self.seen is None else of_dataset(self.seen),
            history=seen,
            candidates=items,
            **options,
        )
        common_user = np.full(data.n_users, -1)
        common_user[users] = np.arange(len(users))
        found = common_user[report.users]
        order = np.argsort(found)
        return replace(
            report,
            users=found[order],
            metrics={name: values[order] for name, values in report.metrics.items()},
            meta={**report.meta, "data": self.fingerprint, "common": list(self.left_out)},
        )


def _shared(vocabularies: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The ids that are in all vocabularies, in the order of the first."""
    first, *others = vocabularies
    shared = set(first).intersection(*others)
    return tuple(value for value in first if value in shared)


def _keys(
    data: Dataset, interactions: Interactions, users: Sequence[str], items: Sequence[str]
) -> np.ndarray:
    """Keys ``user * n_items + item`` of the interactions among common users and items, ascending."""
    user_of = np.full(data.n_users, -1, dtype=np.int64)
    user_of[data.users.indices(users)] = np.arange(len(users))
    item_of = np.full(data.n_items, -1, dtype=np.int64)
    item_of[data.items.indices(items)] = np.arange(len(items))
    user = user_of[interactions.users]
    item = item_of[interactions.items]
    return np.sort((user * len(items) + item)[(user >= 0) & (item >= 0)])


def _pairs(keys: np.ndarray, size: tuple[int, int], name: str) -> Interactions:
    n_users, n_items = size
    return Interactions(keys // max(1, n_items), keys % max(1, n_items), n_users, n_items, name=name)
