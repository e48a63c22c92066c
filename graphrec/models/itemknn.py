"""ItemKNN: items are offered that the same users took as the items a user has.

Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 2004,
https://doi.org/10.1145/963770.963776. Each item is compared with all others by the users they share; an item
scores the sum of its similarities to those of its neighbors that the user has. There is nothing to train.

Made as strong as in Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019,
https://arxiv.org/abs/1907.06902: similarities are shrunk where few users speak for them, the ``k`` nearest
items are kept for the item that is scored (the 2004 paper keeps them for the item that the user has), and
what to divide by is chosen along with ``k``. Other similarities than the cosine, and weights of the
interactions, are options (:mod:`graphrec.models.similarity`).

``Eq. n`` refers to the numbered equations in docs/models/itemknn.md.
"""

from __future__ import annotations

from typing import ClassVar

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, interaction_matrix, normalize_rows
from graphrec.models.item_weights import ItemWeightsRanker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.similarity import SimilarityConfig, most_similar


class ItemKNN(ItemWeightsRanker):
    """Similarities of train columns, the nearest of each item kept."""

    class Config(SimilarityConfig):
        """Options of ItemKNN."""

        renamed_options: ClassVar = {"normalise": "normalize"}

        normalize: bool = False
        """Divide an item's similarities by their sum: the score is then the share of its neighborhood that
        the user has, and items with many or near neighbors have no advantage."""

    name = "itemknn"
    search_space: ClassVar[Space] = {
        "k": Integers(5, 1000, log=True),
        "shrink": Choice(0.0, 1.0, 10.0, 50.0, 100.0, 500.0),
        "normalize": Choice(False, True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        similarity = most_similar(interaction_matrix(train), config)
        # Row i: sim(i, j) of its neighbors j.
        self.neighbors = from_scipy(normalize_rows(similarity) if config.normalize else similarity)  # Eq. 4

    def item_weights(self) -> Graph:
        """Each item's similarities to its neighbors (Eq. 1)."""
        return self.neighbors
