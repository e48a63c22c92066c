"""An extractor as it is kept with a recommender: what describes it, and what it learned from the corpus."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError, GraphrecError
from graphrec.features.extract.decoding import MAX_PIXELS, PixelBudget
from graphrec.features.extract.extraction import DEFAULT_BATCH
from graphrec.features.extract.registry import EXTRACTORS, Extractor
from graphrec.features.extract.shard import LoadedItem, encode_shard, load_file, read_file
from graphrec.features.fitted import read_fitted
from graphrec.features.table import FeatureTable

VECTORS = "give vectors instead of content"


@dataclass(frozen=True)
class SavedExtractor:
    """The extractor of a feature table, which can encode the content of new items.

    Attributes:
        describe: its description in the table's manifest.
        kind: kind of content that it reads, such as ``"text"``.
        fitted: what it learned from the corpus; empty if it learns nothing, None if that was not kept.
    """

    describe: Mapping[str, Any]
    kind: str
    fitted: Mapping[str, np.ndarray] | None

    @classmethod
    def from_table(cls, table: FeatureTable) -> SavedExtractor | None:
        """The extractor of a stored table; None if no registered extractor made it, as for imported vectors.

        Raises:
            FeatureError: the files of the fitted extractor are damaged.
        """
        describe = table.meta.get("extractor") or {}
        if describe.get("name") not in EXTRACTORS or "kind" not in table.meta:
            return None
        fitted: Mapping[str, np.ndarray] | None = None
        if table.folder is not None:
            fitted = read_fitted(table.folder, table.meta.get("content"))
        return cls(describe, str(table.meta["kind"]), fitted)

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor, made anew from its description and fitted as it was.

        Raises:
            FeatureError: it cannot be made here, would not be the one that was described, or its fitted state
                was not kept.
        """
        name = str(self.describe["name"])
        cls: Any = EXTRACTORS.load(name)
        if getattr(cls, "remote", False):
            raise FeatureError(f"extractor {name!r} sends content to a server; {VECTORS}")
        arguments = inspect.signature(cls).parameters
        try:
            made: Extractor = cls(**{key: self.describe[key] for key in arguments if key in self.describe})
        except (GraphrecError, TypeError) as cause:
            raise FeatureError(f"extractor {name!r} cannot be made anew ({cause}); {VECTORS}") from cause
        found, expected = _comparable(made.describe()), _comparable(self.describe)
        different = sorted(key for key in found | expected if found.get(key) != expected.get(key))
        if different:
            raise FeatureError(
                f"extractor {name!r} made anew differs in {', '.join(different)} from the one of the "
                f"features; install what it was made with, or {VECTORS}"
            )
        if hasattr(made, "fit"):
            if not self.fitted or not hasattr(made, "set_fitted"):
                raise FeatureError(
                    f"extractor {name!r} learned from the items' content, and what it learned was not kept "
                    "with these features; run graphrec features build again (finished shards are kept) and "
                    f"make the recommender anew, or {VECTORS}"
                )
            made.set_fitted(self.fitted)
        return made

    def encode(
        self, values: Sequence[str | bytes | Path | None], names: Sequence[str], max_pixels: int = MAX_PIXELS
    ) -> np.ndarray:
        """Vectors ``(n, d) float32`` as in the extraction of a table; a row of NaN where there is none.

        Args:
            values: for an extractor of texts, texts; otherwise the bytes of files, or their paths. None: the
                item has no content.
            names: how each value is named in an error.
            max_pixels: larger pictures are refused.

        Raises:
            FeatureError: a value is of another type, a file or picture cannot be read, or the extractor is
                not available.
        """
        extractor = self.extractor
        budget = PixelBudget()
        loaded = [
            self._load(value, name, budget, max_pixels) for value, name in zip(values, names, strict=True)
        ]
        batch = getattr(extractor, "batch_size", None) or DEFAULT_BATCH
        encoded = encode_shard(loaded, extractor, batch)
        rows = np.full((len(loaded), encoded.vectors.shape[1]), np.nan, dtype=np.float32)
        rows[encoded.places] = encoded.vectors
        for place in encoded.places:
            if not rows[place].any():
                reason = getattr(extractor, "empty_reason", "the extractor returned a vector of zeros")
                raise FeatureError(f"{names[place]}: {reason}; give other content, or leave it out")
        return rows

    def _load(self, value: object, name: str, budget: PixelBudget, max_pixels: int) -> LoadedItem:
        if value is None or (isinstance(value, str) and not value.strip()):
            return LoadedItem()
        if self.kind == "text":
            if not isinstance(value, str):
                raise FeatureError(f"{name}: found {type(value).__name__}; expected a text")
            prepare = getattr(self.extractor, "prepare", None)
            return LoadedItem(value, prepare(value) if prepare else value)
        if isinstance(value, str | Path):
            data, reason = read_file(Path(value), str(value))
            if data is None:
                raise FeatureError(f"{name}: {reason}")
        elif isinstance(value, bytes):
            data = value
        else:
            raise FeatureError(
                f"{name}: found {type(value).__name__}; expected the bytes of a file, or its path"
            )
        item = load_file(data, self.kind, self.extractor, budget, max_pixels)
        if item.reason is not None:
            raise FeatureError(f"{name}: {item.reason}")
        return item


def _comparable(describe: Mapping[str, Any]) -> dict[str, Any]:
    """A description as JSON gives it back, without the versions of libraries."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(describe)))
    plain.pop("versions", None)
    return plain
