"""ItemKNN on content: items are offered that look or read like those a user has.

The scoring of Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 2004,
https://doi.org/10.1145/963770.963776, with similarities of features instead of shared users, as in the
content baselines of Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019,
https://arxiv.org/abs/1907.06902. There is nothing to train, so a model that learns from the same features has
to find more than this does.

``Eq. n`` refers to the numbered equations in docs/models/itemknn.md.

Differences from those baselines: cosines are not shrunk, as dense features have no support to speak of;
neighbors are looked for among items with train interactions, as no user has any other; several modalities
are mixed after their neighbors are found, each on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_matrix

from graphrec.core.config import option
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph
from graphrec.graphs.knn import knn, nearest_edges
from graphrec.graphs.sparse import from_scipy, to_scipy, weighted_mean
from graphrec.models.base import ContentSimilarity
from graphrec.models.item_weights import ItemWeightsRanker
from graphrec.models.multimodal import MultimodalConfig, MultimodalRanker, WeightedConfig, filled, means_of
from graphrec.models.search_space import Choice, Integers, Space, Uniform


class ItemKNNContent(MultimodalRanker, ItemWeightsRanker):
    """Cosine of features, the nearest of each item kept per modality and mixed."""

    class Config(WeightedConfig, MultimodalConfig):
        """Options of ItemKNN on content."""

        renamed_options: ClassVar = {"normalise": "normalize"}

        k: int = Field(50, ge=1)
        """Neighbors per item and modality, the item itself not counted."""
        normalize: bool = False
        """Divide an item's similarities by their sum: the score is then the share of its neighborhood that
        the user has, and items with many or near neighbors have no advantage."""
        graph_cache: Path | None = option(None, affects_result=False)
        """Directory in which neighbors are kept between runs; None computes them each time."""

    name = "itemknn-content"
    search_space: ClassVar[Space] = {
        "k": Integers(5, 500, log=True),
        "image_weight": Uniform(0.0, 1.0),
        "normalize": Choice(False, True),
    }
    config: Config

    def __init__(self, train: Interactions, tables: Mapping[str, FeatureTable], config: Config) -> None:
        super().__init__(train, config)
        weights = config.weights_of(tables)
        by_modality = [(w, *neighbors(tables[m], train, config)) for m, w in weights.items() if w > 0]
        # Row i: sim(i, j) of its neighbors j.
        self.neighbors = from_scipy(weighted_mean(by_modality, config.normalize))
        self.cold_start_rule = ContentSimilarity(
            weights, config.k, config.normalize, means_of(tables, config.fill)
        )

    def item_weights(self) -> Graph:
        """Each item's similarities to its neighbors (Eq. 1)."""
        return self.neighbors


def neighbors(
    table: FeatureTable, train: Interactions, config: ItemKNNContent.Config
) -> tuple[csr_matrix, np.ndarray]:
    """Cosines with the ``k`` nearest items that have the feature and train interactions (Eqs. 5 and 6), and
    the items that have the feature or have it filled, which get neighbors ``(n_items,) bool``.
    """
    k, n = config.k, train.n_items
    candidates = table.present & (train.item_degree > 0)
    has_vector = table.present if config.fill == "zero" else np.ones(n, dtype=bool)
    similarity = csr_matrix((n, n), dtype=np.float32)
    if not candidates.any():
        return similarity, has_vector
    searched = table if candidates.sum() == table.present.sum() else FeatureTable(table.values, candidates)
    graph = to_scipy(knn(searched, k + 1, weight="cosine", cache=config.graph_cache)).tocoo()
    graph.data[graph.row == graph.col] = 0  # an item is not its own neighbor
    graph.eliminate_zeros()
    similarity = graph.tocsr()
    remaining = np.flatnonzero(has_vector & ~candidates)
    if len(remaining):
        queries = torch.from_numpy(filled(table, config.fill, train)[0][remaining])
        keys = np.flatnonzero(candidates)
        edges = nearest_edges(queries, torch.from_numpy(table.take(keys)), k)
        weight = np.maximum(edges.cosine, 0) * edges.share
        similarity = similarity + csr_matrix((weight, (remaining[edges.query], keys[edges.row])), (n, n))
    return similarity, has_vector
