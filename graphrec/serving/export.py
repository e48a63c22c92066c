"""Exports recommendations as Parquet and item embeddings as a FAISS index."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import atomic_write, sha256_file, write_bytes, write_json
from graphrec.data import Vocabulary
from graphrec.graphs.ivf import import_faiss
from graphrec.serving.array_bundle import write_ids
from graphrec.serving.vectors import Vectors

BLOCK = 4096  # users recommended to and written at once


def write_parquet(
    path: Path, users: Sequence[str], recommend: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
) -> None:
    """Writes one row per user and rank, in blocks: ``user, rank, item, score``; the whole file or none.

    Args:
        path: the file.
        users: external ids.
        recommend: returns item ids and scores ``(B, k)`` for some of the users; scores of ``-inf`` fill up.

    Raises:
        CheckpointError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from rich.console import Console
    from rich.progress import track

    schema = pa.schema(
        [("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())]
    )
    blocks = track(
        range(0, len(users), BLOCK),
        "recommending",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty() or len(users) <= BLOCK,
    )
    try:
        with atomic_write(path) as file, pq.ParquetWriter(file, schema) as writer:
            for start in blocks:
                part = np.array(users[start : start + BLOCK], dtype=object)
                ids, scores = recommend(users[start : start + BLOCK])
                row, column = np.nonzero(scores > -np.inf)
                columns = (part[row], (column + 1).astype(np.int32), ids[row, column], scores[row, column])
                arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    except OSError as cause:
        raise CheckpointError(
            f"{path}: cannot be written ({cause}); choose another file or make room"
        ) from cause


def require_dense(vectors: Vectors, meta: Mapping[str, Any]) -> np.ndarray:
    """The vectors, if they are dense.

    Raises:
        ConfigError: they are sparse.
    """
    if isinstance(vectors, np.ndarray):
        return vectors
    n, d = vectors.shape
    raise ConfigError(
        f"the item vectors of {meta.get('model', 'this model')} are sparse, but FAISS indexes "
        f"dense ones, which at {n:,} x {d:,} would take {4 * n * d / 2**30:,.1f} GiB; write "
        "recommendations instead (export), or use a model with dense embeddings, such as lightgcn"
    )


def write_faiss(path: Path, items: Vocabulary, vectors: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Writes ``items.faiss`` (``IndexFlatIP``), ``items.arrow`` and, last, ``index.json`` with their sha256.

    Args:
        path: directory to create.
        items: external ids.
        vectors: item embeddings ``(n_items, d) float32``.
        meta: JSON-able facts to record in ``index.json``.

    Raises:
        MissingDependencyError: faiss is not installed (extra ``ann``).
        CheckpointError: the directory cannot be written.
    """
    faiss = import_faiss()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    try:
        write_bytes(path / "items.faiss", faiss.serialize_index(index).tobytes())
        files = {
            "items.faiss": sha256_file(path / "items.faiss"),
            "items.arrow": write_ids(path / "items.arrow", items),
        }
        write_json(path / "index.json", {"files": files, "metric": "inner product", "meta": dict(meta)})
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be written ({cause}); choose another directory") from cause
