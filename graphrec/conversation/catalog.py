"""Which item has which attribute, in the forms that conversations need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrec.core.errors import DataError
from graphrec.data import Dataset
from graphrec.data.attributes import HAS, IN

DENSE = 256
"""Up to so many attributes a dense table of items x attributes is faster than lists."""


class Catalog:
    """Items, attributes and groups of attributes.

    Args:
        pairs: item and attribute of every edge ``(2, E) int``.
        n_items: number of items.
        names: the attributes' names.
        groups: group of each attribute ``(n_attributes,) int``, -1 for none; None: there are no groups.
        group_names: the groups' names.

    Attributes:
        table: ``(n_items, n_attributes) float32`` of zeros and ones, or None where attributes are many.

    Raises:
        DataError: no item has an attribute.
    """

    def __init__(
        self,
        pairs: np.ndarray,
        n_items: int,
        names: Sequence[str],
        groups: np.ndarray | None = None,
        group_names: Sequence[str] = (),
    ) -> None:
        if not pairs.shape[1]:
            raise DataError("no item has an attribute, so there is nothing to ask about")
        self.n_items, self.n_attributes, self.names = n_items, len(names), tuple(names)
        self.group_names = tuple(group_names)
        self.groups = np.full(len(names), -1) if groups is None else np.asarray(groups, dtype=np.int64)
        keys = np.unique(pairs[0].astype(np.int64) * self.n_attributes + pairs[1])
        items, attributes = keys // self.n_attributes, keys % self.n_attributes
        self.attributes = attributes  # by item
        self.of_item = _bounds(items, n_items)
        order = np.argsort(attributes, kind="stable")
        self.items = items[order]  # by attribute, ascending
        self.of_attribute = _bounds(attributes[order], self.n_attributes)
        self.table: np.ndarray | None = None
        if self.n_attributes <= DENSE:
            self.table = np.zeros((n_items, self.n_attributes), dtype=np.float32)
            self.table[items, attributes] = 1

    @classmethod
    def from_dataset(cls, data: Dataset) -> Catalog:
        """The catalog of a dataset with the relation ``("item", "has", "attribute")``.

        Raises:
            DataError: it has none, or no item has an attribute.
        """
        if HAS not in data.relations:
            raise DataError(
                f"{data.name}: no attributes, so there is nothing to ask about; expected the relation {HAS} "
                "(see with_attributes, or the option attributes= of a reader)"
            )
        names = data.nodes["attribute"].ids
        groups: np.ndarray | None = None
        group_names: Sequence[str] = ()
        if IN in data.relations:
            attributes, found = data.relations[IN]
            groups, group_names = np.full(len(names), -1), data.nodes["group"].ids
            groups[attributes] = found
        return cls(data.relations[HAS], data.n_items, names, groups, group_names)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.group_names)

    @property
    def described(self) -> np.ndarray:
        """Items that have an attribute ``(n_items,) bool``; about the others no conversation can begin."""
        found: np.ndarray = np.diff(self.of_item) > 0
        return found

    def attributes_of(self, item: int) -> np.ndarray:
        """An item's attributes, ascending ``(n,) int64``."""
        return self.attributes[self.of_item[item] : self.of_item[item + 1]]

    def items_with(self, attribute: int) -> np.ndarray:
        """The items that have an attribute, ascending ``(n,) int64``."""
        return self.items[self.of_attribute[attribute] : self.of_attribute[attribute + 1]]

    def count(self, attributes: np.ndarray) -> np.ndarray:
        """How many of some different attributes each item has ``(n_items,) int64``."""
        count = np.zeros(self.n_items, dtype=np.int64)
        for attribute in attributes:
            count[self.items_with(attribute)] += 1
        return count

    def totals(self, items: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sum of the weights of the items that have an attribute, for each attribute.

        Args:
            items: ``(n,) int``.
            weights: ``(n,) float``.

        Returns:
            ``(n_attributes,) float64``.
        """
        starts, counts = self.of_item[items], np.diff(self.of_item)[items]
        first = np.cumsum(counts) - counts
        at = np.arange(int(counts.sum())) + np.repeat(starts - first, counts)
        return np.bincount(self.attributes[at], np.repeat(weights, counts), minlength=self.n_attributes)


def _bounds(rows: np.ndarray, n: int) -> np.ndarray:
    """Where each row begins in a sorted list of rows ``(n + 1,)``."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
