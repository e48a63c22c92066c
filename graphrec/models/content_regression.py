"""Weights between items from their content alone: each item's vector as a ridge regression on the others'.

The first of the two steps of L3AE: Moon, Park and Lee, "LLM-Enhanced Linear Autoencoders for Recommendation",
CIKM 2025, https://arxiv.org/abs/2508.13500. Two items of nearly the same vector share the weight that each
would have alone, which cosines do not see; and what an item is unlike counts, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.models.multimodal import Fill, filled


class Product(NamedTuple):
    """A matrix over items in two factors, of which the diagonal is not used.

    Attributes:
        left: ``(n_items, r) float32``.
        right: ``(r, n_items) float32``.
    """

    left: np.ndarray
    right: np.ndarray


def unit_vectors(table: FeatureTable, fill: Fill, train: Interactions) -> np.ndarray:
    """Vectors of length one ``(n_items, d) float64``; zero for items without the modality.

    Args:
        table: features of the modality.
        fill: how items without it are filled.
        train: the interactions, for ``fill="neighbors"``.
    """
    values, _ = filled(table, fill, train)
    vectors = values.astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def content_regression(
    features: Mapping[str, FeatureTable],
    shares: Mapping[str, float],
    penalty: float,
    fill: Fill,
    train: Interactions,
) -> Product:
    """``sum_m w_m C_m``, where ``C_m = argmin |F - F C|^2 + mu |C|^2`` with zero diagonal and the columns of
    ``F (d_m, n_items)`` are the items' vectors of length one. Items without a modality have no weights in it.

    With ``M = (F F^T + mu I)^-1`` and ``h_j = f_j^T M f_j``, entry ``ij`` of ``C_m`` is
    ``f_i^T M f_j / (1 - h_j)`` for ``i != j``: no matrix over items is inverted.

    Args:
        features: tables by modality.
        shares: the weights ``w_m``.
        penalty: ``mu``, positive.
        fill: how items without a modality are filled.
        train: the interactions, for ``fill="neighbors"``.
    """
    lefts, rights = [], []
    for modality, share in shares.items():
        vectors = unit_vectors(features[modality], fill, train)
        if vectors.shape[1] > len(vectors):  # as many columns as items have the same inner products
            vectors = np.linalg.qr(vectors.T).R.T
        gram = vectors.T @ vectors
        gram.ravel()[:: len(gram) + 1] += penalty
        right = np.linalg.solve(gram, vectors.T)  # (d, n_items)
        leverage = np.einsum("id,di->i", vectors, right)
        lefts.append(vectors.astype(np.float32))
        rights.append((share / (1 - leverage) * right).astype(np.float32))
    return Product(np.concatenate(lefts, 1), np.concatenate(rights, 0))
