"""Embeddings of new items, computed from their content by the model's cold-start rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from graphrec.core.errors import FeatureError, nearest
from graphrec.data import Dataset, Vocabulary
from graphrec.features import FeatureTable
from graphrec.graphs import sparse
from graphrec.graphs.equal_rows import NeighborEdges
from graphrec.graphs.knn import nearest_edges
from graphrec.graphs.nearest import unit_length
from graphrec.models.base import ColdStartRule, ContentProjection, ContentRule, ContentSimilarity, Features
from graphrec.serving.array_bundle import Bundle
from graphrec.serving.vectors import Vectors, nonfinite_rows, row_lengths

LONGER = 1000
"""How many times longer than the longest known embedding a new one may be."""


class ContentVectors(NamedTuple):
    """Content of known items in one modality, for comparison with new items.

    Attributes:
        values: feature vectors ``(n, d_m) float16|float32``, as in the feature table.
        items: index of each row's item ``(n,) int32``, ascending.
    """

    values: np.ndarray
    items: np.ndarray


class NewContent(NamedTuple):
    """Content of new items in one modality.

    Attributes:
        values: feature vectors ``(n, d_m) float32``; zero where the item has none.
        present: items that have the modality ``(n,) bool``.
    """

    values: np.ndarray
    present: np.ndarray


def require_rule(
    rule: ColdStartRule | None, content: Mapping[str, ContentVectors], meta: Mapping[str, Any]
) -> ColdStartRule:
    """The rule, if new items can be embedded by it.

    Raises:
        FeatureError: there is no rule, or it compares with known content and there is none.
    """
    if rule is None:
        raise FeatureError(
            f"the model of this recommender ({meta.get('model', 'unknown')}) has no rule to place "
            "new items by their content; use one that has, such as freedom"
        )
    if not content and not isinstance(rule, ContentProjection):
        raise FeatureError(
            "this recommender was built without features, so new items cannot be compared with known "
            "ones; build it with Recommender.from_model(model, data, features)"
        )
    return rule


def modality_dims(rule: ColdStartRule | None, content: Mapping[str, ContentVectors]) -> dict[str, int]:
    """Modality -> length of its vectors, for the modalities that the rule can use."""
    if isinstance(rule, ContentProjection):
        return {modality: len(weight) for modality, weight in rule.weights.items()}
    return {modality: known.values.shape[1] for modality, known in content.items()} if rule else {}


def trained_content(rule: ColdStartRule, data: Dataset, features: Features) -> dict[str, ContentVectors]:
    """The content of the items with train interactions, by modality; empty for rules that do not compare.

    Raises:
        FeatureError: a table is for other items, or a modality of the rule is missing.
    """
    missing = sorted(set(rule.weights) - set(features))
    if missing:
        raise FeatureError(
            f"the model was built with {sorted(rule.weights)} and {missing} are missing here; give the same "
            "features"
        )
    tables = {modality: features[modality].check(data) for modality in rule.weights}
    content: dict[str, ContentVectors] = {}
    if isinstance(rule, ContentProjection):
        return content
    for modality, table in tables.items():
        items = np.flatnonzero(table.present & (data.train.item_degree > 0))
        content[modality] = ContentVectors(table.take(items), items.astype(np.int32))
    return content


def embed_new_items(
    added: Vocabulary,
    features: Mapping[str, Any],
    rule: ColdStartRule,
    content: Mapping[str, ContentVectors],
    item_vectors: Vectors,
) -> Vectors:
    """Embeddings ``(n, d) float32`` of new items, as the model gives them to items without interactions.

    ``features`` are those of :meth:`graphrec.Recommender.add_items`; ``content`` and ``item_vectors (n_items,
    d)`` are of known items.

    Raises:
        FeatureError: an unknown modality, a wrong shape, values not finite, or an item without content.
    """
    dims = modality_dims(rule, content)
    if isinstance(rule, ContentProjection):
        return _projections(rule, _new_content(added, features, dims, list(dims)))
    usable = [m for m, known in content.items() if rule.weights[m] > 0 and len(known.items)]
    queries = {m: q for m, q in _new_content(added, features, dims, usable).items() if m in usable}
    if isinstance(rule, ContentSimilarity):
        return _similarities(rule, queries, content, item_vectors.shape[1])
    return _neighbor_means(rule, queries, content, item_vectors)


def check_embeddings(added: Vocabulary, embeddings: Vectors, longest: float | None) -> None:
    """Refuses embeddings that would make every answer overflow, or stand first in every list.

    Args:
        added: ids of the new items.
        embeddings: their embeddings ``(n, d)``.
        longest: largest length of a known item's embedding; None: only check that all are finite.

    Raises:
        FeatureError: an embedding is not finite, or more than :data:`LONGER` times as long as ``longest``.
    """
    bad = nonfinite_rows(embeddings)
    if len(bad):
        raise FeatureError(
            f"item {added[int(bad[0])]!r}: its embedding is not finite, because its vectors are too large; "
            "give vectors made by the extractor of the model's features"
        )
    if not longest:
        return
    lengths = row_lengths(embeddings)
    i = int(lengths.argmax())
    if lengths[i] > LONGER * longest:
        raise FeatureError(
            f"item {added[i]!r}: its embedding has the length {lengths[i]:.3g}, and those of known items "
            f"have at most {longest:.3g}; expected at most {LONGER:,} times that: give vectors made by the "
            "extractor of the model's features"
        )


def _neighbor_means(
    rule: ContentRule,
    queries: Mapping[str, NewContent],
    content: Mapping[str, ContentVectors],
    table: Vectors,
) -> Vectors:
    """As :class:`graphrec.models.multimodal.ColdItems` embeds cold items: the direction is the weighted mean
    of their neighbors in ``table (n_items, d)``, the length the weighted mean of the neighbors' lengths.
    """
    from scipy.sparse import csr_matrix, issparse

    n = len(next(iter(queries.values())).present)
    shares = csr_matrix((n, table.shape[0]), dtype=np.float32)  # of each known item in each new one
    for modality, (values, present) in queries.items():
        rows = np.flatnonzero(present)
        if len(rows):
            edges = _neighbors(values[present], content[modality], rule.k)
            k = min(rule.k, len(content[modality].items))
            weight = rule.weights[modality] * edges.share / k
            shares = shares + csr_matrix((weight, (rows[edges.query], edges.row)), shape=shares.shape)
    total = shares @ table
    wanted = shares @ row_lengths(table) / np.maximum(np.asarray(shares.sum(1)).ravel(), 1e-30)
    factor = (wanted / np.maximum(row_lengths(total), 1e-30)).astype(np.float32)
    return sparse.scale_rows(total.tocsr(), factor) if issparse(total) else total * factor[:, None]


def _projections(rule: ContentProjection, queries: Mapping[str, NewContent]) -> np.ndarray:
    """As VBPR and AlphaRec embed cold items: the sum of their projected content."""
    parts = []
    for modality, (values, present) in queries.items():
        if rule.normalize_features:
            values = unit_length(torch.from_numpy(values)).numpy()
        if modality in rule.fill:
            values = np.where(present[:, None], values, rule.fill[modality])
        parts.append(torch.from_numpy(values) @ torch.from_numpy(rule.weights[modality]))
    total = torch.stack(parts).sum(0)
    return np.asarray((unit_length(total) if rule.normalize else total).numpy())


def _similarities(
    rule: ContentSimilarity,
    queries: Mapping[str, NewContent],
    content: Mapping[str, ContentVectors],
    width: int,
) -> Vectors:
    """As ItemKNN on content embeds cold items: a sparse row of similarities to the nearest items."""
    from scipy.sparse import csr_matrix

    parts = []
    for modality, (values, present) in queries.items():
        if modality in rule.fill:
            values = np.where(present[:, None], values, rule.fill[modality])
            present = np.ones_like(present)
        edges = _neighbors(values[present], content[modality], rule.k)
        places = np.flatnonzero(present)[edges.query], edges.row
        weight = np.maximum(edges.cosine, 0) * edges.share
        rows = csr_matrix((weight, places), shape=(len(present), width))
        rows.eliminate_zeros()
        parts.append((rule.weights[modality], rows, present))
    return sparse.weighted_mean(parts, rule.normalize)


def _neighbors(values: np.ndarray, known: ContentVectors, k: int) -> NeighborEdges:
    """Edges to the ``k`` nearest known items from each query; ``row`` is the index of the item."""
    edges = nearest_edges(torch.from_numpy(values), torch.from_numpy(np.array(known.values)), k)
    return edges._replace(row=known.items.astype(np.int64)[edges.row])


def _new_content(
    added: Vocabulary, features: Mapping[str, Any], dims: Mapping[str, int], usable: Collection[str]
) -> dict[str, NewContent]:
    """Checks the content of new items by modality; each must have one of the ``usable`` modalities."""
    for name in features:
        if name not in dims:
            raise FeatureError(
                f"features {name!r} are not among the model's, which are {sorted(dims)}.{nearest(name, dims)}"
            )
    content = {m: _check_vectors(features.get(m), added, dim, m) for m, dim in dims.items()}
    has_content = np.any([np.zeros(len(added), bool), *(content[m].present for m in usable)], axis=0)
    if not has_content.all():
        raise FeatureError(
            f"item {added[int(np.argmin(has_content))]!r} has no content; expected a vector in one of "
            f"{sorted(usable)}: leave the item out"
        )
    return content


def _check_vectors(vectors: Any, items: Vocabulary, dim: int, modality: str) -> NewContent:
    """Checks the content of new items in one modality; a missing row is None, NaN or zeros."""
    if vectors is None:
        return NewContent(np.zeros((len(items), dim), np.float32), np.zeros(len(items), dtype=bool))
    try:
        if isinstance(vectors, FeatureTable):
            vectors = vectors.numpy()
        elif not hasattr(vectors, "__array__"):
            vectors = [np.full(dim, np.nan) if row is None else row for row in vectors]
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
            array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as cause:
        raise FeatureError(
            f"{modality!r}: not an array of numbers ({cause}); expected ({len(items)}, {dim})"
        ) from cause
    if array.shape != (len(items), dim):
        raise FeatureError(
            f"{modality!r} has shape {array.shape}; expected ({len(items)}, {dim}): one row per item, from "
            "the extractor of the model's features"
        )
    missing = np.asarray(np.isnan(array).all(axis=1) | ~array.any(axis=1))
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1) & ~missing)
    if len(bad):
        raise FeatureError(
            f"{modality!r} of item {items[int(bad[0])]!r} holds NaN or Inf; expected finite numbers, or a "
            "row of NaN for an item without this modality"
        )
    return NewContent(np.where(missing[:, None], np.float32(0), array), ~missing)


# -- saved rules ---------------------------------------------------------------------------------------------


def rule_to_saved(rule: ColdStartRule | None) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """A rule as JSON-able facts, and its arrays by part of a bundle."""
    if rule is None or isinstance(rule, ContentRule):
        return (None if rule is None else rule._asdict()), {}
    arrays = {f"rule_fill_{m}": vector for m, vector in rule.fill.items()}
    if isinstance(rule, ContentProjection):
        arrays |= {f"rule_weight_{m}": weight for m, weight in rule.weights.items()}
        return {
            "kind": "projection",
            **rule._asdict(),
            "weights": list(rule.weights),
            "fill": list(rule.fill),
        }, arrays
    return {"kind": "similarity", **rule._asdict(), "fill": list(rule.fill)}, arrays


def upgrade_rule(content: dict[str, Any]) -> dict[str, Any]:
    """Upgrades ``recommender.json`` from format 1, which spells ``normalise``, to format 2."""
    rule = content["head"]["rule"]
    if rule is not None and "normalise" in rule:
        rule["normalize"] = rule.pop("normalise")
    return content


def rule_from_saved(saved: Bundle, facts: dict[str, Any] | None) -> ColdStartRule | None:
    """The rule that was saved by :func:`rule_to_saved`."""
    if facts is None:
        return None
    if "kind" not in facts:
        return ContentRule(**facts)
    fill = {m: saved.array(f"rule_fill_{m}") for m in facts["fill"]}
    if facts["kind"] == "projection":
        weights = {m: saved.array(f"rule_weight_{m}") for m in facts["weights"]}
        # Earlier versions scaled nothing and saved neither fact.
        scaled = (facts.get(what, False) for what in ("normalize_features", "normalize"))
        return ContentProjection(weights, fill, *scaled)
    return ContentSimilarity(facts["weights"], facts["k"], facts["normalize"], fill)
