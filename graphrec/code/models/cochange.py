"""Co-change: recommends files that were worked on together with the files a person worked on last.

After Zimmermann et al., "Mining Version Histories to Guide Software Changes", ICSE 2004,
https://www.st.cs.uni-saarland.de/papers/icse2004/: files that were changed together will be changed together
again. There is nothing to train. Here, files are changed together if one person worked on them within some
weeks; a person who works on many files at once says less about each. Without times, all of a person's files
were changed together.

``Eq. n`` refers to the numbered equations in docs/models/cochange.md.
"""

from __future__ import annotations

from typing import ClassVar

from graphrec.code.cochange import CoChangeConfig, item_neighbors, user_profiles
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.search_space import Choice, Integers, Space


class CoChange(Ranker):
    """Neighbors of the items that a person worked on last."""

    class Config(ModelConfig, CoChangeConfig):
        """Options of co-change."""

    name = "cochange"
    search_space: ClassVar[Space] = {
        "window_days": Choice(7.0, 30.0, 90.0),
        "recency_days": Choice(7.0, 30.0, 90.0, 365.0),
        "global_weight": Choice(0.1, 0.3, 1.0),
        "k": Integers(50, 1000, log=True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config = config
        self.n_users = train.n_users
        self.n_items = train.n_items
        self.profiles = from_scipy(user_profiles(train, config))
        self.neighbors = from_scipy(item_neighbors(train, config))

    def embed(self) -> tuple[Graph, Graph]:
        """Profiles of users and neighbors of items, both over the items (Eq. 5)."""
        return self.profiles, self.neighbors
