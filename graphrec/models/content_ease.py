"""ContentEASE: EASE whose weights are shrunk toward a content graph instead of toward zero.

A model of this project. Ridge regression of items on items shrinks every weight toward zero, which says that
items without common users have nothing to do with each other. Here the weights are shrunk toward those of a
nearest-neighbor graph of the items' content, so that content decides where interactions are few, and
interactions where they are many. It has a closed form with a single inverse, and no training loop.

The regression is that of Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019,
https://arxiv.org/abs/1905.03375; a penalty in proportion to an item's interactions that of Steck,
"Autoencoders that don't overfit towards the Identity", NeurIPS 2020.

``Eq. n`` refers to the numbered equations in docs/models/content-ease.md, which derives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_matrix, diags, identity

from graphrec.core.config import option
from graphrec.core.random import torch_rng
from graphrec.core.reuse import Reused
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph, mix, normalize_weights
from graphrec.graphs.sparse import from_scipy, to_scipy
from graphrec.models.base import ContentRule, Features
from graphrec.models.content_regression import Product, content_regression
from graphrec.models.factorization import alternating_least_squares
from graphrec.models.fold_in import LeastSquaresFoldIn
from graphrec.models.gram import RegressionConfig, inverse_gram, penalty
from graphrec.models.multimodal import (
    ColdItems,
    MultimodalConfig,
    MultimodalRanker,
    WeightedConfig,
    item_graph,
)
from graphrec.models.regression import RegressionRanker, largest_weights
from graphrec.models.search_space import Choice, Space, Uniform

BLOCK = 512  # rows of the matrix that are replaced, or cold items that are placed, at a time
FACTOR_DIM, FACTOR_ITERATIONS = 64, 16
FACTOR_RULE = LeastSquaresFoldIn(alpha=1.0, unobserved_weight=0.1, reg_weight=0.03, reg_exponent=1.0)
"""Of the factors that ``factors_weight`` mixes in. Cells that were not observed count much, so that popular
items are not all alike."""


LAST_FACTORS: Reused[tuple[Interactions, int], np.ndarray] = Reused("last factors")
"""By train interactions and seed."""


class ContentEASE(MultimodalRanker, RegressionRanker):
    """Ridge regression of each item on all others, shrunk toward a content graph."""

    class Config(WeightedConfig, MultimodalConfig, RegressionConfig):
        """Options of ContentEASE."""

        reg_weight: float = Field(100.0, gt=0)
        """Penalty on the distance of every weight from the content graph's: lambda. In units of
        interactions."""
        dropout: float = Field(0.4, ge=0, lt=1)
        """Adds ``p / (1 - p)`` times an item's interactions to the penalty of its weights; see EASE."""
        content_weight: float = Field(0.5, ge=0)
        """What the content graph's weights are multiplied by: beta. 0 is EASE."""
        knn_k: int = Field(20, ge=1)
        """Content neighbors per item and modality, the item itself not counted."""
        factors_weight: float = Field(0.0, ge=0, le=1)
        """Share of a graph of items that iALS places near one another in what the weights are shrunk toward;
        the content graph has the rest. Above 0 the model depends on ``seed``."""
        regression_weight: float = Field(0.0, ge=0, le=1)
        """Share of a regression of the items' content vectors on one another in what the weights are shrunk
        toward; the graphs have the rest."""
        content_penalty: float = Field(3.0, gt=0)
        """Penalty of that regression: mu. The vectors have length one."""
        image_weight: float = Field(0.3, ge=0, le=1)
        """Weight of the image graph; those of the other modalities share the rest equally. Without effect if
        there is a single modality or no image."""
        cold_items: Literal["neighbors", "as_trained"] = "neighbors"
        """Weights of items without train interactions: from their content neighbors' weights, or those of
        the formula, by which they score far below all others."""
        graph_cache: Path | None = option(None, affects_result=False)
        """Directory in which neighbors are kept between runs; None computes them each time."""

    name = "content-ease"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(10.0, 30.0, 100.0, 300.0, 1000.0),
        "dropout": Choice(0.0, 0.2, 0.4, 0.6),
        "content_weight": Choice(0.1, 0.25, 0.5, 0.75, 1.0),
        "knn_k": Choice(5, 10, 20, 40),
        "factors_weight": Choice(0.0, 0.25, 0.5, 0.75),
        "regression_weight": Choice(0.0, 0.5, 1.0),
        "image_weight": Uniform(0.0, 1.0),
    }
    config: Config

    @classmethod
    @contextmanager
    def reuse(cls) -> Iterator[None]:
        """Keeps the last inverse, as every regression, and the last factors, which only ``seed`` changes."""
        with super().reuse(), LAST_FACTORS.kept():
            yield

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        shares = config.weights_of(features)
        diagonal = penalty(train, config)
        graph_weight = config.content_weight * (1 - config.regression_weight)
        graph = graph_weight * content_prior(features, shares, train, config)  # beta (1 - rho) P
        product = None
        if config.regression_weight:  # Eq. 4
            left, right = content_regression(features, shares, config.content_penalty, config.fill, train)
            product = Product(left, config.content_weight * config.regression_weight * right)
        self.cold_start_rule = ContentRule(shares, config.knn_k)
        by_content = config.cold_items == "neighbors"
        cold_items = ColdItems(train, features, self.cold_start_rule, by_content)
        # Those whose weights are their content neighbors'.
        placed = np.flatnonzero(train.item_degree == 0) if cold_items.graph is not None else np.empty(0, int)
        if config.solver == "columns":
            others = np.setdiff1d(np.arange(train.n_items), placed)
            largest = largest_weights(self.history, diagonal, config, graph, others, product)
            neighbors = largest.matrix()
            lengths = largest.lengths()
            for start in range(0, len(placed), BLOCK):
                block = placed[start : start + BLOCK]
                largest.put(block, cold_items.of_sparse(torch.from_numpy(block), neighbors, lengths))
            self.weights = largest.graph()
            return
        toward = (diags(diagonal) @ (identity(train.n_items) - graph)).tocsr().astype(np.float32)
        matrix = inverse_gram(train, diagonal, config)  # A^-1, becomes B in place
        _shrink_to(matrix, toward, diagonal, product)
        weights = torch.from_numpy(matrix).float()
        self.register_buffer("weights", weights, persistent=False)
        if len(placed):
            cold = torch.from_numpy(placed)
            weights[:, cold] = cold_items.of(cold, weights.T).T


