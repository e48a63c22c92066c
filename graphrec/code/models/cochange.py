"""Co-change: recommends files that were worked on together with the files a person worked on last.

After Zimmermann et al., "Mining Version Histories to Guide Software Changes", ICSE 2004,
https://www.st.cs.uni-saarland.de/papers/icse2004/: files that were changed together will be changed together
again. There is nothing to train. Here, files are changed together if one person worked on them within some
weeks; a person who works on many files at once says less about each. Without times, all of a person's files
were changed together.

``Eq. n`` refers to the numbered equations in docs/models/cochange.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from graphrec.code.cochange import CoChangeConfig, item_neighbors, user_profiles
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.search_space import Choice, Integers, Space

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


USERS_PER_BLOCK = 2**10
"""Number of users whose scores of all items are computed at a time."""


class CoChange(Ranker):
    """Neighbors of the items that a person worked on last."""

    class Config(ModelConfig, CoChangeConfig):
        """Options of co-change."""

        popular: float = Field(0.0, ge=0)
        """Weight of the most popular item, relative to the highest co-change score of the person (Eq. 5)."""
        half_life: float = Field(365.0, gt=0)
        """Days before the newest contribution in which the weight of one in the popularity halves."""

    name = "cochange"
    search_space: ClassVar[Space] = {
        "window_days": Choice(7.0, 30.0, 90.0),
        "recency_days": Choice(7.0, 30.0, 90.0, 365.0),
        "global_weight": Choice(0.1, 0.3, 1.0),
        "popular": Choice(0.0, 1.0, 3.0, 10.0),
        "k": Integers(50, 1000, log=True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config = config
        self.n_users = train.n_users
        self.n_items = train.n_items
        profiles, neighbors = user_profiles(train, config), item_neighbors(train, config)
        if config.popular:
            profiles, neighbors = _with_popularity(train, config, profiles, neighbors)
        self.profiles = from_scipy(profiles)
        self.neighbors = from_scipy(neighbors)

    def embed(self) -> tuple[Graph, Graph]:
        """Profiles of users and neighbors of items, both over the items (Eq. 5); with ``popular``, a last
        column holds the term of popularity.
        """
        return self.profiles, self.neighbors


def _with_popularity(
    train: Interactions, config: CoChange.Config, profiles: csr_matrix, neighbors: csr_matrix
) -> tuple[csr_matrix, csr_matrix]:
    """Both with one more column, whose product is the second term of Eq. 5."""
    from scipy.sparse import hstack

    popularity = train.item_degree if train.times is None else train.recent_degree(config.half_life)
    highest = np.zeros(train.n_users, dtype=np.float32)
    columns = neighbors.T.tocsr()
    for start in range(0, train.n_users, USERS_PER_BLOCK):
        block = slice(start, start + USERS_PER_BLOCK)
        highest[block] = (profiles[block] @ columns).max(1).toarray().reshape(-1)
    highest[highest == 0] = 1  # nothing is changed with the person's items
    weight = (config.popular * highest)[:, None].astype(np.float32)
    share = (popularity / popularity.max())[:, None].astype(np.float32)
    return hstack([profiles, weight], "csr"), hstack([neighbors, share], "csr")
