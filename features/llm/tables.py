"""Writes the texts a language model returned as feature tables: item attributes and user profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.core.files import digest
from graphrec.data import Content, Dataset
from graphrec.features import ATTRIBUTE_PREFIX, PROFILE, TRAIN_FINGERPRINT, FeatureStore, FeatureTable
from graphrec.features.extract.extraction import extract
from graphrec.features.extract.registry import Extractor


class JointExtractor:
    """A text extractor fitted on the texts of several fields together, so that their vectors share one space.

    Args:
        extractor: the text extractor; one without ``fit`` is used unchanged.
        corpus: the texts of all fields.
        details: further entries for :meth:`describe`.

    Raises:
        ConfigError: the extractor reads images.
    """

    kind: str = "text"

    def __init__(
        self, extractor: Extractor, corpus: Sequence[str], details: Mapping[str, Any] | None = None
    ) -> None:
        if extractor.kind != "text":
            raise ConfigError(f"{extractor.name!r} reads images; choose a text extractor")
        self.extractor = extractor
        self.details = dict(details or {})
        self._corpus = list(corpus)
        self._fitted = False
        self.name = extractor.name
        self.batch_size: int | None = getattr(extractor, "batch_size", None)
        self.empty_reason = getattr(extractor, "empty_reason", "the extractor returned a vector of zeros")
        if hasattr(extractor, "fit"):
            self.fit = self._fit

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.extractor.dim

    def describe(self) -> dict[str, Any]:
        """The extractor's description and a digest of the corpus it was fitted on."""
        fitted = {"fitted_on": digest("corpus", self._corpus)} if hasattr(self.extractor, "fit") else {}
        return {**self.extractor.describe(), **fitted, **self.details}

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim)``."""
        return self.extractor.encode(batch)

    def _fit(self, contents: list[str]) -> None:
        if not self._fitted:
            self.extractor.fit(self._corpus)  # type: ignore[attr-defined]
            self._fitted = True


def write_attributes(
    data: Dataset, values: Mapping[str, Sequence[str | None]], extractor: Extractor, store: FeatureStore
) -> dict[str, FeatureTable]:
    """Writes one item table ``attribute_<name>`` per attribute; attributes without any value are skipped.

    Args:
        data: the dataset that holds the items.
        values: attribute name -> one text per item, None where the value is unknown.
        extractor: a text extractor.
        store: the store to write to.

    Returns:
        Field name -> table.

    Raises:
        FeatureError: the extraction failed.
    """
    corpus = [text for texts in values.values() for text in texts if text is not None]
    joint = JointExtractor(extractor, corpus)
    contents = {
        f"{ATTRIBUTE_PREFIX}{name}": Content("text", list(texts))
        for name, texts in values.items()
        if any(text is not None for text in texts)
    }
    described = data.with_content(**contents)
    return {field: extract(described, field, joint, store) for field in contents}


def write_profiles(
    data: Dataset, texts: Sequence[str | None], extractor: Extractor, store: FeatureStore
) -> FeatureTable:
    """Writes the user table ``profile``, which is valid for this training split only.

    Args:
        data: the dataset whose training split the profiles were written from.
        texts: one text per user, None where there is no profile.
        extractor: a text extractor.
        store: the store to write to.

    Returns:
        The table.
    """
    users = data.transposed(**{PROFILE: Content("text", list(texts))})
    corpus = [text for text in texts if text is not None]
    table = extract(
        users, PROFILE, JointExtractor(extractor, corpus, {TRAIN_FINGERPRINT: data.train.fingerprint}), store
    )
    return table.check(data)
