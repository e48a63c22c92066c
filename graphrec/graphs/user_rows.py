"""Items of users as rows of numbers, and interactions made of lists of items."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph


def dense_rows(graph: Graph, targets: Tensor) -> Tensor:
    """1 where there is an edge to a target, whatever its weight, and 0 elsewhere ``(n, n_source)``.

    Args:
        graph: such as that from items to users.
        targets: ``(n,) int64``; a block of them, so that not all rows are in memory at once.
    """
    edges, degree = graph.edges_to(targets)
    rows = torch.zeros(len(targets), graph.n_source, device=graph.device)
    place = torch.arange(len(targets), device=graph.device).repeat_interleave(degree)
    rows[place, graph.col[edges].long()] = 1
    return rows


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
