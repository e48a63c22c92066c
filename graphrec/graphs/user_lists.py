"""Interactions made of lists of items."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from graphrec.data.interactions import Interactions


def listed(items: Tensor, n_items: int) -> Interactions:
    """Users with the items of their lists.

    Args:
        items: of each user ``(n_users, k)``, integers; negative ones stand for nothing.
        n_items: number of all items.

    Raises:
        DataError: a list holds an item twice, or one that does not exist.
    """
    lists = items.cpu().numpy()
    users, places = np.nonzero(lists >= 0)
    return Interactions(users, lists[users, places], len(lists), n_items, name="lists")
