"""UserKNN: users are offered what the users most similar to them took.

Herlocker, Konstan, Borchers and Riedl, "An Algorithmic Framework for Performing Collaborative Filtering",
SIGIR 1999, https://doi.org/10.1145/312624.312682, for interactions instead of ratings, as in Ferrari Dacrema
et al., "Are We Really Making Much Progress?", RecSys 2019, https://arxiv.org/abs/1907.06902. An item scores
the sum of the similarities of the neighbors that took it. There is nothing to train.

``Eq. n`` refers to the numbered equations in docs/models/itemknn.md.

Differences from the code of 2019: weights of interactions decide who is similar and not what a neighbor's
item counts. Dividing a user's similarities by their sum changes no order, so there is no option for it.
"""

from __future__ import annotations

from typing import ClassVar

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, interaction_matrix
from graphrec.models.base import Ranker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.similarity import SimilarityConfig, most_similar


class UserKNN(Ranker):
    """Similarities of train rows, the nearest of each user kept."""

    class Config(SimilarityConfig):
        """Options of UserKNN."""

    name = "userknn"
    search_space: ClassVar[Space] = {
        "k": Integers(5, 1000, log=True),
        "shrink": Choice(0.0, 1.0, 10.0, 50.0, 100.0, 500.0),
        "weighting": Choice("none", "tf-idf"),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config = config
        self.n_users = train.n_users
        self.n_items = train.n_items
        by_item = interaction_matrix(train).T.tocsr()
        self.neighbors = from_scipy(most_similar(by_item, config))  # row u: sim(u, v) of the neighbors v
        self.takers = from_scipy(by_item)  # row i: the users of i

    def embed(self) -> tuple[Graph, Graph]:
        """Users' similarities to their neighbors ``(n_users, n_users)`` and items' users
        ``(n_items, n_users)``, sparse; a score is their inner product (Eq. 10).
        """
        return self.neighbors, self.takers
