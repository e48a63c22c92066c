"""SLIM: sparse item weights, each item regressed on the others by an elastic net without negative weights.

Ning and Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM 2011,
https://doi.org/10.1109/ICDM.2011.134. There is no training loop and no seed: the optimum of each item is
unique, and scikit-learn's coordinate descent finds it from counts of shared users alone.

``Eq. n`` refers to the numbered equations in docs/models/slim.md.

Differences from the code of RecBole, with which SLIM is usually compared: penalties are in units of
interactions, as in EASE, and do not depend on the number of users; an item is regressed on those alone that
can have a weight, with the same result.
"""

from __future__ import annotations

import logging
import warnings
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, interaction_matrix
from graphrec.models.base import ModelConfig
from graphrec.models.item_weights import ItemWeightsRanker
from graphrec.models.search_space import Choice, Space

logger = logging.getLogger("graphrec")


class SLIM(ItemWeightsRanker):
    """Elastic net of each item on all others, without negative weights."""

    class Config(ModelConfig):
        """Options of SLIM."""

        l1_weight: float = Field(1.0, ge=0)
        """Penalty on the sum of an item's weights, in units of interactions: items that share no more users
        with it get no weight."""
        reg_weight: float = Field(100.0, gt=0)
        """Penalty on half the sum of an item's squared weights, in units of interactions."""
        tolerance: float = Field(1e-4, gt=0)
        """An item is done when its duality gap is below this share of its interactions."""
        max_sweeps: int = Field(1000, ge=1)
        """Sweeps over the weights of an item after which it is left as it is, with a warning."""

    name = "slim"
    search_space: ClassVar[Space] = {
        "l1_weight": Choice(0.1, 0.3, 1.0, 3.0),
        "reg_weight": Choice(10.0, 30.0, 100.0, 300.0, 1000.0),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.weights = from_scipy(elastic_nets(train, config))

    def item_weights(self) -> Graph:
        """Each item's weights for the items of a history (Eq. 1)."""
        return self.weights


def elastic_nets(train: Interactions, config: SLIM.Config) -> csr_matrix:
    """The weights that minimize Eq. 2 ``(n_items, n_items)``; row ``i`` makes up the score of item ``i``."""
    x = interaction_matrix(train, "float64")
    gram = (x.T @ x).tocsr()  # users that two items share
    columns = []
    values = []
    unfinished = 0
    for item in range(train.n_items):
        entries = slice(gram.indptr[item], gram.indptr[item + 1])
        others = gram.indices[entries]
        shared = gram.data[entries]
        possible = (shared > config.l1_weight) & (others != item)  # Eq. 3
        others = others[possible]
        weights = np.zeros(0)
        if len(others):
            among = gram[others][:, others].toarray()
            weights, gap = _elastic_net(among, shared[possible], train.item_degree[item], config)
            unfinished += gap > config.tolerance * train.item_degree[item]
        columns.append(others[weights > 0])
        values.append(weights[weights > 0])
    if unfinished:
        logger.warning(
            "slim: %d of %d items are not within tolerance=%g after max_sweeps=%d; raise max_sweeps, "
            "tolerance or reg_weight",
            unfinished, train.n_items, config.tolerance, config.max_sweeps,
        )  # fmt: skip
    indptr = np.concatenate([[0], np.cumsum([len(c) for c in columns])])
    shape = (train.n_items, train.n_items)
    return csr_matrix((np.concatenate(values), np.concatenate(columns), indptr), shape=shape)


def _elastic_net(
    gram: np.ndarray, shared: np.ndarray, squares: int, config: SLIM.Config
) -> tuple[np.ndarray, float]:
    """The weights of ``m`` items for one that is regressed on them, and the duality gap.

    Args:
        gram: ``(m, m)``.
        shared: users that each shares with the one ``(m,)``.
        squares: sum of squares of the one's column, its interactions.
        config: penalties and when to stop.
    """
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import enet_path

    both = config.l1_weight + config.reg_weight
    # Checking arguments would take longer than solving; of the interactions themselves the solver reads
    # their number, by which penalties are scaled, and the sum of squares of the target.
    with config_context(skip_parameter_validation=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gap says it
        _, weights, gaps = enet_path(
            np.zeros((1, len(shared)), order="F"),
            np.array([np.sqrt(squares)]),
            l1_ratio=config.l1_weight / both,
            alphas=[both],
            precompute=gram,
            Xy=shared,
            positive=True,
            check_input=False,
            tol=config.tolerance,
            max_iter=config.max_sweeps,
        )
    return weights[:, 0], float(gaps[0])
