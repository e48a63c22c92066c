"""Graphs of users, or of items, that share interactions.

Two users are the nearer the more train items they share. DualGNN (Wang et al., "DualGNN: Dual Graph Neural
Network for Multimedia Recommendation", IEEE TMM 2021, https://doi.org/10.1109/TMM.2021.3138298) and the
models after it pass embeddings between a user and the users who share most items with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, interaction_matrix, nearest_columns

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def cooccurrence(train: Interactions, k: int, of: Literal["users", "items"] = "users") -> csr_matrix:
    """How many items two users share, or how many users two items share; the ``k`` largest of each row.

    Of equal counts those with the lowest index are kept. The counts of all pairs are never in memory at once.

    Args:
        train: the interactions.
        k: largest number of entries in a row.
        of: what the rows and columns are.

    Returns:
        ``(n, n) float32`` of users or items; the diagonal is empty, columns ascend within a row.
    """
    matrix = interaction_matrix(train)
    rows = matrix.T.tocsr() if of == "users" else matrix
    counts = nearest_columns(rows, lambda one, other, shared: shared, k)
    counts.sort_indices()
    return counts


def draw_repeats(counts: csr_matrix, n: int, rng: np.random.Generator) -> np.ndarray:
    """How often each neighbor is listed if every list is filled up to ``n`` places: once, and as often again
    as it is drawn for the empty places, uniformly and with replacement. Empty rows stay empty.

    Args:
        counts: neighbors by row, with ``E`` entries.
        n: places of a list.
        rng: source of randomness.

    Returns:
        ``(E,) int64``.
    """
    length = np.diff(counts.indptr)
    missing = np.where(length > 0, np.maximum(n - length, 0), 0)
    row = np.repeat(np.arange(len(length)), missing)
    drawn = counts.indptr[row] + (rng.random(len(row)) * length[row]).astype(np.int64)
    repeats: np.ndarray = 1 + np.bincount(drawn, minlength=counts.nnz)
    return repeats


def softmax_weights(counts: csr_matrix, repeats: np.ndarray | None = None) -> np.ndarray:
    """``w_uv = r_uv exp(C_uv) / sum_v r_uv exp(C_uv)`` over the entries of each row: the softmax over a list
    in which neighbor ``v`` of ``u`` stands ``r_uv`` times.

    Args:
        counts: ``C`` with ``E`` entries, none negative.
        repeats: ``r (E,)``; None: the same for all.

    Returns:
        ``(E,) float32``.
    """
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    largest = counts.max(axis=1).toarray().ravel()  # else the exponentials overflow from counts of 89 on
    share = np.exp(counts.data.astype(np.float64) - largest[row])
    if repeats is not None:
        share *= repeats
    total = np.bincount(row, share, minlength=counts.shape[0])
    weights: np.ndarray = (share / total[row]).astype(np.float32)
    return weights


class UserGraph(nn.Module):
    """Edges to each user from the ``n`` users who share most items with them, weighted by a softmax over the
    numbers of shared items. A product with it takes the place of gathering ``(n_users, n, d)`` vectors.

    A user with fewer than ``n`` such others has them all. The reference fills the list up with repeats of
    them, drawn in each epoch, so that a neighbor weighs the more the more often it is drawn
    (:meth:`draw`). In expectation all are repeated alike; then repeats change no weight.

    Args:
        train: the interactions.
        n: neighbors of a user.

    Attributes:
        graph: with all neighbors repeated alike, for scores: a function of the interactions alone.
        epoch_graph: with what :meth:`draw` has drawn, for training.
    """

    def __init__(self, train: Interactions, n: int) -> None:
        super().__init__()
        self.n = n
        self.counts = cooccurrence(train, n)
        weighted = self.counts.copy()
        weighted.data = softmax_weights(self.counts)
        self.graph: Graph = from_scipy(weighted)
        self.epoch_graph: Graph = self.graph

    def draw(self, rng: np.random.Generator) -> None:
        """Fills the lists up anew."""
        weights = softmax_weights(self.counts, draw_repeats(self.counts, self.n, rng))
        self.epoch_graph = self.graph.weighted(torch.from_numpy(weights).to(self.graph.device))


def cooccurrence_graph(
    train: Interactions, k: int, least: int = 1, of: Literal["users", "items"] = "items"
) -> Graph:
    """Edges to each user or item from itself and from the ``k`` that share most with it, all of weight 1
    (Xv et al., "Improving Multi-modal Recommender Systems by Denoising and Aligning Multi-modal Content and
    User Feedback" (DA-MRS), KDD 2024, https://arxiv.org/abs/2406.12501).

    Args:
        train: the interactions.
        k: most others; of equal counts those with the lowest index.
        least: what must be shared to count.
        of: what the nodes are.
    """
    counts = cooccurrence(train, k, of)
    n = counts.shape[0]
    target = np.repeat(np.arange(n), np.diff(counts.indptr))
    shared = counts.data >= least
    return Graph.from_edges(
        np.concatenate([counts.indices[shared], np.arange(n)]),
        np.concatenate([target[shared], np.arange(n)]),
        n_source=n,
        n_target=n,
    )
