"""RP3beta: items are offered that a random walk of three steps reaches, popular ones counted less.

Paudel, Christoffel, Newell and Bernstein, "Updatable, Accurate, Diverse, and Scalable Recommendations for
Interactive Applications", ACM TiiS 2016, https://doi.org/10.1145/2955101. With ``beta=0`` it is P3alpha:
Cooper, Lee, Radinsky and Mohan, "Random Walks in Recommender Systems: Exact Computation and Simulations", WWW
2014 Companion, https://doi.org/10.1145/2567948.2579244. Two steps of the walk are item weights in closed
form; there is nothing to train.

Made as strong as in Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019,
https://arxiv.org/abs/1907.06902: ``k`` weights are kept, and they may be divided by their sum.

``Eq. n`` refers to the numbered equations in docs/models/rp3beta.md.

Differences from the code of 2019: the ``k`` weights are kept for the item that is scored, as in ItemKNN;
there for the item that the user has, and of these again for the other. Only the walk from an item to an
item is computed, as the first step, from a user to each of their items, changes no order.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, interaction_matrix, nearest_columns, normalize_rows, scale_rows
from graphrec.models.base import ModelConfig
from graphrec.models.item_weights import ItemWeightsRanker
from graphrec.models.search_space import Integers, Space, Uniform


class RP3beta(ItemWeightsRanker):
    """Probabilities of walking from an item over a user to an item, the largest of each item kept."""

    class Config(ModelConfig):
        """Options of RP3beta."""

        k: int = Field(500, ge=1)
        """Weights kept per item that is scored, the item itself not counted."""
        alpha: float = Field(0.5, ge=0)
        """Exponent of the probabilities of each step: the larger, the less the items of popular items and
        busy users count."""
        beta: float = Field(0.3, ge=0)
        """Exponent of the interactions of an item that is scored, by which its weights are divided; 0 is
        P3alpha."""
        normalize: bool = False
        """Divide the weights that an item of a history adds by their sum: what was not kept is spread over
        the rest, and each item of a history then adds as much as any other."""

    name = "rp3beta"
    search_space: ClassVar[Space] = {
        "k": Integers(5, 1000, log=True),
        "alpha": Uniform(0.0, 2.0),
        "beta": Uniform(0.0, 1.0),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.weights = walks(train, config)

    def item_weights(self) -> Graph:
        """Each item's weights for the items of a history (Eq. 1)."""
        return self.weights


def walks(train: Interactions, config: RP3beta.Config) -> Graph:
    """The ``k`` largest weights of each item, itself left out (Eqs. 2 and 3)."""
    by_user = interaction_matrix(train)
    degree = np.maximum(train.item_degree, 1).astype(np.float64)
    leaves_item = degree**-config.alpha  # (n_items,)
    reaches_item = degree**-config.beta
    # Half of the exponent on either side of an inner product of two columns.
    from_user = np.maximum(train.user_degree, 1) ** (-config.alpha / 2)  # (n_users,)

    def weight(scored: np.ndarray, taken: np.ndarray, met: np.ndarray) -> np.ndarray:
        met *= leaves_item[taken] * reaches_item[scored]  # Eq. 2
        return met

    kept = nearest_columns(scale_rows(by_user, from_user), weight, config.k)
    if config.normalize:
        kept = normalize_rows(kept.T.tocsr()).T.tocsr()  # Eq. 3
    return from_scipy(kept)
