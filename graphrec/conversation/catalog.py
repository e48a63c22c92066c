"""Which item has which attribute, in the data structures that conversations need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrec.core.errors import DataError
from graphrec.data import Dataset
from graphrec.data.attributes import HAS, IN

MAX_DENSE_ATTRIBUTES = 256
"""Number of attributes up to which a dense table of items and attributes is faster than lists."""


class Catalog:
    """Items, attributes and groups of attributes.

    Args:
        pairs: item and attribute of every edge ``(2, E) int``.
        n_items: number of items.
        names: names of the attributes.
        groups: group of each attribute ``(n_attributes,) int``, -1 for none; None: there are no groups.
        group_names: names of the groups.

    Attributes:
        attributes: attributes of all items, item after item ``(E,) int64``.
        item_offsets: where in ``attributes`` each item begins, and the end ``(n_items + 1,)``.
        items: items of all attributes, attribute after attribute ``(E,) int64``.
        attribute_offsets: where in ``items`` each attribute begins, and the end ``(n_attributes + 1,)``.
        table: ``(n_items, n_attributes) float32`` of zeros and ones; None with more than
            ``MAX_DENSE_ATTRIBUTES`` attributes.

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
        self.n_items = n_items
        self.n_attributes = len(names)
        self.names = tuple(names)
        self.group_names = tuple(group_names)
        self.groups = np.full(len(names), -1) if groups is None else np.asarray(groups, dtype=np.int64)
        keys = np.unique(pairs[0].astype(np.int64) * self.n_attributes + pairs[1])
        items = keys // self.n_attributes
        attributes = keys % self.n_attributes
        self.attributes = attributes
        self.item_offsets = _offsets(items, n_items)
        order = np.argsort(attributes, kind="stable")
        self.items = items[order]
        self.attribute_offsets = _offsets(attributes[order], self.n_attributes)
        self.table: np.ndarray | None = None
        if self.n_attributes <= MAX_DENSE_ATTRIBUTES:
            self.table = np.zeros((n_items, self.n_attributes), dtype=np.float32)
            self.table[items, attributes] = 1

    @classmethod
    def from_dataset(cls, data: Dataset) -> Catalog:
        """The catalog of a dataset with the relation ``("item", "has", "attribute")``.

        Raises:
            DataError: the dataset does not have the relation, or no item has an attribute.
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
            attributes, group_of_attribute = data.relations[IN]
            groups = np.full(len(names), -1)
            groups[attributes] = group_of_attribute
            group_names = data.nodes["group"].ids
        return cls(data.relations[HAS], data.n_items, names, groups, group_names)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.group_names)

    @property
    def has_attributes(self) -> np.ndarray:
        """Whether each item has an attribute ``(n_items,) bool``; a conversation needs one to open with."""
        mask: np.ndarray = np.diff(self.item_offsets) > 0
        return mask

    def attributes_of(self, item: int) -> np.ndarray:
        """An item's attributes, ascending ``(n,) int64``."""
        return self.attributes[self.item_offsets[item] : self.item_offsets[item + 1]]

    def items_with(self, attribute: int) -> np.ndarray:
        """The items that have an attribute, ascending ``(n,) int64``."""
        return self.items[self.attribute_offsets[attribute] : self.attribute_offsets[attribute + 1]]

    def count_attributes(self, attributes: np.ndarray) -> np.ndarray:
        """How many of several distinct attributes each item has ``(n_items,) int64``."""
        count = np.zeros(self.n_items, dtype=np.int64)
        for attribute in attributes:
            count[self.items_with(attribute)] += 1
        return count

    def attribute_totals(self, items: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """For each attribute, the sum of the weights of the items that have it.

        Args:
            items: ``(n,) int``.
            weights: ``(n,) float``.

        Returns:
            ``(n_attributes,) float64``.
        """
        starts = self.item_offsets[items]
        counts = np.diff(self.item_offsets)[items]
        first = np.cumsum(counts) - counts
        index = np.arange(int(counts.sum())) + np.repeat(starts - first, counts)
        return np.bincount(self.attributes[index], np.repeat(weights, counts), minlength=self.n_attributes)


def _offsets(rows: np.ndarray, n: int) -> np.ndarray:
    """Where each row begins in a sorted list of row indices, and the end ``(n + 1,)``."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
