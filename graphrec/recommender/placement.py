"""Embeddings for new items from their content: the mean of the nearest items a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from graphrec.data import Dataset, Vocabulary
from graphrec.errors import FeatureError, nearest
from graphrec.model import ContentRule, Features
from graphrec.neighbours import nearest_rows
from graphrec.store import FeatureTable


class ContentVectors(NamedTuple):
    """One modality of the items that new items are compared with.

    Attributes:
        values: feature vectors ``(n, d_m) float16|float32``, as they are in the feature table.
        items: index of each row's item ``(n,) int32``, ascending.
    """

    values: np.ndarray
    items: np.ndarray


def trained_content(rule: ContentRule, data: Dataset, features: Features) -> dict[str, ContentVectors]:
    """The content of the items with train interactions, by modality of the rule.

    Raises:
        FeatureError: a table is for other items, or one of the rule's modalities is missing.
    """
    lacking = sorted(set(rule.weights) - set(features))
    if lacking:
        raise FeatureError(
            f"the model was built with {sorted(rule.weights)} and {lacking} are missing here; give the same "
            "features"
        )
    content = {}
    for modality in rule.weights:
        table = features[modality].check(data)
        items = np.flatnonzero(table.present & (data.train.item_degree > 0))
        content[modality] = ContentVectors(table.rows(items), items.astype(np.int32))
    return content


def place(
    added: Vocabulary,
    features: Mapping[str, Any],
    rule: ContentRule,
    content: Mapping[str, ContentVectors],
    item_vectors: np.ndarray,
) -> np.ndarray:
    """Embeddings ``(n, d) float32`` of new items, as :func:`graphrec.knn.content_graph` gives cold ones.

    Args:
        added: ids of the new items, for messages.
        features: modality -> vectors ``(n, d_m)``; see :meth:`graphrec.Recommender.add_items`.
        rule: weights and number of neighbours.
        content: what to compare with, by modality.
        item_vectors: embeddings of the known items ``(n_items, d) float32``.

    Raises:
        FeatureError: an unknown modality, a wrong shape, values not finite, or an item without content.
    """
    for name in features:
        if name not in content:
            raise FeatureError(
                f"features {name!r} are not among the model's, which are {sorted(content)}."
                f"{nearest(name, content)}"
            )
    table = torch.from_numpy(item_vectors)
    total = torch.zeros(len(added), table.shape[1])
    weights = torch.zeros(len(added))
    for modality, (values, rows) in content.items():
        queries, present = _vectors(features.get(modality), added, values.shape[1], modality)
        at, weight = torch.from_numpy(np.flatnonzero(present)), rule.weights[modality]
        if len(at) and len(rows) and weight > 0:
            found = nearest_rows(
                torch.from_numpy(queries[present]), torch.from_numpy(np.array(values)), rule.k
            )[1]
            neighbours = torch.from_numpy(rows.astype(np.int64))[found]  # (q, k)
            total[at] += weight * torch.nn.functional.embedding_bag(neighbours, table, mode="mean")
            weights[at] += weight
    lost = (weights == 0).nonzero()
    if len(lost):
        useful = sorted(m for m in content if rule.weights[m] > 0 and len(content[m].items))
        raise FeatureError(
            f"item {added[int(lost[0])]!r} has no content to place it by; expected a vector in at least one "
            f"of {useful}: leave the item out"
        )
    placed: np.ndarray = (total / weights[:, None]).numpy()
    return placed


def _vectors(given: Any, items: Vocabulary, dim: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
    """One modality of new items: ``(n, dim) float32``, and which have it ``(n,) bool``."""
    if given is None:
        return np.zeros((len(items), dim), np.float32), np.zeros(len(items), dtype=bool)
    try:
        if isinstance(given, FeatureTable):
            given = given.numpy()
        elif not hasattr(given, "__array__"):
            given = [np.full(dim, np.nan) if row is None else row for row in given]
        with np.errstate(over="ignore"):  # beyond float32 is infinite and refused below
            array = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as cause:
        raise FeatureError(
            f"{modality!r}: not an array of numbers ({cause}); expected ({len(items)}, {dim})"
        ) from cause
    if array.shape != (len(items), dim):
        raise FeatureError(
            f"{modality!r} has shape {array.shape}; expected ({len(items)}, {dim}): one row an item, made by "
            "the extractor of the model's features"
        )
    missing = np.asarray(np.isnan(array).all(axis=1) | ~array.any(axis=1))
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1) & ~missing)
    if len(bad):
        raise FeatureError(
            f"{modality!r} of item {items[int(bad[0])]!r} holds NaN or Inf; expected finite numbers, or a "
            "row of NaN where there is none"
        )
    return array, ~missing
