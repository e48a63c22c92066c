"""Interactions as a dense matrix, and the nearest of each row in plain Python."""

from __future__ import annotations

import numpy as np


def dense(train) -> np.ndarray:
    """Zeros and ones ``(n_users, n_items) float64``."""
    matrix = np.zeros((train.n_users, train.n_items))
    matrix[train.users, train.items] = 1
    return matrix


def nearest_only(similarity: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` largest positive entries of each row; among equals the lowest column."""
    kept = np.zeros_like(similarity)
    for i, row in enumerate(similarity):
        for j in sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]:
            kept[i, j] = max(row[j], 0)
    return kept
