"""Models whose scores are a history times a matrix over items: ``s = x B`` for a row ``x`` of zeros and ones.

A known user's history is the training row. A user known only by a list of items is answered exactly as a
known user with the same items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from graphrec.core.config import option
from graphrec.data.interactions import Interactions
from graphrec.data.query import Query
from graphrec.graphs import sparse
from graphrec.graphs.graph import Graph
from graphrec.models.base import ModelConfig, Ranker

BLOCK = 1024  # items whose weights are computed at a time
LEAST_KEPT = 500
"""Weights per item that a recommender keeps at least by default."""
MOST_KEPT = 2**23
"""Weights in all up to which it keeps more by default: 64 MiB. On small catalogs that is all of them."""


class ItemWeightsRanker(Ranker):
    """A ranker with a sparse matrix over items; a subclass defines :meth:`item_weights`.

    Args:
        train: interactions to learn from.
        config: the model's options.
    """

    capability = "item_weights"

    def __init__(self, train: Interactions, config: Any) -> None:
        super().__init__()
        self.config = config
        self.n_users = train.n_users
        self.n_items = train.n_items
        indptr, items = torch.from_numpy(train.indptr.copy()), torch.from_numpy(train.items.copy())
        self.history = Graph(indptr, items, torch.ones(len(train)), train.n_items)  # row u: items of u

    def history_rows(self) -> Graph:
        """The train interactions."""
        return self.history


class KeptWeightsConfig(ModelConfig):
    """Options of models whose matrix over items has few zeros."""

    kept: int | None = option(None, ge=1, affects_result=False)
    """Weights per item that a recommender keeps, those of the largest size; evaluation takes all. None keeps
    500, and more where all items together then have no more than 8 million."""

    def kept_of(self, n_items: int) -> int:
        """Weights per item that a recommender of ``n_items`` keeps."""
        kept = self.kept or max(LEAST_KEPT, MOST_KEPT // n_items)
        return min(kept, n_items)


class DenseItemWeightsRanker(ItemWeightsRanker):
    """A ranker with a matrix over items that has few zeros; a subclass defines :meth:`score_rows`.

    It is evaluated with the whole matrix. A recommender stores the ``kept`` largest weights of each item.
    """

    config: KeptWeightsConfig

    def score_rows(self, rows: csr_matrix) -> Tensor:
        """Scores of all items ``(B, n_items) float32`` for histories ``(B, n_items)``, sparse."""
        raise TypeError(f"{type(self).__name__} does not define score_rows()")

    def scorer(self) -> Callable[[Any], Tensor]:
        """See :meth:`graphrec.models.base.Ranker.scorer`."""
        history = sparse.to_scipy(self.history)

        def score(query: Any) -> Tensor:
            if isinstance(query, Query) and query.histories is not None:
                return self.score_rows(sparse.history_matrix(query.histories, self.n_items))
            return self.score_rows(history[self._known_users(query).numpy()])

        return score

    def item_weights(self) -> Graph:
        """Each item's ``kept`` weights of the largest size: row ``i`` makes up the score of item ``i``."""
        n = self.n_items
        kept = self.config.kept_of(n)
        weights = torch.empty(0, n)
        items = torch.empty(0, n, dtype=torch.int64)  # whose weights they are
        identity = csr_matrix((np.ones(n, np.float32), np.arange(n), np.arange(n + 1)))
        for start in range(0, n, BLOCK):
            block = self.score_rows(identity[start : start + BLOCK])  # (b, n_items)
            own = torch.arange(start, start + len(block))[:, None].expand_as(block)
            weights = torch.cat([weights, block])
            items = torch.cat([items, own])
            if len(weights) > kept:
                largest = weights.abs().topk(kept, dim=0, sorted=False).indices
                weights = weights.gather(0, largest)
                items = items.gather(0, largest)
        item, column = weights.T.nonzero().unbind(1)
        return Graph.from_edges(items[column, item], item, weights[column, item], n_source=n, n_target=n)


def dense_scores(weights: Tensor, rows: csr_matrix) -> Tensor:
    """``rows @ weights``: sums of rows of a dense matrix.

    Args:
        weights: ``(n, m) float32``.
        rows: few entries a row ``(B, n)``.

    Returns:
        ``(B, m) float32``.
    """
    return nn.functional.embedding_bag(
        torch.from_numpy(rows.indices.astype(np.int64)),
        weights,
        torch.from_numpy(rows.indptr.astype(np.int64)),
        mode="sum",
        per_sample_weights=torch.from_numpy(rows.data.astype(np.float32)),
        include_last_offset=True,
    )
