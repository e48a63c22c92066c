"""Inverted lists (IVF): vectors divided among lists, of which a search looks through the nearest.

FAISS divides the vectors by k-means and assigns each to the list of its nearest centroid (Jégou et al.,
Product Quantization for Nearest Neighbor Search, TPAMI 2011, section IV, without the quantization:
https://doi.org/10.1109/TPAMI.2010.57). How many lists a search looks through follows from a sample of
queries whose true neighbors are known. The index of a recommender (:mod:`graphrec.serving.ivf`) and the
approximate kNN graph (:func:`graphrec.graphs.nearest.approximate_neighbors`) both use this division.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from graphrec.core.errors import missing_dependency

ROUNDS = 10
"""Rounds of k-means."""
CONFIDENCE = 2.576
"""Standard errors by which a sample's recall must exceed the wanted one, which 199 samples in 200 then
reach."""


def import_faiss() -> Any:
    """The module ``faiss``.

    Raises:
        MissingDependencyError: it is not installed (extra ``ann``).
    """
    try:
        import faiss
    except ImportError as cause:
        raise missing_dependency("faiss-cpu", "ann") from cause
    return faiss


def draw_sample(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of the vectors to train on, ascending: up to ``size`` of ``n``."""
    return np.sort(rng.choice(n, min(n, size), replace=False))


def train_centroids(sample: np.ndarray, n_lists: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids ``(n_lists, d) float32`` by k-means (L2) of a sample ``(m, d) float32``.

    The same sample and generator give the same centroids where FAISS and the number of threads are the same.
    """
    kmeans = import_faiss().Kmeans(
        sample.shape[1], n_lists, niter=ROUNDS, seed=int(rng.integers(2**31)), min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )  # fmt: skip
    kmeans.train(sample)
    return np.array(kmeans.centroids, dtype=np.float32)


def assign_lists(blocks: Iterable[tuple[int, np.ndarray]], n: int, centroids: np.ndarray) -> np.ndarray:
    """The list of each vector ``(n,) int32``: that of the nearest centroid (L2).

    Args:
        blocks: index of the first vector and vectors ``(b, d) float32`` of consecutive blocks.
        n: how many vectors there are.
        centroids: ``(n_lists, d) float32``.
    """
    nearest = import_faiss().IndexFlatL2(centroids.shape[1])
    nearest.add(centroids)
    assigned = np.empty(n, dtype=np.int32)
    for start, vectors in blocks:
        assigned[start : start + len(vectors)] = nearest.search(vectors, 1)[1][:, 0]
    return assigned


def fewest_probes(ranks: np.ndarray, n_lists: int, recall: float) -> int:
    """The least number of lists in which a search finds the wanted share of the true neighbors.

    Args:
        ranks: of a sample of queries, the rank (from 0) of the list that holds each true neighbor, in the
            order in which the query's lists are searched ``(q, k)``.
        n_lists: how many lists there are; that many always suffice.
        recall: the wanted share, on average over queries; held by :data:`CONFIDENCE` standard errors.
    """
    q, k = ranks.shape
    if not q:
        return n_lists
    shares = np.zeros((q, n_lists + 1))  # of the neighbors that are in the first p lists
    np.add.at(shares, (np.arange(q)[:, None], ranks + 1), 1 / k)
    shares = shares.cumsum(1)
    lower = shares.mean(0) - CONFIDENCE * shares.std(0) / q**0.5
    enough = lower >= recall - 1e-9
    return min(n_lists, int(np.argmax(enough))) if enough.any() else n_lists
