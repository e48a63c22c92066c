"""One vector per item and the mask of the items that have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.core.files import read_array
from graphrec.data import Dataset, Vocabulary
from graphrec.features.shard_rows import ShardedRows
from graphrec.features.shards import DTYPES, values_sha256

BUILD_HINT = "run: graphrec features build"
PROFILE, PREFERENCES, ATTRIBUTE_PREFIX = "profile", "preferences", "attribute_"
"""Fields of what a language model says: of users two, of items one for each attribute, which begins so."""
TRAIN_FINGERPRINT = "train"
"""In what a table's extractor says of itself: the fingerprint of the train split that it tells of."""


def matches_train_split(meta: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a table tells of no interactions, or of this dataset's train split alone."""
    made_of = dict(meta.get("extractor") or {}).get(TRAIN_FINGERPRINT)
    return made_of is None or made_of == dataset.train.fingerprint


class FeatureTable:
    """One vector per item, read-only, with a mask of the items that have one.

    Args:
        values: ``(N, d) float16|float32``: an array, a memmap or the rows of a stored table's shards.
        present: which items have a vector ``(N,) bool``; default: all. A missing row is zeros in ``values``.
        meta: what the vectors are and where they come from, JSON-able: ``field``, ``kind``, ``extractor``
            (its description), ``items`` (fingerprint of the item ids), ``unreadable`` and ``empty`` (counts,
            and reasons by item id for the first few), ``sha256``.

    Raises:
        FeatureError: wrong shape or type.
    """

    def __init__(
        self,
        values: np.ndarray | ShardedRows,
        present: np.ndarray | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if values.ndim != 2 or str(values.dtype) not in DTYPES:
            raise FeatureError(
                f"features of shape {values.shape}, {values.dtype}; expected (N, d) float16|float32"
            )
        mask = np.ones(len(values), dtype=bool) if present is None else np.array(present)
        if mask.shape != (len(values),) or mask.dtype != bool:
            raise FeatureError(f"present is {mask.shape} {mask.dtype}; expected ({len(values)},) bool")
        if isinstance(values, np.ndarray) and values.flags.writeable:
            values = values.copy()
            values.setflags(write=False)
        mask.setflags(write=False)
        self.values, self.present, self.meta = values, mask, dict(meta or {})

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def __repr__(self) -> str:
        name = self.meta.get("extractor", {}).get("name", "array")
        n, d = self.shape
        return f"FeatureTable({name}: {n:,} x {d:,} {self.values.dtype}, {int(self.present.sum()):,} present)"

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, d)``."""
        return (int(self.values.shape[0]), int(self.values.shape[1]))

    @property
    def entity(self) -> str:
        """What the rows are: ``"item"`` or ``"user"``."""
        return str(self.meta.get("of", "item"))

    @property
    def dim(self) -> int:
        """Columns."""
        return self.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 over shape, type, values and ``present``; the recorded one for a table of a store."""
        return str(self.meta.get("sha256") or self.compute_sha256())

    def compute_sha256(self) -> str:
        """The same digest, computed now from the numbers as they are."""
        step = max(1, 2**26 // max(1, self.dim * self.values.dtype.itemsize))
        parts = (np.asarray(self.values[i : i + step]) for i in range(0, len(self), step))
        return values_sha256(self.shape, self.values.dtype, parts, self.present)

    def numpy(self, dtype: Any = np.float32) -> np.ndarray:
        """The whole table ``(N, d)`` as a new, writable array."""
        if isinstance(self.values, np.ndarray):
            return np.array(self.values, dtype=dtype)
        return self.values[:].astype(dtype, copy=False)  # a stored table's slice is a copy already

    def take(self, indices: Any) -> np.ndarray:
        """The vectors ``(n, d)`` of some items, in the asked order, as a new array."""
        picked = np.asarray(self.values[np.asarray(indices)])
        return picked if np.ndim(indices) else picked.copy()  # an array of indices has copied already

    def check(self, dataset: Dataset) -> FeatureTable:
        """Returns the table itself if it was made for the items of this dataset, and if it tells of
        interactions, for this train split: what tells of another one may tell of what is held out.

        Raises:
            FeatureError: it was made for other items, for another number of them, or for another train split.
        """
        field = self.meta.get("field", "features")
        entity = self.entity
        vocabulary = dataset.vocabulary(entity)
        made_for = self.meta.get("items")
        if made_for is not None and made_for != vocabulary.fingerprint:
            raise FeatureError(
                f"{field!r} was extracted for {entity}s {made_for[:8]}…, {dataset.name} has {entity}s "
                f"{vocabulary.fingerprint[:8]}…; {BUILD_HINT} for this dataset"
            )
        if len(self) != len(vocabulary):
            raise FeatureError(
                f"{field!r} has {len(self):,} rows, {dataset.name} has {len(vocabulary):,} {entity}s; "
                f"{BUILD_HINT} for this dataset"
            )
        if not matches_train_split(self.meta, dataset):
            raise FeatureError(
                f"{field!r} tells of another train split than {dataset.name} has here, and so perhaps of "
                "what is held out; make it of this one (graphrec llm with the same split)"
            )
        return self

    @classmethod
    def from_array(
        cls,
        values: Any,
        dataset: Dataset,
        field: str,
        present: Any = None,
        ids: Sequence[Any] | None = None,
        name: str = "array",
        entity: str = "item",
    ) -> FeatureTable:
        """Brings ready-made vectors. Rows of zeros count as missing (how many: ``meta["zero_rows"]``).

        Args:
            values: ``(n, d)``, floating; float64 becomes float32.
            dataset: whose items the vectors are for.
            field: what they describe, such as ``"image"``.
            present: which rows hold a vector ``(n,) bool``; default: all that are not zero.
            ids: external item id of each row; the rows are then brought into the dataset's order, items
                without a row are missing, and rows of unknown items are left out and counted in
                ``meta["unknown_ids"]``. Without ids, row ``i`` is item ``i``.
            name: where they come from, for messages and ``meta``.
            entity: what the rows are: ``"item"``, or ``"user"`` for profiles and the like.

        Raises:
            FeatureError: wrong shape or type, values that are not finite, an id twice, or hardly any id
                known.
        """
        array = _as_array(values, name)
        mask = np.ones(len(array), dtype=bool) if present is None else np.asarray(present)
        if mask.shape != (len(array),) or mask.dtype != bool:
            raise FeatureError(f"{name}: present is {mask.shape} {mask.dtype}; expected ({len(array)},) bool")
        unknown, vocabulary = 0, dataset.vocabulary(entity)
        if ids is None:
            if len(array) != len(vocabulary):
                raise FeatureError(
                    f"{name}: {len(array):,} rows, {dataset.name} has {len(vocabulary):,} {entity}s; "
                    f"give ids=, the external {entity} id of each row, to align them"
                )
            at, rows = np.arange(len(array)), np.arange(len(array))
        else:
            at, rows = _align_rows(list(ids), vocabulary, dataset.name, len(array), name)
            unknown = len(array) - len(rows)
        native = array.dtype.newbyteorder("=")
        dtype = native if str(native) in DTYPES else np.dtype(np.float32)
        made = np.zeros((len(vocabulary), array.shape[1]), dtype=dtype)
        has = np.zeros(len(vocabulary), dtype=bool)
        at, rows = at[mask[rows]], rows[mask[rows]]
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            made[at] = array[rows]
        finite = np.isfinite(made[at]).all(axis=1)
        if not finite.all():
            first = int(np.flatnonzero(~finite)[0])
            raise FeatureError(
                f"{name}: row {rows[first]} ({entity} {vocabulary[int(at[first])]!r}) holds NaN or Inf, as do "
                f"{int((~finite).sum()):,} rows in all; repair them, or leave them out with present="
            )
        has[at] = made[at].any(axis=1)
        meta = {
            "field": field,
            "kind": dataset.content[field].kind if field in dataset.content else field,
            "extractor": {"name": "imported", "source": name},
            "items": vocabulary.fingerprint,
            "unknown_ids": unknown,
            "zero_rows": len(at) - int(has.sum()),
            **({} if entity == "item" else {"of": entity}),
        }
        made.setflags(write=False)
        return cls(made, has, meta)

    @classmethod
    def from_npy(
        cls, path: str | Path, dataset: Dataset, field: str, ids: Sequence[Any] | None = None
    ) -> FeatureTable:
        """:meth:`from_array` of a ``.npy`` file, which is read without pickle."""
        path = Path(path)
        return cls.from_array(
            read_array(path, FeatureError, mmap=True), dataset, field, ids=ids, name=path.name
        )


def _as_array(values: Any, name: str) -> np.ndarray:
    """Whatever holds numbers, as an array ``(n, d)`` of floating ones with at least one column."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise FeatureError(
            f"{name}: a masked array; fill what is masked, or leave those rows out with present="
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as cause:  # ragged lists; tensors that record gradients
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise FeatureError(f"{name}: not an array ({first}); expected (n, d) of floating numbers") from cause
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise FeatureError(
            f"{name}: shape {array.shape}, {array.dtype}; expected (n, d) of floating numbers, d at least 1"
        )
    return array


def _align_rows(
    ids: list[Any], vocabulary: Vocabulary, dataset: str, n_rows: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Index and row of every row whose id is known."""
    of = vocabulary.kind
    if len(ids) != n_rows:
        raise FeatureError(f"{name}: {len(ids):,} ids for {n_rows:,} rows; expected one id a row")
    if len(set(map(str, ids))) != len(ids):
        seen: set[str] = set()
        twice = next(i for i in map(str, ids) if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise FeatureError(f"{name}: {of} id {twice!r} stands at more than one row; expected each id once")
    found = vocabulary.find(ids)
    rows = np.flatnonzero(found >= 0)
    if len(rows) < max(1, 0.01 * min(len(ids), len(vocabulary))):
        raise FeatureError(
            f"{name}: {len(rows):,} of {len(ids):,} ids are among the {len(vocabulary):,} {of}s of "
            f"{dataset}, such as {ids[:3]} against {list(vocabulary.ids[:3])}; give external {of} ids"
        )
    return found[rows].astype(np.int64), rows
