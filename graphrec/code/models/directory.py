"""Same directory: files that stand where a person works.

The heuristic that recommenders of code are held against, as in Jin et al., "Code Recommendation for Open
Source Software Developers", WWW 2023, https://arxiv.org/abs/2210.08332, whose tree of directories it reads.
There is nothing to train.

``Eq. n`` refers to the numbered equations in docs/models/directory.md.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import Repositories
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import graph_of
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.search_space import Choice, Space


class Directory(Ranker):
    """Files of the directories that a person has files in; the more worked on, the earlier among equals."""

    class Config(ModelConfig):
        """Options of same directory."""

        above: float = Field(0.1, ge=0, lt=1)
        """What a directory counts, against 1 for the one below it."""
        popular: float = Field(1e-3, ge=0)
        """Weight of how many worked on a file."""

    name = "directory"
    search_space: ClassVar[Space] = {
        "above": Choice(0.0, 0.01, 0.1, 0.3), "popular": Choice(1e-4, 1e-3, 1e-2, 1e-1),
    }  # fmt: skip
    config: Config

    def __init__(self, train: Interactions, place: Repositories, config: Config) -> None:
        from scipy.sparse import csr_matrix, hstack

        super().__init__()
        self.config, self.n_users, self.n_items = config, train.n_users, train.n_items
        item, node, height = above(place, train.n_items)
        shape = (train.n_items, int(place.edges.max()) + 1 - train.n_items)
        inside = csr_matrix((np.ones(len(item), np.float32), (item, node)), shape=shape)
        weight = (config.above ** height.astype(np.float64)).astype(np.float32)
        stands = csr_matrix((weight, (item, node)), shape=shape)
        of = 1 / np.maximum(train.user_degree, 1)[train.users].astype(np.float32)
        taken = csr_matrix((of, train.items, train.indptr), shape=(train.n_users, train.n_items))
        known = np.log1p(train.item_degree)[:, None].astype(np.float32) * config.popular
        self.works_in = graph_of(hstack([taken @ inside, np.ones((train.n_users, 1), np.float32)], "csr"))
        self.stands_in = graph_of(hstack([stands, known], "csr"))  # Eq. 1

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; needs directories, features are not used."""
        return cls(data.train, Repositories.from_dataset(data), config or cls.Config())

    def embed(self) -> tuple[Graph, Graph]:
        """People by the directories they work in, files by those they stand in (Eq. 1)."""
        return self.works_in, self.stands_in


def above(place: Repositories, n_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every file with every directory over it, its repository the last.

    Returns:
        files, directories (from 0) and how many stand in between, three ``(n,) int64``.
    """
    child, parent = np.split(place.edges, 2, axis=1)[0]  # the other half is the way back
    over = np.full(int(place.edges.max()) + 1, -1)
    over[child] = parent
    item, node = np.arange(n_items), over[:n_items]
    found: list[tuple[np.ndarray, ...]] = []
    while len(item):
        found.append((item, node - n_items, np.full(len(item), len(found))))
        kept = over[node] >= 0
        item, node = item[kept], over[node[kept]]
    files, directories, heights = (np.concatenate(part) for part in zip(*found, strict=True))
    return files, directories, heights
