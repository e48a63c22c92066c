"""Similarities of the columns of an interaction matrix, and weights of its entries: what neighborhood models
of items and of users share.

The choices are those that Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019,
https://arxiv.org/abs/1907.06902, tune; ``Eq. n`` refers to the numbered equations in docs/models/itemknn.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix

from graphrec.graphs.sparse import nearest_columns
from graphrec.models.base import ModelConfig

BM25_SATURATION = 1.2
BM25_LENGTH = 0.75
"""Constants of BM25, as in the code of 2019."""

Similarity = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class SimilarityConfig(ModelConfig):
    """Options of what is compared, and how."""

    k: int = Field(100, ge=1)
    """Neighbors of each item or user, itself not counted."""
    shrink: float = Field(10.0, ge=0)
    """Added to what a similarity is divided by: the larger, the less few shared interactions count."""
    similarity: Literal["cosine", "asymmetric", "jaccard", "dice"] = "cosine"
    """How shared interactions are related to all of either side."""
    asymmetry: float = Field(0.5, ge=0, le=1)
    """With ``similarity=asymmetric``, the exponent of the side that neighbors are looked for, and 1 minus it
    that of the neighbor; 0.5 is the cosine."""
    weighting: Literal["none", "tf-idf", "bm25"] = "none"
    """Weights of interactions where sides are compared; histories keep zeros and ones."""


def most_similar(rows: csr_matrix, config: SimilarityConfig) -> csr_matrix:
    """The similarities of each column to its most similar other columns (Eqs. 2, 3 and 7 to 9).

    Args:
        rows: interactions ``(m, n)``, zeros and ones.
        config: number of neighbors, similarity and weights.

    Returns:
        ``(n, n)``; row ``i`` holds the neighbors of column ``i``.
    """
    squares = np.bincount(rows.indices, minlength=rows.shape[1])  # of the columns' lengths (n,)
    if config.weighting != "none":
        rows = weighted(rows, config.weighting)
        values = rows.data.astype(np.float64)
        squares = np.bincount(rows.indices, values * values, minlength=rows.shape[1])
    return nearest_columns(rows, _similarity(squares, config), config.k)


def weighted(rows: csr_matrix, weighting: str) -> csr_matrix:
    """Interactions ``(m, n)`` weighted by how rare their row is, and by the length of their column.

    A row that nearly all columns have counts nothing, as its weight would be negative.

    Args:
        rows: zeros and ones.
        weighting: ``tf-idf`` or ``bm25`` (Eq. 9).
    """
    taken = np.diff(rows.indptr)
    rarity = np.maximum(np.log(rows.shape[1] / (1 + taken)), 0)  # (m,)
    data = np.repeat(rarity, taken)
    if weighting == "bm25":
        length = np.bincount(rows.indices, minlength=rows.shape[1])
        relative = length / max(length.mean(), 1e-12)
        saturation = BM25_SATURATION * (1 - BM25_LENGTH + BM25_LENGTH * relative)  # (n,)
        data *= (BM25_SATURATION + 1) / (saturation[rows.indices] + 1)
    result = csr_matrix((data.astype(np.float32), rows.indices, rows.indptr), shape=rows.shape, copy=True)
    result.eliminate_zeros()
    return result


def _similarity(squares: np.ndarray, config: SimilarityConfig) -> Similarity:
    """A function of pairs of columns and their inner products, computed in place."""
    shrink = config.shrink
    length = np.sqrt(squares)
    of_row = squares.astype(np.float64) ** config.asymmetry
    of_column = squares.astype(np.float64) ** (1 - config.asymmetry)

    def cosine(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        shared /= length[row] * length[column] + shrink  # Eq. 3
        return shared

    def asymmetric(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        shared /= of_row[row] * of_column[column] + shrink  # Eq. 7
        return shared

    def jaccard(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        shared /= squares[row] + squares[column] - shared + shrink  # Eq. 8
        return shared

    def dice(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        shared /= (squares[row] + squares[column] + shrink) / 2  # Eq. 8
        return shared

    return {"cosine": cosine, "asymmetric": asymmetric, "jaccard": jaccard, "dice": dice}[config.similarity]
