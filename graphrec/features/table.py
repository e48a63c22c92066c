"""A feature table: one vector per item or user, and a mask of missing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.core.files import read_array
from graphrec.core.html_table import html_table
from graphrec.data import Dataset, Vocabulary
from graphrec.features.shard_rows import ShardedRows
from graphrec.features.shards import DTYPES, values_sha256
from graphrec.features.vector_files import describe_near, near_ids, read_ids, read_present, read_vectors

BUILD_HINT = "run: graphrec features build"
PROFILE = "profile"
"""Field of user profiles."""
PREFERENCES = "preferences"
"""Field of user preferences among candidate items."""
ATTRIBUTE_PREFIX = "attribute_"
"""Prefix of the fields of item attributes."""
TRAIN_FINGERPRINT = "train"
"""Key under ``meta["extractor"]`` for the fingerprint of the training split the table was computed from."""


def matches_train_split(meta: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a table depends on no interactions, or only on this dataset's training split."""
    fingerprint = dict(meta.get("extractor") or {}).get(TRAIN_FINGERPRINT)
    return fingerprint is None or fingerprint == dataset.train.fingerprint


class FeatureTable:
    """One vector per item or user, read-only, with a mask of the rows that have one.

    Args:
        values: ``(N, d) float16|float32``: an array, a memmap or the rows of a stored table's shards.
        present: which rows have a vector ``(N,) bool``; default: all. Missing rows are zero in ``values``.
        meta: provenance, JSON-serializable: ``field``, ``kind``, ``extractor`` (its description), ``items``
            (fingerprint of the ids), ``unreadable`` and ``empty`` (counts, and reasons by id for the first
            few), ``sha256``.
        folder: directory of a stored table, which may also hold the fitted extractor.

    Raises:
        FeatureError: wrong shape or type.
    """

    def __init__(
        self,
        values: np.ndarray | ShardedRows,
        present: np.ndarray | None = None,
        meta: Mapping[str, Any] | None = None,
        folder: Path | None = None,
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
        self.values = values
        self.present = mask
        self.meta = dict(meta or {})
        self.folder = folder

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def __repr__(self) -> str:
        name = self.meta.get("extractor", {}).get("name", "array")
        n, d = self.shape
        return f"FeatureTable({name}: {n:,} x {d:,} {self.values.dtype}, {int(self.present.sum()):,} present)"

    def _repr_html_(self) -> str:
        extractor = dict(self.meta.get("extractor") or {})
        n_present = int(self.present.sum())
        rows = {
            f"{self.entity}s": len(self),
            "dimensions": self.dim,
            "dtype": str(self.values.dtype),
            "with a vector": n_present,
            "missing": len(self) - n_present,
            "extractor": extractor.get("name", "array"),
        }
        if extractor.get("model"):
            rows["model"] = extractor["model"]
        return html_table(f"FeatureTable {self.meta.get('field', '')}".strip(), rows)

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, d)``."""
        return (int(self.values.shape[0]), int(self.values.shape[1]))

    @property
    def entity(self) -> str:
        """Entity of the rows: ``"item"`` or ``"user"``."""
        return str(self.meta.get("of", "item"))

    @property
    def dim(self) -> int:
        """Columns."""
        return self.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 over shape, dtype, values and ``present``; for a stored table, the recorded one."""
        return str(self.meta.get("sha256") or self.compute_sha256())

    def compute_sha256(self) -> str:
        """The same digest, computed from the current values."""
        step = max(1, 2**26 // max(1, self.dim * self.values.dtype.itemsize))
        parts = (np.asarray(self.values[i : i + step]) for i in range(0, len(self), step))
        return values_sha256(self.shape, self.values.dtype, parts, self.present)

    def numpy(self, dtype: Any = np.float32) -> np.ndarray:
        """The whole table ``(N, d)`` as a new, writable array."""
        if isinstance(self.values, np.ndarray):
            return np.array(self.values, dtype=dtype)
        return self.values[:].astype(dtype, copy=False)  # slicing a stored table copies

    def take(self, indices: Any) -> np.ndarray:
        """The vectors ``(n, d)`` of the given rows, in that order, as a new array."""
        picked = np.asarray(self.values[np.asarray(indices)])
        return picked if np.ndim(indices) else picked.copy()  # indexing with an array copies

    def check(self, dataset: Dataset) -> FeatureTable:
        """Returns the table itself if it belongs to this dataset.

        A table computed from interactions must belong to this training split: another one may contain
        held-out interactions.

        Raises:
            FeatureError: the table belongs to other items, another number of items, or another training
                split.
        """
        field = self.meta.get("field", "features")
        entity = self.entity
        vocabulary = dataset.vocabulary(entity)
        fingerprint = self.meta.get("items")
        if fingerprint is not None and fingerprint != vocabulary.fingerprint:
            raise FeatureError(
                f"{field!r} was extracted for {entity}s {fingerprint[:8]}…, {dataset.name} has {entity}s "
                f"{vocabulary.fingerprint[:8]}…; {BUILD_HINT} for this dataset"
            )
        if len(self) != len(vocabulary):
            raise FeatureError(
                f"{field!r} has {len(self):,} rows, {dataset.name} has {len(vocabulary):,} {entity}s; "
                f"{BUILD_HINT} for this dataset"
            )
        if not matches_train_split(self.meta, dataset):
            raise FeatureError(
                f"{field!r} was computed from another training split than that of {dataset.name} and may "
                "contain held-out interactions; compute it for this split (graphrec llm with the same split)"
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
        """A table of existing vectors. Zero rows count as missing (their number is ``meta["zero_rows"]``).

        Args:
            values: floating-point vectors ``(n, d)``; float64 is converted to float32.
            dataset: the dataset that holds the items or users.
            field: content field of the vectors, such as ``"image"``.
            present: which rows hold a vector ``(n,) bool``; default: all non-zero rows.
            ids: external id of each row; rows are reordered to the dataset's order, items without a row are
                missing, and rows of unknown items are skipped and counted in ``meta["unknown_ids"]``; those
                whose ids are known in another form (spaces, case, leading zeros) in ``meta["near_ids"]``.
                Without ids, row ``i`` is item ``i``. ``meta["matched"]`` says by what the rows were matched,
                and the ids of the first and last one.
            name: origin of the vectors, for messages and ``meta``.
            entity: entity of the rows: ``"item"`` or ``"user"``.

        Raises:
            FeatureError: wrong shape or type, non-finite values, a repeated id, or almost no known ids.
        """
        array = _as_array(values, name)
        mask = np.ones(len(array), dtype=bool) if present is None else np.asarray(present)
        if mask.shape != (len(array),) or mask.dtype != bool:
            raise FeatureError(f"{name}: present is {mask.shape} {mask.dtype}; expected ({len(array)},) bool")
        unknown = 0
        near: dict[str, Any] = {}
        vocabulary = dataset.vocabulary(entity)
        if ids is None:
            if len(array) != len(vocabulary):
                raise FeatureError(
                    f"{name}: {len(array):,} rows, {dataset.name} has {len(vocabulary):,} {entity}s; "
                    f"pass the external {entity} id of each row as ids= (--ids) to align them"
                )
            rows = np.arange(len(array))
            at = rows
        else:
            at, rows, near = _align_rows(list(ids), vocabulary, dataset.name, len(array), name)
            unknown = len(array) - len(rows)
        matched = {
            "by": "position" if ids is None else "ids",
            "rows": [[int(rows[i]), vocabulary[int(at[i])]] for i in (0, -1)] if len(rows) else [],
        }
        native = array.dtype.newbyteorder("=")
        dtype = native if str(native) in DTYPES else np.dtype(np.float32)
        aligned = np.zeros((len(vocabulary), array.shape[1]), dtype=dtype)
        has = np.zeros(len(vocabulary), dtype=bool)
        at, rows = at[mask[rows]], rows[mask[rows]]
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
            aligned[at] = array[rows]
        finite = np.isfinite(aligned[at]).all(axis=1)
        if not finite.all():
            first = int(np.flatnonzero(~finite)[0])
            raise FeatureError(
                f"{name}: row {rows[first]} ({entity} {vocabulary[int(at[first])]!r}) holds NaN or Inf; "
                f"{int((~finite).sum()):,} rows in total; repair them, or exclude them with present= "
                "(--present)"
            )
        has[at] = aligned[at].any(axis=1)
        meta = {
            "field": field,
            "kind": dataset.content[field].kind if field in dataset.content else field,
            "extractor": {"name": "imported", "source": name},
            "items": vocabulary.fingerprint,
            "unknown_ids": unknown,
            "near_ids": near,
            "matched": matched,
            "zero_rows": len(at) - int(has.sum()),
            **({} if entity == "item" else {"of": entity}),
        }
        aligned.setflags(write=False)
        return cls(aligned, has, meta)

    @classmethod
    def from_npy(
        cls, path: str | Path, dataset: Dataset, field: str, ids: Sequence[Any] | None = None
    ) -> FeatureTable:
        """:meth:`from_array` for a ``.npy`` file, which is read without pickle."""
        path = Path(path)
        return cls.from_array(
            read_array(path, FeatureError, mmap=True), dataset, field, ids=ids, name=path.name
        )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        dataset: Dataset,
        field: str,
        ids: str | Path | None = None,
        present: str | Path | None = None,
        entity: str = "item",
    ) -> FeatureTable:
        """:meth:`from_array` for a file of vectors; nothing in it is run.

        Args:
            path: ``.npy``, ``.npz``, ``.safetensors``, ``.pt`` (tensors alone), ``.csv``, ``.tsv`` or
                ``.parquet``; ``FILE:NAME`` is one array of an archive of several.
            dataset: the dataset that holds the items or users.
            field: content field of the vectors.
            ids: file of the external ids of the rows: one a line, ``.npy``, or ``FILE:COLUMN`` of a table or
                an archive, which may be the file of the vectors.
            present: file of the same forms that says which rows hold a vector.
            entity: entity of the rows: ``"item"`` or ``"user"``.

        Raises:
            FeatureError: as :meth:`from_array`, and a file that is missing, damaged or of another kind.
        """
        row_ids = None if ids is None else read_ids(ids)
        mask = None if present is None else read_present(present)
        values = read_vectors(path, dataset.vocabulary(entity), ids)
        return cls.from_array(values, dataset, field, mask, row_ids, Path(path).name, entity)


def _as_array(values: Any, name: str) -> np.ndarray:
    """Converts to a floating-point array ``(n, d)`` with at least one column."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise FeatureError(
            f"{name}: found a masked array; fill the masked values, or exclude the rows with present="
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as cause:  # ragged lists; tensors that record gradients
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise FeatureError(f"{name}: not an array ({first}); expected (n, d) of a float type") from cause
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise FeatureError(
            f"{name}: shape {array.shape}, {array.dtype}; expected (n, d) of a float type, d at least 1"
        )
    return array


def _align_rows(
    ids: list[Any], vocabulary: Vocabulary, dataset: str, n_rows: int, name: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Item index and row number of every row with a known id, and the ids known in another form."""
    kind = vocabulary.kind
    if len(ids) != n_rows:
        raise FeatureError(f"{name}: {len(ids):,} ids for {n_rows:,} rows; expected one id per row")
    if len(set(map(str, ids))) != len(ids):
        seen: set[str] = set()
        repeated = next(i for i in map(str, ids) if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise FeatureError(
            f"{name}: {kind} id {repeated!r} occurs in more than one row; expected each id once"
        )
    at = vocabulary.find(ids)
    rows = np.flatnonzero(at >= 0)
    near = near_ids([str(ids[row]) for row in np.flatnonzero(at < 0)], vocabulary)
    if len(rows) < max(1, 0.01 * min(len(ids), len(vocabulary))):
        raise FeatureError(
            f"{name}: {len(rows):,} of {len(ids):,} ids are among the {len(vocabulary):,} {kind}s of "
            f"{dataset}; found {ids[:3]}, expected external {kind} ids such as {list(vocabulary.ids[:3])}. "
            f"{describe_near(near, kind)}".rstrip()
        )
    return at[rows].astype(np.int64), rows, near
