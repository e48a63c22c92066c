"""Content of new items: the extractors that a recommender keeps, and their files in its bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError, nearest
from graphrec.features import FeatureTable
from graphrec.features.extract.decoding import MAX_PIXELS
from graphrec.features.extract.saved import SavedExtractor
from graphrec.serving.array_bundle import Bundle

Extractors = Mapping[str, SavedExtractor]


def saved_extractors(tables: Mapping[str, FeatureTable]) -> dict[str, SavedExtractor]:
    """The extractors of the tables that an extractor made, by modality."""
    found = {modality: SavedExtractor.from_table(table) for modality, table in tables.items()}
    return {modality: saved for modality, saved in found.items() if saved is not None}


def encode_content(
    extractors: Extractors,
    dims: Mapping[str, int],
    ids: Sequence[str],
    content: Mapping[str, Sequence[str | bytes | Path | None] | None],
    max_pixels: int = MAX_PIXELS,
) -> dict[str, np.ndarray]:
    """Vectors of the content of new items, by modality; see :meth:`graphrec.Recommender.encode_content`.

    Raises:
        FeatureError: the recommender takes or encodes no such content, its number is not that of the ids, or
            it cannot be read.
    """
    vectors = {}
    for modality, values in content.items():
        if values is None:
            continue
        if modality not in dims:
            raise FeatureError(
                f"content {modality!r} is not among the model's, which is {sorted(dims)}."
                f"{nearest(modality, dims)}"
            )
        if modality not in extractors:
            raise FeatureError(
                f"this recommender holds no extractor of {modality!r}, because its vectors were imported or "
                "it was saved by an earlier version; give vectors, or make it anew from features of a store"
            )
        if isinstance(values, str | bytes) or len(values) != len(ids):
            found = "one value" if isinstance(values, str | bytes) else f"{len(values)} values"
            raise FeatureError(f"content {modality!r}: {found} for {len(ids)} items; expected one per item")
        names = [f"content {modality!r} of item {name!r}" for name in ids]
        vectors[modality] = extractors[modality].encode(values, names, max_pixels)
    return vectors


def check_given_once(features: Iterable[str], content: Iterable[str]) -> None:
    """Refuses modalities that have both vectors and content.

    Raises:
        FeatureError: names them.
    """
    twice = sorted(set(features) & set(content))
    if twice:
        raise FeatureError(f"{twice} are in both features and content; expected each modality once")


def extractors_to_saved(extractors: Extractors) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON-able facts of the extractors, and their arrays by part of a bundle."""
    facts: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for modality, saved in extractors.items():
        parts = None if saved.fitted is None else list(saved.fitted)
        facts[modality] = {"describe": dict(saved.describe), "kind": saved.kind, "fitted": parts}
        arrays |= {f"extractor_{modality}_{part}": array for part, array in (saved.fitted or {}).items()}
    return facts, arrays


def extractors_from_saved(saved: Bundle) -> dict[str, SavedExtractor]:
    """The extractors that :func:`extractors_to_saved` saved; none in recommenders of earlier versions."""
    extractors = {}
    for modality, facts in saved.head.get("extractors", {}).items():
        fitted = facts["fitted"]
        if fitted is not None:
            fitted = {part: saved.array(f"extractor_{modality}_{part}", mmap=True) for part in fitted}
        extractors[modality] = SavedExtractor(facts["describe"], facts["kind"], fitted)
    return extractors
