"""Item graphs of several modalities, each without the neighbors that another modality speaks against.

From Xv et al., "Improving Multi-modal Recommender Systems by Denoising and Aligning Multi-modal Content and
User Feedback" (DA-MRS), KDD 2024, https://arxiv.org/abs/2406.12501. All pairs are compared, in blocks:
memory never holds an ``n x n`` matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphrec.core.topk import topk
from graphrec.graphs.graph import Graph

SIMILARITIES = 2**23
"""Similarities of a modality that are in memory at a time."""


class Vectors(NamedTuple):
    """One modality of ``n`` items.

    Attributes:
        unit: vectors of length one, of any length where not usable ``(n, d)``.
        own: items that have the modality ``(n,) bool``.
        usable: items that have it or whose vector is estimated ``(n,) bool``.
    """

    unit: Tensor
    own: Tensor
    usable: Tensor


def mean_cosine(vectors: Vectors) -> float:
    """The mean cosine over all pairs of items that have the modality, each with itself included: the square
    of the length of their mean vector.
    """
    return float(vectors.unit[vectors.own].double().mean(0).square().sum())


@torch.no_grad()
def agreed_neighbors(modalities: Sequence[Vectors], k: int) -> list[Graph]:
    """In each modality the ``k`` nearest items of each item by cosine, itself included, of those that are not
    further from it than items are on average, in any modality that both have; all edges of weight 1.

    An item may have fewer than ``k``. Of equally near ones those with the lowest index are taken, after the
    item itself. An item whose vector is estimated has neighbors and, but for itself, is none.

    Args:
        modalities: at least one, of the same items.
        k: most neighbors.

    Returns:
        a graph over the ``n`` items for each modality.
    """
    n = len(modalities[0].own)
    k = min(k, n)
    means = [mean_cosine(vectors) for vectors in modalities]
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in modalities]
    for rows in torch.arange(n).split(max(1, SIMILARITIES // n)):
        cosines = [vectors.unit[rows] @ vectors.unit.T for vectors in modalities]  # (b, n) each
        agreed = torch.ones(len(rows), n, dtype=torch.bool)
        for vectors, cosine, mean in zip(modalities, cosines, means, strict=True):
            agreed &= (cosine >= mean) | ~vectors.usable[rows, None] | ~vectors.usable
        block = torch.arange(len(rows))
        for edges, vectors, cosine in zip(found, modalities, cosines, strict=True):
            near = cosine.masked_fill(~(agreed & vectors.own), -torch.inf)
            near[block, rows] = 2  # above every cosine
            near[~vectors.usable[rows]] = -torch.inf
            values, columns = topk(near, k)
            at, place = (values > -torch.inf).nonzero(as_tuple=True)
            edges.append((rows[at], columns[at, place]))
    graphs = []
    for edges in found:
        target, source = (torch.cat(part).numpy() for part in zip(*edges, strict=True))
        graphs.append(Graph.from_edges(source, target, n_source=n, n_target=n))
    return graphs