def content_prior(
    features: Mapping[str, FeatureTable],
    shares: Mapping[str, float],
    train: Interactions,
    config: ContentEASE.Config,
) -> csr_matrix:
    """``P = sum_m w_m D_m^-1/2 S_m D_m^-1/2``, where ``S_m`` holds the cosines of items one of which is among
    the ``k`` nearest of the other ``(n_items, n_items) float32``; with ``factors_weight`` one of the ``m`` is
    the items' factors (Eqs. 2 and 3).
    """
    graphs = []
    if config.factors_weight:
        table = FeatureTable(item_factors(train, config.seed), train.item_degree > 0)
        nearest = item_graph(table, config.knn_k + 1, weight="cosine")
        graphs.append((config.factors_weight, symmetric_neighbors(nearest)))
    for modality, share in shares.items():
        share *= 1 - config.factors_weight
        if not share:
            continue
        graph = item_graph(
            features[modality], config.knn_k + 1, weight="cosine", cache=config.graph_cache,
            fill=config.fill, train=train,
        )  # fmt: skip
        graphs.append((share, symmetric_neighbors(graph)))
    return to_scipy(mix(graphs))


def item_factors(train: Interactions, seed: int) -> np.ndarray:
    """The item vectors that iALS with :data:`FACTOR_RULE` learns.

    Args:
        train: the interactions.
        seed: of the initial vectors.

    Returns:
        ``(n_items, d) float32``; zero for items without interactions.
    """
    last = LAST_FACTORS.find(lambda key: key[0] is train and key[1] == seed)
    if last is not None:
        return last
    rng = torch_rng(seed, "init/items")  # iALS' own
    _, vectors = alternating_least_squares(train, FACTOR_DIM, FACTOR_ITERATIONS, FACTOR_RULE, rng)
    items: np.ndarray = vectors.numpy()
    LAST_FACTORS.add((train, seed), items)
    return items


def symmetric_neighbors(nearest: Graph) -> Graph:
    """``D^-1/2 S D^-1/2`` of the cosines of each item's nearest ones, without the item itself and without
    negative cosines (Eqs. 2 and 3).
    """
    cosines = to_scipy(nearest).tocoo()
    cosines.data[(cosines.row == cosines.col) | (cosines.data < 0)] = 0
    cosines = cosines.tocsr()
    cosines = cosines.maximum(cosines.T)
    cosines.eliminate_zeros()
    return normalize_weights(from_scipy(cosines), "symmetric")


def _shrink_to(
    inverse: np.ndarray, toward: csr_matrix, diagonal: np.ndarray, product: Product | None
) -> None:
    """Replaces ``A^-1`` by ``B``, row by row: ``Q = I - A^-1 Lambda (I - beta P)``, minus the multiple of
    ``A^-1`` that makes the diagonal zero (Eqs. 6 and 7).

    Args:
        inverse: ``A^-1 (n_items, n_items)``, symmetric; overwritten.
        toward: ``Lambda (I - beta P) (n_items, n_items)`` of what is sparse in ``P``.
        diagonal: of ``Lambda (n_items,)``.
        product: ``beta P`` of what is dense in it.
    """
    edges = toward.tocoo()
    # q_jj needs the few entries of A^-1 that meet an edge, before their rows are overwritten.
    met = inverse[edges.row, edges.col].astype(np.float64) * edges.data
    q = 1 - np.bincount(edges.col, weights=met, minlength=len(inverse))
    pulled = None
    if product is not None:
        pulled = inverse @ (diagonal[:, None] * product.left).astype(inverse.dtype)  # (n_items, r)
        q += np.einsum("ir,ri->i", pulled, product.right)
    ratio = (q / np.diag(inverse)).astype(inverse.dtype)
    transposed = from_scipy(toward.T.tocsr())
    for start in range(0, len(inverse), BLOCK):
        rows = inverse[start : start + BLOCK]
        own = np.arange(len(rows))
        near = transposed @ torch.from_numpy(np.ascontiguousarray(rows.T))
        rows *= -ratio
        rows -= near.T.numpy()
        if pulled is not None and product is not None:
            rows += pulled[start : start + BLOCK] @ product.right
        rows[own, own + start] = 0
