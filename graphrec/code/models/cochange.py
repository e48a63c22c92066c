"""Co-change: what was worked on together with what a person worked on last.

After Zimmermann et al., "Mining Version Histories to Guide Software Changes", ICSE 2004,
https://www.st.cs.uni-saarland.de/papers/icse2004/: what was changed together will be. There is nothing to
train. Together is here what one person took up within some weeks; who took up much at once says less about
each. Without times everything a person did was at once.

``Eq. n`` refers to the numbered equations in docs/models/cochange.md.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from graphrec.code.cochange import CoChangeConfig, neighbors, profiles
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import graph_of
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.search_space import Choice, Integers, Space


class CoChange(Ranker):
    """Items next to those a person took up last."""

    class Config(ModelConfig, CoChangeConfig):
        """Options of co-change."""

    name = "cochange"
    search_space: ClassVar[Space] = {
        "together": Choice(7.0, 30.0, 90.0),
        "recent": Choice(7.0, 30.0, 90.0, 365.0),
        "ever": Choice(0.1, 0.3, 1.0),
        "k": Integers(50, 1000, log=True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config, self.n_users, self.n_items = config, train.n_users, train.n_items
        self.taken = graph_of(profiles(train, config))
        self.neighbors = graph_of(neighbors(train, config))

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; features are not used."""
        return cls(data.train, config or cls.Config())

    def embed(self) -> tuple[Graph, Graph]:
        """Users are what they took up, items their neighbors; both over the items (Eq. 5)."""
        return self.taken, self.neighbors
