"""Embeddings for new items from their content, by the rule of the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from graphrec.core.errors import FeatureError, nearest
from graphrec.data import Dataset, Vocabulary
from graphrec.features import FeatureTable
from graphrec.graphs import sparse
from graphrec.graphs.nearest import nearest_rows
from graphrec.models.base import ColdStartRule, ContentProjection, ContentRule, ContentSimilarity, Features
from graphrec.serving.array_bundle import Bundle
from graphrec.serving.vectors import Vectors


class ContentVectors(NamedTuple):
    """One modality of the items that new items are compared with.

    Attributes:
        values: feature vectors ``(n, d_m) float16|float32``, as they are in the feature table.
        items: index of each row's item ``(n,) int32``, ascending.
    """

    values: np.ndarray
    items: np.ndarray


class Queries(NamedTuple):
    """One modality of new items.

    Attributes:
        values: feature vectors ``(n, d_m) float32``.
        present: which rows count ``(n,) bool``.
    """

    values: np.ndarray
    present: np.ndarray


def compares(rule: ColdStartRule) -> bool:
    """Whether the rule compares new items with known ones, whose content it then needs."""
    return not isinstance(rule, ContentProjection)


def usable(
    rule: ColdStartRule | None, content: Mapping[str, ContentVectors], meta: Mapping[str, Any]
) -> ColdStartRule:
    """The rule, if new items can be placed by it.

    Raises:
        FeatureError: there is none, or nothing to compare with.
    """
    if rule is None:
        raise FeatureError(
            f"the model of this recommender ({meta.get('model', 'unknown')}) has no rule to place "
            "new items by their content; use one that has, such as freedom"
        )
    if not content and compares(rule):
        raise FeatureError(
            "this recommender was made without features, so new items cannot be compared with known "
            "ones; make it with Recommender.from_model(model, data, features)"
        )
    return rule


def widths(rule: ColdStartRule | None, content: Mapping[str, ContentVectors]) -> dict[str, int]:
    """Modality -> length of its vectors, of what new items can be placed by."""
    if isinstance(rule, ContentProjection):
        return {modality: len(weight) for modality, weight in rule.weights.items()}
    return {modality: vectors.values.shape[1] for modality, vectors in content.items()} if rule else {}


def trained_content(rule: ColdStartRule, data: Dataset, features: Features) -> dict[str, ContentVectors]:
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
    tables = {modality: features[modality].check(data) for modality in rule.weights}
    content = {}
    for modality, table in tables.items() if compares(rule) else ():
        items = np.flatnonzero(table.present & (data.train.item_degree > 0))
        content[modality] = ContentVectors(table.take(items), items.astype(np.int32))
    return content


def place(
    added: Vocabulary,
    features: Mapping[str, Any],
    rule: ColdStartRule,
    content: Mapping[str, ContentVectors],
    item_vectors: Vectors,
) -> Vectors:
    """Embeddings ``(n, d) float32`` of new items, as the model gives them to items nobody has.

    Args:
        added: ids of the new items, for messages.
        features: modality -> vectors ``(n, d_m)``; see :meth:`graphrec.Recommender.add_items`.
        rule: see :data:`graphrec.models.base.ColdStartRule`.
        content: what to compare with, by modality.
        item_vectors: embeddings of the known items ``(n_items, d) float32``.

    Raises:
        FeatureError: an unknown modality, a wrong shape, values not finite, or an item without content.
    """
    lengths = widths(rule, content)
    if isinstance(rule, ContentProjection):
        return _projected(rule, _queries(added, features, lengths, list(lengths)))
    useful = [m for m, vectors in content.items() if rule.weights[m] > 0 and len(vectors.items)]
    queries = _queries(added, features, lengths, useful)
    compared = {m: q for m, q in queries.items() if m in useful}
    if isinstance(rule, ContentSimilarity):
        return _similarities(rule, compared, content, item_vectors.shape[1])
    return _means(rule, compared, content, torch.from_numpy(item_vectors))


def _means(
    rule: ContentRule,
    queries: Mapping[str, Queries],
    content: Mapping[str, ContentVectors],
    table: torch.Tensor,
) -> np.ndarray:
    """As :class:`graphrec.models.multimodal.ColdItems` places cold items: in the direction of the weighted
    mean of their neighbors in ``table (n_items, d)``, at the weighted mean of their lengths.
    """
    n = len(next(iter(queries.values())).present)
    total, length, weights = torch.zeros(n, table.shape[1]), torch.zeros(n, 1), torch.zeros(n, 1)
    for modality, (values, present) in queries.items():
        at, weight = torch.from_numpy(np.flatnonzero(present)), rule.weights[modality]
        if len(at):
            neighbors = torch.from_numpy(_neighbors(values[present], content[modality], rule.k)[1])
            total[at] += weight * torch.nn.functional.embedding_bag(neighbors, table, mode="mean")
            length[at] += weight * table[neighbors].norm(dim=2).mean(1, keepdim=True)
            weights[at] += weight
    placed: np.ndarray = (torch.nn.functional.normalize(total, dim=1) * length / weights).numpy()
    return placed


def _projected(rule: ContentProjection, queries: Mapping[str, Queries]) -> np.ndarray:
    """As VBPR gives cold items their vector."""
    parts = []
    for modality, (values, present) in queries.items():
        if modality in rule.fill:
            values = np.where(present[:, None], values, rule.fill[modality])
        parts.append(torch.from_numpy(values) @ torch.from_numpy(rule.weights[modality]))
    placed: np.ndarray = torch.stack(parts).sum(0).numpy()
    return placed


def _similarities(
    rule: ContentSimilarity, queries: Mapping[str, Queries], content: Mapping[str, ContentVectors], width: int
) -> Vectors:
    """As ItemKNN on content gives cold items their row."""
    parts = []
    for modality, (values, present) in queries.items():
        if modality in rule.fill:
            values = np.where(present[:, None], values, rule.fill[modality])
            present = np.ones_like(present)
        similarity, items = _neighbors(values[present], content[modality], rule.k)
        shape = (len(present), width)
        rows = sparse.of_neighbors(np.flatnonzero(present), items, similarity, shape)
        parts.append((rule.weights[modality], rows, present))
    return sparse.mixed(parts, rule.normalize)


def _neighbors(values: np.ndarray, known: ContentVectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines with the ``k`` nearest known items of each query, and the items ``int64``, both ``(q, k)``."""
    found, rows = nearest_rows(torch.from_numpy(values), torch.from_numpy(np.array(known.values)), k)
    return found.numpy(), known.items.astype(np.int64)[rows.numpy()]


