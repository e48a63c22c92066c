"""Same directory: recommends files in the directories where a person works.

A common baseline of code recommenders, as in Jin et al., "Code Recommendation for Open Source Software
Developers", WWW 2023, https://arxiv.org/abs/2210.08332, whose directory tree it uses. There is nothing to
train.

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
from graphrec.graphs.sparse import from_scipy
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.search_space import Choice, Space


class Directory(Ranker):
    """Files in the directories of a person's files; of equals, the files of more people first."""

    class Config(ModelConfig):
        """Options of same directory."""

        above: float = Field(0.1, ge=0, lt=1)
        """Weight of a directory relative to the one below it."""
        popular: float = Field(1e-3, ge=0)
        """Weight of the number of people who worked on a file."""

    name = "directory"
    search_space: ClassVar[Space] = {
        "above": Choice(0.0, 0.01, 0.1, 0.3),
        "popular": Choice(1e-4, 1e-3, 1e-2, 1e-1),
    }
    config: Config

    def __init__(self, train: Interactions, repositories: Repositories, config: Config) -> None:
        from scipy.sparse import csr_matrix, hstack

        super().__init__()
        self.config = config
        self.n_users = train.n_users
        self.n_items = train.n_items
        item, directory, distance = directories_above(repositories, train.n_items)
        shape = (train.n_items, int(repositories.edges.max()) + 1 - train.n_items)
        contained = csr_matrix((np.ones(len(item), np.float32), (item, directory)), shape=shape)
        weight = (config.above ** distance.astype(np.float64)).astype(np.float32)
        weighted = csr_matrix((weight, (item, directory)), shape=shape)
        share = 1 / np.maximum(train.user_degree, 1)[train.users].astype(np.float32)
        profiles = csr_matrix((share, train.items, train.indptr), shape=(train.n_users, train.n_items))
        popularity = np.log1p(train.item_degree)[:, None].astype(np.float32) * config.popular
        ones = np.ones((train.n_users, 1), np.float32)
        self.user_directories = from_scipy(hstack([profiles @ contained, ones], "csr"))
        self.item_directories = from_scipy(hstack([weighted, popularity], "csr"))  # Eq. 1

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; needs directories, features are not used."""
        return cls(data.train, Repositories.from_dataset(data), config or cls.Config())

    def embed(self) -> tuple[Graph, Graph]:
        """People and files, both over the directories (Eq. 1)."""
        return self.user_directories, self.item_directories


def directories_above(repositories: Repositories, n_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a file and a directory above it; the repository is the topmost directory.

    Returns:
        files, directories (from 0) and the number of directories in between, three ``(n,) int64``.
    """
    child, parent = np.split(repositories.edges, 2, axis=1)[0]  # the second half holds the reverse edges
    parent_of = np.full(int(repositories.edges.max()) + 1, -1)
    parent_of[child] = parent
    item = np.arange(n_items)
    node = parent_of[:n_items]
    levels: list[tuple[np.ndarray, ...]] = []
    while len(item):
        levels.append((item, node - n_items, np.full(len(item), len(levels))))
        has_parent = parent_of[node] >= 0
        item = item[has_parent]
        node = parent_of[node[has_parent]]
    files, directories, distances = (np.concatenate(column) for column in zip(*levels, strict=True))
    return files, directories, distances
