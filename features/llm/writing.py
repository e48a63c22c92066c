"""What was said, as feature tables: attributes of items, side by side in one space, and profiles of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.core.files import digest
from graphrec.data import Content, Dataset
from graphrec.features import ATTRIBUTE, PROFILE, TRAIN, FeatureStore, FeatureTable
from graphrec.features.extract.extraction import extract
from graphrec.features.extract.registry import Extractor


class Jointly:
    """An extractor of texts fitted on the texts of several fields, so that their vectors share one space.

    Args:
        of: the extractor; one that fits nothing is used as it is.
        corpus: all texts.
        facts: what more there is to say of it.
    """

    kind: Literal["image", "text"] = "text"

    def __init__(self, of: Extractor, corpus: Sequence[str], facts: Mapping[str, Any] | None = None) -> None:
        if of.kind != "text":
            raise ConfigError(f"{of.name!r} reads pictures; choose an extractor of texts")
        self.of, self.facts, self._corpus, self._fitted = of, dict(facts or {}), list(corpus), False
        self.name = of.name
        self.batch_size: int | None = getattr(of, "batch_size", None)
        self.empty_reason = getattr(of, "empty_reason", "the extractor returned a vector of zeros")
        if hasattr(of, "fit"):
            self.fit = self._fit

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.of.dim

    def describe(self) -> dict[str, Any]:
        """The extractor, and what it was fitted on."""
        fitted = {"fitted_on": digest("corpus", self._corpus)} if hasattr(self.of, "fit") else {}
        return {**self.of.describe(), **fitted, **self.facts}

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim)``."""
        return self.of.encode(batch)

    def _fit(self, contents: list[str]) -> None:
        if not self._fitted:
            self.of.fit(self._corpus)  # type: ignore[attr-defined]
            self._fitted = True


def write_attributes(
    data: Dataset, values: Mapping[str, Sequence[str | None]], extractor: Extractor, store: FeatureStore
) -> dict[str, FeatureTable]:
    """One table for each attribute, ``attribute_<name>``, of items; none for one of which nothing is known.

    Args:
        data: whose items they are of.
        values: a text of each item, by attribute; None where none is known.
        extractor: of texts.
        store: where they go.

    Raises:
        FeatureError: what extraction raises.
    """
    corpus = [text for texts in values.values() for text in texts if text is not None]
    jointly = Jointly(extractor, corpus)
    contents = {
        f"{ATTRIBUTE}{name}": Content("text", list(texts))
        for name, texts in values.items()
        if any(text is not None for text in texts)
    }
    described = data.with_content(**contents)
    return {field: extract(described, field, jointly, store) for field in contents}


def write_profiles(
    data: Dataset, texts: Sequence[str | None], extractor: Extractor, store: FeatureStore
) -> FeatureTable:
    """The table ``profile`` of users, which belongs to this train split alone.

    Args:
        data: whose users they are of, and whose train split they tell of.
        texts: one of each user, None where there is none.
        extractor: of texts.
        store: where it goes.
    """
    people = data.transposed(**{PROFILE: Content("text", list(texts))})
    corpus = [text for text in texts if text is not None]
    table = extract(people, PROFILE, Jointly(extractor, corpus, {TRAIN: data.train.fingerprint}), store)
    return table.check(data)