def _queries(
    added: Vocabulary, features: Mapping[str, Any], widths: Mapping[str, int], useful: Collection[str]
) -> dict[str, Queries]:
    """The content of new items by modality; each has some in one that is ``useful``."""
    for name in features:
        if name not in widths:
            raise FeatureError(
                f"features {name!r} are not among the model's, which are {sorted(widths)}."
                f"{nearest(name, widths)}"
            )
    queries = {m: _vectors(features.get(m), added, width, m) for m, width in widths.items()}
    lost = np.flatnonzero(
        ~np.any([np.zeros(len(added), bool), *(queries[m].present for m in useful)], axis=0)
    )
    if len(lost):
        raise FeatureError(
            f"item {added[int(lost[0])]!r} has no content to place it by; expected a vector in at least one "
            f"of {sorted(useful)}: leave the item out"
        )
    return queries


def _vectors(given: Any, items: Vocabulary, dim: int, modality: str) -> Queries:
    """One modality of new items; rows of those that have none are zero."""
    if given is None:
        return Queries(np.zeros((len(items), dim), np.float32), np.zeros(len(items), dtype=bool))
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
    return Queries(np.where(missing[:, None], np.float32(0), array), ~missing)


# -- keeping -------------------------------------------------------------------------------------------------


def described(rule: ColdStartRule | None) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """A rule as JSON-able facts, and the arrays it holds by part of a bundle."""
    if rule is None or isinstance(rule, ContentRule):
        return (None if rule is None else rule._asdict()), {}
    arrays = {f"rule_fill_{m}": vector for m, vector in rule.fill.items()}
    if isinstance(rule, ContentProjection):
        arrays |= {f"rule_weight_{m}": weight for m, weight in rule.weights.items()}
        return {"kind": "projection", "weights": list(rule.weights), "fill": list(rule.fill)}, arrays
    return {"kind": "similarity", **rule._asdict(), "fill": list(rule.fill)}, arrays


def upgrade_rule(content: dict[str, Any]) -> dict[str, Any]:
    """The content of ``recommender.json`` of format 2, from format 1, which has the key ``normalise``."""
    rule = content["head"]["rule"]
    if rule is not None and "normalise" in rule:
        rule["normalize"] = rule.pop("normalise")
    return content


def restored(saved: Bundle, facts: dict[str, Any] | None) -> ColdStartRule | None:
    """The rule that :func:`described` took apart."""
    if facts is None:
        return None
    if "kind" not in facts:
        return ContentRule(**facts)
    fill = {m: saved.array(f"rule_fill_{m}") for m in facts["fill"]}
    if facts["kind"] == "projection":
        return ContentProjection({m: saved.array(f"rule_weight_{m}") for m in facts["weights"]}, fill)
    return ContentSimilarity(facts["weights"], facts["k"], facts["normalize"], fill)
