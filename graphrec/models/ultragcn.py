"""UltraGCN: embeddings trained to what infinitely many propagation layers converge to, without propagation.

Mao et al., "UltraGCN: Ultra Simplification of Graph Convolutional Networks for Recommendation", CIKM 2021,
https://arxiv.org/abs/2110.15114. Matrix factorization with many negatives, whose terms are weighted by the
degrees of user and item; users are drawn to the neighbors of their items in the item graph as well.

Differences from the authors' code: users and items without interactions have weights of 0, where the code
divides by 0; each of the four weights may be 0; early stopping is on validation, where the code stops on
test. As in the code, and unlike in the paper, an item counts among its own neighbors.
The weight of negatives follows the number of items unless it is set.

``Eq. n`` refers to the numbered equations in docs/models/ultragcn.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, softplus

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.sparse import interaction_matrix, nearest_columns
from graphrec.models.base import ModelConfig
from graphrec.models.batches import EpochContext, Triplets
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Space

WEIGHT_PER_ITEM = 300 / 40_981  # of negatives, on Gowalla
SCORES = 2**21  # scores of a block of users and all items: memory, and few enough to stay near the processor


class UltraGCN(EmbeddingRanker):
    """Matrix factorization with weighted terms."""

    class Config(ModelConfig):
        """Options of UltraGCN; the defaults are the authors' for Gowalla."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        init_scale: float = Field(1e-4, gt=0)
        """Standard deviation of the initial embeddings."""
        n_negatives: int = Field(1500, ge=1)
        """Negatives of each interaction, uniform over all items, with replacement; an item that the user has
        may be among them."""
        shared_negatives: bool = False
        """Draw the negatives once a batch, for all of its interactions."""
        negative_weight: float | None = Field(None, ge=0)
        """Weight of the mean over an interaction's negatives. None takes the authors' 300 for Gowalla's
        40,981 items and in proportion to their number otherwise: a user and an item they do not have then
        weigh the same in every catalog."""
        w1: float = Field(1e-6, ge=0)
        """Weight of every positive."""
        w2: float = Field(1.0, ge=0)
        """Weight of a positive by the degrees of user and item."""
        w3: float = Field(1e-6, ge=0)
        """Weight of every negative."""
        w4: float = Field(1.0, ge=0)
        """Weight of a negative by the degrees of user and item."""
        item_weight: float = Field(5e-4, ge=0)
        """Weight of the item graph."""
        n_neighbors: int = Field(10, ge=1)
        """Neighbors of an item in the item graph, itself included."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of half the squares of all embeddings, added in every step."""

    name = "ultragcn"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 512, "learning_rate": 1e-4}
    search_space: ClassVar[Space] = {
        "n_negatives": Choice(200, 500, 1500),
        "negative_weight": Choice(10.0, 30.0, 100.0, 300.0),
        "item_weight": Choice(0.0, 5e-4, 1e-2, 0.1, 1.0, 3.0),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3),
        "train.learning_rate": Choice(1e-4, 5e-4, 1e-3),
    }
    config: Config
    user_factor: Tensor
    item_factor: Tensor
    neighbors: Tensor
    neighbor_weights: Tensor

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        with torch.no_grad():
            for side, table in zip(("users", "items"), self.id_embeddings, strict=True):
                table.normal_(0, config.init_scale, generator=self.rng(side))
        user_degree = train.user_degree.astype(np.float64)
        by_user = np.sqrt(user_degree + 1) / np.maximum(user_degree, 1) * (user_degree > 0)
        by_item = 1 / np.sqrt(train.item_degree + 1.0)
        self.negative_weight = (
            WEIGHT_PER_ITEM * train.n_items if config.negative_weight is None else config.negative_weight
        )
        neighbors, weights = item_neighbors(train, config.n_neighbors)
        for name, array in (
            ("user_factor", by_user.astype(np.float32)),  # (n_users,), Eq. 2
            ("item_factor", by_item.astype(np.float32)),  # (n_items,), Eq. 2
            ("neighbors", neighbors),  # (n_items, k)
            ("neighbor_weights", weights),  # (n_items, k)
        ):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def batches(self, plan: EpochContext) -> Iterator[Triplets]:
        """Every train interaction once, shuffled, with negatives ``(B, n)``."""
        train = self.train_pairs
        n = self.config.n_negatives
        order = plan.rng("shuffle").permutation(len(train))
        rng = plan.rng("negatives")
        for start in range(0, len(order), plan.batch_size):
            batch = order[start : start + plan.batch_size]
            drawn = 1 if self.config.shared_negatives else len(batch)
            negatives = torch.from_numpy(rng.integers(0, self.n_items, (drawn, n)))
            users, items = (torch.from_numpy(a[batch].astype(np.int64)) for a in (train.users, train.items))
            yield distributed.local_shard(Triplets(users, items, negatives.expand(len(batch), n)))

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``positive``, ``negative``, ``neighbors`` and ``reg``: sums over the batch (Eqs. 1, 4 and 5)."""
        c = self.config
        all_users, all_items = self.id_embeddings
        users = embedding(batch.users, all_users)
        user_factor = self.user_factor[batch.users]  # (B,)

        items = embedding(batch.positives, all_items)
        weight = c.w1 + c.w2 * user_factor * self.item_factor[batch.positives]
        positive = weight * softplus(-(users * items).sum(1))  # (B,)

        shared = c.shared_negatives
        drawn = batch.negatives[:1] if shared else batch.negatives
        weight = c.w3 + c.w4 * user_factor[:, None] * self.item_factor[drawn]  # (B, n)
        weight *= self.negative_weight / c.n_negatives
        if shared:
            negative = (weight * softplus(users @ embedding(drawn[0], all_items).T)).sum()
        else:
            negative = _Negatives.apply(users, all_items, drawn, weight)

        near = embedding(self.neighbors[batch.positives], all_items)  # (B, k, d)
        score = (near @ users[:, :, None]).squeeze(2)
        neighbors = self.neighbor_weights[batch.positives] * softplus(-score)

        squares = all_users.square().sum() + all_items.square().sum()
        return {
            "positive": distributed.all_reduce_sum(positive.sum()),
            "negative": distributed.all_reduce_sum(negative),
            "neighbors": c.item_weight * distributed.all_reduce_sum(neighbors.sum()),
            "reg": c.reg_weight / 2 * distributed.replicated(squares),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """User and item embeddings ``(n_users, d), (n_items, d)``."""
        return self.id_embeddings


class _Negatives(torch.autograd.Function):
    """``sum_bj weight_bj softplus(u_b . v_j)`` over each user's own negatives ``(B, n)``.

    The scores of a block of users and all items are one product, from which the negatives' are taken, and are
    turned into gradients before the next block. Gathering ``(B, n, d)`` would be less arithmetic and take
    longer, up to some 30 items a negative.
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
        total = users.new_zeros(())
        to_users = torch.empty_like(users)
        to_items = torch.zeros_like(items)
        size = max(1, SCORES // len(items))
        for start in range(0, len(users), size):
            block = slice(start, start + size)
            scores = users[block] @ items.T  # (b, n_items)
            drawn = scores.gather(1, negatives[block])  # (b, n)
            total += (weight[block] * softplus(drawn)).sum()
            gradient = scores.zero_().scatter_add_(1, negatives[block], weight[block] * drawn.sigmoid_())
            to_users[block] = gradient @ items
            to_items.addmm_(gradient.T, users[block])
        ctx.save_for_backward(to_users, to_items)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_users, to_items = ctx.saved_tensors
        return gradient * to_users, gradient * to_items, None, None


def item_neighbors(train: Interactions, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` neighbors of the largest weights of each item, itself included (Eq. 3).

    Returns:
        neighbors ``(n_items, k) int64`` and their weights ``(n_items, k) float32``; 0 where there are fewer.
    """
    by_user = interaction_matrix(train)
    total = by_user.T @ np.diff(by_user.indptr)  # row sums of X^T X: the degrees of an item's users
    left = np.sqrt(total + 1) / np.maximum(total, 1)
    right = 1 / np.sqrt(total + 1)

    def weight(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        weights: np.ndarray = shared * left[row] * right[column]
        return weights

    matrix = nearest_columns(by_user, weight, k, with_itself=True)
    row = np.repeat(np.arange(train.n_items), np.diff(matrix.indptr))
    place = np.arange(matrix.nnz) - matrix.indptr[row]
    neighbors = np.zeros((train.n_items, k), np.int64)
    weights = np.zeros((train.n_items, k), np.float32)
    neighbors[row, place] = matrix.indices
    weights[row, place] = matrix.data
    return neighbors, weights
